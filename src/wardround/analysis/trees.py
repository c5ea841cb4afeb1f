"""One regression tree as arrays: where records go, what a node's histogram holds, and the best split of it.

A histogram of a node has, for each column in turn, a bin below the first threshold, one from each threshold to
the next, and one of missing values; and in each bin the sum of g, the sum of h, and the number of records.
With k thresholds there are k + 2 bins. Splits and their gains are those of `wardround.analysis.boosting`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
import numpy.typing as npt

__all__ = [
    "PRESENT",
    "UNIT",
    "Split",
    "Tree",
    "best_split",
    "histograms",
    "is_sound",
    "leaves",
    "margins",
    "readable",
    "with_split",
]

_Vector = npt.NDArray[np.float64]
_Columns = npt.NDArray[np.float32]
_LEAST_GAIN = 1e-6

PRESENT = float(np.finfo(np.float32).max)
"""The threshold that every value is below: the split asks whether there is one."""
UNIT = 2.0**-30
"""What sums of g and h are whole multiples of; also the least h."""


class Tree(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One tree as arrays over its nodes, the root first.

    `column` is a place in the analysis' columns, -1 for a leaf, which is its own child. A record goes to `left` if
    its value is below `threshold`, or is missing and `is_left_default`. `value` is what a leaf adds to the margin.
    """

    column: tuple[int, ...] = (-1,)
    threshold: tuple[float, ...] = (0.0,)
    is_left_default: tuple[bool, ...] = (False,)
    left: tuple[int, ...] = (0,)
    right: tuple[int, ...] = (0,)
    value: tuple[float, ...] = (0.0,)


@dataclass(frozen=True, slots=True)
class Split:
    """A split of one node, its gain, and sum of g, sum of h and records on either side: float64 ``(3,)``."""

    gain: float
    column: int
    threshold: float
    is_left_default: bool
    left: _Vector
    right: _Vector


def is_sound(tree: Tree, width: int) -> bool:
    """Whether this is a tree over `width` columns, so that following it ends, and at a number."""
    size = len(tree.column)
    if {len(field) for field in msgspec.structs.astuple(tree)} != {size} or size == 0:
        return False
    nodes = zip(tree.column, tree.left, tree.right, strict=True)
    return all(map(math.isfinite, (*tree.threshold, *tree.value))) and all(
        -1 <= column < width and (column < 0 or (node < left < size and node < right < size))
        for node, (column, left, right) in enumerate(nodes)
    )


def leaves(tree: Tree, values: _Columns) -> npt.NDArray[np.intp]:
    """The node at which each record ends.

    Args:
        tree: Children come after their parents: one pass over the nodes leads every record to its leaf.
        values: float32 ``(columns, records)``; NaN is missing.

    Returns:
        intp ``(records,)``.
    """
    at = np.zeros(values.shape[1], np.intp)
    for node, column in enumerate(tree.column):
        if column >= 0:
            own, threshold = values[column], np.float32(tree.threshold[node])
            is_left = ~(own >= threshold) if tree.is_left_default[node] else own < threshold
            here = at == node
            at[here & is_left] = tree.left[node]
            at[here & ~is_left] = tree.right[node]
    return at


def margins(base: float, trees: Sequence[Tree], values: _Columns) -> _Vector:
    """The base, and what the leaves of all trees add to it: float64 ``(records,)``."""
    total = np.full(values.shape[1], base)
    for tree in trees:
        total += np.array(tree.value)[leaves(tree, values)]
    return total


def histograms(
    nodes: npt.NDArray[np.intp],
    frontier: Sequence[int],
    values: _Columns,
    all_cuts: Sequence[_Columns],
    weights: tuple[_Vector, _Vector],
) -> _Vector:
    """Histograms of some nodes, from the records that ended there.

    Args:
        nodes: Where each record ended, intp ``(records,)``.
        frontier: The nodes wanted.
        values: float32 ``(columns, records)``; NaN is missing.
        all_cuts: Rising thresholds of each column.
        weights: g and h of each record, float64 ``(records,)``.

    Returns:
        float64 ``(nodes wanted, bins of all columns, 3)``.
    """
    slots = np.full(max(nodes.max(initial=0), *frontier) + 1, -1)
    slots[list(frontier)] = np.arange(len(frontier))
    slot = slots[nodes]
    kept = slot >= 0
    slot, gradient, hessian = slot[kept], weights[0][kept], weights[1][kept]
    parts = []
    for own, cuts in zip(values[:, kept], all_cuts, strict=True):
        size = cuts.size + 2
        place = np.where(np.isnan(own), cuts.size + 1, np.searchsorted(cuts, own, side="right")) + slot * size
        counts = [np.bincount(place, weight, len(frontier) * size) for weight in (gradient, hessian, None)]
        parts.append(np.stack(counts, axis=-1).reshape(len(frontier), size, 3))
    return np.concatenate(parts, axis=1)


def best_split(histogram: _Vector, all_cuts: Sequence[_Columns], l2: float, least: int) -> Split | None:
    """The split with the largest gain that leaves `least` records on either side; None where none gains.

    Of equals, the first column and the lowest threshold win.
    """
    best, begin = None, 0
    for column, cuts in enumerate(all_cuts):
        own = histogram[begin : begin + cuts.size + 2]
        begin += cuts.size + 2
        total, missing = own.sum(axis=0), own[-1]
        present = np.cumsum(own[:-1], axis=0)
        left = np.stack([present, present + missing])
        right = total - left
        gain = _score(left, l2) + _score(right, l2) - _score(total, l2)
        gain = np.where(np.minimum(left[..., 2], right[..., 2]) >= least, gain, 0.0)
        side, place = divmod(int(np.argmax(gain)), present.shape[0])
        if gain[side, place] > max(best.gain if best else 0.0, _LEAST_GAIN):
            one, other = left[side, place], right[side, place]
            is_left = bool(side) if missing[2] > 0 else bool(one[2] >= other[2])
            threshold = float(cuts[place]) if place < cuts.size else PRESENT
            best = Split(float(gain[side, place]), column, threshold, is_left, one, other)
    return best


def with_split(tree: Tree, node: int, split: Split, values: Sequence[float]) -> Tree:
    """The tree whose leaf `node` is split; its children come last, with these two values."""
    size = len(tree.column)
    rows = list(zip(*msgspec.structs.astuple(tree), strict=True))
    rows[node] = (split.column, split.threshold, split.is_left_default, size, size + 1, 0.0)
    rows += [(-1, 0.0, False, child, child, value) for child, value in zip((size, size + 1), values, strict=True)]
    columns = zip(*rows, strict=True)
    return Tree(**dict(zip(Tree.__struct_fields__, columns, strict=True)))


def readable(tree: Tree, names: Sequence[str], node: int = 0) -> dict[str, object]:
    """The tree below a node as nested values that JSON holds; see `wardround.analysis.boosting.result`."""
    if tree.column[node] < 0:
        return {"value": tree.value[node]}
    threshold = tree.threshold[node]
    return {
        "column": names[tree.column[node]],
        "below": None if threshold >= PRESENT else threshold,
        "missing": "left" if tree.is_left_default[node] else "right",
        "left": readable(tree, names, tree.left[node]),
        "right": readable(tree, names, tree.right[node]),
    }


def _score(sums: _Vector, l2: float) -> _Vector:
    score: _Vector = np.square(sums[..., 0]) / (np.maximum(sums[..., 1], UNIT) + l2)
    return score
