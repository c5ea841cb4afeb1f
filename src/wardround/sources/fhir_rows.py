"""The rows of a plan from one parsed resource, in Python.

Stages are walked depth first. Columns are read only at the end of a complete row, each once for the items
that it is about: a sibling without items therefore suppresses the error that a column beside it would
give, in both back ends alike.
"""

import math
from decimal import Decimal
from typing import Any, Final

import msgspec

from wardround.sources import fhir_evaluate
from wardround.sources.fhir_elements import Kind
from wardround.sources.fhir_evaluate import Reader
from wardround.sources.fhir_plan import Branch, Cell, OutputColumn, Plan, Repeat, Stage, Unnest
from wardround.sources.fhir_term import Focus, RowIndex, Term, children

__all__ = ["ExplodingError", "Row", "RowReader", "is_about_row_index"]

Row = tuple[Any, ...]

_STEPS_PER_ROW: Final = 16


class ExplodingError(Exception):
    """One resource would become more rows than it may."""


_JSON: Final = msgspec.json.Encoder(decimal_format="number", order="sorted")


def is_about_row_index(term: Term) -> bool:
    """Whether a term says something even of the blank row of a forEachOrNull: it has %rowIndex, and no item."""
    found = [term]
    for inner in found:
        found.extend(children(inner))
    return any(isinstance(inner, RowIndex) for inner in found) and not any(isinstance(inner, Focus) for inner in found)


class RowReader:
    """A plan, ready for resource after resource, each of which may become `most` rows."""

    def __init__(self, plan: Plan, *, most: int) -> None:
        self._most = most
        self._where = [fhir_evaluate.reader(term) for term in plan.where]
        self._stages = plan.stages
        self._lists = [_lister(stage) for stage in plan.stages]
        self._columns = [[_Cell(cell, column) for cell in column.cells] for column in plan.columns]

    def rows(self, resource: dict[str, Any]) -> list[Row]:
        """The rows of a resource of the plan's type, conformed to what the plan touches.

        Raises:
            ClinicalError: A path gives several values where the view allows one.
            ExplodingError: The resource becomes too many rows.
        """
        if not all(condition(resource, 0) is True for condition in self._where):
            return []
        walk = _Walk(resource, len(self._stages), self._most)
        self._walk(walk, 0)
        return walk.rows

    def _walk(self, walk: "_Walk", level: int) -> None:
        if level == len(self._stages):
            walk.add(tuple([self._value(cells, walk) for cells in self._columns]))
            return
        for index, item in enumerate(self._items(walk, level)):
            walk.enter(level + 1, item, index)
            self._walk(walk, level + 1)

    def _items(self, walk: "_Walk", level: int) -> list[Any]:
        stage = self._stages[level]
        if not walk.is_on(stage.guard):
            return [None]
        source = walk.items[stage.source]
        if isinstance(stage, Branch):
            return list(range(1 if source is None else stage.count))
        if source is None:
            return [None]  # "forEachOrNull": one blank row, whatever is nested in it.
        found: list[Any] = self._lists[level](source, walk.indexes[stage.source])
        return found or ([None] if isinstance(stage, Unnest) and stage.or_null else [])

    @staticmethod
    def _value(cells: list["_Cell"], walk: "_Walk") -> Any:  # noqa: ANN401, a column's value
        for cell in cells:
            if walk.is_on(cell.guard):
                memory = walk.memory[cell.level]
                if cell not in memory:
                    memory[cell] = cell.value(walk.items[cell.slot], walk.indexes[cell.slot])
                return memory[cell]
        return None


class _Walk:
    """Where the walk is: the item, index and read cells of each slot."""

    def __init__(self, resource: dict[str, Any], stages: int, most: int) -> None:
        self._most = most
        self._steps = most * _STEPS_PER_ROW
        self.items: list[Any] = [resource, *[None] * stages]
        self.indexes = [0] * (stages + 1)
        self.memory: list[dict[_Cell, Any]] = [{} for _ in self.items]
        self.rows: list[Row] = []

    def add(self, row: Row) -> None:
        if len(self.rows) == self._most:
            raise ExplodingError
        self.rows.append(row)

    def enter(self, slot: int, item: Any, index: int) -> None:  # noqa: ANN401, any JSON value
        self._steps -= 1
        if self._steps < 0:
            raise ExplodingError
        self.items[slot] = item
        self.indexes[slot] = index
        self.memory[slot] = {}

    def is_on(self, guard: tuple[tuple[int, int], ...]) -> bool:
        return all(self.items[slot] == number for slot, number in guard)


class _Cell:
    """A column's term on one way through the unions."""

    def __init__(self, cell: Cell, column: OutputColumn) -> None:
        self.guard = cell.guard
        self.slot = cell.slot
        self.level = max(cell.slot, *(slot for slot, _ in cell.guard), 0)
        self._reader = fhir_evaluate.reader(cell.term)
        self._kind = column.kind
        self._listed = column.collection
        self._wrapped = column.collection and not cell.term.shape.many
        self._ever = is_about_row_index(cell.term)

    def value(self, item: Any, index: int) -> Any:  # noqa: ANN401, a column's value
        if item is None and not self._ever:
            return None
        value = self._reader(item, index)
        if self._wrapped:
            value = [] if value is None else [value]
        return [_stored(one, self._kind) for one in value] if self._listed else _stored(value, self._kind)


def _stored(value: Any, kind: Kind) -> Any:  # noqa: ANN401, a column's value
    if value is None:
        return None
    if kind is Kind.COMPLEX:
        return _JSON.encode(value).decode()
    if kind is Kind.DECIMAL or isinstance(value, Decimal):
        number = float(value)
        return number if math.isfinite(number) else None
    return value


def _lister(stage: Stage) -> Reader:
    match stage:
        case Unnest(_, term):
            inner = fhir_evaluate.reader(term)
            if term.shape.many:
                return inner
            return lambda item, index: [] if (value := inner(item, index)) is None else [value]
        case Repeat(_, start, onward):
            return _repeated([fhir_evaluate.reader(term) for term in start], onward, start)
        case Branch():
            return lambda _item, _index: []


def _repeated(first: list[Reader], onward: tuple[Term, ...], start: tuple[Term, ...]) -> Reader:
    later = [fhir_evaluate.reader(term) for term in onward]
    many = [term.shape.many for term in start], [term.shape.many for term in onward]

    def below(item: Any, readers: list[Reader], lists: list[bool], index: int) -> list[Any]:  # noqa: ANN401
        found: list[Any] = []
        for read, listed in zip(readers, lists, strict=True):
            value = read(item, index)
            found += value if listed else [] if value is None else [value]
        return found

    def walk(item: Any, index: int) -> list[Any]:  # noqa: ANN401, any JSON value
        rows: list[Any] = []
        waiting = below(item, first, many[0], index)[::-1]
        while waiting:
            rows.append(waiting.pop())
            waiting += below(rows[-1], later, many[1], index)[::-1]
        return rows

    return walk
