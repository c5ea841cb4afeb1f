"""How the hub moves the model along the mean update of a round.

With the mean update ``d`` of step ``t = 1, 2, ...``, params ``x`` and server learning rate ``lr``:

    fedavg       x += lr * d
    fedavgm      m = momentum * m + d;   x += lr * m
    adaptive     m = beta1 * m + (1 - beta1) * d;   v as below;   x += lr * m / (sqrt(v) + tau)
    fedadagrad   v = v + d**2
    fedadam      v = beta2 * v + (1 - beta2) * d**2
    fedyogi      v = v - (1 - beta2) * d**2 * sign(v - d**2)
    feddyn       h = h + share * d;   x += d + h
    scaffold     x += lr * d;   c = c - share * (c + d / (K * local_rate))

Of the last two, ``share`` is how many of all sites are in the mean, and the other half is at the sites
(`wardround.training.local`). ``h`` is the paper's, divided by ``-alpha``. SCAFFOLD's mean change of the
sites' control variates follows from ``d`` where every site made K steps of plain SGD, so it need not be sent.

``m`` starts at 0 and ``v`` at ``tau**2``; nothing is corrected for bias, as in the paper. The state
before step 1 is therefore no file of zeros: at step 1 a rule does not read its state vectors, it uses
those values, in float64. After each step the state vectors hold ``m`` and ``v`` (in this order) rounded to
float32, and ``x`` moves along the values before that rounding.

Rules work in place on one chunk of columns, in float64 between reading and writing float32. All is
elementwise, so any cutting into chunks gives the same bytes. A rule does not judge its result: params
that overflow become infinite, and `wardround.codec.tensors.check_finite` tells.

References:
    Reddi et al. Adaptive Federated Optimization. ICLR 2021. arXiv:2003.00295, Algorithms 1 and 2.
    Hsu, Qi, Brown. Measuring the Effects of Non-Identical Data Distribution. arXiv:1909.06335 (fedavgm).
    Acar et al. Federated Learning Based on Dynamic Regularization. ICLR 2021. arXiv:2111.04263, Algorithm 1.
    Karimireddy et al. SCAFFOLD. ICML 2020. arXiv:1910.06378, Algorithm 1 with option II.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["Apply", "Rule", "build", "fedadagrad", "fedadam", "fedavg", "fedavgm", "feddyn", "fedyogi", "scaffold"]

Apply = Callable[[int, npt.NDArray[np.float32], npt.NDArray[np.float64], tuple[npt.NDArray[np.float32], ...]], None]
"""Step number from 1, params, mean update, state: params and state change in place."""
_BLOCK = 32 * 1024
"""Columns whose temporaries stay in the processor's cache: four times as fast as a mebibyte at once."""
_Wide = npt.NDArray[np.float64]
_SecondMoment = Callable[[_Wide, _Wide], _Wide]
"""From ``v`` and ``d**2`` to the next ``v``."""


@dataclass(frozen=True, slots=True)
class Rule:
    """How many state vectors, each as long as the model, a rule keeps; and one step of it."""

    state_vectors: int
    apply: Apply


def fedavg(*, learning_rate: float = 1.0) -> Rule:
    """Add the mean update; with a learning rate of 1 the model becomes the sites' weighted mean."""

    @np.errstate(over="ignore", under="ignore", invalid="ignore")
    def apply(
        step: int,
        params: npt.NDArray[np.float32],
        update: npt.NDArray[np.float64],
        state: tuple[npt.NDArray[np.float32], ...],
    ) -> None:
        _check(step, params, update, state, 0)
        params[...] = params + learning_rate * update

    return Rule(0, apply)


def fedavgm(*, learning_rate: float = 1.0, momentum: float = 0.9) -> Rule:
    """Heavy-ball momentum at the server."""

    @np.errstate(over="ignore", under="ignore", invalid="ignore")
    def apply(
        step: int,
        params: npt.NDArray[np.float32],
        update: npt.NDArray[np.float64],
        state: tuple[npt.NDArray[np.float32], ...],
    ) -> None:
        _check(step, params, update, state, 1)
        velocity = momentum * _before(step, state[0], 0.0) + update
        params[...] = params + learning_rate * velocity
        state[0][...] = velocity

    return Rule(1, apply)


def fedadagrad(*, learning_rate: float, beta1: float = 0.0, tau: float = 1e-3) -> Rule:
    """Divide by the root of all squares so far; the paper's experiments set `beta1` to 0 here."""
    return _adaptive(lambda second, square: second + square, learning_rate, beta1, tau)


def fedadam(*, learning_rate: float, beta1: float = 0.9, beta2: float = 0.99, tau: float = 1e-3) -> Rule:
    """Divide by the root of a moving average of the squares."""
    return _adaptive(lambda second, square: beta2 * second + (1 - beta2) * square, learning_rate, beta1, tau)


def fedyogi(*, learning_rate: float, beta1: float = 0.9, beta2: float = 0.99, tau: float = 1e-3) -> Rule:
    """As `fedadam`, but the average of the squares moves by an amount that does not depend on itself."""
    return _adaptive(
        lambda second, square: second - (1 - beta2) * square * np.sign(second - square), learning_rate, beta1, tau
    )


def feddyn(*, share: float) -> Rule:
    """Dynamic regularization: what the sites' own gradients lack of adding up to zero moves the model, too."""

    @np.errstate(over="ignore", under="ignore", invalid="ignore")
    def apply(
        step: int,
        params: npt.NDArray[np.float32],
        update: npt.NDArray[np.float64],
        state: tuple[npt.NDArray[np.float32], ...],
    ) -> None:
        _check(step, params, update, state, 1)
        correction = _before(step, state[0], 0.0) + share * update
        params[...] = params + update + correction
        state[0][...] = correction

    return Rule(1, apply)


def scaffold(*, learning_rate: float = 1.0, share: float, local_length: float) -> Rule:
    """Add the mean update, and keep the mean gradient that the sites saw on their way: their control variate.

    `local_length` is K times the local learning rate.
    """

    @np.errstate(over="ignore", under="ignore", invalid="ignore")
    def apply(
        step: int,
        params: npt.NDArray[np.float32],
        update: npt.NDArray[np.float64],
        state: tuple[npt.NDArray[np.float32], ...],
    ) -> None:
        _check(step, params, update, state, 1)
        control = _before(step, state[0], 0.0)
        params[...] = params + learning_rate * update
        state[0][...] = control - share * (control + update / local_length)

    return Rule(1, apply)


def build(name: str, *, learning_rate: float, momentum: float, beta1: float, beta2: float, tau: float) -> Rule:
    """The rule that a plan names; parameters that it does not have are not used.

    Raises:
        ValueError: There is no rule of this name.
    """
    match name:
        case "fedavg":
            return fedavg(learning_rate=learning_rate)
        case "fedavgm":
            return fedavgm(learning_rate=learning_rate, momentum=momentum)
        case "fedadagrad":
            return fedadagrad(learning_rate=learning_rate, beta1=beta1, tau=tau)
        case "fedadam":
            return fedadam(learning_rate=learning_rate, beta1=beta1, beta2=beta2, tau=tau)
        case "fedyogi":
            return fedyogi(learning_rate=learning_rate, beta1=beta1, beta2=beta2, tau=tau)
        case _:
            raise ValueError(f"no server rule {name!r}: expected fedavg, fedavgm, fedadagrad, fedadam or fedyogi")


def _adaptive(second_moment: _SecondMoment, learning_rate: float, beta1: float, tau: float) -> Rule:
    @np.errstate(over="ignore", under="ignore", invalid="ignore")
    def apply(
        step: int,
        params: npt.NDArray[np.float32],
        update: npt.NDArray[np.float64],
        state: tuple[npt.NDArray[np.float32], ...],
    ) -> None:
        _check(step, params, update, state, 2)
        for start in range(0, params.size, _BLOCK):
            block = slice(start, start + _BLOCK)
            x, d, m, v = params[block], update[block], state[0][block], state[1][block]
            first = beta1 * _before(step, m, 0.0) + (1 - beta1) * d
            second = second_moment(_before(step, v, tau * tau), d * d)
            x[...] = x + learning_rate * first / (np.sqrt(second) + tau)
            m[...] = first
            v[...] = second

    return Rule(2, apply)


def _before(step: int, vector: npt.NDArray[np.float32], initial: float) -> _Wide:
    return np.full(vector.shape, initial) if step == 1 else vector.astype(np.float64)


def _check(
    step: int, params: npt.NDArray[np.float32], update: _Wide, state: tuple[npt.NDArray[np.float32], ...], count: int
) -> None:
    if step < 1 or len(state) != count:
        raise ValueError(f"expected a step from 1 and {count} state vectors, got step {step} and {len(state)}")
    if update.shape != params.shape or any(vector.shape != params.shape for vector in state):
        raise ValueError("params, update and state vectors must have one shape")
