"""A disk that is full, at the hub and at a node: nothing is lost, and the same work is done once there is space."""

import os
import random
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from federation import Federation, Followed, declare, records, training, until, write_csv
from wire import Wire

import wardround

pytestmark = pytest.mark.processes
MEGABYTE = 1024 * 1024


@pytest.fixture(scope="module")
def small_disks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Path]]:
    """Two file systems of 24 MiB each."""
    places = [tmp_path_factory.mktemp("small") for _ in range(2)]
    mounted: list[Path] = []
    try:
        for place in places:
            command = ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(place)]
            with suppress(OSError):
                if subprocess.run(command, check=False, capture_output=True, timeout=10.0).returncode == 0:
                    mounted.append(place)
        if len(mounted) < len(places):
            pytest.skip("this user may not mount a tmpfs")
        yield places
    finally:
        for place in mounted:
            subprocess.run(["umount", "-l", str(place)], check=False, timeout=10.0)


def fill(place: Path) -> Path:
    """Fill a file system to its last byte."""
    path = place / "filler"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT)
    try:
        for size in (MEGABYTE, 4096, 1):
            with suppress(OSError):
                while True:
                    os.write(descriptor, b"\x00" * size)
    finally:
        os.close(descriptor)
    return path


class World:
    """A hub on one small disk, and a node whose state is on another."""

    def __init__(self, place: Path, disks: list[Path]) -> None:
        self.disks = disks
        self.federation = Federation(place, hub_folder=disks[0] / "hub")
        self.federation.start_hub()
        self.researcher = self.federation.enrol_researcher()
        for site in ("islay", "jura"):
            write_csv(self.federation.enrol_site(site), records(site))
        settings = place / "jura" / "node.toml"
        settings.write_text(f'state = "{disks[1] / "state"}"\n' + settings.read_text())
        for site in ("islay", "jura"):
            self.federation.start_node(site)

    def submit(self, title: str) -> Followed:
        study = declare(
            ["islay", "jura"],
            title=title,
            training=training(rounds=40, steps=5),
            limits=wardround.Limits(absence_seconds=60.0),
        )
        submitted = self.researcher.submit(study)
        self.federation.approve(submitted.study, study.plan.participants)
        return Followed(self.researcher, self.researcher.status(submitted.study).runs[-1])


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, small_disks: list[Path]) -> Iterator[World]:
    made = World.__new__(World)
    try:
        made.__init__(tmp_path_factory.mktemp("full-disk"), small_disks)
        yield made
    finally:
        if hasattr(made, "researcher"):
            made.researcher.hub.close()
        if hasattr(made, "federation"):
            made.federation.close()


def test_a_full_disk_at_the_hub_refuses_an_upload_that_completes_later(world: World) -> None:
    wire = Wire(world.federation.url, world.federation.place / "ada", "ada")
    wire.meet()
    data = random.Random(1).randbytes(3 * MEGABYTE)
    filler = fill(world.disks[0])
    try:
        answer = wire.put("new", data)
        assert (answer.status, answer.code) == (507, "storage/full")
        assert "free some space" in answer.problem.who
    finally:
        filler.unlink()
    held = wire.held("new", data)
    assert held < len(data)
    assert wire.put("new", data, start=held).status == 201
    assert wire.held("new", data) == len(data)


def test_a_full_disk_at_the_hub_in_the_middle_of_a_run_is_waited_out(world: World) -> None:
    first = world.submit("Undisturbed")
    digest = first.completed()
    run = world.submit("The hub's disk is full")
    run.until("round-closed")
    filler = fill(world.disks[0])
    try:
        until(
            "somebody is told that the disk is full",
            lambda: (
                world.federation.hub.lines("storage/full")
                or world.federation.nodes["islay"].lines("storage/full")
                or run.poll(0.2)
            ),
            seconds=20.0,
        )
    finally:
        filler.unlink()
    assert run.completed() == digest
    assert "Traceback" not in world.federation.hub.text()


def test_a_full_disk_at_a_node_is_logged_and_waited_out(world: World) -> None:
    node = world.federation.nodes["jura"]
    first = world.submit("Before")
    digest = first.completed()
    state = world.disks[1] / "state"
    assert (state / "node.sqlite").exists()
    run = world.submit("The node's disk is full")
    run.until("round-closed")
    filler = fill(world.disks[1])
    try:
        until("the node logs a full disk", lambda: node.lines("storage/full", "tried again"), seconds=20.0)
        assert node.is_running()
    finally:
        filler.unlink()
    assert run.completed() == digest
    assert "Traceback" not in node.text()
