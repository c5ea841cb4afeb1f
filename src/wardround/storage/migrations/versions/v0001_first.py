"""Events, receipts, invites, identities."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_NAME = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    """Make the first tables."""
    op.create_table(
        "events",
        sa.Column("stream", _NAME, primary_key=True),
        sa.Column("seq", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("body", sa.LargeBinary, nullable=False),
        sqlite_with_rowid=False,
    )
    first = sa.text("seq = 1")
    op.create_index("events_first", "events", ["stream"], unique=True, sqlite_where=first, postgresql_where=first)
    op.create_table(
        "receipts",
        sa.Column("sender", _NAME, primary_key=True),
        sa.Column("command", _NAME, primary_key=True),
        sa.Column("body", sa.LargeBinary, nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "invites",
        sa.Column("digest", _NAME, primary_key=True),
        sa.Column("name", _NAME, nullable=False),
        sa.Column("role", _NAME, nullable=False),
        sa.Column("expires", sa.Double, nullable=False),
        sa.Column("used_at", sa.Double),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "identities",
        sa.Column("name", _NAME, primary_key=True),
        sa.Column("role", _NAME, nullable=False),
        sa.Column("certificate", sa.LargeBinary, nullable=False),
        sa.Column("revoked", sa.Boolean, nullable=False),
        sqlite_with_rowid=False,
    )
