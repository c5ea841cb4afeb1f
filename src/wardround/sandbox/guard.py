"""A launcher whose processes make room: it holds them when `wardround.sandbox.courtesy` says so.

Whoever holds a process for a reason of its own (the worker, between rounds) and the hospital's hours and load are kept
apart: it runs when neither holds it. For how long the guard held it is told, so that it does not count as a round's
time.
"""

import contextlib
import threading
import time
from collections.abc import Callable, Mapping, Sequence

from wardround.errors import SandboxError
from wardround.ports import Bounds, Containment, Ending, Launcher, Started, Usage
from wardround.sandbox import courtesy, descent, hours, pressure
from wardround.sandbox.courtesy import Decision, Reading
from wardround.sandbox.settings import SandboxSettings

__all__ = ["Guard", "readings"]


def readings(own: Sequence[Usage]) -> Reading:
    """What others on this machine wait for."""
    processor, memory, disk = (
        max(0.0, whole - max((used.waiting[place] for used in own), default=0.0))
        for place, whole in enumerate(pressure.machine())
    )
    return Reading(processor, memory, disk, pressure.load())


class Guard:
    """Fills `wardround.ports.Launcher` with another, whose processes it holds and lets go.

    Args:
        launcher: Who starts the processes.
        settings: The site's.
        read: What others wait for, given what our processes use.
        now: Seconds since 1970 UTC.
        interval_seconds: How often it looks, in a thread of its own; 0 for never, where the caller calls `look`.
        changed: Told of every change.

    Raises:
        ConfigError: The hours or the zone are none.
    """

    def __init__(
        self,
        launcher: Launcher,
        settings: SandboxSettings,
        *,
        read: Callable[[Sequence[Usage]], Reading] = readings,
        now: Callable[[], float] = time.time,
        interval_seconds: float = 1.0,
        changed: Callable[[Decision], None] = lambda _decision: None,
    ) -> None:
        self._launcher, self._settings = launcher, settings
        self._windows = [hours.parse(text) for text in settings.hours]
        self._zone = hours.zone(settings.zone)
        self._read, self._now, self._interval, self._changed = read, now, interval_seconds, changed
        self._lock = threading.Lock()
        self._held: list[_Guarded] = []
        self._thread: threading.Thread | None = None
        self._decision = Decision()

    @property
    def containment(self) -> Containment:
        """See `wardround.ports.Launcher`."""
        return self._launcher.containment

    @property
    def decision(self) -> Decision:
        """Whether processes run now, and why not."""
        return self._decision

    def start(
        self, command: Sequence[str], *, environment: Mapping[str, str], descriptors: Sequence[int], bounds: Bounds
    ) -> Started:
        """See `wardround.ports.Launcher`; outside the hours a process is held from its start."""
        inner = self._launcher.start(command, environment=environment, descriptors=descriptors, bounds=bounds)
        if self._settings.idle:
            descent.lower_priority(inner.pid)
        guarded = _Guarded(inner)
        with self._lock:
            self._held.append(guarded)
            if self._interval and self._thread is None:
                self._thread = threading.Thread(target=self._watch, name="wardround-guard", daemon=True)
                self._thread.start()
        self.look()
        return guarded

    def look(self) -> Decision:
        """Read, decide and apply, once."""
        with self._lock:
            self._held = [guarded for guarded in self._held if not guarded.ended]
            now = self._now()
            reading = self._read([guarded.usage() for guarded in self._held])
            is_open = hours.is_open(self._windows, self._zone, now)
            before = self._decision
            self._decision = courtesy.decide(reading, self._settings.pressure, before, now, is_open=is_open)
            for guarded in self._held:
                guarded.apply(runs=self._decision.runs)
        if (before.runs, before.reason) != (self._decision.runs, self._decision.reason):
            self._changed(self._decision)
        return self._decision

    def _watch(self) -> None:
        while True:
            time.sleep(self._interval)
            with self._lock:
                if all(guarded.ended for guarded in self._held):
                    self._thread = None
                    return
            self.look()


class _Guarded:
    """One process, with two reasons to hold it."""

    def __init__(self, inner: Started) -> None:
        self._inner = inner
        self._lock = threading.Lock()
        self._by_caller = self._by_guard = False
        self._since = self._seconds = 0.0
        self.ended = False

    @property
    def pid(self) -> int:
        """See `wardround.ports.Started`."""
        return self._inner.pid

    @property
    def paused_seconds(self) -> float:
        """See `wardround.ports.Started`."""
        with self._lock:
            return self._seconds + (time.monotonic() - self._since if self._by_guard else 0.0)

    def pause(self) -> None:
        """See `wardround.ports.Started`."""
        with self._lock:
            self._inner.pause()
            self._by_caller = True

    def resume(self) -> None:
        """See `wardround.ports.Started`."""
        with self._lock:
            self._by_caller = False
            if not self._by_guard:
                self._inner.resume()

    def usage(self) -> Usage:
        """See `wardround.ports.Started`."""
        return self._inner.usage()

    def wait(self, seconds: float) -> bool:
        """See `wardround.ports.Started`."""
        return self._inner.wait(seconds)

    def kill(self) -> Ending:
        """See `wardround.ports.Started`."""
        self.ended = True
        return self._inner.kill()

    def apply(self, *, runs: bool) -> None:
        """Hold it for the hospital's sake, or let it go."""
        with self._lock:
            if self.ended or runs is not self._by_guard:
                return
            if runs:
                self._seconds += time.monotonic() - self._since
                self._by_guard = False
                if not self._by_caller:
                    with contextlib.suppress(SandboxError):
                        self._inner.resume()
                return
            self._by_guard, self._since = True, time.monotonic()
            try:
                self._inner.pause()
            except SandboxError:
                # What cannot be held must not run while the hospital needs the machine.
                self.kill()
