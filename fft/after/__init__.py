"""Compare, diagnose, repair and merge finished checkpoints."""
