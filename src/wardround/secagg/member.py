"""One member of one cohort: what it sends, what it refuses, and what it must remember.

    JOINED ──Delivery──▶ READY ──masked──▶ MASKED ──Survivors──▶ AGREED ──Agreements──▶ REVEALED
       └──────────┴─────────────┴─▶ VOID   it takes no part any more, and never will

The machine is a frozen value that its owner stores durably *before* it sends what the machine gave;
a step that is asked for again gives the same bytes again, and a different step of the same kind is
refused. Rules, each tested by breaking it:

    (1) The terms are well formed, name this member with the nonce that it drew, and are those its plan gives.
    (2) Neither fewer members than the site's own minimum, nor fewer than the threshold, are ever included or added.
    (3) A neighbour's share counts only if it opens under the pair's key and T, and the two commitments to the
        pair seed are equal; the members whose shares do not open are named, the rest goes on.
    (4) A vector is masked once: its digest is fixed before the first byte leaves, another one is refused.
    (5) Survivors are a sorted part of those included, and this member is one of them with its own digest: who was
        left out neither signs nor reveals, or its shares would open those whom the hub cut off with it.
    (6) One list of survivors is signed, ever.
    (7) Shares are revealed only for the list that was signed, and only when the threshold of survivors signed
        the same T, U1 and U2.
    (8) Of each member one kind of share is revealed, ever: the self-mask's of a survivor, the root's of one
        who dropped out.
    (9) Nothing is signed or revealed in a cohort that was voided.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import msgspec

from wardround.crypto import agreement, seal, shamir, signing
from wardround.errors import CryptoError, PeerProtocolError, SignatureError
from wardround.ids import SiteId
from wardround.secagg import messages, terms
from wardround.secagg.messages import Agreement, Agreements, Delivery, Included, Masked, Reveal, Shares, Survivors
from wardround.secagg.terms import Section, Terms

__all__ = ["Member", "agree", "deliver", "join", "mask", "mask_seeds", "reveal", "section_key", "void"]

Draw = Callable[[int], bytes]
_SHARE = shamir.SECRET_BYTES
_SEED_COMMITMENT = 16
_NONCE = bytes(seal.NONCE_BYTES)  # Each sealing key is used once: see `_sealing_key`.


class Member(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A member's state; secret. `neighbours` are sorted, and `pair_seeds` and `share_keys` go with them."""

    terms: Terms
    site: SiteId
    minimum: int
    stage: Literal["joined", "ready", "masked", "agreed", "revealed", "void"]
    transcript: bytes
    neighbours: tuple[SiteId, ...]
    pair_seeds: tuple[bytes, ...]
    share_keys: tuple[bytes, ...]
    self_seed: bytes
    kept: tuple[bytes, bytes]
    shares: Shares
    included: tuple[Included, ...] = ()
    held: tuple[tuple[SiteId, bytes, bytes], ...] = ()
    masked: Masked | None = None
    survivors: Survivors | None = None
    agreement: Agreement | None = None
    reveal: Reveal | None = None

    @property
    def included_digest(self) -> bytes:
        """What stands for U1."""
        return messages.included_digest(self.transcript, self.included)


def join(
    agreed: Terms,
    site: SiteId,
    *,
    expected: Terms,
    nonce: bytes,
    minimum: int,
    pair_keys: Mapping[SiteId, bytes],
    key: signing.PrivateKey,
    draw: Draw,
    voided: tuple[bytes, ...] = (),
) -> Member:
    """Enter a cohort: draw two secrets and share them out.

    Args:
        agreed: The terms as the hub sent them.
        site: This member.
        expected: The terms that this site's plan gives for these members.
        nonce: What this member drew when it said that it is ready.
        minimum: The smallest crowd that the site's own policy allows.
        pair_keys: The pair key with each neighbour, in the terms' epoch.
        key: The identity key that the roster names.
        draw: A cryptographic generator.
        voided: Transcripts of earlier cohorts that this member has voided, durably.

    Raises:
        PeerProtocolError: The terms are not acceptable; nothing is shared.
    """
    terms.check(agreed)
    if site not in agreed.members:
        raise PeerProtocolError(f"the cohort does not name {site}")
    if agreed.nonces[agreed.members.index(site)] != nonce:  # (1)
        raise PeerProtocolError("the terms do not hold the nonce that this site drew: an old cohort, or another's")
    if agreed != expected:  # (1)
        changed = [name for name in Terms.__struct_fields__ if getattr(agreed, name) != getattr(expected, name)]
        raise PeerProtocolError(f"the cohort's terms are not those of the approved plan: {', '.join(changed)}")
    if min(len(agreed.members), agreed.minimum) < minimum:  # (2)
        raise PeerProtocolError(f"this site's policy asks for at least {minimum} members in a sum")
    bound = terms.transcript(agreed)
    around = terms.neighbours(agreed, site)
    missing = [name for name in around if name not in pair_keys]
    if missing:
        raise PeerProtocolError(f"this site shares no key with {', '.join(missing)} yet")
    # The names are in the label: two peers who collude to offer one key give two seeds all the same.
    pairs = {name: f"{min(name, site)} and {max(name, site)}" for name in around}
    pair_seeds = tuple(agreement.derive(pair_keys[name], bound, f"mask of {pairs[name]}") for name in around)
    share_keys = tuple(agreement.derive(pair_keys[name], bound, f"share of {pairs[name]}") for name in around)
    self_seed, root = shamir.draw_secret(draw), shamir.draw_secret(draw)
    points = {name: agreed.members.index(name) + 1 for name in (*around, site)}
    threshold = terms.share_threshold(agreed)
    of_self = dict(zip(points, shamir.split(self_seed, threshold, list(points.values()), draw), strict=True))
    of_root = dict(zip(points, shamir.split(root, threshold, list(points.values()), draw), strict=True))
    sealed = tuple(
        _seal(of_self[name] + of_root[name], share_key, site, name, bound)
        for name, share_key in zip(around, share_keys, strict=True)
    )
    shares = Shares(
        transcript=bound,
        sealed=sealed,
        recovery=_seal(b"".join(pair_seeds), agreement.derive(root, bound, "recovery"), site, site, bound),
        seeds=tuple(_seed_commitment(seed, bound) for seed in pair_seeds),
        own=agreement.commitment(self_seed, bound, "self"),
        root=agreement.commitment(root, bound, "root"),
        voided=tuple((earlier, signing.sign(messages.void_bytes(earlier), key)) for earlier in voided),
    )
    return Member(
        terms=agreed,
        site=site,
        minimum=minimum,
        stage="joined",
        transcript=bound,
        neighbours=around,
        pair_seeds=pair_seeds,
        share_keys=share_keys,
        self_seed=self_seed,
        kept=(of_self[site], of_root[site]),
        shares=messages.sign_shares(shares, key),
    )


def deliver(
    member: Member, delivery: Delivery, keys: Mapping[SiteId, signing.PublicKey]
) -> tuple[Member, dict[bytes, set[SiteId]]]:
    """Take U1 and the shares meant for this member.

    Args:
        member: A member that has shared.
        delivery: What the hub sent.
        keys: The roster's identity keys.

    Returns:
        The next state, and for each earlier cohort that this member voided, which of those included did too.

    Raises:
        PeerProtocolError: Another U1 than before, too few members, or a neighbour's commitment is not this
            member's own: the hub changed something, or let a pair in that it should have left out.
    """
    _require(member, "joined", "ready", "masked", "agreed", "revealed")
    if member.stage != "joined":
        if delivery.included != member.included:
            raise PeerProtocolError("the hub names two different lists of included members")
        return member, {}
    sites = [entry.site for entry in delivery.included]
    _check_crowd(member, sites, member.terms.members)
    mine = Included(member.site, messages.shares_digest(member.shares))
    if mine not in delivery.included:
        raise PeerProtocolError("the list of included members has not what this site shared")
    around = [name for name in member.neighbours if name in sites]
    if not len(delivery.sealed) == len(delivery.seeds) == len(around):
        raise PeerProtocolError("the hub did not deliver one share and one commitment for each included neighbour")
    held = []
    for name, sealed, commitment in zip(around, delivery.sealed, delivery.seeds, strict=True):
        place = member.neighbours.index(name)
        if commitment != member.shares.seeds[place]:  # (3)
            raise PeerProtocolError(f"{name} and this site have different seeds: one of them, or the hub, is wrong")
        opened = _open(sealed, member.share_keys[place], name, member.site, member.transcript)
        if opened is None:
            continue  # (3): named in `mask`
        held.append((name, opened[:_SHARE], opened[_SHARE:]))
    ready = _moved(member, stage="ready", included=delivery.included, held=tuple(held))
    return ready, _voids(member, delivery, set(sites), keys)


def mask_seeds(member: Member) -> tuple[list[bytes], list[bytes]]:
    """The seeds of this member's masks: to add, and to subtract. A pair's masks cancel between the two.

    Raises:
        PeerProtocolError: It is not known yet who is included, or the cohort was voided.
    """
    _require(member, "ready", "masked", "agreed", "revealed")
    plus, minus = [member.self_seed], list[bytes]()
    included = {entry.site for entry in member.included}
    for name, seed in zip(member.neighbours, member.pair_seeds, strict=True):
        if name in included:
            (plus if member.site < name else minus).append(seed)
    return plus, minus


def mask(member: Member, digest: bytes, key: signing.PrivateKey) -> Member:
    """Fix the masked vector by its SHA-256; only after the result is stored may its bytes leave.

    Raises:
        PeerProtocolError: Another vector was masked here before: the masks would be used twice.
    """
    _require(member, "ready", "masked", "agreed", "revealed")
    if member.masked is not None:
        if member.masked.digest != digest:  # (4)
            raise PeerProtocolError("another vector was masked for this cohort before; masks are never used twice")
        return member
    included = {entry.site for entry in member.included}
    complaints = tuple(sorted(included - {name for name, _, _ in member.held} - {member.site}))
    complaints = tuple(name for name in complaints if name in member.neighbours)
    unsigned = Masked(
        transcript=member.transcript, included=member.included_digest, digest=digest, complaints=complaints
    )
    signature = signing.sign(messages.masked_bytes(unsigned), key)
    return _moved(member, stage="masked", masked=msgspec.structs.replace(unsigned, signature=signature))


def agree(member: Member, survivors: Survivors, key: signing.PrivateKey) -> Member:
    """Sign who is in the sum, once.

    Raises:
        PeerProtocolError: Not a proper list, or another one than was signed before.
    """
    _require(member, "ready", "masked", "agreed", "revealed")
    if member.survivors is not None:
        if member.survivors != survivors:  # (6)
            raise PeerProtocolError("the hub names two different lists of survivors; this site signed the first")
        return member
    sites = [entry.site for entry in survivors.entries]
    _check_crowd(member, sites, [entry.site for entry in member.included])  # (5)
    if member.site not in sites:  # (5)
        raise PeerProtocolError("this site is not among the survivors, and says nothing about them")
    for entry in survivors.entries:
        if entry.site == member.site and (member.masked is None or entry.digest != member.masked.digest):  # (5)
            raise PeerProtocolError("the list of survivors has another vector of this site than the one it sent")
    message = messages.agreement_bytes(member.transcript, member.included_digest, survivors.entries)
    signed = Agreement(member.transcript, signing.sign(message, key))
    return _moved(member, stage="agreed", survivors=survivors, agreement=signed)


def reveal(member: Member, agreements: Agreements, keys: Mapping[SiteId, signing.PublicKey]) -> Member:
    """Give one share for each included neighbour, of the kind that the signed survivors call for.

    Args:
        member: A member that signed.
        agreements: What the hub gathered.
        keys: The roster's identity keys.

    Raises:
        PeerProtocolError: Too few valid signatures over the list that this member signed.
    """
    _require(member, "agreed", "revealed")
    if member.reveal is not None or member.survivors is None:
        return member
    message = messages.agreement_bytes(member.transcript, member.included_digest, member.survivors.entries)
    included = {entry.site for entry in member.included}
    alive = {entry.site for entry in member.survivors.entries}
    signers = set()
    for site, signature in agreements.signatures[: len(member.terms.members)]:
        if site in alive and site in keys:
            try:
                signing.verify(signature, message, keys[site])
            except SignatureError:
                continue
            signers.add(site)
        if len(signers) >= member.terms.threshold:
            break
    if len(signers) < member.terms.threshold:  # (7)
        raise PeerProtocolError(
            f"{len(signers)} members signed the survivors that this site signed, and {member.terms.threshold} must have"
        )
    held = {name: (own, root) for name, own, root in member.held} | {member.site: member.kept}
    around = sorted(name for name in (*member.neighbours, member.site) if name in included)
    shares = tuple(held[name][0 if name in alive else 1] if name in held else b"" for name in around)  # (8)
    return _moved(member, stage="revealed", reveal=Reveal(member.transcript, shares))


def void(member: Member) -> Member:
    """Leave for ever: nothing of this cohort is signed or revealed after this.

    Raises:
        PeerProtocolError: The survivors were signed already, so the cohort may still be opened.
    """
    if member.agreement is not None:
        raise PeerProtocolError("the survivors of this cohort were signed; it cannot be voided any more")
    return _moved(member, stage="void")


def section_key(seed: bytes, transcript: bytes, section: Section) -> bytes:
    """The mask stream's key for one section: no two sections share a stream."""
    return agreement.derive(seed, transcript, f"section {section.name}")


def _voids(
    member: Member, delivery: Delivery, included: set[SiteId], keys: Mapping[SiteId, signing.PublicKey]
) -> dict[bytes, set[SiteId]]:
    voids = {earlier: {member.site} for earlier, _ in member.shares.voided}
    for site, earlier, signature in delivery.voided:
        if earlier in voids and site in included and site in keys and site not in voids[earlier]:
            try:
                signing.verify(signature, messages.void_bytes(earlier), keys[site])
            except SignatureError:
                continue
            voids[earlier].add(site)
    return voids


def _check_crowd(member: Member, sites: Sequence[SiteId], among: Sequence[SiteId]) -> None:
    if sites != sorted(set(sites)) or not set(sites) <= set(among):
        raise PeerProtocolError("a list of members must be sorted, each once, and all of those it is taken from")
    least = max(member.minimum, member.terms.minimum, member.terms.threshold)
    if len(sites) < least:  # (2)
        raise PeerProtocolError(f"{len(sites)} members are too few: this cohort needs {least}")


def _require(member: Member, *stages: str) -> None:
    if member.stage not in stages:  # (9)
        raise PeerProtocolError(f"this site's part of the cohort is {member.stage}; it does not take this step")


def _moved(member: Member, **changes: object) -> Member:
    return msgspec.structs.replace(member, **changes)


def _seed_commitment(seed: bytes, transcript: bytes) -> bytes:
    return agreement.commitment(seed, transcript, "mask")[:_SEED_COMMITMENT]


def _sealing_key(key: bytes, sender: SiteId, receiver: SiteId, transcript: bytes) -> bytes:
    # One key per cohort, pair and direction, for one message: so the nonce may be constant.
    return agreement.derive(key, transcript, f"{sender} to {receiver}")


def _seal(value: bytes, key: bytes, sender: SiteId, receiver: SiteId, transcript: bytes) -> bytes:
    once = _sealing_key(key, sender, receiver, transcript)
    return seal.seal(value, once, nonce=_NONCE, context=transcript)[len(seal.VERSION) + seal.NONCE_BYTES :]


def _open(sealed: bytes, key: bytes, sender: SiteId, receiver: SiteId, transcript: bytes) -> bytes | None:
    once = _sealing_key(key, sender, receiver, transcript)
    try:
        opened = seal.open_sealed(seal.VERSION + _NONCE + sealed, once, context=transcript)
    except CryptoError:
        return None
    return opened if len(opened) == 2 * _SHARE else None
