"""The intake: what other systems sent us and we acknowledged, sealed on this machine until a study reads it.

    FOLDER/lock                    the one writer's lock (flock), which dies with its owner
    FOLDER/0000000000000001.seg    a segment; the next one has the next number
    FOLDER/0000000000000001.torn   what was cut off a segment that a killed writer left

    segment = magic (8) || number (u64) || salt (32) || check (16) || record … || closing
    record  = length (u32) || AES-256-GCM(key, nonce = number || counter, message, aad = opening || counter || length)
    closing = 0 (u32) || the same with the counter 2**32 - 1, of the count of records (u32)

A segment's key is HKDF-SHA256 of the intake's key and the segment's random salt. A start of the writer begins a new
segment, so no pair of key and nonce is used twice, not even after a restored backup. `check` seals nothing, under
counter 2**32 - 2, and tells another key from damage. A record opens only in its segment and at its place.

Invariants:
    1. `append` returns only once its message is on the disk; several threads' appends share one fsync.
    2. A segment is closed durably before the next one begins, so only the last may lack its closing. What a killed
       writer left after the last whole record was acknowledged to nobody; the next writer cuts it off.
    3. A record that does not open in the middle, a segment cut short or a missing one is counted in `damaged`.

Hazard: nobody notices that whole segments were removed at the beginning or at the end. The key is in this process.
"""

import errno
import fcntl
import os
import struct
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from wardround.crypto.seal import KEY_BYTES
from wardround.errors import ConfigError, ConflictError, CryptoError, StorageFullError, UnavailableError, WardroundError

__all__ = ["MESSAGE_BYTES", "SEGMENT_BYTES", "Intake"]

MESSAGE_BYTES: Final = 16 * 1024 * 1024
"""The longest message that is taken in."""
SEGMENT_BYTES: Final = 64 * 1024 * 1024
"""A segment that has grown beyond this is closed, and the next one begun."""

_MAGIC: Final = b"WRINTK\x00\x01"
_SALT_BYTES: Final = 32
_TAG_BYTES: Final = 16
_NUMBER: Final = struct.Struct(">Q")
_COUNT: Final = struct.Struct(">I")
_OPENING_BYTES: Final = len(_MAGIC) + _NUMBER.size + _SALT_BYTES
_HEAD_BYTES: Final = _OPENING_BYTES + _TAG_BYTES
_CLOSING: Final = 2**32 - 1
_CHECK: Final = 2**32 - 2
_CLOSING_BYTES: Final = _COUNT.size + _COUNT.size + _TAG_BYTES
_LARGEST_SEGMENT: Final = 2**34
_SUFFIX: Final = ".seg"


class Intake:
    """Messages in a folder, in order of arrival; one process may append while others read.

    `damaged` is what the last reading could not open: records, and segments that are cut short or missing.

    Raises:
        CryptoError: The key has not 32 bytes.
        ValueError: A limit is not positive, or beyond what the format holds.
    """

    def __init__(
        self, folder: Path, key: bytes, *, segment_bytes: int = SEGMENT_BYTES, message_bytes: int = MESSAGE_BYTES
    ) -> None:
        if len(key) != KEY_BYTES:
            raise CryptoError(f"an intake's key has {KEY_BYTES} bytes, this has {len(key)}")
        # Neither counter of a segment can overflow, and no reader has to hold more than one longest message.
        if not (0 < segment_bytes <= _LARGEST_SEGMENT and 0 < message_bytes <= MESSAGE_BYTES):
            raise ValueError(f"a segment has up to {_LARGEST_SEGMENT} bytes, a message up to {MESSAGE_BYTES}")
        self._folder, self._key = folder, key
        self._segment_bytes, self._message_bytes = segment_bytes, message_bytes
        self._condition = threading.Condition()
        self._waiting: list[bytes] = []
        self._submitted = self._settled = 0
        self._failed: dict[int, WardroundError] = {}
        self._is_writing = False
        self._lock: int | None = None
        self._writer: _Writer | None = None
        self.damaged = 0

    def append(self, message: bytes) -> None:
        """Take in a message; it survives a power failure once this returns. Threads may append together.

        Raises:
            ConflictError: Another process writes to this intake.
            StorageFullError: The disk is full: send the message again.
            UnavailableError: The disk did not answer; the message may or may not be kept.
            ValueError: The message is empty, or too long.
        """
        if not 0 < len(message) <= self._message_bytes:
            raise ValueError(f"a message has 1 to {self._message_bytes} bytes, this has {len(message)}")
        with self._condition:
            self._submitted += 1
            ticket = self._submitted
            self._waiting.append(message)
            while self._settled < ticket:
                if self._is_writing:
                    self._condition.wait()
                else:
                    self._settle()
            if failure := self._failed.pop(ticket, None):
                raise failure

    def messages(self) -> Iterator[bytes]:
        """Every message taken in so far, in order of arrival.

        Raises:
            CryptoError: A segment is of another version, sealed under another key, or its beginning was altered.
            UnavailableError: The disk did not answer.
        """
        self.damaged = 0
        paths = self._segments()
        expected = _number(paths[0]) if paths else 0
        for place, path in enumerate(paths):
            self.damaged += _number(path) - expected
            expected = _number(path) + 1
            reading = _Reading(path, self._key, is_last=place == len(paths) - 1)
            yield from reading.messages()
            self.damaged += reading.damaged

    def close(self) -> None:
        """Close the segment being written, and let another process write.

        Raises:
            UnavailableError: The disk did not answer.
        """
        with self._condition:
            while self._is_writing:
                self._condition.wait()
            try:
                if self._writer is not None:
                    self._writer.close()
            except OSError as error:
                raise _trouble(error) from None
            finally:
                self._writer = None
                if self._lock is not None:
                    os.close(self._lock)
                self._lock = None

    def _settle(self) -> None:
        """Write all that waits, with one fsync; called with the condition held, which is let go meanwhile."""
        batch, self._waiting = self._waiting, []
        first, last = self._submitted - len(batch) + 1, self._submitted
        self._is_writing = True
        self._condition.release()
        failure: WardroundError | None = UnavailableError("the intake's writer was interrupted: send the message again")
        try:
            self._write(batch)
            failure = None
        except WardroundError as error:
            failure = error
        except OSError as error:
            failure = _trouble(error)
        finally:
            self._condition.acquire()
            self._is_writing = False
            self._settled = last
            if failure is not None:
                self._failed.update(dict.fromkeys(range(first, last + 1), failure))
            self._condition.notify_all()

    def _write(self, batch: list[bytes]) -> None:
        writer = self._writer = self._writer or self._begin()
        try:
            writer.write(batch)
        except OSError:
            # Nobody knows what the disk has after a failed write: the next append cuts it and begins a new segment.
            self._writer = None
            os.close(writer.descriptor)
            raise
        if writer.size >= self._segment_bytes:
            self._writer = None
            writer.close()

    def _begin(self) -> "_Writer":
        if not self._folder.is_dir():
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            _sync_folder(self._folder.parent)
        if self._lock is None:
            descriptor = os.open(self._folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(descriptor)
                raise ConflictError("another process writes to this intake: stop it first") from None
            self._lock = descriptor
        paths = self._segments()
        number = _number(paths[-1]) + _recover(paths[-1], self._key) if paths else 1
        return _Writer(self._folder / f"{number:016d}{_SUFFIX}", number, self._key)

    def _segments(self) -> list[Path]:
        names = self._folder.iterdir() if self._folder.is_dir() else ()
        return sorted(path for path in names if path.suffix == _SUFFIX and path.stem.isdecimal())


@dataclass(frozen=True, slots=True, repr=False)
class _Cipher:
    """Seals and opens what is in one segment, each thing at its place."""

    opening: bytes
    number: int
    aead: AESGCM

    def seal(self, counter: int, message: bytes) -> bytes:
        return self.aead.encrypt(self._nonce(counter), message, self._place(counter, len(message)))

    def open(self, counter: int, sealed: bytes) -> bytes | None:
        try:
            return self.aead.decrypt(self._nonce(counter), sealed, self._place(counter, len(sealed) - _TAG_BYTES))
        except InvalidTag:
            return None

    def closing(self, count: int) -> bytes:
        return _COUNT.pack(0) + self.seal(_CLOSING, _COUNT.pack(count))

    def _nonce(self, counter: int) -> bytes:
        return _NUMBER.pack(self.number) + _COUNT.pack(counter)

    def _place(self, counter: int, length: int) -> bytes:
        return self.opening + _COUNT.pack(counter) + _COUNT.pack(length)


def _cipher(opening: bytes, key: bytes) -> _Cipher:
    (number,) = _NUMBER.unpack_from(opening, len(_MAGIC))
    salt = opening[-_SALT_BYTES:]
    derived = HKDF(hashes.SHA256(), KEY_BYTES, salt=salt, info=b"wardround intake segment").derive(key)
    return _Cipher(opening, number, AESGCM(derived))


class _Writer:
    """A segment being written, by one thread at a time."""

    def __init__(self, path: Path, number: int, key: bytes) -> None:
        opening = _MAGIC + _NUMBER.pack(number) + os.urandom(_SALT_BYTES)
        self._cipher = _cipher(opening, key)
        self._count = 0
        self.descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            self.size = _write_all(self.descriptor, opening + self._cipher.seal(_CHECK, b""))
            os.fsync(self.descriptor)
            _sync_folder(path.parent)
        except OSError:
            os.close(self.descriptor)
            raise

    def write(self, batch: list[bytes]) -> None:
        pieces = []
        for message in batch:
            pieces += [_COUNT.pack(len(message) + _TAG_BYTES), self._cipher.seal(self._count, message)]
            self._count += 1
        self.size += _write_all(self.descriptor, b"".join(pieces))
        os.fdatasync(self.descriptor)

    def close(self) -> None:
        try:
            _write_all(self.descriptor, self._cipher.closing(self._count))
            os.fsync(self.descriptor)
        finally:
            os.close(self.descriptor)


class _Reading:
    """One segment, read from its beginning; `end` and `count` are of the whole records before a torn tail."""

    def __init__(self, path: Path, key: bytes, *, is_last: bool) -> None:
        self._path, self._key, self._is_last = path, key, is_last
        self.damaged = self.count = 0
        self.end = _HEAD_BYTES
        self.is_closed = False

    def messages(self) -> Iterator[bytes]:
        try:
            with self._path.open("rb") as file:
                head = file.read(_HEAD_BYTES)
                if len(head) < _HEAD_BYTES and self._is_last:
                    return
                yield from self._records(file, _checked(head, self._path, self._key))
        except OSError as error:
            raise _trouble(error) from None

    def _records(self, file: BinaryIO, cipher: _Cipher) -> Iterator[bytes]:
        size = os.fstat(file.fileno()).st_size
        counter = unopened = 0
        while not self.is_closed and len(prefix := file.read(_COUNT.size)) == _COUNT.size:
            (length,) = _COUNT.unpack(prefix)
            if length == 0:
                self._close(cipher, file.read(_CLOSING_BYTES - _COUNT.size), counter)
                break
            if not _TAG_BYTES < length <= min(MESSAGE_BYTES + _TAG_BYTES, size - file.tell()):
                break
            message = cipher.open(counter, file.read(length))
            counter += 1
            if message is None:
                unopened += 1
                continue
            # What does not open is a torn tail only if nothing behind it opens.
            self.damaged, unopened = self.damaged + unopened, 0
            self.count, self.end = counter, file.tell()
            yield message
        count = None if self.is_closed else self._last_words(cipher, file, size)
        if count is not None:
            # The closing tells how many there were, even where a damaged length hides where they begin.
            self.is_closed, unopened = True, unopened + max(count - counter, 1)
        elif not self.is_closed:
            unopened = 0 if self._is_last else unopened + 1
        self.damaged += unopened

    def _close(self, cipher: _Cipher, sealed: bytes, counter: int) -> None:
        self.is_closed = len(sealed) > _TAG_BYTES and cipher.open(_CLOSING, sealed) == _COUNT.pack(counter)

    def _last_words(self, cipher: _Cipher, file: BinaryIO, size: int) -> int | None:
        file.seek(max(size - _CLOSING_BYTES + _COUNT.size, 0))
        count = cipher.open(_CLOSING, file.read(_CLOSING_BYTES - _COUNT.size))
        return None if count is None else int(_COUNT.unpack(count)[0])


def _checked(head: bytes, path: Path, key: bytes) -> _Cipher:
    cipher = _cipher(head[:_OPENING_BYTES], key) if len(head) == _HEAD_BYTES and head.startswith(_MAGIC) else None
    if cipher is None or cipher.number != _number(path) or cipher.open(_CHECK, head[_OPENING_BYTES:]) is None:
        raise CryptoError(
            f"the intake's segment {path.name} is sealed under another key, of another version, or was altered at its "
            "beginning: give the key that it was written with, or move the file away"
        )
    return cipher


def _recover(path: Path, key: bytes) -> int:
    """Cut a torn tail and close the segment; 1 if the next one follows it, 0 if it was never begun and is gone."""
    if path.stat().st_size < _HEAD_BYTES:
        path.unlink()
        _sync_folder(path.parent)
        return 0
    reading = _Reading(path, key, is_last=True)
    for _ in reading.messages():
        pass
    if not reading.is_closed:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            _put_aside(descriptor, reading.end, path.with_suffix(".torn"))
            os.ftruncate(descriptor, reading.end)
            os.lseek(descriptor, reading.end, os.SEEK_SET)
            cipher = _cipher(os.pread(descriptor, _OPENING_BYTES, 0), key)
            _write_all(descriptor, cipher.closing(reading.count))
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    return 1


def _put_aside(descriptor: int, start: int, path: Path) -> None:
    # A torn tail and a damaged length look alike, so what is cut stays on the disk, sealed, for somebody to look at.
    tail = os.pread(descriptor, os.fstat(descriptor).st_size - start, start)
    if tail:
        aside = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            _write_all(aside, tail)
            os.fsync(aside)
        finally:
            os.close(aside)
        _sync_folder(path.parent)


def _write_all(descriptor: int, data: bytes) -> int:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
    return len(data)


def _number(path: Path) -> int:
    return int(path.stem)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _trouble(error: OSError) -> WardroundError:
    name = errno.errorcode.get(error.errno or 0, type(error).__name__)
    if error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}:
        return StorageFullError("no space is left for the intake: free some; what was acknowledged is kept")
    if isinstance(error, PermissionError | NotADirectoryError | FileNotFoundError | FileExistsError):
        return ConfigError(f"the intake's folder cannot be used ({name}): check its path, owner and mode")
    return UnavailableError(f"the intake's disk did not answer as it should ({name})")
