"""How far apart the sites' updates lie: one pass over the columns gives every distance, norm and angle.

    G_ij = sum over columns of (x_i - c) * (x_j - c)        c: a centre, chosen anew in each block of columns
    |x_i - x_j|^2 = G_ii + G_jj - 2 G_ij                    whatever the centre was

The zero vector is one of the points, so norms and angles about it follow from the same matrix. Updates of
one round lie close together, and far from zero beside their distances: without a centre the differences
cancel, and with float32 products whoever lies a little off cannot be told from the rest. Here products
are float64 and each block is centred on the mean of the half of the updates that is shortest there, which no
minority of huge updates can move.

Blocks have a fixed width and partial sums are added in order, so the matrix does not depend on how columns
are dealt to threads or machines. Its last bits may depend on the processor's matrix library.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["BLOCK", "Geometry", "centred_gram"]

BLOCK = 4096
"""Columns that are centred and multiplied at a time; the processor's second cache holds them in float64."""

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


def centred_gram(chunks: Sequence[npt.NDArray[np.floating]], scratch: _Matrix | None = None) -> _Matrix:
    """What one chunk of columns adds to the Gram matrix of the updates and zero.

    Args:
        chunks: One per update, each of shape=(columns,).
        scratch: float64, shape=(n + 1, BLOCK); overwritten. Without it, one is allocated.

    Returns:
        float64, shape=(n + 1, n + 1). Not finite where values of about 1e150 and more overflow.

    Raises:
        ValueError: There is no update, or lengths differ.
    """
    if not chunks or any(chunk.shape != chunks[0].shape for chunk in chunks):
        raise ValueError("expected at least one update, all of one length")
    count, columns = len(chunks), chunks[0].size
    scratch = np.empty((count + 1, BLOCK)) if scratch is None else scratch
    total = np.zeros((count + 1, count + 1))
    for start in range(0, columns, BLOCK):
        points = scratch[:, : min(BLOCK, columns - start)]
        for place, chunk in enumerate(chunks):
            points[place] = chunk[start : start + BLOCK]
        lengths = np.einsum("ij,ij->i", points[:-1], points[:-1])
        short = lengths <= np.partition(lengths, (count - 1) // 2)[(count - 1) // 2]
        centre = (short / short.sum()) @ points[:-1]
        points[:-1] -= centre
        np.negative(centre, out=points[-1])
        total += points @ points.T
    return total


def _squared_distances(gram: _Matrix) -> _Matrix:
    own = np.diagonal(gram)
    squares = np.maximum(own[:, None] + own[None, :] - 2.0 * gram, 0.0)
    np.fill_diagonal(squares, 0.0)
    return squares
