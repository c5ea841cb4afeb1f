"""Control groups: how much of the machine a worker gets, and how it is held and measured.

    parents = find(...)        by controller, the folder below which this process may make groups
    group = make(parents, …)   one group over all of them, with its bounds
    group.add(pid)             the process, and all that it starts from now on

Both versions serve, together too: version 1 has a tree of folders for each controller, version 2 one tree for all,
and a machine with version 1 often has a tree of version 2 without controllers, whose freezer is the better one.
Groups are made below the group that the node runs in, or below the folder that the site names, so a worker never gets
more than the node was given. In version 2 a group with processes cannot have children with controllers: run the node
with ``Delegate=yes`` and ``DelegateSubgroup=node`` (systemd), and the groups are made beside the node's own.

Processes of version 1's freezer cannot be killed while they are frozen, and would outlive a node that is killed. So
it is not used: where there is no version 2 the launcher stops processes one by one.

References:
    Linux, Documentation/admin-guide/cgroup-v2.rst and cgroup-v1/.
"""

import contextlib
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from wardround.errors import SandboxError
from wardround.ports import Usage, Violation
from wardround.sandbox import pressure

__all__ = ["ControlGroup", "Parents", "Slice", "find", "make", "sweep"]

Parents = Mapping[str, Path]
"""By controller's name ("cpu", "memory", …; "freeze" is version 2's tree), the folder to make groups in."""

_NAME = "wardround-"
_PERIOD = 100_000  # microseconds, of which a quota is a share
_WANTED = ("cpu", "cpuacct", "memory", "pids", "cpuset", "blkio", "io")
_DEMANDED = ("cpu", "memory", "pids")
_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Slice:
    """What a group may use: bytes of memory, processes and threads, processors (0: all) and which, only idle time."""

    memory_bytes: int
    processes: int
    processors: float = 0.0
    cpus: str = ""
    idle: bool = True


def find(configured: str = "", *, process: Path = Path("/proc/self")) -> Parents:
    """Where groups can be made; without "cpu", "memory" and "pids" there is nothing that bounds."""
    try:
        own = _own(process)
        mounts = _mounts(process)
    except (OSError, ValueError):
        return {}
    found: dict[str, Path] = {}
    for place, root, version, controllers in mounts:
        if version == 1:
            for name in controllers & set(_WANTED):
                folder = _below(place, root, own.get(name, ""))
                if folder is not None and os.access(folder, os.W_OK):
                    found.setdefault(name, folder)
            continue
        folder = Path(configured) if configured else _below(place, root, own.get("", ""))
        if folder is not None and not configured and folder.name == "node":
            folder = folder.parent
        if folder is None or not os.access(folder, os.W_OK) or not (folder / "cgroup.procs").exists():
            continue
        if (folder / "cgroup.freeze").exists() or folder == place:
            found.setdefault("freeze", folder)
        for name in _enabled(folder) & set(_WANTED):
            found.setdefault(name, folder)
    return found


def make(parents: Parents, name: str, bounds: Slice) -> "ControlGroup":
    """A new group with its bounds.

    Raises:
        SandboxError: The kernel does not let this process make the group, or set one of its bounds.
    """
    missing = [controller for controller in _DEMANDED if controller not in parents]
    if missing:
        raise SandboxError(f"no control group can be made here: there is no {', '.join(missing)} controller to use")
    group = ControlGroup({controller: folder / (_NAME + name) for controller, folder in parents.items()})
    try:
        group.prepare(bounds)
    except OSError as error:
        group.remove()
        raise SandboxError(f"a worker's control group cannot be made: {error.strerror}") from None
    return group


def sweep(parents: Parents) -> None:
    """Remove the groups of nodes that are gone, with the processes in them; a node's number begins a group's name."""
    for folder in set(parents.values()):
        for stale in folder.glob(f"{_NAME}*-*"):
            node = stale.name.removeprefix(_NAME).partition("-")[0]
            if not node.isdecimal() or Path(f"/proc/{node}").exists():
                continue
            group = ControlGroup({"cpu": stale})
            group.hurry()
            with contextlib.suppress(OSError):
                for process in group.processes():
                    os.kill(process, 9)
            group.remove()


class ControlGroup:
    """One group, which is a folder in each tree.

    Args:
        folders: By controller, the group's folder.
    """

    def __init__(self, folders: Mapping[str, Path]) -> None:
        self._folders = dict(folders)

    @property
    def can_freeze(self) -> bool:
        """Whether `freeze` works: there is a tree of version 2."""
        return "freeze" in self._folders

    def prepare(self, bounds: Slice) -> None:
        """Make the folders and write the bounds.

        Raises:
            OSError: The kernel refused one.
        """
        for folder in dict.fromkeys(self._folders.values()):
            folder.mkdir()
        self._bound_processor(bounds)
        self._bound_memory(bounds.memory_bytes)
        (self._folders["pids"] / "pids.max").write_text(str(bounds.processes))
        self._bound_disk()

    def add(self, process: int) -> None:
        """Put a process into the group.

        Raises:
            SandboxError: The kernel refused.
        """
        try:
            for folder in dict.fromkeys(self._folders.values()):
                (folder / "cgroup.procs").write_text(str(process))
        except OSError as error:
            raise SandboxError(f"a worker cannot be put into its control group: {error.strerror}") from None

    def processes(self) -> list[int]:
        """Numbers of the processes in it."""
        folder = next(iter(self._folders.values()))
        return [int(line) for line in (folder / "cgroup.procs").read_text().split()]

    def freeze(self) -> None:
        """Hold all of it; nothing in it runs when this returns.

        Raises:
            SandboxError: It did not come to rest.
        """
        self._freeze("1")

    def thaw(self) -> None:
        """Let it run.

        Raises:
            SandboxError: The kernel refused.
        """
        self._freeze("0")

    def hurry(self) -> None:
        """Let it have the processor like others, so that it ends soon; for a group whose processes are killed."""
        usual = {"cpu.idle": "0", "cpu.weight": "100", "cpu.shares": "1024", "cpu.max": "max", "cpu.cfs_quota_us": "-1"}
        folder = self._folders.get("cpu")
        for name, value in usual.items():
            if folder is not None and (folder / name).exists():
                with contextlib.suppress(OSError):
                    (folder / name).write_text(value)

    def usage(self) -> Usage:
        """What it has used; what cannot be read is 0."""
        seconds = self._field("cpu", "cpu.stat", "usage_usec") / 1e6
        if not seconds:
            seconds = self._number("cpuacct", "cpuacct.usage") / 1e9
        peak = self._number("memory", "memory.peak") or self._number("memory", "memory.max_usage_in_bytes")
        folder = self._folders.get("freeze")
        waiting = pressure.read(folder) if folder else (0.0, 0.0, 0.0)
        return Usage(seconds, peak, self._field("pids", "pids.events", "max"), waiting)

    def violation(self) -> Violation | None:
        """Which bound it ran into, if one."""
        killed = self._field("memory", "memory.events", "oom_kill")
        if killed or self._field("memory", "memory.oom_control", "oom_kill"):
            return Violation("memory", "the worker used more memory than its control group allows")
        if self._field("pids", "pids.events", "max"):
            return Violation("processes", "the worker tried to start more processes and threads than it may")
        return None

    def remove(self) -> None:
        """Remove the folders; those whose processes are still ending are tried for a while, then left to `sweep`."""
        deadline = time.monotonic() + _SECONDS
        for folder in dict.fromkeys(self._folders.values()):
            while folder.exists() and time.monotonic() < deadline:
                try:
                    folder.rmdir()
                except OSError:
                    time.sleep(0.001)

    def _bound_processor(self, bounds: Slice) -> None:
        folder = self._folders["cpu"]
        if bounds.processors:
            quota = max(1000, round(bounds.processors * _PERIOD))
            if (folder / "cpu.max").exists():
                (folder / "cpu.max").write_text(f"{quota} {_PERIOD}")
            else:
                (folder / "cpu.cfs_period_us").write_text(str(_PERIOD))
                (folder / "cpu.cfs_quota_us").write_text(str(quota))
        if bounds.idle:
            # A group competes as a whole: idle threads in a group of full weight would get a full share.
            for name, least in (("cpu.idle", "1"), ("cpu.weight", "1"), ("cpu.shares", "2")):
                if (folder / name).exists():
                    (folder / name).write_text(least)
                    break
        if "cpuset" in self._folders:
            self._bind(self._folders["cpuset"], bounds.cpus)
        elif bounds.cpus:
            raise OSError(2, "sandbox.cpus needs the cpuset controller")

    def _bind(self, folder: Path, cpus: str) -> None:
        # In version 1 a new group has no processor and no memory node until it is given some.
        for name, wanted in (("cpuset.mems", ""), ("cpuset.cpus", cpus)):
            above = folder.parent / name.replace("cpuset.", "cpuset.effective_")
            if wanted:
                (folder / name).write_text(wanted)
            elif above.exists():
                (folder / name).write_text(above.read_text().strip())

    def _bound_memory(self, size: int) -> None:
        folder = self._folders["memory"]
        if (folder / "memory.max").exists():
            bounds = [("memory.max", str(size)), ("memory.swap.max", "0"), ("memory.oom.group", "1")]
        else:
            bounds = [("memory.limit_in_bytes", str(size)), ("memory.memsw.limit_in_bytes", str(size))]
        for name, value in bounds:
            # Without swap the kernel has no file to bound it.
            if name in {"memory.max", "memory.limit_in_bytes"} or (folder / name).exists():
                (folder / name).write_text(value)

    def _bound_disk(self) -> None:
        # Least weight where the disk's scheduler knows weights; the worker reads libraries and writes nothing.
        for controller, name in (("io", "io.bfq.weight"), ("io", "io.weight"), ("blkio", "blkio.bfq.weight")):
            folder = self._folders.get(controller)
            if folder is not None and (folder / name).exists():
                with contextlib.suppress(OSError):
                    (folder / name).write_text("1")

    def _freeze(self, wanted: str) -> None:
        folder = self._folders["freeze"]
        try:
            (folder / "cgroup.freeze").write_text(wanted)
            deadline = time.monotonic() + _SECONDS
            while self._field("freeze", "cgroup.events", "frozen") != int(wanted):
                if time.monotonic() > deadline:
                    raise SandboxError("a worker's control group did not come to rest")
                time.sleep(0.0002)
        except OSError as error:
            raise SandboxError(f"a worker's control group cannot be held: {error.strerror}") from None

    def _field(self, controller: str, name: str, field: str) -> int:
        for line in self._text(controller, name).splitlines():
            key, _, value = line.partition(" ")
            if key == field and value.strip().isdecimal():
                return int(value)
        return 0

    def _number(self, controller: str, name: str) -> int:
        text = self._text(controller, name).strip()
        return int(text) if text.isdecimal() else 0

    def _text(self, controller: str, name: str) -> str:
        folder = self._folders.get(controller)
        try:
            return (folder / name).read_text() if folder else ""
        except OSError:
            return ""


def _own(process: Path) -> dict[str, str]:
    found = {}
    for line in (process / "cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        found.update(dict.fromkeys(controllers.split(","), path))
    return found


def _mounts(process: Path) -> list[tuple[Path, str, int, set[str]]]:
    # Fields 4 and 5 of a line are the root and the place; after the dash come type, source and options (proc(5)).
    found = []
    for line in (process / "mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        kind, _, options = after.split(" ", 2)
        if kind in {"cgroup", "cgroup2"}:
            root, place = before.split(" ")[3:5]
            found.append((Path(place), root, 1 if kind == "cgroup" else 2, set(options.split(","))))
    return found


def _below(place: Path, root: str, own: str) -> Path | None:
    if not own.startswith("/") or ".." in own.split("/"):
        return None
    relative = os.path.relpath(own, root)
    return None if relative.startswith("..") else place / relative


def _enabled(folder: Path) -> set[str]:
    # Controllers that children get, after asking for those that are there.
    control = folder / "cgroup.subtree_control"
    there = set((folder / "cgroup.controllers").read_text().split())
    for name in sorted(there & set(_WANTED) - set(control.read_text().split())):
        with contextlib.suppress(OSError):
            control.write_text(f"+{name}")
    return set(control.read_text().split())
