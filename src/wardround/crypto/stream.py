"""Large objects sealed segment by segment, in bounded memory: the STREAM construction over AES-256-GCM.

    segment[i] = AES-256-GCM(key, nonce[i], plain[i * S : (i + 1) * S], aad)            S = segment_bytes
    nonce[i]   = prefix (7) || i (4, big-endian) || 1 for the last segment, else 0 (1)
    object     = segment[0] || segment[1] || ... || segment[n - 1],  n >= 1; only the last may be shorter than S

The counter refuses segments that were moved, repeated or left out, the last flag an object that was cut short or
carried on. An object of no bytes is one empty last segment. What cannot be told from the length alone is told by the
flag: of two objects under one key and prefix the longer would use the shorter one's nonces.

Hazard: a key and prefix seal one object, once. `wardround.storage.sealed_file` draws a key for every object.
`open_stream` gives out segments before it has seen the last: whoever uses them must drop them when it raises.

References:
    Hoang, Reyhanitabar, Rogaway, Vizar. Online Authenticated-Encryption and its Nonce-Reuse Misuse-Resistance.
    CRYPTO 2015, section 7: the nonce-based STREAM.
"""

from collections.abc import Iterable, Iterator
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from wardround.errors import CryptoError

__all__ = [
    "MAX_SEGMENT_BYTES",
    "PREFIX_BYTES",
    "SEGMENT_BYTES",
    "TAG_BYTES",
    "open_segment",
    "open_stream",
    "plain_bytes",
    "seal_segment",
    "seal_stream",
    "sealed_bytes",
]

KEY_BYTES = 32
PREFIX_BYTES: Final = 7
TAG_BYTES: Final = 16
SEGMENT_BYTES: Final = 256 * 1024
"""Measured (`benchmarks/at_rest.py`): larger ones leave the processor's cache, smaller ones cost calls."""
MAX_SEGMENT_BYTES: Final = 64 * 1024 * 1024
_MOST_SEGMENTS = 2**32
_Bytes = bytes | bytearray | memoryview


def sealed_bytes(size: int, *, segment_bytes: int = SEGMENT_BYTES) -> int:
    """Length of the sealed object of `size` bytes."""
    segments = max(1, -(-size // _checked(segment_bytes)))
    return size + segments * TAG_BYTES


def plain_bytes(sealed: int, *, segment_bytes: int = SEGMENT_BYTES) -> int:
    """Length of what `sealed` bytes hold.

    Raises:
        CryptoError: No object has that length.
    """
    segments = max(1, -(-sealed // (_checked(segment_bytes) + TAG_BYTES)))
    size = sealed - segments * TAG_BYTES
    if size < 0 or sealed_bytes(size, segment_bytes=segment_bytes) != sealed:
        raise CryptoError(f"no sealed object has {sealed} bytes: it was cut short or carried on")
    return size


def seal_segment(plain: _Bytes, key: bytes, *, prefix: bytes, index: int, is_last: bool, aad: bytes) -> bytes:
    """One segment, sealed.

    Raises:
        CryptoError: The key has not 32 bytes.
        ValueError: The prefix has not 7 bytes, or there is no such segment.
    """
    return _cipher(key).encrypt(_nonce(prefix, index, is_last=is_last), plain, aad)


def open_segment(sealed: _Bytes, key: bytes, *, prefix: bytes, index: int, is_last: bool, aad: bytes) -> bytes:
    """One segment of an object, wherever it lies: random access.

    Raises:
        CryptoError: It was altered, or is not this segment of this object.
        ValueError: The prefix has not 7 bytes, or there is no such segment.
    """
    try:
        return _cipher(key).decrypt(_nonce(prefix, index, is_last=is_last), sealed, aad)
    except InvalidTag:
        raise CryptoError(_ALTERED) from None


def seal_stream(
    pieces: Iterable[_Bytes], key: bytes, *, prefix: bytes, aad: bytes, segment_bytes: int = SEGMENT_BYTES
) -> Iterator[memoryview]:
    """The sealed object of these pieces, segment by segment; each is valid until the next is asked for.

    Raises:
        CryptoError: The key has not 32 bytes.
        ValueError: The prefix has not 7 bytes, or the segments' size cannot be.
    """
    cipher, out = _cipher(key), memoryview(bytearray(_checked(segment_bytes) + TAG_BYTES))
    for index, (plain, is_last) in enumerate(_segments(pieces, segment_bytes)):
        size = cipher.encrypt_into(_nonce(prefix, index, is_last=is_last), plain, aad, out[: len(plain) + TAG_BYTES])
        yield out[:size].toreadonly()


def open_stream(
    pieces: Iterable[_Bytes], key: bytes, *, prefix: bytes, aad: bytes, segment_bytes: int = SEGMENT_BYTES
) -> Iterator[memoryview]:
    """What a sealed object holds, segment by segment; each is valid until the next is asked for.

    Raises:
        CryptoError: It was altered, cut short or carried on, or segments were moved; drop what was given before.
        ValueError: The prefix has not 7 bytes, or the segments' size cannot be.
    """
    cipher, out = _cipher(key), memoryview(bytearray(_checked(segment_bytes)))
    for index, (sealed, is_last) in enumerate(_segments(pieces, segment_bytes + TAG_BYTES)):
        if len(sealed) < TAG_BYTES:
            raise CryptoError(_ALTERED)
        plain = out[: len(sealed) - TAG_BYTES]
        try:
            cipher.decrypt_into(_nonce(prefix, index, is_last=is_last), sealed, aad, plain)
        except InvalidTag:
            raise CryptoError(_ALTERED) from None
        yield plain.toreadonly()


_ALTERED = "a sealed object was altered, cut short or carried on, or lies in another place than its own"


def _segments(pieces: Iterable[_Bytes], size: int) -> Iterator[tuple[memoryview, bool]]:
    """The pieces as segments of `size`, the last marked; one segment is held back, since it may be the last."""
    now, before = (memoryview(bytearray(size)) for _ in range(2))
    length, has_before = 0, False
    for piece in pieces:
        rest = memoryview(piece).cast("B")
        while rest:
            if length == size:
                if has_before:
                    yield before, False
                now, before, has_before, length = before, now, True, 0
            filling = min(len(rest), size - length)
            now[length : length + filling] = rest[:filling]
            rest, length = rest[filling:], length + filling
    if has_before:
        yield before, False
    yield now[:length], True


def _nonce(prefix: bytes, index: int, *, is_last: bool) -> bytes:
    if len(prefix) != PREFIX_BYTES or not 0 <= index < _MOST_SEGMENTS:
        raise ValueError(f"a prefix has {PREFIX_BYTES} bytes and a segment's index is below 2**32")
    return prefix + index.to_bytes(4, "big") + bytes([is_last])


def _checked(segment_bytes: int) -> int:
    if not 1 <= segment_bytes <= MAX_SEGMENT_BYTES:
        raise ValueError(f"a segment has 1 to {MAX_SEGMENT_BYTES} bytes, got {segment_bytes}")
    return segment_bytes


def _cipher(key: bytes) -> AESGCM:
    if len(key) != KEY_BYTES:
        raise CryptoError(f"a sealing key has {KEY_BYTES} bytes, this has {len(key)}")
    return AESGCM(key)
