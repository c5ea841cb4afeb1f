"""Envelopes: values sealed under data keys that have a number, so that keys can change and values stay as they are.

    sealed   = 2 || number (4) || nonce (12) || AES-256-GCM(key, nonce, value, aad)
    wrapped  = 3 || number (4) || nonce (12) || AES-256-GCM(key, nonce, object key (32), aad)
    aad      = "wardround envelope" || first byte || number || each of name, version (8), tenant after its length (4)

Numbers are big-endian and say which key of a ring (`wardround.storage.key_ring`) seals; the ring itself is wrapped
under a key-encryption key that a file, a PKCS#11 token or a key service keeps. A small value is sealed under a ring's
key at once; a large object has a key of its own, which lies wrapped in front of its stream (`wardround.crypto.stream`).
The place (name, version, tenant) is authenticated, so a value that was moved, or another site's, does not open.

Hazard: nonces are arguments. Draw all 96 bits for every seal, and let a ring's key seal fewer than 2**32 values
(NIST SP 800-38D, 8.3). Lengths are not hidden, and an older value put back at its own place opens.

References:
    NIST SP 800-38D, Galois/Counter Mode; NIST SP 800-57 part 1, 5.3: key-encrypting and data keys.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from wardround.errors import CryptoError

__all__ = [
    "KEY_BYTES",
    "MOST_KEYS",
    "NONCE_BYTES",
    "SEALED",
    "WRAPPED",
    "WRAPPED_BYTES",
    "KeyOf",
    "Place",
    "number_of",
    "open_sealed",
    "seal",
    "unwrap",
    "wrap",
]

KEY_BYTES: Final = 32
NONCE_BYTES: Final = 12
SEALED: Final = b"\x02"
WRAPPED: Final = b"\x03"
MOST_KEYS: Final = 2**32
_NUMBER_BYTES = 4
_TAG_BYTES = 16
_NONCE_AT = 1 + _NUMBER_BYTES
_BODY_AT = _NONCE_AT + NONCE_BYTES
WRAPPED_BYTES: Final = _BODY_AT + KEY_BYTES + _TAG_BYTES

KeyOf = Callable[[int], bytes]
"""The ring's key of a number; raises `CryptoError` where it was destroyed or never was."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a value belongs: its name, the version of its content, and whose it is."""

    name: str
    version: int = 0
    tenant: str = ""

    def context(self) -> bytes:
        """The place as bytes; two places never have the same."""
        parts = (self.name.encode(), self.version.to_bytes(8, "big"), self.tenant.encode())
        return b"".join(len(part).to_bytes(4, "big") + part for part in parts)


def seal(value: bytes, key: bytes, *, number: int, nonce: bytes, place: Place) -> bytes:
    """Seal a small value under the ring's key `number`.

    Raises:
        CryptoError: The key has not 32 bytes.
        ValueError: The nonce has not 12 bytes, or there is no such number.
    """
    return _sealed(SEALED, value, key, number, nonce, place)


def open_sealed(sealed: bytes, key_of: KeyOf, *, place: Place) -> bytes:
    """The value that was sealed for this place.

    Raises:
        CryptoError: Altered, for another place, of an unknown version, or its key is gone.
    """
    return _opened(SEALED, sealed, key_of, place)


def wrap(object_key: bytes, key: bytes, *, number: int, nonce: bytes, place: Place) -> bytes:
    """The 65 bytes that lie in front of an object: its own key, wrapped under the ring's key `number`.

    Raises:
        CryptoError: A key has not 32 bytes.
        ValueError: The nonce has not 12 bytes, or there is no such number.
    """
    if len(object_key) != KEY_BYTES:
        raise CryptoError(f"an object's key has {KEY_BYTES} bytes, this has {len(object_key)}")
    return _sealed(WRAPPED, object_key, key, number, nonce, place)


def unwrap(wrapped: bytes, key_of: KeyOf, *, place: Place) -> bytes:
    """An object's key.

    Raises:
        CryptoError: Altered, for another place, of an unknown version, or the ring's key is gone.
    """
    if len(wrapped) != WRAPPED_BYTES:
        raise CryptoError(f"a wrapped key has {WRAPPED_BYTES} bytes, this has {len(wrapped)}")
    return _opened(WRAPPED, wrapped, key_of, place)


def number_of(data: bytes) -> int:
    """Which of the ring's keys seals this, unverified; 0 for what was sealed before there were rings.

    Raises:
        CryptoError: It is no sealed value.
    """
    if data[:1] == b"\x01":
        return 0
    if data[:1] not in {SEALED, WRAPPED} or len(data) < _BODY_AT + _TAG_BYTES:
        raise CryptoError("not a sealed value of a version that this program knows")
    return int.from_bytes(data[1:_NONCE_AT], "big")


def _sealed(kind: bytes, value: bytes, key: bytes, number: int, nonce: bytes, place: Place) -> bytes:
    if len(nonce) != NONCE_BYTES:
        raise ValueError(f"a nonce has {NONCE_BYTES} bytes, got {len(nonce)}")
    if not 0 <= number < MOST_KEYS:
        raise ValueError(f"a key's number is in [0, 2**32), got {number}")
    start = kind + number.to_bytes(_NUMBER_BYTES, "big")
    return start + nonce + _cipher(key).encrypt(nonce, value, _aad(start, place))


def _opened(kind: bytes, sealed: bytes, key_of: KeyOf, place: Place) -> bytes:
    if len(sealed) < _BODY_AT + _TAG_BYTES or sealed[:1] != kind:
        raise CryptoError("not a sealed value of a version that this program knows")
    cipher = _cipher(key_of(number_of(sealed)))
    try:
        return cipher.decrypt(sealed[_NONCE_AT:_BODY_AT], sealed[_BODY_AT:], _aad(sealed[:_NONCE_AT], place))
    except InvalidTag:
        raise CryptoError("a sealed value was altered, or sealed under another key or for another place") from None


def _aad(start: bytes, place: Place) -> bytes:
    return b"wardround envelope" + start + place.context()


def _cipher(key: bytes) -> AESGCM:
    if len(key) != KEY_BYTES:
        raise CryptoError(f"a sealing key has {KEY_BYTES} bytes, this has {len(key)}")
    return AESGCM(key)
