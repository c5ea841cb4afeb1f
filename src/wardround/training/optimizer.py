"""Local optimizers on flat float32 vectors: one call moves all parameters by one step.

The rules and defaults are those of ``torch.optim.SGD``, ``Adam`` and ``AdamW`` (tested against them).
They are written out here because parameters and gradients of `wardround.training.learner` each lie in
one piece, so that a step is a handful of operations however many layers there are, and because
``torch.optim`` loads torch's compiler, which costs seconds and 70 MiB that no study needs.

One difference: a parameter that took no part in the loss has gradient 0 here, not none, so weight decay
and momentum still move it.

References:
    Kingma, Ba. Adam. arXiv:1412.6980. Loshchilov, Hutter. Decoupled Weight Decay. arXiv:1711.05101.
"""

from collections.abc import Callable, Sequence

import torch

from wardround.protocol.plan import Optimizer

__all__ = ["make"]

_BETA1, _BETA2, _EPSILON = 0.9, 0.999, 1e-8
_PIECE = 1 << 18
"""Elements per operation: temporary vectors stay at 1 MiB, and in the processor's cache."""


def make(optimizer: Optimizer, params: Sequence[torch.Tensor], gradients: Sequence[torch.Tensor]) -> Callable[[], None]:
    """A fresh optimizer's step: moves flat `params` in place along flat `gradients`, which it may overwrite."""
    pairs = [
        (param[start : start + _PIECE], gradient[start : start + _PIECE])
        for param, gradient in zip(params, gradients, strict=True)
        for start in range(0, len(param), _PIECE)
    ]
    return _sgd(optimizer, pairs) if optimizer.name == "sgd" else _adam(optimizer, pairs)


def _sgd(optimizer: Optimizer, pairs: list[tuple[torch.Tensor, torch.Tensor]]) -> Callable[[], None]:
    rate, momentum, decay = optimizer.learning_rate, optimizer.momentum, optimizer.weight_decay
    velocities = [torch.zeros_like(param) for param, _ in pairs] if momentum else []

    def step() -> None:
        for place, (param, gradient) in enumerate(pairs):
            if decay:
                gradient.add_(param, alpha=decay)
            direction = velocities[place].mul_(momentum).add_(gradient) if momentum else gradient
            param.add_(direction, alpha=-rate)

    return step


def _adam(optimizer: Optimizer, pairs: list[tuple[torch.Tensor, torch.Tensor]]) -> Callable[[], None]:
    rate, decay, decoupled = optimizer.learning_rate, optimizer.weight_decay, optimizer.name == "adamw"
    moments = [(torch.zeros_like(param), torch.zeros_like(param)) for param, _ in pairs]
    count = 0

    def step() -> None:
        nonlocal count
        count += 1
        first_correction, second_correction = 1 - _BETA1**count, 1 - _BETA2**count
        for (param, gradient), (first, second) in zip(pairs, moments, strict=True):
            if decay and decoupled:
                param.mul_(1 - rate * decay)
            elif decay:
                gradient.add_(param, alpha=decay)
            first.lerp_(gradient, 1 - _BETA1)
            second.mul_(_BETA2).addcmul_(gradient, gradient, value=1 - _BETA2)
            spread = second.sqrt().div_(second_correction**0.5).add_(_EPSILON)
            param.addcdiv_(first, spread, value=-rate / first_correction)

    return step
