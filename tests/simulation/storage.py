"""A hub's storage in a world: it outlives the hub, and fails when the world says so.

A failure comes before the write ("not done"), after it ("done, answer lost"), or kills the hub at that
very point. What was written is told to the oracle.
"""

from wardround.errors import ConflictError, StorageFullError, UnavailableError
from wardround.storage.memory import MemoryBlobs, MemoryEventLog, MemoryVault


class Killed(BaseException):
    """The hub's process ends here; not an Exception, so that nothing can survive it."""


class FaultyLog:
    """A `MemoryEventLog` whose `append` fails as `draw` says; the oracle is told of each batch written."""

    def __init__(self, draw, written):
        self.kept = MemoryEventLog()
        self._draw, self._written = draw, written

    def read(self, stream, *, after=0):
        if self._draw("log.read") == "unavailable":
            raise UnavailableError("the database is locked")
        return self.kept.read(stream, after=after)

    def receipt(self, sender, command):
        return self.kept.receipt(sender, command)

    def streams(self, prefix):
        return self.kept.streams(prefix)

    def append(self, stream, events, *, after, receipt=None):
        fault = self._draw("log.append")
        _fail(fault, {"conflict", "full", "unavailable", "killed"})
        self.kept.append(stream, events, after=after, receipt=receipt)
        self._written(stream, list(events), after, receipt)
        _fail(fault, {"answer lost", "killed after"})


class FaultyBlobs(MemoryBlobs):
    """A `MemoryBlobs` whose writes fail as `draw` says; `put` is told of all bytes that became a blob."""

    def __init__(self, draw, stored):
        super().__init__()
        self._draw, self._stored = draw, stored

    def put(self, data):
        fault = self._draw("blobs.put")
        _fail(fault, {"full", "unavailable", "killed"})
        ref = super().put(data)
        self._stored(ref.digest, bytes(data))
        _fail(fault, {"answer lost", "killed after"})
        return ref

    def read(self, digest, start, stop):
        if self._draw("blobs.read") == "unavailable":
            raise UnavailableError("the blob store did not answer")
        return super().read(digest, start, stop)

    def upload(self, name):
        if self._draw("blobs.upload") == "killed":
            raise Killed
        return super().upload(name)

    def delete(self, digests):
        fault = self._draw("blobs.delete")
        _fail(fault, {"unavailable", "killed"})
        super().delete(digests)
        _fail(fault, {"killed after"})


class FaultyVault(MemoryVault):
    """A node's `MemoryVault` in whose writes the node is killed, before or after, as `draw` says."""

    def __init__(self, draw):
        super().__init__()
        self._draw = draw

    def put(self, name, value):
        fault = self._draw("vault.put")
        _fail(fault, {"full", "killed"})
        super().put(name, value)
        _fail(fault, {"killed after"})

    def add(self, name, value):
        fault = self._draw("vault.add")
        _fail(fault, {"full", "killed"})
        super().add(name, value)
        _fail(fault, {"killed after"})

    def delete(self, name):
        fault = self._draw("vault.delete")
        _fail(fault, {"killed"})
        super().delete(name)
        _fail(fault, {"killed after"})


def _fail(fault, here):
    if fault not in here:
        return
    if fault.startswith("killed"):
        raise Killed
    if fault == "conflict":
        raise ConflictError("another writer was first")
    if fault == "full":
        raise StorageFullError("the disk is full")
    raise UnavailableError(f"the storage did not answer: {fault}")
