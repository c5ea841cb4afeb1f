"""A machine as a whole: its processor's evidence and, where it must have them, its GPUs', bound to one another.

    processor   REPORT_DATA == what this session asked for                  `appraisal.appraise`
    GPU         nonce == SHA-256(processor's report, session key)           `nvidia_device.verify_all`

A GPU that answers for another machine, or for this machine at another time, has another nonce.
"""

from collections.abc import Sequence

from wardround.attestation import appraisal, binding, nvidia_device
from wardround.attestation.collateral import Bundle
from wardround.attestation.evidence import Evidence
from wardround.attestation.nvidia_device import DeviceEvidence
from wardround.attestation.reference import ReferenceValues
from wardround.attestation.result import Verified
from wardround.errors import AttestationError

__all__ = ["appraise"]


def appraise(
    evidence: Evidence,
    devices: Sequence[DeviceEvidence],
    reference: ReferenceValues,
    bundle: Bundle,
    *,
    expected_report_data: bytes,
    session_key: bytes,
    now: float,
) -> tuple[Verified, ...]:
    """Check a processor's evidence, then its GPUs'.

    Args:
        evidence: The processor's, unverified.
        devices: The GPUs' and switches', unverified; none where the reference values name none.
        reference: What is accepted.
        bundle: Collateral, from `collateral.open_bundle`.
        expected_report_data: The 64 bytes that the processor's evidence must bind.
        session_key: The key that this session is about, as its verifier knows it.
        now: Seconds since 1970-01-01 UTC.

    Returns:
        The processor's result, then the devices'.

    Raises:
        AttestationError: The clause that failed.
        ConfigError: The extra that is needed is not installed.
    """
    found = appraisal.appraise(evidence, reference, bundle, expected_report_data=expected_report_data, now=now)
    if reference.gpu is None:
        if devices:
            raise AttestationError("the reference values accept no NVIDIA device, and the evidence shows some")
        return (found,)
    return (
        found,
        *nvidia_device.verify_all(
            devices,
            nonce=binding.gpu_nonce(evidence.report, session_key),
            reference=reference,
            collateral=nvidia_device.collateral_of(bundle),
            now=now,
        ),
    )
