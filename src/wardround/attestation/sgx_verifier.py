"""Intel SGX: verify a quote, then compare the enclave with the reference values.

    (1) the quote is Intel's, the collateral valid now, nothing revoked      `intel_quote.claims_of`
    (2) the platform's firmware is good enough                               `intel_quote.check_platform`
    (3) the enclave is initialized and not a debug one
    (4) MRENCLAVE and MRSIGNER listed, ISVPRODID equal, ISVSVN high enough
    (5) REPORT_DATA is what this session asked for

References:
    Intel, Software Developer's Manual, volume 3D: enclave data structures, ATTRIBUTES and REPORT.
"""

import msgspec

from wardround.attestation import binding, intel_quote
from wardround.attestation.collateral import Bundle
from wardround.attestation.evidence import Evidence
from wardround.attestation.reference import SgxReference
from wardround.attestation.result import Check, Verified, claim, platform_hash, refuse, require

__all__ = ["EnclaveReport", "check_enclave", "report_of", "verify"]

_REPORT = "Intel SGX REPORT"
_INIT, _DEBUG = 0x01, 0x02


class EnclaveReport(msgspec.Struct, frozen=True):
    """The body of an SGX quote; bytes in lower-case hexadecimal."""

    attributes: str
    mr_enclave: str
    mr_signer: str
    isv_prod_id: int
    isv_svn: int
    report_data: str


def verify(
    evidence: Evidence, reference: SgxReference, bundle: Bundle, *, expected_report_data: bytes, now: float
) -> Verified:
    """Verify a quote and compare it with `reference`.

    Raises:
        AttestationError: Names the clause that failed.
        ConfigError: `dcap_qvl` is not installed.
    """
    checks: list[Check] = []
    claims = intel_quote.claims_of(evidence.report, "sgx", bundle, checks, now=now)
    warnings = intel_quote.check_platform(claims, reference.tcb, checks)
    report = report_of(claims)
    check_enclave(report, reference, checks)
    report_data = bytes.fromhex(report.report_data)
    binding.check(report_data, expected_report_data)
    checks.append(Check(f"{_REPORT} REPORTDATA", "is what this session asked for"))
    return Verified(
        kind="sgx",
        measurements={
            "MRENCLAVE": report.mr_enclave,
            "MRSIGNER": report.mr_signer,
            "ATTRIBUTES": report.attributes,
            "ISVPRODID": report.isv_prod_id.to_bytes(2, "little").hex(),
            "ISVSVN": report.isv_svn.to_bytes(2, "little").hex(),
        },
        report_data=report_data,
        tcb=intel_quote.tcb(claims),
        platform=platform_hash("sgx", intel_quote.identity(claims)),
        valid_until=min(claims.earliest_expiration_date, claims.qe_iden_earliest_expiration_date, bundle.valid_until),
        warnings=warnings,
        advisories=claims.tcb.advisory_ids,
        checks=tuple(checks),
    )


def report_of(claims: intel_quote.Claims) -> EnclaveReport:
    """The report that the verified quote carries.

    Raises:
        AttestationError: Its form is not known here.
    """
    try:
        return msgspec.convert(claims.report.get("SgxEnclave"), EnclaveReport)
    except msgspec.ValidationError:
        raise refuse(_REPORT, "the verified quote has another form than expected") from None


def check_enclave(report: EnclaveReport, reference: SgxReference, checks: list[Check]) -> None:
    """Compare an enclave, verified or not, with the reference values.

    Raises:
        AttestationError: Names the clause that failed.
    """
    flags = bytes.fromhex(report.attributes)[0]
    require(
        checks, f"{_REPORT} ATTRIBUTES.DEBUG", "not set", holds=not flags & _DEBUG,
        otherwise="the host may debug this enclave, and so read its memory",
    )  # fmt: skip
    require(
        checks,
        f"{_REPORT} ATTRIBUTES.INIT",
        "set",
        holds=bool(flags & _INIT),
        otherwise="the enclave was never started",
    )
    claim(checks, f"{_REPORT} MRENCLAVE", report.mr_enclave, reference.mrenclave)
    claim(checks, f"{_REPORT} MRSIGNER", report.mr_signer, reference.mrsigner)
    require(
        checks, f"{_REPORT} ISVPRODID", str(report.isv_prod_id), holds=report.isv_prod_id == reference.isv_prod_id,
        otherwise=f"{reference.isv_prod_id} expected, {report.isv_prod_id} found",
    )  # fmt: skip
    require(
        checks, f"{_REPORT} ISVSVN", str(report.isv_svn), holds=report.isv_svn >= reference.minimum_isv_svn,
        otherwise=f"{reference.minimum_isv_svn} expected at least, {report.isv_svn} found",
    )  # fmt: skip
