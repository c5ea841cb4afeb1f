"""A run: rounds one after another until the agenda is done, folded from its events.

    GATHERING ──enough sites──▶ COLLECTING ──round closed──▶ COMBINING ──combined──▶ COLLECTING … COMPLETED
        │  ▲ too few, patience left │  ▲                       ▲ │ too few sites there: GATHERING
        │  └──────┘                 │  └── see `round`         │ │
        └──────────────────────────▶ STOPPED ◀─────────────────┼─┘  withdrawn, expired, no quorum
                                    ▲                          │
    with secure aggregation:  round closed ──▶ SECURING ──opened──┘  (see `wardround.secagg.cohort`)
                                    │      abandoned │ ▲ enough of them are there again
                                    └──────────── REGROUPING

`decide` takes a command and returns events; `evolve` folds one event; `run_of` folds a whole stream.
A hub that was killed carries on from its event log. Rules:

    (1) A run opens with at least a quorum of sites, and every round asks at least a quorum.
    (2) Rounds follow the agenda in order; a round starts from the model that the last one gave.
    (3) The first round opens when every site is there, or after `absence_seconds` with a quorum;
        later rounds ask whoever is there. Too few: wait `round_timeout_seconds`, `patience` times, then stop.
    (4) A result counts once, for the round that is being combined; a round that cannot be combined stops the run.
    (5) A site that left is asked no more; when fewer than a quorum remain the run stops.
    (6) A run stops when its plan has expired.
    (7) After its end nothing changes: an answer is told that the round has closed.
    (8) A closed round's contributors form a cohort, where the plan asks for secure aggregation; after one that was
        abandoned another, of those who are there and were not blamed, `patience` times; then the run stops.
"""

import enum
from collections.abc import Iterable
from dataclasses import dataclass, replace

from wardround.errors import ForbiddenError, LocalProtocolError, PeerProtocolError
from wardround.ids import SiteId
from wardround.protocol import commands
from wardround.protocol import round as rounds
from wardround.protocol.events import (
    CohortAbandoned,
    CohortFormed,
    CohortOpened,
    GatheringExtended,
    RoundClosed,
    RoundCombined,
    RoundOpened,
    RunCompleted,
    RunEvent,
    RunOpened,
    RunStopped,
    RunTerms,
    SiteLeft,
    UpdateRefused,
)
from wardround.protocol.messages import Kind, Task
from wardround.protocol.plan import BlobRef
from wardround.protocol.secure import cohort_terms, epoch_of
from wardround.secagg.terms import Terms

__all__ = [
    "Phase",
    "Run",
    "decide",
    "due",
    "evolve",
    "opening",
    "run_of",
    "task_for",
]


class Phase(enum.Enum):
    """Where a run is."""

    GATHERING = "gathering"
    COLLECTING = "collecting"
    SECURING = "securing"
    REGROUPING = "regrouping"
    COMBINING = "combining"
    COMPLETED = "completed"
    STOPPED = "stopped"


_ENDED = {Phase.COMPLETED, Phase.STOPPED}


@dataclass(frozen=True, slots=True)
class Run:
    """A run's state; a value. `seq` is the number of events folded into it."""

    terms: RunTerms
    phase: Phase
    model: BlobRef
    gather_until: float
    seq: int = 1
    round: rounds.Round | None = None
    standardization: BlobRef | None = None
    summaries: BlobRef | None = None
    server_state: tuple[BlobRef, ...] = ()
    left: frozenset[SiteId] = frozenset()
    gatherings: int = 0
    completed_rounds: int = 0
    reason: str = ""
    cohort: int = 0
    cohort_terms: Terms | None = None
    survivors: tuple[SiteId, ...] = ()
    blamed: frozenset[SiteId] = frozenset()

    @property
    def is_ended(self) -> bool:
        """Whether nothing more will happen."""
        return self.phase in _ENDED

    @property
    def sites(self) -> frozenset[SiteId]:
        """Sites that may still be asked."""
        return frozenset(self.terms.sites) - self.left


def opening(terms: RunTerms, base: BlobRef, now: float) -> list[RunEvent]:
    """The first event of a run.

    Raises:
        PeerProtocolError: Fewer sites than the quorum.
    """
    if not 1 <= terms.quorum <= len(set(terms.sites)):  # (1)
        raise PeerProtocolError(f"a run needs {terms.quorum} sites and has {len(terms.sites)}")
    return [RunOpened(at=now, terms=terms, base=base)]


def decide(run: Run, command: commands.Command, now: float) -> list[RunEvent]:
    """What follows from a command; an empty list when nothing does.

    Raises:
        ForbiddenError: A site that is not of this run, or was not asked.
        PeerProtocolError: An answer for a round that has not been opened.
    """
    if isinstance(command, commands.Contributed):
        return _secured(run, _contributed(run, command, now), now)
    if run.is_ended:  # (7)
        return []
    match command:
        case commands.Withdrawn():
            return [RunStopped(at=now, reason=command.reason)]
        case commands.Left():
            return _secured(run, _left(run, command, now), now)
        case commands.CohortReady() | commands.CohortLost():
            return _cohort_ended(run, command, now)
        case commands.Combined():
            return _combined(run, command, now)
        case commands.Failed():
            is_current = run.phase is Phase.COMBINING and run.round is not None and command.number == run.round.number
            return [RunStopped(at=now, reason=command.reason)] if is_current else []  # (4)
        case commands.Ticked():
            return _secured(run, _ticked(run, command.present, now), now)


def evolve(run: Run | None, event: RunEvent) -> Run:
    """Fold one event into the next state.

    Raises:
        LocalProtocolError: The stored history is out of order.
    """
    if run is None:
        if not isinstance(event, RunOpened):
            raise LocalProtocolError("a run's first event is its opening")
        until = event.at + event.terms.absence_seconds
        return Run(event.terms, Phase.GATHERING, event.base, until)
    return replace(_evolved(run, event), seq=run.seq + 1)


def run_of(events: Iterable[RunEvent]) -> Run:
    """Fold a whole stream.

    Raises:
        LocalProtocolError: None, or out of order.
    """
    run: Run | None = None
    for event in events:
        run = evolve(run, event)
    if run is None:
        raise LocalProtocolError("a run has at least one event")
    return run


def due(run: Run) -> float | None:
    """The next instant at which time alone changes something, or None."""
    if run.phase in {Phase.GATHERING, Phase.REGROUPING}:
        return min(run.gather_until, run.terms.expires)
    if run.phase is Phase.COLLECTING and run.round is not None:
        return min(run.round.deadline, run.terms.expires)
    return None


def task_for(run: Run, site: SiteId) -> Task | None:
    """What `site` is asked to do now, if anything."""
    round_ = run.round
    if run.phase is not Phase.COLLECTING or round_ is None or site not in round_.opened.sites:
        return None
    if site not in rounds.heard(round_) or site in run.left:
        return None
    return Task(
        run=run.terms.run,
        study=run.terms.study,
        number=round_.number,
        kind=round_.opened.kind,
        base=run.model,
        standardization=run.standardization,
    )


def _contributed(run: Run, command: commands.Contributed, now: float) -> list[RunEvent]:
    if command.site not in run.terms.sites:
        raise ForbiddenError(f"{command.site} is not a site of this run")
    number, round_ = command.contribution.number, run.round
    if number > (round_.number if round_ else 0):
        raise PeerProtocolError(f"round {number} has not been opened")
    if run.is_ended or round_ is None or number < round_.number or run.phase is not Phase.COLLECTING:
        reason = f"round {number} has closed"
        return [UpdateRefused(at=now, number=number, site=command.site, reason=reason, late=True)]
    if command.site in run.left:
        raise ForbiddenError(f"{command.site} took its approval back")
    return rounds.receive(round_, command.site, command.contribution, flaw=command.flaw, now=now)


def _left(run: Run, command: commands.Left, now: float) -> list[RunEvent]:
    if command.site not in run.sites:
        return []
    events: list[RunEvent] = [SiteLeft(at=now, site=command.site, reason=command.reason)]
    if len(run.sites) - 1 < run.terms.quorum:  # (5)
        words = f"{command.site} took its approval back ({command.reason}); fewer than {run.terms.quorum} sites remain"
        return [*events, RunStopped(at=now, reason=f"{words}. Must act: the researcher")]
    if run.phase is Phase.COLLECTING and run.round is not None:
        events += rounds.left(run.round, command.site, command.reason, now)
    return events


def _combined(run: Run, command: commands.Combined, now: float) -> list[RunEvent]:
    if run.phase is not Phase.COMBINING or run.round is None or command.number != run.round.number:  # (4)
        return []
    combined = RoundCombined(
        at=now,
        number=command.number,
        model=command.model,
        standardization=command.standardization,
        server_state=command.server_state,
        evaluation=command.evaluation,
        summaries=command.summaries,
    )
    if command.number == len(run.terms.agenda):
        return [combined, RunCompleted(at=now, model=command.model)]
    return [combined, *_opened(evolve(run, combined), command.present, now)]


def _ticked(run: Run, present: frozenset[SiteId], now: float) -> list[RunEvent]:
    if now >= run.terms.expires:  # (6)
        return [RunStopped(at=now, reason="the plan has expired. Must act: the researcher, with a new plan")]
    if run.phase is Phase.GATHERING:
        return _gathered(run, present, now)
    if run.phase is Phase.REGROUPING:
        return _regrouped(run, present, now)
    if run.phase is Phase.COLLECTING and run.round is not None:
        return rounds.absent(run.round, run.sites - present, now) or rounds.expire(run.round, now)
    return []


def _gathered(run: Run, present: frozenset[SiteId], now: float) -> list[RunEvent]:
    is_fresh = run.completed_rounds == 0 and run.gatherings == 0
    if is_fresh and run.sites - present and now < run.gather_until:  # (3)
        return []
    if opened := _opened(run, present, now):
        return opened
    return [] if now < run.gather_until else _waited_on(run, present, now)


def _waited_on(run: Run, present: frozenset[SiteId], now: float) -> list[RunEvent]:
    if run.gatherings < run.terms.patience:
        deadline = now + run.terms.round_timeout_seconds
        return [GatheringExtended(at=now, present=tuple(sorted(present & run.sites)), deadline=deadline)]
    missing = ", ".join(sorted(run.sites - present))
    reason = f"{len(present & run.sites)} of {run.terms.quorum} sites needed are there. Must act: the IT of {missing}"
    return [RunStopped(at=now, reason=reason)]


def _secured(run: Run, events: list[RunEvent], now: float) -> list[RunEvent]:
    """The events, and the cohort that follows from a round that they close."""
    closed = next((event for event in events if isinstance(event, RoundClosed)), None)
    if closed is None or not run.terms.sections(closed.number):
        return events
    for event in events:
        run = evolve(run, event)
    return [*events, _formed(run, closed.contributors, now)]


def _formed(run: Run, sites: Iterable[SiteId], now: float) -> CohortFormed:
    round_, secure = run.round, run.terms.secure
    if round_ is None or secure is None:
        raise LocalProtocolError("only a closed round forms a cohort")
    formed = cohort_terms(
        secure,
        study=run.terms.study,
        run=run.terms.run,
        number=round_.number,
        attempt=run.cohort + 1,
        kind=round_.opened.kind,
        nonces={site: round_.accepted[site].nonce for site in sites},
        base=run.model,
        standardization=run.standardization,
        epoch=epoch_of(now),
    )
    return CohortFormed(at=now, number=round_.number, cohort=run.cohort + 1, terms=formed)


def _cohort_ended(run: Run, command: commands.CohortReady | commands.CohortLost, now: float) -> list[RunEvent]:
    number, cohort = command.number, command.cohort
    if run.phase is not Phase.SECURING or (run.completed_rounds + 1, run.cohort) != (number, cohort):
        return []
    if isinstance(command, commands.CohortReady):
        survivors = command.survivors
        return [CohortOpened(at=now, number=number, cohort=cohort, survivors=survivors, blamed=command.blamed)]
    abandoned = CohortAbandoned(at=now, number=number, cohort=cohort, reason=command.reason, blamed=command.blamed)
    if cohort <= run.terms.patience:  # (8)
        return [abandoned]
    reason = f"round {number}: {cohort} cohorts were abandoned; {command.reason}. Must act: the IT of the sites named"
    return [abandoned, RunStopped(at=now, reason=reason)]


def _regrouped(run: Run, present: frozenset[SiteId], now: float) -> list[RunEvent]:
    """Another cohort of those who contributed, are there, and were not blamed, once there are enough."""
    contributors = frozenset(run.round.accepted if run.round else ()) & run.sites - run.blamed
    there = contributors & present
    if contributors - present and now < run.gather_until:
        return []
    if len(there) < run.terms.quorum:
        return [] if now < run.gather_until else _waited_on(run, present, now)
    return [_formed(run, there, now)]


def _opened(run: Run, present: frozenset[SiteId], now: float) -> list[RunEvent]:
    there = tuple(sorted(present & run.sites))
    if len(there) < run.terms.quorum:  # (1)
        return []
    number = run.completed_rounds + 1  # (2)
    kind: Kind = run.terms.agenda[number - 1]
    deadline = now + run.terms.round_timeout_seconds
    return [RoundOpened(at=now, number=number, kind=kind, sites=there, deadline=deadline)]


def _evolved(run: Run, event: RunEvent) -> Run:
    match event:
        case RunOpened():
            raise LocalProtocolError("a run opens once")
        case GatheringExtended():
            return replace(run, gather_until=event.deadline, gatherings=run.gatherings + 1)
        case RoundOpened():
            opened = rounds.opened(run.terms, event)
            return replace(
                run, phase=Phase.COLLECTING, round=opened, gatherings=0, cohort=0, cohort_terms=None, blamed=frozenset()
            )
        case CohortFormed() | CohortOpened() | CohortAbandoned():
            return _of_cohort(run, event)
        case RoundCombined():
            return replace(
                run,
                phase=Phase.GATHERING,
                model=event.model,
                standardization=event.standardization,
                summaries=event.summaries or run.summaries,
                server_state=event.server_state,
                completed_rounds=event.number,
                gather_until=event.at + run.terms.round_timeout_seconds,
            )
        case RunCompleted():
            return replace(run, phase=Phase.COMPLETED)
        case RunStopped():
            return replace(run, phase=Phase.STOPPED, reason=event.reason)
        case SiteLeft():
            return replace(run, left=run.left | {event.site})
        case _:
            return _in_round(run, event)


def _of_cohort(run: Run, event: CohortFormed | CohortOpened | CohortAbandoned) -> Run:
    match event:
        case CohortFormed():
            return replace(run, phase=Phase.SECURING, cohort=event.cohort, cohort_terms=event.terms, gatherings=0)
        case CohortOpened():
            return replace(run, phase=Phase.COMBINING, survivors=event.survivors)
        case CohortAbandoned():
            until = event.at + run.terms.absence_seconds
            blamed = run.blamed | event.blamed.keys()
            return replace(run, phase=Phase.REGROUPING, gather_until=until, blamed=blamed)


def _in_round(run: Run, event: RunEvent) -> Run:
    if isinstance(event, UpdateRefused) and event.late:
        return run
    if run.round is None:
        raise LocalProtocolError("no round has been opened yet")
    phase = run.phase
    if isinstance(event, RoundClosed):
        phase = Phase.SECURING if run.terms.sections(event.number) else Phase.COMBINING
    return replace(run, round=rounds.apply(run.round, event), phase=phase)
