"""The round's rules, one test each, and laws over arbitrary answers."""

import math

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wardround.errors import ForbiddenError, LocalProtocolError
from wardround.protocol import events as happened
from wardround.protocol import round as rounds
from wardround.protocol.events import (
    DeadlineExtended,
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
from wardround.protocol.messages import Contribution, Divergence, Evaluation
from wardround.protocol.plan import BlobRef
from wardround.protocol.round import MAX_REFUSALS, Phase

SITES = ("a", "b", "c")
SIZE, SUMS = 144, 264
RUN = "0" * 64 + ".1"
KINDS = ("statistics", "train", "evaluate")


def terms(quorum=2, patience=2, sites=SITES):
    return RunTerms(
        run=RUN,
        study="0" * 64,
        sites=sites,
        quorum=quorum,
        agenda=KINDS,
        update_size=SIZE,
        statistics_size=SUMS,
        max_records=100,
        round_timeout_seconds=60.0,
        absence_seconds=10.0,
        patience=patience,
        expires=10_000.0,
    )


def opened(quorum=2, patience=2, number=2, kind="train", sites=SITES):
    event = RoundOpened(at=0.0, number=number, kind=kind, sites=sites, deadline=60.0)
    return rounds.opened(terms(quorum, patience, sites), event)


def answer(command="x", *, number=2, kind="train", size=SIZE, **others):
    update = BlobRef("d" * 64, size) if size else None
    return Contribution(
        **{"command": command, "run": RUN, "number": number, "kind": kind, "records": 5} | others | {"update": update}
    )


def hear(round_, site, contribution=None, *, flaw="", now=1.0):
    """The round after an answer, and the events."""
    events = rounds.receive(round_, site, contribution or answer(), flaw=flaw, now=now)
    return fold(round_, events), events


def fold(round_, events):
    for event in events:
        round_ = rounds.apply(round_, event)
    return round_


def kinds(events):
    return [type(event) for event in events]


def test_only_a_site_that_the_round_asked_is_heard():  # (1)
    round_ = opened(sites=("a", "b"))
    with pytest.raises(ForbiddenError, match="did not ask c"):
        rounds.receive(round_, "c", answer(), flaw="", now=1.0)
    assert kinds(hear(round_, "b")[1]) == [UpdateAccepted]


@pytest.mark.parametrize("number", [3, 10**12])
def test_an_answer_for_a_later_round_is_refused(number):  # (2)
    after, events = hear(opened(), "a", answer(number=number))
    assert kinds(events) == [UpdateRefused]
    assert not after.accepted


@pytest.mark.parametrize(("asked", "said"), [(asked, said) for asked in KINDS for said in KINDS if asked != said])
def test_an_answer_of_another_kind_is_refused(asked, said):  # (2)
    size = {"statistics": SUMS, "train": SIZE, "evaluate": 0}[asked]
    _, events = hear(opened(kind=asked), "a", answer(kind=said, size=size))
    assert kinds(events) == [UpdateRefused]


@pytest.mark.parametrize("number", [1, 0, -7])
def test_an_answer_for_an_earlier_round_is_late(number):  # (2)
    after, events = hear(opened(), "a", answer(number=number))
    assert [event.late for event in events] == [True]
    assert after == opened(), "a late answer counts as no refusal"


@pytest.mark.parametrize(
    ("records", "counts"), [(1, True), (100, True), (0, False), (101, False), (-1, False), (10**9, False)]
)
def test_the_claimed_number_of_records_lies_between_one_and_the_cap(records, counts):  # (3)
    _, events = hear(opened(), "a", answer(records=records))
    assert kinds(events) == [UpdateAccepted if counts else UpdateRefused]


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf])
def test_every_other_number_is_finite(wrong):  # (3)
    for said in (answer(train_seconds=wrong), answer(evaluation=Evaluation(1, {"auc": 0.5, "loss": wrong}))):
        _, events = hear(opened(), "a", said)
        assert kinds(events) == [UpdateRefused]
        assert happened.encode(events[0]), "what was refused can be recorded"
    _, events = hear(opened(), "a", answer(evaluation=Evaluation(1, {"auc": None})))
    assert kinds(events) == [UpdateAccepted]


@pytest.mark.parametrize(
    ("kind", "given", "counts"), [("evaluate", 3, True), ("evaluate", 2, False), ("train", 3, False)]
)
def test_an_appraisal_has_the_plans_numbers_at_the_end_and_at_no_other_time(kind, given, counts):  # (3)
    asked = msgspec.structs.replace(terms(), appraisal_numbers=3)
    event = RoundOpened(at=0.0, number=2, kind=kind, sites=SITES, deadline=60.0)
    said = answer(
        kind=kind, size=SIZE if kind == "train" else 0, evaluation=Evaluation(1, {}, appraisal=(1.0,) * given)
    )
    _, events = hear(rounds.opened(asked, event), "a", said)
    assert kinds(events) == [UpdateAccepted if counts else UpdateRefused]


@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_the_numbers_of_an_evaluation_are_finite_wherever_they_stand(wrong):  # (3)
    apart = Divergence(wrong, 1.0, 1.0)
    for found in (
        Evaluation(1, {}, personal={"auc": wrong}),
        Evaluation(1, {}, divergence=apart),
        Evaluation(1, {}, intervals={"auc": (0.5, wrong)}),
    ):
        _, events = hear(opened(), "a", answer(evaluation=found))
        assert kinds(events) == [UpdateRefused]


@pytest.mark.parametrize(("kind", "right"), [("statistics", SUMS), ("train", SIZE), ("evaluate", 0)])
def test_an_update_has_exactly_the_size_of_the_plans_arrays(kind, right):  # (4)
    for size in {0, 1, SIZE - 1, SIZE, SIZE + 1, SUMS, 2**62} - {right}:
        _, events = hear(opened(kind=kind), "a", answer(kind=kind, size=size))
        assert kinds(events) == [UpdateRefused], size
    assert kinds(hear(opened(kind=kind), "a", answer(kind=kind, size=right))[1]) == [UpdateAccepted]


def test_a_round_that_only_evaluates_has_no_update_not_even_an_empty_one():  # (4)
    said = msgspec.structs.replace(answer(kind="evaluate", size=0), update=BlobRef("e" * 64, 0))
    assert kinds(hear(opened(kind="evaluate"), "a", said)[1]) == [UpdateRefused]


def test_an_update_with_a_flaw_is_refused_with_the_flaw_as_reason():
    _, events = hear(opened(), "a", flaw="3 of 4 values are NaN or infinite")
    assert [event.reason for event in events] == ["3 of 4 values are NaN or infinite"]


@pytest.mark.parametrize("first", [answer(), answer(declined="no", size=0)], ids=["update", "declined"])
@pytest.mark.parametrize("second", [answer("y"), answer("y", records=7), answer("y", declined="no", size=0)])
def test_what_a_site_says_first_counts_and_anything_else_is_refused(first, second):  # (5)
    once, _ = hear(opened(quorum=1), "a", first)
    twice, events = hear(once, "a", second)
    assert kinds(events) == [UpdateRefused]
    assert (twice.accepted, twice.declined) == (once.accepted, once.declined)


@pytest.mark.parametrize("wrong", [{"records": 0}, {"number": 2**60}])
def test_a_site_refused_three_times_is_not_heard_again_in_this_round(wrong):  # (6)
    round_ = opened(quorum=1)
    for _ in range(MAX_REFUSALS):
        assert "a" in rounds.heard(round_)
        round_, _ = hear(round_, "a", answer(**wrong))
    round_, events = hear(round_, "a", answer())
    assert kinds(events) == [UpdateRefused]
    assert "a" not in rounds.heard(round_)
    assert kinds(hear(round_, "b")[1]) == [UpdateAccepted], "the others are"


def test_a_site_refused_twice_is_still_heard():  # (6)
    round_ = opened()
    for _ in range(MAX_REFUSALS - 1):
        round_, _ = hear(round_, "a", answer(records=0))
    assert kinds(hear(round_, "a")[1]) == [UpdateAccepted]


def test_the_round_closes_with_the_last_answer():  # (7)
    round_, _ = hear(opened(), "b")
    round_, events = hear(round_, "a")
    assert kinds(events) == [UpdateAccepted], "a quorum alone does not close it"
    round_, events = hear(round_, "c")
    assert kinds(events) == [UpdateAccepted, RoundClosed]
    assert events[-1].contributors == SITES
    assert round_.phase is Phase.CLOSED


@pytest.mark.parametrize(
    "last",
    [
        lambda round_: rounds.receive(round_, "c", answer(declined="no", size=0), flaw="", now=2.0),
        lambda round_: rounds.absent(round_, frozenset({"c"}), 2.0),
        lambda round_: rounds.left(round_, "c", "because", 2.0),
    ],
    ids=["declined", "absent", "left"],
)
def test_the_round_closes_when_the_last_site_declines_leaves_or_is_absent(last):  # (7)
    round_ = fold(opened(), [])
    for site in ("a", "b"):
        round_, _ = hear(round_, site)
    events = last(round_)
    assert isinstance(events[-1], RoundClosed)
    assert events[-1].contributors == ("a", "b")


def test_the_round_closes_when_the_last_site_is_unheard():  # (7)
    round_ = opened()
    for site in ("a", "b"):
        round_, _ = hear(round_, site)
    for _ in range(MAX_REFUSALS):
        round_, events = hear(round_, "c", answer(records=0))
    assert kinds(events) == [UpdateRefused, RoundClosed]


def test_at_the_deadline_it_closes_with_the_quorum_it_has():  # (8)
    round_, _ = hear(opened(), "c")
    round_, _ = hear(round_, "a")
    assert rounds.expire(round_, 59.999) == []
    assert [event.contributors for event in rounds.expire(round_, 60.0)] == [("a", "c")]


def test_it_never_closes_with_less_than_a_quorum_waits_again_and_then_fails():  # (9)
    round_, _ = hear(opened(patience=2), "a")
    for extension in (1, 2):
        deadline = round_.deadline
        assert rounds.expire(round_, deadline - 0.001) == []
        events = rounds.expire(round_, deadline)
        assert [(event.extensions, event.deadline) for event in events] == [(extension, deadline + 60.0)]
        round_ = fold(round_, events)
    events = rounds.expire(round_, round_.deadline)
    assert kinds(events) == [RunStopped]
    assert "1 of 2" in events[0].reason
    assert "Must act: b: did not answer in time; c: did not answer in time" in events[0].reason
    assert fold(round_, events).phase is Phase.FAILED


def test_it_does_not_close_without_a_quorum_when_all_are_absent():  # (9)
    round_, _ = hear(opened(), "a")
    events = rounds.absent(round_, frozenset({"b", "c"}), 2.0)
    assert kinds(events) == [SiteAbsent, SiteAbsent]
    assert fold(round_, events).phase is Phase.COLLECTING


def test_when_a_quorum_has_become_impossible_it_fails_at_once_and_says_whose_answers_are_missing():  # (10)
    round_, events = hear(opened(), "a", answer(declined="too few records", size=0))
    assert kinds(events) == [SiteDeclined]
    for _ in range(MAX_REFUSALS):
        round_, events = hear(round_, "b", answer(records=0))
    assert kinds(events) == [UpdateRefused, RunStopped]
    assert "a: too few records" in events[-1].reason
    assert "b: its answers were refused" in events[-1].reason


def test_a_site_that_left_can_make_a_quorum_impossible():  # (10)
    round_ = opened(quorum=3)
    events = rounds.left(round_, "b", "new management", 2.0)
    assert kinds(events) == [SiteDeclined, RunStopped]
    assert "b: took its approval back (new management)" in events[-1].reason


def test_an_absent_site_that_answers_before_the_close_counts_like_any_other():  # (11)
    round_ = fold(opened(), rounds.absent(opened(), frozenset({"c"}), 1.0))
    assert rounds.awaited(round_) == {"a", "b"}
    assert rounds.heard(round_) == {"a", "b", "c"}
    round_, events = hear(round_, "c")
    assert kinds(events) == [UpdateAccepted]
    round_, _ = hear(round_, "a")
    _, events = hear(round_, "b")
    assert events[-1].contributors == SITES


def test_an_absent_site_that_declined_is_heard_no_more():  # (11)
    round_ = fold(opened(), rounds.absent(opened(), frozenset({"c"}), 1.0))
    round_, _ = hear(round_, "c", answer(declined="no", size=0))
    assert "c" not in rounds.heard(round_)


def test_a_site_that_left_is_heard_no_more_but_what_it_answered_counts():  # (11)
    round_ = fold(opened(quorum=1), rounds.left(opened(quorum=1), "b", "why", 1.0))
    assert "b" not in rounds.heard(round_)
    round_, _ = hear(round_, "a")
    assert rounds.left(round_, "a", "why", 2.0) == []
    _, events = hear(round_, "c")
    assert events[-1].contributors == ("a", "c")


def test_a_site_is_absent_once_and_not_when_it_has_answered():
    round_, _ = hear(opened(), "a")
    round_ = fold(round_, rounds.absent(round_, frozenset({"a", "b", "elsewhere"}), 1.0))
    assert round_.absent == {"b"}
    assert rounds.absent(round_, frozenset({"a", "b"}), 2.0) == []


def test_after_the_close_an_answer_is_late():
    round_ = opened()
    for site in SITES:
        round_, _ = hear(round_, site)
    for said in (answer("y"), answer("y", records=0)):
        _, events = hear(round_, "a", said)
        assert [(type(event), event.late) for event in events] == [(UpdateRefused, True)]
    assert rounds.expire(round_, 1e9) == []
    assert rounds.left(round_, "a", "why", 2.0) == []


EVENTS = [
    UpdateAccepted(at=1.0, number=2, site="a", records=1, update=None, evaluation=None, train_seconds=0.0),
    UpdateRefused(at=1.0, number=2, site="a", reason="no"),
    SiteDeclined(at=1.0, number=2, site="a", reason="no"),
    SiteAbsent(at=1.0, number=2, site="a"),
    DeadlineExtended(at=1.0, number=2, deadline=2.0, extensions=1),
    RoundClosed(at=1.0, number=2, contributors=("a",)),
    RunStopped(at=1.0, reason="no"),
    RunOpened(at=1.0, terms=terms(), base=BlobRef("d" * 64, SIZE)),
    GatheringExtended(at=1.0, present=(), deadline=2.0),
    RoundOpened(at=1.0, number=2, kind="train", sites=SITES, deadline=2.0),
    RoundCombined(at=1.0, number=2, model=BlobRef("d" * 64, SIZE), standardization=None, server_state=()),
    RunCompleted(at=1.0, model=BlobRef("d" * 64, SIZE)),
    SiteLeft(at=1.0, site="a", reason="no"),
]


@pytest.mark.parametrize("phase", Phase)
@pytest.mark.parametrize("event", EVENTS, ids=lambda event: type(event).__name__)
def test_the_table_says_what_each_phase_takes_and_where_it_leads(phase, event):
    events = {Phase.COLLECTING: [], Phase.CLOSED: [EVENTS[5]], Phase.FAILED: [EVENTS[6]]}[phase]
    round_ = fold(opened(), events)
    leads = {
        (Phase.COLLECTING, RoundClosed): Phase.CLOSED,
        (Phase.COLLECTING, RunStopped): Phase.FAILED,
        (Phase.CLOSED, RunStopped): Phase.FAILED,
    }
    stays = {UpdateAccepted, UpdateRefused, SiteDeclined, SiteAbsent, DeadlineExtended}
    if phase is not Phase.COLLECTING:
        stays = {UpdateRefused}
    expected = leads.get((phase, type(event)), phase if type(event) in stays else None)
    if expected is None:
        with pytest.raises(LocalProtocolError):
            rounds.apply(round_, event)
    else:
        assert rounds.apply(round_, event).phase is expected


answers = st.builds(
    Contribution,
    command=st.sampled_from("xyz"),
    run=st.just(RUN),
    number=st.sampled_from([2, 2, 2, 2, 1, 3, 0, -(2**60), 2**60]),
    kind=st.sampled_from(["train", "train", "train", *KINDS]),
    records=st.sampled_from([1, 5, 100, 5, 0, 101, -1, 10**9, 2**62]),
    update=st.sampled_from([BlobRef("d" * 64, SIZE), BlobRef("d" * 64, SIZE), None, BlobRef("", -1), BlobRef("e", 0)]),
    evaluation=st.none()
    | st.builds(Evaluation, st.integers(), st.dictionaries(st.text(max_size=3), st.none() | st.floats())),
    declined=st.sampled_from(["", "", "", "no", "n" * 5000]),
    train_seconds=st.sampled_from([0.0, 1.0, math.nan, -math.inf]),
)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("answer"), st.sampled_from("abcz"), answers, st.sampled_from(["", "", "", "flawed"])),
        st.tuples(st.just("absent"), st.sets(st.sampled_from("abcz"))),
        st.tuples(st.just("left"), st.sampled_from("abcz")),
        st.tuples(st.just("expire"), st.sampled_from([1.0, 70.0, 200.0])),
    ),
    max_size=14,
)


def allowed(contribution, flaw, site, history):
    """The rules again, for one answer to an open round, as a reader of them would write them."""
    if contribution.number != 2 or contribution.kind != "train" or flaw:
        return False
    if [who for who, outcome in history if who == site and outcome == "answered"]:
        return False
    if [who for who, outcome in history if who == site and outcome == "refused"][3 - 1 :]:
        return False
    numbers = [
        contribution.train_seconds,
        *(contribution.evaluation.metrics.values() if contribution.evaluation else ()),
    ]
    right = contribution.update is not None and contribution.update.size == SIZE
    return bool(contribution.declined) or (
        right
        and 1 <= contribution.records <= 100
        and all(math.isfinite(number) for number in numbers if number is not None)
    )


@given(steps=steps, quorum=st.integers(1, 3))
def test_whatever_is_said_the_rules_hold(steps, quorum):  # noqa: PLR0912
    round_, now, history = opened(quorum), 0.0, []
    for step in steps:
        now += 1.0
        was = round_
        match step:
            case ("answer", site, contribution, flaw):
                if site not in SITES:
                    with pytest.raises(ForbiddenError):
                        rounds.receive(round_, site, contribution, flaw=flaw, now=now)
                    continue
                events = rounds.receive(round_, site, contribution, flaw=flaw, now=now)
                first = events[0]
                if was.phase is not Phase.COLLECTING or contribution.number < 2:
                    assert (type(first), first.late, len(events)) == (UpdateRefused, True, 1)
                elif allowed(contribution, flaw, site, history):
                    assert type(first) is (SiteDeclined if contribution.declined else UpdateAccepted)
                    history.append((site, "answered"))
                else:
                    assert (type(first), first.late) == (UpdateRefused, False)
                    history.append((site, "refused"))
            case ("absent", sites):
                events = rounds.absent(round_, frozenset(sites), now) if was.phase is Phase.COLLECTING else []
            case ("left", site):
                events = rounds.left(round_, site, "why", now)
                history += [(site, "answered") for event in events if isinstance(event, SiteDeclined)]
            case ("expire", span):
                now += span
                events = rounds.expire(round_, now)
        for event in events:
            assert happened.decode_run(happened.encode(event)) == event
        round_ = fold(round_, events)
        for event in events:
            if isinstance(event, RoundClosed):
                assert set(event.contributors) == set(round_.accepted)
                assert len(event.contributors) >= quorum
                assert not rounds.awaited(was) - {e.site for e in events if hasattr(e, "site")} or now >= was.deadline
        if round_.phase is Phase.COLLECTING:
            assert rounds.awaited(round_) or len(round_.accepted) < quorum
            assert len(round_.accepted) + len(rounds.heard(round_)) >= quorum
