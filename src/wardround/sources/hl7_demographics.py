"""What is known of patients, and which identifiers are one person's, from the PID and MRG of a block's messages.

Every message repeats what is known of its patient. A fact is handed over when it first comes and whenever it changes;
one of an older message than the last is passed over, and one that is not understood takes the place of what was said
before. What is remembered for that is bounded: a fact may be repeated, which changes nothing.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from wardround.errors import ClinicalError
from wardround.harmonization.events import EVENT, PATIENT, SourceReport
from wardround.sources import hl7_patient, hl7_time
from wardround.sources.hl7_block import Block, Segments
from wardround.sources.hl7_header import Headers, Kind
from wardround.sources.hl7_patient import Facts, Identifiers
from wardround.sources.hl7_results import Results
from wardround.sources.hl7_time import NONE

__all__ = ["Demographics"]

_REMEMBERED: Final = 100_000
_LINKS: Final = 5_000_000
_PRIOR: Final = {"PID-3": 1, "PID-2": 4, "PID-18": 3}
"""Where MRG has the former of PID's identifier."""


_NAMES: Final = ("birth-date", "sex", "death")
_COLUMNS: Final = ("patient", "code", "time_us", "precision", "known_us", "value", "status")
_TAKEN_BACK: Final = "entered-in-error"
_NOT_UNDERSTOOD: Final = "unknown"


@dataclass(slots=True, repr=False)
class _Last:
    """What the last message said of a patient, when, and for each fact what was said last and when."""

    stated: tuple[str, str, str, str]
    known_us: int
    facts: dict[str, tuple[str, int]]


class Demographics:
    """Remembers, over the blocks of a source, what was handed over."""

    def __init__(self, zone: str | None, report: SourceReport) -> None:
        self._zone, self._report = zone, report
        self._last: dict[str, _Last] = {}
        self._links: dict[tuple[str, str], None] = {}

    def links(self) -> list[tuple[str, str]]:
        """The merges so far, (former, present), in order."""
        return list(self._links)

    def facts(self, headers: Headers, pids: Segments, patients: Iterable[str]) -> Results | None:
        """The facts of a block's PID segments, of which `patients` are the patients ("": not identified)."""
        fields = [pids.field(number).to_pylist() for number in (7, 8, 29, 30)]
        known = headers.known_us[pids.message].tolist()
        told: list[tuple[Any, ...]] = []
        at: list[int] = []
        deaths: list[str] = []
        for place, (patient, birth, sex, death, flag) in enumerate(zip(patients, *fields, strict=True)):
            if not patient or not (birth or sex or death or flag):
                continue
            news = self._news(patient, (birth, sex, death, flag), known[place])
            if not news:
                continue
            facts = hl7_patient.facts(birth, sex, death, flag)
            for remark in facts.remarks:
                self._report.note(remark)
            for name in news:
                fact = _fact(name, facts)
                if fact is not None:
                    when = None if known[place] == NONE else known[place]
                    told.append((patient, name, *fact[:2], when, *fact[2:]))
                    at.append(place)
                    deaths.append(facts.death if name == "death" else "")
        return self._made(headers, pids, told, np.array(at, np.int64), deaths) if told else None

    def _made(
        self,
        headers: Headers,
        pids: Segments,
        told: list[tuple[Any, ...]],
        at: npt.NDArray[np.int64],
        deaths: list[str],
    ) -> Results:
        columns: dict[str, Any] = {
            name: list(cells) for name, cells in zip(_COLUMNS, zip(*told, strict=True), strict=True)
        }
        times = hl7_time.column(pa.array(deaths, pa.string()), headers.offsets[pids.message[at]], self._zone)
        for reason, count in times.refused.items():
            self._report.refuse(f"{reason} of death", count)
        for place in np.flatnonzero([bool(death) for death in deaths]).tolist():
            if times.us[place] == NONE:
                columns["status"][place] = _NOT_UNDERSTOOD
            else:
                columns["time_us"][place] = int(times.us[place])
                columns["precision"][place] = int(times.precision[place])
        columns["system"] = [PATIENT] * len(told)
        columns["order_key"] = [f"{row[0]}|{row[1]}" for row in told]
        variants = np.array([_NAMES.index(row[1]) for row in told])
        columns = {name: pa.array(cells, EVENT.field(name).type) for name, cells in columns.items()}
        return Results(columns, pids.message[at], pids.place[at], variants)

    def merge(
        self, block: Block, headers: Headers, pids: Segments, patients: list[str], identifiers: Identifiers, field: str
    ) -> None:
        """Take in the merges of a block."""
        merged = block.segments("MRG", 7)
        merged = merged.where(headers.kinds[merged.message] == Kind.MERGE)
        owners = pids.last_before(merged.at, merged.message).tolist()
        for former, owner in zip(merged.field(_PRIOR[field]).to_pylist(), owners, strict=True):
            found = identifiers.find(former)
            present = patients[owner] if owner >= 0 else ""
            if not found.patient or not present:
                self._report.refuse(f"merge: {found.refused or 'the patient that remains is not identified'}")
            elif found.patient == present:
                self._report.note("merge of a patient with itself")
            else:
                self._links[found.patient, present] = None
        if len(self._links) > _LINKS:
            raise ClinicalError(f"the source merges more than {_LINKS} pairs of patients")

    def _news(self, patient: str, stated: tuple[str, str, str, str], known: int) -> list[str]:
        """Names of the facts that are new, or other than before, and not of an older message."""
        last = self._last.get(patient)
        if last is None:
            if len(self._last) >= _REMEMBERED:
                self._last.clear()
            last = self._last[patient] = _Last(stated, known, {})
        elif last.stated == stated and known >= last.known_us:
            last.known_us = known
            return []
        for name, said in _named(last.stated):
            if name in last.facts and last.facts[name][0] == said:
                last.facts[name] = (said, max(last.facts[name][1], last.known_us))
        last.stated, last.known_us = stated, known
        news = []
        for name, said in _named(stated):
            before = last.facts.get(name)
            if before is None or (before[0] != said and known >= before[1]):
                news.append(name)
            if before is None or known >= before[1]:
                last.facts[name] = (said, known)
        return news


def _named(stated: tuple[str, str, str, str]) -> list[tuple[str, str]]:
    birth, sex, death, flag = stated
    found = (("birth-date", birth), ("sex", sex), ("death", f"{death}|{flag}" if death or flag else ""))
    return [(name, said) for name, said in found if said]


def _fact(name: str, facts: Facts) -> tuple[int | None, int | None, str | None, str | None] | None:
    """The fact's time, precision, value and status; the time of a death is placed later."""
    if name in facts.deleted:
        return None, None, None, _TAKEN_BACK
    if name == "birth-date" and facts.birth is not None:
        return facts.birth.time_us, int(facts.birth.precision), None, None
    if name == "sex" and facts.sex is not None:
        return None, None, facts.sex, None
    if name == "death":
        return (None, None, None, None) if facts.death else None
    return None, None, None, _NOT_UNDERSTOOD
