"""From the syntax of a FHIRPath expression to a typed term: names resolved, types and cardinality known.

Every element is looked up in R4's table (`wardround.sources.fhir_elements`), so that a path which cannot
mean what its author thinks is refused before any record is read: an element that R4 does not have, a text
compared with a number, a choice without ofType(). FHIRPath would answer with an empty collection (its 6.1.1,
4.3); in a study that is a column of nothing that nobody notices. A scope may instead `collect` the
unknown elements, which are then empty, as the specification asks of a runner (FHIRPath 4.3).

Functions are those of SQL on FHIR v2: "Supported FHIRPath Functionality", and "Required Additional
Functions" getResourceKey() and getReferenceKey().
"""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Final, cast

from wardround.errors import ConfigError
from wardround.sources import fhir_elements, fhir_path, fhir_time
from wardround.sources.fhir_elements import Kind
from wardround.sources.fhir_path import Call, Constant, Indexed, Literal, Member, Operation, Sign, Syntax, This
from wardround.sources.fhir_term import (
    NOTHING,
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
    Shape,
    Single,
    Step,
    Term,
    Value,
    Where,
)

__all__ = ["MAX_INTEGER", "Scope", "boolean", "literal", "resolve", "single"]

MAX_INTEGER: Final = 2**31 - 1
"""The largest integer of FHIR (R4, 2.24.0.1)."""

_FUNCTIONS: Final = {
    "empty": (0, 0),
    "exists": (0, 1),
    "extension": (1, 1),
    "first": (0, 0),
    "getReferenceKey": (0, 1),
    "getResourceKey": (0, 0),
    "highBoundary": (0, 1),
    "join": (0, 1),
    "lowBoundary": (0, 1),
    "not": (0, 0),
    "ofType": (1, 1),
    "where": (1, 1),
}
_NUMBERS: Final = frozenset({Kind.INTEGER, Kind.DECIMAL})
_DATES: Final = frozenset({Kind.DATE, Kind.DATETIME})
_STRUCTURED: Final = frozenset({Kind.COMPLEX, Kind.CHOICE})
_BOOLEAN: Final = Shape(Kind.BOOLEAN, "boolean")


@dataclass(frozen=True, slots=True)
class Scope:
    """What the paths of one view may refer to.

    `unknown` collects elements that R4 does not have; None refuses them.
    """

    resource: str
    constants: Mapping[str, Value]
    unknown: list[str] | None = None


def resolve(path: str, focus: Shape, scope: Scope) -> Term:
    """The typed term of `path`, for an item of shape `focus`.

    Raises:
        ConfigError: The path is not FHIRPath, or cannot apply to such an item.
    """
    return _Typing(path, scope).term(fhir_path.parse(path), focus)


def literal(kind: Kind, value: str | int | Decimal | None) -> Value:
    """A constant of this kind.

    Raises:
        ConfigError: The value is no such date or time, or an integer that FHIR does not have.
    """
    if value is None:
        return Value(None, NOTHING)
    if kind in {Kind.DATE, Kind.DATETIME, Kind.TIME} and isinstance(value, str):
        moment = fhir_time.read(kind, value)
        if moment is None:
            raise ConfigError(f"{value!r} is not a {kind.value} of FHIR")
        return Value(moment, Shape(kind, kind.value))
    if kind is Kind.INTEGER and isinstance(value, int) and abs(value) > MAX_INTEGER:
        raise ConfigError(f"an integer of FHIR is at most {MAX_INTEGER}")
    return Value(value, Shape(kind, "string" if kind is Kind.TEXT else kind.value))


def boolean(term: Term, path: str, at: int = 0) -> Term:
    """`term` as the one boolean that an operator or a filter needs (FHIRPath 4.5).

    Raises:
        ConfigError: It is of another kind.
    """
    if term.shape.kind is Kind.NOTHING:
        return Value(None, _BOOLEAN)
    if term.shape.kind is not Kind.BOOLEAN:
        raise fhir_path.refusal(path, at, f"a boolean is needed, and this is a {term.shape.kind.value}")
    return single(term, path)


def single(term: Term, wanted_by: str) -> Term:
    """`term` as one value at most."""
    shape = term.shape
    return Single(term, wanted_by, Shape(shape.kind, shape.type_name)) if shape.many else term


def _family(kind: Kind) -> frozenset[Kind]:
    return next((family for family in (_NUMBERS, _DATES) if kind in family), frozenset({kind}))


class _Typing:
    def __init__(self, path: str, scope: Scope) -> None:
        self._path = path
        self._scope = scope

    def _refusal(self, at: int, problem: str) -> ConfigError:
        return fhir_path.refusal(self._path, at, problem)

    def term(self, node: Syntax, focus: Shape) -> Term:  # noqa: C901, a case for each sort of node
        match node:
            case Literal(kind, value, at):
                try:
                    return literal(kind, value)
                except ConfigError as error:
                    raise self._refusal(at, str(error)) from None
            case This():
                return Focus(focus)
            case Constant(name, at):
                return self._constant(name, at)
            case Member(None, name) if name in {focus.type_name, "Resource"} and fhir_elements.is_resource(
                focus.type_name
            ):
                return Focus(focus)  # (10.1) A path may begin with the type of its context.
            case Member(source, name, at):
                return self._step(self._source(source, focus), name, at)
            case Call(source, name, arguments, at):
                return self._call(self._source(source, focus), name, arguments, focus, at)
            case Indexed(source, index, at):
                return self._indexed(self.term(source, focus), self.term(index, focus), at)
            case Sign(operand, at):
                return self._negated(self.term(operand, focus), at)
            case Operation(operator, left, right, at):
                return self._operation(operator, self.term(left, focus), self.term(right, focus), at)

    def _source(self, source: Syntax | None, focus: Shape) -> Term:
        return Focus(focus) if source is None else self.term(source, focus)

    def _constant(self, name: str, at: int) -> Term:
        if name == "rowIndex":
            return RowIndex()
        if name not in self._scope.constants:
            raise self._refusal(at, f"the view defines no constant {name!r}")
        return self._scope.constants[name]

    def _step(self, source: Term, name: str, at: int) -> Term:
        shape = source.shape
        if shape.kind is Kind.NOTHING:
            return source
        if shape.kind is Kind.CHOICE:
            raise self._refusal(at, "a choice has no elements of its own: write ofType() before this")
        if shape.kind is not Kind.COMPLEX:
            return self._beside(source, name, at)
        element = fhir_elements.element(shape.type_name, name)
        if element is None:
            return self._unknown(shape.type_name, name, at)
        many = shape.many or element.many
        if element.choice:
            keys = tuple(key for key, _ in element.keys)
            return Step(source, keys, False, False, Shape(Kind.CHOICE, "", many, element.keys))
        ((key, type_name),) = element.keys
        kind = fhir_elements.kind_of(type_name)
        gaps = element.many and kind is not Kind.COMPLEX
        return Step(source, (key,), element.many, gaps, Shape(kind, type_name, many))

    def _beside(self, source: Term, name: str, at: int) -> Term:
        # (R4, 2.6.2.1) Extensions and the id of a primitive stand beside it, under its name with an underscore.
        if not isinstance(source, Step) or len(source.keys) != 1 or name not in {"extension", "id"}:
            raise self._refusal(at, f"a {source.shape.kind.value} has no element {name!r} here")
        shape = Shape(Kind.COMPLEX, "Element", source.shape.many)
        twin = Step(source.source, (f"_{source.keys[0]}",), source.repeats, source.repeats, shape)
        return self._step(twin, name, at)

    def _unknown(self, type_name: str, name: str, at: int) -> Term:
        if self._scope.unknown is not None:
            self._scope.unknown.append(f"{type_name}.{name}")
            return Value(None, NOTHING)
        problem = f"{type_name} has no element {name!r} in FHIR R4"
        for place in range(1, len(name)):
            choice = fhir_elements.element(type_name, name[:place])
            for key, option in choice.keys if choice and choice.choice else ():
                if key == name:
                    raise self._refusal(at, f"{problem}; write {name[:place]}.ofType({option})")
        known = fhir_elements.names(type_name)
        close = difflib.get_close_matches(name, known, 1)
        raise self._refusal(at, f"{problem}; did you mean {close[0]!r}?" if close else problem)

    def _call(  # noqa: C901, PLR0912, a case for each function
        self, source: Term, name: str, arguments: tuple[Syntax, ...], focus: Shape, at: int
    ) -> Term:
        if name not in _FUNCTIONS:
            raise self._refusal(at, f"no function {name!r} in views; there are {', '.join(_FUNCTIONS)}")
        least, most = _FUNCTIONS[name]
        if not least <= len(arguments) <= most:
            raise self._refusal(at, f"{name}() takes {least if least == most else f'{least} or {most}'} arguments")
        first = arguments[0] if arguments else None
        match name:
            case "where":
                return self._where(source, cast("Syntax", first), at)
            case "exists":
                return Exists(source if first is None else self._where(source, first, at))
            case "empty":
                return Not(Exists(source))
            case "first":
                return self._first(source)
            case "not":
                return Not(boolean(source, self._path, at))
            case "ofType":
                return self._of_type(source, self._type_name(cast("Syntax", first)), at)
            case "extension":
                return self._extension(source, self.term(cast("Syntax", first), focus), at)
            case "join":
                return self._join(source, None if first is None else self.term(first, focus), at)
            case "getResourceKey":
                if source.shape.type_name != self._scope.resource or not isinstance(source, Focus):
                    raise self._refusal(at, "getResourceKey() is for the resource itself, outside of any forEach")
                return self._step(source, "id", at)
            case "getReferenceKey":
                return self._reference_key(source, "" if first is None else self._type_name(first), at)
            case _:
                return self._boundary(source, name, None if first is None else self.term(first, focus), at)

    def _where(self, source: Term, criterion: Syntax, at: int) -> Term:
        shape = source.shape
        if shape.kind is Kind.CHOICE:
            raise self._refusal(at, "write ofType() between a choice and where()")
        tested = self.term(criterion, Shape(shape.kind, shape.type_name))
        return Where(source, boolean(tested, self._path, at), shape)

    def _first(self, source: Term) -> Term:
        shape = source.shape
        return First(source, Shape(shape.kind, shape.type_name, False, shape.options)) if shape.many else source

    def _indexed(self, source: Term, index: Term, at: int) -> Term:
        if index.shape.kind not in {Kind.INTEGER, Kind.NOTHING}:
            raise self._refusal(at, "an index is an integer")
        shape = source.shape
        return Index(source, single(index, self._path), Shape(shape.kind, shape.type_name))

    def _type_name(self, node: Syntax) -> str:
        match node:
            case Member(None | Member(None, "FHIR" | "System"), name, at) | Literal(Kind.TEXT, str(name), at):
                known = fhir_elements.type_named(name)
                if known is None:
                    raise self._refusal(at, f"FHIR R4 has no type {name!r}, or not one for views")
                return known
            case _:
                raise self._refusal(node.at, "the name of a type was expected")

    def _of_type(self, source: Term, type_name: str, at: int) -> Term:
        shape = source.shape
        if shape.kind is Kind.NOTHING:
            return source
        kind = fhir_elements.kind_of(type_name)
        if shape.kind is not Kind.CHOICE:
            texts = shape.kind is Kind.TEXT and kind is Kind.TEXT
            if texts or fhir_elements.is_subtype(shape.type_name, type_name):
                return source
            return self._never(f"this is a {shape.type_name}, never a {type_name}", at)
        if not isinstance(source, Step):
            raise self._refusal(at, "write ofType() directly behind the element that is a choice")
        # (FHIRPath 5.1, ofType) The type or one that extends it.
        found = [(key, option) for key, option in shape.options if fhir_elements.is_subtype(option, type_name)]
        if not found or any(fhir_elements.kind_of(option) is not kind for _, option in found):
            allowed = ", ".join(option for _, option in shape.options)
            return self._never(f"never a {type_name} here; it may be {allowed}", at)
        return Step(source.source, tuple(key for key, _ in found), False, False, Shape(kind, type_name, shape.many))

    def _never(self, problem: str, at: int) -> Term:
        if self._scope.unknown is None:
            raise self._refusal(at, problem)
        self._scope.unknown.append(problem)
        return Value(None, NOTHING)

    def _extension(self, source: Term, url: Term, at: int) -> Term:
        if not isinstance(url, Value) or url.shape.kind is not Kind.TEXT:
            raise self._refusal(at, "extension() takes a URL, as a text or a constant")
        found = self._step(source, "extension", at)
        if found.shape.kind is Kind.NOTHING:
            return found
        item = Focus(Shape(Kind.COMPLEX, "Extension"))
        return Where(found, Equal(self._step(item, "url", at), url, False), found.shape)

    def _join(self, source: Term, separator: Term | None, at: int) -> Term:
        if source.shape.kind not in {Kind.TEXT, Kind.DATE, Kind.DATETIME, Kind.TIME, Kind.NOTHING}:
            raise self._refusal(at, f"join() is for texts, and this is a {source.shape.kind.value}")
        if separator is None:
            return Join(source, "")
        if not isinstance(separator, Value) or not isinstance(separator.value, str):
            raise self._refusal(at, "join() takes a separator, as a text or a constant")
        return Join(source, separator.value)

    def _reference_key(self, source: Term, target: str, at: int) -> Term:
        shape = source.shape
        if shape.kind is Kind.NOTHING:
            return source
        if shape.type_name != "Reference":
            raise self._refusal(at, "getReferenceKey() is for a Reference")
        if target and not fhir_elements.is_resource(target):
            raise self._refusal(at, f"{target!r} is not a resource of R4, or not one for views")
        return ReferenceKey(source, target, Shape(Kind.TEXT, "string", shape.many))

    def _boundary(self, source: Term, name: str, digits: Term | None, at: int) -> Term:
        high = name == "highBoundary"
        if source.shape.type_name == "Period":
            source = self._step(source, "end" if high else "start", at)
        kind = source.shape.kind
        if kind is Kind.NOTHING:
            return source
        if kind not in {*_NUMBERS, *_DATES, Kind.TIME}:
            raise self._refusal(at, f"{name}() is for numbers, dates, times and Period, and this is a {kind.value}")
        wanted = digits.value if isinstance(digits, Value) else None
        if digits is not None and type(wanted) is not int:
            raise self._refusal(at, f"{name}() takes a number of digits")
        result = Kind.DECIMAL if kind in _NUMBERS else kind
        count = wanted if isinstance(wanted, int) else None
        return Boundary(single(source, self._path), high, count, Shape(result, result.value))

    def _negated(self, operand: Term, at: int) -> Term:
        if operand.shape.kind not in {*_NUMBERS, Kind.NOTHING}:
            raise self._refusal(at, f"a sign is for numbers, and this is a {operand.shape.kind.value}")
        if isinstance(operand, Value):
            return Value(-operand.value, operand.shape) if isinstance(operand.value, int | Decimal) else operand
        return Negate(single(operand, self._path), Shape(operand.shape.kind, operand.shape.type_name))

    def _operation(self, operator: str, left: Term, right: Term, at: int) -> Term:
        match operator:
            case "and" | "or" | "xor" | "implies":
                return Logic(operator, boolean(left, self._path, at), boolean(right, self._path, at))
            case "=" | "!=":
                return self._compared(operator, left, right, at)
            case "<" | "<=" | ">" | ">=":
                return self._compared(operator, left, right, at)
            case _:
                return self._computed(operator, left, right, at)

    def _compared(self, operator: str, left: Term, right: Term, at: int) -> Term:
        kinds = {left.shape.kind, right.shape.kind}
        ordered = operator not in {"=", "!="}
        if kinds & _STRUCTURED or (ordered and Kind.BOOLEAN in kinds):
            raise self._refusal(at, f"{operator!r} compares single values; name the element to compare")
        if Kind.NOTHING in kinds:
            return Value(None, _BOOLEAN)
        if right.shape.kind not in _family(left.shape.kind):
            what = f"a {left.shape.kind.value} with a {right.shape.kind.value}"
            raise self._refusal(at, f"{operator!r} compares {what}, which is never true")
        if operator in {"=", "!="}:
            return Equal(left, right, operator == "!=")
        sides = single(left, self._path), single(right, self._path)
        return Compare(operator, *sides)  # type: ignore[arg-type]  # the caller has matched the operator

    def _computed(self, operator: str, left: Term, right: Term, at: int) -> Term:
        kinds = {left.shape.kind, right.shape.kind}
        if Kind.NOTHING in kinds:
            return Value(None, NOTHING)
        if kinds == {Kind.TEXT} and operator == "+":
            result = Kind.TEXT
        elif kinds <= _NUMBERS:
            result = Kind.INTEGER if kinds == {Kind.INTEGER} and operator != "/" else Kind.DECIMAL
        else:
            raise self._refusal(at, f"{operator!r} is for two numbers" + (" or two texts" if operator == "+" else ""))
        shape = Shape(result, "string" if result is Kind.TEXT else result.value)
        sides = single(left, self._path), single(right, self._path)
        return Arithmetic(operator, *sides, shape)  # type: ignore[arg-type]  # one of + - * /, by the grammar
