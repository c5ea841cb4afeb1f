"""The versions of the schema, each of which never changes once it was released."""
