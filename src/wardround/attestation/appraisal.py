"""The one way in for a processor's evidence: verified, compared with the reference values, or refused.

    Evidence + ReferenceValues + Bundle + what this session asked for + now ──▶ Verified, or AttestationError

References:
    RFC 9334, section 8.3 to 8.5: appraisal policy, reference values, attestation results.
"""

import math
from typing import assert_never

from wardround.attestation import collateral as collateral_bundle
from wardround.attestation import evidence as processor_evidence
from wardround.attestation import reference, sgx_verifier, snp_verifier, tdx_verifier
from wardround.attestation.binding import REPORT_DATA_BYTES
from wardround.attestation.collateral import Bundle
from wardround.attestation.evidence import Evidence
from wardround.attestation.reference import ReferenceValues
from wardround.attestation.result import Verified, refuse

__all__ = ["appraise"]


def appraise(
    evidence: Evidence,
    reference_values: ReferenceValues,
    collateral: Bundle,
    *,
    expected_report_data: bytes,
    now: float,
) -> Verified:
    """Verify a processor's evidence.

    Args:
        evidence: As it came.
        reference_values: What is accepted; from the approved plan, or signed by officers.
        collateral: From `collateral.open_bundle`.
        expected_report_data: 64 bytes, made by the verifier itself with `binding`, never taken from the evidence.
        now: Seconds since 1970-01-01 UTC.

    Raises:
        AttestationError: Refused; the message names the clause that failed.
        CodecError: The reference values or the collateral are not proper ones.
        ConfigError: The verifier of this kind of evidence is not installed.
        ValueError: `expected_report_data` has another length.
    """
    if len(expected_report_data) != REPORT_DATA_BYTES:
        raise ValueError(f"expected report data has {REPORT_DATA_BYTES} bytes")
    if not math.isfinite(now):
        raise refuse("RFC 9334 section 10", "the time is not one")
    processor_evidence.check(evidence)
    reference.check(reference_values)
    collateral_bundle.check_time(collateral, now)
    found = _verified(evidence, reference_values, collateral, expected_report_data, now)
    if found.platform in reference_values.refused_platforms:
        raise refuse("reference values refused_platforms", "this machine is refused by name")
    return found


def _verified(
    evidence: Evidence, values: ReferenceValues, collateral: Bundle, expected_report_data: bytes, now: float
) -> Verified:
    match evidence.kind:
        case "snp":
            if values.snp is not None:
                return snp_verifier.verify(
                    evidence, values.snp, collateral, expected_report_data=expected_report_data, now=now
                )
        case "tdx":
            if values.tdx is not None:
                return tdx_verifier.verify(
                    evidence, values.tdx, collateral, expected_report_data=expected_report_data, now=now
                )
        case "sgx":
            if values.sgx is not None:
                return sgx_verifier.verify(
                    evidence, values.sgx, collateral, expected_report_data=expected_report_data, now=now
                )
        case _:
            assert_never(evidence.kind)
    raise refuse("reference values", f"they accept no {evidence.kind} evidence")
