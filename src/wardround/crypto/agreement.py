"""Keys of pairs of sites, safe against a later quantum computer, and what is derived from them.

    offer         = version (1 byte) || HPKE(ML-KEM-768 + X25519, HKDF-SHA256, AES-256-GCM).seal(pair key)
    HPKE's info   = "wardround pair key" || version || info
    ratchet       : key <- HKDF-SHA256(key, salt = none, info = "wardround-ratchet"), once per step
    derive        = HKDF-SHA256(key, salt = transcript, info = "wardround " || label)
    commitment    = SHA-256 over ("wardround commitment", label, transcript, value), each after its
                    length as 8 bytes, most significant first

One of two sites draws the pair's key and offers it to the other's public key. Both parts of the hybrid must
fall before a recorded offer opens: X25519 falls to a quantum computer, ML-KEM is young.

Labels that callers of `derive` pass, one for each purpose: "mask" (the seed that a pair shares), "share" (the key
that seals shares between two sites), "recovery" (the key that seals a site's mask seeds), "self" (a site's own
mask). Two purposes never share a label; further labels are the caller's to tell apart.

Hazard: an offer says nothing about who made it; the caller signs it and names both sites and the epoch in
`info`. A commitment hides only values that cannot be guessed, such as seeds. Ratcheting protects the past only if
the old key is deleted. Derived values are as public as their most careless use: one label, one use.

References:
    RFC 9180, Hybrid Public Key Encryption, section 6.1; RFC 5869, HKDF.
    Connolly, Schwabe, Westerbaan. X-Wing: general-purpose hybrid post-quantum KEM. draft-connolly-cfrg-xwing-kem.
    NIST FIPS 203, Module-Lattice-Based Key-Encapsulation Mechanism.
"""

import hashlib
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes, hpke
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from wardround.errors import CryptoError

__all__ = [
    "KEY_BYTES",
    "MOST_STEPS",
    "OFFER_BYTES",
    "PRIVATE_BYTES",
    "PUBLIC_BYTES",
    "VERSION",
    "PrivateKey",
    "PublicKey",
    "accept",
    "commitment",
    "derive",
    "generate",
    "load_private",
    "load_public",
    "offer",
    "private_bytes",
    "public_bytes",
    "ratchet",
]

VERSION = b"\x01"
KEY_BYTES = 32
MOST_STEPS = 100_000
_MLKEM_PRIVATE_BYTES = 64
_MLKEM_PUBLIC_BYTES = 1184
_X25519_BYTES = 32
PRIVATE_BYTES = _MLKEM_PRIVATE_BYTES + _X25519_BYTES
PUBLIC_BYTES = _MLKEM_PUBLIC_BYTES + _X25519_BYTES
OFFER_BYTES = len(VERSION) + 1088 + _X25519_BYTES + KEY_BYTES + 16
_MOST_DERIVED_BYTES = 255 * 32  # RFC 5869, 2.3.
_SUITE = hpke.Suite(hpke.KEM.MLKEM768_X25519, hpke.KDF.HKDF_SHA256, hpke.AEAD.AES_256_GCM)


@dataclass(frozen=True, slots=True)
class PublicKey:
    """What a site publishes, so that others can offer it pair keys."""

    mlkem: MLKEM768PublicKey
    x25519: X25519PublicKey


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class PrivateKey:
    """What opens offers; it never leaves the site."""

    mlkem: MLKEM768PrivateKey
    x25519: X25519PrivateKey

    def public_key(self) -> PublicKey:
        """The half to publish."""
        return PublicKey(self.mlkem.public_key(), self.x25519.public_key())


def generate() -> PrivateKey:
    """A new key from the operating system's generator."""
    return PrivateKey(MLKEM768PrivateKey.generate(), X25519PrivateKey.generate())


def private_bytes(key: PrivateKey) -> bytes:
    """96 raw bytes, the seed of ML-KEM-768 and the scalar of X25519: for a vault, never for the wire."""
    return key.mlkem.private_bytes_raw() + key.x25519.private_bytes_raw()


def load_private(raw: bytes) -> PrivateKey:
    """Read 96 raw bytes.

    Raises:
        CryptoError: Not so many.
    """
    if len(raw) != PRIVATE_BYTES:
        raise CryptoError(f"a private agreement key has {PRIVATE_BYTES} bytes, this has {len(raw)}")
    mlkem, x25519 = raw[:_MLKEM_PRIVATE_BYTES], raw[_MLKEM_PRIVATE_BYTES:]
    return PrivateKey(MLKEM768PrivateKey.from_seed_bytes(mlkem), X25519PrivateKey.from_private_bytes(x25519))


def public_bytes(key: PublicKey) -> bytes:
    """1,216 raw bytes, ML-KEM-768 before X25519 as in X-Wing."""
    return key.mlkem.public_bytes_raw() + key.x25519.public_bytes_raw()


def load_public(raw: bytes) -> PublicKey:
    """Read 1,216 raw bytes.

    Raises:
        CryptoError: Not so many, an ML-KEM coefficient out of range, or an X25519 point of small order.
    """
    if len(raw) != PUBLIC_BYTES:
        raise CryptoError(f"a public agreement key has {PUBLIC_BYTES} bytes, this has {len(raw)}")
    try:
        mlkem = MLKEM768PublicKey.from_public_bytes(raw[:_MLKEM_PUBLIC_BYTES])
        x25519 = X25519PublicKey.from_public_bytes(raw[_MLKEM_PUBLIC_BYTES:])
        # With a point of small order every exchange gives zero, so any scalar shows it: here, before anyone offers.
        X25519PrivateKey.from_private_bytes(bytes(_X25519_BYTES)).exchange(x25519)
    except ValueError:
        raise CryptoError("not a public key of ML-KEM-768 and X25519") from None
    return PublicKey(mlkem, x25519)


def offer(public: PublicKey, pair_key: bytes, info: bytes) -> bytes:
    """Encrypt a pair's key to the other site: 1,169 bytes, drawn anew at every call.

    Args:
        public: The receiver's.
        pair_key: 32 bytes from a cryptographic generator.
        info: Who offers to whom, and for which epoch; the receiver must say the same.

    Raises:
        ValueError: The pair key has not 32 bytes.
    """
    if len(pair_key) != KEY_BYTES:
        raise ValueError(f"a pair's key has {KEY_BYTES} bytes, got {len(pair_key)}")
    receiver = hpke.MLKEM768X25519PublicKey(public.mlkem, public.x25519)
    return VERSION + _SUITE.encrypt(pair_key, receiver, _bound(info))


def accept(sealed: bytes, private: PrivateKey, info: bytes) -> bytes:
    """The 32-byte pair key of an offer.

    Raises:
        CryptoError: Altered, offered to another key or with another `info`, or of an unknown version.
    """
    if len(sealed) != OFFER_BYTES or not sealed.startswith(VERSION):
        raise CryptoError("not an offer of a version that this program knows")
    receiver = hpke.MLKEM768X25519PrivateKey(private.mlkem, private.x25519)
    try:
        return _SUITE.decrypt(sealed[len(VERSION) :], receiver, _bound(info))
    except InvalidTag:
        raise CryptoError("an offer was altered, or made to another key or for another pair or epoch") from None


def ratchet(key: bytes, steps: int) -> bytes:
    """The key after `steps` one-way steps; whoever finds it cannot go back.

    Raises:
        CryptoError: The key has not 32 bytes.
        ValueError: `steps` is negative or above 100,000, which takes a quarter of a second.
    """
    if not 0 <= steps <= MOST_STEPS:
        raise ValueError(f"steps must be in [0, {MOST_STEPS}], got {steps}")
    key = _checked(key)
    for _ in range(steps):
        key = _hkdf(key, None, b"wardround-ratchet", KEY_BYTES)
    return key


def derive(key: bytes, transcript: bytes, label: str, length: int = 32) -> bytes:
    """`length` bytes for the one purpose that `label` names, in the one cohort that `transcript` names.

    Args:
        key: 32 bytes.
        transcript: A digest of all that the cohort agreed on; parties that disagree derive unrelated values.
        label: See the module's list.
        length: In bytes, at most 8,160.

    Raises:
        CryptoError: The key has not 32 bytes.
        ValueError: The transcript or label is empty, or `length` is out of range.
    """
    if not transcript or not label:
        raise ValueError("a derived value is bound to a transcript and a label, neither of them empty")
    if not 1 <= length <= _MOST_DERIVED_BYTES:
        raise ValueError(f"length must be in [1, {_MOST_DERIVED_BYTES}], got {length}")
    # The ratchet's info has no blank after its first word, so that no label meets it.
    return _hkdf(_checked(key), transcript, b"wardround " + label.encode(), length)


def commitment(value: bytes, transcript: bytes, label: str) -> bytes:
    """32 bytes that fix `value` without showing it, given that it cannot be guessed."""
    parts = (b"wardround commitment", label.encode(), transcript, value)
    return hashlib.sha256(b"".join(len(part).to_bytes(8, "big") + part for part in parts)).digest()


def _bound(info: bytes) -> bytes:
    return b"wardround pair key" + VERSION + info


def _checked(key: bytes) -> bytes:
    if len(key) != KEY_BYTES:
        raise CryptoError(f"a key has {KEY_BYTES} bytes, this has {len(key)}")
    return key


def _hkdf(key: bytes, salt: bytes | None, info: bytes, length: int) -> bytes:
    return HKDF(hashes.SHA256(), length, salt, info).derive(key)
