"""A node's folder of models: each downloaded once, verified by digest, and forgotten when no longer needed.

A download goes to ``incoming.part``, which is renamed when its digest is right, so a file under its digest
is whole. Global models are no patient's records, but may have learned from them: the folder is 0700.
They stay as they are, because the worker maps them into its memory by their path, and the hub has them anyway.
What a run keeps on its way out (``kept-<scope>``) is masked already: by itself it says nothing.
What a site remembers from round to round (``memory-<scope>-<round>``) has learned from its patients alone: with the
node's keys it is sealed at rest (`wardround.storage.sealed_file`); such files of before are sealed at the next start.
"""

import errno
import hashlib
import os
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path

from wardround.crypto.envelope import Place
from wardround.errors import CryptoError, DigestMismatchError, StorageFullError, UnavailableError
from wardround.ids import Digest, digest_name
from wardround.ports import HubClient
from wardround.protocol.plan import BlobRef
from wardround.storage import sealed_file
from wardround.storage.vault import Keys

__all__ = ["FolderModelFiles", "last_memory"]

_PIECE = 1 << 20
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class FolderModelFiles:
    """Fills `wardround.ports.Files` in one folder; with `keys` what a site remembers lies sealed there."""

    def __init__(self, folder: Path, *, keys: Keys | None = None) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._folder, self._keys = folder, keys
        self._lock = threading.Lock()
        self._kept: dict[str, frozenset[Digest]] = {}
        self._outgoing: dict[str, int] = {}
        for path in folder.glob("kept-*"):
            path.unlink()
        if keys is not None:
            self._seal_older(keys)

    def fetch(self, ref: BlobRef, scope: str, hub: HubClient, inline: bytes) -> str:
        """See `wardround.ports.Files`."""
        path = self._folder / digest_name(ref.digest)
        with self._lock:
            self._kept[scope] = self._kept.get(scope, frozenset()) | {ref.digest}
            if not path.exists() or path.stat().st_size != ref.size:
                self._fill(path, self._folder / "incoming.part", ref, scope, hub, inline)
        return str(path)

    def _fill(self, path: Path, part: Path, ref: BlobRef, scope: str, hub: HubClient, inline: bytes) -> None:
        try:
            digest = self._write(part, inline) if inline else self._download(part, ref, scope, hub)
            if digest != ref.digest:
                raise DigestMismatchError("the hub sent other bytes than those that the digest names")
            part.replace(path)
        except OSError as error:
            if error.errno in _FULL:
                raise StorageFullError(f"the disk of {self._folder} is full") from None
            raise UnavailableError(f"the folder {self._folder} cannot be written: {type(error).__name__}") from None

    def bytes_of(self, path: str) -> bytes:
        """See `wardround.ports.Files`."""
        return Path(path).read_bytes()

    def keep_only(self, scope: str, digests: frozenset[Digest]) -> None:
        """See `wardround.ports.Files`."""
        with self._lock:
            if not digests and (descriptor := self._outgoing.pop(scope, None)) is not None:
                os.close(descriptor)
                (self._folder / f"kept-{scope}").unlink(missing_ok=True)
            self._kept[scope] = digests
            kept = frozenset().union(*self._kept.values())
            own = ("kept-", "memory-")
            self._forget(
                [path for path in self._folder.iterdir() if path.name not in kept and not path.name.startswith(own)]
            )

    def _forget(self, dropped: list[Path]) -> None:
        spare = self._folder / "incoming.part"
        for path in sorted(dropped, key=lambda path: path.stat().st_size, reverse=True):
            # The largest is kept to be written over: fresh pages of a file cost many times reused ones.
            if path == spare or spare.exists():
                if path != spare:
                    path.unlink(missing_ok=True)
            else:
                path.replace(spare)

    def read(self, descriptor: int, size: int) -> bytes:
        """See `wardround.ports.Files`."""
        return os.pread(descriptor, size, 0)

    def chunks(self, descriptor: int, start: int, stop: int, size: int) -> Iterator[memoryview]:
        """See `wardround.ports.Files`."""
        buffer = memoryview(bytearray(min(size, stop - start)))
        while start < stop:
            piece = buffer[: stop - start]
            count = os.preadv(descriptor, [piece], start)
            if count != len(piece):
                raise UnavailableError("a file of this node is shorter than it should be")
            start += count
            yield piece

    def keep(self, scope: str, pieces: Iterable[memoryview]) -> tuple[int, BlobRef]:
        """See `wardround.ports.Files`."""
        with self._lock:
            if scope not in self._outgoing:
                flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
                self._outgoing[scope] = os.open(self._folder / f"kept-{scope}", flags, 0o600)
            descriptor = self._outgoing[scope]
        digest, size = hashlib.sha256(), 0
        try:
            for piece in pieces:
                digest.update(piece)
                rest = piece
                while rest:
                    written = os.pwrite(descriptor, rest, size)
                    rest, size = rest[written:], size + written
            os.ftruncate(descriptor, size)
        except OSError as error:
            if error.errno in _FULL:
                raise StorageFullError(f"the disk of {self._folder} is full") from None
            raise UnavailableError(f"the folder {self._folder} cannot be written: {type(error).__name__}") from None
        return descriptor, BlobRef(Digest(digest.hexdigest()), size)

    def remember(self, scope: str, number: int, descriptor: int) -> None:
        """See `wardround.ports.Files`."""
        path = self._folder / f"memory-{scope}-{number}"
        part = self._folder / f"memory-{scope}.part"
        pieces = self.chunks(descriptor, 0, os.fstat(descriptor).st_size, _PIECE)
        try:
            if self._keys is not None:
                sealed_file.write(path, pieces, self._keys, place=_place(path, self._keys))
                return
            with open(part, "wb", opener=_private) as file:
                file.writelines(pieces)
                file.flush()
                os.fsync(file.fileno())
            part.replace(path)
        except OSError as error:
            part.unlink(missing_ok=True)
            if error.errno in _FULL:
                raise StorageFullError(f"the disk of {self._folder} is full") from None
            raise UnavailableError(f"the folder {self._folder} cannot be written: {type(error).__name__}") from None

    def recall(self, scope: str, number: int, descriptor: int) -> Digest:
        """See `wardround.ports.Files`."""
        size, wanted = os.fstat(descriptor).st_size, self._folder / f"memory-{scope}-{number}"
        if wanted.exists() or not number:
            for path in _memories(self._folder, scope):
                if path != wanted:
                    path.unlink()
        if wanted.exists() and self._keys is not None:
            # A site that cannot read what it remembers must not go on as if there were nothing.
            if sealed_file.plain_size(wanted) == size:
                return _fill(descriptor, sealed_file.read(wanted, self._keys, place=_place(wanted, self._keys)))
        elif wanted.exists() and wanted.stat().st_size == size:
            with wanted.open("rb") as file:
                return _fill(descriptor, self.chunks(file.fileno(), 0, size, _PIECE))
        return _fill(descriptor, (memoryview(bytes(min(_PIECE, size - start))) for start in range(0, size, _PIECE)))

    def forget(self, scope: str, *, but_the_last: bool = False) -> None:
        """See `wardround.ports.Files`."""
        paths = _memories(self._folder, scope)
        for path in paths[: len(paths) - but_the_last]:
            path.unlink()

    def _seal_older(self, keys: Keys) -> None:
        for path in self._folder.glob("memory-*"):
            if path.name.endswith(".part"):
                path.unlink()
            elif not sealed_file.is_sealed(path):
                with path.open("rb") as file:
                    pieces = self.chunks(file.fileno(), 0, path.stat().st_size, _PIECE)
                    sealed_file.write(path, pieces, keys, place=_place(path, keys))

    def _write(self, part: Path, data: bytes) -> str:
        part.unlink(missing_ok=True)
        part.write_bytes(data)
        return hashlib.sha256(data).hexdigest()

    def _download(self, part: Path, ref: BlobRef, scope: str, hub: HubClient) -> str:
        digest = hashlib.sha256()
        part.touch(mode=0o600)
        with part.open("r+b", buffering=0) as file, hub.download(scope, ref) as pieces:
            for piece in pieces:
                digest.update(piece)
                while piece:
                    piece = piece[file.write(piece) :]  # noqa: PLW2901, the disk may take less at a time
            file.truncate(ref.size)
        return digest.hexdigest()


def last_memory(folder: Path, scope: str, *, keys: Keys | None = None) -> bytes:
    """What is remembered of `scope` after its last round; empty where that is nothing.

    Raises:
        CryptoError: It is sealed, and there are no keys for it, or it was altered.
    """
    paths = _memories(folder, scope)
    if not paths:
        return b""
    if not sealed_file.is_sealed(paths[-1]):
        return paths[-1].read_bytes()
    if keys is None:
        raise CryptoError("what this site remembers is sealed, and no key was given to read it")
    return b"".join(bytes(piece) for piece in sealed_file.read(paths[-1], keys, place=_place(paths[-1], keys)))


def _place(path: Path, keys: Keys) -> Place:
    return Place(path.name, tenant=keys.tenant)


def _memories(folder: Path, scope: str) -> list[Path]:
    found = {}
    for path in folder.iterdir():
        name, _, number = path.name.rpartition("-")
        if name == f"memory-{scope}" and number.isdecimal():
            found[int(number)] = path
    return [found[number] for number in sorted(found)]


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _fill(descriptor: int, pieces: Iterable[memoryview]) -> Digest:
    place, digest = 0, hashlib.sha256()
    for piece in pieces:
        digest.update(piece)
        place += os.pwrite(descriptor, piece, place)
    return Digest(digest.hexdigest())
