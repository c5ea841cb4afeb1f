"""The roster: which keys are whose, signed by m of n officers and never by the hub.

    Roster ──canonical.encode──▶ bytes ──sha256──▶ the digest that plans name
    SignedRoster(bytes, officers' signatures) ──open_roster(officers, quorum)──▶ Roster

A plan names a roster by its digest, so that whoever approves the plan has approved these keys. Every
node holds its officers' public keys in its own settings: a hub that swaps a key, or signs a roster
itself, is refused.

References:
    Bonawitz et al. Practical Secure Aggregation. CCS 2017 (eprint 2017/281), section 6: against a malicious
    server the keys must come from a public key infrastructure that the server does not control.
"""

from collections.abc import Mapping, Sequence
from typing import Literal

import msgspec

from wardround.codec import canonical
from wardround.crypto import agreement, endorsement, signing
from wardround.crypto.endorsement import Endorsement
from wardround.errors import CodecError
from wardround.ids import Digest, SiteId, site_id

__all__ = [
    "MAX_MEMBERS",
    "Roster",
    "RosterMember",
    "SignedRoster",
    "check",
    "check_member",
    "endorse",
    "open_roster",
    "roster_digest",
    "site_keys",
]

MAX_MEMBERS = 1024
_CONTEXT = b"wardround roster 1\n"


class RosterMember(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A site's public keys: Ed25519 `identity` (32 bytes) and hybrid ML-KEM-768 + X25519 `agreement`."""

    site: SiteId
    identity: bytes
    agreement: bytes


class Roster(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Who may take part in cohorts, with which keys. `members` are sorted by site."""

    format: Literal["wardround-roster/1"] = "wardround-roster/1"
    consortium: str
    number: int
    members: tuple[RosterMember, ...]


class SignedRoster(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A roster's canonical bytes with its officers' signatures; unverified until `open_roster`."""

    roster: bytes
    endorsements: tuple[Endorsement, ...] = ()


def check(roster: Roster) -> None:
    """Refuse a roster whose members are not sorted, not unique or not proper keys.

    Raises:
        CodecError: Says what is wrong.
        CryptoError: A key is not one.
    """
    names = tuple(member.site for member in roster.members)
    if not 2 <= len(names) <= MAX_MEMBERS or tuple(sorted(set(names))) != names:
        raise CodecError(f"a roster has 2 to {MAX_MEMBERS} members, sorted by name, each once")
    for member in roster.members:
        check_member(member)
    if len({member.identity for member in roster.members}) != len(names):
        raise CodecError("two members of the roster have one identity key")


def check_member(member: RosterMember) -> None:
    """Refuse a name or keys that are none.

    Raises:
        CodecError: Not a site's name.
        CryptoError: A key is not one.
    """
    site_id(member.site)
    signing.load_public(member.identity)
    agreement.load_public(member.agreement)


def roster_digest(signed: SignedRoster) -> Digest:
    """The name of a roster: the digest of its canonical bytes, whoever signed them."""
    return canonical.digest(signed.roster)


def endorse(signed: SignedRoster, key: signing.PrivateKey) -> SignedRoster:
    """Add an officer's signature; signing twice changes nothing.

    Raises:
        CodecError: These bytes are no roster.
    """
    check(canonical.decode(signed.roster, Roster))
    return SignedRoster(signed.roster, endorsement.add(_CONTEXT, signed.roster, signed.endorsements, key))


def open_roster(unverified: SignedRoster, officers: Sequence[bytes], quorum: int) -> Roster:
    """Check that at least `quorum` of `officers` signed, then form and content.

    Args:
        unverified: As it came.
        officers: The Ed25519 public keys that this machine trusts to sign rosters.
        quorum: How many of them must have signed, at least 1.

    Raises:
        SignatureError: Too few valid signatures of these officers; a wrong one is not counted.
        CodecError: No proper roster.
    """
    endorsement.require(_CONTEXT, unverified.roster, unverified.endorsements, officers, quorum, what="roster")
    roster = canonical.decode(unverified.roster, Roster)
    check(roster)
    return roster


def site_keys(roster: Roster) -> Mapping[SiteId, RosterMember]:
    """Members by name."""
    return {member.site: member for member in roster.members}
