"""Measurements behind every number that the documents claim."""
