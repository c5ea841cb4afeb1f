"""Uploads in progress: append-only files that survive an interruption, and pages worth keeping.

    uploads/NAME        `held` bytes of the upload NAME, and nothing else: resumable, also by another process
    uploads/NAME~       the same in a recycled file, whose bytes from `held` on belong to something deleted
    uploads/~RANDOM     a small blob on its way, gone at the next start
    recycled/INODE      a deleted file, kept because its pages exist

Writing a page that exists already is an order of magnitude faster than making one, so a large file
that is deleted may be kept (`recycle_bytes` in all, eight files) and written over by a later upload.

Invariants:
    1. A file under ``uploads`` is written by who holds its exclusive lock (flock), which dies with its owner.
    2. ``NAME~`` becomes ``NAME`` or a blob only after it was cut to `held`; after a crash it starts from zero.
    3. A file is recycled only when nobody holds its shared lock, and is out of its old folder durably before
       anything is written over it: neither a reader nor a power failure can bring back its name.
    4. Renames happen under the lock file, so that a lock on a file is a lock on its name. Nothing slow does.

Hazard: what is deleted stays on the disk, readable by this account, until it is written over.
"""

import fcntl
import os
import re
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from wardround.errors import CodecError, ConflictError, DigestMismatchError, LocalProtocolError, UnavailableError
from wardround.ids import Digest
from wardround.protocol.plan import BlobRef
from wardround.storage import fault
from wardround.storage.hashing import Follower

__all__ = [
    "RECYCLE_FILES",
    "RECYCLE_LEAST",
    "Held",
    "Keep",
    "Spool",
    "SpooledUpload",
    "is_current",
    "sync_folder",
    "try_lock",
    "upload_name",
]

RECYCLE_FILES = 8
RECYCLE_LEAST = 1024 * 1024
"""A smaller file is not worth keeping."""
_HASHING_THREADS = 2
_PIECE = 4 * 1024 * 1024
"""Written at once, so that hashing starts soon."""
_NAME = re.compile(r"[A-Za-z0-9-][A-Za-z0-9.-]{0,199}")


def upload_name(text: str) -> str:
    """Check an upload's name: letters, digits, '.' and '-', 200 at most, not starting with a '.'.

    Raises:
        CodecError: `text` is not such a name.
    """
    if not _NAME.fullmatch(text):
        raise CodecError("an upload's name is 1 to 200 letters, digits, '.' and '-', and does not start with '.'")
    return text


@dataclass(frozen=True, slots=True)
class Held:
    """An upload's open and locked file, and how many of its bytes are the upload's."""

    path: Path
    descriptor: int
    offset: int = 0
    is_recyclable: bool = False
    """Whether it may still go on in a recycled file."""


Keep = Callable[[Held, Digest], None]
"""Brings an upload's file, which is on the disk, durably to where the blob of that digest lies."""


class Spool:
    """The uploads in progress and recycled files under `folder`; may be shared by threads and processes.

    Raises:
        ConfigError: The folder cannot be used.
        StorageFullError: The disk is full.
    """

    def __init__(self, folder: Path, *, recycle_bytes: int) -> None:
        self._uploads = folder / "uploads"
        self._recycled = folder / "recycled"
        self._lock_file = folder / "lock"
        self._recycle_bytes = recycle_bytes
        self._threads = ThreadPoolExecutor(_HASHING_THREADS, thread_name_prefix="wardround-hash")
        try:
            for made in (self._uploads, self._recycled):
                made.mkdir(mode=0o700, parents=True, exist_ok=True)
                made.chmod(0o700)
            with self.exclusive():
                self._sweep()
        except OSError as error:
            raise fault.from_os(error) from None

    def upload(self, name: str, keep: Keep) -> "SpooledUpload":
        """Begin or resume an upload.

        Raises:
            ConflictError: Somebody is at it.
            StorageFullError: The disk is full.
        """
        path = self._uploads / name
        dirty = self._uploads / f"{name}~"
        try:
            with self.exclusive():
                crashed = dirty.exists()
                held = self._open(dirty if crashed else path)
                if crashed:
                    path.unlink(missing_ok=True)
                    held = Held(dirty, held.descriptor)
        except OSError as error:
            raise fault.from_os(error) from None
        return SpooledUpload(self, held, keep)

    def small(self, keep: Keep) -> "SpooledUpload":
        """An upload that nobody can resume, for bytes that are all there.

        Raises:
            StorageFullError: The disk is full.
        """
        try:
            held = self._open(self._uploads / f"~{os.urandom(12).hex()}")
        except OSError as error:
            raise fault.from_os(error) from None
        return SpooledUpload(self, Held(held.path, held.descriptor), keep)

    def take(self, held: Held) -> Path:
        """Let an empty upload go on in a recycled file, if there is one; the descriptor then is that file's."""
        with self.exclusive():
            for found in sorted(self._recycled.iterdir()):
                other = os.open(found, os.O_RDWR | os.O_CLOEXEC)
                try:
                    if try_lock(other, fcntl.LOCK_EX):
                        dirty = found.rename(held.path.with_name(f"{held.path.name}~"))
                        held.path.unlink(missing_ok=True)
                        os.dup2(other, held.descriptor, inheritable=False)
                        return dirty
                finally:
                    os.close(other)
        return held.path

    def move(self, held: Held, target: Path) -> None:
        """Bring an upload's file to `target` durably; its lock is let go."""
        with self.exclusive():
            fcntl.flock(held.descriptor, fcntl.LOCK_UN)
            held.path.replace(target)
        sync_folder(target.parent)

    def remove(self, path: Path, *, held: int | None = None) -> None:
        """Delete a file, or recycle it where that is allowed; one that is not there is passed over.

        Args:
            path: A blob's file, or an upload's.
            held: The descriptor through which the caller holds the file's exclusive lock, if it does.
        """
        with self.exclusive():
            try:
                descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC) if held is None else held
            except FileNotFoundError:
                return
            try:
                status = os.fstat(descriptor)
                alone = held is not None or try_lock(descriptor, fcntl.LOCK_EX)
                if not (alone and status.st_nlink == 1 and self._has_room(status.st_size)):
                    path.unlink(missing_ok=True)
                    return
                path.rename(self._recycled / str(status.st_ino))
                sync_folder(self._recycled)
                sync_folder(path.parent)
            finally:
                if held is None:
                    os.close(descriptor)

    def purge(self) -> bool:
        """Give the recycled files' space back; False when there was none."""
        with self.exclusive():
            found = list(self._recycled.iterdir())
            for path in found:
                path.unlink(missing_ok=True)
        return bool(found)

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Nobody else renames, takes or removes files meanwhile."""
        descriptor = os.open(self._lock_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    @property
    def threads(self) -> ThreadPoolExecutor:
        """Where digests are computed."""
        return self._threads

    def _open(self, path: Path) -> Held:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        if not try_lock(descriptor, fcntl.LOCK_EX):
            os.close(descriptor)
            raise ConflictError("this upload is in progress elsewhere: try again when that has ended")
        size = os.fstat(descriptor).st_size
        return Held(path, descriptor, size, is_recyclable=size == 0)

    def _has_room(self, size: int) -> bool:
        sizes = [entry.stat().st_size for entry in os.scandir(self._recycled)]
        return size >= RECYCLE_LEAST and len(sizes) < RECYCLE_FILES and sum(sizes) + size <= self._recycle_bytes

    def _sweep(self) -> None:
        for path in self._uploads.glob("~*"):
            descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            try:
                if try_lock(descriptor, fcntl.LOCK_EX):
                    path.unlink(missing_ok=True)
            finally:
                os.close(descriptor)


class SpooledUpload:
    """`wardround.ports.Upload` in a file of a `Spool`, which alone makes them; for one thread at a time."""

    def __init__(self, spool: Spool, held: Held, keep: Keep) -> None:
        self._spool = spool
        self._held = held
        self._keep = keep
        self._follower = Follower(held.descriptor, spool.threads)
        self._follower.follow(held.offset)
        self._release = weakref.finalize(self, _release, self._follower, held.descriptor)

    @property
    def offset(self) -> int:
        """How many bytes are held."""
        return self._held.offset

    def append(self, data: bytes | bytearray | memoryview) -> None:
        """Add bytes at the end.

        Raises:
            StorageFullError: The disk is full; the first `offset` bytes stay held.
        """
        self._check_open()
        view = memoryview(data)
        if view.nbytes == 0:
            return
        view = view.cast("B")
        try:
            if self._held.is_recyclable:
                self._held = replace(self._held, path=self._spool.take(self._held), is_recyclable=False)
            while view:
                view = view[self._write(view[:_PIECE]) :]
        except OSError as error:
            raise fault.from_os(error) from None

    def commit(self, expected: Digest | None = None) -> BlobRef:
        """Make the bytes a blob; they survive a power failure once this returns.

        Raises:
            DigestMismatchError: They are not `expected`; the upload is discarded.
            StorageFullError: The disk is full; the upload is discarded.
            UnavailableError: The store did not answer; the upload is closed and may be resumed.
        """
        self._check_open()
        size = self._held.offset
        try:
            os.ftruncate(self._held.descriptor, size)
            os.fsync(self._held.descriptor)
            digest = self._follower.finish(size)
        except OSError as error:
            # After a failed fsync nobody knows which bytes the disk has, and a second one would not tell.
            self.discard()
            raise fault.from_os(error) from None
        if expected is not None and digest != expected:
            self.discard()
            raise DigestMismatchError(f"the {size} bytes received are not those that were announced")
        try:
            self._keep(self._held, digest)
        except UnavailableError:
            self.close()
            raise
        except OSError as error:
            self._release()
            raise fault.from_os(error) from None
        self._release()
        return BlobRef(digest, size)

    def close(self) -> None:
        """Let go, keeping what is held so that an upload of the same name resumes.

        Raises:
            UnavailableError: The disk did not answer as it should.
        """
        if not self._release.alive:
            return
        try:
            os.ftruncate(self._held.descriptor, self._held.offset)
            path = self._held.path
            with self._spool.exclusive():
                path.rename(path.with_name(path.name.removesuffix("~")))
        except OSError as error:
            raise fault.from_os(error) from None
        finally:
            self._release()

    def discard(self) -> None:
        """Forget the bytes.

        Raises:
            UnavailableError: The disk did not answer as it should.
        """
        if not self._release.alive:
            return
        try:
            self._spool.remove(self._held.path, held=self._held.descriptor)
        except OSError as error:
            raise fault.from_os(error) from None
        finally:
            self._release()

    def _write(self, piece: memoryview) -> int:
        try:
            written = os.pwrite(self._held.descriptor, piece, self._held.offset)
        except OSError as error:
            if fault.is_full(error) and self._spool.purge():
                return 0
            raise
        self._held = replace(self._held, offset=self._held.offset + written)
        self._follower.follow(self._held.offset)
        return written

    def _check_open(self) -> None:
        if not self._release.alive:
            raise LocalProtocolError("this upload was committed, closed or discarded")


def try_lock(descriptor: int, kind: int) -> bool:
    """Take the file's lock of this kind; False when somebody else's is in the way."""
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def is_current(descriptor: int, path: Path) -> bool:
    """Whether `path` still is the name of this open file."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def sync_folder(folder: Path) -> None:
    """Make the names in a folder survive a power failure."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _release(follower: Follower, descriptor: int) -> None:
    follower.stop()
    os.close(descriptor)
