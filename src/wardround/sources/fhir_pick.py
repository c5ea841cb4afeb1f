"""The simple terms on Arrow arrays: those that only pick something out of an item, and compute nothing.

Nearly every column of a view is such a term. The structures that DuckDB has made of the JSON come to us as Arrow
arrays, in which a field is had for nothing; to ask DuckDB for it is an expression to plan and a copy to make.
What is not simple, `wardround.sources.fhir_sql` computes.
"""

from decimal import Decimal
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from wardround.sources.fhir_elements import Kind
from wardround.sources.fhir_plan import Plan, Unnest
from wardround.sources.fhir_term import Exists, First, Focus, Step, Term, Value

__all__ = ["is_simple", "lengths", "picked", "raw_slots"]

_TYPES: Final = {Kind.BOOLEAN: pa.bool_(), Kind.INTEGER: pa.int64(), Kind.DECIMAL: pa.float64()}


def raw_slots(plan: Plan) -> frozenset[int]:
    """The slots whose items come as structures, as they are: the resource's, and each of which all is simple."""
    found = {0}
    for slot, stage in enumerate(plan.stages, 1):
        if isinstance(stage, Unnest) and stage.source in found and _is_all_simple(plan, slot):
            found.add(slot)
    return frozenset(found)


def is_simple(term: Term) -> bool:
    """Whether the term only picks a value, or a fixed one."""
    match term:
        case Focus(shape):
            return not shape.many
        case Value(value):
            return value is None or isinstance(value, str | bool | int | Decimal)
        case Exists(Step(source, (_,), _, _, shape)):
            return shape.kind is not Kind.CHOICE and not source.shape.many and is_simple(source)
        case Step(source, (_,), False, _, shape):
            return shape.kind is not Kind.CHOICE and not source.shape.many and is_simple(source)
        case First(source):
            return _is_simple_list(source)
        case _:
            return False


def picked(term: Term, items: pa.Array) -> pa.Array:
    """A simple term, or a simple list, of each item."""
    match term:
        case Value(value, shape):
            kind = _TYPES.get(shape.kind, pa.string())
            return pa.repeat(pa.scalar(float(value) if isinstance(value, Decimal) else value, kind), len(items))
        case Exists(source):
            found = picked(source, items)
            return (
                pc.fill_null(pc.greater(pc.list_value_length(found), 0), False)
                if source.shape.many
                else found.is_valid()
            )
        case Step(source, (key,)):
            return pc.struct_field(picked(source, items), key)
        case First(source):
            found = picked(source, items)
            long = lengths(found)
            first = np.cumsum(long) - long
            return found.flatten().take(pa.array(first, mask=long == 0))
        case _:
            return items


def lengths(lists: pa.Array) -> npt.NDArray[np.int64]:
    """How long each list is; none is as long as an empty one."""
    found: npt.NDArray[np.int64] = pc.list_value_length(lists).cast(pa.int64()).fill_null(0).to_numpy()
    return found


def _is_simple_list(term: Term) -> bool:
    return (
        isinstance(term, Step)
        and term.repeats
        and not term.gaps
        and not term.source.shape.many
        and is_simple(term.source)
    )


def _is_all_simple(plan: Plan, slot: int) -> bool:
    stage = plan.stages[slot - 1]
    if not isinstance(stage, Unnest) or not _is_simple_list(stage.term):
        return False
    cells = [(cell, column) for column in plan.columns for cell in column.cells if cell.slot == slot]
    below = [number for number, one in enumerate(plan.stages, 1) if isinstance(one, Unnest) and one.source == slot]
    return all(is_simple(cell.term) and not column.collection for cell, column in cells) and all(
        _is_all_simple(plan, number) for number in below
    )
