"""Who shares masks with whom: everybody in a small cohort, a random regular graph in a large one.

A member's cost grows with its number of neighbours, and logarithmically many are enough. The members
are put on a ring in a random order and each is joined with its ``degree / 2`` nearest on either side.
The order follows from a beacon that every member has put a nonce into, the same on every machine.

What the number of neighbours k and the threshold t of shares must give, by hypergeometric tails, when a
fifth of the members collude with the hub and a tenth drop out:

    (1) P[a member has t or more colluding neighbours]                at most 2**-40 / n    nothing is opened that
    (2) P[of k / 2 neighbours, t - k / 2 - 1 or more collude]         at most 2**-40 / 2 n  should not be
    (3) P[a member has fewer than t neighbours that stay]             at most 2**-30 / n    everything else is

(1) and (3) are the paper's. (2) is because the hub names the survivors, and the graph is no secret: by
leaving out k / 2 members in a row, twice, it cuts a part of the ring off. Shares come from survivors
alone, so for a member at the edge of such a part they are those of the k / 2 neighbours inside, its own, and
those of colluders outside: by (2) fewer than t. Its secrets cannot be rebuilt, and the part's sum stays closed.

Up to 64 members the graph is complete and t = floor(2 n / 3) + 1, which holds for any colluders below a third.

Neighbours only are counted in (1) and (3): an honest member does not collude, and one that dropped out gives no
share. What stays by chance is in one piece, but for less than 2**-80 (two runs of k / 2 places would be gone).

Hazard: the hub sees the honest members' nonces before those of members that collude with it, so it may
try beacons until it likes one. Each trial is one hash: 2**s trials leave 2**(s - 40) of the first bound, and
2**40 trials, which are in reach, nothing. A beacon from outside, or a commitment round before the nonces, would
close this; neither is built.
The order is part of wire version 1.

References:
    Bell et al. Secure Single-Server Aggregation with (Poly)Logarithmic Overhead. CCS 2020 (eprint 2020/704).
"""

import functools
import math
from collections.abc import Collection, Sequence
from typing import NamedTuple

from wardround.crypto import prg

__all__ = ["COMPLETE", "Parameters", "is_connected", "neighbours", "parameters", "smallest"]

COMPLETE = 64
"""Up to so many members, everybody is everybody's neighbour."""
_COLLUDING, _DROPPING = 0.2, 0.1
_SECRECY, _RECOVERY = 40, 30


class Parameters(NamedTuple):
    """Neighbours of each member, and how many shares rebuild a secret."""

    degree: int
    threshold: int


@functools.cache
def parameters(count: int) -> Parameters:
    """Degree and threshold for a cohort of `count` members.

    Of a secret, each neighbour holds a share and so does its owner. The threshold counts all of them, and
    is met by neighbours alone: an owner that dropped out holds its share in vain.
    """
    if count <= COMPLETE:
        return Parameters(count - 1, 2 * count // 3 + 1)
    return smallest(count, colluding=_COLLUDING, dropping=_DROPPING, is_cut=True)


def smallest(count: int, *, colluding: float, dropping: float, is_cut: bool = False) -> Parameters:
    """The smallest degree for which some threshold gives the bounds at the top of this module.

    Args:
        count: Members.
        colluding: The share of them that colludes, rounded down to members.
        dropping: The share of them that drops out, rounded down to members.
        is_cut: Whether the hub may cut the ring: bound (2) as well, and even degrees only.
    """
    others = count - 1
    bad, gone = math.floor(colluding * count), math.floor(dropping * count)
    step = 2 if is_cut else 1
    for degree in range(step, others + 1, step):
        threshold = _beyond(others, bad, degree, count)  # (1)
        if is_cut:
            threshold = max(threshold, degree // 2 + 1 + _beyond(others, bad, degree // 2, 2 * count))  # (2)
        if threshold > degree:
            continue
        lost = sum(_ways(others, others - gone, degree, stay) for stay in range(threshold))
        if lost * count << _RECOVERY <= math.comb(others, degree):  # (3)
            return Parameters(degree, threshold)
    return Parameters(others, 2 * count // 3 + 1)


@functools.lru_cache(maxsize=8)
def neighbours(count: int, degree: int, beacon: bytes) -> tuple[tuple[int, ...], ...]:
    """For each place its neighbours' places, sorted; symmetric, and the same on every machine.

    Args:
        count: Members.
        degree: Even, or at least ``count - 1``, which gives the complete graph.
        beacon: 32 bytes.

    Raises:
        ValueError: The degree is odd and less than complete, or not positive.
    """
    if degree >= count - 1:
        return tuple(tuple(other for other in range(count) if other != place) for place in range(count))
    if degree < 2 or degree % 2:
        raise ValueError(f"a ring gives even degrees, not {degree}")
    ring = prg.shuffled(count, beacon)
    found: list[tuple[int, ...]] = [()] * count
    for spot, place in enumerate(ring):
        near = [ring[(spot + by) % count] for by in range(-degree // 2, degree // 2 + 1) if by]
        found[place] = tuple(sorted(near))
    return tuple(found)


def is_connected(graph: Sequence[Collection[int]], among: Collection[int]) -> bool:
    """Whether the members `among` are one piece when all others are taken out of the graph."""
    left = set(among)
    if not left:
        return True
    waiting = [left.pop()]
    while waiting:
        near = left.intersection(graph[waiting.pop()])
        left -= near
        waiting.extend(near)
    return not left


def _beyond(population: int, marked: int, draws: int, times: int) -> int:
    """The least number of hits for which ``P[so many or more]`` is at most ``2**-40 / times``, and at least 1."""
    bound, tail = math.comb(population, draws), 0
    for hits in range(draws, 0, -1):
        tail += _ways(population, marked, draws, hits)
        if tail * times << _SECRECY > bound:
            return hits + 1
    return 1


def _ways(population: int, marked: int, draws: int, hits: int) -> int:
    """In how many draws there are exactly `hits` marked ones."""
    return math.comb(marked, hits) * math.comb(population - marked, draws - hits)
