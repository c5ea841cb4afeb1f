"""Study code in namespaces of its own, made by ``bwrap``: no network, no files but Python's, no other processes.

    namespaces      user, mount, process, network, host name, control group, System V objects; no further user namespace
    identity        nobody, no capabilities, none to be gained (no_new_privs)
    files           `wardround.sandbox.root`, read-only; a private /tmp of a bounded size
    descriptors     the ones that are handed over; input and output are /dev/null
    system calls    `wardround.sandbox.seccomp`
    bounds          `wardround.sandbox.cgroup` where groups can be made; resource limits always
    end             with the node: the kernel kills the namespace's first process, and so all of it

bwrap's child waits at a pipe until it is in its group and has its limits; only then is the sandbox built and the
command run, so nothing that study code does comes before its bounds.

bwrap dies with the thread that started it (PR_SET_PDEATHSIG), so one thread, which lasts as long as the launcher,
starts them all.

Hazard: namespaces, seccomp and control groups are the kernel's. A hole in the kernel is a hole here.
"""

import contextlib
import json
import os
import resource
import select
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import count

from wardround.errors import SandboxError
from wardround.ports import Bounds, Containment, Ending, Started, Usage, Violation
from wardround.sandbox import cgroup, descent, root, seccomp
from wardround.sandbox.cgroup import ControlGroup, Parents, Slice
from wardround.sandbox.settings import SandboxSettings

__all__ = ["Bubblewrap"]

_SECONDS = 30.0
_NOBODY = "65534"
_OPEN_FILES = 256
_NUMBERS = count(1)
_DENIED = (
    "the network, and sockets of this machine",
    "every file of this machine but Python's own and shared libraries, which are read-only",
    "other processes: seeing, tracing and signalling them",
    "the node's environment, keys and open files",
    "privileges, other identities, new namespaces, and system calls that no model needs",
)
_NO_GROUP = "shared memory, processor share and number of processes: no control group can be made here"
_ALWAYS_OPEN = (
    "what an allowed update can carry: values of the right shape that hold something else",
    "how long it takes, and other timing",
    "holes in the kernel",
)


class Bubblewrap:
    """Fills `wardround.ports.Launcher` with ``bwrap``.

    Args:
        settings: The site's.
        parents: Where control groups are made; where it is empty there are resource limits only.
        program: The name or path of ``bwrap``.
        system_calls: The filter; another than `seccomp.assemble` is not trusted to contain foreign code.

    Raises:
        SandboxError: There is no bwrap, it cannot make a sandbox here, or a setting is wrong.
    """

    def __init__(
        self,
        settings: SandboxSettings,
        *,
        parents: Parents | None = None,
        program: str = "bwrap",
        system_calls: bytes | None = None,
    ) -> None:
        found = shutil.which(program)
        if sys.platform != "linux" or found is None:
            raise SandboxError(f"there is no {program} on this machine: install bubblewrap, or name another runner")
        self._program = found
        self._settings = settings
        self._parents = cgroup.find(settings.control_group) if parents is None else parents
        self._grouped = {"cpu", "memory", "pids"} <= self._parents.keys()
        if not self._grouped:
            self._parents = {}
        cgroup.sweep(self._parents)
        ours = seccomp.assemble(devices=bool(settings.devices))
        self._filter = ours if system_calls is None else system_calls
        self._arguments = self._namespaces() + root.arguments(
            settings.temporary_bytes, settings.devices, settings.folders
        )
        self._starter = ThreadPoolExecutor(1, "wardround-bwrap")
        whole = self._filter == ours and (self._grouped or not settings.demand_control_group)
        bounds = ("more memory, processor time, processes and threads than it is given",) if self._grouped else ()
        self._containment = Containment(
            whole,
            "bubblewrap" if self._grouped else "bubblewrap without a control group",
            (*_DENIED, *bounds),
            _ALWAYS_OPEN if self._grouped else (_NO_GROUP, *_ALWAYS_OPEN),
        )
        self._probe()

    @property
    def containment(self) -> Containment:
        """See `wardround.ports.Launcher`."""
        return self._containment

    def start(
        self, command: Sequence[str], *, environment: Mapping[str, str], descriptors: Sequence[int], bounds: Bounds
    ) -> Started:
        """See `wardround.ports.Launcher`."""
        whole = [*command, *map(str, descriptors)]
        return self._starter.submit(self._start, whole, environment, descriptors, bounds, subprocess.DEVNULL).result()

    def _start(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        descriptors: Sequence[int],
        bounds: Bounds,
        errors: int,
    ) -> "_Contained":
        name = f"{os.getpid()}-{next(_NUMBERS)}"
        group = cgroup.make(self._parents, name, self._slice(bounds)) if self._grouped else None
        information, theirs = os.pipe()
        gate, ours = os.pipe()
        handed = [theirs, gate, _file(self._filter)]
        process = None
        try:
            control = ["--info-fd", str(theirs), "--block-fd", str(gate), "--seccomp", str(handed[2])]
            handed.append(_file("\0".join([*self._arguments, *control]).encode() + b"\0"))
            process = subprocess.Popen(
                [self._program, "--args", str(handed[3]), "--", *command],
                env=dict(environment),
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,  # what study code prints may hold records
                stderr=errors,
                pass_fds=(*descriptors, *handed),
                start_new_session=True,
            )
            os.close(handed.pop(0))
            child = _child(information)
            self._bound(child, group)
            started = _Contained(process, child, group, self)
            os.write(ours, b"1")
        except (OSError, SandboxError, ValueError) as error:
            if process is not None:
                process.kill()
                process.wait()
            if group is not None:
                group.remove()
            told = error if isinstance(error, SandboxError) else "bubblewrap could not make a sandbox"
            raise SandboxError(f"the worker process cannot be started: {told}") from None
        finally:
            for file in (information, ours, *handed):
                os.close(file)
        return started

    def _slice(self, bounds: Bounds) -> Slice:
        here = self._settings
        # bwrap's own two processes are in the group as well.
        return Slice(
            bounds.memory_bytes,
            min(bounds.processes, here.processes) + 2,
            here.processors,
            here.cpus,
            here.idle,
        )

    def _bound(self, child: int, group: ControlGroup | None) -> None:
        if group is not None:
            group.add(child)
        if self._settings.idle:
            descent.lower_priority(child)
        limits = [(resource.RLIMIT_CORE, 0), (resource.RLIMIT_NOFILE, _OPEN_FILES)]
        if group is None:
            limits.append((resource.RLIMIT_NPROC, self._settings.processes))
        for limit, bound in limits:
            _, hard = resource.prlimit(child, limit)
            least = bound if hard == resource.RLIM_INFINITY else min(bound, hard)
            resource.prlimit(child, limit, (least, least))

    def _namespaces(self) -> list[str]:
        unshared = [f"--unshare-{kind}" for kind in ("user", "ipc", "pid", "net", "uts", "cgroup")]
        identity = ["--uid", _NOBODY, "--gid", _NOBODY, "--hostname", "worker"]
        ending = ["--new-session", "--die-with-parent", "--chdir", "/"]
        return [*unshared, "--disable-userns", *identity, "--cap-drop", "ALL", *ending]

    def _probe(self) -> None:
        # The whole of it once, with nothing to do, so that a node knows at its start.
        command = [sys.executable, "-I", "-S", "-c", ""]
        errors, theirs = os.pipe()
        try:
            job = self._starter.submit(self._start, command, {}, (), Bounds(1 << 28), theirs)
            started = job.result()
            ended = started.wait(_SECONDS)
            status = started.kill().status
            os.set_blocking(errors, False)
            with contextlib.suppress(BlockingIOError):
                said = os.read(errors, 300).decode(errors="replace").strip()
        finally:
            os.close(errors)
            os.close(theirs)
        if not ended or status:
            raise SandboxError(
                f"bubblewrap does not work on this machine (status {status}): {said or 'it said nothing'}"
            )


class _Contained:
    """One sandbox: bwrap outside, its child, which is the namespace's first process, and the group."""

    def __init__(
        self, process: "subprocess.Popen[bytes]", child: int, group: ControlGroup | None, launcher: Bubblewrap
    ) -> None:
        self._process, self._child, self._group = process, child, group
        self._launcher = launcher  # whose thread must outlast the sandbox
        self._handle = os.pidfd_open(child)
        self._lock = threading.Lock()
        self._paused = False
        self._ending: Ending | None = None
        self._last = Usage()

    @property
    def pid(self) -> int:
        """See `wardround.ports.Started`: bwrap's own."""
        return self._process.pid

    @property
    def paused_seconds(self) -> float:
        """Nobody but the caller holds it."""
        return 0.0

    def pause(self) -> None:
        """See `wardround.ports.Started`."""
        with self._lock:
            if self._ending is None and not self._paused:
                if self._group is not None and self._group.can_freeze:
                    self._group.freeze()
                else:
                    descent.stop(self._child)
                self._paused = True

    def resume(self) -> None:
        """See `wardround.ports.Started`."""
        with self._lock:
            if self._ending is None and self._paused:
                self._go_on()

    def usage(self) -> Usage:
        """See `wardround.ports.Started`; without a control group nothing can be read."""
        with self._lock:
            if self._ending is None and self._group is not None:
                self._last = self._group.usage()
            return self._last

    def kill(self) -> Ending:
        """See `wardround.ports.Started`."""
        with self._lock:
            if self._ending is None:
                if self._group is not None:
                    self._group.hurry()  # on a busy machine it would wait for its turn to end
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(self._handle, signal.SIGKILL)
                with contextlib.suppress(SandboxError):
                    self._go_on()
                self._ending = self._end()
            return self._ending

    def wait(self, seconds: float) -> bool:
        """See `wardround.ports.Started`."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(seconds)
        return self._process.returncode is not None

    def _go_on(self) -> None:
        if self._group is not None and self._group.can_freeze:
            self._group.thaw()
        else:
            descent.go_on(self._child)
        self._paused = False

    def _end(self) -> Ending:
        # bwrap ends when the namespace's first process has; 128 + n is how it says that signal n ended the command.
        try:
            self._process.wait(_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._handle)
        violation = None
        if self._group is not None:
            self._last = self._group.usage()
            violation = self._group.violation()
            self._group.remove()
        status = self._process.returncode
        status = 128 - status if status > 128 else status
        if status == -signal.SIGSYS:
            violation = Violation("system-call", "the worker made a system call that no model needs, and was ended")
        return Ending(status, violation)


def _child(information: int) -> int:
    deadline, text = time.monotonic() + _SECONDS, b""
    while (left := deadline - time.monotonic()) > 0:
        if not select.select([information], [], [], left)[0]:
            break
        piece = os.read(information, 4096)
        text += piece
        if not piece:
            break
    try:
        return int(json.loads(text)["child-pid"])
    except (ValueError, KeyError, TypeError):
        raise SandboxError("bubblewrap does not work on this machine: it ended before it began") from None


def _file(content: bytes) -> int:
    file = os.memfd_create("wardround-sandbox", os.MFD_CLOEXEC)
    os.write(file, content)
    os.lseek(file, 0, os.SEEK_SET)
    return file
