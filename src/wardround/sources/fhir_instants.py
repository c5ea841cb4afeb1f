"""FHIR's dates and times as instants, by the ten thousand: what `wardround.harmonization.times.parse` says of each.

Nearly all are written ``YYYY-MM-DDThh:mm:ss``, perhaps with a fraction, and with an offset. These are computed from
their digits, a column at a time; every other text is given to `times.parse`, once for each that differs.
"""

from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from wardround.harmonization import times
from wardround.harmonization.events import Precision

__all__ = ["instants"]

_Numbers = npt.NDArray[np.int64]
_Bytes = npt.NDArray[np.uint8]
_SECOND_US: Final = 1_000_000
_UNKNOWN: Final = -1
_PLACES: Final = (0, 1, 2, 3, 5, 6, 8, 9, 11, 12, 14, 15, 17, 18)
_MARKS: Final = ((4, b"-"), (7, b"-"), (10, b"T"), (13, b":"), (16, b":"))
_SHORTEST: Final = 20
_LONGEST: Final = 35


def instants(texts: pa.Array, zone: str | None) -> tuple[pa.Array, pa.Array, dict[str, int]]:
    """Microseconds UTC and `Precision` of each text, both null where it is refused, and how many were remarked and why.

    Args:
        texts: Strings, or nulls.
        zone: The site's.
    """
    coded = texts.dictionary_encode()
    different = coded.dictionary
    time_us, precision = _regular(different)
    remarks: dict[int, str] = {}
    for place in np.flatnonzero(precision == _UNKNOWN).tolist():
        moment = times.parse(different[place].as_py(), zone)
        if isinstance(moment, str):
            remarks[place] = moment
        else:
            time_us[place], precision[place] = moment.time_us, moment.precision
            if moment.remark:
                remarks[place] = moment.remark
    refused = precision == _UNKNOWN
    counts: dict[str, int] = {}
    if remarks:
        rows = np.bincount(coded.indices.drop_null().to_numpy(), minlength=len(different))
        for place, remark in remarks.items():
            counts[remark] = counts.get(remark, 0) + int(rows[place])
    known = pa.array(time_us, mask=refused).take(coded.indices)
    return known, pa.array(precision, pa.int8(), mask=refused).take(coded.indices), counts


def _regular(texts: pa.Array) -> tuple[_Numbers, npt.NDArray[np.int8]]:
    time_us = np.zeros(len(texts), np.int64)
    precision = np.full(len(texts), _UNKNOWN, np.int8)
    _, bounds, data = texts.buffers()
    if data is None:
        return time_us, precision
    offsets = np.frombuffer(bounds, np.int32)[texts.offset : texts.offset + len(texts) + 1].astype(np.int64)
    lengths = np.diff(offsets)
    held = np.frombuffer(data, np.uint8)
    for length in np.unique(lengths).tolist():
        if _SHORTEST <= length <= _LONGEST:
            rows = np.flatnonzero(lengths == length)
            signs = held[offsets[rows][:, None] + np.arange(length)]
            last = signs[:, -1] == ord("Z")
            for chosen, tail in ((last, 1), (~last, 6)):
                if length >= 19 + tail and chosen.any():
                    _read(signs[chosen], rows[chosen], tail, time_us, precision)
    return time_us, precision


def _read(signs: _Bytes, rows: _Numbers, tail: int, time_us: _Numbers, precision: npt.NDArray[np.int8]) -> None:
    """Texts of one length whose offset takes the last `tail` signs; those that are not so written are left alone."""
    length = signs.shape[1]
    fraction = list(range(20, length - tail))
    digits = signs[:, [*_PLACES, *fraction]].astype(np.int64) - ord("0")
    good = ((digits >= 0) & (digits <= 9)).all(1)
    for place, mark in _MARKS:
        good &= signs[:, place] == mark[0]
    if length - tail > 19:
        good &= (signs[:, 19] == ord(".")) & (1 <= len(fraction) <= 9)
    year = digits[:, :4] @ np.array([1000, 100, 10, 1])
    month, day, hour, minute, second = (digits[:, at] * 10 + digits[:, at + 1] for at in (4, 6, 8, 10, 12))
    good &= (year >= 1) & (month >= 1) & (month <= 12) & (day >= 1) & (hour < 24) & (minute < 60) & (second < 60)
    since = np.where(good, (year - 1970) * 12 + month - 1, 0)
    first, after = _first_day(since), _first_day(since + 1)
    good &= day <= after - first
    micros = digits[:, 14:20] @ (10 ** np.arange(5, 5 - min(len(fraction), 6), -1))
    shift, sound = _offset(signs[:, length - tail :]) if tail > 1 else (np.zeros(len(rows), np.int64), True)
    good &= sound
    clock = (first + day - 1) * 86_400 + hour * 3600 + minute * 60 + second - shift
    time_us[rows[good]] = (clock * _SECOND_US + micros)[good]
    precision[rows[good]] = Precision.EXACT if fraction else Precision.SECOND


def _offset(signs: _Bytes) -> tuple[_Numbers, npt.NDArray[np.bool_]]:
    digits = signs[:, [1, 2, 4, 5]].astype(np.int64) - ord("0")
    hours, minutes = digits[:, 0] * 10 + digits[:, 1], digits[:, 2] * 10 + digits[:, 3]
    negative = signs[:, 0] == ord("-")
    sound = ((digits >= 0) & (digits <= 9)).all(1) & (signs[:, 3] == ord(":")) & (hours <= 14) & (minutes <= 59)
    sound &= negative | (signs[:, 0] == ord("+"))
    return np.where(negative, -1, 1) * (hours * 3600 + minutes * 60), sound


def _first_day(months: _Numbers) -> _Numbers:
    return months.astype("datetime64[M]").astype("datetime64[D]").astype(np.int64)
