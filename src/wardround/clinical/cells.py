"""One column as a source holds it: its cells as an array, and the distinct ones among them."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Cells", "array", "distinct"]

Cells = npt.NDArray[Any] | Sequence[object]
"""One column as the source holds it."""


def array(cells: Cells) -> npt.NDArray[Any]:
    """The cells as they are, in an array of objects where they are in none."""
    return cells if isinstance(cells, np.ndarray) else np.fromiter(cells, dtype=object, count=len(cells))


def distinct(column: npt.NDArray[Any]) -> tuple[list[object], npt.NDArray[np.int64]] | None:
    """The distinct cells, and for each cell its place among them; None where a cell is a list or another container."""
    if column.dtype.kind != "O":
        found, codes = np.unique(column, return_inverse=True)
        return found.tolist(), codes
    index: dict[object, int] = {}
    try:
        codes = np.fromiter((index.setdefault(cell, len(index)) for cell in column), dtype=np.int64, count=len(column))
    except TypeError:
        return None
    return list(index), codes
