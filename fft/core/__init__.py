"""What every other folder needs: parameter trees, settings, names, seeds, signals, errors, progress."""
