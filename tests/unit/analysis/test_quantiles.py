import json
import math
import random
from fractions import Fraction

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wardround.analysis import quantiles
from wardround.analysis.quantiles import Quantiles, QuantileState
from wardround.clinical.contract import Column, DataContract, Label
from wardround.clinical.table import LoadReport, StudyTable
from wardround.codec import canonical, fixedpoint
from wardround.errors import CodecError

AGREED = DataContract(
    columns=(
        Column(name="age", unit="a", minimum=0.0, maximum=120.0),
        Column(name="smoker", kind="boolean"),
        Column(name="sodium", unit="mmol/L", minimum=100.0, maximum=180.0),
        Column(name="free"),
        Column(name="ward", kind="category", categories=("icu", "er")),
    ),
    label=Label(name="y"),
)
BOTH = Quantiles(columns=("age", "sodium"))
PLACES = {"age": 0, "sodium": 2}


def table(features, held_out=None):
    count = len(features)
    held = np.zeros(count, bool) if held_out is None else held_out
    return StudyTable(np.array(features, np.float32), np.zeros(count, np.float32), held, LoadReport(count, count, 0))


def records(count, seed=0):
    rng = random.Random(f"quantiles {seed}")
    ages = [min(max(rng.gauss(62, 17), 0), 120) for _ in range(count)]
    sodium = [round(min(max(rng.gauss(138, 5), 100), 180)) for _ in range(count)]
    rows = [[age, 0, salt, 0, 1, 0] for age, salt in zip(ages, sodium, strict=True)]
    return np.array(rows, np.float32).reshape(count, 6)


def added(analysis, state, tables):
    total = np.zeros(fixedpoint.DIGITS * quantiles.length(analysis, AGREED), np.uint64)
    for one in tables:
        vector = quantiles.site_sums(analysis, state, one, AGREED)
        assert vector.dtype == np.float64
        assert vector.size == quantiles.length(analysis, AGREED)
        total += fixedpoint.encode_sums(vector)
    return fixedpoint.decode_sums(total)


def advanced(analysis, state, tables, least_count=1):
    after = quantiles.step(analysis, state, added(analysis, state, tables), AGREED, least_count=least_count)
    assert canonical.decode(canonical.encode(after), QuantileState) == after
    return after


def run(analysis, tables, least_count=1):
    assert quantiles.check_offence(analysis, AGREED) == ""
    state = quantiles.start(analysis, AGREED)
    while not state.is_done:
        assert state.iteration < quantiles.rounds(analysis)
        state = advanced(analysis, state, tables, least_count)
    return state


def shown(analysis, tables, least_count=1):
    state = run(analysis, tables, least_count)
    said = quantiles.result(analysis, state, AGREED, least_count=least_count)
    assert json.loads(json.dumps(said, allow_nan=False)) == said
    return said


def ranked(values, probability):
    """The definition, on all records together."""
    kept = sorted(value for value in values.tolist() if not math.isnan(value))
    return kept[max(math.ceil(Fraction(str(probability)) * len(kept)), 1) - 1]


def is_within(column, values):
    for one in column["quantiles"]:
        assert abs(one["value"] - ranked(values, one["probability"])) <= one["resolution"]
        assert one["low"] <= ranked(values, one["probability"]) <= one["high"]


def test_the_answers_are_numpys_within_the_resolution():
    features = records(1000)
    said = shown(BOTH, [table(features[site::3]) for site in range(3)])
    assert said["status"] == "done"
    assert said["iterations"] == 4
    for column, width in zip(said["columns"], (120.0, 80.0), strict=True):
        values = features[:, PLACES[column["name"]]].astype(float)
        assert column["records"] == 1000
        expected = np.quantile(values, BOTH.probabilities, method="inverted_cdf")
        for one, value in zip(column["quantiles"], expected, strict=True):
            assert one["resolution"] == pytest.approx(width / 64**4 / 2, rel=1e-6)
            assert abs(one["value"] - value) <= one["resolution"]
            assert one["value"] == pytest.approx(value, abs=1e-5)


@settings(max_examples=60)
@given(
    values=st.lists(st.floats(0, 120, width=32), min_size=1, max_size=40),
    sites=st.integers(1, 4),
    bins=st.integers(2, 9),
    seed=st.integers(0, 1000),
)
def test_however_records_lie_at_sites_the_brackets_are_the_same_and_hold_the_quantile(values, sites, bins, seed):
    features = np.zeros((len(values), 6), np.float32)
    features[:, 0] = values
    rng = random.Random(seed)
    place = np.array([rng.randrange(sites) for _ in values])
    analysis = Quantiles(columns=("age",), bins=bins, rounds=5)
    state = run(analysis, [table(features[place == site]) for site in range(sites)])
    assert state == run(analysis, [table(features)])
    said = quantiles.result(analysis, state, AGREED, least_count=1)
    is_within(said["columns"][0], features[:, 0].astype(float))
    assert all(one["resolution"] <= 60.0 / bins**5 * (1 + 1e-9) for one in said["columns"][0]["quantiles"])


@settings(max_examples=60)
@given(count=st.integers(0, 60), least=st.integers(2, 12), seed=st.integers(0, 1000))
def test_no_bracket_holds_fewer_than_the_least_count(count, least, seed):
    features = records(count, seed)
    analysis = Quantiles(columns=("age", "sodium"), bins=8)
    state = quantiles.start(analysis, AGREED)
    while not state.is_done:
        state = advanced(analysis, state, [table(features)], least)
        for place, bracket in enumerate(state.brackets):
            values = features[:, 0 if place < 5 else 2].astype(float)
            inside = (values >= bracket.low) & (values < bracket.high)
            assert inside.sum() >= least or count < least
    said = quantiles.result(analysis, state, AGREED, least_count=least)
    for column in said["columns"]:
        if count < least:
            assert column["records"] is None
            assert all(one["value"] is None and one["resolution"] is None for one in column["quantiles"])
        else:
            is_within(column, features[:, PLACES[column["name"]]].astype(float))
    assert said["status"] == ("done" if count >= least else "too few records")


def test_under_disclosure_control_a_dense_column_is_still_told_closely():
    features = records(20_000)
    (column,) = shown(Quantiles(columns=("age",)), [table(features)], 10)["columns"]
    is_within(column, features[:, 0].astype(float))
    assert max(one["resolution"] for one in column["quantiles"]) < 0.1


def test_the_least_count_only_widens():
    features = records(500)
    fine, coarse = (shown(BOTH, [table(features)], least)["columns"][0]["quantiles"] for least in (1, 20))
    assert all(one["resolution"] < other["resolution"] for one, other in zip(fine, coarse, strict=True))


def test_missing_and_implausible_values_take_no_part_and_held_out_ones_do():
    features = records(300)
    held = np.arange(300) % 3 == 0
    features[held, 0] = 119.0
    features[1::6, 0] = math.nan
    features[4, 0], features[5, 0] = -5.0, 500.0
    kept = features[:, 0]
    kept = kept[(kept >= 0) & (kept <= 120)].astype(float)
    (column,) = shown(Quantiles(columns=("age",)), [table(features, held)])["columns"]
    assert column["records"] == len(kept)
    is_within(column, kept)


def test_a_column_missing_everywhere_leaves_the_others_alone():
    features = records(100)
    features[:, 0] = math.nan
    said = shown(BOTH, [table(features[:40]), table(features[40:])], 5)
    empty, full = said["columns"]
    assert empty["records"] is None
    assert empty["quantiles"][0] == {"probability": 0.05, "value": None, "low": None, "high": None, "resolution": None}
    assert full["records"] == 100
    assert said["status"] == "done"


@pytest.mark.parametrize("value", [0.0, 37.5, 120.0])
def test_a_constant_column_is_found_at_the_ends_of_the_range_too(value):
    features = np.full((10, 6), value, np.float32)
    (column,) = shown(Quantiles(columns=("age",), probabilities=(0.01, 0.99)), [table(features)], 10)["columns"]
    for one in column["quantiles"]:
        assert abs(one["value"] - value) <= one["resolution"] < 1e-5


def test_a_whole_rank_is_the_one_a_reader_reckons():
    features = np.zeros((100, 6), np.float32)
    features[:, 0] = np.arange(1, 101)
    # In floats, 0.07 * 100 is more than 7.
    marks = (0.05, 0.07, 0.14, 0.55, 0.955)
    (column,) = shown(Quantiles(columns=("age",), probabilities=marks), [table(features)])["columns"]
    assert [round(one["value"]) for one in column["quantiles"]] == [5, 7, 14, 55, 96]


def test_it_ends_early_where_nothing_becomes_narrower():
    state = run(Quantiles(columns=("age",), rounds=20), [table(records(30))], 30)
    assert state.iteration < 6
    assert all(bracket.is_final for bracket in state.brackets)


def test_a_site_that_leaves_between_rounds_does_no_harm():
    low, high = records(60), records(60)
    low[:, 0] = 20.0
    high[:, 0] = 90.0
    analysis = Quantiles(columns=("age",), probabilities=(0.4,))
    state = advanced(analysis, quantiles.start(analysis, AGREED), [table(low), table(high)])
    after = advanced(analysis, state, [table(high)])
    assert after.is_done
    assert (after.brackets[0].low, after.brackets[0].high) == (state.brackets[0].low, state.brackets[0].high)


def test_the_sums_are_counts_below_in_and_above():
    features = np.zeros((4, 6), np.float32)
    features[:, 0] = [0, 59, 60, 120]
    analysis = Quantiles(columns=("age",), probabilities=(0.5,), bins=2)
    state = quantiles.start(analysis, AGREED)
    assert quantiles.site_sums(analysis, state, table(features), AGREED).tolist() == [0, 2, 2, 0]
    state = advanced(analysis, state, [table(features)])
    assert quantiles.site_sums(analysis, state, table(features), AGREED).tolist() == [0, 1, 1, 2]


@settings(max_examples=200)
@given(rows=st.lists(st.lists(st.integers(-50, 50), min_size=6, max_size=6), min_size=3, max_size=3))
def test_counts_that_lie_leave_brackets_within_the_range(rows):
    analysis = Quantiles(columns=("age",), probabilities=(0.5,), bins=4)
    state = quantiles.start(analysis, AGREED)
    for row in rows:
        if not state.is_done:
            state = quantiles.step(analysis, state, list(map(Fraction, row)), AGREED, least_count=5)
            assert 0.0 <= state.brackets[0].low < state.brackets[0].high <= 120.0


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"columns": ()}, "at least one column"),
        ({"columns": ("age", "age")}, "each once"),
        ({"columns": ("smoker",)}, "no number column 'smoker'"),
        ({"columns": ("ward=icu",)}, "no number column"),
        ({"columns": ("free",)}, "plausible minimum and maximum"),
        ({"rounds": 0}, "rounds"),
        ({"rounds": 21}, "rounds"),
        ({"bins": 1}, "bins"),
        ({"bins": 1001}, "bins"),
        ({"probabilities": ()}, "probabilities"),
        ({"probabilities": (0.5, 0.5)}, "rise"),
        ({"probabilities": (0.0, 0.5)}, "between 0 and 1"),
        ({"probabilities": (0.5, 1.0)}, "between 0 and 1"),
        ({"probabilities": (math.nan,)}, "between 0 and 1"),
        ({"probabilities": tuple(place / 100 for place in range(1, 100)), "bins": 200}, "more than 20,000"),
    ],
)
def test_what_cannot_be_asked_is_refused_in_words(changes, words):
    assert words in quantiles.check_offence(msgspec.structs.replace(BOTH, **changes), AGREED)


def test_bounds_that_are_no_range_are_refused():
    for low, high in ((1.0, 1.0), (2.0, 1.0), (-math.inf, 1.0), (-1.7e308, 1.7e308), (math.nan, 1.0)):
        odd = msgspec.structs.replace(AGREED, columns=(Column(name="age", minimum=low, maximum=high),))
        assert "below its maximum" in quantiles.check_offence(Quantiles(columns=("age",)), odd)


def test_a_foreign_state_or_vector_is_refused():
    state = quantiles.start(BOTH, AGREED)
    with pytest.raises(CodecError):
        quantiles.site_sums(BOTH, QuantileState(), table(records(5)), AGREED)
    bracket = msgspec.structs.replace(state.brackets[0], high=math.inf)
    odd = msgspec.structs.replace(state, brackets=(bracket, *state.brackets[1:]))
    with pytest.raises(CodecError):
        quantiles.site_sums(BOTH, odd, table(records(5)), AGREED)
    with pytest.raises(CodecError):
        quantiles.step(BOTH, state, [Fraction(0)], AGREED, least_count=1)
    with pytest.raises(ValueError, match="done"):
        quantiles.step(BOTH, run(BOTH, [table(records(20))]), [], AGREED, least_count=1)
