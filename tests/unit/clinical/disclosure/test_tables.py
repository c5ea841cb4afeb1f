"""Tables with small cells hidden, attacked: what can anyone deduce of a hidden count from what is shown?

The attacker is a linear program with nothing of ours in it: counts are 0 or more, margins are sums, what is shown is
known. The bounds of a count in such a table are whole numbers and attained.
"""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from wardround.clinical import disclosure_tables
from wardround.clinical.disclosure_tables import HIDDEN

counts = st.one_of(st.integers(0, 12), st.integers(0, 3), st.integers(0, 200))
lists = st.lists(counts, min_size=1, max_size=7)
squares = st.integers(1, 4).flatmap(
    lambda columns: st.lists(st.lists(counts, min_size=columns, max_size=columns), min_size=1, max_size=4)
)


def entries(cells):
    """Every count of a table with its margins, and which sums hold among them, by place."""
    cells = np.asarray(cells)
    if cells.ndim == 1:
        return [*cells.tolist(), int(cells.sum())], [(list(range(len(cells))), len(cells))]
    rows, columns = cells.shape
    at = {pair: place for place, pair in enumerate(itertools.product(range(rows), range(columns)))}
    row_at, column_at, total_at = rows * columns, rows * columns + rows, rows * columns + rows + columns
    sums = [([at[row, column] for column in range(columns)], row_at + row) for row in range(rows)]
    sums += [([at[row, column] for row in range(rows)], column_at + column) for column in range(columns)]
    sums += [([row_at + row for row in range(rows)], total_at), ([column_at + c for c in range(columns)], total_at)]
    every = [*cells.ravel(), *cells.sum(axis=1), *cells.sum(axis=0), cells.sum()]
    return [int(one) for one in every], sums


def told(cells, least):
    shown = disclosure_tables.shown(np.array(cells), least)
    return [*shown.cells.ravel().tolist(), *(one for margin in shown.margins for one in margin.tolist()), shown.total]


def deduced(seen, sums, place):
    """The interval in which an attacker knows a count to lie; None above: without bound."""
    equal = np.zeros((len(sums), len(seen)))
    for number, (parts, whole) in enumerate(sums):
        equal[number, parts] = 1
        equal[number, whole] = -1
    bounds = [(0, None) if one == HIDDEN else (one, one) for one in seen]
    found = []
    for sign in (1, -1):
        cost = np.zeros(len(seen))
        cost[place] = sign
        done = linprog(cost, A_eq=equal, b_eq=np.zeros(len(sums)), bounds=bounds, method="highs")
        found.append(None if done.status in (3, 4) else round(sign * done.fun))
    return found


def assert_safe(cells, least):
    truth, sums = entries(cells)
    seen = told(cells, least)
    for place, (real, one) in enumerate(zip(truth, seen, strict=True)):
        assert one in (HIDDEN, real)
        if real < least:
            assert one == HIDDEN
            low, high = deduced(seen, sums, place)
            assert low <= real
            assert high is None or (real <= high and high - low >= least)


@settings(max_examples=60)
@given(cells=lists, least=st.sampled_from([0, 1, 2, 5, 11]))
def test_nobody_can_narrow_a_small_count_of_a_list(cells, least):
    assert_safe(cells, least)


@settings(max_examples=80)
@given(cells=squares, least=st.sampled_from([0, 1, 2, 5, 11]))
def test_nobody_can_narrow_a_small_count_of_a_table(cells, least):
    assert_safe(cells, least)


@pytest.mark.parametrize(
    "cells",
    [
        [[20, 50, 10, 19], [8, 19, 22, 1], [17, 32, 12, 3], [9, 2, 14, 60]],
        [[3, 40], [50, 60]],
        [[3, 4], [50, 60], [70, 80]],
        [[0, 0, 0], [0, 0, 0]],
        [[100, 200], [300, 400]],
        [[5, 6, 90]],
        [[5], [6], [90]],
        [[1, 30, 30], [30, 1, 30], [30, 30, 1]],
    ],
    ids=range(8),
)
def test_known_traps(cells):
    assert_safe(cells, 10)
    assert_safe(np.transpose(cells), 10)


def test_a_table_without_small_counts_is_shown_whole():
    shown = disclosure_tables.shown(np.array([[10, 20], [30, 40]]), 10)
    assert shown.cells.tolist() == [[10, 20], [30, 40]]
    assert [one.tolist() for one in shown.margins] == [[30, 70], [40, 60]]
    assert shown.total == 100


def test_one_small_count_of_a_list_takes_the_smallest_large_enough_with_it():
    shown = disclosure_tables.shown(np.array([3, 40, 12, 90]), 10)
    assert shown.cells.tolist() == [HIDDEN, 40, HIDDEN, 90]
    assert shown.total == 145


def test_one_small_count_of_a_table_takes_a_square_and_no_margin():
    cells = np.array([[3, 40, 50], [60, 20, 70], [80, 90, 100]])
    shown = disclosure_tables.shown(cells, 10)
    assert (shown.cells == HIDDEN).sum() == 4
    assert all((margin != HIDDEN).all() for margin in shown.margins)
    assert shown.total == cells.sum()


def test_a_table_of_few_is_not_shown_at_all_not_even_its_total():
    shown = disclosure_tables.shown(np.array([[1, 2], [3, 0]]), 10)
    assert (shown.cells == HIDDEN).all()
    assert all((margin == HIDDEN).all() for margin in shown.margins)
    assert shown.total == HIDDEN


def test_a_zero_is_a_small_count():
    assert disclosure_tables.shown(np.array([0, 50, 60]), 5).cells[0] == HIDDEN


@pytest.mark.parametrize(
    "table",
    [
        np.array([]),
        np.array([1.5]),
        np.array([-1, 4]),
        np.zeros((2, 2, 2), int),
        np.zeros((51, 51), int),
        np.array([2**50]),
    ],
    ids=["empty", "parts", "negative", "three dimensions", "large", "too many"],
)
def test_what_is_no_table_of_counts_is_refused(table):
    with pytest.raises(ValueError, match=r"count|table"):
        disclosure_tables.shown(table, 10)


def test_a_table_of_2500_cells_takes_seconds_at_most():
    generator = np.random.default_rng(3)  # noqa: TID251, seeded
    shown = disclosure_tables.shown(generator.poisson(12, (50, 50)), 10)
    assert 0 < (shown.cells == HIDDEN).sum() < 2_500
