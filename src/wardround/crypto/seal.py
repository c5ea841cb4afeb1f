"""Sealing: small values encrypted and authenticated under one key, bound to where they belong.

    sealed = version (1 byte) || nonce (12 bytes) || AES-256-GCM(key, nonce, value, aad = version || context)

The context says what the value is (a vault passes the value's name), so a sealed value moved
elsewhere does not open. The nonce is an argument, so that the bytes are a pure function.

Hazard: a nonce used twice under one key reveals both values and lets anyone forge. Draw all 96 bits
from a cryptographic generator for every seal, and renew the key before 2**32 seals. Sealing
does not hide a value's length, nor show that an older sealed value was put back.

References:
    NIST SP 800-38D, Galois/Counter Mode, sections 5.2.1.1 and 8.2.2.
"""

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from wardround.errors import CryptoError

__all__ = ["KEY_BYTES", "NONCE_BYTES", "VERSION", "open_sealed", "seal"]

KEY_BYTES = 32
NONCE_BYTES = 12
VERSION = b"\x01"
_TAG_BYTES = 16
_START = len(VERSION) + NONCE_BYTES


def seal(value: bytes, key: bytes, *, nonce: bytes, context: bytes) -> bytes:
    """Seal `value`; only the same key and context open it again.

    Raises:
        CryptoError: The key has not 32 bytes.
        ValueError: The nonce has not 12 bytes.
    """
    if len(nonce) != NONCE_BYTES:
        raise ValueError(f"a nonce has {NONCE_BYTES} bytes, got {len(nonce)}")
    return VERSION + nonce + _cipher(key).encrypt(nonce, value, VERSION + context)


def open_sealed(sealed: bytes, key: bytes, *, context: bytes) -> bytes:
    """The value that was sealed under this key and context.

    Raises:
        CryptoError: Altered, sealed under another key or for another context, or of an unknown version.
    """
    cipher = _cipher(key)
    if len(sealed) < _START + _TAG_BYTES or not sealed.startswith(VERSION):
        raise CryptoError("not a sealed value of a version that this program knows")
    try:
        return cipher.decrypt(sealed[len(VERSION) : _START], sealed[_START:], VERSION + context)
    except InvalidTag:
        raise CryptoError("a sealed value was altered, or sealed under another key or for another place") from None


def _cipher(key: bytes) -> AESGCM:
    if len(key) != KEY_BYTES:
        raise CryptoError(f"a sealing key has {KEY_BYTES} bytes, this has {len(key)}")
    return AESGCM(key)
