"""Lines of newline-delimited JSON, in batches: plain or gzip, bounded, and with bad lines told by number.

A line is one resource (FHIR Bulk Data). Blank lines are passed over. A line that is longer than the limit is
malformed, and is not even held. Decompression stops at `Limits.total_bytes`, so a small file cannot become a large one
in memory. What a line holds is for `wardround.sources.fhir_decode`.
"""

import gzip
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain
from typing import IO, Final

import msgspec

from wardround.errors import ClinicalError

__all__ = ["Batch", "Limits", "Report", "batches"]

_CHUNK: Final = 1024 * 1024
_GZIP: Final = b"\x1f\x8b"
_BOM: Final = b"\xef\xbb\xbf"
_NUMBERS_KEPT: Final = 100
_FIRST: Final = 1024 * 1024
_SHORT: Final = 8
"""A line that is not longer may be blank; a longer one that is, has nothing to be looked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much is read: bytes of one line, bytes in all after decompression, and lines and bytes of a batch.

    `rows` bounds what one resource may become in a view; one that would become more is left out, and counted.
    """

    line_bytes: int = 16 * 1024 * 1024
    total_bytes: int = 64 * 1024 * 1024 * 1024
    batch_lines: int = 16_384
    batch_bytes: int = 32 * 1024 * 1024
    rows: int = 65_536


@dataclass(slots=True)
class Report:
    """What became of the lines; it holds counts and line numbers, and nothing of a record.

    `malformed_lines` has the first hundred numbers. `misfits` are resources of which a touched part had not the shape
    that R4 gives it, and was left out; `exploding` ones were left out whole. `batches_in_python` counts the batches
    that DuckDB could not finish.
    """

    resources: int = 0
    other_types: int = 0
    misfits: int = 0
    malformed: int = 0
    malformed_lines: list[int] = field(default_factory=list)
    exploding: int = 0
    batches_in_python: int = 0

    def note_malformed(self, number: int) -> None:
        """Count a malformed line."""
        self.malformed += 1
        if len(self.malformed_lines) < _NUMBERS_KEPT:
            self.malformed_lines.append(number)


@dataclass(frozen=True, slots=True)
class Batch:
    """Some lines, and their numbers in the file, from 1."""

    lines: list[bytes]
    numbers: list[int]


def batches(
    stream: IO[bytes], report: Report, *, limits: Limits | None = None, documents: bool = False
) -> Iterator[Batch]:
    """The lines of a stream, gzip or plain.

    Args:
        stream: What is read, once and forwards.
        report: Where malformed lines are counted.
        limits: How much is read.
        documents: A stream whose first line is only the beginning of an object, and which as a whole is JSON, is taken
            as one line, if it is not longer than a line may be.

    Raises:
        ClinicalError: The stream goes beyond the limit on bytes, or its compression is damaged.
    """
    bounds = limits or Limits()
    chunks = _chunks(stream, bounds)
    if documents:
        head = _first_line(chunks)
        if _is_opening(head):
            head, chunks = _whole(head, chunks, bounds), iter(())
            if _is_json(head):
                yield Batch([head], [1])
                return
        chunks = chain([head], chunks)
    lines: list[bytes] = []
    numbers: list[int] = []
    size = 0
    for first, block in _blocks(chunks, bounds, report):
        for start in range(0, len(block), bounds.batch_lines):
            part = block[start : start + bounds.batch_lines]
            places = range(first + start, first + start + len(part))
            if min(map(len, part)) > _SHORT:
                lines += part
                numbers += places
            else:
                lines += [line for line in part if line and not line.isspace()]
                numbers += [place for place, line in zip(places, part, strict=True) if line and not line.isspace()]
            size += sum(map(len, part))
            if len(lines) >= bounds.batch_lines or size >= bounds.batch_bytes:
                yield Batch(lines, numbers)
                lines, numbers, size = [], [], 0
    if lines:
        yield Batch(lines, numbers)


def _first_line(chunks: Iterator[bytes]) -> bytes:
    held = b""
    for chunk in chunks:
        held += chunk
        if len(held) >= _FIRST or b"\n" in held.removeprefix(_BOM).lstrip():
            break
    return held


def _is_opening(chunk: bytes) -> bool:
    first, end, _ = chunk.removeprefix(_BOM).lstrip().partition(b"\n")
    return bool(end) and first.startswith(b"{") and first.rstrip()[-1:] in {b"{", b"[", b",", b":"}


def _whole(first: bytes, chunks: Iterator[bytes], limits: Limits) -> bytes:
    held = bytearray(first.removeprefix(_BOM))
    for chunk in chunks:
        held += chunk
        if len(held) > limits.line_bytes:
            raise ClinicalError(f"a JSON document of more than {limits.line_bytes} bytes: write a line a resource")
    return bytes(held)


def _is_json(text: bytes) -> bool:
    try:
        msgspec.json.decode(text, type=msgspec.Raw)
    except (msgspec.DecodeError, RecursionError):
        return False
    return True


def _chunks(stream: IO[bytes], limits: Limits) -> Iterator[bytes]:
    head = stream.read(2)
    source: IO[bytes] | gzip.GzipFile = _Rejoined(head, stream)  # type: ignore[assignment]  # it reads, and no more
    if head == _GZIP:
        source = gzip.GzipFile(fileobj=source, mode="rb")
    total = 0
    while True:
        try:
            chunk = source.read(_CHUNK)
        except (EOFError, zlib.error, gzip.BadGzipFile):
            chunk = None
        if chunk is None:
            raise ClinicalError("the compressed file is damaged or cut short")
        if not chunk:
            return
        total += len(chunk)
        if total > limits.total_bytes:
            raise ClinicalError(f"the file holds more than {limits.total_bytes} bytes after decompression")
        yield chunk


class _Rejoined:
    """A stream whose first bytes have been looked at."""

    def __init__(self, head: bytes, stream: IO[bytes]) -> None:
        self._head = head
        self._stream = stream

    def read(self, size: int = -1) -> bytes:
        if not self._head:
            return self._stream.read(size)
        head, self._head = self._head[:size] if size >= 0 else self._head, b"" if size < 0 else self._head[size:]
        return head


def _blocks(chunks: Iterator[bytes], limits: Limits, report: Report) -> Iterator[tuple[int, list[bytes]]]:
    """Whole lines, and the number of the first; a line beyond the limit is empty here, and noted as malformed."""
    first, rest, skipping = 1, b"", False
    for chunk in chunks:
        held = rest + chunk
        if first == 1:
            held = held.removeprefix(_BOM)
        *block, rest = held.split(b"\n")
        if skipping and block:
            report.note_malformed(first)
            block[0], skipping = b"", False
        if len(held) > limits.line_bytes:
            for place, line in enumerate(block):
                if len(line) > limits.line_bytes:
                    report.note_malformed(first + place)
                    block[place] = b""
            if len(rest) > limits.line_bytes or skipping:
                rest, skipping = b"", True
        elif skipping:
            rest = b""
        yield first, block
        first += len(block)
    if skipping:
        report.note_malformed(first)
    else:
        yield first, [rest]
