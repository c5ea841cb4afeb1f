"""Transforms give the numbers they promise, whatever the array, and refuse what they cannot do."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wardround.errors import ClinicalError
from wardround.harmonization import transforms

NAMES = sorted(transforms.TRANSFORMS)
WINDOW, SPECTRUM, STATISTICS = "waveform:window@1", "waveform:spectrum@1", "waveform:statistics@1"


def column(values):
    return np.array(values, dtype=np.float32)[:, None]


def sine(hertz, *, rate=100, seconds=4):
    return column(np.sin(2 * np.pi * hertz * np.arange(rate * seconds) / rate))


@pytest.mark.parametrize("name", NAMES)
@given(
    cells=st.lists(st.floats(-1e6, 1e6, width=32) | st.just(math.nan), min_size=1, max_size=60),
    channels=st.integers(1, 3),
)
def test_the_length_the_type_and_the_bits_are_always_the_same(name, cells, channels):
    array = np.resize(np.array(cells, dtype=np.float32), (len(cells), channels))
    length = 8 * channels
    first = transforms.apply(name, array, length)
    assert first.shape == (length,)
    assert first.dtype == np.float32
    assert first.tobytes() == transforms.apply(name, array.copy(), length).tobytes()
    enough = 2 * np.isfinite(array).sum(axis=0) >= len(array)
    assert np.isfinite(first.reshape(channels, 8)).all(axis=1).tolist() == enough.tolist()


def test_a_window_has_mean_zero_and_deviation_one_and_keeps_its_shape():
    found = transforms.apply(WINDOW, sine(1) * 7 + 3, 40)
    assert found.mean() == pytest.approx(0, abs=1e-6)
    assert found.std() == pytest.approx(1, abs=1e-6)
    expected = np.interp(np.linspace(0, 399, 40), np.arange(400), sine(1)[:, 0])
    assert np.corrcoef(found, expected)[0, 1] == pytest.approx(1, abs=1e-6)


def test_a_window_of_its_own_length_is_only_scaled():
    values = np.array([1.0, 2.0, 4.0, 7.0])
    expected = (values - values.mean()) / values.std()
    assert transforms.apply(WINDOW, column(values), 4) == pytest.approx(expected, abs=1e-6)


def test_channels_stand_one_after_the_other():
    both = np.hstack([sine(1), sine(3)])
    expected = np.concatenate([transforms.apply(WINDOW, sine(1), 20), transforms.apply(WINDOW, sine(3), 20)])
    assert transforms.apply(WINDOW, both, 40).tolist() == expected.tolist()


@pytest.mark.parametrize("hertz", [2, 7, 18, 33, 48])
def test_power_lies_in_the_band_of_its_frequency(hertz):
    shares = transforms.apply(SPECTRUM, sine(hertz), 10)
    assert shares.sum() == pytest.approx(1, abs=1e-6)
    assert shares[hertz // 5] > 0.9


def test_the_level_of_a_signal_is_no_part_of_its_spectrum():
    shares = transforms.apply(SPECTRUM, column(np.arange(64.0) ** 2), 33)
    assert shares[0] == 0
    assert shares.sum() == pytest.approx(1, abs=1e-6)


def test_the_spectrum_knows_neither_scale_nor_level():
    one, other = (transforms.apply(SPECTRUM, array, 5) for array in (sine(7), sine(7) * 40 + 900))
    assert other == pytest.approx(one, abs=1e-4)


def test_statistics_are_those_of_the_field():
    values = np.array([1.0, 2.0, 4.0, 8.0, -3.0])
    found = transforms.apply(STATISTICS, column(values), 8)
    z = (values - values.mean()) / values.std()
    steps = np.sqrt((np.diff(values) ** 2).mean())
    expected = [values.mean(), values.std(), -3, 8, 2, steps, (z**3).mean(), (z**4).mean() - 3]
    assert found == pytest.approx(expected, rel=1e-6)


def test_a_constant_signal_has_no_shape():
    flat = np.full((50, 1), 0.1, dtype=np.float32)
    assert not transforms.apply(WINDOW, flat, 10).any()
    assert not transforms.apply(SPECTRUM, flat, 10).any()
    assert transforms.apply(STATISTICS, flat, 8) == pytest.approx([0.1, 0, 0.1, 0.1, 0.1, 0, 0, 0])


def test_gaps_are_bridged_and_a_channel_mostly_missing_is_missing():
    gapped = column([0, 1, math.nan, 3, 4, 5])
    whole = column([0, 1, 2, 3, 4, 5])
    assert transforms.apply(WINDOW, gapped, 6).tolist() == transforms.apply(WINDOW, whole, 6).tolist()
    lost = column([0, math.nan, math.nan])
    assert (
        np.isnan(transforms.apply(WINDOW, np.hstack([lost, column([0, 1, 2])]), 6)).tolist() == [True] * 3 + [False] * 3
    )


@pytest.mark.parametrize(
    ("name", "shape", "length", "complaint"),
    [
        ("waveform:window@2", (9, 1), 4, "there is no transform"),
        ("image:resize@1", (9, 1), 4, "there is no transform"),
        (WINDOW, (9, 2), 5, "cannot be dealt"),
        (WINDOW, (9, 1), 0, "cannot be dealt"),
        (WINDOW, (9, 1), -4, "cannot be dealt"),
        (WINDOW, (9, 1), 2_000_000, "cannot be dealt"),
        (WINDOW, (9, 1), 1, "2 to"),
        (STATISTICS, (9, 1), 7, "8 to 8"),
        (WINDOW, (0, 1), 4, "takes arrays"),
        (WINDOW, (9, 0), 4, "takes arrays"),
    ],
)
def test_what_cannot_be_given_is_refused(name, shape, length, complaint):
    with pytest.raises(ClinicalError, match=complaint):
        transforms.apply(name, np.zeros(shape, dtype=np.float32), length)


def test_an_array_of_one_dimension_is_refused():
    with pytest.raises(ClinicalError, match="takes arrays"):
        transforms.apply(WINDOW, np.zeros(9, dtype=np.float32), 3)
