"""One cohort as the hub sees it: who shared, who masked, who signed, who revealed, and when to go on.

    SHARING ──▶ MASKING ──▶ AGREEING ──▶ REVEALING ──▶ OPENED
       └───────────┴───────────┴─────────────┴──▶ FAILED   a stage ended with too few

A stage ends when everybody that it waits for has answered or is absent, or at its deadline. The
machine is a frozen value: `receive`, `absent` and `expire` decide and return events, `apply` folds
them. Rules:

    (1) A member answers each stage once, signed by its identity key; the same answer again changes nothing.
    (2) A member is included (U1) when its shares came. Of two whose commitments to their pair seed differ, the one
        with more such differences is left out and named; where they are equal, both.
    (3) A survivor (U2) is an included member whose masked vector is stored and has the terms' size.
    (4) No stage ends with fewer than the threshold and the minimum, nor masking when complaints leave too few
        shares of somebody: then the cohort fails, and says who is missing or to blame.
    (5) Secrets are rebuilt from the threshold of shares, checked against their owner's commitment; a share
        that does not fit is left out and whoever gave it is named.
    (6) A cohort that failed stays failed.

What would break a promise is checked by the members; the hub is not trusted with it.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, TypeAlias

import msgspec

from wardround.crypto import signing
from wardround.errors import ForbiddenError, LocalProtocolError, PeerProtocolError, SignatureError
from wardround.ids import SiteId
from wardround.secagg import messages, terms
from wardround.secagg.messages import (
    Agreement,
    Agreements,
    Answer,
    Delivery,
    Included,
    Invitation,
    Masked,
    Reveal,
    Shares,
    Step,
    Survivor,
    Survivors,
    Unmaskable,
)
from wardround.secagg.terms import Terms

__all__ = [
    "Cohort",
    "CohortClosed",
    "CohortEvent",
    "CohortFailed",
    "CohortSaid",
    "CohortSealed",
    "Stage",
    "absent",
    "apply",
    "awaited",
    "cohort_of",
    "expire",
    "receive",
    "revealed_for",
    "step_for",
]

Stage = Literal["sharing", "masking", "agreeing", "revealing", "opened", "failed"]
_MISFIT = "the answer is for another number of members, or another list of them"
_NEXT: dict[Stage, Stage] = {
    "sharing": "masking",
    "masking": "agreeing",
    "agreeing": "revealing",
    "revealing": "opened",
}
"""Which stage follows which."""
_ANSWERS: dict[Stage, tuple[type[msgspec.Struct], ...]] = {
    "sharing": (Shares, Unmaskable),
    "masking": (Masked, Unmaskable),
    "agreeing": (Agreement, Unmaskable),
    "revealing": (Reveal, Unmaskable),
    "opened": (),
    "failed": (),
}
"""What each stage takes."""


class _Event(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="event"):
    at: float


class CohortSealed(_Event, frozen=True, tag="sealed"):
    """The cohort exists; `stage_seconds` is the patience of each stage."""

    terms: Terms
    stage_seconds: float


class CohortSaid(_Event, frozen=True, tag="said"):
    """A member's answer, in its wire form, to the stage that it is for."""

    site: SiteId
    stage: str
    answer: bytes


class CohortClosed(_Event, frozen=True, tag="closed"):
    """A stage ended with these members; `blamed` were left out, and why."""

    stage: str
    sites: tuple[SiteId, ...]
    blamed: dict[SiteId, str]
    deadline: float


class CohortFailed(_Event, frozen=True, tag="failed"):
    """The cohort is abandoned; nothing of it was or will be opened by this hub."""

    reason: str
    blamed: dict[SiteId, str]


CohortEvent: TypeAlias = CohortSealed | CohortSaid | CohortClosed | CohortFailed


@dataclass(frozen=True, slots=True)
class Cohort:
    """A cohort's state; a value. `seq` counts the events folded into it."""

    terms: Terms
    transcript: bytes
    stage_seconds: float
    deadline: float
    stage: Stage = "sharing"
    seq: int = 1
    shares: dict[SiteId, Shares] = field(default_factory=dict)
    masked: dict[SiteId, Masked] = field(default_factory=dict)
    agreements: dict[SiteId, Agreement] = field(default_factory=dict)
    reveals: dict[SiteId, Reveal] = field(default_factory=dict)
    included: tuple[Included, ...] = ()
    survivors: tuple[Survivor, ...] = ()
    gone: frozenset[SiteId] = frozenset()
    blamed: dict[SiteId, str] = field(default_factory=dict)
    reason: str = ""

    @property
    def included_digest(self) -> bytes:
        """What stands for U1."""
        return messages.included_digest(self.transcript, self.included)


def receive(cohort: Cohort, site: SiteId, answer: Answer, key: signing.PublicKey, now: float) -> list[CohortEvent]:
    """Take an authenticated member's answer to the present stage.

    Args:
        cohort: Where the cohort is.
        site: Who answers.
        answer: What it says; where it is `Masked`, its vector is stored already.
        key: The member's identity key in the roster.
        now: In seconds since 1970-01-01 UTC.

    Raises:
        PeerProtocolError: Not a member, not an answer to this stage, or not one that counts.
    """
    if site not in cohort.terms.members:
        raise ForbiddenError(f"{site} is not a member of this cohort")
    if _said(cohort, site, answer):
        return []
    if site in cohort.gone or site not in _expected(cohort):
        raise PeerProtocolError(f"the cohort is {cohort.stage}, and {site} is not waited for")
    if not isinstance(answer, _ANSWERS[cohort.stage]):
        raise PeerProtocolError(f"the cohort is {cohort.stage}; this is an answer to another stage")
    if offence := _offence(cohort, site, answer, key):
        raise PeerProtocolError(offence)
    said = CohortSaid(at=now, site=site, stage=cohort.stage, answer=messages.encode(answer))
    return [said, *_conclusion(apply(cohort, said), frozenset(), now)]


def absent(cohort: Cohort, present: frozenset[SiteId], now: float) -> list[CohortEvent]:
    """End the stage where only members that are not there are still waited for."""
    return _conclusion(cohort, frozenset(cohort.terms.members) - present, now)


def expire(cohort: Cohort, now: float) -> list[CohortEvent]:
    """Let the stage's deadline pass, if it has."""
    return _conclusion(cohort, frozenset(cohort.terms.members), now) if now >= cohort.deadline else []


def awaited(cohort: Cohort) -> frozenset[SiteId]:
    """Members whose answer to this stage has not come."""
    answered: dict[Stage, Collection[SiteId]] = {
        "sharing": cohort.shares,
        "masking": cohort.masked,
        "agreeing": cohort.agreements,
        "revealing": cohort.reveals,
    }
    return _expected(cohort).difference(answered.get(cohort.stage, ()), cohort.gone)


def step_for(cohort: Cohort, site: SiteId) -> Step | None:
    """What `site` is to be told now, or None where nothing is expected from it."""
    if site not in awaited(cohort):
        return None
    if cohort.stage == "sharing":
        return Invitation(cohort.terms)
    if cohort.stage == "agreeing":
        return Survivors(cohort.survivors)
    if cohort.stage == "revealing":
        return Agreements(tuple((name, said.signature) for name, said in sorted(cohort.agreements.items())))
    included = {entry.site for entry in cohort.included}
    around = [name for name in terms.neighbours(cohort.terms, site) if name in included]
    places = {name: terms.neighbours(cohort.terms, name).index(site) for name in around}
    return Delivery(
        cohort.included,
        tuple(cohort.shares[name].sealed[places[name]] for name in around),
        tuple(cohort.shares[name].seeds[places[name]] for name in around),
        tuple((name, *voided) for name in sorted(included) for voided in cohort.shares[name].voided),
    )


def cohort_of(events: list[CohortEvent]) -> Cohort:
    """Fold a whole stream.

    Raises:
        LocalProtocolError: There are no events, or they are out of order.
    """
    if not events or not isinstance(events[0], CohortSealed):
        raise LocalProtocolError("a cohort's first event is its sealing")
    sealed = events[0]
    state = Cohort(sealed.terms, terms.transcript(sealed.terms), sealed.stage_seconds, sealed.at + sealed.stage_seconds)
    for event in events[1:]:
        state = apply(state, event)
    return state


def apply(cohort: Cohort, event: CohortEvent) -> Cohort:
    """Fold one event into the next state.

    Raises:
        LocalProtocolError: The stored history is out of order.
    """
    if cohort.stage in {"opened", "failed"} or isinstance(event, CohortSealed):
        raise LocalProtocolError(f"a cohort that is {cohort.stage} cannot take {type(event).__name__}")
    after = replace(cohort, seq=cohort.seq + 1)
    match event:
        case CohortFailed():
            return replace(after, stage="failed", reason=event.reason, blamed=cohort.blamed | event.blamed)
        case CohortClosed():
            return _closed(after, event)
        case CohortSaid():
            return _heard(after, event)


def _expected(cohort: Cohort) -> frozenset[SiteId]:
    """Of whom the present stage wants an answer."""
    if cohort.stage == "sharing":
        return frozenset(cohort.terms.members)
    if cohort.stage == "masking":
        return frozenset(entry.site for entry in cohort.included)
    if cohort.stage == "agreeing":
        return frozenset(entry.site for entry in cohort.survivors)
    return frozenset(cohort.agreements) if cohort.stage == "revealing" else frozenset()


def _said(cohort: Cohort, site: SiteId, answer: Answer) -> bool:
    """Whether the member has said exactly this before."""
    if isinstance(answer, Unmaskable):
        return site in cohort.gone
    heard: Collection[Mapping[SiteId, Answer]] = (cohort.shares, cohort.masked, cohort.agreements, cohort.reveals)
    return any(said.get(site) == answer for said in heard)


def _offence(cohort: Cohort, site: SiteId, answer: Answer, key: signing.PublicKey) -> str:
    """What is wrong with an answer, in words, or nothing."""
    if answer.transcript != cohort.transcript:
        return "the answer is for another cohort"
    if site not in awaited(cohort):  # (1)
        return "the member has answered this stage already, and differently"
    match answer:
        case Shares():
            around = len(terms.neighbours(cohort.terms, site))
            fits = len(answer.sealed) == len(answer.seeds) == around
            fits = fits and len(answer.own) == len(answer.root) == 32
            signed, signature = messages.shares_digest(answer), answer.signature
        case Masked():
            fits = answer.included == cohort.included_digest and len(answer.digest) == 32
            signed, signature = messages.masked_bytes(answer), answer.signature
        case Agreement():
            fits = True
            signed = messages.agreement_bytes(cohort.transcript, cohort.included_digest, cohort.survivors)
            signature = answer.signature
        case Reveal():
            return "" if len(answer.shares) == len(revealed_for(cohort, site)) else _MISFIT
        case Unmaskable():
            return ""
    try:
        signing.verify(signature, signed, key)
    except SignatureError:
        return "the answer is not signed by the key that the roster names"
    return "" if fits else _MISFIT


def revealed_for(cohort: Cohort, site: SiteId) -> list[SiteId]:
    """Whose shares `site` reveals, in the order in which it does."""
    included = {entry.site for entry in cohort.included}
    return sorted(name for name in (*terms.neighbours(cohort.terms, site), site) if name in included)


def _conclusion(cohort: Cohort, missing: frozenset[SiteId], now: float) -> list[CohortEvent]:
    """The end of the stage, if everybody but the missing has answered."""
    if cohort.stage in {"opened", "failed"} or awaited(cohort) - missing:
        return []
    sites, blamed = _stayed(cohort)
    if cohort.stage == "masking" and (closed := _unopenable(cohort, sites)):  # (4)
        reason = f"too few members hold shares of {', '.join(sorted(closed))}"
        return [CohortFailed(at=now, reason=reason, blamed=closed)]
    least = max(cohort.terms.minimum, cohort.terms.threshold)
    if len(sites) < least:  # (4)
        lacking = ", ".join(sorted(set(cohort.terms.members) - set(sites)))
        reason = f"{len(sites)} of {least} members it needs were {cohort.stage}; missing: {lacking}"
        return [CohortFailed(at=now, reason=reason, blamed=blamed)]
    deadline = now + cohort.stage_seconds
    return [CohortClosed(at=now, stage=cohort.stage, sites=tuple(sites), blamed=blamed, deadline=deadline)]


def _stayed(cohort: Cohort) -> tuple[list[SiteId], dict[SiteId, str]]:
    """Who goes on from this stage, sorted, and who is left out and why."""
    if cohort.stage == "masking":
        return sorted(cohort.masked), {}
    if cohort.stage == "agreeing":
        return sorted(cohort.agreements), {}
    if cohort.stage == "revealing":
        return sorted(cohort.reveals), {}
    blamed: dict[SiteId, str] = {}
    while quarrels := _quarrels(cohort, blamed.keys()):
        worst = max(len(others) for others in quarrels.values())
        accused = {site: others for site, others in quarrels.items() if len(others) == worst}
        for site, others in accused.items():  # (2)
            words = f"its commitment to a shared seed is not that of {', '.join(sorted(others))}"
            blamed[site] = words if worst > 1 else f"{words}; one of the two is wrong"
    return sorted(cohort.shares.keys() - blamed.keys()), blamed


def _quarrels(cohort: Cohort, out: Collection[SiteId]) -> dict[SiteId, set[SiteId]]:
    """Members whose commitments to a pair seed differ, with whom."""
    found: dict[SiteId, set[SiteId]] = {}
    here = {site: shares for site, shares in cohort.shares.items() if site not in out}
    for site, shares in here.items():
        for place, other in enumerate(terms.neighbours(cohort.terms, site)):
            if other in here:
                theirs = here[other].seeds[terms.neighbours(cohort.terms, other).index(site)]
                if theirs != shares.seeds[place]:
                    found.setdefault(site, set()).add(other)
    return found


def _unopenable(cohort: Cohort, sites: list[SiteId]) -> dict[SiteId, str]:
    """Members who dealt so many shares that do not open that their secret cannot be rebuilt by those who are left."""
    found: dict[SiteId, str] = {}
    for entry in cohort.included:
        around = {entry.site, *terms.neighbours(cohort.terms, entry.site)} & set(sites)
        complaints = {name for name in around if entry.site in cohort.masked[name].complaints}
        if complaints and len(around - complaints) < terms.share_threshold(cohort.terms):
            found[entry.site] = f"its shares for {', '.join(sorted(complaints))} did not open"
    return found


def _closed(cohort: Cohort, event: CohortClosed) -> Cohort:
    moved = replace(
        cohort,
        stage=_NEXT[cohort.stage],
        deadline=event.deadline,
        blamed=cohort.blamed | event.blamed,
        gone=cohort.gone | event.blamed.keys(),
    )
    if event.stage == "sharing":
        included = tuple(Included(site, messages.shares_digest(cohort.shares[site])) for site in event.sites)
        return replace(moved, included=included)
    if event.stage == "masking":
        return replace(moved, survivors=tuple(Survivor(site, cohort.masked[site].digest) for site in event.sites))
    return moved


def _heard(cohort: Cohort, event: CohortSaid) -> Cohort:
    answer: Answer = messages.decode(event.answer, Answer)  # type: ignore[arg-type]
    match answer:
        case Shares():
            return replace(cohort, shares=cohort.shares | {event.site: answer})
        case Masked():
            return replace(cohort, masked=cohort.masked | {event.site: answer})
        case Agreement():
            return replace(cohort, agreements=cohort.agreements | {event.site: answer})
        case Reveal():
            return replace(cohort, reveals=cohort.reveals | {event.site: answer})
        case Unmaskable():
            return replace(cohort, gone=cohort.gone | {event.site})
