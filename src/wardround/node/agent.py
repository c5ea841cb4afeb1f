"""A hospital's node: one thread waits for new runs, one thread per run performs what it asks.

The node dials out only. When the hub does not answer it waits, twice as long each time up to half a
minute, and carries on where the run is. A task whose answer was lost is performed again: it gives the
same update, and the hub answers the same command with the same receipt. An answer's receipt brings the
next assignment along when there is one within moments; otherwise the run's thread asks for it.
"""

import threading
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

import structlog

from wardround.errors import CryptoError, PeerProtocolError, StorageFullError, UnavailableError, WardroundError
from wardround.ids import RunId
from wardround.ports import HubClient
from wardround.protocol.messages import Assignment, TaskRequest
from wardround.services.participant import Participant

__all__ = ["Agent", "Beside"]

_FIRST_WAIT = 0.1
_LONGEST_WAIT = 30.0
_T = TypeVar("_T")
_log = structlog.get_logger("wardround.node")


class Beside(Protocol):
    """What a node does beside its runs, in a thread of its own: keep its certificate, witness logs."""

    def start(self) -> None:
        """Begin."""
        ...

    def stop(self) -> None:
        """End."""
        ...


class Agent:
    """Runs until `stop` is called. `hub` must be safe to call from several threads."""

    def __init__(
        self, hub: HubClient, participant: Participant, *, wait_seconds: float = 25.0, beside: Sequence[Beside] = ()
    ) -> None:
        self._hub, self._participant, self._wait_seconds = hub, participant, wait_seconds
        self._beside = tuple(beside)
        self._stopping = threading.Event()
        self._runs = set[RunId]()
        self._lock = threading.Lock()

    def run(self) -> None:
        """Ask for runs that have no thread yet, and give each one, until stopped."""
        for one in self._beside:
            one.start()
        while not self._stopping.is_set():
            found = self._insisting(self._next)
            if found is not None:
                self._take(found)
        self._participant.close()

    def stop(self) -> None:
        """Ask for no more; `run` returns within its waiting time."""
        self._stopping.set()
        for one in self._beside:
            one.stop()

    def _next(self) -> Assignment | None:
        with self._lock:
            busy = tuple(sorted(self._runs))
        return self._hub.next_task(TaskRequest(busy, self._wait_seconds))

    def _take(self, first: Assignment) -> None:
        with self._lock:
            if first.run in self._runs:
                return
            self._runs.add(first.run)
        threading.Thread(target=self._follow, args=(first,), daemon=True).start()

    def _follow(self, first: Assignment) -> None:
        """Perform a run's assignments one after another until the run has ended."""
        run, found, is_over, failures = first.run, first, False, 0
        try:
            while not self._stopping.is_set():
                following, is_done = self._perform(found)
                failures = 0 if is_done else failures + 1
                if failures:  # the hub may offer the same again at once
                    self._stopping.wait(min(_FIRST_WAIT * 2**failures, _LONGEST_WAIT))
                while following is None and not self._stopping.is_set():
                    following = self._insisting(
                        lambda: self._hub.next_task(TaskRequest(wait_seconds=self._wait_seconds, run=run))
                    )
                if following is not None:
                    found = following
        except PeerProtocolError as error:
            is_over = True
            _log.info("run left", run=run, reason=str(error))
        except Exception:  # noqa: BLE001
            # The node's main loop: one run's failure must not end the node.
            _log.exception("run failed", run=run)
        finally:
            self._participant.end(run, is_over=is_over)
            with self._lock:
                self._runs.discard(run)

    def _perform(self, found: Assignment) -> tuple[Assignment | None, bool]:
        """What follows on an assignment, if it is known already, and whether the assignment was done."""
        try:
            receipt = self._insisting(lambda: self._participant.perform(found))
        except WardroundError as error:
            _log.warning("task failed", run=found.run, code=error.code, reason=str(error))
            return None, False
        return (receipt.next if receipt is not None else None), True

    def _insisting(self, call: Callable[[], _T]) -> _T | None:
        """What `call` gives, however often it has to be tried; None once the node is stopping."""
        wait = _FIRST_WAIT
        while not self._stopping.is_set():
            try:
                return call()
            except (UnavailableError, StorageFullError, CryptoError) as error:
                _log.warning("will be tried again", code=error.code, wait_seconds=wait, reason=str(error))
                self._stopping.wait(wait)
                wait = min(2 * wait, _LONGEST_WAIT)
        return None
