"""SQLite and PostgreSQL databases as record sources, read-only three times over.

1. `wardround.sources.sql_guard.check_query` admits one SELECT that only reads.
2. The session refuses to write, see `wardround.sources.sql_connections`.
3. The database's own rights: give the node a role that may only SELECT what its studies need.

Hazard: a driver's messages quote values, the query and the connection string. Only the error's class and
SQLSTATE are ever passed on, and a refusal is raised outside the handler so that nothing is chained to it.
"""

import sqlite3
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import psycopg

from wardround.clinical import tabulate
from wardround.clinical.contract import DataContract
from wardround.clinical.table import StudyTable
from wardround.clinical.tabulate import Layout
from wardround.errors import ClinicalError
from wardround.sources import sql_connections
from wardround.sources.sql_guard import check_query

__all__ = ["PostgresSource", "SqliteSource"]

_BATCH_RECORDS = 10_000

_Fetch = Callable[[int], Sequence[Sequence[object]]]


class SqliteSource:
    """A `wardround.ports.RecordSource` over one SELECT on a SQLite file; nothing is opened before `load`."""

    def __init__(self, path: Path, query: str, layout: Layout, *, timeout_seconds: float = 600.0) -> None:
        check_query(query, "sqlite")
        self._path = path
        self._query = query
        self._layout = layout
        self._timeout_seconds = timeout_seconds

    def load(self, contract: DataContract) -> StudyTable:
        """Run the query and read its rows into the study table of `contract`.

        Raises:
            ClinicalError: The records do not fit, or the database refuses the query.
            UnavailableError: The file cannot be opened, is locked, or the query took too long.
        """
        refused: list[int] = []
        try:
            with sql_connections.open_sqlite(self._path, refused, timeout_seconds=self._timeout_seconds) as connection:
                cursor = connection.execute(self._query)
                names = [str(entry[0]) for entry in cursor.description]
                return _study_table(contract, self._layout, names, cursor.fetchmany)
        except sqlite3.Error as error:
            trouble = sql_connections.sqlite_trouble(error, refused)
        raise trouble


class PostgresSource:
    """A `wardround.ports.RecordSource` over one SELECT on PostgreSQL; nothing is opened before `load`."""

    def __init__(self, dsn: str, query: str, layout: Layout, *, timeout_seconds: float = 600.0) -> None:
        check_query(query, "postgres")
        self._parameters = sql_connections.postgres_parameters(dsn, timeout_seconds)
        self._query = query
        self._layout = layout

    def load(self, contract: DataContract) -> StudyTable:
        """Run the query through a server-side cursor and read its rows into the study table of `contract`.

        Raises:
            ClinicalError: The records do not fit, or the database refuses the query.
            UnavailableError: The server does not answer, refuses the login, or the query took too long.
        """
        try:
            with psycopg.connect(**self._parameters) as connection:
                connection.read_only = True
                with connection.cursor(name="wardround") as cursor:
                    cursor.execute(self._query.encode())
                    names = [column.name for column in cursor.description or ()]
                    return _study_table(contract, self._layout, names, cursor.fetchmany)
        except psycopg.Error as error:
            trouble = sql_connections.postgres_trouble(error)
        raise trouble


def _study_table(contract: DataContract, layout: Layout, names: Sequence[str], fetch: _Fetch) -> StudyTable:
    places = tabulate.locate(contract, layout, names)
    limit = tabulate.record_limit(contract, layout)
    numbers = tabulate.number_columns(contract) - {name for name, local in layout.columns.items() if local.values}
    parts: dict[str, list[npt.NDArray[Any]]] = {name: [np.empty(0, dtype=object)] for name in places}
    records = 0
    while rows := fetch(_BATCH_RECORDS):
        records += len(rows)
        if records > limit:
            raise ClinicalError(f"the query gives more than the {limit} records allowed: narrow it")
        columns = list(zip(*rows, strict=True))
        for name, place in places.items():
            parts[name].append(_packed(columns[names.index(place)], number=name in numbers))
    return tabulate.study_table(contract, {name: _joined(part) for name, part in parts.items()}, layout)


def _packed(column: Sequence[object], *, number: bool) -> npt.NDArray[Any]:
    # Floats take an eighth of the memory of Python's numbers; codes stay as they are, to the last digit.
    if number and {type(cell) for cell in column} <= {int, float, type(None)}:
        return np.array(column, dtype=np.float64)
    texts = (str(cell) if isinstance(cell, uuid.UUID) else cell for cell in column)
    return np.fromiter(texts, dtype=object, count=len(column))


def _joined(parts: Sequence[npt.NDArray[Any]]) -> npt.NDArray[Any]:
    return np.concatenate(parts[1:] or parts)
