"""The hub's tables, one schema for SQLite and PostgreSQL.

    events      (stream, seq) → body           append-only; seq counts from 1 without gaps
    receipts    (sender, command) → body       what a command was answered, written with its events
    invites     digest of the secret → whom    used once
    identities  name → certificate             one per name; revoked ones stay for the record
    accounts    name → version, sealed body    people's accounts and sessions; written over the version that was read

Names compare by code point in both engines, as Python's `sorted` does. A change here comes with a
version under ``migrations/versions``; ``tests/contracts/test_event_log.py`` compares the two.
"""

import sqlalchemy as sa

__all__ = ["HEAD", "accounts", "events", "identities", "invites", "metadata", "receipts"]

HEAD = "0002"
"""The newest version under ``migrations/versions``."""

_NAME = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")

metadata = sa.MetaData()

events = sa.Table(
    "events",
    metadata,
    sa.Column("stream", _NAME, primary_key=True),
    sa.Column("seq", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("body", sa.LargeBinary, nullable=False),
    sqlite_with_rowid=False,
)
# Lists streams without reading every event.
sa.Index(
    "events_first",
    events.c.stream,
    unique=True,
    sqlite_where=sa.text("seq = 1"),
    postgresql_where=sa.text("seq = 1"),
)

receipts = sa.Table(
    "receipts",
    metadata,
    sa.Column("sender", _NAME, primary_key=True),
    sa.Column("command", _NAME, primary_key=True),
    sa.Column("body", sa.LargeBinary, nullable=False),
    sqlite_with_rowid=False,
)

invites = sa.Table(
    "invites",
    metadata,
    sa.Column("digest", _NAME, primary_key=True),
    sa.Column("name", _NAME, nullable=False),
    sa.Column("role", _NAME, nullable=False),
    sa.Column("expires", sa.Double, nullable=False),
    sa.Column("used_at", sa.Double),
    sqlite_with_rowid=False,
)

identities = sa.Table(
    "identities",
    metadata,
    sa.Column("name", _NAME, primary_key=True),
    sa.Column("role", _NAME, nullable=False),
    sa.Column("certificate", sa.LargeBinary, nullable=False),
    sa.Column("revoked", sa.Boolean, nullable=False),
    sqlite_with_rowid=False,
)

accounts = sa.Table(
    "accounts",
    metadata,
    sa.Column("name", _NAME, primary_key=True),
    sa.Column("version", sa.BigInteger, nullable=False),
    sa.Column("body", sa.LargeBinary, nullable=False),
    sqlite_with_rowid=False,
)
