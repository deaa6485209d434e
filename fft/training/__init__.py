"""The pure train step, its state and optimizer, and the dual variable of a contract."""
