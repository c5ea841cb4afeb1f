"""Which cohorts may answer after which others, written as sets."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wardround.clinical import disclosure_cohorts
from wardround.clinical.disclosure_cohorts import Difference

cohorts = st.sets(st.integers(0, 40) | st.integers(2**64 - 9, 2**64 - 1), max_size=40)


def marks(members):
    return disclosure_cohorts.checked(np.array(sorted(members), dtype=np.uint64))


@given(present=cohorts, past=cohorts)
def test_a_difference_counts_both_sides(present, past):
    found = disclosure_cohorts.difference(marks(present), marks(past))
    assert found == Difference(len(present - past), len(past - present))


@given(present=cohorts, past=cohorts, least=st.integers(0, 12))
def test_one_side_of_a_few_isolates_and_equal_cohorts_do_not(present, past, least):
    found = disclosure_cohorts.difference(marks(present), marks(past))
    few = [side for side in (present - past, past - present) if 0 < len(side) < least]
    assert found.isolates(least) == bool(few)


@pytest.mark.parametrize(
    ("present", "past", "isolates"),
    [
        (range(50), range(50), False),
        (range(53), range(50), True),  # three came
        (range(47), range(50), True),  # three left
        (range(60), range(50), False),
        (range(40), range(50), False),
        (range(3, 100), range(60), True),  # many came, three left
        (range(200, 260), range(50), False),
        (range(50), [], False),
        (range(3), [], True),  # as if nobody had answered before
    ],
    ids=range(9),
)
def test_the_rule_by_example(present, past, isolates):
    assert disclosure_cohorts.difference(marks(present), marks(past)).isolates(10) == isolates


@given(present=cohorts, past=cohorts, least=st.integers(0, 12))
def test_a_settled_cohort_is_a_part_that_isolates_nobody(present, past, least):
    rest = set(disclosure_cohorts.settled(marks(present), marks(past), least).tolist())
    assert rest <= present
    assert not rest or not disclosure_cohorts.difference(marks(rest), marks(past)).isolates(least)
    if not disclosure_cohorts.difference(marks(present), marks(past)).isolates(least):
        assert rest == present


def test_three_new_patients_are_set_aside_and_two_who_left_take_eight_with_them():
    past = marks(range(100))
    assert disclosure_cohorts.settled(marks(range(103)), past, 10).tolist() == past.tolist()
    rest = disclosure_cohorts.settled(marks(range(2, 150)), past, 10)
    assert disclosure_cohorts.difference(rest, past) == Difference(50, 10)


def test_marks_are_one_column_of_uint64():
    with pytest.raises(ValueError, match="uint64"):
        disclosure_cohorts.checked(np.array([1, 2]))
    assert disclosure_cohorts.checked(np.array([5, 1, 5], dtype=np.uint64)).tolist() == [1, 5]
