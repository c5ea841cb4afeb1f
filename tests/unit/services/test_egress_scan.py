# ruff: noqa: TID251, every generator here has a fixed seed
"""The search: a planted record is found wherever and however large it stands, and honest vectors raise no alarm."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wardround.services.egress_scan import MOST_VALUES, Identifiers, Records, Watch

NOBODY = Identifiers(())


def drawn(seed):
    return np.random.default_rng(seed)


def patients(seed=1, records=400, width=13):
    """Records as a hospital has them: ages, counts, indicators and missing values, in their own units."""
    g = drawn(seed)
    table = np.empty((records, width), np.float32)
    for column in range(width):
        match column % 4:
            case 0:
                table[:, column] = g.integers(18, 95, records)
            case 1:
                table[:, column] = np.round(g.normal(120, 20, records), 1)
            case 2:
                table[:, column] = g.random(records) < 0.3
            case 3:
                table[:, column] = np.round(g.lognormal(1, 1, records), 2)
    table[g.random(table.shape) < 0.05] = np.nan
    return table


def honest(seed, size=5000):
    return (drawn(seed).normal(size=size) * 1e-3).astype(np.float32)


def whole(row):
    return row[np.isfinite(row)]


TABLE = patients()
RECORDS = Records([TABLE])


@settings(max_examples=200)
@given(st.integers(0, 10**6), st.integers(0, 4900), st.integers(0, 399), st.floats(1e-6, 1e6), st.booleans())
def test_a_planted_row_is_found_at_any_place_and_scale(seed, place, record, scale, negative):
    vector, row = honest(seed), whole(TABLE[record])
    nonzero = row[row != 0]
    vector[place : place + len(row)] = row * np.float32(-scale if negative else scale)
    tells = len(nonzero) >= RECORDS.run and len(set(np.abs(nonzero[: RECORDS.run]))) >= 3
    assert RECORDS.found(vector) or not tells


@settings(max_examples=100)
@given(st.integers(0, 10**6), st.integers(0, 4990), st.integers(0, 399), st.integers(0, 12))
def test_a_run_of_a_row_is_enough(seed, place, record, start):
    nonzero = whole(TABLE[record])
    nonzero = nonzero[nonzero != 0][start : start + RECORDS.run]
    triples = [set(np.abs(nonzero[at : at + 3])) for at in range(len(nonzero) - 2)]
    if len(nonzero) < RECORDS.run or len(set(np.abs(nonzero))) < 3 or min(map(len, triples)) < 2:
        return
    vector = honest(seed)
    vector[place : place + len(nonzero)] = nonzero * np.float32(0.37)
    assert RECORDS.found(vector)


@pytest.mark.parametrize("seed", range(5))
def test_a_row_across_two_pieces_is_found_wherever_it_is_cut(seed):
    row = whole(TABLE[seed]) * np.float32(0.01)
    for cut in range(len(row) + 1):
        watch, vector = Watch(RECORDS, NOBODY), honest(seed, 2000)
        vector[1000 - cut : 1000 - cut + len(row)] = row
        assert not (watch.is_clean(vector[:1000]) and watch.is_clean(vector[1000:]))


def test_a_row_over_many_tiny_pieces_is_found():
    watch, vector = Watch(RECORDS, NOBODY), honest(3, 60)
    vector[20 : 20 + len(whole(TABLE[9]))] = whole(TABLE[9])
    assert not all(watch.is_clean(vector[place : place + 2]) for place in range(0, 60, 2))


def test_a_row_with_zeros_spread_between_its_values_is_found():
    row = whole(TABLE[4])
    vector = np.zeros(300, np.float32)
    vector[10 : 10 + 3 * len(row) : 3] = row * 2
    assert RECORDS.found(vector)


@pytest.mark.parametrize("dtype", ["float64", "float16", "bfloat16"])
def test_a_row_is_found_in_every_precision(dtype):
    import ml_dtypes

    kind = np.dtype(ml_dtypes.bfloat16) if dtype == "bfloat16" else np.dtype(dtype)
    table = drawn(5).normal(size=(200, 20)).astype(np.float32)
    records = Records([table], kind)
    for place in range(60):
        vector = drawn(place).normal(size=200).astype(kind)
        vector[place : place + 20] = (table[place] * np.float32(1.7)).astype(kind)
        assert records.found(vector)
        assert not records.found(drawn(1000 + place).normal(size=20_000).astype(kind))


def test_the_standardized_form_of_a_row_is_found_when_it_is_given():
    scaled = ((TABLE - np.nanmean(TABLE, axis=0)) / np.nanstd(TABLE, axis=0)).astype(np.float32)
    vector = honest(8)
    vector[100 : 100 + len(whole(scaled[7]))] = whole(scaled[7]) * np.float32(-0.2)
    assert not RECORDS.found(vector)
    assert Records([TABLE, scaled]).found(vector)


def test_one_records_gradient_is_that_record():
    residual = 0.25
    gradient = np.nan_to_num(TABLE[12] * np.float32(residual))
    assert RECORDS.found(np.append(gradient, np.float32(residual)))


@pytest.mark.parametrize("seed", range(40))
def test_honest_noise_raises_no_alarm(seed):
    assert not RECORDS.found(honest(seed, 100_000))


@pytest.mark.parametrize("seed", range(30))
def test_sums_and_means_of_records_raise_no_alarm(seed):
    chosen = drawn(seed).random(len(TABLE)) < 0.5
    some = np.nan_to_num(TABLE[chosen]).astype(np.float64)
    for vector in (some.sum(axis=0), some.mean(axis=0), np.square(some).sum(axis=0), some.std(axis=0)):
        assert not RECORDS.found(vector)


@pytest.mark.parametrize(
    "vector",
    [
        np.zeros(5000, np.float32),
        np.ones(5000, np.float32),
        np.full(5000, -3e-5, np.float32),
        np.sign(honest(1)),
        np.tile(np.float32([1, -1]), 2000),
        np.empty(0, np.float32),
        np.full(10, np.nan, np.float32),
        np.full(10, np.inf, np.float32),
        np.float32([1e-45] * 50),
    ],
    ids=["zeros", "ones", "constant", "signs", "alternating", "empty", "nan", "inf", "denormal"],
)
def test_vectors_that_tell_nothing_raise_no_alarm(vector):
    assert not RECORDS.found(vector)


def test_rows_that_cannot_be_told_from_others_are_not_looked_for():
    indicators = (drawn(1).random((300, 30)) < 0.5).astype(np.float32)
    records = Records([indicators])
    assert records.count == 0
    assert not records.found(np.tile(indicators[0], 3))


def test_rows_of_two_magnitudes_are_in_no_vector_that_has_two_as_well():
    records = Records([np.tile(np.float32([1, 2, 2, 1]), (50, 5))])
    assert records.count
    assert not records.found(np.tile(np.float32([3, 6, 6, 3]) * 1e-4, 100))


def test_a_vector_that_only_begins_like_a_row_is_none():
    row = whole(TABLE[7])
    row = row[row != 0]
    near = row.copy()
    near[3:] *= np.float32(1.01) ** np.arange(1, len(row) - 2, dtype=np.float32)
    for before in range(50, 56):
        assert RECORDS.found(np.concatenate([honest(1, before), row]))
        assert not RECORDS.found(np.concatenate([honest(1, before), near]))


def test_no_records_find_nothing():
    assert not Records([]).found(honest(1))
    assert not Records([np.full((5, 3), np.nan, np.float32)]).found(honest(1))


def test_of_a_very_large_table_a_spread_of_rows_is_looked_for():
    table = drawn(1).normal(size=(MOST_VALUES // 8 * 3, 16)).astype(np.float32)[:, :16]
    records = Records([table[: MOST_VALUES // 10]])
    assert records.count <= 4 * MOST_VALUES
    found = [records.found(table[place]) for place in range(0, 600, 3)]
    assert any(found)


IDENTIFIERS = Identifiers(["1234567890", "Jane Doe", "MRN-00481516", "abc", "P-77", " "])


@pytest.mark.parametrize(
    "text", ["1234567890", "see 1234567890.", "MRN-00481516", "x=mrn-00481516;", "P-77", "jane doe!"]
)
def test_an_identifier_in_a_text_is_found(text):
    assert IDENTIFIERS.in_text(text)


@pytest.mark.parametrize("text", ["", "12345678901", "abc", "auc", "P-771", "Janet Doering", "1234567"])
def test_a_text_without_one_is_clean(text):
    assert not IDENTIFIERS.in_text(text)


@given(st.binary(max_size=200), st.sampled_from(["1234567890", "Jane Doe", "MRN-00481516"]), st.binary(max_size=50))
def test_an_identifier_in_bytes_is_found_at_any_offset(before, text, after):
    assert IDENTIFIERS.in_bytes(before + text.encode() + after + bytes(8))


@pytest.mark.parametrize("cut", range(0, 80, 7))
def test_an_identifier_in_a_vector_is_found_across_pieces(cut):
    data = honest(2, 200).tobytes()
    data = data[:403] + b"MRN-00481516" + data[415:]
    vector = np.frombuffer(data, "<f4")
    watch = Watch(Records([]), IDENTIFIERS)
    assert not (watch.is_clean(vector[: 60 + cut]) and watch.is_clean(vector[60 + cut :]))


@pytest.mark.parametrize("seed", range(10))
def test_bytes_without_one_are_clean(seed):
    many = Identifiers(f"{number:010d}" for number in range(20_000))
    assert not many.in_bytes(drawn(seed).bytes(400_000))
    assert not many.in_bytes(honest(seed, 100_000).tobytes())
