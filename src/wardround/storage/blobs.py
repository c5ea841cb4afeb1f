"""Content-addressed bytes in a folder: the digest is the name, and a name never changes its bytes.

    blobs/ab/abcdef…      a finished blob, 0600 in 0700
    uploads/, recycled/   see `wardround.storage.spool`

A blob is readable once its bytes and its name are on the disk. Readers hold a shared lock on the open
file, so that a deleted file is never written over while somebody reads it. Reading is by descriptor
and not through obstore: a lock belongs to a descriptor, and a small read takes 8 µs instead of 61.
For object stores (S3, Azure, GCS) through obstore see `wardround.storage.objects`.
"""

import fcntl
import hashlib
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from wardround.errors import DigestMismatchError, NotFoundError
from wardround.ids import Digest, digest_name
from wardround.protocol.plan import BlobRef
from wardround.storage import fault, hashing
from wardround.storage.spool import Held, Spool, SpooledUpload, is_current, sync_folder, try_lock, upload_name

__all__ = ["FolderBlobs", "FolderReader"]


class FolderReader:
    """The reading half of `wardround.ports.Blobs` over a folder that another object writes to.

    It can be sent to another process or machine that has the same folder at the same path.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "blobs"

    def size(self, digest: Digest) -> int:
        """Length in bytes of what is there, which may be less than was stored when somebody truncated the file.

        Raises:
            NotFoundError: There is no such blob.
        """
        try:
            return self._path(digest).stat().st_size
        except OSError as error:
            raise _translate(error) from None

    def local_path(self, digest: Digest) -> str | None:
        """Path of the blob's file.

        Raises:
            NotFoundError: There is no such blob.
        """
        self.size(digest)
        return str(self._path(digest))

    def has(self, digest: Digest) -> bool:
        """Whether there is such a blob."""
        try:
            self.size(digest)
        except NotFoundError:
            return False
        return True

    def read(self, digest: Digest, start: int, stop: int) -> bytes:
        """The bytes ``[start, stop)``.

        Raises:
            DigestMismatchError: The blob is shorter.
            NotFoundError: There is no such blob.
        """
        with self._reading(digest) as descriptor:
            fault.check_range(start, stop, os.fstat(descriptor).st_size)
            data = os.pread(descriptor, stop - start, start)
        fault.check_range(start, stop, start + len(data))
        return data

    def chunks(self, digest: Digest, start: int, stop: int, size: int) -> Iterator[memoryview]:
        """The bytes ``[start, stop)`` in pieces of `size`, each in the same buffer: valid until the next is asked for.

        Raises:
            DigestMismatchError: The blob is shorter.
            NotFoundError: There is no such blob.
        """
        with self._reading(digest) as descriptor:
            fault.check_range(start, stop, os.fstat(descriptor).st_size)
            if size < 1:
                raise ValueError(f"a piece has at least one byte, got {size}")
            buffer = memoryview(bytearray(min(size, stop - start)))
            while start < stop:
                length = _fill(descriptor, buffer[: stop - start], start)
                start += length
                yield buffer[:length].toreadonly()

    def digests(self) -> Iterator[Digest]:
        """Every blob's name, sorted."""
        for folder in sorted(self._folder.iterdir()):
            yield from (Digest(path.name) for path in sorted(folder.iterdir()))

    def _path(self, digest: Digest) -> Path:
        name = digest_name(digest)
        return self._folder / name[:2] / name

    @contextmanager
    def _reading(self, digest: Digest) -> Iterator[int]:
        path = self._path(digest)
        try:
            descriptor = _open_shared(path)
        except OSError as error:
            raise _translate(error) from None
        try:
            yield descriptor
        except OSError as error:
            raise fault.from_os(error) from None
        finally:
            os.close(descriptor)


class FolderBlobs(FolderReader):
    """`wardround.ports.Blobs` under `folder`; may be shared by threads and processes of one machine.

    Up to `recycle_bytes` of deleted large files are kept to be written over, which is faster; 0 keeps none.

    Raises:
        ConfigError: The folder cannot be used.
        StorageFullError: The disk is full.
    """

    def __init__(self, folder: Path, *, recycle_bytes: int = 4 * 1024**3) -> None:
        super().__init__(folder)
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._make_folders()
        except OSError as error:
            raise fault.from_os(error) from None
        self._spool = Spool(folder, recycle_bytes=recycle_bytes)

    def __reduce__(self) -> tuple[type[FolderReader], tuple[Path]]:
        """In another process it only reads."""
        return FolderReader, (self._folder.parent,)

    def put(self, data: bytes) -> BlobRef:
        """Store small bytes; they survive a power failure when this returns.

        Raises:
            StorageFullError: The disk is full; nothing is stored.
        """
        upload = self._spool.small(self._keep)
        try:
            upload.append(data)
            return upload.commit(Digest(hashlib.sha256(data).hexdigest()))
        finally:
            upload.discard()

    def upload(self, name: str) -> SpooledUpload:
        """Begin an upload, or resume the one of this name.

        Raises:
            CodecError: The name is none.
            ConflictError: Somebody else is at it.
            StorageFullError: The disk is full.
        """
        return self._spool.upload(upload_name(name), self._keep)

    def delete(self, digests: Iterable[Digest]) -> None:
        """Forget blobs; those that are not there are passed over."""
        for digest in digests:
            try:
                self._spool.remove(self._path(digest))
            except OSError as error:
                raise fault.from_os(error) from None

    def verify(self, digest: Digest) -> None:
        """Raise unless the blob's bytes are those that its digest names.

        Raises:
            DigestMismatchError: The file was truncated or altered.
            NotFoundError: There is no such blob.
        """
        with self._reading(digest) as descriptor:
            if hashing.sha256(descriptor) != digest:
                raise DigestMismatchError("a stored blob was truncated or altered: delete it and fetch it again")

    def _keep(self, held: Held, digest: Digest) -> None:
        self._spool.move(held, self._path(digest))

    def _make_folders(self) -> None:
        # All at once and durably, so that no commit has to make one.
        if (self._folder / "ff").exists():
            return
        for number in range(256):
            (self._folder / f"{number:02x}").mkdir(mode=0o700, parents=True, exist_ok=True)
        self._folder.chmod(0o700)
        sync_folder(self._folder)
        sync_folder(self._folder.parent)


def _open_shared(path: Path) -> int:
    # The file may be on its way out between open and lock, or just committed and not yet let go: look again.
    while True:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        if try_lock(descriptor, fcntl.LOCK_SH) and is_current(descriptor, path):
            return descriptor
        os.close(descriptor)


def _fill(descriptor: int, buffer: memoryview, start: int) -> int:
    length = 0
    while length < len(buffer):
        size = os.preadv(descriptor, [buffer[length:]], start + length)
        if size == 0:
            fault.check_range(start, start + len(buffer), start + length)
        length += size
    return length


def _translate(error: OSError) -> Exception:
    return NotFoundError("there is no such blob") if isinstance(error, FileNotFoundError) else fault.from_os(error)
