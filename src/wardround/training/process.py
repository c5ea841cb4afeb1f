"""One worker process, from start to end: its channel, its lifeline, the update's file, and who started it.

`PlainLauncher` starts a process of the node's own user, which contains no code that nobody here has read; the
launchers that do are in `wardround.sandbox`. Whichever it is, the process is handed two descriptors, the channel and
the read end of a pipe whose write end only the node holds.

Where the launcher contains foreign code, none of it runs between a round's answer and the next round: it is held from
before the update is looked at, so what was checked is what is sent.
"""

import contextlib
import fcntl
import os
import select
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from wardround.errors import CodecError, SandboxError, TrainingError
from wardround.ports import Bounds, Containment, Ending, Launcher, Started, Usage, Violation
from wardround.training import channel as wire
from wardround.training.channel import Answer, Perform, Ready, Setup

__all__ = ["PlainLauncher", "Process", "anonymous", "sealed"]

_MOMENT = 1.0
_CONTAINMENT = Containment(
    contains_foreign_code=False,
    name="a plain process",
    denied=(
        "the node's environment and open files",
        "writing to files",
        "more private memory, processor time and wall time than the plan says",
    ),
    open_ways=("this machine's files, as the node's user", "the network", "other processes", "shared memory"),
)


class PlainLauncher:
    """Fills `wardround.ports.Launcher` with a process of the node's own user, in a group of its own."""

    @property
    def containment(self) -> Containment:
        """See `wardround.ports.Launcher`."""
        return _CONTAINMENT

    def start(
        self, command: Sequence[str], *, environment: Mapping[str, str], descriptors: Sequence[int], bounds: Bounds
    ) -> Started:
        """See `wardround.ports.Launcher`; the bounds are those that the worker process gives itself."""
        del bounds
        try:
            process = subprocess.Popen(
                [*command, *map(str, descriptors)],
                env=dict(environment),
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,  # what study code prints may hold records
                stderr=subprocess.DEVNULL,
                pass_fds=tuple(descriptors),
                start_new_session=True,  # with all that it starts it is one group, which ends together
            )
        except OSError as error:
            raise SandboxError(f"the worker process cannot be started: {error.strerror}") from None
        return _PlainProcess(process)


class _PlainProcess:
    """One process group."""

    def __init__(self, process: "subprocess.Popen[bytes]") -> None:
        self._process = process
        self._lock = threading.Lock()

    @property
    def pid(self) -> int:
        """See `wardround.ports.Started`."""
        return self._process.pid

    @property
    def paused_seconds(self) -> float:
        """Nobody but the caller holds it."""
        return 0.0

    def pause(self) -> None:
        """See `wardround.ports.Started`; a process that left the group runs on."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """See `wardround.ports.Started`."""
        self._signal(signal.SIGCONT)

    def usage(self) -> Usage:
        """See `wardround.ports.Started`; nothing is measured."""
        return Usage()

    def wait(self, seconds: float) -> bool:
        """See `wardround.ports.Started`."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(seconds)
        return self._process.returncode is not None

    def kill(self) -> Ending:
        """See `wardround.ports.Started`."""
        # First the signal, then the wait: until then the number is this group's alone.
        self._signal(signal.SIGKILL)
        with self._lock:
            return Ending(self._process.wait())

    def _signal(self, number: int) -> None:
        with self._lock, contextlib.suppress(ProcessLookupError, PermissionError):
            if self._process.returncode is None:
                os.killpg(self._process.pid, number)


class Process:
    """A worker process that was started and given its setup.

    Args:
        launcher: Who starts it.
        command: What to start, without the descriptors' numbers.
        environment: All of its environment.
        bounds: What it may use.
        file: The update's file; it is closed with the process.
        setup: Sent at once, with
        inputs: the open files of the records, the memory and, if there is one, the package.
        startup_seconds: How long it may take until it is ready.
        report: Told of every bound that it runs into.

    Raises:
        TrainingError: It cannot be started.
    """

    def __init__(
        self,
        launcher: Launcher,
        command: Sequence[str],
        environment: Mapping[str, str],
        bounds: Bounds,
        *,
        file: int,
        setup: Setup,
        inputs: Sequence[int],
        startup_seconds: float,
        report: Callable[[Violation], None],
    ) -> None:
        self._seconds = startup_seconds
        self._deadline = time.monotonic() + startup_seconds
        self._ready = self._ended = False
        self._report = report
        self._holds = launcher.containment.contains_foreign_code
        self.update = file
        self._channel, theirs = socket.socketpair()
        lifeline, self._lifeline = os.pipe()
        try:
            descriptors = (theirs.fileno(), lifeline)
            self.started = launcher.start(command, environment=environment, descriptors=descriptors, bounds=bounds)
        except SandboxError as error:
            self._close()
            raise TrainingError(str(error)) from None
        finally:
            theirs.close()
            os.close(lifeline)
        records, memory, *package = inputs
        try:
            self._channel.settimeout(startup_seconds)
            wire.send(self._channel, setup, (records, self.update, memory, *package))
        except OSError:
            pass  # it is gone already; `ready` finds out why

    def ready(self) -> Answer:
        """Wait until the learner is made.

        Raises:
            TrainingError: It took too long, or the process ended.
        """
        if not self._ready:
            # However long ago it started: an answer that is waiting is read.
            seconds = max(self._deadline - time.monotonic(), 1.0)
            late = f"starting the worker process took more than {self._seconds:g} s"
            answer = self._answer(seconds, self.started.paused_seconds, late)
            self._ready = isinstance(answer, Ready)
            return answer
        return Ready()

    def ask(self, request: Perform, files: Sequence[int], seconds: float) -> tuple[Answer, float]:
        """One round, in at most `seconds` of not being held by others: the answer, and for how long it was.

        Raises:
            TrainingError: It took too long, ran into a bound or ended.
        """
        late = f"a round's training may take {seconds:g} s by the clock, and took longer"
        held = self.started.paused_seconds
        try:
            if self._holds:
                self.started.resume()
            self._channel.settimeout(seconds)
            wire.send(self._channel, request, tuple(files))
        except (OSError, SandboxError):
            raise TrainingError(self._end()) from None
        answer = self._answer(seconds, held, late)
        held = self.started.paused_seconds - held
        if self._holds:
            self._rest()
        return answer, held

    def end(self) -> Ending:
        """End it, with all that it started; twice does no harm."""
        ending = self.started.kill()
        if not self._ended:
            self._ended = True
            self._close()
        return ending

    def _rest(self) -> None:
        try:
            self.started.pause()
        except SandboxError as error:
            raise TrainingError(f"{error}; what it did cannot be checked") from None
        if self.started.usage().refused_processes:
            violation = Violation("processes", "the worker tried to start more processes and threads than it may")
            self._report(violation)
            raise TrainingError(f"study code was stopped: {violation.words}")

    def _close(self) -> None:
        self._channel.close()
        os.close(self._lifeline)
        os.close(self.update)

    def _answer(self, seconds: float, held: float, late: str) -> Answer:
        began = time.monotonic()
        poll = select.poll()
        poll.register(self._channel, select.POLLIN)
        left = seconds
        while not poll.poll(max(0.0, left) * 1000.0):
            left = began + seconds + self.started.paused_seconds - held - time.monotonic()
            if left <= 0:
                self._report(Violation("clock", late))
                raise TrainingError(late)
        try:
            return wire.receive(self._channel, time.monotonic() + max(left, 1.0))
        except TimeoutError:
            self._report(Violation("clock", late))
            raise TrainingError(late) from None
        except CodecError as error:
            self._report(Violation("channel", str(error)))
            raise TrainingError(f"{error}: study code interfered with the worker process") from None
        except EOFError:
            raise TrainingError(self._end()) from None

    def _end(self) -> str:
        # A process whose channel has closed is ending, if it did not close it itself: how, is worth a moment.
        self.started.wait(_MOMENT)
        ending = self.end()
        violation = ending.violation
        if violation is None and ending.status == -signal.SIGXCPU:
            words = "a round's training used more processor time than the plan's worker_seconds"
            self._report(Violation("processor", words))
            return words
        if violation is not None:
            self._report(violation)
            return f"study code was stopped: {violation.words}"
        if ending.status == -signal.SIGKILL:
            return "the worker process was killed: perhaps the machine ran out of memory"
        status = ending.status
        return f"the worker process ended with {f'signal {-status}' if status < 0 else f'exit status {status}'}"


def anonymous(name: str, parts: Iterable[npt.NDArray[np.uint8]], size: int, *, seals: int = 0) -> int:
    """An open file in memory of a fixed size; where the system has none, one without a name in the temporary folder."""
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


def sealed(name: str, parts: list[npt.NDArray[np.uint8]]) -> int:
    """An open file in memory that nobody can write to any more."""
    return anonymous(name, parts, sum(part.size for part in parts), seals=getattr(fcntl, "F_SEAL_WRITE", 0))
