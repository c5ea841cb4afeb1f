"""k, l and t against pycanon, against their definitions written out, and against real hospital stays."""

import csv
import gzip
import json
import math
import os
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wardround.clinical import anonymity
from wardround.clinical.anonymity import Demand, Sensitive
from wardround.errors import ColumnTypeError

ROOT = Path(__file__).parents[4]
VECTORS = json.loads((ROOT / "tests" / "vectors" / "anonymity.json").read_text(encoding="utf-8"))["cases"]
EICU = Path(os.environ.get("WARDROUND_DATA", ROOT.parent / "shared" / "data")) / "eicu_demo"

tables = st.integers(1, 30).flatmap(
    lambda records: st.tuples(
        st.lists(st.lists(st.integers(0, 2), min_size=records, max_size=records), max_size=3),
        st.lists(st.integers(-2, 4), min_size=records, max_size=records),
        st.lists(st.integers(0, 9), min_size=records, max_size=records),
    )
)
demands = st.builds(
    Demand, k=st.integers(1, 5), l=st.integers(1, 3), t=st.sampled_from([0.0, 0.1, 0.25, 1 / 3, 0.5, 0.8, 1.0])
)


def coded(columns, records):
    return anonymity.groups([np.array(column, dtype=np.float32) for column in columns], records)


def parted(columns, labels):
    """Labels by group, as a reader of the definition would write it."""
    found = defaultdict(list)
    for place, label in enumerate(labels):
        found[tuple(column[place] for column in columns)].append(label)
    return found


def varied(some, every):
    here, there = Counter(some), Counter(every)
    return sum(abs(here[one] / len(some) - there[one] / len(every)) for one in there) / 2


def moved(some, every):
    distinct = sorted(set(every))
    below = [
        abs(sum(x <= one for x in some) / len(some) - sum(x <= one for x in every) / len(every)) for one in distinct
    ]
    return sum(below) / (len(distinct) - 1) if len(distinct) > 1 else 0.0


@pytest.mark.parametrize("case", VECTORS, ids=range(len(VECTORS)))
def test_pycanon_says_the_same(case):
    label = np.array(case["label"], dtype=np.float32)
    of = coded(case["columns"], len(label))
    assert anonymity.sizes(of).min() == case["k"]
    assert anonymity.diversities(of, label).min() == case["l"]
    assert math.floor(anonymity.entropy_diversities(of, label).min() + 1e-9) == case["entropy_l"]
    if "t" in case:
        assert anonymity.distances(of, Sensitive(label)).max() == pytest.approx(case["t"], abs=1e-12)
        assert anonymity.distances(of, Sensitive(label, ordered=True)).max() == pytest.approx(
            case["ordered_t"], abs=1e-12
        )


@given(table=tables)
def test_every_group_is_as_the_definitions_have_it(table):
    columns, labels, patients = table
    of = coded(columns, len(labels))
    marks = parted([of.tolist()], labels)
    assert sorted(map(sorted, marks.values())) == sorted(map(sorted, parted(columns, labels).values()))
    assert [(number,) for number in range(len(marks))] == sorted(marks)
    members = [marks[(number,)] for number in range(len(marks))]
    array = np.array(labels, dtype=np.float32)
    assert anonymity.sizes(of).tolist() == [len(one) for one in members]
    owners = parted([of.tolist()], patients)
    assert anonymity.sizes(of, np.array(patients)).tolist() == [len(set(owners[(n,)])) for n in range(len(members))]
    assert anonymity.diversities(of, array).tolist() == [len(set(one)) for one in members]
    far = anonymity.distances(of, Sensitive(array))
    assert far == pytest.approx([varied(one, labels) for one in members], abs=1e-12)
    far = anonymity.distances(of, Sensitive(array, ordered=True))
    assert far == pytest.approx([moved(one, labels) for one in members], abs=1e-12)


@given(table=tables, demand=demands, ordered=st.booleans())
def test_what_is_left_holds_the_demand_for_its_own_distribution(table, demand, ordered):
    columns, labels, patients = table
    label = Sensitive(np.array(labels, dtype=np.float32), ordered=ordered)
    outside = anonymity.left_out(coded(columns, len(labels)), [label], demand, np.array(patients))
    keep = np.flatnonzero(~outside).tolist()
    kept = [labels[place] for place in keep]
    rest = parted([[column[place] for place in keep] for column in columns], list(zip(kept, keep, strict=True)))
    for members in rest.values():
        some = [one for one, _ in members]
        assert len({patients[place] for _, place in members}) >= demand.k
        assert len(set(some)) >= demand.l
        assert (moved if ordered else varied)(some, kept) <= demand.t + 1e-9


@given(table=tables, demand=demands)
def test_groups_are_left_out_whole_and_none_without_a_reason(table, demand):
    columns, labels, _ = table
    of = coded(columns, len(labels))
    outside = anonymity.left_out(of, [Sensitive(np.array(labels, dtype=np.float32))], demand)
    for number in range(of.max() + 1):
        assert len(set(outside[of == number].tolist())) == 1
    everyone = parted(columns, labels).values()
    if all(len(one) >= demand.k and len(set(one)) >= demand.l and varied(one, labels) <= demand.t for one in everyone):
        assert not outside.any()


def test_leaving_a_group_out_moves_the_rest_and_is_looked_at_again():
    # Group 0 fails k. Only without it are all labels those of group 2, from which group 1 then is too far.
    of = np.repeat([0, 1, 2], [2, 8, 20])
    labels = np.concatenate([np.ones(2), np.ones(3), np.zeros(5), np.zeros(16), np.ones(4)]).astype(np.float32)
    overall = Sensitive(labels)
    assert anonymity.distances(of, overall)[1] == pytest.approx(0.075)
    assert (anonymity.distances(of, overall)[1:] <= 0.11).all()
    assert anonymity.left_out(of, [overall], Demand(k=3)).sum() == 2
    alone = Sensitive(labels[2:])
    assert anonymity.distances(of[2:] - 1, alone)[0] == pytest.approx(0.125)
    assert anonymity.left_out(of, [overall], Demand(k=3, t=0.11)).sum() == 10


def test_records_of_one_patient_are_one():
    of, patients = np.zeros(12, dtype=np.int64), np.repeat([0, 1, 2], 4).astype(np.int32)
    assert anonymity.sizes(of, patients).tolist() == [3]
    assert anonymity.left_out(of, [], Demand(k=4), patients).all()
    assert not anonymity.left_out(of, [], Demand(k=3), patients).any()


def test_missing_values_are_one_value_and_texts_are_told_apart():
    column = np.array([np.nan, 1.0, np.nan, 0.0, -0.0], dtype=np.float32)
    assert anonymity.sizes(anonymity.groups([column], 5)).tolist() == [2, 1, 2]
    texts = np.array(["a", "b", "a"], dtype=object)
    assert sorted(anonymity.sizes(anonymity.groups([texts], 3)).tolist()) == [1, 2]
    lists = np.empty(2, dtype=object)
    lists[:] = [[1], [2]]
    with pytest.raises(ColumnTypeError, match="quasi-identifier"):
        anonymity.groups([lists], 2)


def test_nobody_at_all_is_left_out_of_nothing():
    of = anonymity.groups([np.empty(0)], 0)
    assert (
        len(
            anonymity.left_out(
                of, [Sensitive(np.empty(0)), Sensitive(np.empty(0), ordered=True)], Demand(k=5, l=2, t=0.1)
            )
        )
        == 0
    )
    assert len(anonymity.sizes(of)) == 0


def test_many_large_columns_do_not_run_over():
    generator = np.random.default_rng(5)  # noqa: TID251, seeded
    columns = [generator.integers(0, 2**40, 2_000) for _ in range(8)]
    assert anonymity.sizes(anonymity.groups(columns, 2_000)).tolist() == [1] * 2_000


def test_a_ladder_is_climbed_no_higher_than_needed():
    ages = np.arange(20.0, 60.0)
    ladder = [[ages], [anonymity.bands(ages, 5)], [anonymity.bands(ages, 10)], []]
    assert anonymity.finest(ladder, [Sensitive(ages)], Demand(k=1), 0.0) == 0
    assert anonymity.finest(ladder, [Sensitive(ages)], Demand(k=5), 0.0) == 1
    assert anonymity.finest(ladder, [Sensitive(ages)], Demand(k=6), 0.0) == 2
    assert anonymity.finest(ladder, [Sensitive(ages)], Demand(k=11), 0.0) == 3
    assert anonymity.finest(ladder, [Sensitive(ages)], Demand(k=41), 0.0) is None
    assert anonymity.finest(ladder, [Sensitive(ages)], Demand(k=41), 1.0) == 0


def test_bands_and_first_characters():
    found = anonymity.bands(np.array([0, 4, 5, 89, 97, np.nan]), 5, top=90)
    assert found[:5].tolist() == [0, 0, 5, 85, 90]
    assert np.isnan(found[5])
    assert anonymity.leading(["02139", "02138", "10001"], 3).tolist() == ["021", "021", "100"]
    with pytest.raises(ValueError, match="wider than 0"):
        anonymity.bands(np.ones(2), 0)


@pytest.mark.skipif(not (EICU / "patient.csv.gz").exists(), reason="the eICU demo is not here (WARDROUND_DATA)")
def test_intensive_care_stays_in_small_cells_are_as_many_as_were_counted_elsewhere():
    with gzip.open(EICU / "patient.csv.gz", "rt", encoding="utf-8") as file:
        stays = list(csv.DictReader(file))
    with gzip.open(EICU / "hospital.csv.gz", "rt", encoding="utf-8") as file:
        regions = {row["hospitalid"]: row["region"] for row in csv.DictReader(file)}
    ages = np.array([float(stay["age"].replace("> 89", "90") or "nan") for stay in stays])
    sex, people = (np.array([stay[name] for stay in stays]) for name in ("gender", "ethnicity"))
    region = np.array([regions[stay["hospitalid"]] for stay in stays])

    def in_small_cells(*columns):
        of = anonymity.groups(columns, len(stays))
        return round(float((anonymity.sizes(of)[of] < 5).mean()), 3)

    five, ten = anonymity.bands(ages, 5), anonymity.bands(ages, 10)
    assert len(stays) == 2_520
    assert in_small_cells(ages, sex, people) == 0.209
    assert in_small_cells(five, sex, people) == 0.076
    assert in_small_cells(ten, sex) == 0.002
    assert in_small_cells(ten, sex, region, people) == 0.109
    hospitals = np.array([int(stay["hospitalid"]) for stay in stays])
    assert (anonymity.sizes(anonymity.groups([hospitals], len(stays))) < 11).sum() == 30
