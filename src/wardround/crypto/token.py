"""Tokens about people: access tokens (RFC 9068) bound to a key, and identity tokens of OpenID Connect.

    access    {"typ": "at+jwt"}  iss sub aud exp iat jti client_id  cnf.jkt  acr amr auth_time  sid …
    identity  {"typ": "JWT"}     iss sub aud exp iat nonce at_hash  acr amr auth_time

The two are told apart by `typ` and by what they hold, so neither serves as the other. Keys come from the
issuer that the settings name, never from an address or a key inside the token.

References:
    RFC 9068, JWT Profile for OAuth 2.0 Access Tokens, section 4. RFC 7519, JSON Web Token.
    OpenID Connect Core 1.0, sections 2, 3.1.3.6 and 3.1.3.7.
"""

import hashlib
import hmac
from collections.abc import Mapping, Sequence
from typing import Any

from wardround.crypto import jose
from wardround.errors import CodecError, CryptoError, SignatureError

__all__ = ["LEEWAY_SECONDS", "Keys", "access_token", "identity_token", "issue", "key_named", "thumbprint_of"]

LEEWAY_SECONDS = 60.0
MAX_KEYS = 32

Keys = Sequence[Mapping[str, Any]]
"""An issuer's public JWKs."""


def issue(claims: Mapping[str, Any], key: jose.SigningKey, *, typ: str) -> str:
    """Sign a token; its `kid` is the thumbprint of the key."""
    return jose.sign({"typ": typ, "kid": jose.thumbprint(jose.public_jwk(key))}, claims, key)


def key_named(unverified: jose.Unverified, keys: Keys) -> Mapping[str, Any] | None:
    """The one key that a token names by `kid` and that fits its algorithm; without a `kid`, the only one that fits."""
    kid = unverified.header.get("kid")
    fitting = [key for key in keys[:MAX_KEYS] if _fits(key, str(unverified.header["alg"]))]
    found = fitting if kid is None else [key for key in fitting if key.get("kid") == kid]
    return found[0] if len(found) == 1 else None


def access_token(
    text: str,
    keys: Keys,
    *,
    issuer: str,
    audience: str,
    now: float,
    algorithms: Sequence[str] = jose.ALGORITHMS,
    leeway_seconds: float = LEEWAY_SECONDS,
) -> Mapping[str, Any]:
    """The claims of an access token of `issuer` for `audience` that is valid at `now`.

    Raises:
        CodecError: Not a token.
        SignatureError: Not the issuer's, not for here, expired, not valid yet, or no access token.
        CryptoError: The issuer's key is none that is used here.
    """
    unverified = jose.read(text)
    typ = unverified.header.get("typ")
    # (1) RFC 9068, section 4: at+jwt, with or without "application/".
    if not isinstance(typ, str) or typ.lower().removeprefix("application/") != "at+jwt":
        raise SignatureError("not an access token: its typ must be at+jwt")
    claims = _signed(unverified, keys, algorithms)
    _check_times(claims, now, leeway_seconds)
    _check_origin(claims, issuer, audience)
    return claims


def identity_token(
    text: str,
    keys: Keys,
    *,
    issuer: str,
    client: str,
    nonce: str,
    access: str,
    now: float,
    algorithms: Sequence[str] = jose.ALGORITHMS,
    leeway_seconds: float = LEEWAY_SECONDS,
) -> Mapping[str, Any]:
    """The claims of an identity token that answers this client's own question.

    Args:
        text: The token.
        keys: The issuer's.
        issuer: As the settings name it.
        client: This client's id, which `aud` and `azp` must name.
        nonce: What the question held; empty only where a refresh answers none.
        access: The access token that came with it, which `at_hash`, where there is one, must name.
        now: Seconds since 1970-01-01 UTC.
        algorithms: Those that are accepted.
        leeway_seconds: How far clocks may be apart.

    Raises:
        CodecError: Not a token.
        SignatureError: Not the issuer's, for another client or question, with another access token, or expired.
        CryptoError: The issuer's key is none that is used here.
    """
    unverified = jose.read(text)
    if str(unverified.header.get("typ", "JWT")).lower().removeprefix("application/") != "jwt":
        raise SignatureError("not an identity token: its typ must be JWT")
    claims = _signed(unverified, keys, algorithms)
    _check_times(claims, now, leeway_seconds)
    _check_origin(claims, issuer, client)
    audience = claims["aud"]
    others = isinstance(audience, list) and len(audience) > 1
    if claims.get("azp", None if others else client) != client:  # OpenID Connect Core, 3.1.3.7, (4) and (5).
        raise SignatureError("the identity token was issued to another client")
    given = claims.get("nonce", "")
    if not isinstance(given, str) or not hmac.compare_digest(given.encode(), nonce.encode()):
        # A refreshed identity token should carry no nonce (12.2); one that does must carry this one.
        raise SignatureError("the identity token answers another question: its nonce is not this login's")
    half = jose.base64url(hashlib.sha256(access.encode()).digest()[:16])
    at_hash = claims.get("at_hash", half)
    if not isinstance(at_hash, str) or not hmac.compare_digest(at_hash.encode(), half.encode()):
        raise SignatureError("the identity token came with another access token: its at_hash does not fit")
    return claims


def thumbprint_of(claims: Mapping[str, Any]) -> str:
    """The thumbprint of the key that a token is bound to (RFC 9449, section 6.1).

    Raises:
        SignatureError: It is bound to none: whoever holds it could use it.
    """
    bound = claims.get("cnf")
    found = bound.get("jkt") if isinstance(bound, dict) else None
    if not isinstance(found, str) or len(found) != 43:
        raise SignatureError("the access token is not bound to a key (cnf.jkt): the provider must issue DPoP tokens")
    return found


def _signed(unverified: jose.Unverified, keys: Keys, algorithms: Sequence[str]) -> Mapping[str, Any]:
    key = key_named(unverified, keys)
    if key is None:
        raise SignatureError("the issuer has no key for this token: it may have changed its keys; log in again")
    return jose.verify(unverified, key, algorithms)


def _check_times(claims: Mapping[str, Any], now: float, leeway: float) -> None:
    expires, issued, earliest = (claims.get(name, default) for name, default in (("exp", None), ("iat", 0), ("nbf", 0)))
    if not all(_is_instant(value) for value in (expires, issued, earliest)):
        raise SignatureError("the token's exp, iat or nbf is missing or no time")
    # Written so that a broken `now` refuses.
    if not now < expires + leeway:
        raise SignatureError("the token has expired; log in again")
    if not (issued <= now + leeway and earliest <= now + leeway):
        raise SignatureError("the token is not valid yet: check that NTP runs here and at the provider")


def _check_origin(claims: Mapping[str, Any], issuer: str, audience: str) -> None:
    if claims.get("iss") != issuer:
        raise SignatureError("the token is of another issuer than the one in the settings")
    named = claims.get("aud")
    names = [named] if isinstance(named, str) else named
    if not isinstance(names, list) or audience not in names or not audience:
        raise SignatureError("the token is for another audience")
    subject = claims.get("sub")
    if not isinstance(subject, str) or not 1 <= len(subject) <= 255:
        raise SignatureError("the token names no subject")


def _is_instant(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < 1e11


def _fits(key: Mapping[str, Any], algorithm: str) -> bool:
    try:
        kind = jose.plain_key(key)["kty"]
    except (CryptoError, CodecError):
        return False  # An issuer may publish keys of other kinds too; they are for others.
    wanted = {"ES256": "EC", "Ed25519": "OKP", "PS256": "RSA", "RS256": "RSA"}.get(algorithm)
    return kind == wanted and key.get("use", "sig") == "sig" and key.get("alg", algorithm) == algorithm
