"""From one row for each resource, with lists in it, to the rows of the view: indexes first, columns last.

`wardround.sources.fhir_sql` has read of every resource its cells and, for each forEach, a list of items with their
own. Here each stage of the plan multiplies the rows, which are no more than one index for each slot: the item's place
among all items of the slot, or -1 for a blank. Only then is each column taken, once. So it is known how many rows
there will be before one is made.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from wardround.sources import fhir_pick, fhir_sql
from wardround.sources.fhir_plan import Branch, Cell, Guard, OutputColumn, Plan, Stage, Unnest
from wardround.sources.fhir_rows import is_about_row_index
from wardround.sources.fhir_term import Term

__all__ = ["Unrolled", "rows"]

_Places = npt.NDArray[np.int64]
_BLANK: Final = -1
_OFF: Final = -1
_STAGE_ROWS: Final = 4_000_000
"""So many index entries may a stage make at most; a batch that needs more is taken in smaller ones."""


@dataclass(slots=True)
class _Items:
    """A slot's items as they are, if they came so, and what was read of them otherwise, by name."""

    raw: pa.Array | None
    values: dict[str, pa.Array]

    def cell(self, name: str, term: Term) -> pa.Array:
        """What a term of a column gives of each item."""
        found = self.values.get(name)
        return fhir_pick.picked(term, self.raw) if found is None else found

    def lists(self, name: str, term: Term) -> tuple[_Places, _Places, "_Items"]:
        """Of each item's list: where it begins among the items of all of them, how long it is, and these items."""
        read = self.values.get(name)
        found = fhir_pick.picked(term, self.raw) if read is None else read
        lengths = fhir_pick.lengths(found)
        inner = found.flatten()
        if read is None:
            items = _Items(inner, {})
        else:
            names = [inner.type.field(place).name for place in range(inner.type.num_fields)]
            items = _Items(None, dict(zip(names, inner.flatten(), strict=True)))
        return np.cumsum(lengths) - lengths, lengths, items


@dataclass(slots=True)
class Unrolled:
    """The rows to be: how many, and for each slot the places of their items; resources that would have too many."""

    plan: Plan
    items: dict[int, _Items]
    places: list[_Places]
    exploding: int

    def __len__(self) -> int:
        """How many rows there will be."""
        return len(self.places[0])

    def table(self, columns: pa.Schema) -> pa.Table:
        """The rows, in the plan's columns and the one that numbers the resources."""
        made = [self._column(number, column) for number, column in enumerate(self.plan.columns)]
        made.append(_taken(self.items[0].values[fhir_sql.ROW], self.places[0]))
        return pa.table([one.cast(field.type) for one, field in zip(made, columns, strict=True)], schema=columns)

    def _column(self, number: int, column: OutputColumn) -> pa.Array:
        found = [way for cell in enumerate(column.cells) for way in self._ways(number, *cell)]
        used = [(values, places) for values, places in found if places.max(initial=_BLANK) >= 0] or found[:1]
        if len(used) == 1:
            return _taken(*used[0])
        joined = np.full(len(self), _BLANK)
        before = 0
        for values, places in used:
            joined = np.where(places >= 0, places + before, joined)
            before += len(values)
        return _taken(pa.concat_arrays([values for values, _ in used]), joined)

    def _ways(self, number: int, way: int, cell: Cell) -> Iterator[tuple[pa.Array, _Places]]:
        places, on = self.places[cell.slot], self._on(cell.guard)
        yield self.items[cell.slot].cell(fhir_sql.CELL.format(number, way), cell.term), np.where(on, places, _BLANK)
        if cell.slot and is_about_row_index(cell.term):
            blank = self.items[0].values[fhir_sql.BLANK.format(number, way)]
            yield blank, np.where(on & (places < 0), self.places[0], _BLANK)

    def _on(self, guard: Guard) -> npt.NDArray[np.bool_]:
        on = np.ones(len(self), bool)
        for slot, number in guard:
            on &= self.places[slot] == number
        return on

    def unroll(self, stage: Stage, most: int) -> bool:
        """Multiply the rows by a stage; False if there would be too many of them."""
        source, on = self.places[stage.source], self._on(stage.guard)
        if isinstance(stage, Unnest):
            first, lengths = self._lists(stage, source, on)
        else:
            branches = stage.count if isinstance(stage, Branch) else 1  # A repeat never comes here: SQL has none.
            lengths = np.where(on & (source >= 0), branches, 1)
            first = np.where(on, 0, _OFF)
        if lengths.sum() > most:
            self._drop_exploding(lengths, most)
        if lengths.sum() > _STAGE_ROWS:
            return False
        if (lengths == 1).all():
            self.places.append(first)
            return True
        rows = np.repeat(np.arange(len(self)), lengths)
        within = np.arange(len(rows)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        self.places = [one[rows] for one in self.places]
        self.places.append(np.where(first[rows] >= 0, first[rows] + within, _BLANK))
        return True

    def _lists(self, stage: Unnest, source: _Places, on: npt.NDArray[np.bool_]) -> tuple[_Places, _Places]:
        number = len(self.places)
        starts, lengths, self.items[number] = self.items[stage.source].lists(fhir_sql.LIST.format(number), stage.term)
        there = on & (source >= 0)
        where = np.where(there, source, 0)
        if not len(starts):
            return np.full(len(self), _BLANK), np.ones(len(self), np.int64)
        length = np.where(there, lengths[where], 1)
        if stage.or_null:
            there &= length > 0
            length = np.maximum(length, 1)
        return np.where(there, starts[where], _BLANK), length

    def _drop_exploding(self, lengths: _Places, most: int) -> None:
        resources = self.places[0]
        rows = np.bincount(resources, lengths)
        bad = rows[resources] > most
        lengths[bad] = 0
        self.exploding += len(np.unique(resources[bad]))


def rows(plan: Plan, found: pa.Table, *, most: int) -> Unrolled | None:
    """The rows that the resources become, none for those that would become more than `most`; None: too many in all."""
    columns = {name: found[name].combine_chunks() for name in found.column_names}
    unrolled = Unrolled(plan, {0: _Items(columns.pop(fhir_sql.ITEM), columns)}, [np.arange(found.num_rows)], 0)
    return unrolled if all(unrolled.unroll(stage, most) for stage in plan.stages) else None


def _taken(values: pa.Array, places: _Places) -> pa.Array:
    if len(values) == len(places) and (places == np.arange(len(places))).all():
        return values
    return values.take(pa.array(places, mask=places < 0))
