"""Federated learning across hospitals: the model travels, the records stay."""
