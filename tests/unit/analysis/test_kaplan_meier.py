import json
import math
import random
import warnings

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lifelines import KaplanMeierFitter
from lifelines.datasets import load_lung, load_waltons
from lifelines.statistics import logrank_test
from lifelines.utils import median_survival_times, restricted_mean_survival_time
from tests.unit.analysis.test_glm import added

from wardround.analysis import iteration, several
from wardround.analysis.terms import Cox, Fit, KaplanMeier
from wardround.clinical.contract import Column, DataContract, Label
from wardround.clinical.table import LoadReport, StudyTable
from wardround.errors import CodecError

AGREED = DataContract(
    columns=(
        Column(name="age", unit="a"),
        Column(name="drug", kind="boolean"),
        Column(name="ward", kind="category", categories=("icu", "er")),
    ),
    label=Label(name="time", outcome="survival", unit="d", event="seen"),
)
DAYS = tuple(float(day) for day in range(1, 41))


def table(group, times, seen, held_out=None):
    count = len(times)
    group = np.asarray(group, float)
    features = np.column_stack([np.full(count, 50.0), group, group, 1 - group]).astype(np.float32)
    held = np.zeros(count, bool) if held_out is None else held_out
    labels = np.column_stack([times, seen]).astype(np.float32)
    return StudyTable(features, labels, held, LoadReport(count, count, 0))


def final(analysis, tables, least_count=1):
    several.check((analysis,), AGREED)
    fit = iteration.start(analysis, AGREED)
    assert not fit.is_done
    fit = iteration.step(analysis, fit, added(analysis, fit, tables, AGREED), AGREED, least_count=least_count)
    assert fit.is_done
    return msgspec.json.decode(msgspec.json.encode(fit), type=Fit)


def found(analysis, tables, least_count=1):
    fit = final(analysis, tables, least_count)
    shown = iteration.result(analysis, fit, AGREED, least_count=least_count)
    assert json.loads(json.dumps(shown, allow_nan=False)) == shown
    return shown


def points(curve, key):
    return [point[key] for point in curve["points"]]


def records(count, seed=0):
    rng = random.Random(f"km {seed}")
    group = [rng.random() < 0.5 for _ in range(count)]
    times = [math.ceil(rng.expovariate(0.04 + 0.06 * drug)) for drug in group]
    limits = [rng.randint(5, 39) for _ in range(count)]
    seen = [time <= limit for time, limit in zip(times, limits, strict=True)]
    return np.array(group), np.minimum(times, limits).astype(float), np.array(seen)


def split(group, times, seen, sites=3):
    return [table(group[site::sites], times[site::sites], seen[site::sites]) for site in range(sites)]


def agrees(curve, times, seen):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        other = KaplanMeierFitter().fit(times, seen)
    rows = other.event_table[other.event_table["observed"] > 0]
    at = rows.index.tolist()
    assert points(curve, "time") == at
    assert points(curve, "at_risk") == rows["at_risk"].tolist()
    assert points(curve, "events") == rows["observed"].tolist()
    assert points(curve, "survival") == pytest.approx(other.survival_function_at_times(at).tolist(), rel=1e-12)
    limits = other.confidence_interval_.loc[at].to_numpy()
    for point, (lower, upper) in zip(curve["points"], limits, strict=True):
        if point["survival"] > 0:
            assert (point["lower"], point["upper"]) == pytest.approx((lower, upper), rel=1e-9)
        else:
            assert point["lower"] is point["upper"] is None
    # lifelines compares with one half to the last bit, which a product rarely meets.
    half = [time for time, survival in zip(at, points(curve, "survival"), strict=True) if survival < 0.5 + 1e-9]
    assert curve["median"] == next(iter(half), None)
    mean = restricted_mean_survival_time(other, t=curve["restricted_mean_until"])
    assert curve["restricted_mean"] == pytest.approx(mean, rel=1e-9)


def test_waltons_agrees_with_lifelines():
    frame = load_waltons()
    group, times, seen = frame["group"].to_numpy() == "control", frame["T"].to_numpy(), frame["E"].to_numpy()
    edges = tuple(float(day) for day in range(1, 80))
    shown = found(KaplanMeier(edges=edges, group="drug"), split(group, times, seen))
    assert [curve["name"] for curve in shown["curves"]] == ["drug: no", "drug: yes"]
    agrees(shown["curves"][0], times[~group], seen[~group])
    agrees(shown["curves"][1], times[group], seen[group])
    test = logrank_test(times[group], times[~group], seen[group], seen[~group])
    assert shown["log_rank_test"]["statistic"] == pytest.approx(test.test_statistic, rel=1e-9)
    assert shown["log_rank_test"]["p"] == pytest.approx(test.p_value, rel=1e-9)


def test_lung_on_a_grid_of_days_agrees_with_lifelines():
    frame = load_lung()
    times, seen = frame["time"].to_numpy(float), frame["status"].to_numpy()
    edges = tuple(float(day) for day in range(1, 1100))
    shown = found(KaplanMeier(edges=edges), split(np.zeros(len(times)), times, seen))
    agrees(shown["curves"][0], times, seen)
    assert (shown["status"], shown["curves"][0]["records"]) == ("done", 228)
    other = KaplanMeierFitter().fit(times, seen)
    limits = median_survival_times(other.confidence_interval_).to_numpy()[0].tolist()
    assert shown["curves"][0]["median"] == other.median_survival_time_ == 310
    assert [shown["curves"][0]["median_lower"], shown["curves"][0]["median_upper"]] == limits


@settings(max_examples=20)
@given(
    rows=st.lists(
        st.tuples(st.booleans(), st.floats(0, 45, width=32), st.booleans(), st.integers(0, 3)), min_size=1, max_size=60
    ),
    edges=st.lists(st.floats(0.125, 40, width=32), min_size=1, max_size=8, unique=True),
)
def test_any_times_at_any_sites_give_the_curve_of_times_rounded_up(rows, edges):
    edges = tuple(sorted(edges))
    group, times, seen, site = (np.array(column) for column in zip(*rows, strict=True))
    tables = [table(group[site == one], times[site == one], seen[site == one]) for one in range(4)]
    shown = found(KaplanMeier(edges=edges, group="drug"), tables)
    grid = np.array(edges)
    rounded = grid[np.minimum(np.searchsorted(grid, times, side="left"), len(edges) - 1)]
    visible = seen & (times <= edges[-1])
    for value, curve in enumerate(shown["curves"]):
        members = group == value
        if members.any():
            agrees(curve, rounded[members], visible[members])
        else:
            assert (curve["records"], curve["points"], curve["restricted_mean"]) == (None, [], None)
    if group.any() and not group.all():
        statistic = shown["log_rank_test"]["statistic"]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            test = logrank_test(rounded[group], rounded[~group], visible[group], visible[~group])
        if statistic is None:
            assert test.test_statistic == 0.0 or math.isnan(test.test_statistic)
        else:
            assert statistic == pytest.approx(test.test_statistic, rel=1e-7, abs=1e-9)


def test_a_category_is_a_group_too():
    group, times, seen = records(80)
    tables = split(group, times, seen)
    shown = found(KaplanMeier(edges=DAYS, group="drug"), tables)
    other = found(KaplanMeier(edges=DAYS, group="ward=icu"), tables)
    assert other["log_rank_test"] == shown["log_rank_test"]
    assert other["curves"][1]["name"] == "ward=icu: yes"


def test_a_limit_of_one_third_is_met_by_a_time_of_one_third():
    # Labels are float32: compared as float64, 0.7 there would not be the edge 0.7.
    shown = found(KaplanMeier(edges=(0.1, 0.7, 1.0)), [table([0, 0], [0.7, 0.9], [1, 0])])
    assert points(shown["curves"][0], "time") == [0.7]


def test_the_error_of_the_restricted_mean_is_greenwoods():
    # By hand: S falls to 3/4 at 1 and to 3/8 at 2; up to 3 the area is 1 + 3/4 + 3/8.
    shown = found(KaplanMeier(edges=(1.0, 2.0, 3.0)), [table([0] * 4, [1, 1, 2, 5], [1, 0, 1, 0])])
    (curve,) = shown["curves"]
    assert points(curve, "survival") == [0.75, 0.375]
    assert curve["restricted_mean"] == 2.125
    assert curve["restricted_mean_until"] == 3.0
    assert curve["restricted_mean_error"] == pytest.approx(math.sqrt(1.125**2 / 12 + 0.375**2 / 2))


def test_records_without_a_group_take_no_part_and_held_out_ones_do():
    group, times, seen = records(90)
    one = table(group, times, seen, np.arange(90) % 3 == 0)
    one.features[1::3, 1] = math.nan
    shown = found(KaplanMeier(edges=DAYS, group="drug"), [one])
    kept = np.arange(90) % 3 != 1
    assert sum(curve["records"] for curve in shown["curves"]) == 60
    agrees(shown["curves"][0], times[kept & ~group], seen[kept & ~group])
    assert found(KaplanMeier(edges=DAYS), [one])["curves"][0]["records"] == 90


@pytest.mark.parametrize("least_count", [2, 5, 10])
@settings(max_examples=25)
@given(seed=st.integers(0, 10_000), count=st.integers(1, 150))
def test_no_small_number_of_events_or_at_risk_is_shown(least_count, seed, count):
    group, times, seen = records(count, seed)
    analysis = KaplanMeier(edges=DAYS, group="drug")
    fit = final(analysis, split(group, times, seen), least_count)
    for value, curve in enumerate(fit.curves):
        members = group == value
        assert curve.records == (members.sum() if members.sum() >= least_count else 0)
        assert all(number >= least_count for number in (*curve.at_risk, *curve.events))
        shown = times[members & seen & (times <= max(curve.times, default=-1))]
        assert sum(curve.events) == len(shown)
        assert list(curve.times) == sorted(curve.times)
        # Where the curve ends, too few are at risk from there, or the events since the last point are too few.
        if curve.records and curve.until < 40:
            waiting = times[members & seen & (times > max(curve.times, default=-1))]
            enough = np.array([(times[members] > day).sum() >= least_count for day in (-1.0, *DAYS)])
            first_short = (0.0, *DAYS)[int(np.argmin(enough))] if not enough.all() else 40.0
            assert curve.until == min([first_short, *(day - 1 for day in waiting if day - 1 < first_short)])


def test_few_events_wait_for_those_that_follow():
    # Events: 1 at day 1, 2 at day 2, 1 at day 3, 4 at day 5, 1 at day 7; 20 at risk; one censored on day 2.
    times = [1, 2, 2, 2, 3, 5, 5, 5, 5, 7] + [30] * 10
    seen = [1, 1, 1, 0, 1, 1, 1, 1, 1, 1] + [0] * 10
    (curve,) = found(KaplanMeier(edges=DAYS), [table([0] * 20, times, seen)], least_count=3)["curves"]
    assert points(curve, "time") == [2, 5]
    assert points(curve, "events") == [3, 5]
    assert points(curve, "at_risk") == [20, 16]
    assert points(curve, "survival") == pytest.approx([17 / 20, 17 / 20 * 11 / 16])
    assert curve["until"] == 6.0  # one event of the day after waits in vain


def test_a_curve_ends_where_too_few_are_at_risk():
    times, seen = [1] * 5 + [10] * 5 + [20] * 3, [1] * 13
    (curve,) = found(KaplanMeier(edges=DAYS), [table([0] * 13, times, seen)], least_count=5)["curves"]
    assert points(curve, "time") == [1, 10]
    assert curve["until"] == curve["restricted_mean_until"] == 10.0


def test_means_are_compared_up_to_where_both_curves_are_known():
    times, group = np.array([5.0] * 10 + [30.0] * 10), np.repeat([0, 1], 10)
    shown = found(KaplanMeier(edges=DAYS, group="drug"), [table(group, times, np.ones(20))], least_count=5)
    assert [curve["until"] for curve in shown["curves"]] == [5.0, 30.0]
    assert [curve["restricted_mean_until"] for curve in shown["curves"]] == [5.0, 5.0]
    assert [curve["restricted_mean"] for curve in shown["curves"]] == [5.0, 5.0]


def test_a_small_group_is_not_shown_and_there_is_no_test():
    group, times, seen = records(60)
    group[:] = np.arange(60) < 4
    fit = final(KaplanMeier(edges=DAYS, group="drug"), split(group, times, seen), least_count=5)
    assert (fit.curves, fit.log_rank) == ((), None)
    assert fit.status == "too few records", "the other group would give it away by what is left of the whole"
    shown = found(KaplanMeier(edges=DAYS, group="drug"), split(group, times, seen), least_count=5)
    assert [curve["records"] for curve in shown["curves"]] == [None, None]
    assert shown["log_rank_test"]["p"] is None


@pytest.mark.parametrize("count", [0, 4])
def test_too_few_records_are_told(count):
    group, times, seen = records(count) if count else (np.empty(0), np.empty(0), np.empty(0))
    for analysis in (KaplanMeier(edges=DAYS), KaplanMeier(edges=DAYS, group="drug")):
        shown = found(analysis, split(group, times, seen), least_count=5)
        assert shown["status"] == "too few records"
        assert {curve["records"] for curve in shown["curves"]} == {None}
        assert shown["log_rank_test"] == {"statistic": None, "degrees": 1, "p": None}


def test_no_event_is_told_and_the_curve_is_flat():
    group, times, seen = records(60)
    shown = found(KaplanMeier(edges=DAYS, group="drug"), split(group, times, np.zeros_like(seen)))
    assert shown["status"] == "no events"
    assert shown["log_rank_test"]["statistic"] is None
    for curve in shown["curves"]:
        assert (curve["points"], curve["median"]) == ([], None)
        assert curve["restricted_mean"] == curve["restricted_mean_until"]
        assert curve["restricted_mean_error"] == 0.0


def test_everybody_dying_at_once_leaves_no_interval():
    shown = found(KaplanMeier(edges=DAYS, group="drug"), [table([0, 0, 1, 1], [3] * 4, [1] * 4)])
    assert shown["curves"][0]["points"][0] | {"survival": 0.0, "lower": None} == shown["curves"][0]["points"][0]
    assert shown["log_rank_test"]["statistic"] is None


def test_a_curve_that_reaches_one_half_has_a_median():
    # 9/10 * 7/9 * 6/7 * 5/6 is a hair above one half in floating point.
    shown = found(KaplanMeier(edges=DAYS), [table([0] * 10, [2, 5, 5, 9, 10, 14, 21, 22, 28, 37], [1] * 10)])
    assert shown["curves"][0]["median"] == 10.0


def test_ten_records():
    group, times, seen = records(10)
    shown = found(KaplanMeier(edges=DAYS), split(group, times, seen))
    agrees(shown["curves"][0], times, seen)


def test_a_column_entirely_missing_leaves_too_few_records():
    one = table(*records(30))
    one.features[:, 1] = math.nan
    assert found(KaplanMeier(edges=DAYS, group="drug"), [one])["status"] == "too few records"


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (KaplanMeier(edges=()), "edges"),
        (KaplanMeier(edges=(0.0, 1.0)), "edges"),
        (KaplanMeier(edges=(-1.0, 1.0)), "edges"),
        (KaplanMeier(edges=(2.0, 1.0)), "edges"),
        (KaplanMeier(edges=(1.0, 1.0)), "edges"),
        (KaplanMeier(edges=(1.0, 1.0 + 1e-12)), "edges"),
        (KaplanMeier(edges=(1.0, math.nan)), "edges"),
        (KaplanMeier(edges=(1.0, math.inf)), "edges"),
        (KaplanMeier(edges=(1.0, 1e300)), "edges"),
        (KaplanMeier(edges=DAYS, group="nobody"), "nobody"),
        (KaplanMeier(edges=DAYS, group="ward"), "ward"),
        (KaplanMeier(edges=DAYS, group="age"), "age"),
        (KaplanMeier(edges=tuple(range(1, 5002)), group="drug"), "20,000"),
    ],
)
def test_what_the_study_cannot_give_is_refused(wrong, words):
    with pytest.raises(CodecError, match=words):
        several.check((Cox(columns=("age",)), wrong), AGREED)


def test_another_label_is_refused():
    agreed = DataContract(columns=AGREED.columns, label=Label(name="died"))
    with pytest.raises(CodecError, match=r"analysis 1 \(kaplan-meier\): it needs a label whose outcome is survival"):
        several.check((KaplanMeier(edges=DAYS),), agreed)


def test_analyses_are_told_apart_by_their_kind():
    asked = [KaplanMeier(edges=DAYS, group="drug"), Cox(columns=("age",), ties="breslow")]
    again = msgspec.json.decode(msgspec.json.encode(asked), type=list[several.Analysis])
    assert again == asked
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(b'{"type":"cox","columns":["age"],"tie":"efron"}', type=several.Analysis)
