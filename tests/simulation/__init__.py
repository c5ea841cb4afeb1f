"""Seeded worlds: one hub, several sites, and everything that can go wrong between them."""
