"""EVENT: the one form in which every source hands over what it knows, as batches of Arrow columns.

One event is one coded fact about one patient. Sources put everything they have into this form; codes, units, cohorts
and features are computed from it, and know nothing of sources. A batch lives in memory, inside the process that
reads the records, and is never written anywhere.

========== ======= =============================================================================================
patient    string  the source's own identifier of the patient, or its canonical one once identities are resolved
time_us    int64   when it holds clinically, in microseconds since 1970-01-01 UTC; null for what has no time
precision  int8    how exactly that is known, one of `Precision`
known_us   int64   when it was known: issued, verified, stored. Null: at `time_us`
system     string  the code system's short name ("loinc", "snomed", "local:lab"), see `SYSTEMS`
code       string  the code in it
number     float64 the value, where it is a number, in `unit`; null otherwise
comparator string  "<", "<=", ">", ">=" where the number is only a bound; else null
value      string  the value where it is a code ("system|code") or a short text; else null
unit       string  the unit as the source spells it; null where it states none
status     string  one of `STATUSES`; null means final
order_key  string  rows of one source with one key are versions of one fact, and the latest stands alone; null: none
source     string  the source's name in the site's mapping
row        int64   the row of the source that it comes from: all that one row says, in whatever codings, is one version
array      string  names an array that the source keeps (a waveform's window, an image); null for all others
========== ======= =============================================================================================

What a source knows of the patient rather than of a moment is an event of the system ``patient``:

- ``birth-date``: `time_us` is the birth (00:00 UTC of the day, whatever the site's zone), with its precision
- ``sex``: `value` is "male", "female", "other" or "unknown"
- ``death``: `time_us` is the death
- ``seen``: the patient was observed at `time_us` (an encounter), which is how long a follow-up lasted
- ``consent:PURPOSE``: `value` is "permit" or "deny", from `time_us` on, until a later one

Hazard: these are patients' values. No function here, or elsewhere, puts a cell of a batch into a message, a log or an
error. Counts and names of sources, columns and code systems may be.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

__all__ = [
    "DROPPED_STATUSES",
    "EVENT",
    "KEPT_STATUSES",
    "LONGEST_PREFIX",
    "PATIENT",
    "STATUSES",
    "SYSTEMS",
    "EventSource",
    "Precision",
    "Scope",
    "SourceReport",
    "batch",
    "beginnings",
]

EVENT: Final = pa.schema(
    [
        pa.field("patient", pa.string(), nullable=False),
        pa.field("time_us", pa.int64()),
        pa.field("precision", pa.int8()),
        pa.field("known_us", pa.int64()),
        pa.field("system", pa.string(), nullable=False),
        pa.field("code", pa.string(), nullable=False),
        pa.field("number", pa.float64()),
        pa.field("comparator", pa.string()),
        pa.field("value", pa.string()),
        pa.field("unit", pa.string()),
        pa.field("status", pa.string()),
        pa.field("order_key", pa.string()),
        pa.field("source", pa.string(), nullable=False),
        pa.field("row", pa.int64(), nullable=False),
        pa.field("array", pa.string()),
    ]
)
"""The columns of a batch, in their order."""

PATIENT: Final = "patient"
"""The system of what is known of a patient rather than of a moment."""

SYSTEMS: Final[Mapping[str, str]] = {
    "http://loinc.org": "loinc",
    "http://snomed.info/sct": "snomed",
    "http://www.nlm.nih.gov/research/umls/rxnorm": "rxnorm",
    "http://hl7.org/fhir/sid/icd-10": "icd10",
    "http://hl7.org/fhir/sid/icd-10-cm": "icd10cm",
    "http://hl7.org/fhir/sid/icd-9-cm": "icd9cm",
    "http://hl7.org/fhir/sid/cvx": "cvx",
    "http://hl7.org/fhir/sid/ndc": "ndc",
    "http://www.ama-assn.org/go/cpt": "cpt",
    "http://unitsofmeasure.org": "ucum",
    "urn:oid:2.16.840.1.113883.6.1": "loinc",
    "urn:oid:2.16.840.1.113883.6.96": "snomed",
    "urn:oid:2.16.840.1.113883.6.88": "rxnorm",
    "urn:oid:2.16.840.1.113883.6.90": "icd10cm",
    "urn:oid:2.16.840.1.113883.6.3": "icd10",
    "urn:oid:2.16.840.1.113883.6.103": "icd9cm",
}
"""Short names of code systems, by URI or OID; one that is not here keeps its URI, and a site's own is "local:…"."""

STATUSES: Final = (
    "final",
    "amended",
    "corrected",
    "preliminary",
    "registered",
    "cancelled",
    "entered-in-error",
    "unknown",
)
KEPT_STATUSES: Final = ("final", "amended", "corrected")
DROPPED_STATUSES: Final = tuple(status for status in STATUSES if status not in KEPT_STATUSES)

LONGEST_PREFIX: Final = 200
"""A longer prefix is no beginning of any code."""


class Precision(IntEnum):
    """How exactly a time is known; a time stands for the start of its year, month, day and so on."""

    YEAR = 1
    MONTH = 2
    DAY = 3
    MINUTE = 4
    SECOND = 5
    EXACT = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """What a study wants of a source, so that a source need not hand over what nobody asks for.

    A source may hand over more; what is not wanted is left out afterwards.

    Attributes:
        codes: For each system the codes, in the source's own coding (a site's mapping is applied backwards); a code
            that ends in ``*`` is a prefix, of at most `LONGEST_PREFIX` characters. None: everything.
        since_us: Events known before this instant are not wanted; None: all.
    """

    codes: Mapping[str, frozenset[str]] | None = None
    since_us: int | None = None

    def wants(self, system: str, code: str) -> bool:
        """Whether an event of this code is wanted; what is known of the patient always is."""
        if self.codes is None or system == PATIENT:
            return True
        wanted = self.codes.get(system)
        if not wanted:
            return False
        return code in wanted or any(f"{start}*" in wanted for start in beginnings(code))


def beginnings(code: str) -> Iterator[str]:
    """What a code begins with, shortest first: a prefix is looked up by these, however many prefixes there are."""
    return (code[:length] for length in range(min(len(code), LONGEST_PREFIX) + 1))


@dataclass(slots=True)
class SourceReport:
    """What became of a source's records: counts by name, and nothing of a record.

    Attributes:
        read: Rows, messages, resources or documents that were read.
        events: Events handed over.
        refused: What could not be used, by the name of the reason ("malformed line", "unknown character set", …).
        noted: What was used with a remark, by its name ("naive time", "time in a gap", "value unparseable", …).
        snapshot: What says which state of the source was read: query, file digests, highest row, last update.
    """

    source: str
    read: int = 0
    events: int = 0
    refused: dict[str, int] = field(default_factory=dict)
    noted: dict[str, int] = field(default_factory=dict)
    snapshot: dict[str, str] = field(default_factory=dict)

    def reset(self) -> None:
        """Forget all, before the source is read again."""
        self.read = self.events = 0
        for counts in (self.refused, self.noted, self.snapshot):
            counts.clear()

    def refuse(self, reason: str, count: int = 1) -> None:
        """Count what could not be used."""
        if count:
            self.refused[reason] = self.refused.get(reason, 0) + count

    def note(self, remark: str, count: int = 1) -> None:
        """Count what was used with a remark."""
        if count:
            self.noted[remark] = self.noted.get(remark, 0) + count


class EventSource(Protocol):
    """A source of a hospital, read-only.

    `report` is complete once the batches are read to their end. Reading again from the same snapshot gives the
    same events in the same order with the same rows.
    """

    name: str
    report: SourceReport

    def batches(self, scope: Scope) -> Iterator[pa.RecordBatch]:
        """Every event in scope, in batches of `EVENT`; memory does not grow with the source.

        Raises:
            ClinicalError: The source cannot be read as it is described.
            UnavailableError: The source did not answer.
        """

    def links(self) -> Iterable[tuple[str, str]]:
        """Pairs of patient identifiers that mean one person, (former, present); complete once the batches are read."""

    def arrays(self, names: Iterable[str]) -> Iterator[tuple[str, npt.NDArray[np.float32]]]:
        """The arrays that events named, each float32 ``(samples, channels)``; most sources have none."""


def batch(columns: Mapping[str, Any], *, source: str) -> pa.RecordBatch:
    """A batch of `EVENT` from columns by name (Arrow arrays or lists); those left out are null.

    Raises:
        ValueError: A column that `EVENT` does not have, or lengths that differ.
        pa.ArrowInvalid: A cell is not of its column's type.
    """
    if unknown := set(columns) - set(EVENT.names):
        raise ValueError(f"EVENT has no columns {sorted(unknown)}")
    length = len(columns["patient"])
    made = []
    for one in EVENT:
        cells = columns.get(one.name)
        if cells is None:
            cells = pa.repeat(pa.scalar(source), length) if one.name == "source" else pa.nulls(length, one.type)
        elif isinstance(cells, pa.ChunkedArray):
            cells = cells.combine_chunks()
        made.append(cells.cast(one.type) if isinstance(cells, pa.Array) else pa.array(cells, one.type))
    return pa.RecordBatch.from_arrays(made, schema=EVENT)
