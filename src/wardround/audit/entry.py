"""What an audit log says: one typed event in one envelope, as canonical JSON of at most 8 KiB.

An entry holds digests, counts, sizes, budgets, names of machines and enumerated words: what an auditor asks for. It
never holds a record's value, and a person only as ``person:`` and a pseudonym whose key can be destroyed (see
`wardround.audit.pseudonym`). Text from outside goes in only as a `Word`, which has no spaces and 96 characters.

How it may grow: a kind or a field is never removed, renamed or narrowed; a new field has a default, which is not
written, so that entries of before keep their bytes; a new kind is new. Who reads an entry of a newer version gets
it as `NewerEntry`: it counts in the tree, and its time and kind are known.
"""

from typing import Annotated, Final, Literal

import msgspec

from wardround.codec import canonical
from wardround.errors import CodecError

__all__ = [
    "MAX_ENTRY_BYTES",
    "MAX_MILLIS",
    "Access",
    "AttestationVerdict",
    "BudgetChange",
    "ClockSetBack",
    "ContributionVerdict",
    "DataAccess",
    "Deletion",
    "EgressRefused",
    "Entry",
    "Event",
    "KeyChange",
    "Left",
    "LogStarted",
    "Login",
    "NewerEntry",
    "PackageVerdict",
    "PeerRefused",
    "PolicyChange",
    "Release",
    "RosterSigned",
    "RoundPerformed",
    "SandboxViolation",
    "StudyDecision",
    "decode",
    "encode",
    "kind_of",
]

MAX_ENTRY_BYTES: Final = 8 * 1024

Word = Annotated[str, msgspec.Meta(pattern=r"\A[A-Za-z0-9][A-Za-z0-9._:/@-]{0,95}\Z")]
Actor = Annotated[str, msgspec.Meta(pattern=r"\A(?:[a-z][a-z0-9-]{0,62}|person:[0-9a-f]{32})\Z")]
Sha256 = Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{64}\Z")]
Measurement = Annotated[str, msgspec.Meta(pattern=r"\A(?:[0-9a-f]{64}|[0-9a-f]{96}|[0-9a-f]{128})\Z")]
Study = Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{64}\Z")]
Run = Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{64}\.[1-9][0-9]{0,5}\Z")]
Slip = Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{32}\Z")]
Count = Annotated[int, msgspec.Meta(ge=0, le=(1 << 53) - 1)]
Amount = Annotated[float, msgspec.Meta(ge=0)]
MAX_MILLIS: Final = 253_402_300_799_999
"""The end of the year 9999."""
Millis = Annotated[int, msgspec.Meta(ge=0, le=MAX_MILLIS)]


class _Event(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, tag_field="kind"):
    """What all events share: how they are written."""


class LogStarted(_Event, frozen=True, tag="log-started"):
    """The log's first entry, and the first after each start of its process."""

    version: Word


class ClockSetBack(_Event, frozen=True, tag="clock-set-back"):
    """The machine's clock read less than the entry before: `read` in place of `expected`, in milliseconds."""

    expected: Millis
    read: Millis


class Login(_Event, frozen=True, tag="login"):
    """A person or machine logged in, stepped up, logged out, or was refused."""

    outcome: Literal["accepted", "refused", "stepped-up", "ended"]
    method: Word
    reason: Word | None = None


class Access(_Event, frozen=True, tag="access"):
    """A decision about a request, with the policies that made it."""

    action: Word
    resource: Word
    decision: Literal["allowed", "denied"]
    policies: Annotated[tuple[Word, ...], msgspec.Meta(max_length=16)] = ()


class StudyDecision(_Event, frozen=True, tag="study"):
    """What was decided about a study."""

    decision: Literal["proposed", "approved", "refused", "started", "withdrawn", "completed"]
    reason: Word | None = None


class Left(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Something that left the site."""

    what: Literal["update", "masked-update", "statistics", "evaluation", "model", "share", "proof", "report"]
    digest: Sha256
    size_bytes: Count


class RoundPerformed(_Event, frozen=True, tag="round"):
    """A site's part in a round, and all that left for it."""

    round: Count
    left: Annotated[tuple[Left, ...], msgspec.Meta(max_length=32)]
    dataset: Word | None = None
    purpose: Literal["training", "analysis", "evaluation"] = "training"


class ContributionVerdict(_Event, frozen=True, tag="contribution"):
    """What the hub did with a site's contribution."""

    site: Actor
    outcome: Literal["accepted", "refused"]
    round: Count
    digest: Sha256 | None = None
    size_bytes: Count = 0
    reason: Word | None = None


class Release(_Event, frozen=True, tag="release"):
    """A value left the privacy boundary for good: a model or a result."""

    digest: Sha256
    size_bytes: Count
    to: Word
    epsilon: Amount = 0.0
    delta: Amount = 0.0


class PeerRefused(_Event, frozen=True, tag="peer-refused"):
    """A hub or site broke the rules, and was refused; `code` is the error's."""

    peer: Actor
    code: Word
    evidence: Sha256 | None = None


class KeyChange(_Event, frozen=True, tag="key"):
    """A key was issued, renewed, rotated, revoked or destroyed, or given to an enclave, or taken back from it."""

    change: Literal["issued", "renewed", "rotated", "revoked", "destroyed", "released", "release-revoked"]
    key: Sha256
    purpose: Word
    holder: Actor | None = None
    measurement: Measurement | None = None


class PolicyChange(_Event, frozen=True, tag="policy"):
    """A policy was replaced."""

    policy: Word
    after: Sha256
    before: Sha256 | None = None


class RosterSigned(_Event, frozen=True, tag="roster"):
    """A roster of keys got an officer's signature, or enough of them."""

    roster: Sha256
    members: Count
    endorsements: Count


class BudgetChange(_Event, frozen=True, tag="budget"):
    """A privacy budget was granted, spent, given back or found exhausted."""

    change: Literal["granted", "spent", "refunded", "refused"]
    dataset: Word
    epsilon: Amount
    delta: Amount = 0.0


class DataAccess(_Event, frozen=True, tag="data-access"):
    """A dataset is read for a study: the basis of the accounting of disclosures.

    It is written before the first record is read; a second one, with `is_outcome`, says how many records there were.
    """

    dataset: Word
    purpose: Literal["training", "analysis", "evaluation", "audit", "quality", "unlearning", "preview"]
    legal_basis: Word | None = None
    records: Count = 0
    contract: Sha256 | None = None
    is_outcome: bool = False


class Deletion(_Event, frozen=True, tag="deletion"):
    """Something was deleted: files, a model, a person's key."""

    what: Word
    count: Count = 1
    digest: Sha256 | None = None


class SandboxViolation(_Event, frozen=True, tag="sandbox"):
    """Foreign code tried what its sandbox forbids."""

    rule: Word
    package: Sha256 | None = None


class PackageVerdict(_Event, frozen=True, tag="package"):
    """A code package was verified, approved or refused."""

    package: Sha256
    outcome: Literal["verified", "approved", "refused"]
    reason: Word | None = None


class AttestationVerdict(_Event, frozen=True, tag="attestation"):
    """Evidence of a machine was accepted or refused."""

    platform: Word
    outcome: Literal["accepted", "refused"]
    measurement: Measurement | None = None
    reason: Word | None = None


class EgressRefused(_Event, frozen=True, tag="egress"):
    """Something was about to leave that may not."""

    reason: Word
    digest: Sha256 | None = None
    size_bytes: Count = 0


Event = (
    LogStarted
    | ClockSetBack
    | Login
    | Access
    | StudyDecision
    | RoundPerformed
    | ContributionVerdict
    | Release
    | PeerRefused
    | KeyChange
    | PolicyChange
    | RosterSigned
    | BudgetChange
    | DataAccess
    | Deletion
    | SandboxViolation
    | PackageVerdict
    | AttestationVerdict
    | EgressRefused
)
"""Everything that may be recorded."""


class Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """An event with its time (milliseconds since 1970 UTC), who did it, and the study and run that it belongs to.

    `slip` names the note by which another process handed the entry to the log's writer: no note is taken twice.
    """

    at: Millis
    actor: Actor
    event: Event
    study: Study | None = None
    run: Run | None = None
    slip: Slip | None = None


class NewerEntry(msgspec.Struct, frozen=True):
    """An entry of a newer version: what of it can be read."""

    at: Millis
    kind: str


class _Loose(msgspec.Struct, frozen=True):
    at: Millis
    event: dict[str, msgspec.Raw]


def encode(entry: Entry) -> bytes:
    """The entry's canonical bytes.

    Raises:
        CodecError: A field breaks its rule, or the whole is too large.
    """
    data = canonical.encode(entry)
    if len(data) > MAX_ENTRY_BYTES:
        raise CodecError(f"an audit entry may have {MAX_ENTRY_BYTES} bytes, this has {len(data)}: log digests")
    # msgspec checks patterns and bounds when it reads, not when a struct is made; reading back is that check.
    canonical.decode(data, Entry)
    return data


def decode(data: bytes) -> Entry | NewerEntry:
    """Read an entry.

    Raises:
        CodecError: It is neither an entry nor one of a newer version.
    """
    if len(data) > MAX_ENTRY_BYTES:
        raise CodecError(f"an audit entry may have {MAX_ENTRY_BYTES} bytes, this has {len(data)}")
    try:
        return canonical.decode(data, Entry)
    except CodecError:
        return _newer(data)


def kind_of(entry: Entry | NewerEntry) -> str:
    """The event's kind, as written."""
    return entry.kind if isinstance(entry, NewerEntry) else str(entry.event.__struct_config__.tag)


def _newer(data: bytes) -> NewerEntry:
    try:
        loose = msgspec.json.decode(data, type=_Loose)
        kind = msgspec.json.decode(loose.event["kind"], type=Word)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, KeyError):
        raise CodecError("not an audit entry: neither of this version nor of a newer one") from None
    return NewerEntry(loose.at, kind)
