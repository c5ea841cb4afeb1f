"""A node's lineage: an append-only file of chained records, one canonical JSON document to a line.

`append` gives a record its place: it is written with the digest of the one before it, and is durable on return. A last
line that a crash cut off was never acknowledged, and the next append puts its own in its place. `verify` reads the
whole file again.

Not detected: records cut off at the end, unless their digest was kept elsewhere and is given to `verify`.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec

from wardround.codec import canonical
from wardround.errors import CodecError, DigestMismatchError
from wardround.harmonization import lineage
from wardround.harmonization.lineage import LineageRecord
from wardround.ids import Digest
from wardround.storage import fault

__all__ = ["LineageLog"]

_PIECE: Final = 64 * 1024


class LineageLog:
    """The lineage in the file `path`; threads and processes may share it."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def append(self, record: LineageRecord) -> Digest:
        """Add a record behind the last one, whatever its `previous` says; its digest.

        Raises:
            ClinicalError: The record cannot be written, see `wardround.harmonization.lineage.encode`.
            ConfigError: The file cannot be used.
            DigestMismatchError: The file's last record was altered.
            StorageFullError: The disk is full; nothing was added.
            UnavailableError: The disk did not answer.
        """
        with _translated(), self._opened() as file:
            last, end = _last_line(file)
            if last:
                _checked(last)
            data = lineage.encode(msgspec.structs.replace(record, previous=_digest(last)))
            # What a crash or a full disk leaves behind `end` has no newline at its own end, and is cut off here.
            os.ftruncate(file, end)
            _write(file, data + b"\n", end)
            os.fsync(file)
            self._sync()
            return canonical.digest(data)

    def records(self) -> list[LineageRecord]:
        """Every record, the oldest first.

        Raises:
            CodecError: A line is no record.
            ConfigError: The file cannot be used.
            UnavailableError: The disk did not answer.
        """
        return [lineage.decode(line) for line in self._lines()]

    def verify(self, *, last: Digest | None = None) -> Digest:
        """The digest of the last record, if the chain is whole and, where it is given, holds the record `last`.

        Raises:
            ConfigError: The file cannot be used.
            DigestMismatchError: A record was altered, removed, added or moved.
            UnavailableError: The disk did not answer.
        """
        is_there = last in {None, lineage.FIRST}

        def seen() -> Iterator[bytes]:
            nonlocal is_there
            for line in self._lines():
                is_there = is_there or canonical.digest(line) == last
                yield line

        found = lineage.check_chain(seen())
        if not is_there:
            raise DigestMismatchError("the lineage ends before the record that was its last: records were cut off")
        return found

    def _lines(self) -> Iterator[bytes]:
        with _translated():
            if not self._path.exists():
                return
            with self._path.open("rb") as file:
                while (line := file.readline(canonical.MAX_DOCUMENT_BYTES + 2)).endswith(b"\n"):
                    yield line[:-1]
                if len(line) > canonical.MAX_DOCUMENT_BYTES:
                    raise DigestMismatchError("a line of the lineage is longer than any record: it was altered")

    @contextmanager
    def _opened(self) -> Iterator[int]:
        file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            # The lock belongs to this descriptor, so that it also keeps threads apart.
            fcntl.flock(file, fcntl.LOCK_EX)
            yield file
        finally:
            os.close(file)

    def _sync(self) -> None:
        folder = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise fault.from_os(error) from None


def _checked(line: bytes) -> None:
    try:
        lineage.decode(line)
    except CodecError:
        raise DigestMismatchError("the last lineage record was altered: verify the file, and restore it") from None


def _digest(last: bytes) -> Digest:
    return canonical.digest(last) if last else lineage.FIRST


def _last_line(file: int) -> tuple[bytes, int]:
    """The last whole line without its newline, and where it ends."""
    start = os.fstat(file).st_size
    held = b""
    while start and held.count(b"\n") < 2:
        if len(held) > 2 * canonical.MAX_DOCUMENT_BYTES:
            raise DigestMismatchError("the end of the lineage is longer than any record: it was altered")
        step = min(_PIECE, start)
        start -= step
        held = os.pread(file, step, start) + held
    end = held.rfind(b"\n")
    if end < 0:
        return b"", 0
    return held[held.rfind(b"\n", 0, end) + 1 : end], start + end + 1


def _write(file: int, data: bytes, offset: int) -> None:
    while data:
        count = os.pwrite(file, data, offset)
        data, offset = data[count:], offset + count
