"""The executor for sites whose records outgrow one process: patients in parts, each part in a process of its own.

    the mapping, the contract, a bucket of patients -> a process: reads the sources, keeps its patients, runs the plan
                                                    -> its harvest, as Arrow's own bytes -> joined, in order

Every need is about one patient, so that the parts together are everybody, and the result is that of one process, to
the last bit. The price is that each part reads all sources: it is memory and arithmetic that are shared out, not
reading. Each process may take the memory that the mapping allows to one.

The processes are tasks of a Ray cluster of this machine, where Ray is installed, or else are started here. A part
whose process dies, or runs out of memory, is halved and tried again, up to a point.

Nothing is written to a disk: Ray's store is forbidden to spill, and results do not lie in it. A task opens the mapping
itself, and finds the mapping's secrets in the environment that it inherits; they are never sent.
"""

import importlib.util
import multiprocessing
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Final, Literal, Protocol

import msgspec
import pyarrow as pa

from wardround import errors
from wardround.clinical.contract import DataContract
from wardround.errors import ClinicalError, ConfigError, UnavailableError, WardroundError
from wardround.harmonization import embedded
from wardround.harmonization.embedded import Reading
from wardround.harmonization.events import SourceReport
from wardround.harmonization.facts import MOST_BUCKETS
from wardround.harmonization.harmonize import harmonize
from wardround.harmonization.harvest import Harvest, joined
from wardround.harmonization.needs import Need
from wardround.ids import Digest
from wardround.sources import event_mapping
from wardround.sources.event_mapping import EventMapping

__all__ = ["Partitioned", "Runner", "perform"]

_MOST_AT_ONCE: Final = 16
_MOST_HALVINGS: Final = 3
_OUT_OF_MEMORY: Final = "memory"
_SMALL: Final = 2**30
_TABLES: Final = ("records", "sums", "first", "last", "medians", "consents")

Runner = Literal["ray", "processes"]


class _Task(msgspec.Struct, frozen=True, kw_only=True):
    """What a process is told: the mapping, the contract, and which patients."""

    mapping: EventMapping
    digest: Digest
    folder: str
    contract: DataContract
    bucket: tuple[int, int]
    now_us: int | None
    restricted: bool
    memory_mb: int


class _Part(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """What a process found: its harvest, the sources' reports, and the units that it asked about, by quantity."""

    harvest: Harvest
    reports: list[SourceReport]
    units: list[tuple[int, str]]


class _Trouble(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """What a process could not do; the message is one of `wardround.errors`, and holds no cell."""

    code: str
    message: str = ""


class _Pool(Protocol):
    """Runs `perform` elsewhere."""

    name: str

    def run(self, tasks: Sequence[bytes]) -> list[bytes | None]:
        """What each task gives, in order; None where its process died."""


class Partitioned:
    """A `wardround.harmonization.harmonize.Execute` over several processes.

    Args:
        mapping: The site's mapping.
        folder: Where it lies.
        contract: The study's; what is computed is what it needs.
        parts: How many processes, and parts of the patients; by default as many as there are processors.
        runner: Where they run; by default in Ray, if it is installed.

    Raises:
        ConfigError: Ray is asked for, and is not installed.
    """

    def __init__(
        self,
        mapping: EventMapping,
        folder: Path,
        contract: DataContract,
        *,
        parts: int | None = None,
        runner: Runner | None = None,
    ) -> None:
        self._mapping = mapping
        self._folder = folder
        self._contract = contract
        self._parts = min(parts or os.cpu_count() or 1, _MOST_AT_ONCE)
        has_ray = importlib.util.find_spec("ray") is not None
        if runner == "ray" and not has_ray:
            raise ConfigError("executor 'partitioned' in Ray needs it: pip install 'wardround[cluster]'")
        self._pool: _Pool = _Ray(self._parts) if has_ray and runner != "processes" else _Processes(self._parts)

    def __call__(self, reading: Reading) -> Harvest:
        """Run the plan over every patient.

        Raises:
            ClinicalError: A source cannot be read as described, or processes die however few patients they have.
            UnavailableError: A source did not answer.
        """
        waiting = [(number, self._parts) for number in range(self._parts)]
        found: dict[tuple[int, int], _Part] = {}
        for _ in range(_MOST_HALVINGS + 1):
            given = self._pool.run([self._task(reading, bucket) for bucket in waiting])
            answers = dict(zip(waiting, map(_answer, given), strict=True))
            found |= {bucket: answer for bucket, answer in answers.items() if isinstance(answer, _Part)}
            for answer in answers.values():
                if isinstance(answer, _Trouble) and answer.code != _OUT_OF_MEMORY:
                    raise errors.by_code(answer.code)(answer.message)
            waiting = [half for bucket in answers if bucket not in found for half in _halves(bucket)]
            if not waiting:
                return self._joined(reading, [found[bucket] for bucket in sorted(found)])
        raise ClinicalError(
            f"processes that compute a part of the patients died {_MOST_HALVINGS + 1} times, the last time with "
            f"1/{waiting[0][1] // 2} of them: give the machine more memory, or memory_mb in the mapping less"
        )

    def _task(self, reading: Reading, bucket: tuple[int, int]) -> bytes:
        task = _Task(
            mapping=self._mapping,
            digest=event_mapping.digest(self._mapping, self._folder),
            folder=str(self._folder.absolute()),
            contract=self._contract,
            bucket=bucket,
            now_us=reading.plan.now_us,
            restricted=reading.restricted,
            memory_mb=reading.memory_limit_bytes // 2**20,
        )
        return msgspec.msgpack.encode(task)

    def _joined(self, reading: Reading, parts: Sequence[_Part]) -> Harvest:
        # Every part has read every event, and reports alike.
        reports = {report.source: report for report in parts[0].reports}
        for source in reading.sources:
            source.report = reports[source.name]
        for quantity, unit in sorted({pair for part in parts for pair in part.units}):
            reading.affine(reading.plan.quantities[quantity], unit)  # which notes what does not convert
        whole = joined([part.harvest for part in parts])
        order = {name: _sorted(getattr(whole, name)) for name in _TABLES}
        return replace(whole, **order, engine=f"{whole.engine}, in {len(parts)} parts ({self._pool.name})")


def perform(data: bytes) -> bytes:
    """Do one task, in whatever process this is; no exception leaves it, since messages of others may quote a cell."""
    answer: _Part | _Trouble
    try:
        answer = _performed(msgspec.msgpack.decode(data, type=_Task))
    except MemoryError:
        answer = _Trouble(code=_OUT_OF_MEMORY)
    except WardroundError as error:
        answer = _Trouble(code=error.code, message=str(error))
    except Exception as error:  # noqa: BLE001, see above
        kind = type(error).__name__
        answer = _Trouble(code=ClinicalError.code, message=f"a part of the patients could not be computed ({kind})")
    return msgspec.msgpack.encode(answer, enc_hook=_arrow_bytes)


def _performed(task: _Task) -> _Part:
    folder = Path(task.folder)
    if event_mapping.digest(task.mapping, folder) != task.digest:
        raise UnavailableError("the confirmed codes changed while patients were read: read them again")
    site = replace(event_mapping.site_data(task.mapping, folder, os.environ), now_us=task.now_us)
    found: list[tuple[Harvest, list[tuple[int, str]]]] = []

    def part(reading: Reading) -> Harvest:
        places = {id(need): place for place, need in enumerate(reading.plan.quantities)}
        units: list[tuple[int, str]] = []

        def affine(need: Need, unit: str) -> tuple[float, float] | None:
            units.append((places[id(need)], unit))
            return reading.affine(need, unit)

        found.append((embedded.harvest(replace(reading, affine=affine, threads=1), bucket=task.bucket), units))
        return joined([])  # what follows is done once, with all parts

    harmonize(task.contract, site, "", execute=part, restricted=task.restricted, memory_mb=task.memory_mb)
    ((harvest, units),) = found
    return _Part(harvest=harvest, reports=[source.report for source in site.sources], units=units)


def _halves(bucket: tuple[int, int]) -> list[tuple[int, int]]:
    number, of = bucket
    if 2 * of > MOST_BUCKETS:
        raise ClinicalError("one patient's facts outgrow the memory allowed: narrow the source or the concepts")
    return [(number, 2 * of), (number + of, 2 * of)]


def _answer(data: bytes | None) -> _Part | _Trouble | None:
    return None if data is None else msgspec.msgpack.decode(data, type=_Part | _Trouble, dec_hook=_arrow_table)


def _arrow_bytes(value: object) -> bytes:
    if not isinstance(value, pa.Table):
        raise NotImplementedError
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, value.schema) as writer:
        writer.write_table(value)
    data: bytes = sink.getvalue().to_pybytes()
    return data


def _arrow_table(kind: type, value: object) -> object:
    if kind is not pa.Table or not isinstance(value, bytes):
        raise NotImplementedError
    return pa.ipc.open_stream(value).read_all()


def _sorted(table: pa.Table) -> pa.Table:
    return table.sort_by([(name, "ascending") for name in table.column_names])


class _Processes:
    """Processes of this machine, each started afresh for one task, so that its memory is given back."""

    name = "processes"

    def __init__(self, at_once: int) -> None:
        self._at_once = at_once

    def run(self, tasks: Sequence[bytes]) -> list[bytes | None]:
        found: list[bytes | None] = [None] * len(tasks)
        context = multiprocessing.get_context("spawn")
        running: dict[Connection, tuple[int, multiprocessing.context.SpawnProcess]] = {}
        waiting = list(enumerate(tasks))[::-1]
        try:
            while waiting or running:
                while waiting and len(running) < self._at_once:
                    place, task = waiting.pop()
                    ours, theirs = context.Pipe(duplex=False)
                    process = context.Process(target=_child, args=(theirs, task), daemon=True)
                    process.start()
                    theirs.close()
                    running[ours] = place, process
                ready = wait(list(running))
                for connection in [one for one in running if one in ready]:
                    place, process = running.pop(connection)
                    found[place] = _received(connection)
                    process.join()
        finally:
            for connection, (_, process) in running.items():
                connection.close()
                process.kill()
        return found


def _received(connection: Connection) -> bytes | None:
    try:
        with connection:
            return connection.recv_bytes()
    except (EOFError, OSError):
        return None


def _child(connection: Connection, task: bytes) -> None:
    with connection:
        connection.send_bytes(perform(task))


class _Ray:
    """A Ray cluster of this machine, started for the tasks and ended after them."""

    name = "Ray"

    def __init__(self, at_once: int) -> None:
        self._at_once = at_once

    def run(self, tasks: Sequence[bytes]) -> list[bytes | None]:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # A hospital tells nobody that it runs.
        import ray

        if ray.is_initialized():
            raise ConfigError("executor 'partitioned' starts a Ray of its own, and this process has one already")
        # Results go from process to process: none is left in the store, and the store may not spill.
        kept: Mapping[str, object] = {
            "automatic_object_spilling_enabled": False,
            "max_direct_call_object_size": _SMALL,
            "task_rpc_inlined_bytes_limit": _SMALL,
        }
        try:
            ray.init(
                address="local",
                num_cpus=self._at_once,
                include_dashboard=False,
                log_to_driver=False,
                configure_logging=False,
                _node_ip_address="127.0.0.1",
                _system_config=kept,
            )
        except (ConnectionError, OSError, RuntimeError, ValueError) as error:
            kind = type(error).__name__
            raise UnavailableError(f"Ray does not start on this machine ({kind})") from None
        try:
            remote: Any = ray.remote(num_cpus=1, max_retries=0)(perform)
            return [self._got(ray, one) for one in [remote.remote(task) for task in tasks]]
        finally:
            ray.shutdown()

    @staticmethod
    def _got(ray: Any, reference: Any) -> bytes | None:  # noqa: ANN401, a module that is not always there
        try:
            data: bytes = ray.get(reference)
        except ray.exceptions.RayError:
            return None
        return data
