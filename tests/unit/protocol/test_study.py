"""The study's rules, one test each, and the laws of folding."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wardround.errors import ForbiddenError, LocalProtocolError, PeerProtocolError
from wardround.protocol import events as happened
from wardround.protocol import study as studies
from wardround.protocol.events import RunStarted, SiteAudited, SiteDecided, StudyEnded, StudyProposed
from wardround.protocol.messages import Audit, Decision
from wardround.protocol.study import ENDED, Phase

SITES = ("a", "b", "c")
STUDY = "0" * 64


def proposed(minimum=2, expires=1000.0, sites=SITES, audits=0):
    event = StudyProposed(
        at=0.0,
        study=STUDY,
        title="t",
        researcher="ada",
        participants=sites,
        min_participants=minimum,
        expires=expires,
        audits=audits,
    )
    return studies.study_of([event])


def decision(site, verdict="approve"):
    return Decision("x", STUDY, site, verdict, "Dr Who", "because", 1.0, b"")


def decide(study, site, verdict="approve", now=1.0):
    """The study after a decision, and the events."""
    events = studies.decide(study, decision(site, verdict), b"signed", now)
    return fold(study, events), events


def fold(study, events):
    for event in events:
        study = studies.evolve(study, event)
    return study


def after(*verdicts, **kwargs):
    study = proposed(**kwargs)
    for site, verdict in verdicts:
        study, _ = decide(study, site, verdict)
    return study


def kinds(events):
    return [type(event) for event in events]


def running():
    return after(("a", "approve"), ("b", "approve"), ("c", "approve"))


def test_only_a_participant_decides():  # (1)
    with pytest.raises(ForbiddenError, match="does not name z"):
        studies.decide(proposed(), decision("z"), b"signed", 1.0)


def test_the_signed_decision_is_kept_whole():  # (1)
    _, events = decide(proposed(), "a")
    assert [(event.site, event.verdict, event.document) for event in events] == [("a", "approve", b"signed")]


@pytest.mark.parametrize(
    ("first", "second"), [("approve", "refuse"), ("refuse", "approve"), ("withdraw", "approve"), ("withdraw", "refuse")]
)
def test_a_site_decides_once(first, second):  # (2)
    study = after(("a", first))
    with pytest.raises(PeerProtocolError, match=f"a has decided already: {first}"):
        decide(study, "a", second)


@pytest.mark.parametrize("verdict", ["approve", "refuse", "withdraw"])
def test_the_same_decision_again_changes_nothing(verdict):  # (2)
    assert decide(after(("a", verdict)), "a", verdict)[1] == []


@pytest.mark.parametrize("phase", [Phase.PROPOSED, Phase.RUNNING, Phase.STOPPED, Phase.EVALUATED])
def test_a_site_may_withdraw_its_approval_at_any_time(phase):  # (2)
    study = after(("a", "approve")) if phase is Phase.PROPOSED else running()
    if phase in {Phase.STOPPED, Phase.EVALUATED}:
        study = fold(study, studies.end(study, phase, "", 2.0))
    study, events = decide(study, "a", "withdraw")
    assert kinds(events) == [SiteDecided]
    assert "a" not in studies.approved(study)


def test_a_run_starts_with_the_last_decision_and_those_who_approved():  # (3)
    study, events = decide(after(("a", "approve"), ("b", "refuse")), "c")
    assert kinds(events) == [SiteDecided, RunStarted]
    assert (events[1].run, events[1].sites) == (f"{STUDY}.1", ("a", "c"))
    assert (study.phase, study.sites) == (Phase.RUNNING, ("a", "c"))


def test_no_run_starts_by_itself_before_everybody_has_decided():  # (3)
    assert kinds(decide(after(("a", "approve")), "b")[1]) == [SiteDecided]


def test_the_researcher_may_start_sooner_with_enough():  # (3)
    study = after(("a", "approve"), ("c", "approve"))
    assert [(event.run, event.sites) for event in studies.start(study, 5.0)] == [(f"{STUDY}.1", ("a", "c"))]
    with pytest.raises(PeerProtocolError, match="1 sites approved, the plan needs 2"):
        studies.start(after(("a", "approve")), 5.0)


def test_a_stopped_run_may_be_started_again_with_those_whose_approval_stands():  # (3)
    study = running()
    study = fold(study, studies.end(study, Phase.STOPPED, "no quorum", 2.0))
    study, _ = decide(study, "b", "withdraw")
    assert [(event.run, event.sites) for event in studies.start(study, 5.0)] == [(f"{STUDY}.2", ("a", "c"))]
    study, _ = decide(study, "a", "withdraw")
    with pytest.raises(PeerProtocolError, match="approved"):
        studies.start(study, 5.0)


def test_when_so_many_refuse_that_the_minimum_cannot_be_reached_the_study_ends_as_refused():  # (4)
    study, events = decide(proposed(minimum=2), "a", "refuse")
    assert kinds(events) == [SiteDecided]
    study, events = decide(study, "b", "refuse")
    assert kinds(events) == [SiteDecided, StudyEnded]
    assert (study.phase, study.reason) == (Phase.REFUSED, "2 of 3 sites refused; the plan needs 2")


def test_a_withdrawal_before_the_start_counts_as_a_refusal():  # (4)
    study, _ = decide(after(("a", "approve"), ("b", "approve"), minimum=3), "a", "withdraw")
    assert study.phase is Phase.REFUSED


def test_nothing_starts_after_the_plan_has_expired():  # (5)
    study = after(("a", "approve"), ("b", "approve"))
    assert kinds(studies.start(study, 999.9)) == [RunStarted]
    with pytest.raises(PeerProtocolError, match="expired"):
        studies.start(study, 1000.0)
    assert kinds(decide(study, "c", now=999.9)[1]) == [SiteDecided, RunStarted]
    with pytest.raises(PeerProtocolError, match="expired"):
        decide(study, "c", now=1000.0)


@pytest.mark.parametrize("outcome", sorted(ENDED, key=lambda phase: phase.value))
def test_nothing_starts_after_the_study_has_ended(outcome):  # (5)
    study = after(("a", "approve"), ("b", "approve"))
    study = fold(study, studies.end(study, outcome, "why", 2.0))
    with pytest.raises(PeerProtocolError, match=outcome.value):
        studies.start(study, 3.0)
    with pytest.raises(PeerProtocolError, match=outcome.value):
        decide(study, "c")
    with pytest.raises(PeerProtocolError, match=outcome.value):
        decide(study, "a", "withdraw")
    assert studies.end(study, Phase.WITHDRAWN, "again", 4.0) == []


@pytest.mark.parametrize("phase", [Phase.RUNNING, Phase.EVALUATED])
def test_what_runs_or_was_evaluated_is_not_started_again(phase):  # (5)
    study = running()
    study = fold(study, studies.end(study, phase, "", 2.0)) if phase is not Phase.RUNNING else study
    with pytest.raises(PeerProtocolError, match=phase.value):
        studies.start(study, 3.0)


MODEL = "a" * 64


def evaluated(audits=1, sites=SITES, run=1):
    """A study whose run gave `MODEL`, with runs before it that stopped."""
    study = proposed(audits=audits)
    for site in SITES:
        study, _ = decide(study, site, "approve" if site in sites else "refuse")
    for _ in range(run - 1):
        study = fold(study, studies.end(study, Phase.STOPPED, "no quorum", 2.0))
        study = fold(study, studies.start(study, 2.0))
    return fold(study, studies.end(study, Phase.EVALUATED, "", 3.0, model=MODEL))


def audited(study, site, passed=True, **changes):
    """The study after an audit, and the events."""
    fields = {"study": STUDY, "run": study.runs[-1], "model": MODEL, "report": "b" * 64, "person": "Dr Who"}
    message = Audit(command="x", site=site, passed=passed, audited_at=4.0, **fields | changes)
    events = studies.audit(study, message, b"signed", 4.0)
    return fold(study, events), events


def test_a_release_is_refused_until_enough_audits_passed():  # (6)
    study = evaluated(audits=2)
    with pytest.raises(
        PeerProtocolError, match=r"0 sites have audited the model, the plan asks for 2.*of a, b, c, with"
    ):
        studies.release(study, "", 5.0)
    study, events = audited(study, "a")
    assert [(event.site, event.passed, event.model, event.document) for event in events] == [
        ("a", True, MODEL, b"signed")
    ]
    with pytest.raises(PeerProtocolError, match=r"1 sites .* of b, c"):
        studies.release(study, "", 5.0)
    study, _ = audited(study, "c")
    assert studies.verdicts_of_audits(study) == {"a": "passed", "b": "", "c": "passed"}
    assert kinds(studies.release(study, "", 5.0)) == [StudyEnded]


def test_a_release_is_refused_while_one_audit_failed():  # (6)
    study, _ = audited(audited(evaluated(), "a")[0], "b", passed=False)
    with pytest.raises(PeerProtocolError, match=r"audit of b failed.*[Mm]ust act: the researcher"):
        studies.release(study, "", 5.0)
    study, events = audited(study, "b", report="c" * 64)
    assert kinds(events) == [SiteAudited], "a site may audit again, and its last verdict counts"
    assert kinds(studies.release(study, "", 5.0)) == [StudyEnded]
    study, _ = audited(study, "a", passed=False)
    with pytest.raises(PeerProtocolError, match="audit of a failed"):
        studies.release(study, "", 5.0)


def test_only_a_site_of_the_last_run_audits_and_only_its_model():  # (6)
    study = evaluated(sites=("a", "c"))
    with pytest.raises(ForbiddenError, match="does not name z"):
        audited(study, "z")
    with pytest.raises(PeerProtocolError, match="b took no part"):
        audited(study, "b")
    with pytest.raises(PeerProtocolError, match="another model"):
        audited(study, "a", model="c" * 64)
    later = evaluated(run=2)
    with pytest.raises(PeerProtocolError, match="another model"):
        audited(later, "a", run=f"{STUDY}.1")
    assert audited(later, "a", run=f"{STUDY}.2")[1]


def test_a_model_is_audited_between_its_run_and_its_release():  # (6)
    stopped = fold(running(), studies.end(running(), Phase.STOPPED, "", 2.0))
    for study in (running(), stopped, fold(evaluated(), studies.end(evaluated(), Phase.WITHDRAWN, "", 5.0))):
        with pytest.raises(PeerProtocolError, match=r"asks for no audits|the study is"):
            audited(study, "a")
    with pytest.raises(PeerProtocolError, match="asks for no audits"):
        audited(evaluated(audits=0), "a")
    assert kinds(studies.release(evaluated(audits=0), "", 5.0)) == [StudyEnded]


def test_the_same_audit_again_changes_nothing_and_another_run_forgets_it():  # (6)
    study, _ = audited(evaluated(), "a")
    assert audited(study, "a", person="Dr No")[1] == []
    again = studies.evolve(study, RunStarted(at=6.0, run=f"{STUDY}.2", sites=SITES))
    assert (again.audits, again.model) == ({}, "")
    stored = happened.encode(audited(evaluated(), "b", passed=False)[1][0])
    assert studies.evolve(evaluated(), happened.decode_study(stored)).audits["b"].passed is False


def test_an_end_is_noted_once():
    study = running()
    study = fold(study, studies.end(study, Phase.EVALUATED, "", 2.0))
    assert studies.end(study, Phase.EVALUATED, "", 3.0) == []
    assert kinds(studies.end(study, Phase.RELEASED, "", 3.0)) == [StudyEnded]


def test_a_history_out_of_order_is_refused():
    first = proposed().proposed
    ended = StudyEnded(at=1.0, outcome="withdrawn", reason="")
    for events in ([], [ended], [first, first]):
        with pytest.raises(LocalProtocolError):
            studies.study_of(events)


verdicts = st.lists(
    st.tuples(st.sampled_from("aabbccz"), st.sampled_from(["approve", "approve", "refuse", "withdraw"])), max_size=10
)


@given(verdicts, st.integers(1, 3), st.lists(st.integers(0, 10), max_size=3))
def test_whatever_is_decided_the_rules_hold(steps, minimum, starts):
    study = proposed(minimum)
    history = [study.proposed]
    for index, (site, verdict) in enumerate(steps):
        try:
            events = studies.start(study, 1.0) if index in starts else []
            events = events or studies.decide(study, decision(site, verdict), b"signed", 1.0)
        except PeerProtocolError:
            continue
        study, history = fold(study, events), history + events
        for event in events:
            if isinstance(event, RunStarted):
                assert len(event.sites) >= minimum
                assert set(event.sites) == {name for name, said in study.verdicts.items() if said == "approve"}
    stored = [happened.decode_study(happened.encode(event)) for event in history]
    assert studies.study_of(stored) == study
    assert study.seq == len(history)
    no = sum(said != "approve" for said in study.verdicts.values())
    if study.phase is Phase.PROPOSED:
        assert len(SITES) - no >= minimum
        assert len(study.verdicts) < len(SITES)
    decided = Counter(event.site for event in history if isinstance(event, SiteDecided))
    assert set(decided) <= set(SITES)
    assert max(decided.values(), default=0) <= 2
