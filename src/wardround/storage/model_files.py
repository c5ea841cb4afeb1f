"""A node's folder of models: each downloaded once, verified by digest, and forgotten when no longer needed.

A download goes to a ``.part`` file that is renamed when its digest is right, so a file under its digest
is whole. Global models are no patient's records, but may have learned from them: the folder is 0700.
"""

import errno
import hashlib
import os
from pathlib import Path

from wardround.errors import DigestMismatchError, StorageFullError, UnavailableError
from wardround.ids import Digest, digest_name
from wardround.ports import HubClient
from wardround.protocol.plan import BlobRef

__all__ = ["FolderModelFiles"]

_PIECE = 1024 * 1024
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class FolderModelFiles:
    """Fills `wardround.ports.Files` in one folder."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._folder = folder

    def fetch(self, ref: BlobRef, scope: str, hub: HubClient, inline: bytes) -> str:
        """See `wardround.ports.Files`."""
        path = self._folder / digest_name(ref.digest)
        if path.exists() and path.stat().st_size == ref.size:
            return str(path)
        part = path.with_suffix(".part")
        try:
            digest = self._write(part, inline) if inline else self._download(part, ref, scope, hub)
            if digest != ref.digest:
                raise DigestMismatchError("the hub sent other bytes than those that the digest names")
            part.replace(path)
        except OSError as error:
            if error.errno in _FULL:
                raise StorageFullError(f"the disk of {self._folder} is full") from None
            raise UnavailableError(f"the folder {self._folder} cannot be written: {type(error).__name__}") from None
        finally:
            part.unlink(missing_ok=True)
        return str(path)

    def bytes_of(self, path: str) -> bytes:
        """See `wardround.ports.Files`."""
        return Path(path).read_bytes()

    def keep_only(self, digests: frozenset[Digest]) -> None:
        """See `wardround.ports.Files`."""
        for path in self._folder.iterdir():
            if path.name not in digests:
                path.unlink(missing_ok=True)

    def reference(self, descriptor: int, size: int) -> BlobRef:
        """See `wardround.ports.Files`."""
        digest, buffer, start = hashlib.sha256(), memoryview(bytearray(min(_PIECE, size))), 0
        while start < size:
            count = os.preadv(descriptor, [buffer[: size - start]], start)
            if count == 0:
                raise DigestMismatchError("the worker's update is shorter than it said")
            digest.update(buffer[:count])
            start += count
        return BlobRef(Digest(digest.hexdigest()), size)

    def read(self, descriptor: int, size: int) -> bytes:
        """See `wardround.ports.Files`."""
        return os.pread(descriptor, size, 0)

    def _write(self, part: Path, data: bytes) -> str:
        part.write_bytes(data)
        return hashlib.sha256(data).hexdigest()

    def _download(self, part: Path, ref: BlobRef, scope: str, hub: HubClient) -> str:
        digest = hashlib.sha256()
        with part.open("wb") as file, hub.download(scope, ref) as pieces:
            for piece in pieces:
                digest.update(piece)
                file.write(piece)
        return digest.hexdigest()
