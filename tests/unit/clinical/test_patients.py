"""Which records are one patient's: each rule, and that no identifier is ever shown; SECRET stands for one."""

import datetime as dt
import traceback
from collections import defaultdict
from decimal import Decimal

import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from wardround.clinical import patients, tabulate
from wardround.clinical.contract import Column, DataContract, Label, check, feature_names, width
from wardround.clinical.table import LoadReport, StudyTable, check_patients
from wardround.clinical.tabulate import Layout, LocalColumn
from wardround.errors import ClinicalError, CodecError, ColumnTypeError, MissingColumnError, TooFewRecordsError

SECRET = "Xanthippe-4711"


def contract(**settings):
    settings = {"min_records": 1, "holdout": 0.0, "patient": "who", **settings}
    return DataContract(columns=(Column(name="x"),), label=Label(name="y"), **settings)


def table(who, plan=None, *, x=None, more=None, **layout):
    cells = {"x": list(range(len(who))) if x is None else x, "y": [1] * len(who), "who": who, **(more or {})}
    return tabulate.study_table(plan or contract(), cells, Layout(**layout))


def told(error):
    return "".join(traceback.format_exception(error))


def sides(who, loaded):
    """For each patient the sides its records are on, told from the identifiers themselves."""
    found = defaultdict(set)
    for identifier, held in zip(who, loaded.held_out, strict=True):
        found[identifier].add(bool(held))
    return found


def test_patients_are_numbered_in_the_order_in_which_they_appear():
    loaded = table(["c", "a", "c", "b", "a"])
    assert loaded.patients.tolist() == [0, 1, 0, 2, 1]
    assert loaded.patients.dtype == np.int32
    assert (loaded.report.used, loaded.report.patients) == (5, 3)


def test_without_a_patient_column_every_record_is_its_own_patient():
    loaded = table(["a", "a", "b"], contract(patient=""), x=[1, None, 3])
    assert loaded.patients.tolist() == [0, 1]
    assert loaded.report.patients == 2


def test_a_record_without_an_identifier_is_dropped_and_counted():
    loaded = table(["a", None, " ", "?", "b", "unknown", "a"], missing=("?",), columns={
        "who": LocalColumn(values={"unknown": ""})
    })  # fmt: skip
    assert loaded.features[:, 0].tolist() == [0, 4, 6]
    assert loaded.patients.tolist() == [0, 1, 0]
    assert loaded.report.missing == {"who": 4}
    assert (loaded.report.read, loaded.report.used, loaded.report.dropped) == (7, 3, 4)
    with pytest.raises(TooFewRecordsError, match="0 of 2 records"):
        table([None, None])


def test_only_the_records_that_are_used_number_the_patients():
    loaded = table(["a", "b", "c", "b"], x=[None, 1, 2, 3])
    assert loaded.patients.tolist() == [0, 1, 0]
    assert loaded.report.patients == 2


@given(who=st.lists(st.sampled_from("abcdef"), min_size=1, max_size=20), dropped=st.integers(0, 19))
def test_numbers_and_deal_are_the_same_however_the_source_holds_the_column(who, dropped):
    x = [None if place < dropped else place for place in range(len(who))]
    assume(dropped < len(who))
    plan = contract(holdout=0.5)
    one, other = table(who, plan, x=x), table(np.array(who), plan, x=x)
    kept = who[dropped:]
    assert [sorted(set(kept), key=kept.index)[number] for number in one.patients] == kept
    assert one.patients.tolist() == other.patients.tolist()
    assert sides(kept, one) == sides(kept, other) == sides(kept, table(kept, plan))


@pytest.mark.parametrize(
    "who",
    [
        ["7", " 7 ", "8", ""],
        [7, 7.0, 8, None],
        [Decimal(7), "7", np.int64(8), Decimal("nan")],
        np.array([7.0, 7.0, 8.0, np.nan]),
        np.array(["7", "7", "8", ""]),
    ],
)
def test_an_identifier_is_one_however_it_is_written(who):
    loaded = table(who)
    assert loaded.patients.tolist() == [0, 0, 1]
    assert loaded.report.missing == {"who": 1}


def test_identifiers_that_differ_in_one_place_are_two_patients():
    assert table([900000000000207007, 900000000000207008]).patients.tolist() == [0, 1]
    assert table([10**30, 10**30 + 1, Decimal(10**30)]).patients.tolist() == [0, 1, 0]
    assert table(np.array([2**62, 2**62 + 1])).patients.tolist() == [0, 1]
    assert table(["007", "7", "a", "A"]).patients.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    "cell",
    [
        2.0**53, 1.5, float("inf"), Decimal("1.5"), Decimal("1e1000000"), Decimal("Infinity"), 10**400, True,
        dt.date(1947, 11, 4), SECRET.encode(), [SECRET], Decimal("sNaN"),
    ],
)  # fmt: skip
def test_what_is_no_identifier_refuses_the_load_and_is_not_shown(cell):
    with pytest.raises(ColumnTypeError, match="'who'") as caught:
        table([SECRET, cell, "1"])
    assert SECRET not in told(caught.value)
    assert "1947" not in told(caught.value)


@pytest.mark.parametrize("kind", ["datetime64[ns]", "datetime64[D]", "timedelta64[s]"])
def test_an_instant_never_passes_for_an_identifier(kind):
    with pytest.raises(ColumnTypeError, match="'who'"):
        table(np.array([5, 6], dtype=kind))


def test_what_is_no_identifier_is_counted():
    with pytest.raises(ColumnTypeError, match="'who': 2 of 4 cells name no patient"):
        table([1.5, "a", 1.5, None])


def test_a_table_and_what_it_is_made_from_do_not_show_themselves():
    owners = patients.identified("who", [SECRET], {}, (), 0)
    assert SECRET not in repr(owners)
    assert SECRET not in repr(table([SECRET]))
    assert SECRET not in repr(table([SECRET]).report)


identifiers = st.lists(st.sampled_from("abcdefghij"), min_size=1, max_size=60)


@example(who=["a"] * 9, share=0.99, seed=0)
@given(who=identifiers, share=st.floats(0, 0.99), seed=st.integers(-(2**70), 2**70))
def test_no_patient_is_on_both_sides_and_the_share_of_patients_is_exact(who, share, seed):
    loaded = table(who, contract(holdout=share, holdout_seed=seed))
    found = sides(who, loaded)
    assert all(len(both) == 1 for both in found.values())
    assert sum(both == {True} for both in found.values()) == min(round(share * len(found)), len(found) - 1)


@given(who=identifiers, more=st.data(), seed=st.integers(0, 2**32))
def test_more_records_of_the_same_patients_in_any_order_move_nobody(who, more, seed):
    plan = contract(holdout=0.4, holdout_seed=seed)
    longer = more.draw(st.permutations(who + more.draw(st.lists(st.sampled_from(who), max_size=20))))
    assert sides(who, table(who, plan)) == sides(longer, table(longer, plan))


@given(who=identifiers, seed=st.integers(0, 2**32))
def test_one_more_patient_moves_at_most_one_of_the_others(who, seed):
    assume("new" not in who)
    plan = contract(holdout=0.5, holdout_seed=seed)
    before, after = sides(who, table(who, plan)), sides([*who, "new"], table([*who, "new"], plan))
    assert sum(before[one] != after[one] for one in before) <= 1


def test_another_seed_deals_otherwise():
    who = [f"{number}" for number in range(30)]
    deals = {tuple(table(who, contract(holdout=0.5, holdout_seed=seed)).held_out) for seed in range(50)}
    assert len(deals) == 50


def test_a_stated_split_that_a_patient_is_on_both_sides_of_is_refused_with_counts_alone():
    plan = contract(holdout_column="test")
    who = [SECRET, "b", SECRET, "c", "b", "d"]
    loaded = table(who, plan, more={"test": [1, 0, 1, 1, 0, None]})
    assert loaded.held_out.tolist() == [True, False, True, True, False]
    with pytest.raises(ClinicalError, match="'test': 2 of 4 patients have records on both sides") as caught:
        table(who, plan, more={"test": [1, 0, 0, 1, 1, 1]})
    assert SECRET not in told(caught.value)


def test_a_record_that_is_dropped_divides_no_patient():
    plan = contract(holdout_column="test")
    assert table(["a", "a"], plan, x=[1, None], more={"test": [1, 0]}).held_out.tolist() == [True]


def test_one_patient_may_have_all_of_many_records():
    who = np.full(100_000, SECRET, dtype=object)
    loaded = table(who, contract(holdout=0.5), x=np.zeros(len(who)))
    assert not loaded.patients.any()
    assert not loaded.held_out.any()
    assert (loaded.report.used, loaded.report.patients) == (100_000, 1)


def test_min_records_counts_records():
    assert table(["a"] * 5, contract(min_records=5)).report.patients == 1
    with pytest.raises(TooFewRecordsError):
        table(["a"] * 4, contract(min_records=5))


def test_the_column_is_no_feature_and_is_looked_for_like_any_other():
    assert (width(contract()), feature_names(contract())) == (1, ("x",))
    layout = Layout(columns={"who": LocalColumn(source="mrn")})
    assert tabulate.locate(contract(), layout, ["mrn", "x", "y"])["who"] == "mrn"
    with pytest.raises(MissingColumnError, match=r"'who' \(as 'mrn'\)"):
        tabulate.locate(contract(), layout, ["x", "y"])
    with pytest.raises(MissingColumnError, match="'who'"):
        tabulate.study_table(contract(), {"x": [1], "y": [1]}, Layout())
    assert tabulate.record_limit(contract(), Layout()) <= tabulate.MAX_CELLS // 3
    with pytest.raises(ClinicalError, match="different lengths"):
        table(["a", "b"], x=[1], more={"y": [1]})


@pytest.mark.parametrize("name", ["x", "y", "test"])
def test_its_name_is_no_other_column_s(name):
    check(contract(holdout_column="test"))
    with pytest.raises(CodecError, match="every column name once"):
        check(contract(holdout_column="test", patient=name))


def made(numbers, records=3, dtype=np.int32):
    features = np.zeros((records, 1), np.float32)
    report = LoadReport(records, records, 0)
    return StudyTable(features, features[:, 0], np.zeros(records, bool), report, np.array(numbers, dtype))


@pytest.mark.parametrize("numbers", [[0, 2, 2], [1, 1, 2], [-1, 0, 1], [0, 1, 2**31 - 1]])
def test_a_table_s_patients_have_no_gap(numbers):
    with pytest.raises(ClinicalError, match="without a gap"):
        made(numbers)


@pytest.mark.parametrize(("numbers", "dtype"), [([0, 1], np.int32), ([0, 1, 2], np.int64), ([[0], [1], [2]], np.int32)])
def test_a_table_s_patients_are_one_number_for_each_record(numbers, dtype):
    with pytest.raises(ClinicalError, match="one int32 for each record"):
        made(numbers, dtype=dtype)


@given(numbers=st.lists(st.integers(0, 5), max_size=8))
def test_a_gap_is_found_whatever_the_order(numbers):
    array = np.array(numbers, np.int32)
    if set(numbers) == set(range(len(set(numbers)))):
        check_patients(array, len(numbers))
    else:
        with pytest.raises(ClinicalError):
            check_patients(array, len(numbers))
