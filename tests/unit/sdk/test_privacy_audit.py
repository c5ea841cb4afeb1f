"""The whole audit: what passes, what fails, who is told to act, and gradients that show records or do not."""

import json

import msgspec
import numpy as np
import pytest
import torch

from wardround.clinical.contract import Column, DataContract, Label
from wardround.clinical.table import LoadReport, StudyTable
from wardround.codec import tensors
from wardround.errors import CodecError, ConfigError
from wardround.privacy import gate
from wardround.protocol.plan import BuiltinModel, Privacy, Training
from wardround.sdk import gradient_audit, mechanism_audit, privacy_audit
from wardround.sdk import study as studies
from wardround.sdk.mechanism_audit import MechanismAudit
from wardround.sdk.predict import module_of
from wardround.sdk.privacy_audit import Result

WIDTH = 12
PRIVATE = Privacy(delta=1e-5, noise_multiplier=1.2, sampling_rate=0.2)


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def study(model="logistic", outcome="binary", *, hidden=(), privacy=None, width=WIDTH, **changes):
    label = Label(name="y", outcome=outcome, classes=("a", "b", "c") if outcome == "multiclass" else ())
    steps = {"epochs": 0, "steps": 4} if privacy else {}
    return studies.declare(
        title="An <audited> study",
        purpose="p",
        legal_basis="l",
        researcher="r",
        participants=["a", "b"],
        min_participants=2,
        data=DataContract(columns=tuple(Column(name=f"c{n}") for n in range(width)), label=label, scaling="none"),
        model=BuiltinModel(name=model, hidden=hidden),
        training=Training(rounds=2, **steps),
        privacy=privacy,
        expires=1 << 40,
        **changes,
    )


def gradients(declared, **changes):
    plan = msgspec.structs.replace(declared.plan, **changes)
    return gradient_audit.audit_gradients(plan, module_of(plan, declared.initial), b"seed")


def table(patients=300, seed=1):
    """Labels are noise."""
    drawn = gate.generator(b"table", str(seed))
    features, labels = drawn.standard_normal((patients, WIDTH)), drawn.integers(0, 2, patients)
    held_out = drawn.random(patients) < 0.4
    report = LoadReport(patients, patients, 0)
    return StudyTable(features.astype(np.float32), labels.astype(np.float32), held_out, report)


@pytest.mark.parametrize(
    ("model", "outcome", "hidden"),
    [("logistic", "binary", ()), ("logistic", "multiclass", ()), ("linear", "number", ()), ("mlp", "binary", (32, 8))],
    ids=["logistic", "classes", "linear", "mlp"],
)
def test_private_steps_show_no_record_and_the_control_does(model, outcome, hidden):
    found = gradients(study(model, outcome, hidden=hidden, privacy=PRIVATE))
    assert gate.Gate(found.checks).passed, found.checks
    assert [(one.released, one.match_rate) for one in found.inversions] == [(False, 1.0), (True, 0.0), (True, 0.0)]
    assert [one.name for one in found.inversions][1:] == [
        "one private step over 1 record",
        "one private step over 8 records",
    ]


def test_a_site_protected_as_a_whole_shows_no_record():
    found = gradients(study(privacy=Privacy(delta=1e-5, noise_multiplier=1.0, unit="site", noise="central")))
    assert gate.Gate(found.checks).passed, found.checks


def test_noise_that_hides_nothing_fails():
    found = gradients(study(privacy=Privacy(delta=1e-5, noise_multiplier=1e-3, clip=1.0)))
    names = [check.name for check in gate.Gate(found.checks).failures]
    assert names == ["gradient inversion: release, one private step over 1 record"]


def test_without_noise_a_crowd_protects_and_one_record_does_not():
    declared = study()
    found = gradients(declared)
    assert found.inversions[1].name == "one step over 10 records"
    assert gate.Gate(found.checks).passed
    alone = msgspec.structs.replace(declared.plan.data, min_records=1)
    assert not gate.Gate(gradients(declared, data=alone).checks).passed


def test_models_that_no_attack_is_known_for_are_named():
    found = gradients(study("cnn", hidden=(4,), width=64))
    assert found.checks == ()
    assert found.note == "gradient inversion was not tried: no attack is known to work on cnn models"


def test_a_confident_model_is_attacked_where_it_errs():
    declared = study()
    sure = {"weight": np.full((1, WIDTH), 30.0, np.float32), "bias": np.zeros(1, np.float32)}
    plan = declared.plan
    found = gradient_audit.audit_gradients(plan, module_of(plan, tensors.pack(sure, plan.manifest)), b"seed")
    assert found.checks[0].passed


def test_a_model_without_privacy_that_saw_nobody_passes():
    declared = study()
    said = []
    result = Result(declared.plan, declared.initial, b"")
    found = privacy_audit.audit_privacy(result, table=table(), references=4, most_found=0.2, progress=said.append)
    assert found.passed, found.words
    assert said == ["membership, with 4 reference models", "gradient inversion"]
    assert found.words == ("Note: the plan has no differential privacy: there is no noise to check.",)
    assert json.loads(found.json) == found.document
    assert found.document["model"] == declared.plan.initial.digest
    assert "&lt;audited&gt;" in found.page
    again = privacy_audit.audit_privacy(result, table=table(), references=4, most_found=0.2)
    assert again.digest == found.digest
    assert not any(text in found.page for text in ("https:", "http:"))


def test_too_few_patients_are_no_proof_and_the_steward_is_told():
    declared = study()
    found = privacy_audit.audit_privacy(Result(declared.plan, declared.initial, b""), table=table(24), references=4)
    assert not found.passed
    assert "So few patients cannot show that at most 0.1 of the members are found" in found.words[0]
    assert "Must act: the site's data steward" in found.words[0]


def test_an_overfitted_model_fails_and_the_researcher_is_told():
    declared, records = study("mlp", hidden=(64,)), table(200)
    with torch.random.fork_rng(devices=[]):
        module = module_of(declared.plan, declared.initial)
    features, labels = (torch.from_numpy(part[~records.held_out]) for part in (records.features, records.labels))
    optimizer = torch.optim.Adam(module.parameters(), lr=0.01)
    for _ in range(300):
        optimizer.zero_grad()
        torch.nn.functional.binary_cross_entropy_with_logits(module(features)[:, 0], labels).backward()
        optimizer.step()
    arrays = {name: tensor.detach().numpy() for name, tensor in module.state_dict().items()}
    result = Result(declared.plan, tensors.pack(arrays, declared.plan.manifest), b"")
    found = privacy_audit.audit_privacy(result, table=records, references=4)
    assert not found.passed
    assert any("An attack finds more members than is allowed. Must act: the researcher" in line for line in found.words)
    assert found.words[0] in found.document["notes"]


def test_a_private_plan_is_audited_by_its_epsilon():
    declared = study(privacy=PRIVATE)
    found = privacy_audit.audit_privacy(Result(declared.plan, declared.initial, b""), table=table(), references=4)
    assert found.passed, found.words
    names = {check.name for check in found.gate.checks}
    assert {"noise: spread", "clipping: many records", "sampling: rate", "RMIA: claim at 0.001"} <= names
    assert "one-run audit: the claim, all patients" in names
    assert not any(name.endswith("policy") for name in names)
    assert [one["name"] for one in found.document["one_run"]] == ["half of the patients", "all patients"]


def test_a_fault_of_the_software_is_a_developers(monkeypatch):
    check = gate.Check("noise: spread", False, 0.1, 1.0, "variance")
    monkeypatch.setattr(mechanism_audit, "audit_mechanism", lambda *_: MechanismAudit((check,), {}, ("a note",)))
    declared = study(privacy=PRIVATE)
    found = privacy_audit.audit_privacy(Result(declared.plan, declared.initial, b""))
    assert not found.passed
    assert found.words[0] == (
        "Private training does not do what was accounted. Must act: a developer of Wardround; until then, no private "
        "study with this version. (failed: noise: spread)"
    )
    assert "Note: membership inference was not tried: it needs a site's records (--node)." in found.words


def test_nothing_checked_is_nothing_passed():
    declared = study("cnn", hidden=(4,), width=64)
    found = privacy_audit.audit_privacy(Result(declared.plan, declared.initial, b""))
    assert not found.passed
    assert found.words[0].startswith("Nothing was checked, so nothing passed.")


def test_a_result_is_what_fetch_wrote(tmp_path):
    with pytest.raises(ConfigError, match="study fetch"):
        privacy_audit.read_result(tmp_path)
    declared = study()
    (tmp_path / "model.safetensors").write_bytes(declared.initial)
    (tmp_path / "plan.json").write_bytes(b"{}")
    with pytest.raises(CodecError):
        privacy_audit.read_result(tmp_path)
