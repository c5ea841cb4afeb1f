"""Connections to a hospital's databases that can only read, and what is told of their errors.

SQLite is opened with ``mode=ro``, ``PRAGMA query_only``, an authorizer that allows reading alone (and, where the site
lists columns, these alone), and a clock that stops a statement. PostgreSQL sessions have
``default_transaction_read_only`` and ``statement_timeout``. The third line is the database's own: give the node a role
that may only SELECT what its studies need.

Hazard: a driver's messages quote values, the query and the connection string. Only the error's class and SQLSTATE are
ever passed on; raise what these functions give outside the handler, so that nothing is chained to it.
"""

import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import psycopg
import psycopg.conninfo

from wardround.errors import ClinicalError, ConfigError, UnavailableError, UnsafeQueryError, WardroundError
from wardround.sources.sql_guard import DENIED, Allowed

__all__ = ["open_sqlite", "postgres_parameters", "postgres_trouble", "sqlite_trouble"]

_CONNECT_SECONDS = 10
_STEPS_BETWEEN_CLOCKS = 10_000
_LONGEST_CELL = 16 * 1024 * 1024
_PASSING = {
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_INTERRUPT,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_PROTOCOL,
}
_READING = {sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_READ, sqlite3.SQLITE_RECURSIVE, sqlite3.SQLITE_SELECT}


@contextmanager
def open_sqlite(
    path: Path, refused: list[int], *, timeout_seconds: float, allowed: Allowed | None = None
) -> Iterator[sqlite3.Connection]:
    """A connection that reads, for one statement; what it is asked beyond that is added to `refused`."""
    deadline = time.monotonic() + timeout_seconds
    with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as connection:
        connection.execute("PRAGMA query_only = ON")
        connection.execute("PRAGMA temp_store = MEMORY")  # or what it sorts would lie in a file
        connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _LONGEST_CELL)
        connection.set_authorizer(_authorizer(refused, allowed))
        connection.set_progress_handler(lambda: time.monotonic() > deadline, _STEPS_BETWEEN_CLOCKS)
        yield connection


def postgres_parameters(dsn: str, timeout_seconds: float) -> dict[str, Any]:
    """What `psycopg.connect` needs for a session that reads.

    Raises:
        ConfigError: Not a connection string; it is not shown.
    """
    settings = f"-c default_transaction_read_only=on -c statement_timeout={max(1, round(timeout_seconds * 1000))}"
    try:
        stated = psycopg.conninfo.conninfo_to_dict(dsn)
    except psycopg.Error:
        stated = {}
    if not stated:
        raise ConfigError("the data source's DSN is not a PostgreSQL connection string (it is not shown here)")
    # Of two settings of one name, the server takes the later.
    options = f"{stated.pop('options', None) or ''} {settings}".strip()
    return {"connect_timeout": _CONNECT_SECONDS, "application_name": "wardround", **stated, "options": options}


def sqlite_trouble(error: sqlite3.Error, refused: Sequence[int]) -> WardroundError:
    """What to raise for an error of SQLite's."""
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_MISMATCH) & 0xFF
    name = getattr(error, "sqlite_errorname", type(error).__name__)
    if code == sqlite3.SQLITE_INTERRUPT:
        return UnavailableError("the query took longer than the mapping's timeout_seconds: narrow it, or allow more")
    if code in _PASSING:
        return UnavailableError(f"the SQLite file cannot be read now ({name}): is the path right, is it in use?")
    if refused or code in {sqlite3.SQLITE_AUTH, sqlite3.SQLITE_READONLY}:
        return UnsafeQueryError(f"the mapping's query does more than read what it may ({name})")
    return ClinicalError(f"SQLite refuses the mapping's query ({name}): try it in a database shell")


def postgres_trouble(error: psycopg.Error) -> WardroundError:
    """What to raise for an error of PostgreSQL's or of its driver's."""
    name = f"{type(error).__name__}, SQLSTATE {error.sqlstate or 'none'}"
    if isinstance(error, psycopg.errors.QueryCanceled):
        return UnavailableError("the query took longer than the mapping's timeout_seconds: narrow it, or allow more")
    if isinstance(error, psycopg.OperationalError | psycopg.InterfaceError):
        return UnavailableError(f"the database does not answer or refuses the login ({name}): check host and role")
    if isinstance(error, psycopg.errors.ReadOnlySqlTransaction):
        return UnsafeQueryError(f"the mapping's query does more than read ({name})")
    return ClinicalError(f"PostgreSQL refuses the mapping's query ({name}): try it in a database shell")


def _authorizer(refused: list[int], allowed: Allowed | None) -> Callable[..., int]:
    listed = None if allowed is None else {(t.lower(), c.lower()) for t, columns in allowed.items() for c in columns}
    tables = set() if listed is None else {table for table, _ in listed}

    def may_read(table: str, column: str, view: str) -> bool:
        # A view that the site lists may read what it is made of; no column at all is a count of rows.
        return listed is None or (table, column) in listed or view in tables or (not column and table in tables)

    def authorize(action: int, first: str | None, second: str | None, _base: str | None, inner: str | None) -> int:
        names = [(name or "").lower() for name in (first, second, inner)]
        denied = action == sqlite3.SQLITE_FUNCTION and DENIED.fullmatch(names[1])
        hidden = action == sqlite3.SQLITE_READ and not may_read(*names)
        if action in _READING and not denied and not hidden:
            return sqlite3.SQLITE_OK
        refused.append(action)
        return sqlite3.SQLITE_DENY

    return authorize
