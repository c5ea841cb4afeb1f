"""What the sandbox costs, whether its quota is kept, and what a server beside it feels: `python -m benchmarks.sandbox`.

start       an empty Python, in a plain process and in the sandbox: medians, interleaved
training    rounds of the same model in a plain worker and in a contained one, interleaved
quota       the processor time of a loop that is given half a processor
neighbour   a server of this machine answers over loopback: its 99th percentile alone, beside a loop on every
            processor in the sandbox (idle, half a processor), and beside the same loops without it
"""

import contextlib
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from wardround.clinical.contract import Column, DataContract, Label
from wardround.clinical.table import LoadReport, StudyTable
from wardround.codec import tensors
from wardround.ids import SiteId
from wardround.ports import Bounds, Launcher, Started
from wardround.protocol.plan import BlobRef, CodePackage, Limits, Plan, Training
from wardround.sandbox import descent
from wardround.sandbox.bubblewrap import Bubblewrap
from wardround.sandbox.settings import SandboxSettings
from wardround.training import package as code
from wardround.training.process import PlainLauncher
from wardround.training.worker import PytorchWorker

__all__ = ["neighbour", "quota", "start", "training"]

_LOOP = [sys.executable, "-I", "-S", "-c", "while True: pass"]
_BOUNDS = Bounds(1 << 30)
_SERVER = """
import hashlib, socket
server = socket.create_server(("127.0.0.1", 0))
print(server.getsockname()[1], flush=True)
connection, _ = server.accept()
connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
while connection.recv(64):
    connection.sendall(hashlib.sha256(bytes(4_000_000)).digest())
"""
_MODEL = b"""
from torch import nn
def make(width, outputs):
    return nn.Sequential(nn.Linear(width, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, outputs))
"""


def start(times: int = 41) -> dict[str, float]:
    """Median seconds from the launcher's call to the first byte from Python, plain and contained."""
    launchers: dict[str, Launcher] = {"plain": PlainLauncher(), "contained": Bubblewrap(SandboxSettings(idle=False))}
    spans: dict[str, list[float]] = {name: [] for name in launchers}
    for _ in range(times):
        for name, launcher in launchers.items():
            source, target = os.pipe()
            command = [sys.executable, "-I", "-c", "import os, sys; os.write(int(sys.argv[1]), b'.')"]
            began = time.perf_counter()
            started = launcher.start(command, environment={}, descriptors=(target,), bounds=_BOUNDS)
            os.read(source, 1)
            spans[name].append(time.perf_counter() - began)
            started.kill()
            os.close(source)
            os.close(target)
    medians = {name: statistics.median(found) for name, found in spans.items()}
    return {**medians, "beyond": medians["contained"] - medians["plain"]}


def training(rounds: int = 31) -> dict[str, float]:
    """Median seconds of a round by the clock and of processor time, plain and contained; the cost as a share."""
    package = code.make({"model.py": _MODEL})
    sizes = ((256, 64), (256,), (256, 256), (256,), (1, 256), (1,))
    names = [f"{layer}.{part}" for layer in (0, 2, 4) for part in ("weight", "bias")]
    manifest = tuple(tensors.TensorSpec(name, size) for name, size in zip(names, sizes, strict=True))
    columns = tuple(Column(name=f"c{number}") for number in range(64))
    plan = Plan(
        title="t",
        purpose="p",
        legal_basis="l",
        researcher=SiteId("r"),
        participants=(SiteId("a"), SiteId("b")),
        min_participants=2,
        data=DataContract(columns=columns, label=Label(name="y", outcome="number")),
        model=CodePackage(package=code.ref(package), factory="model:make"),
        manifest=manifest,
        initial=BlobRef("0" * 64, tensors.file_bytes(manifest)),
        expires=0,
        limits=Limits(worker_seconds=600),
        training=Training(rounds=1, epochs=5, batch_size=64),
    )
    features = np.random.default_rng(1).normal(0, 1, (4000, 64)).astype(np.float32)
    table = StudyTable(features, features[:, 0], np.arange(4000) % 5 == 0, LoadReport(4000, 4000, 0))
    launchers: dict[str, Launcher] = {"plain": PlainLauncher(), "contained": Bubblewrap(SandboxSettings(idle=False))}
    spans: dict[str, list[float]] = {name: [] for name in launchers}
    used: dict[str, list[float]] = {name: [] for name in launchers}
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        base = Path(folder) / "base"
        base.write_bytes(tensors.header(manifest).ljust(tensors.file_bytes(manifest), b"\0"))
        workers = {}
        for name, launcher in launchers.items():
            worker = PytorchWorker(plan, SiteId("a"), table, package, launcher=launcher)
            workers[name] = stack.enter_context(contextlib.closing(worker))
            worker.perform(0, "train", str(base), b"")
        for number in range(rounds):
            order = list(workers.items())
            for name, worker in order if number % 2 else reversed(order):
                before = _processor_seconds(worker)
                spans[name].append(worker.perform(number, "train", str(base), b"").seconds)
                used[name].append(_processor_seconds(worker) - before)
    medians = {name: statistics.median(found) for name, found in spans.items()}
    processor = {f"{name}_processor": statistics.median(found) for name, found in used.items()}
    return {
        **medians,
        **processor,
        "cost": medians["contained"] / medians["plain"] - 1,
        "processor_cost": processor["contained_processor"] / processor["plain_processor"] - 1,
    }


def _processor_seconds(worker: PytorchWorker) -> float:
    # The Python process itself: the last to descend from the one that was started.
    process = descent.members(worker._process.started.pid)[-1]
    fields = Path(f"/proc/{process}/schedstat").read_text().split()
    return int(fields[0]) / 1e9


def quota(processors: float = 0.5, seconds: float = 5.0) -> dict[str, float]:
    """Processors that a loop used which was given `processors`."""
    box = Bubblewrap(SandboxSettings(processors=processors, idle=False))
    started = box.start(_LOOP, environment={}, descriptors=(), bounds=_BOUNDS)
    started.wait(0.5)
    before, began = started.usage().processor_seconds, time.perf_counter()
    started.wait(seconds)
    used = (started.usage().processor_seconds - before) / (time.perf_counter() - began)
    started.kill()
    return {"given": processors, "used": used}


def neighbour(requests: int = 1200) -> dict[str, float]:
    """The server's 50th and 99th percentile in seconds: alone, beside contained loops, beside plain loops."""
    contained = Bubblewrap(SandboxSettings(processors=0.5, idle=True))
    half = Bubblewrap(SandboxSettings(processors=0.5, idle=False))
    hogs: dict[str, Callable[[], Started] | None] = {
        "alone": None,
        "contained": lambda: contained.start(_LOOP, environment={}, descriptors=(), bounds=_BOUNDS),
        "quota_only": lambda: half.start(_LOOP, environment={}, descriptors=(), bounds=_BOUNDS),
        "plain": lambda: PlainLauncher().start(_LOOP, environment={}, descriptors=(), bounds=_BOUNDS),
    }
    spans: dict[str, list[float]] = {name: [] for name in hogs}
    with _server() as ask:
        for _ in range(4):
            for name, hog in hogs.items():
                started = [hog() for _ in range(os.cpu_count() or 1)] if hog else []
                for _ in range(requests // 4):
                    began = time.perf_counter()
                    ask()
                    spans[name].append(time.perf_counter() - began)
                    time.sleep(0.001)
                for each in started:
                    each.kill()
    found = {}
    for name, times in spans.items():
        found[f"{name}_p50"], found[f"{name}_p99"] = (float(np.quantile(times, at)) for at in (0.5, 0.99))
    return found


@contextlib.contextmanager
def _server() -> Iterator[Callable[[], bytes]]:
    with subprocess.Popen([sys.executable, "-c", _SERVER], stdout=subprocess.PIPE) as server:
        with socket.create_connection(("127.0.0.1", int(server.stdout.readline()))) as connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

            def ask() -> bytes:
                connection.sendall(b"?")
                return connection.recv(64)

            yield ask
        server.kill()


if __name__ == "__main__":
    for measure in (start, training, quota, neighbour):
        found = {name: round(value, 6) for name, value in measure().items()}
        print(json.dumps({measure.__name__: found, "load": round(os.getloadavg()[0], 2)}))
