"""Differential privacy as data and arithmetic: mechanisms, and what they cost."""
