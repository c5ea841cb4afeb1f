"""Signed JSON: compact JWS and public JWKs in the few forms that people's tokens take.

    token = base64url(header) "." base64url(payload) "." base64url(signature)

`read` splits a token without believing it; `verify` checks it with one key and one list of algorithms.
The list never holds ``none`` or an algorithm with a shared secret, and the key's type must be the
algorithm's own, so neither downgrade nor a public key taken for a secret is possible. Headers that would
change how the rest is read (``crit``, ``b64``, ``zip``) are refused, whatever they say; keys by address
(``jku``, ``x5u``) are never followed.

References:
    RFC 7515, JSON Web Signature, sections 4 and 5.2. RFC 7517, JSON Web Key. RFC 7638, JWK Thumbprint.
    RFC 8725, JSON Web Token Best Current Practices, sections 3.1 and 3.2.
    RFC 9864, Fully-Specified Algorithms for JOSE: ``Ed25519`` in place of ``EdDSA``.
"""

import base64
import hashlib
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from joserfc import jws
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, OKPKey, RSAKey

from wardround.errors import CodecError, CryptoError, SignatureError

__all__ = [
    "ALGORITHMS",
    "MAX_TOKEN",
    "Unverified",
    "base64url",
    "load_private",
    "plain_key",
    "private_pem",
    "public_jwk",
    "read",
    "sign",
    "thumbprint",
    "verify",
]

ALGORITHMS: Final = ("ES256", "Ed25519", "PS256", "RS256")
"""Every algorithm that is ever accepted; a caller names those that it accepts."""
MAX_TOKEN = 8192

_TOKEN = re.compile(r"([A-Za-z0-9_-]{1,2048})\.([A-Za-z0-9_-]{1,8000})\.([A-Za-z0-9_-]{1,1024})", re.ASCII)
_COORDINATE = re.compile(r"[A-Za-z0-9_-]{43}")
_NUMBER = re.compile(r"[A-Za-z0-9_-]{1,1400}")
_MEMBERS: Final = {
    "EC": {"crv": re.compile("P-256"), "x": _COORDINATE, "y": _COORDINATE},
    "OKP": {"crv": re.compile("Ed25519"), "x": _COORDINATE},
    "RSA": {"n": _NUMBER, "e": re.compile("AQAB")},
}
_KEY_TYPE: Final = {"ES256": "EC", "Ed25519": "OKP", "PS256": "RSA", "RS256": "RSA"}
_PRIVATE: Final = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth", "k", "priv"})
_REFUSED: Final = frozenset({"crit", "b64", "zip", "enc"})
_REGISTRY: Final = jws.JWSRegistry(algorithms=ALGORITHMS, strict_check_header=False)
_MIN_RSA_BITS = 2048

SigningKey = EllipticCurvePrivateKey | Ed25519PrivateKey


@dataclass(frozen=True, slots=True)
class Unverified:
    """What a token claims: nothing here is true before `verify` returns."""

    header: Mapping[str, Any]
    payload: Mapping[str, Any]
    text: str


def read(token: str) -> Unverified:
    """Split a token into header and payload, believing neither.

    Raises:
        CodecError: Not a compact JWS of JSON objects, too long, or with a header that changes its meaning.
    """
    match = _TOKEN.fullmatch(token) if len(token) <= MAX_TOKEN else None
    if match is None:
        raise CodecError(f"not a signed token of at most {MAX_TOKEN} characters: expected three parts of base64url")
    header, payload = (_object(part) for part in (match[1], match[2]))
    if refused := sorted(_REFUSED & set(header)):
        raise CodecError(f"the token's header has {', '.join(refused)}, which is not understood here")
    if not isinstance(header.get("alg"), str):
        raise CodecError("the token's header names no algorithm")
    return Unverified(header, payload, token)


def verify(unverified: Unverified, key: Mapping[str, Any], algorithms: Collection[str]) -> Mapping[str, Any]:
    """The payload of a token that `key`, a public JWK, has signed.

    Raises:
        SignatureError: It did not, or the algorithm is not among `algorithms` or not this key's.
        CryptoError: `key` is no public key of a kind that is used here.
    """
    algorithm = str(unverified.header["alg"])
    if algorithm not in algorithms or algorithm not in ALGORITHMS:
        raise SignatureError(f"the token must be signed with one of {', '.join(sorted(algorithms))}")
    plain = plain_key(key)
    if plain["kty"] != _KEY_TYPE[algorithm] or key.get("alg", algorithm) != algorithm:
        raise SignatureError(f"the token names {algorithm}, and its key is for another algorithm")
    if key.get("use", "sig") != "sig":
        raise SignatureError("the token is signed with a key that is not for signatures")
    try:
        jws.deserialize_compact(unverified.text, _imported(plain), [algorithm], _REGISTRY)
    except (JoseError, ValueError, TypeError):
        raise SignatureError("the token's signature does not fit its content and key") from None
    return unverified.payload


def sign(header: Mapping[str, Any], payload: Mapping[str, Any], key: SigningKey) -> str:
    """A compact JWS with the algorithm of `key`: ES256 for P-256, Ed25519 for Ed25519."""
    imported: ECKey | OKPKey
    if isinstance(key, Ed25519PrivateKey):
        algorithm, imported = "Ed25519", OKPKey.import_key(private_pem(key))
    else:
        algorithm, imported = "ES256", ECKey.import_key(private_pem(key))
    body = msgspec.json.encode(payload)
    return jws.serialize_compact({**header, "alg": algorithm}, body, imported, [algorithm], _REGISTRY)


def plain_key(key: Mapping[str, Any]) -> dict[str, str]:
    """The required members of a public JWK, and none of the others.

    Raises:
        CryptoError: Not a P-256, Ed25519 or RSA public key, or it holds private members.
    """
    kind = key.get("kty")
    if not isinstance(kind, str) or kind not in _MEMBERS:
        raise CryptoError("a key must be EC on P-256, OKP with Ed25519, or RSA")
    if _PRIVATE & set(key):
        raise CryptoError("a public key is expected, and this one holds private members: it is no secret any more")
    plain = {"kty": kind}
    for member, form in _MEMBERS[kind].items():
        value = key.get(member)
        if not isinstance(value, str) or not form.fullmatch(value):
            raise CryptoError(f"the {kind} key's member {member!r} is missing or not in the form that is used here")
        plain[member] = value
    return plain


def thumbprint(key: Mapping[str, Any]) -> str:
    """The key's name, RFC 7638: base64url SHA-256 of its required members, sorted, without spaces.

    Raises:
        CryptoError: Not a public key of a kind that is used here.
    """
    return base64url(hashlib.sha256(msgspec.json.encode(plain_key(key), order="sorted")).digest())


def public_jwk(key: SigningKey) -> dict[str, str]:
    """The public half as a JWK of its required members."""
    imported = OKPKey if isinstance(key, Ed25519PrivateKey) else ECKey
    members = imported.import_key(private_pem(key)).as_dict(private=False)
    return plain_key(members)


def private_pem(key: SigningKey) -> bytes:
    """PKCS #8, unencrypted: for a file that only its owner reads."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def load_private(pem: bytes) -> SigningKey:
    """Read a P-256 or Ed25519 private key.

    Raises:
        CryptoError: Not one.
    """
    try:
        key = serialization.load_pem_private_key(pem, password=None)
    except (ValueError, TypeError):
        raise CryptoError("not a PEM private key") from None
    if isinstance(key, Ed25519PrivateKey) or (
        isinstance(key, EllipticCurvePrivateKey) and key.curve.name == "secp256r1"
    ):
        return key
    raise CryptoError("the private key is neither P-256 nor Ed25519")


def base64url(data: bytes) -> str:
    """Without padding, RFC 7515, appendix C."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def _imported(plain: dict[str, str]) -> ECKey | OKPKey | RSAKey:
    members: dict[str, str | list[str]] = {**plain}
    if plain["kty"] == "RSA":
        bits = int.from_bytes(_bytes(plain["n"])).bit_length()
        if bits < _MIN_RSA_BITS:
            raise CryptoError(f"an RSA key has at least {_MIN_RSA_BITS} bits, this has {bits}")
    try:
        if plain["kty"] == "EC":
            return ECKey.import_key(members)
        return OKPKey.import_key(members) if plain["kty"] == "OKP" else RSAKey.import_key(members)
    except (JoseError, ValueError, TypeError):
        raise CryptoError("the key's numbers are not those of a public key") from None


def _bytes(part: str) -> bytes:
    try:
        return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))
    except ValueError:
        raise CryptoError("a number of the key is not in base64url") from None


def _object(part: str) -> dict[str, Any]:
    try:
        data = base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))
        # One value has one spelling: what decodes to the same bytes in other letters is refused.
        if base64url(data) != part:
            raise CodecError("a part of the token is not in canonical base64url")
        found = msgspec.json.decode(data, type=dict[str, Any])
    except (ValueError, RecursionError):
        raise CodecError("a part of the token is not a JSON object in base64url") from None
    return found
