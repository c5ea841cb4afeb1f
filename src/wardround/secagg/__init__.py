"""Secure aggregation: sans-IO machines for members and hub."""
