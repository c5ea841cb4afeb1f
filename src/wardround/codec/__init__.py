"""Bytes: canonical documents and tensors."""
