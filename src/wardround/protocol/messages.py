"""Everything that crosses the wire between hub, nodes and researchers, frozen.

Documents that people sign or read (plans, decisions) are canonical JSON; messages between machines
are MessagePack. Both are decoded strictly into these structs: unknown fields, wrong types and
oversized messages are refused.

Schema rules: a field is only ever added, with a default; a meaning never changes; ``WIRE_VERSION``
rises when an old peer could misread a new message.
"""

from typing import Literal, TypeAlias, TypeVar

import msgspec

from wardround.codec import canonical
from wardround.errors import CodecError
from wardround.ids import CommandId, Digest, RunId, SiteId, StudyId
from wardround.protocol.plan import BlobRef, SignedPlan
from wardround.secagg.messages import Answer, Step
from wardround.secagg.pairing import PairOffer

__all__ = [
    "INLINE_BYTES",
    "MAX_MESSAGE_BYTES",
    "WIRE_VERSION",
    "Assignment",
    "Audit",
    "CohortAnswer",
    "CohortTask",
    "Contribution",
    "Decision",
    "Divergence",
    "Enrolled",
    "Enrolment",
    "Evaluation",
    "Identity",
    "Kind",
    "PairAnswer",
    "PairTask",
    "Problem",
    "Proposal",
    "Receipt",
    "Renewal",
    "RunStatus",
    "StudyStatus",
    "Task",
    "TaskRequest",
    "decode",
    "encode",
]

WIRE_VERSION = 1
MAX_MESSAGE_BYTES = 4 * 1024 * 1024
INLINE_BYTES = 256 * 1024
"""Blobs up to this size ride inside the message that names them, which saves a request."""

Kind = Literal["statistics", "analysis", "train", "evaluate"]
Role = Literal["site", "researcher", "operator"]

_T = TypeVar("_T")
_ENCODER = msgspec.msgpack.Encoder()


class Enrolment(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A one-time invite's secret and PEM certificate requests for the newcomer's own keys.

    `certificate_request` is for the key that opens connections, `document_request` for the one that signs
    documents; where that is empty, one key does both.
    """

    invite: str
    certificate_request: bytes
    document_request: bytes = b""


class Enrolled(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The signed certificates, the authorities' (the first one issues), and where machines connect from now on.

    An empty `url` is where the question was asked.
    """

    name: SiteId
    role: Role
    certificate: bytes
    authority: bytes
    document: bytes = b""
    url: str = ""


class Renewal(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A PEM certificate request for a connection's next key, sent under the present one's signature."""

    certificate_request: bytes


class Identity(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Who is enrolled under a name, with the PEM certificate."""

    name: SiteId
    role: Role
    certificate: bytes


class Task(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag="task"):
    """What one site is asked to do in one round.

    `base` is the model version to evaluate and train from, in a round of analyses what these have come to, a
    canonical JSON list of `analysis.State`; `standardization` the global mean and
    standard deviation, once there are any; `control` the hub's control variate, where the algorithm has one.
    Their bytes may ride along inline. `notice` is what the site should know, such as that its last update was set
    aside. `counted` is the last round for which this site's update is in an aggregate.
    """

    run: RunId
    study: StudyId
    number: int
    kind: Kind
    base: BlobRef
    standardization: BlobRef | None = None
    base_inline: bytes = b""
    standardization_inline: bytes = b""
    notice: str = ""
    control: BlobRef | None = None
    control_inline: bytes = b""
    counted: int = 0


class CohortTask(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag="cohort"):
    """The next step of a secure aggregation, for one of its members; `cohort` is the attempt in this round."""

    run: RunId
    study: StudyId
    number: int
    cohort: int
    step: Step


class PairTask(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag="pair"):
    """Pair keys that one site is to set up: offers to make to `wanted`, and `offers` of others to accept."""

    run: RunId
    study: StudyId
    roster: Digest
    wanted: tuple[SiteId, ...] = ()
    offers: tuple[PairOffer, ...] = ()


Assignment: TypeAlias = Task | CohortTask | PairTask


class TaskRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Held by the hub until it has an assignment, or `wait_seconds` pass.

    With `run`, one of that run; without, one of any run that is not among `busy`.
    """

    busy: tuple[RunId, ...] = ()
    wait_seconds: float = 25.0
    run: RunId | None = None


class Divergence(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A site's last update beside what the model did since: the cosine between them, and both norms."""

    cosine: float | None
    norm: float
    aggregate_norm: float


class Evaluation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How the base model does on the site's held-out records; an undefined metric is None, never a number.

    `personal` are the metrics of the site's own model, where the plan has one. At the end, where the plan has an
    appraisal: `intervals` are 95 % bootstrap intervals at this site, `appraisal` its numbers, to be added over sites.
    """

    records: int
    metrics: dict[str, float | None]
    personal: dict[str, float | None] = {}
    divergence: Divergence | None = None
    intervals: dict[str, tuple[float, float]] = {}
    appraisal: tuple[float, ...] = ()


class Contribution(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A site's answer to a task: an update with its claimed number of records, an evaluation, or a refusal.

    `declined` says in words why the site takes no part in this round; then there is no update.
    Where the plan asks for secure aggregation there is neither update nor number of records, but a
    `nonce`: the site is ready for a cohort.
    """

    command: CommandId
    run: RunId
    number: int
    kind: Kind
    records: int = 0
    update: BlobRef | None = None
    evaluation: Evaluation | None = None
    declined: str = ""
    train_seconds: float = 0.0
    update_inline: bytes = b""
    nonce: bytes = b""


class CohortAnswer(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A member's answer to a `CohortTask`; a small masked vector rides along inline."""

    run: RunId
    number: int
    cohort: int
    answer: Answer
    inline: bytes = b""


class PairAnswer(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A site's answer to a `PairTask`: its own offers, and whose offers it accepted."""

    roster: Digest
    offers: tuple[PairOffer, ...] = ()
    accepted: tuple[SiteId, ...] = ()


class Receipt(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The hub's durable answer to a contribution, and what it has for the site to do next, if anything."""

    command: CommandId
    outcome: Literal["accepted", "refused", "round-closed"]
    reason: str = ""
    next: Assignment | None = None


class Proposal(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A signed plan on its way to the hub."""

    command: CommandId
    signed: SignedPlan


class Decision(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A site's answer to a study; `person` is who decided, `signature` is by the node's key over the rest."""

    command: CommandId
    study: StudyId
    site: SiteId
    verdict: Literal["approve", "refuse", "withdraw"]
    person: str
    reason: str
    decided_at: float
    signature: bytes = b""


class Audit(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a site's own audit of a run's last model came to: whether it passed, and no figure of it.

    `model` is the audited model's digest and `report` that of the report, which stays at the site; `person` is who
    answers for it, `signature` is by the node's key over the rest.
    """

    command: CommandId
    study: StudyId
    run: RunId
    site: SiteId
    model: Digest
    passed: bool
    report: Digest
    person: str
    audited_at: float
    signature: bytes = b""


class RunStatus(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Where a run is; what `watch` prints."""

    run: RunId
    phase: str
    round: int
    rounds: int
    model: BlobRef | None = None
    standardization: BlobRef | None = None
    findings: dict[str, BlobRef] = {}
    reason: str = ""
    events: tuple[dict[str, object], ...] = ()
    last_seq: int = 0


class StudyStatus(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Where a study is in its life, and what each site decided.

    Where the plan asks for audits: how many must pass, and what each site of the last run found: "passed", "failed",
    or nothing yet.
    """

    study: StudyId
    title: str
    phase: str
    decisions: dict[SiteId, str]
    runs: tuple[RunId, ...] = ()
    reason: str = ""
    audits: dict[SiteId, str] = {}
    audits_needed: int = 0


class Problem(msgspec.Struct, frozen=True):
    """RFC 9457 problem details; `type` is an error's code."""

    type: str
    title: str
    status: int
    detail: str
    who: str = ""
    challenge: str = ""
    hub_time: float = 0.0


def encode(message: msgspec.Struct) -> bytes:
    """MessagePack bytes of a message."""
    return _ENCODER.encode(message)


def decode(data: bytes, kind: type[_T]) -> _T:
    """Read one message strictly.

    Raises:
        CodecError: Too large, or not of this kind.
    """
    if len(data) > MAX_MESSAGE_BYTES:
        raise CodecError(f"a message may have at most {MAX_MESSAGE_BYTES} bytes")
    try:
        return msgspec.msgpack.decode(data, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise CodecError(f"not a {kind.__name__}: {error}") from None


def decision_bytes(decision: Decision) -> bytes:
    """What a site's key signs when its people decide about a study."""
    unsigned = msgspec.structs.replace(decision, signature=b"")
    return b"wardround decision 1\n" + canonical.encode(unsigned)


def audit_bytes(audit: Audit) -> bytes:
    """What a site's key signs when it hands in an audit."""
    unsigned = msgspec.structs.replace(audit, signature=b"")
    return b"wardround audit 1\n" + canonical.encode(unsigned)


def blob_digest(data: bytes) -> Digest:
    """The digest under which `data` is stored."""
    return canonical.digest(data)
