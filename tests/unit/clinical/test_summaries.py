import math
import random
from fractions import Fraction

import numpy as np
import pytest

from wardround.clinical import summaries
from wardround.clinical.contract import Column, DataContract, Label
from wardround.clinical.summaries import Counts, Histogram, Moments
from wardround.clinical.table import LoadReport, StudyTable
from wardround.codec import fixedpoint
from wardround.errors import CodecError

COLUMNS = (
    Column(name="age", unit="a"),
    Column(name="sodium", unit="mmol/L"),
    Column(name="smoker", kind="boolean"),
    Column(name="ward", kind="category", categories=("icu", "er", "gp")),
)
BINARY = DataContract(columns=COLUMNS, label=Label(name="died"))
NUMBER = DataContract(columns=COLUMNS, label=Label(name="stay", outcome="number", unit="d"))
ALL = (
    Counts("ward"),
    Counts("smoker"),
    Counts("died"),
    Moments(("age", "sodium")),
    Histogram("age", (40.0, 60.0, 80.0)),
)


def table(count, salt=0, *, number=False):
    rng = random.Random(f"{count} {salt}")
    rows, labels = [], []
    for _ in range(count):
        ward = rng.randrange(3)
        age = round(rng.uniform(20, 95))
        sodium = math.nan if rng.random() < 0.1 else round(rng.gauss(138, 5))
        rows.append([age, sodium, rng.random() < 0.4, *(ward == place for place in range(3))])
        labels.append(rng.randint(0, 20) if number else rng.random() < age / 120)
    held_out = np.arange(count) % 4 == 0
    return StudyTable(np.array(rows, np.float32), np.array(labels, np.float32), held_out, LoadReport(count, count, 0))


def pooled(tables):
    return StudyTable(
        np.concatenate([one.features for one in tables]),
        np.concatenate([one.labels for one in tables]),
        np.concatenate([one.held_out for one in tables]),
        LoadReport(0, 0, 0),
    )


def added(asked, tables, contract=BINARY):
    vectors = [summaries.site_sums(asked, one, contract) for one in tables]
    total = np.zeros(fixedpoint.DIGITS * vectors[0].size, np.uint64)
    for vector in vectors:
        total += fixedpoint.encode_sums(vector)
    return fixedpoint.decode_sums(total)


def shown(asked, tables, contract=BINARY, least_count=1):
    return summaries.results(asked, added(asked, tables, contract), contract, least_count=least_count)


def test_a_vector_is_as_long_as_it_says():
    assert len(summaries.site_sums(ALL, table(30), BINARY)) == sum(summaries.length(one, BINARY) for one in ALL)


def test_sites_add_up_to_what_the_pooled_records_give():
    tables = [table(40 + 10 * salt, salt) for salt in range(4)]
    everybody = pooled(tables)
    ward, smoker, died, moments, histogram = shown(ALL, tables)
    ages, sodium = everybody.features[:, 0].astype(float), everybody.features[:, 1].astype(float)
    sodium = sodium[~np.isnan(sodium)]
    assert ward["counts"] == {
        name: int(everybody.features[:, 3 + i].sum()) for i, name in enumerate(("icu", "er", "gp"))
    }
    assert smoker["counts"]["1"] == int(everybody.features[:, 2].sum())
    assert died["counts"]["1"] == int(everybody.labels.sum())
    assert moments["columns"]["sodium"]["count"] == sodium.size
    assert moments["columns"]["sodium"]["mean"] == pytest.approx(sodium.mean(), rel=1e-12)
    assert moments["columns"]["sodium"]["variance"] == pytest.approx(sodium.var(ddof=1), rel=1e-9)
    expected = [(ages < 40).sum(), ((ages >= 40) & (ages < 60)).sum(), ((ages >= 60) & (ages < 80)).sum()]
    assert histogram["counts"] == [*map(int, expected), int((ages >= 80).sum())]


def test_small_counts_are_not_shown():
    ward, _, _, moments, histogram = shown(ALL, [table(3)], least_count=5)
    assert set(ward["counts"].values()) == {None}
    assert moments["columns"]["age"] == {"count": None, "mean": None, "variance": None}
    assert histogram["counts"] == [None] * 4


def test_sums_below_two_values_have_no_variance():
    found = summaries.results((Moments(("age",)),), [Fraction(1), Fraction(4), Fraction(16)], BINARY, least_count=1)
    assert found[0]["columns"]["age"]["variance"] is None


@pytest.mark.parametrize(
    "wrong",
    [
        Counts("age"),
        Counts("nobody"),
        Moments(()),
        Moments(("ward",)),
        Moments(("age", "age")),
        Histogram("age", ()),
        Histogram("age", (2.0, 1.0)),
        Histogram("ward", (1.0,)),
        Histogram("age", tuple(map(float, range(30_000)))),
    ],
)
def test_what_the_columns_cannot_give_is_refused(wrong):
    with pytest.raises(CodecError):
        summaries.check((wrong,), BINARY)


def test_what_they_can_give_is_not():
    summaries.check(ALL, BINARY)
