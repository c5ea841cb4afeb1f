"""Who the officers are: a list that only the officers before can change.

    the node's settings: officers, quorum  ──▶  change 1, signed by m of them  ──▶  change 2, signed by m of those  ─▶ …

A node begins with the keys in its own settings and follows changes one by one; each names its number, so that none
can be left out, repeated or put in another place. The hub only carries them. A roster that was signed under the
officers before keeps its name when the new ones sign it too, so that studies that name it go on.

Fewer than m lost or stolen keys are made good by a change; m of them are not: then every node's settings are.
"""

from collections.abc import Iterable
from typing import Literal

import msgspec

from wardround.codec import canonical
from wardround.crypto import endorsement, signing
from wardround.crypto.endorsement import Endorsement
from wardround.errors import CodecError

__all__ = ["MAX_OFFICERS", "Officers", "SignedOfficers", "check", "endorse", "follow", "succeed"]

MAX_OFFICERS = 64
_CONTEXT = b"wardround officers 1\n"


class Officers(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Ed25519 public keys (32 bytes, sorted) of which `quorum` must sign; `number` counts the changes from 1."""

    format: Literal["wardround-officers/1"] = "wardround-officers/1"
    consortium: str
    number: int
    officers: tuple[bytes, ...]
    quorum: int


class SignedOfficers(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A list's canonical bytes with signatures of the officers before; unverified until `succeed`."""

    officers: bytes
    endorsements: tuple[Endorsement, ...] = ()


def check(officers: Officers) -> None:
    """Refuse a list that is not sorted, not unique, of no keys, or that a quorum of nobody could change.

    Raises:
        CodecError: Says what is wrong.
        CryptoError: A key is not one.
    """
    keys = officers.officers
    if not 1 <= len(keys) <= MAX_OFFICERS or tuple(sorted(set(keys))) != keys:
        raise CodecError(f"there are 1 to {MAX_OFFICERS} officers, their keys sorted, each once")
    if not 1 <= officers.quorum <= len(keys) or officers.number < 1:
        raise CodecError(f"the quorum lies between 1 and the number of officers, {len(keys)}; changes count from 1")
    for key in keys:
        signing.load_public(key)


def endorse(signed: SignedOfficers, key: signing.PrivateKey) -> SignedOfficers:
    """Add the signature of an officer of the list before; signing twice changes nothing.

    Raises:
        CodecError: These bytes are no list of officers.
    """
    check(canonical.decode(signed.officers, Officers))
    return SignedOfficers(signed.officers, endorsement.add(_CONTEXT, signed.officers, signed.endorsements, key))


def succeed(before: Officers, unverified: SignedOfficers) -> Officers:
    """The officers after `before`, if enough of those signed.

    Raises:
        SignatureError: Too few valid signatures of the officers before; a wrong one is not counted.
        CodecError: No proper list, not the next one, or another consortium's.
    """
    signed = unverified.endorsements
    endorsement.require(
        _CONTEXT, unverified.officers, signed, before.officers, before.quorum, what="change of officers"
    )
    after = canonical.decode(unverified.officers, Officers)
    check(after)
    if after.number != before.number + 1:
        raise CodecError(f"this is change {after.number} of the officers, and change {before.number + 1} comes next")
    if before.consortium and after.consortium != before.consortium:
        raise CodecError("the change is of another consortium's officers")
    return after


def follow(officers: Iterable[bytes], quorum: int, changes: Iterable[SignedOfficers]) -> Officers:
    """The officers after all changes, beginning with those of a node's own settings.

    Raises:
        SignatureError: A change was not signed by enough of the officers before it.
        CodecError: A change is no proper one, or one is missing before it.
    """
    present = Officers(consortium="", number=0, officers=tuple(sorted(set(officers))), quorum=quorum)
    for change in changes:
        present = succeed(present, change)
    return present
