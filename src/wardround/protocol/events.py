"""What has happened: the events of studies and runs, in the form in which they are stored for ever.

A stream of events is the only truth about a study or a run; every state is a fold over it. An event
is a fact in the past tense, public, with the instant `at` in seconds since 1970-01-01 UTC. The schema
rules are those of messages: fields are only added, with a default, and a meaning never changes.
"""

from typing import TypeAlias

import msgspec

from wardround.codec import canonical
from wardround.ids import RunId, SiteId, StudyId
from wardround.protocol.messages import Evaluation, Kind
from wardround.protocol.plan import Asynchronous, BlobRef, Screening
from wardround.protocol.secure import SecureTerms
from wardround.secagg.terms import Section, Terms

__all__ = [
    "CohortAbandoned",
    "CohortFormed",
    "CohortOpened",
    "DeadlineExtended",
    "GatheringExtended",
    "RoundClosed",
    "RoundCombined",
    "RoundOpened",
    "RunCompleted",
    "RunEvent",
    "RunOpened",
    "RunStarted",
    "RunStopped",
    "RunTerms",
    "SiteAbsent",
    "SiteDecided",
    "SiteDeclined",
    "SiteLeft",
    "StudyEnded",
    "StudyEvent",
    "StudyProposed",
    "UpdateAccepted",
    "UpdateRefused",
    "UpdateSetAside",
    "decode_run",
    "decode_study",
    "encode",
    "plain",
]


class _Event(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="event"):
    at: float


class RunTerms(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What of the plan decides how a run goes; `update_size` is the exact size of an update's file in bytes.

    With `is_controlled`, sites work from the first vector of the server rule's state, too. At the end a site gives
    `appraisal_numbers` for the appraisal.
    """

    run: RunId
    study: StudyId
    sites: tuple[SiteId, ...]
    quorum: int
    agenda: tuple[Kind, ...]
    update_size: int
    statistics_size: int
    max_records: int
    round_timeout_seconds: float
    absence_seconds: float
    patience: int
    expires: float
    secure: SecureTerms | None = None
    asynchronous: Asynchronous | None = None
    screening: Screening | None = None
    is_controlled: bool = False
    appraisal_numbers: int = 0

    def buffered(self, number: int) -> Asynchronous | None:
        """How a round takes late updates: not at all, unless it trains and the plan is asynchronous."""
        return self.asynchronous if self.agenda[number - 1] == "train" else None

    def oldest(self, number: int) -> int:
        """The earliest round whose answers still count in round `number`: itself, but in asynchronous training."""
        late = self.buffered(number)
        return max(number - late.max_staleness, self.agenda.index("train") + 1) if late else number

    def sections(self, number: int) -> tuple[Section, ...]:
        """What a round adds up in secret: nothing, without secure aggregation."""
        return self.secure.sections.get(self.agenda[number - 1], ()) if self.secure else ()


class RunOpened(_Event, frozen=True, tag="run-opened"):
    """A run exists, and gathers its sites."""

    terms: RunTerms
    base: BlobRef


class GatheringExtended(_Event, frozen=True, tag="gathering-extended"):
    """Too few sites were there to open the next round; the hub waits on."""

    present: tuple[SiteId, ...]
    deadline: float


class RoundOpened(_Event, frozen=True, tag="round-opened"):
    """A round asks these sites."""

    number: int
    kind: Kind
    sites: tuple[SiteId, ...]
    deadline: float


class UpdateAccepted(_Event, frozen=True, tag="update-accepted"):
    """A site's answer counts in this round; `trained` is the round it was asked in, where that was an earlier one."""

    number: int
    site: SiteId
    records: int
    update: BlobRef | None
    evaluation: Evaluation | None
    train_seconds: float
    nonce: bytes = b""
    trained: int = 0


class SiteDeclined(_Event, frozen=True, tag="site-declined"):
    """A site takes no part in this round, and says why."""

    number: int
    site: SiteId
    reason: str


class UpdateRefused(_Event, frozen=True, tag="update-refused"):
    """An answer does not count, and why; `late` when the round had closed."""

    number: int
    site: SiteId
    reason: str
    late: bool = False


class UpdateSetAside(_Event, frozen=True, tag="update-set-aside"):
    """Screening found an accepted update unlike the others, or late beyond use; it is not in the aggregate."""

    number: int
    site: SiteId
    reason: str


class SiteAbsent(_Event, frozen=True, tag="site-absent"):
    """A site of the round was not heard of for a while, and is no longer waited for."""

    number: int
    site: SiteId


class SiteLeft(_Event, frozen=True, tag="site-left"):
    """A site took its approval back, or its updates were set aside too often; it is asked no more."""

    site: SiteId
    reason: str


class DeadlineExtended(_Event, frozen=True, tag="deadline-extended"):
    """The deadline passed without a quorum; the round waits on."""

    number: int
    deadline: float
    extensions: int


class RoundClosed(_Event, frozen=True, tag="round-closed"):
    """These sites' updates, and no others, make this round's aggregate."""

    number: int
    contributors: tuple[SiteId, ...]


class CohortFormed(_Event, frozen=True, tag="cohort-formed"):
    """The contributors of a closed round begin to add up their vectors in secret."""

    number: int
    cohort: int
    terms: Terms


class CohortOpened(_Event, frozen=True, tag="cohort-opened"):
    """The sum over `survivors` can be computed; `blamed` gave shares that do not fit, or were left out."""

    number: int
    cohort: int
    survivors: tuple[SiteId, ...]
    blamed: dict[SiteId, str]


class CohortAbandoned(_Event, frozen=True, tag="cohort-abandoned"):
    """The cohort's sum will never be computed; its transcript is never used again."""

    number: int
    cohort: int
    reason: str
    blamed: dict[SiteId, str]


class RoundCombined(_Event, frozen=True, tag="round-combined"):
    """The round's result: the new model, the global statistics, and the server rule's own state.

    `evaluation` is the mean over all sites, where only that is known. `norm` is the median norm of the updates, where
    they were screened. `findings` are documents of canonical JSON by name: "summaries", "analyses" (a list of
    `analysis.State`) and "appraisal". When all analyses are done, `skipped` rounds that they could take are not held.
    `is_aggregated` is false where too few updates were left to make one.
    """

    number: int
    model: BlobRef
    standardization: BlobRef | None
    server_state: tuple[BlobRef, ...]
    evaluation: Evaluation | None = None
    norm: float | None = None
    findings: dict[str, BlobRef] = {}
    skipped: int = 0
    is_aggregated: bool = True


class RunCompleted(_Event, frozen=True, tag="run-completed"):
    """Every round of the agenda was combined; `model` is the result."""

    model: BlobRef


class RunStopped(_Event, frozen=True, tag="run-stopped"):
    """The run ended early; `reason` names who must act."""

    reason: str


RunEvent: TypeAlias = (
    RunOpened
    | GatheringExtended
    | RoundOpened
    | UpdateAccepted
    | SiteDeclined
    | UpdateRefused
    | UpdateSetAside
    | SiteAbsent
    | SiteLeft
    | DeadlineExtended
    | RoundClosed
    | CohortFormed
    | CohortOpened
    | CohortAbandoned
    | RoundCombined
    | RunCompleted
    | RunStopped
)


class StudyProposed(_Event, frozen=True, tag="study-proposed"):
    """A researcher's signed plan reached the hub."""

    study: StudyId
    title: str
    researcher: SiteId
    participants: tuple[SiteId, ...]
    min_participants: int
    expires: float
    audits: int = 0


class SiteDecided(_Event, frozen=True, tag="site-decided"):
    """A site's people decided; the signed decision is kept whole."""

    site: SiteId
    verdict: str
    person: str
    reason: str
    document: bytes


class RunStarted(_Event, frozen=True, tag="run-started"):
    """The study's next run was opened with these sites."""

    run: RunId
    sites: tuple[SiteId, ...]


class StudyEnded(_Event, frozen=True, tag="study-ended"):
    """Released, withdrawn, refused or expired, and nothing more happens; or the run stopped, or gave its `model`."""

    outcome: str
    reason: str
    model: str = ""


class SiteAudited(_Event, frozen=True, tag="site-audited"):
    """A site audited the last run's model; the signed audit is kept whole."""

    site: SiteId
    run: RunId
    model: str
    passed: bool
    report: str
    person: str
    document: bytes


StudyEvent: TypeAlias = StudyProposed | SiteDecided | RunStarted | StudyEnded | SiteAudited

_RUN: msgspec.json.Decoder[RunEvent] = msgspec.json.Decoder(RunEvent)
_STUDY: msgspec.json.Decoder[StudyEvent] = msgspec.json.Decoder(StudyEvent)


def encode(event: RunEvent | StudyEvent) -> bytes:
    """Canonical bytes for the event log."""
    return canonical.encode(event)


def decode_run(data: bytes) -> RunEvent:
    """Read back what `encode` wrote to a run's stream."""
    return _RUN.decode(data)


def decode_study(data: bytes) -> StudyEvent:
    """Read back what `encode` wrote to a study's stream."""
    return _STUDY.decode(data)


def plain(data: bytes) -> dict[str, object]:
    """A stored event as plain values, for `watch` and ``--json``."""
    value: dict[str, object] = msgspec.json.decode(data)
    return value
