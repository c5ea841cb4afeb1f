"""Make fixedpoint.json with Python's fractions and integers, nothing of Wardround and no numpy.

    python tests/vectors/make_fixedpoint.py > tests/vectors/fixedpoint.json

``updates``: floor(M / C * w / W * clip(x) + word / 2**32), exactly, one value after another, as little-endian words;
no case lies within 2**-16 of where the floor jumps, so that every sufficiently precise arithmetic gives these bytes.
``means``: what sums of such words stand for, as fractions. ``sums``: numbers as four digits base 2**32 with their
sign, little-endian, lowest first. ``added``: sums of those, element by element modulo 2**64, and the exact sum of the
rounded numbers. ``refused``: numbers that have no digits. Floats are written as by `float.hex`; words and values
that are not listed in this file are SHA-256 of their names.
"""

import hashlib
import json
import math
import struct
import sys
from fractions import Fraction

VERSION = 1
SUBNORMAL = math.ldexp(1.0, -149)
LARGEST = float.fromhex("0x1.fffffep+127")


def drawn(name):
    return int.from_bytes(hashlib.sha256(f"fixedpoint vectors: {name}".encode()).digest()[:4], "big")


def single(value):
    """The nearest float32."""
    return struct.unpack("<f", struct.pack("<f", value))[0]


def limit(capacity):
    power = 0
    while 2**power < capacity:
        power += 1
    return 2 ** (31 - power) - 1


def rounded(value, word, weight, capacity, clip, max_weight):
    most = limit(capacity)
    clipped = max(-Fraction(clip), min(Fraction(clip), Fraction(value)))
    exact = most / Fraction(clip) * Fraction(weight, max_weight) * clipped + Fraction(word, 2**32)
    whole = exact.numerator // exact.denominator
    margin = min(exact - whole, whole + 1 - exact)
    kept = max(-most, min(most, whole))
    return kept, margin >= Fraction(1, 2**16) or kept != whole


def updates():
    for capacity, clip, max_weight, weight in (
        (1, 1.0, 1, 1),
        (2, 8.0, 1000, 1000),
        (3, 0.1, 1000, 999),
        (10, 8.0, 1000, 100),
        (64, 0.1, 7, 7),
        (65, 2.5, 10**6, 1),
        (200, 1e-3, 10**6, 654_321),
        (1024, 1e4, 3, 2),
        (2**29, 1.0, 2, 1),
        (2**29 + 1, 1.0, 1, 1),
    ):
        inside = [(drawn(f"{capacity} {n}") / 2**31 - 1) * clip for n in range(12)]
        edges = [0.0, -0.0, clip, -clip, clip * 2, -clip * 2, SUBNORMAL, -SUBNORMAL, LARGEST, -LARGEST]
        values, words, wholes = [], [], []
        for place, value in enumerate(single(value) for value in edges + inside):
            attempt, is_clear = 0, False
            while not is_clear:
                word = drawn(f"word {capacity} {place} {attempt}")
                whole, is_clear = rounded(value, word, weight, capacity, clip, max_weight)
                attempt += 1
            assert capacity * abs(whole) < 2**31
            values.append(value)
            words.append(word)
            wholes.append(whole)
        yield {
            "capacity": capacity,
            "clip": clip.hex(),
            "max_weight": max_weight,
            "weight": weight,
            "limit": limit(capacity),
            "values": struct.pack(f"<{len(values)}f", *values).hex(),
            "words": struct.pack(f"<{len(words)}I", *words).hex(),
            "encoded": b"".join(struct.pack("<i", whole) for whole in wholes).hex(),
        }


def means():
    for capacity, clip, max_weight, total_weight in ((1, 1.0, 1, 1), (3, 0.1, 1000, 2001), (200, 8.0, 1000, 123_456)):
        most = capacity * limit(capacity)
        totals = [0, 1, -1, most, -most, *(drawn(f"total {capacity} {n}") % (2 * most) - most for n in range(5))]
        step = Fraction(clip) / limit(capacity) * Fraction(max_weight, total_weight)
        yield {
            "capacity": capacity,
            "clip": clip.hex(),
            "max_weight": max_weight,
            "total_weight": total_weight,
            "total": b"".join((total % 2**32).to_bytes(4, "little") for total in totals).hex(),
            "means": [str(total * step) for total in totals],
        }


def multiple(value):
    """The nearest multiple of 2**-64, as how many of it; halves to the even one."""
    sign, value = (-1 if value < 0 else 1), abs(Fraction(value))
    whole, rest = divmod(value.numerator * 2**64, value.denominator)
    twice = 2 * rest - value.denominator
    return sign * (whole + (twice > 0 or (twice == 0 and whole % 2 == 1)))


def digits(value):
    whole = multiple(value)
    sign, whole = (-1 if whole < 0 else 1), abs(whole)
    for _ in range(4):
        whole, digit = divmod(whole, 2**32)
        yield sign * digit % 2**64
    assert whole == 0


def written(elements):
    return b"".join(element.to_bytes(8, "little") for element in elements).hex()


BELOW = math.nextafter(2.0**63, 0.0)
NUMBERS = [0.0, -0.0, 1.0, -1.0, -1.5, 0.1, -0.1, math.pi * 1e9, 2.0**-64, -(2.0**-64), 2.0**-65, 3 * 2.0**-65]
NUMBERS += [-3 * 2.0**-65, 5 * 2.0**-65, math.nextafter(2.0**-65, 1.0), 5e-324, -5e-324, 2.0**32, 2.0**62]
NUMBERS += [BELOW, -BELOW, 123_456_789.0, -(2.0**32) + 2.0**-20, 1e-15]


def sums():
    for value in NUMBERS:
        yield {"value": value.hex(), "encoded": written(digits(value))}


def added():
    for rows in ([0.1, 0.2, -0.3], [BELOW] * 7, [-BELOW, BELOW, 1e-15], NUMBERS, [2.0**-65] * 3, [37.0, 12.0, 0.0]):
        total = [0] * 4
        for row in rows:
            total = [(have + digit) % 2**64 for have, digit in zip(total, digits(row), strict=True)]
        exact = Fraction(sum(multiple(row) for row in rows), 2**64)
        yield {"values": [row.hex() for row in rows], "total": written(total), "sum": str(exact)}


def vectors():
    return {
        "format": VERSION,
        "made_by": "tests/vectors/make_fixedpoint.py: Python's fractions and integers",
        "updates": list(updates()),
        "means": list(means()),
        "sums": list(sums()),
        "added": list(added()),
        "refused": [value.hex() for value in (math.nan, math.inf, -math.inf, 2.0**63, -(2.0**63), 1e300)],
    }


if __name__ == "__main__":
    json.dump(vectors(), sys.stdout, indent=1)
    sys.stdout.write("\n")
