"""What study code finds in its file system: the Python that runs it, shared libraries, and nothing of the hospital.

    /usr/lib/<machine>, /lib64      shared libraries and the loader, read-only
    the interpreter, its standard library, site-packages, wardround itself; each where it is outside, read-only
    /proc                           two files about processor and memory; not the kernel's file system of processes
    /dev                            null, zero, full, random, urandom, tty; and the devices that the site names
    /tmp                            private, in memory, of a bounded size

There is no ``/etc`` but the loader's cache, no home, no ``/var``, no ``/sys``, no ``/run``, and no program but Python.
Folders on the way to something (``/home/node/venv``) are there, and empty otherwise.

Hazard: a file system of processes would undo two walls. Through ``/proc/self/fd`` the worker could open for writing a
model's file that the node handed over for reading, since both are the same user; and through ``/proc/1/mem`` it could
rewrite bwrap's own process, which no filter of system calls binds.
"""

import os
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from pathlib import Path

from wardround.errors import SandboxError

__all__ = ["arguments", "places"]

_MAX_LINKS = 16
# What is left of /proc: what numpy and torch read to learn about the processor and the memory.
_MACHINE = ("/proc/cpuinfo", "/proc/meminfo")


def places(folders: Iterable[str] = ()) -> list[str]:
    """Every path that is shown, links before what they lead to.

    Raises:
        SandboxError: A folder that the site names is one that holds everything.
    """
    found = [*_libraries(), "/etc/ld.so.cache", sys.executable, sysconfig.get_path("stdlib")]
    if sysconfig.get_config_var("Py_ENABLE_SHARED"):
        found.append(f"{sysconfig.get_config_var('LIBDIR')}/{sysconfig.get_config_var('INSTSONAME')}")
    if sys.prefix != sys.base_prefix:
        found.append(f"{sys.prefix}/pyvenv.cfg")
    found += [path for path in sys.path if Path(path).name in {"site-packages", "dist-packages"}]
    found.append(str(Path(__file__).parents[1]))
    for folder in folders:
        if os.path.normpath(folder) != folder or len(Path(folder).parts) < 3:
            raise SandboxError(f"sandbox.folders names {folder}: name only the folders of libraries that code needs")
        found.append(folder)
    shown = [folder for folder in ("/lib", "/lib64") if Path(folder).is_symlink()]
    for path in found:
        for place in _links(path):
            if place not in shown and not any(place.startswith(f"{outer}/") and _real(outer) for outer in shown):
                shown.append(place)
    return shown


def arguments(temporary_bytes: int, devices: Iterable[str] = (), folders: Iterable[str] = ()) -> list[str]:
    """The same for bubblewrap's command line.

    Raises:
        SandboxError: A device is none, or a folder is one that holds everything.
    """
    # First of all, since what is shown may lie in the folder of this name outside.
    made = ["--size", str(temporary_bytes), "--tmpfs", "/tmp"]  # noqa: S108, the sandbox's own
    for place in places(folders):
        made += (
            ["--symlink", str(Path(place).readlink()), place]
            if Path(place).is_symlink()
            else ["--ro-bind", place, place]
        )
    for place in _MACHINE:
        made += ["--ro-bind", place, place]
    made += ["--dev", "/dev"]
    for device in devices:
        path = Path(device)
        if not device.startswith("/dev/") or ".." in path.parts or not path.is_char_device():
            raise SandboxError(f"sandbox.devices names {device}, which is no character device of this machine")
        made += ["--dev-bind", device, device]
    return [*made, "--remount-ro", "/dev", "--remount-ro", "/"]


def _libraries() -> Iterator[str]:
    # Debian keeps its libraries in a folder of the machine's name, others in lib64; the loader has a fixed path.
    multiarch = sysconfig.get_config_var("MULTIARCH")
    for folder in ("/usr/lib", "/lib"):
        if multiarch and not Path(folder).is_symlink():
            yield f"{folder}/{multiarch}"
        yield from sorted(map(str, Path(folder).glob("ld-linux*")))
    yield from (folder for folder in ("/usr/lib64", "/lib64") if not Path(folder).is_symlink())


def _real(path: str) -> bool:
    return not Path(path).is_symlink()


def _links(path: str) -> Iterator[str]:
    # A link and all that it leads to, so that the interpreter finds its libraries from where it really lies.
    for _ in range(_MAX_LINKS):
        if not os.path.lexists(path):
            return
        yield path
        if not Path(path).is_symlink():
            return
        path = os.path.normpath(Path(path).parent / Path(path).readlink())
