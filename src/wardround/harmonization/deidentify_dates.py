"""Times without dates: days relative to an index, a patient's own shift, and ages in completed years up to 90.

Relative days are the default, since a study needs differences only. A shift keeps a calendar's look and every interval
of one patient; it is drawn from the site's key, so that reading a patient again gives the same one.

Ages are counted by the calendar: a person born on 29 February is a year older on 1 March of a common year. A birth of
which only the year or the month is known gives two ages, for the latest and the earliest day that it can have been.
"""

import hmac
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from wardround.harmonization.events import Precision
from wardround.harmonization.times import DAY_US

__all__ = ["OLDEST", "Ages", "completed_years", "relative_days", "shift_days", "shifted", "top_coded"]

OLDEST: Final = 90
"""Ages from here on are one class, "90 or older" (45 CFR 164.514(b)(2)(i)(C))."""

_SHIFT: Final = b"wardround date shift 1"
_Days = npt.NDArray[np.datetime64]


@dataclass(frozen=True, slots=True)
class Ages:
    """Completed years as int64, null where the birth or the moment is unknown or the moment comes before the birth.

    Attributes:
        least: The age that the patient certainly had.
        most: The age that the patient may have had; where the day of birth is known, the same.
    """

    least: pa.Array
    most: pa.Array


def completed_years(
    births: pa.Array, moments: pa.Array, precisions: pa.Array | None = None, *, zone: str = "UTC"
) -> Ages:
    """Ages at `moments`, both in microseconds since 1970 UTC.

    Args:
        births: 00:00 UTC of the day of birth, as `events` has it, or of the first day of its month or year.
        moments: Instants; their date is that of the site's zone.
        precisions: Of the births, see `Precision`; None: the days are known.
        zone: IANA's name of the site's zone.
    """
    born, known = _days(births, None)
    at, there = _days(moments, zone)
    last = born if precisions is None else _last_day(born, precisions)
    wrong = ~(known & there) | (at < born)
    least, most = _years(last, at), _years(born, at)
    return Ages(pa.array(np.maximum(least, 0), mask=wrong), pa.array(most, mask=wrong))


def top_coded(ages: pa.Array) -> pa.Array:
    """Ages with everybody of `OLDEST` years or more at `OLDEST`; null stays null."""
    return pc.min_element_wise(ages, pa.scalar(OLDEST, ages.type), skip_nulls=False)


def relative_days(times: pa.Array, index: pa.Array) -> pa.Array:
    """Whole days from each row's index time, rounded down, as int64; null where either is null."""
    apart = pc.subtract(times, index)
    # Integers, because a double cannot tell the last microsecond of a day from the next day.
    days = apart.fill_null(0).to_numpy(zero_copy_only=False) // DAY_US
    return pa.array(days, mask=pc.is_null(apart).to_numpy(zero_copy_only=False))


def shift_days(key: bytes, study: str, patients: pa.Array, *, most: int = 365) -> pa.Array:
    """For each row its patient's shift, from -`most` to `most` days and never 0; the same in every reading.

    Raises:
        ValueError: `most` is below 1.
    """
    if most < 1:
        raise ValueError(f"a shift is by one day at least, and most is {most}")
    encoded = patients if pa.types.is_dictionary(patients.type) else patients.dictionary_encode()
    shifts = [_shift(key, study, patient, most) for patient in encoded.dictionary.to_pylist()]
    return pa.array(shifts, pa.int64()).take(encoded.indices)


def shifted(times: pa.Array, days: pa.Array) -> pa.Array:
    """Times in microseconds, moved by so many days."""
    return pc.add(times, pc.multiply(days, DAY_US))


def _shift(key: bytes, study: str, patient: str, most: int) -> int:
    parts = (_SHIFT, study.encode(), patient.encode("utf-8", "surrogatepass"))
    framed = b"".join(len(part).to_bytes(8, "big") + part for part in parts)
    drawn = int.from_bytes(hmac.digest(key, framed, "sha256")[:16], "big") % (2 * most) - most
    return drawn if drawn < 0 else drawn + 1


def _days(times: pa.Array, zone: str | None) -> tuple[_Days, npt.NDArray[np.bool_]]:
    stamps = times.cast(pa.timestamp("us", tz=zone) if zone else pa.timestamp("us"))
    local = pc.local_timestamp(stamps) if zone else stamps
    known = pc.is_valid(local).to_numpy(zero_copy_only=False)
    filled = local.cast(pa.int64()).fill_null(0).to_numpy(zero_copy_only=False)
    return (filled // DAY_US).astype("datetime64[D]"), known


def _last_day(born: _Days, precisions: pa.Array) -> _Days:
    known = precisions.fill_null(int(Precision.YEAR)).to_numpy(zero_copy_only=False)
    day = np.timedelta64(1, "D")
    month_ends = (born.astype("datetime64[M]") + np.timedelta64(1, "M")).astype("datetime64[D]") - day
    year_ends = (born.astype("datetime64[Y]") + np.timedelta64(1, "Y")).astype("datetime64[D]") - day
    return np.select([known <= Precision.YEAR, known == Precision.MONTH], [year_ends, month_ends], born)


def _years(born: _Days, at: _Days) -> npt.NDArray[np.int64]:
    whole = at.astype("datetime64[Y]").astype(np.int64) - born.astype("datetime64[Y]").astype(np.int64)
    return whole - (_within_year(at) < _within_year(born)).astype(np.int64)


def _within_year(days: _Days) -> npt.NDArray[np.int64]:
    months = days.astype("datetime64[M]")
    day = (days - months.astype("datetime64[D]")).astype(np.int64)
    return np.asarray(months.astype(np.int64) % 12 * 31 + day, dtype=np.int64)
