"""Typed terms as Python functions, and a plan's rows from one resource: the reference meaning of a view.

Every term becomes a closure of the item and its row index. A term whose shape has ``many`` returns a list
without None in it, any other a value or None. Dates and times are the text that was in the resource until
they are compared. Numbers compare as doubles, since that is what a column holds; sums and products are made in
decimal, so that 0.1 + 0.2 is 0.3.

What `wardround.sources.fhir_sql` computes must equal this, and where it cannot, this is what runs.
"""

import operator
from collections.abc import Callable
from decimal import Decimal
from typing import Any, Final, TypeAlias

from wardround.errors import ClinicalError
from wardround.sources import fhir_reference, fhir_time
from wardround.sources.fhir_elements import Kind
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
)
from wardround.sources.fhir_time import Moment

__all__ = ["Reader", "reader"]

Reader: TypeAlias = Callable[[Any, int], Any]
"""A term at work: from an item and its row index to a value, a list, or None."""

_MOMENTS: Final = frozenset({Kind.DATE, Kind.DATETIME, Kind.TIME})
_NUMBERS: Final = frozenset({Kind.INTEGER, Kind.DECIMAL})
_ORDER: Final[dict[str, Callable[[Any, Any], bool]]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


def reader(term: Term) -> Reader:  # noqa: C901, PLR0912, a case for each sort of term
    """The function that computes `term`; it raises ClinicalError where several values stand in a single's place."""
    match term:
        case Value(value):
            constant = value.text if isinstance(value, Moment) else value
            return lambda _item, _index: constant
        case Focus():
            return lambda item, _index: item
        case RowIndex():
            return lambda _item, index: index
        case Step():
            return _step(term)
        case Where():
            return _where(term)
        case First(source):
            listed = reader(source)
            return lambda item, index: next(iter(listed(item, index)), None)
        case Index():
            return _index(term)
        case Single(source, wanted_by):
            return _single(reader(source), wanted_by)
        case Exists(source):
            return _exists(source)
        case Not(operand):
            inner = reader(operand)
            return lambda item, index: None if (value := inner(item, index)) is None else not value
        case Logic():
            return _logic(term)
        case Equal():
            return _equal(term)
        case Compare():
            return _compare(term)
        case Arithmetic():
            return _arithmetic(term)
        case Negate(operand):
            inner = reader(operand)
            return lambda item, index: None if (value := inner(item, index)) is None else -value
        case Join(source, separator):
            texts = _lister(source)
            return lambda item, index: separator.join(texts(item, index))
        case ReferenceKey():
            return _reference_key(term)
        case Boundary():
            return _boundary(term)


def _lister(term: Term) -> Reader:
    inner = reader(term)
    if term.shape.many:
        return inner
    return lambda item, index: [] if (value := inner(item, index)) is None else [value]


def _step(term: Step) -> Reader:
    source, keys, key = reader(term.source), term.keys, term.keys[0]
    if term.source.shape.many:
        return _step_of_many(term, source)
    if term.repeats:
        return lambda item, index: (
            [] if (value := source(item, index)) is None else [one for one in value.get(key) or () if one is not None]
        )
    if len(keys) == 1:
        return lambda item, index: None if (value := source(item, index)) is None else value.get(key)

    def first_of(item: Any, index: int) -> Any:  # noqa: ANN401, any JSON value
        value = source(item, index)
        return None if value is None else next((one for name in keys if (one := value.get(name)) is not None), None)

    return first_of


def _step_of_many(term: Step, source: Reader) -> Reader:
    keys = term.keys
    if term.repeats:
        return lambda item, index: [
            one for value in source(item, index) for one in value.get(keys[0]) or () if one is not None
        ]
    return lambda item, index: [
        one for value in source(item, index) for name in keys if (one := value.get(name)) is not None
    ]


def _where(term: Where) -> Reader:
    source, criterion = reader(term.source), reader(term.criterion)
    if term.shape.many:
        return lambda item, index: [one for one in source(item, index) if criterion(one, index) is True]
    return lambda item, index: (
        value if (value := source(item, index)) is not None and criterion(value, index) is True else None
    )


def _index(term: Index) -> Reader:
    source, place = _lister(term.source), reader(term.index)

    def at(item: Any, index: int) -> Any:  # noqa: ANN401, any JSON value
        values, number = source(item, index), place(item, index)
        return values[number] if number is not None and 0 <= number < len(values) else None

    return at


def _single(source: Reader, wanted_by: str) -> Reader:
    def only(item: Any, index: int) -> Any:  # noqa: ANN401, any JSON value
        values = source(item, index)
        if len(values) > 1:
            problem = f"a resource has {len(values)} values where one belongs"
            raise ClinicalError(f"{wanted_by}: {problem}; use first() or where(), or set collection")
        return values[0] if values else None

    return only


def _exists(source: Term) -> Reader:
    inner = reader(source)
    if source.shape.many:
        return lambda item, index: bool(inner(item, index))
    return lambda item, index: inner(item, index) is not None


def _logic(term: Logic) -> Reader:
    left, right = reader(term.left), reader(term.right)

    def conjunction(item: Any, index: int) -> bool | None:  # noqa: ANN401, any JSON value
        if (first := left(item, index)) is False:
            return False
        second = right(item, index)
        return second if first or second is False else None

    def disjunction(item: Any, index: int) -> bool | None:  # noqa: ANN401, any JSON value
        if (first := left(item, index)) is True:
            return True
        second = right(item, index)
        return second if first is False or second else None

    def implication(item: Any, index: int) -> bool | None:  # noqa: ANN401, any JSON value
        if (first := left(item, index)) is False:
            return True
        second = right(item, index)
        return second if first or second else None

    def difference(item: Any, index: int) -> bool | None:  # noqa: ANN401, any JSON value
        first, second = left(item, index), right(item, index)
        return None if first is None or second is None else first is not second

    return {"and": conjunction, "or": disjunction, "implies": implication, "xor": difference}[term.operator]


def _order_of(left: Term, right: Term) -> Callable[[Any, Any], int | None]:
    kinds = {left.shape.kind, right.shape.kind}
    if kinds & _MOMENTS:
        kind_left, kind_right = left.shape.kind, right.shape.kind

        def moments(first: str, second: str) -> int | None:
            one, other = fhir_time.read(kind_left, first), fhir_time.read(kind_right, second)
            return None if one is None or other is None else fhir_time.compare(one, other)

        return moments
    if kinds & _NUMBERS:
        return lambda first, second: (float(first) > float(second)) - (float(first) < float(second))
    return lambda first, second: (first > second) - (first < second)


def _equal(term: Equal) -> Reader:
    left, right = _lister(term.left), _lister(term.right)
    order, negated = _order_of(term.left, term.right), term.negated

    def equal(item: Any, index: int) -> bool | None:  # noqa: ANN401, any JSON value
        # (6.1.1) Empty if either is; otherwise as many items, equal one by one.
        first, second = left(item, index), right(item, index)
        if not first or not second:
            return None
        orders = [order(*pair) for pair in zip(first, second, strict=False)]
        if len(first) != len(second) or any(orders):
            return negated
        return None if None in orders else not negated

    return equal


def _compare(term: Compare) -> Reader:
    left, right, order = reader(term.left), reader(term.right), _order_of(term.left, term.right)
    holds = _ORDER[term.operator]

    def compared(item: Any, index: int) -> bool | None:  # noqa: ANN401, any JSON value
        first, second = left(item, index), right(item, index)
        if first is None or second is None:
            return None
        found = order(first, second)
        return None if found is None else holds(found, 0)

    return compared


def exact(number: float | Decimal) -> Decimal:
    """The number that was written: a double is the shortest decimal that reads as it."""
    return Decimal(repr(number)) if isinstance(number, float) else Decimal(number)


def _arithmetic(term: Arithmetic) -> Reader:
    left, right, sign = reader(term.left), reader(term.right), term.operator
    plain = term.shape.kind is not Kind.DECIMAL

    def computed(item: Any, index: int) -> Any:  # noqa: ANN401, a number or a text
        first, second = left(item, index), right(item, index)
        if first is None or second is None:
            return None
        if not plain:
            first, second = exact(first), exact(second)
        match sign:
            case "+":
                return first + second
            case "-":
                return first - second
            case "*":
                return first * second
            case "/":
                return first / second if second else None  # (6.6.2) Nothing is divided by zero.

    return computed


def _reference_key(term: ReferenceKey) -> Reader:
    source, target = reader(term.source), term.target
    if not term.shape.many:
        return lambda item, index: None if (value := source(item, index)) is None else fhir_reference.key(value, target)
    return lambda item, index: [
        key for value in source(item, index) if (key := fhir_reference.key(value, target)) is not None
    ]


def _boundary(term: Boundary) -> Reader:
    source, kind, high, digits = reader(term.operand), term.operand.shape.kind, term.high, term.digits

    def bound(item: Any, index: int) -> Any:  # noqa: ANN401, a number or a text
        value = source(item, index)
        if value is None:
            return None
        if kind in _NUMBERS:
            return fhir_time.decimal_boundary(exact(value), high=high, digits=digits)
        moment = fhir_time.read(kind, value)
        return None if moment is None else fhir_time.boundary(moment, high=high, digits=digits)

    return bound
