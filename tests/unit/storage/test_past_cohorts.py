"""The node's memory of cohorts: what it refuses, that it forgets nothing, that two at once take turns."""

import hashlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wardround.clinical import disclosure_cohorts
from wardround.clinical.disclosure_cohorts import Difference
from wardround.errors import ConfigError, CryptoError, PolicyError
from wardround.storage.past_cohorts import PastCohorts

KEY = b"k" * 32
A, B = "a" * 64, "b" * 64


def marks(members):
    hashes = [hashlib.sha256(str(member).encode()).digest()[:8] for member in members]
    return np.array([int.from_bytes(one, "big") for one in hashes], dtype=np.uint64)


@pytest.fixture
def past(tmp_path):
    return PastCohorts(tmp_path / "cohorts", KEY)


def files(path):
    return sorted(one.name for one in path.rglob("*") if one.suffix in {".cohort", ".part"})


def test_what_differs_by_a_few_is_refused_and_not_remembered(past, tmp_path):
    past.admit(A, marks(range(100)), 10)
    for present in (range(103), range(97), range(3, 300)):
        with pytest.raises(PolicyError, match="fewer than 10"):
            past.admit(B, marks(present), 10)
    assert len(files(tmp_path)) == 1
    past.admit(B, marks(range(110)), 10)
    assert len(files(tmp_path)) == 2


def test_the_same_cohort_answers_again_and_is_one_file(past, tmp_path):
    for _ in range(3):
        past.admit(A, marks(range(100)), 10)
        past.admit(A, marks(reversed(range(100))), 10)
    assert len(files(tmp_path)) == 1


def test_the_message_says_whether_it_is_the_same_definition_and_no_count(past):
    past.admit(A, marks(range(100)), 10)
    with pytest.raises(PolicyError, match="of the same definition") as raised:
        past.admit(A, marks(range(104)), 10)
    assert "4" not in str(raised.value)
    with pytest.raises(PolicyError, match="of another definition"):
        past.admit(B, marks(range(104)), 10)


def test_every_past_cohort_counts_and_not_only_the_last(past):
    past.admit(A, marks(range(100)), 10)
    past.admit(A, marks(range(200)), 10)
    with pytest.raises(PolicyError):
        past.admit(A, marks(range(101)), 10)


def test_it_is_remembered_by_the_next_process(past, tmp_path):
    past.admit(A, marks(range(100)), 10)
    again = PastCohorts(tmp_path / "cohorts", KEY)
    with pytest.raises(PolicyError):
        again.admit(B, marks(range(101)), 10)
    assert again.nearest(marks(range(130))).difference == Difference(30, 0)
    assert again.nearest(marks(range(130))).definition == A
    assert again.nearest(marks(range(100))) is None


def test_the_nearest_is_the_one_with_the_smallest_side(past):
    past.admit(A, marks(range(100)), 10)
    past.admit(B, marks(range(50, 200)), 10)
    assert past.nearest(marks(range(120))).difference == Difference(20, 0)
    assert past.nearest(marks(range(40, 200))).definition == B


@settings(max_examples=40)
@given(cohorts=st.lists(st.sets(st.integers(0, 30), min_size=1), min_size=1, max_size=6), least=st.integers(1, 8))
def test_no_two_cohorts_that_answered_isolate_anybody(tmp_path_factory, cohorts, least):
    past = PastCohorts(tmp_path_factory.mktemp("cohorts"), KEY)
    answered = []
    for members in cohorts:
        present = disclosure_cohorts.checked(marks(members))
        try:
            past.admit(A, present, least)
        except PolicyError:
            assert any(disclosure_cohorts.difference(present, other).isolates(least) for other in answered)
        else:
            answered.append(present)
    for one in answered:
        assert not any(disclosure_cohorts.difference(one, other).isolates(least) for other in answered)


@settings(max_examples=40)
@given(cohorts=st.lists(st.sets(st.integers(0, 30), min_size=1), min_size=1, max_size=6), least=st.integers(1, 8))
def test_settled_cohorts_are_parts_and_isolate_nobody(tmp_path_factory, cohorts, least):
    past = PastCohorts(tmp_path_factory.mktemp("cohorts"), KEY)
    answered = []
    for members in cohorts:
        try:
            rest = past.settle(A, marks(members), least)
        except PolicyError:
            continue
        assert set(rest.tolist()) <= set(marks(members).tolist())
        answered.append(rest)
    for one in answered:
        assert not any(disclosure_cohorts.difference(one, other).isolates(least) for other in answered)


def test_a_growing_study_answers_with_its_past_cohort_until_enough_have_come(past):
    past.admit(A, marks(range(100)), 10)
    assert len(past.settle(A, marks(range(103)), 10)) == 100
    assert len(past.settle(A, marks(range(110)), 10)) == 110
    assert len(past.settle(A, marks(range(2, 150)), 10)) == 140


def test_who_is_set_aside_for_one_past_cohort_may_uncover_another(past):
    past.admit(A, marks(range(100)), 10)
    past.admit(B, marks([*range(100), *range(105, 200)]), 10)
    # Ten are new to the first; five of them are all that is new to the second, and the other five then are too few.
    assert len(past.settle(A, marks(range(110)), 10)) == 100


def test_nobody_left_is_refused(past):
    past.admit(A, marks(range(5)), 1)
    with pytest.raises(PolicyError, match="no part"):
        past.settle(B, marks(range(2, 40)), 10)


def test_of_many_at_once_that_isolate_one_another_one_answers(tmp_path):
    def attempt(number):
        try:
            PastCohorts(tmp_path / "cohorts", KEY).admit(A, marks(range(100 + number)), 20)
        except PolicyError:
            return False
        return True

    with ThreadPoolExecutor(8) as threads:
        assert sum(threads.map(attempt, range(16))) == 1
    assert len(files(tmp_path)) == 1


def test_what_was_altered_or_moved_stops_every_answer(past, tmp_path):
    past.admit(A, marks(range(100)), 10)
    (name,) = files(tmp_path)
    path = tmp_path / "cohorts" / name
    sealed = path.read_bytes()
    path.write_bytes(sealed[:-1] + bytes([sealed[-1] ^ 1]))
    for ask in (past.admit, past.settle):
        with pytest.raises(CryptoError):
            ask(B, marks(range(500)), 10)
    path.write_bytes(sealed)
    path.rename(path.with_name(B + name[64:]))
    with pytest.raises(CryptoError):
        past.admit(B, marks(range(500)), 10)
    path.with_name("notes.cohort").write_bytes(b"")
    with pytest.raises(ConfigError, match="none"):
        past.nearest(marks(range(3)))


def test_the_file_shows_no_mark_and_is_its_owners_alone(past, tmp_path):
    past.admit(A, marks(range(100)), 10)
    (name,) = files(tmp_path)
    path = tmp_path / "cohorts" / name
    assert not any(int(mark).to_bytes(8, "little") in path.read_bytes() for mark in marks(range(100)))
    assert path.stat().st_mode & 0o77 == 0
    assert path.parent.stat().st_mode & 0o77 == 0


def test_a_full_memory_refuses_rather_than_forgets(tmp_path):
    past = PastCohorts(tmp_path / "cohorts", KEY, most=2)
    past.admit(A, marks(range(100)), 10)
    past.admit(A, marks(range(200)), 10)
    with pytest.raises(ConfigError, match="2 past cohorts"):
        past.admit(A, marks(range(300)), 10)
    past.admit(A, marks(range(200)), 10)


def test_a_crash_between_writing_and_naming_leaves_nothing_that_counts(past, tmp_path):
    (tmp_path / "cohorts" / "x.part").write_bytes(b"half")
    past.admit(A, marks(range(100)), 10)
    assert past.nearest(marks(range(120))).difference == Difference(20, 0)


def test_a_disk_that_fails_says_who_must_act(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ConfigError):
        PastCohorts(tmp_path / "file" / "cohorts", KEY)
    past = PastCohorts(tmp_path / "cohorts", KEY)
    (tmp_path / "cohorts" / "lock").mkdir()
    with pytest.raises(ConfigError):
        past.admit(A, marks(range(3)), 1)


def test_keys_definitions_and_marks_are_checked(past, tmp_path):
    with pytest.raises(CryptoError):
        PastCohorts(tmp_path, b"short")
    with pytest.raises(ValueError, match="SHA-256"):
        past.admit("../../etc", marks(range(100)), 10)
    with pytest.raises(ValueError, match="uint64"):
        past.admit(A, np.arange(3), 10)
