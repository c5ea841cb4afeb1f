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
from wardround.crypto import agreement, signing
from wardround.errors import CodecError, SignatureError
from wardround.ids import Digest, SiteId, site_id

__all__ = [
    "MAX_MEMBERS",
    "Endorsement",
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


class Endorsement(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One officer's Ed25519 signature over a roster's canonical bytes."""

    officer: bytes
    signature: bytes


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
    officer = signing.public_bytes(key.public_key())
    mine = Endorsement(officer, signing.sign(_CONTEXT + signed.roster, key))
    others = {endorsement.officer: endorsement for endorsement in signed.endorsements}
    return SignedRoster(signed.roster, tuple(value for _, value in sorted((others | {officer: mine}).items())))


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
    trusted, good = set(officers), set()
    for endorsement in unverified.endorsements[:MAX_MEMBERS]:
        if endorsement.officer in trusted:
            try:
                key = signing.load_public(endorsement.officer)
                signing.verify(endorsement.signature, _CONTEXT + unverified.roster, key)
            except SignatureError:
                continue
            good.add(endorsement.officer)
    if quorum < 1 or len(good) < quorum:
        raise SignatureError(
            f"the roster has {len(good)} valid signatures of this site's {len(trusted)} officers, and needs {quorum}; "
            "ask the officers to sign it"
        )
    roster = canonical.decode(unverified.roster, Roster)
    check(roster)
    return roster


def site_keys(roster: Roster) -> Mapping[SiteId, RosterMember]:
    """Members by name."""
    return {member.site: member for member in roster.members}
