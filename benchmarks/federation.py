"""A federation of real processes over TLS on loopback, with a learner that does trivial work."""

import mmap
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO

import numpy as np

from wardround.cli.demo import NEVER_MAKES_ROOM
from wardround.clinical.contract import Column, DataContract, Label
from wardround.codec import canonical, tensors
from wardround.codec.tensors import TensorSpec
from wardround.crypto import signing
from wardround.hub import setup as hub
from wardround.ids import Digest, SiteId
from wardround.node import setup as node
from wardround.protocol import plan as plans
from wardround.protocol.messages import RunStatus
from wardround.protocol.plan import BlobRef, BuiltinModel, Limits, Plan, SecureAggregation, Training
from wardround.sdk import client
from wardround.sdk.study import Study
from wardround.secagg import roster as rosters
from wardround.secagg.roster import Roster, RosterMember, SignedRoster

__all__ = ["Federation", "federation", "peak_bytes", "resident_bytes", "study"]


class Federation:
    """A running hub with nodes and a researcher; `roster` names the nodes' keys."""

    def __init__(
        self, place: Path, processes: dict[str, subprocess.Popen[bytes]], researcher: client.Researcher, roster: Digest
    ) -> None:
        self.place, self.processes, self.researcher, self.roster = place, processes, researcher, roster

    def complete(self, declared: Study, *, lose: str = "") -> RunStatus:
        """Submit, approve at every node, and wait for the end; the status holds every event.

        The node `lose` is killed when the first cohort forms.
        """
        status = self.researcher.submit(declared)
        for name in declared.plan.participants:
            opened = node.open_node(self.place / name)
            opened.approvals.decide(status.study, "approve", person="benchmark", reason="")
            opened.vault.close()
        run = self.researcher.status(status.study).runs[-1]
        events: list[dict[str, object]] = []
        for status in self.researcher.watch(run):
            events += status.events
            if lose and any(event["event"] == "cohort-formed" for event in status.events):
                self.processes[lose].kill()
        assert status.phase == "completed", status.reason
        return RunStatus(run=run, phase=status.phase, round=status.round, rounds=status.rounds, events=tuple(events))


@contextmanager
def federation(nodes: int, *, process: Sequence[str] = ("benchmarks.node_process",)) -> Iterator[Federation]:
    """A hub and `nodes` nodes, each a process of this module with these arguments, in a temporary folder."""
    with ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="wardround-benchmark-", dir=os.getcwd())))
        hub.init(place / "hub", listen=f"127.0.0.1:{_free_port()}", hosts=["127.0.0.1"], people="none")
        processes = {
            "hub": stack.enter_context(_process(["wardround", "hub", "serve", str(place / "hub")], place / "hub.log"))
        }
        url = hub.load_config(place / "hub").url
        _wait_for(url)
        officer = signing.generate()
        cards = tuple(_enrolled(place, name, officer) for name in names(nodes))
        for name in names(nodes):
            command = [process[0], str(place / name), *process[1:]]
            processes[name] = stack.enter_context(_process(command, place / f"{name}.log"))
        client.enrol(place / "ada", hub.invite(place / "hub", SiteId("ada"), "researcher", 600.0))
        researcher = client.connect(place / "ada")
        roster = SignedRoster(canonical.encode(Roster(consortium="benchmark", number=1, members=cards)))
        if nodes > 1:
            researcher.hub.publish_roster(rosters.endorse(roster, officer))
        yield Federation(place, processes, researcher, rosters.roster_digest(roster))


def _enrolled(place: Path, name: str, officer: signing.PrivateKey) -> RosterMember:
    """Enrol a node that trusts this officer, with a few records; its public keys."""
    node.enrol(place / name, hub.invite(place / "hub", SiteId(name), "site", 600.0), people="none")
    (place / name / "records.csv").write_text("x,y\n" + "".join(f"{i},{i % 2}\n" for i in range(20)))
    settings = place / name / "node.toml"
    key = signing.public_bytes(officer.public_key()).hex()
    settings.write_text(settings.read_text().replace("officers = []", f'officers = ["{key}"]') + NEVER_MAKES_ROOM)
    opened = node.open_node(place / name)
    opened.vault.close()
    return opened.membership.card


def names(nodes: int) -> list[str]:
    """Names of the nodes."""
    return [f"site-{index:02d}" for index in range(nodes)]


def study(
    parameters: int,
    nodes: int,
    rounds: int,
    *,
    seed: int = 0,
    minimum: int = 0,
    secure: SecureAggregation | None = None,
    absence_seconds: float = 60.0,
    file: IO[bytes] | None = None,
) -> Study:
    """A study with random weights and no real learning; these are mapped from `file`, where there is one."""
    manifest = (TensorSpec("w", (parameters,)),)
    generator = np.random.default_rng(seed)
    if file is None:
        initial = tensors.header(manifest) + generator.standard_normal(parameters, np.float32).tobytes()
    else:
        file.write(tensors.header(manifest))
        for start in range(0, parameters, 1 << 22):
            file.write(generator.standard_normal(min(1 << 22, parameters - start), np.float32).data)
        file.flush()
        initial = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)  # type: ignore[assignment]
    plan = Plan(
        title="benchmark",
        purpose="measure",
        legal_basis="none",
        researcher=SiteId("ada"),
        participants=tuple(SiteId(name) for name in names(nodes)),
        min_participants=minimum or nodes,
        data=DataContract(columns=(Column(name="x"),), label=Label(name="y"), scaling="none"),
        model=BuiltinModel(name="logistic"),
        manifest=manifest,
        initial=BlobRef(canonical.digest(initial), len(initial)),
        training=Training(rounds=rounds),
        limits=Limits(absence_seconds=absence_seconds),
        secure=secure,
        expires=int(time.time()) + 86400,
        seed=seed,
    )
    plans.check(plan)
    return Study(plan, initial)


def peak_bytes(pid: int) -> int:
    """Largest resident set of a process so far."""
    return _status(pid, "VmHWM")


def resident_bytes(pid: int) -> int:
    """Resident set of a process now."""
    return _status(pid, "VmRSS")


def children(pid: int) -> list[int]:
    """Process ids of the direct children."""
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    found = [int(word) for word in text.split()]
    for task in Path(f"/proc/{pid}/task").iterdir():
        found += [int(word) for word in (task / "children").read_text().split()]
    return sorted(set(found))


def _status(pid: int, field: str) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise LookupError(field)


@contextmanager
def _process(module: list[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as output:
        process = subprocess.Popen([sys.executable, "-m", *module], stdout=output, stderr=output)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(5.0)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_for(url: str) -> None:
    host, _, port = url.removeprefix("https://").rpartition(":")
    for _ in range(400):
        with socket.socket() as probe:
            if probe.connect_ex((host, int(port))) == 0:
                return
        time.sleep(0.05)
    raise TimeoutError(url)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port
