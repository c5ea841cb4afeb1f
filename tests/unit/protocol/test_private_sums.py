"""Noisy statistics of one site and of several: against the sums without noise, and against their bounds."""

from fractions import Fraction

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import wardround
from wardround import analysis
from wardround.aggregation import standardization
from wardround.analysis import KaplanMeier, Quantiles
from wardround.clinical import summaries
from wardround.clinical.summaries import Counts, Histogram, Moments
from wardround.clinical.table import LoadReport, StudyTable
from wardround.privacy import noising
from wardround.protocol import private_sums
from wardround.protocol.plan import Privacy, SecureAggregation, Training

SEED = noising.derive(bytes(32), "sums")
COLUMNS = (
    wardround.Column(name="age", minimum=0, maximum=120, missing="mask"),
    wardround.Column(name="pressure", minimum=50, maximum=250),
    wardround.Column(name="smoker", kind="boolean"),
)
SUMMARIES = (
    Moments(columns=("age", "pressure")),
    Counts(column="smoker"),
    Histogram(column="age", edges=(30.0, 60.0)),
)
ALMOST_NONE = 1e-3


def declared(noise=ALMOST_NONE, label=None, **changes):
    fields = {
        "title": "hidden",
        "purpose": "a test",
        "legal_basis": "numbers",
        "researcher": "ada",
        "participants": ("angus", "banff", "clyde"),
        "min_participants": 3,
        "data": wardround.DataContract(columns=COLUMNS, label=label or wardround.Label(name="died")),
        "model": wardround.BuiltinModel(name="cox" if label else "logistic"),
        "training": Training(rounds=0) if label else Training(rounds=1, epochs=0, steps=1),
        "expires": 4_000_000_000,
        "secure": SecureAggregation(roster="ab" * 32),
        "summaries": SUMMARIES,
        "analyses": (Quantiles(columns=("age", "pressure"), rounds=2, bins=8),),
        "privacy": Privacy(delta=1e-3, noise_multiplier=2.0, statistics_noise=noise),
    }
    return wardround.declare(**fields | changes).plan


def table(records=300, patients=None, survival=False):
    draw = np.random.default_rng(records)  # noqa: TID251, a test's own
    age = draw.uniform(20, 90, records)
    gaps = draw.random(records) < 0.1
    age[gaps] = np.nan
    features = np.column_stack([age, gaps, draw.uniform(60, 200, records), draw.random(records) < 0.4])
    labels = (draw.random(records) < 0.5).astype(np.float32)
    if survival:
        labels = np.column_stack([draw.exponential(20, records), labels]).astype(np.float32)
    report = LoadReport(records, records, 0)
    more = [] if patients is None else [np.array(patients, np.int32)]
    return StudyTable(features.astype(np.float32), labels, np.arange(records) % 4 == 0, report, *more)


def found(plan, kind, tables, known=()):
    parts = [
        private_sums.site_sums(plan, kind, one, known, noising.derive(SEED, place)) for place, one in enumerate(tables)
    ]
    return private_sums.decoded(plan, kind, [sum(map(Fraction, column)) for column in zip(*parts, strict=True)])


def test_with_almost_no_noise_they_are_the_sums_themselves():
    plan, records = declared(), table()
    values = np.array([float(value) for value in found(plan, "statistics", [records])])
    moments = standardization.site_sums(records.features[~records.held_out], [True, False, True, False])
    exact = np.concatenate([*moments.values(), summaries.site_sums(SUMMARIES, records, plan.data)])
    assert values == pytest.approx(exact, rel=1e-3, abs=0.6)


def test_sites_add_up():
    plan = declared()
    apart = [table(100), table(200), table(50)]
    values = found(plan, "statistics", apart)
    width = 4
    exact = sum(summaries.site_sums(SUMMARIES, one, plan.data) for one in apart)
    assert [float(value) for value in values[3 * width :]] == pytest.approx(exact, rel=1e-3, abs=1)


def test_indicators_are_told_nothing_of_by_the_standardization():
    plan = declared(noise=5.0)
    for number in range(5):
        told = private_sums.site_sums(plan, "statistics", table(), (), noising.derive(SEED, "again", number))
        moments = private_sums.decoded(plan, "statistics", list(map(Fraction, told)))[:12]
        assert [moments[place] for place in (1, 3, 5, 7, 9, 11)] == [0] * 6
    values = found(plan, "statistics", [table()])
    sums = {
        name: np.array([float(value) for value in values[place * 4 : place * 4 + 4]])
        for place, name in enumerate(("count", "sum", "sum_of_squares"))
    }
    mean, std = standardization.mean_and_std(sums)
    assert (mean[[1, 3]] == 0).all()
    assert (std[[1, 3]] == 1).all()
    # What noise leaves of the others is still a mean and a deviation within the plausible range.
    assert 0 <= mean[0] <= 120
    assert 50 <= mean[2] <= 250
    assert 0 < std[0] <= 60
    assert 0 < std[2] <= 100


@given(st.integers(0, 10_000), st.floats(0.5, 200.0))
def test_noise_never_makes_moments_that_no_records_have(number, noise):
    plan = declared(noise=noise)
    values = found(plan, "statistics", [table(20)])
    del number
    for place in (0, 2):
        count, total, squares = (values[part * 4 + place] for part in range(3))
        assert count >= 0
        assert count == 0 or squares / count > (total / count) ** 2


@pytest.mark.parametrize("distribution", ["gaussian", "laplace"])
@pytest.mark.parametrize("kind", ["statistics", "analysis", "survival"])
def test_no_patient_moves_them_by_more_than_the_noise_covers(kind, distribution):
    label = wardround.Label(name="months", outcome="survival", event="died") if kind == "survival" else None
    changes = {"summaries": (), "analyses": (KaplanMeier(edges=(6.0, 12.0)),)} if label else {}
    if label:
        changes["data"] = wardround.DataContract(columns=COLUMNS, label=label, scaling="none")
    if distribution == "laplace":
        changes["training"] = Training(rounds=0)
    plan = declared(label=label, **changes)
    plan = msgspec.structs.replace(plan, privacy=msgspec.structs.replace(plan.privacy, distribution=distribution))
    kind = "analysis" if label else kind
    known = analysis.states(plan.analyses, plan.data, b"")
    numbers, grid = private_sums._numbers(plan, kind, known), private_sums._grid(plan, kind)
    records = table(400, [place // 3 for place in range(400)], survival=bool(label))
    records.features[:5, 0] = [-1e9, 1e9, 0, 120, np.nan]
    for rows in private_sums._patients(records.patients):
        mine = numbers(private_sums._of(records, rows)) / len(rows)
        norm = np.abs(mine).sum() if distribution == "laplace" else np.linalg.norm(mine)
        assert norm <= grid.bound


def test_a_patient_with_many_records_counts_once():
    plan = declared()
    owners = [0] * 297 + [1, 2, 3][:3]
    values = found(plan, "statistics", [table(300, owners)])
    counts = values[3 * 4 + 6 : 3 * 4 + 8]
    assert sum(counts) == pytest.approx(4, abs=1)


def test_the_noise_is_what_the_plan_says():
    plan = declared(noise=7.0)
    grid = private_sums._grid(plan, "analysis")
    draws = []
    for number in range(300):
        seed = noising.derive(SEED, "draw", number)
        known = analysis.states(plan.analyses, plan.data, b"")
        draws.append(private_sums.site_sums(plan, "analysis", table(20), known, seed) / grid.scale)
    parts = 2 * 5  # two columns, five probabilities
    assert np.std(draws, axis=0).mean() == pytest.approx(7.0 * 1.01 * parts**0.5, rel=0.03)


def test_shared_noise_is_the_whole_among_the_least_honest():
    plan = declared(noise=7.0, training=Training(rounds=1, epochs=0, steps=1))
    shared = msgspec.structs.replace(plan.privacy, noise="shared", colluding=1)
    grid, own = (
        private_sums._grid(msgspec.structs.replace(plan, privacy=shared), "analysis"),
        private_sums._grid(plan, "analysis"),
    )
    assert own.scale / grid.scale == pytest.approx(1 / 2**0.5)


def test_counts_are_whole_and_not_negative():
    values = found(
        declared(noise=50.0), "analysis", [table(10)], analysis.states(declared().analyses, declared().data, b"")
    )
    assert all(value >= 0 and value.denominator == 1 for value in values)
