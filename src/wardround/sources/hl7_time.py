"""HL7's times, ``YYYY[MM[DD[HH[MM[SS[.S…]]]]]][+/-ZZZZ]``: one by one, and whole columns at once.

A time without an offset is in the zone of its sender. Where the header's own time (MSH-7) has an offset, the standard
takes that one for the whole message; a sender that states what the site's clocks show just then, though, means the
site's zone, in which the offset changes with the season. So the site's zone holds unless MSH-7 contradicts it.

An hour without minutes is kept as a time of its day (`Precision.DAY`): it claims no more than it may.
"""

import re
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from wardround.harmonization import times
from wardround.harmonization.events import Precision
from wardround.harmonization.times import DAY_US, UNPARSEABLE, Moment

__all__ = ["NONE", "Times", "column", "day", "iso", "moment", "sender_offsets"]

NONE: Final = np.iinfo(np.int64).min
"""Stands for an offset or a time that is not there."""

_FORM: Final = re.compile(
    r"(\d{4})(?:(\d\d)(?:(\d\d)(?:(\d\d)(?:(\d\d)(?:([0-5]\d)(?:\.(\d{1,9}))?)?)?)?)?)?([+-](?:0\d|1[0-4])[0-5]\d)?",
    re.ASCII,
)
_CLOCK: Final = re.compile(
    r"([01]\d|2[0-3])(?:([0-5]\d)(?:([0-5]\d)(\.\d{1,9})?)?)?([+-](?:0\d|1[0-4])[0-5]\d)?", re.ASCII
)
_PLACES: Final = (Precision.MONTH, Precision.DAY, Precision.DAY, Precision.MINUTE, Precision.SECOND, Precision.EXACT)
_FAST: Final = {
    8: (Precision.DAY, False),
    12: (Precision.MINUTE, False),
    14: (Precision.SECOND, False),
    17: (Precision.MINUTE, True),
    19: (Precision.SECOND, True),
}
"""Lengths of the forms that nearly all times have, their precision, and whether an offset ends them."""

_Longs = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Times:
    """A column of instants.

    Attributes:
        us: int64, `NONE` where there is no time or it was refused.
        precision: int8.
        refused: How many were, by reason; an empty text is no time and is not counted.
        remarked: What `wardround.harmonization.times` remarks, and how often.
    """

    us: _Longs
    precision: npt.NDArray[np.int8]
    refused: dict[str, int]
    remarked: dict[str, int]


def moment(text: str, zone: str | None) -> Moment | str:
    """The instant that a text in HL7's form names; a reason where it is refused."""
    found = _parts(text)
    if found is None:
        return UNPARSEABLE
    naive, micros, precision, offset = found
    return times.placed(naive, micros, precision, offset, zone)


def day(text: str) -> Moment | str:
    """A date as such, 00:00 UTC of the day whatever its time and zone: a birth."""
    found = _parts(text)
    if found is None:
        return UNPARSEABLE
    naive, _, precision, _ = found
    return times.placed(naive.replace(hour=0, minute=0), 0, min(precision, Precision.DAY), "Z", None)


def iso(kind: str, text: str) -> str | None:
    """A date, a time of day or both (DT, TM, DTM, TS) as ISO 8601 writes it; None where it is none."""
    if kind == "TM":
        found = _CLOCK.fullmatch(text.strip())
        if found is None:
            return None
        hour, minute, second, fraction, offset = found.groups()
        return f"{hour}:{minute or '00'}{':' + second if second else ''}{fraction or ''}{_colon(offset)}"
    parsed, matched = _parts(text), _FORM.fullmatch(_first(text))
    if parsed is None or matched is None:
        return None
    year, month, date, hour, minute, second, fraction, offset = matched.groups()
    made = "-".join(part for part in (year, month, date) if part)
    if hour:
        made += f"T{hour}:{minute or '00'}{':' + second if second else ''}{'.' + fraction if fraction else ''}"
        made += _colon(offset)
    return made


def column(texts: pa.Array, defaults: _Longs, zone: str | None) -> Times:
    """The instants of a column of texts.

    Args:
        texts: Strings; empty where there is no time.
        defaults: For each, the offset in microseconds that its message states for times without one, or `NONE`.
        zone: The site's.
    """
    naive, offset, precision, bad = _read(texts)
    return _settle(naive, np.where(offset == NONE, defaults, offset), precision, bad, zone)


def sender_offsets(texts: pa.Array, zone: str | None) -> _Longs:
    """For each MSH-7 the offset that holds for the message's other times; `NONE` where the site's zone does."""
    naive, offset, _, bad = _read(texts)
    offset[bad | (naive == NONE)] = NONE
    stated = np.flatnonzero(offset != NONE)
    if zone is not None and len(stated):
        instants = pa.array(naive[stated] - offset[stated], pa.timestamp("us", tz=zone))
        local = pc.local_timestamp(instants).cast(pa.int64()).to_numpy()
        offset[stated[local == naive[stated]]] = NONE
    return offset


def _settle(
    naive: _Longs, offset: _Longs, precision: npt.NDArray[Any], bad: npt.NDArray[np.bool_], zone: str | None
) -> Times:
    us = np.where((naive != NONE) & (offset != NONE), naive - np.where(offset == NONE, 0, offset), NONE)
    refused = {UNPARSEABLE: int(bad.sum())} if bad.any() else {}
    remarked: dict[str, int] = {}
    local = np.flatnonzero((naive != NONE) & (offset == NONE))
    if len(local):
        placed, counts = times.localize(pa.array(naive[local], pa.timestamp("us")), zone)
        if zone is None:
            refused |= counts
        else:
            us[local] = placed.to_numpy()
            remarked = counts
    return Times(us, precision, refused, remarked)


def _read(texts: pa.Array) -> tuple[_Longs, _Longs, npt.NDArray[np.int8], npt.NDArray[np.bool_]]:
    """Local times in microseconds, their offsets, precisions, and which texts are no time."""
    lengths = pc.binary_length(texts).to_numpy()
    naive, offset = np.full(len(texts), NONE), np.full(len(texts), NONE)
    precision = np.zeros(len(texts), np.int8)
    done = lengths == 0
    for length, (known, has_offset) in _FAST.items():
        rows = np.flatnonzero(lengths == length)
        if len(rows):
            fine, local, shift = _digits(texts.take(pa.array(rows)), length, has_offset=has_offset)
            rows = rows[fine]
            naive[rows], offset[rows], precision[rows], done[rows] = local, shift, known, True
    rest = np.flatnonzero(~done)
    bad = np.zeros(len(texts), np.bool_)
    for row, text in zip(rest.tolist(), texts.take(pa.array(rest)).to_pylist(), strict=True):
        found = _parts(text)
        utc = None if found is None else times.placed(found[0], found[1], found[2], "Z", None)
        own = times.placed(found[0], found[1], found[2], found[3], None) if found and found[3] else utc
        if found is None or not isinstance(utc, Moment) or not isinstance(own, Moment):
            bad[row] = True
            continue
        naive[row], precision[row] = utc.time_us, found[2]
        if found[3]:
            offset[row] = utc.time_us - own.time_us
    return naive, offset, precision, bad


def _digits(texts: pa.Array, length: int, *, has_offset: bool) -> tuple[npt.NDArray[np.intp], _Longs, Any]:
    """Which texts of this length are times, their local microseconds, and their offsets."""
    _, offsets, data = texts.buffers()
    start = np.frombuffer(offsets, np.int32)[texts.offset]
    cells = np.frombuffer(data, np.uint8)[start : start + len(texts) * length].reshape(-1, length)
    clock = length - 5 if has_offset else length
    digits = cells.astype(np.int64) - 48
    numeric = np.ones(length, np.bool_)
    if has_offset:
        numeric[clock] = False
    fine = ((digits >= 0) & (digits <= 9))[:, numeric].all(axis=1)
    shift: Any = NONE
    two = [digits[:, place] * 10 + digits[:, place + 1] for place in range(0, clock, 2)]
    year, month, date = two[0] * 100 + two[1], two[2], two[3]
    hour, minute, second = (two[place] if clock > 2 * place else np.zeros_like(month) for place in (4, 5, 6))
    fine &= (year >= 1) & (month >= 1) & (month <= 12) & (hour < 24) & (minute < 60) & (second < 60)
    if has_offset:
        hours, minutes = (digits[:, clock + at] * 10 + digits[:, clock + at + 1] for at in (1, 3))
        sign = cells[:, clock]
        fine &= ((sign == 43) | (sign == 45)) & (hours <= 14) & (minutes < 60)
        shift = np.where(sign == 45, -1, 1) * (hours * 3600 + minutes * 60) * 1_000_000
    months = ((year - 1970) * 12 + month - 1).astype("datetime64[M]")
    first = months.astype("datetime64[D]").astype(np.int64)
    fine &= (date >= 1) & (date <= (months + 1).astype("datetime64[D]").astype(np.int64) - first)
    local = (first + date - 1) * DAY_US + ((hour * 60 + minute) * 60 + second) * 1_000_000
    kept = np.flatnonzero(fine)
    return kept, local[kept], shift[kept] if has_offset else shift


def _parts(text: str) -> tuple[datetime, int, Precision, str | None] | None:
    found = _FORM.fullmatch(_first(text))
    if found is None:
        return None
    year, month, date, hour, minute, second, fraction, offset = found.groups()
    try:
        naive = datetime(int(year), int(month or 1), int(date or 1), int(hour or 0), int(minute or 0))  # noqa: DTZ001, the offset follows
    except ValueError:
        return None
    stated = [place for part, place in zip(found.groups()[1:7], _PLACES, strict=True) if part]
    micros = int(second or 0) * 1_000_000 + int((fraction or "").ljust(6, "0")[:6])
    return naive, micros, stated[-1] if stated else Precision.YEAR, offset


def _first(text: str) -> str:
    # Until 2.6 a second component told the precision; the digits tell it as well.
    return text.partition("^")[0].strip()


def _colon(offset: str | None) -> str:
    return f"{offset[:3]}:{offset[3:]}" if offset else ""
