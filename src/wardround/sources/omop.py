"""The OMOP Common Data Model 5.4 (5.3 as well) as an event source, without a mapping of its own.

    PERSON                    patient|birth-date (as far as year, month, day are known) and patient|sex
    DEATH                     patient|death
    OBSERVATION_PERIOD,
    VISIT_OCCURRENCE          patient|seen, at the start and at the end
    CONDITION_OCCURRENCE, DRUG_EXPOSURE, PROCEDURE_OCCURRENCE, MEASUREMENT, OBSERVATION
                              an event for the standard concept, and one more for the source concept where that is
                              another: both are the same row, and share an order key

A concept is its vocabulary's code (``loinc|2093-3``), or ``omop|3027114`` where the CDM has no such concept. A datetime
at midnight is the day alone, since that is how a CDM writes that it does not know the hour. A unit is the UCUM code of
its concept, or else what the source wrote.

OMOP does not say when a fact became known, so that an event counts as known when it was.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Annotated, Final

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from wardround.errors import ConfigError, MissingColumnError
from wardround.harmonization.events import PATIENT, Scope, SourceReport
from wardround.sources.event_cells import mask, numbers, texts
from wardround.sources.event_columns import EventColumns, WideColumn
from wardround.sources.event_rows import EventRows
from wardround.sources.omop_concepts import COMPARATORS, OMOP, SEXES, Concepts, wanted_pairs
from wardround.sources.omop_tables import CdmTables, FolderTables, SqlTables
from wardround.sources.site import Site
from wardround.sources.sql_paging import Pace
from wardround.sources.sql_sessions import PostgresSession, SqliteSession
from wardround.sources.table_events import CsvSettings

__all__ = ["OmopEvents", "OmopSettings", "open_source"]


class OmopSettings(msgspec.Struct, tag="omop", tag_field="kind", frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A CDM.

    Attributes:
        path: A SQLite file, or a folder of CSV or Parquet files.
        dsn: Or where the connection string of a PostgreSQL server is (``env:NAME``, ``file:PATH``).
        schema: The schema of the tables there.
        delimiter: Of CSV files (OHDSI's own exports of vocabularies have tabs).
        encoding: Of CSV files.
        page_rows: Rows of a page, of a database.
        rows_per_second: The pace; null: without bound.
        timeout_seconds: For a page.
    """

    name: str
    path: str = ""
    dsn: str = ""
    schema: str = ""
    delimiter: Annotated[str, msgspec.Meta(min_length=1, max_length=1)] = ","
    encoding: str = "utf-8"
    page_rows: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 50_000
    rows_per_second: Annotated[int, msgspec.Meta(ge=1)] | None = None
    timeout_seconds: Annotated[float, msgspec.Meta(gt=0.0, le=86_400.0)] = 600.0


@dataclass(frozen=True, slots=True)
class _Clinical:
    """A table of clinical facts: `prefix` begins the names of its concept, `start` those of its time."""

    table: str
    prefix: str
    start: str
    values: bool = False
    presence: bool = False

    @property
    def key(self) -> str:
        return f"{self.table}_id"

    @property
    def concepts(self) -> tuple[str, str]:
        return f"{self.prefix}_concept_id", f"{self.prefix}_source_concept_id"

    @property
    def needed(self) -> list[str]:
        return [self.key, "person_id", self.concepts[0], f"{self.start}_date"]

    @property
    def optional(self) -> list[str]:
        return [f"{self.start}_datetime", self.concepts[1], *(_VALUES if self.values else ())]


_VALUES: Final = (
    "value_as_number",
    "value_as_concept_id",
    "value_as_string",
    "operator_concept_id",
    "unit_concept_id",
    "unit_source_value",
)
_CLINICAL: Final = (
    _Clinical("condition_occurrence", "condition", "condition_start"),
    _Clinical("drug_exposure", "drug", "drug_exposure_start"),
    _Clinical("procedure_occurrence", "procedure", "procedure"),
    _Clinical("measurement", "measurement", "measurement", values=True),
    _Clinical("observation", "observation", "observation", values=True, presence=True),
)
_SEEN: Final = (
    ("visit_occurrence", "visit_occurrence_id", "visit_start", "visit_end"),
    ("observation_period", "observation_period_id", "observation_period_start", "observation_period_end"),
)
_PERSON: Final = EventColumns(
    patient="person_id",
    columns=(
        WideColumn(source="born", code="patient|birth-date"),
        WideColumn(source="sex", code="patient|sex", values=SEXES),
    ),
    missing=("0",),
)
_DEATH: Final = EventColumns(patient="person_id", columns=(WideColumn(source="time", code="patient|death"),))
_SEEN_COLUMNS: Final = EventColumns(
    patient="person_id",
    columns=(WideColumn(source="start", code="patient|seen"), WideColumn(source="end", code="patient|seen")),
)
_FACT: Final = EventColumns(
    patient="person_id", time="time", code="code", system_column="system", order_key="order_key"
)
_VALUED: Final = msgspec.structs.replace(_FACT, number="number", value="value", unit="unit", comparator="comparator")


def open_source(settings: OmopSettings, site: Site) -> "OmopEvents":
    """The source that the settings describe; nothing is opened before its batches are read.

    Raises:
        ConfigError: They name no place, or two, or a secret that is not there.
    """
    return OmopEvents(settings, site)


class OmopEvents:
    """A `wardround.harmonization.events.EventSource` over a CDM; `clock` and `wait` are those of `Pace`."""

    def __init__(
        self,
        settings: OmopSettings,
        site: Site,
        *,
        clock: Callable[[], float] = time.monotonic,
        wait: Callable[[float], None] = time.sleep,
    ) -> None:
        if bool(settings.path) == bool(settings.dsn):
            raise ConfigError(f"source {settings.name!r}: kind 'omop' has either a path or a dsn")
        self.name = settings.name
        self.report = SourceReport(settings.name)
        self._settings = settings
        self._site = site
        self._clock, self._wait = clock, wait
        self._dsn = site.secret(settings.dsn, f"the dsn of source {settings.name!r}") if settings.dsn else ""

    def batches(self, scope: Scope) -> Iterator[pa.RecordBatch]:
        """Every event in scope, table by table.

        Raises:
            ClinicalError: The tables are not a CDM's.
            UnavailableError: The database or the folder cannot be read.
        """
        self.report = SourceReport(self.name)
        tables = self._open()
        try:
            yield from self._patients(tables, scope)
            wants_facts = scope.codes is None or any(
                codes for system, codes in scope.codes.items() if system != PATIENT
            )
            if wants_facts:
                yield from self._facts(tables, scope)
        finally:
            tables.close()

    def links(self) -> Iterable[tuple[str, str]]:
        """None: a CDM has one number for each person."""
        return ()

    def arrays(self, names: Iterable[str]) -> Iterator[tuple[str, npt.NDArray[np.float32]]]:
        """None: a CDM has none."""
        del names
        return iter(())

    def _open(self) -> CdmTables:
        settings, path = self._settings, self._site.path(self._settings.path)
        if settings.path and path.is_dir():
            csv = CsvSettings(name=settings.name, events=(), delimiter=settings.delimiter, encoding=settings.encoding)
            return FolderTables(path, csv, self.report)
        pace = Pace(settings.rows_per_second, self._clock, self._wait)
        seconds = settings.timeout_seconds
        session = (
            PostgresSession(self._dsn, timeout_seconds=seconds)
            if self._dsn
            else SqliteSession(path, timeout_seconds=seconds, allowed=None)
        )
        return SqlTables(session, settings.schema, page_rows=settings.page_rows, pace=pace)

    def _patients(self, tables: CdmTables, scope: Scope) -> Iterator[pa.RecordBatch]:
        rows = [EventRows(one, self._site, self.name, block=block) for block, one in enumerate((_PERSON, _DEATH))]
        birth = ["year_of_birth", "month_of_birth", "day_of_birth"]
        for batch, read in self._read(tables, "person", "person_id", [*birth[:1], "gender_concept_id"], birth[1:]):
            made = {
                "person_id": batch.column("person_id"),
                "born": _born(*(texts(batch.column(name), name) for name in birth)),
                "sex": texts(batch.column("gender_concept_id"), "gender_concept_id"),
            }
            yield from rows[0].events(pa.RecordBatch.from_pydict(made), read, scope, self.report)
        for batch, read in self._read(tables, "death", "person_id", ["death_date"], ["death_datetime"]):
            made = {"person_id": batch.column("person_id"), "time": _time(batch, "death")}
            yield from rows[1].events(pa.RecordBatch.from_pydict(made), read, scope, self.report)
        for block, (table, key, start, end) in enumerate(_SEEN, start=2):
            seen = EventRows(_SEEN_COLUMNS, self._site, self.name, block=block)
            needed = ["person_id", f"{start}_date"]
            optional = [f"{start}_datetime", f"{end}_date", f"{end}_datetime"]
            for batch, read in self._read(tables, table, key, needed, optional):
                made = {
                    "person_id": batch.column("person_id"),
                    "start": _time(batch, start),
                    "end": _time(batch, end),
                }
                yield from seen.events(pa.RecordBatch.from_pydict(made), read, scope, self.report)

    def _facts(self, tables: CdmTables, scope: Scope) -> Iterator[pa.RecordBatch]:
        concepts = Concepts(tables.found if tables.columns("concept") else None)
        self._mention(tables)
        pairs = wanted_pairs(scope)
        wanted = tables.numbers_of(pairs) if pairs is not None else None
        for block, entry in enumerate(_CLINICAL, start=2 + len(_SEEN)):
            made = [EventRows(one, self._site, self.name, block=block) for one in (_VALUED, _FACT)]
            asked = {} if wanted is None else dict.fromkeys(entry.concepts, wanted)
            for batch, read in self._read(tables, entry.table, entry.key, entry.needed, entry.optional, asked):
                yield from self._events(entry, batch, read, concepts, made, scope)

    def _events(
        self,
        entry: _Clinical,
        batch: pa.RecordBatch,
        read: int,
        concepts: Concepts,
        made: list[EventRows],
        scope: Scope,
    ) -> Iterator[pa.RecordBatch]:
        standard, source = (_numbers(batch, name) for name in entry.concepts)
        shared = {
            "person_id": batch.column("person_id"),
            "time": _time(batch, entry.start),
            "order_key": pc.binary_join_element_wise(entry.table, texts(batch.column(entry.key), entry.key), ":"),
        }
        if entry.values:
            shared |= _valued(batch, concepts)
        has_standard, has_source = (mask(pc.greater(ids, 0)) for ids in (standard, source))
        other = has_source & ~mask(pc.equal(standard, source))
        self.report.note("no standard concept", int((~has_standard & has_source).sum()))
        self.report.refuse("no concept", int((~has_standard & ~has_source).sum()))
        given = np.ones(batch.num_rows, np.bool_)
        if entry.presence:
            given = mask(pc.or_(shared["number"].is_valid(), shared["value"].is_valid()))
        for ids, has in ((standard, has_standard), (source, other)):
            systems, codes = concepts.systems_and_codes(ids)
            self.report.note("concept not in the vocabulary", int((mask(pc.equal(systems, OMOP)) & has).sum()))
            table = pa.RecordBatch.from_pydict(shared | {"system": systems, "code": codes})
            for where, rows in ((has & given, made[0 if entry.values else 1]), (has & ~given, made[1])):
                places = np.flatnonzero(where)
                if len(places):
                    yield from rows.events(table.take(pa.array(places)), read + places, scope, self.report)

    def _mention(self, tables: CdmTables) -> None:
        # A folder's vocabulary is read once, for all concepts that its tables mention.
        if not isinstance(tables, FolderTables) or not tables.columns("concept"):
            return
        tables.count_into(SourceReport(self.name))
        for entry in _CLINICAL:
            there = tables.columns(entry.table)
            asked = {*entry.concepts, *(("unit_concept_id", "value_as_concept_id") if entry.values else ())}
            for batch in tables.rows(entry.table, entry.key, sorted(asked & there), {}) if there else ():
                for name in sorted(asked & there):
                    tables.mentioned.update(_numbers(batch, name).unique().drop_null().to_pylist())
        tables.count_into(self.report)

    def _read(
        self,
        tables: CdmTables,
        table: str,
        key: str,
        needed: list[str],
        optional: list[str],
        wanted: dict[str, list[int]] | None = None,
    ) -> Iterator[tuple[pa.RecordBatch, int]]:
        there = tables.columns(table)
        if not there:
            self.report.snapshot[table] = "absent"
            return
        if absent := [name for name in needed if name not in there]:
            raise MissingColumnError(f"source {self.name!r}: the CDM's table {table} has no column {absent[0]!r}")
        columns = list(dict.fromkeys(["person_id", *needed, *(name for name in optional if name in there)]))
        wanted = {name: numbers for name, numbers in (wanted or {}).items() if name in there}
        read = 0
        for batch in tables.rows(table, key, columns, wanted):
            cells = {name: batch.column(name) for name in [*columns, key]}
            cells |= {name: pa.nulls(batch.num_rows, pa.string()) for name in optional if name not in there}
            yield pa.RecordBatch.from_pydict(cells), read
            read += batch.num_rows
            self.report.read += batch.num_rows
        self.report.snapshot[table] = f"{read} rows"


def _numbers(batch: pa.RecordBatch, name: str) -> pa.Array:
    found = numbers(batch.column(name), name, decimal_comma=False).number
    whole = pc.if_else(pc.equal(pc.floor(found), found), found, pa.scalar(None, pa.float64()))
    return whole.cast(pa.int64())


def _time(batch: pa.RecordBatch, name: str) -> pa.Array:
    day = pc.replace_substring_regex(
        texts(batch.column(f"{name}_date"), name), r"^([0-9]{4})([0-9]{2})([0-9]{2})$", r"\1-\2-\3"
    )
    day = pc.replace_substring_regex(day, r"[T ]00:00:00(\.0+)?$", "")
    exact = texts(batch.column(f"{name}_datetime"), name)
    at_midnight = pc.match_substring_regex(exact, r"[T ]00:00(:00(\.0+)?)?(Z|[+]00:?00)?$")
    return pc.coalesce(pc.if_else(at_midnight, pa.scalar(None, pa.string()), exact), day, exact)


def _born(year: pa.Array, month: pa.Array, day: pa.Array) -> pa.Array:
    year, month, day = pc.utf8_lpad(year, 4, "0"), pc.utf8_lpad(month, 2, "0"), pc.utf8_lpad(day, 2, "0")
    to_month = pc.binary_join_element_wise(year, month, "-")
    return pc.coalesce(pc.binary_join_element_wise(to_month, day, "-"), to_month, year)


def _valued(batch: pa.RecordBatch, concepts: Concepts) -> dict[str, pa.Array]:
    systems, codes = concepts.systems_and_codes(_numbers(batch, "value_as_concept_id"))
    unit_systems, unit_codes = concepts.systems_and_codes(_numbers(batch, "unit_concept_id"))
    operators = texts(batch.column("operator_concept_id"), "operator_concept_id")
    spelled = operators.dictionary_encode()
    known = [COMPARATORS.get(text, text) for text in spelled.dictionary.to_pylist()]
    return {
        "number": numbers(batch.column("value_as_number"), "value_as_number", decimal_comma=False).number,
        "value": pc.coalesce(
            pc.binary_join_element_wise(systems, codes, "|"), texts(batch.column("value_as_string"), "value_as_string")
        ),
        "unit": pc.coalesce(
            pc.if_else(pc.equal(unit_systems, "ucum"), unit_codes, pa.scalar(None, pa.string())),
            texts(batch.column("unit_source_value"), "unit_source_value"),
        ),
        "comparator": pa.array(known, pa.string()).take(spelled.indices),
    }
