"""temporary"""

from typing import NamedTuple


class Parameters(NamedTuple):
    degree: int
    threshold: int


def parameters(count: int) -> Parameters:
    return Parameters(count - 1, 2 * count // 3 + 1)


def neighbours(count: int, degree: int, beacon: bytes) -> list[tuple[int, ...]]:
    return [tuple(j for j in range(count) if j != i) for i in range(count)]
