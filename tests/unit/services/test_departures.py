"""The book of what left: written before sending, chained, and a budget that no restart or clock gives back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wardround.errors import AuditError, EgressError
from wardround.ids import Digest
from wardround.services.departures import DAY_SECONDS, SPARE_BYTES, Departures, EgressLimits, Sending
from wardround.storage.anchor import BudgetAnchor
from wardround.storage.memory import MemoryVault

STUDY = "ab" * 32
RUN = f"{STUDY}.1"
NOON = 20_000 * DAY_SECONDS + DAY_SECONDS / 2


class Clock:
    def __init__(self, now=NOON):
        self.at = now

    def now(self):
        return self.at


def sending(size=100, run=RUN, **more):
    return Sending("contribution", size, Digest("cd" * 32), STUDY, run, 3, **more)


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def vault():
    return MemoryVault()


def book(vault, clock, *, day=1000, run=10_000, anchor=None):
    limits = EgressLimits(day_bytes=day, run_bytes=run)
    return Departures(vault=vault, clock=clock, limits=limits, anchor=anchor)


def test_entries_are_read_as_they_were_entered(vault, clock):
    opened = book(vault, clock)
    opened.enter(sending(fields=("records",), numbers={"metrics.auc": 0.5, "metrics.x": None}, is_masked=True))
    opened.refuse(sending(5), "a record stands in it")
    first, second = book(vault, clock).entries()
    assert (first.bytes, first.numbers, first.fields, first.masked) == (
        100,
        {"metrics.auc": 0.5, "metrics.x": None},
        ("records",),
        True,
    )
    assert (second.bytes, second.refused, second.today) == (0, "a record stands in it", 100)
    assert book(vault, clock).entries(run=RUN[:5], number=3) == [first, second]
    assert book(vault, clock).entries(study="ff") == book(vault, clock).entries(number=4) == []


def test_the_days_budget_survives_a_restart(vault, clock):
    book(vault, clock).enter(sending(600))
    with pytest.raises(EgressError, match="1000 bytes may leave this site on a day"):
        book(vault, clock).enter(sending(500))
    book(vault, clock).enter(sending(400))
    assert book(vault, clock).left_today() == 1000
    with pytest.raises(EgressError):
        book(vault, clock).enter(sending(1))


def test_midnight_refills_and_a_clock_that_was_put_back_does_not(vault, clock):
    opened = book(vault, clock)
    opened.enter(sending(1000))
    clock.at = (20_001 * DAY_SECONDS) - 0.001
    with pytest.raises(EgressError):
        opened.enter(sending(1))
    clock.at = 20_001 * DAY_SECONDS
    opened.enter(sending(1000))
    for back in (NOON, 0.0, 20_001 * DAY_SECONDS - 1):
        clock.at = back
        for one in (opened, book(vault, clock)):
            with pytest.raises(EgressError):
                one.enter(sending(1))
    clock.at = 20_002 * DAY_SECONDS
    opened.enter(sending(1))


def test_a_runs_budget_is_its_own_and_survives_days_and_restarts(vault, clock):
    for day in range(3):
        clock.at = NOON + day * DAY_SECONDS
        book(vault, clock, run=2500).enter(sending(800))
    with pytest.raises(EgressError, match="for one run"):
        book(vault, clock, run=2500).enter(sending(101))
    book(vault, clock, run=2500).enter(sending(101, run=f"{STUDY}.2"))


def test_a_site_can_still_say_that_it_takes_no_part(vault, clock):
    opened = book(vault, clock)
    opened.enter(sending(1000))
    opened.enter(sending(50, is_spare=True))
    with pytest.raises(EgressError):
        opened.enter(sending(SPARE_BYTES, is_spare=True))


def test_what_does_not_fit_is_not_entered_as_having_left(vault, clock):
    with pytest.raises(EgressError):
        book(vault, clock).enter(sending(1001))
    assert book(vault, clock).entries() == []


@given(st.lists(st.tuples(st.integers(0, 600), st.integers(-3, 3), st.booleans()), max_size=25))
def test_on_no_day_leaves_more_than_the_budget(steps):
    vault, clock = MemoryVault(), Clock()
    opened, latest, left = book(vault, clock, run=10**9), int(NOON // DAY_SECONDS), {}
    for size, days, restart in steps:
        clock.at += days * DAY_SECONDS
        if restart:
            opened = book(vault, clock, run=10**9)
        try:
            opened.enter(sending(size))
        except EgressError:
            continue
        latest = max(latest, int(clock.at // DAY_SECONDS)) if left else int(clock.at // DAY_SECONDS)
        left[latest] = left.get(latest, 0) + size
    assert all(total <= 1000 for total in left.values())
    assert sum(entry.bytes for entry in opened.entries()) == sum(left.values())


def test_two_processes_keep_one_book(vault, clock):
    one, other = book(vault, clock), book(vault, clock)
    for number in range(6):
        (one if number % 2 else other).enter(sending(100))
    assert [entry.seq for entry in one.entries()] == [1, 2, 3, 4, 5, 6]
    assert one.left_today() == other.left_today() == 600


def test_a_changed_book_lets_nothing_leave(vault, clock):
    opened = book(vault, clock)
    for _ in range(4):
        opened.enter(sending(10))
    second = vault.get("left.0000000002")
    for name, value in (("left.0000000002", second.replace(b'"bytes":10', b'"bytes":11')), ("left.0000000003", b"{}")):
        kept = vault.get(name)
        vault.put(name, value)
        with pytest.raises(AuditError):
            book(vault, clock).enter(sending(1))
        vault.put(name, kept)
    vault.delete("left.0000000002")
    with pytest.raises(AuditError, match="missing"):
        book(vault, clock).enter(sending(1))
    vault.put("left.0000000002", second)
    book(vault, clock).enter(sending(1))


def test_a_book_that_was_cut_at_its_end_is_noticed_by_its_anchor(vault, clock, tmp_path):
    anchor = BudgetAnchor(tmp_path)
    opened = book(vault, clock, anchor=anchor)
    for _ in range(3):
        opened.enter(sending(10))
    opened.settle()
    last = vault.get("left.0000000003")
    vault.delete("left.0000000003")
    with pytest.raises(AuditError, match="had 3"):
        book(vault, clock, anchor=anchor).enter(sending(1))
    vault.put("left.0000000003", last)
    assert len(book(vault, clock, anchor=anchor).entries()) == 3


def test_the_anchor_notes_the_last_entry_once_a_second_and_when_asked(vault, clock, tmp_path):
    anchor = BudgetAnchor(tmp_path)
    notes = []

    class Counting:
        def get(self, name):
            return anchor.get(name)

        def put(self, name, value):
            notes.append(value)
            anchor.put(name, value)

    opened = book(vault, clock, anchor=Counting())
    for _ in range(5):
        opened.enter(sending(1))
    assert len(notes) == 1
    clock.at += 1.0
    opened.enter(sending(1))
    assert len(notes) == 2
    clock.at -= 100.0  # A clock that was put back does not stop it.
    opened.enter(sending(1))
    assert len(notes) == 3
    opened.enter(sending(1))
    other = book(vault, clock, anchor=anchor)
    other.enter(sending(1))
    opened.settle()  # Notes what the other process entered, not only its own.
    opened.settle()
    assert len(notes) == 4
    assert b'"seq":9' in notes[-1]


def test_a_book_that_is_not_whole_does_not_move_its_anchor(vault, clock, tmp_path):
    anchor = BudgetAnchor(tmp_path)
    opened = book(vault, clock, anchor=anchor)
    for _ in range(3):
        opened.enter(sending(1))
    opened.settle()
    vault.put("left.0000000002", b"{}")
    again = book(vault, clock, anchor=anchor)
    with pytest.raises(AuditError):
        again.enter(sending(1))
    again.settle()
    assert b'"seq":3' in anchor.get("left")


def test_an_entry_is_bounded(vault, clock):
    numbers = {f"{place}{'x' * 500}": float(place) for place in range(5000)}
    entry = book(vault, clock).enter(sending(10, fields=("x" * 500,) * 500, numbers=numbers))
    assert entry.numbers_left_out == 5000 - len(entry.numbers)
    assert len(vault.get("left.0000000001")) < 64 * 1024


def test_a_message_is_entered_before_it_may_be_sent(clock):
    class Full(MemoryVault):
        def add(self, name, value):
            raise OSError("no space")

    with pytest.raises(OSError, match="no space"):
        book(Full(), clock).enter(sending(1))
