"""The SEV-SNP attestation report, taken apart; nothing in it is verified here.

    0x000  VERSION, GUEST_SVN, POLICY, FAMILY_ID, IMAGE_ID, VMPL, SIGNATURE_ALGO
    0x038  CURRENT_TCB, PLATFORM_INFO, KEY_INFO          0x050  REPORT_DATA (64)
    0x090  MEASUREMENT (48), HOST_DATA (32), ID_KEY_DIGEST (48), AUTHOR_KEY_DIGEST (48)
    0x140  REPORT_ID, REPORT_ID_MA (32 each)             0x180  REPORTED_TCB
    0x188  CPUID family, model, stepping (from version 3)  0x1A0  CHIP_ID (64)
    0x1E0  COMMITTED_TCB, firmware versions              0x1F0  LAUNCH_TCB
    0x1F8  mitigation vectors (from version 4)           0x2A0  SIGNATURE over all before it (512)

All numbers are little-endian. Versions 2 to 5 are known; another is refused, because a field that nobody here knows may
change what the others mean. Reserved bytes must be zero for the same reason.

References:
    AMD, SEV Secure Nested Paging Firmware ABI Specification (56860): TCB_VERSION, ATTESTATION_REPORT (table 23),
    ECDSA P-384 signature (table 141). Tables are numbered as in revision 1.57.
"""

from dataclasses import dataclass
from typing import Literal

from wardround.attestation.result import refuse

__all__ = ["REPORT_BYTES", "SIGNED_BYTES", "Cpuid", "SnpReport", "Tcb", "parse", "signature"]

REPORT_BYTES = 0x4A0
SIGNED_BYTES = 0x2A0
_KNOWN_VERSIONS = frozenset((2, 3, 4, 5))
_TABLE = "SEV-SNP ABI table 23"
_COORDINATE_BYTES = 72


@dataclass(frozen=True, slots=True)
class Tcb:
    """A TCB_VERSION: eight bytes whose order depends on the product."""

    raw: bytes

    def parts(self, product: Literal["Milan", "Genoa", "Turin"]) -> dict[str, int]:
        """The security version of each firmware, and of the bytes that must be zero.

        ``BL TEE - - - - SNP uCODE`` before Turin, ``FMC BL TEE SNP - - - uCODE`` from Turin on.
        """
        if product == "Turin":
            names = ("fmc", "bootloader", "tee", "snp", "reserved4", "reserved5", "reserved6", "microcode")
        else:
            names = ("bootloader", "tee", "reserved2", "reserved3", "reserved4", "reserved5", "snp", "microcode")
        return dict(zip(names, self.raw, strict=True))


@dataclass(frozen=True, slots=True)
class Cpuid:
    """Combined family, combined model and stepping of the processor."""

    family: int
    model: int
    stepping: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SnpReport:
    """The fields of a report, unverified; `signed` are the bytes under the signature."""

    version: int
    guest_svn: int
    policy: int
    vmpl: int
    current_tcb: Tcb
    platform_info: int
    signing_key: int
    is_key_masked: bool
    is_author_key_used: bool
    report_data: bytes
    measurement: bytes
    host_data: bytes
    id_key_digest: bytes
    author_key_digest: bytes
    report_id_ma: bytes
    reported_tcb: Tcb
    cpuid: Cpuid | None
    chip_id: bytes
    committed_tcb: Tcb
    launch_tcb: Tcb
    signed: bytes
    signature: bytes


def parse(data: bytes) -> SnpReport:
    """Take a report apart.

    Raises:
        AttestationError: Not a report of a known version, or reserved bytes are not zero.
    """
    if len(data) != REPORT_BYTES:
        raise refuse(_TABLE, f"a report has {REPORT_BYTES} bytes, this has {len(data)}")
    version = _number(data, 0, 4)
    if version not in _KNOWN_VERSIONS:
        raise refuse(f"{_TABLE} VERSION", f"versions 2 to 5 are known, this is {version}")
    if _number(data, 0x34, 4) != 1:
        raise refuse(f"{_TABLE} SIGNATURE_ALGO", "ECDSA P-384 with SHA-384 expected")
    _check_reserved(data, version)
    info = _number(data, 0x48, 4)
    if info >> 5:
        raise refuse(f"{_TABLE} KEY_INFO", "reserved bits are set")
    return SnpReport(
        version=version,
        guest_svn=_number(data, 0x04, 4),
        policy=_number(data, 0x08, 8),
        vmpl=_number(data, 0x30, 4),
        current_tcb=Tcb(data[0x38:0x40]),
        platform_info=_number(data, 0x40, 8),
        signing_key=info >> 2 & 7,
        is_key_masked=bool(info & 2),
        is_author_key_used=bool(info & 1),
        report_data=data[0x50:0x90],
        measurement=data[0x90:0xC0],
        host_data=data[0xC0:0xE0],
        id_key_digest=data[0xE0:0x110],
        author_key_digest=data[0x110:0x140],
        report_id_ma=data[0x160:0x180],
        reported_tcb=Tcb(data[0x180:0x188]),
        cpuid=Cpuid(data[0x188], data[0x189], data[0x18A]) if version >= 3 else None,
        chip_id=data[0x1A0:0x1E0],
        committed_tcb=Tcb(data[0x1E0:0x1E8]),
        launch_tcb=Tcb(data[0x1F0:0x1F8]),
        signed=data[:SIGNED_BYTES],
        signature=data[SIGNED_BYTES:],
    )


def signature(report: SnpReport) -> tuple[int, int]:
    """R and S of the report's signature.

    Table 141: each is 72 bytes, little-endian, zero-extended; what follows is reserved.

    Raises:
        AttestationError: Reserved bytes are not zero.
    """
    field = report.signature
    if any(field[2 * _COORDINATE_BYTES :]):
        raise refuse("SEV-SNP ABI table 141", "reserved bytes of the signature are not zero")
    r, s = field[:_COORDINATE_BYTES], field[_COORDINATE_BYTES : 2 * _COORDINATE_BYTES]
    return int.from_bytes(r, "little"), int.from_bytes(s, "little")


def _check_reserved(data: bytes, version: int) -> None:
    reserved = [(0x4C, 0x50), (0x18B if version >= 3 else 0x188, 0x1A0), (0x1EB, 0x1EC), (0x1EF, 0x1F0)]
    reserved.append((0x208 if version >= 4 else 0x1F8, SIGNED_BYTES))
    for start, end in reserved:
        if any(data[start:end]):
            raise refuse(_TABLE, f"reserved bytes from {start:#x} are not zero")


def _number(data: bytes, offset: int, size: int) -> int:
    return int.from_bytes(data[offset : offset + size], "little")
