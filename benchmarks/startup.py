"""How long it takes until the command or the package is there, beside an empty Python."""

import subprocess
import sys
import time
from pathlib import Path
from statistics import median

__all__ = ["startup"]


def startup(times: int = 11) -> dict[str, float]:
    """Median seconds of ``wardround --help``, and of ``import wardround`` less an empty Python."""
    command = [str(Path(sys.executable).with_name("wardround")), "--help"]
    empty = _seconds([sys.executable, "-c", ""], times)
    imported = _seconds([sys.executable, "-c", "import wardround"], times)
    return {"help": _seconds(command, times), "import": max(imported - empty, 0.0), "python": empty}


def _seconds(command: list[str], times: int) -> float:
    spans = []
    for _ in range(times):
        started = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        spans.append(time.perf_counter() - started)
    return median(spans)
