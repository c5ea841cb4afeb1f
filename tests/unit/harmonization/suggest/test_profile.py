import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.harmonization.suggest.sites import events, profiled

from wardround.errors import ClinicalError
from wardround.harmonization import profile as profiling
from wardround.harmonization.events import batch
from wardround.harmonization.profile import LEVELS, profile


def test_a_profile_counts_events_patients_numbers_texts_and_units():
    found = profiled(texts=("NEG", "NEG", "hemolyzed"), count=100)
    assert (found.key, found.count, found.patients, found.numbers, found.texts) == ("local:lab|1", 103, 40, 100, 2)
    assert found.units == {"mg/dL": 100}
    assert (found.first_us, found.last_us) == (1000, 1102)
    assert found.share_numeric == pytest.approx(100 / 103)


@settings(max_examples=30)
@given(st.lists(st.integers(1, 2999), max_size=6), st.randoms(use_true_random=False))
def test_a_profile_depends_neither_on_the_order_of_the_batches_nor_on_where_they_are_cut(cuts, order):
    whole = events(count=3000, texts=("a", "b"))
    parts = [
        whole.slice(first, last - first)
        for first, last in zip([0, *sorted(cuts)], [*sorted(cuts), whole.num_rows], strict=True)
    ]
    order.shuffle(parts)
    assert profile(parts) == profile([whole])


def test_quantiles_are_those_of_the_numbers_within_the_samples_error():
    found = profiled(count=20_000, median=5.0)
    numbers = np.asarray(events(count=20_000, median=5.0)["number"].to_pylist())
    ranks = [float(np.mean(numbers <= level)) for level in found.quantiles["mg/dL"]]
    # A sample of 1,024 is off by 0.016 at most in one case of three; by 0.08 once in a million.
    assert ranks == pytest.approx(LEVELS, abs=0.08)


def test_two_units_under_one_code_are_told_apart():
    found = profile([events(median=200.0, unit="mg/L"), events(median=9.0, unit="mg/dL", first_row=5000)])[0]
    assert found.units == {"mg/L": 200, "mg/dL": 200}
    assert found.quantiles["mg/L"][3] > 150
    assert found.quantiles["mg/dL"][3] < 12


def test_many_patients_are_estimated_within_a_fifth():
    many = 50_000
    one = batch(
        {"patient": [f"p{n}" for n in range(many)], "system": ["s"] * many, "code": ["c"] * many, "row": range(many)},
        source="x",
    )
    assert profile([one])[0].patients == pytest.approx(many, rel=0.2)


def test_what_is_known_of_the_patient_is_not_profiled():
    assert profile([events(system="patient")]) == []
    assert profile([]) == []
    assert profile([events().slice(0, 0)]) == []


def test_numbers_that_are_none_count_as_no_numbers():
    one = batch(
        {
            "patient": ["a", "a", "a"],
            "system": ["s"] * 3,
            "code": ["c"] * 3,
            "number": pa.array([float("nan"), float("inf"), None]),
            "row": [0, 1, 2],
        },
        source="x",
    )
    found = profile([one])[0]
    assert (found.count, found.numbers, dict(found.quantiles)) == (3, 0, {})


def test_a_code_column_that_holds_no_codes_is_refused(monkeypatch):
    monkeypatch.setattr(profiling, "MOST_CODES", 10)
    one = batch(
        {"patient": ["a"] * 11, "system": ["s"] * 11, "code": [f"code{n}" for n in range(11)], "row": range(11)},
        source="x",
    )
    with pytest.raises(ClinicalError, match="more than 10 codes") as raised:
        profile([one])
    assert "code3" not in str(raised.value)


def test_the_sample_of_a_code_is_bounded(monkeypatch):
    kept = []
    finished = profiling._Tally.finished
    monkeypatch.setattr(
        profiling._Tally, "finished", lambda self, *said: kept.append(len(self.values)) or finished(self, *said)
    )
    profile([events(count=5000, seed=seed, first_row=5000 * seed) for seed in range(3)])
    assert kept == [1024]


def test_a_profile_shows_neither_numbers_nor_texts():
    found = profiled(median=123.456, texts=("Miller, John",))
    assert "Miller" not in repr(found)
    assert not any(f"{level:.1f}" in repr(found) for level in found.quantiles["mg/dL"])
