"""Whether training may run now: the hospital's own work comes first.

    (1) outside the site's hours it does not run, whatever the machine does
    (2) while it runs, a reading above its high mark stops it
    (3) while it is stopped, it goes on when every reading is below its low mark
    (4) after a change by (2) or (3) nothing changes for `settle_seconds`; (1) waits for nothing

Between the marks it stays as it is, so that it does not flutter. A reading is what *others* wait for: the machine's
pressure less the workers' own, since a worker that is held to a quota, or gets only idle time, waits all the time.
"""

from dataclasses import dataclass

from wardround.sandbox.settings import Pressure

__all__ = ["Decision", "Reading", "decide"]


@dataclass(frozen=True, slots=True)
class Reading:
    """Per cent of the last ten seconds in which others waited for processor, memory, disk; the load per processor."""

    processor: float = 0.0
    memory: float = 0.0
    disk: float = 0.0
    load: float = 0.0


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether training runs, why not, and since when that is so."""

    runs: bool = True
    reason: str = ""
    since: float = float("-inf")


_CLOSED = "outside the hours that the site allows"


def decide(reading: Reading, marks: Pressure, before: Decision, now: float, *, is_open: bool) -> Decision:
    """What holds from `now` on."""
    if not is_open:
        return before if before.reason == _CLOSED else Decision(runs=False, reason=_CLOSED, since=now)  # (1)
    if before.reason == _CLOSED:
        before = Decision(since=float("-inf"))
    elif 0 <= now - before.since < marks.settle_seconds:
        return before  # (4); a clock that was set back does not hold it there
    readings = (
        ("processors", reading.processor, marks.processor_low, marks.processor_high),
        ("memory", reading.memory, marks.memory_low, marks.memory_high),
        ("disk", reading.disk, marks.disk_low, marks.disk_high),
        ("load", reading.load, marks.load_low, marks.load_high),
    )
    if before.runs:
        pressed = [name for name, value, _, high in readings if value > high]
        if pressed:  # (2)
            return Decision(
                runs=False, reason=f"the hospital's own work needs the machine: {', '.join(pressed)}", since=now
            )
        return before if before.since > float("-inf") else Decision(since=now)
    if all(value < low for _, value, low, _ in readings):  # (3)
        return Decision(since=now)
    return before
