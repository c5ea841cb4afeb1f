"""The engines that a plan is pushed down to: what their columns hold, and the rows of one statement.

SQLite and PostgreSQL are read through the sessions that events are read through: read-only, with a clock. Any other
engine is reached through ibis, where only Spark is admitted: its arithmetic was compared with DuckDB's.

Hazard: an engine's messages quote cells and the connection string. Only the error's class, and SQLSTATE, is passed on.
"""

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from typing import Any, Final, Protocol

import psycopg
import psycopg.conninfo
import pyarrow as pa
import sqlglot
from sqlglot import exp

from wardround.errors import ConfigError, UnavailableError, UnsafeQueryError, WardroundError
from wardround.sources.pushdown_spelling import SPELLINGS, Spelling
from wardround.sources.site import Site
from wardround.sources.sql_events import IbisSettings, PostgresSettings, SqliteSettings
from wardround.sources.sql_sessions import PostgresSession, Session, SqliteSession

__all__ = ["Engine", "IbisEngine", "Kinds", "PostgresEngine", "SqlSettings", "SqliteEngine", "opened"]

SqlSettings = SqliteSettings | PostgresSettings | IbisSettings
Kinds = dict[str, frozenset[str]]
"""For each column of a query what its cells may be: integer, double, numeric, text, boolean, date, timestamp, …."""

_QUERY: Final = "wardround_query"
_POSTGRES_KINDS: Final = {
    "smallint": "integer",
    "integer": "integer",
    "bigint": "integer",
    "text": "text",
    "character varying": "text",
    "character": "text",
    "name": "text",
    "citext": "text",
    "uuid": "text",
    "double precision": "double",
    "timestamp without time zone": "timestamp",
    "timestamp with time zone": "timestamptz",
}
_MOST_SHAPES: Final = 1000


class Engine(Protocol):
    """A database that computes."""

    spelling: Spelling

    def version(self) -> str:
        """The engine's name and version."""

    def moment(self, instant: datetime) -> object:
        """An instant as a value that columns of times are compared with."""

    def columns(self, query: exp.Query, values: dict[str, object]) -> list[str]:
        """The names of the columns that a query gives."""

    def kinds(self, query: exp.Query, columns: Sequence[str], values: dict[str, object]) -> Kinds:
        """What these columns of the query hold."""

    def rows(self, statement: exp.Query, values: dict[str, object]) -> Iterator[pa.RecordBatch]:
        """The rows of a statement."""

    def close(self) -> None:
        """End the session."""


def opened(settings: Sequence[SqlSettings], site: Site) -> Engine:
    """The one engine that all of these sources lie in.

    Raises:
        ConfigError: They lie in several, or in one that nothing is pushed down to, or a secret is not there.
    """
    first = settings[0]
    if len({_place(one) for one in settings}) > 1:
        raise ConfigError(
            "executor 'push-down' computes in one database, and the mapping's sources lie in several: "
            "write executor = 'embedded', or give views of all tables in one of them"
        )
    seconds = min((one.timeout_seconds for one in settings if not isinstance(one, IbisSettings)), default=600.0)
    match first:
        case SqliteSettings():
            return SqliteEngine(settings, site, seconds)
        case PostgresSettings():
            dsn = site.secret(first.dsn, f"the dsn of source {first.name!r}")
            return PostgresEngine(PostgresSession(_planned(dsn), timeout_seconds=seconds))
        case IbisSettings():
            return IbisEngine(site.secret(first.url, f"the url of source {first.name!r}"))


def _planned(dsn: str) -> str:
    # Of a step's rows the planner knows nothing, takes them for one, and would compare every fact with every record.
    try:
        stated = psycopg.conninfo.conninfo_to_dict(dsn)
        options = f"{stated.pop('options', None) or ''} -c enable_nestloop=off -c jit=off".strip()
        return psycopg.conninfo.make_conninfo(dsn, options=options)
    except psycopg.Error:
        return dsn  # which the session refuses


def _place(settings: SqlSettings) -> tuple[str, str]:
    match settings:
        case SqliteSettings(path=place) | PostgresSettings(dsn=place) | IbisSettings(url=place):
            return type(settings).__name__, place


class _SessionEngine:
    """An engine behind a session."""

    spelling: Spelling
    _version: str

    def __init__(self, session: Session) -> None:
        self._session = session

    def version(self) -> str:
        found = self._session.fetch(_query(f"SELECT {self._version} AS v", self.spelling), {})
        return f"{self.spelling.dialect} {found.column(0)[0].as_py()}"

    def moment(self, instant: datetime) -> object:
        return self._session.moment(instant)

    def columns(self, query: exp.Query, values: dict[str, object]) -> list[str]:
        return list(self._session.describe(query, values))

    def rows(self, statement: exp.Query, values: dict[str, object]) -> Iterator[pa.RecordBatch]:
        return self._session.stream(statement, values)

    def close(self) -> None:
        self._session.close()


class SqliteEngine(_SessionEngine):
    """SQLite, inside this process; a column of it may hold anything, so that all of its cells are looked at."""

    spelling = SPELLINGS["sqlite"]
    _version = "SQLITE_VERSION()"

    def __init__(self, settings: Sequence[SqlSettings], site: Site, seconds: float) -> None:
        first = settings[0]
        if not isinstance(first, SqliteSettings):
            raise ConfigError("a SQLite engine needs the settings of a SQLite file")
        listed: dict[str, set[str]] = {}
        for one in settings:
            for table, columns in one.allow.items():
                listed.setdefault(table, set()).update(columns)
        allowed = {table: tuple(sorted(columns)) for table, columns in listed.items()}
        is_listed = all(one.allow for one in settings)
        super().__init__(
            SqliteSession(site.path(first.path), timeout_seconds=seconds, allowed=allowed if is_listed else None)
        )

    def kinds(self, query: exp.Query, columns: Sequence[str], values: dict[str, object]) -> Kinds:
        """The kinds of all cells, by column."""
        names = {"integer": "integer", "real": "double", "text": "text", "null": ""}
        cells = ", ".join(f"TYPEOF({self.spelling.column(name)}) AS c{place}" for place, name in enumerate(columns))
        asked = _over(_query(f"SELECT DISTINCT {cells} FROM {_QUERY} AS q", self.spelling), query)  # noqa: S608, names and literals of our own
        found = self._session.fetch(asked.limit(_MOST_SHAPES), values)
        return {
            name: frozenset(names.get(kind, kind) for kind in found.column(place).to_pylist()) - {""}
            for place, name in enumerate(columns)
        }


class PostgresEngine(_SessionEngine):
    """PostgreSQL, in a session that reads."""

    spelling = SPELLINGS["postgres"]
    _version = "CURRENT_SETTING('server_version')"

    def kinds(self, query: exp.Query, columns: Sequence[str], values: dict[str, object]) -> Kinds:
        """The types that the server plans, by column; nothing is read."""
        cells = ", ".join(
            f"CAST(PG_TYPEOF({self.spelling.column(name)}) AS TEXT) AS c{place}" for place, name in enumerate(columns)
        )
        text = f"SELECT {cells} FROM (SELECT 1 AS one) AS o LEFT JOIN {_QUERY} AS q ON 1 = 0"  # noqa: S608, names and literals of our own
        found = self._session.fetch(_over(_query(text, self.spelling), query), values)
        types = [found.column(place)[0].as_py() for place in range(len(columns))]
        return {name: frozenset({_POSTGRES_KINDS.get(kind, kind)}) for name, kind in zip(columns, types, strict=True)}


class IbisEngine:
    """An engine that ibis connects to.

    Raises:
        ConfigError: ibis is not installed, or nothing is pushed down to this engine.
        UnavailableError: It does not answer, or refuses the login.
    """

    def __init__(self, url: str) -> None:
        try:
            import ibis
        except ImportError:
            raise ConfigError(
                "executor 'push-down' needs the package ibis-framework with the database's driver"
            ) from None
        self._connection: Any = _reported(lambda: ibis.connect(url))
        dialect = {"pyspark": "spark", "databricks": "spark"}.get(self._connection.name, self._connection.name)
        if dialect not in SPELLINGS:
            self.close()
            raise ConfigError(
                f"nothing is pushed down to {dialect}, whose arithmetic nobody has compared: "
                f"it is done for {', '.join(SPELLINGS)}; write executor = 'embedded'"
            )
        self.spelling = SPELLINGS[dialect]

    def version(self) -> str:
        """The engine's name and version."""
        return f"{self.spelling.dialect} {_reported(lambda: self._connection.version)}"

    def moment(self, instant: datetime) -> object:
        """The local time, without its offset."""
        return instant.replace(tzinfo=None)

    def columns(self, query: exp.Query, values: dict[str, object]) -> list[str]:
        """The names of the columns that a query gives."""
        return list(self._schema(query, values))

    def kinds(self, query: exp.Query, columns: Sequence[str], values: dict[str, object]) -> Kinds:
        """The types that the engine plans, by column."""
        schema = self._schema(query, values)
        return {name: frozenset({_ibis_kind(schema[name])}) for name in columns}

    def rows(self, statement: exp.Query, values: dict[str, object]) -> Iterator[pa.RecordBatch]:
        """The rows of a statement."""
        text = _bound(statement, values).sql(self.spelling.dialect)
        expression = _reported(lambda: self._connection.sql(text, dialect=self.spelling.dialect))
        yield from _reported(expression.to_pyarrow).to_batches()

    def close(self) -> None:
        """Disconnect; Spark's session is the whole process's, and not ours to stop."""
        if self._connection.name != "pyspark":
            _reported(self._connection.disconnect)

    def _schema(self, query: exp.Query, values: dict[str, object]) -> Any:  # noqa: ANN401, ibis' own
        text = _bound(query, values).sql(self.spelling.dialect)
        return _reported(lambda: self._connection.sql(text, dialect=self.spelling.dialect).schema())


def _ibis_kind(dtype: Any) -> str:  # noqa: ANN401, ibis' own
    if dtype.is_timestamp():
        return "timestamp" if dtype.timezone is None else "timestamptz"
    checks = {"integer": dtype.is_integer, "double": dtype.is_float64, "text": dtype.is_string, "date": dtype.is_date}
    checks["boolean"] = dtype.is_boolean
    return next((kind for kind, check in checks.items() if check()), str(dtype))


def _bound(statement: exp.Query, values: dict[str, object]) -> exp.Query:
    # ibis binds nothing: values become literals of the tree, which are escaped when it is written.
    def literal(node: Any) -> Any:  # noqa: ANN401, any node of a tree
        return exp.convert(values[str(node.this)]) if isinstance(node, exp.Placeholder) else node

    made: exp.Query = statement.copy().transform(literal)
    return made


def _query(text: str, spelling: Spelling) -> exp.Select:
    tree = sqlglot.parse_one(text, read=spelling.dialect)
    if not isinstance(tree, exp.Select):
        raise UnsafeQueryError("a statement of our own is no SELECT")
    return tree


def _over(asked: exp.Select, query: exp.Query) -> exp.Select:
    return asked.with_(_QUERY, as_=query.copy())


def _reported(act: Callable[[], Any]) -> Any:  # noqa: ANN401, whatever is asked for
    trouble: WardroundError
    try:
        return act()
    except Exception as error:  # noqa: BLE001, a dozen drivers share no class
        state = getattr(error, "sqlstate", None)
        told = f"{type(error).__name__}, SQLSTATE {state}" if isinstance(state, str) else type(error).__name__
        trouble = UnavailableError(
            f"the database does not answer, or refuses the plan ({told}): try the mapping's query in a database shell"
        )
    raise trouble
