"""Shares of 32-byte secrets: any `threshold` of them give the secret back, fewer say nothing about it.

    f(x)     = secret + c[1] x + ... + c[threshold - 1] x**(threshold - 1)    modulo 2**255 - 19
    share[p] = f(p), 32 bytes, little-endian, for the point p >= 1
    secret   = f(0) = sum over `threshold` points of weight[p] * share[p], weight[p] = prod of q / (q - p), q != p

Secrets, coefficients and shares are field elements: whole numbers below the prime, uniformly drawn by rejection.
A leading coefficient of zero is as good as any other: to avoid it would tell something about the secret.

`recover` copes with forged shares, given a way to recognize the right secret. Of m shares, k forged ones cannot keep
the secret back while 2 k <= m - threshold (they are decoded away, at any position), and further ones are left
out by trial. It names forged shares only while 2 k <= m + 1 - threshold. Beyond that, forgers who work together
can put a second polynomial through the right secret and through as many shares, and make the honest ones look forged.

Hazard: Python's integers do not compute in constant time. A node splits once per cohort and the hub combines secrets
that it is about to know anyway; do not use this where someone can time it many times over one secret.
Nothing shows that a dealer shared rightly: a holder who passes on faithfully what a dishonest dealer gave it is
named too. A share hides the secret only while fewer than `threshold` of them meet: send each one sealed.

References:
    Shamir. How to share a secret. Communications of the ACM 22(11), 1979.
    Gao. A new algorithm for decoding Reed-Solomon codes. Communications, Information and Network Security, 2003.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import combinations, islice
from operator import mul

from wardround.errors import CryptoError

__all__ = ["PRIME", "SECRET_BYTES", "combine", "draw_secret", "recover", "split", "weights"]

PRIME = 2**255 - 19
SECRET_BYTES = 32
_DRAWN_BITS = (1 << 255) - 1
# A drawn element is refused with a chance of 2**-250: eight in a row mean a broken generator.
_MOST_DRAWS = 8


def draw_secret(draw: Callable[[int], bytes]) -> bytes:
    """32 bytes, little-endian: an element drawn uniformly.

    Args:
        draw: That many bytes of a cryptographic generator.

    Raises:
        ValueError: `draw` is not such a generator.
    """
    return _to_bytes(_draw_element(draw))


def split(secret: bytes, threshold: int, points: Sequence[int], draw: Callable[[int], bytes]) -> list[bytes]:
    """One share of 32 bytes for every point, in the order of `points`.

    Args:
        secret: From `draw_secret`.
        threshold: So many shares give the secret back.
        points: Who gets a share, as distinct numbers in [1, PRIME).
        draw: That many bytes of a cryptographic generator.

    Raises:
        ValueError: The secret is no element, a point is out of range or named twice, the threshold is not in
            [1, len(points)], or `draw` is no generator.
    """
    constant = _element(secret)
    if constant is None:
        raise ValueError("a secret to share is 32 bytes of a number below 2**255 - 19")
    if not 1 <= threshold <= len(points):
        raise ValueError(f"threshold must be in [1, {len(points)}], got {threshold}")
    _check_points(points)
    coefficients = [constant, *(_draw_element(draw) for _ in range(threshold - 1))]
    return [_to_bytes(_value(coefficients, point)) for point in points]


@lru_cache(maxsize=64)
def weights(points: tuple[int, ...]) -> tuple[int, ...]:
    """What each point's share counts in the secret; kept for the next secret over the same points.

    Raises:
        ValueError: A point is out of range or named twice, or there is none.
    """
    _check_points(points)
    return _weights(points)


def combine(shares: Mapping[int, bytes], threshold: int) -> bytes:
    """The secret, from the `threshold` shares of the lowest points; a forged one goes unnoticed, see `recover`.

    Raises:
        CryptoError: Too few shares, or one of them is not a field element.
        ValueError: The threshold or a point is out of range.
    """
    elements = _elements(shares, threshold)
    if len(elements) < len(shares):
        raise CryptoError("a share is 32 bytes of a number below 2**255 - 19, and one is not")
    return _combine_first(elements, threshold)


def recover(
    shares: Mapping[int, bytes], threshold: int, is_right: Callable[[bytes], bool], *, attempts: int = 4096
) -> tuple[bytes, frozenset[int]]:
    """The secret that `is_right` recognizes, in spite of forged shares, and the points of those.

    Tried are the shares of the lowest points; then what is left when up to half of the spare ones are decoded
    away; then sets of `threshold` shares in a fixed order that leaves out ever more. An attempt takes about
    a quarter of a millisecond at threshold 34.

    Args:
        shares: By point, from outside; one that is no field element counts as forged.
        threshold: As at `split`.
        is_right: Compares a secret with the commitment that was made to it.
        attempts: So many sets at most.

    Returns:
        The secret, and the points of all shares that are not on its polynomial. If so many are off that another
        polynomial could claim as many, then only of those that are no field elements: see the module.

    Raises:
        CryptoError: Too few shares, or none of the attempts gives the right secret.
        ValueError: The threshold, a point or `attempts` is out of range.
    """
    if attempts < 1:
        raise ValueError(f"attempts must be >= 1, got {attempts}")
    elements = _elements(shares, threshold)
    secret = next(filter(is_right, _candidates(elements, threshold, attempts)), None)
    if secret is None:
        raise CryptoError(f"no {threshold} of {len(elements)} shares that were tried give the right secret")
    # The right secret is one more value that is certainly on the polynomial.
    word = {0: int.from_bytes(secret, "little"), **elements}
    unreadable = frozenset(shares.keys() - elements.keys())
    if _is_polynomial(word, threshold) or (polynomial := _nearest(word, threshold)) is None:
        return secret, unreadable
    return secret, unreadable.union(point for point, value in word.items() if _value(polynomial, point) != value)


def _candidates(elements: Mapping[int, int], threshold: int, attempts: int) -> Iterator[bytes]:
    yield _combine_first(elements, threshold)
    polynomial = _nearest(elements, threshold)
    if polynomial is not None:
        yield _to_bytes(polynomial[0])
    for points in islice(_subsets(tuple(elements), threshold), 1, attempts):
        yield _combine(elements, points, _weights(points))


def _subsets(points: tuple[int, ...], size: int) -> Iterator[tuple[int, ...]]:
    # Ordered by the last point used: k forged shares, wherever they are, cost at most C(size + k, k) sets.
    for last in range(size - 1, len(points)):
        for rest in combinations(points[:last], size - 1):
            yield *rest, points[last]


def _combine_first(elements: Mapping[int, int], threshold: int) -> bytes:
    points = tuple(elements)[:threshold]
    return _combine(elements, points, weights(points))


def _combine(elements: Mapping[int, int], points: Iterable[int], factors: Iterable[int]) -> bytes:
    return _to_bytes(sum(map(mul, factors, map(elements.__getitem__, points))) % PRIME)


def _elements(shares: Mapping[int, bytes], threshold: int) -> dict[int, int]:
    """By point in ascending order; without the shares that are no field elements."""
    if threshold < 1:
        raise ValueError(f"threshold must be >= 1, got {threshold}")
    points = sorted(shares)
    _check_points(points)
    elements = {point: value for point in points if (value := _element(shares[point])) is not None}
    if len(elements) < threshold:
        raise CryptoError(f"{threshold} shares are needed, and {len(elements)} are there")
    return elements


def _element(share: bytes) -> int | None:
    value = int.from_bytes(share, "little")
    return value if len(share) == SECRET_BYTES and value < PRIME else None


def _to_bytes(element: int) -> bytes:
    return element.to_bytes(SECRET_BYTES, "little")


def _draw_element(draw: Callable[[int], bytes]) -> int:
    for _ in range(_MOST_DRAWS):
        drawn = draw(SECRET_BYTES)
        if len(drawn) != SECRET_BYTES:
            raise ValueError(f"asked for {SECRET_BYTES} random bytes, got {len(drawn)}")
        value = int.from_bytes(drawn, "little") & _DRAWN_BITS
        if value < PRIME:
            return value
    raise ValueError("the generator draws no field elements: it is not random")


def _check_points(points: Sequence[int]) -> None:
    if not points or min(points) < 1 or max(points) >= PRIME or len(set(points)) != len(points):
        raise ValueError("points are distinct numbers of at least 1, below 2**255 - 19")


def _weights(points: Sequence[int]) -> tuple[int, ...]:
    found = []
    for point in points:
        above, below = 1, 1
        for other in points:
            if other != point:
                above = above * other % PRIME
                below = below * (other - point) % PRIME
        found.append(above * pow(below, -1, PRIME) % PRIME)
    return tuple(found)


def _is_polynomial(word: Mapping[int, int], size: int) -> bool:
    checks = _checks(tuple(word), size)
    return not any(sum(map(mul, check, word.values())) % PRIME for check in checks)


@lru_cache(maxsize=8)
def _checks(points: tuple[int, ...], size: int) -> list[list[int]]:
    """Vectors whose product with the values of a polynomial of `size` coefficients is zero: they span the dual code."""
    row = []
    for point in points:
        below = 1
        for other in points:
            if other != point:
                below = below * (point - other) % PRIME
        row.append(pow(below, -1, PRIME))
    rows = []
    for _ in range(len(points) - size):
        rows.append(row)
        row = [value * point % PRIME for value, point in zip(row, points, strict=True)]
    return rows


# Polynomials are lists of coefficients, the constant first, without zeros at the end.


def _value(polynomial: Sequence[int], point: int) -> int:
    value = 0
    for coefficient in reversed(polynomial):
        value = (value * point + coefficient) % PRIME
    return value


def _nearest(word: Mapping[int, int], size: int) -> list[int] | None:
    """The polynomial of `size` coefficients off at most half of the spare values, or None; Gao's algorithm."""
    # (1) Every polynomial through all points: one of them, and the product that is zero at each.
    zero, through = [1], list[int]()
    for point, value in word.items():
        gap = (value - _value(through, point)) * pow(_value(zero, point), -1, PRIME)
        through = _plus(through, zero, gap)
        zero = _plus([0, *zero], zero, -point)
    # (2) Euclid's algorithm, stopped half-way; `factor` becomes zero at the forged shares' points.
    before, now = zero, through
    factor_before, factor = list[int](), [1]
    while 2 * (len(now) - 1) >= len(word) + size:
        quotient, rest = _divided(before, now)
        before, now = now, rest
        factor_before, factor = factor, _minus_product(factor_before, quotient, factor)
    # (3) If the polynomial exists, it is the quotient, and nothing remains.
    polynomial, rest = _divided(now, factor)
    return None if rest or len(polynomial) > size else polynomial or [0]


def _plus(left: Sequence[int], right: Sequence[int], factor: int, shift: int = 0) -> list[int]:
    total = [*left, *[0] * (len(right) + shift - len(left))]
    for place, coefficient in enumerate(right, start=shift):
        total[place] = (total[place] + coefficient * factor) % PRIME
    while total and not total[-1]:
        total.pop()
    return total


def _minus_product(start: Sequence[int], left: Sequence[int], right: Sequence[int]) -> list[int]:
    total = list(start)
    for shift, coefficient in enumerate(left):
        total = _plus(total, right, -coefficient, shift)
    return total


def _divided(above: Sequence[int], below: Sequence[int]) -> tuple[list[int], list[int]]:
    rest, quotient = list(above), [0] * max(len(above) - len(below) + 1, 0)
    inverse = pow(below[-1], -1, PRIME)
    while len(rest) >= len(below):
        shift = len(rest) - len(below)
        quotient[shift] = rest[-1] * inverse % PRIME
        rest = _plus(rest, below, -quotient[shift], shift)
    return quotient, rest
