"""Rosters as files: officers fetch the sites' keys, compare them with the sites by telephone, and sign.

A roster's file is the canonical JSON of a `wardround.secagg.roster.SignedRoster`. A fingerprint is short
enough to be read aloud; two people who read the same one hold the same keys.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path

from wardround.codec import canonical
from wardround.crypto import signing
from wardround.errors import ConfigError
from wardround.ids import SiteId
from wardround.secagg import roster as rosters
from wardround.secagg.roster import Roster, RosterMember, SignedRoster
from wardround.system import private_folder, write_private

__all__ = ["draft", "fingerprint", "load_officer", "make_officer", "read", "words", "write"]

_DIGITS, _GROUP = 40, 4


def draft(cards: Sequence[RosterMember], consortium: str, number: int, sites: Sequence[str] = ()) -> SignedRoster:
    """An unsigned roster of these cards, or of those of the named sites.

    Raises:
        ConfigError: A named site has handed in no card.
        CodecError: Too few members, or keys that are none.
    """
    known = {card.site: card for card in cards}
    if missing := sorted(set(sites) - known.keys()):
        raise ConfigError(f"no card has been handed in by {', '.join(missing)}; let them run `wardround node card`")
    members = tuple(known[SiteId(name)] for name in sorted(sites or known))
    made = Roster(consortium=consortium, number=number, members=members)
    rosters.check(made)
    return SignedRoster(canonical.encode(made))


def fingerprint(card: RosterMember) -> str:
    """Forty hexadecimal digits of the SHA-256 of a site's name and keys, in groups to be read aloud."""
    digits = hashlib.sha256(b"wardround card 1\n" + canonical.encode(card)).hexdigest()[:_DIGITS]
    return " ".join(digits[start : start + _GROUP] for start in range(0, _DIGITS, _GROUP))


def read(path: Path) -> SignedRoster:
    """A roster's file.

    Raises:
        ConfigError: There is none.
        CodecError: It is no roster.
    """
    if not path.is_file():
        raise ConfigError(f"there is no roster in {path}; make one with: wardround roster draft")
    signed = canonical.decode(path.read_bytes(), SignedRoster)
    rosters.check(canonical.decode(signed.roster, Roster))
    return signed


def write(path: Path, signed: SignedRoster) -> None:
    """Write a roster's file."""
    path.write_bytes(canonical.encode(signed))


def words(signed: SignedRoster) -> list[str]:
    """What a roster says, for people: its name, its members' fingerprints, and who signed."""
    roster = canonical.decode(signed.roster, Roster)
    signers = [endorsement.officer.hex()[:16] for endorsement in signed.endorsements]
    return [
        f"Roster {rosters.roster_digest(signed)}",
        f"{roster.consortium}, number {roster.number}, {len(roster.members)} sites; their fingerprints:",
        *(f"  {member.site:20} {fingerprint(member)}" for member in roster.members),
        f"Signed by {len(signers)} officers{': ' if signers else ''}{', '.join(f'{name}…' for name in signers)}",
    ]


def make_officer(folder: Path) -> bytes:
    """Make an officer's key in `folder`; its public key.

    Raises:
        ConfigError: There is one already.
    """
    path = folder / "keys" / "officer.key"
    if path.exists():
        raise ConfigError(f"{path} is an officer's key already; it is not overwritten")
    private_folder(folder)
    key = signing.generate()
    write_private(path, signing.private_pem(key))
    return signing.public_bytes(key.public_key())


def load_officer(folder: Path) -> signing.PrivateKey:
    """An officer's key.

    Raises:
        ConfigError: There is none in `folder`.
    """
    path = folder / "keys" / "officer.key"
    if not path.is_file():
        raise ConfigError(f"there is no officer in {folder}; make one with: wardround officer init {folder}")
    return signing.load_private(path.read_bytes())
