"""Study code in a container of Docker or Podman, through their command line.

A container inherits no descriptors. But it runs on the same kernel, so a socket in a folder that it shares carries
them: the folder is private, it holds one socket, the worker connects to it once and receives its two.

    node ── listens at FOLDER/meeting ──▶ /run/wardround/meeting (read-only mount) ── worker
         ── channel, lifeline (SCM_RIGHTS) ──▶

No network, a read-only image, no capabilities, nobody's identity, bounded memory, processes and processors; the
engine's own filter of system calls. `--init` gives the container a first process, since the signal by which a worker
dies with its node does nothing to a first process.

Hazard: whoever may talk to Docker's daemon is root on the machine. Prefer bubblewrap, or rootless Podman.
"""

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
import threading
from collections.abc import Mapping, Sequence
from itertools import count
from pathlib import Path

from wardround.errors import SandboxError
from wardround.ports import Bounds, Containment, Ending, Started, Usage, Violation
from wardround.sandbox.settings import SandboxSettings

__all__ = ["Container", "command_line"]

_SECONDS = 60.0
_INSIDE = "/run/wardround"
_NUMBERS = count(1)


def command_line(
    engine: str,
    settings: SandboxSettings,
    name: str,
    folder: str,
    command: Sequence[str],
    environment: Mapping[str, str],
    bounds: Bounds,
) -> list[str]:
    """What is run; the container's Python takes the place of the command's first word."""
    processes = min(bounds.processes, settings.processes) + 1
    made = [engine, "run", "--rm", "--init", "--name", name, "--pull", "never", "--log-driver", "none"]
    made += ["--network", "none", "--ipc", "none", "--read-only", "--user", "65534:65534", "--workdir", "/"]
    made += ["--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--pids-limit", str(processes)]
    made += ["--memory", str(bounds.memory_bytes), "--memory-swap", str(bounds.memory_bytes)]
    made += ["--ulimit", "core=0:0", "--ulimit", "nofile=256:256"]
    made += ["--tmpfs", f"/tmp:rw,noexec,nosuid,nodev,size={settings.temporary_bytes}"]  # noqa: S108, the container's
    made += ["--mount", f"type=bind,source={folder},target={_INSIDE},readonly"]
    made += ["--cpu-shares", "2"] if settings.idle else []
    made += ["--cpus", f"{settings.processors:g}"] if settings.processors else []
    made += ["--cpuset-cpus", settings.cpus] if settings.cpus else []
    for device in settings.devices:
        made += ["--device", f"{device}:{device}:rw"]
    for key, value in sorted(environment.items()):
        made += ["--env", f"{key}={value}"]
    return [*made, "--entrypoint", "python3", settings.image, *command[1:], f"{_INSIDE}/meeting"]


class Container:
    """Fills `wardround.ports.Launcher` with ``docker run`` or ``podman run``.

    Args:
        settings: The site's; `runner` names the engine.
        folder: Where the private folders are made; the system's temporary folder where it is empty.

    Raises:
        SandboxError: There is no such engine, it does not answer, it has not the image, or a setting cannot be met.
    """

    def __init__(self, settings: SandboxSettings, *, folder: str = "") -> None:
        self._engine, self._settings, self._folder = settings.runner, settings, folder
        if shutil.which(self._engine) is None:
            raise SandboxError(f"there is no {self._engine} on this machine: install it, or name another runner")
        if not settings.image:
            raise SandboxError(f"the runner {self._engine} needs sandbox.image, with its digest")
        if settings.folders:
            raise SandboxError("sandbox.folders is for bubblewrap: a container's libraries are in its image")
        if self._run("image", "inspect", settings.image).returncode:
            raise SandboxError(f"{self._engine} does not answer, or has not the image {settings.image[:80]}: pull it")
        self._containment = Containment(
            contains_foreign_code=True,
            name=self._engine,
            denied=("the network", "this machine's files", "other processes", "privileges", "more than it is given"),
            open_ways=("system calls that the engine's own filter allows", "holes in the kernel and the engine"),
        )

    @property
    def containment(self) -> Containment:
        """See `wardround.ports.Launcher`."""
        return self._containment

    def start(
        self, command: Sequence[str], *, environment: Mapping[str, str], descriptors: Sequence[int], bounds: Bounds
    ) -> Started:
        """See `wardround.ports.Launcher`."""
        name = f"wardround-{os.getpid()}-{next(_NUMBERS)}"
        with tempfile.TemporaryDirectory(prefix="wardround-", dir=self._folder or None) as private:
            # Only the node's user reaches the outer folder; nobody, in the container, connects in the inner one.
            shared = Path(private) / "shared"
            shared.mkdir()
            shared.chmod(0o755)
            line = command_line(self._engine, self._settings, name, str(shared), command, environment, bounds)
            with socket.socket(socket.AF_UNIX) as listening:
                listening.bind(str(shared / "meeting"))
                (shared / "meeting").chmod(0o666)
                listening.listen(1)
                listening.settimeout(_SECONDS)
                process = self._open(line)
                try:
                    meeting, _ = listening.accept()
                    with meeting:
                        socket.send_fds(meeting, [b"1"], list(descriptors))
                except OSError:
                    self._run("kill", name)
                    process.kill()
                    process.wait()
                    raise SandboxError(f"the worker in the container of {self._engine} did not answer") from None
        return _Contained(self, name, process)

    def _open(self, line: list[str]) -> "subprocess.Popen[bytes]":
        try:
            return subprocess.Popen(
                line,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        except OSError as error:
            raise SandboxError(f"{self._engine} cannot be started: {error.strerror}") from None

    def _run(self, *words: str) -> "subprocess.CompletedProcess[bytes]":
        try:
            return subprocess.run([self._engine, *words], capture_output=True, timeout=_SECONDS, check=False)
        except (OSError, subprocess.TimeoutExpired):
            return subprocess.CompletedProcess([], 1)

    def command(self, name: str, word: str) -> bool:
        """Have the engine do something with a container: whether it did."""
        return self._run(word, name).returncode == 0


class _Contained:
    """One container, and the engine's client that waits for it."""

    def __init__(self, launcher: Container, name: str, process: "subprocess.Popen[bytes]") -> None:
        self._launcher, self._name, self._process = launcher, name, process
        self._lock = threading.Lock()
        self._paused = False
        self._ending: Ending | None = None

    @property
    def pid(self) -> int:
        """See `wardround.ports.Started`: the engine's client."""
        return self._process.pid

    @property
    def paused_seconds(self) -> float:
        """Nobody but the caller holds it."""
        return 0.0

    def pause(self) -> None:
        """See `wardround.ports.Started`."""
        with self._lock:
            if self._ending is None and not self._paused and self._process.poll() is None:
                if not self._launcher.command(self._name, "pause"):
                    raise SandboxError("the container could not be paused")
                self._paused = True

    def resume(self) -> None:
        """See `wardround.ports.Started`."""
        with self._lock:
            if self._ending is None and self._paused:
                self._launcher.command(self._name, "unpause")
                self._paused = False

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
        with self._lock:
            if self._ending is None:
                if self._paused:
                    self._launcher.command(self._name, "unpause")
                self._launcher.command(self._name, "kill")
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._process.wait(_SECONDS)
                self._process.kill()
                status = self._process.wait()
                status = 128 - status if status > 128 else status
                violation = None
                if status == -31:
                    violation = Violation("system-call", "the worker made a forbidden system call, and was ended")
                self._ending = Ending(status, violation)
            return self._ending
