"""Proof of possession: one signature per request, by the key that an access token is bound to.

    header  {"typ": "dpop+jwt", "alg": "ES256" or "Ed25519", "jwk": the public key}
    payload {"jti", "htm": method, "htu": address without query and fragment, "iat",
             "ath": base64url SHA-256 of the access token, "nonce": the server's}

A token is worth nothing without its key: ``cnf.jkt`` in the token is the thumbprint of `jwk`. An action
at a command line is proven in the same form, with method ``CLI`` and an address of scheme
``wardround:``, so that one verification serves everywhere.

Hazard: `check` says that a proof fits one request. That it comes once is for a
`wardround.crypto.replay.ReplayGuard` to say, which is shown `Proof.thumbprint`, `jti` and `issued`.

References:
    RFC 9449, OAuth 2.0 Demonstrating Proof of Possession, sections 4.2, 4.3, 8 and 9.
"""

import hashlib
import hmac
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from wardround.crypto import jose
from wardround.errors import CodecError, SignatureError, StaleRequestError

__all__ = ["ALGORITHMS", "NONCE_SECONDS", "Proof", "check", "check_nonce", "make_nonce", "normal_address", "prove"]

ALGORITHMS = ("ES256", "Ed25519")
NONCE_SECONDS = 120
WINDOW_SECONDS = 60.0

_ADDRESS = re.compile(r"(?P<scheme>https?)://(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9.-]+)(?::(?P<port>[0-9]{1,5}))?")
_PATH = re.compile(r"(?:/(?:[A-Za-z0-9\-._~!$&'()*+,;=:@/]|%[0-9A-Fa-f]{2})*)?")
_ACTION = re.compile(r"wardround:[A-Za-z0-9._~/-]{1,300}")
_JTI = re.compile(r"[A-Za-z0-9._~+/=-]{8,128}")
_DEFAULT_PORT = {"http": "80", "https": "443"}
_NONCE = re.compile(r"[A-Za-z0-9_-]{54}")


@dataclass(frozen=True, slots=True)
class Proof:
    """A proof that fits its request: whose key, which number, and when."""

    thumbprint: str
    jti: str
    issued: int


def prove(
    key: jose.SigningKey, method: str, address: str, *, jti: str, now: float, token: str = "", nonce: str = ""
) -> str:
    """A proof for one request.

    Args:
        key: P-256 or Ed25519.
        method: In capitals; ``CLI`` for an action at a command line.
        address: The request's URL, or ``wardround:…``.
        jti: 8 to 128 characters, never used before.
        now: Seconds since 1970-01-01 UTC.
        token: The access token that goes with it; empty at a token endpoint.
        nonce: The server's; empty where it gave none.

    Raises:
        ValueError: An argument is not in the form that a proof takes.
    """
    if not _JTI.fullmatch(jti):
        raise ValueError("jti must be 8 to 128 characters of a token's alphabet")
    try:
        payload = {"jti": jti, "htm": method, "htu": normal_address(address), "iat": int(now)}
    except CodecError as error:
        raise ValueError(str(error)) from None
    if token:
        payload["ath"] = _digest(token)
    if nonce:
        payload["nonce"] = nonce
    return jose.sign({"typ": "dpop+jwt", "jwk": jose.public_jwk(key)}, payload, key)


def check(
    proof: str, method: str, address: str, *, now: float, token: str = "", window_seconds: float = WINDOW_SECONDS
) -> tuple[Proof, str]:
    """A proof that fits this request and token, and the server's nonce that it carries (empty: none).

    Raises:
        CodecError: Not a proof at all.
        CryptoError: Its key is no public key of a kind that is used here.
        SignatureError: Not signed by the key in it, or for another request or token.
        StaleRequestError: Too old, or from the future.
    """
    # The numbers are those of RFC 9449, section 4.3.
    unverified = jose.read(proof)  # (2) One well-formed JWT.
    if unverified.header.get("typ") != "dpop+jwt":  # (4)
        raise SignatureError("not a DPoP proof: its typ must be dpop+jwt")
    key = unverified.header.get("jwk")
    if not isinstance(key, dict):
        raise SignatureError("the DPoP proof carries no public key")
    payload = jose.verify(unverified, key, ALGORITHMS)  # (5), (6), and (7) within.
    jti, issued = _required(payload)  # (3)
    if payload.get("htm") != method:  # (8)
        raise SignatureError("the DPoP proof is for another method than the request's")
    if not _same_address(payload.get("htu"), address):  # (9)
        raise SignatureError("the DPoP proof is for another address than the request's")
    # (11) Written so that a broken `now` refuses.
    if not abs(now - issued) <= window_seconds:
        raise StaleRequestError(
            f"the DPoP proof's time is more than {window_seconds:g} s away from this machine's clock:"
            " make a new one, and check that NTP runs on both"
        )
    ath = payload.get("ath")  # (12)
    if token and not (isinstance(ath, str) and hmac.compare_digest(ath.encode(), _digest(token).encode())):
        raise SignatureError("the DPoP proof is for another access token than the request's")
    return Proof(jose.thumbprint(key), jti, issued), str(payload.get("nonce", ""))


def normal_address(address: str) -> str:
    """An address as proofs compare it: no query, no fragment, no default port, host and scheme in small letters.

    Raises:
        CodecError: Not an address of http, https or an action here.
    """
    bare = re.split(r"[?#]", address, maxsplit=1)[0]
    if len(bare) <= 2048:
        if _ACTION.fullmatch(bare):
            return bare
        match = _ADDRESS.match(bare)
        if match is not None and _PATH.fullmatch(bare, match.end()):
            scheme, port = match["scheme"], match["port"]
            suffix = "" if port in {None, _DEFAULT_PORT[scheme]} else f":{port}"
            return f"{scheme}://{match['host'].lower()}{suffix}{bare[match.end() :] or '/'}"
    raise CodecError("not an address that a DPoP proof can be for")


def make_nonce(key: bytes, now: float) -> str:
    """A nonce that only this server can make, good for `NONCE_SECONDS` to twice as long; RFC 9449, section 8."""
    stamp = struct.pack(">Q", int(now) // NONCE_SECONDS)
    return jose.base64url(stamp + hmac.digest(key, b"wardround dpop nonce 1" + stamp, "sha256"))


def check_nonce(key: bytes, nonce: str, now: float) -> bool:
    """Whether `make_nonce` made this one, now or one period ago."""
    if not _NONCE.fullmatch(nonce):
        return False
    present, before = (make_nonce(key, now - age) for age in (0, NONCE_SECONDS))
    return hmac.compare_digest(nonce.encode(), present.encode()) | hmac.compare_digest(nonce.encode(), before.encode())


def _required(payload: Mapping[str, Any]) -> tuple[str, int]:
    jti, issued = payload.get("jti"), payload.get("iat")
    if not isinstance(jti, str) or not _JTI.fullmatch(jti):
        raise SignatureError("the DPoP proof has no proper jti")
    if isinstance(issued, bool) or not isinstance(issued, (int, float)) or not 0 <= issued < 1e11:
        raise SignatureError("the DPoP proof has no proper iat")
    return jti, int(issued)


def _same_address(claimed: object, address: str) -> bool:
    # (9) allows a claim with query or fragment to be compared without them; ours never have any, so such is refused.
    if not isinstance(claimed, str) or "?" in claimed or "#" in claimed:
        return False
    try:
        return normal_address(claimed) == normal_address(address)
    except CodecError:
        return False


def _digest(token: str) -> str:
    return jose.base64url(hashlib.sha256(token.encode()).digest())
