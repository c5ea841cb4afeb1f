"""Every seam between what Wardround does and the outside: the services name these, adapters fill them.

All ports are synchronous, so that a simulated world can drive the services step by step; the asynchronous
rim is the web server in `wardround.hub`.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal, Protocol, TypeVar

from wardround.clinical.contract import DataContract
from wardround.clinical.table import StudyTable
from wardround.ids import CommandId, Digest, RunId, SiteId, StudyId
from wardround.protocol.messages import (
    Assignment,
    Audit,
    CohortAnswer,
    Contribution,
    Decision,
    Evaluation,
    Identity,
    Kind,
    PairAnswer,
    Proposal,
    Receipt,
    Role,
    RunStatus,
    StudyStatus,
    TaskRequest,
)
from wardround.protocol.plan import BlobRef, SignedPlan

__all__ = [
    "Accounts",
    "Anchor",
    "AuditLog",
    "Blobs",
    "Bounds",
    "Clock",
    "Containment",
    "Ending",
    "Entropy",
    "EventLog",
    "Files",
    "HubClient",
    "KeyStore",
    "Launcher",
    "Pool",
    "RecordSource",
    "Registry",
    "Started",
    "Trained",
    "Upload",
    "Usage",
    "Vault",
    "Violation",
    "Worker",
]

_Result = TypeVar("_Result")


class Clock(Protocol):
    """Seconds since 1970-01-01 UTC; deadlines must mean the same after a restart."""

    def now(self) -> float:
        """The present instant."""


class Entropy(Protocol):
    """Unpredictable bytes."""

    def draw(self, size: int) -> bytes:
        """`size` bytes from a cryptographic generator."""


class EventLog(Protocol):
    """Append-only streams of events: ``(stream, seq)`` is unique, and seq counts from 1 without gaps."""

    def read(self, stream: str, *, after: int = 0) -> list[bytes]:
        """Events of `stream` in order, from seq ``after + 1``."""

    def append(
        self,
        stream: str,
        events: Sequence[bytes],
        *,
        after: int,
        receipt: tuple[SiteId, CommandId, bytes] | None = None,
    ) -> None:
        """Add `events` as seq ``after + 1 …`` and, in the same transaction, what their command was answered.

        When it returns, all of it survives a crash; when it raises, none of it is there.

        Raises:
            ConflictError: Another writer has written seq ``after + 1``, or this command's receipt.
            StorageFullError: The disk is full.
            UnavailableError: The database did not answer.
        """

    def receipt(self, sender: SiteId, command: CommandId) -> bytes | None:
        """What this command was answered, if it was."""

    def streams(self, prefix: str) -> list[str]:
        """Names of all streams that begin with `prefix`, sorted."""


class Registry(Protocol):
    """Who is enrolled, and which invites are open. An invite is stored by the SHA-256 of its secret.

    `identity` and `revoke` raise `NotFoundError` where nobody is enrolled under the name.
    """

    def add_invite(self, invite: Digest, name: SiteId, role: Role, expires: float) -> None:
        """Open an invite for one newcomer.

        Raises:
            ConflictError: The same invite exists.
        """

    def invited(self, invite: Digest, now: float) -> tuple[SiteId, Role]:
        """Whom an open invite is for.

        Raises:
            InviteError: Unknown, expired, or used.
        """

    def enrol(self, invite: Digest, identity: Identity, now: float) -> None:
        """Use up the invite and store the identity, in one transaction; a new certificate replaces the name's old one.

        Raises:
            InviteError: Unknown, expired, or used.
        """

    def add_identity(self, identity: Identity) -> None:
        """Store an identity without an invite: the operator's own."""

    def identity(self, name: SiteId) -> Identity:
        """The enrolled identity."""

    def identities(self) -> list[Identity]:
        """All enrolled identities, by name."""

    def replace(self, identity: Identity, *, before: bytes) -> None:
        """Give an enrolled name another certificate.

        Raises:
            ConflictError: Its certificate is not `before` any more, or it was revoked.
        """

    def revoked(self) -> frozenset[SiteId]:
        """Names that were revoked and not enrolled again."""

    def revoke(self, name: SiteId) -> None:
        """Forget an identity: its requests are refused from now on."""


class Upload(Protocol):
    """Bytes on their way into a `Blobs` store, kept across interruptions until committed or discarded."""

    @property
    def offset(self) -> int:
        """How many bytes are held."""

    def append(self, data: bytes | bytearray | memoryview) -> None:
        """Add bytes at the end.

        Raises:
            StorageFullError: The disk is full; what is held stays held.
        """

    def commit(self, expected: Digest | None = None) -> BlobRef:
        """Make the bytes a blob; they survive a crash once this returns.

        Raises:
            DigestMismatchError: They are not `expected`; the upload is discarded.
        """

    def close(self) -> None:
        """Let go, keeping what is held so that `Blobs.upload` of the same name resumes."""

    def discard(self) -> None:
        """Forget the bytes."""


class AuditLog(Protocol):
    """A tamper-evident log of entries, one writer, many threads. Once it failed to write, it raises until reopened."""

    @property
    def origin(self) -> str:
        """The log's name, in every checkpoint."""

    @property
    def size(self) -> int:
        """How many entries are durable."""

    def enqueue(self, entries: Sequence[bytes]) -> Callable[[], int]:
        """Put entries in line, in this order; the function that is given waits until they are durable.

        It gives the index of the first, and raises `StorageFullError` or `UnavailableError` where they were not written.

        Raises:
            CodecError: An entry is too long.
            UnavailableError: The log failed before, or is closed.
        """

    def read(self, start: int, stop: int) -> list[bytes]:
        """The durable entries ``[start, stop)``.

        Raises:
            AuditError: Not all of them are there.
        """

    def publish(self) -> bytes:
        """Sign a checkpoint over all that is durable, put it with its tiles, and give it; nothing new, the last one."""

    def file(self, path: str) -> bytes | None:
        """A file of the log as `wardround.audit.tile` names it, or a checkpoint; None where there is none."""

    def keep_witnessed(self, checkpoint: bytes) -> None:
        """Keep a checkpoint of this log that enough witnesses signed, for `file` to give.

        Raises:
            AuditError: It is none of this log's.
        """


class Blobs(Protocol):
    """Content-addressed bytes. What reads a blob raises `NotFoundError` where there is no such blob."""

    def size(self, digest: Digest) -> int:
        """Length in bytes."""

    def has(self, digest: Digest) -> bool:
        """Whether there is such a blob."""

    def read(self, digest: Digest, start: int, stop: int) -> bytes | memoryview:
        """The bytes ``[start, stop)``."""

    def local_path(self, digest: Digest) -> str | None:
        """Path of the blob where it is a whole file of this machine, else None."""

    def chunks(self, digest: Digest, start: int, stop: int, size: int) -> Iterator[bytes | memoryview]:
        """The bytes ``[start, stop)`` in pieces of `size`; a piece is valid until the next is asked for."""

    def put(self, data: bytes) -> BlobRef:
        """Store small bytes durably."""

    def upload(self, name: str) -> Upload:
        """Begin an upload, or resume the one of this name. Names are letters, digits, '.' and '-'."""

    def delete(self, digests: Iterable[Digest]) -> None:
        """Forget blobs; those that are not there are passed over."""


class Pool(Protocol):
    """Workers for independent pieces of arithmetic: threads of this machine, or a cluster."""

    def map(self, task: Callable[[int], _Result], starts: Sequence[int]) -> Iterator[_Result]:
        """What `task` gives for each start, in order; made a little ahead of the reader, never all at once."""


class Vault(Protocol):
    """A node's local state: small values, encrypted at rest, each durable when `put` returns."""

    def get(self, name: str) -> bytes | None:
        """The value, or None.

        Raises:
            CryptoError: What lies there was altered, or sealed under another key.
        """

    def put(self, name: str, value: bytes) -> None:
        """Store or replace a value.

        Raises:
            StorageFullError: The disk is full; the old value stays.
        """

    def add(self, name: str, value: bytes) -> None:
        """Store a value under a name that has none; of several writers, also in other processes, one succeeds.

        Raises:
            ConflictError: There is a value of this name; it stays.
            StorageFullError: The disk is full.
        """

    def delete(self, name: str) -> None:
        """Forget a value, if there is one."""

    def names(self, prefix: str) -> list[str]:
        """Names that begin with `prefix`, sorted."""


class Anchor(Protocol):
    """Small values kept apart from the vault, so that a vault that was put back to an earlier state is noticed."""

    def get(self, name: str) -> bytes | None:
        """The value, or None."""

    def put(self, name: str, value: bytes) -> None:
        """Store or replace a value; durable when this returns."""


class KeyStore(Protocol):
    """Keys that wrap data keys, in versions from 1. Raises `CryptoError` and `UnavailableError`, as it names them."""

    @property
    def name(self) -> str:
        """Which store and key this is; no secret."""

    def versions(self) -> tuple[int, ...]:
        """Versions that are there, ascending; none before the first `rotate`."""

    def wrap(self, key: bytes, context: bytes) -> tuple[int, bytes]:
        """The newest version, and a 32-byte data key wrapped under it and bound to `context`."""

    def unwrap(self, wrapped: bytes, version: int, context: bytes) -> bytes:
        """The data key; `CryptoError` where it was altered, is for another context, or the version is gone."""

    def rotate(self, above: int) -> int:
        """Make a version above `above` and every other; durable when this returns."""

    def destroy(self, version: int) -> None:
        """Destroy a version for ever; one that is not there is passed over."""


class Files(Protocol):
    """A node's folder of verified downloads, and its way to read an open file."""

    def fetch(self, ref: BlobRef, scope: str, hub: "HubClient", inline: bytes) -> str:
        """Path of a file with exactly the blob's bytes, taken from `inline` or downloaded where it is not there yet.

        Raises:
            DigestMismatchError: The hub sent other bytes.
            StorageFullError: The disk is full.
            UnavailableError: The hub did not answer.
        """

    def bytes_of(self, path: str) -> bytes:
        """A small fetched file's bytes."""

    def keep_only(self, scope: str, digests: frozenset[Digest]) -> None:
        """Forget the files of `scope` except these; what other scopes fetched stays."""

    def read(self, descriptor: int, size: int) -> bytes:
        """A small open file's bytes."""

    def chunks(self, descriptor: int, start: int, stop: int, size: int) -> Iterator[memoryview]:
        """An open file's bytes ``[start, stop)`` in pieces of `size`; each is valid until the next is asked for."""

    def remember(self, scope: str, number: int, descriptor: int) -> None:
        """Keep an open file's content as what is remembered after round `number`; durable, or `StorageFullError`."""

    def recall(self, scope: str, number: int, descriptor: int) -> Digest:
        """Fill an open file with what is remembered after round `number`, or zeros, and digest it; forget the rest."""

    def forget(self, scope: str, *, but_the_last: bool = False) -> None:
        """Forget what is remembered of `scope`."""

    def keep(self, scope: str, pieces: Iterable[memoryview]) -> tuple[int, BlobRef]:
        """Write pieces one after another into the one private file of `scope`: its open descriptor, and its content.

        What was in the file before is lost. `keep_only` of this scope with no digests forgets it.

        Raises:
            StorageFullError: The disk is full.
        """


class RecordSource(Protocol):
    """A hospital's records, read-only."""

    def load(self, contract: DataContract) -> StudyTable:
        """Read every record into the study table of `contract`: its columns, in its units, order and dtypes.

        Raises:
            ClinicalError: The records do not fit. The message names the column, never a value.
            UnavailableError: The source did not answer.
        """


@dataclass(frozen=True, slots=True)
class Trained:
    """What a worker did in one round.

    `update` is an open file descriptor of an anonymous file that holds a whole safetensors file
    (header and vector, checked), and `ref` its digest and size; the file belongs to the worker and is
    valid until its next `perform`. Both are None where the task was only to evaluate.
    """

    records: int
    update: int | None
    ref: BlobRef | None
    evaluation: Evaluation
    seconds: float


class Worker(Protocol):
    """A resident process of one run, with the run's records inside it."""

    @property
    def memory(self) -> int | None:
        """The open file in which `perform` finds, and leaves, what the site remembers; None where that is nothing."""

    def perform(
        self, number: int, kind: Kind, base: str, standardization: bytes, control: str = "", *, seed: bytes = b""
    ) -> Trained:
        """Evaluate the model in file `base`, then train from it when `kind` is "train".

        Args:
            number: The round, from which the seed of this round's shuffling is derived.
            kind: "train" or "evaluate".
            base: Path of a safetensors file with the plan's manifest.
            standardization: The global statistics' file, or empty where there are none.
            control: Path of the hub's control variate, float32 as long as the model, or empty where there is none.
            seed: In a private plan 32 bytes, from which all that it draws follows.

        Raises:
            TrainingError: The code failed or broke a limit; the process is gone, the next call starts another.
            TensorMismatchError: What it put out is not the plan's arrays, or not finite.
        """

    def close(self) -> None:
        """End the process."""


@dataclass(frozen=True, slots=True)
class Containment:
    """What a launcher keeps a process from.

    `contains_foreign_code` is the launcher's claim that code which nobody here has read may run in it; `denied` and
    `open_ways` say in words what such code cannot do, and what it still can.
    """

    contains_foreign_code: bool
    name: str
    denied: tuple[str, ...] = ()
    open_ways: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Violation:
    """A bound that a contained process ran into; `words` are ours, never the process's own."""

    kind: Literal["system-call", "memory", "processes", "processor", "clock", "channel", "update"]
    words: str


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a process may use: memory in bytes, all that it maps and shares; processes and threads together."""

    memory_bytes: int
    processes: int = 64


@dataclass(frozen=True, slots=True)
class Usage:
    """What a process and all that it started have used; what cannot be read is 0.

    `waiting` is for how much of the last ten seconds, in per cent, part of it waited for processor, memory and disk.
    """

    processor_seconds: float = 0.0
    peak_memory_bytes: int = 0
    refused_processes: int = 0
    waiting: tuple[float, float, float] = (0.0, 0.0, 0.0)


@dataclass(frozen=True, slots=True)
class Ending:
    """How a process ended: its exit status, or ``-n`` where signal n ended it, and the bound it ran into, if one."""

    status: int
    violation: Violation | None = None


class Started(Protocol):
    """A process, and all that it starts."""

    @property
    def pid(self) -> int:
        """Number of the process that the launcher itself started, on this machine."""

    @property
    def paused_seconds(self) -> float:
        """For how long, until now, it was held by somebody else than the caller of `pause`."""

    def pause(self) -> None:
        """Let none of it run, from when this returns until `resume`; twice is once.

        Raises:
            SandboxError: It could not be held.
        """

    def resume(self) -> None:
        """Let it run again, as far as nobody else holds it."""

    def usage(self) -> Usage:
        """What it has used so far."""

    def wait(self, seconds: float) -> bool:
        """Wait at most so long for it to end by itself, and say whether it has."""

    def kill(self) -> Ending:
        """End all of it and wait for that; once is enough, twice does no harm."""


class Launcher(Protocol):
    """How a worker process is started and contained."""

    @property
    def containment(self) -> Containment:
        """What it keeps a process from."""

    def start(
        self, command: Sequence[str], *, environment: Mapping[str, str], descriptors: Sequence[int], bounds: Bounds
    ) -> Started:
        """Start `command` in ``/``, with its own environment, no input or output, and nothing open but `descriptors`.

        The process gets its descriptors' numbers as further arguments; a launcher whose processes cannot inherit
        descriptors gives the path of a socket instead, from which they are received.

        Raises:
            SandboxError: It cannot be started, or not contained as the launcher says.
        """


class HubClient(Protocol):
    """A node's or researcher's view of its hub; every call is signed, and retried by the caller, not here.

    Every method may raise `UnavailableError` (no answer) and whatever error the hub answered with.
    """

    def next_task(self, request: TaskRequest) -> Assignment | None:
        """Wait for something to do; None when there was none in time."""

    def contribute(self, contribution: Contribution) -> Receipt:
        """Hand in the answer to a task."""

    def answer(self, answer: CohortAnswer) -> Receipt:
        """Hand in the answer to a step of a secure aggregation."""

    def pair(self, answer: PairAnswer) -> Receipt:
        """Hand in this site's part in setting up pair keys."""

    def plan(self, study: StudyId) -> SignedPlan:
        """A study's signed plan, unverified."""

    def identity(self, name: SiteId) -> Identity:
        """Who is enrolled under a name."""

    def studies(self) -> list[StudyStatus]:
        """Studies that name this identity."""

    def decide(self, decision: Decision) -> StudyStatus:
        """Say what the site's people decided."""

    def audit(self, audit: Audit) -> StudyStatus:
        """Hand in what the site's audit of a model came to."""

    def propose(self, proposal: Proposal) -> StudyStatus:
        """Hand in a signed plan."""

    def act(self, study: StudyId, action: Literal["start", "release", "withdraw"], reason: str) -> StudyStatus:
        """Start a study, release its model, or take it back."""

    def run(self, run: RunId, *, after: int = 0, wait_seconds: float = 0.0) -> RunStatus:
        """Where a run is, with its events after seq `after`; waits for a new one up to `wait_seconds`."""

    def download(self, scope: str, ref: BlobRef) -> AbstractContextManager[Iterator[memoryview]]:
        """A blob's bytes, unverified, resuming over broken connections; `scope` is a study or run id.

        A piece is valid until the next is asked for.
        """

    def upload(self, scope: str, ref: BlobRef, source: int) -> None:
        """Send a blob from the file descriptor `source`, resuming over broken connections."""


class Accounts(Protocol):
    """People's accounts and sessions: small documents with versions, encrypted at rest, each durable when written.

    A document is written only over the version that was read, so that of two that use up the same code, step or
    session at once, also in different processes, exactly one succeeds.
    """

    def read(self, name: str) -> tuple[bytes, int] | None:
        """A document and its version, or None where there is none.

        Raises:
            CryptoError: What lies there was altered, or sealed under another key.
            UnavailableError: The store did not answer.
        """

    def write(self, name: str, body: bytes, *, after: int) -> None:
        """Store a document as its next version; `after` is 0 where there must be none yet.

        Raises:
            ConflictError: Its version is another by now; it stays.
            StorageFullError: The disk is full; the old one stays.
            UnavailableError: The store did not answer.
        """

    def delete(self, name: str, *, after: int) -> None:
        """Forget a document of exactly this version.

        Raises:
            ConflictError: Its version is another by now, or it is gone.
            UnavailableError: The store did not answer.
        """

    def names(self, prefix: str) -> list[str]:
        """Names that begin with `prefix`, sorted."""
