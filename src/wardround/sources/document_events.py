"""Collects the events of documents and records one by one and gives them out as batches of EVENT.

Rows are numbered before the scope is applied, so that a fact has the same number whatever a study asks for.
"""

from collections.abc import Iterator
from typing import Final

import pyarrow as pa

from wardround.harmonization import events
from wardround.harmonization.events import EVENT, PATIENT, Scope, SourceReport

__all__ = ["BATCH_ROWS", "DocumentEvents"]

BATCH_ROWS: Final = 20_000

Cell = str | int | float | None


class DocumentEvents:
    """The events of one reading of a source; counts what it gives out in `report`."""

    def __init__(self, scope: Scope, report: SourceReport) -> None:
        self._scope = scope
        self._report = report
        self._columns: dict[str, list[Cell]] = {name: [] for name in EVENT.names}
        self._row = 0

    def add(self, patient: str, *codings: tuple[str, str], **cells: Cell) -> None:
        """Add one fact: an event for each of its codings (system, code), which share their row.

        `cells` are further columns of EVENT; those left out are null.
        """
        event: dict[str, Cell] = {"patient": patient, "source": self._report.source, "row": self._row, **cells}
        self._row += 1
        for system, code in codings:
            if self._wants(system, code, cells):
                event |= {"system": system, "code": code}
                for name, column in self._columns.items():
                    column.append(event.get(name))

    def full(self) -> Iterator[pa.RecordBatch]:
        """Batches, if there is enough for one."""
        if len(self._columns["row"]) >= BATCH_ROWS:
            yield from self.rest()

    def rest(self) -> Iterator[pa.RecordBatch]:
        """What has been added since the last batch."""
        if count := len(self._columns["row"]):
            self._report.events += count
            gathered, self._columns = self._columns, {name: [] for name in EVENT.names}
            yield events.batch(gathered, source=self._report.source)

    def _wants(self, system: str, code: str, cells: dict[str, Cell]) -> bool:
        known = cells.get("known_us")
        at = cells.get("time_us") if known is None else known
        since = self._scope.since_us
        early = since is not None and isinstance(at, int) and at < since and system != PATIENT
        return not early and self._scope.wants(system, code)
