"""What a committee reads before it approves a private plan, and what it sees of its utility on made-up records."""

import math
import re

import numpy as np
import pytest

from wardround.errors import ConfigError
from wardround.privacy import accounting, ledger, rdp
from wardround.protocol import private
from wardround.sdk import planning, twins, utility, utility_page
from wardround.sdk import study as studies
from wardround.sdk.utility import Point
from wardround.training import metrics

STUDY = """
title = "Illness from <age>"
purpose = "a test"
legal_basis = "made-up records"
participants = ["east", "north", "west"]
min_participants = 3
expires = 4000000000

[data]
label = {{ {label} }}
scaling = "{scaling}"
holdout = 0.2
{patient}
columns = [
  {{ name = "age", unit = "a", minimum = 18, maximum = 90 }},
  {{ name = "crp", unit = "mg/L", minimum = 0, maximum = 500, missing = "mask" }},
  {{ name = "smoker", kind = "boolean" }},
  {{ name = "sex", kind = "category", categories = ["f", "m"], other = true }},
]

[model]
name = "{model}"

[training]
rounds = {rounds}
epochs = 0
steps = 4
optimizer = {{ learning_rate = 1.0 }}
"""
PRIVATE = """
[privacy]
delta = 1e-4
noise_multiplier = 4.0
sampling_rate = 0.2
evaluation_noise = 20.0
"""
LABELS = {
    "binary": ('name = "ill"', "logistic"),
    "multiclass": ('name = "stage", outcome = "multiclass", classes = ["a", "b", "c"]', "logistic"),
    "number": ('name = "days", outcome = "number"', "linear"),
    "survival": ('name = "days", outcome = "survival", event = "died"', "cox"),
}


def declared(outcome="binary", privacy=PRIVATE, scaling="bounds", rounds=5, *, has_patients=True):
    label, model = LABELS[outcome]
    patient = 'patient = "person"' if has_patients else ""
    text = STUDY.format(label=label, model=model, scaling=scaling, rounds=rounds, patient=patient)
    return studies.from_toml(text + privacy, "researcher")


def test_the_figures_are_those_of_the_accountants():
    plan = declared().plan
    found = planning.figures(plan)
    assert found is not None
    assert (found.unit, found.delta, found.epsilon) == ("patient", 1e-4, private.epsilon(plan))
    assert found.tight_epsilon == accounting.tight_epsilon(private.composed(plan), 1e-4)
    assert found.tight_epsilon < found.epsilon <= found.least_grant < 1.1 * found.epsilon
    assert found.two_sites == (2 * found.epsilon, 2e-4)
    assert [(part.kind, part.rounds) for part in found.parts] == [("train", 5), ("evaluate", 1)]
    assert sum(part.share for part in found.parts) == pytest.approx(1.0)
    assert found.parts[0].share > 0.9
    assert found.parts[0].epsilon == rdp.epsilon([5 * cost for cost in rdp.cost(found.parts[0].mechanism)], 1e-4)


def test_a_new_ledger_of_the_least_grant_takes_the_plan():
    plan = declared(privacy=PRIVATE + "statistics_noise = 30.0", scaling="federated").plan
    found = planning.figures(plan)
    assert found is not None
    assert [part.kind for part in found.parts] == ["statistics", "train", "evaluate"]
    for factor, fits in ((1.0, True), (0.99, False)):
        empty = ledger.opened("here")
        granted = factor * found.least_grant
        entry = ledger.grant(empty, 0.0, epsilon=granted, delta=1e-4, person="p", reason="r")
        full = ledger.apply(empty, entry)
        if fits:
            assert ledger.reserve(full, 0.0, run="r", study="s", uses=private.uses(plan), relation=found.relation)
        else:
            with pytest.raises(Exception, match="asks for"):
                ledger.reserve(full, 0.0, run="r", study="s", uses=private.uses(plan), relation=found.relation)


def test_the_noise_for_a_target_meets_it():
    plan = declared().plan
    found = planning.figures(plan, 0.7)
    assert found is not None
    assert found.target is not None
    assert found.target.setting == "noise_multiplier"
    assert found.target.tight_noise < found.target.noise <= found.target.granted_noise
    noise = found.target.noise
    changed = declared(privacy=PRIVATE.replace("4.0", str(noise))).plan
    assert 0.69 < private.epsilon(changed) <= 0.7
    assert planning.noise_for(plan, 0.7) == noise


def test_a_target_that_the_other_rounds_exceed_has_no_noise():
    plan = declared(privacy=PRIVATE.replace("20.0", "2.0")).plan
    found = planning.figures(plan, 0.3)
    assert found is not None
    assert found.target == planning.Target(0.3, "noise_multiplier", None, None, None)
    assert any("No noise_multiplier reaches epsilon 0.3" in line for line in planning.privacy_words(plan, 0.3))


@pytest.mark.parametrize("target", [0.0, -1.0, math.nan, math.inf])
def test_a_target_that_cannot_be_is_refused(target):
    with pytest.raises(ConfigError, match="target"):
        planning.figures(declared().plan, target)


def test_the_words_say_what_a_committee_must_know():
    plan = declared().plan
    words = "\n".join(planning.privacy_words(plan, planning.figures(plan, 2.0)))
    for part in (
        "neighbours differ in one patient at one site",
        "own secret coin of 0.2",
        "nobody outside it need be trusted",
        "by Rényi costs",
        "by privacy loss distributions",
        "at most 9,999",
        "train: 5 round(s) of 4 steps",
        "evaluate: 1 round(s)",
        "The least grant",
        "treated at two of these hospitals",
        "noise_multiplier = ",
    ):
        assert part in words


def test_one_noise_for_all_sites_makes_a_patient_at_two_of_them_a_group_of_two():
    central = """
        [privacy]
        delta = 1e-6
        noise = "central"
        noise_multiplier = 4.0
        sampling_rate = 0.2
    """
    text = STUDY.format(label=LABELS["binary"][0], model="logistic", scaling="bounds", rounds=5, patient="")
    study = studies.from_toml(text.replace("steps = 4", "steps = 1") + central, "researcher")
    found = planning.figures(study.plan)
    assert found is not None
    epsilon, delta = found.two_sites
    assert epsilon == 2 * found.epsilon
    assert delta == pytest.approx((1 + math.exp(found.epsilon)) * 1e-6)
    assert "the hub must be trusted" in "\n".join(planning.privacy_words(study.plan))


def test_the_unit_site_speaks_of_sites():
    text = '\n[privacy]\ndelta = 1e-2\nunit = "site"\nnoise_multiplier = 50.0\n'
    words = "\n".join(planning.privacy_words(declared(privacy=text).plan))
    assert "all the records of one site" in words
    assert "Delta must be below 1 / number of sites" in words
    assert "hospitals" not in words


def test_a_guarantee_that_is_none_says_so():
    words = planning.privacy_words(declared(privacy=PRIVATE.replace("4.0", "0.01")).plan)
    assert any("promises nothing" in line for line in words)


def test_without_privacy_nothing_is_noised():
    plan = declared(privacy="").plan
    assert planning.figures(plan) is None
    assert planning.privacy_words(plan) == ["Nothing is noised: the plan has no differential privacy."]
    with pytest.raises(ConfigError, match="no \\[privacy\\] section"):
        planning.figures(plan, 1.0)


@pytest.mark.parametrize("outcome", LABELS)
def test_twins_are_of_the_contracts_shape(outcome):
    plan = declared(outcome, privacy="").plan
    found = twins.twins(plan, 150, 3)
    assert sorted(found) == ["east", "north", "west"]
    for table in found.values():
        assert table.features.dtype == table.labels.dtype == np.float32
        assert table.features.shape == (150, 7)  # age, crp, crp=missing, smoker, sex of three
        assert table.labels.shape == ((150, 2) if outcome == "survival" else (150,))
        assert table.features[:, 0].min() >= 18
        assert table.features[:, 0].max() <= 90
        assert not table.features[:, 2].any()
        assert (table.features[:, 4:].sum(axis=1) == 1).all()
        assert 25 < table.patients.max() < 100  # three records each
        for patient in range(int(table.patients.max()) + 1):
            assert len(set(table.held_out[table.patients == patient])) == 1
        assert 0.05 < table.held_out.mean() < 0.4


def test_the_same_seed_gives_the_same_twins_and_another_another_task():
    plan = declared(privacy="", has_patients=False).plan
    one, same, other = (twins.twins(plan, 40, seed) for seed in (1, 1, 2))
    assert np.array_equal(one["east"].features, same["east"].features)
    assert np.array_equal(one["east"].labels, same["east"].labels)
    assert not np.array_equal(one["east"].features, one["west"].features)
    assert not np.array_equal(one["east"].features, other["east"].features)
    assert np.array_equal(one["east"].patients, np.arange(40))
    with pytest.raises(ValueError, match="at least one"):
        twins.twins(plan, 0, 1)


@pytest.mark.parametrize("outcome", ["binary", "multiclass"])
def test_a_made_up_task_can_be_learned_and_not_perfectly(outcome):
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    plan = declared(outcome, privacy="").plan
    for seed in range(3):
        known, test = twins.fresh(plan, 1000, seed), twins.twins(plan, 3000, seed)["east"]
        model = make_pipeline(StandardScaler(), LogisticRegression()).fit(known.features, known.labels)
        assert 0.78 < model.score(test.features, test.labels) < 0.88


def test_the_curve_falls_where_privacy_is_strong():
    study = declared(privacy=PRIVATE.replace("evaluation_noise = 20.0", ""), has_patients=False)
    told = []
    found = utility.utility_curve(study, (0.05, 8.0), records=150, repeats=2, progress=told.append)
    assert [one.epsilon for one in found] == [None, 0.05, private.epsilon(study.plan), 8.0]
    assert [one.is_plan for one in found] == [False, False, True, False]
    assert found[0].noise is None
    assert found[1].noise > found[2].noise == 4.0 > found[3].noise
    assert all(len(one.scores) == 2 for one in found)
    assert len(told) == 8
    without, strong, _, weak = (one.mean for one in found)
    assert without > 0.75
    assert strong < weak - 0.05
    assert weak > without - 0.1


def test_an_epsilon_that_cannot_be_reached_has_no_scores():
    study = declared(privacy=PRIVATE.replace("20.0", "2.0").replace("4.0", "0.05"), rounds=1)
    found = utility.utility_curve(study, (0.1, 8.0), records=30, repeats=1)
    assert [(one.epsilon, len(one.scores)) for one in found] == [(None, 1), (0.1, 0), (8.0, 1)]
    assert math.isnan(found[1].mean)
    assert "no noise is enough" in utility_page.curve_page(study.plan, found, [], records=30, repeats=1)


@pytest.mark.parametrize(
    ("study", "arguments"),
    [
        (declared(privacy=""), {}),
        (declared(), {"epsilons": ()}),
        (declared(), {"epsilons": (math.nan,)}),
        (declared(), {"records": 0}),
        (declared(), {"repeats": 0}),
    ],
)
def test_a_curve_that_cannot_be_is_refused(study, arguments):
    with pytest.raises(ConfigError):
        utility.utility_curve(study, **arguments)


def test_the_page_stands_alone_and_shows_its_numbers():
    study = declared()
    points = [
        Point(None, None, (0.84, 0.82)),
        Point(0.5, 11.0, (0.6, 0.55)),
        Point(1.25, 4.0, (0.7, 0.72), is_plan=True),
        Point(8.0, 1.0, (0.8, 0.79)),
    ]
    words = planning.privacy_words(study.plan)
    page = utility_page.curve_page(study.plan, points, words, records=200, repeats=2)
    assert page.startswith("<!doctype html>")
    assert "Illness from &lt;age&gt;" in page
    assert not re.search(r"(src|href)=|https?://|<script|url\(", page)
    assert "this plan: 1.25" in page
    for cell in ("0.575", "0.550", "0.600", "0.830", "without privacy", "1.25 (this plan)"):
        assert f"<td>{cell}</td>" in page
    assert "made-up task of this shape, not your data" in page
    # Larger epsilons are to the right, better scores higher up.
    places = [tuple(map(float, pair)) for pair in re.findall(r'<circle cx="([\d.]+)" cy="([\d.]+)"', page)]
    assert places == sorted(places)
    assert [y for _, y in places] == sorted((y for _, y in places), reverse=True)


def test_a_page_without_a_score_is_refused():
    with pytest.raises(ValueError, match="nothing to draw"):
        utility_page.curve_page(declared().plan, [Point(1.0, None, ())], [], records=1, repeats=1)


def test_what_is_measured_is_a_metric_of_the_outcome():
    for outcome in LABELS:
        assert utility.measure(declared(outcome, privacy="").plan) in metrics.NAMES[outcome]
