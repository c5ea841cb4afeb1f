"""What is left of the weight of an update that was trained on an older model.

    tau = versions since the base it was trained on       0: fresh
    constant      1
    hinge         1 while tau <= b, then 1 / (a (tau - b) + 1)
    polynomial    (1 + tau) ** -a                         a = 1/2 is FedBuff's choice

    agreement     (1 + cos(update, model now - model then)) / 2     1: the model went where the update points

References:
    Xie, Koyejo, Gupta. Asynchronous Federated Optimization. arXiv:1903.03934, section 5.2.
    Nguyen et al. Federated Learning with Buffered Asynchronous Aggregation. AISTATS 2022.
"""

import math
from typing import Literal

__all__ = ["Staleness", "agreement", "discount"]

Staleness = Literal["constant", "hinge", "polynomial"]


def discount(function: Staleness, staleness: int, *, slope: float = 0.5, grace: int = 4) -> float:
    """The factor on an update's weight; above 0 and at most 1.

    Args:
        function: Which one.
        staleness: tau, at least 0.
        slope: a, of hinge and polynomial.
        grace: b, of hinge.

    Raises:
        ValueError: A staleness below 0 (from the future), a slope that is not positive, or another function.
    """
    if staleness < 0:
        raise ValueError(f"an update cannot be trained on a model {-staleness} versions ahead")
    if not (math.isfinite(slope) and slope > 0) or grace < 0:
        raise ValueError("a staleness function needs a positive slope and a grace of at least 0")
    match function:
        case "constant":
            return 1.0
        case "hinge":
            return 1.0 if staleness <= grace else 1.0 / (slope * (staleness - grace) + 1.0)
        case "polynomial":
            return float((1.0 + staleness) ** -slope)
        case _:
            raise ValueError(f"no staleness function {function!r}")


def agreement(cosine: float) -> float:
    """The factor by which a stale update is scaled for how far it agrees with where the model went since."""
    return (1.0 + min(max(cosine, -1.0), 1.0)) / 2.0
