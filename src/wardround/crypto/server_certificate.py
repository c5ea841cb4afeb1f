"""What a TLS server's certificate says, so that its holder can have it renewed in time."""

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from wardround.crypto.pem import UNREADABLE, load
from wardround.errors import CryptoError

__all__ = ["fits", "hosts", "is_of"]


def fits(certificate: bytes, private_key: bytes) -> bool:
    """Whether a certificate is for this private key, PEM.

    Raises:
        CryptoError: Not a certificate, or not a key.
    """
    return load(certificate).public_key() == _key(private_key).public_key()


def hosts(certificate: bytes) -> list[str]:
    """The DNS names and addresses of a server's certificate.

    Raises:
        CryptoError: Not a certificate, or not a server's.
    """
    try:
        names = load(certificate).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, *UNREADABLE):
        raise CryptoError("not the certificate of a server") from None
    return [str(name.value) for name in names]


def is_of(certificate: bytes, authority_key: bytes) -> bool:
    """Whether the authority with this private key issued a certificate.

    Raises:
        CryptoError: Not a certificate, or not a key.
    """
    opened = load(certificate)
    try:
        key = _key(authority_key).public_key()
        key.verify(opened.signature, opened.tbs_certificate_bytes, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        return False
    return True


def _key(pem: bytes) -> ec.EllipticCurvePrivateKey:
    try:
        key = serialization.load_pem_private_key(pem, password=None)
    except UNREADABLE:
        raise CryptoError("not a PEM private key") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise CryptoError("not a key of a hub: it is on no elliptic curve")
    return key
