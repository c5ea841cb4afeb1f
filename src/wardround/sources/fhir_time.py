"""Dates, times and numbers of limited precision: how they compare, and between which bounds they lie.

A FHIR dateTime may end after the year, the month, the day or the minute, and has a zone only if it has a
time (R4, 2.24.0.1). It therefore stands for a span of time. Two values of one precision compare as they are;
otherwise one is earlier only if its whole span is, and where the spans overlap the answer is empty
(FHIRPath 6.2). A value without a zone may be anywhere between UTC+14 and UTC-12: no zone is guessed.
Seconds and their fractions are one precision (FHIRPath 6.1.1).

    2014 < 2014-05           empty
    2013 < 2014-05           true
    2014-05-05T12:00 < 2014-05-05T23:00Z      empty: in one zone it is, in another it is not
"""

import calendar
import re
from dataclasses import dataclass
from datetime import date
from decimal import ROUND_CEILING, ROUND_FLOOR, Context, Decimal
from typing import Final

from wardround.sources.fhir_elements import Kind

__all__ = ["Moment", "boundary", "compare", "decimal_boundary", "read"]

_SECOND: Final = 1_000_000
_MINUTE: Final = 60 * _SECOND
_HOUR: Final = 60 * _MINUTE
_DAY: Final = 24 * _HOUR
_EARLIEST_ZONE: Final = 14 * _HOUR
_LATEST_ZONE: Final = 12 * _HOUR
_CLOCK: Final = r"(\d{2})(?::(\d{2})(?::(\d{2})(?:\.(\d{1,9})\d*)?)?)?"
_DATE: Final = r"(\d{4})(?:-(\d{2})(?:-(\d{2})"
_FORMS: Final = {
    Kind.DATE: re.compile(rf"{_DATE})?)?", re.ASCII),
    Kind.DATETIME: re.compile(rf"{_DATE}(?:T{_CLOCK}(Z|[+-]\d{{2}}:\d{{2}})?)?)?)?", re.ASCII),
    Kind.TIME: re.compile(_CLOCK, re.ASCII),
}
_DIGITS: Final = {Kind.DATE: (4, 6, 8), Kind.DATETIME: (4, 6, 8, 10, 12, 14, 17), Kind.TIME: (2, 4, 6, 9)}
_WIDE: Final = Context(prec=80)
_MOST_DIGITS: Final = 28


@dataclass(frozen=True, slots=True)
class Moment:
    """A date, dateTime or time: the numbers that it has (year or hour first), and its zone.

    `fraction` are the digits behind the second; `zone` is "" where there is none; `text` is how it was written.
    """

    text: str
    kind: Kind
    numbers: tuple[int, ...]
    fraction: str = ""
    zone: str = ""


def read(kind: Kind, text: str) -> Moment | None:
    """The moment that `text` writes; None where it is none (the thirteenth month, say)."""
    match = _FORMS[kind].fullmatch(text)
    if match is None:
        return None
    parts = match.groups()
    zone = parts[7] or "" if kind is Kind.DATETIME else ""
    count = {Kind.DATE: 3, Kind.DATETIME: 6, Kind.TIME: 3}[kind]
    numbers = tuple(int(part) for part in parts[:count] if part is not None)
    fraction = parts[count] or "" if kind is not Kind.DATE else ""
    moment = Moment(text, kind, numbers, fraction, zone)
    return moment if _is_possible(moment) else None


def compare(left: Moment, right: Moment) -> int | None:
    """-1, 0 or 1 as `left` is earlier, the same or later; None where that cannot be told (FHIRPath 6.2)."""
    first, second = _span(left), _span(right)
    if bool(left.zone) == bool(right.zone):
        if len(left.numbers) == len(right.numbers):
            return (first[0] > second[0]) - (first[0] < second[0])
    elif left.zone:
        second = second[0] - _EARLIEST_ZONE, second[1] + _LATEST_ZONE
    else:
        first = first[0] - _EARLIEST_ZONE, first[1] + _LATEST_ZONE
    if first[1] < second[0]:
        return -1
    return 1 if first[0] > second[1] else None


def boundary(moment: Moment, *, high: bool, digits: int | None = None) -> str | None:
    """The earliest or latest moment that `moment` may mean, with so many digits; None if it has no such form.

    lowBoundary() and highBoundary() of FHIRPath N1 draft; without `digits` a date gets its day, and a
    dateTime or time its milliseconds. A missing zone is the earliest or latest there is.
    """
    lengths = _DIGITS[moment.kind]
    wanted = lengths[-1] if digits is None else digits
    if wanted not in lengths:
        return None
    parts = lengths.index(wanted) + 1
    numbers, milliseconds = _filled(moment, high=high)
    clock = moment.kind is Kind.TIME
    days, hours = ([], numbers) if clock else (numbers[:3], numbers[3:])
    text = "-".join(f"{number:04}" if place == 0 else f"{number:02}" for place, number in enumerate(days[:parts]))
    left = parts - len(days)
    if left > 0:
        spelled = ":".join(f"{number:02}" for number in hours[:left]) + (f".{milliseconds:03}" if left > 3 else "")
        text = spelled if clock else f"{text}T{spelled}{moment.zone or ('-12:00' if high else '+14:00')}"
    return text


def decimal_boundary(value: Decimal, *, high: bool, digits: int | None = None) -> Decimal | None:
    """The lowest or highest number that rounds to `value` as it is written: 0.95 and 1.05 for 1.0."""
    wanted = 8 if digits is None else digits
    if not 0 <= wanted <= _MOST_DIGITS or value.adjusted() > _MOST_DIGITS:
        return None
    exponent = value.as_tuple().exponent
    places = max(0, -exponent) if isinstance(exponent, int) else 0
    half = Decimal(5).scaleb(-places - 1)
    exact = _WIDE.add(value, half if high else -half)
    return exact.quantize(Decimal(1).scaleb(-wanted), ROUND_CEILING if high else ROUND_FLOOR, _WIDE)


def _is_possible(moment: Moment) -> bool:
    numbers = moment.numbers
    days, hours = ((), numbers) if moment.kind is Kind.TIME else (numbers[:3], numbers[3:])
    if days and not (days[0] > 0 and all(1 <= month <= 12 for month in days[1:2])):
        return False
    if len(days) == 3 and not 1 <= days[2] <= calendar.monthrange(days[0], days[1])[1]:
        return False
    if any(number >= limit for number, limit in zip(hours, (24, 60, 60), strict=False)):
        return False
    return moment.zone in {"", "Z"} or (int(moment.zone[1:3]) <= 14 and int(moment.zone[4:]) < 60)


def _filled(moment: Moment, *, high: bool) -> tuple[list[int], int]:
    numbers = list(moment.numbers)
    if moment.kind is not Kind.TIME:
        if len(numbers) == 1:
            numbers.append(12 if high else 1)
        if len(numbers) == 2:
            numbers.append(calendar.monthrange(numbers[0], numbers[1])[1] if high else 1)
    whole = {Kind.DATE: 3, Kind.DATETIME: 6, Kind.TIME: 3}[moment.kind]
    hours = 0 if moment.kind is Kind.TIME else 3
    numbers += [(23, 59, 59)[place] if high else 0 for place in range(len(numbers) - hours, whole - hours)]
    digits = moment.fraction[:3].ljust(3, "9" if high else "0")
    return numbers, int(digits)


def _span(moment: Moment) -> tuple[int, int]:
    # First and last microsecond; a moment with seconds is a point.
    low, high = _filled(moment, high=False)[0], _filled(moment, high=True)[0]
    first, last = _microseconds(moment, low), _microseconds(moment, high)
    if len(moment.numbers) == len(low) and moment.kind is not Kind.DATE:
        return first, first
    return first, last + (_DAY if moment.kind is Kind.DATE else _SECOND) - 1


def _microseconds(moment: Moment, numbers: list[int]) -> int:
    days = 0 if moment.kind is Kind.TIME else date(*numbers[:3]).toordinal()
    hours = numbers if moment.kind is Kind.TIME else numbers[3:]
    clock = sum(number * unit for number, unit in zip(hours, (_HOUR, _MINUTE, _SECOND), strict=False))
    offset = 0
    if moment.zone not in {"", "Z"}:
        offset = int(moment.zone[1:3]) * _HOUR + int(moment.zone[4:]) * _MINUTE
        offset = -offset if moment.zone[0] == "-" else offset
    return days * _DAY + clock + int(moment.fraction[:6].ljust(6, "0")) - offset
