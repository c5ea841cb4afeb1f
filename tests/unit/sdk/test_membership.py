"""A model that knows its patients by heart is found out, one that cannot is not; and the page that shows it."""

import json
import math
from dataclasses import replace

import msgspec
import numpy as np
import pytest
import torch

from wardround.aggregation import standardization
from wardround.clinical.contract import Column, DataContract, Label
from wardround.clinical.table import LoadReport, StudyTable
from wardround.codec import tensors
from wardround.errors import ConfigError
from wardround.privacy import gate, probes
from wardround.privacy.probes import Claims
from wardround.protocol.plan import BlobRef, BuiltinModel, Optimizer, Plan, Training, statistics_manifest
from wardround.sdk import audit_page, membership
from wardround.sdk.audit_page import Inverted
from wardround.training import models

WIDTH = 20
SHARP = BuiltinModel(name="mlp", hidden=(64,))


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def generator(seed):
    return np.random.default_rng(seed)  # noqa: TID251, seeded


def study(model=SHARP, outcome="binary", epochs=40, **changes):
    label = Label(name="y", outcome=outcome, event="e" if outcome == "survival" else "", **changes)
    data = DataContract(columns=tuple(Column(name=f"c{place}") for place in range(WIDTH)), label=label)
    return Plan(
        title="",
        purpose="",
        legal_basis="",
        researcher="r",
        participants=("a",),
        min_participants=1,
        data=data,
        model=model,
        manifest=models.manifest_of(models.build(model, data)),
        initial=BlobRef("0" * 64, 0),
        training=Training(rounds=1, epochs=epochs, batch_size=16, optimizer=Optimizer(name="adam", learning_rate=0.01)),
        expires=0,
    )


def records(plan, patients=240, each=2, seed=1):
    """Labels are noise, so that whoever fits them has learned them by heart; a patient's records are alike."""
    drawn = generator(seed)
    owners = np.repeat(np.arange(patients, dtype=np.int32), each)
    features = (
        drawn.standard_normal((patients, WIDTH))[owners] + 0.3 * drawn.standard_normal((len(owners), WIDTH))
    ) * 3
    outcome = plan.data.label.outcome
    labels = drawn.integers(0, len(plan.data.label.classes) or 2, patients)[owners].astype(np.float32)
    if outcome == "number":
        labels = drawn.standard_normal(patients).astype(np.float32)[owners]
    if outcome == "survival":
        labels = np.stack([drawn.exponential(1.0, len(owners)), drawn.random(len(owners)) < 0.7], 1).astype(np.float32)
    held_out = (drawn.random(patients) < 0.4)[owners]
    count = len(owners)
    return StudyTable(features.astype(np.float32), labels, held_out, LoadReport(count, count, 0), owners)


def sums(plan, table):
    found = standardization.site_sums(table.features, [True] * WIDTH)
    return tensors.pack(found, statistics_manifest(plan.data))


def trained(plan, table, statistics, steps):
    """The plan's model after so many full steps of Adam on the training records: the released file."""
    scaled = standardization.apply(
        table.features, *standardization.mean_and_std(tensors.unpack(statistics, statistics_manifest(plan.data)))
    )
    features = torch.from_numpy(scaled[~table.held_out])
    labels = torch.from_numpy(table.labels[~table.held_out])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module, loss = models.build(plan.model, plan.data), models.loss_of(plan.data.label.outcome)
    optimizer = torch.optim.Adam(module.parameters(), lr=0.01)
    for _ in range(steps):
        optimizer.zero_grad()
        loss(module(features), labels).backward()
        optimizer.step()
    return tensors.pack({name: models.array_of(one) for name, one in models.arrays(module).items()}, plan.manifest)


def audited(plan, table, steps, **settings):
    statistics = sums(plan, table)
    return membership.audit_membership(plan, trained(plan, table, statistics, steps), statistics, table, **settings)


@pytest.fixture(scope="module")
def overfitted():
    plan = study()
    return audited(plan, records(plan), 300, claim=(0.5, 1e-5), policy=0.05, passes=20)


def test_a_model_that_learned_patients_by_heart_is_found_out(overfitted):
    assert overfitted.members + overfitted.nonmembers == 240
    assert overfitted.resolution == 1 / overfitted.nonmembers
    for name in ("RMIA", "LiRA, offline"):
        assert overfitted.curves[name].auc > 0.8
        assert overfitted.rates[name][-1].true_positive_rate > 0.4
    failures = {check.name for check in overfitted.gate.failures}
    assert {"RMIA: policy", "LiRA, offline: policy"} <= failures
    assert any("claim" in name for name in failures), "no (0.5, 1e-5) allows that"


def test_a_model_that_never_saw_anybody_passes():
    plan = study()
    found = audited(plan, records(plan, patients=400), 0, claim=(1.0, 1e-5), policy=0.15, passes=10, references=4)
    for curve in found.curves.values():
        assert curve.auc == pytest.approx(0.5, abs=0.1)
    assert found.gate.passed, found.gate.failures


def test_a_policy_that_so_few_patients_cannot_meet_is_not_met():
    plan = study(BuiltinModel(name="logistic"))
    found = audited(plan, records(plan, patients=30), 0, policy=0.001, passes=1, references=4)
    assert found.least_policy > 0.1
    assert {check.name for check in found.gate.failures} == {"RMIA: policy", "LiRA, offline: policy"}
    unasked = audited(plan, records(plan, patients=30), 0, passes=1, references=4)
    assert unasked.document()["passed"] is None


@pytest.mark.parametrize(
    ("outcome", "changes"),
    [("multiclass", {"classes": ("a", "b", "c")}), ("number", {}), ("survival", {})],
)
def test_other_outcomes_leak_too(outcome, changes):
    plan = study(outcome=outcome, **changes)
    found = audited(plan, records(plan, patients=150), 200, references=4)
    assert max(curve.auc for curve in found.curves.values()) > 0.7


def test_the_same_seed_gives_the_same_audit_and_the_generator_is_left_alone():
    plan = study(epochs=2)
    table, before = records(plan, patients=40), torch.random.get_rng_state()
    one, again, other = (audited(plan, table, 5, references=4, seed=seed).document() for seed in (1, 1, 2))
    assert one == again != other
    assert torch.equal(before, torch.random.get_rng_state())


def test_a_patient_is_a_member_by_any_training_record():
    plan = study(epochs=1)
    table = records(plan, patients=30, each=3)
    mixed = table.held_out.copy()
    mixed[::3] = True  # every patient's first record
    mixed[1::3] = False  # and none of the second
    with pytest.raises(ConfigError, match="two patients"):
        audited(plan, replace(table, held_out=mixed), 1)
    mixed[:30] = True
    assert audited(plan, replace(table, held_out=mixed), 1).nonmembers == 10
    for count in (2, 5):
        with pytest.raises(ConfigError, match="references"):
            audited(plan, table, 1, references=count)


def test_half_of_the_models_saw_each_patient():
    for patients in (10, 11):
        inside = membership._halves(6, patients, 3)
        assert (inside.sum(axis=0) == 3).all()
        assert abs(inside.sum(axis=1) - patients / 2).max() <= 0.5


def test_losses_are_likelihoods():
    drawn = generator(5)
    outputs, labels = drawn.standard_normal((3, 50)), (drawn.random(50) < 0.5).astype(float)
    chances = 1 / (1 + np.exp(-outputs))
    expected = -np.log(np.where(labels > 0.5, chances, 1 - chances))
    assert membership.record_losses("binary", outputs, labels) == pytest.approx(expected)
    logits, classes = drawn.standard_normal((3, 50, 4)), drawn.integers(0, 4, 50)
    shares = np.exp(logits) / np.exp(logits).sum(axis=2, keepdims=True)
    expected = -np.log(shares[:, np.arange(50), classes])
    assert membership.record_losses("multiclass", logits, classes) == pytest.approx(expected)
    assert membership.record_losses("number", outputs, labels, 2.0) == pytest.approx((outputs - labels) ** 2 / 4)


def test_a_survival_records_loss_is_that_of_breslows_likelihood():
    drawn = generator(6)
    times, events = drawn.integers(1, 8, 40).astype(float), drawn.random(40) < 0.6  # with ties
    risks = 0.5 * drawn.standard_normal(40)
    at_risk = np.array([np.exp(risks[times >= time]).sum() for time in times])
    hazard = np.array([(1 / at_risk[events & (times <= time)]).sum() for time in times])
    expected = hazard * np.exp(risks) - np.where(events, risks - np.log(at_risk), 0.0)
    found = membership.record_losses("survival", risks[None], np.stack([times, events], 1))
    assert found[0] == pytest.approx(expected)
    assert (hazard * np.exp(risks)).sum() == pytest.approx(events.sum()), "Breslow's hazard expects what was seen"
    far = membership.record_losses("survival", 1e3 * risks[None], np.stack([times, events], 1))
    assert np.abs(far).max() < 100


def report(found):
    claims = Claims(clip_norm=1.0, noise_multiplier=1.6)

    def release(included):
        return included + 1.6 * generator(7).standard_normal(len(included))

    audit = gate.audit_release(
        release, 1000, epsilon=3.0, delta=1e-5, correct=probes.gaussian_scores(claims, 1), seed=b"page", draws=1000
    )
    image = np.linspace(0, 1, 64).reshape(8, 8)
    inverted = [
        Inverted("gradient, batch 1", released=False, match_rate=1.0, psnr=math.inf, ssim=1.0, pairs=((image, image),)),
        Inverted("what was <released>", released=True, match_rate=0.0, psnr=8.0, ssim=0.1, pairs=((image, image.T),)),
        Inverted("table", released=True, match_rate=0.01),
    ]
    verdict = gate.Gate((*audit.checks, *found.gate.checks, gate.Check("x", True, math.inf, 0.0, "<b>")))
    return audit_page.document(
        "Audit of <Ward>", verdict, audits={"one step": audit}, membership=found.document(), inversions=inverted
    )


def test_the_report_is_one_page_and_one_document(overfitted):
    document = report(overfitted)
    assert json.loads(json.dumps(document, allow_nan=False)) == document
    assert msgspec.json.decode(msgspec.json.encode(document)) == document
    page = audit_page.page(document)
    assert page == audit_page.page(json.loads(json.dumps(document))), "the page is drawn from the document alone"
    assert page.startswith("<!doctype html>")
    assert "<Ward>" not in page
    assert "<b>" not in page
    assert "&lt;Ward&gt;" in page
    assert page.count("<svg") == 2
    assert page.count("data:image/png;base64,") == 4
    assert "http:" not in page
    assert "https:" not in page
    assert "nan" not in page.split("base64")[0]
    assert "does not pass" in page
    assert "RMIA" in page


def test_a_report_shows_only_what_there_is():
    good = gate.Gate((gate.Check("one", True, 1.0, 2.0, "fine"),))
    document = audit_page.document("t", good)
    page = audit_page.page(document)
    assert "<svg" not in page
    assert "passes" in page
    assert set(document) == {"title", "passed", "checks"}
