"""Typed terms: what a FHIRPath expression of a view computes, with every name resolved.

`wardround.sources.fhir_typing` makes them; `wardround.sources.fhir_evaluate` and
`wardround.sources.fhir_sql` give them the same meaning twice. FHIRPath's collections are of two sorts here,
told apart before anything runs: a term whose `shape` has ``many`` yields a list, any other yields one
value or nothing. A singleton that FHIRPath demands of a list (4.5) is an explicit `Single`.

`Focus` is the item that the term is about: the resource, the item of a forEach, or inside a `Where` the
item that is tested.
"""

from dataclasses import dataclass
from decimal import Decimal
from typing import Literal, TypeAlias

from wardround.sources.fhir_elements import Kind
from wardround.sources.fhir_time import Moment

__all__ = [
    "NOTHING",
    "Arithmetic",
    "Boundary",
    "Compare",
    "Equal",
    "Exists",
    "First",
    "Focus",
    "Index",
    "Join",
    "Logic",
    "Negate",
    "Not",
    "ReferenceKey",
    "RowIndex",
    "Shape",
    "Single",
    "Step",
    "Term",
    "Value",
    "Where",
    "children",
]


@dataclass(frozen=True, slots=True)
class Shape:
    """What a term yields: values of a kind, of an R4 type where it is known, one at most or many.

    `options` are the JSON names and types of a choice that ofType() has not resolved yet.
    """

    kind: Kind
    type_name: str = ""
    many: bool = False
    options: tuple[tuple[str, str], ...] = ()


NOTHING = Shape(Kind.NOTHING)


@dataclass(frozen=True, slots=True)
class Value:
    """A literal or a constant; None is the empty collection."""

    value: str | int | bool | Decimal | Moment | None
    shape: Shape


@dataclass(frozen=True, slots=True)
class Focus:
    """The item that the term is about."""

    shape: Shape


@dataclass(frozen=True, slots=True)
class RowIndex:
    """``%rowIndex``: the place of the item among those of its forEach or repeat, from 0."""

    shape: Shape = Shape(Kind.INTEGER, "integer")


@dataclass(frozen=True, slots=True)
class Step:
    """The elements of these JSON names in each item; `gaps` where JSON may hold nulls among them."""

    source: "Term"
    keys: tuple[str, ...]
    repeats: bool
    gaps: bool
    shape: Shape


@dataclass(frozen=True, slots=True)
class Where:
    """The items for which the criterion is true."""

    source: "Term"
    criterion: "Term"
    shape: Shape


@dataclass(frozen=True, slots=True)
class First:
    """The first item of a list."""

    source: "Term"
    shape: Shape


@dataclass(frozen=True, slots=True)
class Index:
    """The item at a place, from 0; nothing where there is none."""

    source: "Term"
    index: "Term"
    shape: Shape


@dataclass(frozen=True, slots=True)
class Single:
    """The only item of a list; an error where there are more (FHIRPath 4.5)."""

    source: "Term"
    wanted_by: str
    shape: Shape


@dataclass(frozen=True, slots=True)
class Exists:
    """Whether there is any item."""

    source: "Term"
    shape: Shape = Shape(Kind.BOOLEAN, "boolean")


@dataclass(frozen=True, slots=True)
class Not:
    """The opposite of a boolean; nothing of nothing."""

    operand: "Term"
    shape: Shape = Shape(Kind.BOOLEAN, "boolean")


@dataclass(frozen=True, slots=True)
class Logic:
    """Three-valued logic (FHIRPath 6.5); the right side counts only where the left does not decide."""

    operator: Literal["and", "or", "xor", "implies"]
    left: "Term"
    right: "Term"
    shape: Shape = Shape(Kind.BOOLEAN, "boolean")


@dataclass(frozen=True, slots=True)
class Equal:
    """Equality of two collections (FHIRPath 6.1.1), or its opposite."""

    left: "Term"
    right: "Term"
    negated: bool
    shape: Shape = Shape(Kind.BOOLEAN, "boolean")


@dataclass(frozen=True, slots=True)
class Compare:
    """Order of two values (FHIRPath 6.2)."""

    operator: Literal["<", "<=", ">", ">="]
    left: "Term"
    right: "Term"
    shape: Shape = Shape(Kind.BOOLEAN, "boolean")


@dataclass(frozen=True, slots=True)
class Arithmetic:
    """Arithmetic of two numbers, or the joining of two texts by + (FHIRPath 6.6)."""

    operator: Literal["+", "-", "*", "/"]
    left: "Term"
    right: "Term"
    shape: Shape


@dataclass(frozen=True, slots=True)
class Negate:
    """A number with the other sign."""

    operand: "Term"
    shape: Shape


@dataclass(frozen=True, slots=True)
class Join:
    """Texts in one, with a separator; the empty text of nothing."""

    source: "Term"
    separator: str
    shape: Shape = Shape(Kind.TEXT, "string")


@dataclass(frozen=True, slots=True)
class ReferenceKey:
    """The key of the resource that each Reference points to, if it is of `target` ("" for any type)."""

    source: "Term"
    target: str
    shape: Shape


@dataclass(frozen=True, slots=True)
class Boundary:
    """The lowest or highest value that a value of limited precision may stand for."""

    operand: "Term"
    high: bool
    digits: int | None
    shape: Shape


Term: TypeAlias = (
    Value
    | Focus
    | RowIndex
    | Step
    | Where
    | First
    | Index
    | Single
    | Exists
    | Not
    | Logic
    | Equal
    | Compare
    | Arithmetic
    | Negate
    | Join
    | ReferenceKey
    | Boundary
)


def children(term: Term) -> tuple[Term, ...]:
    """The terms directly inside a term."""
    match term:
        case Where(source, criterion):
            return source, criterion
        case Index(source, index):
            return source, index
        case Step(source) | First(source) | Single(source) | Exists(source) | Join(source) | ReferenceKey(source):
            return (source,)
        case Logic(_, left, right) | Compare(_, left, right) | Arithmetic(_, left, right):
            return left, right
        case Equal(left, right):
            return left, right
        case Not(operand) | Negate(operand) | Boundary(operand):
            return (operand,)
        case Value() | Focus() | RowIndex():
            return ()
