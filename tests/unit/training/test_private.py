"""Private training at one site, driven through the in-process worker: against arithmetic done by hand."""

import math
import os

import msgspec
import numpy as np
import pytest
import torch
from torch import nn

import wardround
from wardround.clinical.table import LoadReport, StudyTable
from wardround.codec import tensors
from wardround.errors import CodecError
from wardround.privacy import noising
from wardround.protocol.plan import Privacy, Training
from wardround.training.bags import Bags, weight
from wardround.training.inprocess import InProcessWorker
from wardround.training.private import PrivateTraining, clip_update, private_metrics

WIDTH = 3
SEED, OTHER = noising.derive(bytes(32), "one"), noising.derive(bytes(32), "two")
ALMOST_NONE = 1e-3


def declared(privacy=None, training=None, columns=WIDTH, **changes):
    fields = {"delta": 1e-3, "noise_multiplier": ALMOST_NONE} | (privacy or {})
    made = {
        "title": "hidden",
        "purpose": "a test",
        "legal_basis": "numbers",
        "researcher": "ada",
        "participants": ("angus", "banff", "clyde"),
        "min_participants": 3,
        "data": wardround.DataContract(
            columns=tuple(wardround.Column(name=f"x{place}") for place in range(columns)),
            label=wardround.Label(name="died"),
            scaling="none",
        ),
        "model": wardround.BuiltinModel(name="logistic"),
        "training": training or Training(rounds=2, epochs=0, steps=1, optimizer=wardround.Optimizer(learning_rate=0.5)),
        "expires": 4_000_000_000,
        "privacy": Privacy(**fields),
    }
    return wardround.declare(**made | changes)


def table(records=40, width=WIDTH, patients=None, held_out=0.0, scale=1.0):
    generator = np.random.default_rng(records)  # noqa: TID251, a test's own
    features = generator.normal(size=(records, width)).astype(np.float32) * scale
    labels = (features.sum(axis=1) > 0).astype(np.float32)
    out = np.arange(records) < held_out * records
    report = LoadReport(records, records, 0)
    return StudyTable(features, labels, out, report, *([] if patients is None else [np.array(patients, np.int32)]))


def update_of(study, records, seed=SEED, tmp_path=None, kind="train"):
    """The update of the first round at one site, and the evaluation."""
    worker = InProcessWorker(study.plan, "angus", records, None)
    base = tmp_path / "base"
    base.write_bytes(study.initial)
    try:
        done = worker.perform(1, kind, str(base), b"", seed=seed)
        if done.update is None:
            return None, done
        arrays = tensors.unpack(os.pread(done.update, done.ref.size, 0), study.plan.manifest)
        return np.concatenate([np.ravel(arrays[spec.name]) for spec in study.plan.manifest]), done
    finally:
        worker.close()


def mean_gradients(records):
    """Of a logistic model at zero: by patient, over bias-last columns."""
    inputs = np.column_stack([records.features, np.ones(len(records.labels))])
    each = inputs * (0.5 - records.labels)[:, None]
    count = records.patients.max() + 1
    return np.array([each[records.patients == patient].mean(axis=0) for patient in range(count)])


def by_hand(records, clip, rate=0.5):
    gradients = mean_gradients(records)
    norms = np.linalg.norm(gradients, axis=1, keepdims=True)
    return -rate * (gradients * np.minimum(1, clip / norms)).sum(axis=0) / len(gradients)


def test_a_step_follows_the_clipped_gradients_of_all_patients(tmp_path):
    records = table()
    found, done = update_of(declared({"clip": 0.4}), records, tmp_path=tmp_path)
    assert found == pytest.approx(by_hand(records, 0.4), rel=2e-3, abs=2e-4)
    assert done.records == 40
    assert set(done.evaluation.metrics.values()) == {None}


def test_a_patient_with_many_records_counts_once(tmp_path):
    owners = [0] * 30 + [1] * 3 + [2] * 2 + [3, 4, 5, 6, 7]
    records = table(patients=owners)
    study = declared({"clip": 0.4, "patient_records": 1000})
    found, done = update_of(study, records, tmp_path=tmp_path)
    assert found == pytest.approx(by_hand(records, 0.4), rel=2e-3, abs=2e-4)
    assert done.records == 8


def test_one_patient_with_a_hundred_thousand_records_moves_no_more_than_one_with_one(tmp_path):
    heavy = table(records=100_010, patients=[0] * 100_001 + list(range(1, 10)), scale=1e3)
    study = declared({"clip": 0.1, "patient_records": 100_000})
    found, _ = update_of(study, heavy, tmp_path=tmp_path)
    assert np.linalg.norm(found) <= 0.5 * 0.1 * (1 + 1e-6) + 1e-3
    assert np.isfinite(found).all()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e38])
def test_a_patient_whose_gradient_is_no_number_adds_nothing(tmp_path, value):
    records = table()
    records.features[3, 1] = value
    study = declared({"clip": 0.4, "sampling_rate": 1.0}, columns=WIDTH)
    found, _ = update_of(study, records, tmp_path=tmp_path)
    assert np.isfinite(found).all()
    without = table()
    gradients = mean_gradients(without)
    gradients[3] = 0
    norms = np.maximum(np.linalg.norm(gradients, axis=1, keepdims=True), 1e-9)
    expected = -0.5 * (gradients * np.minimum(1, 0.4 / norms)).sum(axis=0) / 40
    # Where the value is missing the contract's mean stands in, and a huge one saturates and is clipped.
    assert np.linalg.norm(found - expected) <= 0.5 * 0.4 / 40 * 1.01 + 2e-3


def test_gradients_that_are_all_zero_leave_only_noise(tmp_path):
    records = table()
    records.features[...] = 0.0
    records.labels[...] = np.arange(40) % 2
    found, _ = update_of(declared({"noise_multiplier": 1.0}), records, tmp_path=tmp_path)
    assert np.isfinite(found).all()
    assert np.abs(found).max() > 0


def test_a_site_without_training_patients_sends_noise(tmp_path):
    found, done = update_of(declared({"noise_multiplier": 1.0}), table(held_out=1.0), tmp_path=tmp_path)
    assert np.isfinite(found).all()
    assert done.records == 0


def test_the_same_round_gives_the_same_bytes_and_another_seed_other_noise(tmp_path):
    study = declared({"noise_multiplier": 1.0, "sampling_rate": 0.5})
    torch.manual_seed(0)
    first, _ = update_of(study, table(), tmp_path=tmp_path)
    again, _ = update_of(study, table(), tmp_path=tmp_path)
    torch.manual_seed(0)
    other, _ = update_of(study, table(), OTHER, tmp_path)
    assert (first == again).all()
    assert not (first == other).any()


def test_the_noise_is_what_the_plan_says(tmp_path):
    width = 3000
    study = declared({"noise_multiplier": 2.0, "clip": 0.3}, columns=width)
    records = table(records=40, width=width)
    quiet, _ = update_of(
        declared({"noise_multiplier": ALMOST_NONE, "clip": 0.3}, columns=width), records, tmp_path=tmp_path
    )
    loud, _ = update_of(study, records, tmp_path=tmp_path)
    assert (loud - quiet).std() == pytest.approx(0.5 * 2.0 * 0.3 / 40, rel=0.08)


def test_patients_are_drawn_and_the_sum_is_over_the_expected_number(tmp_path):
    study = declared({"sampling_rate": 0.25, "clip": 100.0})
    records = table(records=400)
    updates = [update_of(study, records, noising.derive(bytes(32), number), tmp_path)[0] for number in range(60)]
    assert np.mean(updates, axis=0) == pytest.approx(by_hand(records, 100.0), abs=0.03)
    assert np.std(updates, axis=0).max() > 1e-3


def test_in_passes_everybody_takes_part_once_in_a_pass(tmp_path):
    training = Training(rounds=1, epochs=0, steps=4, optimizer=wardround.Optimizer(learning_rate=1e-4))
    study = declared({"sampling": "passes", "sampling_rate": 0.25, "clip": 100.0}, training)
    records = table(records=400)
    # So small a step leaves the model where it is: four batches are the sum over all, over a hundred each.
    found, _ = update_of(study, records, tmp_path=tmp_path)
    assert found == pytest.approx(by_hand(records, 100.0, rate=4e-4), abs=2e-5)


def test_correlated_noise_leaves_the_gradients_what_they_are(tmp_path):
    training = Training(rounds=1, epochs=0, steps=8, optimizer=wardround.Optimizer(learning_rate=0.1))
    study = declared({"sampling": "passes", "sampling_rate": 0.25, "band": 4, "clip": 0.4}, training)
    alone = declared({"sampling": "passes", "sampling_rate": 0.25, "clip": 0.4}, training)
    records = table(records=400)
    banded, _ = update_of(study, records, tmp_path=tmp_path)
    plain, _ = update_of(alone, records, tmp_path=tmp_path)
    assert banded == pytest.approx(plain, abs=1e-3)


def test_the_clipping_norm_finds_the_quantile(tmp_path):
    training = Training(rounds=2, epochs=0, steps=60, optimizer=wardround.Optimizer(learning_rate=1e-6))
    study = declared({"clip": 30.0, "clip_quantile": 0.5, "noise_multiplier": 0.05}, training)
    records = table(records=400)
    worker = InProcessWorker(study.plan, "angus", records, None)
    base = tmp_path / "base"
    base.write_bytes(study.initial)
    worker.perform(1, "train", str(base), b"", seed=SEED)
    learned = np.frombuffer(os.pread(worker.memory, 68, 0), np.float32)[16]
    worker.close()
    norms = np.linalg.norm(mean_gradients(records), axis=1)
    assert (norms <= learned).mean() == pytest.approx(0.5, abs=0.1)


def test_a_whole_update_is_clipped_and_noised_with_the_unit_site(tmp_path):
    training = Training(rounds=1, epochs=5, batch_size=4, optimizer=wardround.Optimizer(learning_rate=5.0))
    found, done = update_of(declared({"unit": "site", "clip": 0.25}, training), table(), tmp_path=tmp_path)
    assert np.linalg.norm(found) == pytest.approx(0.25, rel=0.01)
    assert done.records == 1
    secure = wardround.SecureAggregation(roster="ab" * 32)
    quiet = declared({"unit": "site", "clip": 0.25, "noise": "shared"}, training, secure=secure)
    masked, _ = update_of(quiet, table(), tmp_path=tmp_path)
    assert np.linalg.norm(masked) <= 0.25


@pytest.mark.parametrize("distribution", ["gaussian", "laplace"])
def test_updates_of_sites_have_the_noise_that_is_said(distribution):
    privacy = Privacy(delta=0.1, unit="site", distribution=distribution, clip=2.0, noise_multiplier=1.5)
    update = torch.zeros(100_000)
    clip_update(update, privacy, SEED)
    spread = update.std() if distribution == "gaussian" else update.abs().mean()
    assert float(spread) == pytest.approx(3.0, rel=0.02)


def test_an_update_that_is_not_finite_is_noise_alone_and_nobody_is_told():
    privacy = Privacy(delta=0.1, unit="site", noise_multiplier=1.5)
    update, zero = torch.tensor([1.0, math.nan]), torch.zeros(2)
    clip_update(update, privacy, SEED)
    clip_update(zero, privacy, SEED)
    assert torch.equal(update, zero)


def test_a_model_that_mixes_patients_is_refused_with_what_to_do():
    module = nn.Sequential(nn.Linear(WIDTH, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
    trained, start = [], 0
    for parameter in module.parameters():
        trained.append((parameter, slice(start, start + parameter.numel())))
        start += parameter.numel()
    with pytest.raises(CodecError, match="group"):
        PrivateTraining(declared().plan, module, trained, start, np.arange(5), WIDTH, 5)


def test_what_is_sent_must_be_trained_where_noise_is_added_elsewhere():
    plan = declared({"noise": "central"}).plan
    module = nn.Linear(WIDTH, 1)
    with pytest.raises(CodecError, match="not trained"):
        PrivateTraining(plan, module, [(module.weight, slice(0, WIDTH))], WIDTH + 1, np.arange(5), WIDTH, 5)


def test_metrics_are_of_patients_bounded_and_noisy():
    plan = declared({"evaluation_noise": 1e-3}).plan
    logits = np.array([3.0, -3.0, 50.0, math.nan], np.float32)
    labels = np.array([1.0, 1.0, 0.0, 1.0], np.float32)
    found = private_metrics(plan, labels, logits, np.array([0, 0, 1, 2]), SEED)
    # Patient 0 is right once of two, patient 1 never, and no number counts as even odds.
    assert found["accuracy"] == pytest.approx((0.5 + 0 + 1) / 3, abs=0.01)
    # Per patient: the mean over two, then the most there is, then that of even odds.
    losses = [(math.log1p(math.exp(-3)) + math.log1p(math.exp(3))) / 2, 4.0, math.log(2)]
    assert found["log_loss"] == pytest.approx(sum(losses) / 3, abs=0.05)
    assert found["auc"] is None
    noisy = private_metrics(
        msgspec.structs.replace(plan, privacy=msgspec.structs.replace(plan.privacy, evaluation_noise=5.0)),
        labels, logits, np.array([0, 0, 1, 2]), SEED,
    )  # fmt: skip
    assert all(0 <= noisy[name] <= 4 for name in ("accuracy", "brier", "log_loss"))
    assert noisy["accuracy"] != found["accuracy"]


def test_no_metric_leaves_without_noise(tmp_path):
    _, done = update_of(declared(), table(held_out=0.5), tmp_path=tmp_path, kind="evaluate")
    assert set(done.evaluation.metrics.values()) == {None}
    _, noisy = update_of(declared({"evaluation_noise": 1.0}), table(held_out=0.5), tmp_path=tmp_path, kind="evaluate")
    assert noisy.evaluation.metrics["accuracy"] is not None


def test_after_an_evaluation_that_was_paid_a_round_of_training_tells_no_more_of_it(tmp_path):
    study = declared({"evaluation_noise": 1.0})
    worker = InProcessWorker(study.plan, "angus", table(held_out=0.5), None)
    base = tmp_path / "base"
    base.write_bytes(study.initial)
    paid = worker.perform(2, "evaluate", str(base), b"", seed=SEED)
    free = worker.perform(1, "train", str(base), b"", seed=OTHER)
    worker.close()
    assert paid.evaluation.metrics["accuracy"] is not None
    assert set(free.evaluation.metrics.values()) == {None}


def test_nothing_is_drawn_where_nobody_paid():
    with pytest.raises(ValueError, match="empty seed"):
        noising.derive(b"", "metrics")


def test_bags_hold_every_record_of_a_patient_once_up_to_the_most():
    patients = np.array([2, 0, 2, 2, 1, 0])
    bags = Bags(patients, 2)
    assert (bags.patients, bags.most_records) == (3, 2)
    seen = {}
    for rows, weights in bags.pieces(np.ones(3, np.bool_)):
        for row, share in zip(rows, weights, strict=True):
            real = row[share > 0]
            assert share.sum() == pytest.approx(1.0)
            assert len(set(real)) == len(real)
            seen[patients[real[0]]] = sorted(real)
    assert seen == {0: [1, 5], 1: [4], 2: [0, 2]}
    assert list(bags.pieces(np.zeros(3, np.bool_))) == []


def test_a_site_counts_by_patients_or_once():
    own = table(3, patients=[0, 0, 1])
    assert weight(declared().plan, own) == 2
    assert weight(declared({"unit": "site"}, Training(rounds=1)).plan, own) == 1
    assert weight(msgspec.structs.replace(declared().plan, privacy=None), own) == 3


def test_what_a_site_counts_for_does_not_hang_on_whose_records_fit():
    whole = declared().plan
    for used in (40, 12):
        some = table(used)
        read = StudyTable(some.features, some.labels, some.held_out, LoadReport(60, used, 60 - used, owners=60))
        assert weight(whole, read) == 45
        assert weight(whole, read, held_out=True) == 15


def alike(count):
    """So many patients with one and the same record, whose gradient is one half in the bias alone."""
    return StudyTable(
        np.zeros((count, WIDTH), np.float32), np.ones(count, np.float32), np.zeros(count, np.bool_),
        LoadReport(count, count, 0),
    )  # fmt: skip


def drawn(study, count, seed, tmp_path):
    """How many patients took part in a round, of all its steps together."""
    found, _ = update_of(study, alike(count), seed, tmp_path)
    rate, expected = study.plan.training.optimizer.learning_rate, count * study.plan.privacy.sampling_rate
    return found[-1] / (0.5 * rate) * max(expected, 1.0)


def test_how_many_were_drawn_is_not_divided_by(tmp_path):
    training = Training(rounds=1, epochs=0, steps=1, optimizer=wardround.Optimizer(learning_rate=1e-3))
    study = declared({"sampling_rate": 0.5}, training)
    counts = [drawn(study, 100, noising.derive(SEED, number), tmp_path) for number in range(30)]
    assert np.std(counts) == pytest.approx(5, rel=0.5)
    assert counts == pytest.approx(np.rint(counts), abs=0.02)


def test_patients_are_drawn_anew_in_each_step(tmp_path):
    training = Training(rounds=1, epochs=0, steps=2, optimizer=wardround.Optimizer(learning_rate=1e-3))
    study = declared({"sampling_rate": 0.5}, training)
    counts = [round(drawn(study, 1, noising.derive(SEED, number), tmp_path)) for number in range(60)]
    assert set(counts) == {0, 1, 2}
    assert counts.count(1) == pytest.approx(30, abs=15)


def test_noise_is_drawn_anew_in_each_step(tmp_path):
    width = 3000
    training = Training(rounds=1, epochs=0, steps=4, optimizer=wardround.Optimizer(learning_rate=1e-3))
    study = declared({"noise_multiplier": 2.0, "clip": 0.3}, training, columns=width)
    records = table(width=width)
    records.features[...] = 0
    found, _ = update_of(study, records, tmp_path=tmp_path)
    assert found[:-1].std() == pytest.approx(1e-3 * 2.0 * 0.3 / 40 * 4**0.5, rel=0.08)
