"""The study table's rules, one test or law for each; SECRET stands for a patient's value everywhere."""

import datetime as dt
import math
import traceback
from decimal import Decimal

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from wardround.clinical import tabulate, vocabulary
from wardround.clinical.contract import Column, DataContract, Label, check, feature_names, numeric_features, width
from wardround.clinical.tabulate import Layout, LocalColumn
from wardround.errors import (
    ClinicalError,
    CodecError,
    ColumnTypeError,
    MissingColumnError,
    TooFewRecordsError,
    UnitMismatchError,
    WardroundError,
)

SECRET = "Xanthippe-4711"
YES = Label(name="y")


def contract(*columns, label=YES, **settings):
    settings = {"min_records": 1, "holdout": 0.0, **settings}
    return DataContract(columns=columns or (Column(name="x"),), label=label, **settings)


def table(plan, cells, **layout):
    if "y" not in cells and plan.label.name == "y":
        cells = {**cells, "y": [1] * len(next(iter(cells.values())))}
    return tabulate.study_table(plan, cells, Layout(**layout))


def told(error):
    """Everything that a person or a log can see of an error: its whole chain, with causes and contexts."""
    return "".join(traceback.format_exception(error))


def numbers(array):
    return [None if math.isnan(value) else round(float(value), 5) for value in np.ravel(array)]


@pytest.mark.parametrize(
    "cells",
    [
        [1, 2.5, None],
        ["1", " 2.5 ", ""],
        np.array([1, 2.5, np.nan]),
        np.array(["1", "2.5", ""]),
        [Decimal(1), Decimal("2.5"), Decimal("nan")],
        [1, "2.5", None],
        [np.float32(1), np.float64(2.5), np.float32("nan")],
        [True, 2.5, None],
    ],
)
def test_a_number_is_a_number_however_it_is_written(cells):
    loaded = table(contract(Column(name="x", missing="mean")), {"x": cells})
    assert numbers(loaded.features) == [1.0, 2.5, None]
    assert loaded.features.dtype == loaded.labels.dtype == np.float32
    assert loaded.report.missing == {"x": 1}


@pytest.mark.parametrize("cells", [[True, False], [1, 0], ["true", "FALSE"], ["1", "0"], np.array([1.0, 0.0])])
def test_a_truth_value_is_one_or_nought(cells):
    assert numbers(table(contract(Column(name="x", kind="boolean")), {"x": cells}).features) == [1, 0]


def test_a_category_is_one_hot_in_the_contract_s_order():
    plan = contract(Column(name="a"), Column(name="sex", kind="category", categories=("m", "f", "x")), Column(name="b"))
    loaded = table(plan, {"a": [7, 8], "sex": ["f", "m"], "b": [5, 6]})
    assert loaded.features.tolist() == [[7, 0, 1, 0, 5], [8, 1, 0, 0, 6]]


def test_a_missing_category_waits_for_the_mean_in_every_one_of_its_columns():
    plan = contract(Column(name="sex", kind="category", categories=("m", "f"), missing="mean"))
    assert numbers(table(plan, {"sex": ["f", None]}).features) == [0, 1, None, None]


@pytest.mark.parametrize(
    "codes", [[1, 2, 1], [1.0, 2.0, 1.0], ["1", "2", "1"], np.array([1, 2, 1]), [Decimal(1), 2, "1"]]
)
def test_local_values_are_translated_whatever_their_storage(codes):
    plan = contract(Column(name="sex", kind="category", categories=("m", "f")))
    loaded = table(plan, {"sex": codes}, columns={"sex": LocalColumn(values={"1": "m", "2": "f"})})
    assert loaded.features[:, 1].tolist() == [0, 1, 0]


def test_a_long_code_keeps_its_last_digit():
    plan = contract(Column(name="code", kind="category", categories=("900000000000207007", "900000000000207008")))
    assert table(plan, {"code": [900000000000207008]}).features.tolist() == [[0, 1]]


def test_a_value_map_also_serves_numbers_and_labels():
    plan = contract(Column(name="x"))
    columns = {"x": LocalColumn(values={"<5": "5"}), "y": LocalColumn(values={"M": "1", "B": "0"})}
    loaded = table(plan, {"x": ["<5", "7"], "y": ["M", "B"]}, columns=columns)
    assert loaded.features.tolist() == [[5], [7]]
    assert loaded.labels.tolist() == [1, 0]


@pytest.mark.parametrize("cells", [["-9", "?", "3"], [-9, None, 3], np.array([-9.0, np.nan, 3.0]), ["-9.0", "?", 3]])
def test_a_missing_token_is_missing_as_text_and_as_a_number(cells):
    loaded = table(contract(Column(name="x", missing="mean")), {"x": cells}, missing=("?", "-9"))
    assert numbers(loaded.features) == [None, None, 3]


def test_a_missing_token_is_looked_up_before_the_local_values_and_a_value_may_mean_nothing():
    plan = contract(Column(name="sex", kind="category", categories=("m", "f"), missing="mean"))
    columns = {"sex": LocalColumn(values={"?": "m", "unknown": ""})}
    loaded = table(plan, {"sex": ["?", "unknown", "f"]}, columns=columns, missing=("?",))
    assert numbers(loaded.features) == [None, None, None, None, 0, 1]


def test_units_are_converted_before_the_bounds_are_applied():
    plan = contract(Column(name="x", unit="g/L", minimum=0.5, maximum=2.0, missing="mean"))
    loaded = table(plan, {"x": [49.0, 50.0, 200.0, 201.0, None]}, columns={"x": LocalColumn(unit="mg/dL")})
    assert numbers(loaded.features) == [None, 0.5, 2.0, None, None]
    assert loaded.report.implausible == {"x": 2}
    assert loaded.report.missing == {"x": 1}


@pytest.mark.parametrize("wild", [math.inf, -math.inf, 1e39, "1e400", 10**400])
def test_a_number_too_large_for_float32_is_implausible(wild):
    loaded = table(contract(Column(name="x", missing="mean")), {"x": [wild, 1.0]})
    assert numbers(loaded.features) == [None, 1.0]
    assert loaded.report.implausible == {"x": 1}


def test_dropping_refusing_and_waiting_for_the_mean():
    cells = {"x": [1, None, 3]}
    dropped = table(contract(Column(name="x", missing="drop")), cells)
    assert dropped.features.tolist() == [[1], [3]]
    assert (dropped.report.read, dropped.report.used, dropped.report.dropped) == (3, 2, 1)
    assert numbers(table(contract(Column(name="x", missing="mean")), cells).features) == [1, None, 3]
    with pytest.raises(ClinicalError, match="'x': 1 of 3 records"):
        table(contract(Column(name="x", missing="refuse")), cells)


@pytest.mark.parametrize(
    ("label", "cells", "expected"),
    [
        (Label(name="y"), {"y": ["1", "0", None]}, [1, 0]),
        (Label(name="y", outcome="multiclass", classes=("a", "b")), {"y": ["b", "a", ""]}, [1, 0]),
        (Label(name="y", outcome="number", unit="mm[Hg]"), {"y": [120.0, 80.5, None]}, [120, 80.5]),
        (
            Label(name="y", outcome="survival", unit="d", event="e"),
            {"y": [3, 0, 4], "e": [1, 0, None]},
            [[3, 1], [0, 0]],
        ),
        (Label(name="y", outcome="survival", unit="d", event="e"), {"y": [3, 0, -1], "e": [1, 0, 1]}, [[3, 1], [0, 0]]),
    ],
)
def test_each_kind_of_label_and_a_record_without_one_is_dropped(label, cells, expected):
    loaded = table(contract(label=label), {"x": [1, 2, 3], **cells})
    assert loaded.labels.tolist() == expected
    assert loaded.features.tolist() == [[1], [2]]
    assert loaded.report.dropped == 1


def test_one_class_alone_still_loads():
    assert table(contract(), {"x": [1, 2], "y": [0, 0]}).labels.tolist() == [0, 0]


def test_a_follow_up_time_is_converted():
    label = Label(name="y", outcome="survival", unit="mo", event="e")
    loaded = table(contract(label=label), {"x": [1], "y": [2], "e": [1]}, columns={"y": LocalColumn(unit="a")})
    assert loaded.labels.tolist() == [[24, 1]]


@pytest.mark.parametrize("records", [0, 3])
def test_too_few_records_are_counted(records):
    cells = [1.0] * records + [None] * bool(records)
    with pytest.raises(TooFewRecordsError, match=rf"{records} of {len(cells)} .* at least 4"):
        table(contract(min_records=4), {"x": cells})


def test_a_missing_column_is_named_with_what_there_is():
    layout = Layout(columns={"x": LocalColumn(source="alter")})
    with pytest.raises(MissingColumnError) as caught:
        tabulate.locate(contract(), layout, ["age", "y"])
    assert "1 of 2" in str(caught.value)
    assert all(word in str(caught.value) for word in ("'x'", "'alter'", "'age'", "'y'"))
    with pytest.raises(MissingColumnError, match="'y'"):
        tabulate.study_table(contract(), {"x": [1]}, Layout())


def test_a_first_record_taken_for_a_header_is_not_shown():
    with pytest.raises(MissingColumnError, match="header line") as caught:
        tabulate.locate(contract(), Layout(), [SECRET, "63", "1"])
    assert SECRET not in told(caught.value)


def test_two_columns_of_one_name_are_refused():
    with pytest.raises(MissingColumnError, match="more than one column for 'x'"):
        tabulate.locate(contract(), Layout(), ["x", "y", "x"])


def test_another_unit_is_refused_by_column_before_any_cell_is_read():
    with pytest.raises(UnitMismatchError, match=r"'x'.*'kg'.*'mm'"):
        table(contract(Column(name="x", unit="mm")), {"x": [SECRET]}, columns={"x": LocalColumn(unit="kg")})


@pytest.mark.parametrize(
    ("column", "cells", "wrong"),
    [
        (Column(name="x"), [SECRET, "1", SECRET], "'x': 2 of 3"),
        (Column(name="x"), [1.0, SECRET, "1_0"], "'x': 2 of 3"),
        (Column(name="x"), np.array([SECRET, "1", "2"]), "'x': 1 of 3"),
        (Column(name="x"), [dt.date(1947, 11, 4)], "'x': 1 of 1"),
        (Column(name="x"), np.array(["1947-11-04T00", "NaT"], dtype="datetime64[ns]"), "'x': 1 of 2"),
        (Column(name="x"), [[SECRET], [SECRET]], "'x'"),
        (Column(name="x"), [{"a": SECRET}], "'x'"),
        (Column(name="x"), [SECRET.encode()], "'x': 1 of 1"),
        (Column(name="x", kind="boolean"), [SECRET, "2", 1], "'x': 2 of 3"),
        (Column(name="x", kind="category", categories=("a", "b")), ["a", SECRET], "'x': 1 of 2"),
    ],
)
def test_a_cell_of_another_kind_is_counted_and_never_shown(column, cells, wrong):
    with pytest.raises(ColumnTypeError, match=wrong) as caught:
        table(contract(column), {"x": cells, "y": [1] * len(cells)})
    assert SECRET not in told(caught.value)
    assert "1947" not in told(caught.value)


kinds = st.sampled_from(["number", "boolean", "category"])
anything = st.one_of(
    st.just(SECRET), st.integers(), st.floats(), st.none(), st.booleans(), st.decimals(), st.just(Decimal("sNaN")),
    st.just([SECRET]), st.just(SECRET.encode()), st.datetimes(),
)  # fmt: skip


@given(cells=st.lists(anything, max_size=6), kind=kinds, missing=st.sampled_from(["refuse", "drop", "mean"]))
def test_whatever_the_cells_only_our_errors_come_out_and_no_cell_with_them(cells, kind, missing):
    categories = ("a",) if kind == "category" else ()
    plan = contract(Column(name="x", kind=kind, categories=categories, missing=missing, maximum=1e6))
    with pytest.raises(WardroundError) as caught:
        table(plan, {"x": [*cells, SECRET], "y": [1] * (len(cells) + 1)})
    assert SECRET not in told(caught.value)


def test_a_table_does_not_show_itself():
    assert "31.25" not in repr(table(contract(), {"x": [31.25]}))


@example(n=2, share=0.99, seed=0)
@given(n=st.integers(2, 400), share=st.floats(0, 0.99), seed=st.integers(-(2**70), 2**70))
def test_the_holdout_has_the_exact_share_is_repeatable_and_leaves_something_to_train_on(n, share, seed):
    plan = contract(holdout=share, holdout_seed=seed)
    first, again = (table(plan, {"x": list(range(n))}).held_out for _ in range(2))
    assert first.tolist() == again.tolist()
    assert first.sum() == min(round(share * n), n - 1)


def test_another_seed_deals_otherwise_and_each_record_is_dealt_its_share():
    seeds = range(400)
    deals = np.array([table(contract(holdout=0.25, holdout_seed=s), {"x": [0.0] * 40}).held_out for s in seeds])
    assert len({tuple(deal) for deal in deals}) == len(seeds)
    # Each record is held out 100 times of 400 with a standard deviation of 8.7: fails by chance once in 10**7.
    assert np.abs(deals.sum(axis=0) - 100).max() < 50


def test_the_deal_follows_the_place_in_the_source_not_the_value():
    plan = contract(holdout=0.5, holdout_seed=3)
    one = table(plan, {"x": [1.0] * 20}).held_out
    other = table(plan, {"x": [float(i) for i in range(20)]}).held_out
    assert one.tolist() == other.tolist()


def test_the_study_s_own_split_is_used_and_a_record_outside_it_is_dropped():
    plan = contract(holdout_column="test", holdout=0.5)
    loaded = table(plan, {"x": [1, 2, 3, 4], "test": ["true", "false", None, "1"]})
    assert loaded.held_out.tolist() == [True, False, True]
    assert loaded.features.tolist() == [[1], [2], [4]]


def test_more_records_or_cells_than_allowed_are_refused():
    with pytest.raises(ClinicalError, match="more than the 2 allowed"):
        table(contract(), {"x": [1, 2, 3]}, max_records=2)
    wide = contract(Column(name="x", kind="category", categories=tuple(map(str, range(1000)))))
    assert tabulate.record_limit(wide, Layout()) == tabulate.MAX_CELLS // 1001


def test_columns_of_different_lengths_are_refused():
    with pytest.raises(ClinicalError, match="different lengths"):
        table(contract(), {"x": [1, 2], "y": [1]})


def test_columns_that_are_numbers_are_listed_for_the_sources():
    plan = contract(
        Column(name="a"), Column(name="b", kind="boolean"), label=Label(name="t", outcome="survival", event="e")
    )
    assert tabulate.number_columns(plan) == {"a", "t"}


def test_a_gap_may_be_filled_and_marked():
    column = Column(name="x", missing="mask")
    made = table(contract(column), {"x": [1.0, None, 3.0]})
    assert numbers(made.features) == [1.0, 0.0, None, 1.0, 3.0, 0.0]
    hot = Column(name="w", kind="category", categories=("a", "b"), missing="mask")
    made = table(contract(hot), {"w": ["a", "", "b"]})
    assert numbers(made.features) == [1, 0, 0, None, None, 1, 0, 1, 0]


def test_a_category_that_nobody_listed_is_an_other_where_the_contract_takes_others():
    hot = Column(name="w", kind="category", categories=("a", "b"), other=True)
    made = table(contract(hot), {"w": ["a", SECRET, "b", None]})
    assert made.features.shape == (3, 3)
    assert numbers(made.features) == [1, 0, 0, 0, 0, 1, 0, 1, 0]
    with pytest.raises(ColumnTypeError) as error:
        table(contract(Column(name="w", kind="category", categories=("a", "b"))), {"w": ["a", SECRET]})
    assert SECRET not in told(error.value)


def test_feature_names_say_which_column_is_an_indicator():
    plan = contract(Column(name="x", missing="mask"), Column(name="w", kind="category", categories=("a",), other=True))
    assert feature_names(plan) == ("x", "x=missing", "w=a", "w=other")
    assert numeric_features(plan) == (True, False, False, False)
    assert width(plan) == 4


@pytest.mark.parametrize(
    "column",
    [Column(name="x", other=True), Column(name="w", kind="category", categories=("a", "other"), other=True)],
)
def test_an_other_without_categories_or_with_one_of_its_name_is_refused(column):
    with pytest.raises(CodecError):
        check(contract(column))


def test_a_vocabulary_keeps_what_is_frequent_and_calls_the_rest_other():
    plan = contract(Column(name="w", kind="category", categories=("a", "b", "c")), Column(name="x"))
    found = [{"kind": "counts", "column": "w", "counts": {"a": 40, "b": None, "c": 7}}]
    made = vocabulary.with_counted(plan, found, least_count=10)
    assert made.columns[0].categories == ("a",)
    assert made.columns[0].other
    assert made.columns[1] == plan.columns[1]
    everything = [{"kind": "counts", "column": "w", "counts": {"a": 40, "b": 20, "c": 17}}]
    assert not vocabulary.with_counted(plan, everything, least_count=10).columns[0].other
    with pytest.raises(CodecError, match="no category has 100 records"):
        vocabulary.with_counted(plan, found, least_count=100)
