"""X.509 certificates of one federation: a small authority, the hub's TLS certificate, identities.

    authority   ECDSA P-256, self-signed, 10 years, may issue end certificates only
    server      ECDSA P-256, serverAuth, the hub's DNS names and IP addresses
    identity    Ed25519, clientAuth, CN=<name>, SAN URI wardround:<role>/<name>

An identity's key is made where it stays; only a certificate request travels. Nothing in a request is
taken over but the key: name and role are the issuer's to say. Times are seconds since 1970-01-01 UTC;
a certificate is valid from five minutes before it was issued, for clocks that are a little behind.

`open_identity` is for certificates of our own authority, one step deep. It is no general path
validation, and there is no revocation list: lifetimes are short, and the hub keeps who is removed.

References:
    RFC 5280, Internet X.509 PKI Certificate and CRL Profile, section 4.2.
    RFC 2986, PKCS #10 Certification Request Syntax.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID, ObjectIdentifier

from wardround.crypto import signing
from wardround.errors import CryptoError
from wardround.ids import site_id

__all__ = [
    "MAX_PEM_BYTES",
    "create_authority",
    "expires",
    "fingerprint",
    "issue",
    "issue_server",
    "open_identity",
    "request",
]

MAX_PEM_BYTES = 16 * 1024
_AUTHORITY_LIFETIME = timedelta(days=3652)
_CLOCK_SKEW = timedelta(minutes=5)
_ROLE = re.compile(r"[a-z][a-z0-9-]{0,31}")
_IDENTITY = re.compile(rf"wardround:({_ROLE.pattern})/([a-z][a-z0-9-]{{0,62}})")
_DNS_NAME = re.compile(r"(?=.{1,253}\Z)[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*")
# What `cryptography` raises on bytes that are no certificate, or one of a kind that it does not know.
_UNREADABLE = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
)


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


def request(name: str, key: signing.PrivateKey) -> bytes:
    """A certificate request: CN=`name`, signed with the key that it is for. PEM.

    Raises:
        CodecError: `name` is not a name.
    """
    builder = x509.CertificateSigningRequestBuilder(subject_name=_common_name(site_id(name)))
    return builder.sign(key, None).public_bytes(serialization.Encoding.PEM)


def issue(
    certificate_request: bytes,
    name: str,
    role: str,
    authority_key: bytes,
    authority: bytes,
    now: float,
    lifetime_seconds: float,
) -> bytes:
    """Answer a certificate request with an identity's certificate, PEM.

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
    if not _ROLE.fullmatch(role):
        raise ValueError("a role is a lower-case word of at most 32 characters")
    key = _open_request(certificate_request, site_id(name))
    uri = x509.UniformResourceIdentifier(f"wardround:{role}/{name}")
    subject = _Subject(name, key, (uri,), ExtendedKeyUsageOID.CLIENT_AUTH)
    return _issue(subject, authority_key, authority, now, lifetime_seconds)


def open_identity(certificate: bytes, authority: bytes, now: float) -> tuple[str, str, signing.PublicKey]:
    """Check an identity's certificate.

    Args:
        certificate: PEM, from outside.
        authority: The certificate that must have issued it, PEM.
        now: Seconds since 1970-01-01 UTC.

    Returns:
        Name, role and public key.

    Raises:
        CryptoError: Not issued by this authority, not valid now, or not an identity's certificate.
    """
    opened, issuer = _load(certificate), _load(authority)
    # (1) Only what the authority signed is looked at any further.
    try:
        opened.verify_directly_issued_by(issuer)
    except (InvalidSignature, *_UNREADABLE):
        raise CryptoError("the certificate was not issued by this federation's authority") from None
    # (2) Both are valid now.
    _check_valid(issuer, "the authority's certificate", now)
    name, role, key = _identity(opened)
    _check_valid(opened, f"the certificate of {name}", now)
    return name, role, key


def expires(certificate: bytes) -> float:
    """When a certificate ends, in seconds since 1970-01-01 UTC.

    Raises:
        CryptoError: Not a certificate.
    """
    return _load(certificate).not_valid_after_utc.timestamp()


def fingerprint(certificate: bytes) -> str:
    """SHA-256 of a certificate's DER bytes, 64 lower-case hexadecimal digits.

    Raises:
        CryptoError: Not a certificate.
    """
    return _load(certificate).fingerprint(hashes.SHA256()).hex()


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
    certificate = _load(authority)
    try:
        key = serialization.load_pem_private_key(authority_key, password=None)
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    except (x509.ExtensionNotFound, *_UNREADABLE):
        raise CryptoError("the authority's key or certificate is not readable") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
        raise CryptoError("the authority's key is not the one of its certificate")
    if not constraints.ca:
        raise CryptoError("this certificate is not an authority's")
    _check_valid(certificate, "the authority's certificate", now)
    return key, certificate


def _open_request(certificate_request: bytes, name: str) -> signing.PublicKey:
    if len(certificate_request) > MAX_PEM_BYTES:
        raise CryptoError(
            f"a certificate request may take {MAX_PEM_BYTES} bytes, this takes {len(certificate_request)}"
        )
    try:
        opened = x509.load_pem_x509_csr(certificate_request)
        key, is_signed = opened.public_key(), opened.is_signature_valid
        subject = opened.subject
    except (InvalidSignature, *_UNREADABLE):
        raise CryptoError("not a PEM certificate request") from None
    if not isinstance(key, signing.PublicKey):
        raise CryptoError("the certificate request's key is not Ed25519")
    if not is_signed:
        raise CryptoError("the certificate request is not signed by its own key")
    if subject != _common_name(name):
        raise CryptoError(f"the certificate request is not for {name} and nothing else")
    return key


def _identity(certificate: x509.Certificate) -> tuple[str, str, signing.PublicKey]:
    try:
        key, extensions, subject = certificate.public_key(), certificate.extensions, certificate.subject
        names = list(extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
        usages = list(extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)
        constraints = extensions.get_extension_for_class(x509.BasicConstraints).value
    except (x509.ExtensionNotFound, *_UNREADABLE):
        raise CryptoError("not the certificate of a person or site") from None
    match = _IDENTITY.fullmatch(str(names[0].value)) if len(names) == 1 else None
    if match is None or usages != [ExtendedKeyUsageOID.CLIENT_AUTH] or constraints.ca:
        raise CryptoError("not the certificate of a person or site")
    if not isinstance(key, signing.PublicKey) or subject != _common_name(match[2]):
        raise CryptoError("the certificate's key is not Ed25519, or it names two different identities")
    return match[2], match[1], key


def _load(certificate: bytes) -> x509.Certificate:
    if len(certificate) > MAX_PEM_BYTES:
        raise CryptoError(f"a certificate may take {MAX_PEM_BYTES} bytes, this takes {len(certificate)}")
    try:
        return x509.load_pem_x509_certificate(certificate)
    except _UNREADABLE:
        raise CryptoError("not a PEM certificate") from None


def _check_valid(certificate: x509.Certificate, what: str, now: float) -> None:
    start, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    # Written so that a `now` which is not a number refuses.
    if not start.timestamp() <= now:
        raise CryptoError(f"{what} is not valid before {start:%Y-%m-%d %H:%M:%S} UTC: check this machine's clock")
    if now > end.timestamp():
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
