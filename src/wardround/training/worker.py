"""A worker process per run, with the run's records inside it: the port `wardround.ports.Worker`.

The process starts with the worker and stays for all rounds. Records go in once, through a sealed anonymous
file; the update comes out through another, which node and worker share, so a model is held once:

    node                                  worker process (wardround.training.worker_main)
    records, package ── sealed files ──▶  read-only mappings
    base's file      ── open file ─────▶  read
    update's file    ◀─ one mapping ────  vector, in place
    memory's file    ◀─ one mapping ───▶  what is remembered from round to round
    answer           ◀─ channel ────────  numbers and known words (wardround.training.channel)
    violation        ◀─ launcher            which bound it ran into

Who starts the process, and what it is denied, is the launcher's: `wardround.training.process.PlainLauncher` denies
little, and is for the models that Wardround brings; those of `wardround.sandbox` contain code that nobody here has
read. In either, the node's environment is not passed on (the worker's own is `ENVIRONMENT`), nor are its open files;
nothing is read from standard input, printed, or written to files; there are no core dumps, and no more memory,
processor time or wall time than the plan's limits. The process dies with the node. Its errors reach the node as the
name of a built-in exception and a line of study code. The node checks size, header and finiteness of every update;
where the launcher contains foreign code, the process is held while it does and until the next round, so that what was
checked is what is sent. With a plain launcher study code could still write to the update after the check; the hub
checks again what it gets.

Not for use by two threads at once.
"""

import builtins
import contextlib
import hashlib
import math
import os
import re
import sys
import time
from collections.abc import Callable

import numpy as np

from wardround import errors
from wardround.clinical.table import StudyTable
from wardround.codec import tensors
from wardround.errors import TensorMismatchError, TrainingError
from wardround.ids import Digest, SiteId
from wardround.ports import Bounds, Launcher, Trained, Violation
from wardround.protocol.messages import Evaluation, Kind
from wardround.protocol.plan import BlobRef, CodePackage, Plan
from wardround.training import metrics
from wardround.training import package as code
from wardround.training.bags import weight
from wardround.training.channel import Answer, Done, Failed, Perform, Setup
from wardround.training.memory import memory_bytes
from wardround.training.process import PlainLauncher, Process, anonymous, sealed

__all__ = ["ENVIRONMENT", "PytorchWorker"]

ENVIRONMENT = {"LANG": "C.UTF-8", "MKL_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "0"}
"""All of the worker's environment. The hash seed gives study code's sets one order, and so one result."""

_LEARNER = "wardround.training.learner:Learner"
_PIECE = 1 << 18
_SHARED_BYTES = 256 * 1024 * 1024  # what the interpreter, torch's own pages and the kernel take beside the plan's limit
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
        launcher: Who starts and contains the process; a plain process where there is none.
        report: Told of every bound that study code runs into, before the error is raised; for the audit log.

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
        launcher: Launcher | None = None,
        report: Callable[[Violation], None] = lambda _violation: None,
    ) -> None:
        self._plan = plan
        self._header = tensors.header(plan.manifest)
        self._size = tensors.file_bytes(plan.manifest)
        self._startup_seconds = startup_seconds
        self._launcher = launcher or PlainLauncher()
        self._tell = report
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
        self._inputs = [sealed("records", [np.ascontiguousarray(*array).reshape(-1).view("B") for array in records])]
        if package is not None:
            self._inputs.append(sealed("package", [np.frombuffer(package, "B")]))
        self._process: Process | None = None
        self._closed = False
        size = memory_bytes(plan)
        self._memory = anonymous("memory", [], size)
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
            asked = Perform(number, kind, standardization, seed)
            answer, held = process.ask(asked, files, self._plan.limits.worker_seconds)
            found = self._evaluation(self._accept(answer))
            ref = self._looked_at(process.update) if kind == "train" else None
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
            seconds=time.monotonic() - began - held,
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

    def _start(self) -> Process:
        limit = self._plan.limits.worker_memory_bytes
        records, *package = self._inputs
        self._process = Process(
            self._launcher,
            _command(),
            ENVIRONMENT,
            Bounds(limit + self._size + os.fstat(self._memory).st_size + _SHARED_BYTES),
            file=anonymous("update", [np.frombuffer(self._header, "B")], self._size),
            setup=self._setup,
            inputs=(records, self._memory, *package),
            startup_seconds=self._startup_seconds,
            report=self._report,
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

    def _report(self, violation: Violation) -> None:
        # The models that Wardround brings may diverge or take too long; nobody is to be accused of that.
        if isinstance(self._plan.model, CodePackage):
            self._tell(violation)

    def _accept(self, answer: Answer) -> Answer:
        if isinstance(answer, Failed):
            if answer.reason == "memory":
                self._report(Violation("memory", "the worker asked for more memory than the plan allows"))
            raise _told(answer, self._plan.limits.worker_memory_bytes)
        return answer

    def _evaluation(self, answer: Answer) -> Evaluation:
        known = metrics.NAMES[self._plan.data.label.outcome]
        if (
            not isinstance(answer, Done)
            or not answer.metrics.keys() | answer.personal.keys() | answer.intervals.keys() <= known
        ):
            self._report(Violation("channel", "the worker answered what was not asked"))
            raise TrainingError("the worker process answered out of turn: study code interfered with it")
        apart = answer.divergence
        numbers = [*answer.metrics.values(), *answer.personal.values()]
        numbers += [apart.cosine, apart.norm, apart.aggregate_norm] if apart else []
        numbers += [bound for interval in answer.intervals.values() for bound in interval]
        numbers += answer.appraisal
        if not all(value is None or math.isfinite(value) for value in numbers):
            self._report(Violation("channel", "the worker answered with a number that is not finite"))
            raise TrainingError("the worker process sent a number that is not finite: study code interfered with it")
        return Evaluation(self._held_out, answer.metrics, answer.personal, apart, answer.intervals, answer.appraisal)

    def _check_form(self, file: int) -> None:
        tensors.check_size(os.fstat(file).st_size, self._plan.manifest)
        start = os.pread(file, len(self._header), 0)
        if start != self._header:
            tensors.check_header(start, self._plan.manifest)

    def _looked_at(self, update: int) -> BlobRef:
        try:
            return self._checked(update)
        except TensorMismatchError as error:
            self._report(Violation("update", str(error)))
            raise

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


def _opened(path: str) -> int:
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise TrainingError(f"a model's file cannot be opened: {error.strerror}") from None


def _command() -> list[str]:
    # -P and -s with an environment of our own are what -I is, but leave the hash seed; -B writes no bytecode.
    return [sys.executable, "-P", "-s", "-B", "-m", "wardround.training.worker_main"]


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
