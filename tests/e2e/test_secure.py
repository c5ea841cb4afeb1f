"""Secure aggregation over real processes: the hub sees sums, and a kill at any step changes nothing."""

from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest
from federation import Federation, Followed, declare, records, renamed, training, until, write_csv

import wardround
from wardround.codec import canonical, tensors
from wardround.crypto import signing
from wardround.errors import PolicyError
from wardround.ids import Digest
from wardround.node import setup as node_setup
from wardround.protocol.plan import SecureAggregation
from wardround.secagg import opening, roster
from wardround.secagg.roster import Roster, SignedRoster

pytestmark = pytest.mark.processes
SITES = ("angus", "banff", "clyde", "deeside")


class World:
    """Four hospitals that trust two officers, both of whom signed the roster."""

    def __init__(self, place: Path) -> None:
        self.federation = Federation(place)
        self.federation.start_hub()
        self.researcher = self.federation.enrol_researcher()
        self.officers = [signing.generate() for _ in range(2)]
        cards = []
        for site in SITES:
            folder = self.federation.enrol_site(site)
            write_csv(folder, records(site))
            trust(folder, self.officers)
            opened = node_setup.open_node(folder)
            cards.append(opened.membership.card)
            opened.vault.close()
        signed = SignedRoster(canonical.encode(Roster(consortium="Scotland", number=1, members=tuple(cards))))
        for officer in self.officers:
            signed = roster.endorse(signed, officer)
        self.researcher.hub.publish_roster(signed)
        self.roster = roster.roster_digest(signed)
        self.signed = signed
        for site in SITES:
            self.federation.start_node(site)
        self.study = secured(declare(SITES, min_participants=3, training=training(rounds=3, steps=60)), self.roster)
        self.run = self.followed(self.study)
        self.digest = self.run.completed()

    def followed(self, study: wardround.Study) -> Followed:
        """The run of a study that all its sites have just approved."""
        submitted = self.researcher.submit(study)
        self.federation.approve(submitted.study, study.plan.participants)
        return Followed(self.researcher, self.researcher.status(submitted.study).runs[-1])


def trust(folder: Path, officers: list[signing.PrivateKey]) -> None:
    """Let a node trust these officers, all of whom must sign."""
    keys = ", ".join(f'"{signing.public_bytes(officer.public_key()).hex()}"' for officer in officers)
    settings = folder / "node.toml"
    text = settings.read_text().replace("officers = []", f"officers = [{keys}]")
    settings.write_text(text.replace("officer_quorum = 1", f"officer_quorum = {len(officers)}"))


def secured(study: wardround.Study, digest: Digest, **changes: object) -> wardround.Study:
    """The study with secure aggregation."""
    limits = msgspec.structs.replace(study.plan.limits, absence_seconds=20.0)
    terms = SecureAggregation(roster=digest, max_weight=200, **changes)  # type: ignore[arg-type]
    return wardround.Study(msgspec.structs.replace(study.plan, secure=terms, limits=limits), study.initial, None)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    made = None
    try:
        made = World(tmp_path_factory.mktemp("secure"))
        yield made
    finally:
        if made is not None:
            made.researcher.hub.close()
            made.federation.close()


def test_every_round_was_added_up_in_secret(world: World) -> None:
    closed = world.run.of("round-closed")
    opened = world.run.of("cohort-opened")
    assert [event["number"] for event in opened] == [event["number"] for event in closed] == [1, 2, 3, 4, 5]
    assert all(event["survivors"] == list(SITES) and not event["blamed"] for event in opened)
    for event in world.run.of("update-accepted"):
        assert (event["update"], event["records"], event["evaluation"]) == (None, 0, None)
    last = world.run.of("round-combined")[-1]["evaluation"]
    assert last["records"] > 0
    assert 0.0 <= last["metrics"]["auc"] <= 1.0


def test_the_model_is_the_plain_one_but_for_rounding(world: World) -> None:
    plain = world.study.plan
    plain = msgspec.structs.replace(plain, secure=None)
    sources = {site: node_setup.open_records(folder, node_setup.load_config(folder)) for site, folder in folders(world)}
    simulated = wardround.simulate(wardround.Study(plain, world.study.initial, None), sources)
    secret = model(world, world.run)
    for name, values in simulated.arrays().items():
        assert np.abs(np.asarray(values)).max() > 1e-3
        assert np.abs(np.asarray(values) - secret[name]).max() < 1e-5


def test_the_same_plan_simulated_gives_the_same_model_bit_for_bit(world: World) -> None:
    sources = {site: node_setup.open_records(folder, node_setup.load_config(folder)) for site, folder in folders(world)}
    assert canonical.digest(wardround.simulate(world.study, sources).model) == world.digest


def test_everybody_can_check_that_its_vector_is_in_the_sum(world: World) -> None:
    opened = node_setup.open_node(world.federation.place / "banff")
    try:
        members = opened.membership.roster(world.roster).members
        keys = {member.site: signing.load_public(member.identity) for member in members}
        for event in world.run.of("cohort-opened"):
            evidence = opened.hub.evidence(world.run.run, event["number"], event["cohort"])
            opening.check_evidence(evidence, keys)
            assert [entry.site for entry in evidence.survivors] == event["survivors"]
    finally:
        opened.vault.close()
        opened.hub.close()


def test_a_hub_killed_in_every_cohort_gives_the_same_model(world: World) -> None:
    run = world.followed(renamed(world.study, "The hub is killed in cohorts"))
    for number in (1, 2, 3, 4):
        run.until("cohort-formed", number=number)
        world.federation.hub.kill()
        world.federation.start_hub()
    assert run.completed() == world.digest
    assert all(event["survivors"] == list(SITES) for event in run.of("cohort-opened"))


@pytest.mark.parametrize("step", ["loading", "training", "masking", "sending"])
def test_a_node_killed_at_a_step_gives_the_same_model(world: World, step: str) -> None:
    node = world.federation.nodes["clyde"]
    run = world.followed(renamed(world.study, f"A node is killed while {step}"))
    until(f"clyde is {step}", lambda: node.lines(f'"{step}"', run.run[:12]))
    node.kill()
    world.federation.start_node("clyde")
    assert run.completed() == world.digest
    assert all(event["survivors"] == list(SITES) for event in run.of("cohort-opened"))


def test_a_site_that_vanishes_from_a_cohort_costs_only_its_own_update(world: World) -> None:
    run = world.followed(renamed(world.study, "A site vanishes"))
    run.until("cohort-formed", number=2)
    world.federation.nodes["deeside"].kill()
    run.completed(seconds=120.0)
    world.federation.start_node("deeside")
    assert all(len(event["survivors"]) >= 3 for event in run.of("cohort-opened"))
    assert run.of("cohort-opened")[-1]["survivors"] == ["angus", "banff", "clyde"]


def test_a_site_may_insist_on_secure_aggregation(world: World) -> None:
    settings = world.federation.place / "angus" / "node.toml"
    text = settings.read_text()
    settings.write_text(text.replace("secure_only = false", "secure_only = true"))
    try:
        plain = world.researcher.submit(declare(SITES, title="In the clear"))
        shown = world.researcher.submit(secured(declare(SITES, title="Shown"), world.roster, site_metrics=True))
        for study in (plain.study, shown.study):
            with pytest.raises(PolicyError, match="secure aggregation of everything"):
                world.federation.decide("angus", study, "approve")
    finally:
        settings.write_text(text)


def test_a_roster_with_too_few_officers_is_refused(world: World) -> None:
    lone = signing.generate()
    roster_ = msgspec.structs.replace(canonical.decode(world.signed.roster, Roster), number=2)
    signed = roster.endorse(roster.endorse(SignedRoster(canonical.encode(roster_)), world.officers[0]), lone)
    world.researcher.hub.publish_roster(signed)
    study = secured(declare(SITES, title="One officer", min_participants=3), roster.roster_digest(signed))
    limits = msgspec.structs.replace(study.plan.limits, round_timeout_seconds=4.0, patience=1, absence_seconds=4.0)
    study = wardround.Study(msgspec.structs.replace(study.plan, limits=limits), study.initial, None)
    run = world.followed(study)
    stopped = run_until_stopped(run)
    assert "sites needed are there" in stopped
    node = world.federation.nodes["angus"]
    assert until("angus says why", lambda: node.lines("1 valid signatures of this site's 2 officers"))


def run_until_stopped(run: Followed) -> str:
    """Why the run stopped."""

    def found() -> str:
        run.poll(0.5)
        return run.status.reason if run.status is not None and run.status.phase == "stopped" else ""

    return until("the run stops", found)


def folders(world: World) -> list[tuple[str, Path]]:
    return [(site, world.federation.place / site) for site in SITES]


def model(world: World, run: Followed) -> dict[str, np.ndarray]:
    """The run's final arrays."""
    folder = world.federation.place / f"model-{run.run[-8:]}"
    path = world.researcher.fetch(run.run, folder)
    return dict(tensors.unpack(path.read_bytes(), world.study.plan.manifest))


def late(study: wardround.Study, title: str, **changes: object) -> wardround.Study:
    """The study with asynchronous training: three of four make a step."""
    terms = wardround.Asynchronous(buffer=3, max_staleness=5)
    plan = msgspec.structs.replace(study.plan, title=title, **changes)
    made = msgspec.structs.replace(plan.training, rounds=8, asynchronous=terms)
    return wardround.Study(msgspec.structs.replace(plan, training=made), study.initial, None)


def check_buffers(run: Followed) -> None:
    """Every step is of three updates at least, each of another site, and some were late."""
    buffers = [event["contributors"] for event in run.of("round-closed") if 1 < event["number"] <= 9]
    assert len(buffers) == 8
    assert all(len(set(buffer)) == len(buffer) >= 3 for buffer in buffers)
    accepted = run.of("update-accepted")
    trained = [(event["site"], event["trained"] or event["number"]) for event in accepted]
    assert len(set(trained)) == len(trained), "no training counts twice"
    assert any(event["trained"] for event in accepted), "nothing was late"


def test_asynchronous_training_survives_a_hub_and_a_node_that_are_killed(world: World) -> None:
    rule = wardround.Aggregation(rule="median", hostile=1)
    study = late(world.study, "Late, in the open", secure=None, aggregation=rule, screening=wardround.Screening())
    run = world.followed(study)
    run.until("round-combined", number=3)
    world.federation.hub.kill()
    world.federation.nodes["angus"].kill()
    world.federation.start_hub()
    world.federation.start_node("angus")
    run.completed()
    check_buffers(run)
    assert run.of("update-accepted", site="angus")[-1]["number"] > 3
    assert not run.of("update-set-aside")


def test_asynchronous_training_in_secret_survives_a_hub_and_a_node_that_are_killed(world: World) -> None:
    run = world.followed(late(world.study, "Late, in secret"))
    run.until("cohort-formed", number=4)
    world.federation.nodes["clyde"].kill()
    world.federation.hub.kill()
    world.federation.start_hub()
    world.federation.start_node("clyde")
    run.completed()
    check_buffers(run)
    formed = [event["terms"] for event in run.of("cohort-formed") if event["terms"]["kind"] == "train"]
    assert all(len(set(terms["bases"])) > 1 for terms in formed if min(terms["discounts"]) < 1.0)
    assert any(min(terms["discounts"]) < 1.0 for terms in formed), "no late update was in a cohort"
    for event in run.of("update-accepted"):
        assert (event["update"], event["records"], event["evaluation"]) == (None, 0, None)
