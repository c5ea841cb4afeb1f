r"""One signed file that carries a study, or a package, to a machine without a network.

    "wardround bundle 1\n"                         19 bytes
    length of the index                            8 bytes, big-endian
    index                                          canonical JSON: what the parts are, their digests and sizes
    signature                                      64 bytes, Ed25519 over "wardround bundle 1\n" and the index
    parts, one after another                       in the order of the index, nothing after them

Parts have roles and digests, no paths: nothing in a bundle says where it is to be stored. The index is signed by
whoever exported it; what a part is worth is said by its own signature (a plan's researcher, a roster's officers).
"""

import hmac
from typing import Literal

import msgspec

from wardround.codec import canonical
from wardround.crypto import signing
from wardround.errors import CodecError, CryptoError, DigestMismatchError, PackageError, SignatureError
from wardround.ids import Digest, SiteId, digest_name, site_id

__all__ = [
    "MAGIC",
    "MAX_INDEX_BYTES",
    "SIGNATURE_BYTES",
    "Index",
    "Part",
    "Role",
    "check_part",
    "start",
    "unverified_index",
    "verify",
]

MAGIC = b"wardround bundle 1\n"
MAX_INDEX_BYTES = 1024 * 1024
SIGNATURE_BYTES = 64

Role = Literal["plan", "initial", "package", "roster", "collateral"]
"""What a part is: a signed plan, its first model, code, a signed roster, signed collateral of attestation."""


class Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One part; a bundle has at most one of each role."""

    role: Role
    digest: Digest
    size: int


class Index(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a bundle holds, who exported it and when (seconds since 1970-01-01 UTC); `study` is empty for a package.

    `certificate` is the exporter's, PEM: the receiver checks it against an authority that it knows already.
    """

    exporter: SiteId
    certificate: bytes
    exported_at: int
    study: str = ""
    parts: tuple[Part, ...]


def start(index: Index, key: signing.PrivateKey) -> bytes:
    """What a bundle begins with; its parts follow.

    Raises:
        PackageError: No part, two of a kind, or a name, time or size that none may have.
    """
    _check(index)
    encoded = canonical.encode(index)
    return MAGIC + len(encoded).to_bytes(8, "big") + encoded + signing.sign(MAGIC + encoded, key)


def unverified_index(encoded: bytes) -> Index:
    """Read an index from outside; it counts once `verify` did not raise.

    Raises:
        PackageError: Not an index.
    """
    if len(encoded) > MAX_INDEX_BYTES:
        raise PackageError(f"a bundle's index may have {MAX_INDEX_BYTES} bytes")
    try:
        index = canonical.decode(encoded, Index)
        _check(index)
    except CodecError as error:
        raise PackageError(f"the bundle's index is not readable: {error}") from None
    return index


def verify(encoded: bytes, signature: bytes, key: signing.PublicKey) -> None:
    """Raise unless `key` signed the index.

    Raises:
        SignatureError: It did not.
    """
    try:
        signing.verify(signature, MAGIC + encoded, key)
    except CryptoError:
        raise SignatureError("the bundle is not signed by whom it names as its exporter") from None


def check_part(part: Part, size: int, digest: bytes) -> None:
    """Refuse a part that is not the one that the index names; `digest` is the raw SHA-256 of what was read.

    Raises:
        DigestMismatchError: It has another size or digest.
    """
    if size != part.size or not hmac.compare_digest(digest.hex(), part.digest):
        raise DigestMismatchError(f"the bundle's {part.role} is not the one that its index names: copy the file again")


def _check(index: Index) -> None:
    if not index.parts or not 0 <= index.exported_at < 2**40:
        raise PackageError("a bundle has at least one part, and a time")
    site_id(index.exporter)
    if index.study:
        digest_name(index.study)
    for part in index.parts:
        digest_name(part.digest)
        if part.size < 0:
            raise PackageError("a bundle's part has no such size")
    if len({part.role for part in index.parts}) != len(index.parts):
        raise PackageError("a bundle holds at most one part of each kind")
