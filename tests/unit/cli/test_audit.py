"""The audits by command: the report, the exit code, and what a site's steward sees and tells the hub."""

import json
from types import SimpleNamespace

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner

from wardround.cli.main import wardround
from wardround.clinical.contract import Column, DataContract, Label
from wardround.clinical.table import LoadReport, StudyTable
from wardround.codec import canonical
from wardround.errors import ConfigError, PeerProtocolError, PolicyError
from wardround.node import setup
from wardround.privacy import gate
from wardround.protocol.messages import RunStatus, StudyStatus
from wardround.protocol.plan import BlobRef, BuiltinModel, CodePackage, Training
from wardround.protocol.policy import SitePolicy
from wardround.sdk import site_audit
from wardround.sdk import study as studies
from wardround.system import write_private


def declared(**changes):
    return studies.declare(
        title="t",
        purpose="p",
        legal_basis="l",
        researcher="r",
        participants=["arran", "bute"],
        min_participants=2,
        data=DataContract(columns=(Column(name="x"), Column(name="z")), label=Label(name="y"), scaling="none"),
        model=BuiltinModel(name="logistic"),
        training=Training(rounds=1),
        expires=1 << 40,
        **changes,
    )


def table(patients=200):
    drawn = gate.generator(b"table", "")
    features, labels = drawn.standard_normal((patients, 2)), drawn.integers(0, 2, patients)
    held_out = np.arange(patients) % 3 == 0
    return StudyTable(
        features.astype(np.float32), labels.astype(np.float32), held_out, LoadReport(patients, patients, 0)
    )


@pytest.fixture
def result(tmp_path):
    """A folder as `study fetch` leaves it, with the model as it began."""
    study, folder = declared(), tmp_path / "result"
    folder.mkdir()
    (folder / "plan.json").write_bytes(canonical.encode(study.plan))
    (folder / "model.safetensors").write_bytes(study.initial)
    return folder


@pytest.fixture
def node(tmp_path, monkeypatch):
    """A node's folder, whose records are made up."""
    folder = tmp_path / "arran"
    folder.mkdir()
    (folder / "node.toml").write_text('name = "arran"\nhub = "https://127.0.0.1:1"\n')
    write_private(folder / "keys" / "state.key", bytes(32))
    monkeypatch.setattr(setup, "open_records", lambda *_: SimpleNamespace(load=lambda _: table()))
    return folder


def run(*arguments, status=0):
    done = CliRunner().invoke(wardround, list(map(str, arguments)))
    assert done.exit_code == status, (done.output, done.exception)
    return done


def test_a_result_is_audited_and_reported(result):
    done = run("audit", "privacy", result)
    assert "ok    gradient inversion: control" in done.stdout
    assert f"The audit passed: {result / 'audit.html'}" in done.stdout
    assert "Note: membership inference was not tried" in done.stdout
    assert json.loads((result / "audit.json").read_text())["passed"] is True
    assert "passes" in (result / "audit.html").read_text()


def test_a_sites_records_make_the_attack_and_a_failure_is_an_exit_code(result, node, tmp_path):
    options = ("--node", node, "--references", 4, "--report", tmp_path / "r.html")
    done = run("audit", "privacy", result, *options, "--most-found", 0.3, "--json")
    printed = json.loads(done.stdout)
    assert (printed["passed"], printed["report"]) == (True, str(tmp_path / "r.html"))
    assert printed["membership"]["references"] == 4
    done = run("audit", "privacy", result, *options, "--most-found", 0.001, status=1)
    assert "FAIL  RMIA: policy" in done.stdout
    assert "Must act: the site's data steward" in done.stdout
    assert "does not pass" in (tmp_path / "r.html").read_text()


def test_a_folder_without_a_result_is_said_so(tmp_path):
    done = CliRunner().invoke(wardround, ["audit", "privacy", str(tmp_path)])
    assert isinstance(done.exception, ConfigError)


class Hub:
    """What a node asks of a hub for an audit."""

    def __init__(self, study, phase="completed"):
        model = BlobRef(canonical.digest(study.initial), len(study.initial))
        self.run_id = f"{study.id}.1"
        self._runs = {self.run_id: RunStatus(run=self.run_id, phase=phase, round=1, rounds=1, model=model)}
        self._studies = [StudyStatus(study=study.id, title="t", phase="evaluated", decisions={}, runs=(self.run_id,))]

    def studies(self):
        return self._studies

    def run(self, run):
        return self._runs[run]


def opened(monkeypatch, study, **changes):
    """A node that has approved `study`, and what it hands in."""
    told = []
    approvals = SimpleNamespace(
        review=lambda _: (study.plan, [], []),
        hand_in_audit=lambda *values, **named: told.append((values, named)),
    )
    config = SimpleNamespace(state="state", policy=SitePolicy())
    hub = Hub(study, **changes)
    recording = SimpleNamespace(source=lambda records, _plan, **_: records)
    node = SimpleNamespace(approvals=approvals, hub=hub, config=config, recording=recording)
    monkeypatch.setattr(setup, "open_node", lambda *_: node)
    monkeypatch.setattr(site_audit, "_fetched", lambda _, __, ref: study.initial if ref else b"")
    return told


def test_a_site_audits_with_its_own_records_and_tells_the_verdict_alone(node, monkeypatch):
    study = declared(audits=1)
    told = opened(monkeypatch, study)
    options = ("--person", "Dr Who", "--references", 4)
    done = run("node", "audit", node, study.id[:8], *options, "--most-found", 0.3)
    assert "The hub was told the verdict." in done.stdout
    (page,) = (node / "state" / "audits").glob("*.html")
    report = page.with_suffix(".json").read_bytes()
    expected = ((f"{study.id}.1", canonical.digest(study.initial), canonical.digest(report)), True)
    assert (told[0][0], told[0][1]["passed"]) == expected
    assert told[0][1]["person"] == "Dr Who"
    run("node", "audit", node, study.id[:8], *options, "--most-found", 0.001, status=1)
    assert told[1][1]["passed"] is False


def test_where_no_audits_are_asked_for_nobody_is_told(node, monkeypatch):
    study = declared()
    told = opened(monkeypatch, study)
    done = run("node", "audit", node, study.id, "--references", 4, "--most-found", 0.3)
    assert "nobody was told" in done.stdout
    assert told == []


def test_a_run_that_is_not_over_and_code_that_is_not_allowed_are_refused(node, monkeypatch):
    study = declared(audits=1)
    opened(monkeypatch, study, phase="stopped")
    done = CliRunner().invoke(wardround, ["node", "audit", str(node), study.id])
    assert isinstance(done.exception, PeerProtocolError)
    code = CodePackage(package=BlobRef(canonical.digest(b"zip"), 3), factory="m:f")
    study = studies.Study(msgspec.structs.replace(study.plan, model=code), study.initial, b"zip")
    opened(monkeypatch, study)
    done = CliRunner().invoke(wardround, ["node", "audit", str(node), study.id])
    assert isinstance(done.exception, PolicyError)
    with pytest.raises(PolicyError, match="study code"):
        raise done.exception
