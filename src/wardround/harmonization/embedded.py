"""The executor that needs nothing: DuckDB inside the reading process, in volatile memory, whatever the input's size.

Sources are streamed into facts; where these outgrow the memory allowed, the patients are dealt into buckets and the
sources are read once for each (`wardround.harmonization.facts`).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import pyarrow as pa

from wardround.errors import ClinicalError
from wardround.harmonization import identity, memory_database
from wardround.harmonization.events import EventSource, Scope
from wardround.harmonization.facts import MOST_BUCKETS, Facts
from wardround.harmonization.harvest import CONSENTS, MEDIANS, PICKED, RECORDS, SUMS, Harvest, joined
from wardround.harmonization.identity import Identities
from wardround.harmonization.needs import Atoms, Need
from wardround.harmonization.plan import SERVES, UNITS, WINDOWS, Plan, serves_rows, windows_rows

__all__ = ["Reading", "harvest"]

_RECORDS: Final = "SELECT patient, index_us FROM records"
_RESULTS: Final = {
    "records": RECORDS,
    "sums": SUMS,
    "first": PICKED,
    "last": PICKED,
    "medians": MEDIANS,
    "consents": CONSENTS,
}
_SLICE: Final = 65_536

Affines = Callable[[Need, str], tuple[float, float] | None]
"""The factor and shift from a unit as a source spells it to a need's unit; None where there is no conversion."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """How to read a site: its sources, what is wanted of them, and the bounds.

    Attributes:
        sources: What to read; read again for each bucket.
        atoms: What is wanted.
        plan: What to compute.
        affine: Conversions.
        restricted: Whether sources are asked for what is wanted only; without it they show all that they have.
        memory_limit_bytes: DuckDB's.
        namespaces: For each source what its patients' identifiers are unique in; by default one for all.
        most_facts: How many facts are held at once.
        threads: DuckDB's.
    """

    sources: Sequence[EventSource]
    atoms: Atoms
    plan: Plan
    affine: Affines
    restricted: bool = True
    namespaces: Mapping[str, str] = field(default_factory=dict)
    memory_limit_bytes: int = memory_database.MEMORY_LIMIT_BYTES
    most_facts: int = 1_000_000
    threads: int = 2


def harvest(reading: Reading, *, bucket: tuple[int, int] = (0, 1)) -> Harvest:
    """Run the feature plan over every patient of a bucket; by default over all.

    Raises:
        ClinicalError: A source cannot be read as described, or one patient's facts outgrow the memory allowed.
        UnavailableError: A source did not answer.
    """
    waiting, parts = [bucket], []
    canonical: Mapping[str, str] | None = None
    while waiting:
        wanted = waiting.pop()
        with memory_database.open_memory_database(
            memory_limit_bytes=reading.memory_limit_bytes, threads=reading.threads
        ) as database:
            try:
                facts, found = _gathered(database, reading, wanted, canonical)
            except memory_database.duckdb().OutOfMemoryException:
                waiting += _halves(wanted)
                continue
            if found.canonical and canonical is None and facts.bucket[1] > 1:
                # Who is whose double was not known when the patients were dealt: deal them again, knowing it.
                canonical = found.canonical
                waiting.append(wanted)
                continue
            facts.relabel(found.canonical if canonical is None else {})
            canonical = found.canonical
            facts.finish()
            done = facts.bucket
            try:
                parts.append(_computed(database, reading, facts, found.crowds))
            except MemoryError:
                waiting += _halves(done)
        waiting += _siblings(wanted, done)
        del facts
        pa.default_memory_pool().release_unused()
    return joined(parts)


def _gathered(
    database: Any,  # noqa: ANN401
    reading: Reading,
    bucket: tuple[int, int],
    canonical: Mapping[str, str] | None,
) -> tuple[Facts, Identities]:
    scope = reading.atoms.scope() if reading.restricted else Scope()
    names = [source.name for source in reading.sources]
    facts = Facts(database, reading.atoms, names, bucket=bucket, most=reading.most_facts, canonical=canonical)
    for source in reading.sources:
        source.report.reset()
        for batch in source.batches(scope):
            for start in range(0, batch.num_rows, _SLICE):
                facts.add(batch.slice(start, _SLICE), reading.namespaces.get(source.name, ""))
    links = (
        (reading.namespaces.get(source.name, ""), former, present)
        for source in reading.sources
        for former, present in source.links()
    )
    return facts, identity.resolve(links)


def _halves(bucket: tuple[int, int]) -> list[tuple[int, int]]:
    number, of = bucket
    if 2 * of > MOST_BUCKETS:
        raise ClinicalError("one patient's facts outgrow the memory allowed: narrow the source or the concepts")
    return [(number, 2 * of), (number + of, 2 * of)]


def _siblings(wanted: tuple[int, int], done: tuple[int, int]) -> list[tuple[int, int]]:
    number, of = wanted
    found = []
    while of < done[1]:
        found.append((number + of, 2 * of))
        of *= 2
    return found


def _computed(database: Any, reading: Reading, facts: Facts, crowds: frozenset[str]) -> Harvest:  # noqa: ANN401
    plan = reading.plan
    statements = plan.statements("duckdb")
    _table(database, "serves", SERVES, serves_rows(reading.atoms.served, plan.needs))
    _table(database, "windows", WINDOWS, windows_rows(plan.needs))
    _table(database, "units", UNITS, _units(database, reading, facts))
    _keep(database, "judged", statements)
    database.execute(
        "DROP VIEW facts; DROP TABLE admitted; DROP TABLE again; DROP TABLE value_ranks; DROP TABLE array_ranks"
    )
    _keep(database, "records", statements)
    counted, earliest, misplaced = (_rows(database, statements[name]) for name in ("counted", "earliest", "misplaced"))
    _keep(database, "within_windows", statements)
    results = {**{name: sql for name, sql in statements.items() if name in _RESULTS}, "records": _RECORDS}
    found = {name: _rows(database, results.pop("consents")) for name in ("consents",) if name in results}
    database.execute("DROP TABLE judged")
    found |= {name: _rows(database, sql) for name, sql in results.items()}
    spelled = {name: _spelled(table, facts).select(_RESULTS[name].names) for name, table in found.items()}
    tables = {name: spelled.get(name, schema.empty_table()).cast(schema) for name, schema in _RESULTS.items()}
    people = facts.patients.texts
    return Harvest(
        **tables,
        counted=plan.of_needs(counted.to_pylist()),
        misplaced=plan.misplaced_of_needs(misplaced.to_pylist()),
        invalid=dict(facts.invalid),
        patients=facts.people,
        undated=dict(facts.undated),
        bounds=dict(facts.bounds),
        conflicts=facts.conflicts() | crowds,
        earliest={people[row["patient"]]: row["earliest"] for row in earliest.to_pylist()},
        unmapped=dict(facts.unmapped),
        engine=f"duckdb {memory_database.duckdb().__version__}",
        statements=statements,
    )


def _units(database: Any, reading: Reading, facts: Facts) -> list[tuple[Any, ...]]:  # noqa: ANN401
    pairs = _rows(
        database, "SELECT DISTINCT s.quantity, f.unit FROM facts f JOIN serves s USING (atom) WHERE s.is_numeric = 1"
    )
    rows: list[tuple[Any, ...]] = []
    for place, unit in sorted((pair["quantity"], pair["unit"]) for pair in pairs.to_pylist()):
        found = reading.affine(reading.plan.quantities[place], facts.units.texts[unit])
        if found is not None:
            rows.append((place, unit, *found))
    return rows


def _table(database: Any, name: str, columns: Mapping[str, str], rows: Sequence[tuple[Any, ...]]) -> None:  # noqa: ANN401
    kinds = {"int64": pa.int64(), "float64": pa.float64()}
    arrays = [pa.array([row[place] for row in rows], kinds[kind]) for place, kind in enumerate(columns.values())]
    database.register("incoming", pa.table(arrays, names=list(columns)))
    try:
        database.execute(f"CREATE TABLE {name} AS SELECT * FROM incoming")  # noqa: S608, names are our own
    finally:
        database.unregister("incoming")


def _keep(database: Any, name: str, statements: Mapping[str, str]) -> None:  # noqa: ANN401
    _rows(database, f"CREATE TABLE {name} AS {statements[name]}")


def _spelled(table: pa.Table, facts: Facts) -> pa.Table:
    for name, numbers in (("patient", facts.patients), ("value", facts.values), ("array", facts.arrays)):
        if name in table.column_names:
            texts = _texts(numbers.texts).take(table.column(name).combine_chunks())
            table = table.set_column(table.schema.get_field_index(name), name, texts)
    return table


def _texts(texts: list[str]) -> pa.Array:
    return pa.array(texts, pa.string())


def _rows(database: Any, statement: str) -> pa.Table:  # noqa: ANN401
    try:
        found = database.sql(statement)
        return found.to_arrow_table() if found is not None else pa.table({})
    except memory_database.duckdb().OutOfMemoryException:
        raise MemoryError from None
    except memory_database.duckdb().Error as error:
        kind = type(error).__name__
    # DuckDB's own message may quote a value.
    raise ClinicalError(f"the feature plan failed in DuckDB ({kind}): narrow the concepts, or allow more memory")
