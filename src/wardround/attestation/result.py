"""What a verifier found: the claims of one piece of evidence, and the checks that it passed.

A `Verified` is made by a verifier of this package and by nothing else; whoever holds one holds the
outcome of every check in `checks`. There is no `Verified` of evidence that was refused: a verifier
raises `AttestationError`, whose message names the clause that failed.

References:
    RFC 9334, Remote ATtestation procedureS (RATS) Architecture, section 8: evidence and attestation results.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from wardround.errors import AttestationError

__all__ = ["Check", "Kind", "Verified", "claim", "platform_hash", "refuse", "require"]

Kind = Literal["snp", "tdx", "sgx", "nvidia-gpu"]
"""Whose evidence: AMD SEV-SNP, Intel TDX, Intel SGX, an NVIDIA GPU or switch in confidential mode."""


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was compared and held; `clause` says where the rule stands."""

    clause: str
    what: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """Evidence that passed every check.

    Attributes:
        kind: Whose evidence.
        measurements: What was measured, by the field's own name, as lower-case hexadecimal.
        report_data: What the evidence binds: 64 bytes from a processor, the 32-byte nonce from a GPU.
        tcb: The versions of the platform's firmware, and its standing, by name.
        platform: SHA-256 of the machine's own identity (`platform_hash`), so that results name no serial number.
        valid_until: Seconds since 1970-01-01 UTC: the first end of anything that the result rests on.
        warnings: What the verifier tolerated because the reference values allow it.
        advisories: The vendor's security advisories that apply to this platform.
        checks: Every check that was made.
    """

    kind: Kind
    measurements: Mapping[str, str]
    report_data: bytes
    tcb: Mapping[str, str | int]
    platform: str
    valid_until: float
    warnings: tuple[str, ...] = ()
    advisories: tuple[str, ...] = ()
    checks: tuple[Check, ...] = field(default=(), repr=False)


def platform_hash(kind: Kind, identity: bytes) -> str:
    """A machine's name in results: SHA-256 over its kind and identity, in hexadecimal."""
    return hashlib.sha256(f"wardround platform 1\n{kind}\n".encode() + identity).hexdigest()


def refuse(clause: str, message: str) -> AttestationError:
    """The error for a failed `clause`: to be raised by the caller."""
    return AttestationError(f"{clause}: {message}")


def require(checks: list[Check], clause: str, what: str, *, holds: bool, otherwise: str) -> None:
    """Record that `clause` held, or refuse.

    Raises:
        AttestationError: It does not hold; the message names `clause` and says `otherwise`.
    """
    if not holds:
        raise refuse(clause, otherwise)
    checks.append(Check(clause, what))


def claim(checks: list[Check], clause: str, found: str, allowed: Iterable[str]) -> None:
    """Record that a measured value is one of those `allowed`, or refuse; no allowed value refuses all.

    Raises:
        AttestationError: It is not on the list.
    """
    known = frozenset(allowed)
    if found not in known:
        raise refuse(
            clause,
            f"the evidence has {_short(found)}, which is none of the {len(known)} reference values; "
            "run the approved build, or have the officers approve this one",
        )
    checks.append(Check(clause, f"is {_short(found)}"))


def _short(value: str) -> str:
    return f"{value[:16]}… ({len(value) // 2} bytes)" if len(value) > 32 else value
