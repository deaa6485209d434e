"""What lies on disk: folders and whose they are, JSON files, artefacts, saved steps, the cache."""
