"""A hospital's records: files and databases, read-only, behind one port."""
