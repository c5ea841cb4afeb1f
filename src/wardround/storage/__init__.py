"""State and blobs at rest."""
