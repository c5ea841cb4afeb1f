"""Sessions with SQLite and PostgreSQL that give the rows of a checked query as Arrow columns.

A statement arrives as a tree, so that its names are quoted by the dialect, and with its values beside it, by the names
of the placeholders that stand for them: the driver binds them, and they are never part of the text. Each statement is a
transaction of its own.

Times come from PostgreSQL as the text that it writes for them: a text that is no time (``infinity``, a year of five
digits) is then counted and refused like any other, where the driver would give up on all of the rows.
"""

import itertools
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any, Final, Literal, Protocol

import psycopg
import pyarrow as pa
import pyarrow.compute as pc
from psycopg.types.string import TextLoader
from sqlglot import exp

from wardround.errors import ClinicalError, WardroundError
from wardround.sources import sql_connections
from wardround.sources.event_cells import texts
from wardround.sources.sql_guard import Allowed

__all__ = ["Kind", "PostgresSession", "Session", "SqliteSession", "batch_of", "together"]

Kind = Literal["integer", "text", "other"]
"""What a column holds, as far as the database says it beforehand."""

_STREAM_ROWS: Final = 50_000
_INTEGERS: Final = {20, 21, 23, 26}
_FLOATS: Final = {700, 701}
_TEXTS: Final = {25, 1042, 1043}
_BOOLEAN, _BYTES, _ZONED = 16, 17, 1184
_TAKEN_ROWS: Final = 1000
_EXACT: Final = 2**53


class Session(Protocol):
    """A database that a source reads; `dialect` is sqlglot's name of its SQL."""

    dialect: str

    def moment(self, instant: datetime) -> object:
        """An instant as a value that columns of times are compared with."""

    def describe(self, statement: exp.Query, values: dict[str, object]) -> dict[str, Kind]:
        """The columns that a statement gives, in their order."""

    def fetch(self, statement: exp.Query, values: dict[str, object]) -> pa.RecordBatch:
        """All rows of a statement, which are few."""

    def stream(self, statement: exp.Query, values: dict[str, object]) -> Iterator[pa.RecordBatch]:
        """The rows of a statement, in batches."""

    def close(self) -> None:
        """End the session."""


class SqliteSession:
    """Reads a SQLite file, which is open only while a statement runs."""

    dialect = "sqlite"

    def __init__(self, path: Path, *, timeout_seconds: float, allowed: Allowed | None) -> None:
        self._path = path
        self._timeout_seconds = timeout_seconds
        self._allowed = allowed

    def moment(self, instant: datetime) -> object:
        """The local time as a text, as most SQLite files keep theirs."""
        return instant.replace(tzinfo=None).isoformat(sep=" ")

    def describe(self, statement: exp.Query, values: dict[str, object]) -> dict[str, Kind]:
        """The columns; SQLite does not know beforehand what they hold."""
        (batch,) = self._run(statement.copy().limit(0), values)
        return dict.fromkeys(batch.schema.names, "other")

    def fetch(self, statement: exp.Query, values: dict[str, object]) -> pa.RecordBatch:
        """All rows of a statement."""
        return together(list(self._run(statement, values)))

    def stream(self, statement: exp.Query, values: dict[str, object]) -> Iterator[pa.RecordBatch]:
        """The rows in batches; the file is open until the last."""
        batches = self._run(statement, values)
        while some := list(itertools.islice(batches, _STREAM_ROWS // _TAKEN_ROWS)):
            yield together(some)

    def close(self) -> None:
        """Nothing is open."""

    def _run(self, statement: exp.Query, values: dict[str, object]) -> Iterator[pa.RecordBatch]:
        refused: list[int] = []
        trouble: WardroundError
        text = statement.sql(dialect=self.dialect)
        try:
            with sql_connections.open_sqlite(
                self._path, refused, timeout_seconds=self._timeout_seconds, allowed=self._allowed
            ) as connection:
                cursor = connection.execute(text, values)
                names = [str(entry[0]) for entry in cursor.description]
                yield batch_of(names, cursor.fetchmany(_TAKEN_ROWS))
                while rows := cursor.fetchmany(_TAKEN_ROWS):
                    yield batch_of(names, rows)
                return
        except sqlite3.Error as error:
            trouble = sql_connections.sqlite_trouble(error, refused)
        raise trouble


class PostgresSession:
    """Reads a PostgreSQL server over one connection, opened by the first statement."""

    dialect = "postgres"

    def __init__(self, dsn: str, *, timeout_seconds: float) -> None:
        self._parameters = sql_connections.postgres_parameters(dsn, timeout_seconds)
        self._parameters["options"] += " -c TimeZone=UTC -c DateStyle=ISO"
        self._parameters["client_encoding"] = "UTF8"
        self._connection: psycopg.Connection[tuple[Any, ...]] | None = None

    def moment(self, instant: datetime) -> object:
        """The local time with its offset, as a text that becomes what it is compared with."""
        return instant.isoformat(sep=" ")

    def describe(self, statement: exp.Query, values: dict[str, object]) -> dict[str, Kind]:
        """The columns by the types that the server plans."""
        trouble: WardroundError
        try:
            with psycopg.RawCursor(self._connected()) as cursor:
                cursor.execute(*_numbered(statement.copy().limit(0), values))
                return {column.name: _kind(column.type_code) for column in cursor.description or ()}
        except psycopg.Error as error:
            trouble = sql_connections.postgres_trouble(error)
        raise trouble

    def fetch(self, statement: exp.Query, values: dict[str, object]) -> pa.RecordBatch:
        """All rows of a statement, in a transaction that ends with it."""
        trouble: WardroundError
        try:
            with psycopg.RawCursor(self._connected()) as cursor:
                cursor.execute(*_numbered(statement, values))
                parts = [cursor.fetchmany(_TAKEN_ROWS)]
                while parts[-1]:
                    parts.append(cursor.fetchmany(_TAKEN_ROWS))
                return _typed(cursor.description or [], parts)
        except psycopg.Error as error:
            trouble = sql_connections.postgres_trouble(error)
        raise trouble

    def stream(self, statement: exp.Query, values: dict[str, object]) -> Iterator[pa.RecordBatch]:
        """The rows in batches, through a cursor of the server's, in one transaction."""
        trouble: WardroundError
        try:
            connection = self._connected()
            with (
                connection.transaction(),
                psycopg.RawServerCursor(connection, "wardround") as cursor,
            ):
                cursor.execute(*_numbered(statement, values))
                described = cursor.description or []
                while rows := cursor.fetchmany(_STREAM_ROWS):
                    yield _typed(described, [rows])
                return
        except psycopg.Error as error:
            trouble = sql_connections.postgres_trouble(error)
        raise trouble

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _connected(self) -> psycopg.Connection[tuple[Any, ...]]:
        if self._connection is None or self._connection.closed:
            connection = psycopg.connect(**self._parameters, autocommit=True)
            for name in ("timestamp", "timestamptz", "date", "numeric", "uuid", "time", "timetz", "interval", "inet"):
                connection.adapters.register_loader(name, TextLoader)
            self._connection = connection
        return self._connection


def _numbered(statement: exp.Query, values: dict[str, object]) -> tuple[bytes, list[object]]:
    numbers = {name: number for number, name in enumerate(values, start=1)}

    def numbered(node: exp.Expression) -> exp.Expression:
        if isinstance(node, exp.Placeholder):
            return exp.Parameter(this=exp.Literal.number(numbers[str(node.this)]))
        return node

    # Bytes, since the type of a text would say that it is a literal.
    return statement.copy().transform(numbered).sql(dialect="postgres").encode(), list(values.values())


def _kind(oid: int) -> Kind:
    return "integer" if oid in _INTEGERS else "text" if oid in _TEXTS else "other"


def _typed(described: Sequence[psycopg.Column], parts: Sequence[Sequence[tuple[Any, ...]]]) -> pa.RecordBatch:
    made = [
        pa.RecordBatch.from_arrays(
            [_column(column, cells) for column, cells in zip(described, _columns(rows, len(described)), strict=True)],
            names=[column.name for column in described],
        )
        for rows in parts
    ]
    return pa.concat_batches(made)


def _columns(rows: Sequence[tuple[Any, ...]], count: int) -> list[tuple[Any, ...]]:
    return list(zip(*rows, strict=True)) if rows else [()] * count


def _column(described: psycopg.Column, cells: Sequence[Any]) -> pa.Array:
    oid = described.type_code
    kind = pa.int64() if oid in _INTEGERS else pa.float64() if oid in _FLOATS else pa.string()
    kind = pa.bool_() if oid == _BOOLEAN else kind
    try:
        if oid == _BYTES:
            raise pa.ArrowInvalid
        made = pa.array(cells, kind)
    except pa.ArrowException:
        made = None
    if made is None:
        raise ClinicalError(f"column {described.name!r} holds neither texts, numbers nor times: leave it out")
    return pc.replace_substring_regex(made, r"\+00$", "Z") if oid == _ZONED else made


def batch_of(names: Sequence[str], rows: Sequence[tuple[Any, ...]]) -> pa.RecordBatch:
    """Rows of a driver's as columns, each of the type that its cells have, or of texts where they have several.

    Raises:
        ClinicalError: A column holds bytes.
    """
    columns = [_untyped(name, cells) for name, cells in zip(names, _columns(rows, len(names)), strict=True)]
    return pa.RecordBatch.from_arrays(columns, names=list(names))


def _untyped(name: str, cells: Sequence[Any]) -> pa.Array:
    kinds = set(map(type, cells)) - {type(None)}
    if bytes in kinds:
        raise ClinicalError(f"column {name!r} holds bytes: leave it out")
    # Arrow takes integers and floats together for floats, as long as none of the integers is changed by it.
    with suppress(pa.ArrowException):
        if _fits(kinds, cells):
            return pa.array(cells)
    return pa.array([_spelled(cell) for cell in cells], pa.string())


def _fits(kinds: set[type], cells: Sequence[Any]) -> bool:
    return len(kinds) <= 1 or (kinds == {int, float} and all(abs(cell) < _EXACT for cell in cells if cell is not None))


def _spelled(cell: object) -> str | None:
    return None if cell is None else str(int(cell)) if isinstance(cell, float) and cell.is_integer() else str(cell)


def together(batches: Sequence[pa.RecordBatch]) -> pa.RecordBatch:
    """One batch of several whose columns may differ in their types: one of texts, then."""
    names = batches[0].schema.names
    columns = []
    for place, name in enumerate(names):
        parts = [batch.column(place) for batch in batches]
        kinds = {part.type for part in parts} - {pa.null()}
        if len(kinds) > 1:
            parts, kinds = [texts(part, name) for part in parts], {pa.string()}
        kind = kinds.pop() if kinds else pa.null()
        columns.append(pa.concat_arrays([part.cast(kind) for part in parts]))
    return pa.RecordBatch.from_arrays(columns, names=names)
