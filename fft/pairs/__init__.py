"""Finished checkpoints, the base and what was tuned from it: check, repair, diagnose, merge."""
