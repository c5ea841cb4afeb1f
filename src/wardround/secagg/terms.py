"""What one cohort does: its terms, and the transcript `T` that stands for all of them.

    Terms ──canonical.encode──▶ bytes ──sha256──▶ T

`T` is salt or associated data of every key, mask, share and signature of the cohort. Two members that
were told different terms (another base model, threshold, member list, encoding) therefore have
different masks, which do not cancel, and shares that do not open: a hub that lies learns nothing.
Each member puts a nonce of its own for this round into the terms, and counts the attempts, so no `T`
ever comes back.

A vector is cut into sections, each with its own ring and its own masks:

    "update"   32 bit   the weighted, clipped, rounded model update
    "sums"     64 bit   exact sums: weights, counts, moments, metrics (`wardround.codec.fixedpoint`)

References:
    Pasquini et al. Eluding Secure Aggregation in Federated Learning via Model Inconsistency. CCS 2022.
"""

import hashlib
from typing import Literal

import msgspec
from msgspec import UNSET, UnsetType

from wardround.codec import canonical
from wardround.crypto import prg
from wardround.errors import PeerProtocolError
from wardround.ids import Digest, RunId, SiteId, StudyId
from wardround.secagg import graph

__all__ = [
    "LEAST_MEMBERS",
    "NONCE_BYTES",
    "Crowd",
    "Section",
    "Terms",
    "check",
    "deal",
    "element_bytes",
    "neighbours",
    "share_threshold",
    "signature_threshold",
    "transcript",
    "upload_bytes",
]

LEAST_MEMBERS = 3
"""With two, each learns the other's vector from the sum."""
NONCE_BYTES = 32
MAX_LENGTH = 2**33


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A run of ring elements: integers mod ``2**bits``."""

    name: Literal["update", "sums"]
    bits: Literal[32, 64]
    length: int


class Crowd(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Everybody who is dealt into groups of at least `group_size`; `sites` are sorted, `nonces` go with them."""

    sites: tuple[SiteId, ...]
    nonces: tuple[bytes, ...]
    group_size: int


class Terms(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """All that decides what a cohort's members add up, and on which conditions.

    `members` are sorted; `nonces`, `bases` and `discounts` go with them. `number` is the round,
    `attempt` counts the cohorts of that round. `minimum` is the smallest number of members in a sum,
    `threshold` how many must sign the list of survivors. `epoch` numbers the days of the pair keys.
    `bases` are the model versions that the members trained from, `discounts` what their staleness
    leaves of their weight. `capacity`, `clip` and `max_weight` fix the encoding. With `crowd`, the members are
    one of the groups that it is dealt into. `deviation` is the standard deviation of the noise that each member adds
    to its integers.
    """

    format: Literal["wardround-cohort/1"] = "wardround-cohort/1"
    study: StudyId
    run: RunId
    number: int
    attempt: int
    kind: str
    roster: Digest
    members: tuple[SiteId, ...]
    nonces: tuple[bytes, ...]
    bases: tuple[Digest, ...]
    discounts: tuple[float, ...]
    standardization: str
    threshold: int
    minimum: int
    epoch: int
    sections: tuple[Section, ...]
    capacity: int
    clip: float
    max_weight: int
    crowd: Crowd | UnsetType = UNSET
    deviation: float | UnsetType = UNSET


def check(terms: Terms) -> None:
    """Refuse terms that no honest hub writes.

    Raises:
        PeerProtocolError: Says which.
    """
    count = len(terms.members)
    if tuple(sorted(set(terms.members))) != terms.members:
        raise PeerProtocolError("a cohort's members must be sorted, each once")
    if not len(terms.nonces) == len(terms.bases) == len(terms.discounts) == count:
        raise PeerProtocolError("a cohort needs a nonce, a base and a discount for each member")
    if any(len(nonce) != NONCE_BYTES for nonce in terms.nonces):
        raise PeerProtocolError(f"a member's nonce has {NONCE_BYTES} bytes")
    if terms.minimum < LEAST_MEMBERS or count < terms.minimum:
        raise PeerProtocolError(
            f"{count} members and a minimum of {terms.minimum}: a cohort has its minimum, and at least {LEAST_MEMBERS}"
        )
    if terms.threshold != signature_threshold(count):
        raise PeerProtocolError(f"the threshold of {count} members is {signature_threshold(count)}")
    if not count <= terms.capacity:
        raise PeerProtocolError("more members than the encoding has room for")
    if not terms.sections or any(not 1 <= section.length <= MAX_LENGTH for section in terms.sections):
        raise PeerProtocolError("a cohort's vector needs sections of a sensible length")
    if len({section.name for section in terms.sections}) != len(terms.sections):
        raise PeerProtocolError("two sections have one name")
    if any(not 0.0 < discount <= 1.0 for discount in terms.discounts):
        raise PeerProtocolError("a discount lies above 0 and at most at 1")
    _check_crowd(terms)


def deal(crowd: Crowd) -> list[tuple[SiteId, ...]]:
    """The groups, each sorted: dealt in an order that follows from everybody's nonces, so that nobody chooses.

    A hub chooses only whom it leaves out of the crowd, and could try a few such choices.

    Raises:
        PeerProtocolError: Not a crowd, or too small for one group.
    """
    count, size = len(crowd.sites), crowd.group_size
    if tuple(sorted(set(crowd.sites))) != crowd.sites or len(crowd.nonces) != count:
        raise PeerProtocolError("a crowd names its sites sorted, each once, with a nonce each")
    if not 1 <= size <= count or any(len(nonce) != NONCE_BYTES for nonce in crowd.nonces):
        raise PeerProtocolError(f"a crowd of {count} makes no groups of {size}, or a nonce is not {NONCE_BYTES} bytes")
    beacon = hashlib.sha256(b"wardround groups 1\n" + b"".join(crowd.nonces)).digest()
    order = prg.shuffled(count, beacon)
    groups = count // size
    return [tuple(crowd.sites[place] for place in sorted(order[first::groups])) for first in range(groups)]


def signature_threshold(count: int) -> int:
    """``floor(2 n / 3) + 1``: any two such sets share an honest member when fewer than a third collude."""
    return 2 * count // 3 + 1


def share_threshold(terms: Terms) -> int:
    """How many shares rebuild a secret, out of a neighbourhood and the member itself."""
    return graph.parameters(len(terms.members)).threshold


def transcript(terms: Terms) -> bytes:
    """`T`: 32 bytes."""
    return hashlib.sha256(b"wardround cohort 1\n" + canonical.encode(terms)).digest()


def neighbours(terms: Terms, site: SiteId) -> tuple[SiteId, ...]:
    """With whom `site` shares masks and secrets, sorted: everybody up to 64 members, else a random graph's."""
    degree = graph.parameters(len(terms.members)).degree
    if degree >= len(terms.members) - 1:
        return tuple(member for member in terms.members if member != site)
    beacon = hashlib.sha256(b"wardround beacon 1\n" + b"".join(terms.nonces)).digest()
    places = graph.neighbours(len(terms.members), degree, beacon)[terms.members.index(site)]
    return tuple(terms.members[place] for place in sorted(places))


def element_bytes(section: Section) -> int:
    """Bytes of one element."""
    return section.bits // 8


def upload_bytes(terms: Terms) -> int:
    """Size of a masked vector: its sections one after another, little endian."""
    return sum(section.length * element_bytes(section) for section in terms.sections)


def _check_crowd(terms: Terms) -> None:
    crowd = terms.crowd
    if crowd is UNSET:
        return
    if terms.members not in deal(crowd):
        raise PeerProtocolError("the members are none of the groups that the crowd is dealt into")
    given = dict(zip(crowd.sites, crowd.nonces, strict=True))
    if any(given[site] != nonce for site, nonce in zip(terms.members, terms.nonces, strict=True)):
        raise PeerProtocolError("a member has one nonce in the crowd and another in its group")
