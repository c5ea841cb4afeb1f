"""What a hub writes into its audit log: its events, its registry, its decisions about access, before they take effect.

`RecordedEvents` and `RecordedRegistry` stand before the event log and the registry, so that nothing happens at a hub
that is not recorded first, whichever service does it. Where the log cannot be written, the append does not happen.
An append that fails afterwards (a full disk, another hub that was first) leaves an entry of what was tried.

Persons are not named: a site's decision is recorded as its site's, and who of its people made it at the site.
"""

import re
import threading
from collections.abc import Iterable, Sequence
from typing import Final

from wardround.audit.entry import (
    Access,
    AttestationVerdict,
    ContributionVerdict,
    Event,
    KeyChange,
    Login,
    Release,
    RosterSigned,
    StudyDecision,
)
from wardround.authorization.decide import Decision
from wardround.codec import canonical
from wardround.crypto import certificate, signing
from wardround.errors import CodecError
from wardround.ids import CommandId, Digest, RunId, SiteId, StudyId, digest_name, site_id, study_of
from wardround.ports import Clock, EventLog, Registry
from wardround.protocol import events as happened
from wardround.protocol.events import (
    RunCompleted,
    RunStarted,
    SiteDecided,
    StudyEnded,
    StudyProposed,
    UpdateAccepted,
    UpdateRefused,
    UpdateSetAside,
)
from wardround.protocol.messages import Identity, Role
from wardround.secagg import roster as rosters
from wardround.secagg.roster import Roster, SignedRoster
from wardround.services.attestation_events import AttestationEvent
from wardround.services.audit_trail import Person, Recorder

__all__ = [
    "ROUTINE",
    "AccessRecords",
    "RecordedEvents",
    "RecordedRegistry",
    "attestation_entry",
    "is_routine",
    "login_entry",
    "word",
]

ROUTINE: Final = frozenset(
    {
        "read_health",
        "read_metrics",
        "read_api",
        "read_authority",
        "read_checkpoint",
        "enrol",
        "log_in",
        "attest",
        "fetch_key",
        "take_task",
        "contribute",
        "answer_cohort",
        "set_up_pairs",
        "hand_in_key",
        "renew",
        "witness",
        "list_studies",
        "read_plan",
        "read_run",
        "read_identity",
        "read_keys",
        "read_roster",
        "download",
        "upload",
        "statistics",
        "analysis",
        "train",
        "evaluate",
        "mask",
        "pair",
    }
)
"""Actions of which only refusals are recorded as access.

They are a machine's daily traffic (polls, looks, tasks and bytes of rounds), most of them thousands of times a day;
what comes of them has entries of its own: `contribution`, `round`, `key`, `attestation`, `login`, `roster`.
"""
_WORD: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@-]{0,95}")
_MOST_POLICIES: Final = 16
_QUIET_SECONDS: Final = 60.0
_MOST_KNOWN: Final = 4096
_VERDICTS: Final = {"approve": "approved", "refuse": "refused", "withdraw": "withdrawn"}
_PURPOSES: Final = ("connection", "document")


def word(text: str) -> str | None:
    """Text as a word that an entry may hold; None where it is none."""
    return text if _WORD.fullmatch(text) else None


class RecordedEvents:
    """Fills `wardround.ports.EventLog` before another one: what is appended is recorded first."""

    def __init__(self, log: EventLog, recorder: Recorder) -> None:
        self._log, self._recorder = log, recorder

    def read(self, stream: str, *, after: int = 0) -> list[bytes]:
        """See `wardround.ports.EventLog`."""
        return self._log.read(stream, after=after)

    def append(
        self,
        stream: str,
        events: Sequence[bytes],
        *,
        after: int,
        receipt: tuple[SiteId, CommandId, bytes] | None = None,
    ) -> None:
        """See `wardround.ports.EventLog`; also raises what the audit log raises, and then nothing is appended."""
        kind, _, name = stream.partition(":")
        match kind:
            case "study":
                for data in events:
                    self._of_study(StudyId(name), happened.decode_study(data))
            case "run":
                for data in events:
                    self._of_run(RunId(name), happened.decode_run(data))
            case "roster":
                for data in events:
                    self._recorder.record(_of_roster(data))
            case _:
                pass
        self._log.append(stream, events, after=after, receipt=receipt)

    def receipt(self, sender: SiteId, command: CommandId) -> bytes | None:
        """See `wardround.ports.EventLog`."""
        return self._log.receipt(sender, command)

    def streams(self, prefix: str) -> list[str]:
        """See `wardround.ports.EventLog`."""
        return self._log.streams(prefix)

    def _of_study(self, study: StudyId, event: happened.StudyEvent) -> None:
        match event:
            case StudyProposed():
                self._recorder.record(StudyDecision("proposed"), actor=event.researcher, study=study)
            case SiteDecided():
                self._recorder.record(StudyDecision(_VERDICTS[event.verdict]), actor=event.site, study=study)  # type: ignore[arg-type]
            case RunStarted():
                self._recorder.record(StudyDecision("started"), study=study, run=event.run)
            case StudyEnded(outcome="released"):
                self._release(study)
            case StudyEnded(outcome="evaluated"):
                self._recorder.record(StudyDecision("completed"), study=study)
            case StudyEnded():
                decision = StudyDecision("refused" if event.outcome == "refused" else "withdrawn", word(event.outcome))
                self._recorder.record(decision, study=study)
            case _:
                pass

    def _release(self, study: StudyId) -> None:
        """The last run's model, its size, and whom it goes to."""
        stored = [happened.decode_study(data) for data in self._log.read(f"study:{study}")]
        proposed = next(event for event in stored if isinstance(event, StudyProposed))
        runs = [event.run for event in stored if isinstance(event, RunStarted)]
        for data in reversed(self._log.read(f"run:{runs[-1]}") if runs else []):
            event = happened.decode_run(data)
            if isinstance(event, RunCompleted):
                found = Release(event.model.digest, event.model.size, to=proposed.researcher)
                self._recorder.record(found, actor=proposed.researcher, study=study, run=runs[-1])
                return
        raise CodecError("a study is released whose last run has no model")

    def _of_run(self, run: RunId, event: happened.RunEvent) -> None:
        found: Event
        match event:
            case UpdateAccepted():
                update = event.update
                digest, size = (None, 0) if update is None else (update.digest, update.size)
                found = ContributionVerdict(event.site, "accepted", event.number, digest, size)
            case UpdateRefused():
                found = ContributionVerdict(
                    event.site, "refused", event.number, reason="late" if event.late else "not-acceptable"
                )
            case UpdateSetAside():
                found = ContributionVerdict(event.site, "refused", event.number, reason="set-aside")
            case _:
                return
        self._recorder.record(found, study=study_of(run), run=run)


class RecordedRegistry:
    """Fills `wardround.ports.Registry` before another one: certificates that come and go are recorded first."""

    def __init__(self, registry: Registry, recorder: Recorder) -> None:
        self._registry, self._recorder = registry, recorder

    def add_invite(self, invite: Digest, name: SiteId, role: Role, expires: float) -> None:
        """See `wardround.ports.Registry`."""
        self._registry.add_invite(invite, name, role, expires)

    def invited(self, invite: Digest, now: float) -> tuple[SiteId, Role]:
        """See `wardround.ports.Registry`."""
        return self._registry.invited(invite, now)

    def enrol(self, invite: Digest, identity: Identity, now: float) -> None:
        """See `wardround.ports.Registry`."""
        self._registry.invited(invite, now)
        for purpose, key in _keys(identity):
            self._recorder.record(KeyChange("issued", key, purpose, holder=identity.name))
        self._registry.enrol(invite, identity, now)

    def add_identity(self, identity: Identity) -> None:
        """See `wardround.ports.Registry`."""
        for purpose, key in _keys(identity):
            self._recorder.record(KeyChange("issued", key, purpose, holder=identity.name))
        self._registry.add_identity(identity)

    def identity(self, name: SiteId) -> Identity:
        """See `wardround.ports.Registry`."""
        return self._registry.identity(name)

    def identities(self) -> list[Identity]:
        """See `wardround.ports.Registry`."""
        return self._registry.identities()

    def replace(self, identity: Identity, *, before: bytes) -> None:
        """See `wardround.ports.Registry`."""
        held = {key for _, key in _keys(Identity(identity.name, identity.role, before))}
        for purpose, key in _keys(identity):
            change: Event = KeyChange("renewed" if key in held else "rotated", key, purpose, holder=identity.name)
            self._recorder.record(change)
        self._registry.replace(identity, before=before)

    def revoked(self) -> frozenset[SiteId]:
        """See `wardround.ports.Registry`."""
        return self._registry.revoked()

    def revoke(self, name: SiteId) -> None:
        """See `wardround.ports.Registry`."""
        for purpose, key in _keys(self._registry.identity(name)):
            self._recorder.record(KeyChange("revoked", key, purpose, holder=name))
        self._registry.revoke(name)


class AccessRecords:
    """Records decisions about access; threads share it, and it is what a hub or node calls ``on_decision``.

    What is allowed and no `ROUTINE` is recorded each time. What is refused is recorded whatever it is, but the same
    refusal again only after a minute: nothing follows from it, and nobody may fill the disk by knocking.
    """

    def __init__(self, recorder: Recorder, clock: Clock) -> None:
        self._recorder, self._clock = recorder, clock
        self._lock = threading.Lock()
        self._known: dict[tuple[str, str, str], float] = {}

    def __call__(self, decision: Decision) -> None:
        """Record one decision.

        Raises:
            UnavailableError: It could not be recorded: nothing may follow from it.
        """
        if is_routine(decision) or (not decision.allowed and not self._is_new(decision)):
            return
        kind, _, name = decision.resource.partition(" ")
        access = Access(
            action=word(decision.action) or "unknown",
            resource=_resource(kind, name),
            decision="allowed" if decision.allowed else "denied",
            policies=tuple(one for one in map(word, decision.reasons[:_MOST_POLICIES]) if one is not None),
        )
        self._recorder.record(access, actor=_actor(decision.principal), study=_study(kind, name))

    def _is_new(self, decision: Decision) -> bool:
        key, now = (decision.principal, decision.action, decision.resource), self._clock.now()
        with self._lock:
            is_new = not 0 <= now - self._known.get(key, -_QUIET_SECONDS) < _QUIET_SECONDS
            if len(self._known) >= _MOST_KNOWN:
                # Whoever asks for ever new things is told apart no more: one entry for all of them in a minute.
                self._known = {one: at for one, at in self._known.items() if 0 <= now - at < _QUIET_SECONDS}
                if key not in self._known and len(self._known) >= _MOST_KNOWN:
                    return False
            if is_new:
                self._known[key] = now
            return is_new


def is_routine(decision: Decision) -> bool:
    """Whether a decision about access is not recorded, whoever it is about."""
    return decision.allowed and decision.action in ROUTINE


def login_entry(outcome: str, method: str, reason: str = "") -> Login:
    """A login as an entry: who it was is the `actor` of `record`, a `Person`.

    Raises:
        CodecError: There is no such outcome.
    """
    match outcome:
        case "accepted" | "refused" | "stepped-up" | "ended":
            return Login(outcome, word(method) or "unknown", word(reason))
        case _:
            raise CodecError("a login is accepted, refused, stepped-up or ended")


def attestation_entry(event: AttestationEvent) -> Event | None:
    """What became of an attestation or a key as an entry; None where nothing is to be recorded."""
    measurement = event.measurement if len(event.measurement) in {64, 96, 128} else None
    key = canonical.digest(event.key.encode())
    match event.what:
        case "attested" | "registered":
            return AttestationVerdict(word(event.kind) or "unknown", "accepted", measurement)
        case "refused":
            # A clause is words with spaces, in which a machine's name may stand: its digest tells equal ones.
            clause = f"clause-{canonical.digest(event.reason.encode())[:16]}"
            return AttestationVerdict(word(event.kind) or "unknown", "refused", measurement, reason=clause)
        case "released":
            return KeyChange("released", key, word(event.subject) or "unknown", _site(event.site), measurement)
        case "closed":
            return KeyChange("release-revoked", key, word(event.subject) or "unknown", _site(event.site), measurement)


def _of_roster(data: bytes) -> RosterSigned:
    signed = canonical.decode(data, SignedRoster)
    roster = canonical.decode(signed.roster, Roster)
    return RosterSigned(rosters.roster_digest(signed), len(roster.members), len(signed.endorsements))


def _keys(identity: Identity) -> Iterable[tuple[str, Digest]]:
    """An identity's keys, each with what it is for; of two, the first opens connections."""
    held = certificate.split(identity.certificate)
    purposes = _PURPOSES if len(held) > 1 else ("identity",)
    for purpose, one in zip(purposes, held, strict=False):
        yield purpose, canonical.digest(signing.public_bytes(certificate.public_key(one)))


def _resource(kind: str, name: str) -> str:
    """What was acted on, as a word; what a stranger wrote into an address only as its digest."""
    whole = f"{kind}:{name}" if name else kind
    return word(whole) or f"{word(kind) or 'unknown'}:sha256-{canonical.digest(name.encode())[:32]}"


def _study(kind: str, name: str) -> StudyId | None:
    """The study that a resource is of, or belongs to."""
    try:
        return StudyId(digest_name(name.partition(".")[0])) if kind in {"Study", "Run"} else None
    except CodecError:
        return None


def _actor(principal: str) -> SiteId | Person:
    kind, _, name = principal.partition(" ")
    if kind == "Person":
        # Decisions, grants and reviews name a person without the issuer: one person has one pseudonym.
        issuer, _, subject = name.partition(" ")
        return Person(subject if subject and ":" in issuer else name)
    return _site(name) or SiteId("anyone")


def _site(name: str) -> SiteId | None:
    try:
        return site_id(name)
    except CodecError:
        return None
