"""How much noise a target needs, and how much a steward must grant: the accountants run backwards.

    least_noise          epsilon, delta  ->  the least noise that keeps it, at whichever order says least, or tightly
    least_grant          costs, delta    ->  the least epsilon of a grant that a new ledger fits them in
    noise_within_grant   epsilon, delta  ->  the least noise that fits a new ledger of this grant

The two kinds differ because a ledger counts at one order ``a`` that was fixed when it was granted
(`wardround.privacy.ledger`), while a figure may take the best of all orders afterwards:

    a = argmax over orders of (epsilon - conversion(order, delta)) / order

so a grant is never less than the epsilon that is spent from it. As epsilon grows, ``a`` falls through the upper
envelope of these lines; within one stretch of it, costs fit from ``cost(a) + conversion(a, delta)`` on.

What is given is rounded up to 4 digits: a noise multiplier is typed into a plan, a grant into a command.

References:
    Opacus, ``opacus.accountants.utils.get_noise_multiplier``: bisection on the noise, which `least_noise` agrees with.
    Canonne, Kamath, Steinke. arXiv:2004.00010, Proposition 12 (the conversion).
"""

import math
from collections.abc import Callable, Sequence
from typing import TypeAlias

from wardround.privacy import accounting, rdp
from wardround.privacy.ledger import conversion
from wardround.privacy.mechanisms import Mechanism

__all__ = ["MechanismsAt", "least_grant", "least_noise", "noise_within_grant", "order_of", "rounded_up"]

MechanismsAt: TypeAlias = Callable[[float], Sequence[Mechanism]]
"""From a noise multiplier to all that happens with one patient; more noise must never cost more."""

_LEAST, _MOST = 1e-3, 1e4
_DIGITS = 4
_CLOSE = 1e-5
_TIGHT_CLOSE = 2e-4
_MARGIN = 1e-9


def least_noise(mechanisms_at: MechanismsAt, epsilon: float, delta: float, *, tight: bool = False) -> float:
    """The least noise multiplier with which all mechanisms together cost at most `epsilon`, rounded up.

    Args:
        mechanisms_at: What is done, for a noise multiplier.
        epsilon: The target.
        delta: Of the same guarantee.
        tight: By privacy loss distributions instead of Rényi costs: for people, and seconds instead of milliseconds.

    Raises:
        ValueError: No noise up to 10,000 is enough, `epsilon` is not finite and above 0, or `delta` is not above 0
            and below 1.
        CodecError: A mechanism cannot be.
        ConfigError: `tight` needs dp-accounting, which is not installed.
    """
    _check_target(epsilon, delta)
    enough = _least(lambda noise: _renyi(mechanisms_at(noise), delta), epsilon, _CLOSE)
    if enough is None:
        raise ValueError(f"no noise keeps epsilon {epsilon:g} at delta {delta:g}: something else costs more than that")
    if tight:
        # Rényi asks for more, never less, and distributions are dear to compute far below what is needed.
        tightly = _least(
            lambda noise: accounting.tight_epsilon(mechanisms_at(noise), delta), epsilon, _TIGHT_CLOSE, enough
        )
        enough = tightly or enough
    return rounded_up(enough)


def least_grant(costs: Sequence[float], delta: float) -> float:
    """The least epsilon, rounded up, from which on every grant at `delta` has room for `costs` in a new ledger.

    Args:
        costs: Rényi costs of everything together, at each of `rdp.ORDERS`, as of `rdp.cost`.
        delta: Of the grant.

    Returns:
        The epsilon; infinite where no grant is enough.

    Raises:
        ValueError: `delta` is not above 0 and below 1, or there are not as many costs as orders.
    """
    if not 0 < delta < 1 or len(costs) != len(rdp.ORDERS):
        raise ValueError("delta must lie above 0 and below 1, and there must be a cost for each order")
    least = 0.0
    for place, order in enumerate(rdp.ORDERS):
        low = max((_crossing(order, later, delta) for later in rdp.ORDERS[place + 1 :]), default=0.0)
        high = min((_crossing(earlier, order, delta) for earlier in rdp.ORDERS[:place]), default=math.inf)
        needed = costs[place] + conversion(order, delta)
        if max(low, 0.0) < min(high, needed):  # a ledger that is granted between these has this order and no room
            least = max(least, min(high, needed))
    return rounded_up(max(least * (1 + _MARGIN), _LEAST)) if math.isfinite(least) else math.inf


def noise_within_grant(mechanisms_at: MechanismsAt, epsilon: float, delta: float) -> float:
    """The least noise multiplier, rounded up, with which everything fits a new ledger of this grant.

    Raises:
        ValueError: None does, the grant allows nothing, or a figure is impossible, as for `least_noise`.
        CodecError: A mechanism cannot be.
    """
    _check_target(epsilon, delta)
    order = order_of(epsilon, delta)
    allowed = epsilon - conversion(order, delta) - _MARGIN * max(1.0, epsilon)

    def spent(noise: float) -> float:
        return math.fsum(rdp.cost(one, (order,))[0] for one in mechanisms_at(noise))

    enough = _least(spent, allowed, _CLOSE) if allowed > 0 else None
    if enough is None:
        raise ValueError(f"no noise fits a grant of epsilon {epsilon:g} at delta {delta:g}")
    return rounded_up(enough)


def order_of(epsilon: float, delta: float) -> float:
    """The order at which a new ledger counts that was granted this: where most Gaussian noise fits."""
    return max(rdp.ORDERS, key=lambda order: (epsilon - conversion(order, delta)) / order)


def rounded_up(value: float) -> float:
    """The least number of 4 digits that is not below `value`, which is above 0 or 0."""
    if not value:
        return 0.0
    places = _DIGITS - 1 - math.floor(math.log10(value))
    step = 10.0 ** abs(places)
    return math.ceil(value * step) / step if places >= 0 else math.ceil(value / step) * step


def _check_target(epsilon: float, delta: float) -> None:
    if not (math.isfinite(epsilon) and epsilon > 0):
        raise ValueError(f"epsilon must be finite and above 0, not {epsilon:g}")
    if not 0 < delta < 1:
        raise ValueError(f"delta must lie above 0 and below 1, not {delta:g}")


def _renyi(mechanisms: Sequence[Mechanism], delta: float) -> float:
    costs = [rdp.cost(one) for one in mechanisms]
    return rdp.epsilon([math.fsum(parts) for parts in zip(*costs, strict=True)], delta) if costs else 0.0


def _crossing(order: float, later: float, delta: float) -> float:
    """From which epsilon on the smaller `order` leaves room for more Gaussian noise than the `later` one."""
    difference = conversion(order, delta) / order - conversion(later, delta) / later
    return difference / (1 / order - 1 / later)


def _least(cost: Callable[[float], float], most: float, close: float, start: float = 1.0) -> float | None:
    """Close above the least noise whose cost, which falls with it, is at most `most`; None where none is."""
    high, low = (start, cost(start)), (start, math.inf)
    while high[1] > most:
        if high[0] >= _MOST:
            return None
        low, high = high, (min(4 * high[0], _MOST), cost(min(4 * high[0], _MOST)))
    step = 0.8  # small at first: far below what is enough, some costs take long
    while low[1] <= most or low[0] == high[0]:
        if high[0] <= _LEAST:
            return _LEAST
        low = (max(_LEAST, high[0] * step), cost(max(_LEAST, high[0] * step)))
        high = low if low[1] <= most else high
        step /= 2
    return _between(cost, most, low, high, close)


_Known: TypeAlias = tuple[float, float]
"""A noise, and what it costs."""


def _between(cost: Callable[[float], float], most: float, low: _Known, high: _Known, close: float) -> float:
    """False position, as costs are nearly powers of the noise; every third time the middle, in case they are not."""
    turn = 0
    while high[0] > low[0] * (1 + close):
        turn += 1
        share = 0.5
        if turn % 3 and math.isfinite(low[1]) and high[1] > 0 and low[1] > high[1]:
            share = math.log(low[1] / most) / math.log(low[1] / high[1])
        noise = low[0] * (high[0] / low[0]) ** share * (1 + close / 3)
        noise = min(max(noise, low[0] * (1 + close / 2)), high[0] / (1 + close / 2))
        found = noise, cost(noise)
        low, high = (low, found) if found[1] <= most else (found, high)
    return high[0]
