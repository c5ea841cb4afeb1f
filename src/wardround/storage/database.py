"""The hub's state in SQLite (one machine) or PostgreSQL (replicas): opened, migrated, one schema.

SQLite: write-ahead log, synchronous FULL, every write transaction ``BEGIN IMMEDIATE``.
PostgreSQL: psycopg 3, read committed, statements and locks waited for no longer than the timeout.

Opening a database migrates it to this program's schema under a lock, so replicas may start together.
Where that is done already, Alembic is not even imported.
"""

import os
import sqlite3
from contextlib import closing, suppress
from pathlib import Path
from typing import Literal, Self

import sqlalchemy as sa
from sqlalchemy.engine import URL, make_url
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import ArgumentError

from wardround.errors import ConfigError
from wardround.storage import fault
from wardround.storage.connection import Connections
from wardround.storage.event_log import DatabaseEventLog
from wardround.storage.registry import DatabaseRegistry
from wardround.storage.schema import HEAD
from wardround.storage.spool import sync_folder

__all__ = ["Database", "open_database"]

Synchronous = Literal["NORMAL", "FULL", "EXTRA"]
_MIGRATION_LOCK = int.from_bytes(b"wardrnd1")
_CONNECTIONS = 16


class Database:
    """An open database; `close` it, or use it as a context."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections
        self.event_log = DatabaseEventLog(connections)
        self.registry = DatabaseRegistry(connections)

    def close(self) -> None:
        """Close every connection."""
        self._connections.close()

    def __enter__(self) -> Self:
        """The database itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()


def open_database(url: str, *, synchronous: Synchronous = "FULL", timeout_seconds: float = 5.0) -> Database:
    """Open and, where needed, make or migrate the database at `url`.

    Args:
        url: ``sqlite:///path`` or ``postgresql://user:password@host/name``.
        synchronous: SQLite's; with NORMAL a power failure may lose the last answers that were given.
        timeout_seconds: How long to wait for a connection, for other writers, or for a statement.

    Raises:
        ConfigError: The URL is neither, the file cannot be used, or a newer program has migrated it.
        StorageFullError: The disk is full.
        UnavailableError: The database did not answer.
    """
    parsed = _parse(url)
    if parsed.get_backend_name() == "sqlite":
        engine = _sqlite(parsed, synchronous, timeout_seconds)
    else:
        engine = _postgresql(parsed, timeout_seconds)
    connections = Connections(engine, timeout_seconds=timeout_seconds)
    try:
        _migrate(connections)
    except BaseException:
        connections.close()
        raise
    return Database(connections)


def _parse(url: str) -> URL:
    try:
        parsed = make_url(url)
        backend = parsed.get_backend_name()
    except ArgumentError:
        raise ConfigError("the database must be a URL: sqlite:///path or postgresql://…") from None
    if backend not in {"sqlite", "postgresql"} or (backend == "sqlite" and parsed.database in {None, "", ":memory:"}):
        raise ConfigError(f"the database must be sqlite:///path or postgresql://…, found {backend}")
    return parsed.set(drivername="sqlite+pysqlite" if backend == "sqlite" else "postgresql+psycopg")


def _sqlite(url: URL, synchronous: Synchronous, timeout_seconds: float) -> sa.Engine:
    if synchronous not in {"NORMAL", "FULL", "EXTRA"}:
        raise ConfigError("synchronous must be NORMAL, FULL or EXTRA")
    path = Path(str(url.database))
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not path.exists():
            _make_file(path)
    except OSError as error:
        raise fault.from_os(error) from None
    except sqlite3.Error as error:
        raise fault.from_sqlite(error) from None
    engine = _engine(url, timeout_seconds, {"isolation_level": None, "timeout": timeout_seconds})
    _prepare(engine, ["PRAGMA journal_mode = WAL", f"PRAGMA synchronous = {synchronous}", "PRAGMA foreign_keys = ON"])
    return engine


def _make_file(path: Path) -> None:
    # Private and in WAL mode before it has its name: SQLite gives its journals the mode of the database file, and
    # two processes that turn to WAL at once do not wait for one another. An existing file is never opened here,
    # because closing it would drop the locks that SQLite holds on it elsewhere in this process.
    made = path.with_name(f"{path.name}.{os.urandom(8).hex()}")
    os.close(os.open(made, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    try:
        with closing(sqlite3.connect(made)) as connection:
            connection.execute("PRAGMA journal_mode = WAL")
        with suppress(FileExistsError):
            os.link(made, path)
    finally:
        made.unlink()
    sync_folder(path.parent)


def _postgresql(url: URL, timeout_seconds: float) -> sa.Engine:
    # libpq counts whole seconds, and takes less than two for none.
    engine = _engine(url, timeout_seconds, {"connect_timeout": max(2, round(timeout_seconds))})
    milliseconds = max(1, round(timeout_seconds * 1000))
    limits = ("lock_timeout", "statement_timeout", "idle_in_transaction_session_timeout")
    _prepare(engine, [f"SET {name} = {milliseconds}" for name in limits])
    return engine


def _engine(url: URL, timeout_seconds: float, connect_args: dict[str, object]) -> sa.Engine:
    # Every block of `Connections` ends its transaction, so nothing is left to reset when a connection returns.
    return sa.create_engine(
        url,
        connect_args=connect_args,
        pool_size=_CONNECTIONS,
        max_overflow=0,
        pool_timeout=timeout_seconds,
        pool_use_lifo=True,
        pool_reset_on_return=None,
        hide_parameters=True,
    )


def _prepare(engine: sa.Engine, statements: list[str]) -> None:
    def on_connect(connection: DBAPIConnection, _record: object) -> None:
        cursor = connection.cursor()
        for statement in statements:
            cursor.execute(statement)
        cursor.close()
        connection.commit()

    sa.event.listen(engine, "connect", on_connect)


def _migrate(connections: Connections) -> None:
    with connections.reading() as connection:
        if _version(connection) == HEAD:
            return
    from alembic import command
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).with_name("migrations")).replace("%", "%%"))
    scripts = ScriptDirectory.from_config(config)
    with connections.writing() as connection:
        if connections.dialect == "postgresql":
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_MIGRATION_LOCK)))
        version = _version(connection)
        if version is not None and version not in {script.revision for script in scripts.walk_revisions()}:
            raise ConfigError(
                f"the database has version {version}, newer than this program's {HEAD}: upgrade Wardround"
            )
        config.attributes["connection"] = connection
        command.upgrade(config, HEAD)


def _version(connection: sa.Connection) -> str | None:
    if not sa.inspect(connection).has_table("alembic_version"):
        return None
    version = connection.scalar(sa.text("SELECT version_num FROM alembic_version"))
    return None if version is None else str(version)
