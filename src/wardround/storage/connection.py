"""Connections to the hub's database: transactions for reading and writing, and what their failures mean.

Writers of one process take turns at a lock of their own when the engine is SQLite, because SQLite's
way of waiting for a busy database is to sleep; other processes are waited for by its busy timeout.
No foreign error leaves these transactions, and none of ours repeats a statement's values.
"""

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from wardround.errors import ConflictError, LocalProtocolError, StorageFullError, UnavailableError, WardroundError
from wardround.storage import fault

__all__ = ["Connections"]

_CONFLICTS = frozenset({"23505", "40001", "40P01"})
"""SQLSTATE: unique violation, serialization failure, deadlock."""
_DISK_FULL = "53100"
# Connection lost, no resources, operator's intervention (a statement's timeout too), system error, lock not available.
_UNAVAILABLE_CLASSES = ("08", "53", "57", "58", "55")


class Connections:
    """An engine's connections, shared by threads; `timeout_seconds` is how long a writer waits for its turn."""

    def __init__(self, engine: sa.Engine, *, timeout_seconds: float) -> None:
        self._engine = engine
        self._timeout_seconds = timeout_seconds
        self._is_sqlite = engine.dialect.name == "sqlite"
        self._writing = threading.Lock()

    @property
    def dialect(self) -> str:
        """Either "sqlite" or "postgresql"."""
        return self._engine.dialect.name

    @contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        """A transaction that only reads.

        Raises:
            UnavailableError: The database did not answer.
        """
        with _translated(), self._engine.begin() as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[sa.Connection]:
        """A transaction that writes; all of it is durable when the block ends, none of it when that raises.

        Raises:
            ConflictError: Another writer has written the same key.
            StorageFullError: The disk is full.
            UnavailableError: The database did not answer.
        """
        if not self._is_sqlite:
            with _translated(), self._engine.begin() as connection:
                yield connection
            return
        if not self._writing.acquire(timeout=self._timeout_seconds):
            raise UnavailableError("other writers held the database for too long")
        try:
            with _translated(), self._engine.begin() as connection:
                connection.exec_driver_sql("BEGIN IMMEDIATE")
                yield connection
        finally:
            self._writing.release()

    def close(self) -> None:
        """Close every connection."""
        self._engine.dispose()


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except SQLAlchemyError as error:
        raise _translate(error) from None


def _translate(error: SQLAlchemyError) -> WardroundError:
    if isinstance(error, PoolTimeoutError):
        return UnavailableError("no connection to the database was free in time")
    if not isinstance(error, DBAPIError) or error.orig is None:
        return LocalProtocolError(f"the database was driven wrongly ({type(error).__name__})")
    if isinstance(error.orig, sqlite3.Error):
        return fault.from_sqlite(error.orig)
    return _from_sqlstate(error)


def _from_sqlstate(error: DBAPIError) -> WardroundError:
    state = getattr(error.orig, "sqlstate", None) or ""
    name = f"{type(error.orig).__name__} {state}".strip()
    if state in _CONFLICTS:
        return ConflictError("another writer was first: load again and decide again")
    if state == _DISK_FULL:
        return StorageFullError("the database's disk is full: free some space; what was acknowledged is kept")
    if state.startswith(_UNAVAILABLE_CLASSES) or error.connection_invalidated:
        return UnavailableError(f"the database did not answer ({name})")
    # Without a state there was no server to give one.
    if not state and isinstance(error, (sa.exc.OperationalError, sa.exc.InterfaceError)):
        return UnavailableError(f"the database did not answer ({name})")
    return LocalProtocolError(f"the database refused a statement ({name})")
