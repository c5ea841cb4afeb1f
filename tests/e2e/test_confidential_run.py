"""A study that demands proofs of its machines, over real TLS: hub and nodes run here as they are installed.

Only three things are a test's: the roots of AMD's certificates, the kernel's tree, and the time at which evidence is
checked. They are put in place of what the modules hold, because no setting of Wardround's reaches them.
"""

import asyncio
import ssl
import subprocess
import sys
import threading
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import msgspec
import pytest
from broker_process import authority
from federation import (
    Federation,
    Followed,
    declare,
    environment,
    records,
    training,
    until,
    wardround_command,
    write_csv,
)
from tests.unit.attestation import processors
from tests.unit.enclave.confidential_machine import GOOD, OTHER, Clock, accepted, bundle, machine

from wardround import Limits, Study
from wardround.attestation import amd_chain, collateral
from wardround.attestation.evidence import Evidence
from wardround.crypto import signing
from wardround.errors import AttestationError, CodecError, NotFoundError, UnavailableError
from wardround.hub import attesting as hub_attesting
from wardround.hub import setup as hub_setup
from wardround.ids import CommandId, StudyId
from wardround.node import attesting as node_attesting
from wardround.node import setup as node_setup
from wardround.protocol import attested
from wardround.protocol import plan as plans
from wardround.protocol.attested import Enclaves
from wardround.protocol.messages import Contribution
from wardround.sdk import client
from wardround.system import SystemEntropy
from wardround.transport import connection

pytestmark = pytest.mark.processes
SITES = ("arran", "bute")
BOTH = Enclaves(hub=accepted(), nodes=accepted(), releases=("model-key",))
OFFICER = signing.generate()
EVIDENCE = Evidence(kind="snp", report=b"report")


class Kernels:
    """`KernelReports` of one module, of a machine that runs the build with this measurement."""

    def __init__(self, folder):
        self.folder, self.count, self.measurement = folder, 0, GOOD

    def __call__(self):
        self.count += 1
        return machine(self.folder / str(self.count), self.measurement)


class Confidential(Federation):
    """A federation whose hub is a thread of this process, and whose nodes are processes."""

    def __init__(self, place, kernel):
        super().__init__(place)
        self.kernel = kernel
        self.signed = collateral.sign(collateral.unsigned(bundle()), OFFICER)

    def set_up(self, folder, name, *, confidential=True, checks=True):
        lines = [f"confidential = {str(confidential).lower()}"]
        if checks:
            (folder / "collateral.json").write_bytes(msgspec.json.encode(self.signed))
            officer = signing.public_bytes(OFFICER.public_key()).hex()
            lines += ['collateral = "collateral.json"', f'collateral_officers = ["{officer}"]']
        settings = folder / name
        settings.write_text("\n".join([*lines, settings.read_text()]))

    @contextmanager
    def serving(self):
        """The hub, from now until the block ends."""
        loop, stop = asyncio.new_event_loop(), asyncio.Event()
        failed = []

        def serve():
            try:
                loop.run_until_complete(hub_setup.serve(self.hub_folder, stop=stop))
            except BaseException as error:
                failed.append(error)
                raise

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            until("the hub answers", lambda: self._answers(failed))
            yield
        finally:
            loop.call_soon_threadsafe(stop.set)
            thread.join(20)
            assert not thread.is_alive()
            loop.close()

    def _answers(self, failed):
        assert not failed, failed
        with suppress(UnavailableError):
            connection.clock_offset(self.url_public, self.authority)
            return True
        return False

    def site(self, name, **settings):
        folder = self.enrol_site(name)
        write_csv(folder, records(name))
        self.set_up(folder, "node.toml", **settings)
        return folder

    @contextmanager
    def working(self, *sites, measurement=GOOD):
        """Nodes at work; what their people are told, by site."""
        told, running = {site: [] for site in sites}, []
        try:
            for site in sites:
                running.append(_node(self.place, site, measurement))
                threading.Thread(target=_listen, args=(running[-1], told[site]), daemon=True).start()
            until("the nodes are up", lambda: all("up" in lines for lines in told.values()))
            yield told
        finally:
            for process in running:
                process.stdin.close()
            for process in running:
                process.wait(30)

    def started(self, researcher, **changes):
        """A study with these demands, approved; its run."""
        declared = declared_with(**changes)
        status = researcher.submit(declared)
        self.approve(status.study, SITES)
        return Followed(researcher, researcher.status(status.study).runs[-1])


def _node(place, site, measurement):
    script = Path(__file__).parent / "confidential_node.py"
    with (place / f"{site}.log").open("wb") as log:
        return subprocess.Popen(
            [sys.executable, str(script), str(place / site), str(place), measurement.hex()],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True,
            env={**environment(), "PYTHONPATH": str(Path(__file__).parents[2])})  # fmt: skip


def _listen(process, lines):
    with process.stdout:
        for line in process.stdout:
            lines.append(line.rstrip("\n"))


def declared_with(enclaves=BOTH, **changes):
    changes = {"training": training(rounds=2, steps=5), "limits": Limits(absence_seconds=60.0), **changes}
    declared = declare(SITES, **changes)
    plan = msgspec.structs.replace(declared.plan, enclaves=enclaves)
    plans.check(plan)
    return Study(plan, declared.initial, declared.package)


@pytest.fixture
def world(tmp_path, monkeypatch):
    for name in ("_keys", "leaf_key"):
        monkeypatch.setattr(processors, name, getattr(processors, name))
    monkeypatch.setattr(amd_chain, "ROOT_KEYS", amd_chain.ROOT_KEYS)
    authority(tmp_path)
    kernel = Kernels(tmp_path / "kernel")
    for module in (hub_attesting, node_attesting):
        monkeypatch.setattr(module, "KernelReports", kernel)
        monkeypatch.setattr(module, "SystemClock", Clock)
    return Confidential(tmp_path, kernel)


@contextmanager
def opened(world, site):
    """A node's commands, without its work."""
    node = node_setup.open_node(world.place / site)
    try:
        yield node
    finally:
        node.hub.close()
        node.vault.close()


def keys(world, node, run):
    return node_attesting.keys(node.hub, run.run, ["model-key"], world.kernel().evidence)["model-key"]


def test_attested_machines_finish_a_run_and_its_keys_are_destroyed(world):
    world.set_up(world.hub_folder, "hub.toml")
    with world.serving():
        researcher = world.enrol_researcher()
        for site in SITES:
            world.site(site)
        run = world.started(researcher)
        with opened(world, "arran") as arran, opened(world, "bute") as bute:
            key = keys(world, arran, run)
            assert len(key) == 32
            assert keys(world, bute, run) == key
            with world.working(*SITES) as told:
                run.completed()
            assert [event["contributors"] for event in run.of("round-closed")] == [list(SITES)] * 4
            assert not [line for lines in told.values() for line in lines if "declined" in line]
            with pytest.raises(AttestationError, match="its keys were destroyed"):
                keys(world, arran, run)
        researcher.hub.close()
    vault = hub_attesting._vault(world.hub_folder, SystemEntropy())
    assert vault.names(f"key-release/{run.run}/key:") == []
    assert vault.get(f"key-release/{run.run}/closed") == b"closed"
    vault.close()


def test_a_node_that_shows_nothing_is_refused_and_says_why(world):
    world.set_up(world.hub_folder, "hub.toml")
    with world.serving():
        researcher = world.enrol_researcher()
        world.site("arran", confidential=False)
        world.site("bute")
        run = world.started(researcher)
        with opened(world, "arran") as arran:
            # Whatever a node's own software leaves out, the hub takes nothing from it.
            arran.hub.prover = None
            given = Contribution(command=CommandId("c"), run=run.run, number=1, kind="train", records=10)
            with pytest.raises(AttestationError, match="arran proves which build it runs, and it has not"):
                arran.hub.contribute(given)
            world.kernel.measurement = OTHER
            with pytest.raises(AttestationError, match="MEASUREMENT"):
                keys(world, arran, run)
            world.kernel.measurement = GOOD
        with world.working(*SITES) as told:
            stopped = until("the run stops", lambda: _stopped(run), seconds=60)
        assert "config" in stopped
        assert any("confidential machines only" in line for line in told["arran"])
        researcher.hub.close()


def _stopped(run):
    run.poll(0.5)
    return run.status.reason if run.status is not None and run.status.phase == "stopped" else ""


def test_nodes_send_nothing_to_a_hub_of_another_build(world):
    world.kernel.measurement = OTHER
    world.set_up(world.hub_folder, "hub.toml")
    with world.serving():
        researcher = world.enrol_researcher()
        for site in SITES:
            world.site(site)
        run = world.started(researcher, enclaves=Enclaves(hub=accepted()))
        with world.working(*SITES) as told:
            until("both refuse", lambda: all(any("MEASUREMENT" in line for line in lines) for lines in told.values()))
        run.poll()
        # Not even that they decline: to this hub nothing is said of the study.
        assert run.of("update-accepted") == run.of("site-declined") == []
        researcher.hub.close()


def test_a_plan_is_refused_by_a_hub_that_cannot_do_what_it_demands(world):
    with world.serving():
        researcher = world.enrol_researcher()
        with pytest.raises(CodecError, match="not set up for attestation"):
            researcher.submit(declared_with())
        with pytest.raises(NotFoundError):
            researcher.hub.submit(attested.Proof(study=StudyId("ab" * 32), nonce=b"", evidence=EVIDENCE))
        researcher.hub.close()
    world.set_up(world.hub_folder, "hub.toml", confidential=False)
    with world.serving():
        with pytest.raises(CodecError, match=r"enclaves\.hub: .* confidential machine"):
            researcher.submit(declared_with(title="Another"))
        researcher.hub.close()


def test_after_a_new_start_and_a_new_tls_key_of_the_hub_all_is_proved_anew(world, monkeypatch):
    events, served = [], world.hub_folder / "tls.crt"
    monkeypatch.setattr(hub_attesting, "logged", events.append)
    world.set_up(world.hub_folder, "hub.toml")
    with ExitStack() as nodes:
        with world.serving():
            researcher = world.enrol_researcher()
            for site in SITES:
                world.site(site)
            run = world.started(researcher, training=training(rounds=6, steps=5))
            nodes.enter_context(world.working(*SITES))
            run.until("round-opened", number=2)
            before = hub_attesting._tls_key(served)
            researcher.hub.close()
        assert {(one.what, one.site) for one in events} == {("attested", site) for site in SITES}
        events.clear()
        # Another key than the certificate's, so that both are made anew, as at half of their life.
        (world.hub_folder / "keys" / "tls.key").write_bytes((world.hub_folder / "keys" / "authority.key").read_bytes())
        with world.serving():
            assert hub_attesting._tls_key(served) != before
            run.completed()
            assert [event["contributors"] for event in run.of("round-closed")] == [list(SITES)] * 8
            researcher.hub.close()
    assert {(one.what, one.site) for one in events} == {("attested", site) for site in SITES} | {("closed", "")}


HOW_TO = Path(__file__).parents[2] / "docs" / "how-to" / "run-in-an-enclave.md"
STUDY_FILE = """
title = "Lactate and death"
purpose = "a test"
legal_basis = "synthetic numbers"
participants = ["arran", "bute"]
min_participants = 2
expires = 1900000000

[data]
min_records = 10
columns = [{name = "age", unit = "a", minimum = 0.0, maximum = 120.0}, {name = "lactate", unit = "mmol/L"}]
label = {name = "died"}

[model]
name = "logistic"

[training]
rounds = 2
epochs = 0
steps = 5
batch_size = 16
"""


def _block(beginning):
    """The block of the how-to that begins like this, as somebody would copy it."""
    (found,) = (text for text in HOW_TO.read_text().split("```") if text.partition("\n")[2].startswith(beginning))
    return found.partition("\n")[2]


def _build():
    block = _block('name = "wardround hub')
    return block.replace('"5a5a…"', f'"{GOOD.hex()}"').replace("bootloader = 3", "bootloader = 1").replace("= 8", "= 5")


def test_the_how_to_is_true_by_copy_and_paste(world, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    made = wardround_command("officer", "init", "officer", "--json")
    officer = msgspec.json.decode(made.stdout)["officer"]
    amd = processors.authority("Milan").collateral(vcek_crl=processors.crl("Milan"))
    Path("cert_chain").write_bytes(b"".join(ssl.DER_cert_to_PEM_cert(one).encode() for one in (amd.ask, amd.ark)))
    Path("crl.der").write_bytes(amd.vcek_crl)
    lines = _block("curl").replace("\\\n", "").splitlines()
    for line in lines[2:]:
        # The authority of the tests lives in another year.
        more = ["--from", "2025-12-20"] if "draft" in line else []
        done = wardround_command(*line.split()[1:], *more)
        assert done.returncode == 0, done.stderr
    assert "valid until" in done.stdout
    settings = _block('collateral = "collateral.json"').replace("…", officer)
    with ExitStack() as stack:

        def switch_on(folder, name):
            (folder / "collateral.json").write_bytes(Path("collateral.json").read_bytes())
            (folder / name).write_text(settings + (folder / name).read_text())

        switch_on(world.hub_folder, "hub.toml")
        stack.enter_context(world.serving())
        world.enrol_researcher().hub.close()
        for site in SITES:
            write_csv(world.enrol_site(site), records(site))
            switch_on(world.place / site, "node.toml")
        Path("build.toml").write_text(_build())
        Path("study.toml").write_text(STUDY_FILE)
        script = _block("python -").partition("\n")[2].partition("\nEND")[0]
        study = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, env=environment(), check=True
        )
        world.approve(study.stdout.strip(), SITES)
        researcher = client.connect(Path("ada"))
        run = Followed(researcher, researcher.status(study.stdout.strip()).runs[-1])
        with world.working(*SITES):
            run.completed()
        researcher.hub.close()
