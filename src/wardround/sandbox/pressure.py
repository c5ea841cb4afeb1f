"""How much of the last ten seconds something waited, as the kernel measures it (pressure stall information).

A file reads, in per cent of the time:

    some avg10=9.79 avg60=3.50 avg300=3.77 total=13777937276
    full …

"some" means that at least one task waited. The machine's files are in ``/proc/pressure``, a control group's in its
folder (version 2).

References:
    Linux, Documentation/accounting/psi.rst.
"""

import os
from pathlib import Path

__all__ = ["load", "machine", "read"]

_MAX_BYTES = 4096
_NAMES = ("cpu", "memory", "io")


def machine(folder: Path = Path("/proc/pressure")) -> tuple[float, float, float]:
    """Per cent of ten seconds in which something on this machine waited for processor, memory, disk; 0 if unknown."""
    return _three([folder / name for name in _NAMES])


def read(group: Path) -> tuple[float, float, float]:
    """The same of one control group."""
    return _three([group / f"{name}.pressure" for name in _NAMES])


def load() -> float:
    """The load average of one minute, per processor."""
    return os.getloadavg()[0] / (os.cpu_count() or 1)


def _three(files: list[Path]) -> tuple[float, float, float]:
    processor, memory, disk = map(_some, files)
    return processor, memory, disk


def _some(file: Path) -> float:
    try:
        with file.open("rb") as opened:
            words = opened.read(_MAX_BYTES).decode("ascii").split()
        key, _, value = words[1].partition("=")
        return float(value) if words[0] == "some" and key == "avg10" else 0.0
    except (OSError, ValueError, IndexError):
        return 0.0
