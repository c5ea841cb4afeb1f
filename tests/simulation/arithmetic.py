"""The arithmetic of a round, written again from its description and from nothing else.

Headers by the safetensors format, FedAvg by McMahan et al., server rules by the formulas at the top of
`wardround.aggregation.server_rule`, sums as fractions. Imports nothing of wardround.
"""

import base64
import hashlib
import json
import math
import struct
from fractions import Fraction

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

SIZES = {"float32": 4, "float64": 8}
NAMES = {"float32": "F32", "float64": "F64"}


def header(specs):
    """The header of a safetensors file with these arrays: (name, shape, dtype) each."""
    entries, start = {}, 0
    for name, shape, dtype in specs:
        stop = start + int(np.prod(shape)) * SIZES[dtype]
        entries[name] = {"dtype": NAMES[dtype], "shape": list(shape), "data_offsets": [start, stop]}
        start = stop
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * ((64 - (8 + len(text)) % 64) % 64)
    return struct.pack("<Q", len(text)) + text, start


def is_well_formed(data, specs):
    """Whether these bytes are a file with these arrays, all finite."""
    head, size = header(specs)
    kind = "<f4" if specs[0][2] == "float32" else "<f8"
    if len(data) != len(head) + size or data[: len(head)] != head:
        return False
    return bool(np.isfinite(np.frombuffer(data[len(head) :], kind)).all())


def statistics(files, specs):
    """The file of the exact sums, or None where a sum is too large for float64."""
    head, _ = header(specs)
    columns = zip(*(np.frombuffer(data[len(head) :], "<f8").tolist() for data in files), strict=True)
    try:
        sums = [float(sum(map(Fraction, column))) for column in columns]
    except OverflowError:
        return None
    return head + np.array(sums, "<f8").tobytes()


def rounding_words(seed, number, site, count):
    """The words that round a site's update: AES-256-CTR under a hash of what they follow from."""
    key = hashlib.sha256(f"wardround rounding 1\n{seed}/{number}/{site}".encode()).digest()
    encryptor = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor()
    return np.frombuffer(encryptor.update(bytes(4 * count)), "<u4").tolist()


def dealt(sites, nonces, size):
    """The groups that a crowd is dealt into: shuffled (Fisher and Yates) by AES-256-CTR words, dealt like cards."""
    seed = hashlib.sha256(b"wardround groups 1\n" + b"".join(base64.b64decode(nonce) for nonce in nonces)).digest()
    encryptor = Cipher(algorithms.AES(seed), modes.CTR(bytes(16))).encryptor()
    words = iter(np.frombuffer(encryptor.update(bytes(8 * (2 * len(sites) + 64))), "<u8").tolist())
    order = list(range(len(sites)))
    for last in range(len(sites) - 1, 0, -1):
        word = next(word for word in words if word < 2**64 - 2**64 % (last + 1))
        other = word % (last + 1)
        order[last], order[other] = order[other], order[last]
    count = len(sites) // size
    return [sorted(sites[place] for place in order[first::count]) for first in range(count)]


def secure_mean(updates, weights, words, *, capacity, clip, largest, wholes=None):
    """The mean of updates that were added as integers: exactly, in fractions, but for the last conversions.

    `weights` is what each is multiplied by; `wholes`, where lateness made these smaller, what they were before.
    """
    bits = (capacity - 1).bit_length()
    limit = 2 ** (31 - bits) - 1
    total = [0] * len(updates[0])
    for values, weight, noise in zip(updates, weights, words, strict=True):
        for place, (value, word) in enumerate(zip(values, noise, strict=True)):
            clipped = min(max(Fraction(value), -Fraction(clip)), Fraction(clip))
            exact = Fraction(limit) / Fraction(clip) * Fraction(weight, largest) * clipped
            total[place] += math.floor(exact + Fraction(word, 2**32))
    step = clip / limit * (largest / sum(wholes or weights))
    return np.array(total, dtype=np.float64) * step


class Server:
    """FedAvg and its relatives, one step after another, from the files' bytes alone."""

    def __init__(self, initial, specs, rule):
        self.head, _ = header(specs)
        self.model, self.rule = initial, rule
        columns = (len(initial) - len(self.head)) // 4
        self.first = np.zeros(columns)
        self.second = np.full(columns, rule["tau"] * rule["tau"])
        self.state = []

    def step(self, files, records, factors=None):
        """Move by the weighted mean of updates, in the order given; None when the result is not finite."""
        total = sum(records)
        mean = None
        with np.errstate(all="ignore"):
            for data, count, factor in zip(files, records, factors or [1.0] * len(files), strict=True):
                part = np.frombuffer(data[len(self.head) :], "<f4").astype(np.float64) * (count / total * factor)
                mean = part if mean is None else mean + part
        return self.move(mean)

    def move(self, mean):
        """Move by a mean update; None when the result is not finite."""
        rule, name = self.rule, self.rule["name"]
        with np.errstate(all="ignore"):
            params = np.frombuffer(self.model[len(self.head) :], "<f4").astype(np.float64)
            if name == "fedavg":
                moved, kept = params + rule["learning_rate"] * mean, []
            elif name == "fedavgm":
                self.first = rule["momentum"] * self.first + mean
                moved, kept = params + rule["learning_rate"] * self.first, [self.first]
            else:
                square = mean * mean
                self.first = rule["beta1"] * self.first + (1 - rule["beta1"]) * mean
                if name == "fedadagrad":
                    self.second = self.second + square
                elif name == "fedadam":
                    self.second = rule["beta2"] * self.second + (1 - rule["beta2"]) * square
                else:
                    self.second = self.second - (1 - rule["beta2"]) * square * np.sign(self.second - square)
                step = rule["learning_rate"] * self.first / (np.sqrt(self.second) + rule["tau"])
                moved, kept = params + step, [self.first, self.second]
            rounded = moved.astype("<f4")
            self.state = [vector.astype("<f4").tobytes() for vector in kept]
        wide = [np.frombuffer(data, "<f4").astype(np.float64) for data in self.state]
        self.first, self.second = (wide + [self.first, self.second][len(wide) :])[:2]
        self.model = self.head + rounded.tobytes()
        finite = np.isfinite(rounded).all() and all(np.isfinite(vector).all() for vector in wide)
        return self.model if finite else None
