"""The run's rules, one test each, and the laws of folding."""

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wardround.errors import ForbiddenError, LocalProtocolError, PeerProtocolError
from wardround.protocol import events as happened
from wardround.protocol import run as runs
from wardround.protocol.commands import Combined, Contributed, Failed, Left, Ticked, Withdrawn
from wardround.protocol.events import (
    GatheringExtended,
    RoundClosed,
    RoundCombined,
    RoundOpened,
    RunCompleted,
    RunOpened,
    RunStopped,
    RunTerms,
    SiteAbsent,
    SiteDeclined,
    SiteLeft,
    UpdateAccepted,
    UpdateRefused,
)
from wardround.protocol.messages import Contribution
from wardround.protocol.plan import BlobRef
from wardround.protocol.run import Phase

SITES = ("a", "b", "c")
RUN = "0" * 64 + ".1"
SIZES = {"statistics": 264, "train": 144, "evaluate": 0}
BASE = BlobRef("0" * 64, 144)
ALL = frozenset(SITES)


def terms(quorum=2, agenda=("statistics", "train", "evaluate"), sites=SITES, patience=2, expires=10_000.0):
    return RunTerms(
        run=RUN,
        study="0" * 64,
        sites=sites,
        quorum=quorum,
        agenda=agenda,
        update_size=SIZES["train"],
        statistics_size=SIZES["statistics"],
        max_records=100,
        round_timeout_seconds=60.0,
        absence_seconds=10.0,
        patience=patience,
        expires=expires,
    )


def opened(**kwargs):
    return fold(None, runs.opening(terms(**kwargs), BASE, 0.0))


def fold(run, events):
    for event in events:
        run = runs.evolve(run, event)
    return run


def do(run, command, now=1.0):
    """The run after a command, and the events."""
    events = runs.decide(run, command, now)
    return fold(run, events), events


def kinds(events):
    return [type(event) for event in events]


def answer(run, *, number=None, kind=None, **others):
    number = run.round.number if number is None else number
    kind = kind or run.round.opened.kind
    update = BlobRef("d" * 64, SIZES[kind]) if SIZES[kind] else None
    fields = {"command": "x", "run": RUN, "number": number, "kind": kind, "records": 5, "update": update}
    return Contribution(**fields | others)


def collecting(**kwargs):
    run, events = do(opened(**kwargs), Ticked(ALL))
    assert kinds(events) == [RoundOpened]
    return run


def combining(**kwargs):
    run = collecting(**kwargs)
    for site in SITES:
        run, _ = do(run, Contributed(site, answer(run)))
    assert run.phase is Phase.COMBINING
    return run


def result(run, present=ALL, name="1"):
    return Combined(
        run.round.number, BlobRef(name * 64, 144), BlobRef("5" * 64, 264), (BlobRef("6" * 64, 16),), present
    )


def test_a_run_opens_with_at_least_a_quorum_of_sites():  # (1)
    assert kinds(runs.opening(terms(quorum=3), BASE, 0.0)) == [RunOpened]
    for quorum, sites in ((4, SITES), (0, SITES), (2, ("a", "a"))):
        with pytest.raises(PeerProtocolError, match="needs"):
            runs.opening(terms(quorum=quorum, sites=sites), BASE, 0.0)


def test_every_round_asks_at_least_a_quorum():  # (1)
    run, events = do(opened(), Ticked(frozenset({"a", "elsewhere"})), now=10.0)
    assert kinds(events) == [GatheringExtended]
    run = combining()
    run, events = do(run, result(run, present=frozenset({"b"})))
    assert kinds(events) == [RoundCombined]
    assert run.phase is Phase.GATHERING
    _, events = do(run, Ticked(frozenset({"b", "c"})))
    assert [event.sites for event in events] == [("b", "c")]


def test_rounds_follow_the_agenda_in_order():  # (2)
    run, seen = collecting(), []
    while not run.is_ended and len(seen) < 5:
        seen.append((run.round.number, run.round.opened.kind))
        for site in SITES:
            run, _ = do(run, Contributed(site, answer(run)))
        run, events = do(run, result(run))
    assert seen == [(1, "statistics"), (2, "train"), (3, "evaluate")]
    assert kinds(events) == [RoundCombined, RunCompleted]
    assert run.phase is Phase.COMPLETED
    assert events[-1].model == run.model == BlobRef("1" * 64, 144)


def test_a_round_starts_from_the_model_that_the_last_one_gave():  # (2)
    run = combining()
    assert runs.task_for(collecting(), "a").base == BASE
    run, _ = do(run, result(run))
    task = runs.task_for(run, "a")
    assert (task.base, task.standardization) == (BlobRef("1" * 64, 144), BlobRef("5" * 64, 264))
    assert run.server_state == (BlobRef("6" * 64, 16),)


def test_the_first_round_opens_when_every_site_is_there():  # (3)
    for now in (0.0, 9.9):
        assert do(opened(), Ticked(frozenset({"a", "b"})), now)[1] == []
        assert [event.sites for event in do(opened(), Ticked(ALL), now)[1]] == [SITES]


def test_after_absence_seconds_the_first_round_opens_with_a_quorum():  # (3)
    assert [event.sites for event in do(opened(), Ticked(frozenset({"c", "a"})), 10.0)[1]] == [("a", "c")]


def test_an_extended_gathering_opens_as_soon_as_a_quorum_is_there():  # (3)
    run, _ = do(opened(), Ticked(frozenset({"a"})), 10.0)
    run, events = do(run, Ticked(frozenset({"a", "b"})), 12.0)
    assert [event.sites for event in events] == [("a", "b")]


def test_later_rounds_ask_whoever_is_there():  # (3)
    run = combining()
    _, events = do(run, result(run, present=frozenset({"a", "c"})))
    assert [event.sites for event in events[1:]] == [("a", "c")]


def test_too_few_wait_patience_times_and_then_stop_naming_who_must_act():  # (3)
    run, now = opened(patience=2), 10.0
    for _ in range(2):
        assert do(run, Ticked(frozenset({"a"})), now - 0.1)[1] == []
        run, events = do(run, Ticked(frozenset({"a"})), now)
        assert kinds(events) == [GatheringExtended]
        assert events[0].deadline == now + 60.0
        now = events[0].deadline
    run, events = do(run, Ticked(frozenset({"a"})), now)
    assert [event.reason for event in events] == ["1 of 2 sites needed are there. Must act: the IT of b, c"]
    assert run.phase is Phase.STOPPED


def test_patience_starts_afresh_with_each_round():  # (3)
    run, _ = do(opened(patience=1), Ticked(frozenset()), 10.0)
    run, _ = do(run, Ticked(ALL), 12.0)
    for site in SITES:
        run, _ = do(run, Contributed(site, answer(run)), 13.0)
    run, _ = do(run, result(run, present=frozenset()), 14.0)
    run, events = do(run, Ticked(frozenset()), 14.0 + 60.0)
    assert kinds(events) == [GatheringExtended]


def test_a_result_counts_once_for_the_round_that_is_being_combined():  # (4)
    run = combining()
    first = result(run)
    after, events = do(run, first)
    assert kinds(events) == [RoundCombined, RoundOpened]
    assert do(after, first)[1] == []
    assert do(collecting(), first)[1] == []
    for number in (0, 2, 3):
        other = Combined(number, first.model, None, (), ALL)
        assert do(run, other)[1] == []


def test_a_round_that_cannot_be_combined_stops_the_run():  # (4)
    run = combining()
    assert do(run, Failed(2, "why"))[1] == []
    assert do(collecting(), Failed(1, "why"))[1] == []
    after, events = do(run, Failed(1, "why"))
    assert [event.reason for event in events] == ["why"]
    assert after.phase is Phase.STOPPED


def test_a_site_that_left_is_asked_no_more():  # (5)
    run, events = do(collecting(), Left("b", "new management"))
    assert kinds(events) == [SiteLeft, SiteDeclined]
    assert runs.task_for(run, "b") is None
    with pytest.raises(ForbiddenError, match="let go"):
        runs.decide(run, Contributed("b", answer(run)), 2.0)
    assert do(run, Left("b", "again"))[1] == []
    for site in ("a", "c"):
        run, _ = do(run, Contributed(site, answer(run)))
    run, events = do(run, result(run, present=ALL))
    assert [event.sites for event in events[1:]] == [("a", "c")]


def test_a_site_that_left_between_rounds_is_asked_no_more():  # (5)
    run = combining()
    run, events = do(run, Left("a", "why"))
    assert kinds(events) == [SiteLeft]
    run, _ = do(run, result(run, present=ALL))
    assert run.round.opened.sites == ("b", "c")


def test_a_left_site_need_not_be_waited_for_in_the_first_gathering():  # (5)
    run, _ = do(opened(), Left("c", "why"))
    assert [event.sites for event in do(run, Ticked(frozenset({"a", "b"})), 1.0)[1]] == [("a", "b")]


def test_when_fewer_than_a_quorum_remain_the_run_stops():  # (5)
    run, _ = do(collecting(), Left("a", "why"))
    run, events = do(run, Left("b", "why not"))
    assert kinds(events) == [SiteLeft, RunStopped]
    assert run.reason == "b took its approval back (why not); fewer than 2 sites remain. Must act: the researcher"


@pytest.mark.parametrize("make", [opened, collecting, combining])
def test_a_run_stops_when_its_plan_has_expired(make):  # (6)
    run = make(expires=100.0)
    assert kinds(do(run, Ticked(ALL), 99.9)[1]) != [RunStopped]
    after, events = do(run, Ticked(ALL), 100.0)
    assert kinds(events) == [RunStopped]
    assert "expired. Must act: the researcher" in after.reason


@pytest.mark.parametrize("end", ["stopped", "completed"])
def test_after_its_end_nothing_changes_and_an_answer_is_told_that_the_round_has_closed(end):  # (7)
    run = combining(agenda=("train",))
    run, _ = do(run, result(run)) if end == "completed" else do(run, Withdrawn("enough"))
    assert run.phase.value == end
    for command in (Ticked(ALL), Withdrawn("more"), Left("a", "why"), result(run), Failed(1, "no")):
        assert do(run, command, 1e9)[1] == []
    for number in (1, 0):
        after, events = do(run, Contributed("a", answer(run, number=number)))
        assert [(type(event), event.late) for event in events] == [(UpdateRefused, True)]
        assert after == dataclasses.replace(run, seq=run.seq + 1)
    assert runs.task_for(run, "a") is None
    assert runs.due(run) is None


def test_a_run_that_was_withdrawn_in_the_middle_of_a_round_counts_no_more_answers():  # (7)
    run, _ = do(collecting(), Withdrawn("enough"))
    run, events = do(run, Contributed("a", answer(run)))
    assert [(type(event), event.late) for event in events] == [(UpdateRefused, True)]
    assert not run.round.accepted


def test_an_answer_for_a_round_that_was_not_opened_is_an_error():
    for run in (opened(), collecting(), combining()):
        ahead = (run.round.number if run.round else 0) + 1
        with pytest.raises(PeerProtocolError, match="has not been opened"):
            runs.decide(run, Contributed("a", answer(collecting(), number=ahead)), 1.0)


def test_a_site_of_another_run_is_not_heard():
    with pytest.raises(ForbiddenError, match="not a site of this run"):
        runs.decide(collecting(), Contributed("z", answer(collecting())), 1.0)


def test_a_site_that_the_round_did_not_ask_is_not_heard():
    run, _ = do(opened(), Ticked(frozenset({"a", "b"})), 10.0)
    with pytest.raises(ForbiddenError, match="did not ask c"):
        runs.decide(run, Contributed("c", answer(run)), 11.0)
    assert runs.task_for(run, "c") is None


def test_while_a_round_is_combined_an_answer_to_it_is_late():
    run = combining()
    _, events = do(run, Contributed("a", answer(run)))
    assert [event.late for event in events] == [True]


def test_a_site_that_is_not_there_is_absent_and_may_still_answer():
    run, events = do(collecting(), Ticked(frozenset({"a", "b"})))
    assert [(type(event), event.site) for event in events] == [(SiteAbsent, "c")]
    assert runs.task_for(run, "c") is not None
    run, _ = do(run, Contributed("c", answer(run, declined="no")))
    assert runs.task_for(run, "c") is None, "a site that answered is not asked again"


def test_a_site_that_has_answered_or_is_unheard_gets_no_task():
    run, _ = do(collecting(quorum=1), Contributed("a", answer(collecting())))
    assert runs.task_for(run, "a") is None
    for _ in range(3):
        assert runs.task_for(run, "b") is not None
        run, _ = do(run, Contributed("b", answer(run, records=0)))
    assert runs.task_for(run, "b") is None
    run, _ = do(run, Ticked(frozenset()))
    assert runs.task_for(run, "b") is None


def test_due_is_the_next_instant_at_which_time_alone_changes_something():
    assert runs.due(opened()) == 10.0
    assert runs.due(collecting()) == 61.0
    assert runs.due(collecting(expires=50.0)) == 50.0
    assert runs.due(combining()) is None


def test_a_history_out_of_order_is_refused():
    first = runs.opening(terms(), BASE, 0.0)[0]
    round_opened = do(opened(), Ticked(ALL))[1][0]
    accepted = UpdateAccepted(at=1.0, number=1, site="a", records=1, update=None, evaluation=None, train_seconds=0.0)
    for events in ([], [round_opened], [first, first], [first, accepted]):
        with pytest.raises(LocalProtocolError):
            runs.run_of(events)
    assert runs.run_of([first, round_opened]).seq == 2


contributed = st.builds(
    lambda site, number, kind, records, size, declined, flaw: Contributed(
        site,
        Contribution(
            command="x",
            run=RUN,
            number=number,
            kind=kind,
            records=records,
            update=BlobRef("d" * 64, size) if size else None,
            declined=declined,
        ),
        flaw,
    ),
    st.sampled_from("aabbccz"),
    st.sampled_from([1, 1, 2, 2, 3, 0, -1]),
    st.sampled_from(["statistics", "train", "evaluate"]),
    st.sampled_from([5, 5, 0, 1000]),
    st.sampled_from([264, 144, 0, 1]),
    st.sampled_from(["", "", "", "no"]),
    st.sampled_from(["", "", "flaw"]),
)
good = st.builds(lambda site: ("good", site), st.sampled_from("abc"))
present = st.frozensets(st.sampled_from("abcz")) | st.just(ALL)
commands = st.one_of(
    good,
    good,
    good,
    contributed,
    st.builds(Ticked, present),
    st.builds(lambda present: ("combined", present), present),
    st.builds(Left, st.sampled_from("abcz"), st.just("why")),
    st.builds(Failed, st.integers(0, 4), st.just("why. Must act: x")),
    st.builds(Withdrawn, st.just("the researcher withdrew")),
)


@settings(max_examples=150)
@given(st.lists(st.tuples(commands, st.sampled_from([0.0, 1.0, 1.0, 11.0, 61.0])), max_size=40), st.integers(1, 3))
def test_whatever_is_commanded_the_fold_of_the_events_is_the_state(steps, quorum):
    history = runs.opening(terms(quorum=quorum), BASE, 0.0)
    run, now = runs.run_of(history), 0.0
    for step, wait in steps:
        now += wait
        match step:
            case ("good", site):
                command = Contributed(site, answer(run)) if run.round else Ticked(ALL)
            case ("combined", present):
                command = result(run, present) if run.round else Ticked(present)
            case _:
                command = step
        try:
            events = runs.decide(run, command, now)
        except (ForbiddenError, PeerProtocolError):
            assert isinstance(command, Contributed)
            continue
        was, run = run, fold(run, events)
        history += events
        assert run.seq == len(history)
        assert not was.is_ended or all(isinstance(event, UpdateRefused) for event in events)
        assert len(run.sites) >= quorum or run.is_ended
    assert runs.run_of(happened.decode_run(happened.encode(event)) for event in history) == run
    for cut in range(1, len(history)):
        assert fold(runs.run_of(history[:cut]), history[cut:]) == run
    closed = [event for event in history if isinstance(event, RoundClosed)]
    assert [event.number for event in closed] == list(range(1, len(closed) + 1))
    assert all(len(event.contributors) >= quorum for event in closed)
    opened_rounds = [event for event in history if isinstance(event, RoundOpened)]
    assert [event.kind for event in opened_rounds] == list(terms().agenda)[: len(opened_rounds)]
