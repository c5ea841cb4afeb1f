"""Looks for records and identifiers in what is about to leave: a tripwire for what should never be there.

A row counts as found where `run` of its values that are not zero stand one after another in the vector, in their order,
all times one factor, up to rounding; zeros on either side are passed over, and so are missing values. Both the rows
as they are and the rows as they are standardized are looked for.

    ratios of neighbours, quantized ──▶ a filter of bytes ──▶ pairs (place, record's place) ──▶ every ratio compared

A row must have three or more different magnitudes among these values: what has fewer (indicators, ones) cannot be
told from an honest vector. Only every third place or so is probed; a run is long enough to hold a probe wherever
it begins.

False alarms: of vectors whose ratios have nothing to do with the records, one in `2 ** 20` or fewer, for 25 million
float32 values and 4 million values of records: 2**23 probes times 2**22 places times 2**-17 for each of four ratios,
over the spread of ratios. An update that is one record's gradient, times a factor, is no false alarm: that is a record.

What it does not find: rows in another order, disguised by a cipher, by noise above the tolerance or spread out; rows
with fewer such values. Study code that wants to smuggle gets past this; see docs/explanation/egress.md.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt

__all__ = ["MOST_VALUES", "Identifiers", "Records", "Watch"]

MOST_VALUES: Final = 1 << 22
"""So many values of records are looked for; of larger tables, a spread of rows. 100,000 records of 40 columns."""
_MOST_PAIRS: Final = 1 << 24
_TRIPLE = 3
_SLOT_BITS = (16, 26)
_FIRST, _SECOND = np.uint32(0x9E3779B1), np.uint32(0x85EBCA77)
_BLOCK = 1 << 16
_SHORTEST_TEXT, _SHORTEST_BYTES = 4, 8
_WORD = np.dtype("<u4")
_ODD = np.uint32(0x9E3779B1)

_Floats = npt.NDArray[np.floating]


@dataclass(frozen=True, slots=True)
class _Precision:
    """How long a run must be, how near its ratios (as a power of two), and how coarse the filter is in bits."""

    run: int
    tolerance: float
    bits: int


_PRECISIONS = {
    4: _Precision(run=5, tolerance=2.0**-18, bits=14),
    8: _Precision(run=5, tolerance=2.0**-18, bits=14),
    2: _Precision(run=12, tolerance=2.0**-6, bits=3),
}
_HALF = _Precision(run=8, tolerance=2.0**-9, bits=6)
_LONG = 8


class Records:
    """The rows of tables, ready to be looked for in vectors of one dtype.

    Args:
        tables: ``(records, width)`` each; NaN and zero are passed over.
        dtype: Of the vectors that are to be searched.
    """

    def __init__(self, tables: Sequence[npt.NDArray[np.float32]], dtype: npt.DTypeLike = np.float32) -> None:
        kind = np.dtype(dtype)
        self._precision = _HALF if kind == np.float16 else _PRECISIONS[kind.itemsize]
        values, rows = _compressed(tables)
        self._values, self._rows = values, rows
        if len(rows) and np.bincount(rows).min() >= _LONG > self._precision.run:
            # The longer the run, the fewer places must be probed.
            self._precision = replace(self._precision, run=_LONG)
        self._keys, self._places = self._indexed()
        wanted = int(np.ceil(np.log2(16 * max(len(self._keys), 1))))
        self._bits = min(max(wanted, _SLOT_BITS[0]), _SLOT_BITS[1])
        self._filter = np.zeros(1 << self._bits, np.bool_)
        left, right = (self._keys >> np.uint64(32)).astype(np.uint32), self._keys.astype(np.uint32)
        self._filter[_slots(left, right, self._bits)] = True
        self._filter[_slots(right, left, self._bits)] = True

    @property
    def run(self) -> int:
        """So many values one after another are found wherever they stand."""
        return self._precision.run

    @property
    def count(self) -> int:
        """How many places of records are looked for."""
        return len(self._places)

    def found(self, vector: _Floats) -> bool:
        """Whether a run of a record stands in a vector of any length.

        A vector with so many places like records' that they cannot all be compared counts as one that has them.
        """
        if not self.count or vector.size < self._precision.run:
            return False
        with np.errstate(all="ignore"):
            return self._found(_nonzero(vector))

    def _found(self, values: _Floats) -> bool:
        stride = self._precision.run - _TRIPLE + 1
        if len(values) < self._precision.run:
            return False
        last = len(values) - _TRIPLE + 1
        first, second, third = (values[place : place + last : stride] for place in range(_TRIPLE))
        left, right = self._coarse(second / first), self._coarse(third / second)
        near = np.flatnonzero(self._filter[_slots(left, right, self._bits)])
        near = near[self._filter[_slots(right[near], left[near], self._bits)]]
        if not near.size:
            return False
        keys = (left[near].astype(np.uint64) << np.uint64(32)) | right[near]
        start, stop = np.searchsorted(self._keys, keys, "left"), np.searchsorted(self._keys, keys, "right")
        counts = stop - start
        if counts.sum() > _MOST_PAIRS:
            return True
        for begin in range(0, len(near), _BLOCK):
            some = slice(begin, begin + _BLOCK)
            if self._compared(values, near[some] * stride, start[some], counts[some]):
                return True
        return False

    def _compared(
        self, values: _Floats, at: npt.NDArray[np.intp], start: npt.NDArray[np.intp], counts: npt.NDArray[np.intp]
    ) -> bool:
        here = np.repeat(at, counts)
        offsets = np.arange(len(here)) - np.repeat(np.cumsum(counts) - counts, counts)
        there = self._places[np.repeat(start, counts) + offsets]
        for begin in range(0, len(here), _BLOCK):
            if self._is_run(values, here[begin : begin + _BLOCK], there[begin : begin + _BLOCK]):
                return True
        return False

    def _is_run(self, values: _Floats, here: npt.NDArray[np.intp], there: npt.NDArray[np.intp]) -> bool:
        """Whether around one of these pairs of places a run of values agrees, and tells enough."""
        run, tolerance = self._precision.run, self._precision.tolerance
        reach = np.arange(_TRIPLE - run, run)
        ours, theirs = here[:, None] + reach, there[:, None] + reach
        inside = (ours >= 0) & (ours < len(values)) & (theirs >= 0) & (theirs < len(self._values))
        ours, theirs = np.where(inside, ours, 0), np.where(inside, theirs, 0)
        inside &= self._rows[theirs] == self._rows[there][:, None]
        u, x = values[ours].astype(np.float64), self._values[theirs].astype(np.float64)
        factor = values[here].astype(np.float64) / self._values[there].astype(np.float64)
        agree = inside & (np.abs(u - factor[:, None] * x) <= tolerance * np.abs(u))
        windows = np.lib.stride_tricks.sliding_window_view(agree, run, axis=1).all(axis=2)
        if not windows.any():
            return False
        pair, place = np.nonzero(windows)
        magnitudes = np.sort(np.abs(x[pair[:, None], place[:, None] + np.arange(run)]), axis=1)
        return bool(((np.diff(magnitudes, axis=1) > 0).sum(axis=1) >= _TRIPLE - 1).any())

    def _coarse(self, ratios: _Floats) -> npt.NDArray[np.uint32]:
        shift = np.uint32(23 - self._precision.bits)
        return np.ascontiguousarray(ratios, np.float32).view(np.uint32) >> shift

    def _indexed(self) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.intp]]:
        """Coarse ratios of every three values of a row, sorted, and where they stand."""
        x, size = self._values.astype(np.float64), len(self._values) - _TRIPLE + 1
        if size < 1:
            return np.empty(0, np.uint64), np.empty(0, np.intp)
        one_row = self._rows[:size] == self._rows[_TRIPLE - 1 :]
        a, b, c = (np.abs(x[place : place + size]) for place in range(_TRIPLE))
        places = np.flatnonzero(one_row & ~((a == b) & (b == c)))
        first, second = x[places + 1] / x[places], x[places + 2] / x[places + 1]
        # What stands near the edge of a coarse ratio's cell may be found on the other side of it.
        low, high = 1 - 2 * self._precision.tolerance, 1 + 2 * self._precision.tolerance
        lefts, rights = ([self._coarse(ratio * factor) for factor in (low, high)] for ratio in (first, second))
        keys, where = [], []
        for one, other in ((0, 0), (0, 1), (1, 0), (1, 1)):
            new = (lefts[one] != lefts[0]) | (not one)
            new &= (rights[other] != rights[0]) | (not other)
            keys.append((lefts[one][new].astype(np.uint64) << np.uint64(32)) | rights[other][new])
            where.append(places[new])
        found, at = np.concatenate(keys), np.concatenate(where)
        order = np.argsort(found)
        return found[order], at[order]


class Identifiers:
    """Strings that name patients, ready to be looked for in texts and bytes.

    Those of fewer than four characters are not looked for, those of fewer than eight bytes not in numbers: they would
    be found in what is honest.
    """

    def __init__(self, texts: Iterable[str]) -> None:
        known = {text.strip() for text in texts}
        self._known = frozenset(text.casefold() for text in known if len(text) >= _SHORTEST_TEXT)
        self._lengths = sorted({len(text) for text in self._known})
        self._words: dict[int, list[tuple[int, bytes]]] = {}
        for data in (text.encode() for text in known):
            for offset in range(4 if len(data) >= _SHORTEST_BYTES else 0):
                word = int.from_bytes(data[offset : offset + 4], "little")
                self._words.setdefault(word, []).append((offset, data))
        self._slots = np.zeros(1 << 20, np.bool_)
        self._slots[_word_slots(np.fromiter(self._words, np.uint32, len(self._words)))] = True

    @property
    def count(self) -> int:
        """How many are looked for in texts."""
        return len(self._known)

    def in_text(self, text: str) -> bool:
        """Whether one stands in a text, alone or between signs that are no letters or digits."""
        folded = text.casefold()
        words = [(found.start(), found.end()) for found in re.finditer(r"\w+", folded)]
        starts, stops = [start for start, _ in words], {stop for _, stop in words}
        return any(
            start + length in stops and folded[start : start + length] in self._known
            for start in starts
            for length in self._lengths
        )

    def in_bytes(self, data: bytes | memoryview) -> bool:
        """Whether one of eight bytes or more stands anywhere in bytes."""
        if not self._words:
            return False
        view = memoryview(data).cast("B")
        words = np.frombuffer(view, _WORD, len(view) // 4)
        for place in np.flatnonzero(self._slots[_word_slots(words)]).tolist():
            for offset, known in self._words.get(int(words[place]), ()):
                start = 4 * place - offset
                if start >= 0 and view[start : start + len(known)] == known:
                    return True
        return False


class Watch:
    """Looks through one vector piece by piece; what spans two pieces is found."""

    def __init__(self, records: Records, identifiers: Identifiers) -> None:
        self._records, self._identifiers = records, identifiers
        self._held: _Floats | None = None
        self._tail = b""

    def is_clean(self, piece: _Floats) -> bool:
        """Whether neither a record nor an identifier stands in what was given so far."""
        reach = self._records.run - 1
        values = _nonzero(piece)
        seam = values[:reach] if self._held is None else np.concatenate([self._held, values[:reach]])
        if self._records.found(values) or self._records.found(seam):
            return False
        last = values if len(values) >= reach else seam
        self._held = last[max(0, len(last) - reach) :].copy()
        if not self._identifiers.count:
            return True
        data = self._tail + np.ascontiguousarray(piece).tobytes()
        self._tail = data[-256:] if len(data) % 4 == 0 else data[-256 - len(data) % 4 :]
        return not self._identifiers.in_bytes(data)


def _compressed(
    tables: Sequence[npt.NDArray[np.float32]],
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int32]]:
    """All values that are finite and not zero, row after row, and whose they are; of large tables a spread of rows."""
    total = sum(table.size for table in tables)
    step = max(1, -(-total // MOST_VALUES))
    values, rows, before = [], [], 0
    for table in tables:
        some = table[::step]
        keep = np.isfinite(some) & (some != 0)
        values.append(some[keep].astype(np.float32))
        rows.append(np.nonzero(keep)[0].astype(np.int32) + before)
        before += len(some)
    if not values:
        return np.empty(0, np.float32), np.empty(0, np.int32)
    return np.concatenate(values), np.concatenate(rows)


def _nonzero(vector: _Floats) -> _Floats:
    if vector.dtype.itemsize == 2:
        vector = vector.astype(np.float32)
    flat = vector.ravel()
    return flat if np.count_nonzero(flat) == flat.size else flat[flat != 0]


def _slots(left: npt.NDArray[np.uint32], right: npt.NDArray[np.uint32], bits: int) -> npt.NDArray[np.uint32]:
    mixed = left * _FIRST
    mixed += right * _SECOND
    mixed >>= np.uint32(32 - bits)
    return mixed


def _word_slots(words: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint32]:
    return (words * _ODD) >> np.uint32(12)
