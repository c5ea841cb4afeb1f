"""The hub's post office for keys: sites' cards, signed rosters, and offers of pair keys.

The hub carries all of it and is trusted with none: a roster counts at a node only with its officers'
signatures, an offer only with its sender's.
"""

import threading
from collections.abc import Iterable, Mapping
from contextlib import suppress

import msgspec

from wardround.codec import canonical
from wardround.crypto import signing
from wardround.errors import CodecError, ConflictError, ForbiddenError, NotFoundError, PeerProtocolError, SignatureError
from wardround.ids import Digest, RunId, SiteId, StudyId, digest_name
from wardround.ports import EventLog
from wardround.protocol.messages import PairAnswer, PairTask
from wardround.secagg import roster as rosters
from wardround.secagg.pairing import PairOffer
from wardround.secagg.roster import Roster, RosterMember, SignedRoster

__all__ = ["Rosters"]

_MAX_CARDS = 64


class _Accepted(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="accepted"):
    sender: SiteId
    receiver: SiteId


class _Offered(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="offered"):
    offer: PairOffer


class Rosters:
    """All rosters of one hub. Its methods may be called from several threads.

    `known` are rosters that were never published: a simulation's own.
    """

    def __init__(self, log: EventLog, known: Mapping[Digest, Roster] | None = None) -> None:
        self._log = log
        self._lock = threading.RLock()
        self._rosters: dict[Digest, Roster] = dict(known or {})
        self._pairs: dict[Digest, _Pairs] = {}

    def put_card(self, site: SiteId, card: RosterMember) -> None:
        """Take a site's public keys, for officers to fetch; the last one counts.

        Raises:
            ForbiddenError: Another site's.
            CryptoError: Not proper keys.
        """
        if card.site != site:
            raise ForbiddenError(f"{site} may not hand in the card of {card.site}")
        rosters.check_member(card)
        stored = self._log.read(f"card:{site}")
        data = canonical.encode(card)
        if stored and stored[-1] == data:
            return
        if len(stored) >= _MAX_CARDS:
            raise PeerProtocolError(f"{site} has handed in {_MAX_CARDS} cards; the hub takes no more")
        with suppress(ConflictError):
            self._log.append(f"card:{site}", [data], after=len(stored))

    def cards(self) -> list[RosterMember]:
        """Every site's last card."""
        streams = self._log.streams("card:")
        return [canonical.decode(self._log.read(stream)[-1], RosterMember) for stream in streams]

    def publish(self, signed: SignedRoster) -> Digest:
        """Keep a signed roster; the same roster with more signatures replaces it.

        Raises:
            CodecError: No proper roster.
        """
        rosters.check(canonical.decode(signed.roster, Roster))
        if not 1 <= len(signed.endorsements) <= rosters.MAX_MEMBERS:
            raise CodecError("a roster is published with its officers' signatures")
        digest = rosters.roster_digest(signed)
        stored = self._log.read(f"roster:{digest}")
        data = canonical.encode(signed)
        if not stored or stored[-1] != data:
            with suppress(ConflictError):
                self._log.append(f"roster:{digest}", [data], after=len(stored))
        return digest

    def signed(self, digest: Digest) -> SignedRoster:
        """A roster as it was published last.

        Raises:
            NotFoundError: There is no such roster.
        """
        stored = self._log.read(f"roster:{digest_name(digest)}")
        if not stored:
            raise NotFoundError("there is no such roster at this hub; publish it first")
        return canonical.decode(stored[-1], SignedRoster)

    def key_of(self, digest: Digest, site: SiteId) -> signing.PublicKey:
        """A site's identity key in a roster.

        Raises:
            NotFoundError: There is no such roster.
            SignatureError: It does not name the site.
        """
        members = rosters.site_keys(self._roster(digest))
        if site not in members:
            raise SignatureError(f"the roster does not name {site}")
        return signing.load_public(members[site].identity)

    def task_for(
        self, run: RunId, study: StudyId, digest: Digest, site: SiteId, sites: Iterable[SiteId]
    ) -> PairTask | None:
        """Which pair keys `site` is to set up with others of `sites`, if any."""
        with self._lock:
            pairs = self._pairs_of(digest)
            wanted = tuple(sorted(name for name in sites if site < name and (site, name) not in pairs.offers))
            offers = tuple(
                pairs.offers[name, site]
                for name in sorted(sites)
                if (name, site) in pairs.offers and (name, site) not in pairs.accepted
            )
        if not wanted and not offers:
            return None
        return PairTask(run=run, study=study, roster=digest, wanted=wanted, offers=offers)

    def answer(self, site: SiteId, said: PairAnswer) -> None:
        """Keep a site's offers, and whose offers it accepted.

        Raises:
            ForbiddenError: An offer in another's name.
            NotFoundError: There is no such roster.
        """
        names = {member.site for member in self._roster(said.roster).members}
        if any(offer.sender != site or offer.roster != said.roster for offer in said.offers) or site not in names:
            raise ForbiddenError(f"{site} may only offer keys of its own, for this roster")
        with self._lock:
            pairs = self._pairs_of(said.roster)
            new: list[_Offered | _Accepted] = [
                _Offered(offer)
                for offer in said.offers
                if (site, offer.receiver) not in pairs.offers and offer.receiver in names and site < offer.receiver
            ]
            new += [
                _Accepted(name, site)
                for name in said.accepted
                if (name, site) in pairs.offers and (name, site) not in pairs.accepted
            ]
            if new:
                data = [msgspec.msgpack.encode(event) for event in new]
                self._log.append(f"pairs:{said.roster}", data, after=pairs.seq)
                for event in new:
                    pairs.apply(event)

    def paired(self, digest: Digest, sites: Iterable[SiteId]) -> frozenset[SiteId]:
        """The largest crowd found among `sites` in which everybody shares a key with everybody."""
        with self._lock:
            pairs = self._pairs_of(digest)
            crowd = set(sites)
            while crowd:
                lacking = {site: sum(not pairs.has(site, other) for other in crowd if other != site) for site in crowd}
                worst = max(sorted(crowd), key=lambda site: lacking[site])
                if lacking[worst] == 0:
                    break
                crowd.discard(worst)
            return frozenset(crowd)

    def _roster(self, digest: Digest) -> Roster:
        with self._lock:
            if digest not in self._rosters:
                self._rosters[digest] = canonical.decode(self.signed(digest).roster, Roster)
            return self._rosters[digest]

    def _pairs_of(self, digest: Digest) -> "_Pairs":
        pairs = self._pairs.setdefault(digest, _Pairs())
        for data in self._log.read(f"pairs:{digest}", after=pairs.seq):
            pairs.apply(msgspec.msgpack.decode(data, type=_Offered | _Accepted))
        return pairs


class _Pairs:
    """Offers of one roster, folded from their stream."""

    def __init__(self) -> None:
        self.seq = 0
        self.offers: dict[tuple[SiteId, SiteId], PairOffer] = {}
        self.accepted: set[tuple[SiteId, SiteId]] = set()

    def apply(self, event: _Offered | _Accepted) -> None:
        self.seq += 1
        match event:
            case _Offered(offer):
                self.offers[offer.sender, offer.receiver] = offer
            case _Accepted(sender, receiver):
                self.accepted.add((sender, receiver))

    def has(self, one: SiteId, other: SiteId) -> bool:
        return (min(one, other), max(one, other)) in self.accepted
