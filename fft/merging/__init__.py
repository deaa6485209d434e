"""Merging of trained parameters, without training."""
