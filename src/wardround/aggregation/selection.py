"""Order statistics of each column by a pruned sorting network, with nothing but minima and maxima.

A network sorts ``n`` wires by a fixed list of comparators, each of which puts the smaller of two wires
first. Applied to rows of columns, a comparator is one elementwise minimum and one maximum, which run at
the speed of the processor's vectors. Only some order statistics are wanted (the two in the middle for a
median), so whatever does not reach them is left out: comparators, or one half of them.

    program = compile_network(n, wanted)     instructions over registers: rows first, then scratch
    run(program, rows, scratch)              the wanted order statistics, ascending

References:
    Batcher. Sorting Networks and Their Applications. AFIPS 1968 (odd-even merge sort).
"""

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["Program", "compile_network", "run"]

_Rows = Sequence[npt.NDArray[np.floating]]


@dataclass(frozen=True, slots=True)
class Program:
    """Instructions ``(is_minimum, left, right, out)`` over registers; the first `rows` of them are read only.

    `outputs` are the registers of the wanted order statistics; `scratch` is how many registers are written to.
    """

    rows: int
    scratch: int
    steps: tuple[tuple[bool, int, int, int], ...]
    outputs: tuple[int, ...]


@functools.lru_cache(maxsize=64)
def compile_network(rows: int, wanted: tuple[int, ...]) -> Program:
    """The instructions that bring the order statistics `wanted` (0 is the smallest) of `rows` rows about.

    Raises:
        ValueError: There is no row, or an order statistic that is not among them.
    """
    if rows < 1 or not wanted or not all(0 <= place < rows for place in wanted):
        raise ValueError(f"expected order statistics among {rows} rows, got {wanted}")
    # Backwards: what of each comparator is needed for what comes after it.
    needed = set(wanted)
    kept: list[tuple[int, int, bool, bool]] = []
    for low, high in reversed(list(_comparators(rows))):
        smaller, larger = low in needed, high in needed
        if smaller or larger:
            kept.append((low, high, smaller, larger))
            needed |= {low, high}
    return _allocated(rows, wanted, kept[::-1])


def run(program: Program, rows: _Rows, scratch: _Rows) -> list[npt.NDArray[np.floating]]:
    """The wanted order statistics of each column.

    Args:
        program: Made for as many rows.
        rows: Each of shape=(n,), one dtype, finite; read only.
        scratch: ``program.scratch`` arrays of the same shape and dtype; overwritten.

    Returns:
        Arrays among `scratch` and, where nothing had to be compared, `rows`: valid until `scratch` is used again.
    """
    registers = [*rows, *scratch]
    minimum, maximum = np.minimum, np.maximum
    for is_minimum, left, right, out in program.steps:
        (minimum if is_minimum else maximum)(registers[left], registers[right], out=registers[out])
    return [registers[place] for place in program.outputs]


def _comparators(count: int) -> Iterator[tuple[int, int]]:
    """Batcher's odd-even merge sort for any number of wires, as pairs of wires, the smaller value to the first."""
    p = 1
    while p < count:
        k = p
        while k >= 1:
            for j in range(k % p, count - k, 2 * k):
                for i in range(min(k, count - j - k)):
                    if (i + j) // (2 * p) == (i + j + k) // (2 * p):
                        yield i + j, i + j + k
            k //= 2
        p *= 2


def _allocated(rows: int, wanted: tuple[int, ...], comparators: list[tuple[int, int, bool, bool]]) -> Program:
    """Give every wire a register; rows are never written to, and a scratch register is free once nobody reads it."""
    register = list(range(rows))
    free: list[int] = []
    count = 0
    steps: list[tuple[bool, int, int, int]] = []
    for low, high, smaller, larger in comparators:
        left, right = register[low], register[high]
        own = [place for place in (left, right) if place >= rows]
        if smaller and larger:
            # The first of the two results must not overwrite what the second still reads.
            if not free:
                free.append(rows + count)
                count += 1
            first = free.pop()
            if own:
                second = own.pop()
            else:
                second = free.pop() if free else rows + count
                count += second == rows + count
            steps += [(True, left, right, first), (False, left, right, second)]
            register[low], register[high] = first, second
        else:
            if own:
                out = own.pop()
            else:
                out = free.pop() if free else rows + count
                count += out == rows + count
            steps.append((smaller, left, right, out))
            register[low if smaller else high] = out
        free += own
    return Program(rows, count, tuple(steps), tuple(register[place] for place in wanted))
