"""How the hub takes the masks off a cohort's sum, and the evidence that it keeps of it.

    sum of masked vectors of U2
      - PRG(b_j)                for each survivor j           b_j rebuilt from its shares
      - the masks of the pairs  of a survivor i and a dropout j   from j's recovery blob, under its rebuilt root

What remains is the sum of the survivors' plain vectors, and nothing else was ever uncovered: of a
survivor the root stays unknown, of a dropout the self-mask.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

from wardround.crypto import agreement, seal, shamir, signing
from wardround.errors import CryptoError, PeerProtocolError
from wardround.ids import SiteId
from wardround.secagg import messages, terms
from wardround.secagg.cohort import Cohort, revealed_for
from wardround.secagg.messages import Included, Survivor
from wardround.secagg.terms import Terms

__all__ = ["Evidence", "Unmasking", "check_evidence", "evidence_of", "unmask"]

_NONCE = bytes(seal.NONCE_BYTES)


@dataclass(frozen=True, slots=True)
class Unmasking:
    """Mask seeds to add to the sum and to subtract from it; `blamed` gave shares that do not fit.

    Where `culprit` is named, its secret or recovery blob is not what it committed to, and the sum stays closed.
    """

    plus: tuple[bytes, ...]
    minus: tuple[bytes, ...]
    blamed: dict[SiteId, str]
    culprit: SiteId | None = None


class Evidence(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A cohort's signed transcript: what every participant can check its own part in.

    `masked` are the survivors' signatures over (T, U1, digest), in their order; `complaints` what each of
    them signed there; `agreements` signatures over (T, U1, U2).
    """

    terms: Terms
    included: tuple[Included, ...]
    survivors: tuple[Survivor, ...]
    complaints: tuple[tuple[SiteId, ...], ...]
    masked: tuple[bytes, ...]
    agreements: tuple[tuple[SiteId, bytes], ...]


def unmask(cohort: Cohort) -> Unmasking:
    """Rebuild what must be added to and subtracted from the sum of the masked vectors."""
    alive = [entry.site for entry in cohort.survivors]
    shares = _shares(cohort)
    blamed: dict[SiteId, str] = {}
    plus: list[bytes] = []
    minus: list[bytes] = []
    for entry in cohort.included:
        site = entry.site
        try:
            secret = _rebuilt(cohort, site, shares[site], "self" if site in alive else "root", blamed)
            seeds = _recovered(cohort, site, secret) if site not in alive else []
        except CryptoError as error:
            return Unmasking((), (), blamed | {site: str(error)}, site)
        if site in alive:
            minus.append(secret)
            continue
        for name, seed in zip(terms.neighbours(cohort.terms, site), seeds, strict=True):
            if name in alive:
                # The survivor added the pair's mask when its name comes first, and subtracted it otherwise.
                (minus if name < site else plus).append(seed)
    return Unmasking(tuple(plus), tuple(minus), blamed)


def evidence_of(cohort: Cohort) -> Evidence:
    """The signed transcript of a cohort whose survivors agreed."""
    masked = [cohort.masked[entry.site] for entry in cohort.survivors]
    return Evidence(
        terms=cohort.terms,
        included=cohort.included,
        survivors=cohort.survivors,
        complaints=tuple(said.complaints for said in masked),
        masked=tuple(said.signature for said in masked),
        agreements=tuple((site, said.signature) for site, said in sorted(cohort.agreements.items())),
    )


def check_evidence(evidence: Evidence, keys: Mapping[SiteId, signing.PublicKey]) -> None:
    """Check a transcript as a sceptic would, with nothing but the roster's keys.

    (1) The terms are well formed. (2) Survivors are sorted, at least the minimum and the threshold, and
    all were included. (3) Each survivor signed its own vector's digest, for this T and this U1. (4) At
    least the threshold of the survivors signed exactly this list.

    Raises:
        PeerProtocolError: Says which of these does not hold.
    """
    agreed = evidence.terms
    terms.check(agreed)  # (1)
    bound = terms.transcript(agreed)
    sites = [entry.site for entry in evidence.survivors]
    included = [entry.site for entry in evidence.included]
    least = max(agreed.minimum, agreed.threshold)
    if sites != sorted(set(sites)) or not set(sites) <= set(included) <= set(agreed.members):  # (2)
        raise PeerProtocolError("the survivors are not sorted, or not all of those included")
    if len(sites) < least or not len(sites) == len(evidence.masked) == len(evidence.complaints):  # (2)
        raise PeerProtocolError(f"{len(sites)} survivors, and {least} with a signature each are needed")
    digest = messages.included_digest(bound, evidence.included)
    for entry, complaints, signature in zip(evidence.survivors, evidence.complaints, evidence.masked, strict=True):
        said = messages.Masked(transcript=bound, included=digest, digest=entry.digest, complaints=complaints)
        messages.check_signature(signature, messages.masked_bytes(said), _key(keys, entry.site), entry.site)  # (3)
    message = messages.agreement_bytes(bound, digest, evidence.survivors)
    signers = {site for site, _ in evidence.agreements} & set(sites)
    for site, signature in evidence.agreements:
        messages.check_signature(signature, message, _key(keys, site), site)  # (4)
    if len(signers) < agreed.threshold:  # (4)
        raise PeerProtocolError(f"{len(signers)} members signed the survivors, and {agreed.threshold} must have")


def _key(keys: Mapping[SiteId, signing.PublicKey], site: SiteId) -> signing.PublicKey:
    if site not in keys:
        raise PeerProtocolError(f"the roster does not name {site}")
    return keys[site]


def _shares(cohort: Cohort) -> dict[SiteId, dict[int, bytes]]:
    """The shares that were revealed of each included member's secret, by the giver's point."""
    found: dict[SiteId, dict[int, bytes]] = {entry.site: {} for entry in cohort.included}
    for giver, reveal in cohort.reveals.items():
        point = cohort.terms.members.index(giver) + 1
        for owner, share in zip(revealed_for(cohort, giver), reveal.shares, strict=True):
            if len(share) == shamir.SECRET_BYTES:
                found[owner][point] = share
    return found


def _rebuilt(cohort: Cohort, site: SiteId, shares: dict[int, bytes], label: str, blamed: dict[SiteId, str]) -> bytes:
    commitment = cohort.shares[site].own if label == "self" else cohort.shares[site].root

    def is_right(secret: bytes) -> bool:
        return agreement.commitment(secret, cohort.transcript, label) == commitment

    try:
        secret, wrong = shamir.recover(shares, terms.share_threshold(cohort.terms), is_right)
    except CryptoError:
        given = sorted(cohort.terms.members[point - 1] for point in shares)
        raise CryptoError(
            f"its secret cannot be rebuilt from the shares of {', '.join(given)}: it shared wrongly, or too many of "
            f"them answered wrongly"
        ) from None
    for point in wrong:
        giver = cohort.terms.members[point - 1]
        blamed[giver] = f"the share of {site} that it revealed does not fit; it, or {site}, is wrong"
    return secret


def _recovered(cohort: Cohort, site: SiteId, root: bytes) -> list[bytes]:
    shares = cohort.shares[site]
    key = agreement.derive(root, cohort.transcript, "recovery")
    once = agreement.derive(key, cohort.transcript, f"{site} to {site}")
    try:
        opened = seal.open_sealed(seal.VERSION + _NONCE + shares.recovery, once, context=cohort.transcript)
    except CryptoError:
        raise CryptoError("it dropped out, and its recovery blob does not open") from None
    seeds = [opened[start : start + 32] for start in range(0, len(opened), 32)]
    commitments = [agreement.commitment(seed, cohort.transcript, "mask")[: len(shares.seeds[0])] for seed in seeds]
    if commitments != list(shares.seeds):
        raise CryptoError("it dropped out, and its recovery blob has other seeds than it committed to")
    return seeds
