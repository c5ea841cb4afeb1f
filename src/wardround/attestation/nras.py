"""Tokens of NVIDIA's remote attestation service (NRAS), as an alternative to verifying a GPU ourselves.

    [["JWT", overall], {"GPU-0": detached, …}]       every JWT signed with ES384 by a key of NVIDIA's JWKS
    overall.submods["GPU-0"] == ["DIGEST", ["SHA-256", digest of the detached JWT]]

Whoever accepts these trusts NVIDIA's service to have compared measurements; our own verifier trusts NVIDIA only to
have signed what they should be. The keys come with the collateral that officers sign, never from the network, and the
nonce is `binding.gpu_nonce` as with our own verifier. No genuine token was at hand when this was written: the form is
that of NVIDIA's documents.

References:
    RFC 9711, Entity Attestation Token, 4.2.18.2: detached submodule digests. RFC 7518, section 3.4: ES384.
    NVIDIA Attestation documentation, Claims Guide: GPU claims, versions 2.0 and 3.0.
"""

import hashlib
import hmac
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from wardround.attestation.nvidia_device import CHIPS, MAX_DEVICES
from wardround.attestation.reference import ReferenceValues
from wardround.attestation.result import Check, Verified, claim, platform_hash, refuse, require
from wardround.errors import AttestationError, ConfigError

if TYPE_CHECKING:
    from joserfc.jwk import KeySet

__all__ = ["ISSUER", "MAX_TOKEN_BYTES", "verify"]

ISSUER = "https://nras.attestation.nvidia.com"
MAX_TOKEN_BYTES = 512 * 1024
_MAX_JWKS_BYTES = 64 * 1024
_SUBJECT = "NVIDIA-PLATFORM-ATTESTATION"
_CLAIMS_VERSIONS = frozenset({"2.0", "3.0"})
_SKEW_SECONDS = 60.0
_LIFETIME_SECONDS = 24 * 3600.0
_TRUE = (
    "x-nvidia-gpu-arch-check",
    "x-nvidia-gpu-attestation-report-nonce-match",
    "x-nvidia-gpu-attestation-report-signature-verified",
    "x-nvidia-gpu-driver-rim-signature-verified",
    "x-nvidia-gpu-vbios-rim-signature-verified",
)
_Bundle = tuple[tuple[str, str], dict[str, str]]


def verify(token: bytes, jwks: bytes, *, nonce: bytes, reference: ReferenceValues, now: float) -> tuple[Verified, ...]:
    """Check what NRAS says of all GPUs of one machine.

    Args:
        token: The service's answer, JSON, unverified.
        jwks: NVIDIA's keys (RFC 7517), from collateral that officers signed.
        nonce: The 32 bytes that the GPUs were asked with.
        reference: What is accepted; its `gpu` section must be there.
        now: Seconds since 1970-01-01 UTC.

    Raises:
        AttestationError: The claim that does not hold.
        ConfigError: The extra that reads tokens is not installed.
    """
    if reference.gpu is None:
        raise AttestationError("the reference values accept no NVIDIA device: they have no section gpu")
    if len(token) > MAX_TOKEN_BYTES or len(jwks) > _MAX_JWKS_BYTES:
        raise AttestationError(f"an NRAS answer may have {MAX_TOKEN_BYTES} bytes, this has {len(token)}")
    try:
        (kind, overall), detached = msgspec.json.decode(token, type=_Bundle)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise AttestationError("this is no answer of NRAS: a JWT and the JWTs of its devices") from None
    if kind != "JWT" or not reference.gpu.minimum_devices <= len(detached) <= MAX_DEVICES:
        raise AttestationError(f"{reference.gpu.minimum_devices} to {MAX_DEVICES} devices are wanted: {len(detached)}")
    keys = _keys(jwks)
    checks: list[Check] = []
    claims = _claims(overall, keys, nonce, now, checks)
    _same(checks, "sub", claims.get("sub"), _SUBJECT)
    version = claims.get("x-nvidia-ver")
    claim(checks, "x-nvidia-ver", version if isinstance(version, str) else "", _CLAIMS_VERSIONS)
    _same(checks, "x-nvidia-overall-att-result", claims.get("x-nvidia-overall-att-result"), True)
    # What is detached counts only where the overall token names it, and nothing that it names may be left out.
    submods = claims.get("submods")
    if not isinstance(submods, dict) or submods.keys() != detached.keys():
        raise refuse("RFC 9711, 4.2.18", "the token's submodules are not the devices that came with it")
    found = []
    for name, one in sorted(detached.items()):
        _same(checks, "RFC 9711, 4.2.18.2", submods[name], ["DIGEST", ["SHA-256", _digest(one)]])
        found.append(_device(_claims(one, keys, nonce, now, checks), reference, nonce, checks))
    if len({one.platform for one in found}) != len(found):
        raise refuse("ueid", "one device is named twice, as if it were two")
    return tuple(found)


def _device(claims: Mapping[str, Any], reference: ReferenceValues, nonce: bytes, before: list[Check]) -> Verified:
    gpu, checks = reference.gpu, list(before)
    _same(checks, "measres", str(claims.get("measres")).lower(), "success")
    _same(checks, "secboot", claims.get("secboot"), True)
    _same(checks, "dbgstat", claims.get("dbgstat"), "disabled")
    for name in _TRUE:
        _same(checks, name, claims.get(name), True)
    chip = _text(claims, "hwmodel").partition(" ")[0]
    architecture = CHIPS[chip][0] if chip in CHIPS else ""
    driver, vbios = _text(claims, "x-nvidia-gpu-driver-version"), _text(claims, "x-nvidia-gpu-vbios-version")
    claim(checks, "GPU reference: architectures", architecture, gpu.architectures if gpu else ())
    claim(checks, "GPU reference: drivers", driver, gpu.drivers if gpu else ())
    claim(checks, "GPU reference: vbios", vbios.upper(), gpu.vbios if gpu else ())
    platform = platform_hash("nvidia-gpu", _text(claims, "ueid").encode())
    require(
        checks,
        "reference: refused_platforms",
        "this device is not on the list",
        holds=platform not in reference.refused_platforms,
        otherwise="this device is never accepted, whatever NRAS says of it",
    )
    return Verified(
        kind="nvidia-gpu",
        measurements={},
        report_data=nonce,
        tcb={"architecture": architecture, "driver": driver, "vbios": vbios.upper()},
        platform=platform,
        valid_until=float(claims["exp"]),
        warnings=("measurements were compared by NVIDIA's service, not here",),
        checks=tuple(checks),
    )


def _claims(token: str, keys: "KeySet", nonce: bytes, now: float, checks: list[Check]) -> dict[str, Any]:
    """A JWT's claims, once its signature, issuer, time and nonce hold."""
    from joserfc import jwt
    from joserfc.errors import JoseError

    try:
        decoded = jwt.decode(token, keys, algorithms=["ES384"])
    except (JoseError, ValueError, TypeError, KeyError, RecursionError):
        raise refuse(
            "RFC 7518, 3.4", "a token is not signed with ES384 by a key of NVIDIA's that is known here"
        ) from None
    claims = dict(decoded.claims)
    checks.append(Check("RFC 7518, 3.4", "the token is signed by NVIDIA's service"))
    _same(checks, "iss", claims.get("iss"), ISSUER)
    issued, expires = _instant(claims, "iat"), _instant(claims, "exp")
    not_before = _instant(claims, "nbf") if "nbf" in claims else issued
    # Written so that a `now` which is not a number refuses.
    is_current = max(issued, not_before) - _SKEW_SECONDS <= now < expires <= issued + _LIFETIME_SECONDS
    require(
        checks,
        "RFC 7519, 4.1.4 to 4.1.6",
        "the token is valid now",
        holds=is_current,
        otherwise="the token has expired, is not valid yet, or is valid for longer than a day",
    )
    found = claims.get("eat_nonce")
    is_answer = isinstance(found, str) and found.isascii() and hmac.compare_digest(found.lower(), nonce.hex())
    require(
        checks,
        "RFC 9711, 4.1 eat_nonce",
        "the nonce is the one that was asked with",
        holds=is_answer and len(nonce) == 32,
        otherwise="the token answers another nonce",
    )
    return claims


def _keys(jwks: bytes) -> "KeySet":
    try:
        from joserfc.errors import JoseError
        from joserfc.jwk import KeySet
    except ImportError:
        raise ConfigError("tokens are JWTs: install wardround with its extra [attestation]") from None
    try:
        return KeySet.import_key_set(msgspec.json.decode(jwks))
    except (JoseError, msgspec.MsgspecError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise AttestationError("the collateral holds no key set of NVIDIA's service (RFC 7517, section 5)") from None


def _same(checks: list[Check], clause: str, found: object, wanted: object) -> None:
    # The types count too: 1 is not true.
    is_same = type(found) is type(wanted) and found == wanted
    require(checks, clause, "is as it must be", holds=is_same, otherwise="the token does not say what it must")


def _instant(claims: Mapping[str, Any], name: str) -> float:
    value = claims.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**40:
        raise refuse(f"RFC 7519, {name}", "the token does not say when, in whole seconds")
    return float(value)


def _text(claims: Mapping[str, Any], name: str) -> str:
    value = claims.get(name)
    if not isinstance(value, str) or not 1 <= len(value) <= 128 or not value.isascii() or not value.isprintable():
        raise refuse(name, "the token does not say it in a short text")
    return value


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
