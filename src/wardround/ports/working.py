"""Ports to what works: time and chance, files, records, workers and their containment, the hub."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal, Protocol, TypeVar

from wardround.clinical.contract import DataContract
from wardround.clinical.table import StudyTable
from wardround.ids import Digest, RunId, SiteId, StudyId
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
    RunStatus,
    StudyStatus,
    TaskRequest,
)
from wardround.protocol.plan import BlobRef, SignedPlan

__all__ = [
    "Bounds",
    "Clock",
    "Containment",
    "Ending",
    "Entropy",
    "Files",
    "HubClient",
    "Launcher",
    "Pool",
    "RecordSource",
    "Started",
    "Trained",
    "Usage",
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


class Pool(Protocol):
    """Workers for independent pieces of arithmetic: threads of this machine, or a cluster."""

    def map(self, task: Callable[[int], _Result], starts: Sequence[int]) -> Iterator[_Result]:
        """What `task` gives for each start, in order; made a little ahead of the reader, never all at once."""


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
