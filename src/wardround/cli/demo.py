"""`wardround demo`: the main job on this machine, over real processes and sockets.

A hub and four hospital nodes, each a process of its own, talk over TLS 1.3 on loopback. Each hospital
keeps real records in its own way: a FHIR export, an OMOP database, HL7 v2 messages that its laboratory sends over
MLLP, and a spreadsheet in other units. One contract harmonizes them, and they enrol, approve, standardize, train and
evaluate together.
"""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from wardround.cli.output import as_json, show

if TYPE_CHECKING:
    from wardround.cli.demo_data import Dataset
    from wardround.clinical.table import StudyTable
    from wardround.ids import RunId
    from wardround.sdk.client import Researcher
    from wardround.sdk.comparison import Comparison
    from wardround.sdk.study import Study

__all__ = ["NEVER_MAKES_ROOM", "demo"]

_WAIT_SECONDS = 60.0

NEVER_MAKES_ROOM = """
# Several hospitals share this machine: none of them makes room for the others.
[sandbox]
idle = false

[sandbox.pressure]
processor_high = 100.0
processor_low = 99.0
memory_high = 100.0
memory_low = 99.0
disk_high = 100.0
disk_low = 99.0
load_high = 100.0
load_low = 99.0
"""


@click.command()
@click.option("--data", type=click.Choice(["biopsies", "heart"]), default="biopsies", show_default=True)
@click.option(
    "--data-folder",
    envvar="WARDROUND_DATA",
    default="../shared/data",
    show_default=True,
    help="Where heart_disease_uci lies [env var: WARDROUND_DATA].",
)
@click.option("--folder", default="demo-data", show_default=True, help="Made anew each time.")
@click.option("--report", default="demo-report.html", show_default=True, help="The report to write.")
@as_json
def demo(data: str, data_folder: str, folder: str, report: str, json_: bool) -> None:
    """Four hospitals and a hub on this machine, on real records."""
    from rich.console import Console

    from wardround.cli import demo_data
    from wardround.sdk import report as reports

    console = Console(quiet=json_)
    phases: dict[str, float] = {}
    place = _fresh(Path(folder))
    os.environ["WARDROUND_HOME"] = str(place.resolve() / "people")  # the stewards of the demo log in there
    heart = Path(data_folder) / "heart_disease_uci"
    dataset = demo_data.DATASETS[data](heart if heart.exists() else Path(data_folder))
    with ExitStack() as stack:
        with _phase("a hub, four hospitals enrolled, records in four formats", phases, console):
            researcher = _federation(place, dataset, stack)
        with _phase("the study declared, reviewed and approved at each hospital", phases, console):
            study, run = _approved_study(place, dataset, researcher)
        with _phase("trained over four real nodes", phases, console):
            events = _trained(researcher, run, console)
        with _phase("models compared (own and pooled models trained for it)", phases, console):
            tables = _tables(place, dataset)
            files = _fetched(researcher, run, place / "result")
            comparison = _compared(study, tables, files)
    page = reports.demo_page(dataset.title, dataset.reference, events, comparison, phases)
    Path(report).write_text(page, encoding="utf-8")
    _print(console, comparison, dataset, report, phases)
    if json_:
        show(json_, {"comparison": comparison, "phases": phases, "report": report}, "")


def _federation(place: Path, dataset: "Dataset", stack: ExitStack) -> "Researcher":
    from wardround.cli import demo_data, demo_events
    from wardround.hub import setup as hub
    from wardround.ids import SiteId
    from wardround.node import setup as node
    from wardround.sdk import client

    hub.init(
        place / "hub",
        listen=f"127.0.0.1:{_free_port()}",
        listen_public=f"127.0.0.1:{_free_port()}",
        hosts=["127.0.0.1"],
    )
    stack.enter_context(_process(["hub", "serve", str(place / "hub")], place / "hub.log"))
    url = hub.load_config(place / "hub").url_public
    _wait_for(url, place / "hub.log")
    folders = {name: place / name for name in dataset.hospitals}
    for name, folder in folders.items():
        node.enrol(folder, hub.invite(place / "hub", SiteId(name), "site", 600.0))
        with (folder / "node.toml").open("a") as settings:
            settings.write(NEVER_MAKES_ROOM)
    demo_data.write(dataset, folders)
    for name, folder in folders.items():
        if (folder / demo_events.MESSAGES).exists():
            log = place / f"{name}-laboratory.log"
            stack.enter_context(_process(["data", "listen", str(folder / "mapping.toml"), "laboratory"], log))
            demo_events.send(folder / demo_events.MESSAGES, _listening(log))
        stack.enter_context(_process(["node", "run", str(folder)], place / f"{name}.log"))
    client.enrol(place / "researcher", hub.invite(place / "hub", SiteId("ada"), "researcher", 600.0))
    return client.connect(place / "researcher")


def _approved_study(place: Path, dataset: "Dataset", researcher: "Researcher") -> "tuple[Study, RunId]":
    import wardround
    from wardround.cli.presenting import present, stand_in
    from wardround.node import setup as node

    study = wardround.declare(
        title=dataset.title,
        purpose=dataset.purpose,
        legal_basis="public research records",
        researcher=researcher.config.name,
        participants=list(dataset.hospitals),
        min_participants=3,
        data=dataset.contract,
        model=wardround.BuiltinModel(name="logistic"),
        training=wardround.Training(
            rounds=dataset.rounds,
            epochs=2,
            batch_size=32,
            optimizer=wardround.Optimizer(name="sgd", learning_rate=dataset.learning_rate, weight_decay=1e-3),
        ),
        expires=int(time.time()) + 86400,
        seed=7,
    )
    status = researcher.submit(study)
    for name in dataset.hospitals:
        opened = node.open_node(place / name)
        opened.approvals.review(status.study)
        stand_in(place / name, "steward", ("steward",))
        who = present(place / name, "approve", about=status.study)
        opened.approvals.decide(status.study, "approve", person=who, reason="demo")
        opened.vault.close()
    return study, researcher.status(status.study).runs[-1]


def _trained(researcher: "Researcher", run: "RunId", console: Any) -> list[dict[str, object]]:
    from wardround.errors import TrainingError

    events: list[dict[str, object]] = []
    with console.status("training …") as line:
        for status in researcher.watch(run):
            events += status.events
            line.update(f"round {status.round} of {status.rounds}: {status.phase}")
    if status.phase != "completed":
        raise TrainingError(f"the run {status.phase}: {status.reason}")
    return events


def _tables(place: Path, dataset: "Dataset") -> "dict[str, StudyTable]":
    from wardround.node import setup as node

    # The demo owns all four hospitals, so it may look into each; no hub or researcher could.
    return {
        name: node.open_records(place / name, node.load_config(place / name)).load(dataset.contract)
        for name in dataset.hospitals
    }


def _fetched(researcher: "Researcher", run: "RunId", folder: Path) -> tuple[bytes, bytes]:
    model = researcher.fetch(run, folder)
    return model.read_bytes(), (folder / "standardization.safetensors").read_bytes()


def _compared(study: "Study", tables: "dict[str, StudyTable]", files: tuple[bytes, bytes]) -> "Comparison":
    from wardround.sdk.comparison import compare

    return compare(study, tables, files)


def _print(console: Any, comparison: "Comparison", dataset: "Dataset", report: str, phases: dict[str, float]) -> None:
    from rich.table import Table

    table = Table(title=f"{dataset.title}: accuracy on each hospital's held-out patients (95 % interval)")
    for heading in ("hospital", "own model alone", "federated", "pooled (reference only)"):
        table.add_column(heading)
    for name, models in comparison.on_own_patients.items():
        table.add_row(name, *(str(models[model]["accuracy"]) for model in ("own", "federated", "pooled")))
    console.print(table)
    table = Table(title="the same models on the held-out patients of all hospitals")
    for heading in ("model", "accuracy", "auc"):
        table.add_column(heading)
    for name, scores in comparison.on_all_patients.items():
        table.add_row(name, str(scores["accuracy"]), str(scores["auc"]))
    console.print(table)
    if dataset.reference:
        console.print(dataset.reference)
    console.print(f"{report} shows curves, bytes and times. In all {sum(phases.values()):.1f} s.")


@contextmanager
def _phase(words: str, phases: dict[str, float], console: Any) -> Iterator[None]:
    started = time.perf_counter()
    yield
    phases[words] = time.perf_counter() - started
    console.print(f"[green]✓[/green] {words} [dim]({phases[words]:.1f} s)[/dim]")


@contextmanager
def _process(arguments: list[str], log: Path) -> Iterator[None]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("WARDROUND_")}
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "wardround", *arguments], stdout=output, stderr=output, env=environment
        )
    try:
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(2.0)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_for(url: str, log: Path) -> None:
    from wardround.errors import UnavailableError

    host, _, port = url.removeprefix("https://").rpartition(":")
    deadline = time.monotonic() + _WAIT_SECONDS
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex((host, int(port))) == 0:
                return
        time.sleep(0.05)
    raise UnavailableError(f"the hub did not start; see {log}")


def _listening(log: Path) -> int:
    from wardround.errors import UnavailableError

    deadline = time.monotonic() + _WAIT_SECONDS
    while time.monotonic() < deadline:
        if found := re.search(r"listening at \S+:(\d+)\n", log.read_text()):
            return int(found[1])
        time.sleep(0.05)
    raise UnavailableError(f"the laboratory's listener did not start; see {log}")


def _fresh(folder: Path) -> Path:
    from wardround.errors import ConfigError

    if folder.exists() and not (folder / ".wardround-demo").exists():
        raise ConfigError(f"{folder} is not a demo's folder and is not replaced; name another with --folder")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / ".wardround-demo").touch()
    return folder


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port
