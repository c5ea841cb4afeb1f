"""A hospital's node: one thread holds the request for tasks, one thread per run performs them.

The node dials out only. When the hub does not answer it waits, twice as long each time up to half a
minute, and carries on where the run is. A task whose answer was lost is performed again: it gives the
same update, and the hub answers the same command with the same receipt.
"""

import queue
import threading
from collections.abc import Callable

import structlog

from wardround.errors import CryptoError, StorageFullError, UnavailableError, WardroundError
from wardround.ids import RunId
from wardround.ports import HubClient
from wardround.protocol.messages import Task, TaskRequest
from wardround.services.participant import Participant

__all__ = ["Agent"]

_FIRST_WAIT = 0.1
_LONGEST_WAIT = 30.0
_IDLE_RUN_SECONDS = 600.0
_log = structlog.get_logger("wardround.node")


class Agent:
    """Runs until `stop` is called. `hub` must be safe to call from several threads."""

    def __init__(self, hub: HubClient, participant: Participant, *, wait_seconds: float = 25.0) -> None:
        self._hub, self._participant, self._wait_seconds = hub, participant, wait_seconds
        self._stopping = threading.Event()
        self._busy: set[tuple[RunId, int]] = set()
        self._queues: dict[RunId, queue.Queue[Task]] = {}
        self._lock = threading.Lock()

    def run(self) -> None:
        """Ask for tasks and hand them to their run's thread, until stopped."""
        wait = _FIRST_WAIT
        while not self._stopping.is_set():
            with self._lock:
                busy = tuple(sorted(self._busy))
            try:
                task = self._hub.next_task(TaskRequest(busy, self._wait_seconds))
            except (UnavailableError, CryptoError) as error:
                _log.warning("hub unreachable", code=error.code, wait_seconds=wait, reason=str(error))
                self._stopping.wait(wait)
                wait = min(2 * wait, _LONGEST_WAIT)
                continue
            wait = _FIRST_WAIT
            if task is not None:
                self._take(task)
        self._participant.close()

    def stop(self) -> None:
        """Ask for no more tasks; `run` returns within its waiting time."""
        self._stopping.set()

    def _take(self, task: Task) -> None:
        with self._lock:
            self._busy.add((task.run, task.number))
            if task.run not in self._queues:
                self._queues[task.run] = queue.Queue()
                threading.Thread(target=self._perform_all, args=(task.run,), daemon=True).start()
            self._queues[task.run].put(task)

    def _perform_all(self, run: RunId) -> None:
        tasks = self._queues[run]
        while not self._stopping.is_set():
            try:
                task = tasks.get(timeout=_IDLE_RUN_SECONDS)
            except queue.Empty:
                with self._lock:
                    if not tasks.empty():
                        continue
                    del self._queues[run]
                self._participant.end(run)
                return
            self._perform(task)

    def _perform(self, task: Task) -> None:
        try:
            _retried(lambda: self._participant.perform(task), self._stopping)
        except WardroundError as error:
            _log.warning("task failed", run=task.run, round=task.number, code=error.code, reason=str(error))
        except Exception:  # noqa: BLE001
            # The node's main loop: one task's failure must not end the node.
            _log.exception("task failed", run=task.run, round=task.number)
        finally:
            with self._lock:
                self._busy.discard((task.run, task.number))


def _retried(call: Callable[[], object], stopping: threading.Event) -> None:
    wait = _FIRST_WAIT
    while not stopping.is_set():
        try:
            call()
        except (UnavailableError, StorageFullError) as error:
            _log.warning("will be tried again", code=error.code, wait_seconds=wait, reason=str(error))
            stopping.wait(wait)
            wait = min(2 * wait, _LONGEST_WAIT)
        else:
            return
