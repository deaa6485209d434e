"""Two finished checkpoints, the base and the tuned: check, repair, diagnose."""
