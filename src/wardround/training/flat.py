"""A module's arrays as views of one flat vector, which is the body of the update's file.

vector := base        read from the base's file
vector := trained     parameters are views of it, so training happens in place
vector := vector - base, piece by piece, reading the base's file again
"""

import os
from fnmatch import fnmatchcase

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from wardround.codec import tensors
from wardround.errors import TensorMismatchError
from wardround.protocol.plan import Plan
from wardround.training import models

__all__ = ["FlatModel", "read"]

_PIECE = 1 << 18


class FlatModel:
    """A plan's module in a vector.

    Attributes:
        flat: The vector as a tensor: all arrays that travel, one after another.
        trained: The parameters that training moves, and where they lie.
        runs: Where these lie, neighbours merged.
        params: The vector there.
    """

    def __init__(self, module: nn.Module, plan: Plan, vector: npt.NDArray[np.floating]) -> None:
        self._module, self._vector, self._offset = module, vector, len(tensors.header(plan.manifest))
        self.flat = models.flat_tensor(vector)
        self._views: dict[str, torch.Tensor] = {}
        self.trained: list[tuple[torch.Tensor, slice]] = []
        runs: list[list[int]] = []  # [start, stop)
        start, kept = 0, plan.training.local.kept
        sent = plan.secure.arrays if plan.secure else ()
        # An array that is neither sent nor the site's own rests: else what is sent would lean on what nobody has.
        resting = {
            spec.name
            for spec in plan.manifest
            if sent and spec.name not in sent and not any(fnmatchcase(spec.name, pattern) for pattern in kept)
        }
        for name, tensor in models.arrays(module).items():
            stop = start + tensor.numel()
            tensor.data = self._views[name] = self.flat[start:stop].view(tensor.shape)
            if name in resting:
                tensor.requires_grad_(False)
            if tensor.requires_grad:
                self.trained.append((tensor, slice(start, stop)))
                if runs and runs[-1][1] == start:
                    runs[-1][1] = stop
                else:
                    runs.append([start, stop])
            start = stop
        self.runs = [slice(start, stop) for start, stop in runs]
        self.params = [self.flat[run] for run in self.runs]

    def read(self, base: int) -> None:
        """Fill the vector from the open file of a model."""
        read(base, self._vector.view(np.uint8).data, self._offset)

    def collect(self) -> None:
        """Bring back into the vector what study code has put in the place of its views.

        Raises:
            TensorMismatchError: Training changed which arrays there are, or their shapes.
        """
        found = models.arrays(self._module)
        if found.keys() != self._views.keys():
            raise TensorMismatchError("training changed the module's arrays")
        for name, view in self._views.items():
            if found[name].shape != view.shape:
                raise TensorMismatchError("training changed the shape of an array")
            if found[name].data_ptr() != view.data_ptr():
                view.copy_(found[name].detach())
                found[name].data = view

    def copy_base(self, base: int, target: torch.Tensor) -> None:
        """Fill a float32 vector from the open file of a model, in pieces."""
        vector = self._vector
        piece = np.empty(min(_PIECE, len(vector)), vector.dtype)
        for start in range(0, len(vector), _PIECE):
            part = piece[: len(vector) - start]
            read(base, part.view(np.uint8).data, self._offset + vector.itemsize * start)
            target[start : start + len(part)] = models.flat_tensor(part)

    def subtract(self, base: int) -> None:
        """Leave in the vector what it has more than the model in the open file."""
        vector = self._vector
        piece = np.empty(min(_PIECE, len(vector)), vector.dtype)
        for start in range(0, len(vector), _PIECE):
            part, before = vector[start : start + _PIECE], piece[: len(vector) - start]
            read(base, before.view(np.uint8).data, self._offset + vector.itemsize * start)
            np.subtract(part, before, out=part)


def read(file: int, target: memoryview, offset: int) -> None:
    """Fill `target` from an open file, from byte `offset` on.

    Raises:
        EOFError: The file ends before.
    """
    done = 0
    while done < len(target):
        count = os.preadv(file, [target[done:]], offset + done)
        if count == 0:
            raise EOFError("the base's file is too short")
        done += count
