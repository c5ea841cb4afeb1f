"""A learner that learns nothing: it fills the update with a small pattern. For benchmarks only.

It measures what a round costs around the training: it imports no torch, reads no base and no records.
"""

import numpy as np

from wardround.protocol.messages import Kind
from wardround.training.channel import Assignment, Done

__all__ = ["Learner"]

_PIECE = 1 << 18


class Learner:
    """Puts out ``((i % 2**18) % 7 - 3) / 1000`` at place i."""

    def __init__(self, assignment: Assignment) -> None:
        self._vector = assignment.vector
        self._pattern = ((np.arange(_PIECE) % 7 - 3) / 1000).astype(np.float32)

    def perform(
        self,
        number: int,
        kind: Kind,
        base: int,
        standardization: bytes,
        control: int | None = None,
        *,
        seed: bytes = b"",
    ) -> Done:
        """Fill the vector when `kind` is "train"; no metrics."""
        del number, base, standardization, control, seed
        if kind == "train":
            for start in range(0, len(self._vector), _PIECE):
                piece = self._vector[start : start + _PIECE]
                piece[:] = self._pattern[: len(piece)]
        return Done({})
