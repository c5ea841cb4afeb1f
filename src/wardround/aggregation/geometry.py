"""How far apart the sites' updates lie: one pass over the columns gives every distance, norm and angle.

    G_ij = sum over columns of (x_i - c) * (x_j - c)        c: a centre, chosen anew in each block of columns
    |x_i - x_j|^2 = G_ii + G_jj - 2 G_ij                    whatever the centre was

The zero vector is one of the points, so norms and angles about it follow from the same matrix. Updates of
one round lie close together, and far from zero beside their distances: without a centre the differences
cancel in float32, and whoever lies a little off cannot be told from the rest. So each block of columns is centred
on the mean of the half of the updates that is shortest there, which no minority of huge updates can move.
Products within a block are float32, sums of blocks float64. Where that does not resolve the distances
(`is_resolved`: the centre was spoilt, or values overflow), the pass is made again in float64.

Blocks have a fixed width and partial sums are added in order, so the matrix does not depend on how columns
are dealt to threads or machines. Its last bits may depend on the processor's matrix library.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["BLOCK", "Geometry", "centred_gram", "is_resolved", "scratch_rows"]

BLOCK = 32 * 1024
"""Columns that are centred and multiplied at a time."""

_ROUNDING = 2.0**-18
"""The relative error of one block's products in float32; some four times what random values give."""

_Matrix = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Geometry:
    """Points by a centred Gram matrix, the last of them the zero vector.

    `gram` is float64, shape=(n + 1, n + 1) for ``n`` updates.
    """

    gram: _Matrix

    @property
    def count(self) -> int:
        """How many updates there are."""
        return len(self.gram) - 1

    def squared_distances(self) -> _Matrix:
        """Between all updates; float64, shape=(n, n), symmetric, zero on the diagonal."""
        return _squared_distances(self.gram)[:-1, :-1]

    def norms(self) -> _Matrix:
        """Of all updates; float64, shape=(n,)."""
        return np.sqrt(_squared_distances(self.gram)[-1, :-1])

    def dots(self) -> _Matrix:
        """Inner products about zero; float64, shape=(n, n)."""
        inner, corner, origin = self.gram[:-1, :-1], self.gram[-1, -1], self.gram[-1, :-1]
        dots: _Matrix = inner + corner - origin[:, None] - origin[None, :]
        return dots

    def cosines(self) -> _Matrix:
        """Of all angles about zero; 0 with an update that is zero. float64, shape=(n, n)."""
        norms = self.norms()
        scale = np.outer(norms, norms)
        cosines = np.divide(self.dots(), scale, out=np.zeros_like(scale), where=scale > 0)
        return np.clip(cosines, -1.0, 1.0)

    def mapped(self, rows: _Matrix) -> "Geometry":
        """The geometry of ``rows @ updates``: of other points made from these. `rows` is float64, shape=(m, n)."""
        lifted = np.zeros((len(rows) + 1, self.count + 1))
        lifted[:-1, :-1] = rows
        # The centre is subtracted from a combination as often as its coefficients say.
        lifted[:-1, -1] = 1.0 - rows.sum(axis=1)
        lifted[-1, -1] = 1.0
        return Geometry(lifted @ self.gram @ lifted.T)


def scratch_rows(count: int) -> int:
    """Rows of scratch for `count` updates and zero: a multiple of 8, where matrix libraries are twice as fast."""
    return -(-(count + 1) // 8) * 8


def centred_gram(
    chunks: Sequence[npt.NDArray[np.floating]], scratch: npt.NDArray[np.floating] | None = None
) -> _Matrix:
    """What one chunk of columns adds to the Gram matrix of the updates and zero.

    Args:
        chunks: One per update, each of shape=(columns,).
        scratch: float32 or float64, shape=(scratch_rows(n), BLOCK), which decides the precision of products;
            overwritten.

    Returns:
        float64, shape=(n + 1, n + 1). Not finite where products overflow.

    Raises:
        ValueError: There is no update, or lengths differ.
    """
    if not chunks or any(chunk.shape != chunks[0].shape for chunk in chunks):
        raise ValueError("expected at least one update, all of one length")
    count, columns = len(chunks), chunks[0].size
    scratch = np.empty((scratch_rows(count), BLOCK), np.float32) if scratch is None else scratch
    scratch[count + 1 :] = 0.0
    total = np.zeros((len(scratch), len(scratch)))
    with np.errstate(over="ignore", invalid="ignore"):
        shares = _shortest_half([chunk[:BLOCK] for chunk in chunks]).astype(scratch.dtype)
        for start in range(0, columns, BLOCK):
            points = scratch[:, : min(BLOCK, columns - start)]
            for place, chunk in enumerate(chunks):
                points[place] = chunk[start : start + BLOCK]
            centre = shares @ points[:count]
            points[:count] -= centre
            np.negative(centre, out=points[count])
            total += points @ points.T
    return total[: count + 1, : count + 1]


def is_resolved(gram: _Matrix) -> bool:
    """Whether float32 products were precise enough to tell distances from rounding.

    The scale is each update's distance to the nearest half of the others, which for an honest one lies within the
    honest spread, whatever a minority does.
    """
    if not np.isfinite(gram).all():
        return False
    squares = _squared_distances(gram)[:-1, :-1]
    count = len(squares)
    if count < 2:
        return True
    own = np.diagonal(gram)[:-1]
    near = np.partition(squares, count // 2, axis=1)[:, count // 2]
    scales = np.maximum(squares, np.minimum(near[:, None], near[None, :]))
    errors = _ROUNDING * (own[:, None] + own[None, :])
    return bool((errors <= 0.01 * scales)[np.triu_indices(count, 1)].all())


def _shortest_half(blocks: Sequence[npt.NDArray[np.floating]]) -> _Matrix:
    """Weights of a mean over the updates that are no longer than the median one."""
    lengths = np.array([np.dot(block, block) for block in blocks], np.float64)
    place = (len(blocks) - 1) // 2
    short = lengths <= np.partition(lengths, place)[place]
    shares: _Matrix = short / short.sum()
    return shares


def _squared_distances(gram: _Matrix) -> _Matrix:
    own = np.diagonal(gram)
    squares = np.maximum(own[:, None] + own[None, :] - 2.0 * gram, 0.0)
    np.fill_diagonal(squares, 0.0)
    return squares
