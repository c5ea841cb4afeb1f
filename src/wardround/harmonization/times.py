"""Instants from what sources write: with their precision, and never guessed.

A time without an offset means nothing until the site has declared its zone; without one it is refused. A local time
that the clocks skipped (spring) is taken as the instant at which they jumped, one that they passed twice (autumn) as the
first of the two; both are remarked, so that a steward sees how many there are.

A time stands for the start of what it names: 2020-03 is the first of March, 00:00 at the site.
"""

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import pyarrow as pa
import pyarrow.compute as pc

from wardround.errors import ConfigError
from wardround.harmonization.events import Precision

__all__ = ["AMBIGUOUS", "DAY_US", "GAP", "NAIVE", "UNPARSEABLE", "Moment", "checked_zone", "localize", "parse", "placed"]

DAY_US: Final = 86_400_000_000
NAIVE: Final = "naive time without a declared zone"
GAP: Final = "local time that the clocks skipped"
AMBIGUOUS: Final = "local time that the clocks passed twice"
UNPARSEABLE: Final = "unparseable time"

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_FORM: Final = re.compile(
    r"(\d{4})(?:-(\d\d)(?:-(\d\d)(?:[T ](\d\d):(\d\d)(?::(\d\d|60)(?:\.(\d{1,9}))?)?\s?(Z|[+-]\d\d:?\d\d)?)?)?)?"
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
    time_us, remark = _local(naive, zone)
    return Moment(time_us + (0 if remark == GAP else micros), precision, remark)


def localize(times: pa.Array, zone: str | None) -> tuple[pa.Array, dict[str, int]]:
    """Timestamps without a zone as int64 microseconds UTC, and how many were refused or remarked, by reason.

    Args:
        times: An Arrow array of ``timestamp`` of any unit; one with a zone is only converted.
        zone: The site's.
    """
    if times.type.tz is not None:
        return times.cast(pa.timestamp("us", tz="UTC"), safe=False).cast(pa.int64()), {}
    present = len(times) - times.null_count
    if zone is None:
        return pa.nulls(len(times), pa.int64()), ({NAIVE: present} if present else {})
    local = times.cast(pa.timestamp("us"), safe=False)
    early = pc.assume_timezone(local, zone, ambiguous="earliest", nonexistent="latest").cast(pa.int64())
    late = pc.assume_timezone(local, zone, ambiguous="latest", nonexistent="latest").cast(pa.int64())
    before = pc.assume_timezone(local, zone, ambiguous="earliest", nonexistent="earliest").cast(pa.int64())
    counts = {AMBIGUOUS: _differing(early, late), GAP: _differing(early, before)}
    return early, {reason: count for reason, count in counts.items() if count}


def _precision(month: str | None, day: str | None, hour: str | None, second: str | None, fraction: str | None) -> Precision:
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


@lru_cache(maxsize=65_536)
def _local(naive: datetime, zone: str) -> tuple[int, str]:
    where = ZoneInfo(zone)
    first, second = naive.replace(tzinfo=where, fold=0), naive.replace(tzinfo=where, fold=1)
    offset, other = first.utcoffset() or timedelta(), second.utcoffset() or timedelta()
    if offset == other:
        return _micros(naive) - _span(offset), ""
    if offset > other:
        return _micros(naive) - _span(offset), AMBIGUOUS
    # In a gap the offset before it (fold 0) is the smaller; the clocks jumped where local time plus it ends.
    low, high = naive - timedelta(hours=24), naive + timedelta(hours=24)
    low_us, high_us = _micros(low) - _span(offset), _micros(high) - _span(other)
    while high_us - low_us > 1:
        middle = (low_us + high_us) // 2
        at = (_EPOCH + timedelta(microseconds=middle)).astimezone(where).utcoffset() or timedelta()
        low_us, high_us = (middle, high_us) if at == offset else (low_us, middle)
    return high_us, GAP


def _micros(naive: datetime) -> int:
    return _span(naive.replace(tzinfo=UTC) - _EPOCH)


def _span(delta: timedelta) -> int:
    return (delta.days * 86_400 + delta.seconds) * 1_000_000 + delta.microseconds


def _differing(left: pa.Array, right: pa.Array) -> int:
    return int(pc.sum(pc.not_equal(left, right)).as_py() or 0)
