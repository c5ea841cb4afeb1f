"""A column's cells as instants: timestamps, dates, counted seconds, and texts as ISO 8601 and SQL write them.

Texts are read in one pass as long as they have one of the usual forms; each other text is read once, by
`wardround.harmonization.times.parse`, whose results are the same.

Hazard: the cells are patients'. Nothing here puts one into a message.
"""

import re
from dataclasses import dataclass, field
from typing import Final, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from wardround.errors import ClinicalError
from wardround.harmonization import times
from wardround.harmonization.events import Precision
from wardround.sources.event_cells import called, mask, numbers, texts

__all__ = ["Epoch", "Instants", "days", "instants"]

Epoch = Literal["", "s", "ms", "us"]
"""What a number in a column of times counts, from 1970 UTC on; empty: numbers are no times."""

_Mask = npt.NDArray[np.bool_]
_Ints = npt.NDArray[np.int64]
_FORM: Final = re.compile(rb"0000-00-00(?:[T ]00:00(?::00(?:\.0{1,9})?)?(Z|[+-]00:?00)?)?")
"""The shape of the usual forms, each digit written as 0."""
_ZERO, _NINE = b"09"
_LONGEST: Final = 35
_MOST_SHAPES: Final = 4


@dataclass(frozen=True, slots=True)
class Instants:
    """`time_us` and `precision` as `EVENT` has them, null where a cell was absent or was refused.

    `refused` and `noted` say where, by reason.
    """

    time_us: pa.Array
    precision: pa.Array
    refused: dict[str, _Mask] = field(default_factory=dict)
    noted: dict[str, _Mask] = field(default_factory=dict)


def instants(column: pa.Array, name: str, zone: str | None, *, epoch: Epoch) -> Instants:
    """The cells as instants, by the site's `zone` where they do not state their own.

    Raises:
        ClinicalError: The column holds numbers and `epoch` is not stated, or something that is no time.
    """
    kind = column.type
    if pa.types.is_dictionary(kind):
        return instants(column.cast(kind.value_type), name, zone, epoch=epoch)
    if pa.types.is_timestamp(kind):
        return _stamped(column, zone, Precision.SECOND if kind.unit == "s" else Precision.EXACT)
    if pa.types.is_date(kind):
        return _stamped(column.cast(pa.date32()).cast(pa.timestamp("s")), zone, Precision.DAY)
    if epoch:
        return _counted(column, name, epoch)
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        raise ClinicalError(f"column {name!r} holds numbers: if they are times, say epoch = 's', 'ms' or 'us'")
    if pa.types.is_temporal(kind):
        raise ClinicalError(f"column {name!r} holds {called(kind)}, which is no point in time")
    return _read(texts(column, name), zone)


def days(column: pa.Array, name: str, zone: str | None) -> Instants:
    """The cells as days of no zone (births): 00:00 UTC of the day that is written, or its month, or its year.

    Raises:
        ClinicalError: The column holds something that is no day.
    """
    kind = column.type
    if pa.types.is_dictionary(kind):
        return days(column.cast(kind.value_type), name, zone)
    if pa.types.is_timestamp(kind) and kind.tz is None:
        return _stamped(pc.floor_temporal(column, unit="day"), "UTC", Precision.DAY)
    if pa.types.is_integer(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return _read(texts(pc.utf8_slice_codeunits(texts(column, name), 0, 10), name), "UTC")
    if pa.types.is_timestamp(kind):
        raise ClinicalError(f"column {name!r} holds instants of a zone, and a day is asked of it: give it as a date")
    return instants(column, name, "UTC", epoch="")


def _stamped(column: pa.Array, zone: str | None, precision: Precision) -> Instants:
    time_us, where = times.localized(column, zone)
    return _sorted(time_us, pa.repeat(pa.scalar(int(precision), pa.int8()), len(column)), where)


def _sorted(time_us: pa.Array, precision: pa.Array, where: dict[str, _Mask]) -> Instants:
    refusals = {times.NAIVE, times.UNPARSEABLE}
    refused = {reason: cells for reason, cells in where.items() if reason in refusals and cells.any()}
    noted = {reason: cells for reason, cells in where.items() if reason not in refusals and cells.any()}
    return Instants(time_us, precision, refused, noted)


def _counted(column: pa.Array, name: str, epoch: Epoch) -> Instants:
    counted = numbers(column, name, decimal_comma=False)
    cells = np.asarray(counted.number.fill_null(np.nan)) * {"s": 1e6, "ms": 1e3, "us": 1.0}[epoch]
    within = (cells >= times.EARLIEST_US) & (cells < times.LATEST_US)
    strange = counted.strange | (~within & ~np.isnan(cells))
    time_us = pa.array(np.rint(np.where(within, cells, 0)).astype(np.int64), mask=~within)
    precision = Precision.SECOND if epoch == "s" else Precision.EXACT
    return _sorted(time_us, pa.repeat(pa.scalar(int(precision), pa.int8()), len(column)), {times.UNPARSEABLE: strange})


def _read(cells: pa.Array, zone: str | None) -> Instants:
    reading = _Reading(cells, zone)
    lengths = np.asarray(pc.binary_length(cells).fill_null(0))
    for length in np.unique(lengths[(lengths >= 10) & (lengths <= _LONGEST)]).tolist():
        for _ in range(_MOST_SHAPES):
            places = np.flatnonzero(reading.left & (lengths == length))
            if not len(places) or not reading.read_alike(places, length):
                break
    reading.read_singly()
    absent = reading.precision == 0
    return _sorted(pa.array(reading.time_us, mask=absent), pa.array(reading.precision, mask=absent), reading.where)


class _Reading:
    """What has been read of a column of texts; `left` is what has not."""

    def __init__(self, cells: pa.Array, zone: str | None) -> None:
        self.time_us = np.zeros(len(cells), np.int64)
        self.precision = np.zeros(len(cells), np.int8)
        self.where: dict[str, _Mask] = {}
        self.left = mask(cells.is_valid()).copy()
        self._cells = cells
        self._zone = zone

    def read_alike(self, places: _Ints, length: int) -> bool:
        """Read those of the places, all of one length in bytes, that are written as the first; False: none was."""
        cells = self._cells.take(pa.array(places))
        start = np.frombuffer(cells.buffers()[1], np.int32, count=1, offset=4 * cells.offset)[0]
        data = np.frombuffer(cells.buffers()[2], np.uint8, count=len(cells) * length, offset=start)
        data = np.ascontiguousarray(data.reshape(len(cells), length).T)
        digits = (data >= _ZERO) & (data <= _NINE)
        shape = np.where(digits[:, 0], _ZERO, data[:, 0]).astype(np.uint8)
        form = _FORM.fullmatch(shape.tobytes())
        if form is None:
            return False
        end = length - len(form[1] or b"")
        local, done = _local(data, end)
        for cell, is_digit, sign in zip(data, digits, shape, strict=True):
            done &= is_digit if sign == _ZERO else cell == sign
        if form[1] is None:
            self._place(places[done], local[done], end)
        else:
            shift, right = _offset(data[end:])
            done &= right
            self.time_us[places[done]] = (local - shift)[done]
            self.precision[places[done]] = _precision(end)
        self.left[places[done]] = False
        return bool(done.any())

    def read_singly(self) -> None:
        """Read all that is left, each text once."""
        places = np.flatnonzero(self.left)
        coded = self._cells.take(pa.array(places)).dictionary_encode()
        parsed = [times.parse(text, self._zone) for text in coded.dictionary.to_pylist()]
        for place, index in zip(places.tolist(), coded.indices.to_pylist(), strict=True):
            moment = parsed[index]
            if isinstance(moment, str):
                self._mark(moment, place)
                continue
            self.time_us[place], self.precision[place] = moment.time_us, moment.precision
            if moment.remark:
                self._mark(moment.remark, place)

    def _place(self, places: _Ints, local: _Ints, end: int) -> None:
        found, where = times.localized(pa.array(local).cast(pa.timestamp("us")), self._zone)
        kept = mask(found.is_valid())
        self.time_us[places[kept]] = np.asarray(found.fill_null(0))[kept]
        self.precision[places[kept]] = _precision(end)
        for reason, hit in where.items():
            self._mark(reason, places[hit])

    def _mark(self, reason: str, places: int | _Ints) -> None:
        self.where.setdefault(reason, np.zeros(len(self.left), np.bool_))[places] = True


def _local(data: npt.NDArray[np.uint8], end: int) -> tuple[_Ints, _Mask]:
    month_of_all = (_number(data, 0, 4) - 1970) * 12 + _number(data, 5, 7) - 1
    first, following = (_days_before(month_of_all + step) for step in (0, 1))
    day, month = _number(data, 8, 10), _number(data, 5, 7)
    valid = (_number(data, 0, 4) >= 1) & (month >= 1) & (month <= 12) & (day >= 1) & (day <= following - first)
    local = (first + day - 1) * times.DAY_US
    for start, many, each_us in ((11, 24, 3_600_000_000), (14, 60, 60_000_000), (17, 60, 1_000_000)):
        if end > start:
            part = _number(data, start, start + 2)
            valid &= part < many
            local += part * each_us
    if end > 20:
        stop = min(end, 26)
        local += _number(data, 20, stop) * 10 ** (26 - stop)
    return local, valid


def _days_before(months: _Ints) -> _Ints:
    return months.astype("datetime64[M]").astype("datetime64[D]").astype(np.int64)


def _number(data: npt.NDArray[np.uint8], start: int, stop: int) -> _Ints:
    found = np.zeros(data.shape[1], np.int32)
    for row in data[start:stop]:
        found = found * 10 + row - np.int32(_ZERO)
    return found.astype(np.int64)


def _offset(data: npt.NDArray[np.uint8]) -> tuple[_Ints, _Mask]:
    width, count = data.shape
    if width == 1:
        return np.zeros(count, np.int64), np.ones(count, np.bool_)
    hours, minutes = _number(data, 1, 3), _number(data, width - 2, width)
    sign = np.where(data[0] == ord("-"), -1, 1)
    return sign * (hours * 60 + minutes) * 60_000_000, (hours <= 14) & (minutes <= 59)


def _precision(end: int) -> Precision:
    return {10: Precision.DAY, 16: Precision.MINUTE, 19: Precision.SECOND}.get(end, Precision.EXACT)
