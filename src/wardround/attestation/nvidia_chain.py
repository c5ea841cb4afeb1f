"""NVIDIA's certificate chains: from a device's or a RIM signer's key up to a root that is pinned here.

    leaf ─▶ intermediate ─▶ … ─▶ root        each signed by the next, ECDSA P-384 with SHA-384

Certificates come as evidence or collateral and are believed for nothing; what is trusted is the SHA-256 of the
root's public key (SubjectPublicKeyInfo, DER), a constant of this module. Revocation is offline: X.509 lists and
fingerprints of certificates, which come in the collateral that officers sign. NVIDIA's OCSP is not asked.

References:
    RFC 5280, sections 4.2, 6.1 and 6.3.
    NVIDIA nvtrust, `verifier_device_root.pem` and `verifier_RIM_root.pem`: the two roots whose keys are pinned.
"""

import hashlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import SignatureAlgorithmOID

from wardround.errors import AttestationError

__all__ = [
    "DEVICE_ROOTS",
    "MAX_CERTIFICATES",
    "MAX_CHAIN_BYTES",
    "RIM_ROOTS",
    "Revocation",
    "Trusted",
    "load_der",
    "load_pem",
    "verify",
]

DEVICE_ROOTS = frozenset({"a90c4eb5acfd3e3d03a25db6a26b84f720ad0503196c627c21ddd48dd85b06a4"})
"""SHA-256 of the key of "NVIDIA Device Identity CA", of GPUs and switches alike."""
RIM_ROOTS = frozenset({"dec1dc316477aa851eebdf51327ae9f864bc8d89254657ed1e7eb9168af1e1a3"})
"""SHA-256 of the key of "NVIDIA CoRIM signing Root CA"."""
MAX_CERTIFICATES = 8
MAX_CHAIN_BYTES = 64 * 1024
_MAX_CRL_BYTES = 1024 * 1024
_MAX_CRLS = 64
_Extension = TypeVar("_Extension", bound=x509.ExtensionType)
# What `cryptography` raises on bytes that are no certificate or list, or one of a kind that it does not know; it
# warns of some that it still reads, which is an exception where warnings are errors.
_UNREADABLE = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
    Warning,
)


@dataclass(frozen=True, slots=True)
class Revocation:
    """What is known to be withdrawn.

    Attributes:
        crls: X.509 revocation lists, DER; each is checked against the authority that it names.
        certificates: SHA-256 of certificates, DER, in lower-case hexadecimal digits.
    """

    crls: tuple[bytes, ...] = ()
    certificates: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Trusted:
    """A chain that holds.

    Attributes:
        leaf: The certificate whose key signs.
        issuer: The one above it; in a device's chain it stays the same when firmware changes.
        valid_until: Seconds since 1970-01-01 UTC: the first end of a certificate or revocation list.
        unlisted: Authorities of which no revocation list was at hand.
    """

    leaf: x509.Certificate
    issuer: x509.Certificate
    valid_until: float
    unlisted: tuple[str, ...]


def load_pem(data: bytes) -> list[x509.Certificate]:
    """Read certificates, leaf first.

    Raises:
        AttestationError: Too large, none, too many, or not certificates.
    """
    if len(data) > MAX_CHAIN_BYTES:
        raise AttestationError(f"a certificate chain may have {MAX_CHAIN_BYTES} bytes, this has {len(data)}")
    try:
        found = x509.load_pem_x509_certificates(data)
    except _UNREADABLE:
        raise AttestationError("the certificate chain is not PEM certificates") from None
    return _counted(found)


def load_der(data: Sequence[bytes]) -> list[x509.Certificate]:
    """Read certificates, leaf first.

    Raises:
        AttestationError: Too large, none, too many, or not certificates.
    """
    if sum(map(len, data)) > MAX_CHAIN_BYTES or len(data) > MAX_CERTIFICATES:
        raise AttestationError(f"a chain has at most {MAX_CERTIFICATES} certificates in {MAX_CHAIN_BYTES} bytes")
    try:
        found = [x509.load_der_x509_certificate(one) for one in data]
    except _UNREADABLE:
        raise AttestationError("the certificate chain is not DER certificates") from None
    return _counted(found)


def verify(chain: Sequence[x509.Certificate], roots: frozenset[str], *, now: float, revocation: Revocation) -> Trusted:
    """Check a chain, leaf first and root last.

    Args:
        chain: Unverified.
        roots: SHA-256 of the public keys that may stand at its end: `DEVICE_ROOTS` or `RIM_ROOTS`.
        now: Seconds since 1970-01-01 UTC.
        revocation: What is withdrawn.

    Raises:
        AttestationError: The clause that does not hold.
    """
    certificates = _counted(list(chain))
    try:
        _check_path(certificates, roots, now)
        until, unlisted = _check_revocation(certificates, now, revocation)
    except _UNREADABLE:
        raise AttestationError("RFC 5280, 4.2: a certificate's fields or extensions are not readable") from None
    return Trusted(certificates[0], certificates[1], until, unlisted)


def _check_path(chain: list[x509.Certificate], roots: frozenset[str], now: float) -> None:
    # (1) The end of the path is a key that is pinned, before anything else is believed.
    if _pin(chain[-1]) not in roots:
        raise AttestationError(f"the chain ends in {_name(chain[-1])}, whose key is not a pinned NVIDIA root")
    # (2) Every signature, the root's own included: RFC 5280, 6.1.3 (a)(1) and (a)(4).
    for lower, upper in zip(chain, [*chain[1:], chain[-1]], strict=True):
        if lower.signature_algorithm_oid != SignatureAlgorithmOID.ECDSA_WITH_SHA384 or not _is_p384(upper):
            raise AttestationError(f"the certificate {_name(lower)} is not signed by ECDSA P-384 with SHA-384")
        try:
            lower.verify_directly_issued_by(upper)
        except (InvalidSignature, *_UNREADABLE):
            raise AttestationError(f"the certificate {_name(lower)} was not issued by {_name(upper)}") from None
    # (3) All are valid at `now`: 6.1.3 (a)(2). Written so that a `now` which is not a number refuses.
    for one in chain:
        if not one.not_valid_before_utc.timestamp() <= now <= one.not_valid_after_utc.timestamp():
            raise AttestationError(
                f"the certificate {_name(one)} is not valid now: only from {one.not_valid_before_utc:%Y-%m-%d} "
                f"to {one.not_valid_after_utc:%Y-%m-%d}"
            )
    # (4) Whoever issued is an authority, with as many below it as it may have: 6.1.4 (k) to (n).
    for depth, one in enumerate(chain):
        _check_authority(one, depth)


def _check_authority(certificate: x509.Certificate, depth: int) -> None:
    constraints = _extension(certificate, x509.BasicConstraints)
    usage = _extension(certificate, x509.KeyUsage)
    if depth == 0:
        if (constraints is not None and constraints.ca) or usage is None or not usage.digital_signature:
            raise AttestationError(f"the certificate {_name(certificate)} is not one that signs evidence")
        return
    if constraints is None or not constraints.ca or usage is None or not usage.key_cert_sign:
        raise AttestationError(f"the certificate {_name(certificate)} is not an authority's")
    if constraints.path_length is not None and depth - 1 > constraints.path_length:
        raise AttestationError(f"the authority {_name(certificate)} has more below it than it may have")


def _check_revocation(
    chain: list[x509.Certificate], now: float, revocation: Revocation
) -> tuple[float, tuple[str, ...]]:
    """When the first certificate or list ends, and the authorities without a list."""
    for one in chain:
        if one.fingerprint(hashes.SHA256()).hex() in revocation.certificates:
            raise AttestationError(f"the certificate {_name(one)} is on the list of withdrawn certificates")
    lists, unlisted = _load_lists(revocation), []
    until = min(one.not_valid_after_utc.timestamp() for one in chain)
    for lower, upper in itertools.pairwise(chain):
        own = [found for found in lists if found.issuer == upper.subject]
        for found in own:
            until = min(until, _check_list(found, upper, now))
            if found.get_revoked_certificate_by_serial_number(lower.serial_number) is not None:
                raise AttestationError(f"RFC 5280, 6.3: {_name(upper)} has revoked the certificate {_name(lower)}")
        if not own:
            unlisted.append(_name(upper))
    return until, tuple(unlisted)


def _load_lists(revocation: Revocation) -> list[x509.CertificateRevocationList]:
    if len(revocation.crls) > _MAX_CRLS or any(len(one) > _MAX_CRL_BYTES for one in revocation.crls):
        raise AttestationError(f"at most {_MAX_CRLS} revocation lists of {_MAX_CRL_BYTES} bytes each")
    try:
        return [x509.load_der_x509_crl(one) for one in revocation.crls]
    except _UNREADABLE:
        raise AttestationError("the collateral holds a revocation list that is not DER") from None


def _check_list(one: x509.CertificateRevocationList, issuer: x509.Certificate, now: float) -> float:
    key = issuer.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey) or not one.is_signature_valid(key):
        raise AttestationError(f"RFC 5280, 6.3.3 (g): the revocation list of {_name(issuer)} is not signed by it")
    after = one.next_update_utc
    if after is None or not one.last_update_utc.timestamp() <= now <= after.timestamp():
        raise AttestationError(f"RFC 5280, 6.3.3 (a): the revocation list of {_name(issuer)} is not current")
    return after.timestamp()


def _counted(found: list[x509.Certificate]) -> list[x509.Certificate]:
    if not 2 <= len(found) <= MAX_CERTIFICATES:
        raise AttestationError(f"a chain has 2 to {MAX_CERTIFICATES} certificates, this has {len(found)}")
    return found


def _extension(certificate: x509.Certificate, kind: type[_Extension]) -> _Extension | None:
    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None


def _is_p384(certificate: x509.Certificate) -> bool:
    key = certificate.public_key()
    return isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP384R1)


def _pin(certificate: x509.Certificate) -> str:
    try:
        key = certificate.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    except _UNREADABLE:
        return ""
    return hashlib.sha256(key).hexdigest()


def _name(certificate: x509.Certificate) -> str:
    names = certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
    # A name comes from outside: what is shown of it is short and printable.
    return repr(str(names[0].value)[:64]) if names else "without a name"
