"""Codes that count once: by time (TOTP), for recovery, and for a first login.

    TOTP    code = HOTP(secret, step), step = floor(now / 30 s); accepted for the present step and one on
            either side, and only if the step is later than the last that was accepted
    others  drawn at random, kept as SHA-256; their size makes guessing hopeless, so no slow hash is needed

Hazard: six digits can be guessed. `wardround.services.sign_in` counts attempts and asks for the password
in the same breath.

References:
    RFC 6238, TOTP, sections 4 and 5.2 (a code must be accepted only once).
"""

import base64
import hashlib
import hmac
import re

import pyotp

from wardround.errors import LoginError
from wardround.ports import Entropy

__all__ = ["SECRET_BYTES", "accepted_step", "address", "code_digest", "draw_code", "matches", "spelled"]

SECRET_BYTES = 20
STEP_SECONDS = 30
_CODE = re.compile(r"[0-9]{6}")
_CODE_BYTES = 10


def accepted_step(secret: bytes, code: str, now: float, last_step: int) -> int | None:
    """The step whose code this is, if it is later than `last_step`; else None. Takes as long whatever the code is."""
    present = int(now) // STEP_SECONDS
    wanted = re.sub(r"\s", "", code)
    given = (wanted if _CODE.fullmatch(wanted) else "      ").encode()
    otp, found = pyotp.TOTP(spelled(secret)), None
    for step in (present - 1, present, present + 1):
        is_it = hmac.compare_digest(otp.at(max(step, 0) * STEP_SECONDS).encode(), given)
        if is_it and step > last_step:
            found = step
    return found


def spelled(secret: bytes) -> str:
    """A TOTP secret as people type it into an app: base32."""
    return base64.b32encode(secret).decode()


def address(secret: bytes, name: str, issuer: str) -> str:
    """The ``otpauth:`` address that authenticator apps read."""
    return pyotp.TOTP(spelled(secret)).provisioning_uri(name=name, issuer_name=issuer)


def draw_code(entropy: Entropy) -> str:
    """A new code of 80 random bits in four groups of letters and digits."""
    text = base64.b32encode(entropy.draw(_CODE_BYTES)).decode()
    return "-".join(text[start : start + 4] for start in range(0, len(text), 4))


def code_digest(code: str, name: str) -> bytes:
    """What is kept of a code: bound to the account's name, however it is spaced or capitalized.

    Raises:
        LoginError: It is too long to be one.
    """
    if len(code) > 100:
        raise LoginError("that is no code: it is too long")
    plain = re.sub(r"[\s-]", "", code).upper()
    return hashlib.sha256(f"wardround code 1\n{name}\n{plain}".encode(errors="replace")).digest()


def matches(digest: bytes, digests: tuple[bytes, ...]) -> bytes | None:
    """The one of `digests` that is `digest`, compared in constant time."""
    found = [one for one in digests if hmac.compare_digest(one, digest)]
    return found[0] if found else None
