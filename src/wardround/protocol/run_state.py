"""The state of a run, and how events fold into it; what is decided is in `wardround.protocol.run`."""

import enum
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from wardround.aggregation.screening import MEMORY
from wardround.errors import LocalProtocolError
from wardround.ids import SiteId
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
    UpdateAccepted,
    UpdateRefused,
    UpdateSetAside,
)
from wardround.protocol.messages import Kind, Task
from wardround.protocol.plan import BlobRef
from wardround.secagg.terms import Terms

__all__ = ["Group", "Phase", "Run", "awaits", "base_of", "due", "evolve", "next_buffer", "run_of", "task_for"]


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
class Group:
    """A cohort of this run: open while it has no survivors and is not lost."""

    terms: Terms
    survivors: tuple[SiteId, ...] = ()
    is_lost: bool = False


@dataclass(frozen=True, slots=True)
class Run:
    """A run's state; a value. `seq` is the number of events folded into it.

    Secure aggregation: `groups` are the cohorts of the last forming, `cohort` the highest number that one had in
    this round, `formings` how often they were formed.
    Asynchronous training: `bases` are the models that late updates may have been trained from, by the number of
    the round that began from them; `early` are updates for the buffer after the one being combined; `trained`
    is the round that each site's last update was trained for, `counted` the same of those that are in an aggregate.
    `analysts` are the sites whose numbers the analyses hold. Screening: `norms` are the last rounds' median norms,
    `set_aside` how many updates of a site in a row were, `notices` what a site is told with its next task.
    """

    terms: RunTerms
    phase: Phase
    model: BlobRef
    gather_until: float
    seq: int = 1
    round: rounds.Round | None = None
    standardization: BlobRef | None = None
    findings: dict[str, BlobRef] = field(default_factory=dict)
    server_state: tuple[BlobRef, ...] = ()
    left: frozenset[SiteId] = frozenset()
    gatherings: int = 0
    completed_rounds: int = 0
    reason: str = ""
    groups: dict[int, Group] = field(default_factory=dict)
    cohort: int = 0
    formings: int = 0
    blamed: frozenset[SiteId] = frozenset()
    bases: dict[int, BlobRef] = field(default_factory=dict)
    analysts: frozenset[SiteId] = frozenset()
    early: dict[SiteId, UpdateAccepted] = field(default_factory=dict)
    trained: dict[SiteId, int] = field(default_factory=dict)
    counted: dict[SiteId, int] = field(default_factory=dict)
    norms: tuple[float, ...] = ()
    set_aside: dict[SiteId, int] = field(default_factory=dict)
    notices: dict[SiteId, str] = field(default_factory=dict)

    @property
    def is_ended(self) -> bool:
        """Whether nothing more will happen."""
        return self.phase in _ENDED

    @property
    def open_groups(self) -> list[int]:
        """The cohorts that have neither been opened nor lost."""
        if self.phase is not Phase.SECURING:
            return []
        return [cohort for cohort, one in sorted(self.groups.items()) if not (one.survivors or one.is_lost)]

    @property
    def sites(self) -> frozenset[SiteId]:
        """Sites that may still be asked."""
        return frozenset(self.terms.sites) - self.left


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


def awaits(run: Run, site: SiteId, number: int) -> Kind | None:
    """Of which kind an answer from `site` to round `number` could still count, if it could."""
    round_ = run.round
    if run.is_ended or round_ is None or site not in run.sites:
        return None
    if run.phase is Phase.COLLECTING:
        in_time = run.terms.oldest(round_.number) <= number <= round_.number
        return round_.opened.kind if in_time and site in rounds.heard(round_) else None
    following = next_buffer(run)
    return "train" if following is not None and site in rounds.heard(following) else None


def next_buffer(run: Run) -> rounds.Round | None:
    """The round after the present one as far as late updates have filled it already, where it takes any."""
    number = run.round.number + 1 if run.round else 0
    if run.is_ended or run.round is None or run.phase is Phase.COLLECTING or number > len(run.terms.agenda):
        return None
    if run.terms.buffered(number) is None:
        return None
    sites = tuple(sorted(run.sites))
    event = RoundOpened(at=0.0, number=number, kind="train", sites=sites, deadline=0.0)
    return replace(rounds.opened(run.terms, event), accepted=run.early)


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
        base=base_of(run),
        standardization=run.standardization,
        notice=run.notices.get(site, ""),
        control=run.server_state[0] if run.terms.is_controlled and run.server_state else None,
        counted=run.counted.get(site, 0),
    )


def base_of(run: Run) -> BlobRef:
    """What the round works from: the model, or what the analyses have come to, once they have come to something."""
    is_analysis = run.round is not None and run.round.opened.kind == "analysis"
    return run.findings.get("analyses", run.model) if is_analysis else run.model


def _evolved(run: Run, event: RunEvent) -> Run:
    match event:
        case RunOpened():
            raise LocalProtocolError("a run opens once")
        case GatheringExtended():
            return replace(run, gather_until=event.deadline, gatherings=run.gatherings + 1)
        case RoundOpened():
            return _of_round(run, event)
        case CohortFormed() | CohortOpened() | CohortAbandoned():
            return _of_cohort(run, event)
        case RoundCombined():
            return replace(
                run,
                phase=Phase.GATHERING,
                model=event.model,
                standardization=event.standardization,
                findings=run.findings | event.findings,
                server_state=event.server_state,
                completed_rounds=event.number + event.skipped,
                gather_until=event.at + run.terms.round_timeout_seconds,
                norms=run.norms if event.norm is None else (*run.norms, event.norm)[-MEMORY:],
                set_aside=_in_a_row(run),
                counted=run.counted | (_in_aggregate(run) if event.is_aggregated else {}),
                analysts=_analysts(run),
            )
        case UpdateSetAside():
            count = run.set_aside.get(event.site, 0) + 1
            notice = f"this site's update of round {event.number} did not count: {event.reason}"
            return replace(
                run,
                set_aside=run.set_aside | {event.site: count},
                notices=run.notices | {event.site: notice},
            )
        case RunCompleted():
            return replace(run, phase=Phase.COMPLETED)
        case RunStopped():
            return replace(run, phase=Phase.STOPPED, reason=event.reason)
        case SiteLeft():
            return replace(run, left=run.left | {event.site})
        case _:
            return _in_round(run, event)


def _in_a_row(run: Run) -> dict[SiteId, int]:
    """Who contributed to the round being combined, and was not set aside, begins anew."""
    contributed = run.round.accepted if run.round else {}
    return {site: count for site, count in run.set_aside.items() if site not in contributed or site in run.notices}


def _in_aggregate(run: Run) -> dict[SiteId, int]:
    """Whose updates the aggregate of the round being combined is made of, and the rounds they were trained for."""
    if run.round is None or run.round.opened.kind != "train":
        return {}
    survivors = {site for group in run.groups.values() for site in group.survivors}
    return {
        site: event.trained or event.number
        for site, event in run.round.accepted.items()
        if site not in run.notices and (not run.groups or site in survivors)
    }


def _analysts(run: Run) -> frozenset[SiteId]:
    """Whose numbers the analyses hold: in their further rounds nobody else is asked, and nobody may be missing."""
    if run.round is None or run.round.opened.kind != "analysis":
        return run.analysts
    return frozenset(site for group in run.groups.values() for site in group.survivors)


def _of_round(run: Run, event: RoundOpened) -> Run:
    late = run.terms.buffered(event.number)
    opened = rounds.opened(run.terms, event)
    bases = {}
    if late is not None:
        opened = replace(opened, accepted=run.early)
        first = run.terms.oldest(event.number)
        bases = {number: ref for number, ref in run.bases.items() if number >= first} | {event.number: run.model}
    return replace(
        run,
        phase=Phase.COLLECTING,
        round=opened,
        gatherings=0,
        cohort=0,
        groups={},
        formings=0,
        blamed=frozenset(),
        bases=bases,
        early={},
    )


def _of_cohort(run: Run, event: CohortFormed | CohortOpened | CohortAbandoned) -> Run:
    match event:
        case CohortFormed():
            is_new = not run.open_groups
            groups = ({} if is_new else run.groups) | {event.cohort: Group(event.terms)}
            formings = run.formings + is_new
            return replace(
                run, phase=Phase.SECURING, cohort=event.cohort, groups=groups, formings=formings, gatherings=0
            )
        case CohortOpened():
            after = replace(run.groups[event.cohort], survivors=event.survivors)
            return _settled(replace(run, groups=run.groups | {event.cohort: after}))
        case CohortAbandoned():
            after = replace(run.groups[event.cohort], is_lost=True)
            until = event.at + run.terms.absence_seconds
            blamed = run.blamed | event.blamed.keys()
            groups = run.groups | {event.cohort: after}
            return _settled(replace(run, groups=groups, gather_until=until, blamed=blamed))


def _settled(run: Run) -> Run:
    """Combine once every cohort has ended, if one was opened; else form others."""
    if run.open_groups:
        return run
    is_any = any(one.survivors for one in run.groups.values())
    return replace(run, phase=Phase.COMBINING if is_any else Phase.REGROUPING)


def _in_round(run: Run, event: RunEvent) -> Run:
    if isinstance(event, UpdateRefused) and event.late:
        return run
    round_, phase = run.round, run.phase
    if round_ is None:
        raise LocalProtocolError("no round has been opened yet")
    if isinstance(event, UpdateAccepted):
        run = replace(run, trained=run.trained | {event.site: event.trained or event.number})
        if event.number > round_.number:
            return replace(run, early=run.early | {event.site: event})
    if isinstance(event, RoundClosed):
        run = replace(run, notices={})
        phase = Phase.SECURING if run.terms.sections(event.number) else Phase.COMBINING
    return replace(run, round=rounds.apply(round_, event), phase=phase)
