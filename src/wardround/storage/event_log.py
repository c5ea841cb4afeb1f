"""The hub's event streams and receipts in a database.

An append's first event is inserted only if `after` is the stream's last seq, so seq has no gaps; where
two writers see the same last seq, the primary key decides. Events and receipt are one transaction.
"""

from collections.abc import Sequence

import sqlalchemy as sa

from wardround.errors import ConflictError
from wardround.ids import CommandId, SiteId
from wardround.storage.connection import Connections
from wardround.storage.schema import events, receipts

__all__ = ["DatabaseEventLog"]

_LAST = sa.select(sa.func.coalesce(sa.func.max(events.c.seq), 0)).where(events.c.stream == sa.bindparam("stream"))
_APPEND_FIRST = (
    events.insert()
    .from_select(
        ["stream", "seq", "body"],
        sa.select(
            sa.bindparam("stream", type_=events.c.stream.type),
            sa.bindparam("seq", type_=events.c.seq.type),
            sa.bindparam("body", type_=events.c.body.type),
        ).where(_LAST.scalar_subquery() == sa.bindparam("after")),
    )
    .execution_options(preserve_rowcount=True)
)
_APPEND = events.insert()
_READ = (
    sa.select(events.c.body)
    .where(events.c.stream == sa.bindparam("stream"), events.c.seq > sa.bindparam("after"))
    .order_by(events.c.seq)
)
_ADD_RECEIPT = receipts.insert()
_RECEIPT = sa.select(receipts.c.body).where(
    receipts.c.sender == sa.bindparam("sender"), receipts.c.command == sa.bindparam("command")
)
# "seq = 1" is spelled out, not bound, so that planners see that the partial index fits.
_STREAMS = (
    sa.select(events.c.stream)
    .where(sa.text("seq = 1"), events.c.stream >= sa.bindparam("first"), events.c.stream < sa.bindparam("end"))
    .order_by(events.c.stream)
)
_LAST_CHARACTER = "\U0010ffff"


class DatabaseEventLog:
    """`wardround.ports.EventLog` over `connections`; may be shared by threads."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections

    def read(self, stream: str, *, after: int = 0) -> list[bytes]:
        """Events of `stream` in order, from seq ``after + 1``.

        Raises:
            UnavailableError: The database did not answer.
        """
        with self._connections.reading() as connection:
            return [bytes(body) for body in connection.scalars(_READ, {"stream": stream, "after": after})]

    def append(
        self,
        stream: str,
        events: Sequence[bytes],
        *,
        after: int,
        receipt: tuple[SiteId, CommandId, bytes] | None = None,
    ) -> None:
        """Add `events` and a receipt in one transaction, durable on return.

        Raises:
            ConflictError: `after` is not the stream's last seq, or this command has a receipt.
            StorageFullError: The disk is full.
            UnavailableError: The database did not answer.
        """
        rows = [
            {"stream": stream, "seq": seq, "body": body, "after": after}
            for seq, body in enumerate(events, start=after + 1)
        ]
        with self._connections.writing() as connection:
            if not _follows(connection, stream, after, rows):
                raise ConflictError("another writer was first: load again and decide again")
            if rows[1:]:
                connection.execute(_APPEND, [{key: row[key] for key in ("stream", "seq", "body")} for row in rows[1:]])
            if receipt is not None:
                sender, command, body = receipt
                connection.execute(_ADD_RECEIPT, {"sender": sender, "command": command, "body": body})

    def receipt(self, sender: SiteId, command: CommandId) -> bytes | None:
        """What this command was answered, if it was.

        Raises:
            UnavailableError: The database did not answer.
        """
        with self._connections.reading() as connection:
            body = connection.scalar(_RECEIPT, {"sender": sender, "command": command})
        return None if body is None else bytes(body)

    def streams(self, prefix: str) -> list[str]:
        """Names of all streams that begin with `prefix`, sorted.

        Raises:
            UnavailableError: The database did not answer.
        """
        with self._connections.reading() as connection:
            return list(connection.scalars(_STREAMS, {"first": prefix, "end": prefix + _LAST_CHARACTER}))


def _follows(connection: sa.Connection, stream: str, after: int, rows: Sequence[dict[str, object]]) -> bool:
    # Inserts the first event where there is one, which costs no more than to look.
    if rows:
        return connection.execute(_APPEND_FIRST, rows[0]).rowcount == 1
    return connection.scalar(_LAST, {"stream": stream}) == after
