"""New parameters out of trained ones."""
