"""Probes of a forward or backward pass: inputs of the dense layers, squared gradients per example."""
