"""Intel TDX: verify a quote, then compare the trust domain with the reference values.

    (1) the quote is Intel's, the collateral valid now, nothing revoked      `intel_quote.claims_of`
    (2) the platform's firmware is good enough                               `intel_quote.check_platform`
    (3) the TDX module: MRSEAM listed, its signer listed, no SEAM attribute set
    (4) the domain's attributes: no debug bit, exactly a listed value; XFAM exactly a listed value
    (5) MRTD listed; RTMR0 to RTMR3 listed, or replayed from an event log of which every event is listed
    (6) MRCONFIGID, MROWNER, MROWNERCONFIG, MRSERVICETD listed: all zeros if the reference values do not say
    (7) REPORT_DATA is what this session asked for

References:
    Intel, TDX Module Base Architecture Specification: ATTRIBUTES (TUD, SEC, OTHER), XFAM, TDREPORT.
    Intel, SGX DCAP Quote Library API: TD quote bodies 1.0 and 1.5.
"""

import msgspec

from wardround.attestation import binding, event_log, intel_quote
from wardround.attestation.collateral import Bundle
from wardround.attestation.event_log import Event
from wardround.attestation.evidence import Evidence
from wardround.attestation.reference import TdxReference
from wardround.attestation.result import Check, Verified, claim, platform_hash, refuse, require

__all__ = ["TdReport", "check_domain", "report_of", "verify"]

_REPORT = "Intel TDX TDREPORT"


class TdReport(msgspec.Struct, frozen=True):
    """The body of a TD quote, in lower-case hexadecimal; `mr_service_td` is of version 1.5 and later."""

    mr_seam: str
    mr_signer_seam: str
    seam_attributes: str
    td_attributes: str
    xfam: str
    mr_td: str
    mr_config_id: str
    mr_owner: str
    mr_owner_config: str
    rt_mr0: str
    rt_mr1: str
    rt_mr2: str
    rt_mr3: str
    report_data: str
    mr_service_td: str = "00" * 48


def verify(
    evidence: Evidence, reference: TdxReference, bundle: Bundle, *, expected_report_data: bytes, now: float
) -> Verified:
    """Verify a quote and compare it with `reference`.

    Raises:
        AttestationError: Names the clause that failed.
        ConfigError: `dcap_qvl` is not installed.
    """
    checks: list[Check] = []
    claims = intel_quote.claims_of(evidence.report, "tdx", bundle, checks, now=now)
    warnings = intel_quote.check_platform(claims, reference.tcb, checks)
    report = report_of(claims)
    check_domain(report, evidence.event_log, reference, checks)
    report_data = bytes.fromhex(report.report_data)
    binding.check(report_data, expected_report_data)
    checks.append(Check(f"{_REPORT} REPORTDATA", "is what this session asked for"))
    return Verified(
        kind="tdx",
        measurements={
            "MRTD": report.mr_td, "RTMR0": report.rt_mr0, "RTMR1": report.rt_mr1, "RTMR2": report.rt_mr2,
            "RTMR3": report.rt_mr3, "MRSEAM": report.mr_seam, "TDATTRIBUTES": report.td_attributes,
            "XFAM": report.xfam, "MRCONFIGID": report.mr_config_id, "MROWNER": report.mr_owner,
            "MROWNERCONFIG": report.mr_owner_config, "MRSERVICETD": report.mr_service_td,
        },
        report_data=report_data,
        tcb=intel_quote.tcb(claims),
        platform=platform_hash("tdx", intel_quote.identity(claims)),
        valid_until=min(
            claims.earliest_expiration_date, claims.qe_iden_earliest_expiration_date, bundle.valid_until
        ),
        warnings=warnings,
        advisories=claims.tcb.advisory_ids,
        checks=tuple(checks),
    )  # fmt: skip


def report_of(claims: intel_quote.Claims) -> TdReport:
    """The report that the verified quote carries.

    Raises:
        AttestationError: Its form is not known here.
    """
    try:
        match claims.report:
            case {"TD10": dict(found)}:
                return msgspec.convert(found, TdReport)
            case {"TD15": {"base": dict(base), **rest}}:
                return msgspec.convert({**base, **rest}, TdReport)
            case _:
                # A body that is newer holds fields whose meaning nobody here knows.
                raise refuse(_REPORT, "TD reports 1.0 and 1.5 are known, this is another")
    except msgspec.ValidationError:
        raise refuse(_REPORT, "the verified quote has another form than expected") from None


def check_domain(report: TdReport, log: bytes, reference: TdxReference, checks: list[Check]) -> None:
    """Compare a trust domain, verified or not, with the reference values.

    Raises:
        AttestationError: Names the clause that failed.
    """
    # (3) The module that keeps the domain apart from its host.
    claim(checks, f"{_REPORT} MRSEAM", report.mr_seam, reference.mrseam)
    claim(checks, f"{_REPORT} MRSIGNERSEAM", report.mr_signer_seam, reference.mrsignerseam)
    require(
        checks, f"{_REPORT} SEAMATTRIBUTES", "none set", holds=not any(bytes.fromhex(report.seam_attributes)),
        otherwise="an attribute of the TDX module is set, such as debugging",
    )  # fmt: skip
    # (4) The first byte is TUD, "TD under debug": any bit of it ends confidentiality, listed or not.
    attributes = bytes.fromhex(report.td_attributes)
    require(
        checks, f"{_REPORT} ATTRIBUTES.TUD.DEBUG", "none set", holds=attributes[0] == 0,
        otherwise="the host may debug this trust domain, and so read its memory",
    )  # fmt: skip
    claim(checks, f"{_REPORT} ATTRIBUTES", report.td_attributes, reference.td_attributes)
    claim(checks, f"{_REPORT} XFAM", report.xfam, reference.xfam)
    # (5) What was loaded, and what it loaded.
    claim(checks, f"{_REPORT} MRTD", report.mr_td, reference.mrtd)
    _check_registers(report, log, reference, checks)
    # (6) What the host and a service domain put in.
    claim(checks, f"{_REPORT} MRCONFIGID", report.mr_config_id, reference.mrconfigid)
    claim(checks, f"{_REPORT} MROWNER", report.mr_owner, reference.mrowner)
    claim(checks, f"{_REPORT} MROWNERCONFIG", report.mr_owner_config, reference.mrownerconfig)
    claim(checks, f"{_REPORT} SERVTD_HASH", report.mr_service_td, reference.mrservicetd)


def _check_registers(report: TdReport, log: bytes, reference: TdxReference, checks: list[Check]) -> None:
    found = (report.rt_mr0, report.rt_mr1, report.rt_mr2, report.rt_mr3)
    listed = (reference.rtmr0, reference.rtmr1, reference.rtmr2, reference.rtmr3)
    events = event_log.parse(log) if log else ()
    replayed = event_log.replay(events)
    for index in range(4):
        clause = f"{_REPORT} RTMR{index}"
        if log:
            # A log that does not give the registers is a lie about this boot, whether or not we need it.
            require(
                checks, f"{clause} event log", "replays", holds=replayed[index].hex() == found[index],
                otherwise="the event log does not give this register",
            )  # fmt: skip
        if found[index] in listed[index] or not (log and reference.events):
            claim(checks, clause, found[index], listed[index])
        else:
            _check_events(clause, [event for event in events if event.register == index + 1], reference, checks)
    missing = set(reference.required_events) - {event.digest.hex() for event in events}
    if log and missing:
        raise refuse(f"{_REPORT} event log", f"{len(missing)} of the required events were not measured")


def _check_events(clause: str, events: list[Event], reference: TdxReference, checks: list[Check]) -> None:
    known = frozenset(reference.events)
    unknown = [event for event in events if event.digest.hex() not in known]
    if not events or unknown:
        raise refuse(
            clause, f"not listed, and {len(unknown)} of its {len(events)} events are none of the reference values"
        )
    checks.append(Check(clause, f"made of {len(events)} listed events"))
