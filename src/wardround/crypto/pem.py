"""Certificates as PEM text: one, or several one after the other."""

import re

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm

from wardround.errors import CryptoError

__all__ = ["MAX_AUTHORITIES", "MAX_PEM_BYTES", "UNREADABLE", "load", "split"]

MAX_PEM_BYTES = 16 * 1024
MAX_AUTHORITIES = 4
_PEM = re.compile(rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----\n?", re.DOTALL)
# What `cryptography` raises on bytes that are no certificate, or one of a kind that it does not know.
UNREADABLE = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
)


def split(certificates: bytes) -> list[bytes]:
    """The certificates that lie one after the other in a PEM file, at most `MAX_AUTHORITIES`.

    Raises:
        CryptoError: None, too many, or too large.
    """
    if len(certificates) > MAX_PEM_BYTES:
        raise CryptoError(f"certificates may take {MAX_PEM_BYTES} bytes, these take {len(certificates)}")
    found = _PEM.findall(certificates)
    if not 1 <= len(found) <= MAX_AUTHORITIES:
        raise CryptoError(f"expected 1 to {MAX_AUTHORITIES} PEM certificates, found {len(found)}")
    return found


def load(certificate: bytes) -> x509.Certificate:
    """The first certificate of a PEM text.

    Raises:
        CryptoError: Too large, or none.
    """
    if len(certificate) > MAX_PEM_BYTES:
        raise CryptoError(f"a certificate may take {MAX_PEM_BYTES} bytes, this takes {len(certificate)}")
    try:
        return x509.load_pem_x509_certificate(certificate)
    except UNREADABLE:
        raise CryptoError("not a PEM certificate") from None
