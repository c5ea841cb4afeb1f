"""Studies under secure aggregation, run whole in this process: what comes out beside what the plain run gives."""

import msgspec
import numpy as np
import pytest

import wardround
from wardround.clinical.summaries import Counts, Histogram
from wardround.clinical.table import LoadReport, StudyTable
from wardround.codec import canonical, tensors
from wardround.protocol.plan import SecureAggregation
from wardround.services import updates

SITES = ("angus", "banff", "clyde", "deeside")
ROSTER = "ab" * 32


def table(site, width=2):
    place = SITES.index(site)
    count = 40 + 10 * place
    base = np.arange(count * width, dtype=np.float64).reshape(count, width)
    features = (np.sin(base * (place + 1)) * 10).round() / 8
    labels = (features.sum(axis=1) > 0).astype(np.float32)
    held_out = np.arange(count) % 5 == 0
    return StudyTable(features.astype(np.float32), labels, held_out, LoadReport(count, count, 0))


def declared(**changes):
    fields = {
        "title": "added up in secret",
        "purpose": "a test",
        "legal_basis": "numbers",
        "researcher": "ada",
        "participants": SITES,
        "min_participants": 3,
        "data": wardround.DataContract(
            columns=(wardround.Column(name="age", unit="a"), wardround.Column(name="lactate", unit="mmol/L")),
            label=wardround.Label(name="died"),
        ),
        "model": wardround.BuiltinModel(name="logistic"),
        "training": wardround.Training(rounds=2, epochs=2, batch_size=8),
        "expires": 4_000_000_000,
        "seed": 3,
    }
    return wardround.declare(**fields | changes)


def run(study, secure=None, **changes):
    """The study's simulation, with secure aggregation where terms are given."""
    plan = msgspec.structs.replace(study.plan, secure=secure, **changes)
    done = wardround.simulate(wardround.Study(plan, study.initial, None), {site: table(site) for site in SITES})
    assert done.status.phase == "completed", done.status.reason
    return done


def of(done, kind):
    return [event for event in done.status.events if event["event"] == kind]


def events_of(study, secure, **changes):
    """A simulation with every event that it told."""
    plan = msgspec.structs.replace(study.plan, secure=secure, **changes)
    told = []
    tables = {site: table(site) for site in SITES}
    done = wardround.simulate(
        wardround.Study(plan, study.initial, None), tables, progress=lambda status: told.extend(status.events)
    )
    assert done.status.phase == "completed", done.status.reason
    return done, told


@pytest.mark.parametrize("server", ["fedavg", "fedadam", "fedyogi", "fedavgm", "fedadagrad"])
def test_the_model_is_the_plain_one_but_for_rounding(server):
    rule = wardround.ServerRule(name=server, learning_rate=0.1)
    study = declared(training=wardround.Training(rounds=3, epochs=1, server=rule))
    plain, secret = run(study), run(study, SecureAggregation(roster=ROSTER, max_weight=100))
    for name, values in plain.arrays().items():
        assert np.abs(np.asarray(values) - np.asarray(secret.arrays()[name])).max() < 1e-4
    assert secret.model != study.initial


def test_the_statistics_are_the_plain_ones_bit_for_bit():
    study = declared()
    plain, secret = run(study), run(study, SecureAggregation(roster=ROSTER, max_weight=100))
    assert secret.standardization == plain.standardization


def test_one_site_alone_is_never_seen():
    _, told = events_of(declared(), SecureAggregation(roster=ROSTER))
    accepted = [event for event in told if event["event"] == "update-accepted"]
    assert len(accepted) == 4 * len(SITES)
    assert all((event["update"], event["records"], event["evaluation"]) == (None, 0, None) for event in accepted)
    survivors = [event["survivors"] for event in told if event["event"] == "cohort-opened"]
    assert survivors == [list(SITES)] * 4


def test_metrics_are_pooled_unless_the_plan_shows_them():
    _, hidden = events_of(declared(), SecureAggregation(roster=ROSTER))
    _, shown = events_of(declared(), SecureAggregation(roster=ROSTER, site_metrics=True))
    pooled = [event["evaluation"] for event in hidden if event["event"] == "round-combined"]
    own = [event["evaluation"] for event in shown if event["event"] == "update-accepted" and event["number"] == 4]
    assert pooled[-1]["records"] == sum(one["records"] for one in own)
    # Both models are the same, for metrics do not change them; so their mean must be the pooled one.
    defined = [one for one in own if one["metrics"]["auc"] is not None]
    mean = sum(one["records"] * one["metrics"]["auc"] for one in defined) / sum(one["records"] for one in defined)
    assert pooled[-1]["metrics"]["auc"] == pytest.approx(mean, abs=0.02)
    assert all(event["evaluation"] is None for event in shown if event["event"] == "round-combined")


def test_only_the_arrays_that_the_plan_names_move():
    study = declared(model=wardround.BuiltinModel(name="mlp", hidden=(8,)))
    names = [spec.name for spec in study.plan.manifest]
    sent = tuple(names[2:])
    secret = run(study, SecureAggregation(roster=ROSTER, arrays=sent))
    before = tensors.unpack(study.initial, study.plan.manifest)
    for name in names:
        moved = not np.array_equal(np.asarray(before[name]), np.asarray(secret.arrays()[name]))
        assert moved == (name in sent), name


def test_a_model_of_several_chunks_and_gaps_between_the_arrays_it_sends(monkeypatch):
    monkeypatch.setattr(updates, "CHUNK", 16)
    study = declared(model=wardround.BuiltinModel(name="mlp", hidden=(9, 7)))
    names = [spec.name for spec in study.plan.manifest]
    sent = (names[0], names[3], names[5])
    in_pieces = run(study, SecureAggregation(roster=ROSTER, arrays=sent))
    monkeypatch.undo()
    assert in_pieces.model == run(study, SecureAggregation(roster=ROSTER, arrays=sent)).model


def test_a_weight_beyond_the_cap_counts_as_the_cap():
    plain = run(declared(limits=wardround.Limits(max_records=1)))
    secret = run(declared(limits=wardround.Limits(max_records=1)), SecureAggregation(roster=ROSTER, max_weight=1))
    for name, values in plain.arrays().items():
        assert np.abs(np.asarray(values) - np.asarray(secret.arrays()[name])).max() < 1e-5


def test_an_update_beyond_the_clip_is_cut():
    training = wardround.Training(rounds=1, epochs=5, optimizer=wardround.Optimizer(learning_rate=5.0))
    secret = run(declared(training=training), SecureAggregation(roster=ROSTER, clip=0.01, max_weight=100))
    assert max(np.abs(np.asarray(values)).max() for values in secret.arrays().values()) <= 0.01 + 1e-6


def test_summaries_come_with_the_first_round():
    asked = (Counts("died"), Histogram("age", (-0.5, 0.0, 0.5)))
    done = run(declared(), SecureAggregation(roster=ROSTER), summaries=asked)
    died, ages = canonical.decode(done.findings["summaries"], list)
    labels = np.concatenate([table(site).labels for site in SITES])
    values = np.concatenate([table(site).features[:, 0] for site in SITES])
    assert died["counts"] == {"0": int((labels == 0).sum()), "1": int((labels == 1).sum())}
    assert sum(ages["counts"]) == len(values)
    without = run(
        declared(data=msgspec.structs.replace(declared().plan.data, scaling="none")),
        SecureAggregation(roster=ROSTER),
        summaries=asked,
    )
    assert canonical.decode(without.findings["summaries"], list)[0] == died
    assert not without.standardization


def test_the_same_study_gives_the_same_bytes():
    terms = SecureAggregation(roster=ROSTER)
    assert run(declared(), terms).model == run(declared(), terms).model
