"""A `Recipe` applied to the columns of a chunk: the pass in which the updates become one.

    mixed  = rows @ updates             float64; left out where nothing is mixed
    sum       the mixed row itself      in the order of the updates, elementwise: bit for bit the same anywhere
    median    middle order statistics of each column, their mean where there are two
    trimmed   mean of the `keep` order statistics in the middle
    closest   mean of the `keep` values nearest to the median: the best of all windows of sorted values

Memory is one `Workspace` per thread, whatever the length of a chunk. Blocks have a fixed width, so the result
does not depend on how columns are cut into chunks, if chunks are multiples of `BLOCK`.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from wardround.aggregation import mean, selection
from wardround.aggregation.robust import Recipe

__all__ = ["BLOCK", "Workspace", "combine"]

BLOCK = 64 * 1024
"""Columns at a time: large enough that the interpreter's part is small beside the minima and maxima."""

_Wide = npt.NDArray[np.float64]
_Rows = Sequence[npt.NDArray[np.floating]]


class Workspace:
    """Buffers that one thread uses again and again: fresh memory would cost more than the arithmetic."""

    __slots__ = ("_buffers",)

    def __init__(self) -> None:
        self._buffers: dict[tuple[str, str], npt.NDArray[np.floating]] = {}

    def rows(self, purpose: str, shape: tuple[int, int], dtype: npt.DTypeLike) -> npt.NDArray[np.floating]:
        """An array of this shape, whose content does not matter; the same memory for the same purpose."""
        key = (purpose, np.dtype(dtype).str)
        found = self._buffers.get(key)
        if found is None or found.shape[0] < shape[0] or found.shape[1] < shape[1]:
            found = self._buffers[key] = np.empty(shape, dtype)
        return found[: shape[0], : shape[1]]


def combine(recipe: Recipe, chunks: _Rows, out: _Wide, space: Workspace) -> None:
    """Write what `recipe` makes of the updates' columns to `out`.

    Args:
        recipe: Made for as many updates.
        chunks: float32 or float64, shape=(columns,), one per update, finite; read only.
        out: float64, shape=(columns,).
        space: This thread's.

    Raises:
        ValueError: Numbers or lengths differ.
    """
    if not chunks or any(chunk.shape != out.shape for chunk in chunks):
        raise ValueError("chunks and out must have one shape")
    if recipe.rows is not None and recipe.rows.shape[1] != len(chunks):
        raise ValueError(f"a recipe for {recipe.rows.shape[1]} updates, and {len(chunks)} of them")
    if recipe.kernel == "sum":
        _sum(recipe, chunks, out, space)
        return
    for start in range(0, out.size, BLOCK):
        block = out[start : start + BLOCK]
        rows: _Rows = [chunk[start : start + BLOCK] for chunk in chunks]
        if recipe.rows is not None:
            rows = list(_mixed(recipe.rows, rows, space))
        _ordered(recipe, rows, block, space)


def _sum(recipe: Recipe, rows: _Rows, out: _Wide, space: Workspace) -> None:
    if recipe.rows is None or len(recipe.rows) != 1:
        raise ValueError("a sum has one row of coefficients")
    used = [place for place, coefficient in enumerate(recipe.rows[0]) if coefficient]
    if not used:
        out[:] = 0.0
        return
    scratch = space.rows("sum", (1, out.size), np.float64)[0]
    coefficients = [float(recipe.rows[0, place]) for place in used]
    mean.weighted_sum([rows[place] for place in used], coefficients, out, scratch)


def _mixed(matrix: _Wide, rows: _Rows, space: Workspace) -> npt.NDArray[np.floating]:
    wide = space.rows("wide", (len(rows), rows[0].size), np.float64)
    for place, row in enumerate(rows):
        wide[place] = row
    mixed = space.rows("mixed", (len(matrix), rows[0].size), np.float64)
    np.matmul(matrix, wide, out=mixed)
    return mixed


def _ordered(recipe: Recipe, rows: _Rows, out: _Wide, space: Workspace) -> None:
    count = len(rows)
    match recipe.kernel:
        case "median":
            wanted = tuple(range((count - 1) // 2, count // 2 + 1))
        case "trimmed":
            start = (count - recipe.keep) // 2
            wanted = tuple(range(start, start + recipe.keep))
        case _:
            wanted = tuple(range(count))
    program = selection.compile_network(count, wanted)
    scratch = space.rows("network", (program.scratch, out.size), rows[0].dtype)
    found = selection.run(program, rows, list(scratch))
    if recipe.kernel == "closest":
        _closest(found, recipe.keep, out, space)
    else:
        _average(found, out)


def _average(rows: _Rows, out: _Wide) -> None:
    np.copyto(out, rows[0])
    for row in rows[1:]:
        np.add(out, row, out=out)
    if len(rows) > 1:
        np.multiply(out, 1.0 / len(rows), out=out)


def _closest(ascending: _Rows, keep: int, out: _Wide, space: Workspace) -> None:
    count = len(ascending)
    middle, total, reach, best = space.rows("closest", (4, out.size), np.float64)
    _average(ascending[(count - 1) // 2 : count // 2 + 1], middle)
    best[:] = np.inf
    for start in range(count - keep + 1):
        window = ascending[start : start + keep]
        # A window of sorted values reaches as far from the median as the farther of its two ends.
        np.maximum(middle - window[0], window[-1] - middle, out=reach)
        nearer = reach < best
        if nearer.any():
            _average(window, total)
            np.copyto(out, total, where=nearer)
            np.copyto(best, reach, where=nearer)
