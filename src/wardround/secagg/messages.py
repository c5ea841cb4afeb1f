"""What members and hub say to each other in one cohort, in the order in which they say it.

    hub                         member
    Invitation     ──────▶                  who is in, and on which conditions
                   ◀──────      Shares      encrypted shares of two secrets, recovery blob, commitments
    Delivery       ──────▶                  who is included (U1), and the shares meant for this member
                   ◀──────      Masked      the digest of the masked vector, which was uploaded
    Survivors      ──────▶                  whose vectors are added (U2), by digest
                   ◀──────      Agreement   a signature over (T, U1, U2), given once
    Agreements     ──────▶                  at least the threshold of such signatures
                   ◀──────      Reveal      one share per included member, of one kind each

A member signs its messages with the identity key that the roster names; the digests that are signed
are domain-separated and begin with `T`.

References:
    Bonawitz et al. Practical Secure Aggregation. CCS 2017 (eprint 2017/281), figure 4.
"""

import hashlib
from collections.abc import Sequence
from typing import TypeAlias, TypeVar

import msgspec

from wardround.crypto import signing
from wardround.errors import CodecError, PeerProtocolError, SignatureError
from wardround.ids import Digest, SiteId
from wardround.secagg.terms import Terms

__all__ = [
    "MAX_STEP_BYTES",
    "Agreement",
    "Agreements",
    "Answer",
    "Delivery",
    "Included",
    "Invitation",
    "Masked",
    "Reveal",
    "Shares",
    "Step",
    "Survivor",
    "Survivors",
    "Unmaskable",
    "agreement_bytes",
    "check_signature",
    "decode",
    "digest_of",
    "encode",
    "encode_all",
    "included_digest",
    "masked_bytes",
    "shares_digest",
    "sign_shares",
    "verify_shares",
    "void_bytes",
]

MAX_STEP_BYTES = 1024 * 1024
_T = TypeVar("_T")


class Shares(msgspec.Struct, frozen=True, forbid_unknown_fields=True, array_like=True, kw_only=True, tag="shares"):
    """A member's secrets, shared out.

    `sealed` has one ciphertext for each neighbour in the order of `terms.neighbours`; `recovery` the
    pair seeds, sealed under the root secret; `seeds` a 16-byte commitment to each pair seed, and
    `own` and `root` 32-byte commitments to the two secrets. `voided` are statements that this member will
    never help to open earlier cohorts: their transcripts, each with a signature.
    """

    transcript: bytes
    sealed: tuple[bytes, ...]
    recovery: bytes
    seeds: tuple[bytes, ...]
    own: bytes
    root: bytes
    voided: tuple[tuple[bytes, bytes], ...] = ()
    signature: bytes = b""


class Invitation(msgspec.Struct, frozen=True, forbid_unknown_fields=True, array_like=True, tag="invitation"):
    """The terms of a cohort, for each of its members."""

    terms: Terms


class Included(msgspec.Struct, frozen=True, forbid_unknown_fields=True, array_like=True):
    """A member whose shares everybody has, with the digest of its `Shares` (32 bytes)."""

    site: SiteId
    shares: bytes


class Delivery(msgspec.Struct, frozen=True, forbid_unknown_fields=True, array_like=True, tag="delivery"):
    """U1, and for each included neighbour what it sealed for this member and its commitment to their pair seed.

    `voided` are the included members' statements about earlier cohorts: site, transcript, signature.
    """

    included: tuple[Included, ...]
    sealed: tuple[bytes, ...]
    seeds: tuple[bytes, ...]
    voided: tuple[tuple[SiteId, bytes, bytes], ...] = ()


class Masked(msgspec.Struct, frozen=True, forbid_unknown_fields=True, array_like=True, kw_only=True, tag="masked"):
    """The digest of a masked vector, signed together with T and U1.

    `complaints` name included neighbours whose sealed shares did not open.
    """

    transcript: bytes
    included: bytes
    digest: bytes
    complaints: tuple[SiteId, ...] = ()
    signature: bytes = b""


class Unmaskable(msgspec.Struct, frozen=True, forbid_unknown_fields=True, array_like=True, tag="unmaskable"):
    """A member takes no part in this cohort any more, and says so instead of a `Masked`; nothing was sent."""

    transcript: bytes
    reason: str


class Survivor(msgspec.Struct, frozen=True, forbid_unknown_fields=True, array_like=True):
    """A member whose masked vector, with this SHA-256, goes into the sum."""

    site: SiteId
    digest: bytes


class Survivors(msgspec.Struct, frozen=True, forbid_unknown_fields=True, array_like=True, tag="survivors"):
    """U2, sorted."""

    entries: tuple[Survivor, ...]


class Agreement(msgspec.Struct, frozen=True, forbid_unknown_fields=True, array_like=True, tag="agreement"):
    """A member's signature over T, U1 and U2."""

    transcript: bytes
    signature: bytes


class Agreements(msgspec.Struct, frozen=True, forbid_unknown_fields=True, array_like=True, tag="agreements"):
    """The signatures that the hub has gathered."""

    signatures: tuple[tuple[SiteId, bytes], ...]


class Reveal(msgspec.Struct, frozen=True, forbid_unknown_fields=True, array_like=True, tag="reveal"):
    """One 32-byte share for each included neighbour and the member itself, sorted by name.

    Of the self-mask secret for a survivor, of the root secret for one who dropped out; empty where the
    neighbour's shares did not open.
    """

    transcript: bytes
    shares: tuple[bytes, ...]


Answer: TypeAlias = Shares | Masked | Unmaskable | Agreement | Reveal
"""What a member may say; tagged, so that bytes tell which it is."""
Step: TypeAlias = Invitation | Delivery | Survivors | Agreements
"""What a member may be told."""


def encode(message: msgspec.Struct) -> bytes:
    """MessagePack bytes."""
    return msgspec.msgpack.encode(message)


def decode(data: bytes, kind: type[_T]) -> _T:
    """Read one message strictly.

    Raises:
        CodecError: Too large, or not of this kind.
    """
    if len(data) > MAX_STEP_BYTES:
        raise CodecError(f"a cohort's message may have at most {MAX_STEP_BYTES} bytes")
    try:
        return msgspec.msgpack.decode(data, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise CodecError(f"not a {kind.__name__}: {error}") from None


def shares_digest(shares: Shares) -> bytes:
    """32 bytes that stand for a `Shares` message; what its signature signs."""
    unsigned = msgspec.structs.replace(shares, signature=b"")
    return hashlib.sha256(b"wardround secagg shares 1\n" + encode(unsigned)).digest()


def sign_shares(shares: Shares, key: signing.PrivateKey) -> Shares:
    """The message with its signature."""
    return msgspec.structs.replace(shares, signature=signing.sign(shares_digest(shares), key))


def verify_shares(shares: Shares, key: signing.PublicKey) -> None:
    """Raise unless the member's key signed the message.

    Raises:
        SignatureError: It did not.
    """
    signing.verify(shares.signature, shares_digest(shares), key)


def included_digest(transcript: bytes, included: Sequence[Included]) -> bytes:
    """32 bytes that stand for U1 with everything that its members shared."""
    return hashlib.sha256(b"wardround secagg included 1\n" + transcript + encode_all(included)).digest()


def masked_bytes(masked: Masked) -> bytes:
    """What a member signs when it hands in its masked vector."""
    return b"wardround secagg masked 1\n" + encode(msgspec.structs.replace(masked, signature=b""))


def void_bytes(transcript: bytes) -> bytes:
    """What a member signs when it leaves a cohort for ever."""
    return b"wardround secagg void 1\n" + transcript


def agreement_bytes(transcript: bytes, included: bytes, entries: Sequence[Survivor]) -> bytes:
    """What a member signs, once, about who is in the sum."""
    digest = hashlib.sha256(encode_all(entries)).digest()
    return b"wardround secagg survivors 1\n" + transcript + included + digest


def encode_all(values: Sequence[msgspec.Struct]) -> bytes:
    """MessagePack bytes of a list."""
    return msgspec.msgpack.encode(list(values))


def check_signature(signature: bytes, message: bytes, key: signing.PublicKey, who: SiteId) -> None:
    """Raise with the member's name unless the signature is its own.

    Raises:
        PeerProtocolError: It is not.
    """
    try:
        signing.verify(signature, message, key)
    except SignatureError:
        raise PeerProtocolError(f"what {who} is said to have signed is not signed by it") from None


def digest_of(entry: Survivor) -> Digest:
    """The masked vector's name as a blob."""
    return Digest(entry.digest.hex())
