"""AMD SEV-SNP: verify an attestation report, then compare it with the reference values.

    (1) the report parses, is of a known version and is signed by a VCEK or VLEK
    (2) that key is AMD's: pinned root, valid now, not revoked          `amd_chain.endorsed`
    (3) the key is this chip's (HWID = CHIP_ID) and this TCB's (extensions = REPORTED_TCB)
    (4) the processor is of the product that the key names
    (5) no TCB of the machine is below the minimum: reported, committed, current, and at launch
    (6) the guest's policy: never DEBUG, never MIGRATE_MA, the rest as the reference values say
    (7) VMPL, MEASUREMENT, HOST_DATA, ID block, GUEST_SVN are what the reference values list
    (8) REPORT_DATA is what this session asked for

Hazard: steps (1) to (4) say that some SEV-SNP guest spoke. Only (5) to (8) say that it is ours.

References:
    AMD, SEV Secure Nested Paging Firmware ABI Specification (56860), table 23 and the tables that it names.
"""

from collections.abc import Callable
from typing import assert_never

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from wardround.attestation import amd_certificate, amd_chain, binding, certificate_table, collateral, snp_report
from wardround.attestation.amd_chain import SigningKey
from wardround.attestation.collateral import Bundle
from wardround.attestation.evidence import Evidence
from wardround.attestation.reference import Product, SnpDemand, SnpReference
from wardround.attestation.result import Check, Verified, claim, platform_hash, refuse, require
from wardround.attestation.snp_report import Cpuid, SnpReport

__all__ = ["verify"]

_REPORT = "SEV-SNP ABI table 23"
_POLICY = f"{_REPORT} POLICY"
_SMT, _RESERVED_ONE, _MIGRATE_MA, _DEBUG, _SINGLE_SOCKET, _CXL = 16, 17, 18, 19, 20, 21
_AES_256_XTS, _RAPL_DISABLED, _CIPHERTEXT_HIDING, _PAGE_SWAP_DISABLED, _FIRST_UNKNOWN = 22, 23, 24, 25, 26
_ALIAS_CHECK_COMPLETE = 5
_VCEK, _VLEK = 0, 1


def verify(
    evidence: Evidence, reference: SnpReference, bundle: Bundle, *, expected_report_data: bytes, now: float
) -> Verified:
    """Verify a report and compare it with `reference`.

    Raises:
        AttestationError: Names the clause that failed.
    """
    checks: list[Check] = []
    report = snp_report.parse(evidence.report)
    certificate = amd_certificate.load(_certificate(evidence, report, reference))
    given = collateral.amd(bundle, amd_chain.product_of(certificate))
    without_list = "no-revocation-list" in reference.allow
    key = amd_chain.endorsed(certificate, given, checks, now=now, without_list=without_list)
    _check_signature(report, key, checks)
    identity = _check_chip(report, key, reference, checks)
    _check_product(report.cpuid, key.product, checks)
    _check_tcb(report, key, reference, checks)
    _check_policy(report, reference, checks)
    _check_values(report, reference, checks)
    binding.check(report.report_data, expected_report_data)
    checks.append(Check(f"{_REPORT} REPORT_DATA", "is what this session asked for"))
    return Verified(
        kind="snp",
        measurements={
            "MEASUREMENT": report.measurement.hex(),
            "HOST_DATA": report.host_data.hex(),
            "ID_KEY_DIGEST": report.id_key_digest.hex(),
            "AUTHOR_KEY_DIGEST": report.author_key_digest.hex(),
        },
        report_data=report.report_data,
        tcb={"product": key.product, "key": key.kind, **key.tcb},
        platform=platform_hash("snp", identity),
        valid_until=min(key.valid_until, bundle.valid_until),
        warnings=_warnings(report, given.vlek_crl if key.kind == "vlek" else given.vcek_crl),
        checks=tuple(checks),
    )


def _certificate(evidence: Evidence, report: SnpReport, reference: SnpReference) -> bytes:
    # (1) KEY_INFO says whose key signed; 7 means that nobody did, and so does a masked key.
    if report.is_key_masked or report.signing_key not in (_VCEK, _VLEK):
        raise refuse(
            f"{_REPORT} KEY_INFO", "the host masked the chip's key, or no key signed: no report can be verified"
        )
    wanted: str = "vlek" if report.signing_key == _VLEK else "vcek"
    if wanted not in reference.signing_keys:
        raise refuse(f"{_REPORT} KEY_INFO", f"signed with a {wanted.upper()}, which the reference values do not allow")
    table = certificate_table.parse(evidence.auxiliary)
    found = [*(value for kind, value in table.items() if kind == wanted), *evidence.certificates]
    if not found:
        raise refuse(f"{_REPORT} SIGNATURE", f"the evidence has no {wanted.upper()} certificate: send it along")
    return found[0]


def _check_signature(report: SnpReport, key: SigningKey, checks: list[Check]) -> None:
    wanted = "vlek" if report.signing_key == _VLEK else "vcek"
    if key.kind != wanted:
        raise refuse(
            f"{_REPORT} KEY_INFO", f"the report names its {wanted.upper()}, the certificate is a {key.kind.upper()}"
        )
    r, s = snp_report.signature(report)
    try:
        signature = encode_dss_signature(r, s)
        amd_certificate.p384_key(key.certificate).verify(signature, report.signed, ec.ECDSA(hashes.SHA384()))
    except InvalidSignature:
        raise refuse(f"{_REPORT} SIGNATURE", f"the report is not signed by this {wanted.upper()}") from None
    checks.append(Check(f"{_REPORT} SIGNATURE", f"ECDSA P-384 by the {wanted.upper()}"))


def _check_chip(report: SnpReport, key: SigningKey, reference: SnpReference, checks: list[Check]) -> bytes:
    # (3) A VLEK is a cloud's, and names no chip. Who may hide the chip is for the reference values to say.
    clause = f"{_REPORT} CHIP_ID"
    is_masked = not any(report.chip_id)
    if is_masked and "masked-chip-id" not in reference.allow:
        raise refuse(clause, "the host hides which chip this is, and the reference values do not allow it")
    if key.kind == "vlek":
        claim(checks, "AMD KDS 57230 chapter 3 cspID", key.csp_id, reference.csp_ids)
        return key.csp_id.encode() if is_masked else report.chip_id
    if not is_masked:
        require(
            checks, clause, "is the certificate's HWID", holds=report.chip_id == key.hwid.ljust(64, b"\0"),
            otherwise="the certificate is another chip's",
        )  # fmt: skip
    return key.hwid.ljust(64, b"\0")


def _check_product(cpuid: Cpuid | None, product: Product, checks: list[Check]) -> None:
    # (4) AMD, SEV-SNP ABI table 23, CPUID_FAM_ID and CPUID_MOD_ID. Version 2 has none: there the pinned root decides.
    if cpuid is None:
        return
    match cpuid.family, cpuid.model >> 4:
        case 0x19, 0x0:
            found = "Milan"
        case 0x19, 0x1 | 0xA:
            found = "Genoa"
        case 0x1A, 0x0 | 0x1:
            found = "Turin"
        case _:
            found = "unknown"
    require(
        checks, f"{_REPORT} CPUID_FAM_ID, CPUID_MOD_ID", f"is a {product}", holds=found == product,
        otherwise=f"the processor is a {found}, the certificate is a {product}'s",
    )  # fmt: skip


def _check_tcb(report: SnpReport, key: SigningKey, reference: SnpReference, checks: list[Check]) -> None:
    minimum = reference.minimum_tcb.get(key.product)
    if minimum is None:
        raise refuse(
            f"{_REPORT} REPORTED_TCB", f"the reference values have no minimum for {key.product}, so it is not accepted"
        )
    least = {"bootloader": minimum.bootloader, "tee": minimum.tee, "snp": minimum.snp, "microcode": minimum.microcode}
    if key.product == "Turin":
        least["fmc"] = minimum.fmc
    tcbs = {
        "REPORTED_TCB": report.reported_tcb, "COMMITTED_TCB": report.committed_tcb,
        "CURRENT_TCB": report.current_tcb, "LAUNCH_TCB": report.launch_tcb,
    }  # fmt: skip
    for name, tcb in tcbs.items():
        parts = tcb.parts(key.product)
        if any(value for part, value in parts.items() if part.startswith("reserved")):
            raise refuse(f"{_REPORT} REPORTED_TCB", f"reserved bytes of {name} are not zero")
        # (3) The key was derived for exactly this TCB; another key means a TCB that is claimed and not run.
        if name == "REPORTED_TCB" and any(parts[part] != value for part, value in key.tcb.items()):
            raise refuse(f"{_REPORT} REPORTED_TCB", f"is not the TCB of the {key.kind.upper()}'s certificate")
        low = sorted(part for part, value in least.items() if parts[part] < value)
        if low:
            raise refuse(f"{_REPORT} {name}", f"{', '.join(low)} below the minimum: the machine's firmware is too old")
        checks.append(Check(f"{_REPORT} {name}", "at or above the minimum"))


def _check_policy(report: SnpReport, reference: SnpReference, checks: list[Check]) -> None:
    def is_set(bit: int) -> bool:
        return bool(report.policy >> bit & 1)

    rules = (
        ("DEBUG", not is_set(_DEBUG), "the host may debug this guest, and so read its memory"),
        ("MIGRATE_MA", not is_set(_MIGRATE_MA), "a migration agent may move this guest"),
        ("bit 17", is_set(_RESERVED_ONE), "must be one"),
        ("bits 26 to 63", not report.policy >> _FIRST_UNKNOWN, "a bit is set that is not known here"),
        ("SMT", not is_set(_SMT) or "smt" in reference.allow, "cores may be shared: not in the reference values"),
        ("CXL_ALLOW", not is_set(_CXL) or "cxl" in reference.allow, "CXL is allowed: not in the reference values"),
    )  # fmt: skip
    for name, holds, otherwise in rules:
        require(checks, f"{_POLICY}.{name}", "as it must be", holds=holds, otherwise=otherwise)
    for demand in reference.demand:
        clause, holds = _demanded(demand, report, is_set)
        require(
            checks, clause, "set", holds=holds, otherwise=f"{demand} is not set, and the reference values demand it"
        )
    # REPORT_ID_MA is all ones where no migration agent is bound to the guest; zeros name none either.
    if report.report_id_ma not in (b"\xff" * 32, b"\0" * 32):
        raise refuse(f"{_REPORT} REPORT_ID_MA", "a migration agent is bound to this guest")


def _demanded(demand: SnpDemand, report: SnpReport, is_set: Callable[[int], bool]) -> tuple[str, bool]:
    match demand:
        case "single-socket":
            return f"{_POLICY}.SINGLE_SOCKET", is_set(_SINGLE_SOCKET)
        case "aes-256-xts":
            return f"{_POLICY}.MEM_AES_256_XTS", is_set(_AES_256_XTS)
        case "rapl-disabled":
            return f"{_POLICY}.RAPL_DIS", is_set(_RAPL_DISABLED)
        case "ciphertext-hiding":
            return f"{_POLICY}.CIPHERTEXT_HIDING_DRAM", is_set(_CIPHERTEXT_HIDING)
        case "page-swap-disabled":
            return f"{_POLICY}.PAGE_SWAP_DISABLE", is_set(_PAGE_SWAP_DISABLED)
        case "alias-check":
            done = bool(report.platform_info >> _ALIAS_CHECK_COMPLETE & 1)
            return f"{_REPORT} PLATFORM_INFO.ALIAS_CHECK_COMPLETE", done
        case _:
            assert_never(demand)


def _check_values(report: SnpReport, reference: SnpReference, checks: list[Check]) -> None:
    claim(checks, f"{_REPORT} VMPL", str(report.vmpl), map(str, reference.vmpl))
    claim(checks, f"{_REPORT} MEASUREMENT", report.measurement.hex(), reference.measurements)
    claim(checks, f"{_REPORT} HOST_DATA", report.host_data.hex(), reference.host_data)
    claim(checks, f"{_REPORT} ID_KEY_DIGEST", report.id_key_digest.hex(), reference.id_key_digests)
    claim(checks, f"{_REPORT} AUTHOR_KEY_DIGEST", report.author_key_digest.hex(), reference.author_key_digests)
    require(
        checks, f"{_REPORT} GUEST_SVN", "at or above the minimum",
        holds=report.guest_svn >= reference.minimum_guest_svn,
        otherwise=f"{reference.minimum_guest_svn} expected at least, {report.guest_svn} found",
    )  # fmt: skip


def _warnings(report: SnpReport, revocation_list: bytes) -> tuple[str, ...]:
    found = []
    if not revocation_list:
        found.append("no revocation list was checked")
    if not any(report.chip_id):
        found.append("the host hides which chip this is")
    if report.policy >> _SMT & 1:
        found.append("the guest may share cores with its neighbours (SMT)")
    if report.cpuid is None:
        found.append("report version 2 does not name its processor")
    return tuple(found)
