"""Confidential machines: evidence from the kernel, and keys released to it."""
