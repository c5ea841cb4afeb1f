r"""Messages from files: one message, many, batch files (FHS, BHS … BTS, FTS), and captures with their MLLP frames.

A message begins where a line begins with ``MSH`` and ends before the next header or trailer. A batch says in its
trailer how many messages it had; where that is another number, or no trailer comes, the batch is not whole and counted.
What is no message is counted, never quoted.
"""

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from wardround.errors import ClinicalError, UnavailableError
from wardround.harmonization.events import SourceReport

__all__ = ["FILES", "TOO_LONG", "found", "messages"]

FILES: Final = 1_000_000
"""How many files a folder may have."""
TOO_LONG: Final = "message beyond the limit on bytes"

_CHUNK: Final = 1024 * 1024
_LONGEST: Final = 16 * 1024 * 1024
_NAMES: Final = (b"MSH", b"FHS", b"BHS", b"BTS", b"FTS")
_START: Final = re.compile(rb"(?:MSH|FHS|BHS|BTS|FTS)[^A-Za-z0-9\r\n]")
_ENDS: Final = frozenset(b"\r\n\x0b")
_BEHIND: Final = 8
_BLANK: Final = b"\r\n\x0b\x1c \t\x00\x1a"
_BOM: Final = b"\xef\xbb\xbf"
_WIDE: Final = (b"\xff\xfe", b"\xfe\xff")
_STRAY: Final = "bytes outside of messages"
_PART: Final = "batch of another number of messages than its trailer says"
_OPEN: Final = "batch without its trailer"


def found(path: Path) -> list[Path]:
    """The files to read: the one that is named, or those of a folder and its subfolders that end in ``.hl7``.

    Raises:
        ClinicalError: There are more than `FILES`.
        UnavailableError: There is no such file or folder.
    """
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise UnavailableError("the source's path is no file and no folder: is it mounted, is it spelled rightly?")
    files = []
    for one in path.rglob("*"):
        if one.suffix.lower() == ".hl7" and one.is_file():
            files.append(one)
        if len(files) > FILES:
            raise ClinicalError(f"the folder has more than {FILES} files: put several messages into one")
    return sorted(files, key=lambda one: one.relative_to(path).parts)


def messages(paths: list[Path], report: SourceReport, *, most_bytes: int = _LONGEST) -> Iterator[bytes]:
    """The messages of some files, in order; the files' digest becomes the report's snapshot at the end.

    Raises:
        ClinicalError: A file is in UTF-16.
        UnavailableError: A file cannot be read.
    """
    digest = hashlib.sha256()
    for path in paths:
        own = hashlib.sha256()
        batch = _Batch(report)
        for part in _parts(path, own, report, most_bytes):
            if batch.is_message(part):
                yield part
        batch.end()
        digest.update(own.digest())
    report.snapshot["files"] = str(len(paths))
    report.snapshot["sha256"] = digest.hexdigest()


class _Batch:
    """How many messages came since a batch began."""

    def __init__(self, report: SourceReport) -> None:
        self._report = report
        self._is_open = False
        self._count = 0

    def is_message(self, part: bytes) -> bool:
        name = part[:3]
        if name == b"MSH":
            self._count += 1
        elif name == b"BHS":
            self.end()
            self._is_open, self._count = True, 0
        elif name == b"BTS":
            stated = part[4:].partition(part[3:4])[0].strip()
            if stated.isdigit() and int(stated[:18]) != self._count:
                self._report.refuse(_PART)
            self._is_open = False
        return name == b"MSH"

    def end(self) -> None:
        self._report.refuse(_OPEN, int(self._is_open))
        self._is_open = False


def _parts(path: Path, digest: "hashlib._Hash", report: SourceReport, most_bytes: int) -> Iterator[bytes]:
    """The messages, headers and trailers of a file, each from its name on."""
    held, searched, is_skipping = b"", 0, False
    for chunk in _chunks(path, digest):
        held += chunk
        begin = 0
        for start in _starts(held, max(searched - _BEHIND, 0)):
            yield from () if is_skipping else _part(held[begin:start], report)
            begin, is_skipping = start, False
        held = held[begin:]
        if len(held) > most_bytes:
            report.refuse(TOO_LONG, int(not is_skipping))
            held, is_skipping = held[-_BEHIND:], True
        searched = len(held)
    if not is_skipping:
        yield from _part(held, report)


def _starts(held: bytes, first: int) -> list[int]:
    """Where messages, headers and trailers begin: with their names at the beginning of a line, but the first."""
    found = []
    for name in _NAMES:
        at = held.find(name, max(first, 1))
        while at >= 0:
            if held[at - 1] in _ENDS and _START.match(held, at):
                found.append(at)
            at = held.find(name, at + 1)
    return sorted(found)


def _part(held: bytes, report: SourceReport) -> Iterator[bytes]:
    part, _, stray = held.strip(_BLANK).partition(b"\x1c")
    if stray.strip(_BLANK) or (part and not _START.match(part)):
        report.refuse(_STRAY)
    if _START.match(part):
        yield part


def _chunks(path: Path, digest: "hashlib._Hash") -> Iterator[bytes]:
    try:
        with path.open("rb") as file:
            is_first = True
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
                if is_first and chunk.startswith(_WIDE):
                    raise ClinicalError("a file of messages is in UTF-16: have it written in UTF-8")
                yield chunk.removeprefix(_BOM) if is_first else chunk
                is_first = False
    except OSError as error:
        raise UnavailableError(f"a file of messages cannot be read ({type(error).__name__})") from None
