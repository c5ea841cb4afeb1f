"""One round as the hub sees it: who was asked, who answered, and when it closes.

                 receive              every site answered or absent, or deadline, with a quorum
    COLLECTING ─────────▶ COLLECTING ─────────────────────────────────────────────▶ CLOSED
        │  ▲ deadline without a quorum, patience left
        │  └──────────┘ extended
        └────────────▶ FAILED   deadline without a quorum, patience used up, or no quorum possible

The machine is a frozen value. `receive` and `expire` decide and return events; `apply` folds an event
into the next value; neither reads a clock. Rules, each tested by breaking it:

    (1) Only a site that the round asked is heard.
    (2) Only an answer to this round's number and kind counts.
    (3) The claimed number of records lies between 1 and the plan's cap, and every other number is finite.
    (4) An update has exactly the size of the plan's arrays; a round that only evaluates has no update.
    (5) A site answers once: what it says first counts, anything else it says is refused.
    (6) A site whose answers were refused three times is not heard again in this round.
    (7) The round closes as soon as every site has answered or is absent, and a quorum has updates.
    (8) At the deadline it closes with the quorum it has.
    (9) It never closes with less than a quorum: it waits again, `patience` times, and then fails.
    (10) When a quorum has become impossible it fails at once, and says whose answers are missing.
    (11) An absent site that answers before the close counts like any other; one that left cannot.
    (12) Under secure aggregation an answer says that the site is ready, with a nonce, and nothing of its own:
         neither update nor number of records, nor metrics unless the plan lets them leave.
    (13) A buffer of asynchronous training takes answers to earlier rounds, too, as far back as the plan allows, and
         closes when it is full.
"""

import enum
from dataclasses import dataclass, field, replace

from wardround.errors import ForbiddenError, LocalProtocolError
from wardround.ids import SiteId
from wardround.protocol.events import (
    DeadlineExtended,
    RoundClosed,
    RoundOpened,
    RunEvent,
    RunStopped,
    RunTerms,
    SiteAbsent,
    SiteDeclined,
    UpdateAccepted,
    UpdateRefused,
)
from wardround.protocol.messages import Contribution
from wardround.protocol.secure import SecureTerms
from wardround.secagg.terms import NONCE_BYTES

__all__ = [
    "MAX_REFUSALS",
    "Phase",
    "Round",
    "absent",
    "apply",
    "awaited",
    "conclusion",
    "expire",
    "heard",
    "left",
    "opened",
    "receive",
]

MAX_REFUSALS = 3
_MAX_WORDS = 500
_LARGEST_NUMBER = 2.0**62
_LARGEST_REAL = 1e100
_NOT_FINITE = "a metric or a time is not a finite number up to 1e100; an undefined metric is left empty"


class Phase(enum.Enum):
    """Where a round is."""

    COLLECTING = "collecting"
    CLOSED = "closed"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Round:
    """One round's state; a value."""

    terms: RunTerms
    opened: RoundOpened
    deadline: float
    phase: Phase = Phase.COLLECTING
    accepted: dict[SiteId, UpdateAccepted] = field(default_factory=dict)
    declined: dict[SiteId, str] = field(default_factory=dict)
    refusals: dict[SiteId, int] = field(default_factory=dict)
    absent: frozenset[SiteId] = frozenset()
    extensions: int = 0

    @property
    def number(self) -> int:
        """The round's number, counted from 1."""
        return self.opened.number


TRANSITIONS: dict[Phase, dict[type[RunEvent], Phase]] = {
    Phase.COLLECTING: {
        UpdateAccepted: Phase.COLLECTING,
        UpdateRefused: Phase.COLLECTING,
        SiteDeclined: Phase.COLLECTING,
        SiteAbsent: Phase.COLLECTING,
        DeadlineExtended: Phase.COLLECTING,
        RoundClosed: Phase.CLOSED,
        RunStopped: Phase.FAILED,
    },
    Phase.CLOSED: {UpdateRefused: Phase.CLOSED, RunStopped: Phase.FAILED},
    Phase.FAILED: {UpdateRefused: Phase.FAILED},
}
"""Which events a round takes in which phase, and where they lead."""


def opened(terms: RunTerms, event: RoundOpened) -> Round:
    """A round that has just been opened."""
    return Round(terms, event, event.deadline)


def receive(round_: Round, site: SiteId, contribution: Contribution, *, flaw: str, now: float) -> list[RunEvent]:
    """Take an authenticated site's answer; `flaw` says what its bytes lack, or is empty.

    Raises:
        ForbiddenError: The round did not ask this site.
    """
    if site not in round_.opened.sites:  # (1)
        raise ForbiddenError(f"round {round_.number} did not ask {site}")
    number = contribution.number
    if round_.phase is not Phase.COLLECTING or number < round_.terms.oldest(round_.number):  # (13)
        reason = f"round {number} has closed"
        return [UpdateRefused(at=now, number=number, site=site, reason=reason, late=True)]
    if offence := _offence(round_, site, contribution) or flaw[:_MAX_WORDS]:
        refused = UpdateRefused(at=now, number=round_.number, site=site, reason=offence)
        return _settle(round_, refused, now)
    if contribution.declined:
        reason = contribution.declined[:_MAX_WORDS]
        return _settle(round_, SiteDeclined(at=now, number=round_.number, site=site, reason=reason), now)
    accepted = UpdateAccepted(
        at=now,
        number=round_.number,
        site=site,
        records=contribution.records,
        update=contribution.update,
        evaluation=contribution.evaluation,
        train_seconds=contribution.train_seconds,
        nonce=contribution.nonce,
        trained=number if number != round_.number else 0,
    )
    return _settle(round_, accepted, now)


def absent(round_: Round, sites: frozenset[SiteId], now: float) -> list[RunEvent]:
    """Stop waiting for sites that are not there; those that have answered already are passed over."""
    events: list[RunEvent] = []
    for site in sorted(sites & awaited(round_)):
        event = SiteAbsent(at=now, number=round_.number, site=site)
        events.append(event)
        round_ = apply(round_, event)
    return events + conclusion(round_, now) if events else []


def left(round_: Round, site: SiteId, reason: str, now: float) -> list[RunEvent]:
    """Let a site go that took its approval back; what it answered before counts."""
    if round_.phase is not Phase.COLLECTING or site not in heard(round_):
        return []
    reason = f"took its approval back ({reason})"[:_MAX_WORDS]
    return _settle(round_, SiteDeclined(at=now, number=round_.number, site=site, reason=reason), now)


def expire(round_: Round, now: float) -> list[RunEvent]:
    """Let the deadline pass, if it has."""
    if round_.phase is not Phase.COLLECTING or now < round_.deadline:
        return []
    if _has_quorum(round_):
        return [_close(round_, now)]  # (8)
    if round_.extensions < round_.terms.patience:  # (9)
        deadline = now + round_.terms.round_timeout_seconds
        extensions = round_.extensions + 1
        return [DeadlineExtended(at=now, number=round_.number, deadline=deadline, extensions=extensions)]
    return [_stop(round_, now)]


def awaited(round_: Round) -> frozenset[SiteId]:
    """Sites whose answer the round still waits for."""
    return heard(round_) - round_.absent


def heard(round_: Round) -> frozenset[SiteId]:
    """Sites whose answer would still count, waited for or not."""
    return frozenset(round_.opened.sites) - _answered(round_)


def apply(round_: Round, event: RunEvent) -> Round:
    """Fold one event of this round into its next state.

    Raises:
        LocalProtocolError: The round cannot take this event in its phase; the stored history is wrong.
    """
    phase = TRANSITIONS[round_.phase].get(type(event))
    if phase is None:
        raise LocalProtocolError(f"a round that is {round_.phase.value} cannot take {type(event).__name__}")
    match event:
        case UpdateAccepted():
            return replace(round_, accepted=round_.accepted | {event.site: event}, absent=round_.absent - {event.site})
        case SiteDeclined():
            return replace(round_, declined=round_.declined | {event.site: event.reason})
        case UpdateRefused() if not event.late:
            count = round_.refusals.get(event.site, 0) + 1
            return replace(round_, refusals=round_.refusals | {event.site: count})
        case SiteAbsent():
            return replace(round_, absent=round_.absent | {event.site})
        case DeadlineExtended():
            return replace(round_, deadline=event.deadline, extensions=event.extensions)
        case _:
            return replace(round_, phase=phase)


def _offence(round_: Round, site: SiteId, contribution: Contribution) -> str:
    """What is wrong with an answer, in words, or nothing."""
    terms, kind = round_.terms, round_.opened.kind
    is_late = terms.buffered(round_.number) is not None and contribution.number < round_.number  # (13)
    if (contribution.number != round_.number and not is_late) or contribution.kind != kind:  # (2)
        return (
            f"this is round {round_.number}, {kind}; the answer is for round {contribution.number}, {contribution.kind}"
        )
    if site in round_.accepted or site in round_.declined:  # (5)
        return "the site has answered already, and differently; its first answer counts"
    if round_.refusals.get(site, 0) >= MAX_REFUSALS:  # (6)
        return f"{MAX_REFUSALS} answers were refused in this round; the site is heard again in the next"
    if contribution.declined:
        return ""
    if terms.secure is not None:
        return _disclosed(terms.secure, contribution)  # (12)
    if not 1 <= contribution.records <= terms.max_records:  # (3)
        return f"{contribution.records} claimed records; the plan allows 1 to {terms.max_records}"
    if flaw := _number_flaw(round_, contribution):  # (3)
        return flaw
    if kind == "evaluate" and contribution.update is not None:  # (4)
        return "this round only evaluates, and the answer has an update"
    size = contribution.update.size if contribution.update else 0
    if size != _expected_size(terms, kind):  # (4)
        word = "large" if size > _expected_size(terms, kind) else "small"
        return f"too {word}: the update must have {_expected_size(terms, kind)} bytes, and has {size}"
    return ""


def _number_flaw(round_: Round, contribution: Contribution) -> str:
    found = contribution.evaluation
    given = len(found.appraisal) if found else 0
    wanted = round_.terms.appraisal_numbers if round_.opened.kind == "evaluate" else 0
    if given != wanted:
        return f"the plan's appraisal has {wanted} numbers in this round, and the answer {given}"
    if found is not None and any(abs(number) > _LARGEST_NUMBER for number in found.appraisal):
        return "a number for the appraisal is larger than any count can be"
    return "" if _is_finite(contribution) else _NOT_FINITE


def _disclosed(secure: SecureTerms, contribution: Contribution) -> str:
    if contribution.update is not None or contribution.records:
        return "this run adds up in secret; an update or a number of records must not leave the site by itself"
    if contribution.evaluation is not None and not secure.site_metrics:
        return "this run adds up metrics in secret; a site's own must not leave it"
    if len(contribution.nonce) != NONCE_BYTES:
        return f"a site that is ready for a cohort sends a nonce of {NONCE_BYTES} bytes"
    return "" if _is_finite(contribution) else _NOT_FINITE


def _is_finite(contribution: Contribution) -> bool:
    found = contribution.evaluation
    numbers: list[float | None] = [contribution.train_seconds]
    if found is not None:
        numbers += [*found.metrics.values(), *found.personal.values(), *found.appraisal]
        numbers += [bound for interval in found.intervals.values() for bound in interval]
        apart = found.divergence
        numbers += [apart.cosine, apart.norm, apart.aggregate_norm] if apart else []
    return all(abs(value) <= _LARGEST_REAL for value in numbers if value is not None)


def _expected_size(terms: RunTerms, kind: str) -> int:
    return {"statistics": terms.statistics_size, "train": terms.update_size}.get(kind, 0)


def _settle(round_: Round, event: RunEvent, now: float) -> list[RunEvent]:
    return [event, *conclusion(apply(round_, event), now)]


def conclusion(round_: Round, now: float) -> list[RunEvent]:
    """What follows at once from who has answered, if anything."""
    possible = len(round_.opened.sites) - len(_answered(round_) - round_.accepted.keys())
    if possible < round_.terms.quorum:  # (10)
        return [_stop(round_, now)]
    late = round_.terms.buffered(round_.number)
    is_full = late is not None and len(round_.accepted) >= late.buffer  # (13)
    return [_close(round_, now)] if is_full or (not awaited(round_) and _has_quorum(round_)) else []  # (7)


def _answered(round_: Round) -> frozenset[SiteId]:
    unheard = {site for site, count in round_.refusals.items() if count >= MAX_REFUSALS}
    return frozenset(round_.accepted.keys() | round_.declined.keys() | unheard)


def _has_quorum(round_: Round) -> bool:
    return len(round_.accepted) >= round_.terms.quorum


def _close(round_: Round, now: float) -> RoundClosed:
    return RoundClosed(at=now, number=round_.number, contributors=tuple(sorted(round_.accepted)))


def _stop(round_: Round, now: float) -> RunStopped:
    missing = sorted(set(round_.opened.sites) - round_.accepted.keys())
    words = "; ".join(f"{site}: {round_.declined.get(site) or _silence(round_, site)}" for site in missing)
    got, need = len(round_.accepted), round_.terms.quorum
    return RunStopped(at=now, reason=f"round {round_.number} had {got} of {need} answers it needs. Must act: {words}")


def _silence(round_: Round, site: SiteId) -> str:
    return "its answers were refused" if round_.refusals.get(site, 0) >= MAX_REFUSALS else "did not answer in time"
