"""Flower 1.42's SecAgg+ with full shares, measured in an environment of its own.

Flower pins its dependencies narrowly, so it is installed without them, beside those that its secure
aggregation imports. Its own functions are driven in the order of its workflow: see `flower_secagg_inside`.
"""

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

__all__ = ["FlowerCost", "environment", "measure"]

_FLOWER = "flwr==1.42.0"
_IMPORTED = (
    *("numpy", "cryptography", "pycryptodome", "grpcio", "protobuf", "iterators", "tomli", "tomli-w", "pathspec"),
    *("typer", "rich", "pyyaml", "requests", "httpx", "packaging"),
)
_INSIDE = Path(__file__).with_name("flower_secagg_inside.py")


@dataclass(frozen=True, slots=True)
class FlowerCost:
    """Processor seconds of one cohort: of one participant, of the server, and of all together."""

    participant_cpu_seconds: float
    server_cpu_seconds: float
    total_cpu_seconds: float
    version: str


def environment(folder: Path = Path(".cache/bench-flower")) -> Path:
    """The Python of Flower's environment, made where it is not there yet.

    Raises:
        RuntimeError: It could not be installed.
    """
    python = folder / "bin" / "python"
    if not (folder / "ready").exists():
        commands = [
            [sys.executable, "-m", "venv", str(folder)],
            [str(python), "-m", "pip", "install", "-q", "--no-deps", _FLOWER],
            [str(python), "-m", "pip", "install", "-q", *_IMPORTED],
        ]
        for command in commands:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise RuntimeError(f"Flower could not be installed: {done.stderr[-500:]}")
        (folder / "ready").touch()
    return python.absolute()


def measure(participants: int, parameters: int, dropout: float) -> FlowerCost:
    """One cohort of Flower's SecAgg+.

    Raises:
        RuntimeError: It could not be installed, or did not run.
    """
    command = [str(environment()), str(_INSIDE), str(participants), str(parameters), str(dropout)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"Flower's SecAgg+ did not run: {done.stderr[-500:]}")
    found = json.loads(done.stdout.splitlines()[-1])
    return FlowerCost(found["participant"], found["server"], found["total"], found["version"])
