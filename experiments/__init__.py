"""Ablations and benchmarks: programs that produce the results cited in docs/ and README."""
