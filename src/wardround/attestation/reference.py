"""Reference values: which machines and builds are accepted, named by whoever approves a study.

    ReferenceValues ──canonical.encode──▶ bytes ──sha256──▶ the digest that plans and results name

Nothing is accepted that is not written here. A kind of evidence without a section is refused; so is a section whose
list of measurements is empty. A field that is left out takes the strictest value: a measured value that nobody mentions
must be zero, the only TCB status is ``UpToDate``, and debugging is never allowed, because there is no field for it.

Every value is lower-case hexadecimal of the field's own length, in the byte order of the report.

References:
    RFC 9334, section 8.4: endorsements and reference values.
    AMD, SEV Secure Nested Paging Firmware ABI Specification (56860), tables of POLICY, TCB_VERSION, ATTESTATION_REPORT.
    Intel, TDX Module Base Architecture Specification: TD attributes, XFAM; Intel SGX DCAP Quote Library API.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import msgspec

from wardround.codec import canonical
from wardround.crypto import endorsement, signing
from wardround.crypto.endorsement import Endorsement
from wardround.errors import CodecError
from wardround.ids import Digest

__all__ = [
    "GpuReference",
    "IntelTcb",
    "ReferenceValues",
    "SgxReference",
    "SignedReferenceValues",
    "SnpReference",
    "SnpTcb",
    "TdxReference",
    "check",
    "digest",
    "open_signed",
    "read",
    "sign",
    "words",
]

MAX_VALUES = 1024
Product = Literal["Milan", "Genoa", "Turin"]
SnpPermission = Literal["smt", "cxl", "masked-chip-id", "no-revocation-list"]
SnpDemand = Literal[
    "single-socket", "aes-256-xts", "rapl-disabled", "ciphertext-hiding", "page-swap-disabled", "alias-check",
]  # fmt: skip
TcbStatus = Literal[
    "UpToDate", "SWHardeningNeeded", "ConfigurationNeeded", "ConfigurationAndSWHardeningNeeded",
    "OutOfDate", "OutOfDateConfigurationNeeded",
]  # fmt: skip
"""Intel's statuses but ``Revoked``, which nobody may accept."""
IntelPermission = Literal["dynamic-platform", "cached-keys", "smt"]
_CONTEXT = b"wardround reference values 1\n"
_TEXT = re.compile(r"[ -~]{1,128}")


class SnpTcb(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The least security version of each firmware; `fmc` is Turin's only."""

    bootloader: int
    tee: int
    snp: int
    microcode: int
    fmc: int = 0


class SnpReference(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Accepted SEV-SNP guests.

    `measurements`: launch digests, 48 bytes. `minimum_tcb`: per product; a product without one is refused.
    `allow`: ``smt`` (threads of a neighbour on the same core), ``cxl``, ``masked-chip-id`` (the host hides which chip
    it is), ``no-revocation-list`` (the collateral has none). `demand`: bits of the guest policy that must be set, and
    ``alias-check``, the platform's own check against aliased memory. `csp_ids`: with a VLEK, the clouds it may be of.
    """

    measurements: tuple[str, ...]
    minimum_tcb: Mapping[Product, SnpTcb]
    signing_keys: tuple[Literal["vcek", "vlek"], ...] = ("vcek",)
    csp_ids: tuple[str, ...] = ()
    vmpl: tuple[int, ...] = (0,)
    host_data: tuple[str, ...] = ("00" * 32,)
    id_key_digests: tuple[str, ...] = ("00" * 48,)
    author_key_digests: tuple[str, ...] = ("00" * 48,)
    minimum_guest_svn: int = 0
    allow: tuple[SnpPermission, ...] = ()
    demand: tuple[SnpDemand, ...] = ()


class IntelTcb(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What is asked of an Intel platform's firmware.

    `statuses`: accepted TCB statuses. `rejected_advisories`: refused whatever the status. `minimum_evaluation`: the
    least TCB evaluation data number, so that nobody brings an old judgement. `allow`: a platform to which processor
    packages can be added, one whose keys Intel keeps, one with hyperthreading.
    """

    statuses: tuple[TcbStatus, ...] = ("UpToDate",)
    rejected_advisories: tuple[str, ...] = ()
    minimum_evaluation: int = 0
    allow: tuple[IntelPermission, ...] = ()


class TdxReference(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Accepted trust domains.

    `mrtd`, `rtmr0` to `rtmr3`, `mrseam`: 48 bytes. `xfam`, `td_attributes`: 8 bytes. An RTMR passes when it is listed,
    or when the event log gives exactly this RTMR and every event's digest stands in `events` (48 bytes); such a log
    must hold every one of `required_events`, so that a boot which measured less is refused too.
    """

    mrtd: tuple[str, ...]
    rtmr0: tuple[str, ...] = ()
    rtmr1: tuple[str, ...] = ()
    rtmr2: tuple[str, ...] = ()
    rtmr3: tuple[str, ...] = ("00" * 48,)
    events: tuple[str, ...] = ()
    required_events: tuple[str, ...] = ()
    mrseam: tuple[str, ...] = ()
    mrsignerseam: tuple[str, ...] = ("00" * 48,)
    td_attributes: tuple[str, ...] = ()
    xfam: tuple[str, ...] = ()
    mrconfigid: tuple[str, ...] = ("00" * 48,)
    mrowner: tuple[str, ...] = ("00" * 48,)
    mrownerconfig: tuple[str, ...] = ("00" * 48,)
    mrservicetd: tuple[str, ...] = ("00" * 48,)
    tcb: IntelTcb = IntelTcb()


class SgxReference(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Accepted enclaves: both the enclave and its signer must be listed, 32 bytes each."""

    mrenclave: tuple[str, ...]
    mrsigner: tuple[str, ...]
    isv_prod_id: int
    minimum_isv_svn: int
    tcb: IntelTcb = IntelTcb()


class GpuReference(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Accepted NVIDIA devices in confidential mode.

    `drivers` and `vbios`: accepted versions, as the device spells them. Golden measurements come with the collateral,
    as manifests that NVIDIA signed. `architectures`: such as ``hopper``.
    """

    architectures: tuple[str, ...]
    drivers: tuple[str, ...]
    vbios: tuple[str, ...]
    minimum_devices: int = 1


class ReferenceValues(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Everything that is accepted. `name` is for people: which build these values are of.

    `refused_platforms`: `result.platform_hash` of machines that are never accepted, whatever their vendor says.
    """

    format: Literal["wardround-reference-values/1"] = "wardround-reference-values/1"
    name: str
    snp: SnpReference | None = None
    tdx: TdxReference | None = None
    sgx: SgxReference | None = None
    gpu: GpuReference | None = None
    refused_platforms: tuple[str, ...] = ()


class SignedReferenceValues(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Canonical reference values with their officers' signatures; unverified until `open_signed`."""

    values: bytes
    endorsements: tuple[Endorsement, ...] = ()


def read(data: bytes) -> ReferenceValues:
    """Read reference values from canonical JSON.

    Raises:
        CodecError: Not canonical, or `check` refuses.
    """
    values = canonical.decode(data, ReferenceValues)
    check(values)
    return values


def sign(signed: SignedReferenceValues, key: signing.PrivateKey) -> SignedReferenceValues:
    """Add an officer's signature.

    Raises:
        CodecError: These bytes are no reference values.
    """
    read(signed.values)
    added = endorsement.add(_CONTEXT, signed.values, signed.endorsements, key)
    return SignedReferenceValues(signed.values, added)


def open_signed(unverified: SignedReferenceValues, officers: Sequence[bytes], quorum: int) -> ReferenceValues:
    """Check the signatures of `quorum` of `officers`, then the values; for values that no approved plan carries.

    Raises:
        SignatureError: Too few valid signatures of these officers.
        CodecError: No proper values.
    """
    endorsement.require(_CONTEXT, unverified.values, unverified.endorsements, officers, quorum)
    return read(unverified.values)


def digest(values: ReferenceValues) -> Digest:
    """The name of these values, in plans and in results."""
    return canonical.digest(canonical.encode(values))


def check(values: ReferenceValues) -> None:
    """Refuse lists that are too long, empty where one value is needed, or not hexadecimal of the right length.

    Raises:
        CodecError: Says which field.
    """
    if not _TEXT.fullmatch(values.name):
        raise CodecError("reference values have a name of 1 to 128 printable characters")
    if values.snp is None and values.tdx is None and values.sgx is None and values.gpu is None:
        raise CodecError("the reference values accept nothing: name at least one kind of machine")
    _hex("refused_platforms", values.refused_platforms, 32)
    if values.snp is not None:
        _check_snp(values.snp)
    if values.tdx is not None:
        _check_tdx(values.tdx)
    if values.sgx is not None:
        _check_sgx(values.sgx)
    if values.gpu is not None:
        for name in ("architectures", "drivers", "vbios"):
            _texts(f"gpu.{name}", getattr(values.gpu, name), needed=True)
        _numbers("gpu.minimum_devices", [values.gpu.minimum_devices], 64)


def words(values: ReferenceValues) -> list[str]:
    """What is accepted, in one line per kind, for whoever approves."""
    said = [f"Reference values {values.name} ({digest(values)[:16]}…)"]
    if values.snp is not None:
        products = ", ".join(sorted(values.snp.minimum_tcb))
        said.append(
            f"AMD SEV-SNP on {products}: {len(values.snp.measurements)} builds, allowing {_all(values.snp.allow)}"
        )
    if values.tdx is not None:
        tcb = values.tdx.tcb
        said.append(
            f"Intel TDX: {len(values.tdx.mrtd)} builds, status {_all(tcb.statuses)}, allowing {_all(tcb.allow)}"
        )
    if values.sgx is not None:
        tcb = values.sgx.tcb
        said.append(
            f"Intel SGX: {len(values.sgx.mrenclave)} enclaves, status {_all(tcb.statuses)}, allowing {_all(tcb.allow)}"
        )
    if values.gpu is not None:
        versions = f"driver {_all(values.gpu.drivers)}, VBIOS {_all(values.gpu.vbios)}"
        said.append(f"NVIDIA {_all(values.gpu.architectures)}: {versions}")
    return said


def _check_snp(snp: SnpReference) -> None:
    _hex("snp.measurements", snp.measurements, 48, needed=True)
    if not snp.minimum_tcb or not snp.signing_keys:
        raise CodecError("snp.minimum_tcb and snp.signing_keys must name at least one")
    for product, tcb in snp.minimum_tcb.items():
        parts = (tcb.bootloader, tcb.tee, tcb.snp, tcb.microcode, tcb.fmc)
        _numbers(f"snp.minimum_tcb.{product}", parts, 255)
        if tcb.fmc and product != "Turin":
            raise CodecError(f"snp.minimum_tcb.{product}: only Turin has an FMC")
    if "vlek" in snp.signing_keys:
        _texts("snp.csp_ids", snp.csp_ids, needed=True)
    _numbers("snp.vmpl", snp.vmpl, 3, needed=True)
    _numbers("snp.minimum_guest_svn", [snp.minimum_guest_svn], 2**32 - 1)
    _hex("snp.host_data", snp.host_data, 32)
    _hex("snp.id_key_digests", snp.id_key_digests, 48)
    _hex("snp.author_key_digests", snp.author_key_digests, 48)


def _check_tdx(tdx: TdxReference) -> None:
    needed = {"mrtd", "mrseam"}
    for name in ("mrtd", "rtmr0", "rtmr1", "rtmr2", "rtmr3", "events", "required_events", "mrseam", "mrsignerseam",
                 "mrconfigid", "mrowner", "mrownerconfig", "mrservicetd"):  # fmt: skip
        _hex(f"tdx.{name}", getattr(tdx, name), 48, needed=name in needed)
    _hex("tdx.td_attributes", tdx.td_attributes, 8, needed=True)
    _hex("tdx.xfam", tdx.xfam, 8, needed=True)
    if not set(tdx.required_events) <= set(tdx.events) or bool(tdx.required_events) != bool(tdx.events):
        raise CodecError("tdx.required_events names some of tdx.events, where events are named at all")
    _check_intel("tdx.tcb", tdx.tcb)


def _check_sgx(sgx: SgxReference) -> None:
    _hex("sgx.mrenclave", sgx.mrenclave, 32, needed=True)
    _hex("sgx.mrsigner", sgx.mrsigner, 32, needed=True)
    _numbers("sgx.isv_prod_id and minimum_isv_svn", (sgx.isv_prod_id, sgx.minimum_isv_svn), 2**16 - 1)
    _check_intel("sgx.tcb", sgx.tcb)


def _check_intel(name: str, tcb: IntelTcb) -> None:
    if not tcb.statuses:
        raise CodecError(f"{name}.statuses must name at least one")
    _texts(f"{name}.rejected_advisories", tcb.rejected_advisories)
    _numbers(f"{name}.minimum_evaluation", [tcb.minimum_evaluation], 2**31)


def _hex(name: str, values: tuple[str, ...], size: int, *, needed: bool = False) -> None:
    if len(values) > MAX_VALUES or (needed and not values):
        raise CodecError(f"{name} names {int(needed)} to {MAX_VALUES} values, this names {len(values)}")
    pattern = re.compile(rf"[0-9a-f]{{{2 * size}}}")
    if not all(pattern.fullmatch(value) for value in values):
        raise CodecError(f"{name}: every value is {size} bytes in lower-case hexadecimal")


def _texts(name: str, values: tuple[str, ...], *, needed: bool = False) -> None:
    if len(values) > MAX_VALUES or (needed and not values) or not all(_TEXT.fullmatch(value) for value in values):
        raise CodecError(f"{name} names {int(needed)} to {MAX_VALUES} short printable texts")


def _numbers(name: str, values: Iterable[int], most: int, *, needed: bool = False) -> None:
    found = tuple(values)
    if (needed and not found) or not all(0 <= value <= most for value in found):
        raise CodecError(f"{name}: numbers from 0 to {most}")


def _all(values: Iterable[str]) -> str:
    return ", ".join(values) or "nothing"
