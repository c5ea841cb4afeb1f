"""SHA-256 of a growing file, computed on another thread while the file is being written.

The follower reads back what was written, from the page cache, through one small buffer of its own.
So the writer neither copies nor waits, nothing is queued, and the digest is that of the bytes in the
file; a resumed upload is hashed in the same way, from its first byte.
"""

import errno
import hashlib
import os
import threading
from concurrent.futures import Executor, Future, wait

from wardround.ids import Digest

__all__ = ["Follower", "sha256"]

_PIECE = 256 * 1024
"""Fits in a processor's own cache, so that reading back costs little."""
_BATCH = 1024 * 1024
"""Bytes that are worth waking a thread for."""


class Follower:
    """Follows the writer of the file `descriptor`; its owner calls `stop` before closing that."""

    def __init__(self, descriptor: int, threads: Executor) -> None:
        self._descriptor = descriptor
        self._threads = threads
        self._sha = hashlib.sha256()
        self._done = 0
        self._goal = 0
        self._stopped = threading.Event()
        self._task: Future[None] | None = None

    def follow(self, offset: int) -> None:
        """The file holds `offset` bytes now."""
        self._goal = offset
        if offset - self._done >= _BATCH and (self._task is None or self._task.done()):
            self._task = self._threads.submit(self._advance)

    def finish(self, offset: int) -> Digest:
        """The digest of the file's first `offset` bytes, which is all of it.

        Raises:
            OSError: The file cannot be read back.
        """
        self._goal = offset
        self._settle()
        self._advance()
        return Digest(self._sha.hexdigest())

    def stop(self) -> None:
        """Read no more; the descriptor may be closed when this returns."""
        self._stopped.set()
        self._settle()

    def _settle(self) -> None:
        if self._task is not None:
            wait([self._task])

    def _advance(self) -> None:
        buffer = memoryview(bytearray(min(_PIECE, self._goal - self._done)))
        while self._done < self._goal and not self._stopped.is_set():
            size = os.preadv(self._descriptor, [buffer[: self._goal - self._done]], self._done)
            if size == 0:
                raise OSError(errno.EIO, "an upload's file became shorter")
            self._sha.update(buffer[:size])
            self._done += size


def sha256(descriptor: int) -> Digest:
    """The digest of a whole file, through one small buffer.

    Raises:
        OSError: The file cannot be read.
    """
    sha, offset, buffer = hashlib.sha256(), 0, memoryview(bytearray(_PIECE))
    while size := os.preadv(descriptor, [buffer], offset):
        sha.update(buffer[:size])
        offset += size
    return Digest(sha.hexdigest())
