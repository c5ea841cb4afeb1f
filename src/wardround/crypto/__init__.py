"""Primitives and documents of trust: signatures, request signatures, certificates, sealing."""
