"""A federation's audit logs: what a hub and its nodes wrote down, whoever was killed; and a hub that forks its log."""

import collections
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from federation import Federation, Followed, declare, records, training, until, wardround_command, write_csv

from wardround.audit import checkpoint as checkpoints
from wardround.audit import entry as entries
from wardround.audit import verification, witness_policy
from wardround.audit.entry import Access, DataAccess, Entry
from wardround.audit.verification import CHECKPOINT, POLICY, WITNESSED
from wardround.hub import setup as hub_setup
from wardround.ids import SiteId
from wardround.storage import log_export

pytestmark = pytest.mark.processes
SITES = ("angus", "banff", "clyde")
PERSON = "Mhairi Galbraith"
ROUNDS = 4


class World:
    """Three hospitals whose nodes witness every second.

    A study ran while hub and a node were killed; then the hub forked its log, and everything stopped. What the tests
    look at was copied before that, so that they may run in any order.
    """

    def __init__(self, place: Path) -> None:
        self.place, self.federation = place, Federation(place)
        self.copies = place / "copies"
        self.federation.start_hub()
        self.researcher = self.federation.enrol_researcher()
        for site in SITES:
            folder = self.federation.enrol_site(site)
            write_csv(folder, records(site))
            settings = folder / "node.toml"
            settings.write_text("witness_seconds = 1.0\n" + settings.read_text())
        for site in SITES:
            self.federation.start_node(site)

    def run_study(self) -> None:
        submitted = self.researcher.submit(declare(SITES, training=training(rounds=ROUNDS, steps=1000)))
        self.study = submitted.study
        self.federation.approve(self.study, SITES[1:])
        done = wardround_command("node", "approve", self.place / SITES[0], self.study, "--yes", "--person", PERSON)
        assert done.returncode == 0, done.stderr
        followed = Followed(self.researcher, self.researcher.status(self.study).runs[-1])
        followed.until("round-opened", number=2)
        self.federation.nodes["banff"].kill()
        self.federation.hub.kill()
        self.federation.start_hub()
        self.federation.start_node("banff")
        self.model = followed.completed()
        self.accepted = followed.of("update-accepted")
        self.researcher.hub.act(self.study, "release", "")
        hub = self.place / "hub"
        hub_setup.revoke(hub, SiteId("ada"))
        published(hub, 2, "key", change="revoked")
        # The clock of a test: for two more seconds everybody asks and answers, and nobody does anything.
        size = len(log_of(hub))
        time.sleep(2.0)
        self.grown_by_polling = len(log_of(hub)) - size

    def be_witnessed(self) -> None:
        self.witnesses = {
            folder: until(
                f"the log of {folder} is witnessed by {count}",
                lambda folder=folder, count=count: cosigners(self.place / folder, count),
                every=0.2,
            )
            for folder, count in (("hub", 3), ("angus", 2), ("banff", 2), ("clyde", 2))
        }
        for folder in ("hub", *SITES):
            shutil.copytree(
                self.place / folder, self.copies / folder, ignore=shutil.ignore_patterns("*.sqlite*", "*.part", "blobs")
            )

    def fork(self) -> None:
        """Let the hub sign more entries, then go on from an older copy of all that it knows about its log."""
        hub, kept = self.place / "hub", self.place / "older"
        self.federation.hub.stop()
        for name in ("state/log", "anchor"):
            shutil.copytree(hub / name, kept / name)
        size = checkpoints.parse((hub / "state/log" / CHECKPOINT).read_bytes()).checkpoint.size
        self.federation.start_hub()
        path = hub / "state/log" / WITNESSED
        until(
            "the hub's newer log is witnessed",
            lambda: checkpoints.parse(path.read_bytes()).checkpoint.size > size,
            every=0.2,
        )
        self.federation.hub.stop()
        for name in ("state/log", "anchor"):
            shutil.rmtree(hub / name)
            shutil.copytree(kept / name, hub / name)
        self.federation.start_hub()
        angus = self.federation.nodes["angus"]
        until("a witness refuses", lambda: angus.lines("security officer", '"site": "hub"'), every=0.2)
        self.after_fork = published(self.place / "angus", 1, "peer-refused")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    made = World(tmp_path_factory.mktemp("audit"))
    try:
        made.run_study()
        made.be_witnessed()
        made.fork()
        yield made
    finally:
        made.researcher.hub.close()
        made.federation.close()


def log_of(folder: Path) -> list[Entry]:
    """The entries that a folder's log has published; verified from the files alone."""
    with log_export.opened(folder / "state" / "log") as read:
        policy = read(POLICY)
        assert policy is not None
        found: list[Entry] = []
        report = verification.verify_log(
            read, witness_policy.parse_policy(policy.decode()), seen=lambda _, entry: found.append(entry)
        )
        assert report.problems == (), report.problems
        return found


def published(folder: Path, wanted: int, kind: str, **fields: object) -> list[Entry]:
    """The log once it holds so many entries of a kind; it is published within a second."""

    def found() -> list[Entry] | None:
        log = log_of(folder)
        told = [one.event for one in log if entries.kind_of(one) == kind]
        told = [one for one in told if all(getattr(one, name) == value for name, value in fields.items())]
        return log if len(told) >= wanted else None

    return until(f"{wanted} {kind} in {folder.name}", found, every=0.2)


def cosigners(folder: Path, count: int) -> list[str]:
    """The sites that witnessed a folder's log, once there are so many and they are enough."""
    path = folder / "state" / "log"
    if not (path / WITNESSED).exists():
        return []
    policy = witness_policy.parse_policy((path / POLICY).read_text())
    signed = checkpoints.parse((path / WITNESSED).read_bytes())
    names = witness_policy.cosigners(signed, policy)
    found = [site for site in SITES if site in names]
    return found if len(found) == count and witness_policy.is_quorum(names, policy) else []


def kinds(log: list[Entry]) -> collections.Counter[str]:
    return collections.Counter(entries.kind_of(entry) for entry in log)


def test_the_hubs_log_has_the_study_from_proposal_to_release_and_every_answer(world: World) -> None:
    log = log_of(world.copies / "hub")
    told = [entry.event.decision for entry in log if entry.study == world.study and entries.kind_of(entry) == "study"]
    assert told == ["proposed", "approved", "approved", "approved", "started", "completed"]
    (release,) = [entry for entry in log if entries.kind_of(entry) == "release"]
    assert (release.event.digest, release.event.to, release.actor) == (world.model, "ada", "ada")
    assert release.event.size_bytes > 0
    verdicts = [entry.event for entry in log if entries.kind_of(entry) == "contribution"]
    # Nothing that was acknowledged is missing: the events of the run are what was acknowledged.
    assert len(world.accepted) >= ROUNDS * len(SITES)
    for event in world.accepted:
        digest = event["update"]["digest"] if event["update"] else None
        wanted = (event["site"], event["number"], digest, "accepted")
        assert any((one.site, one.round, one.digest, one.outcome) == wanted for one in verdicts), event
    issued = {(entry.event.holder, entry.event.purpose) for entry in log if entries.kind_of(entry) == "key"}
    assert issued >= {(name, purpose) for name in (*SITES, "ada") for purpose in ("connection", "document")}
    assert issued >= {(site, "log") for site in SITES}
    assert kinds(log)["log-started"] == 2
    assert kinds(log)["policy"] == 1
    allowed = {(one.actor, one.event.action) for one in log if isinstance(one.event, Access)}
    assert allowed >= {("ada", "propose"), ("angus", "decide"), ("ada", "release")}


def test_a_node_records_its_people_its_data_and_what_left_and_loses_none_when_killed(world: World) -> None:
    for site in SITES:
        log = log_of(world.copies / site)
        (decided,) = [entry for entry in log if entries.kind_of(entry) == "study"]
        assert (decided.event.decision, decided.study) == ("approved", world.study)
        assert decided.actor.startswith("person:")
        reads = [entry.event for entry in log if isinstance(entry.event, DataAccess)]
        begun, done = [one for one in reads if not one.is_outcome], [one for one in reads if one.is_outcome]
        assert begun
        assert {(one.dataset, one.purpose) for one in begun} == {("records", "training")}
        assert {one.records for one in done} == {120}
        order = [entries.kind_of(entry) for entry in log]
        assert order.index("study") < order.index("data-access") < order.index("round")
        rounds = [entry.event for entry in log if entries.kind_of(entry) == "round"]
        left = {(one.round, part.digest) for one in rounds for part in one.left}
        mine = [event for event in world.accepted if event["site"] == site and event["update"]]
        assert {(event["number"], event["update"]["digest"]) for event in mine} <= left
        assert kinds(log)["log-started"] == (2 if site == "banff" else 1)


def test_no_log_names_a_person_or_holds_a_value_of_a_record(world: World) -> None:
    for folder in ("hub", *SITES):
        files = [path for path in (world.copies / folder / "state" / "log").rglob("*") if path.is_file()]
        data = b"".join(path.read_bytes() for path in files)
        assert len(data) > 1000
        assert b"Galbraith" not in data
        for site in SITES:
            for age, lactate, _ in records(site):
                assert f"{age},{lactate}".encode() not in data
                assert f":{lactate}".encode() not in data


def test_what_a_command_decided_beside_the_running_node_is_in_its_log_once(world: World) -> None:
    adopted = [entry for entry in log_of(world.copies / "angus") if entry.slip is not None]
    assert len({entry.slip for entry in adopted}) == len(adopted)
    assert [entries.kind_of(entry) for entry in adopted].count("study") == 1
    assert not list((world.place / "angus" / "state" / "log" / ".writer" / "inbox").iterdir())


def test_reading_and_witnessing_leave_no_entries(world: World) -> None:
    assert world.grown_by_polling == 0


def test_the_nodes_witness_the_hubs_log_and_one_anothers(world: World) -> None:
    assert world.witnesses == {
        "hub": ["angus", "banff", "clyde"],
        "angus": ["banff", "clyde"],
        "banff": ["angus", "clyde"],
        "clyde": ["angus", "banff"],
    }
    done = wardround_command("audit", "verify", world.copies / "hub")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Witnesses: 3 of 3" in done.stdout


def test_the_disclosures_of_a_node_are_counted_from_its_folder(world: World) -> None:
    done = wardround_command("audit", "disclosures", world.copies / "angus")
    assert done.returncode == 0, done.stderr
    assert f"records: training, study {world.study[:12]}" in done.stdout
    assert "1 reads of up to 120 records" in done.stdout


def test_a_revocation_by_a_command_beside_the_hub_is_recorded(world: World) -> None:
    log = log_of(world.copies / "hub")
    revoked = [entry for entry in log if entries.kind_of(entry) == "key" and entry.event.change == "revoked"]
    assert {(entry.event.holder, entry.event.purpose) for entry in revoked} == {
        ("ada", "connection"),
        ("ada", "document"),
    }
    assert all(entry.slip for entry in revoked)


def test_a_hub_that_forks_its_log_is_refused_by_its_witnesses(world: World) -> None:
    (refused,) = [entry for entry in world.after_fork if entries.kind_of(entry) == "peer-refused"]
    assert (refused.event.peer, refused.event.code) == ("hub", "crypto/audit")
    assert refused.event.evidence
