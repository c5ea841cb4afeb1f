import json
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wardround.clinical import appraisal, estimate, suppression
from wardround.clinical.appraisal import Appraisal
from wardround.clinical.contract import METRICS, Column, DataContract, Label
from wardround.codec import fixedpoint
from wardround.errors import CodecError
from wardround.training import metrics

COLUMNS = (
    Column(name="age", unit="a"),
    Column(name="smoker", kind="boolean"),
    Column(name="ward", kind="category", categories=("icu", "er", "gp")),
)
BINARY = DataContract(columns=COLUMNS, label=Label(name="died"))
MULTI = DataContract(columns=COLUMNS, label=Label(name="grade", outcome="multiclass", classes=("i", "ii", "iii")))
NUMBER = DataContract(columns=COLUMNS, label=Label(name="stay", outcome="number", unit="d"))
SURVIVAL = DataContract(columns=COLUMNS, label=Label(name="time", outcome="survival", event="died", unit="d"))
CONTRACTS = {"binary": BINARY, "multiclass": MULTI, "number": NUMBER, "survival": SURVIVAL}
ASKED = Appraisal(subgroups=("smoker", "ward=icu"), resamples=50)
OUTCOMES = pytest.mark.parametrize("outcome", sorted(CONTRACTS))


def drawn(outcome, count, seed=0):
    """Labels, predictions and features of a model that is right on average."""
    random = np.random.default_rng(seed)  # noqa: TID251, the seed is passed
    wards = random.integers(0, 3, count)
    features = np.column_stack(
        [random.uniform(20, 90, count), random.random(count) < 0.4, *(wards == place for place in range(3))]
    ).astype(np.float32)
    score = random.normal(-0.5, 1.2, count)
    if outcome == "binary":
        labels, predictions = random.random(count) < 1 / (1 + np.exp(-score)), score
    elif outcome == "multiclass":
        predictions = random.normal(0, 1, (count, 3))
        labels = np.argmax(predictions + random.gumbel(size=(count, 3)), axis=1)
    elif outcome == "number":
        labels, predictions = 7 + score + random.normal(0, 1, count), 7 + score
    else:
        time, censored = random.exponential(np.exp(-score)), random.exponential(2, count)
        labels = np.column_stack([np.round(np.minimum(time, censored), 2), time <= censored])
        predictions = np.round(score, 1)
    return np.asarray(labels, np.float32), predictions.astype(np.float32), features


def sums(outcome, records, asked=ASKED, seed=1):
    return appraisal.site_sums(asked, CONTRACTS[outcome], *records, seed)


def shown(outcome, records, asked=ASKED, least_count=5):
    return appraisal.results(asked, CONTRACTS[outcome], sums(outcome, records, asked), least_count=least_count)


def part(records, chosen):
    return tuple(one[chosen] for one in records)


def leaves(value):
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for one in value:
            yield from leaves(one)
    else:
        yield value


def assert_close(one, other):
    assert json.loads(json.dumps(one, allow_nan=False)).keys() == other.keys()
    for left, right in zip(leaves(one), leaves(other), strict=True):
        assert left == right or left == pytest.approx(right, rel=1e-6, abs=1e-7)


@OUTCOMES
def test_a_vector_is_as_long_as_it_says_and_can_be_added_exactly(outcome):
    vector = sums(outcome, drawn(outcome, 60))
    assert vector.shape == (appraisal.length(ASKED, CONTRACTS[outcome]),)
    assert vector.dtype == np.float64
    exact = fixedpoint.decode_sums(fixedpoint.encode_sums(vector))
    contract = CONTRACTS[outcome]
    rough = appraisal.results(ASKED, contract, vector, least_count=5)
    assert_close(appraisal.results(ASKED, contract, exact, least_count=5), rough)


@pytest.mark.parametrize("outcome", ["binary", "multiclass", "number"])
@settings(max_examples=25)
@given(data=st.data(), count=st.integers(1, 120), seed=st.integers(0, 1000))
def test_any_split_into_sites_says_what_the_pooled_records_say(outcome, data, count, seed):
    records = drawn(outcome, count, seed)
    site = np.array(data.draw(st.lists(st.integers(0, 3), min_size=count, max_size=count)))
    added = sum(sums(outcome, part(records, site == number)) for number in range(4))
    split = appraisal.results(ASKED, CONTRACTS[outcome], added, least_count=5)
    assert_close(split, shown(outcome, records))


def test_concordance_is_that_of_the_pairs_within_sites():
    sites = [drawn("survival", count, count) for count in (40, 70, 25)]
    added = sum(sums("survival", site) for site in sites)
    found = appraisal.results(ASKED, SURVIVAL, added, least_count=5)
    pairs, won, count = 0.0, 0.0, 0
    for labels, risks, _ in sites:
        for one in range(len(risks)):
            for other in range(len(risks)):
                later = labels[other, 0] > labels[one, 0] or (
                    labels[other, 0] == labels[one, 0] and not labels[other, 1]
                )
                if labels[one, 1] and later:
                    pairs += 1
                    won += 0.5 + 0.5 * float(np.sign(risks[one] - risks[other]))
        count += len(risks)
    assert (found["records"], found["pairs"]) == (count, pairs)
    assert found["metrics"]["c_index"]["value"] == pytest.approx(won / pairs)


def test_the_bootstrap_of_concordance_is_that_of_drawn_records():
    labels, risks, _ = drawn("survival", 60, 3)
    times, events = labels[:, 0].astype(float), labels[:, 1] > 0.5
    pairs, won, spread = estimate.concordance(times, events, risks.astype(float), 400, 1)
    assert won / pairs == pytest.approx(metrics.c_index(labels, risks))
    low, high = metrics.bootstrap_interval(metrics.c_index, labels, risks, 2, resamples=400)
    assert 2 * 1.96 * math.sqrt(spread) / pairs == pytest.approx(high - low, rel=0.2)


@OUTCOMES
def test_values_are_those_of_the_metrics_on_all_records(outcome):
    labels, predictions, features = drawn(outcome, 400, 5)
    expected = metrics.evaluate(outcome, labels, predictions)
    found = shown(outcome, (labels, predictions, features))
    assert found["records"] == 400
    assert sorted(found["metrics"]) == list(METRICS[CONTRACTS[outcome].label.outcome])
    for name, one in found["metrics"].items():
        tolerance = {"auc": one.get("resolution"), "calibration_slope": 1e-3, "calibration_intercept": 1e-3}.get(name)
        assert one["value"] == pytest.approx(expected[name], abs=tolerance or 1e-9)
        assert one["low"] < one["value"] < one["high"]
    assert found["metrics"].get("auc", {}).get("resolution", 0) < 0.02


@OUTCOMES
def test_a_subgroup_has_the_values_of_its_records_alone(outcome):
    records = drawn(outcome, 300, 9)
    found = shown(outcome, records)["subgroups"]["smoker"]
    for side, flag in (("with", 1), ("without", 0)):
        own = part(records, records[2][:, 1] == flag)
        expected = metrics.evaluate(outcome, *own[:2])
        assert found[side]["records"] == len(own[0])
        for name, one in found[side]["metrics"].items():
            assert one["value"] == pytest.approx(expected[name], abs=one.get("resolution", 0.02) or 1e-9)


@settings(max_examples=60)
@given(
    st.lists(
        st.tuples(st.booleans(), st.floats(-40, 40) | st.sampled_from([0.0, -0.1, 0.1, math.inf, -math.inf])),
        min_size=1,
        max_size=60,
    )
)
def test_the_auc_is_within_its_resolution(pairs):
    labels, logits = np.array([one for one, _ in pairs], float), np.array([two for _, two in pairs])
    found = shown("binary", (labels, logits, np.zeros((len(labels), 5))), least_count=1)["metrics"]["auc"]
    expected = metrics.auc(labels, logits)
    if expected is None:
        assert found["value"] is None
    else:
        assert abs(found["value"] - expected) <= found["resolution"] + 1e-12


def test_calibration_is_counted_directly():
    labels, logits, features = drawn("binary", 500, 2)
    risks = 1 / (1 + np.exp(-logits.astype(float)))
    found = shown("binary", (labels, logits, features), least_count=1)["calibration"]
    assert len(found) == 10
    for place, cell in enumerate(found):
        own = (risks >= place / 10) & (risks < (place + 1) / 10)
        if cell is None:
            assert not own.any()
            continue
        assert cell["n"] == own.sum()
        assert cell["predicted"] == pytest.approx(risks[own].mean())
        assert cell["observed"] == pytest.approx(labels[own].mean())
        assert cell["low"] <= cell["observed"] <= cell["high"]
    assert sum(cell["n"] for cell in found if cell) == 500


def test_the_decision_curve_is_computed_directly():
    labels, logits, features = drawn("binary", 500, 4)
    risks = 1 / (1 + np.exp(-logits.astype(float)))
    for point in shown("binary", (labels, logits, features), least_count=1)["decision"]:
        threshold = point["threshold"]
        odds = threshold / (1 - threshold)
        treated = risks >= threshold
        benefit = (labels[treated] == 1).mean() * treated.mean() - (labels[treated] == 0).mean() * treated.mean() * odds
        assert point["model"] == pytest.approx(benefit)
        assert point["all"] == pytest.approx(labels.mean() - (1 - labels.mean()) * odds)
        assert point["none"] == 0.0


def test_the_roc_rises_in_steps_of_enough_records():
    labels, logits, features = drawn("binary", 400, 6)
    roc = np.array(shown("binary", (labels, logits, features), least_count=10)["roc"])
    assert roc[0].tolist() == [0, 0]
    assert roc[-1].tolist() == [1, 1]
    steps = np.diff(roc, axis=0) * [(labels == 0).sum(), (labels == 1).sum()]
    assert (steps >= -1e-9).all()
    assert (np.round(steps.sum(axis=1)) >= 10).all()
    area = (np.diff(roc[:, 0]) * (roc[1:, 1] + roc[:-1, 1]) / 2).sum()
    assert area == pytest.approx(metrics.auc(labels, logits), abs=0.02)


TRUTH = {}


def truth(outcome):
    if outcome not in TRUTH:
        TRUTH[outcome] = metrics.evaluate(outcome, *drawn(outcome, 200_000, 12345)[:2])
    return TRUTH[outcome]


@OUTCOMES
def test_intervals_hold_the_truth_about_as_often_as_they_say(outcome):
    repeats, held = 200, {}
    asked = Appraisal(resamples=100)
    for repeat in range(repeats):
        added = sum(sums(outcome, drawn(outcome, 100, 1000 + 3 * repeat + site), asked, repeat) for site in range(3))
        found = appraisal.results(asked, CONTRACTS[outcome], added, least_count=5)["metrics"]
        for name, one in found.items():
            slack = one.get("resolution", 0.0)
            inside = one["low"] - slack <= truth(outcome)[name] <= one["high"] + slack
            held[name] = held.get(name, 0) + inside / repeats
    assert set(held) == set(METRICS[CONTRACTS[outcome].label.outcome])
    for name, share in held.items():
        assert 0.90 <= share <= 0.99, (name, share)


@OUTCOMES
@pytest.mark.parametrize("count", [0, 1, 2, 10])
@pytest.mark.parametrize("least_count", [1, 5, 20])
def test_few_records_say_little_and_never_nan(outcome, count, least_count):
    found = shown(outcome, drawn(outcome, count), least_count=least_count)
    text = json.dumps(found, allow_nan=False)
    if count < least_count:
        assert found["records"] is None
        assert set(leaves(found["metrics"])) == {None}
        assert set(found["subgroups"].values()) == {None}
        assert '"n"' not in text


@OUTCOMES
def test_a_site_with_nothing_sends_zeros(outcome):
    assert not sums(outcome, drawn(outcome, 0)).any()


@OUTCOMES
@pytest.mark.parametrize("spoiled", ["labels", "predictions"])
def test_a_site_with_nan_has_no_defined_records(outcome, spoiled):
    records = drawn(outcome, 50)
    records[spoiled == "predictions"].flat[7] = math.nan
    assert not sums(outcome, records).any()
    other = drawn(outcome, 80, 1)
    added = sums(outcome, records) + sums(outcome, other)
    assert appraisal.results(ASKED, CONTRACTS[outcome], added, least_count=5)["records"] == 80


@OUTCOMES
@pytest.mark.parametrize("value", [math.inf, -math.inf, 3e38])
def test_extreme_predictions_end_as_finite_sums(outcome, value):
    labels, predictions, features = drawn(outcome, 50)
    predictions.flat[7] = value
    vector = sums(outcome, (labels, predictions, features))
    fixedpoint.encode_sums(vector)
    assert vector.any() == (outcome != "number")
    json.dumps(shown(outcome, (labels, predictions, features)), allow_nan=False)


@pytest.mark.parametrize("only", [0.0, 1.0])
def test_one_class_has_no_auc(only):
    labels, logits, features = drawn("binary", 100)
    found = shown("binary", (np.full_like(labels, only), logits, features))
    for name in ("auc", "calibration_slope", "calibration_intercept"):
        assert found["metrics"][name]["value"] is None
    assert found["metrics"]["brier"]["value"] is not None
    assert found["roc"] == []
    json.dumps(found, allow_nan=False)


@OUTCOMES
@pytest.mark.parametrize("value", [0.0, -3.25])
def test_constant_predictions_and_labels(outcome, value):
    labels, predictions, features = drawn(outcome, 60)
    found = shown(outcome, (labels, np.full_like(predictions, value), features))
    json.dumps(found, allow_nan=False)
    if outcome == "binary":
        assert found["metrics"]["auc"]["value"] == 0.5
        assert found["metrics"]["calibration_slope"]["value"] is None
        assert found["roc"] == [[0, 0], [1, 1]]
    if outcome == "survival":
        assert found["metrics"]["c_index"]["value"] == 0.5
    same = shown(outcome, (np.ones_like(labels), predictions, features))
    json.dumps(same, allow_nan=False)
    if outcome == "number":
        assert same["metrics"]["r2"]["value"] is None


def test_perfect_ranking_has_no_interval_and_all_right_has_one():
    logits = np.repeat([-2.0, 2.0], 30)
    found = shown("binary", ((logits > 0).astype(float), logits, np.zeros((60, 5))))["metrics"]
    assert found["auc"] == {"value": 1.0, "low": None, "high": None, "resolution": 0.0}
    assert found["accuracy"]["value"] == 1.0
    assert 0.9 < found["accuracy"]["low"] < 1.0


def with_smokers(count, smokers, missing=0):
    labels, logits, features = drawn("binary", count)
    features[:, 1] = np.arange(count) < smokers
    features[count - missing :, 1] = math.nan
    return labels, logits, features


@pytest.mark.parametrize("smokers", [0, 4, 97, 100])
def test_a_small_half_of_a_subgroup_hides_the_other(smokers):
    assert shown("binary", with_smokers(100, smokers))["subgroups"]["smoker"] is None


def test_records_without_the_column_are_in_neither_half():
    found = shown("binary", with_smokers(100, 30, missing=20))["subgroups"]["smoker"]
    assert (found["with"]["records"], found["without"]["records"]) == (30, 50)


def test_a_few_records_without_the_column_are_not_given_away():
    assert shown("binary", with_smokers(100, 30, missing=2))["subgroups"]["smoker"] is None


def test_a_column_missing_everywhere_is_no_subgroup():
    assert shown("binary", with_smokers(100, 0, missing=100))["subgroups"]["smoker"] is None


def test_the_categories_of_a_column_do_not_give_the_last_one_away():
    labels, logits, features = drawn("binary", 100)
    wards = np.repeat([0, 1, 2], [3, 40, 57])
    features[:, 2:] = wards[:, None] == np.arange(3)
    asked = Appraisal(subgroups=("ward=icu", "ward=er", "ward=gp"))
    found = shown("binary", (labels, logits, features), asked)["subgroups"]
    assert [name for name, one in found.items() if one] == ["ward=gp"]


def test_few_positives_in_a_subgroup_have_no_auc():
    labels, logits, features = with_smokers(100, 50)
    labels[:50] = np.arange(50) < 3
    found = shown("binary", (labels, logits, features))["subgroups"]["smoker"]
    assert found["with"]["metrics"]["auc"]["value"] is None
    assert found["with"]["metrics"]["brier"]["value"] is not None
    assert found["without"]["metrics"]["auc"]["value"] is not None


def test_a_rare_class_hides_the_next():
    labels = np.repeat([0.0, 1.0, 2.0], [2, 30, 40])
    found = shown("multiclass", (labels, np.zeros((72, 3)), np.zeros((72, 5))))["classes"]
    assert (found["i"], found["ii"], found["iii"]["records"]) == (None, None, 40)


def test_hidden_calibration_cells_cannot_be_had_by_difference():
    risks = np.repeat([0.05, 0.15, 0.25, 0.35], [40, 3, 10, 47])
    records = (np.arange(100) % 2 == 0).astype(float), np.log(risks / (1 - risks)), np.zeros((100, 5))
    found = shown("binary", records)
    assert [None if cell is None else cell["n"] for cell in found["calibration"][:4]] == [40, None, None, 47]
    visible = {point["threshold"] for point in found["decision"] if point["model"] is not None}
    assert 0.2 not in visible
    assert {0.1, 0.3} <= visible


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ([], []),
        ([0, 0], [True, True]),
        ([7, 8], [False, False]),
        ([7, 0, 8], [False, True, False]),
        ([2, 9, 7], [True, False, True]),
        ([2, 3, 9], [True, True, False]),
        ([4], [True]),
    ],
)
def test_hidden_counts(counts, expected):
    assert suppression.hidden(counts, 5) == expected


def test_shown_cuts_keep_their_distance():
    assert suppression.shown_cuts([20, 18, 15, 15, 3, 0], {0, 20}, 5) == [True, False, True, True, False, True]


def test_a_scale_keeps_large_numbers_exact():
    labels, predictions, features = drawn("number", 80)
    large = labels * np.float32(1e6), predictions * np.float32(1e6), features
    assert not sums("number", large).any()
    found = shown("number", large, Appraisal(scale=1e6))["metrics"]
    expected = metrics.evaluate("number", *large[:2])
    assert {name: one["value"] for name, one in found.items()} == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        (Appraisal(subgroups=("age",)), "subgroups"),
        (Appraisal(subgroups=("ward",)), "subgroups"),
        (Appraisal(subgroups=("smoker", "smoker")), "subgroups"),
        (Appraisal(thresholds=(0.0, 0.5)), "thresholds"),
        (Appraisal(thresholds=(0.5, 1.0)), "thresholds"),
        (Appraisal(thresholds=(0.5, 0.5)), "thresholds"),
        (Appraisal(thresholds=(math.nan,)), "thresholds"),
        (Appraisal(bins=1), "bins"),
        (Appraisal(bins=101), "bins"),
        (Appraisal(resamples=0), "resamples"),
        (Appraisal(scale=0.0), "scale"),
        (Appraisal(scale=math.nan), "scale"),
        (Appraisal(thresholds=tuple(place / 6000 for place in range(1, 6000))), "thresholds"),
    ],
)
def test_an_appraisal_that_cannot_be_given_is_refused_by_field(wrong, field):
    with pytest.raises(CodecError, match=field):
        appraisal.check(wrong, BINARY)


def test_a_good_appraisal_passes():
    appraisal.check(Appraisal(), BINARY)
    appraisal.check(Appraisal(subgroups=("smoker", "ward=icu", "ward=er", "ward=gp"), thresholds=()), SURVIVAL)


@pytest.mark.parametrize("value", [math.nan, math.inf, 1e300])
def test_sums_that_no_site_can_send_are_refused(value):
    vector = sums("binary", drawn("binary", 20))
    vector[3] = value
    with pytest.raises(CodecError):
        appraisal.results(ASKED, BINARY, vector, least_count=5)
    with pytest.raises(CodecError, match="expected"):
        appraisal.results(ASKED, BINARY, vector[1:], least_count=5)


@OUTCOMES
@settings(max_examples=40)
@given(seed=st.integers(0, 10_000), magnitude=st.sampled_from([1e-15, 1.0, 100.0, 1e18]))
def test_sums_made_up_give_finite_results_too(outcome, seed, magnitude):
    contract = CONTRACTS[outcome]
    random = np.random.default_rng(seed)  # noqa: TID251, the seed is passed
    numbers = random.normal(0.3, 1, appraisal.length(ASKED, contract)) * magnitude
    exact = [Fraction(float(number)) for number in numbers]
    json.dumps(appraisal.results(ASKED, contract, exact, least_count=5), allow_nan=False)


def test_arrays_that_do_not_fit_are_refused():
    labels, logits, features = drawn("binary", 20)
    for wrong in ((labels[1:], logits, features), (labels, logits, features[:, 1:])):
        with pytest.raises(ValueError, match="one row for each record"):
            sums("binary", wrong)


@OUTCOMES
def test_intervals_of_a_site_are_the_bootstraps(outcome):
    labels, predictions, _ = drawn(outcome, 120, 8)
    contract = CONTRACTS[outcome]

    def measure(truth, guess):
        return metrics.evaluate(outcome, truth, guess)

    found = appraisal.site_intervals(contract, labels, predictions, 3, 60, measure)
    assert found == appraisal.site_intervals(contract, labels, predictions, 3, 60, measure)
    assert set(found) == set(METRICS[contract.label.outcome])
    expected = measure(labels, predictions)
    for name, one in found.items():
        assert one["value"] == pytest.approx(expected[name])
        assert one["low"] < one["high"]


@pytest.mark.parametrize("count", [0, 1, 10])
def test_intervals_of_a_site_with_little_are_none(count):
    labels, predictions, _ = drawn("binary", count)
    found = appraisal.site_intervals(
        BINARY, np.zeros_like(labels), predictions, 3, 30, lambda one, two: metrics.evaluate("binary", one, two)
    )
    json.dumps(found, allow_nan=False)
    assert found["auc"] == {"value": None, "low": None, "high": None}
    assert (found["brier"]["value"] is None) == (count == 0)
