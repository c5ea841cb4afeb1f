"""Passwords: scrypt, with its parameters beside each digest so that they can grow.

Long enough, and nothing else is asked: rules about kinds of characters make passwords worse. Compared in
the form NFKC, so that the same keys on another machine give the same password.

References:
    RFC 7914, scrypt. NIST SP 800-63B-4, section 3.1.1.2.
"""

import hmac
import unicodedata

import msgspec
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from wardround.errors import CryptoError, LoginError

__all__ = ["MIN_LENGTH", "SALT_BYTES", "Password", "check_choice", "is_password", "make"]

MIN_LENGTH = 12
MAX_LENGTH = 256
SALT_BYTES = 16
_N, _R, _P = 2**15, 8, 1
_LIMITS = {"n": 2**20, "r": 32, "p": 16}


class Password(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is kept of a password."""

    salt: bytes
    digest: bytes
    n: int = _N
    r: int = _R
    p: int = _P

    def __repr__(self) -> str:
        """Without the digest."""
        return f"Password(n={self.n})"


def check_choice(password: str, name: str) -> None:
    """Raise unless a new password may be chosen.

    Raises:
        LoginError: Too short, too long, or the account's own name.
    """
    if not MIN_LENGTH <= len(password) <= MAX_LENGTH:
        raise LoginError(f"a password has {MIN_LENGTH} to {MAX_LENGTH} characters; several words make a good one")
    if password.strip().lower() == name.lower() or len(set(password)) < 4:
        raise LoginError("a password is not the account's name, nor the same few characters again and again")


def make(password: str, salt: bytes, *, n: int = _N) -> Password:
    """What to keep of a password that `check_choice` let pass."""
    return Password(salt, _derive(password, salt, n, _R, _P), n)


def is_password(kept: Password, password: str) -> bool:
    """Whether this is the password; takes as long either way.

    Raises:
        CryptoError: The kept parameters are not within bounds.
    """
    if len(password) > MAX_LENGTH:
        return False
    sizes = {"n": kept.n, "r": kept.r, "p": kept.p}
    if any(not 1 <= sizes[name] <= limit for name, limit in _LIMITS.items()) or kept.n & (kept.n - 1):
        raise CryptoError("a kept password's parameters are out of bounds: the store was altered")
    return hmac.compare_digest(_derive(password, kept.salt, kept.n, kept.r, kept.p), kept.digest)


def _derive(password: str, salt: bytes, n: int, r: int, p: int) -> bytes:
    plain = unicodedata.normalize("NFKC", password).encode(errors="replace")
    return Scrypt(salt=salt, length=32, n=n, r=r, p=p).derive(plain)
