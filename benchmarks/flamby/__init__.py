"""Strategies beside FLamby's published tables, on the same records and splits: ``python -m benchmarks.flamby``."""
