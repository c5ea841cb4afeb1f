"""Resources from newline-delimited JSON, in batches: plain or gzip, bounded, and with bad lines told by number.

A line is one resource (FHIR Bulk Data). Blank lines are passed over. A line that is no JSON object, or longer
than the limit, is malformed: its number is kept, its content never. What is longer than the limit is not even
held. Decompression stops at `Limits.total_bytes`, so a small file cannot become a large one in memory.

A resource whose touched part has not the shape that R4 gives it is a *misfit*: what does not fit is left out
(`wardround.sources.fhir_touched.conform`), and the resource is counted.

Hazard: JSON with one name twice in an object has no defined meaning (RFC 8259, section 4). Python keeps the last of
the two values, DuckDB the first; no FHIR server writes such a thing.
"""

import gzip
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from typing import IO, Any, Final

import msgspec

from wardround.errors import ClinicalError
from wardround.sources import fhir_touched
from wardround.sources.fhir_plan import Plan

__all__ = ["Batch", "Limits", "LineDecoder", "Report", "batches"]

_CHUNK: Final = 1024 * 1024
_GZIP: Final = b"\x1f\x8b"
_BOM: Final = b"\xef\xbb\xbf"
_NUMBERS_KEPT: Final = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much is read: bytes of one line, bytes in all after decompression, and lines and bytes of a batch."""

    line_bytes: int = 16 * 1024 * 1024
    total_bytes: int = 64 * 1024 * 1024 * 1024
    batch_lines: int = 16_384
    batch_bytes: int = 32 * 1024 * 1024


@dataclass(slots=True)
class Report:
    """What became of the lines; it holds counts and line numbers, and nothing of a record.

    `malformed_lines` has the first hundred numbers. `batches_in_python` counts the batches that DuckDB could not
    finish.
    """

    resources: int = 0
    other_types: int = 0
    misfits: int = 0
    malformed: int = 0
    malformed_lines: list[int] = field(default_factory=list)
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


def batches(stream: IO[bytes], report: Report, *, limits: Limits | None = None) -> Iterator[Batch]:
    """The lines of a stream, gzip or plain.

    Raises:
        ClinicalError: The stream goes beyond the limit on bytes, or its compression is damaged.
    """
    bounds = limits or Limits()
    lines: list[bytes] = []
    numbers: list[int] = []
    size = 0
    for first, block in _blocks(_chunks(stream, bounds), bounds, report):
        for start in range(0, len(block), bounds.batch_lines):
            part = block[start : start + bounds.batch_lines]
            lines += [line for line in part if line and not line.isspace()]
            numbers += [first + start + place for place, line in enumerate(part) if line and not line.isspace()]
            size += sum(map(len, part))
            if len(lines) >= bounds.batch_lines or size >= bounds.batch_bytes:
                yield Batch(lines, numbers)
                lines, numbers, size = [], [], 0
    if lines:
        yield Batch(lines, numbers)


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


class LineDecoder:
    """Lines to what a plan touches of the resources of its type."""

    def __init__(self, plan: Plan, report: Report) -> None:
        self._resource = plan.resource
        self._touched = plan.touched
        self._report = report
        self._typed: msgspec.json.Decoder[Any] = msgspec.json.Decoder(
            fhir_touched.decoded_type(plan.touched), float_hook=Decimal
        )
        self._loose: msgspec.json.Decoder[Any] = msgspec.json.Decoder(float_hook=Decimal)
        self._encoder = msgspec.json.Encoder(decimal_format="number")
        self._unchecked = fhir_touched.needs_conforming(plan.touched)

    def texts(self, batch: Batch) -> list[bytes]:
        """The JSON of the batch's resources: as it came, or of a misfit what fits."""
        decode, wanted, simple = self._typed.decode, self._resource, not self._unchecked
        found = []
        known = 0
        for line, number in zip(batch.lines, batch.numbers, strict=True):
            try:
                if simple and decode(line).get("resourceType") == wanted:
                    found.append(line)
                    known += 1
                    continue
            except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
                pass  # What is wrong with it is told below.
            resource, fits = self._read(line, number)
            if resource is not None:
                found.append(line if fits else self._encoder.encode(resource))
        self._report.resources += known
        return found

    def resources(self, batch: Batch) -> list[dict[str, Any]]:
        """The touched parts of the batch's resources."""
        read = (self._read(*pair)[0] for pair in zip(batch.lines, batch.numbers, strict=True))
        return [resource for resource in read if resource is not None]

    def parsed(self, text: bytes) -> dict[str, Any]:
        """The touched part of a text that `texts` gave."""
        resource: dict[str, Any] = self._typed.decode(text)
        return fhir_touched.conform(resource, self._touched)[0] if self._unchecked else resource

    def _read(self, line: bytes, number: int) -> tuple[dict[str, Any] | None, bool]:
        fits = True
        try:
            resource = self._typed.decode(line)
        except msgspec.ValidationError:
            fits = False
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
            self._report.note_malformed(number)
            return None, False
        if not fits:
            resource = self._parsed_loosely(line, number)
            if resource is None:
                return None, False
        if resource.get("resourceType") != self._resource:
            self._report.other_types += 1
            return None, False
        if not fits or self._unchecked:
            resource, dropped = fhir_touched.conform(resource, self._touched)
            fits = not dropped
        self._report.resources += 1
        self._report.misfits += not fits
        return resource, fits

    def _parsed_loosely(self, line: bytes, number: int) -> dict[str, Any] | None:
        try:
            resource = self._loose.decode(line)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
            resource = None
        if isinstance(resource, dict):
            return resource
        self._report.note_malformed(number)
        return None
