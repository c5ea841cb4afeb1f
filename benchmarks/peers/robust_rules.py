"""Robust rules of Flower 1.42 and ByzFL 0.0.11, each measured in an environment of its own."""

import json
import subprocess
import sys
from pathlib import Path

from benchmarks.peers import flower_secagg

__all__ = ["measure"]

_INSIDE = Path(__file__).with_name("robust_rules_inside.py")
_BYZFL = "byzfl==0.0.11"
_IMPORTED = ("torch", "torchvision", "scipy", "scikit-learn", "matplotlib", "seaborn")


def measure(count: int, width: int, hostile: int) -> dict[str, float]:
    """Seconds by ``"peer rule"``.

    Raises:
        RuntimeError: A peer could not be installed, or did not run.
    """
    found = {}
    for peer, python in (("flower", _flower()), ("byzfl", _byzfl())):
        command = [str(python), str(_INSIDE), peer, str(count), str(width), str(hostile)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{peer} did not run: {done.stderr[-500:]}")
        found |= {f"{peer} {rule}": seconds for rule, seconds in json.loads(done.stdout.splitlines()[-1]).items()}
    return found


def _flower() -> Path:
    python = flower_secagg.environment()
    subprocess.run([str(python), "-m", "pip", "install", "-q", "scipy"], capture_output=True, check=False)
    return python


def _byzfl(folder: Path = Path(".cache/bench-byzfl")) -> Path:
    python = folder / "bin" / "python"
    if not (folder / "ready").exists():
        commands = [
            [sys.executable, "-m", "venv", str(folder)],
            [str(python), "-m", "pip", "install", "-q", "--no-deps", _BYZFL],
            [str(python), "-m", "pip", "install", "-q", *_IMPORTED],
        ]
        for command in commands:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise RuntimeError(f"ByzFL could not be installed: {done.stderr[-500:]}")
        (folder / "ready").touch()
    return python.absolute()
