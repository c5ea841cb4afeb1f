"""Content-addressed bytes in an object store: S3, Azure, GCS, or anything else that obstore speaks.

Finished blobs lie in the store as ``ab/abcdef…``; uploads in progress lie in a local folder, so an
interrupted upload resumes at the replica that holds its bytes and starts again at another. A commit
verifies the digest, puts the whole file as one object (in parts where it is large), and only then lets
the local bytes go: object stores show all of an object or none, and have it durably once they answer.
"""

import hashlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import obstore
from obstore.exceptions import BaseError
from obstore.store import ObjectStore

from wardround.errors import DigestMismatchError, NotFoundError, UnavailableError
from wardround.ids import Digest, digest_name
from wardround.protocol.plan import BlobRef
from wardround.storage import fault
from wardround.storage.spool import Held, Spool, SpooledUpload, upload_name

__all__ = ["ObjectBlobs"]

_PIECE = 4 * 1024 * 1024


class ObjectBlobs:
    """`wardround.ports.Blobs` in `store`, with uploads in progress under the local `folder`.

    Raises:
        ConfigError: The folder cannot be used.
        StorageFullError: The local disk is full.
    """

    def __init__(self, store: ObjectStore, folder: Path, *, recycle_bytes: int = 4 * 1024**3) -> None:
        self._store = store
        self._spool = Spool(folder, recycle_bytes=recycle_bytes)

    def size(self, digest: Digest) -> int:
        """Length in bytes.

        Raises:
            NotFoundError: There is no such blob.
            UnavailableError: The store did not answer.
        """
        with _translated():
            return obstore.head(self._store, _key(digest))["size"]

    def has(self, digest: Digest) -> bool:
        """Whether there is such a blob.

        Raises:
            UnavailableError: The store did not answer.
        """
        try:
            self.size(digest)
        except NotFoundError:
            return False
        return True

    def read(self, digest: Digest, start: int, stop: int) -> memoryview:
        """The bytes ``[start, stop)``.

        Raises:
            DigestMismatchError: The blob is shorter.
            NotFoundError: There is no such blob.
            UnavailableError: The store did not answer.
        """
        fault.check_range(start, stop, self.size(digest))
        return self._get(digest, start, stop)

    def chunks(self, digest: Digest, start: int, stop: int, size: int) -> Iterator[memoryview]:
        """The bytes ``[start, stop)`` in pieces of `size`.

        Raises:
            DigestMismatchError: The blob is shorter.
            NotFoundError: There is no such blob.
            UnavailableError: The store did not answer.
        """
        fault.check_range(start, stop, self.size(digest))
        if size < 1:
            raise ValueError(f"a piece has at least one byte, got {size}")
        for first in range(start, stop, size):
            yield self._get(digest, first, min(first + size, stop))

    def put(self, data: bytes) -> BlobRef:
        """Store small bytes.

        Raises:
            UnavailableError: The store did not answer; nothing is stored.
        """
        digest = Digest(hashlib.sha256(data).hexdigest())
        with _translated():
            obstore.put(self._store, _key(digest), data)
        return BlobRef(digest, len(data))

    def upload(self, name: str) -> SpooledUpload:
        """Begin an upload, or resume the one of this name.

        Raises:
            CodecError: The name is none.
            ConflictError: Somebody else is at it.
            StorageFullError: The local disk is full.
        """
        return self._spool.upload(upload_name(name), self._keep)

    def delete(self, digests: Iterable[Digest]) -> None:
        """Forget blobs; those that are not there are passed over.

        Raises:
            UnavailableError: The store did not answer.
        """
        for digest in digests:
            try:
                with _translated():
                    obstore.delete(self._store, _key(digest))
            except NotFoundError:
                continue

    def verify(self, digest: Digest) -> None:
        """Raise unless the blob's bytes are those that its digest names.

        Raises:
            DigestMismatchError: The object was altered.
            NotFoundError: There is no such blob.
        """
        found = hashlib.sha256()
        for chunk in self.chunks(digest, 0, self.size(digest), _PIECE):
            found.update(chunk)
        if found.hexdigest() != digest:
            raise DigestMismatchError("a stored blob was altered: delete it and upload it again")

    def digests(self) -> Iterator[Digest]:
        """Every blob's name, sorted.

        Raises:
            UnavailableError: The store did not answer.
        """
        with _translated():
            names = sorted(meta["path"].rpartition("/")[2] for batch in obstore.list(self._store) for meta in batch)
        yield from (Digest(name) for name in names)

    def _get(self, digest: Digest, start: int, stop: int) -> memoryview:
        if start == stop:
            return memoryview(b"")
        with _translated():
            data = memoryview(obstore.get_range(self._store, _key(digest), start=start, end=stop))
        fault.check_range(start, stop, start + len(data))
        return data

    def _keep(self, held: Held, digest: Digest) -> None:
        with _translated():
            obstore.put(self._store, _key(digest), held.path)
        self._spool.remove(held.path, held=held.descriptor)


def _key(digest: Digest) -> str:
    name = digest_name(digest)
    return f"{name[:2]}/{name}"


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise NotFoundError("there is no such blob") from None
    except (BaseError, OSError) as error:
        raise UnavailableError(f"the object store did not answer as it should ({type(error).__name__})") from None
