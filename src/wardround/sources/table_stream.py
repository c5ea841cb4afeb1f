"""The text of a CSV file as UTF-8, a block at a time: decompressed, decoded, counted and hashed on the way.

A file may be far larger than memory, and a small one may pretend to be (a gzip bomb): what comes out is bounded, both
in all and as a multiple of what went in. Bytes that are wrong in the file's declared encoding become U+FFFD, so that
the lines and cells stay where they are; whoever reads the cells refuses those that hold one.
"""

import codecs
import hashlib
import io
import zlib
from pathlib import Path
from typing import BinaryIO, Final

from wardround.errors import ClinicalError, ConfigError

__all__ = ["WRONG", "Utf8Stream", "checked_encoding", "file_digest"]

WRONG: Final = "\ufffd"
"""What stands where bytes were wrong."""

_BLOCK_BYTES: Final = 1024 * 1024
_MOST_RATIO: Final = 200
"""Tables of numbers shrink to a fifth, the dullest of logs to a fiftieth, a bomb to a thousandth."""
_FREE_BYTES: Final = 16 * 1024 * 1024


def checked_encoding(name: str) -> str:
    """The name of a text encoding, as Python knows it.

    Raises:
        ConfigError: There is no such encoding.
    """
    try:
        codecs.lookup(name)
        "".encode(name)
        codecs.getincrementaldecoder(name)
    except (LookupError, UnicodeError, TypeError):
        raise ConfigError(
            f"{name!r} is no encoding of texts: write utf-8, cp1252, latin-1, utf-16 or another"
        ) from None
    return name


def file_digest(path: Path) -> str:
    """SHA-256 of a file.

    Raises:
        OSError: It cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Utf8Stream(io.RawIOBase):
    """A file to be read once from its beginning to its end.

    Args:
        path: The file; one whose name ends in ".gz" is decompressed.
        encoding: What its bytes are.
        max_bytes: More text is refused.

    Raises:
        OSError: The file cannot be opened.
    """

    def __init__(self, path: Path, encoding: str, *, max_bytes: int) -> None:
        super().__init__()
        self._file: BinaryIO = path.open("rb")
        self._zip = zlib.decompressobj(wbits=31) if path.name.lower().endswith(".gz") else None
        self._decoder = codecs.getincrementaldecoder(encoding)(errors="replace")
        self._digest = hashlib.sha256()
        self._max_bytes = max_bytes
        self._taken = self._given = 0
        self._left = b""
        self._ended = False

    @property
    def digest(self) -> str:
        """SHA-256 of the file, once it was read to its end."""
        return self._digest.hexdigest()

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """Fill a buffer; 0 at the end.

        Raises:
            ClinicalError: There is more text than allowed, or it is no gzip file.
        """
        while not self._left and not self._ended:
            self._left = self._block()
        count = min(len(buffer), len(self._left))
        buffer[:count] = self._left[:count]
        self._left = self._left[count:]
        return count

    def close(self) -> None:
        """Close the file."""
        self._file.close()
        super().close()

    def _block(self) -> bytes:
        raw = self._more()
        self._given += len(raw)
        if self._given > self._max_bytes:
            raise ClinicalError(f"a file holds more than max_bytes, {self._max_bytes}: split it, or allow more")
        if self._zip is not None and self._given > _FREE_BYTES + _MOST_RATIO * self._taken:
            raise ClinicalError(f"a compressed file holds more than {_MOST_RATIO} times its size: it is no table")
        return self._decoder.decode(raw, final=self._ended).encode("utf-8", "replace")

    def _more(self) -> bytes:
        if self._zip is None:
            raw = self._read()
            self._ended = not raw
            return raw
        try:
            return self._unzipped(self._zip)
        except zlib.error:
            trouble = ClinicalError("a file whose name ends in .gz is not a whole gzip file")
        raise trouble

    def _unzipped(self, unzip: "zlib._Decompress") -> bytes:
        if unzip.eof:
            raw = unzip.unused_data or self._read()
            if not raw:
                self._ended = True
                return b""
            self._zip = unzip = zlib.decompressobj(wbits=31)
            return unzip.decompress(raw, _BLOCK_BYTES)
        raw = unzip.unconsumed_tail or self._read()
        if not raw:
            raise zlib.error("truncated")
        return unzip.decompress(raw, _BLOCK_BYTES)

    def _read(self) -> bytes:
        raw = self._file.read(_BLOCK_BYTES)
        self._taken += len(raw)
        self._digest.update(raw)
        return raw
