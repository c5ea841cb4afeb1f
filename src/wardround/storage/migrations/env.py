"""Alembic's entry: migrate over the connection and in the transaction that `wardround.storage.database` opened."""

from alembic import context

from wardround.storage import schema

context.configure(connection=context.config.attributes["connection"], target_metadata=schema.metadata)
context.run_migrations()
