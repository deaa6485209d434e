"""The contract: a run that is held to an accepted drop."""
