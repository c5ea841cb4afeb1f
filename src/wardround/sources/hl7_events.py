"""Events from HL7 version 2 messages, a block at a time.

    ORU, OUL             their OBX are results
    ORM, OML, OMG, OMI   an OBX is a result only where its order says so (ORC-1 is RE); else it was asked with the order
    ADT                  birth, sex and death; A18, A34, A36, A40 and A47 say which identifiers are one person
    all others           not read, and counted by their type

An OBX becomes an event: its code (OBX-3, once for each of its two codings), value (OBX-5), unit (the identifier of
OBX-6 as it is spelled), time (OBX-14, else OBR-7), when it was known (OBR-22, else MSH-7) and status (OBX-11).

Versions of one result share an `order_key`: the filler's order number (OBR-3, else ORC-3, else the placer's), OBX-3 and
OBX-4. A later version stands for the earlier ones even where it cannot be used itself: it then comes without a value
and with a status that counts for nothing, so that what was withdrawn does not live on. A result without any order
number is known by its patient, time, code and sub-identifier.

Test and training messages (MSH-11 is not P) are refused unless the mapping admits them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from wardround.errors import CodecError
from wardround.harmonization import events
from wardround.harmonization.events import EVENT, PATIENT, Scope, SourceReport
from wardround.sources import hl7_header, hl7_message, hl7_results
from wardround.sources.hl7_block import PLACES, Block, Segments
from wardround.sources.hl7_demographics import Demographics
from wardround.sources.hl7_header import Kind
from wardround.sources.hl7_patient import Choice, Identifiers
from wardround.sources.hl7_results import Naming, Results, Source

__all__ = ["Reader", "Reading"]

_VARIANTS: Final = 4
_FIELDS: Final = {"PID-2": 2, "PID-3": 3, "PID-18": 18}


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """How a source's messages are read.

    Attributes:
        naming: Names of code systems.
        choice: Which identifier is the patient's.
        processing: What MSH-11 may say.
        charset: "auto", or the character set whatever MSH-18 says.
        fallback: The character set where MSH-18 says none.
        zone: The site's.
    """

    naming: Naming
    choice: Choice
    processing: frozenset[str] = frozenset({"P"})
    charset: str = "auto"
    fallback: str = "ASCII"
    zone: str | None = None


class Reader:
    """Reads messages in order, block by block; it remembers what later blocks need of earlier ones."""

    def __init__(self, reading: Reading, scope: Scope, report: SourceReport) -> None:
        self._reading, self._scope, self._report = reading, scope, report
        self._identifiers = Identifiers(reading.choice)
        self._demographics = Demographics(reading.zone, report)

    def links(self) -> list[tuple[str, str]]:
        """The merges so far, (former, present)."""
        return self._demographics.links()

    def read(self, messages: Sequence[bytes]) -> pa.RecordBatch | None:
        """The events of the next messages, in their order; None where they have none."""
        first = self._report.read
        self._report.read += len(messages)
        usable: list[bytes] = []
        numbers: list[int] = []
        for place, message in enumerate(messages):
            try:
                usable.append(
                    hl7_message.canonical(message, charset=self._reading.charset, fallback=self._reading.fallback)
                )
            except CodecError as error:
                self._report.refuse(str(error))
                continue
            numbers.append(first + place)
        return self._events(usable, np.array(numbers, np.int64)) if usable else None

    def _events(self, messages: list[bytes], numbers: npt.NDArray[np.int64]) -> pa.RecordBatch | None:
        reading, report = self._reading, self._report
        block = Block(messages)
        headers = hl7_header.headers(block, report, reading.processing, reading.zone)
        pids = block.segments("PID", 30)
        pids = pids.where(headers.kinds[pids.message] != Kind.NOTHING)
        patients = self._patients(pids)
        self._demographics.merge(block, headers, pids, patients, self._identifiers, reading.choice.field)
        found = hl7_results.results(
            Source(block, headers, pids, pa.array(patients, pa.string()), reading.naming, reading.zone),
            self._scope,
            report,
        )
        parts = [part for part in (self._demographics.facts(headers, pids, patients), found) if part is not None]
        return self._batch(parts, numbers) if parts else None

    def _patients(self, pids: Segments) -> list[str]:
        patients = []
        for field in pids.field(_FIELDS[self._reading.choice.field]).to_pylist():
            found = self._identifiers.find(field)
            patients.append(found.patient)
            if found.refused:
                self._report.refuse(found.refused)
        return patients

    def _batch(self, parts: list[Results], numbers: npt.NDArray[np.int64]) -> pa.RecordBatch | None:
        batches = []
        for part in parts:
            rows = (numbers[part.message] * PLACES + part.place) * _VARIANTS + part.variant
            columns: Mapping[str, Any] = {**part.columns, "row": pa.array(rows)}
            batches.append(events.batch(columns, source=self._report.source))
        table = pa.Table.from_batches(batches, EVENT).combine_chunks()
        table = table.take(pa.array(np.argsort(table["row"].to_numpy(), kind="stable")))
        if self._scope.since_us is not None:
            known = pc.coalesce(table["known_us"], table["time_us"])
            early = pc.fill_null(pc.less(known, self._scope.since_us), fill_value=False)
            table = table.filter(pc.or_(pc.invert(early), pc.equal(table["system"], PATIENT)))
        self._report.events += len(table)
        made = table.combine_chunks().to_batches()
        return made[0] if made else None
