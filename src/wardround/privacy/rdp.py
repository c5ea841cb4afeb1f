"""Rényi differential privacy: what a mechanism costs at fixed orders, and what that says about epsilon.

    gaussian           alpha * steps / (2 * sigma^2)
    sampled-gaussian   steps / (alpha - 1) * log A(alpha), with q the sampling rate:
                       integer alpha   A = sum_k  C(alpha, k) (1-q)^(alpha-k) q^k exp((k^2 - k) / (2 sigma^2))
                       otherwise       the two series of Mironov et al., section 3.3
    laplace            steps / (alpha - 1) * log( alpha / (2 alpha - 1) exp((alpha-1)/b)
                                                + (alpha-1) / (2 alpha - 1) exp(-alpha/b) )

Costs at one order add up, also where each mechanism was chosen after the results of the last had been seen; that is
why budgets are kept in them (`wardround.privacy.ledger`). Everything is rounded up where it is rounded at all.

References:
    Mironov. Rényi Differential Privacy. CSF 2017. arXiv:1702.07476.
    Mironov, Talwar, Zhang. Rényi Differential Privacy of the Sampled Gaussian Mechanism. arXiv:1908.10530.
    Canonne, Kamath, Steinke. The Discrete Gaussian for Differential Privacy. arXiv:2004.00010, Proposition 12
    (from Rényi to epsilon and delta).
"""

import math
from collections.abc import Sequence

from wardround.privacy.mechanisms import Gaussian, Laplace, Mechanism, SampledGaussian, check

__all__ = ["ORDERS", "cost", "epsilon"]

ORDERS: tuple[float, ...] = (
    *(1.25, 1.5, 1.75),
    *(1 + place / 10 for place in range(10, 100)),
    *(float(order) for order in range(11, 65)),
    *(80.0, 96.0, 128.0, 192.0, 256.0, 512.0),
)
"""The orders at which every budget is kept, rising; they never change, because old entries are added to new ones."""

_TERM = -30.0
_MOST_TERMS = 100_000


def cost(mechanism: Mechanism, orders: Sequence[float] = ORDERS) -> tuple[float, ...]:
    """The Rényi divergence bound at each order; may be infinite where numbers overflow, never too small.

    Raises:
        CodecError: The mechanism cannot be.
        ValueError: An order is not above 1.
    """
    check(mechanism)
    if not all(order > 1 for order in orders):
        raise ValueError("orders must be above 1")
    return tuple(_up(_cost(mechanism, order)) for order in orders)


def epsilon(costs: Sequence[float], delta: float, orders: Sequence[float] = ORDERS) -> float:
    """The least epsilon that the costs give for `delta`: infinite where none does, never below 0.

    Raises:
        ValueError: `delta` does not lie above 0 and below 1, or there are not as many costs as orders.
    """
    if not 0 < delta < 1 or len(costs) != len(orders):
        raise ValueError("delta must lie above 0 and below 1, and there must be a cost for each order")
    found = math.inf
    for value, order in zip(costs, orders, strict=True):
        if math.isfinite(value):
            spread = math.log1p(-1 / order) - math.log(delta * order) / (order - 1)
            found = min(found, value + spread)
    return max(found, 0.0)


def _cost(mechanism: Mechanism, order: float) -> float:
    match mechanism:
        case Gaussian():
            return mechanism.steps * order / (2 * mechanism.noise_multiplier**2)
        case Laplace():
            return mechanism.steps * _laplace(mechanism.scale, order)
        case SampledGaussian():
            sigma, rate = mechanism.noise_multiplier, mechanism.sampling_rate
            if rate == 1.0:
                return mechanism.steps * order / (2 * sigma**2)
            whole = float(order).is_integer()
            logarithm = _log_a_integer(rate, sigma, int(order)) if whole else _log_a(rate, sigma, order)
            return mechanism.steps * max(logarithm, 0.0) / (order - 1)


def _laplace(scale: float, order: float) -> float:
    first = math.log(order / (2 * order - 1)) + (order - 1) / scale
    second = math.log((order - 1) / (2 * order - 1)) - order / scale
    return _log_add(first, second) / (order - 1)


def _log_a_integer(rate: float, sigma: float, order: int) -> float:
    total = -math.inf
    for count in range(order + 1):
        term = _log_binomial(order, count) + count * math.log(rate) + (order - count) * math.log1p(-rate)
        total = _log_add(total, term + (count * count - count) / (2 * sigma**2))
    return total


def _log_a(rate: float, sigma: float, order: float) -> float:
    more, less = -math.inf, -math.inf
    middle = sigma**2 * math.log(1 / rate - 1) + 0.5
    binomial = 1.0
    for count in range(_MOST_TERMS):
        left = order - count
        log_binomial = math.log(abs(binomial)) if binomial else -math.inf
        one = log_binomial + count * math.log(rate) + left * math.log1p(-rate)
        two = log_binomial + left * math.log(rate) + count * math.log1p(-rate)
        one += (count * count - count) / (2 * sigma**2) + _log_half_erfc((count - middle) / (math.sqrt(2) * sigma))
        two += (left * left - left) / (2 * sigma**2) + _log_half_erfc((middle - left) / (math.sqrt(2) * sigma))
        term = _log_add(one, two)
        if binomial >= 0:
            more = _log_add(more, term)
        else:
            less = _log_add(less, term)
        if term < more + _TERM and count > order:
            # From here on the terms alternate and shrink, so what is left out is less than the last.
            return _log_add(_log_less(more, less), term)
        binomial *= left / (count + 1)
    return math.inf


def _log_binomial(total: int, count: int) -> float:
    return math.lgamma(total + 1) - math.lgamma(count + 1) - math.lgamma(total - count + 1)


def _log_half_erfc(value: float) -> float:
    """``log(erfc(value) / 2)``, also where erfc underflows: there its asymptotic upper bound."""
    if value < 25.0:
        return math.log(math.erfc(value) / 2)
    return -value * value - math.log(2 * value * math.sqrt(math.pi))


def _log_add(one: float, other: float) -> float:
    high, low = max(one, other), min(one, other)
    return high if low == -math.inf else high + math.log1p(math.exp(low - high))


def _log_less(one: float, other: float) -> float:
    return one if other == -math.inf else one + math.log1p(-math.exp(other - one))


def _up(value: float) -> float:
    # A few units in the last place for each operation on the way; far below what any conversion resolves.
    return value * (1 + 1e-11) if math.isfinite(value) else math.inf
