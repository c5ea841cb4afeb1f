"""What passes between a node and its worker process: typed messages over a socket pair, and open files.

    message = length (4 bytes, big-endian) + MessagePack of one struct, and up to four file descriptors

The node asks, the worker answers; nothing else is ever sent.

    Setup   + records, update, memory[, package]   ->  Ready | Failed
    Perform + base[, control]                      ->  Done | Failed

Hazard: study code lives in the worker process and can send any bytes here. So an answer holds no
free text, only numbers, known words and names that `wardround.training.worker` checks again.
"""

import socket
import time
from dataclasses import dataclass
from typing import Literal, Protocol

import msgspec
import numpy as np
import numpy.typing as npt

from wardround.errors import CodecError
from wardround.ids import SiteId
from wardround.protocol.messages import Divergence, Kind
from wardround.protocol.plan import Plan

__all__ = [
    "MAX_ANSWER_BYTES",
    "MAX_REQUEST_BYTES",
    "Answer",
    "Assignment",
    "Done",
    "Failed",
    "Learner",
    "Perform",
    "Ready",
    "Request",
    "Setup",
    "receive",
    "receive_with_files",
    "send",
]

MAX_REQUEST_BYTES = 64 * 1024 * 1024
MAX_ANSWER_BYTES = 1024 * 1024
_MAX_FILES = 4


class Setup(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="setup"):
    """Whose run this is, on how many records; `labels` is the number of label columns, `counted` the site's weight."""

    plan: Plan
    site: SiteId
    learner: str
    records: int
    labels: int
    counted: int


class Perform(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="perform"):
    """One round's work; `seed` is what a private plan's noise and samples are drawn from."""

    number: int
    kind: Kind
    standardization: bytes
    seed: bytes = b""


class Ready(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="ready"):
    """The learner is made."""


class Done(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="done"):
    """The update, if one was asked for, lies in its file; the rest is as in `protocol.messages.Evaluation`."""

    metrics: dict[str, float | None]
    personal: dict[str, float | None] = {}
    divergence: Divergence | None = None
    intervals: dict[str, tuple[float, float]] = {}
    appraisal: tuple[float, ...] = ()


class Failed(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="failed"):
    """The learner raised: why, the name of a built-in exception, and the line of study code, ``module:number``.

    `reason` is "plan" where model, package or learner cannot be loaded, "arrays" where the module's
    arrays are not the plan's, "memory" where there was not enough, and otherwise "code".
    """

    reason: Literal["plan", "arrays", "memory", "code"]
    error: str
    place: str = ""


Request = Setup | Perform
Answer = Ready | Done | Failed


@dataclass(frozen=True, slots=True, repr=False)
class Assignment:
    """All that a learner is given. It has no repr: a patient's value must not reach a log.

    Attributes:
        plan: The study's plan.
        site: The site's name.
        features: float32 ``(records, width)``, read-only, as in `clinical.table.StudyTable`.
        labels: float32 ``(records,)`` or ``(records, 2)``, read-only.
        held_out: bool ``(records,)``, read-only.
        vector: The update's flat vector in the model's dtype, writable; its bytes leave the process.
        memory: float32, what the site remembers from round to round (`wardround.training.memory`), writable.
        package: The code package's bytes, unverified, or empty.
        patients: int32 ``(records,)``, read-only: whose record it is, as in `clinical.table.StudyTable`.
        counted: For how much the site counts: in private training, how many patients it has, used or not.
    """

    plan: Plan
    site: SiteId
    features: npt.NDArray[np.float32]
    labels: npt.NDArray[np.float32]
    held_out: npt.NDArray[np.bool_]
    vector: npt.NDArray[np.floating]
    memory: npt.NDArray[np.float32]
    package: bytes
    patients: npt.NDArray[np.int32]
    counted: int


class Learner(Protocol):
    """What the worker process drives: a class that is made from an `Assignment`."""

    def perform(
        self,
        number: int,
        kind: Kind,
        base: int,
        standardization: bytes,
        control: int | None = None,
        *,
        seed: bytes = b"",
    ) -> Done:
        """Evaluate the model in the open file `base`; when `kind` is "train", leave the update in the vector.

        `control` is the open file of the hub's control variate, where there is one; `seed` is a private plan's.
        """
        ...


_ENCODER = msgspec.msgpack.Encoder()


def send(channel: socket.socket, message: Request | Answer, files: tuple[int, ...] = ()) -> None:
    """Send one message, with open files.

    Raises:
        OSError: The other side is gone, or the channel's timeout passed.
    """
    data = _ENCODER.encode(message)
    data = len(data).to_bytes(4, "big") + data
    sent = socket.send_fds(channel, [data], list(files)) if files else channel.send(data)
    if sent < len(data):
        channel.sendall(memoryview(data)[sent:])


def receive(channel: socket.socket, deadline: float) -> Answer:
    """Wait for an answer until `deadline` on the monotonic clock; files that come along are dropped.

    Raises:
        TimeoutError: Nothing came in time.
        EOFError: The other side is gone.
        CodecError: Not an answer.
    """
    size = int.from_bytes(_exactly(channel, 4, deadline), "big")
    if size > MAX_ANSWER_BYTES:
        raise CodecError(f"a worker's answer may have {MAX_ANSWER_BYTES} bytes")
    try:
        answer: Answer = msgspec.msgpack.decode(_exactly(channel, size, deadline), type=Answer)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise CodecError("not a worker's answer") from None
    return answer


def receive_with_files(channel: socket.socket) -> tuple[Request, list[int]]:
    """Wait for a request and the open files that come with it.

    Raises:
        EOFError: The other side is gone.
        CodecError: Not a request.
    """
    start, files, _, _ = socket.recv_fds(channel, 4, _MAX_FILES)
    start += _exactly(channel, 4 - len(start), None) if start else b""
    size = int.from_bytes(start, "big")
    if not start:
        raise EOFError
    if size > MAX_REQUEST_BYTES:
        raise CodecError(f"a request may have {MAX_REQUEST_BYTES} bytes")
    try:
        return msgspec.msgpack.decode(_exactly(channel, size, None), type=Request), files
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise CodecError("not a request to a worker") from None


def _exactly(channel: socket.socket, size: int, deadline: float | None) -> bytes:
    data = bytearray()
    while len(data) < size:
        if deadline is not None:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError
            channel.settimeout(left)
        try:
            piece = channel.recv(size - len(data))
        except ConnectionError:
            piece = b""
        if not piece:
            raise EOFError
        data += piece
    return bytes(data)
