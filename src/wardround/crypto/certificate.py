"""X.509 certificates of one federation: a small authority, the hub's TLS certificate, identities.

    authority   ECDSA P-256, self-signed, 10 years, may issue end certificates only
    server      ECDSA P-256, serverAuth, the hub's DNS names and IP addresses
    identity    Ed25519, CN=<name>, SAN URI wardround:<role>/<name>; for one of two purposes:
                connection  clientAuth: opens connections and signs requests, lives for a day
                document    documentSigning (RFC 9336): signs plans, decisions and rosters, outlives connections

Where an authority is expected there may be several, one PEM after the other: while one authority takes over
from another, both are trusted. The one whose key is given issues.

An identity's key is made where it stays; only a certificate request travels. Nothing in a request is
taken over but the key: name and role are the issuer's to say. Times are seconds since 1970-01-01 UTC;
a certificate is valid from five minutes before it was issued, for clocks that are a little behind.

`open_identity` is for certificates of our own authorities, one step deep. It is no general path
validation, and there is no revocation list: lifetimes are short, and the hub keeps who is removed.

References:
    RFC 5280, Internet X.509 PKI Certificate and CRL Profile, section 4.2.
    RFC 2986, PKCS #10 Certification Request Syntax.
    RFC 9336, X.509 Certificate General-Purpose Extended Key Usage for Document Signing.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from typing import Literal

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID, ObjectIdentifier

from wardround.crypto import signing
from wardround.crypto.certificate_request import open_request, request
from wardround.crypto.pem import MAX_AUTHORITIES, MAX_PEM_BYTES, UNREADABLE, load, split
from wardround.errors import CryptoError
from wardround.ids import site_id

__all__ = [
    "MAX_AUTHORITIES",
    "MAX_PEM_BYTES",
    "Purpose",
    "certify",
    "create_authority",
    "expires",
    "fingerprint",
    "issue",
    "issue_server",
    "issued",
    "open_identity",
    "open_request",
    "public_key",
    "request",
    "split",
]

Purpose = Literal["connection", "document"]
_USAGES: dict[str, ObjectIdentifier] = {
    "connection": ExtendedKeyUsageOID.CLIENT_AUTH,
    "document": ObjectIdentifier("1.3.6.1.5.5.7.3.36"),
}
_AUTHORITY_LIFETIME = timedelta(days=3652)
_CLOCK_SKEW = timedelta(minutes=5)
_ROLE = re.compile(r"[a-z][a-z0-9-]{0,31}")
_IDENTITY = re.compile(rf"wardround:({_ROLE.pattern})/([a-z][a-z0-9-]{{0,62}})")
_DNS_NAME = re.compile(r"(?=.{1,253}\Z)[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*")


@dataclass(frozen=True, slots=True)
class _Subject:
    common_name: str
    key: signing.PublicKey | ec.EllipticCurvePublicKey
    names: tuple[x509.GeneralName, ...]
    usage: ObjectIdentifier


def create_authority(name: str, now: float) -> tuple[bytes, bytes]:
    """Make a federation's authority.

    Args:
        name: Shown as the issuer of every certificate, 1 to 64 characters.
        now: Seconds since 1970-01-01 UTC.

    Returns:
        Private key and certificate, both PEM.

    Raises:
        ValueError: `name` is empty or too long.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    subject, start = _common_name(name), _instant(now)
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    certificate = (
        x509.CertificateBuilder(issuer_name=subject, subject_name=subject, public_key=key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start - _CLOCK_SKEW)
        .not_valid_after(start + _AUTHORITY_LIFETIME)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(authority=True), critical=True)
        .add_extension(identifier, critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier), critical=False)
        .sign(key, hashes.SHA256())
    )
    return _key_pem(key), _pem(certificate)


def issue_server(
    authority_key: bytes, authority: bytes, hosts: Sequence[str], now: float, lifetime_seconds: float
) -> tuple[bytes, bytes]:
    """Make a TLS server's key and certificate.

    Args:
        authority_key: PEM.
        authority: Its certificate, PEM.
        hosts: DNS names (in lower case) and IP addresses under which clients reach the server.
        now: Seconds since 1970-01-01 UTC.
        lifetime_seconds: Valid so long from `now`, but never longer than the authority.

    Returns:
        Private key and certificate, both PEM.

    Raises:
        ValueError: No host, one that is neither a DNS name nor an address, or a lifetime that is not positive.
        CryptoError: The authority's files are none, do not belong together, or are not valid now.
    """
    if not hosts:
        raise ValueError("a server certificate needs at least one host")
    key = ec.generate_private_key(ec.SECP256R1())
    names = tuple(_host(host) for host in hosts)
    subject = _Subject("wardround hub", key.public_key(), names, ExtendedKeyUsageOID.SERVER_AUTH)
    return _key_pem(key), _issue(subject, authority_key, authority, now, lifetime_seconds)


def issue(
    certificate_request: bytes,
    name: str,
    role: str,
    authority_key: bytes,
    authority: bytes,
    now: float,
    lifetime_seconds: float,
) -> bytes:
    """Answer a certificate request with an identity's certificate, PEM.; `certify` says what the rest is.

    Args:
        certificate_request: PEM, from outside.
        name: Whom the certificate is for; the request must say the same.
        role: What the identity is: a lower-case word.
        authority_key: PEM.
        authority: Its certificate, PEM.
        now: Seconds since 1970-01-01 UTC.
        lifetime_seconds: Valid so long from `now`, but never longer than the authority.

    Raises:
        CryptoError: The request is not readable, too large, not signed by its own key, not Ed25519 or for
            another name; or the authority's files are none, do not belong together, or are not valid now.
        CodecError: `name` is not a name.
        ValueError: `role` is not a role, or the lifetime is not positive.
    """
    key = open_request(certificate_request, name)
    return certify(key, name, role, authority_key, authority, now, lifetime_seconds)


def certify(
    key: signing.PublicKey,
    name: str,
    role: str,
    authority_key: bytes,
    authority: bytes,
    now: float,
    lifetime_seconds: float,
    *,
    purpose: Purpose = "connection",
) -> bytes:
    """An identity's certificate for a key that is known to be its own, PEM.

    Raises:
        CryptoError: The authority's files are none, do not belong together, or are not valid now.
        CodecError: `name` is not a name.
        ValueError: `role` is not a role, or the lifetime is not positive.
    """
    if not _ROLE.fullmatch(role):
        raise ValueError("a role is a lower-case word of at most 32 characters")
    uri = x509.UniformResourceIdentifier(f"wardround:{role}/{site_id(name)}")
    return _issue(_Subject(name, key, (uri,), _USAGES[purpose]), authority_key, authority, now, lifetime_seconds)


def open_identity(
    certificate: bytes, authority: bytes, now: float, *, purpose: Purpose | None = None, grace_seconds: float = 0.0
) -> tuple[str, str, signing.PublicKey]:
    """Check an identity's certificate.

    Args:
        certificate: PEM, from outside.
        authority: The certificates of which one must have issued it, PEM.
        now: Seconds since 1970-01-01 UTC.
        purpose: What it must be for; None: either.
        grace_seconds: So long after its end it is still taken.

    Returns:
        Name, role and public key.

    Raises:
        CryptoError: Not issued by these authorities, not valid now, or not an identity's certificate.
    """
    opened = load(certificate)
    # (1) Only what an authority signed is looked at any further.
    issuer = next((one for one in map(load, split(authority)) if _is_issued_by(opened, one)), None)
    if issuer is None:
        raise CryptoError("the certificate was not issued by this federation's authority")
    # (2) Both are valid now.
    _check_valid(issuer, "the authority's certificate", now)
    name, role, key, usage = _identity(opened)
    _check_valid(opened, f"the certificate of {name}", now, grace_seconds)
    if purpose is not None and usage != _USAGES[purpose]:
        raise CryptoError(f"the certificate of {name} is not for this purpose: one for a {purpose} is needed")
    return name, role, key


def public_key(certificate: bytes) -> signing.PublicKey:
    """An identity's key, as an unverified certificate says.

    Raises:
        CryptoError: Not a certificate, or not of an Ed25519 key.
    """
    return _identity(load(certificate))[2]


def issued(certificate: bytes) -> float:
    """When a certificate was issued, in seconds since 1970-01-01 UTC.

    Raises:
        CryptoError: Not a certificate.
    """
    return (load(certificate).not_valid_before_utc + _CLOCK_SKEW).timestamp()


def expires(certificate: bytes) -> float:
    """When a certificate ends, in seconds since 1970-01-01 UTC.

    Raises:
        CryptoError: Not a certificate.
    """
    return load(certificate).not_valid_after_utc.timestamp()


def fingerprint(certificate: bytes) -> str:
    """SHA-256 of a certificate's DER bytes, 64 lower-case hexadecimal digits.

    Raises:
        CryptoError: Not a certificate.
    """
    return load(certificate).fingerprint(hashes.SHA256()).hex()


def _issue(subject: _Subject, authority_key: bytes, authority: bytes, now: float, lifetime_seconds: float) -> bytes:
    if not lifetime_seconds > 0:
        raise ValueError(f"lifetime_seconds must be positive, got {lifetime_seconds}")
    key, issuer = _open_authority(authority_key, authority, now)
    start = _instant(now)
    end = min(_instant(now + lifetime_seconds), issuer.not_valid_after_utc)
    identifier = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    certificate = (
        x509.CertificateBuilder(
            issuer_name=issuer.subject, subject_name=_common_name(subject.common_name), public_key=subject.key
        )
        .serial_number(x509.random_serial_number())
        .not_valid_before(max(start - _CLOCK_SKEW, issuer.not_valid_before_utc))
        .not_valid_after(end)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(authority=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([subject.usage]), critical=False)
        .add_extension(x509.SubjectAlternativeName(subject.names), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(subject.key), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier), critical=False)
        .sign(key, hashes.SHA256())
    )
    return _pem(certificate)


def _open_authority(
    authority_key: bytes, authority: bytes, now: float
) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    try:
        key = serialization.load_pem_private_key(authority_key, password=None)
        certificates = [load(one) for one in split(authority)]
        certificate = next((one for one in certificates if one.public_key() == _public(key)), None)
        if certificate is None or not isinstance(key, ec.EllipticCurvePrivateKey):
            raise CryptoError("the authority's key is not the one of its certificate")
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    except (x509.ExtensionNotFound, *UNREADABLE):
        raise CryptoError("the authority's key or certificate is not readable") from None
    if not constraints.ca:
        raise CryptoError("this certificate is not an authority's")
    _check_valid(certificate, "the authority's certificate", now)
    return key, certificate


def _public(key: object) -> object:
    return key.public_key() if isinstance(key, ec.EllipticCurvePrivateKey) else None


def _is_issued_by(certificate: x509.Certificate, authority: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(authority)
    except (InvalidSignature, *UNREADABLE):
        return False
    return True


def _identity(certificate: x509.Certificate) -> tuple[str, str, signing.PublicKey, ObjectIdentifier]:
    try:
        key, extensions, subject = certificate.public_key(), certificate.extensions, certificate.subject
        names = list(extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
        usages = list(extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)
        constraints = extensions.get_extension_for_class(x509.BasicConstraints).value
    except (x509.ExtensionNotFound, *UNREADABLE):
        raise CryptoError("not the certificate of a person or site") from None
    match = _IDENTITY.fullmatch(str(names[0].value)) if len(names) == 1 else None
    if match is None or len(usages) != 1 or usages[0] not in _USAGES.values() or constraints.ca:
        raise CryptoError("not the certificate of a person or site")
    if not isinstance(key, signing.PublicKey) or subject != _common_name(match[2]):
        raise CryptoError("the certificate's key is not Ed25519, or it names two different identities")
    return match[2], match[1], key, usages[0]


def _check_valid(certificate: x509.Certificate, what: str, now: float, grace_seconds: float = 0.0) -> None:
    start, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    # Written so that a `now` which is not a number refuses.
    if not start.timestamp() <= now:
        raise CryptoError(f"{what} is not valid before {start:%Y-%m-%d %H:%M:%S} UTC: check this machine's clock")
    if not now <= end.timestamp() + grace_seconds:
        raise CryptoError(f"{what} expired on {end:%Y-%m-%d %H:%M:%S} UTC: a new one is needed")


def _key_usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=authority,
        crl_sign=authority,
        encipher_only=False,
        decipher_only=False,
    )


def _common_name(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(host))
    except ValueError:
        pass
    if not _DNS_NAME.fullmatch(host):
        raise ValueError(f"{host!r} is neither a DNS name in lower case nor an IP address")
    return x509.DNSName(host)


def _instant(now: float) -> datetime:
    return datetime.fromtimestamp(int(now), UTC)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)
