"""A real federation on loopback: a hub and nodes as processes, TLS 1.3, in folders of the test's own.

Every wait is bounded and ends as soon as what it waits for is there. Processes are ended by their own
ids. Here and in the tests beside this file, and nowhere else, sleeping is allowed.
"""

import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

import wardround
from wardround.cli.demo import NEVER_MAKES_ROOM
from wardround.errors import UnavailableError
from wardround.hub import setup as hub_setup
from wardround.ids import RunId, SiteId
from wardround.node import setup as node_setup
from wardround.sdk import client
from wardround.transport import connection

if TYPE_CHECKING:
    from wardround.protocol.messages import RunStatus

_T = TypeVar("_T")


CONTRACT = wardround.DataContract(
    columns=(
        wardround.Column(name="age", unit="a", minimum=0.0, maximum=120.0),
        wardround.Column(name="lactate", unit="mmol/L"),
    ),
    label=wardround.Label(name="died"),
    min_records=10,
)


PATIENCE = 3.0
"""Everything may take so many times as long as it does on a machine that has nothing else to do."""


def until(what: str | Callable[[], str], found: Callable[[], _T], *, seconds: float = 30.0, every: float = 0.02) -> _T:
    """What `found` gives once it gives something; fails with `what` after `PATIENCE` times `seconds`."""
    seconds *= PATIENCE
    deadline = time.monotonic() + seconds
    while not (value := found()):
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {seconds:g} s in vain: {what if isinstance(what, str) else what()}")
        time.sleep(every)
    return value


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("WARDROUND_")}


def wardround_command(*arguments: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, at most three minutes."""
    line = [sys.executable, "-m", "wardround", *map(str, arguments)]
    return subprocess.run(line, capture_output=True, text=True, timeout=180, check=False, env=environment(), **options)


class Process:
    """One `wardround …` process with its log; may be started again after it ended."""

    def __init__(self, *arguments: str | Path, log: Path) -> None:
        self.arguments, self.log = [str(argument) for argument in arguments], log
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "wardround", *self.arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=environment(),
            )

    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def send(self, number: signal.Signals) -> None:
        if self.is_running():
            os.kill(self.pid, number)

    def kill(self) -> None:
        """End it as a power failure would."""
        self.send(signal.SIGKILL)
        if self._process is not None:
            self._process.wait(10.0)

    def stop(self) -> int:
        """Ask it to end, and wait; its exit status."""
        self.send(signal.SIGCONT)
        self.send(signal.SIGTERM)
        assert self._process is not None
        try:
            return self._process.wait(15.0)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"{self.arguments} did not end when asked; see {self.log}") from None

    def text(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def lines(self, *words: str) -> list[str]:
        """Lines of the log that hold all `words`."""
        return [line for line in self.text().splitlines() if all(word in line for word in words)]

    def children(self) -> list[int]:
        """Its child processes, by id."""
        known = [int(place.name) for place in Path("/proc").iterdir() if place.name.isdigit()]
        return [pid for pid in known if _stat(pid)[1] == str(self.pid)]


def is_alive(pid: int) -> bool:
    """Whether a process is there and not merely waiting to be reaped."""
    return _stat(pid)[0] not in {"", "Z", "X"}


def _stat(pid: int) -> tuple[str, str]:
    with suppress(OSError):
        state, parent = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:2]
        return state, parent
    return "", ""


class Federation:
    """A hub's folder, nodes' folders and a researcher's, and the processes on them."""

    def __init__(self, place: Path, *, hub_folder: Path | None = None) -> None:
        self.place, self.hub_folder = place, hub_folder or place / "hub"
        listen, public = (f"127.0.0.1:{free_port()}" for _ in range(2))
        hub_setup.init(self.hub_folder, listen=listen, listen_public=public, hosts=["127.0.0.1"], people="none")
        config = hub_setup.load_config(self.hub_folder)
        self.url, self.url_public = config.url, config.url_public
        self.authority = (self.hub_folder / "authority.crt").read_bytes()
        self.hub = Process("hub", "serve", self.hub_folder, "--log-json", log=place / "hub.log")
        self.nodes: dict[str, Process] = {}

    def start_hub(self) -> None:
        self.hub.start()
        until(f"the hub answers; see {self.hub.log}", self.is_answering)

    def is_answering(self) -> bool:
        assert self.hub.is_running(), self.hub.text()
        try:
            connection.clock_offset(self.url_public, self.authority)
        except UnavailableError:
            return False
        return True

    def invite(self, name: str, role: str = "site", seconds: float = 600.0) -> str:
        return hub_setup.invite(
            self.hub_folder, SiteId(name), "researcher" if role == "researcher" else "site", seconds
        )

    def enrol_researcher(self, name: str = "ada") -> client.Researcher:
        client.enrol(self.place / name, self.invite(name, "researcher"))
        return client.connect(self.place / name)

    def enrol_site(self, name: str) -> Path:
        """Enrol a site; its node is not started."""
        folder = self.place / name
        node_setup.enrol(folder, self.invite(name), people="none")
        with (folder / "node.toml").open("a") as settings:
            settings.write(NEVER_MAKES_ROOM)
        self.nodes[name] = Process("node", "run", folder, "--log-json", log=self.place / f"{name}.log")
        return folder

    def start_node(self, name: str) -> None:
        before = len(self.nodes[name].lines("waits for tasks"))
        self.nodes[name].start()
        until(f"{name} is up", lambda: len(self.nodes[name].lines("waits for tasks")) > before)

    def approve(self, study: str, sites: Iterable[str]) -> None:
        for site in sites:
            self.decide(site, study, "approve")

    def decide(self, site: str, study: str, verdict: str) -> None:
        opened = node_setup.open_node(self.place / site)
        try:
            opened.approvals.decide(study, verdict, person="steward", reason="a test")
        finally:
            opened.vault.close()
            opened.hub.close()

    def close(self) -> None:
        """End every process; those that were killed or stopped before are passed over."""
        for process in (*self.nodes.values(), self.hub):
            process.send(signal.SIGCONT)
            process.send(signal.SIGTERM)
        for process in (*self.nodes.values(), self.hub):
            if process.is_running():
                process.stop()


class Followed:
    """A run as its researcher sees it; survives a hub that comes and goes."""

    def __init__(self, researcher: client.Researcher, run: RunId) -> None:
        self.researcher, self.run = researcher, run
        self.events: list[dict[str, Any]] = []
        self.status: RunStatus | None = None

    def poll(self, wait: float = 0.0) -> None:
        try:
            self.status = self.researcher.hub.run(self.run, after=len(self.events), wait_seconds=wait)
        except UnavailableError:
            return
        self.events += self.status.events

    def until(self, event: str, *, seconds: float = 40.0, **fields: object) -> dict[str, Any]:
        """The first event of this kind with these fields, once there is one."""
        wanted = {"event": event, **fields}

        def found() -> dict[str, Any] | None:
            if (known := self.find(**wanted)) is None:
                self.poll(0.5)
                known = self.find(**wanted)
            if known is None and self.status is not None and self.status.phase == "stopped":
                raise AssertionError(f"the run stopped while waiting for {wanted}: {self.status.reason}")
            return known

        return until(lambda: f"{wanted} among {[short(event) for event in self.events]}", found, seconds=seconds)

    def find(self, **fields: object) -> dict[str, Any] | None:
        return next((event for event in self.events if all(event.get(k) == v for k, v in fields.items())), None)

    def of(self, kind: str, **fields: object) -> list[dict[str, Any]]:
        fields = {"event": kind, **fields}
        return [event for event in self.events if all(event.get(k) == v for k, v in fields.items())]

    def completed(self, *, seconds: float = 60.0) -> str:
        """The final model's digest."""
        return self.until("run-completed", seconds=seconds)["model"]["digest"]


def short(event: dict[str, Any]) -> str:
    return " ".join(str(event[name]) for name in ("event", "number", "site", "reason") if name in event)


def declare(sites: Iterable[str], **changes: Any) -> wardround.Study:
    """A tiny logistic study; `changes` replace its fields."""
    names = sorted(sites)
    fields: dict[str, Any] = {
        "title": "Lactate and death",
        "purpose": "a test",
        "legal_basis": "synthetic numbers",
        "researcher": "ada",
        "participants": names,
        "min_participants": len(names),
        "data": CONTRACT,
        "model": wardround.BuiltinModel(name="logistic"),
        "training": training(rounds=3, steps=20),
        "expires": int(time.time()) + 3600,
        "seed": 11,
    }
    return wardround.declare(**{**fields, **changes})


def training(*, rounds: int, steps: int) -> wardround.Training:
    return wardround.Training(rounds=rounds, epochs=0, steps=steps, batch_size=16)


def renamed(study: wardround.Study, title: str) -> wardround.Study:
    """The same study under another title, and so another study with the same model."""
    return wardround.Study(msgspec.structs.replace(study.plan, title=title), study.initial, study.package)


def records(site: str, count: int = 120, *, label: Callable[[float], int] | None = None) -> list[list[object]]:
    """Rows of age, lactate, died; a function of the site's name and the count."""
    draw = random.Random(f"{site} {count}")
    rows: list[list[object]] = []
    for _ in range(count):
        age, lactate = round(draw.uniform(20, 95), 1), round(draw.lognormvariate(0.6, 0.5), 3)
        died = int(0.04 * (age - 60) + lactate - 2 + draw.gauss(0, 1) > 0)
        rows.append([age, lactate, died if label is None else label(age)])
    return rows


def write_csv(folder: Path, rows: list[list[object]], header: str = "age,lactate,died") -> None:
    text = "\n".join([header, *(",".join(map(str, row)) for row in rows)]) + "\n"
    (folder / "records.csv").write_text(text)


class Proxy:
    """A TCP relay that a test can cut: open connections end, new ones are refused until it is mended."""

    def __init__(self, port: int) -> None:
        self._target, self._lock = port, threading.Lock()
        self._pairs, self._half_done = set[socket.socket](), set[socket.socket]()
        self.port = free_port()
        self._listener: socket.socket | None = None
        self.limit: int | None = None
        """Cut the next connection after this many bytes from the dialling side; used up by one."""
        self.mend()

    def mend(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", self.port))
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def cut(self) -> None:
        if self._listener is not None:
            with suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
            self._listener = None
        with self._lock:
            for end in self._pairs:
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                near, _ = listener.accept()
            except OSError:
                return
            try:
                far = socket.create_connection(("127.0.0.1", self._target))
            except OSError:
                near.close()  # The hub is down.
                continue
            limit, self.limit = self.limit, None
            with self._lock:
                self._pairs |= {near, far}
            for ends in ((near, far, limit), (far, near, None)):
                threading.Thread(target=self._relay, args=ends, daemon=True).start()

    def _relay(self, source: socket.socket, target: socket.socket, limit: int | None) -> None:
        passed = 0
        with suppress(OSError):
            while data := source.recv(65536):
                if limit is not None and passed + len(data) > limit:
                    target.sendall(data[: limit - passed])
                    break
                target.sendall(data)
                passed += len(data)
        for end in (source, target):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        with self._lock:
            # The second of the two threads of a connection closes it.
            if source in self._half_done:
                self._half_done -= {source, target}
                self._pairs -= {source, target}
                source.close()
                target.close()
            else:
                self._half_done |= {source, target}
