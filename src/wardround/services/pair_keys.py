"""A node's keys with the other sites of a roster, kept in its vault and ratcheted forward day by day.

Names in the vault: ``pair.<digest>.<site>``, the pair key with a site under a roster, as of the last epoch it was
used in.
"""

from collections.abc import Collection, Mapping

from wardround.crypto import agreement, signing
from wardround.errors import PeerProtocolError
from wardround.ids import Digest, SiteId
from wardround.ports import Clock, Entropy, Vault
from wardround.protocol.messages import PairAnswer, PairTask
from wardround.protocol.secure import epoch_of
from wardround.secagg import messages, pairing, terms
from wardround.secagg.pairing import PairKey
from wardround.secagg.roster import Roster
from wardround.secagg.terms import Terms

__all__ = ["EPOCHS_APART", "PairKeys"]

EPOCHS_APART = 1
"""Days by which the clocks of hub and node may differ; a new key begins so far back."""


class PairKeys:
    """One site's pair keys."""

    def __init__(
        self,
        site: SiteId,
        *,
        key: signing.PrivateKey,
        agreement_key: agreement.PrivateKey,
        vault: Vault,
        clock: Clock,
        entropy: Entropy,
    ) -> None:
        self._site, self._key, self._agreement_key = site, key, agreement_key
        self._vault, self._clock, self._entropy = vault, clock, entropy

    def answer(self, task: PairTask, opened: Roster, participants: Collection[SiteId]) -> PairAnswer:
        """Make the offers that are asked for, to `participants` only, and accept others'.

        Raises:
            PeerProtocolError: A site offers another key than before.
            CryptoError: An offer is not what it claims.
        """
        made = [self._offered(opened, task.roster, name) for name in task.wanted if name in participants]
        accepted = []
        for offer in task.offers:
            known = self._kept(task.roster, offer.sender)
            if known is None:
                known = pairing.accept(opened, task.roster, self._site, offer, self._agreement_key)
                self._keep(task.roster, offer.sender, known)
            if known.offer != offer:
                raise PeerProtocolError(f"{offer.sender} has offered this site another key before")
            accepted.append(offer.sender)
        return PairAnswer(roster=task.roster, offers=tuple(pair.offer for pair in made), accepted=tuple(accepted))

    def at(self, step: Terms) -> Mapping[SiteId, bytes]:
        """The keys with a cohort's members, ratcheted to its epoch, and the older ones forgotten."""
        keys = {}
        for name in terms.neighbours(step, self._site):
            pair = self._kept(step.roster, name)
            if pair is not None:
                later = pairing.at_epoch(pair, step.epoch)
                if later.epoch != pair.epoch:
                    self._keep(step.roster, name, later)
                keys[name] = later.key
        return keys

    def _offered(self, opened: Roster, digest: Digest, receiver: SiteId) -> PairKey:
        known = self._kept(digest, receiver)
        if known is not None:
            return known
        made = pairing.offer(
            opened,
            digest,
            self._site,
            receiver,
            epoch=epoch_of(self._clock.now()) - EPOCHS_APART,
            secret=self._entropy.draw(pairing.KEY_BYTES),
            key=self._key,
        )
        self._keep(digest, receiver, made)
        return made

    def _kept(self, digest: Digest, name: SiteId) -> PairKey | None:
        stored = self._vault.get(f"pair.{digest}.{name}")
        return messages.decode(stored, PairKey) if stored else None

    def _keep(self, digest: Digest, name: SiteId, pair: PairKey) -> None:
        self._vault.put(f"pair.{digest}.{name}", messages.encode(pair))
