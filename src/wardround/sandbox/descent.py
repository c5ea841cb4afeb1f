"""A process and all that descends from it: found, stopped and continued from outside.

What a process starts stays below it: when a process ends, its children become those of the first process of their
namespace, which descends from the one the launcher started. So a list that is read twice, and in which everything is
stopped both times, is whole.
"""

import contextlib
import ctypes
import os
import platform
import signal
from pathlib import Path

from wardround.errors import SandboxError

__all__ = ["go_on", "lower_priority", "members", "stop"]

_TRIES = 2000
_RESTING = frozenset("TtZXx")
_IO_PRIORITY = {"x86_64": 251, "aarch64": 30}  # the call ioprio_set
_IDLE_CLASS = 3 << 13


def members(process: int) -> list[int]:
    """The process and all that descends from it, parents first.

    Raises:
        SandboxError: The kernel does not say who descends from whom (``CONFIG_PROC_CHILDREN``).
    """
    if not Path(f"/proc/self/task/{os.getpid()}/children").exists():
        raise SandboxError("this kernel does not list a process's children, so study code cannot be held here")
    found = [process]
    for parent in found:
        with contextlib.suppress(OSError):
            for thread in Path(f"/proc/{parent}/task").iterdir():
                found += [int(child) for child in (thread / "children").read_text().split()]
    return found


def stop(process: int) -> None:
    """Stop all of it; none of it runs when this returns.

    Raises:
        SandboxError: It did not come to rest.
    """
    before: list[int] = []
    for _ in range(_TRIES):
        present = [member for member in members(process) if not _resting(member)]
        for member in present:
            with contextlib.suppress(ProcessLookupError):
                os.kill(member, signal.SIGSTOP)
        now = members(process)
        if not present and now == before:
            return
        before = now
    raise SandboxError("a worker's processes did not come to rest")


def go_on(process: int) -> None:
    """Let all of it run, children before their parents.

    Raises:
        SandboxError: The kernel does not say who descends from whom.
    """
    for member in reversed(members(process)):
        with contextlib.suppress(ProcessLookupError):
            os.kill(member, signal.SIGCONT)


def lower_priority(process: int) -> None:
    """Give a process, and all that it will start, only the processor and disk time that nobody else wants.

    It cannot undo that where it may not raise its own priority, which takes a privilege.
    """
    if not hasattr(os, "sched_setscheduler"):
        return
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, process, 19)
        os.sched_setscheduler(process, os.SCHED_IDLE, os.sched_param(0))
    number = _IO_PRIORITY.get(platform.machine())
    if number is not None:
        ctypes.CDLL(None, use_errno=True).syscall(number, 1, process, _IDLE_CLASS)


def _resting(process: int) -> bool:
    # All of its threads: a stop reaches them one after another. The state follows the name, which may hold anything.
    try:
        threads = [(thread / "stat").read_bytes() for thread in Path(f"/proc/{process}/task").iterdir()]
    except OSError:
        return True  # it has ended
    return all(chr(text.rpartition(b")")[2].strip()[0]) in _RESTING for text in threads)
