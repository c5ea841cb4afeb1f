"""A study's life at the hub, folded from its events.

    PROPOSED ──every site decided, or `start`──▶ RUNNING ──run completed──▶ EVALUATED ──release──▶ RELEASED
        │ too many refused: REFUSED                 │ run stopped: may be started again
        └──────────── withdraw, expire ─────────────┴──▶ WITHDRAWN, EXPIRED

(A draft is a study before it reaches the hub, with the researcher.) Rules:

    (1) Only a participant decides, and only over its own signed decision.
    (2) A site may approve or refuse until it has decided, and may withdraw its approval at any time.
    (3) A run starts when every participant has decided and at least `min_participants` approved;
        the researcher may start it sooner with as many.
    (4) When so many refuse that `min_participants` cannot be reached, the study ends as refused.
    (5) Nothing starts after the plan has expired, or after the study has ended.
    (6) Where the plan asks for audits, a model is released only when at least so many sites of the last run have
        audited this very model and passed, and none of them failed. A site may audit again: its last verdict counts.
"""

import enum
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from wardround.errors import ForbiddenError, LocalProtocolError, PeerProtocolError
from wardround.ids import RunId, SiteId, run_id
from wardround.protocol.events import RunStarted, SiteAudited, SiteDecided, StudyEnded, StudyEvent, StudyProposed
from wardround.protocol.messages import Audit, Decision

__all__ = [
    "Phase",
    "Study",
    "approved",
    "audit",
    "decide",
    "end",
    "evolve",
    "release",
    "start",
    "study_of",
    "verdicts_of_audits",
]


class Phase(enum.Enum):
    """Where a study is."""

    PROPOSED = "proposed"
    RUNNING = "running"
    EVALUATED = "evaluated"
    STOPPED = "stopped"
    RELEASED = "released"
    WITHDRAWN = "withdrawn"
    REFUSED = "refused"
    EXPIRED = "expired"


ENDED = {Phase.RELEASED, Phase.WITHDRAWN, Phase.REFUSED, Phase.EXPIRED}


@dataclass(frozen=True, slots=True)
class Study:
    """A study's state; a value. `seq` is the number of events folded into it, `sites` are those of the last run.

    `model` is the digest of what the last run gave, and `audits` are the last of each site of it.
    """

    proposed: StudyProposed
    phase: Phase = Phase.PROPOSED
    seq: int = 1
    verdicts: dict[SiteId, str] = field(default_factory=dict)
    reasons: dict[SiteId, str] = field(default_factory=dict)
    runs: tuple[RunId, ...] = ()
    sites: tuple[SiteId, ...] = ()
    reason: str = ""
    model: str = ""
    audits: dict[SiteId, SiteAudited] = field(default_factory=dict)


def approved(study: Study) -> tuple[SiteId, ...]:
    """Sites whose approval stands, sorted."""
    return tuple(sorted(site for site, verdict in study.verdicts.items() if verdict == "approve"))


def decide(study: Study, decision: Decision, document: bytes, now: float) -> list[StudyEvent]:
    """Take a site's verified decision.

    Raises:
        ForbiddenError: The study does not name this site.
        PeerProtocolError: The study has ended, or the site decided otherwise before.
    """
    if decision.site not in study.proposed.participants:  # (1)
        raise ForbiddenError(f"the study does not name {decision.site}")
    before = study.verdicts.get(decision.site, "")
    if before == decision.verdict:
        return []
    if study.phase in ENDED or now >= study.proposed.expires:  # (5)
        raise PeerProtocolError(f"the study is {study.phase.value} or has expired; nothing is decided any more")
    if (before and decision.verdict != "withdraw") or before == "withdraw":  # (2)
        raise PeerProtocolError(f"{decision.site} has decided already: {before}")
    decided = SiteDecided(
        at=now,
        site=decision.site,
        verdict=decision.verdict,
        person=decision.person,
        reason=decision.reason,
        document=document,
    )
    return [decided, *_consequence(evolve(study, decided), now)]


def start(study: Study, now: float) -> list[StudyEvent]:
    """Open the next run with the sites that approved.

    Raises:
        PeerProtocolError: The study runs already or has ended, or too few sites approved.
    """
    sites = approved(study)
    if study.phase not in {Phase.PROPOSED, Phase.STOPPED} or now >= study.proposed.expires:  # (5)
        raise PeerProtocolError(f"the study is {study.phase.value} or has expired; it cannot be started")
    if len(sites) < study.proposed.min_participants:  # (3)
        raise PeerProtocolError(f"{len(sites)} sites approved, the plan needs {study.proposed.min_participants}")
    run = run_id(study.proposed.study, len(study.runs) + 1)
    return [RunStarted(at=now, run=run, sites=sites)]


def audit(study: Study, audited: Audit, document: bytes, now: float) -> list[StudyEvent]:
    """Take a site's verified audit.

    Raises:
        ForbiddenError: The study does not name this site.
        PeerProtocolError: No audit is asked for, there is no model to audit, or it is of another, or of a site that
            took no part in the last run.
    """
    if audited.site not in study.proposed.participants:
        raise ForbiddenError(f"the study does not name {audited.site}")
    if not study.proposed.audits:
        raise PeerProtocolError("the plan asks for no audits, so none is taken")
    if study.phase is not Phase.EVALUATED:
        raise PeerProtocolError(f"the study is {study.phase.value}; a model is audited between its run and its release")
    if audited.run != study.runs[-1] or audited.model != study.model:
        raise PeerProtocolError("the audit is of another model than the last run's; fetch that one and audit again")
    if audited.site not in study.sites:
        raise PeerProtocolError(f"{audited.site} took no part in the last run, so it cannot audit its model")
    before = study.audits.get(audited.site)
    if before is not None and (before.passed, before.report) == (audited.passed, audited.report):
        return []
    return [
        SiteAudited(
            at=now,
            site=audited.site,
            run=audited.run,
            model=audited.model,
            passed=audited.passed,
            report=audited.report,
            person=audited.person,
            document=document,
        )
    ]


def verdicts_of_audits(study: Study) -> dict[SiteId, str]:
    """For each site of the last run "passed", "failed" or "" (not yet); empty where the plan asks for no audits."""
    if not study.proposed.audits:
        return {}
    words = {site: "passed" if found.passed else "failed" for site, found in study.audits.items()}
    return {site: words.get(site, "") for site in study.sites}


def release(study: Study, reason: str, now: float) -> list[StudyEvent]:
    """Release the last run's model.

    Raises:
        PeerProtocolError: Its run has not completed, or its audits do not allow it; says who must act.
    """
    if study.phase is not Phase.EVALUATED:
        raise PeerProtocolError("only an evaluated study can be released; its run has not completed")
    found = verdicts_of_audits(study)
    if failed := [site for site, verdict in found.items() if verdict == "failed"]:  # (6)
        raise PeerProtocolError(
            f"the audit of {', '.join(failed)} failed: the model tells more about patients than is allowed. It is not "
            "released. Must act: the researcher, with the steward of that site, whose report says what was found"
        )
    passed = sum(verdict == "passed" for verdict in found.values())
    if passed < study.proposed.audits:  # (6)
        left = [site for site, verdict in found.items() if not verdict]
        raise PeerProtocolError(
            f"{passed} sites have audited the model, the plan asks for {study.proposed.audits}. Must act: the stewards "
            f"of {', '.join(left) or 'sites that take part in another run'}, with: wardround node audit"
        )
    return end(study, Phase.RELEASED, reason, now)


def end(study: Study, outcome: Phase, reason: str, now: float, *, model: str = "") -> list[StudyEvent]:
    """End a study, or note how its run ended (`EVALUATED` with its model, `STOPPED`); released it is by `release`."""
    if study.phase in ENDED or study.phase is outcome:
        return []
    return [StudyEnded(at=now, outcome=outcome.value, reason=reason, model=model)]


def evolve(study: Study | None, event: StudyEvent) -> Study:
    """Fold one event into the next state.

    Raises:
        LocalProtocolError: The stored history is out of order.
    """
    if study is None:
        if not isinstance(event, StudyProposed):
            raise LocalProtocolError("a study's first event is its proposal")
        return Study(event)
    study = replace(study, seq=study.seq + 1)
    match event:
        case StudyProposed():
            raise LocalProtocolError("a study is proposed once")
        case SiteDecided():
            verdicts = study.verdicts | {event.site: event.verdict}
            return replace(study, verdicts=verdicts, reasons=study.reasons | {event.site: event.reason})
        case RunStarted():
            runs = (*study.runs, event.run)
            return replace(study, phase=Phase.RUNNING, runs=runs, sites=event.sites, model="", audits={})
        case StudyEnded():
            model = event.model or study.model
            return replace(study, phase=Phase(event.outcome), reason=event.reason, model=model)
        case SiteAudited():
            return replace(study, audits=study.audits | {event.site: event})


def study_of(events: Iterable[StudyEvent]) -> Study:
    """Fold a whole stream.

    Raises:
        LocalProtocolError: There are no events, or they are out of order.
    """
    study: Study | None = None
    for event in events:
        study = evolve(study, event)
    if study is None:
        raise LocalProtocolError("a study has at least one event")
    return study


def _consequence(study: Study, now: float) -> list[StudyEvent]:
    if study.phase is not Phase.PROPOSED:
        return []
    participants = study.proposed.participants
    refused = sum(verdict != "approve" for verdict in study.verdicts.values())
    if len(participants) - refused < study.proposed.min_participants:  # (4)
        reason = f"{refused} of {len(participants)} sites refused; the plan needs {study.proposed.min_participants}"
        return [StudyEnded(at=now, outcome=Phase.REFUSED.value, reason=reason)]
    return start(study, now) if len(study.verdicts) == len(participants) else []  # (3)
