"""Files and folders: locks and owners of folders, JSON files, artefacts, checkpoints of a run, the cache."""
