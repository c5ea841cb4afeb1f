"""A view compiled to one straight line of stages, and the columns that are read at its end.

A row begins as the resource and grows by a slot at each stage:

    slot 0        the resource
    `Unnest`      the items of a forEach or forEachOrNull, one row for each
    `Repeat`      the same for a repeat, parents before their children
    `Branch`      the number of a branch of a unionAll, one row for each branch

A stage or column inside a union applies only to rows of its branch (`guard`); elsewhere a stage leaves a
blank, and one row. Cross joins of siblings, nesting and unions in unions need nothing else. Rows come in the
order of the resource's items; both back ends keep it, though the specification does not ask for one.

References:
    SQL on FHIR v2, "Unnesting semantics", "Multiple Select Expressions", "Unions", "Column Ordering";
    "Processing Algorithm (Model)", `ValidateColumns` and `Process`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from wardround.errors import ConfigError
from wardround.sources import fhir_elements, fhir_touched, fhir_typing, fhir_view
from wardround.sources.fhir_elements import Kind
from wardround.sources.fhir_term import NOTHING, Shape, Term
from wardround.sources.fhir_touched import Field
from wardround.sources.fhir_typing import Scope
from wardround.sources.fhir_view import Select, ViewDefinition

__all__ = ["Branch", "Cell", "OutputColumn", "Plan", "Repeat", "Stage", "Unnest", "compile_view"]

MAX_COLUMNS: Final = 1000
MAX_STAGES: Final = 64
MAX_NESTING: Final = 16

Guard: TypeAlias = tuple[tuple[int, int], ...]
"""The branches that a row must be on: slots of unions, and the number of the branch in each."""


@dataclass(frozen=True, slots=True)
class Unnest:
    """A row for each item of `term`, about the item in slot `source`; with `or_null` one even if there is none."""

    source: int
    term: Term
    or_null: bool
    guard: Guard


@dataclass(frozen=True, slots=True)
class Repeat:
    """A row for each item that the paths reach: `start` from slot `source`, `onward` from every item found."""

    source: int
    start: tuple[Term, ...]
    onward: tuple[Term, ...]
    guard: Guard


@dataclass(frozen=True, slots=True)
class Branch:
    """A row for each branch of a union."""

    source: int
    count: int
    guard: Guard


Stage: TypeAlias = Unnest | Repeat | Branch


@dataclass(frozen=True, slots=True)
class Cell:
    """What a column holds in rows on these branches: a term about the item in `slot`."""

    guard: Guard
    slot: int
    term: Term


@dataclass(frozen=True, slots=True)
class OutputColumn:
    """A column: its values' kind, whether it holds lists, and its cell for each way through the unions."""

    name: str
    kind: Kind
    collection: bool
    cells: tuple[Cell, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """A checked view, ready to run.

    `unknown` names what the view asks for and R4 does not have; it is empty unless `compile_view` was told
    to let it pass.
    """

    resource: str
    where: tuple[Term, ...]
    stages: tuple[Stage, ...]
    columns: tuple[OutputColumn, ...]
    touched: Field
    unknown: tuple[str, ...]


def compile_view(
    view: ViewDefinition | bytes | str | Mapping[str, Any], *, allow_unknown: bool = False, touched: Field | None = None
) -> Plan:
    """The plan of a view.

    Args:
        view: The view, as `fhir_view.read` gives or takes it.
        allow_unknown: Elements that R4 does not have are empty instead of refused, and listed in the plan.
        touched: What other views of the resource touch, for resources that are decoded once for all of them; this
            view's part is entered.

    Raises:
        ConfigError: The view breaks a rule of the specification.
    """
    definition = view if isinstance(view, ViewDefinition) else fhir_view.read(view)
    if not fhir_elements.is_resource(definition.resource):
        raise ConfigError(f"{definition.resource!r} is not a resource of FHIR R4, or not one for views")
    unknown: list[str] | None = [] if allow_unknown else None
    scope = Scope(definition.resource, fhir_view.constants(definition), unknown)
    return _Compiler(definition, scope, touched or fhir_touched.root()).plan()


class _Compiler:
    def __init__(self, view: ViewDefinition, scope: Scope, touched: Field) -> None:
        self._view = view
        self._scope = scope
        self._stages: list[Stage] = []
        self._touched = touched
        # Of each slot: the shape of its items, and the fields that they come from.
        self._slots: list[tuple[Shape, list[Field]]] = [(Shape(Kind.COMPLEX, view.resource), [self._touched])]

    def plan(self) -> Plan:
        where = tuple(
            fhir_typing.boolean(self._term(condition.path, 0), condition.path) for condition in self._view.where
        )
        columns = [column for node in self._view.select for column in self._select(node, 0, (), 1)]
        if not columns:
            raise ConfigError("the view has no columns")
        _check_names(columns)
        unknown = tuple(dict.fromkeys(self._scope.unknown or ()))
        return Plan(self._view.resource, where, tuple(self._stages), tuple(columns), self._touched, unknown)

    def _term(self, path: str, slot: int) -> Term:
        shape, fields = self._slots[slot]
        term = fhir_typing.resolve(path, shape, self._scope)
        fhir_touched.touch(term, fields)
        return term

    def _select(self, node: Select, slot: int, guard: Guard, depth: int) -> list[OutputColumn]:
        if depth > MAX_NESTING:
            raise ConfigError(f"selects are nested more than {MAX_NESTING} deep")
        if sum((node.for_each is not None, node.for_each_or_null is not None, bool(node.repeat))) > 1:
            raise ConfigError("a select has forEach, forEachOrNull or repeat, and only one of them (sql-expressions)")
        if node.repeat:
            slot = self._repeat(node.repeat, slot, guard)
        elif node.for_each is not None:
            slot = self._unnest(node.for_each, slot, guard, or_null=False)
        elif node.for_each_or_null is not None:
            slot = self._unnest(node.for_each_or_null, slot, guard, or_null=True)
        # "Column Ordering": own columns, then those of nested selects, then those of the union.
        columns = [self._column(column, slot, guard) for column in node.column]
        for child in node.select:
            columns += self._select(child, slot, guard, depth + 1)
        if node.union_all:
            columns += self._union(node.union_all, slot, guard, depth)
        return columns

    def _unnest(self, path: str, slot: int, guard: Guard, *, or_null: bool) -> int:
        term = self._term(path, slot)
        _refuse_choice(term, path)
        fields = fhir_touched.touch(term, self._slots[slot][1])
        return self._slot(Unnest(slot, term, or_null, guard), _item(term.shape), fields)

    def _repeat(self, paths: tuple[str, ...], slot: int, guard: Guard) -> int:
        # "repeat": the paths apply to the item at hand and to everything they find; types must agree.
        shape, fields = self._slots[slot]
        start, missing = self._reached(paths, shape)
        found = {_item(term.shape) for term in start}
        item = found.pop() if found else NOTHING
        onward, still_missing = self._reached(paths, item)
        if start and (found or {_item(term.shape) for term in onward} - {item} or item.kind is not Kind.COMPLEX):
            raise ConfigError(f"the paths of repeat, {', '.join(paths)}, lead to items of different types")
        if lost := sorted(missing & still_missing):
            if self._scope.unknown is None:
                raise ConfigError(f"repeat: {', '.join(lost)} leads nowhere in FHIR R4")
            self._scope.unknown.extend(f"{shape.type_name}.{path}" for path in lost)
        if not start:
            return self._slot(Repeat(slot, (), (), guard), item, [])
        first, *others = (field for term in start for field in fhir_touched.touch(term, fields))
        first.recursive = True
        inner = [field for term in onward for field in fhir_touched.touch(term, [first])]
        for other in [*others, *inner]:
            if other.owner is not None and other is not first:
                other.owner.inside[other.key] = first
        return self._slot(Repeat(slot, tuple(start), tuple(onward), guard), item, [first])

    def _reached(self, paths: tuple[str, ...], shape: Shape) -> tuple[list[Term], set[str]]:
        lenient = Scope(self._scope.resource, self._scope.constants, [])
        terms = {path: fhir_typing.resolve(path, shape, lenient) for path in paths}
        missing = {path for path, term in terms.items() if term.shape.kind is Kind.NOTHING}
        return [term for path, term in terms.items() if path not in missing], missing

    def _union(self, branches: tuple[Select, ...], slot: int, guard: Guard, depth: int) -> list[OutputColumn]:
        union = self._slot(Branch(slot, len(branches), guard), *self._slots[slot])
        merged: list[OutputColumn] = []
        for number, branch in enumerate(branches):
            columns = self._select(branch, slot, (*guard, (union, number)), depth + 1)
            if number and len(merged) != len(columns):
                raise ConfigError("the selects of a unionAll differ in their columns (Union Branches Inconsistent)")
            merged = [_merged(*pair) for pair in zip(merged, columns, strict=True)] if number else columns
        return merged

    def _slot(self, stage: Stage, shape: Shape, fields: list[Field]) -> int:
        if len(self._stages) == MAX_STAGES:
            raise ConfigError(f"a view has at most {MAX_STAGES} forEach, repeat and unionAll")
        self._stages.append(stage)
        self._slots.append((shape, fields))
        return len(self._stages)

    def _column(self, column: fhir_view.Column, slot: int, guard: Guard) -> OutputColumn:
        if not fhir_view.is_name(column.name):
            raise ConfigError(f"{column.name!r} cannot name a column (sql-name)")
        term = self._term(column.path, slot)
        _refuse_choice(term, column.path)
        kind = term.shape.kind
        if kind is Kind.COMPLEX:
            if column.type is None:
                raise ConfigError(f"column {column.name!r} holds a structure and must say its type")
            for field in fhir_touched.touch(term, self._slots[slot][1]):
                field.whole = True
        kind = _declared(column, kind)
        if not column.collection:
            term = fhir_typing.single(term, f"column {column.name!r}")
        return OutputColumn(column.name, kind, column.collection, (Cell(guard, slot, term),))


def _item(shape: Shape) -> Shape:
    return Shape(shape.kind, shape.type_name)


def _refuse_choice(term: Term, path: str) -> None:
    if term.shape.kind is Kind.CHOICE:
        types = ", ".join(option for _, option in term.shape.options)
        raise ConfigError(f"{path!r} is a choice; write ofType() with one of {types}")


def _declared(column: fhir_view.Column, kind: Kind) -> Kind:
    """The kind of a column, checked against the type that it says it has ("Column Types")."""
    if column.type is None:
        return kind
    name = column.type.rpartition("/")[2]
    known = fhir_elements.type_named(name.partition(".")[0])
    if known is None:
        raise ConfigError(f"column {column.name!r}: FHIR R4 has no type {name!r}, or not one for views")
    declared = Kind.COMPLEX if "." in name else fhir_elements.kind_of(known)
    texts = {Kind.TEXT, Kind.DATE, Kind.DATETIME, Kind.TIME}
    if kind in {declared, Kind.NOTHING} or {kind, declared} <= texts:
        return declared
    if kind is Kind.INTEGER and declared is Kind.DECIMAL:
        return declared
    raise ConfigError(f"column {column.name!r} says that it is a {name}, but its path gives a {kind.value}")


def _merged(first: OutputColumn, other: OutputColumn) -> OutputColumn:
    # "Unions": the same names in the same order, and the same types.
    kinds = {first.kind, other.kind} - {Kind.NOTHING} or {Kind.NOTHING}
    texts = {Kind.TEXT, Kind.DATE, Kind.DATETIME, Kind.TIME}
    if first.name != other.name or first.collection != other.collection or (len(kinds) > 1 and not kinds <= texts):
        raise ConfigError(
            f"the selects of a unionAll differ: {first.name!r} and {other.name!r} (Union Branches Inconsistent)"
        )
    kind = kinds.pop() if len(kinds) == 1 else Kind.TEXT
    return OutputColumn(first.name, kind, first.collection, first.cells + other.cells)


def _check_names(columns: list[OutputColumn]) -> None:
    if len(columns) > MAX_COLUMNS:
        raise ConfigError(f"a view has at most {MAX_COLUMNS} columns")
    seen: set[str] = set()
    for column in columns:
        if column.name in seen:
            raise ConfigError(f"column {column.name!r} is defined twice (Column Already Defined)")
        seen.add(column.name)
