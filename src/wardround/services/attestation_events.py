"""What happened with attestations and keys, as data for the audit log; and how services have evidence appraised."""

from collections.abc import Sequence
from typing import Literal, Protocol

import msgspec

from wardround.attestation.evidence import Evidence
from wardround.attestation.nvidia_device import DeviceEvidence
from wardround.attestation.reference import ReferenceValues
from wardround.attestation.result import Verified

__all__ = ["Appraise", "AttestationEvent", "What", "told"]

What = Literal["attested", "released", "registered", "refused", "closed"]
_MAX_REASON = 500


class Appraise(Protocol):
    """`wardround.attestation.nvidia_machine.appraise` with its collateral filled in."""

    def __call__(
        self,
        evidence: Evidence,
        devices: Sequence[DeviceEvidence],
        reference: ReferenceValues,
        *,
        expected_report_data: bytes,
        session_key: bytes,
        now: float,
    ) -> tuple[Verified, ...]:
        """The results, or `AttestationError`."""
        ...


class AttestationEvent(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What the audit log is told: never a key, never evidence, only what it came to.

    `at` is in seconds since 1970-01-01 UTC, `subject` a run or a study, `key` a key's name, `measurement` the
    processor's launch measurement, `platform` the hash that stands for the machine, `reason` the clause of a refusal.
    """

    what: What
    at: float
    subject: str
    site: str = ""
    key: str = ""
    kind: str = ""
    measurement: str = ""
    platform: str = ""
    reason: str = ""


def told(
    what: What,
    at: float,
    subject: str,
    site: str = "",
    *,
    key: str = "",
    found: Sequence[Verified] = (),
    reason: str = "",
) -> AttestationEvent:
    """An event; of results only the processor's, which is the first, is told."""
    first = found[0] if found else None
    return AttestationEvent(
        what=what,
        at=at,
        subject=subject,
        site=site,
        key=key,
        kind=first.kind if first else "",
        measurement=next(iter(first.measurements.values()), "") if first else "",
        platform=first.platform if first else "",
        reason=reason[:_MAX_REASON],
    )
