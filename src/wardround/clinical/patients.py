"""Which records are one patient's: identifiers in, numbers from 0 out, and the deal into training and holdout.

Rules:

1. An identifier is a text, without the white space around it, or a whole number; the numbers 7 and 7.0 and the
   text "7" are one, and the text "7.0" is another.
2. A cell that is anything else refuses the load: a date or a truth value names no patient, and a large number
   that a source hands over in floating point may stand for several.
3. A missing token is looked up first, then the site's `values`, as for any other column.
4. A patient is dealt by a hash of seed and identifier: other patients, and more records of this one, do not move
   it. Where the contract names no patient column, each record is a patient of its own, dealt by its place.

Hazard: identifiers stay in here. They are in no message and no repr, and leave as numbers in order of appearance.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal

import numpy as np
import numpy.typing as npt

from wardround.clinical import cells as columns
from wardround.clinical.cells import Cells
from wardround.errors import ClinicalError, ColumnTypeError

__all__ = ["Owners", "apart", "dealt", "each_its_own", "identified", "numbered"]

_LONGEST = 10**38
_EXACT_FLOAT = 2.0**53


@dataclass(frozen=True, slots=True, repr=False)
class Owners:
    """Whose records they are.

    Attributes:
        codes: int64 ``(records,)``: the patient's place in `hashes`, or -1 where the identifier is missing.
        hashes: uint64, for each patient, by which the holdout is dealt.
    """

    codes: npt.NDArray[np.int64]
    hashes: npt.NDArray[np.uint64]


def each_its_own(records: int, seed: int) -> Owners:
    """Every record is a patient; its hash depends on its place in the source alone."""
    places = np.arange(records)
    key = np.array([seed & 0xFFFFFFFFFFFFFFFF], dtype=np.uint64)
    return Owners(places, _mixed(_mixed(key) ^ places.astype(np.uint64)))


def identified(name: str, cells: Cells, values: Mapping[str, str], missing: Sequence[str], seed: int) -> Owners:
    """Records are told apart by the column `name`, whose cells are identifiers.

    Raises:
        ColumnTypeError: Some are none.
    """
    array = columns.array(cells)
    # numpy would give an instant out as an integer, which would pass for an identifier.
    found = None if array.dtype.kind in "mM" else columns.distinct(array)
    if found is None:
        raise ColumnTypeError(f"column {name!r}: cells are dates or containers, and a patient is named by a text")
    texts = [_spelled(cell) for cell in found[0]]
    places = found[1]
    if wrong := int(np.array([text is None for text in texts], dtype=np.bool_)[places].sum()):
        raise ColumnTypeError(
            f"column {name!r}: {wrong} of {len(places)} cells name no patient: have texts or whole numbers there, "
            "long numbers as text"
        )
    index: dict[str, int] = {}
    meanings = ["" if not text or text in missing else values.get(text, text) for text in texts]
    codes = [index.setdefault(meaning, len(index)) if meaning else -1 for meaning in meanings]
    hashes = np.array([_hash(identifier, seed) for identifier in index], dtype=np.uint64)
    return Owners(np.array(codes, dtype=np.int64)[places], hashes)


def numbered(owners: Owners, keep: npt.NDArray[np.bool_]) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.uint64]]:
    """The patients of the records to keep, from 0 in order of appearance; and for each patient its hash."""
    codes, first, places = np.unique(owners.codes[keep], return_index=True, return_inverse=True)
    order = np.argsort(first)
    numbers = np.empty(len(order), dtype=np.int32)
    numbers[order] = np.arange(len(order), dtype=np.int32)
    return numbers[places], owners.hashes[codes[order]]


def dealt(share: float, patients: npt.NDArray[np.int32], hashes: npt.NDArray[np.uint64]) -> npt.NDArray[np.bool_]:
    """Hold out this share of the patients, exactly, with all their records; one at least remains to train on."""
    number = min(round(share * len(hashes)), len(hashes) - 1)
    held_out = np.zeros(len(hashes), dtype=np.bool_)
    held_out[np.argsort(hashes, kind="stable")[:number]] = True
    return held_out[patients]


def apart(name: str, held_out: npt.NDArray[np.bool_], patients: npt.NDArray[np.int32]) -> None:
    """Refuse a split, stated in the column `name`, that has a patient on both sides.

    Raises:
        ClinicalError: With how many there are.
    """
    records = np.bincount(patients)
    outside = np.bincount(patients[held_out], minlength=len(records))
    if divided := int(((outside > 0) & (outside < records)).sum()):
        raise ClinicalError(
            f"column {name!r}: {divided} of {len(records)} patients have records on both sides of the split: "
            "a patient trains or is held out"
        )


def _spelled(cell: object) -> str | None:
    # Empty where there is none; None for what is no identifier.
    if cell is None:
        return ""
    if isinstance(cell, str):
        return cell.strip()
    cell = cell.item() if isinstance(cell, np.generic) else cell
    if isinstance(cell, bool) or not isinstance(cell, (int, float, Decimal)):
        return None
    if cell != cell:  # noqa: PLR0124, NaN
        return ""
    whole = -_LONGEST < cell < _LONGEST and cell == int(cell)
    return str(int(cell)) if whole and not (isinstance(cell, float) and abs(cell) >= _EXACT_FLOAT) else None


def _hash(identifier: str, seed: int) -> int:
    text = f"wardround holdout 1\n{seed}\n{identifier}".encode(errors="surrogatepass")
    return int.from_bytes(hashlib.sha256(text).digest()[:8], "big")


def _mixed(words: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    # The output function of SplitMix64 (Steele, Lea, Flood, OOPSLA 2014): a bijection, so no two hashes tie.
    words = words + np.uint64(0x9E3779B97F4A7C15)
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))
