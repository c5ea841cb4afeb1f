"""A plan as one SELECT for DuckDB: the same rows as `wardround.sources.fhir_rows`, a hundred thousand at a time.

JSON becomes a typed STRUCT of just the touched fields; a term with ``many`` is a LIST that is never NULL and
holds none, any other a value or NULL; each stage is an unnest around the one before.

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

from wardround.sources import fhir_reference
from wardround.sources.fhir_elements import Kind
from wardround.sources.fhir_plan import Branch, Cell, OutputColumn, Plan, Repeat, Stage, Unnest
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

__all__ = ["INPUT", "NotInSqlError", "Statement", "statement", "structure"]

INPUT: Final = "resources"
"""The table that a statement reads: JSON texts in the column ``j``."""

_TYPES: Final = {Kind.BOOLEAN: "BOOLEAN", Kind.INTEGER: "BIGINT", Kind.DECIMAL: "DOUBLE", Kind.NOTHING: "VARCHAR"}
_MOMENTS: Final = frozenset({Kind.DATE, Kind.DATETIME, Kind.TIME})
_LIMIT: Final = 200_000


class NotInSqlError(Exception):
    """A view needs something that only the Python back end computes; the message says what."""


@dataclass(frozen=True, slots=True)
class Statement:
    """SQL with the values for its ``$n``, in order; columns are named c0, c1, ... in the plan's order."""

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

    def statement(self) -> Statement:
        shape = self._bound(json.dumps(structure(self._plan.touched)), "VARCHAR")
        table = f"(SELECT from_json(j, {shape}) AS s0, 0 AS i0 FROM {INPUT})"  # noqa: S608, only names made here
        if self._plan.where:
            table = f"(SELECT * FROM {table} WHERE {self._filter()})"  # noqa: S608, the same
        for number, stage in enumerate(self._plan.stages, 1):
            table = self._stage(table, number, stage)
        columns = ", ".join(f"{self._column(column)} AS c{n}" for n, column in enumerate(self._plan.columns))
        sql = f"SELECT {columns} FROM {table}"  # noqa: S608, the same
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

    def _stage(self, table: str, number: int, stage: Stage) -> str:
        source = f"s{stage.source}"
        match stage:
            case Repeat():
                _refuse("repeat")
            case Branch(_, count):
                listed = f"CASE WHEN {source} IS NULL THEN [0] ELSE range({count}) END"
                blank = "[NULL::BIGINT]"
            case Unnest(_, term, or_null):
                self._index = f"i{stage.source}"
                items = self._list(term, source)
                listed = f"CASE WHEN {source} IS NULL THEN [NULL] ELSE {items} END" if stage.source else items
                if or_null:
                    listed = f"list_transform([{listed}], lambda x: CASE WHEN len(x) = 0 THEN [NULL] ELSE x END)[1]"
                blank = "[NULL]"
        if stage.guard:
            listed = f"CASE WHEN {_on(stage.guard)} THEN {listed} ELSE {blank} END"
        inner = f"(SELECT *, {listed} AS l{number} FROM {table})"  # noqa: S608, only names made here
        index = f"unnest(range(len(l{number})))"
        return f"(SELECT * EXCLUDE (l{number}), unnest(l{number}) AS s{number}, {index} AS i{number} FROM {inner})"  # noqa: S608

    def _column(self, column: OutputColumn) -> str:
        if column.kind is Kind.COMPLEX:
            _refuse("columns that hold structures")
        type_name = _TYPES.get(column.kind, "VARCHAR") + ("[]" if column.collection else "")
        cells = [(self._cell(cell, column), cell.guard) for cell in column.cells]
        if len(cells) == 1 and not cells[0][1]:
            return f"({cells[0][0]})::{type_name}"
        cases = " ".join(f"WHEN {_on(guard)} THEN ({text})::{type_name}" for text, guard in cells)
        return f"CASE {cases} END"

    def _cell(self, cell: Cell, column: OutputColumn) -> str:
        self._index = f"i{cell.slot}"
        focus = f"s{cell.slot}"
        text = self._list(cell.term, focus) if column.collection else self.term(cell.term, focus)
        if cell.slot and not is_about_row_index(cell.term):
            return f"CASE WHEN {focus} IS NULL THEN NULL ELSE {text} END"
        return text

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
        source, name, other = self.term(term.source, focus), self._name(), self._name()
        found = self._key(name, term.target)
        listed = source if term.shape.many else f"[{source}]"
        keys = f"list_transform({listed}, lambda {name}: {found})"
        if not term.shape.many:
            return f"list_extract({keys}, 1)"
        return f"list_filter({keys}, lambda {other}: {other} IS NOT NULL)"

    def _key(self, name: str, target: str) -> str:
        found = self._name()
        groups = ", ".join(f"'{group}'" for group in fhir_reference.GROUPS)
        pattern = self._bound(fhir_reference.PATTERN, "VARCHAR")
        match = f"regexp_extract(struct_extract({name}, 'reference'), {pattern}, [{groups}])"
        identifier, urn = (f"nullif(struct_extract({found}, '{group}'), '')" for group in ("id", "urn"))
        if target:
            wanted = self._bound(target, "VARCHAR")
            identifier = f"CASE WHEN struct_extract({found}, 'type') = {wanted} THEN {identifier} END"
            urn = f"CASE WHEN coalesce(struct_extract({name}, 'type'), {wanted}) = {wanted} THEN {urn} END"
        keys = f"list_transform([{match}], lambda {found}: coalesce({identifier}, {urn}))"
        return f"list_extract({keys}, 1)"


def _on(guard: tuple[tuple[int, int], ...]) -> str:
    # A row of another branch has NULL here, and a comparison with NULL is not true.
    return " AND ".join(f"s{slot} = {number}" for slot, number in guard)


def _elements(term: Step, owner: str) -> str:
    if term.repeats:
        found = f"struct_extract({owner}, '{term.keys[0]}')"
        if term.gaps:
            found = f"list_filter({found}, lambda x: x IS NOT NULL)"
        return f"coalesce({found}, [])"
    found = ", ".join(f"struct_extract({owner}, '{key}')" for key in term.keys)
    return f"coalesce({found})" if len(term.keys) > 1 else found
