"""The pruned network gives what sorting gives, for any number of rows and any wanted order statistics."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wardround.aggregation import selection


def run(rows, wanted):
    program = selection.compile_network(len(rows), wanted)
    scratch = [np.full_like(rows[0], np.nan) for _ in range(program.scratch)]
    return selection.run(program, list(rows), scratch)


@given(st.data(), st.integers(1, 70), st.integers(0, 2**32 - 1))
def test_it_selects_what_sorting_puts_there(data, count, seed):
    wanted = tuple(sorted(data.draw(st.sets(st.integers(0, count - 1), min_size=1))))
    rows = np.random.default_rng(seed).integers(-5, 5, size=(count, 9)).astype(np.float32)  # noqa: TID251, seeded
    before = rows.copy()
    assert np.array_equal(np.stack(run(rows, wanted)), np.sort(rows, axis=0)[list(wanted)])
    assert np.array_equal(rows, before), "rows are read only"


@given(st.integers(1, 12))
def test_by_the_zero_one_principle_the_whole_network_sorts(count):
    # A network that sorts every sequence of zeros and ones sorts everything (Knuth, 5.3.4, theorem Z).
    columns = np.arange(2**count)
    rows = np.stack([(columns >> place) & 1 for place in range(count)]).astype(np.float32)
    assert np.array_equal(np.stack(run(rows, tuple(range(count)))), np.sort(rows, axis=0))


def test_a_median_takes_fewer_steps_than_a_sort():
    for count in (11, 20, 50):
        median = selection.compile_network(count, ((count - 1) // 2, count // 2))
        whole = selection.compile_network(count, tuple(range(count)))
        assert len(median.steps) < 0.8 * len(whole.steps)


@pytest.mark.parametrize(("rows", "wanted"), [(0, (0,)), (3, ()), (3, (3,)), (3, (-1,))])
def test_what_is_not_there_cannot_be_selected(rows, wanted):
    with pytest.raises(ValueError, match="order statistics"):
        selection.compile_network(rows, wanted)
