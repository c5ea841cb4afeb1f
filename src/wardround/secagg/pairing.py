"""Keys between two sites, set up once per roster through a hub that cannot read them.

    lower site                          hub                          higher site
    draws K, seals it for the other's
    agreement key, signs the offer  ──▶ keeps it ──▶  checks roster, signature and names, opens, keeps K

The agreement key is hybrid (ML-KEM-768 and X25519): who stores today's traffic and breaks one of the
two later still cannot open it. K is ratcheted once per epoch, one way, so that a pair key stolen today
does not open yesterday's cohorts; the receiver's agreement key with a recorded offer does, so it is worth a
new roster now and then. That both hold the same K shows in every cohort: only then their sealed shares
open and their commitments are equal.

References:
    Connolly et al. X-Wing: general-purpose hybrid post-quantum KEM. draft-connolly-cfrg-xwing-kem.
    RFC 9180, Hybrid Public Key Encryption.
"""

import msgspec

from wardround.crypto import agreement, signing
from wardround.errors import PeerProtocolError
from wardround.ids import Digest, SiteId
from wardround.secagg.roster import Roster, site_keys

__all__ = ["PairKey", "PairOffer", "accept", "at_epoch", "offer"]

KEY_BYTES = 32
MAX_EPOCHS = 36_500


class PairOffer(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A pair key, sealed by `sender` for `receiver`, whose name sorts after it; it begins at `epoch`."""

    roster: Digest
    sender: SiteId
    receiver: SiteId
    epoch: int
    sealed: bytes
    signature: bytes = b""


class PairKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A pair key as it is at `epoch`; secret. `offer` is what it came from."""

    epoch: int
    key: bytes
    offer: PairOffer


def offer(
    roster: Roster,
    digest: Digest,
    sender: SiteId,
    receiver: SiteId,
    *,
    epoch: int,
    secret: bytes,
    key: signing.PrivateKey,
) -> PairKey:
    """Seal `secret` (32 fresh random bytes) for a site whose name sorts after the sender's.

    Raises:
        PeerProtocolError: The roster does not name both, or the names are the other way round.
    """
    members = site_keys(roster)
    if not sender < receiver or not {sender, receiver} <= members.keys():
        raise PeerProtocolError("a pair key is offered by the lower of two sites of the roster to the higher")
    unsealed = PairOffer(roster=digest, sender=sender, receiver=receiver, epoch=epoch, sealed=b"")
    sealed = agreement.offer(agreement.load_public(members[receiver].agreement), secret, _message(unsealed))
    made = msgspec.structs.replace(unsealed, sealed=sealed)
    made = msgspec.structs.replace(made, signature=signing.sign(_message(made), key))
    return PairKey(epoch=epoch, key=secret, offer=made)


def accept(
    roster: Roster, digest: Digest, receiver: SiteId, unverified: PairOffer, private: agreement.PrivateKey
) -> PairKey:
    """Check an offer and open it.

    Raises:
        PeerProtocolError: It is for another roster or site, or the names are the other way round.
        CryptoError: It is not signed by the sender's key in the roster, or does not open.
    """
    members = site_keys(roster)
    if unverified.roster != digest or unverified.receiver != receiver or not unverified.sender < receiver:
        raise PeerProtocolError("the offer of a pair key is for another roster or another site")
    if unverified.sender not in members:
        raise PeerProtocolError(f"the roster does not name {unverified.sender}")
    key = signing.load_public(members[unverified.sender].identity)
    signing.verify(unverified.signature, _message(unverified), key)
    unsealed = msgspec.structs.replace(unverified, sealed=b"")
    secret = agreement.accept(unverified.sealed, private, _message(unsealed))
    return PairKey(epoch=unverified.epoch, key=secret, offer=unverified)


def at_epoch(pair: PairKey, epoch: int) -> PairKey:
    """The pair key as it is in a later epoch; the older one cannot be had back from it.

    Raises:
        PeerProtocolError: The epoch is past, or absurdly far away.
    """
    steps = epoch - pair.epoch
    if not 0 <= steps <= MAX_EPOCHS:
        raise PeerProtocolError(f"the pair key is at epoch {pair.epoch}; there is no way to epoch {epoch}")
    return msgspec.structs.replace(pair, epoch=epoch, key=agreement.ratchet(pair.key, steps)) if steps else pair


def _message(made: PairOffer) -> bytes:
    return b"wardround pair 1\n" + msgspec.msgpack.encode(msgspec.structs.replace(made, signature=b""))
