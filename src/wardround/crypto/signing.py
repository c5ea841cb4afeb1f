"""Ed25519 signatures over exact bytes; verification raises.

References:
    RFC 8032, Edwards-Curve Digital Signature Algorithm.
"""

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from wardround.errors import CryptoError, SignatureError

__all__ = [
    "PrivateKey",
    "PublicKey",
    "generate",
    "load_private",
    "load_public",
    "private_pem",
    "public_bytes",
    "sign",
    "verify",
]

PrivateKey = Ed25519PrivateKey
PublicKey = Ed25519PublicKey


def generate() -> PrivateKey:
    """A new key from the operating system's generator."""
    return Ed25519PrivateKey.generate()


def sign(message: bytes, key: PrivateKey) -> bytes:
    """64 bytes."""
    return key.sign(message)


def verify(signature: bytes, message: bytes, key: PublicKey) -> None:
    """Raise unless `signature` is `key`'s over exactly `message`.

    Raises:
        SignatureError: It is not.
    """
    try:
        key.verify(signature, message)
    except InvalidSignature:
        raise SignatureError("the signature does not fit these bytes and this key") from None


def private_pem(key: PrivateKey) -> bytes:
    """PKCS #8, unencrypted: for a file that only its owner reads."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def load_private(pem: bytes) -> PrivateKey:
    """Read an Ed25519 private key.

    Raises:
        CryptoError: Not one.
    """
    try:
        key = serialization.load_pem_private_key(pem, password=None)
    except (ValueError, TypeError):
        raise CryptoError("not a PEM private key") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise CryptoError("the private key is not Ed25519")
    return key


def public_bytes(key: PublicKey) -> bytes:
    """32 raw bytes."""
    return key.public_bytes_raw()


def load_public(raw: bytes) -> PublicKey:
    """Read 32 raw bytes.

    Raises:
        CryptoError: Not a key.
    """
    try:
        return Ed25519PublicKey.from_public_bytes(raw)
    except ValueError:
        raise CryptoError("not an Ed25519 public key") from None
