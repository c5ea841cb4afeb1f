"""A worker process per run, with the run's records inside it: the port `wardround.ports.Worker`.

The process starts with the worker and stays for all rounds. Records go in once, through a sealed anonymous
file; the update comes out through another, which node and worker share, so a model is held once:

    node                                  worker process (wardround.training.worker_main)
    records, package ── sealed files ──▶  read-only mappings
    base's file      ── open file ─────▶  read
    update's file    ◀─ one mapping ────  vector, in place
    memory's file    ◀─ one mapping ───▶  what is remembered from round to round
    answer           ◀─ channel ────────  numbers and known words (wardround.training.channel)

What the worker is denied today: the node's environment (its own is `ENVIRONMENT`), the node's open files,
standard input and output, writing to files, core dumps, and more memory, processor time or wall time than
the plan's limits. It dies with the node. Its errors reach the node as the name of a built-in exception and
a line of study code. The node checks size, header and finiteness of every update.

What it is not denied yet, because study code runs under the node's own user: reading the user's files and
``/proc``, the network, starting processes (which die with it), and unlimited shared memory. It could also
write to the update after the check; the hub checks again what it gets. The full sandbox (namespaces without
network, a read-only file system, seccomp, a control group for memory) belongs in `_command`, which is where
the process's command line is made: the worker needs nothing but the files it is handed and its Python.

Not for use by two threads at once.
"""

import builtins
import contextlib
import fcntl
import hashlib
import math
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from wardround import errors
from wardround.clinical.table import StudyTable
from wardround.codec import tensors
from wardround.errors import CodecError, TensorMismatchError, TrainingError
from wardround.ids import Digest, SiteId
from wardround.ports import Trained
from wardround.protocol.messages import Evaluation, Kind
from wardround.protocol.plan import BlobRef, CodePackage, Plan
from wardround.training import channel as wire
from wardround.training import metrics
from wardround.training import package as code
from wardround.training.bags import weight
from wardround.training.channel import Answer, Done, Failed, Perform, Ready, Setup
from wardround.training.memory import memory_bytes

__all__ = ["ENVIRONMENT", "PytorchWorker"]

ENVIRONMENT = {"LANG": "C.UTF-8", "MKL_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "0"}
"""All of the worker's environment. The hash seed gives study code's sets one order, and so one result."""

_LEARNER = "wardround.training.learner:Learner"
_PIECE = 1 << 18
_PLACE = re.compile(r"[A-Za-z_][A-Za-z0-9_.]{0,99}:[0-9]{1,6}")


class PytorchWorker:
    """Trains a plan's model on one site's records, in a process of its own.

    Starting the process and loading torch go on in the background from here on; the first `perform` waits
    for them, at most `startup_seconds`.

    Args:
        plan: The study's plan.
        site: This site's name, from which its shuffling is derived.
        table: The site's records; they are copied, and the table is not kept.
        package: The code package's bytes where the plan names one, otherwise None.
        learner: ``module:class`` of a `wardround.training.channel.Learner`; benchmarks name another.
        startup_seconds: How long loading may take.

    Raises:
        DigestMismatchError: The package is not the one that the plan names.
        ValueError: The plan names a package and there is none.
    """

    def __init__(
        self,
        plan: Plan,
        site: SiteId,
        table: StudyTable,
        package: bytes | None = None,
        *,
        learner: str = _LEARNER,
        startup_seconds: float = 120.0,
    ) -> None:
        self._plan = plan
        self._header = tensors.header(plan.manifest)
        self._size = tensors.file_bytes(plan.manifest)
        self._startup_seconds = startup_seconds
        self._held_out = weight(plan, table, held_out=True)
        self._trained_on = weight(plan, table)
        self._setup = Setup(
            plan=plan,
            site=site,
            learner=learner,
            records=len(table.held_out),
            counted=self._trained_on,
            labels=table.labels.shape[1] if table.labels.ndim > 1 else 1,
        )
        if isinstance(plan.model, CodePackage):
            if package is None:
                raise ValueError("the plan's model is a code package: pass its bytes")
            code.check_digest(package, plan.model.package)
        else:
            package = None
        records = ((table.features, "<f4"), (table.labels, "<f4"), (table.patients, "<i4"), (table.held_out, "?"))
        self._inputs = [_sealed("records", [np.ascontiguousarray(*array).reshape(-1).view("B") for array in records])]
        if package is not None:
            self._inputs.append(_sealed("package", [np.frombuffer(package, "B")]))
        self._process: _Process | None = None
        self._closed = False
        size = memory_bytes(plan)
        self._memory = _anonymous("memory", [], size)
        self._remembers = size > 0
        with contextlib.suppress(TrainingError):  # the first `perform` tries again
            self._start()

    @property
    def memory(self) -> int | None:
        """See `wardround.ports.Worker`."""
        return self._memory if self._remembers else None

    def perform(
        self, number: int, kind: Kind, base: str, standardization: bytes, control: str = "", *, seed: bytes = b""
    ) -> Trained:
        """Evaluate the model in file `base`, then train from it when `kind` is "train".

        Raises:
            TrainingError: The code failed or broke a limit; the process is gone, the next call starts another.
            TensorMismatchError: `base`, or what came out, is not the plan's arrays, or not finite.
            ValueError: The worker is closed, or there is no such kind of work for it.
        """
        if self._closed or kind not in ("train", "evaluate"):
            raise ValueError("a worker trains or evaluates, until it is closed")
        files = [self._open(base)]
        try:
            if control:
                files.append(_opened(control))
            process = self._process or self._start()
            self._accept(process.ready())
            began = time.monotonic()
            answer = process.ask(Perform(number, kind, standardization, seed), files, self._plan.limits.worker_seconds)
            found = self._evaluation(self._accept(answer))
            ref = self._checked(process.update) if kind == "train" else None
        except BaseException:
            self._stop()
            raise
        finally:
            for file in files:
                os.close(file)
        return Trained(
            records=self._trained_on,
            update=process.update if ref else None,
            ref=ref,
            evaluation=found,
            seconds=time.monotonic() - began,
        )

    def close(self) -> None:
        """End the process and forget the records; once is enough, twice does no harm."""
        self._stop()
        if self._closed:
            return
        self._closed = True
        os.close(self._memory)
        while self._inputs:
            os.close(self._inputs.pop())

    def _start(self) -> "_Process":
        self._process = _Process(
            self._header, self._size, self._setup, self._inputs, self._memory, self._startup_seconds
        )
        return self._process

    def _stop(self) -> None:
        if self._process is not None:
            self._process.end()
            self._process = None

    def _open(self, base: str) -> int:
        file = _opened(base)
        try:
            self._check_form(file)
        except BaseException:
            os.close(file)
            raise
        return file

    def _accept(self, answer: Answer) -> Answer:
        if isinstance(answer, Failed):
            raise _told(answer, self._plan.limits.worker_memory_bytes)
        return answer

    def _evaluation(self, answer: Answer) -> Evaluation:
        known = metrics.NAMES[self._plan.data.label.outcome]
        if (
            not isinstance(answer, Done)
            or not answer.metrics.keys() | answer.personal.keys() | answer.intervals.keys() <= known
        ):
            raise TrainingError("the worker process answered out of turn: study code interfered with it")
        apart = answer.divergence
        numbers = [*answer.metrics.values(), *answer.personal.values()]
        numbers += [apart.cosine, apart.norm, apart.aggregate_norm] if apart else []
        numbers += [bound for interval in answer.intervals.values() for bound in interval]
        numbers += answer.appraisal
        if not all(value is None or math.isfinite(value) for value in numbers):
            raise TrainingError("the worker process sent a number that is not finite: study code interfered with it")
        return Evaluation(self._held_out, answer.metrics, answer.personal, apart, answer.intervals, answer.appraisal)

    def _check_form(self, file: int) -> None:
        tensors.check_size(os.fstat(file).st_size, self._plan.manifest)
        start = os.pread(file, len(self._header), 0)
        if start != self._header:
            tensors.check_header(start, self._plan.manifest)

    def _checked(self, update: int) -> BlobRef:
        # Through reads into one small buffer: mapping the file would count its pages as the node's too.
        self._check_form(update)
        digest = hashlib.sha256(self._header)
        length, dtype = tensors.columns(self._plan.manifest), tensors.flat_dtype(self._plan.manifest)
        piece = np.empty(min(length, _PIECE), dtype)
        for start in range(0, length, _PIECE):
            part = piece[: length - start]
            data = part.view(np.uint8).data
            if os.preadv(update, [data], len(self._header) + dtype.itemsize * start) != part.nbytes:
                raise TensorMismatchError("the update could not be read to its end")
            tensors.check_finite(part)
            digest.update(data)
        return BlobRef(Digest(digest.hexdigest()), self._size)


class _Process:
    """One process, from start to end, with its channel, its lifeline and the update's file."""

    def __init__(
        self, header: bytes, size: int, setup: Setup, inputs: list[int], memory: int, startup_seconds: float
    ) -> None:
        self._seconds = startup_seconds
        self._deadline = time.monotonic() + startup_seconds
        self._ready = False
        self.update = _anonymous("update", [np.frombuffer(header, "B")], size)
        self._channel, theirs = socket.socketpair()
        lifeline, self._lifeline = os.pipe()
        try:
            self._process = subprocess.Popen(
                _command(theirs.fileno(), lifeline),
                env=ENVIRONMENT,
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,  # what study code prints may hold records
                stderr=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(), lifeline),
                start_new_session=True,  # with all that it starts it is one group, which ends together
            )
        except OSError as error:
            self._close()
            raise TrainingError(f"the worker process cannot be started: {error.strerror}") from None
        finally:
            theirs.close()
            os.close(lifeline)
        records, *package = inputs
        try:
            self._channel.settimeout(startup_seconds)
            wire.send(self._channel, setup, (records, self.update, memory, *package))
        except OSError:
            pass  # it is gone already; `ready` finds out why

    def ready(self) -> Answer:
        if not self._ready:
            # However long ago it started: an answer that is waiting is read.
            deadline = max(self._deadline, time.monotonic() + 1.0)
            answer = self._answer(deadline, f"starting the worker process took more than {self._seconds:g} s")
            self._ready = isinstance(answer, Ready)
            return answer
        return Ready()

    def ask(self, request: Perform, files: list[int], seconds: float) -> Answer:
        deadline = time.monotonic() + seconds
        late = f"a round's training may take {seconds:g} s by the clock, and took longer"
        try:
            self._channel.settimeout(seconds)
            wire.send(self._channel, request, tuple(files))
        except OSError:
            raise TrainingError(self._end()) from None
        return self._answer(deadline, late)

    def end(self) -> None:
        if self._process.returncode is None:
            # First the signal, then the wait: until then the number is this group's alone.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._close()

    def _close(self) -> None:
        self._channel.close()
        os.close(self._lifeline)
        os.close(self.update)

    def _answer(self, deadline: float, late: str) -> Answer:
        try:
            return wire.receive(self._channel, deadline)
        except TimeoutError:
            raise TrainingError(late) from None
        except CodecError as error:
            raise TrainingError(f"{error}: study code interfered with the worker process") from None
        except EOFError:
            raise TrainingError(self._end()) from None

    def _end(self) -> str:
        # A process whose channel has closed is past the point where our signal could change how it ended.
        self.end()
        status = self._process.returncode
        if status == -signal.SIGXCPU:
            return "a round's training used more processor time than the plan's worker_seconds"
        if status == -signal.SIGKILL:
            return "the worker process was killed: perhaps the machine ran out of memory"
        return f"the worker process ended with {f'signal {-status}' if status < 0 else f'exit status {status}'}"


def _opened(path: str) -> int:
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise TrainingError(f"a model's file cannot be opened: {error.strerror}") from None


def _command(channel: int, lifeline: int) -> list[str]:
    # -P and -s with an environment of our own are what -I is, but leave the hash seed; -B writes no bytecode.
    # The sandbox's wrapper goes in front of this.
    flags = ["-P", "-s", "-B"]
    return [sys.executable, *flags, "-m", "wardround.training.worker_main", str(channel), str(lifeline)]


def _told(failed: Failed, memory_bytes: int) -> Exception:
    if failed.reason == "arrays":
        return TensorMismatchError("the arrays of the model, or of the standardization, are not those of the plan")
    # The name and the place are what a process that runs study code claims: only known names, only the form.
    kind = getattr(builtins, failed.error, None) or getattr(errors, failed.error, None)
    name = failed.error if isinstance(kind, type) and issubclass(kind, BaseException) else "an exception"
    place = f" at {failed.place}" if _PLACE.fullmatch(failed.place) else ""
    match failed.reason:
        case "memory":
            return TrainingError(f"training needs more than the plan's worker_memory_bytes, {memory_bytes}{place}")
        case "plan":
            return TrainingError(f"the plan's model or code package cannot be loaded: {name}")
        case "code":
            return TrainingError(f"{'study code' if place else 'training'} raised {name}{place}")


def _anonymous(name: str, parts: Iterable[npt.NDArray[np.uint8]], size: int, *, seals: int = 0) -> int:
    # A file in memory; where the system has none, one without a name in the temporary folder.
    if hasattr(os, "memfd_create"):
        file = os.memfd_create(f"wardround-{name}", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        seals |= fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL
    else:
        with tempfile.TemporaryFile() as temporary:
            file = os.dup(temporary.fileno())
        seals = 0
    os.ftruncate(file, size)
    place = 0
    for part in parts:
        done = 0
        while done < part.size:
            done += os.pwrite(file, part[done:].data, place + done)
        place += done
    if seals:
        fcntl.fcntl(file, fcntl.F_ADD_SEALS, seals)
    return file


def _sealed(name: str, parts: list[npt.NDArray[np.uint8]]) -> int:
    return _anonymous(name, parts, sum(part.size for part in parts), seals=getattr(fcntl, "F_SEAL_WRITE", 0))
