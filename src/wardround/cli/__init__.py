"""The command `wardround`."""
