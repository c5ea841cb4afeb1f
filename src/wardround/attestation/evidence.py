"""Evidence as it travels: one processor's report with what helps to verify it, all of it unverified.

The fields are those of Linux' configfs-tsm: `report` is ``outblob`` and `auxiliary` is ``auxblob``. What is
not from the machine's hardware (certificates, the event log) needs no trust: the report vouches for it, or the
vendor's root does.

References:
    Linux, Documentation/ABI/testing/configfs-tsm.
"""

from typing import Literal, assert_never

import msgspec

from wardround.errors import AttestationError

__all__ = [
    "MAX_AUXILIARY_BYTES",
    "MAX_CERTIFICATES",
    "MAX_EVENT_LOG_BYTES",
    "MAX_REPORT_BYTES",
    "Evidence",
    "check",
    "read",
    "unverified_report_data",
]

MAX_REPORT_BYTES = 32 * 1024
MAX_AUXILIARY_BYTES = 64 * 1024
MAX_EVENT_LOG_BYTES = 512 * 1024
MAX_CERTIFICATES = 8
_MAX_FILE_BYTES = 2 * 1024 * 1024


class Evidence(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What one processor says.

    `report`: the SNP attestation report, or the TDX or SGX quote. `auxiliary`: SNP's certificate table, or nothing.
    `certificates`: an SNP report's VCEK or VLEK, DER or PEM, where no table came with it. `event_log`: the CCEL table's
    log of a TD, or nothing.
    """

    format: Literal["wardround-evidence/1"] = "wardround-evidence/1"
    kind: Literal["snp", "tdx", "sgx"]
    report: bytes
    auxiliary: bytes = b""
    certificates: tuple[bytes, ...] = ()
    event_log: bytes = b""


def check(evidence: Evidence) -> None:
    """Refuse evidence that is larger than any real one.

    Raises:
        AttestationError: Says which part.
    """
    sizes = {
        "report": (len(evidence.report), MAX_REPORT_BYTES),
        "auxiliary": (len(evidence.auxiliary), MAX_AUXILIARY_BYTES),
        "certificates": (sum(map(len, evidence.certificates)), MAX_AUXILIARY_BYTES),
        "number of certificates": (len(evidence.certificates), MAX_CERTIFICATES),
        "event log": (len(evidence.event_log), MAX_EVENT_LOG_BYTES),
    }
    for name, (found, most) in sizes.items():
        if found > most:
            raise AttestationError(f"evidence: its {name} may have a size of {most}, this has {found}")


def read(data: bytes) -> Evidence:
    """Read evidence from JSON.

    Raises:
        AttestationError: Not evidence, or too large.
    """
    if len(data) > _MAX_FILE_BYTES:
        raise AttestationError(f"evidence may have {_MAX_FILE_BYTES} bytes, this has {len(data)}")
    try:
        found = msgspec.json.decode(data, type=Evidence)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise AttestationError(f"this is no evidence: {error}") from None
    check(found)
    return found


def unverified_report_data(evidence: Evidence) -> bytes:
    """What the evidence says that it binds, believed by nobody: for looking at evidence whose challenge is lost.

    Raises:
        AttestationError: The report is too short to hold any.
    """
    match evidence.kind:
        case "snp":
            offset = 0x50
        case "sgx":
            offset = 48 + 320
        case "tdx":
            # A quote of version 5 has six more bytes, the body's type and size, between header and body.
            offset = 48 + 520 + (6 if evidence.report[:2] == b"\x05\0" else 0)
        case _:
            assert_never(evidence.kind)
    found = evidence.report[offset : offset + 64]
    if len(found) != 64:
        raise AttestationError("evidence: the report is cut short")
    return found
