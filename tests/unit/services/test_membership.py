"""The node's part in cohorts against a hub that lies, and against its own crashes."""

import random

import msgspec
import numpy as np
import pytest
from msgspec import UNSET
from tests.simulation import fakes

from wardround.crypto import agreement, signing
from wardround.errors import PeerProtocolError, PolicyError, SignatureError
from wardround.ids import Digest
from wardround.protocol import plan as plans
from wardround.protocol.messages import CohortTask, PairTask
from wardround.protocol.plan import Asynchronous, Privacy, SecureAggregation
from wardround.protocol.policy import SitePolicy
from wardround.protocol.secure import cohort_terms, epoch_of, secure_terms
from wardround.secagg import cohort as cohorts
from wardround.secagg import isolation, roster
from wardround.secagg.cohort import CohortSealed
from wardround.secagg.messages import Delivery, Invitation, Survivors
from wardround.secagg.roster import Roster, RosterMember, SignedRoster
from wardround.services.membership import Membership
from wardround.storage.memory import MemoryVault

SITES = ("angus", "banff", "clyde", "deeside", "elgin")
BASE, OTHER = Digest("ab" * 32), Digest("cd" * 32)
NOW = fakes.T0
OFFICERS = [signing.PrivateKey.from_private_bytes(bytes([salt]) * 32) for salt in (1, 2)]
AGREEMENT = {site: agreement.generate() for site in SITES}


class Site:
    """A node's membership on a vault that survives it."""

    def __init__(self, name, world):
        self.name, self.world, self.vault = name, world, MemoryVault()
        self.policy = SitePolicy(min_participants=3, min_records=1)
        self.rng = random.Random(name)
        self.start()

    def now(self):
        return self.world.now

    def draw(self, size):
        return self.rng.randbytes(size)

    def start(self):
        """Boot from the vault."""
        self.membership = Membership(
            self.name,
            key=fakes.key_of(self.name),
            agreement_key=AGREEMENT[self.name],
            officers=[signing.public_bytes(officer.public_key()) for officer in OFFICERS],
            quorum=2,
            fetch=lambda _: self.world.roster,
            vault=self.vault,
            policy=self.policy,
            clock=self,
            entropy=self,
        )


class World:
    """Five sites with pair keys, a plan, and a hub that does what the test says."""

    def __init__(self):
        self.now = NOW
        members = tuple(
            RosterMember(
                site=site,
                identity=signing.public_bytes(fakes.key_of(site).public_key()),
                agreement=agreement.public_bytes(AGREEMENT[site].public_key()),
            )
            for site in SITES
        )
        unsigned = SignedRoster(fakes.canonical.encode(Roster(consortium="c", number=1, members=members)))
        self.roster = roster.endorse(roster.endorse(unsigned, OFFICERS[0]), OFFICERS[1])
        self.digest = roster.roster_digest(self.roster)
        made = fakes.make_plan(
            sites=SITES, quorum=3, rounds=3, scaling="federated", server={}, limits={}, expires=NOW + 10**6
        )
        self.plan = msgspec.structs.replace(made, secure=SecureAggregation(roster=self.digest))
        self.study = plans.study_id(self.plan)
        self.run = f"{self.study}.1"
        self.sites = {site: Site(site, self) for site in SITES}
        self.pair()

    def pair(self):
        """Let every pair of sites set up its key."""
        offers = {}
        for site in SITES:
            wanted = tuple(other for other in SITES if site < other)
            task = PairTask(run=self.run, study=self.study, roster=self.digest, wanted=wanted)
            for offer in self.sites[site].membership.pair(task, self.plan).offers:
                offers.setdefault(offer.receiver, []).append(offer)
        for site, mine in offers.items():
            task = PairTask(run=self.run, study=self.study, roster=self.digest, offers=tuple(mine))
            assert self.sites[site].membership.pair(task, self.plan).accepted == tuple(one.sender for one in mine)

    def terms(self, members=SITES, *, number=2, attempt=1, base=BASE, run=None, epoch=None, **changes):
        """Terms as an honest hub would write them, with changes."""
        run = run or self.run
        kind = ("statistics", "train", "train", "train", "evaluate")[number - 1]
        made = cohort_terms(
            secure_terms(self.plan),
            study=self.study,
            run=run,
            number=number,
            attempt=attempt,
            kind=kind,
            nonces={site: self.sites[site].membership.nonce(run, number) for site in members},
            bases=dict.fromkeys(members, base),
            discounts={},
            standardization=None,
            epoch=epoch or epoch_of(self.now),
        )
        return msgspec.structs.replace(made, **changes)

    def task(self, agreed, step):
        return CohortTask(run=agreed.run, study=self.study, number=agreed.number, cohort=agreed.attempt, step=step)

    def begin(self, agreed):
        """A cohort as the hub sees it."""
        return cohorts.cohort_of([CohortSealed(at=NOW, terms=agreed, stage_seconds=60.0)])

    def play(self, agreed, stages=("sharing", "masking", "agreeing", "revealing"), vector=b"vector"):
        """Let all members take these stages; the hub's state after them."""
        hub = self.begin(agreed)
        for stage in stages:
            for site in agreed.members:
                step = cohorts.step_for(hub, site)
                if hub.stage == stage and step is not None:
                    answer = self.react(site, agreed, step, vector)
                    key = fakes.key_of(site).public_key()
                    for event in cohorts.receive(hub, site, answer, key, NOW):
                        hub = cohorts.apply(hub, event)
        return hub

    def react(self, site, agreed, step, vector=b"vector"):
        """What a site answers to a step."""
        membership, task = self.sites[site].membership, self.task(agreed, step)
        match step:
            case Invitation():
                return membership.share(task, step.terms, self.plan)
            case Delivery():
                digest = Digest(fakes.canonical.digest(vector + site.encode()))
                return membership.masked(task, membership.ready(task, step), digest)
            case Survivors():
                return membership.agree(task, step)
            case _:
                return membership.reveal(task, step)


@pytest.fixture
def world():
    return World()


def test_an_honest_hub_opens_a_cohort(world):
    assert world.play(world.terms()).stage == "opened"


@pytest.mark.parametrize(
    "changes",
    [
        {"threshold": 2},
        {"minimum": 2},
        {"clip": 1e6},
        {"max_weight": 10**9},
        {"deviation": 1.0},
        {"capacity": 5000},
        {"kind": "evaluate"},
        {"roster": OTHER},
        {"sections": ()},
        {"discounts": (0.5,) * 5},
        {"bases": (BASE, BASE, BASE, BASE, OTHER)},
        {"nonces": (bytes(32),) * 5},
        {"number": 3},
        {"attempt": 2},
        {"epoch": 1},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_terms_that_the_plan_does_not_give_are_refused(world, changes):
    true = world.terms()
    lie = msgspec.structs.replace(true, **changes)
    with pytest.raises((PeerProtocolError, PolicyError)):
        world.sites["angus"].membership.share(world.task(true, Invitation(lie)), lie, world.plan)
    assert not world.sites["angus"].vault.names("cohort.")


def test_fewer_members_than_the_sites_own_policy_asks_for_are_refused(world):
    world.sites["angus"].policy = SitePolicy(min_participants=5, min_records=1)
    world.sites["angus"].start()
    agreed = world.terms(SITES[:4])
    with pytest.raises(PeerProtocolError, match="policy asks for at least 5"):
        world.react("angus", agreed, Invitation(agreed))


def test_the_same_step_after_a_crash_gives_the_same_bytes(world):
    agreed = world.terms()
    hub = world.begin(agreed)
    for _ in range(4):
        for site in agreed.members:
            step = cohorts.step_for(hub, site)
            if step is None:
                continue
            first = world.react(site, agreed, step)
            world.sites[site].start()
            assert world.react(site, agreed, step) == first
            for event in cohorts.receive(hub, site, first, fakes.key_of(site).public_key(), NOW):
                hub = cohorts.apply(hub, event)
    assert hub.stage == "opened"


def test_another_vector_after_a_crash_is_refused(world):
    agreed = world.terms()
    hub = world.play(agreed, stages=("sharing",))
    step = cohorts.step_for(hub, "angus")
    world.react("angus", agreed, step)
    world.sites["angus"].start()
    with pytest.raises(PeerProtocolError, match="never used twice"):
        world.react("angus", agreed, step, vector=b"another")


def test_an_old_cohort_never_comes_back(world):
    first, second = world.terms(), world.terms(number=3, base=OTHER)
    hub = world.play(first, stages=("sharing", "masking"))
    survivors = cohorts.step_for(hub, "angus")
    world.play(second, stages=("sharing",))
    for step in (Invitation(first), survivors):
        with pytest.raises(PeerProtocolError):
            world.react("angus", first, step)
    world.sites["angus"].membership.close(world.run)
    for agreed in (first, second):
        with pytest.raises(PeerProtocolError, match="later cohort"):
            world.react("angus", agreed, Invitation(agreed))


def test_two_cohorts_that_differ_by_one_member_are_refused(world):
    assert world.play(world.terms()).stage == "opened"
    again = world.terms(SITES[:4], attempt=2)
    hub = world.play(again, stages=("sharing",))
    with pytest.raises(PeerProtocolError, match="single out"):
        world.react("angus", again, cohorts.step_for(hub, "angus"))


def test_without_that_rule_the_second_would_open_as_well(world, monkeypatch):
    monkeypatch.setattr(isolation, "isolates", lambda *_, **__: False)
    assert world.play(world.terms()).stage == "opened"
    assert world.play(world.terms(SITES[:4], attempt=2)).stage == "opened"


def test_another_model_in_the_same_round_does_not_help_the_hub(world):
    for number in (1, 2):
        world.play(world.terms(number=number))
        again = world.terms(SITES[:4], number=number, attempt=2, base=OTHER)
        with pytest.raises(PeerProtocolError, match="two models for one round"):
            world.react("angus", again, Invitation(again))


def test_nor_does_another_run_of_the_study_over_the_same_statistics(world):
    world.play(world.terms(number=1))
    again = world.terms(SITES[:4], number=1, run=f"{world.study}.2", base=OTHER)
    hub = world.play(again, stages=("sharing",))
    with pytest.raises(PeerProtocolError, match="single out"):
        world.react("angus", again, cohorts.step_for(hub, "angus"))


def test_a_cohort_that_all_have_voided_is_submitted_again(world):
    world.play(world.terms(), stages=("sharing", "masking"))
    assert world.play(world.terms(attempt=2)).stage == "opened"


def test_too_few_voids_do_not_make_it_safe(world):
    # All five masked; then only three enter the new cohort, and a hub with two colluders might open the first.
    world.play(world.terms(), stages=("sharing", "masking", "agreeing"))
    again = world.terms(SITES[:4], attempt=2)
    hub = world.play(again, stages=("sharing",))
    with pytest.raises(PeerProtocolError, match="single out"):
        world.react("angus", again, cohorts.step_for(hub, "angus"))


def test_a_void_in_anothers_name_does_not_count(world):
    world.play(world.terms(), stages=("sharing", "masking"))
    again = world.terms(attempt=2)
    hub = world.play(again, stages=("sharing",))
    step = cohorts.step_for(hub, "angus")
    forged = tuple((site, earlier, bytes(64)) for site, earlier, _ in step.voided)
    with pytest.raises(PeerProtocolError, match="single out"):
        world.react("angus", again, msgspec.structs.replace(step, voided=forged))
    assert world.react("angus", again, step).transcript == hub.transcript


def test_signing_after_voiding_is_refused(world):
    first = world.terms()
    hub = world.play(first, stages=("sharing", "masking"))
    step = cohorts.step_for(hub, "angus")
    again = world.terms(attempt=2)
    world.react("angus", again, Invitation(again))
    with pytest.raises(PeerProtocolError):
        world.react("angus", first, step)


def test_a_second_offer_of_a_pair_key_is_refused(world):
    stranger = World()
    task = PairTask(run=world.run, study=world.study, roster=world.digest, wanted=("banff",))
    offer = stranger.sites["angus"].membership.pair(task, world.plan).offers[0]
    assert offer.sender == "angus"
    again = PairTask(run=world.run, study=world.study, roster=world.digest, offers=(offer,))
    with pytest.raises(PeerProtocolError, match="another key before"):
        world.sites["banff"].membership.pair(again, world.plan)


@pytest.mark.parametrize("change", ["signature", "sealed", "receiver", "sender", "epoch"])
def test_an_offer_that_was_changed_is_refused(world, change):
    task = PairTask(run=world.run, study=world.study, roster=world.digest, wanted=("elgin",))
    offer = world.sites["angus"].membership.pair(task, world.plan).offers[0]
    other = {"signature": bytes(64), "sealed": offer.sealed[:-1] + b"x", "receiver": "clyde", "sender": "banff"}
    lie = msgspec.structs.replace(offer, **{change: other.get(change, offer.epoch + 1)})
    world.sites["elgin"].vault.delete(f"pair.{world.digest}.angus")
    task = PairTask(run=world.run, study=world.study, roster=world.digest, offers=(lie,))
    with pytest.raises((PeerProtocolError, SignatureError)):
        world.sites["elgin"].membership.pair(task, world.plan)


def test_a_roster_that_too_few_officers_signed_is_refused(world):
    site = world.sites["angus"]
    site.vault.delete(f"roster.{world.digest}")
    world.roster = msgspec.structs.replace(world.roster, endorsements=world.roster.endorsements[:1])
    site.start()
    agreed = world.terms()
    with pytest.raises(SignatureError, match="1 valid signatures"):
        world.react("angus", agreed, Invitation(agreed))


def test_a_roster_with_another_key_of_ones_own_is_refused(world):
    site = world.sites["angus"]
    site.vault.delete(f"roster.{world.digest}")
    members = [msgspec.structs.replace(one) for one in fakes.canonical.decode(world.roster.roster, Roster).members]
    members[0] = msgspec.structs.replace(
        members[0], agreement=agreement.public_bytes(agreement.generate().public_key())
    )
    forged = SignedRoster(fakes.canonical.encode(Roster(consortium="c", number=1, members=tuple(members))))
    world.roster = roster.endorse(roster.endorse(forged, OFFICERS[0]), OFFICERS[1])
    site.start()
    with pytest.raises(PolicyError, match="other keys for this site"):
        site.membership.roster(roster.roster_digest(world.roster))


def test_pair_keys_go_forward_with_the_days_and_not_back(world):
    later = world.terms(epoch=epoch_of(NOW) + 1)
    world.react("angus", later, Invitation(later))
    earlier = world.terms(number=3, base=OTHER)
    with pytest.raises(PeerProtocolError, match="no way to epoch"):
        world.react("angus", earlier, Invitation(earlier))


def test_a_run_of_another_study_is_refused(world):
    agreed = world.terms(run=f"{'9' * 64}.1")
    with pytest.raises(PeerProtocolError):
        world.react("angus", agreed, Invitation(agreed))


def asynchronous(world):
    """The same world with a plan that takes late updates."""
    late = Asynchronous(buffer=3, max_staleness=2)
    training = msgspec.structs.replace(world.plan.training, rounds=3, asynchronous=late)
    world.plan = msgspec.structs.replace(world.plan, training=training)
    world.study = plans.study_id(world.plan)
    world.run = f"{world.study}.1"
    return world


def late_terms(world, number, trained, members=SITES, **changes):
    """Terms of a round's cohort in which each member has trained for the round that `trained` says."""
    nonces = {site: world.sites[site].membership.nonce(world.run, trained[site]) for site in members}
    discounts = {site: float((1 + number - trained[site]) ** -0.5) for site in members}
    made = world.terms(members, number=number, **changes)
    return msgspec.structs.replace(
        made,
        nonces=tuple(nonces[site] for site in made.members),
        discounts=tuple(discounts[site] for site in made.members),
    )


def test_late_members_join_with_the_discount_that_their_own_nonce_gives(world):
    asynchronous(world)
    trained = dict(zip(SITES, (2, 3, 4, 4, 4), strict=True))
    assert world.play(late_terms(world, 4, trained)).stage == "opened"


@pytest.mark.parametrize("lie", [1.0, 0.5, 1e-9])
def test_a_discount_that_the_plan_does_not_give_is_refused(world, lie):
    asynchronous(world)
    true = late_terms(world, 4, dict.fromkeys(SITES, 3))
    told = msgspec.structs.replace(true, discounts=(lie, *true.discounts[1:]))
    with pytest.raises(PeerProtocolError):
        world.react(SITES[0], told, Invitation(told))


def test_an_update_beyond_the_plans_staleness_is_in_no_cohort(world):
    asynchronous(world)
    late = late_terms(world, 4, dict.fromkeys(SITES, 1))
    with pytest.raises(PeerProtocolError, match="nonce"):
        world.react("angus", late, Invitation(late))


def test_the_same_updates_weighed_otherwise_each_time_would_be_equations_and_are_refused(world):
    """With as many rounds as members, and a discount that changes for each, a hub could solve for every update."""
    asynchronous(world)
    trained = dict(zip(SITES, (2, 2, 3, 3, 3), strict=True))
    weights = [[float((1 + number - trained[site]) ** -0.5) for site in SITES[1:3]] for number in (3, 4)]
    assert abs(np.linalg.det(np.array(weights))) > 0.01, "two rounds would tell two groups of members apart"
    assert world.play(late_terms(world, 3, trained)).stage == "opened"
    again = late_terms(world, 4, trained)
    for site in SITES:
        with pytest.raises(PeerProtocolError, match="another round, or beside"):
            world.react(site, again, Invitation(again))


def test_one_members_new_update_beside_the_old_ones_of_all_others_is_refused(world):
    """The difference of two such sums would be that member's alone."""
    asynchronous(world)
    first = dict(zip(SITES, (3, 3, 3, 3, 3), strict=True))
    world.play(late_terms(world, 4, first), stages=("sharing", "masking"))
    second = late_terms(world, 4, first | {SITES[4]: 4}, attempt=2)
    for site in SITES[:4]:
        with pytest.raises(PeerProtocolError, match="another round, or beside"):
            world.react(site, second, Invitation(second))


def test_a_cohort_of_the_same_late_updates_is_submitted_again_in_its_round(world):
    asynchronous(world)
    trained = dict(zip(SITES, (2, 3, 4, 4, 4), strict=True))
    world.play(late_terms(world, 4, trained), stages=("sharing", "masking"))
    assert world.play(late_terms(world, 4, trained, attempt=2)).stage == "opened"


def test_another_run_of_an_asynchronous_study_over_the_same_model_is_refused(world):
    asynchronous(world)
    assert world.play(late_terms(world, 2, dict.fromkeys(SITES, 2))).stage == "opened"
    world.run = f"{world.study}.2"
    again = late_terms(world, 2, dict.fromkeys(SITES, 2))
    with pytest.raises(PeerProtocolError, match="another round, or beside"):
        world.react("angus", again, Invitation(again))


def test_a_hub_that_asks_for_less_noise_than_the_plan_is_refused(world):
    training = msgspec.structs.replace(world.plan.training, rounds=4, epochs=0, steps=1)
    privacy = Privacy(delta=1e-3, noise="shared", noise_multiplier=2.0)
    world.plan = msgspec.structs.replace(world.plan, training=training, privacy=privacy)
    true = world.terms()
    assert true.deviation > 0
    for lie in (true.deviation / 2, true.deviation * (1 - 1e-12), UNSET):
        told = msgspec.structs.replace(true, deviation=lie)
        with pytest.raises(PeerProtocolError):
            world.sites["angus"].membership.share(world.task(true, Invitation(told)), told, world.plan)
    assert world.sites["angus"].membership.share(world.task(true, Invitation(true)), true, world.plan)
