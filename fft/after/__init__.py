"""Finished checkpoints: compared, diagnosed, repaired, merged."""
