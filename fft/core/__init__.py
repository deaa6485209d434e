"""Modules that every other package uses: parameter trees, settings, names, seeds, signals, errors, progress."""
