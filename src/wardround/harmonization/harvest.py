"""What an executor hands back: for each record and need the numbers of the feature plan, as plain arrays.

Every executor gives the same harvest for the same facts, and `wardround.harmonization.assembly` makes columns of it.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from wardround.harmonization.plan import Reason

__all__ = ["CONSENTS", "KEYS", "MEDIANS", "PICKED", "RECORDS", "SUMS", "Harvest", "joined"]

KEYS: Final = (("patient", pa.string()), ("index_us", pa.int64()), ("need", pa.int64()))
RECORDS: Final = pa.schema(KEYS[:2])
SUMS: Final = pa.schema(
    [
        *KEYS,
        ("facts", pa.int64()),
        ("least", pa.float64()),
        ("most", pa.float64()),
        *((name, pa.int64()) for name in ("total", "first_us", "last_us", "t", "tt", "v", "tv")),
    ]
)
PICKED: Final = pa.schema([*KEYS, ("number", pa.float64()), ("value", pa.string()), ("array", pa.string())])
CONSENTS: Final = pa.schema(
    [
        ("patient", pa.string()),
        ("time_us", pa.int64()),
        ("at", pa.int64()),
        ("value", pa.string()),
        ("status", pa.int64()),
    ]
)
MEDIANS: Final = pa.schema([*KEYS, ("least", pa.float64()), ("most", pa.float64())])


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Harvest:
    """Results for some patients; it has no repr, as it holds what is known of them.

    Attributes:
        records: Every record: patient and index time.
        sums: See `plan.Plan.sums`.
        first: Of the needs that want one, the first fact.
        last: The last.
        medians: See `plan.Plan.medians`.
        consents: All that was said of consent; `status` is a place in `events.STATUSES`.
        counted: For each need and `Reason` the number of facts.
        misplaced: For each need its facts before the patient's birth, and after the death.
        invalid: Codes that cannot be in their system (check digits), and their events, by system.
        conflicts: Patients whose identifier stands for two people.
        earliest: For each patient the first instant at which anything was known.
        patients: How many patients the sources told anything of, whether it is wanted or not.
        undated: Events whose time is out of any life, by source; they are left out.
        bounds: Numbers that are only a bound (``<5``), by source; they count as no value.
        unmapped: For each local code that nobody has confirmed the number of its events.
        engine: What ran it, with its version.
        statements: The SQL that was run, by step.
    """

    records: pa.Table
    sums: pa.Table
    first: pa.Table
    last: pa.Table
    medians: pa.Table
    consents: pa.Table
    counted: Mapping[tuple[int, Reason], int]
    misplaced: Mapping[int, tuple[int, int]] = field(default_factory=dict)
    invalid: Mapping[str, int] = field(default_factory=dict)
    conflicts: frozenset[str] = frozenset()
    earliest: Mapping[str, int] = field(default_factory=dict)
    patients: int = 0
    undated: Mapping[str, int] = field(default_factory=dict)
    bounds: Mapping[str, int] = field(default_factory=dict)
    unmapped: Mapping[tuple[str, str], int] = field(default_factory=dict)
    engine: str = ""
    statements: Mapping[str, str] = field(default_factory=dict)


def joined(parts: Sequence[Harvest]) -> Harvest:
    """The harvest of all patients from those of disjoint groups of them, each of which has read every event."""
    counted: dict[tuple[int, Reason], int] = {}
    for part in parts:
        for key, facts in part.counted.items():
            counted[key] = counted.get(key, 0) + facts
    misplaced: dict[int, tuple[int, int]] = {}
    for part in parts:
        for need, (early, late) in part.misplaced.items():
            before = misplaced.get(need, (0, 0))
            misplaced[need] = (before[0] + early, before[1] + late)
    return Harvest(
        records=_stacked((part.records for part in parts), RECORDS),
        sums=_stacked((part.sums for part in parts), SUMS),
        first=_stacked((part.first for part in parts), PICKED),
        last=_stacked((part.last for part in parts), PICKED),
        medians=_stacked((part.medians for part in parts), MEDIANS),
        consents=_stacked((part.consents for part in parts), CONSENTS),
        counted=dict(sorted(counted.items())),
        misplaced=misplaced,
        invalid=parts[0].invalid if parts else {},
        conflicts=frozenset().union(*(part.conflicts for part in parts)),
        earliest={patient: at for part in parts for patient, at in part.earliest.items()},
        patients=parts[0].patients if parts else 0,
        undated=parts[0].undated if parts else {},
        bounds=parts[0].bounds if parts else {},
        unmapped=parts[0].unmapped if parts else {},
        engine=parts[0].engine if parts else "",
        statements=parts[0].statements if parts else {},
    )


def numbers(column: pa.ChunkedArray) -> npt.NDArray[np.float64]:
    """A column of numbers as float64, NaN for null."""
    found: npt.NDArray[np.float64] = column.cast(pa.float64()).to_numpy(zero_copy_only=False)
    return found


def _stacked(tables: Iterable[pa.Table], schema: pa.Schema) -> pa.Table:
    return pa.concat_tables([schema.empty_table(), *(table.cast(schema) for table in tables)])
