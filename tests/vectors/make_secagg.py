"""Make secagg.json with the command line of OpenSSL 3 and a second Shamir, nothing of Wardround.

    python tests/vectors/make_secagg.py > tests/vectors/secagg.json

``keystreams``: `openssl enc -aes-256-ctr`; long ones as a SHA-256 of all bytes and the last 32. ``masks``: sums of
such streams by Python's own integers, element by element. ``derived``, ``ratchet``: `openssl kdf HKDF`.
``commitments``: `openssl dgst -sha256`. ``shares``: polynomials evaluated power by power, and the secret got back by
solving the linear system of the shares instead of by Lagrange's weights. Seeds are SHA-256 of their names.
"""

import hashlib
import json
import subprocess
import sys

VERSION = 1
PRIME = 2**255 - 19
TRANSCRIPT = hashlib.sha256(b"secagg vectors: transcript").digest()


def openssl(*arguments, given=b""):
    return subprocess.run(["openssl", *arguments], input=given, capture_output=True, check=True).stdout


def seed(name):
    return hashlib.sha256(f"secagg vectors: {name}".encode()).digest()


def keystream(key, size):
    return openssl("enc", "-aes-256-ctr", "-K", key.hex(), "-iv", "0" * 32, "-nopad", given=bytes(size))


def hkdf(key, salt, info, length):
    options = ["digest:SHA256", f"hexkey:{key.hex()}", f"hexinfo:{info.hex()}"]
    if salt is not None:
        options.append(f"hexsalt:{salt.hex()}")
    named = [part for option in options for part in ("-kdfopt", option)]
    return openssl("kdf", "-keylen", str(length), "-binary", *named, "HKDF")


def keystreams():
    for name, size in (("empty", 0), ("one byte", 1), ("a block", 16), ("uneven", 77), ("long", 1_000_003)):
        made = keystream(seed(name), size)
        tail, digest = made[-32:].hex(), hashlib.sha256(made).hexdigest()
        yield {"seed": seed(name).hex(), "size": size, "last": tail, "sha256": digest}


def masks():
    for bits, plus, minus, start, count in (
        (32, 1, 0, 0, 8),
        (64, 1, 0, 0, 8),
        (32, 0, 1, 0, 5),
        (32, 3, 2, 0, 21),
        (64, 2, 3, 0, 21),
        (32, 2, 2, 7, 13),
        (64, 2, 2, 7, 13),
        (32, 1, 1, 65_535, 10),
    ):
        size = bits // 8
        names = [f"mask {bits} {sign} {number}" for sign, n in (("+", plus), ("-", minus)) for number in range(n)]
        totals = list(range(1, count + 1))
        for number, name in enumerate(names):
            made = keystream(seed(name), (start + count) * size)[start * size :]
            for place in range(count):
                word = int.from_bytes(made[place * size : (place + 1) * size], "little")
                totals[place] = (totals[place] + (word if number < plus else -word)) % 2**bits
        seeds = [seed(name).hex() for name in names]
        yield {"bits": bits, "plus": seeds[:plus], "minus": seeds[plus:], "start": start, "masked": totals}


def derived():
    for label, length in (("mask", 32), ("share", 32), ("recovery", 32), ("self", 32), ("mask", 1), ("Ω", 100)):
        key = seed(f"key of {label}")
        made = hkdf(key, TRANSCRIPT, b"wardround " + label.encode(), length)
        yield {"key": key.hex(), "label": label, "length": length, "derived": made.hex()}


def ratchet():
    key = seed("ratchet")
    for steps in range(6):
        yield {"steps": steps, "key": key.hex()}
        key = hkdf(key, None, b"wardround-ratchet", 32)


def commitments():
    for label, value in (("self", seed("self")), ("root", seed("root")), ("", b""), ("a", b"bc"), ("ab", b"c")):
        written = b""
        for part in (b"wardround commitment", label.encode(), TRANSCRIPT, value):
            written += len(part).to_bytes(8, "big") + part
        made = openssl("dgst", "-sha256", "-binary", given=written)
        yield {"label": label, "value": value.hex(), "commitment": made.hex()}


def solved(rows):
    """The first unknown of a linear system modulo PRIME: Gauss and Jordan, each row with its right-hand side."""
    for column in range(len(rows)):
        pivot = next(row for row in rows[column:] if row[column])
        rows.remove(pivot)
        pivot = [value * pow(pivot[column], -1, PRIME) % PRIME for value in pivot]
        rows = [[a - row[column] * b for a, b in zip(row, pivot, strict=True)] for row in rows]
        rows.insert(column, pivot)
    return rows[0][-1] % PRIME


def shares():
    for threshold, points in (
        (1, [1, 2]),
        (2, [1, 2, 3]),
        (3, [5, 1, 9, 2]),
        (4, [1, 2, 3, 4, 5]),
        (7, [1, 2**64, PRIME - 1, 4, 77, 6, 7, 1000, 9, 10]),
    ):
        drawn = [seed(f"coefficient {threshold} {power}") for power in range(threshold)]
        # The draw's top bit is cleared; none of these is then beyond the prime.
        coefficients = [int.from_bytes(raw, "little") % 2**255 for raw in drawn]
        assert max(coefficients) < PRIME
        values = [sum(c * pow(p, k, PRIME) for k, c in enumerate(coefficients)) % PRIME for p in points]
        system = [[pow(p, k, PRIME) for k in range(threshold)] + [v] for p, v in zip(points, values, strict=True)]
        assert solved(system[-threshold:]) == coefficients[0]
        yield {
            "threshold": threshold,
            "points": points,
            "draws": [raw.hex() for raw in drawn],
            "secret": coefficients[0].to_bytes(32, "little").hex(),
            "shares": [value.to_bytes(32, "little").hex() for value in values],
        }


def vectors():
    return {
        "format": VERSION,
        "made_by": "tests/vectors/make_secagg.py: OpenSSL 3's enc, kdf and dgst; Python's integers",
        "transcript": TRANSCRIPT.hex(),
        "keystreams": list(keystreams()),
        "masks": list(masks()),
        "derived": list(derived()),
        "ratchet": list(ratchet()),
        "commitments": list(commitments()),
        "shares": list(shares()),
    }


if __name__ == "__main__":
    json.dump(vectors(), sys.stdout, indent=1, ensure_ascii=False)
    sys.stdout.write("\n")
