"""Hub and nodes killed, stopped and cut off in the middle of a run: the model comes out the same, bit for bit."""

import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest
from federation import (
    Federation,
    Followed,
    Proxy,
    declare,
    is_alive,
    records,
    renamed,
    training,
    until,
    wardround_command,
    write_csv,
)

import wardround
from wardround.codec import canonical, tensors
from wardround.ids import study_of
from wardround.node import setup as node_setup

pytestmark = pytest.mark.processes
SITES = ("angus", "banff", "clyde", "deeside")
STEPS = 1200
LOCAL = wardround.Local(algorithm="scaffold", personal=0.1, divergence=True)


class World:
    """Four hospitals with running nodes, and what the undisturbed run gave."""

    def __init__(self, place: Path) -> None:
        self.federation = Federation(place)
        self.federation.start_hub()
        self.researcher = self.federation.enrol_researcher()
        for site in SITES:
            write_csv(self.federation.enrol_site(site), records(site))
        port = int(self.federation.url.rpartition(":")[2])
        self.proxy = Proxy(port)
        settings = place / "deeside" / "node.toml"
        settings.write_text(settings.read_text().replace(f":{port}", f":{self.proxy.port}"))
        for site in SITES:
            self.federation.start_node(site)
        self.study = declare(
            SITES, training=training(rounds=3, steps=STEPS), limits=wardround.Limits(absence_seconds=60.0)
        )
        self.undisturbed = self.followed(self.study)
        self.digest = self.undisturbed.completed()

    def followed(self, study: wardround.Study) -> Followed:
        """The run of a study that all its sites have just approved."""
        submitted = self.researcher.submit(study)
        self.federation.approve(submitted.study, study.plan.participants)
        return Followed(self.researcher, self.researcher.status(submitted.study).runs[-1])


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    place = tmp_path_factory.mktemp("recovery")
    made = None
    try:
        made = World(place)
        yield made
    finally:
        if made is not None:
            made.researcher.hub.close()
            made.proxy.cut()
            made.federation.close()


def test_an_undisturbed_run_of_four_nodes_completes(world: World) -> None:
    closed = world.undisturbed.of("round-closed")
    assert [event["number"] for event in closed] == [1, 2, 3, 4, 5]
    assert all(event["contributors"] == list(SITES) for event in closed)
    assert not world.undisturbed.of("update-refused")
    last = world.undisturbed.of("update-accepted", number=5)
    assert all(0.0 <= event["evaluation"]["metrics"]["auc"] <= 1.0 for event in last)


def test_the_same_plan_simulated_gives_the_same_model(world: World) -> None:
    folders = {site: world.federation.place / site for site in SITES}
    sources = {
        site: node_setup.open_records(folder, node_setup.load_config(folder)) for site, folder in folders.items()
    }
    simulated = wardround.simulate(world.study, sources)
    assert simulated.status.phase == "completed"
    assert canonical.digest(simulated.model) == world.digest


def test_a_hub_killed_in_the_middle_of_rounds_gives_the_same_model(world: World) -> None:
    run = world.followed(renamed(world.study, "The hub is killed"))
    run.until("update-accepted", number=2)
    for number in (2, 3):
        run.until("round-opened", number=number)
        world.federation.hub.kill()
        time.sleep(0.3)
        world.federation.start_hub()
    assert run.completed() == world.digest
    assert [event["contributors"] for event in run.of("round-closed")] == [list(SITES)] * 5


def test_a_node_killed_while_it_trains_gives_the_same_model(world: World) -> None:
    node = world.federation.nodes["banff"]
    run = world.followed(renamed(world.study, "A node is killed"))
    run.until("round-opened", number=3)
    until("banff trains in round 3", lambda: node.lines('"training"', run.run[:12], '"round": 3'))
    workers = node.children()
    assert workers
    assert run.find(event="update-accepted", number=3, site="banff") is None
    node.kill()
    until("its workers end with it", lambda: not any(is_alive(pid) for pid in workers), seconds=10.0)
    world.federation.start_node("banff")
    assert run.completed() == world.digest
    assert run.find(event="update-accepted", number=3, site="banff") is not None


def test_a_hub_and_a_node_killed_together_give_the_same_model(world: World) -> None:
    run = world.followed(renamed(world.study, "Both are killed"))
    run.until("update-accepted", number=2)
    world.federation.hub.kill()
    world.federation.nodes["clyde"].kill()
    world.federation.start_node("clyde")
    world.federation.start_hub()
    assert run.completed() == world.digest


def test_what_a_site_remembers_survives_its_death_and_its_own_model_is_the_simulated_one(world: World) -> None:
    rounds = msgspec.structs.replace(training(rounds=4, steps=STEPS), local=LOCAL)
    study = declare(SITES, title="Sites remember", training=rounds, limits=wardround.Limits(absence_seconds=60.0))
    folders = {site: world.federation.place / site for site in SITES}
    sources = {
        site: node_setup.open_records(folder, node_setup.load_config(folder)) for site, folder in folders.items()
    }
    simulated = wardround.simulate(study, sources)
    node = world.federation.nodes["banff"]
    run = world.followed(study)
    run.until("round-opened", number=4)
    until("banff trains in round 4", lambda: node.lines('"training"', run.run[:12], '"round": 4'))
    node.kill()
    world.federation.hub.kill()
    world.federation.start_node("banff")
    world.federation.start_hub()
    assert run.completed() == canonical.digest(simulated.model)
    for site in SITES:
        target = folders[site] / "own.safetensors"
        done = wardround_command("node", "model", folders[site], study.id[:16], "--to", target)
        assert done.returncode == 0, done.stderr
        found = tensors.unpack(target.read_bytes(), study.plan.manifest)
        for name, array in simulated.personal[site].items():
            np.testing.assert_array_equal(found[name], array)
        assert not np.array_equal(found["weight"], simulated.arrays()["weight"])


def test_a_site_cut_off_is_not_waited_for_and_comes_back(world: World) -> None:
    study = declare(
        SITES,
        title="A line is cut",
        min_participants=3,
        training=training(rounds=300, steps=STEPS),  # more than fit into the wait of a node that was cut off
        limits=wardround.Limits(absence_seconds=6.0),
    )
    run = world.followed(study)
    run.until("update-accepted", number=2, site="deeside")
    world.proxy.cut()
    absent = run.until("site-absent", site="deeside", seconds=20.0)
    closed = run.until("round-closed", number=absent["number"])
    assert "deeside" not in closed["contributors"]
    world.proxy.mend()
    until(
        "deeside takes part again",
        lambda: (
            run.poll(0.5)
            or next((e for e in run.of("update-accepted", site="deeside") if e["number"] > absent["number"]), None)
        ),
        seconds=40.0,
    )
    after = run.of("round-closed")[-1]["number"]
    run.until("round-closed", number=after + 2)
    assert all(len(event["contributors"]) >= 3 for event in run.of("round-closed"))
    world.researcher.act(study_of(run.run), "withdraw", "seen enough")


def test_processes_end_when_they_are_asked_and_leave_no_worker(world: World) -> None:
    node, hub = world.federation.nodes["angus"], world.federation.hub
    run = world.followed(renamed(world.study, "Stopped in the middle"))
    run.until("update-accepted", number=2)
    workers = node.children()
    assert workers
    assert hub.stop() == 0
    assert "Traceback" not in hub.text()
    assert node.stop() == 0
    until("its workers end with it", lambda: not any(is_alive(pid) for pid in workers), seconds=10.0)
    world.federation.start_hub()
    world.federation.start_node("angus")
    assert run.completed() == world.digest
    until("a worker ends with its run", lambda: not node.children(), seconds=10.0)
