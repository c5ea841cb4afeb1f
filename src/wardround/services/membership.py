"""The node's part in secure aggregation: keys with other sites, and one machine per cohort, kept in the vault.

What the machine gives is sent only after its next state is stored, so that a node which is killed at any
point sends the same again, or refuses. Names in the vault:

    roster.<digest>                     a roster whose officers' signatures were checked here
    pair.<digest>.<site>                see `wardround.services.pair_keys`
    cohort.<run>.<round>.<cohort>       a `Member`, until a later cohort of the run, or the run's end
    joined.<run>                        the last cohort of a run that has ended: no older one comes back
    masked.<run>.<round>.<cohort>       transcript and digest of what this site sent, for `sent`
    content.<hash>                      earlier cohorts over the same content (`wardround.secagg.isolation`)
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence

import msgspec
from msgspec import UNSET, UnsetType

from wardround.crypto import agreement, signing
from wardround.errors import CryptoError, PeerProtocolError, PolicyError, SignatureError
from wardround.ids import Digest, RunId, SiteId
from wardround.ports import Clock, Entropy, Vault
from wardround.protocol.agenda import discount_of, terms_of
from wardround.protocol.events import RunTerms
from wardround.protocol.messages import CohortTask, PairAnswer, PairTask
from wardround.protocol.plan import BlobRef, Plan
from wardround.protocol.policy import SitePolicy
from wardround.protocol.secure import cohort_terms, epoch_of
from wardround.secagg import isolation, member, messages, roster, terms
from wardround.secagg.isolation import Earlier
from wardround.secagg.member import Member
from wardround.secagg.messages import Agreements, Answer, Delivery, Invitation, Survivors
from wardround.secagg.roster import Roster, RosterMember, SignedRoster
from wardround.secagg.terms import Crowd, Terms
from wardround.services.pair_keys import EPOCHS_APART, PairKeys

__all__ = ["Membership", "refusal"]

_MAX_VOIDED = 8

Fetch = Callable[[Digest], SignedRoster]


class Membership:
    """One site's part in cohorts. `officers` are the keys that sign rosters, `quorum` how many of them must.

    `fetch` gets a roster from the hub, unverified; `known` are rosters that need no checking: a simulation's own.
    """

    def __init__(
        self,
        site: SiteId,
        *,
        key: signing.PrivateKey,
        agreement_key: agreement.PrivateKey,
        officers: Sequence[bytes],
        quorum: int,
        fetch: Fetch,
        vault: Vault,
        policy: SitePolicy,
        clock: Clock,
        entropy: Entropy,
        known: Mapping[Digest, Roster] | None = None,
    ) -> None:
        self._site, self._key, self._agreement_key = site, key, agreement_key
        self._officers, self._quorum, self._fetch = officers, quorum, fetch
        self._vault, self._policy, self._clock, self._entropy = vault, policy, clock, entropy
        self._rosters: dict[Digest, Roster] = dict(known or {})
        self._pairs = PairKeys(site, key=key, agreement_key=agreement_key, vault=vault, clock=clock, entropy=entropy)

    @property
    def card(self) -> RosterMember:
        """This site's public keys, for a roster."""
        return RosterMember(
            site=self._site,
            identity=signing.public_bytes(self._key.public_key()),
            agreement=agreement.public_bytes(self._agreement_key.public_key()),
        )

    def roster(self, digest: Digest) -> Roster:
        """A roster, fetched once, with its officers' signatures and this site's own keys checked.

        Raises:
            SignatureError: Too few of this site's officers signed it.
            PolicyError: It has other keys for this site than its own.
        """
        if digest not in self._rosters:
            stored = self._vault.get(f"roster.{digest}")
            signed = messages.decode(stored, SignedRoster) if stored else self._fetch(digest)
            if roster.roster_digest(signed) != digest:
                raise SignatureError("the hub sent another roster than the one that the plan names")
            opened = roster.open_roster(signed, self._officers, self._quorum)
            if self.card not in opened.members:
                raise PolicyError("the roster has other keys for this site; ask the officers for a new one")
            if stored is None:
                self._vault.put(f"roster.{digest}", messages.encode(signed))
            self._rosters[digest] = opened
        return self._rosters[digest]

    def nonce(self, run: RunId, number: int) -> bytes:
        """This site's nonce for a round: unforeseeable to others, the same again after a crash."""
        text = f"wardround nonce 1\n{run}/{number}".encode()
        return hashlib.sha256(signing.sign(text, self._key)).digest()

    def trained(self, task: CohortTask, step: Terms, plan: Plan) -> int:
        """The round for which this site trained what a cohort adds up: told by the nonce that it gave then.

        Raises:
            PeerProtocolError: None that the plan's asynchrony allows, or this site is no member.
        """
        run = terms_of(task.run, plan, ())
        oldest = run.oldest(task.number) if 1 <= task.number <= len(run.agenda) else task.number
        given = dict(zip(step.members, step.nonces, strict=False)).get(self._site)
        for number in range(task.number, oldest - 1, -1):
            if given == self.nonce(task.run, number):
                return number
        raise PeerProtocolError("the cohort's nonce for this site is not one that it gave for such a round")

    def pair(self, task: PairTask, plan: Plan) -> PairAnswer:
        """Make the offers that are asked for, and accept others'.

        Raises:
            PolicyError: The plan names another roster.
            CryptoError: An offer is not what it claims.
        """
        if plan.secure is None or plan.secure.roster != task.roster:
            raise PolicyError("the approved plan names another roster")
        return self._pairs.answer(task, self.roster(task.roster), frozenset(plan.participants))

    def share(self, task: CohortTask, step: Terms, plan: Plan) -> Answer:
        """Enter a cohort.

        Raises:
            PeerProtocolError: The terms are not acceptable.
            PolicyError: Nor does this site's own policy allow them.
        """
        known = self._load(task)
        if known is not None:
            if known.terms != step or known.stage == "void":
                raise PeerProtocolError("this site is in this cohort already, with other terms, or has left it")
            return known.shares
        terms.check(step)
        nonce = self.nonce(task.run, self.trained(task, step, plan))
        past = self._left(task, step)
        self._check_late(task, step, plan)
        voided = [one.transcript for one in self._earlier(self._content(step)) if not one.survivors]
        expected = self._expected(task, step, plan)
        state = member.join(
            step,
            self._site,
            expected=expected,
            nonce=nonce,
            minimum=self._policy.min_participants,
            pair_keys=self._paired(step) if step == expected else {},  # nothing is ratcheted for a lie
            key=self._key,
            draw=self._entropy.draw,
            voided=tuple(voided[-_MAX_VOIDED:]),
        )
        # From here on the older ones are refused (`_required`), whether or not they are deleted.
        self._store(task, state)
        for name in past:
            self._vault.delete(name)
        return state.shares

    def ready(self, task: CohortTask, step: Delivery) -> Member:
        """Take the shares meant for this site; the state from which its vector is masked.

        Raises:
            PeerProtocolError: Not acceptable, or this cohort would single somebody out beside an earlier one.
        """
        before = self._required(task)
        after, voids = member.deliver(before, step, self._keys(before.terms))
        if before.stage == "joined":
            sites = [entry.site for entry in step.included]
            for one in self._earlier(self._content(after.terms)):
                voided_by = voids.get(one.transcript, ())
                if isolation.isolates(one, sites, voided_by=voided_by):
                    raise PeerProtocolError("beside an earlier cohort this one could single out a member")
        return after

    def masked(self, task: CohortTask, state: Member, digest: Digest) -> Answer:
        """Fix the masked vector, durably, before any of it leaves.

        Raises:
            PeerProtocolError: Another vector was masked here before.
        """
        after = member.mask(state, bytes.fromhex(digest), self._key)
        self._vault.put(f"masked.{task.run}.{task.number}.{task.cohort}", state.transcript + bytes.fromhex(digest))
        self._store(task, after)
        if after.masked is None:
            raise PeerProtocolError("nothing was masked")
        return after.masked

    def agree(self, task: CohortTask, step: Survivors) -> Answer:
        """Sign who is in the sum, once.

        Raises:
            PeerProtocolError: Not a proper list, or another than was signed before.
        """
        after = member.agree(self._required(task), step, self._key)
        self._store(task, after)
        if after.agreement is None:
            raise PeerProtocolError("nothing was signed")
        return after.agreement

    def reveal(self, task: CohortTask, step: Agreements) -> Answer:
        """Give one share for each included neighbour.

        Raises:
            PeerProtocolError: Too few members signed the list that this site signed.
        """
        before = self._required(task)
        after = member.reveal(before, step, self._keys(before.terms))
        self._store(task, after)
        if after.reveal is None:
            raise PeerProtocolError("nothing was revealed")
        return after.reveal

    def sent(self, run: RunId, number: int, cohort: int) -> tuple[bytes, bytes] | None:
        """Transcript and SHA-256 of the vector that this site masked for a cohort, if it did."""
        stored = self._vault.get(f"masked.{run}.{number}.{cohort}")
        return (stored[:32], stored[32:]) if stored else None

    def close(self, run: RunId) -> None:
        """Forget the secrets of a run's cohorts; what must be remembered of them stays."""
        for name in self._vault.names(f"cohort.{run}."):
            state = messages.decode(self._vault.get(name) or b"", Member)
            if state.masked is not None:
                self._remember(state)
            number, cohort = name.rsplit(".", 2)[1:]
            self._vault.put(f"joined.{run}", f"{number}.{cohort}".encode())
            self._vault.delete(name)

    def transcript(self, task: CohortTask) -> bytes:
        """The transcript of the cohort that a step belongs to; empty where this site has not entered it."""
        known = self._load(task)
        if isinstance(task.step, Invitation):
            return terms.transcript(task.step.terms)
        return known.transcript if known else b""

    def _expected(self, task: CohortTask, step: Terms, plan: Plan) -> Terms:
        """The terms that this site's own plan gives for the members that the hub named."""
        run = terms_of(task.run, plan, ())
        if run.study != task.study:
            raise PeerProtocolError("the run is not one of this study")
        crowd = step.members if step.crowd is UNSET else (*step.members, *step.crowd.sites)
        in_plan = set(crowd) <= set(plan.participants)
        if run.secure is None or not 1 <= task.number <= len(run.agenda) or not in_plan or not step.bases:
            raise PeerProtocolError("the approved plan has no such cohort")
        if abs(step.epoch - epoch_of(self._clock.now())) > EPOCHS_APART:
            raise PeerProtocolError("the cohort's epoch is not today; check the clocks of hub and node")
        standardization = BlobRef(Digest(step.standardization), 0) if step.standardization else None
        bases = dict(zip(step.members, step.bases, strict=False))
        discounts = dict(zip(step.members, step.discounts, strict=False))
        if run.buffered(task.number) is None:
            bases, discounts = dict.fromkeys(step.members, step.bases[0]), {}
        else:
            discounts[self._site] = discount_of(run, task.number, self.trained(task, step, plan))
        return cohort_terms(
            run.secure,
            study=task.study,
            run=task.run,
            number=task.number,
            attempt=task.cohort,
            kind=run.agenda[task.number - 1],
            nonces=dict(zip(step.members, step.nonces, strict=False)),
            bases=bases,
            discounts=discounts,
            standardization=standardization,
            epoch=step.epoch,
            crowd=self._crowd(run, task, step),
        )

    def _crowd(self, run: RunTerms, task: CohortTask, step: Terms) -> Crowd | UnsetType:
        """The crowd that the hub names, where the plan has groups and its sites are the plan's."""
        size = run.secure.group_size if run.secure and run.agenda[task.number - 1] == "train" else 0
        if not size:
            return UNSET
        if step.crowd is UNSET:
            raise PeerProtocolError("the plan deals the sites into groups, and the hub names no crowd")
        return msgspec.structs.replace(step.crowd, group_size=size)

    def _check_late(self, task: CohortTask, step: Terms, plan: Plan) -> None:
        """In asynchronous training an update is for one round's cohorts, with one discount, beside the same others."""
        if terms_of(task.run, plan, ()).buffered(task.number) is None:
            return
        if any(isolation.is_used(one, step, self._site) for one in self._earlier(self._content(step))):
            raise PeerProtocolError("this site's update was in a cohort of another round, or beside other updates")

    def _paired(self, step: Terms) -> Mapping[SiteId, bytes]:
        self.roster(step.roster)
        return self._pairs.at(step)

    def _load(self, task: CohortTask) -> Member | None:
        stored = self._vault.get(_name(task))
        return messages.decode(stored, Member) if stored else None

    def _required(self, task: CohortTask) -> Member:
        known = self._load(task)
        if known is None or self._last(task.run) != (task.number, task.cohort):
            raise PeerProtocolError("this site is not in this cohort, or has left it for a later one")
        return known

    def _last(self, run: RunId) -> tuple[int, int]:
        """Round and number of the last cohort of a run that this site entered; zeros before the first."""
        names = self._vault.names(f"cohort.{run}.")
        places = [tuple(int(part) for part in name.rsplit(".", 2)[1:]) for name in names]
        closed = (self._vault.get(f"joined.{run}") or b"0.0").decode().split(".")
        number, cohort = max([*places, tuple(map(int, closed))])
        return number, cohort

    def _keys(self, agreed: Terms) -> dict[SiteId, signing.PublicKey]:
        members = self.roster(agreed.roster).members
        return {one.site: signing.load_public(one.identity) for one in members if one.site in agreed.members}

    def _store(self, task: CohortTask, state: Member) -> None:
        self._vault.put(_name(task), messages.encode(state))

    def _left(self, task: CohortTask, step: Terms) -> list[str]:
        """Leave the run's earlier cohorts, and those of the study's other runs over the same content.

        Returns:
            The names of the run's own, to be deleted once the new one is stored; until then nothing is final.

        Raises:
            PeerProtocolError: The cohort is older than one that this site was in, or over another model.
        """
        if self._last(task.run) >= (task.number, task.cohort):
            raise PeerProtocolError("this site has been in a later cohort of this run; it joins no earlier one")
        own = []
        for name in self._vault.names(f"cohort.{task.study}."):
            run, number, _ = name.removeprefix("cohort.").rsplit(".", 2)
            state = messages.decode(self._vault.get(name) or b"", Member)
            agreed = state.terms
            if run == task.run:
                own.append(name)
                same = (self._base(agreed), agreed.standardization) == (self._base(step), step.standardization)
                if int(number) == task.number and not same:
                    raise PeerProtocolError("the hub names two models for one round")
            elif state.masked is None or self._content(agreed) != self._content(step):
                continue
            elif state.agreement is None and state.stage != "void":
                self._vault.put(name, messages.encode(member.void(state)))
            if state.masked is not None:
                self._remember(state)
        return own

    def _content(self, agreed: Terms) -> bytes:
        return isolation.content_of(agreed, self._site)

    def _base(self, agreed: Terms) -> Digest:
        return agreed.bases[agreed.members.index(self._site)]

    def _remember(self, state: Member) -> None:
        one = isolation.earlier_of(state)
        kept = [other for other in self._earlier(one.content) if other.transcript != one.transcript]
        self._vault.put(f"content.{one.content.hex()}", msgspec.msgpack.encode([*kept, one]))

    def _earlier(self, content: bytes) -> list[Earlier]:
        stored = self._vault.get(f"content.{content.hex()}")
        return messages.decode(stored, list[Earlier]) if stored else []


def refusal(error: Exception) -> str:
    """Why this site leaves a cohort, for the hub: its own words where they name only sites and counts."""
    if isinstance(error, PeerProtocolError | CryptoError):
        return str(error)[:500]
    return "this site's people or policy do not allow it; its node's log has the reason"


def _name(task: CohortTask) -> str:
    return f"cohort.{task.run}.{task.number}.{task.cohort}"
