"""SQL databases as event sources: one checked SELECT for each table of events, read in pages at a bearable pace.

A mapping's query may name ``:since``, which is bound to the instant from which on a study wants events. The codes that
a study wants are bound as well, where a table is long, its system is one, and they are a thousand at most.

With `key` (a unique column of the query's result) rows are read page by page, each page its own short transaction, and
are numbered in the key's order. Without one the query must end in ORDER BY, and one transaction is held until all of it
is read.
"""

import hashlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Final
from zoneinfo import ZoneInfo

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
from sqlglot import exp

from wardround.errors import ClinicalError, ConfigError, MissingColumnError, UnsafeQueryError
from wardround.harmonization.events import Scope, SourceReport
from wardround.harmonization.times import DAY_US
from wardround.sources import sql_guard, sql_paging
from wardround.sources.event_cells import BLANKS
from wardround.sources.event_columns import EventColumns, wanted
from wardround.sources.event_rows import EventRows, codes_of
from wardround.sources.site import Site
from wardround.sources.sql_paging import Pace
from wardround.sources.sql_sessions import Kind, PostgresSession, Session, SqliteSession

__all__ = [
    "IbisSettings",
    "PostgresSettings",
    "QueryEvents",
    "SqlEvents",
    "SqliteSettings",
    "open_source",
]

_MOST_CODES: Final = 1000
_SINCE: Final = "since"
_Seconds = Annotated[float, msgspec.Meta(gt=0.0, le=86_400.0)]
_Count = Annotated[int, msgspec.Meta(ge=1)]


class QueryEvents(EventColumns, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One table of events: what one SELECT gives, and which of its columns mean what.

    Attributes:
        query: The SELECT.
        key: A column of its result that is unique and never null; the pages follow it.
    """

    query: Annotated[str, msgspec.Meta(min_length=1, max_length=100_000)]
    key: str = ""


class SqliteSettings(
    msgspec.Struct, tag="sqlite", tag_field="kind", frozen=True, forbid_unknown_fields=True, kw_only=True
):
    """A SQLite file.

    Attributes:
        path: The file.
        events: The tables of events.
        allow: The tables and columns that the queries may use; empty: all.
        page_rows: Rows of a page.
        max_rows: More rows of one query are refused.
        rows_per_second: The pace, over all queries; null: without bound.
        timeout_seconds: For one page, or one query without a key.
    """

    name: str
    path: str
    events: tuple[QueryEvents, ...]
    allow: dict[str, tuple[str, ...]] = {}
    page_rows: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 50_000
    max_rows: _Count = 1_000_000_000
    rows_per_second: _Count | None = None
    timeout_seconds: _Seconds = 600.0


class PostgresSettings(
    msgspec.Struct, tag="postgresql", tag_field="kind", frozen=True, forbid_unknown_fields=True, kw_only=True
):
    """A PostgreSQL server; `dsn` names its connection string (``env:NAME``, ``file:PATH``), else as a SQLite file."""

    name: str
    dsn: str
    events: tuple[QueryEvents, ...]
    allow: dict[str, tuple[str, ...]] = {}
    page_rows: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 50_000
    max_rows: _Count = 1_000_000_000
    rows_per_second: _Count | None = 200_000
    timeout_seconds: _Seconds = 600.0


class IbisSettings(msgspec.Struct, tag="ibis", tag_field="kind", frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Another database: `url` names its ibis URL (``env:NAME``, ``file:PATH``), and `allow` is needed."""

    name: str
    url: str
    events: tuple[QueryEvents, ...]
    allow: dict[str, tuple[str, ...]]
    page_rows: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 50_000
    max_rows: _Count = 1_000_000_000
    rows_per_second: _Count | None = 200_000


Settings = SqliteSettings | PostgresSettings | IbisSettings


def open_source(settings: Settings, site: Site) -> "SqlEvents":
    """The source that the settings describe; nothing is opened before its batches are read, but ibis' connection.

    Raises:
        ConfigError: A secret is not there, or a table's columns give no events.
        UnsafeQueryError: A query is not a single SELECT that only reads what is listed.
    """
    return SqlEvents(settings, site)


class SqlEvents:
    """A `wardround.harmonization.events.EventSource` over queries.

    Args:
        settings: Where, and what.
        site: Its zone, folder and secrets.
        clock: Seconds that only grow.
        wait: Waits for so many seconds.
    """

    def __init__(
        self,
        settings: Settings,
        site: Site,
        *,
        clock: Callable[[], float] = time.monotonic,
        wait: Callable[[float], None] = time.sleep,
    ) -> None:
        self.name = settings.name
        self.report = SourceReport(settings.name)
        self._settings = settings
        self._site = site
        self._clock, self._wait = clock, wait
        self._session = _session(settings, site)
        self._tables = [
            _Table(entry, EventRows(entry, site, settings.name, block=block), self._session.dialect, settings, block)
            for block, entry in enumerate(settings.events)
        ]

    def batches(self, scope: Scope) -> Iterator[pa.RecordBatch]:
        """Every event in scope, table by table.

        Raises:
            ClinicalError: A query or a column is not what it should be.
            UnavailableError: The database does not answer, or not in time.
        """
        self.report = SourceReport(self.name)
        pace = Pace(self._settings.rows_per_second, self._clock, self._wait)
        try:
            for table in self._tables:
                yield from table.events(self._session, scope, self.report, pace, self._site)
        finally:
            self._session.close()

    def links(self) -> Iterable[tuple[str, str]]:
        """None: a table says nothing of identities."""
        return ()

    def arrays(self, names: Iterable[str]) -> Iterator[tuple[str, npt.NDArray[np.float32]]]:
        """None: a table has none."""
        del names
        return iter(())


def _session(settings: Settings, site: Site) -> Session:
    match settings:
        case SqliteSettings():
            allowed = settings.allow or None
            return SqliteSession(site.path(settings.path), timeout_seconds=settings.timeout_seconds, allowed=allowed)
        case PostgresSettings():
            dsn = site.secret(settings.dsn, f"the dsn of source {settings.name!r}")
            return PostgresSession(dsn, timeout_seconds=settings.timeout_seconds)
        case IbisSettings():
            from wardround.sources.sql_ibis import IbisSession

            if not settings.allow:
                raise ConfigError(f"source {settings.name!r}: kind 'ibis' needs the tables and columns in allow")
            return IbisSession(site.secret(settings.url, f"the url of source {settings.name!r}"))


class _Table:
    """One query of a source."""

    def __init__(self, entry: QueryEvents, rows: EventRows, dialect: str, settings: Settings, block: int) -> None:
        self._entry = entry
        self._rows = rows
        self._settings = settings
        self._called = f"source {settings.name!r}, events {block + 1}"
        self._mark = f"events {block + 1}"
        self._query = sql_guard.parsed(entry.query, dialect)
        if settings.allow:
            sql_guard.check_allowed(self._query, dialect, settings.allow)
        if isinstance(settings, IbisSettings):
            sql_guard.check_calls(self._query)
        if strange := {str(node.this) for node in self._query.find_all(exp.Placeholder, exp.Parameter)} - {_SINCE}:
            raise UnsafeQueryError(f"{self._called}: the query has {len(strange)} parameters that are not :since")
        if not entry.key and not self._query.args.get("order"):
            raise ConfigError(f"{self._called}: without a key the query must end in ORDER BY")
        self.identity = hashlib.sha256(self._query.sql(dialect=dialect).encode()).hexdigest()

    def events(
        self, session: Session, scope: Scope, report: SourceReport, pace: Pace, site: Site
    ) -> Iterator[pa.RecordBatch]:
        """The events of the query that are in scope."""
        report.snapshot[f"{self._mark}: query SHA-256"] = self.identity
        if not self._rows.in_scope(scope):
            return
        values: dict[str, object] = {}
        query = _since_bound(self._query, _moment(session, scope, site), values)
        kinds = session.describe(query, values)
        columns = wanted(self._entry)
        if absent := [name for name in [*columns, self._entry.key] if name and name not in kinds]:
            raise MissingColumnError(
                f"{self._called}: the query gives no column {absent[0]!r}; it gives {', '.join(kinds)}"
            )
        conditions = self._conditions(session, scope, kinds, values)
        read = 0
        for page in self._pages(session, query, columns, conditions, values, pace):
            if read + page.num_rows > self._settings.max_rows:
                raise ClinicalError(f"{self._called}: more than max_rows, {self._settings.max_rows}: narrow the query")
            report.read += page.num_rows
            yield from self._rows.events(page, read, scope, report)
            read += page.num_rows
            if self._entry.key and pa.types.is_integer(page.column(self._entry.key).type):
                report.snapshot[f"{self._mark}: last key"] = str(page.column(self._entry.key)[-1].as_py())
        report.snapshot[f"{self._mark}: rows"] = str(read)

    def _pages(
        self,
        session: Session,
        query: exp.Query,
        columns: list[str],
        conditions: list[exp.Expression],
        values: dict[str, object],
        pace: Pace,
    ) -> Iterator[pa.RecordBatch]:
        if self._entry.key:
            yield from sql_paging.pages(
                session,
                query,
                columns,
                key=self._entry.key,
                page_rows=self._settings.page_rows,
                pace=pace,
                conditions=conditions,
                values=values,
            )
            return
        for batch in session.stream(query, values):
            pace.spend(batch.num_rows)
            yield batch

    def _conditions(
        self, session: Session, scope: Scope, kinds: Mapping[str, Kind], values: dict[str, object]
    ) -> list[exp.Expression]:
        codes = codes_of(self._entry, scope)
        if (
            codes is None
            or len(codes) > _MOST_CODES
            or any(code.endswith("*") for code in codes)
            or not self._entry.key
        ):
            return []
        column, kind = sql_paging.column(self._entry.code), kinds[self._entry.code]
        bound: list[object]
        left: exp.Expression
        if kind == "integer":
            bound = [int(code) for code in sorted(codes) if _is_whole(code)]
            left = column
        elif kind == "text" or session.dialect == "sqlite":
            text = exp.cast(column, "text") if session.dialect == "sqlite" else column
            bound = [
                spelled for code in sorted(codes) for spelled in ([code, f"{code}.0"] if _is_whole(code) else [code])
            ]
            left = exp.Trim(this=text, expression=_placeholder(BLANKS, values))
        else:
            return []
        if not bound:
            return [exp.false()]
        return [exp.In(this=left, expressions=[_placeholder(value, values) for value in bound])]


def _is_whole(code: str) -> bool:
    return code.isascii() and code.isdigit() and str(int(code)) == code and len(code) <= 18


def _placeholder(value: object, values: dict[str, object]) -> exp.Placeholder:
    name = f"p{len(values)}"
    values[name] = value
    return exp.Placeholder(this=name)


def _moment(session: Session, scope: Scope, site: Site) -> object:
    zone = ZoneInfo(site.timezone or "UTC")
    instant = datetime(1000, 1, 1, tzinfo=UTC)
    if scope.since_us is not None:
        # A day earlier: texts and days are compared by their local spelling, and what is too much is left out later.
        since_us = min(max(scope.since_us, -30_000 * DAY_US * 10), 30_000 * DAY_US * 10)
        instant = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=since_us) - timedelta(days=1)
    return session.moment(instant.astimezone(zone))


def _since_bound(query: exp.Query, moment: object, values: dict[str, object]) -> exp.Query:
    def bound(node: exp.Expression) -> exp.Expression:
        return _placeholder(moment, values) if isinstance(node, exp.Placeholder) else node

    made: Any = query.copy().transform(bound)
    return made  # type: ignore[no-any-return]
