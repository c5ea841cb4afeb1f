"""Certificate requests: a newcomer's public key, its name, and the proof that it has the private key.

References:
    RFC 2986, PKCS #10 Certification Request Syntax.
"""

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.x509.oid import NameOID

from wardround.crypto import signing
from wardround.errors import CryptoError
from wardround.ids import site_id

__all__ = ["open_request", "request"]

_MAX_BYTES = 16 * 1024
# What `cryptography` raises on bytes that are no request, or one of a kind that it does not know.
_UNREADABLE = (ValueError, TypeError, UnsupportedAlgorithm, x509.InvalidVersion)


def request(name: str, key: signing.PrivateKey) -> bytes:
    """A certificate request: CN=`name`, signed with the key that it is for. PEM.

    Raises:
        CodecError: `name` is not a name.
    """
    builder = x509.CertificateSigningRequestBuilder(subject_name=_subject(name))
    return builder.sign(key, None).public_bytes(serialization.Encoding.PEM)


def open_request(certificate_request: bytes, name: str) -> signing.PublicKey:
    """The key of a certificate request, which its holder has shown to have.

    Raises:
        CryptoError: The request is not readable, too large, not signed by its own key, not Ed25519 or for
            another name.
        CodecError: `name` is not a name.
    """
    if len(certificate_request) > _MAX_BYTES:
        raise CryptoError(f"a certificate request may take {_MAX_BYTES} bytes, this takes {len(certificate_request)}")
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
    if subject != _subject(name):
        raise CryptoError(f"the certificate request is not for {name} and nothing else")
    return key


def _subject(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, site_id(name))])
