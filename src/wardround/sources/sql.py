"""SQLite and PostgreSQL databases as record sources, read-only three times over.

1. `check_query` admits one SELECT: no second statement, no INTO, no locks, no writing inside a WITH, no function
   of the deny list.
2. The session refuses to write: SQLite is opened with ``mode=ro``, ``PRAGMA query_only`` and an authorizer that
   allows reading alone; PostgreSQL runs in a read-only transaction with ``default_transaction_read_only``.
3. The database's own rights: give the node a role that may only SELECT what its studies need.

The deny list exists because some functions act outside the transaction: they read the server's files, reach
other databases, run SQL given as text, stop other sessions, or switch a setting back. It cannot know the
functions that a site has written itself, which is why the third line is there.

Hazard: a driver's messages quote values, the query and the connection string. Only the error's class and
SQLSTATE are ever passed on, and a refusal is raised outside the handler so that nothing is chained to it.
"""

import itertools
import re
import sqlite3
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import psycopg
import psycopg.conninfo
import sqlglot
import sqlglot.errors
from sqlglot import exp

from wardround.clinical import tabulate
from wardround.clinical.contract import DataContract
from wardround.clinical.table import StudyTable
from wardround.clinical.tabulate import Layout
from wardround.errors import ClinicalError, ConfigError, UnavailableError, UnsafeQueryError, WardroundError

__all__ = ["PostgresSource", "SqliteSource", "check_query"]

_DENIED = re.compile(
    # PostgreSQL: server files and processes, other servers, large objects, settings, sequences, SQL as text.
    r"pg_.*|lo_.*|dblink.*|postgres_fdw_.*|http.*|set_config|current_setting|setval|nextval|txid_current"
    r"|.*_to_xml.*|crosstab.*|connectby|ts_stat|ts_rewrite"
    # SQLite: code, files, pragmas, and blobs as large as one likes.
    r"|load_extension|readfile|writefile|edit|fts3_tokenizer|pragma_.*|zeroblob|randomblob"
)
_ESCAPED_NAME = re.compile(r'u&"', re.IGNORECASE)
_OPENINGS = {"SELECT", "WITH", "("}
_WRITING = (
    exp.Command,
    exp.Copy,
    exp.Create,
    exp.Delete,
    exp.Drop,
    exp.Insert,
    exp.Into,
    exp.Lock,
    exp.Merge,
    exp.Update,
)
_BATCH_RECORDS = 10_000
_CONNECT_SECONDS = 10
_STEPS_BETWEEN_CLOCKS = 10_000
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

_Fetch = Callable[[int], Sequence[Sequence[object]]]


def check_query(query: str, dialect: str) -> None:
    """Admit a single SELECT in sqlglot's `dialect`, "sqlite" or "postgres".

    Raises:
        UnsafeQueryError: Says which rule it breaks; the query itself is not quoted.
    """
    if offence := _offence(query, dialect):
        raise UnsafeQueryError(f"the mapping's query {offence}: it must be one SELECT that only reads")


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
            with closing(sqlite3.connect(f"{self._path.absolute().as_uri()}?mode=ro", uri=True)) as connection:
                self._restrict(connection, refused)
                cursor = connection.execute(self._query)
                names = [str(entry[0]) for entry in cursor.description]
                return _study_table(contract, self._layout, names, cursor.fetchmany)
        except sqlite3.Error as error:
            trouble = _sqlite_trouble(error, refused)
        raise trouble

    def _restrict(self, connection: sqlite3.Connection, refused: list[int]) -> None:
        deadline = time.monotonic() + self._timeout_seconds
        connection.execute("PRAGMA query_only = ON")
        connection.set_authorizer(_authorizer(refused))
        connection.set_progress_handler(lambda: time.monotonic() > deadline, _STEPS_BETWEEN_CLOCKS)


class PostgresSource:
    """A `wardround.ports.RecordSource` over one SELECT on PostgreSQL; nothing is opened before `load`."""

    def __init__(self, dsn: str, query: str, layout: Layout, *, timeout_seconds: float = 600.0) -> None:
        check_query(query, "postgres")
        self._parameters = _parameters(dsn, timeout_seconds)
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
            trouble = _postgres_trouble(error)
        raise trouble


def _offence(query: str, dialect: str) -> str:
    try:
        tokens = sqlglot.tokenize(query, read=dialect)
        # Anything else would reach the log of sqlglot, which quotes what it cannot parse.
        opening = tokens[0].text.upper() if tokens else ""
        statements = sqlglot.parse(query, read=dialect) if opening in _OPENINGS else []
    except (sqlglot.errors.SqlglotError, RecursionError):
        return "does not parse"
    if not statements:
        return "does not begin with SELECT or WITH"
    if len(statements) > 1 and not all(isinstance(extra, exp.Semicolon) for extra in statements[1:]):
        return f"holds {len(statements)} statements"
    return _forbidden_syntax(statements[0]) or _forbidden_call(query, [token.text for token in tokens])


def _forbidden_syntax(statement: object) -> str:
    if not isinstance(statement, exp.Query):
        return "is not a SELECT"
    for node in statement.walk():
        if isinstance(node, _WRITING):
            return f"holds {type(node).__name__.upper()}"
        if isinstance(node, exp.CTE) and not isinstance(node.this, (exp.Query, exp.Values)):
            return "has a WITH that is not a SELECT"
    return ""


def _forbidden_call(query: str, words: Sequence[str]) -> str:
    # Read from the tokens, not from the tree: a call is a name before a parenthesis, whatever the parser makes of it.
    if _ESCAPED_NAME.search(query):
        return "spells a name with Unicode escapes"
    for word, following in itertools.pairwise(words):
        if following == "(" and _DENIED.fullmatch(word.lower()):
            return f"calls {word.lower()}, which is on the deny list"
    return ""


def _authorizer(refused: list[int]) -> Callable[..., int]:
    def authorize(action: int, _first: str | None, second: str | None, *_rest: str | None) -> int:
        denied = action == sqlite3.SQLITE_FUNCTION and _DENIED.fullmatch((second or "").lower())
        if action in _READING and not denied:
            return sqlite3.SQLITE_OK
        refused.append(action)
        return sqlite3.SQLITE_DENY

    return authorize


def _parameters(dsn: str, timeout_seconds: float) -> dict[str, Any]:
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


def _sqlite_trouble(error: sqlite3.Error, refused: Sequence[int]) -> WardroundError:
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_MISMATCH) & 0xFF
    name = getattr(error, "sqlite_errorname", type(error).__name__)
    if code == sqlite3.SQLITE_INTERRUPT:
        return UnavailableError("the query took longer than the mapping's timeout_seconds: narrow it, or allow more")
    if code in _PASSING:
        return UnavailableError(f"the SQLite file cannot be read now ({name}): is the path right, is it in use?")
    if refused or code in {sqlite3.SQLITE_AUTH, sqlite3.SQLITE_READONLY}:
        return UnsafeQueryError(f"the mapping's query does more than read ({name})")
    return ClinicalError(f"SQLite refuses the mapping's query ({name}): try it in a database shell")


def _postgres_trouble(error: psycopg.Error) -> WardroundError:
    name = f"{type(error).__name__}, SQLSTATE {error.sqlstate or 'none'}"
    if isinstance(error, psycopg.errors.QueryCanceled):
        return UnavailableError("the query took longer than the mapping's timeout_seconds: narrow it, or allow more")
    if isinstance(error, psycopg.OperationalError | psycopg.InterfaceError):
        return UnavailableError(f"the database does not answer or refuses the login ({name}): check host and role")
    if isinstance(error, psycopg.errors.ReadOnlySqlTransaction):
        return UnsafeQueryError(f"the mapping's query does more than read ({name})")
    return ClinicalError(f"PostgreSQL refuses the mapping's query ({name}): try it in a database shell")
