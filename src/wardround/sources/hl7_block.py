"""Many messages at once, as columns: their segments of one name, and of those one field, each an Arrow array.

    message    MSH|…  PID|…  OBR|…  OBX|…  OBX|…
    segments   0      1      2      3      4          places within the message
                                    ^ OBR before: 2   `last_before` gives each OBX its OBR, ORC and PID

Splitting thousands of messages in one pass takes a fraction of what one object for each component would. Messages are
canonical here (`wardround.sources.hl7_message.canonical`): UTF-8, the standard's delimiters, carriage returns.
"""

import re
from collections.abc import Sequence
from functools import cached_property
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

__all__ = ["PLACES", "Block", "Segments", "distinct", "either", "first_component", "taken"]

PLACES: Final = 2**16
"""A message may have fewer segments than this."""

_HEAD: Final = re.compile(r"[A-Z][A-Z0-9]{2}(?:\|)?")
_Places = npt.NDArray[np.int64]


class Block:
    """Messages, split into segments."""

    def __init__(self, messages: Sequence[bytes]) -> None:
        # Canonical messages are UTF-8 already: their bytes need no second look.
        lists = pc.split_pattern(pa.array(messages, pa.binary()).view(pa.string()), "\r")
        self._lines = lists.flatten()
        self._starts = lists.offsets.to_numpy().astype(np.int64)
        self._message = np.repeat(np.arange(len(messages)), np.diff(self._starts))
        heads = pc.binary_slice(self._lines.cast(pa.binary()), 0, 4).dictionary_encode()
        self._head = heads.indices.to_numpy()
        self._heads = [head.decode("utf-8", "replace") for head in heads.dictionary.to_pylist()]

    def malformed(self) -> npt.NDArray[np.bool_]:
        """Of each message, whether a segment of it has no name, or it has too many."""
        bad = np.array([bool(head) and _HEAD.fullmatch(head) is None for head in self._heads], np.bool_)
        found: npt.NDArray[np.bool_] = np.diff(self._starts) >= PLACES
        found[self._message[bad[self._head]]] = True
        return found

    def segments(self, name: str, most_fields: int) -> "Segments":
        """The segments of that name, of which the first `most_fields` fields can be asked for."""
        wanted = np.array([head in {name, f"{name}|"} for head in self._heads], np.bool_)
        at = np.flatnonzero(wanted[self._head])
        lines = self._lines.take(pa.array(at))
        message = self._message[at]
        return Segments(lines, at, message, at - self._starts[message], most_fields, is_header=name == "MSH")


class Segments:
    """The segments of one name of a block.

    Attributes:
        at: Their places among all segments of the block, ascending.
        message: The messages that they are of.
        place: Their places within these.
    """

    def __init__(
        self, lines: pa.Array, at: _Places, message: _Places, place: _Places, most_fields: int, *, is_header: bool
    ) -> None:
        self.at, self.message, self.place = at, message, place
        self._lines, self._most = lines, most_fields
        self._shift = -1 if is_header else 0

    def __len__(self) -> int:
        """How many there are."""
        return len(self.at)

    @cached_property
    def _split(self) -> tuple[pa.Array, _Places, _Places]:
        lists = pc.split_pattern(self._lines, "|", max_splits=self._most + 1 + self._shift)
        offsets = lists.offsets.to_numpy().astype(np.int64)
        return lists.flatten(), offsets[:-1], offsets[1:]

    def has(self, number: int) -> npt.NDArray[np.bool_]:
        """Of each segment, whether it goes so far as to this field."""
        _, starts, ends = self._split
        return starts + number + self._shift < ends

    def field(self, number: int) -> pa.Array:
        """The field of every segment, as it is written; an empty text where the segment ends before it."""
        if number > self._most:
            raise ValueError(f"field {number} was not split off")
        cells, starts, ends = self._split
        at = starts + number + self._shift
        return pc.fill_null(cells.take(pa.array(at, mask=at >= ends)), "")

    def where(self, mask: npt.NDArray[np.bool_]) -> "Segments":
        """Only those for which the mask is true."""
        kept = np.flatnonzero(mask)
        if len(kept) == len(mask):
            return self
        return Segments(
            self._lines.take(pa.array(kept)),
            self.at[kept],
            self.message[kept],
            self.place[kept],
            self._most,
            is_header=self._shift < 0,
        )

    def last_before(self, at: _Places, message: _Places) -> _Places:
        """For segments at these places of these messages, the last of ours before them in their message, or -1."""
        if not len(self.at):
            return np.full(len(at), -1)
        found = np.searchsorted(self.at, at) - 1
        fine = (found >= 0) & (self.message[np.maximum(found, 0)] == message)
        return np.where(fine, found, -1)


def first_component(cells: pa.Array) -> pa.Array:
    """Each text up to its first ``^``."""
    if not pc.any(pc.match_substring(cells, "^")).as_py():
        return cells
    return pc.list_element(pc.split_pattern(cells, "^", max_splits=1), 0)


def distinct(*columns: pa.Array) -> tuple[list[tuple[Any, ...]], npt.NDArray[np.int64]]:
    """The different rows of some columns, and for each row which of these it is.

    No text may hold a carriage return; no part of a segment does.
    """
    joined = columns[0] if len(columns) == 1 else pc.binary_join_element_wise(*columns, "\r")
    encoded = joined.dictionary_encode()
    indices = encoded.indices.to_numpy().astype(np.int64)
    first = np.full(len(encoded.dictionary), len(indices))
    np.minimum.at(first, indices, np.arange(len(indices)))
    rows = pa.array(first)
    return list(zip(*(column.take(rows).to_pylist() for column in columns), strict=True)), indices


def taken(cells: pa.Array, at: _Places) -> pa.Array:
    """The texts at these places; an empty one where the place is -1."""
    return pc.fill_null(cells.take(pa.array(at, mask=at < 0)), "")


def either(first: pa.Array, second: pa.Array) -> pa.Array:
    """The first text where it says anything, else the second."""
    return pc.if_else(pc.or_(pc.equal(first, ""), pc.equal(first, '""')), second, first)
