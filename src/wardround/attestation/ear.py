"""Attestation results as signed tokens: what a verifier tells those who trust it.

    {"alg": "ES256" | "Ed25519", "typ": "eat+jwt"} . {
        eat_profile, iat, exp, eat_nonce,
        ear_verifier_id: {developer, build},
        cnf: {jwk: the attested machine's own public key},
        submods: {"cpu": appraisal, "gpu0": appraisal, ...}}

    appraisal = {ear_status, ear_trustworthiness_vector, ear_appraisal_policy_ids, ear_verifier_claims}

A token is no bearer token: it says that the holder of `cnf`'s key was attested, and whoever receives it asks for a
proof of that key. It is for ten minutes at most and for one nonce. Names are those of draft 04 of EAR, which is still a
draft: a later one may rename them, and then `PROFILE` changes with it.

References:
    draft-ietf-rats-ear-04. draft-ietf-rats-ar4si: trustworthiness claims and tiers.
    RFC 9711, The Entity Attestation Token (EAT). RFC 7800, `cnf`. RFC 9782, media types. RFC 9334, passport model.
"""

import base64
import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from wardround.attestation.result import Verified, refuse
from wardround.codec import canonical
from wardround.crypto import jose
from wardround.errors import AttestationError, CodecError, CryptoError
from wardround.ids import Digest

__all__ = ["MAX_LIFETIME_SECONDS", "PROFILE", "Appraisal", "Result", "appraisal", "issue", "verify"]

PROFILE = "tag:ietf.org,2026:rats/ear#04"
MAX_LIFETIME_SECONDS = 600
_TYPE = "eat+jwt"
_SKEW_SECONDS = 30
_ALGORITHMS = ("ES256", "Ed25519")
_MAX_SUBMODULES = 11
_POLICY_PREFIX = "urn:sha256:"
Tier = Literal["affirming", "warning"]
# AR4SI, section 2.3.4. Evidence that was refused has no token, so the tiers "none" and "contraindicated" do not occur.
_INSTANCE_RECOGNIZED, _INSTANCE_UNKNOWN = 2, 3
_CONFIGURATION_APPROVED, _EXECUTABLES_AT_BOOT, _RUNTIME_ENCRYPTED = 2, 3, 2
_HARDWARE_GENUINE, _HARDWARE_VULNERABLE = 2, 32
_FIRST_WARNING = 32


class VerifierId(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Who appraised: whose software, and which build of it."""

    developer: str
    build: str


class Claims(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What this verifier adds: the kind of evidence, the machine's name, and a digest over all that was found."""

    kind: Literal["snp", "tdx", "sgx", "nvidia-gpu"]
    platform: str
    found: str
    advisories: tuple[str, ...] = ()


class Appraisal(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One component's result."""

    ear_status: Tier
    ear_trustworthiness_vector: dict[str, int]
    ear_appraisal_policy_ids: tuple[str]
    ear_verifier_claims: Claims


class _Confirmation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    jwk: dict[str, str]


class _Token(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    eat_profile: str
    iat: int
    exp: int
    eat_nonce: str
    ear_verifier_id: VerifierId
    cnf: _Confirmation
    submods: dict[str, Appraisal]


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """A token that was verified: for whom (`key`, a public JWK), until when, under which reference values."""

    key: Mapping[str, str]
    policy: Digest
    issued: int
    expires: int
    verifier: VerifierId
    submodules: Mapping[str, Appraisal]


def issue(
    results: Mapping[str, Verified],
    *,
    nonce: bytes,
    tee_key: Mapping[str, Any],
    policy: Digest,
    key: jose.SigningKey,
    build: str,
    now: float,
    lifetime_seconds: int = 300,
) -> str:
    """Sign what was verified.

    Args:
        results: By component: ``cpu``, ``gpu0``, …; `cpu` must be there.
        nonce: The challenge that the evidence answered, 8 to 64 bytes.
        tee_key: The public JWK that the evidence is bound to. The caller has checked that it is.
        policy: The digest of the reference values.
        key: The verifier's P-256 or Ed25519 key.
        build: This verifier's version.
        now: Seconds since 1970-01-01 UTC.
        lifetime_seconds: 600 at most; shortened to the end of the collateral.

    Raises:
        ValueError: No result of a processor, too many components, a nonce or lifetime out of bounds.
        CryptoError: `tee_key` is no public key.
        CodecError: The results are too long for a token.
        AttestationError: The collateral that the results rest on has ended.
    """
    if "cpu" not in results or len(results) > _MAX_SUBMODULES:
        raise ValueError(f"a token has the result 'cpu' and {_MAX_SUBMODULES} at most")
    if not 8 <= len(nonce) <= 64 or not 1 <= lifetime_seconds <= MAX_LIFETIME_SECONDS:
        raise ValueError(f"a nonce has 8 to 64 bytes, and a token is valid for {MAX_LIFETIME_SECONDS} seconds at most")
    issued = int(now)
    expires = min(issued + lifetime_seconds, *(int(result.valid_until) for result in results.values()))
    if expires <= issued:
        raise refuse("RFC 7519 section 4.1.4 exp", "the collateral has ended: verify again with a newer bundle")
    token = _Token(
        eat_profile=PROFILE,
        iat=issued,
        exp=expires,
        eat_nonce=jose.base64url(nonce),
        ear_verifier_id=VerifierId("wardround", build),
        cnf=_Confirmation(jose.plain_key(tee_key)),
        submods={name: appraisal(result, policy) for name, result in sorted(results.items())},
    )
    signed = jose.sign({"typ": _TYPE}, msgspec.to_builtins(token), key)
    # A token that nobody could read, for its length, is not handed out.
    jose.read(signed)
    return signed


def verify(token: str, key: Mapping[str, Any], *, nonce: bytes, now: float) -> Result:
    """Read a token that the verifier with `key`, a public JWK, signed for `nonce`.

    Raises:
        AttestationError: Not such a token, for another nonce, or not valid at `now`.
    """
    try:
        unverified = jose.read(token)
        payload = jose.verify(unverified, key, _ALGORITHMS)
        found = msgspec.convert(payload, _Token)
        confirmed = jose.plain_key(found.cnf.jwk)
    except (CryptoError, msgspec.ValidationError, CodecError) as error:
        raise AttestationError(f"RFC 9711 token: {error}") from None
    if unverified.header.get("typ") != _TYPE or found.eat_profile != PROFILE:
        raise refuse("RFC 9711 section 4.3.2 eat_profile", f"an {_TYPE} of profile {PROFILE} expected")
    # Written so that a `now` which is not a number refuses.
    if not found.iat - _SKEW_SECONDS <= now < found.exp <= found.iat + MAX_LIFETIME_SECONDS:
        raise refuse(
            "RFC 7519 section 4.1.4 exp", "the token is not valid at this time, or for longer than ten minutes"
        )
    if not hmac.compare_digest(_decoded(found.eat_nonce), nonce) or len(nonce) < 8:
        raise refuse("RFC 9711 section 4.1 eat_nonce", "the token answers another challenge: ask for a new one")
    policies = {entry.ear_appraisal_policy_ids[0] for entry in found.submods.values()}
    if "cpu" not in found.submods or len(found.submods) > _MAX_SUBMODULES or len(policies) != 1:
        raise refuse("RFC 9711 section 4.2.18 submods", "one policy for all, and the result of a processor, expected")
    policy = policies.pop()
    if not policy.startswith(_POLICY_PREFIX):
        raise refuse("draft-ietf-rats-ear-04 ear_appraisal_policy_ids", "the digest of reference values expected")
    for name, entry in found.submods.items():
        if entry.ear_status != _tier(entry.ear_trustworthiness_vector):
            raise refuse("draft-ietf-rats-ear-04 ear_status", f"of {name} is not that of its trustworthiness vector")
    return Result(
        key=confirmed, policy=Digest(policy.removeprefix(_POLICY_PREFIX)), issued=found.iat, expires=found.exp,
        verifier=found.ear_verifier_id, submodules=found.submods,
    )  # fmt: skip


def appraisal(result: Verified, policy: Digest) -> Appraisal:
    """One component's result, in AR4SI's terms."""
    is_current = not result.advisories and result.tcb.get("status", "UpToDate") == "UpToDate"
    is_named = not any("hides which chip" in warning for warning in result.warnings)
    vector = {
        "instance-identity": _INSTANCE_RECOGNIZED if is_named else _INSTANCE_UNKNOWN,
        "configuration": _CONFIGURATION_APPROVED,
        "executables": _EXECUTABLES_AT_BOOT,
        "hardware": _HARDWARE_GENUINE if is_current else _HARDWARE_VULNERABLE,
        "runtime-opaque": _RUNTIME_ENCRYPTED,
    }
    found = {
        "measurements": dict(result.measurements),
        "tcb": dict(result.tcb),
        "report_data": result.report_data.hex(),
        "warnings": list(result.warnings),
    }
    claims = Claims(
        kind=result.kind,
        platform=result.platform,
        found=canonical.digest(canonical.encode(found)),
        advisories=result.advisories,
    )
    return Appraisal(_tier(vector), vector, (_POLICY_PREFIX + policy,), claims)


def _tier(vector: Mapping[str, int]) -> Tier:
    # AR4SI, 2.3.2: 2 to 31 affirm, 32 to 95 warn; anything else is no result of this verifier.
    if not vector or not all(2 <= value < 96 for value in vector.values()):
        raise refuse("draft-ietf-rats-ar4si trustworthiness vector", "values from 2 to 95 expected")
    return "warning" if max(vector.values()) >= _FIRST_WARNING else "affirming"


def _decoded(text: str) -> bytes:
    try:
        return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except ValueError:
        raise refuse("RFC 9711 section 4.1 eat_nonce", "not base64url") from None
