"""Reads WFDB records (PhysioNet's format): header, signals of the common formats, and annotations.

Formats 8-bit and wider without differences: 16, 24, 32, 61, 80, 160, 212. One sample per frame, no skew between
signals, one segment; whatever else a header asks for is refused by name. A signal file lies beside its header, under a
plain name: a header that names anything else is hostile or broken. What a header claims is checked against the files'
sizes before any memory is taken.

References:
    WFDB Applications Guide: header(5), signal(5), annot(5). https://physionet.org/physiotools/wag/
"""

import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from wardround.sources.document_folder import plain_bytes

__all__ = ["Annotation", "Header", "Signal", "annotations", "header", "samples"]

_HEADER_BYTES: Final = 256 * 1024
_ANNOTATION_BYTES: Final = 64 * 2**20
_MOST_SIGNALS: Final = 256
_MOST_SAMPLES: Final = 2**40
_WIDTHS: Final = {"16": 2, "24": 3, "32": 4, "61": 2, "80": 1, "160": 2}
_MISSING: Final = {
    "16": -(2**15),
    "24": -(2**23),
    "32": -(2**31),
    "61": -(2**15),
    "80": -(2**7),
    "160": -(2**15),
    "212": -2048,
}
_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_RECORD: Final = re.compile(
    r"(\S+)\s+(\d{1,4})(?:\s+(\d{1,7}(?:\.\d{1,9})?)(?:/\S+)?(?:\s+(\d{1,15})(?:\s+(\S+)(?:\s+(\S+))?)?)?)?\s*"
)
_FORMAT: Final = re.compile(r"(\d{1,3})(?:x(\d{1,6}))?(?::(\d{1,9}))?(?:\+(\d{1,15}))?")
_NUMBER: Final = r"[-+]?(?:\d{1,15}(?:\.\d{0,15})?|\.\d{1,15})(?:[eE][-+]?\d{1,3})?"
_GAIN: Final = re.compile(rf"({_NUMBER})(?:\(([-+]?\d{{1,12}})\))?(?:/(\S{{1,32}}))?")
_CLOCK: Final = re.compile(r"(\d{1,2}):(\d{1,2})(?::(\d{1,2})(?:\.(\d{1,9}))?)?")
_DAY: Final = re.compile(r"(\d{1,2})/(\d{1,2})/(\d{4})")
_SYMBOLS: Final = dict(enumerate('NLRaVFJASEj/Q~ | sT*D"=pB^t+u?![]en@xf()r', 1))
_FIRST_OTHER: Final = 50
_SKIP: Final = 59
_TEXT: Final = 63
_RESOLUTION: Final = "## time resolution:"


@dataclass(frozen=True, slots=True, kw_only=True)
class Signal:
    """One signal of a record; `place` and `width` say which of the signals of its file it is."""

    file: str
    format: str
    offset: int
    place: int
    width: int
    gain: float
    baseline: int
    unit: str
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """A record: its signals, rate and length in samples; when it began, as ``YYYY-MM-DDTHH:MM:SS.s``, or ''."""

    signals: tuple[Signal, ...]
    rate: float
    length: int
    began: str
    comments: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Annotation:
    """A label at a sample; `text` is what it says besides (a rhythm, a comment)."""

    sample: int
    symbol: str
    text: str


def header(path: Path) -> Header | str:
    """The header of a record, checked against its signal files; a reason where it is refused."""
    content = plain_bytes(path, _HEADER_BYTES)
    if isinstance(content, str):
        return content
    lines = [line.strip() for line in content.decode("utf-8", "replace").splitlines()]
    comments = tuple(line.lstrip("# ").strip() for line in lines if line.startswith("#"))
    stated = [line for line in lines if line and not line.startswith("#")]
    first = _RECORD.fullmatch(stated[0]) if stated else None
    if first is None:
        return "malformed header"
    name, count, rate, length, clock, day = first.groups()
    if "/" in name:
        return "record of several segments"
    if not 0 < int(count) <= min(_MOST_SIGNALS, len(stated) - 1) or not float(rate or 250) > 0:
        return "malformed header"
    signals = _signals(stated[1 : int(count) + 1])
    if isinstance(signals, str):
        return signals
    held = _held(path.parent, signals)
    if isinstance(held, str):
        return held
    if int(length or 0) > held:
        return "signal file shorter than its header says"
    began = _began(clock, day)
    return Header(
        signals=signals, rate=float(rate or 250), length=int(length or 0) or held, began=began, comments=comments
    )


def samples(folder: Path, signals: tuple[Signal, ...], start: int, count: int) -> npt.NDArray[np.float32]:
    """Samples of some of a record's signals in physical units, float32 ``(count, signals)``; NaN where there is none.

    Raises:
        OSError: A file cannot be read, or has become shorter.
    """
    made = np.empty((count, len(signals)), dtype=np.float32)
    raw: dict[tuple[str, int], npt.NDArray[np.int32]] = {}
    for column, one in enumerate(signals):
        key = (one.file, one.offset)
        if key not in raw:
            raw[key] = _decoded(folder / one.file, one, start, count)
        digits = raw[key][:, one.place]
        values = (digits.astype(np.float64) - one.baseline) / one.gain
        values[digits == _MISSING[one.format]] = np.nan
        made[:, column] = values
    return made


def annotations(path: Path, length: int, rate: float) -> Iterator[Annotation | str]:
    """The annotations of a file in MIT format, in order; last a reason, where the file is refused from there on.

    Args:
        path: The annotation file.
        length: Of its record, in samples.
        rate: Of its record; a file that counts time otherwise is refused.
    """
    content = plain_bytes(path, _ANNOTATION_BYTES)
    if isinstance(content, str):
        yield content
        return
    sample, pending = 0, None
    for kind, step, text in _words(content):
        if kind == _TEXT:
            if text.startswith(_RESOLUTION):
                if text.removeprefix(_RESOLUTION).strip() not in {f"{rate:g}", str(rate)}:
                    yield "annotations in another time resolution"
                    return
                pending = None
            pending = Annotation(pending.sample, pending.symbol, text) if pending else None
            continue
        sample += step
        if kind < _FIRST_OTHER:
            if pending is not None:
                yield pending
            if not 0 <= sample < length:
                yield "annotation outside its record"
                return
            # Kind 0 is no annotation: it only moves on.
            pending = Annotation(sample, _SYMBOLS.get(kind, " ").strip() or f"[{kind}]", "") if kind else None
    if pending is not None:
        yield pending


def _words(content: bytes) -> Iterator[tuple[int, int, str]]:
    """The kind of each word, by how many samples it moves on, and its text."""
    at = 0
    while at + 2 <= len(content):
        word = int.from_bytes(content[at : at + 2], "little")
        at += 2
        kind, step = word >> 10, word & 0x3FF
        if word == 0:
            return
        if kind == _SKIP:
            # A long interval of two words, the upper first.
            upper = int.from_bytes(content[at : at + 2], "little", signed=True)
            step = upper * 65536 + int.from_bytes(content[at + 2 : at + 4], "little")
            yield kind, step, ""
            at += 4
        elif kind == _TEXT:
            # Filled up to an even number of bytes.
            yield kind, 0, content[at : at + step].split(b"\0")[0].decode("utf-8", "replace").strip()
            at += step + step % 2
        else:
            yield kind, step if kind < _FIRST_OTHER else 0, ""


def _signals(lines: list[str]) -> tuple[Signal, ...] | str:
    described: list[tuple[str, re.Match[str], re.Match[str], list[str]]] = []
    for line in lines:
        parts = line.split(maxsplit=8)
        form = _FORMAT.fullmatch(parts[1]) if len(parts) > 1 else None
        gain = _GAIN.fullmatch(parts[2]) if len(parts) > 2 else None
        if form is None or not _NAME.fullmatch(parts[0]) or ".." in parts[0]:
            return "malformed header" if form is None else "header that names a file elsewhere"
        if form.group(1) not in _MISSING or form.group(2) not in {None, "1"} or form.group(3) not in {None, "0"}:
            return "signal format that is not read"
        if gain is None or not float(gain.group(1)):
            return "signal without calibration"
        described.append((parts[0], form, gain, parts))
    made = []
    for place, (file, form, gain, parts) in enumerate(described):
        beside = [number for number, one in enumerate(described) if one[0] == file]
        if beside != list(range(beside[0], beside[0] + len(beside))) or described[beside[0]][1][0] != form[0]:
            return "malformed header"
        zero = parts[4] if len(parts) > 4 and re.fullmatch(r"[-+]?\d{1,12}", parts[4]) else "0"
        made.append(
            Signal(
                file=file,
                format=form.group(1),
                offset=int(form.group(4) or 0),
                place=place - beside[0],
                width=len(beside),
                gain=float(gain.group(1)),
                baseline=int(gain.group(2) or zero),
                unit=gain.group(3) or "mV",
                name=parts[8].strip() if len(parts) > 8 else f"signal {place}",
            )
        )
    return tuple(made)


def _held(folder: Path, signals: tuple[Signal, ...]) -> int | str:
    """How many samples of each signal the files hold."""
    least = _MOST_SAMPLES
    for one in signals:
        try:
            found = os.lstat(folder / one.file)
        except OSError:
            return "signal file not there"
        if not stat.S_ISREG(found.st_mode):
            return "header that names a file elsewhere"
        size = max(0, found.st_size - one.offset)
        values = size * 2 // 3 if one.format == "212" else size // _WIDTHS[one.format]
        least = min(least, values // one.width)
    return least or "signal file shorter than its header says"


def _decoded(path: Path, one: Signal, start: int, count: int) -> npt.NDArray[np.int32]:
    first, values = start * one.width, count * one.width
    if one.format == "212":
        pair = first // 2
        need = (first + values + 1) // 2 - pair
        packed = _bytes(path, one.offset + 3 * pair, 3 * need, short=1)
        return _unpacked(packed)[first - 2 * pair :][:values].reshape(count, one.width)
    width = _WIDTHS[one.format]
    packed = _bytes(path, one.offset + width * first, width * values)
    if one.format == "24":
        wide = packed.reshape(-1, 3).astype(np.int32)
        digits = wide[:, 0] | wide[:, 1] << 8 | wide[:, 2] << 16
        digits = np.where(digits >= 2**23, digits - 2**24, digits)
    else:
        kind = {"16": "<i2", "32": "<i4", "61": ">i2", "80": "u1", "160": "<u2"}[one.format]
        digits = packed.view(kind).astype(np.int32) - {"80": 2**7, "160": 2**15}.get(one.format, 0)
    return digits.reshape(count, one.width)


def _unpacked(packed: npt.NDArray[np.uint8]) -> npt.NDArray[np.int32]:
    # Format 212: two samples of 12 bits in three bytes; the middle byte holds the upper bits of both.
    triples = packed.reshape(-1, 3).astype(np.int32)
    both = np.empty((len(triples), 2), dtype=np.int32)
    both[:, 0] = triples[:, 0] | (triples[:, 1] & 0x0F) << 8
    both[:, 1] = triples[:, 2] | (triples[:, 1] & 0xF0) << 4
    return np.where(both >= 2048, both - 4096, both).reshape(-1)


def _bytes(path: Path, at: int, count: int, *, short: int = 0) -> npt.NDArray[np.uint8]:
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    with os.fdopen(handle, "rb") as file:
        file.seek(at)
        content = file.read(count)
    # The last of an odd number of samples in format 212 takes two bytes of its three.
    if len(content) < count - short:
        raise OSError("the file is shorter than it was")
    return np.frombuffer(content.ljust(count, b"\0"), dtype=np.uint8)


def _began(clock: str | None, day: str | None) -> str:
    hour, date = _CLOCK.fullmatch(clock or ""), _DAY.fullmatch(day or "")
    if hour is None or date is None:
        return ""
    time = f"{int(hour[1]):02}:{int(hour[2]):02}:{int(hour[3] or 0):02}"
    return f"{date[3]}-{int(date[2]):02}-{int(date[1]):02}T{time}" + (f".{hour[4]}" if hour[4] else "")
