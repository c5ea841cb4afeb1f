"""Masks of secure aggregation: a 32-byte seed stretched into a vector modulo 2**32 or 2**64.

    keystream  = AES-256-CTR(key = seed, counter block = 0) of zeros
    element[i] = little-endian unsigned integer at byte i * bits / 8 of the keystream

A pair of sites shares a seed; one of them adds its stream, the other subtracts it, and the hub's sum is
exact because integers modulo 2**bits neither round nor care for order. The cost is one AES pass and one addition
per seed, made in blocks of 256 KiB that stay in the second-level cache, into buffers that are reused.

Threads: `update_into` and numpy's additions both release the interpreter's lock, so two threads with a
`MaskStream` each, the second one begun at `start`, take about half the time. One `MaskStream` belongs to one thread.

Hazard: a seed masks one vector, once. Two vectors under one seed reveal their difference, and a
seed used for anything else gives its keystream away. Derive one seed per purpose with `agreement.derive`; a
seed named twice here is refused. A mask hides only what is uniform modulo 2**bits: never mask floats, and
never reduce the masked vector to fewer bits. Nothing is authenticated: whoever alters a masked
vector alters the sum.

The construction is part of wire version 1. Changing anything here breaks ``tests/vectors/secagg.json``, on purpose.

References:
    NIST SP 800-38A, Recommendation for Block Cipher Modes of Operation, section 6.5.
    Bonawitz et al. Practical Secure Aggregation for Privacy-Preserving Machine Learning. CCS 2017, section 4.
"""

from collections.abc import Iterator, Sequence
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext, algorithms, modes

from wardround.errors import CryptoError

__all__ = ["SEED_BYTES", "MaskStream", "Vector", "shuffled", "stream"]

SEED_BYTES = 32
Vector: TypeAlias = npt.NDArray[np.uint32] | npt.NDArray[np.uint64]
"""Whole numbers modulo 2**32 or 2**64."""

_AES_BLOCK_BYTES = 16
# 256 KiB was the fastest of 32 KiB to 1 MiB, with one thread and with two: zeros, keystream and
# vector together fit the second-level cache, and a call's fixed cost is below one hundredth.
_BLOCK_BYTES = 256 * 1024
_ZEROS = memoryview(bytes(_BLOCK_BYTES))
# Counters stay far below 2**64, where a stream would be long enough to be told from chance.
_MOST_ELEMENTS = 2**60


class MaskStream:
    """The running sum of many mask streams, added to one stretch of a vector after another."""

    __slots__ = ("_bits", "_keystream", "_left", "_minus", "_plus", "_words")

    def __init__(self, plus: Sequence[bytes], minus: Sequence[bytes], *, bits: Literal[32, 64], start: int = 0) -> None:
        """Make ready to mask from element `start` of every stream.

        Args:
            plus: Seeds whose streams are added.
            minus: Seeds whose streams are subtracted.
            bits: Of an element: 32 or 64.
            start: In elements, so that workers may begin anywhere.

        Raises:
            CryptoError: A seed has not 32 bytes, or is named twice.
            ValueError: `bits` or `start` is out of range.
        """
        if bits not in {32, 64}:
            raise ValueError(f"bits must be 32 or 64, got {bits}")
        if not 0 <= start < _MOST_ELEMENTS:
            raise ValueError(f"start must be in [0, 2**60), got {start}")
        if len({*plus, *minus}) != len(plus) + len(minus):
            raise CryptoError("a mask's seed is named twice: every stream needs a key of its own")
        offset_bytes = start * bits // 8
        self._bits = bits
        self._left = _MOST_ELEMENTS - start
        self._plus = [_encryptor(seed, offset_bytes) for seed in plus]
        self._minus = [_encryptor(seed, offset_bytes) for seed in minus]
        # `update_into` asks for one cipher block of room beyond what it writes.
        self._keystream = bytearray(_BLOCK_BYTES + _AES_BLOCK_BYTES - 1)
        self._words = np.frombuffer(self._keystream, dtype=f"<u{bits // 8}", count=_BLOCK_BYTES * 8 // bits)

    def apply(self, vector: Vector) -> None:
        """Mask `vector` in place with the streams' next `len(vector)` elements.

        Args:
            vector: (n,) uint32 or uint64 as `bits` says, contiguous and writable; any n.

        Raises:
            ValueError: `vector` is none of that, or the stream's 2**60 elements are used up.
        """
        if vector.dtype != np.dtype(f"u{self._bits // 8}") or vector.ndim != 1:
            raise ValueError(f"expected one axis of uint{self._bits}, got {vector.ndim} of {vector.dtype}")
        if not (vector.flags.c_contiguous and vector.flags.writeable):
            raise ValueError("a vector is masked in place: it must be contiguous and writable")
        if len(vector) > self._left:
            raise ValueError("the masks' streams end here")
        self._left -= len(vector)
        for begin in range(0, len(vector), len(self._words)):
            self._apply_block(vector[begin : begin + len(self._words)])

    def _apply_block(self, block: Vector) -> None:
        zeros, words = _ZEROS[: block.nbytes], self._words[: len(block)]
        # Unsigned additions of numpy wrap around, which is what reduction modulo 2**bits means.
        for encryptor in self._plus:
            encryptor.update_into(zeros, self._keystream)
            block += words
        for encryptor in self._minus:
            encryptor.update_into(zeros, self._keystream)
            block -= words


def stream(seed: bytes, size: int) -> bytes:
    """The first `size` bytes of a seed's keystream; it allocates, so only for short ones.

    Raises:
        CryptoError: The seed has not 32 bytes.
        ValueError: `size` is negative.
    """
    if size < 0:
        raise ValueError(f"size must be >= 0, got {size}")
    return _encryptor(seed, 0).update(bytes(size))


def shuffled(count: int, beacon: bytes) -> list[int]:
    """``0 .. count - 1`` in a uniformly random order that follows from `beacon` (32 bytes), the same everywhere.

    Fisher and Yates; words of the keystream that would bias the order are thrown away.
    """
    ring = list(range(count))
    words = _words(beacon, 2 * count + 64)
    for last in range(count - 1, 0, -1):
        bound = 2**64 - 2**64 % (last + 1)
        word = next(words)
        while word >= bound:
            word = next(words)
        chosen = word % (last + 1)
        ring[last], ring[chosen] = ring[chosen], ring[last]
    return ring


def _words(beacon: bytes, count: int) -> Iterator[int]:
    data = stream(beacon, 8 * count)
    for start in range(0, len(data), 8):
        yield int.from_bytes(data[start : start + 8], "little")


def _encryptor(seed: bytes, offset_bytes: int) -> CipherContext:
    if len(seed) != SEED_BYTES:
        raise CryptoError(f"a mask's seed has {SEED_BYTES} bytes, this has {len(seed)}")
    counter, skipped_bytes = divmod(offset_bytes, _AES_BLOCK_BYTES)
    mode = modes.CTR(counter.to_bytes(_AES_BLOCK_BYTES, "big"))
    encryptor = Cipher(algorithms.AES256(seed), mode).encryptor()
    encryptor.update(bytes(skipped_bytes))
    return encryptor
