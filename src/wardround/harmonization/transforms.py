"""Named transforms from an array to numbers of a fixed length: what a study's ``array`` columns are made by.

A name is ``MODALITY:TRANSFORM@VERSION``. What a version gives never changes; what should be otherwise gets a new
version. Waveforms are float32 ``(samples, channels)``, NaN where nothing was recorded; their numbers stand channel by
channel, so `length` is a multiple of the channels. Names that begin with ``image:`` are kept for pictures; there are
none yet.

======================= ============================================================== ===================
name                    numbers of one channel                                         how many
======================= ============================================================== ===================
waveform:window@1       resampled by linear interpolation, mean 0, standard deviation 1 any, from 2
waveform:spectrum@1     shares of power in equal bands from 0 to half the sampling rate any, from 1
waveform:statistics@1   mean, standard deviation, minimum, maximum, median, root mean  8
                        square of steps, skewness, excess kurtosis
======================= ============================================================== ===================

Gaps are bridged by straight lines. A channel of which more than half is missing gives NaN, which downstream is a
missing value; a constant channel gives zeros in ``window`` and ``spectrum`` (it has no shape). A window is not filtered
before it is resampled: what is faster than half the new rate is folded, so ask for enough numbers.
"""

import math
from collections.abc import Callable, Mapping
from typing import Final

import numpy as np
import numpy.typing as npt

from wardround.errors import ClinicalError

__all__ = ["STATISTICS", "TRANSFORMS", "apply"]

_Floats = npt.NDArray[np.float64]

STATISTICS: Final = 8
_LONGEST: Final = 1_000_000
_MOST_SAMPLES: Final = 50_000_000


def apply(name: str, array: npt.NDArray[np.float32], length: int) -> npt.NDArray[np.float32]:
    """The transform `name` of an array: float32 ``(length,)``.

    Args:
        name: One of `TRANSFORMS`.
        array: float32 ``(samples, channels)``.
        length: How many numbers the study expects.

    Raises:
        ClinicalError: There is no such transform, or it cannot give so many numbers of this array.
    """
    if name not in TRANSFORMS:
        raise ClinicalError(f"there is no transform {name!r}: there are {', '.join(sorted(TRANSFORMS))}")
    if array.ndim != 2 or not all(array.shape) or array.size > _MOST_SAMPLES:
        raise ClinicalError(f"transform {name!r} takes arrays of (samples, channels), none of them 0, nor too many")
    each, rest = divmod(length, array.shape[1])
    if rest or not 0 < length <= _LONGEST:
        raise ClinicalError(f"transform {name!r}: {length} numbers cannot be dealt to {array.shape[1]} channels")
    smallest, largest, transform = TRANSFORMS[name]
    if not smallest <= each <= largest:
        raise ClinicalError(f"transform {name!r} gives {smallest} to {largest} numbers a channel, not {each}")
    wide = array.astype(np.float64)
    parts = [_of_channel(transform, wide[:, channel], each) for channel in range(array.shape[1])]
    return np.concatenate(parts).astype(np.float32)


def _of_channel(transform: Callable[[_Floats, int], _Floats], samples: _Floats, each: int) -> _Floats:
    present = np.isfinite(samples)
    if 2 * int(present.sum()) < len(samples):
        return np.full(each, math.nan)
    places = np.arange(len(samples), dtype=np.float64)
    return transform(np.interp(places, places[present], samples[present]), each)


def _window(samples: _Floats, each: int) -> _Floats:
    at = np.linspace(0.0, len(samples) - 1.0, each)
    resampled = np.interp(at, np.arange(len(samples), dtype=np.float64), samples)
    centred = resampled - resampled.mean()
    spread = float(centred.std())
    return np.zeros(each) if _is_constant(resampled) else centred / spread


def _spectrum(samples: _Floats, each: int) -> _Floats:
    if _is_constant(samples):
        return np.zeros(each)
    tapered = (samples - samples.mean()) * np.hanning(len(samples) + 2)[1:-1]
    power = np.abs(np.fft.rfft(tapered)) ** 2
    # The constant part is left out: the window's mean is not exactly zero once it is tapered.
    power[0] = 0.0
    bands = np.minimum(np.arange(len(power)) * each // len(power), each - 1)
    shares = np.bincount(bands, weights=power, minlength=each)
    total = float(shares.sum())
    return shares / total if total > 0 else np.zeros(each)


def _statistics(samples: _Floats, _each: int) -> _Floats:
    mean, spread = float(samples.mean()), float(samples.std())
    flat = _is_constant(samples)
    standard = np.zeros(len(samples)) if flat else (samples - mean) / spread
    steps = np.diff(samples)
    return np.array(
        [
            mean,
            0.0 if flat else spread,
            samples.min(),
            samples.max(),
            np.median(samples),
            math.sqrt(float((steps**2).mean())) if len(steps) else 0.0,
            float((standard**3).mean()),
            0.0 if flat else float((standard**4).mean()) - 3.0,
        ]
    )


def _is_constant(samples: _Floats) -> bool:
    return float(np.ptp(samples)) == 0.0


TRANSFORMS: Final[Mapping[str, tuple[int, int, Callable[[_Floats, int], _Floats]]]] = {
    "waveform:window@1": (2, _LONGEST, _window),
    "waveform:spectrum@1": (1, _LONGEST, _spectrum),
    "waveform:statistics@1": (STATISTICS, STATISTICS, _statistics),
}
"""By name: the least and the most numbers that one channel gives, and the transform of one channel without gaps."""
