"""A plan as one SELECT for DuckDB: what `wardround.sources.fhir_rows` would read, of thousands of resources at once.

JSON becomes a typed STRUCT of just the touched fields; a term with ``many`` is a LIST that is never NULL and holds
none, any other a value or NULL. Each resource gives one row: itself, what is not simply picked out of it, and for each
forEach a LIST of STRUCTs of the items' cells and lists, unless all of it is simple. `wardround.sources.fhir_unroll`
makes the view's rows, which is cheaper than to have DuckDB copy every column at each unnest.

Nothing from a view or a record is pasted into the statement: literals and separators are bound, names are
those of R4's table or made here. What has no exact counterpart raises `NotInSqlError`, and the whole view
runs in Python: repeat, arithmetic with decimals, comparing dates and times, boundaries, whole structures.

Where Python refuses several values, this calls error(); a batch in which that happens, or anything else goes
wrong, is run again in Python, which has the last word. It may fail more often than Python, never less often:
``and`` and ``or`` are written as CASE where a side can fail, since DuckDB orders conditions as it likes; and a
list of one, transformed, names a value that is needed twice, so that statements do not grow with every use.
"""

import json
from dataclasses import dataclass
from typing import Final, NoReturn

from wardround.sources import fhir_pick, fhir_reference
from wardround.sources.fhir_elements import Kind
from wardround.sources.fhir_plan import Cell, OutputColumn, Plan, Repeat, Unnest
from wardround.sources.fhir_rows import is_about_row_index
from wardround.sources.fhir_term import (
    Arithmetic,
    Boundary,
    Compare,
    Equal,
    Exists,
    First,
    Focus,
    Index,
    Join,
    Logic,
    Negate,
    Not,
    ReferenceKey,
    RowIndex,
    Single,
    Step,
    Term,
    Value,
    Where,
    children,
)
from wardround.sources.fhir_touched import Field

__all__ = ["BLANK", "CELL", "INPUT", "ITEM", "LIST", "ROW", "NotInSqlError", "Statement", "statement", "structure"]

INPUT: Final = "resources"
"""The table that a statement reads: JSON texts in the column ``j``, and in `ROW` each one's number, passed through."""

ROW: Final = "r"
ITEM: Final = "s0"
"""The resource itself, of which what is simple is picked (`wardround.sources.fhir_pick`)."""
CELL: Final = "k{}_{}"
"""A column's value on one of its ways through the unions: numbers of both."""
BLANK: Final = "b{}_{}"
"""The same in a blank row, if it is not NULL there."""
LIST: Final = "l{}"
"""The list of what a stage unnests, each a structure of its own cells and lists: the stage's number."""

_TYPES: Final = {Kind.BOOLEAN: "BOOLEAN", Kind.INTEGER: "BIGINT", Kind.DECIMAL: "DOUBLE", Kind.NOTHING: "VARCHAR"}
_MOMENTS: Final = frozenset({Kind.DATE, Kind.DATETIME, Kind.TIME})
_LIMIT: Final = 200_000
_SHORT: Final = 200


class NotInSqlError(Exception):
    """A view needs something that only the Python back end computes; the message says what."""


@dataclass(frozen=True, slots=True)
class Statement:
    """SQL with the values for its ``$n``, in order. It gives the resources, their cells and lists, and `ROW`."""

    sql: str
    values: tuple[str | int | float | bool, ...]


def statement(plan: Plan) -> Statement:
    """The statement of a plan.

    Raises:
        NotInSqlError: The view can only run in Python.
    """
    return _Writer(plan).statement()


def structure(field: Field) -> object:
    """The structure of a field as DuckDB's from_json wants it.

    Raises:
        NotInSqlError: The field is recursive, or wanted whole or to the digit.
    """
    if field.recursive or field.whole or field.precise:
        raise NotInSqlError("repeat, whole structures and boundaries")
    one: object = _TYPES.get(field.kind, "VARCHAR")
    if field.kind is Kind.COMPLEX:
        one = {key: structure(inner) for key, inner in field.inside.items()} or "JSON"
    return [one] if field.many else one


def _may_fail(term: Term) -> bool:
    return isinstance(term, Single | Arithmetic) or any(_may_fail(child) for child in children(term))


def _is_constant(term: Term) -> bool:
    return not isinstance(term, Focus | RowIndex) and all(_is_constant(child) for child in children(term))


def _refuse(what: str) -> NoReturn:
    raise NotInSqlError(what)


class _Writer:
    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._values: list[str | int | float | bool] = []
        self._names = 0
        self._index = "0"
        self._indexed = _indexed(plan)
        self._raw = fhir_pick.raw_slots(plan)

    def statement(self) -> Statement:
        if any(column.kind is Kind.COMPLEX for column in self._plan.columns):
            _refuse("columns that hold structures")
        shape = self._bound(json.dumps(structure(self._plan.touched)), "VARCHAR")
        table = f"(SELECT from_json(j, {shape}) AS s0, r FROM {INPUT})"  # noqa: S608, only names made here
        found = ", ".join(["s0", *(f"{text} AS {name}" for name, text in self._read(0)), *self._blanks(), "r"])
        condition = f" WHERE {self._filter()}" if self._plan.where else ""
        sql = f"SELECT {found} FROM {table}{condition}"  # noqa: S608, the same
        if len(sql) > _LIMIT:
            _refuse("a statement of this length")
        return Statement(sql, tuple(self._values))

    def _bound(self, value: str | float | bool, type_name: str) -> str:  # noqa: FBT001, a value to bind
        self._values.append(value)
        return f"${len(self._values)}::{type_name}"

    def _name(self) -> str:
        self._names += 1
        return f"x{self._names}"

    def _filter(self) -> str:
        # One after the other: DuckDB may reorder a conjunction, but not a CASE.
        self._check_failing(*self._plan.where)
        conditions = [f"coalesce({self.term(term, 's0')}, false)" for term in self._plan.where]
        text = conditions.pop()
        for condition in reversed(conditions):
            text = f"CASE WHEN {condition} THEN {text} ELSE false END"
        return text

    def _read(self, slot: int) -> list[tuple[str, str]]:
        """What is read of the item in a slot: its cells, and the lists of what is unnested from it, if not simple."""
        made = [
            (CELL.format(n, way), self._cell(cell, column))
            for n, column in enumerate(self._plan.columns)
            for way, cell in enumerate(column.cells)
            if cell.slot == slot and (slot or column.collection or not fhir_pick.is_simple(cell.term))
        ]
        for number, stage in enumerate(self._plan.stages, 1):
            if isinstance(stage, Repeat):
                _refuse("repeat")
            if isinstance(stage, Unnest) and stage.source == slot and number not in self._raw:
                made.append((LIST.format(number), self._listed(number, stage)))
        return made

    def _listed(self, number: int, stage: Unnest) -> str:
        self._index = _index_of(stage.source)
        items = self._items(stage.term, f"s{stage.source}")
        inside = ", ".join(f"{name} := {text}" for name, text in self._read(number)) or "e := true"
        names = f"s{number}, i{number}" if number in self._indexed else f"s{number}"
        return f"list_transform({items}, lambda {names}: struct_pack({inside}))"

    def _items(self, term: Term, focus: str) -> str:
        # NULL is as good as an empty list here, and to replace it costs a copy of every list.
        if isinstance(term, Step) and term.repeats and not term.gaps and not term.source.shape.many:
            return f"struct_extract({self.term(term.source, focus)}, '{term.keys[0]}')"
        return self._list(term, focus)

    def _blanks(self) -> list[str]:
        # %rowIndex is 0 in the blank row of a forEachOrNull.
        self._index = "0"
        return [
            f"{self._typed(cell, column, 'NULL')} AS {BLANK.format(n, way)}"
            for n, column in enumerate(self._plan.columns)
            for way, cell in enumerate(column.cells)
            if cell.slot and is_about_row_index(cell.term)
        ]

    def _cell(self, cell: Cell, column: OutputColumn) -> str:
        self._index = _index_of(cell.slot)
        return self._typed(cell, column, f"s{cell.slot}")

    def _typed(self, cell: Cell, column: OutputColumn, focus: str) -> str:
        text = self._list(cell.term, focus) if column.collection else self.term(cell.term, focus)
        return f"({text})::{_TYPES.get(column.kind, 'VARCHAR')}{'[]' if column.collection else ''}"

    def _list(self, term: Term, focus: str) -> str:
        text = self.term(term, focus)
        if term.shape.many:
            return text
        name = self._name()
        return f"list_filter([{text}], lambda {name}: {name} IS NOT NULL)"

    def term(self, term: Term, focus: str) -> str:  # noqa: C901, PLR0912, a case for each sort of term
        """`term` as an SQL expression about the item that `focus` names."""
        match term:
            case Value():
                return self._value(term)
            case Focus():
                return focus
            case RowIndex():
                return self._index
            case Step():
                return self._step(term, focus)
            case Where():
                return self._where(term, focus)
            case First(source):
                return f"list_extract({self.term(source, focus)}, 1)"
            case Index():
                return self._at(term, focus)
            case Single(source):
                # One expression for the list, since a statement grows with every repetition.
                name, items = self._name(), self.term(source, focus)
                only = f"CASE WHEN len({name}) > 1 THEN error('several values') ELSE list_extract({name}, 1) END"
                return f"list_extract(list_transform([{items}], lambda {name}: {only}), 1)"
            case Exists(source):
                return self._exists(source, focus)
            case Not(operand):
                return f"(NOT {self.term(operand, focus)})"
            case Logic():
                return self._logic(term, focus)
            case Equal():
                return self._equal(term, focus)
            case Compare(operator, left, right):
                first, second = self._sides(left, right, focus)
                return f"({first} {operator} {second})"
            case Arithmetic():
                return self._arithmetic(term, focus)
            case Negate(operand):
                return f"(-{self.term(operand, focus)})"
            case Join(source, separator):
                return f"array_to_string({self._list(source, focus)}, {self._bound(separator, 'VARCHAR')})"
            case ReferenceKey():
                return self._reference_key(term, focus)
            case Boundary():
                _refuse("boundaries")

    def _value(self, term: Value) -> str:
        type_name = _TYPES.get(term.shape.kind, "VARCHAR")
        match term.value:
            case None:
                return f"NULL::{type_name}"
            case str() | bool() | int():
                return self._bound(term.value, type_name)
            case _ if term.shape.kind is Kind.DECIMAL:
                return self._bound(float(str(term.value)), type_name)
            case _:
                _refuse("dates and times written in a path")

    def _step(self, term: Step, focus: str) -> str:
        source = self.term(term.source, focus)
        if len(term.keys) > 1 and (term.shape.kind in {Kind.CHOICE, Kind.COMPLEX}):
            _refuse("a choice of structures")
        if not term.source.shape.many:
            return _elements(term, source)
        name, other = self._name(), self._name()
        found = f"list_transform({source}, lambda {name}: {_elements(term, name)})"
        return f"flatten({found})" if term.repeats else f"list_filter({found}, lambda {other}: {other} IS NOT NULL)"

    def _where(self, term: Where, focus: str) -> str:
        source, name = self.term(term.source, focus), self._name()
        criterion = f"coalesce({self.term(term.criterion, name)}, false)"
        if term.shape.many:
            return f"list_filter({source}, lambda {name}: {criterion})"
        present = f"CASE WHEN {name} IS NULL THEN false ELSE {criterion} END"
        return f"list_extract(list_filter([{source}], lambda {name}: {present}), 1)"

    def _at(self, term: Index, focus: str) -> str:
        number = term.index.value if isinstance(term.index, Value) else None
        if type(number) is not int or number < 0:
            _refuse("an index that is computed or negative")
        return f"list_extract({self._list(term.source, focus)}, {number + 1})"

    def _exists(self, source: Term, focus: str) -> str:
        if isinstance(source, Step) and source.shape.kind is Kind.CHOICE:
            if source.source.shape.many:
                _refuse("a choice in a list")
            owner = self.term(source.source, focus)
            if len(owner) * len(source.keys) > _LIMIT:
                _refuse("a statement of this length")
            found = " OR ".join(f"struct_extract({owner}, '{key}') IS NOT NULL" for key in source.keys)
            return f"({found})"
        text = self.term(source, focus)
        return f"(len({text}) > 0)" if source.shape.many else f"({text} IS NOT NULL)"

    def _logic(self, term: Logic, focus: str) -> str:
        self._check_failing(term.left, term.right)
        left, right = self.term(term.left, focus), self.term(term.right, focus)
        if term.operator == "xor":
            return f"({left} <> {right})"
        if _may_fail(term):
            # (6.5) As Python does it: the right side is wanted unless the left decides.
            first, second = self._name(), self._name()
            decides = "true" if term.operator == "or" else "false"
            decided = "false" if term.operator == "and" else "true"
            both = f"(NOT {first}) OR {second}" if term.operator == "implies" else f"{first} {term.operator} {second}"
            rest = f"list_extract(list_transform([{right}], lambda {second}: {both}), 1)"
            case = f"CASE WHEN {first} = {decides} THEN {decided} ELSE {rest} END"
            return f"list_extract(list_transform([{left}], lambda {first}: {case}), 1)"
        if term.operator == "implies":
            return f"((NOT {left}) OR {right})"
        return f"({left} {term.operator.upper()} {right})"

    def _check_failing(self, *terms: Term) -> None:
        # DuckDB folds constants, and with a NULL or false it may fold away what should have failed.
        if any(map(_may_fail, terms)) and any(map(_is_constant, terms)):
            _refuse("a constant beside something that may fail")

    def _sides(self, left: Term, right: Term, focus: str) -> tuple[str, str]:
        if not any(isinstance(side, Value) and side.value is not None for side in (left, right)):
            self._check_failing(left, right)
        kinds = {left.shape.kind, right.shape.kind}
        if kinds & _MOMENTS:
            _refuse("comparing dates or times")
        cast = "::DOUBLE" if Kind.DECIMAL in kinds else ""
        listed = "[]" if cast and (left.shape.many or right.shape.many) else ""
        many = left.shape.many or right.shape.many
        texts = [self._list(side, focus) if many else self.term(side, focus) for side in (left, right)]
        return f"({texts[0]}){cast}{listed}", f"({texts[1]}){cast}{listed}"

    def _equal(self, term: Equal, focus: str) -> str:
        first, second = self._sides(term.left, term.right, focus)
        sign = "<>" if term.negated else "="
        if not (term.left.shape.many or term.right.shape.many):
            return f"({first} {sign} {second})"
        pair = self._name()
        sides = f"struct_extract({pair}, 'a')", f"struct_extract({pair}, 'b')"
        same = f"CASE WHEN len({sides[0]}) = 0 OR len({sides[1]}) = 0 THEN NULL ELSE {sides[0]} {sign} {sides[1]} END"
        return f"list_extract(list_transform([{{'a': {first}, 'b': {second}}}], lambda {pair}: {same}), 1)"

    def _arithmetic(self, term: Arithmetic, focus: str) -> str:
        if not any(isinstance(side, Value) and side.value is not None for side in (term.left, term.right)):
            self._check_failing(term.left, term.right)
        first, second = self.term(term.left, focus), self.term(term.right, focus)
        if term.shape.kind is Kind.TEXT:
            return f"({first} || {second})"
        if term.shape.kind is not Kind.INTEGER:
            _refuse("arithmetic with decimals")
        return f"({first} {term.operator} {second})"

    def _reference_key(self, term: ReferenceKey, focus: str) -> str:
        source = self.term(term.source, focus)
        if not term.shape.many and len(source) <= _SHORT:
            return self._key(source, term.target)
        name, other = self._name(), self._name()
        listed = source if term.shape.many else f"[{source}]"
        keys = f"list_transform({listed}, lambda {name}: {self._key(name, term.target)})"
        if not term.shape.many:
            return f"list_extract({keys}, 1)"
        return f"list_filter({keys}, lambda {other}: {other} IS NOT NULL)"

    def _key(self, owner: str, target: str) -> str:
        text = f"struct_extract({owner}, 'reference')"
        literal, urn = (self._bound(pattern, "VARCHAR") for pattern in fhir_reference.patterns(target))
        found = f"regexp_extract({text}, {literal}, 1)"
        named = f"regexp_extract({text}, {urn}, 1)"
        if target:
            wanted = self._bound(target, "VARCHAR")
            named = f"CASE WHEN coalesce(struct_extract({owner}, 'type'), {wanted}) = {wanted} THEN {named} END"
        return f"nullif(CASE WHEN starts_with({text}, 'urn:') THEN {named} ELSE {found} END, '')"


def _indexed(plan: Plan) -> set[int]:
    """The slots whose %rowIndex some term reads."""
    terms = [(cell.slot, cell.term) for column in plan.columns for cell in column.cells]
    terms += [(stage.source, stage.term) for stage in plan.stages if isinstance(stage, Unnest)]
    return {slot for slot, term in terms if _has_index(term)}


def _index_of(slot: int) -> str:
    return f"(i{slot} - 1)" if slot else "0"


def _has_index(term: Term) -> bool:
    return isinstance(term, RowIndex) or any(map(_has_index, children(term)))


def _elements(term: Step, owner: str) -> str:
    if term.repeats:
        found = f"struct_extract({owner}, '{term.keys[0]}')"
        if term.gaps:
            found = f"list_filter({found}, lambda x: x IS NOT NULL)"
        return f"coalesce({found}, [])"
    found = ", ".join(f"struct_extract({owner}, '{key}')" for key in term.keys)
    return f"coalesce({found})" if len(term.keys) > 1 else found
