"""From a report's key up to AMD's root: VCEK or VLEK, ASK or ASVK, ARK.

    ARK (pinned here, per product) ──signs──▶ ASK  ──signs──▶ VCEK  one chip, one TCB
                                   ──signs──▶ ASVK ──signs──▶ VLEK  one cloud, one TCB
                                   ──signs──▶ the revocation lists

The root is pinned by the SHA-256 of its SubjectPublicKeyInfo, so that the certificates themselves may come from
anybody. The pins are those of the ARK certificates that AMD serves at ``https://kdsintf.amd.com/vcek/v1/<product>/cert_chain``;
they were compared over the copies in google/go-sev-guest ``af1c107a648f`` and virtee/sev ``9cf2adbffa20``.

A revocation list is the ARK's and names serial numbers. Every VCEK has the number 0, so a list can revoke an ASK, an
ASVK or a VLEK, and cannot name one chip: `ReferenceValues.refused_platforms` can.

References:
    AMD, VCEK Certificate and KDS Interface Specification (57230), chapter 3.
    RFC 5280, sections 5 and 6.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm

from wardround.attestation import amd_certificate
from wardround.attestation.amd_certificate import AmdCertificate
from wardround.attestation.collateral import AmdCollateral
from wardround.attestation.reference import Product
from wardround.attestation.result import Check, refuse, require

__all__ = ["MAX_CRL_BYTES", "ROOT_KEYS", "SigningKey", "endorsed", "product_of", "signing_key"]

ROOT_KEYS: Mapping[Product, str] = {
    "Milan": "9f056bee44377e29308cb5ffa895bdfb62d18881fa6bed8d6f075b0204089cb9",
    "Genoa": "429a69c9422aa258ee4d8db5fcda9c6470ef15f8cd5a9cebd6cbc7d90b863831",
    "Turin": "4f125410563a2ab9a50356f9243f6fe0b6f73de98603f53f90339c70e9d7ad08",
}
"""SHA-256 of each product's ARK, as SubjectPublicKeyInfo."""

_KDS = "AMD KDS 57230 chapter 3"
# 1.3.6.1.4.1.3704.1: AMD's extensions of VCEK and VLEK; the names of 57230, chapter 3.
_AMD = bytes.fromhex("2b060104019c7801")
_STRUCT_VERSION, _PRODUCT_NAME, _HWID, _CSP_ID = (_AMD + bytes([arc]) for arc in (1, 2, 4, 5))
_TCB_ARCS = {"bootloader": 1, "tee": 2, "snp": 3, "microcode": 8}
_FMC_ARC, _UNUSED_ARCS = 9, (4, 5, 6, 7)
_BASIC_CONSTRAINTS, _KEY_USAGE = bytes.fromhex("551d13"), bytes.fromhex("551d0f")
_KNOWN_CRITICAL = frozenset((_BASIC_CONSTRAINTS, _KEY_USAGE))
_HWID_BYTES: Mapping[Product, int] = {"Milan": 64, "Genoa": 64, "Turin": 8}
_INTEGER, _TEXTS = 0x02, (0x16, 0x0C)
MAX_CRL_BYTES = 256 * 1024
# What `cryptography` raises on bytes that are no revocation list, or one of a kind that it does not know.
_UNREADABLE_LIST = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SigningKey:
    """What a VCEK or VLEK says of itself; verified only when it comes from `endorsed`.

    `tcb` goes by the names of `snp_report.Tcb.parts`; `hwid` is empty in a VLEK, `csp_id` in a VCEK.
    """

    kind: Literal["vcek", "vlek"]
    product: Product
    certificate: AmdCertificate
    tcb: Mapping[str, int]
    hwid: bytes
    csp_id: str
    valid_until: float


def product_of(certificate: AmdCertificate) -> Product:
    """The product that a VCEK or VLEK names, unverified: it says which root to ask.

    Raises:
        AttestationError: None that is known.
    """
    name: str = _text(certificate, _PRODUCT_NAME).partition("-")[0]
    match name:
        case "Milan" | "Genoa" | "Turin":
            return name
        case _:
            raise refuse(f"{_KDS} productName", "Milan, Genoa or Turin expected")


def signing_key(certificate: AmdCertificate) -> SigningKey:
    """Read AMD's extensions of a VCEK or VLEK, unverified.

    Raises:
        AttestationError: One is missing or malformed.
    """
    product = product_of(certificate)
    is_vlek = _CSP_ID in certificate.extensions
    hwid = certificate.extensions.get(_HWID, b"")
    if bool(hwid) == is_vlek or (hwid and len(hwid) != _HWID_BYTES[product]):
        raise refuse(f"{_KDS} hwID", "a VCEK names its chip and a VLEK its cloud, and neither both")
    if _number(certificate, _STRUCT_VERSION) != (1 if product == "Turin" else 0):
        raise refuse(f"{_KDS} structVersion", f"not the one of {product}")
    arcs = _TCB_ARCS | ({"fmc": _FMC_ARC} if product == "Turin" else {})
    tcb = {name: _number(certificate, _spl(arc)) for name, arc in arcs.items()}
    unused = [_spl(arc) for arc in _UNUSED_ARCS if _spl(arc) in certificate.extensions]
    if any(_number(certificate, name) for name in unused):
        raise refuse(f"{_KDS} spl4 to spl7", "a security version that has no firmware is not zero")
    return SigningKey(
        kind="vlek" if is_vlek else "vcek",
        product=product,
        certificate=certificate,
        tcb=tcb,
        hwid=hwid,
        csp_id=_text(certificate, _CSP_ID) if is_vlek else "",
        valid_until=certificate.not_after,
    )


def endorsed(
    certificate: AmdCertificate, collateral: AmdCollateral, checks: list[Check], *, now: float, without_list: bool
) -> SigningKey:
    """Verify a VCEK or VLEK up to AMD's root.

    Args:
        certificate: The report's key, unverified.
        collateral: AMD's certificates and lists of its product.
        checks: What held is added here.
        now: Seconds since 1970-01-01 UTC.
        without_list: Accept where the collateral has no revocation list.

    Raises:
        AttestationError: Names the clause that failed.
    """
    leaf = signing_key(certificate)
    name = leaf.kind.upper()
    root = amd_certificate.load(collateral.ark)
    pin = hashlib.sha256(root.key).hexdigest()
    require(
        checks, "AMD KDS 57230 chapter 3 ARK", f"is {leaf.product}'s pinned root",
        holds=collateral.product == leaf.product and pin == ROOT_KEYS[leaf.product],
        otherwise=f"not the pinned root of {leaf.product}: this chain is of another product, or of nobody",
    )  # fmt: skip
    middle_name, middle_der = ("ASVK", collateral.asvk) if leaf.kind == "vlek" else ("ASK", collateral.ask)
    if not middle_der:
        raise refuse("AMD KDS 57230 chapter 3", f"the collateral has no {middle_name} of {leaf.product}")
    middle = amd_certificate.load(middle_der)
    chain = ((root, "ARK"), (middle, middle_name), (certificate, name))
    for item, what in chain:
        amd_certificate.check_valid(item, what, now)
        if item.critical - _KNOWN_CRITICAL:
            raise refuse("RFC 5280 section 6.1.4 (o)", f"{what} has a critical extension that is not known here")
    for item, what in chain[:2]:
        _check_authority(item, what)
    if _is_authority(certificate):
        raise refuse("RFC 5280 section 4.2.1.9", f"{name} is an authority")
    amd_certificate.check_issued(root, root, "ARK")
    amd_certificate.check_issued(middle, root, middle_name)
    amd_certificate.check_issued(certificate, middle, name)
    checks.append(Check("RFC 5280 section 6.1.3", f"{name} <- {middle_name} <- ARK, signed and valid"))
    ends = [item.not_after for item, _ in chain]
    listed = collateral.vlek_crl if leaf.kind == "vlek" else collateral.vcek_crl
    if listed:
        ends.append(_check_not_revoked(listed, root, ((middle, middle_name), (certificate, name)), now))
        checks.append(Check("RFC 5280 section 6.3.3", f"neither {name} nor {middle_name} is revoked"))
    elif not without_list:
        raise refuse(
            "RFC 5280 section 6.3.3",
            f"the collateral has no revocation list of {leaf.product}'s {name}s, and the reference values ask for one",
        )
    return SigningKey(
        kind=leaf.kind, product=leaf.product, certificate=certificate, tcb=leaf.tcb, hwid=leaf.hwid,
        csp_id=leaf.csp_id, valid_until=min(ends),
    )  # fmt: skip


def _check_authority(certificate: AmdCertificate, what: str) -> None:
    usage = certificate.extensions.get(_KEY_USAGE, b"")
    # (RFC 5280, 4.2.1.3) a named bit list: the first content byte holds bits 0 to 7, and keyCertSign is bit 5.
    may_sign = len(usage) >= 4 and usage[0] == 0x03 and bool(usage[3] & 0x04)
    if not _is_authority(certificate) or not may_sign:
        raise refuse("RFC 5280 section 6.1.4 (k) and (n)", f"{what} may not issue certificates")


def _is_authority(certificate: AmdCertificate) -> bool:
    return certificate.extensions.get(_BASIC_CONSTRAINTS, b"")[2:5] == b"\x01\x01\xff"


def _check_not_revoked(
    data: bytes, root: AmdCertificate, questioned: tuple[tuple[AmdCertificate, str], ...], now: float
) -> float:
    clause = "RFC 5280 section 6.3.3"
    if len(data) > MAX_CRL_BYTES:
        raise refuse(clause, f"a revocation list may have {MAX_CRL_BYTES} bytes, this has {len(data)}")
    try:
        found = x509.load_der_x509_crl(data)
        issuer, signature, signed = found.issuer.public_bytes(), found.signature, found.tbs_certlist_bytes
        start, end = found.last_update_utc, found.next_update_utc
        serials = {entry.serial_number for entry in found}
        is_partial = any(extension.critical for extension in found.extensions)
    except _UNREADABLE_LIST:
        raise refuse(clause, "this is no revocation list") from None
    # (RFC 5280, 5.2) A critical extension may say that the list is of some certificates only: it is not used then.
    if is_partial:
        raise refuse(clause, "the revocation list has a critical extension that is not known here")
    if issuer != root.subject:
        raise refuse(clause, "the revocation list is of another issuer")
    amd_certificate.verify_pss(amd_certificate.rsa_key(root), signature, signed, "the revocation list")
    # Written so that a `now` which is not a number refuses; a list without an end is refused as well.
    if end is None or not start.timestamp() <= now <= end.timestamp():
        raise refuse(clause, "the revocation list is not valid at this time: fetch a new one")
    for item, what in questioned:
        if item.serial in serials:
            raise refuse(clause, f"AMD revoked this {what}")
    return end.timestamp()


def _spl(arc: int) -> bytes:
    return _AMD + bytes([3, arc])


def _number(certificate: AmdCertificate, name: bytes) -> int:
    value = certificate.extensions.get(name, b"")
    if len(value) < 3 or value[0] != _INTEGER or value[1] != len(value) - 2 or len(value) > 4:
        raise refuse(_KDS, f"extension {name.hex()} is not a small whole number")
    number = int.from_bytes(value[2:], "big", signed=True)
    if not 0 <= number <= 255:
        raise refuse(_KDS, f"extension {name.hex()} is not a security version")
    return number


def _text(certificate: AmdCertificate, name: bytes) -> str:
    value = certificate.extensions.get(name, b"")
    if len(value) < 3 or value[0] not in _TEXTS or value[1] != len(value) - 2 or not value[2:].isascii():
        raise refuse(_KDS, f"extension {name.hex()} is not a short text")
    return value[2:].decode("ascii")
