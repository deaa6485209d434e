"""All that trains a run: from an experiment to a finished folder, and one run after the other."""
