"""Tables of counts without small cells: nor any that the margins give away (complementary suppression).

A table with its margins is a circulation: every count is an edge, and what flows into a node flows out of it.

      rows  ──cell──▶  columns            in two dimensions, with a node for each row and column and two for the
        ▲                 │               margins; in one dimension, the cells lead from one node to another
    row total        column total         and the total leads back
        │                 ▼
       sum ◀── total ── margin

So what an outsider can deduce of a hidden count, from all that is shown and from counts being no less than 0, is exact:
it may grow by the largest flow from its head back to its tail through hidden edges, and shrink likewise (flows of whole
numbers, which is why these bounds are attained). Rules:

1. A count below `least` is hidden, a zero too, in the table as in its margins.
2. The interval of every such count is at least `least` wide. While one is not, the counts that widen it at the lowest
   price (those they tell) are hidden as well. Hiding only widens, so this ends; at the worst, all is hidden.

From 2 follows that no sum of small counts is known either, unless it is `least` or more.

Not protected: two tables of nearly the same patients (see `disclosure_cohorts`); counts in three dimensions or more,
which must be shown as one table of two; and what follows from knowing how the hidden counts were chosen.

References:
    Cox. Network models for complementary cell suppression. JASA, 1995.
    Gusfield. A graph theoretic approach to statistical data security. SIAM J. Comput., 1988.
"""

import heapq
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["HIDDEN", "Shown", "shown"]

HIDDEN = -1
"""Stands where a count is not shown."""

_Counts = npt.NDArray[np.int64]
_Edge = tuple[int, int, int]
_Step = tuple[int, int, int]
_Path = list[tuple[int, int]]
_MOST_CELLS = 2_500
_LARGEST = 2**40


@dataclass(frozen=True, slots=True)
class Shown:
    """A table as it may be shown: `HIDDEN` or the count.

    Attributes:
        cells: As the table was.
        margins: Of two dimensions: the sums of the rows, the sums of the columns. Of one: none.
        total: The sum of all.
    """

    cells: _Counts
    margins: tuple[_Counts, ...]
    total: int


def shown(table: npt.ArrayLike, least: int) -> Shown:
    """A table of counts in one or two dimensions, with margins, as it may be shown.

    Raises:
        ValueError: Not whole numbers from 0 on, not one or two dimensions, empty, or too large.
    """
    cells = np.asarray(table)
    if cells.ndim not in (1, 2) or not 0 < cells.size <= _MOST_CELLS or cells.dtype.kind not in "iu":
        raise ValueError(f"a table has one or two dimensions and 1 to {_MOST_CELLS:,} whole numbers")
    if cells.min() < 0 or cells.max() > _LARGEST:
        raise ValueError("a count is no less than 0 and no more than 2**40")
    cells = cells.astype(np.int64)
    edges = _edges(cells)
    hidden = _hidden(edges, least)
    told = np.array([HIDDEN if gone else edge[2] for edge, gone in zip(edges, hidden, strict=True)], dtype=np.int64)
    body, rest = told[: cells.size].reshape(cells.shape), told[cells.size : -1]
    margins = (rest[: cells.shape[0]], rest[cells.shape[0] :]) if cells.ndim == 2 else ()
    return Shown(body, margins, int(told[-1]))


def _edges(cells: _Counts) -> list[_Edge]:
    # Tail, head, count: the cells, the sums of rows, the sums of columns, the total.
    if cells.ndim == 1:
        return [*((0, 1, int(count)) for count in cells), (1, 0, int(cells.sum()))]
    rows, columns = cells.shape
    outer, inner = rows + columns, rows + columns + 1
    edges = [(row, rows + column, int(cells[row, column])) for row in range(rows) for column in range(columns)]
    edges += [(outer, row, int(count)) for row, count in enumerate(cells.sum(axis=1))]
    edges += [(rows + column, inner, int(count)) for column, count in enumerate(cells.sum(axis=0))]
    return [*edges, (inner, outer, int(cells.sum()))]


@dataclass(frozen=True, slots=True)
class _Network:
    """Edges (tail, head, count), what is hidden of them, and for each node: edge, other end, 1 forwards or -1."""

    edges: list[_Edge]
    hidden: list[bool]
    around: dict[int, list[_Step]]


@dataclass(slots=True)
class _Attempt:
    """A flow between two nodes, not through `without`: what each edge has gained, and which shown ones it needs."""

    start: int
    goal: int
    without: int
    gained: dict[int, int]
    opened: set[int]


def _hidden(edges: list[_Edge], least: int) -> list[bool]:
    around: dict[int, list[_Step]] = defaultdict(list)
    for number, (tail, head, _) in enumerate(edges):
        around[tail].append((number, head, 1))
        around[head].append((number, tail, -1))
    network = _Network(edges, [count < least for _, _, count in edges], around)
    for number in np.flatnonzero(network.hidden).tolist():
        tail, head, count = edges[number]
        # More of this count sends as much from its head to its tail by other ways; less of it, the other way.
        more, _ = _flow(network, number, (head, tail), least, _any_path)
        less, _ = _flow(network, number, (tail, head), min(count, least - more), _any_path)
        if more + less < least:
            _, opened = _flow(network, number, (head, tail), least - less, _cheapest_path)
            for one in opened:
                network.hidden[one] = True
    return network.hidden


def _flow(
    network: _Network, without: int, ends: tuple[int, int], limit: int, find: Callable[[_Network, _Attempt], _Path]
) -> tuple[int, set[int]]:
    """The largest flow up to a limit, path by path, and which shown edges it needs hidden."""
    attempt = _Attempt(*ends, without, defaultdict(int), set())
    sent = 0
    while sent < limit and (path := find(network, attempt)):
        narrow = [network.edges[number][2] + attempt.gained[number] for number, sign in path if sign < 0]
        room = min([limit - sent, *narrow])
        for number, sign in path:
            attempt.gained[number] += sign * room
            if not network.hidden[number]:
                attempt.opened.add(number)
        sent += room
    return sent, attempt.opened


def _any_path(network: _Network, attempt: _Attempt) -> _Path:
    """A path through hidden edges, forwards or, where something flows, backwards; depth first."""
    arrived: dict[int, tuple[int, int, int]] = {}
    stack = [attempt.start]
    while stack and attempt.goal not in arrived:
        node = stack.pop()
        for number, other, sign in network.around[node]:
            if other in arrived or not network.hidden[number] or not _is_open(network, attempt, number, sign):
                continue
            arrived[other] = (node, number, sign)
            stack.append(other)
    return _walked(attempt, arrived)


def _cheapest_path(network: _Network, attempt: _Attempt) -> _Path:
    """Dijkstra's path: a shown edge costs what it tells; of equal ones that with the fewest edges backwards."""
    unit = len(network.around) + 1
    best = {attempt.start: 0}
    arrived: dict[int, tuple[int, int, int]] = {}
    queue = [(0, attempt.start)]
    while queue:
        cost, node = heapq.heappop(queue)
        if node == attempt.goal:
            break
        if cost > best[node]:
            continue
        for number, other, sign in network.around[node]:
            if not _is_open(network, attempt, number, sign):
                continue
            is_free = network.hidden[number] or number in attempt.opened
            price = cost + (0 if is_free else unit * (1 + network.edges[number][2])) + (sign < 0)
            if price < best.get(other, price + 1):
                best[other], arrived[other] = price, (node, number, sign)
                heapq.heappush(queue, (price, other))
    return _walked(attempt, arrived)


def _is_open(network: _Network, attempt: _Attempt, number: int, sign: int) -> bool:
    return number != attempt.without and (sign > 0 or network.edges[number][2] + attempt.gained[number] > 0)


def _walked(attempt: _Attempt, arrived: dict[int, tuple[int, int, int]]) -> _Path:
    path: _Path = []
    node = attempt.goal
    while node != attempt.start:
        if node not in arrived:
            return []
        node, number, sign = arrived[node]
        path.append((number, sign))
    return path
