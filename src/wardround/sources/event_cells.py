"""A column's cells as texts and numbers, as an event needs them: vectorized, and never guessed.

Whatever the column's type (a database's, a Parquet file's, or the text of a CSV file), what comes out is one Arrow
array as long as the column. A cell that is absent is null; one that cannot be understood is null and is counted by
whoever asked. White space around a text is dropped, and an empty text is absent.

Hazard: the cells are patients'. Nothing here puts one into a message, and Arrow's own messages, which do, are not to
be passed on.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from wardround.errors import ClinicalError

__all__ = ["BLANKS", "COMPARATORS", "Numbers", "called", "mask", "numbers", "replaced", "texts"]

BLANKS: Final = " \t\r\n"
"""What is dropped around a text: here, and where a database compares codes for us."""
COMPARATORS: Final = {"<": "<", "<=": "<=", "≤": "<=", ">": ">", ">=": ">=", "≥": ">=", "=": "", "==": ""}

_Mask = npt.NDArray[np.bool_]
_NONE: Final = pa.scalar(None, pa.string())
_DECIMAL_POINT = r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]{1,3})?"
_DECIMAL_COMMA = _DECIMAL_POINT.replace(r"\.", ",")
_WHOLE: Final = 2**53
"""From here on a float no longer says which whole number it was."""


@dataclass(frozen=True, slots=True)
class Numbers:
    """`number` and `comparator` as `EVENT` has them; `strange` is where a cell is there but no number."""

    number: pa.Array
    comparator: pa.Array | None
    strange: _Mask


def mask(array: pa.Array) -> _Mask:
    """An Arrow truth column for numpy; null is False."""
    return np.asarray(array.fill_null(False) if array.null_count else array)


def called(kind: pa.DataType) -> str:
    """What a column of this Arrow type holds, for an error."""
    return "something nested" if pa.types.is_nested(kind) else f"cells of the type {kind}"


def texts(column: pa.Array, name: str) -> pa.Array:
    """The cells as texts; whole numbers without a point.

    Raises:
        ClinicalError: The column holds bytes or something nested.
    """
    kind = column.type
    if pa.types.is_dictionary(kind):
        return texts(column.dictionary, name).take(column.indices.cast(pa.int64()))
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return _trimmed(column.cast(pa.string()))
    if pa.types.is_floating(kind):
        return _float_texts(column.cast(pa.float64()))
    if pa.types.is_decimal(kind):
        return pc.replace_substring_regex(column.cast(pa.string()), r"\.0+$", "")
    if pa.types.is_integer(kind) or pa.types.is_boolean(kind) or pa.types.is_temporal(kind) or pa.types.is_null(kind):
        return column.cast(pa.string())
    raise ClinicalError(f"column {name!r} holds {called(kind)}, which is no text, number or time: leave it out")


def replaced(column: pa.Array, words: Mapping[str, str]) -> tuple[pa.Array, _Mask]:
    """Texts by a dictionary of them, and where a text is none of its entries (null there)."""
    coded = column.dictionary_encode()
    found = pa.array([words.get(word) for word in coded.dictionary.to_pylist()], pa.string()).take(coded.indices)
    return found, mask(pc.and_(found.is_null(), column.is_valid()))


def numbers(column: pa.Array, name: str, *, decimal_comma: bool) -> Numbers:
    """The cells as numbers; a text may begin with a comparator (``<5``).

    With `decimal_comma`, "5,2" is a number and "5.2" is not, since nobody can say whether "5.200" is five thousand.

    Raises:
        ClinicalError: The column holds bytes, times or something nested.
    """
    kind = column.type
    if pa.types.is_dictionary(kind):
        return numbers(column.cast(kind.value_type), name, decimal_comma=decimal_comma)
    if pa.types.is_temporal(kind):
        raise ClinicalError(f"column {name!r} holds times, and a number is asked of it")
    if pa.types.is_boolean(kind):
        column = column.cast(pa.uint8())
    if not pa.types.is_primitive(kind) and not pa.types.is_decimal(kind):
        return _parsed(texts(column, name), decimal_comma=decimal_comma)
    return _finite(column.cast(pa.float64(), safe=False), None, np.zeros(len(column), np.bool_))


def _trimmed(column: pa.Array) -> pa.Array:
    trimmed = pc.utf8_trim(column, BLANKS)
    empty = pc.equal(trimmed, "")
    return pc.if_else(empty, _NONE, trimmed) if pc.any(empty).as_py() else trimmed


def _float_texts(column: pa.Array) -> pa.Array:
    cells = np.asarray(column.fill_null(np.nan))
    whole = (np.floor(cells) == cells) & (np.abs(cells) < _WHOLE)
    short = pa.array(np.where(whole, cells, 0).astype(np.int64)).cast(pa.string())
    if whole.all():
        return short
    known = np.isfinite(cells) & (np.abs(cells) < _WHOLE)
    return pc.if_else(pa.array(known), pc.if_else(pa.array(whole), short, column.cast(pa.string())), _NONE)


def _parsed(cells: pa.Array, *, decimal_comma: bool) -> Numbers:
    form = _DECIMAL_COMMA if decimal_comma else _DECIMAL_POINT
    plain = pc.match_substring_regex(cells, f"^{form}$")
    number = _cast(pc.if_else(plain, cells, _NONE), decimal_comma=decimal_comma)
    others = mask(pc.invert(plain))
    if not others.any():
        return _finite(number, None, others)
    parts = pc.extract_regex(
        pc.if_else(pa.array(others), cells, _NONE), pattern=rf"^(?P<sign><=|>=|[<>≤≥])\s*(?P<number>{form})$"
    )
    bound = _cast(pc.struct_field(parts, "number"), decimal_comma=decimal_comma)
    comparator, _ = replaced(pc.struct_field(parts, "sign"), COMPARATORS)
    return _finite(pc.coalesce(number, bound), comparator, others & ~mask(bound.is_valid()))


def _cast(cells: pa.Array, *, decimal_comma: bool) -> pa.Array:
    pointed = pc.replace_substring(cells, ",", ".") if decimal_comma else cells
    # Arrow knows no leading plus.
    return pc.utf8_ltrim(pointed, "+").cast(pa.float64())


def _finite(number: pa.Array, comparator: pa.Array | None, strange: _Mask) -> Numbers:
    if pc.all(pc.is_finite(number)).as_py() is not False:
        return Numbers(number, comparator, strange)
    # NaN is how numbers without a null write one; an infinity is no measurement.
    kept = pc.if_else(pc.is_finite(number), number, pa.scalar(None, pa.float64()))
    return Numbers(kept, comparator, strange | mask(pc.is_inf(number)))
