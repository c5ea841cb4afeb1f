"""Which updates of a round are set aside before any rule sees them.

    norm      |x_i| > multiple * estimate     the estimate: median of the last rounds' median norms
    cosine    cos(x_i, sum over j != i of x_j / |x_j|) < least

Both look at one update beside the others, so they find what is gross and nothing else: an attacker who stays
within the bounds is the aggregation rule's affair. A hospital whose patients are unlike all others' may point
away from the rest and be honest; every refusal is therefore recorded with its reason.

Medians cannot be moved by a minority, so the estimate creeps only as fast as most sites' norms do.

References:
    Fung, Yoon, Beschastnikh. The Limitations of Federated Learning in Sybil Settings. RAID 2020 (cosines).
    Sun et al. Can You Really Backdoor Federated Learning? arXiv:1911.07963 (norms).
"""

from collections.abc import Sequence
from statistics import median

import numpy as np

from wardround.aggregation.geometry import Geometry

__all__ = ["MEMORY", "norm_estimate", "offences"]

MEMORY = 10
"""Rounds whose median norms make the estimate."""


def norm_estimate(earlier: Sequence[float], norms: Sequence[float]) -> float:
    """The usual norm: of earlier rounds' medians, or of this round's norms where there are none.

    Raises:
        ValueError: There is no norm at all.
    """
    if not len(norms):
        raise ValueError("there is no update")
    return float(median(earlier[-MEMORY:])) if earlier else float(median(norms))


def offences(geometry: Geometry, earlier: Sequence[float], *, multiple: float, least: float) -> dict[int, str]:
    """Places of updates to set aside, with the reason.

    Args:
        geometry: Of the round's updates.
        earlier: Median norms of earlier rounds, oldest first.
        multiple: How many times the usual norm is too long; 0 looks at no norms.
        least: The smallest cosine with the rest; -1 looks at no angles.
    """
    found: dict[int, str] = {}
    norms = geometry.norms()
    usual = norm_estimate(earlier, norms.tolist())
    cosines = geometry.cosines()
    directed = norms > 0
    for place in range(geometry.count):
        if multiple > 0 and norms[place] > multiple * usual > 0:
            found[place] = f"its norm is more than {multiple:g} times the usual one"
            continue
        others = directed.copy()
        others[place] = False
        if least <= -1 or not directed[place] or others.sum() < 2:
            continue
        length = np.sqrt(max(float(cosines[np.ix_(others, others)].sum()), 0.0))
        if length > 0 and cosines[place, others].sum() < least * length:
            found[place] = f"it points away from the others' updates: the cosine is below {least:g}"
    return found
