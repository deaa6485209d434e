"""The diagonal Fisher information: the pass, its pure heart, the artefact."""
