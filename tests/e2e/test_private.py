"""A private study over real processes: granted, paid, survived, refused."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from federation import Federation, Followed, declare, records, until, wardround_command, write_csv

import wardround
from wardround.protocol import private
from wardround.protocol.plan import Privacy

pytestmark = pytest.mark.processes
SITES = ("angus", "banff", "clyde")
ROUNDS, STEPS = 3, 1500
CONTRACT = wardround.DataContract(
    columns=(
        wardround.Column(name="age", unit="a", minimum=0.0, maximum=120.0),
        wardround.Column(name="lactate", unit="mmol/L", minimum=0.0, maximum=20.0),
    ),
    label=wardround.Label(name="died"),
    scaling="bounds",
    patient="mrn",
)


def study(title: str, noise: float = 25.0, **privacy: object) -> wardround.Study:
    return declare(
        SITES,
        title=title,
        data=CONTRACT,
        training=wardround.Training(rounds=ROUNDS, epochs=0, steps=STEPS),
        limits=wardround.Limits(absence_seconds=60.0),
        privacy=Privacy(
            delta=1e-3, noise_multiplier=noise, sampling_rate=0.2, patient_records=4, evaluation_noise=20.0, **privacy
        ),
    )


class World:
    def __init__(self, place: Path) -> None:
        self.federation = Federation(place)
        self.federation.start_hub()
        self.researcher = self.federation.enrol_researcher()
        for site in SITES:
            folder = self.federation.enrol_site(site)
            rows = [[*row, f"SECRET{place // 2}"] for place, row in enumerate(records(site, 160))]
            write_csv(folder, rows, header="age,lactate,died,mrn")
            self.federation.start_node(site)

    def budget(self, site: str, *arguments: str) -> dict:
        done = wardround_command("node", "budget", *arguments, self.federation.place / site, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def logged(self, *words: str) -> list[str]:
        return [line for node in self.federation.nodes.values() for line in node.lines(*words)]

    def followed(self, submitted: wardround.Study) -> Followed:
        status = self.researcher.submit(submitted)
        self.federation.approve(status.study, SITES)
        return Followed(self.researcher, self.researcher.status(status.study).runs[-1])


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    made = None
    try:
        made = World(tmp_path_factory.mktemp("private"))
        yield made
    finally:
        if made is not None:
            made.researcher.hub.close()
            made.federation.close()


def test_a_budget_is_asked_for_granted_paid_once_and_held(world: World) -> None:
    refused = world.followed(study("Nobody granted anything"))
    _is_refused_without_a_figure(refused)
    until("a node says who must act", lambda: world.logged("grant"))

    declared = study("Granted")
    for site in SITES:
        world.budget(site, "grant", "--epsilon", "3", "--delta", "1e-3", "--reason", "committee", "--yes")
    run = world.followed(declared)
    node = world.federation.nodes["banff"]
    run.until("round-opened", number=2)
    until("banff trains in round 2", lambda: node.lines('"training"', run.run[:12], '"round": 2'))
    node.kill()
    world.federation.start_node("banff")
    run.completed()
    assert [event["contributors"] for event in run.of("round-closed")] == [list(SITES)] * (ROUNDS + 1)
    for site in SITES:
        status = until("the rest is free again", lambda site=site: _settled(world.budget(site, "show")), seconds=20.0)
        used = {use["kind"]: use["used"] for spent in status["status"]["runs"] for use in spent["uses"]}
        assert used == {"train": ROUNDS, "evaluate": 1}
        assert status["status"]["spent"] == pytest.approx(private.epsilon(declared.plan), rel=1e-6)
    last = run.of("update-accepted", number=ROUNDS + 1)
    assert all(0 <= event["evaluation"]["metrics"]["accuracy"] <= 1 for event in last)
    assert all(event["evaluation"]["metrics"]["auc"] is None for event in last)
    assert all(event["train_seconds"] == 0 for event in run.of("update-accepted"))

    before = world.budget("angus", "show")
    _is_refused_without_a_figure(world.followed(study("Too much", noise=5.0)))
    until("a steward sees what is left", lambda: world.logged("Of epsilon 3 at delta 0.001", "left"))
    assert world.budget("angus", "show") == before
    for log in (world.federation.hub, *world.federation.nodes.values()):
        assert "SECRET" not in log.text()


def _is_refused_without_a_figure(run: Followed) -> None:
    stopped = until("the run stops", lambda: _stopped(run))
    assert "policy/budget" in stopped
    told = stopped.partition("policy/budget")[2].partition(";")[0]
    assert not re.search(r"\d", told)


def _stopped(run: Followed) -> str:
    run.poll(0.5)
    return run.status.reason if run.status is not None and run.status.phase == "stopped" else ""


def _settled(status: dict) -> dict | None:
    found = json.dumps(status)
    return status if '"is_open": true' not in found else None
