"""Reference integrity manifests: what NVIDIA says a driver's or a VBIOS's measurements must be.

    <SoftwareIdentity name tagId>
      <Meta colloquialVersion product …/>
      <Payload><Resource type="Measurement" index active alternatives size Hash0 Hash1 …/> …</Payload>
      <ds:Signature> one reference, URI="", enveloped-signature and one canonicalization </ds:Signature>
    </SoftwareIdentity>

What `verify` reads is the canonical form that the signature covers, never the document as it came. A document with
a DTD is refused, so there are no entities to resolve. Of a signature's form only the one in the picture is accepted:
ECDSA P-384 with SHA-384, over the whole document, no other transform.

References:
    ISO/IEC 19770-2:2015, Software identification tag.
    TCG Reference Integrity Manifest (RIM) Information Model, version 1.01.
    W3C, XML Signature Syntax and Processing 1.1; Canonical XML 1.1; Exclusive XML Canonicalization 1.0.
"""

import base64
import binascii
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from wardround.attestation import nvidia_chain
from wardround.attestation.nvidia_chain import RIM_ROOTS, Revocation, Trusted
from wardround.errors import AttestationError, ConfigError

__all__ = ["MAX_RIM_BYTES", "Golden", "Rim", "verify"]

MAX_RIM_BYTES = 256 * 1024
_MAX_RESOURCES = 256
_MAX_ALTERNATIVES = 16
_TAG = "{http://standards.iso.org/iso/19770/-2/2015/schema.xsd}"
_SIGNATURE = "{http://www.w3.org/2000/09/xmldsig#}"
_HASH = "{http://www.w3.org/2001/04/xmlenc#sha384}Hash"
_ENVELOPED = "http://www.w3.org/2000/09/xmldsig#enveloped-signature"
_CANONICAL = frozenset({"http://www.w3.org/2006/12/xml-c14n11", "http://www.w3.org/2001/10/xml-exc-c14n#"})
_ECDSA_SHA384 = "http://www.w3.org/2001/04/xmldsig-more#ecdsa-sha384"
_SHA384 = "http://www.w3.org/2001/04/xmldsig-more#sha384"


@dataclass(frozen=True, slots=True)
class Golden:
    """What one measurement may be; where it is not `active`, it is not compared."""

    active: bool
    values: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Rim:
    """A manifest that NVIDIA signed.

    Attributes:
        name: What it is for, such as "GH100".
        tag: Its identifier.
        version: Of the driver or VBIOS that it describes, as it is spelled there.
        golden: Measurements by index, counted from 0: one less than in a report.
        valid_until: Seconds since 1970-01-01 UTC: the first end of its signer's certificates and lists.
        unlisted: Authorities of its chain of which no revocation list was at hand.
    """

    name: str
    tag: str
    version: str
    golden: Mapping[int, Golden]
    valid_until: float
    unlisted: tuple[str, ...] = ()


def verify(unverified: bytes, *, now: float, revocation: Revocation, roots: frozenset[str] = RIM_ROOTS) -> Rim:
    """Check a manifest's signature and chain, and read it.

    Args:
        unverified: The swidtag document.
        now: Seconds since 1970-01-01 UTC.
        revocation: What is withdrawn.
        roots: Keys at which its chain may end; anything but the default is for tests.

    Raises:
        AttestationError: Too large, no such document, not signed, or not by NVIDIA's RIM signer, at `now`.
        ConfigError: The extra that reads XML signatures is not installed.
    """
    if len(unverified) > MAX_RIM_BYTES:
        raise AttestationError(f"a RIM may have {MAX_RIM_BYTES} bytes, this has {len(unverified)}")
    try:
        from lxml import etree
    except ImportError:
        raise _not_installed() from None
    try:
        root = etree.fromstring(unverified, _parser(etree))
    except (etree.XMLSyntaxError, ValueError):
        raise AttestationError("the RIM is not an XML document") from None
    info = root.getroottree().docinfo
    if info.internalDTD is not None or info.externalDTD is not None or info.doctype:
        raise AttestationError("the RIM has a DTD, which none of NVIDIA's has")
    signature = _check_form(root)
    certificates = nvidia_chain.load_der([_decoded(one.text) for one in signature.iter(f"{_SIGNATURE}X509Certificate")])
    trusted = nvidia_chain.verify(certificates, roots, now=now, revocation=revocation)
    return _read(_signed(unverified, trusted.leaf, now, etree), trusted)


def _parser(etree: Any) -> Any:  # noqa: ANN401, lxml has no types
    return etree.XMLParser(
        resolve_entities=False, no_network=True, load_dtd=False, dtd_validation=False, huge_tree=False
    )


def _check_form(root: Any) -> Any:  # noqa: ANN401
    """The one signature element of a document in the one form that is accepted."""
    if root.tag != f"{_TAG}SoftwareIdentity":
        raise AttestationError("the RIM is not a SoftwareIdentity (ISO/IEC 19770-2)")
    signatures = list(root.iter(f"{_SIGNATURE}Signature"))
    if len(signatures) != 1 or signatures[0].getparent() is not root:
        raise AttestationError(f"a RIM has one signature, at the end of its root; this has {len(signatures)}")
    info = _only(signatures[0], "SignedInfo")
    reference = _only(info, "Reference")
    transforms = [one.get("Algorithm") for one in _only(reference, "Transforms")]
    if (
        _only(info, "CanonicalizationMethod").get("Algorithm") not in _CANONICAL
        or _only(info, "SignatureMethod").get("Algorithm") != _ECDSA_SHA384
        or _only(reference, "DigestMethod").get("Algorithm") != _SHA384
    ):
        raise AttestationError("the RIM's signature is not ECDSA P-384 with SHA-384 over a canonical form")
    # XML Signature 1.1, 8.1.3: see what is signed. The whole document without the signature, and nothing else.
    is_whole = reference.get("URI") == "" and len(transforms) == 2
    if not is_whole or transforms[0] != _ENVELOPED or transforms[1] not in _CANONICAL:
        raise AttestationError("XML Signature 1.1, 8.1: the RIM's signature does not cover the whole document")
    return signatures[0]


def _signed(unverified: bytes, leaf: Any, now: float, etree: Any) -> Any:  # noqa: ANN401
    """The root of the canonical form that `leaf` signed."""
    try:
        from signxml.algorithms import DigestAlgorithm, SignatureMethod
        from signxml.exceptions import SignXMLException
        from signxml.verifier import SignatureConfiguration, VerifyResult, XMLVerifier
    except ImportError:
        raise _not_installed() from None
    wanted = SignatureConfiguration(
        location="./",
        signature_methods=frozenset({SignatureMethod.ECDSA_SHA384}),
        digest_algorithms=frozenset({DigestAlgorithm.SHA384}),
        verification_time=datetime.fromtimestamp(now, UTC),
    )
    try:
        result = XMLVerifier().verify(unverified, x509_cert=leaf, parser=_parser(etree), expect_config=wanted)
    except (SignXMLException, etree.LxmlError, ValueError, TypeError, AttributeError, ArithmeticError):
        # Which of the many ways in which a hostile document can be wrong does not matter: it is not signed.
        raise AttestationError("XML Signature 1.1, 3.2: the RIM's body is not what its signer signed") from None
    if (
        not isinstance(result, VerifyResult)
        or result.signed_xml is None
        or result.signed_xml.tag != f"{_TAG}SoftwareIdentity"
    ):
        raise AttestationError("XML Signature 1.1, 8.1: the RIM's signature covers something else")
    return result.signed_xml


def _read(root: Any, trusted: Trusted) -> Rim:  # noqa: ANN401
    metas, payloads = root.findall(f"{_TAG}Meta"), root.findall(f"{_TAG}Payload")
    if len(metas) != 1 or len(payloads) != 1:
        raise AttestationError("a RIM has one Meta and one Payload element")
    golden: dict[int, Golden] = {}
    for index, one in _resources(payloads[0]):
        if index in golden:
            raise AttestationError(f"the RIM names measurement {index} twice")
        golden[index] = one
    if not any(one.active for one in golden.values()):
        raise AttestationError("the RIM has no active measurement, so it would accept anything")
    version = metas[0].get("colloquialVersion", "")
    if not version or len(version) > 64:
        raise AttestationError("the RIM does not say of which version it is")
    name, tag = root.get("name", ""), root.get("tagId", "")
    return Rim(name, tag, version, golden, trusted.valid_until, trusted.unlisted)


def _resources(payload: Any) -> Iterator[tuple[int, Golden]]:  # noqa: ANN401
    resources = payload.findall(f"{_TAG}Resource")
    if len(resources) != len(payload) or len(resources) > _MAX_RESOURCES:
        raise AttestationError(f"a RIM's payload holds at most {_MAX_RESOURCES} Resource elements and nothing else")
    for one in resources:
        active = {"True": True, "False": False}.get(one.get("active", ""))
        count = _whole(one.get("alternatives", ""), _MAX_ALTERNATIVES)
        if one.get("type") != "Measurement" or active is None or count < 1:
            raise AttestationError("a RIM's resource is no measurement, or does not say whether it is active")
        size = _whole(one.get("size", ""), 64)
        values = tuple(_digest(one.get(f"{_HASH}{place}", ""), size) for place in range(count))
        yield _whole(one.get("index", ""), _MAX_RESOURCES - 1), Golden(active, values)


def _whole(text: str, most: int) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 4 or int(text) > most:
        raise AttestationError(f"a number in the RIM is not one from 0 to {most}")
    return int(text)


def _digest(text: str, size: int) -> bytes:
    try:
        found = bytes.fromhex(text)
    except ValueError:
        found = b""
    if len(found) != size or size == 0:
        raise AttestationError(f"a golden measurement in the RIM has not the {size} bytes that it names")
    return found


def _only(parent: Any, name: str) -> Any:  # noqa: ANN401
    found = parent.findall(f"{_SIGNATURE}{name}")
    if len(found) != 1:
        raise AttestationError(f"the RIM's signature has {len(found)} elements {name}, and one is expected")
    return found[0]


def _decoded(text: str | None) -> bytes:
    try:
        return base64.b64decode("".join((text or "").split()), validate=True)
    except (binascii.Error, ValueError):
        raise AttestationError("a certificate in the RIM is not base64") from None


def _not_installed() -> ConfigError:
    return ConfigError("RIMs are signed XML: install wardround with its extra [attestation]")
