"""The diagonal Fisher information: estimating it, storing it and reading it."""
