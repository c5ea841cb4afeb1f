"""What a site's data look like behind each of its codes: how many, of how many patients, in which units, how high.

Reading every batch once, in memory that grows with the number of codes and not with the source:

- quantiles come from a sample of at most 1,024 numbers for each code, those whose row has the smallest hash. So the
  sample, and with it the profile, depends neither on the order of the batches nor on where they are cut;
- patients and distinct texts are counted exactly up to 512 and estimated from the smallest hashes beyond (Bar-Yossef's
  k minimum values, about 4 % off).

Hazard: quantiles of few numbers are patients' numbers. A profile is for the site's own people: it is not printed by
its repr, not logged, and never sent. Texts themselves are not kept, only how many different ones there are.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from wardround.errors import ClinicalError
from wardround.harmonization.events import PATIENT

__all__ = ["LEVELS", "MOST_CODES", "Name", "Profile", "profile"]

LEVELS: Final = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
"""The levels of a profile's quantiles."""

MOST_CODES: Final = 100_000
"""A source with more codes than this is refused: its code column is no code."""

_SAMPLE: Final = 1024
_DISTINCT: Final = 512
_MOST_UNITS: Final = 1024
_NO_UNIT: Final = ""

_Hashes = npt.NDArray[np.uint64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Name:
    """What the source's own dictionary says of a code; empty where it says nothing."""

    text: str
    specimen: str = ""
    category: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """One local code.

    Attributes:
        count: Its events.
        patients: How many patients have one.
        numbers: Events with a number.
        texts: Different texts or codes among its values.
        units: Events with a number by unit as the source spells it, most frequent first; "" where it states none.
        quantiles: By unit, at `LEVELS`; only units of the sample.
        first_us: The earliest time, and `last_us` the latest; null where no event has one.
    """

    system: str
    code: str
    name: Name | None = None
    count: int
    patients: int
    numbers: int
    texts: int
    units: Mapping[str, int]
    quantiles: Mapping[str, tuple[float, ...]] = field(repr=False)
    first_us: int | None = None
    last_us: int | None = None

    @property
    def key(self) -> str:
        """``system|code``, as a mapping names it."""
        return f"{self.system}|{self.code}"

    @property
    def share_numeric(self) -> float:
        """Which share of the events has a number."""
        return self.numbers / self.count if self.count else 0.0


def profile(batches: Iterable[pa.RecordBatch], *, names: Mapping[str, Name] | None = None) -> list[Profile]:
    """The profile of every code but the patient's own facts, in order of system and code.

    Args:
        batches: Of `EVENT`; each is let go once it is read.
        names: What the source's dictionary says, by ``system|code``.

    Raises:
        ClinicalError: There are more than `MOST_CODES` codes.
    """
    found: dict[tuple[str, str], _Tally] = {}
    for one in batches:
        _read(one, found)
        if len(found) > MOST_CODES:
            raise ClinicalError(f"the source has more than {MOST_CODES} codes: is its code column the right one?")
    named = names or {}
    return [
        tally.finished(system, code, named.get(f"{system}|{code}")) for (system, code), tally in sorted(found.items())
    ]


class _Distinct:
    """The smallest hashes of what was seen."""

    __slots__ = ("kept",)

    def __init__(self) -> None:
        self.kept: _Hashes = np.empty(0, np.uint64)

    def add(self, hashes: _Hashes) -> None:
        self.kept = np.union1d(self.kept, hashes)[:_DISTINCT]

    def count(self) -> int:
        if len(self.kept) < _DISTINCT:
            return len(self.kept)
        return round((_DISTINCT - 1) / ((float(self.kept[-1]) + 1.0) / 2.0**64))


class _Tally:
    """One code's sums so far."""

    __slots__ = ("count", "first_us", "last_us", "numbers", "order", "patients", "texts", "unit_of", "units", "values")

    def __init__(self) -> None:
        self.count = self.numbers = 0
        self.patients, self.texts = _Distinct(), _Distinct()
        self.units: dict[str, int] = {}
        self.order: _Hashes = np.empty(0, np.uint64)
        self.values: npt.NDArray[np.float64] = np.empty(0)
        self.unit_of: npt.NDArray[np.object_] = np.empty(0, object)
        self.first_us: int | None = None
        self.last_us: int | None = None

    def sample(self, order: _Hashes, values: npt.NDArray[np.float64], units: npt.NDArray[np.object_]) -> None:
        for unit, count in Counter(units.tolist()).items():
            if unit in self.units or len(self.units) < _MOST_UNITS:
                self.units[unit] = self.units.get(unit, 0) + count
        self.numbers += len(values)
        order = np.concatenate([self.order, order])
        values, units = np.concatenate([self.values, values]), np.concatenate([self.unit_of, units])
        if len(order) > _SAMPLE:
            # A hash that two rows share is settled by the number, so that the order of reading never shows.
            kept = np.lexsort((values, order))[:_SAMPLE]
            order, values, units = order[kept], values[kept], units[kept]
        self.order, self.values, self.unit_of = order, values, units

    def seen(self, times: npt.NDArray[np.int64]) -> None:
        if len(times):
            first, last = int(times.min()), int(times.max())
            self.first_us = first if self.first_us is None else min(first, self.first_us)
            self.last_us = last if self.last_us is None else max(last, self.last_us)

    def finished(self, system: str, code: str, name: Name | None) -> Profile:
        # By Python's strings, since numpy's lose a trailing NUL.
        of_unit: dict[str, list[float]] = {}
        for unit, value in zip(self.unit_of.tolist(), self.values.tolist(), strict=True):
            of_unit.setdefault(unit, []).append(value)
        quantiles = {
            unit: tuple(float(level) for level in np.quantile(values, LEVELS))
            for unit, values in sorted(of_unit.items())
        }
        return Profile(
            system=system,
            code=code,
            name=name,
            count=self.count,
            patients=self.patients.count(),
            numbers=self.numbers,
            texts=self.texts.count(),
            units=dict(sorted(self.units.items(), key=lambda pair: (-pair[1], pair[0]))),
            quantiles=quantiles,
            first_us=self.first_us,
            last_us=self.last_us,
        )


def _read(one: pa.RecordBatch, found: dict[tuple[str, str], _Tally]) -> None:
    one = one.filter(pc.not_equal(one["system"], PATIENT))
    if not one.num_rows:
        return
    system, code = one["system"].dictionary_encode(), one["code"].dictionary_encode()
    systems, codes = system.dictionary.to_pylist(), code.dictionary.to_pylist()
    keys = system.indices.to_numpy().astype(np.int64) * len(codes) + code.indices.to_numpy()
    patients, texts = _hashed(one["patient"]), _hashed(one["value"])
    has_text = one["value"].is_valid().to_numpy(zero_copy_only=False)
    times = one["time_us"].fill_null(0).to_numpy()
    has_time = one["time_us"].is_valid().to_numpy(zero_copy_only=False)
    numbers = one["number"].to_numpy(zero_copy_only=False)
    is_number = np.isfinite(numbers)
    units = one["unit"].fill_null(_NO_UNIT).to_numpy(zero_copy_only=False)
    order = _mixed(one["row"].to_numpy().astype(np.uint64) + _hashed(one["source"]))

    rows = np.argsort(keys, kind="stable")
    starts = np.flatnonzero(np.diff(keys[rows], prepend=-1))
    for places in np.split(rows, starts[1:]):
        key = int(keys[places[0]])
        tally = found.setdefault((systems[key // len(codes)], codes[key % len(codes)]), _Tally())
        tally.count += len(places)
        tally.patients.add(patients[places])
        tally.texts.add(texts[places[has_text[places]]])
        tally.seen(times[places[has_time[places]]])
        numeric = places[is_number[places]]
        if len(numeric):
            tally.sample(order[numeric], numbers[numeric], units[numeric])


def _hashed(texts: pa.Array) -> _Hashes:
    """A 64-bit hash of each text, the same in every process; that of null is not to be used."""
    encoded = texts.fill_null("").dictionary_encode()
    each = [int.from_bytes(blake2b(one.encode(), digest_size=8).digest()) for one in encoded.dictionary.to_pylist()]
    made: _Hashes = np.asarray(each, np.uint64)[encoded.indices.to_numpy()]
    return made


def _mixed(words: _Hashes) -> _Hashes:
    """SplitMix64's finalizer: neighbouring rows get unrelated hashes."""
    with np.errstate(over="ignore"):
        words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))
