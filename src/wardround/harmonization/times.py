"""Instants from what sources write: with their precision, and never guessed.

A time without an offset means nothing until the site has declared its zone; without one it is refused. A local time
that the clocks skipped (spring) is taken as the instant at which they jumped, one that they passed twice (autumn) as
the first of the two; both are remarked, so that a steward sees how many there are.

A time stands for the start of what it names: 2020-03 is the first of March, 00:00 at the site.

When the clocks change is `zoneinfo`'s to say, for every year from 1 to 9999. Arrow's own tables end in 2037, without
a word; records whose years were shifted, as MIMIC's are, lie a hundred years further on.
"""

import re
from bisect import bisect_right
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from wardround.errors import ConfigError
from wardround.harmonization.events import Precision

__all__ = [
    "AMBIGUOUS",
    "DAY_US",
    "EARLIEST_US",
    "GAP",
    "LATEST_US",
    "NAIVE",
    "UNPARSEABLE",
    "Moment",
    "checked_zone",
    "instants",
    "localize",
    "localized",
    "parse",
    "placed",
]

DAY_US: Final = 86_400_000_000
NAIVE: Final = "naive time without a declared zone"
GAP: Final = "local time that the clocks skipped"
AMBIGUOUS: Final = "local time that the clocks passed twice"
UNPARSEABLE: Final = "unparseable time"

EARLIEST_US: Final = -62_135_596_800_000_000
"""The year 1 begins."""
LATEST_US: Final = 253_402_300_800_000_000
"""The year 9999 is over."""

_Ints = npt.NDArray[np.int64]
_PER_US: Final = {"s": 1_000_000, "ms": 1_000, "us": 1}
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_FORM: Final = re.compile(
    r"(\d{4})(?:-(\d\d)(?:-(\d\d)(?:[T ](\d\d):(\d\d)(?::([0-5]\d|60)(?:\.(\d{1,9}))?)?\s?(Z|[+-]\d\d:?\d\d)?)?)?)?",
    re.ASCII,
)


@dataclass(frozen=True, slots=True)
class Moment:
    """An instant in microseconds since 1970 UTC, how exactly it is known, and what is to be remarked about it."""

    time_us: int
    precision: Precision
    remark: str = ""


def checked_zone(name: str) -> str:
    """The IANA zone's name.

    Raises:
        ConfigError: There is no such zone.
    """
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ConfigError(f"{name!r} is no time zone: write one of IANA's, such as Europe/Berlin") from None
    return name


def parse(text: str, zone: str | None) -> Moment | str:
    """A date or time in ISO 8601's extended form (FHIR's, SQL's), of any precision; a reason where it is refused."""
    found = _FORM.fullmatch(text.strip())
    if found is None:
        return UNPARSEABLE
    year, month, day, hour, minute, second, fraction, offset = found.groups()
    try:
        naive = datetime(int(year), int(month or 1), int(day or 1), int(hour or 0), int(minute or 0))  # noqa: DTZ001, the offset follows
    except ValueError:
        return UNPARSEABLE
    micros = int(second or 0) * 1_000_000 + int((fraction or "").ljust(6, "0")[:6])
    precision = _precision(month, day, hour, second, fraction)
    return placed(naive, micros, precision, offset, zone)


def placed(naive: datetime, micros: int, precision: Precision, offset: str | None, zone: str | None) -> Moment | str:
    """The instant of a local time, by its own offset ("Z", "+01:00", "+0100") or else by the site's zone."""
    if offset:
        shift = _offset_us(offset)
        return UNPARSEABLE if shift is None else Moment(_micros(naive) + micros - shift, precision)
    if zone is None:
        return NAIVE
    time_us, remark = _local(_micros(naive) + micros, zone)
    return Moment(time_us, precision, remark)


def localize(times: pa.Array, zone: str | None) -> tuple[pa.Array, dict[str, int]]:
    """Timestamps without a zone as int64 microseconds UTC, and how many were refused or remarked, by reason.

    Args:
        times: An Arrow array of ``timestamp`` of any unit; one with a zone is only converted.
        zone: The site's.
    """
    found, where = localized(times, zone)
    return found, {reason: int(cells.sum()) for reason, cells in where.items()}


def localized(times: pa.Array, zone: str | None) -> tuple[pa.Array, dict[str, npt.NDArray[np.bool_]]]:
    """As `localize`, but with the cells that were refused (null) or remarked, by reason, instead of their number."""
    # Not Arrow's cast: what leaves its range comes back from the other end.
    within, local = _bounded(np.asarray(times.cast(pa.int64()).fill_null(0)), times.type.unit)
    present = np.asarray(times.is_valid())
    where = {UNPARSEABLE: present & ~within}
    kept = present & within
    if times.type.tz is None and zone is None:
        where[NAIVE] = kept
        kept = np.zeros(len(times), np.bool_)
    elif times.type.tz is None and zone is not None:
        local, where[GAP], where[AMBIGUOUS] = instants(local, zone, ~kept)
    return pa.array(local, mask=~kept), {reason: cells for reason, cells in where.items() if cells.any()}


def instants(
    local: _Ints, zone: str, missing: npt.NDArray[np.bool_] | None = None
) -> tuple[_Ints, npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """The instants of a zone's local times, which of them the clocks skipped, and which they passed twice.

    Args:
        local: Microseconds since 1970, as the clocks on the wall show them; the years 1 to 9999.
        zone: IANA's name.
        missing: Where there is no time; what comes out there has no meaning and no remark.
    """
    if not len(local):
        return local, np.zeros(0, np.bool_), np.zeros(0, np.bool_)
    years = np.unique(local.astype("datetime64[us]").astype("datetime64[Y]").astype(np.int64)) + 1970
    at, before, after = np.array(_changes(zone, tuple(years.tolist())), np.int64).T
    # Up to the wall's time of the change by the old offset the old one holds, so that the first of two is taken.
    place = np.searchsorted(at + before, local, side="right") - 1
    skipped = local < (at + after)[place]
    following = np.minimum(place + 1, len(at) - 1)
    twice = (local >= (at + after)[following]) & (place < following)
    found = np.where(skipped, at[place], local - after[place])
    return (found, skipped, twice) if missing is None else (found, skipped & ~missing, twice & ~missing)


def _bounded(raw: _Ints, unit: str) -> tuple[npt.NDArray[np.bool_], _Ints]:
    if unit == "ns":
        return np.ones(len(raw), np.bool_), raw // 1000
    factor = _PER_US[unit]
    within = (raw >= EARLIEST_US // factor) & (raw < LATEST_US // factor)
    return within, np.where(within, raw, 0) * factor


def _precision(
    month: str | None, day: str | None, hour: str | None, second: str | None, fraction: str | None
) -> Precision:
    stated = (month, day, hour, second, fraction)
    places = (Precision.MONTH, Precision.DAY, Precision.MINUTE, Precision.SECOND, Precision.EXACT)
    known = [place for text, place in zip(stated, places, strict=True) if text]
    return known[-1] if known else Precision.YEAR


def _offset_us(offset: str) -> int | None:
    if offset == "Z":
        return 0
    hours, minutes = int(offset[1:3]), int(offset[-2:])
    if hours > 14 or minutes > 59:
        return None
    sign = -1 if offset[0] == "-" else 1
    return sign * (hours * 3600 + minutes * 60) * 1_000_000


def _local(local_us: int, zone: str) -> tuple[int, str]:
    year = (_EPOCH + timedelta(microseconds=local_us)).year if EARLIEST_US <= local_us < LATEST_US else 9999
    changes, walls = _year(zone, year)
    place = bisect_right(walls, local_us) - 1
    at, _before, after = changes[place]
    if local_us < at + after:
        return at, GAP
    twice = place + 1 < len(changes) and local_us >= changes[place + 1][0] + changes[place + 1][2]
    return local_us - after, AMBIGUOUS if twice else ""


@lru_cache(maxsize=4096)
def _year(zone: str, year: int) -> tuple[list[tuple[int, int, int]], list[int]]:
    changes = _changes(zone, (year,))
    return changes, [at + before for at, before, _after in changes]


def _changes(zone: str, years: tuple[int, ...]) -> list[tuple[int, int, int]]:
    # Each year begins with a change to the offset that it has already, so that the years between need not be known.
    near = sorted({year + step for year in years for step in (-1, 0, 1)})
    return [change for year in near for change in _changes_in(zone, year)]


@lru_cache(maxsize=16_384)
def _changes_in(zone: str, year: int) -> tuple[tuple[int, int, int], ...]:
    """When the offset changes in a year of UTC, in microseconds: (instant, offset before, offset after)."""
    where = ZoneInfo(zone)
    start = _micros(datetime(min(max(year, 1), 9999), 1, 1)) // 1_000_000  # noqa: DTZ001, a count of seconds
    start += (year - min(max(year, 1), 9999)) * 366 * 86_400
    offset = _offset_at(start, where)
    found = [(start * 1_000_000, _offset_at(start - 1, where), offset)]
    for day in range(366):
        low, high = start + day * 86_400, start + (day + 1) * 86_400
        following = _offset_at(high, where)
        if following == offset:
            continue
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if _offset_at(middle, where) == offset else (low, middle)
        found.append((high * 1_000_000, offset, following))
        offset = following
    return tuple(change for change in found if year < 1 or change[0] < _end_us(year))


def _end_us(year: int) -> int:
    return _micros(datetime(year + 1, 1, 1)) if year < 9999 else LATEST_US  # noqa: DTZ001, a count of microseconds


def _offset_at(seconds: int, where: ZoneInfo) -> int:
    # A day from either end of what datetime can hold, so that no offset leads beyond.
    within = min(max(seconds, EARLIEST_US // 1_000_000 + 86_400), LATEST_US // 1_000_000 - 2 * 86_400)
    return _span((_EPOCH + timedelta(seconds=within)).astimezone(where).utcoffset() or timedelta())


def _micros(naive: datetime) -> int:
    return _span(naive.replace(tzinfo=UTC) - _EPOCH)


def _span(delta: timedelta) -> int:
    return (delta.days * 86_400 + delta.seconds) * 1_000_000 + delta.microseconds
