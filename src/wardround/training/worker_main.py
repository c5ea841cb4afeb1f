"""The worker process: ``python -m wardround.training.worker_main CHANNEL LIFELINE``.

Started by `wardround.training.worker`, with two open files: the channel, and the read end of a pipe whose
write end only the node holds. In a container, which inherits no open files, the one argument is the path of a socket
from which it receives the two. It sets its own limits, then makes the learner, then performs round after
round; it ends after any failure, when the channel closes, and at once when the node dies (`_die_with`).

Limits, set before any study code is loaded, hard so that study code cannot raise them (root could):

    RLIMIT_DATA     the plan's worker_memory_bytes; torch itself takes about 220 MiB of it. Not RLIMIT_AS:
                    torch maps far more than it uses. Shared memory, the update's file among it, is not counted.
    RLIMIT_CPU      the plan's worker_seconds of processor time per round, as a soft limit set anew each round
    RLIMIT_NOFILE   256         RLIMIT_CORE  0: no records in a core dump
    RLIMIT_FSIZE    0: nothing is written to any file except through the update's mapping

Hazard: from `Learner(...)` on, study code runs in this very process. What it can still do is the launcher's to say
(`wardround.ports.Containment`).
"""

import builtins
import fcntl
import importlib
import math
import mmap
import os
import resource
import select
import socket
import sys
import traceback
from typing import cast

import msgspec
import numpy as np
import numpy.typing as npt

from wardround import errors
from wardround.clinical import contract as data_contract
from wardround.clinical.table import check_patients
from wardround.codec import tensors
from wardround.errors import CodecError, CryptoError, TensorMismatchError
from wardround.training import channel as wire
from wardround.training import memory as memories
from wardround.training.channel import Assignment, Failed, Learner, Perform, Ready, Setup
from wardround.training.package import PLACE

__all__ = ["main"]

_OPEN_FILES = 256
_NO_MEMORY = ("can't allocate memory", "cannot allocate memory", "not enough memory", "failed to map segment")


def main(arguments: list[str]) -> None:
    """Serve one node until it is gone, or until something fails."""
    first, lifeline = _received(arguments[0]) if len(arguments) == 1 else map(int, arguments)
    channel = socket.socket(fileno=first)
    _die_with(lifeline)
    try:
        request, files = wire.receive_with_files(channel)
        if not isinstance(request, Setup):
            return
        limits = request.plan.limits
        try:
            _limit(limits.worker_memory_bytes)
            learner = _make(request, files)
        except BaseException as error:  # noqa: BLE001, the process boundary: the node is told and this ends
            wire.send(channel, _failure(error))
            return
        wire.send(channel, Ready())
        _serve(channel, learner, limits.worker_seconds)
    except (EOFError, ConnectionError):
        return


def _received(path: str) -> list[int]:
    with socket.socket(socket.AF_UNIX) as meeting:
        meeting.connect(path)
        _, files, _, _ = socket.recv_fds(meeting, 1, 2)
        return files


def _serve(channel: socket.socket, learner: Learner, seconds: float) -> None:
    while True:
        request, files = wire.receive_with_files(channel)
        if not isinstance(request, Perform):
            return
        _limit_processor(seconds)
        try:
            base, *control = files
            done = learner.perform(
                request.number,
                request.kind,
                base,
                request.standardization,
                control[0] if control else None,
                seed=request.seed,
            )
            answer = msgspec.structs.replace(
                done, metrics=_all_finite(done.metrics), personal=_all_finite(done.personal)
            )
        except BaseException as error:  # noqa: BLE001, the process boundary
            wire.send(channel, _failure(error))
            return
        finally:
            for file in files:
                os.close(file)
        wire.send(channel, answer)


def _make(setup: Setup, files: list[int]) -> Learner:
    records, update, memory, *package = files
    plan, count = setup.plan, setup.records
    width = data_contract.width(plan.data)
    data = mmap.mmap(records, 0, access=mmap.ACCESS_READ)
    features = np.frombuffer(data, np.float32, count * width).reshape(count, width)
    labels = np.frombuffer(data, np.float32, count * setup.labels, 4 * count * width)
    patients = np.frombuffer(data, np.int32, count, 4 * count * (width + setup.labels))
    held_out = np.frombuffer(data, np.bool_, count, 4 * count * (width + setup.labels + 1))
    check_patients(patients, count)
    assignment = Assignment(
        plan=plan,
        site=setup.site,
        features=features,
        labels=labels.reshape(count, setup.labels) if setup.labels > 1 else labels,
        held_out=held_out,
        vector=np.frombuffer(
            mmap.mmap(update, 0), tensors.flat_dtype(plan.manifest), offset=len(tensors.header(plan.manifest))
        ),
        memory=_memory(memory, memories.memory_bytes(plan)),
        package=mmap.mmap(package[0], 0, access=mmap.ACCESS_READ)[:] if package else b"",
        patients=patients,
        counted=setup.counted,
    )
    for file in files:
        os.close(file)
    module, _, name = setup.learner.partition(":")
    return cast("Learner", getattr(importlib.import_module(module), name)(assignment))


def _memory(file: int, size: int) -> npt.NDArray[np.float32]:
    return np.frombuffer(mmap.mmap(file, size), np.float32) if size else np.empty(0, np.float32)


def _die_with(lifeline: int) -> None:
    # When the node's end of the pipe closes, for whatever reason, the kernel sends SIGIO to this process
    # group, and the default action of SIGIO is to end. No thread has to run for that, so neither a busy
    # interpreter nor native code holds it up. (PR_SET_PDEATHSIG would also fire when only the thread of
    # the node that started this process ends.)
    fcntl.fcntl(lifeline, fcntl.F_SETOWN, -os.getpgrp())
    fcntl.fcntl(lifeline, fcntl.F_SETFL, fcntl.fcntl(lifeline, fcntl.F_GETFL) | os.O_ASYNC)
    poll = select.poll()
    poll.register(lifeline)
    if poll.poll(0):
        raise SystemExit(1)  # the node was gone before


def _limit(memory_bytes: int) -> None:
    for limit, bound in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NOFILE, _OPEN_FILES),
        (resource.RLIMIT_DATA, memory_bytes),
    ):
        _, hard = resource.getrlimit(limit)
        least = bound if hard == resource.RLIM_INFINITY else min(bound, hard)
        resource.setrlimit(limit, (least, least))


def _limit_processor(seconds: float) -> None:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    bound = math.ceil(usage.ru_utime + usage.ru_stime + seconds)
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (bound if hard == resource.RLIM_INFINITY else min(bound, hard), hard))


def _failure(error: BaseException) -> Failed:
    # Nothing of the error's own text: it may hold a value of a record.
    if isinstance(error, MemoryError) or any(sign in str(error).lower() for sign in _NO_MEMORY):
        return Failed("memory", _name(error), _place(error))
    if isinstance(error, TensorMismatchError):
        return Failed("arrays", _name(error))
    if isinstance(error, CodecError | CryptoError):
        return Failed("plan", _name(error))
    return Failed("code", _name(error), _place(error))


def _name(error: BaseException) -> str:
    known = (kind.__name__ for kind in type(error).__mro__ if kind.__module__ in {builtins.__name__, errors.__name__})
    return next(known, "BaseException")


def _place(error: BaseException) -> str:
    places = [(frame.f_code.co_filename, line) for frame, line in traceback.walk_tb(error.__traceback__)]
    if isinstance(error, SyntaxError):
        places.append((error.filename or "", error.lineno or 0))
    of_study = [(name.removeprefix(PLACE), line) for name, line in places if name.startswith(PLACE)]
    if not of_study:
        return ""
    name, line = of_study[-1]
    return f"{name.removesuffix('.py').replace('/', '.')}:{line}"


def _all_finite(found: dict[str, float | None]) -> dict[str, float | None]:
    return {name: _finite(value) for name, value in found.items()}


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


if __name__ == "__main__":
    main(sys.argv[1:])
