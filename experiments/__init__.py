"""Ablations and benchmarks: programs that write what docs/ and README cite."""
