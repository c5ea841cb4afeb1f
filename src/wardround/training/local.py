"""What a site does beside plain local steps.

Between backward and step the gradient ``g`` of the params ``w`` is changed, where ``x`` is the model that the round
began from:

    fedprox     g + strength * (w - x)
    scaffold    g - c_i + c                      c_i' = c_i - c + (x - w) / (K * learning rate)
    feddyn      g - h + strength * (w - x)       h' = h - strength * (w - x)
    personal    g + personal * (v - x)           Ditto: v are the params of the site's own model

``c`` is the hub's control variate, ``c_i`` the site's, K the number of steps; h is FedDyn's gradient of the site.
The primed values hold after the round, in the memory (`wardround.training.memory`).

References: see `wardround.protocol.learning`.
"""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from wardround.protocol.learning import Training
from wardround.protocol.messages import Divergence
from wardround.protocol.plan import Plan
from wardround.training.memory import layout

__all__ = ["Memory", "add", "diverged", "draw", "effective_steps"]

_PIECE = 1 << 18
_Tensors = Sequence[torch.Tensor]


class Memory:
    """A site's memory in a mapping of its file; `place` gives a part as a tensor, or None where there is no such."""

    def __init__(self, plan: Plan, array: npt.NDArray[np.float32]) -> None:
        self._array, self._places = array, layout(plan)

    @property
    def is_fresh(self) -> bool:
        """Whether nothing is remembered yet."""
        return not len(self._array) or self._array[0] == 0

    def keep(self) -> None:
        """Say that the memory holds something from now on."""
        if len(self._array):
            self._array[0] = 1.0

    def place(self, name: str) -> torch.Tensor | None:
        """A part of the memory, which changes with it."""
        where = self._places.get(name)
        return torch.from_numpy(self._array[where]) if where else None


def draw(strength: float, params: _Tensors, gradients: _Tensors, towards: _Tensors) -> None:
    """Add ``strength * (params - towards)`` to the gradients."""
    for param, gradient, anchor in zip(params, gradients, towards, strict=True):
        gradient.add_(param, alpha=strength).add_(anchor, alpha=-strength)


def add(gradients: _Tensors, terms: _Tensors, scale: float) -> None:
    """Add ``scale * terms`` to the gradients."""
    for gradient, term in zip(gradients, terms, strict=True):
        gradient.add_(term, alpha=scale)


def effective_steps(training: Training, steps: int) -> float:
    """FedNova's norm of how much each local gradient counts: the number of steps, for plain SGD.

    With momentum early gradients count more than once, with FedProx's pull less than once. Adam's steps count as such.
    """
    optimizer, local = training.optimizer, training.local
    if optimizer.name != "sgd":
        return float(steps)
    if optimizer.momentum:
        rho = optimizer.momentum
        return (steps - rho * (1 - rho**steps) / (1 - rho)) / (1 - rho)
    pull = optimizer.learning_rate * local.strength if local.algorithm == "fedprox" else 0.0
    return (1 - (1 - pull) ** steps) / pull if pull else float(steps)


def diverged(own: torch.Tensor, base: torch.Tensor, now: torch.Tensor) -> Divergence:
    """How the site's last update lies to what the model has done since the site was asked for it.

    Args:
        own: float32, shape=(columns,): the update.
        base: The model that it was trained from.
        now: The present model, in any dtype.
    """
    dot = norm = length = 0.0
    for start in range(0, len(own), _PIECE):
        part = slice(start, start + _PIECE)
        update, moved = own[part].double(), now[part].double() - base[part].double()
        dot += float(update @ moved)
        norm += float(update @ update)
        length += float(moved @ moved)
    scale = math.sqrt(norm) * math.sqrt(length)
    return Divergence(max(-1.0, min(1.0, dot / scale)) if scale else None, math.sqrt(norm), math.sqrt(length))
