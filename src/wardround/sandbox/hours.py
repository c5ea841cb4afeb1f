"""Times of the week: "Mon-Fri 19:00-06:00", "Sat,Sun 00:00-24:00".

A window belongs to the day on which it begins: Friday's from 19:00 to 06:00 ends on Saturday morning. What counts is
the clock on the wall: on the night when clocks go back, an hour that comes twice is inside twice.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from wardround.errors import ConfigError

__all__ = ["Window", "is_open", "parse", "zone"]

_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_DAY = "|".join(_DAYS)
_FORM = re.compile(
    rf"((?:{_DAY})(?:-(?:{_DAY}))?(?:,(?:{_DAY})(?:-(?:{_DAY}))?){{0,6}}) "
    r"([01][0-9]|2[0-3]):([0-5][0-9])-([01][0-9]|2[0-4]):([0-5][0-9])"
)
_DAY_MINUTES = 24 * 60


@dataclass(frozen=True, slots=True)
class Window:
    """On which days (Monday is 0) it begins, and from which minute of the day to which; the end may lie before it."""

    days: frozenset[int]
    begin: int
    end: int


def parse(text: str) -> Window:
    """One line of the setting.

    Raises:
        ConfigError: It is no time of the week.
    """
    found = _FORM.fullmatch(text)
    if found is None:
        raise ConfigError(f"sandbox.hours has {text[:40]!r}: write it like 'Mon-Fri 19:00-06:00' or 'Sat 00:00-24:00'")
    days: set[int] = set()
    for part in found[1].split(","):
        first, _, last = part.partition("-")
        begin = _DAYS.index(first)
        length = (_DAYS.index(last) - begin) % 7 if last else 0
        days |= {(begin + step) % 7 for step in range(length + 1)}
    begin, end = int(found[2]) * 60 + int(found[3]), int(found[4]) * 60 + int(found[5])
    if end > _DAY_MINUTES or begin == end:
        raise ConfigError(f"sandbox.hours has {text[:40]!r}: a day ends at 24:00, and a window has a length")
    return Window(frozenset(days), begin, end)


def zone(name: str) -> ZoneInfo:
    """A time zone by its name, "Europe/Vienna".

    Raises:
        ConfigError: This machine knows no such zone.
    """
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ConfigError(f"sandbox.zone is {name[:40]!r}, which this machine does not know") from None


def is_open(windows: Iterable[Window], where: ZoneInfo, now: float) -> bool:
    """Whether `now`, seconds since 1970 UTC, lies in a window; always where there are none."""
    listed = tuple(windows)
    local = datetime.fromtimestamp(now, where)
    day, minute = local.weekday(), local.hour * 60 + local.minute
    return not listed or any(_holds(window, day, minute) for window in listed)


def _holds(window: Window, day: int, minute: int) -> bool:
    if window.begin < window.end:
        return day in window.days and window.begin <= minute < window.end
    return (day in window.days and minute >= window.begin) or ((day - 1) % 7 in window.days and minute < window.end)
