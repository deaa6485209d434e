"""Benchmarks: each prints a table and, last, one JSON object of its figures."""
