"""A site's events to the table of one study: read, compute, assemble, and say what became of everything.

sources -> facts -> feature plan -> harvest -> columns -> study table
(codes confirmed by a person, units that convert, or it is left out and counted)
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from wardround.clinical import contract as contracts
from wardround.clinical import tabulate
from wardround.clinical.contract import DataContract
from wardround.clinical.table import StudyTable
from wardround.clinical.tabulate import Layout
from wardround.clinical.units import Affine
from wardround.errors import ClinicalError
from wardround.harmonization import embedded, pseudonyms, transforms, ucum
from wardround.harmonization.assembly import PATIENT_COLUMN, Assembled, assemble
from wardround.harmonization.embedded import Reading
from wardround.harmonization.events import EventSource, SourceReport
from wardround.harmonization.facts import SEPARATOR
from wardround.harmonization.harvest import Harvest
from wardround.harmonization.needs import Atoms, Code, Need, needs, quantities
from wardround.harmonization.plan import Plan, Reason

__all__ = ["Execute", "Harmonized", "SiteData", "Told", "harmonize"]

Execute = Callable[[Reading], Harvest]
"""An executor: the feature plan over every patient."""

_MOST_RECORDS: Final = 5_000_000
_SHOWN_UNIT: Final = 15
_MOST_UNITS: Final = 20
_FACT_BYTES, _NEED_BYTES = 130, 60


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class SiteData:
    """What a site brings to any study: its sources, and how it codes, spells and names things.

    Attributes:
        sources: Where its events are.
        key: The secret from which its patients' pseudonyms follow.
        translations: Local codes that a person has confirmed, and what they stand for.
        units: Its own spellings of units, and the UCUM codes that they mean.
        namespaces: For each source what its patients' identifiers are unique in.
        zone: IANA's name of its time zone; ages are counted by its calendar.
        now_us: The present; None where its dates are shifted, so that the future cannot be told.
    """

    sources: Sequence[EventSource]
    key: bytes
    translations: Mapping[Code, Code] = field(default_factory=dict)
    units: Mapping[str, str] = field(default_factory=dict)
    namespaces: Mapping[str, str] = field(default_factory=dict)
    zone: str = "UTC"
    now_us: int | None = None


class Told(msgspec.Struct, frozen=True, kw_only=True):
    """What became of everything, in counts and names: for the site's own people, and never sent to the hub.

    Attributes:
        sources: What each source reports.
        facts: For each column, criterion and role the number of facts by what became of them (`Reason`'s names).
        misplaced: For each column its facts before the patient's birth, and after the death.
        invalid: Events whose code cannot be in its system, by system.
        undated: Events whose time is out of any life, by source; they were left out.
        bounds: Numbers that are only a bound (``<5``), by source; they count as no value.
        found: Index events that were found.
        left_out: How many of them are not in the cohort, by reason.
        unknown_values: Coded values that the contract does not know, by column.
        unmapped: For each local code that nobody has confirmed ("system|code") the number of its events.
        unknown_units: Units that do not convert, as the sources spell them, by column.
        patients: Patients of whom the sources told anything, wanted or not.
    """

    sources: list[SourceReport]
    facts: dict[str, dict[str, int]]
    misplaced: dict[str, tuple[int, int]]
    invalid: dict[str, int]
    undated: dict[str, int]
    bounds: dict[str, int]
    found: int
    left_out: dict[str, int]
    unknown_values: dict[str, int]
    unmapped: dict[str, int]
    unknown_units: dict[str, list[str]]
    patients: int


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Harmonized:
    """What a study gets of one site, with what was found on the way.

    Attributes:
        contract: The study's.
        assembled: The columns of the cohort's records, before gaps are handled.
        told: What became of everything.
        marks: uint64 for each record of `assembled`: a keyed hash of its patient, to compare cohorts at this site.
        engine: What ran the plan.
        statements: The SQL that was run, by step.
    """

    contract: DataContract
    assembled: Assembled
    told: Told
    marks: npt.NDArray[np.uint64]
    engine: str
    statements: Mapping[str, str]

    def table(self) -> StudyTable:
        """The study table.

        Raises:
            ClinicalError: The records do not fit the contract.
            TooFewRecordsError: Fewer usable records than the contract asks for.
        """
        return _table(self.contract, self.assembled, self.told.patients)

    @property
    def patients(self) -> int:
        """How many patients the cohort has."""
        return len(np.unique(self.marks))

    def marks_of(self, table: StudyTable) -> npt.NDArray[np.uint64]:
        """The marks of a table's patients, sorted; `table` is this one or a part of it."""
        return np.unique(self.marks[table.rows])

    def within(self, table: StudyTable, allowed: npt.NDArray[np.uint64]) -> npt.NDArray[np.bool_]:
        """For each record of `table` whether its patient is among the allowed."""
        return np.isin(self.marks[table.rows], allowed)


def harmonize(
    contract: DataContract,
    site: SiteData,
    study: str,
    *,
    execute: Execute = embedded.harvest,
    restricted: bool = True,
    memory_mb: int = 128,
) -> Harmonized:
    """What `contract` asks for, from the site's events.

    Args:
        contract: It has a cohort.
        site: What the site brings.
        study: What the patients' pseudonyms are made for.
        execute: What runs the plan.
        restricted: Whether the sources are asked for what is wanted only; without it, unmapped codes are seen.
        memory_mb: What DuckDB may take.

    Raises:
        ClinicalError: A source cannot be read, or there is too much of something.
        UnavailableError: A source did not answer.
    """
    wanted = needs(contract)
    unknown_units: dict[str, dict[str, None]] = {}
    reading = Reading(
        sources=site.sources,
        atoms=Atoms(wanted, site.translations),
        plan=Plan(wanted, _pick(contract), site.now_us),
        affine=_conversions(site.units, unknown_units),
        namespaces=site.namespaces,
        restricted=restricted,
        memory_limit_bytes=memory_mb * 2**20,
        most_facts=_most_facts(wanted, memory_mb),
    )
    harvest = execute(reading)
    if harvest.records.num_rows > _MOST_RECORDS:
        raise ClinicalError(f"the cohort has more than {_MOST_RECORDS} index events: narrow its criteria")
    names = _pseudonyms(site.key, study, harvest)
    assembled = assemble(contract, wanted, harvest, names, _arrays(site.sources), site.zone, site.now_us)
    return Harmonized(
        contract=contract,
        assembled=assembled,
        told=Told(
            sources=[source.report for source in site.sources],
            facts=_facts(wanted, harvest),
            misplaced={
                wanted[place].name: counts
                for place, counts in harvest.misplaced.items()
                if wanted[place].role in {"column", "label"}
            },
            invalid=dict(harvest.invalid),
            undated=dict(harvest.undated),
            bounds=dict(harvest.bounds),
            found=assembled.found,
            left_out=assembled.left_out,
            unknown_values=assembled.unknown_values,
            unmapped={f"{system}|{code}": count for (system, code), count in sorted(harvest.unmapped.items())},
            unknown_units={name: list(units) for name, units in sorted(unknown_units.items())},
            patients=harvest.patients,
        ),
        marks=_marks(site.key, names, assembled),
        engine=harvest.engine,
        statements=harvest.statements,
    )


def _most_facts(wanted: tuple[Need, ...], memory_mb: int) -> int:
    # A fact is held once, and once more for each need of its quantity; measured, and wrong estimates only cost a pass.
    return memory_mb * 2**20 // (_FACT_BYTES + _NEED_BYTES * len(wanted) // len(quantities(wanted)[0]))


def _pick(contract: DataContract) -> str:
    return contract.cohort.pick if contract.cohort else "first"


def _conversions(
    site_units: Mapping[str, str], unknown: dict[str, dict[str, None]]
) -> Callable[[Need, str], tuple[float, float] | None]:
    def affine(need: Need, raw: str) -> tuple[float, float] | None:
        unit = ucum.spelling(raw, site_units) if raw else "1"
        found = None if unit is None else ucum.affine(unit, need.unit, need.derive)
        if isinstance(found, Affine):
            return found.factor, found.offset
        shown = unknown.setdefault(need.name, {})
        if len(shown) < _MOST_UNITS:
            shown[(raw if len(raw) <= _SHOWN_UNIT else "(long)") or "(none)"] = None
        return None

    return affine


def _pseudonyms(key: bytes, study: str, harvest: Harvest) -> dict[str, str]:
    people = harvest.records.column("patient").combine_chunks().unique()
    return dict(zip(people.to_pylist(), pseudonyms.pseudonyms(key, study, people).to_pylist(), strict=True))


def _marks(key: bytes, names: Mapping[str, str], assembled: Assembled) -> npt.NDArray[np.uint64]:
    people = {pseudonym: patient for patient, pseudonym in names.items()}
    marks = {
        pseudonym: pseudonyms.marks(key, pa.array([people[pseudonym]]))[0]
        for pseudonym in set(assembled.cells[PATIENT_COLUMN].tolist())
    }
    return np.array([marks[pseudonym] for pseudonym in assembled.cells[PATIENT_COLUMN]], dtype=np.uint64)


def _table(contract: DataContract, assembled: Assembled, patients: int) -> StudyTable:
    told_apart = msgspec.structs.replace(contract, patient=PATIENT_COLUMN)
    if PATIENT_COLUMN in {column.name for column in contract.columns} | set(contracts.label_columns(contract)):
        raise ClinicalError(f"a contract with a cohort has no column named {PATIENT_COLUMN!r}")
    table = tabulate.study_table(told_apart, assembled.cells, Layout(max_records=_MOST_RECORDS))
    # How many patients there are must not depend on whom the criteria chose: that would answer a question.
    report = replace(table.report, read=assembled.found, owners=max(patients, table.report.patients))
    return replace(table, report=report)


def _facts(wanted: tuple[Need, ...], harvest: Harvest) -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = {}
    for place, need in enumerate(wanted):
        name = need.name if need.role in {"column", "label"} else f"({need.role}) {need.name}"
        counts = {reason.name.lower(): harvest.counted.get((place, reason), 0) for reason in Reason}
        found[name] = {reason: count for reason, count in counts.items() if count}
    return found


def _arrays(sources: Sequence[EventSource]) -> Callable[[Need, list[str | None]], npt.NDArray[np.float64]]:
    def transformed(need: Need, names: list[str | None]) -> npt.NDArray[np.float64]:
        found = np.full((len(names), need.derive.length), np.nan)
        places: dict[str, dict[str, list[int]]] = {}
        for place, name in enumerate(names):
            if name is not None:
                owner, _, array = name.partition(SEPARATOR)
                places.setdefault(owner, {}).setdefault(array, []).append(place)
        for source in sources:
            wanted = places.get(source.name, {})
            for name, samples in source.arrays(list(wanted)) if wanted else ():
                if name in wanted:
                    found[wanted[name]] = transforms.apply(need.derive.transform, samples, need.derive.length)
        return found

    return transformed
