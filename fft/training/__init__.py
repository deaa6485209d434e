"""The pure train step, its state and optimizer, and the multiplier of a contract."""
