"""NVIDIA GPUs and switches in confidential mode: a device's signed measurements against signed golden ones.

    evidence  = SPDM report + certificate chain            from the machine, unverified
    RIMs      = golden measurements, signed by NVIDIA      from the collateral, by NVIDIA's own identifiers
    reference = accepted architectures and versions        from whoever approved

    report ──signed by──▶ leaf ─▶ … ─▶ pinned device root         report.nonce == the nonce that was asked with
    driver, VBIOS versions in the signed report ──name──▶ RIMs ─▶ every active golden measurement must match

Golden index `i` is compared with the report's measurement ``i + 1``. Index 35 is not compared where the signed report
says that NVDEC0, whose firmware it measures, is switched off. A nonce binds a GPU to the machine that it is in:
``binding.gpu_nonce(processor's report, session key)``.

References:
    DMTF DSP0274. TCG DICE Attestation Architecture 1.1, section 6.1.1 (TcbInfo, firmware identifier).
    NVIDIA nvtrust, local GPU verifier: opaque fields, identifiers of RIMs, the rule for measurement 35.
"""

import base64
import binascii
import hmac
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from wardround.attestation import binding, nvidia_chain, rim, spdm
from wardround.attestation.collateral import Bundle
from wardround.attestation.nvidia_chain import DEVICE_ROOTS, RIM_ROOTS, Revocation, Trusted
from wardround.attestation.reference import ReferenceValues
from wardround.attestation.result import Check, Verified, claim, platform_hash, require
from wardround.attestation.rim import Rim
from wardround.attestation.spdm import UnverifiedReport
from wardround.errors import AttestationError

__all__ = [
    "CHIPS",
    "MAX_DEVICES",
    "DeviceCollateral",
    "DeviceEvidence",
    "collateral_of",
    "read",
    "verify",
    "verify_all",
]

MAX_DEVICES = 64
_MAX_FILE_BYTES = 8 * 1024 * 1024
_RIM_PREFIX, _CRL_PREFIX, _REVOKED = "nvidia/rim/", "nvidia/crl/", "nvidia/revoked"
_DRIVER, _VBIOS, _NVDEC0 = 3, 6, 11
_CHIP_SKU, _PROJECT, _PROJECT_SKU, _FWID = 15, 17, 18, 20
_NVDEC0_INDEX, _NVDEC0_ON, _NVDEC0_OFF = 35, b"\xaa", b"\x55"
_TCB_INFO = x509.ObjectIdentifier("2.23.133.5.4.1")
_FWID_BYTES = 48
_VERSION = re.compile(r"[0-9A-Za-z.]{1,32}")
CHIPS: Mapping[str, tuple[str, Literal["GPU", "SWITCH"]]] = {"GH100": ("hopper", "GPU"), "LS_10": ("ls10", "SWITCH")}
"""Chips by the first word of a leaf certificate's common name: those of which the tests have genuine evidence."""


class DeviceEvidence(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What one device says, as NVIDIA's own tools write it: `certificate` and `evidence` are base64.

    `arch`, `nonce` and `version` are not signed and therefore not looked at; the signed report says the same.
    """

    certificate: str
    evidence: str
    arch: str = ""
    nonce: str = ""
    version: str = ""


@dataclass(frozen=True, slots=True)
class DeviceCollateral:
    """RIMs by identifier, such as ``NV_GPU_DRIVER_GH100_550.90.07``, and what is revoked."""

    rims: Mapping[str, bytes]
    revocation: Revocation = field(default_factory=Revocation)


def collateral_of(bundle: Bundle) -> DeviceCollateral:
    """What a bundle that officers signed holds of NVIDIA.

    Its blobs' names: ``nvidia/rim/<identifier>``, ``nvidia/crl/<any name>`` (DER), and ``nvidia/revoked``: SHA-256 of
    withdrawn certificates, one to a line.

    Raises:
        AttestationError: The list of withdrawn certificates is not one.
    """
    rims, crls = {}, []
    for name, blob in sorted(bundle.blobs.items()):
        if name.startswith(_RIM_PREFIX):
            rims[name.removeprefix(_RIM_PREFIX)] = blob
        elif name.startswith(_CRL_PREFIX):
            crls.append(blob)
    lines = bundle.blobs.get(_REVOKED, b"").decode("ascii", "replace").split()
    if not all(re.fullmatch(r"[0-9a-f]{64}", line) for line in lines):
        raise AttestationError(f"collateral: {_REVOKED} holds SHA-256 in lower-case hexadecimal, one to a line")
    return DeviceCollateral(rims, Revocation(tuple(crls), frozenset(lines)))


def read(data: bytes) -> tuple[DeviceEvidence, ...]:
    """Read the JSON list that NVIDIA's tools write.

    Raises:
        AttestationError: Too large, or no such list.
    """
    if len(data) > _MAX_FILE_BYTES:
        raise AttestationError(f"device evidence may have {_MAX_FILE_BYTES} bytes, this has {len(data)}")
    try:
        return msgspec.json.decode(data, type=tuple[DeviceEvidence, ...])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise AttestationError(f"this is no device evidence: {error}") from None


def verify_all(
    evidence: Sequence[DeviceEvidence],
    *,
    nonce: bytes,
    reference: ReferenceValues,
    collateral: DeviceCollateral,
    now: float,
    device_roots: frozenset[str] = DEVICE_ROOTS,
    rim_roots: frozenset[str] = RIM_ROOTS,
) -> tuple[Verified, ...]:
    """Check all devices of one machine; see `verify`.

    Raises:
        AttestationError: A device is refused, one is shown twice, or there are fewer than the reference values ask for.
    """
    wanted = reference.gpu.minimum_devices if reference.gpu else 1
    if not wanted <= len(evidence) <= MAX_DEVICES:
        raise AttestationError(f"{wanted} to {MAX_DEVICES} devices must show evidence, {len(evidence)} do")
    found = tuple(
        verify(
            one,
            nonce=nonce,
            reference=reference,
            collateral=collateral,
            now=now,
            device_roots=device_roots,
            rim_roots=rim_roots,
        )
        for one in evidence
    )
    if len({one.platform for one in found}) != len(found):
        raise AttestationError("one device shows its evidence twice, as if it were two")
    return found


def verify(
    evidence: DeviceEvidence,
    *,
    nonce: bytes,
    reference: ReferenceValues,
    collateral: DeviceCollateral,
    now: float,
    device_roots: frozenset[str] = DEVICE_ROOTS,
    rim_roots: frozenset[str] = RIM_ROOTS,
) -> Verified:
    """Check one GPU's or switch's evidence.

    Args:
        evidence: Unverified.
        nonce: The 32 bytes that its report must answer: `binding.gpu_nonce`.
        reference: What is accepted; its `gpu` section must be there.
        collateral: RIMs and revocation, from a bundle that officers signed.
        now: Seconds since 1970-01-01 UTC.
        device_roots: Keys at which the device's chain may end; anything but the default is for tests.
        rim_roots: The same for RIMs.

    Raises:
        AttestationError: The clause that failed.
        ConfigError: The extra that reads RIMs is not installed.
    """
    if reference.gpu is None:
        raise AttestationError("the reference values accept no NVIDIA device: they have no section gpu")
    checks: list[Check] = []
    report = spdm.parse(_decoded(evidence.evidence, "evidence"))
    chain = nvidia_chain.load_pem(_decoded(evidence.certificate, "certificate"))
    # (1) Whose device it is, and that it is not withdrawn.
    trusted = nvidia_chain.verify(chain, device_roots, now=now, revocation=collateral.revocation)
    checks.append(Check("RFC 5280, 6.1", "the device's chain ends in NVIDIA's pinned root"))
    # (2) The report is this device's, and of the firmware that its certificate was made for.
    spdm.verify(report, trusted.leaf.public_key())
    checks.append(Check("SPDM 1.1, 10.11.1", "the report is signed by the device"))
    _check_firmware(report, trusted, checks)
    # (3) It is fresh, and of this machine and session.
    binding.check(report.nonce, nonce)
    checks.append(Check("SPDM 1.1, 10.11", "the nonce is the one that was asked with"))
    # (4) It is a kind and version that was approved.
    chip, architecture, kind = _chip(trusted)
    versions = _versions(report, kind)
    claim(checks, "GPU reference: architectures", architecture, reference.gpu.architectures)
    if kind == "GPU":
        claim(checks, "GPU reference: drivers", versions["driver"], reference.gpu.drivers)
    claim(checks, "GPU reference: vbios", versions["vbios"], reference.gpu.vbios)
    platform = platform_hash("nvidia-gpu", _key(trusted.issuer))
    is_refused = platform in reference.refused_platforms
    require(
        checks,
        "reference: refused_platforms",
        "this device is not on the list",
        holds=not is_refused,
        otherwise="this device is never accepted, whatever it shows",
    )
    # (5) Its measurements are those that NVIDIA signed for these versions.
    rims = [
        _rim(name, version, collateral, now, rim_roots)
        for name, version in _identifiers(report, chip, kind, versions, collateral).items()
    ]
    _check_measurements(report, rims, kind, checks)
    unlisted = sorted({*trusted.unlisted, *(name for one in rims for name in one.unlisted)})
    return Verified(
        kind="nvidia-gpu",
        measurements={str(index): value.hex() for index, value in sorted(report.measurements.items())},
        report_data=report.nonce,
        tcb={"architecture": architecture, **versions},
        platform=platform,
        valid_until=min(trusted.valid_until, *(one.valid_until for one in rims)),
        warnings=tuple(f"no revocation list of {name} was at hand" for name in unlisted),
        checks=tuple(checks),
    )


def _check_firmware(report: UnverifiedReport, trusted: Trusted, checks: list[Check]) -> None:
    """Compare the firmware's identity in the report with the one in the leaf, where the report has one."""
    if _FWID not in report.opaque:
        return
    try:
        found = trusted.leaf.extensions.get_extension_for_oid(_TCB_INFO).value.public_bytes()
    except (x509.ExtensionNotFound, ValueError):
        found = b""
    # The extension ends in an OCTET STRING (tag 4) of the 48 bytes.
    wanted = bytes([4, _FWID_BYTES]) + report.opaque[_FWID]
    is_same = len(report.opaque[_FWID]) == _FWID_BYTES and hmac.compare_digest(found[-len(wanted) :], wanted)
    require(
        checks,
        "DICE TcbInfo, fwid",
        "the device's certificate is of the firmware in the report",
        holds=is_same,
        otherwise="the report names other firmware than the device's certificate",
    )


def _chip(trusted: Trusted) -> tuple[str, str, Literal["GPU", "SWITCH"]]:
    names = trusted.leaf.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
    chip = str(names[0].value).partition(" ")[0] if names else ""
    if chip not in CHIPS:
        raise AttestationError(f"the device's certificate is of a chip that is not known here; known: {sorted(CHIPS)}")
    return chip, *CHIPS[chip]


def _versions(report: UnverifiedReport, kind: str) -> dict[str, str]:
    vbios = report.opaque.get(_VBIOS, b"")
    if kind == "SWITCH":
        return {"vbios": _text(vbios, "VBIOS version")}
    if len(vbios) != 8:
        raise AttestationError(f"SPDM opaque field {_VBIOS}: a GPU's VBIOS version has 8 bytes, this has {len(vbios)}")
    # 00 9f 00 96 01 00 00 00 stands for 96.00.9F.00.01.
    digits = bytes([*vbios[3::-1], vbios[4]]).hex().upper()
    spelled = ".".join(digits[place : place + 2] for place in range(0, len(digits), 2))
    return {"driver": _text(report.opaque.get(_DRIVER, b""), "driver version"), "vbios": spelled}


def _identifiers(
    report: UnverifiedReport,
    chip: str,
    kind: str,
    versions: Mapping[str, str],
    collateral: DeviceCollateral,
) -> dict[str, str]:
    """The RIMs that the signed report asks for, each with the version that it must describe."""
    plain = versions["vbios"].replace(".", "").upper()
    if kind == "SWITCH":
        named = [name for name in collateral.rims if name.startswith("NV_SWITCH_BIOS_") and name.endswith(f"_{plain}")]
        if len(named) != 1:
            raise AttestationError(f"the collateral holds {len(named)} RIMs of a switch's BIOS {versions['vbios']}")
        return {named[0]: versions["vbios"]}
    board = [_text(report.opaque.get(one, b""), "board") for one in (_PROJECT, _PROJECT_SKU, _CHIP_SKU)]
    return {
        f"NV_GPU_DRIVER_{chip}_{versions['driver']}": versions["driver"],
        f"NV_GPU_VBIOS_{'_'.join(board).upper()}_{plain}": versions["vbios"],
    }


def _rim(name: str, version: str, collateral: DeviceCollateral, now: float, roots: frozenset[str]) -> Rim:
    if name not in collateral.rims:
        raise AttestationError(f"the collateral holds no RIM {name}, so that this device's measurements mean nothing")
    found = rim.verify(collateral.rims[name], now=now, revocation=collateral.revocation, roots=roots)
    # The name came with the collateral; what the signed manifest says of itself counts.
    if found.version.upper() != version.upper():
        raise AttestationError(f"the RIM {name} is of version {found.version[:32]!r}, the device runs {version!r}")
    return found


def _check_measurements(report: UnverifiedReport, rims: Sequence[Rim], kind: str, checks: list[Check]) -> None:
    golden: dict[int, tuple[bytes, ...]] = {}
    for one in rims:
        for index, value in one.golden.items():
            if value.active:
                if index in golden:
                    raise AttestationError(f"two RIMs both say what measurement {index} must be")
                golden[index] = value.values
    if kind == "GPU":
        status = report.opaque.get(_NVDEC0, b"")
        if status not in {_NVDEC0_ON, _NVDEC0_OFF}:
            raise AttestationError(f"SPDM opaque field {_NVDEC0}: NVDEC0 is neither on nor off")
        if status == _NVDEC0_OFF:
            golden.pop(_NVDEC0_INDEX, None)
    wrong = [index for index, values in sorted(golden.items()) if report.measurements.get(index + 1) not in values]
    require(
        checks,
        "RIM: golden measurements",
        f"{len(golden)} active measurements match",
        holds=bool(golden) and not wrong,
        otherwise=f"of {len(golden)} active measurements these do not match (counted from 0): {wrong}",
    )


def _key(certificate: x509.Certificate) -> bytes:
    return certificate.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def _text(value: bytes, what: str) -> str:
    """A short text that ends at its first zero."""
    text = value.partition(b"\0")[0].decode("ascii", "replace")
    if not _VERSION.fullmatch(text):
        raise AttestationError(f"SPDM opaque data: the {what} is not a short text of letters, digits and dots")
    return text


def _decoded(text: str, what: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise AttestationError(f"a device's {what} is not base64") from None
