"""Alembic's scripts for the hub's database; run by `wardround.storage.database`."""
