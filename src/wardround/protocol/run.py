"""A run: rounds one after another until the agenda is done, folded from its events.

    GATHERING ──enough sites──▶ COLLECTING ──round closed──▶ COMBINING ──combined──▶ COLLECTING … COMPLETED
        │  ▲ too few, patience left │  ▲                       ▲ │ too few sites there: GATHERING
        │  └──────┘                 │  └── see `round`         │ │
        └──────────────────────────▶ STOPPED ◀─────────────────┼─┘  withdrawn, expired, no quorum
                                    ▲                          │
    with secure aggregation:  round closed ──▶ SECURING ──opened──┘  (see `wardround.secagg.cohort`)
                                    │      abandoned │ ▲ enough of them are there again
                                    └──────────── REGROUPING

`decide` takes a command and returns events, which `wardround.protocol.run_state` folds.
A hub that was killed carries on from its event log. Rules:

    (1) A run opens with at least a quorum of sites, and every round asks at least a quorum.
    (2) Rounds follow the agenda in order; a round starts from the model that the last one gave.
    (3) The first round opens when every site is there, or after `absence_seconds` with a quorum;
        later rounds ask whoever is there. Too few: wait `round_timeout_seconds`, `patience` times, then stop.
    (4) A result counts once, for the round that is being combined; a round that cannot be combined stops the run.
    (5) A site that left is asked no more; when fewer than a quorum remain the run stops.
    (6) A run stops when its plan has expired.
    (7) After its end nothing changes: an answer is told that the round has closed.
    (8) A closed round's contributors form a cohort, where the plan asks for secure aggregation, or are dealt into one
        of each group; when none could be opened others are formed, of those who are there and were not blamed,
        `patience` times; then the run stops.
    (9) In asynchronous training a round is a buffer: it asks every site of the run, takes updates of up to
        `max_staleness` rounds before, one of each site, and closes when it is full. What comes between two
        buffers waits in the next. Of a site's updates each was trained for a later round than the one before.
    (10) Updates that screening set aside are not in the aggregate; a site whose last `suspend_after` were is
        asked no more.
    (11) After the first round of analyses each asks exactly those whose numbers are in the last: another crowd would
        single somebody out.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from msgspec import UNSET, UnsetType

from wardround.errors import ForbiddenError, LocalProtocolError, PeerProtocolError
from wardround.ids import SiteId
from wardround.protocol import commands
from wardround.protocol import round as rounds
from wardround.protocol.agenda import discount_of
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
    UpdateAccepted,
    UpdateRefused,
    UpdateSetAside,
)
from wardround.protocol.plan import BlobRef
from wardround.protocol.run_state import (
    Phase,
    Run,
    awaits,
    base_of,
    due,
    evolve,
    next_buffer,
    run_of,
    task_for,
)
from wardround.protocol.secure import cohort_terms, epoch_of
from wardround.secagg.terms import Crowd, deal

if TYPE_CHECKING:
    from wardround.protocol.messages import Kind

__all__ = ["Phase", "Run", "awaits", "decide", "due", "evolve", "opening", "run_of", "task_for"]


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


def _contributed(run: Run, command: commands.Contributed, now: float) -> list[RunEvent]:
    site, contribution = command.site, command.contribution
    if site not in run.terms.sites:
        raise ForbiddenError(f"{site} is not a site of this run")
    number, round_ = contribution.number, run.round
    if number > (round_.number if round_ else 0):
        raise PeerProtocolError(f"round {number} has not been opened")
    following = next_buffer(run)
    if run.phase is not Phase.COLLECTING and following is not None and site in run.sites:
        round_ = following  # (9)
    elif run.is_ended or round_ is None or run.phase is not Phase.COLLECTING:
        return _late(site, number, f"round {number} has closed", now)
    if site in run.left:
        raise ForbiddenError(f"{site} was let go from this run")
    if run.terms.buffered(round_.number) is None:
        return rounds.receive(round_, site, contribution, flaw=command.flaw, now=now)
    if number < run.terms.oldest(round_.number):
        words = f"the model is {round_.number - number} steps on, which is more than the plan allows"
        return _late(site, number, words, now)
    if number <= run.trained.get(site, 0):
        return _late(site, number, f"an update for round {number} or a later one counts already", now)
    events = rounds.receive(round_, site, contribution, flaw=command.flaw, now=now)
    return events if round_ is not following else [_waiting(event) for event in events[:1]]


def _late(site: SiteId, number: int, reason: str, now: float) -> list[RunEvent]:
    return [UpdateRefused(at=now, number=number, site=site, reason=reason, late=True)]


def _waiting(event: RunEvent) -> RunEvent:
    """What a site says between two buffers: an update waits, and of anything else no note is kept."""
    if isinstance(event, UpdateAccepted):
        return event
    site, reason = getattr(event, "site", SiteId("")), getattr(event, "reason", "")
    return UpdateRefused(at=event.at, number=getattr(event, "number", 0), site=site, reason=reason, late=True)


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
    number = command.number
    aside = [
        UpdateSetAside(at=now, number=number, site=site, reason=reason)
        for site, reason in sorted(command.set_aside.items())
    ]
    combined = RoundCombined(
        at=now,
        number=number,
        model=command.model,
        standardization=command.standardization,
        server_state=command.server_state,
        evaluation=command.evaluation,
        findings=command.findings,
        norm=command.norm,
        skipped=command.skipped,
        is_aggregated=command.is_aggregated,
    )
    events: list[RunEvent] = [*aside, combined]
    for event in events:
        run = evolve(run, event)
    if number + command.skipped == len(run.terms.agenda):
        return [*events, RunCompleted(at=now, model=command.model)]
    suspended = _suspended(run, now)  # (10)
    for event in suspended:
        run = evolve(run, event)
    if run.is_ended:
        return [*events, *suspended]
    return [*events, *suspended, *_opened(run, command.present, now)]


def _suspended(run: Run, now: float) -> list[RunEvent]:
    if run.terms.screening is None:
        return []
    most = run.terms.screening.suspend_after
    sites = [site for site, count in sorted(run.set_aside.items()) if count >= most and site in run.sites]
    reason = f"suspended: {most} updates in a row were set aside"
    events: list[RunEvent] = [SiteLeft(at=now, site=site, reason=reason) for site in sites]
    if sites and len(run.sites) - len(sites) < run.terms.quorum:  # (5)
        words = f"{', '.join(sites)} {reason}; fewer than {run.terms.quorum} sites remain"
        events.append(RunStopped(at=now, reason=f"{words}. Must act: the IT of the sites named"))
    return events


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
    return [*events, *_formed(run, closed.contributors, now)]


def _formed(run: Run, sites: Iterable[SiteId], now: float) -> list[CohortFormed]:
    """One cohort of all, or where the plan has groups one of each group."""
    round_, secure = run.round, run.terms.secure
    if round_ is None or secure is None:
        raise LocalProtocolError("only a closed round forms a cohort")
    members = {site: round_.accepted[site] for site in sorted(sites)}
    trained = {site: event.trained or event.number for site, event in members.items()}
    crowd: Crowd | UnsetType = UNSET
    groups = [tuple(members)]
    if secure.group_size and round_.opened.kind == "train":
        nonces = tuple(event.nonce for event in members.values())
        crowd = Crowd(sites=tuple(members), nonces=nonces, group_size=secure.group_size)
        groups = deal(crowd)
    return [
        CohortFormed(
            at=now,
            number=round_.number,
            cohort=run.cohort + place,
            terms=cohort_terms(
                secure,
                study=run.terms.study,
                run=run.terms.run,
                number=round_.number,
                attempt=run.cohort + place,
                kind=round_.opened.kind,
                nonces={site: members[site].nonce for site in group},
                bases={site: run.bases.get(trained[site], base_of(run)).digest for site in group},
                discounts={site: discount_of(run.terms, round_.number, trained[site]) for site in group},
                standardization=run.standardization,
                epoch=epoch_of(now),
                crowd=crowd,
            ),
        )
        for place, group in enumerate(groups, 1)
    ]


def _cohort_ended(run: Run, command: commands.CohortReady | commands.CohortLost, now: float) -> list[RunEvent]:
    number, cohort = command.number, command.cohort
    if run.completed_rounds + 1 != number or cohort not in run.open_groups:
        return []
    if isinstance(command, commands.CohortReady):
        survivors = command.survivors
        return [CohortOpened(at=now, number=number, cohort=cohort, survivors=survivors, blamed=command.blamed)]
    abandoned = CohortAbandoned(at=now, number=number, cohort=cohort, reason=command.reason, blamed=command.blamed)
    if evolve(run, abandoned).phase is not Phase.REGROUPING or run.formings <= run.terms.patience:  # (8)
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
    return [*_formed(run, there, now)]


def _opened(run: Run, present: frozenset[SiteId], now: float) -> list[RunEvent]:
    there = tuple(sorted(present & run.sites))
    if len(there) < run.terms.quorum:  # (1)
        return []
    number = run.completed_rounds + 1  # (2)
    kind: Kind = run.terms.agenda[number - 1]
    if kind == "analysis" and run.analysts:
        if not run.analysts <= present & run.sites:  # (11)
            return []
        there = tuple(sorted(run.analysts))
    deadline = now + run.terms.round_timeout_seconds
    if run.terms.buffered(number) is not None:
        there = tuple(sorted(run.sites))  # (9)
    opened = RoundOpened(at=now, number=number, kind=kind, sites=there, deadline=deadline)
    after = evolve(run, opened)
    filled = rounds.conclusion(after.round, now) if after.round and run.early else []
    return _secured(run, [opened, *filled], now)
