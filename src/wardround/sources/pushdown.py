"""The executor that leaves the work where the records are: the feature plan inside the hospital's own database.

The mapping's queries become steps of one statement, and only its results come back: no row of the hospital's leaves
its database. What is asked beforehand are names: which codes and units there are, and of what kind the columns are.

The results are those of `wardround.harmonization.embedded`, to the last bit, or the mapping is refused: a setting that
the engine cannot follow exactly is named, with what to write instead. Engines are SQLite, PostgreSQL and, through
ibis, Spark.

A source's report counts rows of wanted codes, in the engine's words the same reasons as when it is read. Of codes that
nobody has confirmed it counts the events, where they are asked for at all.
"""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Final
from zoneinfo import ZoneInfo

import pyarrow as pa
from sqlglot import exp

from wardround.clinical import codes as codes_of
from wardround.errors import ClinicalError, ConfigError, MissingColumnError, UnavailableError, UnsafeQueryError
from wardround.harmonization import times
from wardround.harmonization.embedded import Reading
from wardround.harmonization.events import PATIENT, SYSTEMS, Scope, SourceReport
from wardround.harmonization.harvest import Harvest
from wardround.harmonization.needs import UNWANTED
from wardround.harmonization.plan import SERVES, Plan, serves_rows, windows_rows
from wardround.sources import event_mapping, pushdown_checks, pushdown_engines, sql_guard
from wardround.sources.event_columns import wanted
from wardround.sources.event_mapping import EventMapping
from wardround.sources.event_rows import ABSENT, UNLISTED, UNREADABLE, EventRows, coded
from wardround.sources.pushdown_engines import Engine, SqlSettings
from wardround.sources.pushdown_facts import BORN, NOTED, SEX, Code, Outcome, Remark, Table
from wardround.sources.pushdown_statement import PREFIX, RESULT, Statement, result_of
from wardround.sources.site import Site
from wardround.sources.sql_events import IbisSettings, PostgresSettings, QueryEvents, SqliteSettings

__all__ = ["PushDown", "executor"]

_MOST_LISTED: Final = 1000
_MOST_CODES: Final = 200_000
_MOST_ROWS: Final = 50_000_000
_CODES: Final = pa.schema([("system", pa.string()), ("code", pa.string()), ("n", pa.int64())])
_UNITS: Final = pa.schema([("quantity", pa.int64()), ("unit", pa.string())])
_SINCE: Final = "since"
_LONG_AGO: Final = datetime(1000, 1, 1, tzinfo=UTC)
_LOCAL: Final = "local:"
_REFUSED: Final = {
    Outcome.NO_PATIENT: "no patient",
    Outcome.UNPARSEABLE_TIME: times.UNPARSEABLE,
    Outcome.NO_TIME: "no time",
    Outcome.UNLISTED: UNLISTED,
    Outcome.TOO_LONG: "text too long",
}
_HANDED: Final = {Outcome.EVENT, Outcome.NOBODY, Outcome.OUT_OF_LIFE}
_REMARKED: Final = {*_HANDED, Outcome.UNLISTED, Outcome.ABSENT, Outcome.TOO_LONG}
_NOTED: Final = {
    Remark.UNREADABLE: UNREADABLE,
    Remark.UNLISTED: UNLISTED,
    Remark.COMPARATOR: "comparator unparseable",
    Remark.STATUS: "status not in the mapping",
}


def executor(mapping: EventMapping, site: Site) -> "PushDown":
    """What runs a plan in the one database that all of the mapping's sources lie in.

    Raises:
        ConfigError: A source is no database.
    """
    settings: list[SqlSettings] = []
    for table in mapping.sources:
        one = event_mapping.settings_of(table)
        if not isinstance(one, SqliteSettings | PostgresSettings | IbisSettings):
            raise ConfigError(
                f"source {table.get('name')!r} is of kind {table.get('kind')!r}, and executor 'push-down' computes in "
                "a database (kinds sqlite, postgresql, ibis): write executor = 'embedded' or 'partitioned'"
            )
        settings.append(one)
    return PushDown(settings, site)


class PushDown:
    """A `wardround.harmonization.harmonize.Execute` inside one database.

    Args:
        settings: The sources; all of one database.
        site: Its zone, folder and secrets.
    """

    def __init__(self, settings: Sequence[SqlSettings], site: Site) -> None:
        self._settings = settings
        self._site = site
        self._plans: tuple[Plan, Plan] | None = None

    def __call__(self, reading: Reading) -> Harvest:
        """Run the plan over every patient.

        Raises:
            ConfigError: A setting cannot be followed exactly there; says what to write instead.
            ClinicalError: The database refuses the plan, or a key is none.
            UnavailableError: It does not answer, or not in time.
        """
        engine = pushdown_engines.opened(self._settings, self._site)
        try:
            return _Run(engine, reading, self._plan(reading.plan), self._site).harvest(self._settings)
        finally:
            engine.close()

    def _plan(self, numbered: Plan) -> Plan:
        # Its steps take longer to compile than many a database takes to run them.
        if self._plans is None or self._plans[0] is not numbered:
            self._plans = numbered, Plan(numbered.needs, numbered.pick, numbered.now_us, text="string")
        return self._plans[1]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Block:
    """One table of events of a source, before the engine was asked about it."""

    settings: SqlSettings
    entry: QueryEvents
    number: int
    query: exp.Query

    @property
    def where(self) -> str:
        return f"source {self.settings.name!r}, events {self.number + 1}"


class _Run:
    """One run of the plan."""

    def __init__(self, engine: Engine, reading: Reading, plan: Plan, site: Site) -> None:
        self._engine = engine
        self._reading = reading
        self._plan = plan
        self._site = site
        self._blocks: list[_Block] = []
        self._unmapped: Counter[tuple[str, str]] = Counter()
        self._invalid: Counter[str] = Counter()
        self._noted: list[tuple[str, str, bool]] = []
        self._undated: Counter[str] = Counter()
        self._bounds: Counter[str] = Counter()
        self._scope = reading.atoms.scope() if reading.restricted else Scope()

    def harvest(self, settings: Sequence[SqlSettings]) -> Harvest:
        tables = self._tables(settings)
        version = self._engine.version()
        if not tables:
            unmapped = dict(sorted(self._unmapped.items()))
            return Harvest(**_tables(RESULT.empty_table()), counted={}, unmapped=unmapped, engine=version)
        statement = Statement(self._engine.spelling)
        for table, block in zip(tables, self._blocks, strict=True):
            statement.query(table.query, block.query)
        statement.facts(tables)
        statement.values("serves", SERVES, serves_rows(self._reading.atoms.served, self._plan.needs))
        statement.plan(self._plan, self._units(statement), windows_rows(self._plan.needs))
        if self._engine.spelling.dialect == "sqlite":
            statement.strays(tables)
        rows = self._rows(statement.results(), RESULT, _MOST_ROWS)
        if any(result_of(rows, "strays")["facts"].to_pylist()):
            raise UnavailableError("rows changed while they were read: read them again")
        self._report(rows, tables)
        counted, misplaced = (
            [
                {"quantity": row["need"], name: row["total"], "facts": row["facts"]}
                for row in result_of(rows, step).to_pylist()
            ]
            for step, name in (("counted", "reason"), ("misplaced", "before_birth"))
        )
        earliest = result_of(rows, "earliest").to_pylist()
        return Harvest(
            **_tables(rows),
            counted=self._plan.of_needs(counted),
            misplaced=self._plan.misplaced_of_needs(misplaced),
            invalid=dict(self._invalid),
            patients=sum(result_of(rows, "people")["facts"].to_pylist()),
            undated=self._undated,
            bounds=self._bounds,
            conflicts=frozenset(result_of(rows, "conflicts")["patient"].to_pylist()),
            earliest={row["patient"]: row["index_us"] for row in earliest},
            unmapped=dict(sorted(self._unmapped.items())),
            engine=version,
            statements=statement.texts,
        )

    def _tables(self, settings: Sequence[SqlSettings]) -> list[Table]:
        names = {name: place for place, name in enumerate(sorted(one.name for one in settings))}
        found: list[Table] = []
        for one in settings:
            for number, entry in enumerate(one.events):
                block = _Block(settings=one, entry=entry, number=number, query=self._checked(one, entry))
                table = self._table(block, names[one.name], len(found))
                if table is not None:
                    found.append(table)
                    self._blocks.append(block)
        return found

    def _checked(self, settings: SqlSettings, entry: QueryEvents) -> exp.Query:
        dialect = self._engine.spelling.dialect
        query = sql_guard.parsed(entry.query, dialect)
        if settings.allow:
            sql_guard.check_allowed(query, dialect, settings.allow)
        if isinstance(settings, IbisSettings):
            sql_guard.check_calls(query)
        if {str(node.this) for node in query.find_all(exp.Placeholder, exp.Parameter)} - {_SINCE}:
            raise UnsafeQueryError(f"source {settings.name!r}: a query has parameters that are not :since")
        if any(table.name.lower().startswith(PREFIX) for table in query.find_all(exp.Table, exp.TableAlias)):
            raise UnsafeQueryError(f"source {settings.name!r}: names of tables as {PREFIX}… are kept for the plan")
        return query

    def _table(self, block: _Block, source: int, place: int) -> Table | None:
        entry, name = block.entry, block.settings.name
        rows = EventRows(entry, self._site, name, block=block.number)
        atoms = {
            number: (self._reading.atoms.of(*coded(column)), self._told(*coded(column)))
            for number, column in enumerate(entry.columns)
            if self._scope.wants(*coded(column))
        }
        if not entry.code and not atoms:
            return None
        values = self._values(block.query)
        asked = list(dict.fromkeys([*wanted(entry), *([entry.key] if entry.key else [])]))
        there = self._engine.columns(block.query, values)
        if absent := [column for column in asked if column not in there]:
            raise MissingColumnError(
                f"{block.where}: the query gives no column {absent[0]!r}; it gives {', '.join(there)}"
            )
        table = Table(
            entry=entry,
            rows=rows,
            spelling=self._engine.spelling,
            kinds=self._engine.kinds(block.query, asked, values),
            source=source,
            block=block.number,
            place=place,
            namespace=self._reading.namespaces.get(name, ""),
            where=block.where,
            atoms=atoms,
        )
        pushdown_checks.check(table)
        if not entry.code:
            return table
        found = self._codes(table, block.query)
        return replace(table, codes=found) if found else None

    def _codes(self, table: Table, query: exp.Query) -> list[Code]:
        atoms, entry = self._reading.atoms, table.entry
        missing = set(table.rows.missing_texts.to_pylist())
        known = {code: atom for (system, code), atom in atoms.codes().items() if system == entry.system}
        by_prefix = any(system == entry.system for system, _ in atoms.prefixes())
        is_listed = entry.system and entry.system != PATIENT and self._reading.restricted
        if is_listed and not by_prefix and len(known) <= _MOST_LISTED:
            return [
                (None, code, atom, self._told(entry.system, code))
                for code, atom in sorted(known.items())
                if code not in missing and (not table.counts_codes or _is_whole(code))
            ]
        found: list[Code] = []
        statement = Statement(self._engine.spelling)
        statement.query(table.query, query)
        for row in self._rows(statement.asking(table.distinct_codes()), _CODES, _MOST_CODES).to_pylist():
            text, code = row["system"], row["code"]
            if code is None or (text is None and not entry.system):
                continue
            system = entry.system or entry.systems.get(text, SYSTEMS.get(text, text))
            if self._scope.wants(system, code):
                found.append((None if entry.system else text, code, atoms.of(system, code), self._told(system, code)))
        return sorted(found, key=lambda one: (one[0] or "", one[1]))

    def _units(self, statement: Statement) -> list[tuple[object, ...]]:
        text = (
            "SELECT DISTINCT s.quantity, f.unit FROM wardround_facts AS f "
            "JOIN wardround_serves AS s ON f.atom = s.atom WHERE s.is_numeric = 1"
        )
        pairs = self._rows(statement.asking(text), _UNITS, _MOST_CODES).to_pylist()
        rows: list[tuple[object, ...]] = []
        for quantity, unit in sorted((pair["quantity"], pair["unit"]) for pair in pairs):
            found = self._reading.affine(self._reading.plan.quantities[quantity], unit)
            if found is not None:
                rows.append((quantity, unit, float(found[0]), float(found[1])))
        return rows

    def _rows(self, statement: exp.Query, schema: pa.Schema, most: int) -> pa.Table:
        found: list[pa.Table] = [schema.empty_table()]
        count = 0
        for batch in self._engine.rows(statement, self._values(statement)):
            count += batch.num_rows
            if count > most:
                raise ClinicalError(f"the database gives more than {most} rows of results: narrow the study's criteria")
            found.append(pa.Table.from_batches([batch]).cast(schema))
        return pa.concat_tables(found)

    def _values(self, statement: exp.Query) -> dict[str, object]:
        if not statement.find(exp.Placeholder):
            return {}
        return {_SINCE: self._engine.moment(_LONG_AGO.astimezone(ZoneInfo(self._site.timezone or "UTC")))}

    def _report(self, rows: pa.Table, tables: Sequence[Table]) -> None:
        reports = {source.name: SourceReport(source.name) for source in self._reading.sources}
        told = result_of(rows, "told").to_pylist()
        for table, block in zip(tables, self._blocks, strict=True):
            report, mark = reports[block.settings.name], f"events {block.number + 1}"
            mine = [row for row in told if row["need"] == table.place]
            _check_outcomes({row["total"] for row in mine}, table)
            read = sum(row["facts"] for row in mine)
            if read > block.settings.max_rows:
                raise ClinicalError(f"{table.where}: more than max_rows, {block.settings.max_rows}: narrow the query")
            report.read += read
            for row in mine:
                outcome, remark, count = row["total"], row["t"], row["facts"]
                if outcome in _REMARKED:
                    for bit, name in _NOTED.items():
                        report.note(name, count if remark & bit else 0)
                if outcome in _HANDED:
                    report.events += count
                    self._count(block.settings.name, row)
                elif outcome in _REFUSED:
                    report.refuse(_REFUSED[Outcome(outcome)], count)
                elif outcome == Outcome.ABSENT:
                    report.note(ABSENT, count)
            text = block.query.sql(dialect=self._engine.spelling.dialect)
            report.snapshot[f"{mark}: query SHA-256"] = hashlib.sha256(text.encode()).hexdigest()
            report.snapshot[f"{mark}: rows"] = str(read)
        for source in self._reading.sources:
            source.report = reports[source.name]

    def _told(self, system: str, code: str) -> int:
        if system == PATIENT:
            return {"birth-date": BORN, "sex": SEX}.get(code, 0)
        is_unmapped = system.startswith(_LOCAL) and self._reading.atoms.of(system, code) == UNWANTED
        if not is_unmapped and codes_of.valid(system, code) is not False:
            return 0
        self._noted.append((system, code, is_unmapped))
        return NOTED + len(self._noted) - 1

    def _count(self, source: str, row: dict[str, int]) -> None:
        outcome, remark, count = row["total"], row["t"], row["facts"]
        if row["v"] >= NOTED:
            system, code, is_unmapped = self._noted[row["v"] - NOTED]
            if is_unmapped:
                self._unmapped[system, code] += count
            else:
                self._invalid[system] += count
        if remark & Remark.UNWANTED:
            return
        if outcome == Outcome.OUT_OF_LIFE:
            self._undated[source] += count
        if outcome == Outcome.EVENT and remark & Remark.BOUND:
            self._bounds[source] += count


def _tables(rows: pa.Table) -> dict[str, Any]:
    return {step: result_of(rows, step) for step in ("records", "sums", "first", "last", "medians", "consents")}


def _check_outcomes(outcomes: set[int], table: Table) -> None:
    key = table.entry.key
    if Outcome.NO_KEY in outcomes:
        raise ClinicalError(f"the key {key!r} is null in some rows: choose one that every row has")
    if Outcome.KEY_TWICE in outcomes:
        raise ClinicalError(f"the key {key!r} occurs twice: choose one that is unique")
    if Outcome.VAGUE_BIRTH in outcomes:
        raise ConfigError(
            f"{table.where}: executor 'push-down' takes whole dates for births, and some are years or months: "
            "complete them in the query, or executor = 'embedded'"
        )


def _is_whole(code: str) -> bool:
    return code.isascii() and code.isdigit() and str(int(code)) == code and len(code) <= 18
