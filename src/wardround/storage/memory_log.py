"""A tamper-evident log in memory, for simulated worlds and tests; what it cannot promise is to survive a crash."""

import threading
from collections.abc import Callable, Sequence

from wardround.audit import checkpoint as checkpoints
from wardround.audit import log_rules, verification
from wardround.audit.checkpoint import Checkpoint, SignedCheckpoint
from wardround.audit.note import NoteSigner
from wardround.audit.tree_edge import TreeEdge
from wardround.audit.verification import CHECKPOINT, WITNESSED
from wardround.errors import AuditError
from wardround.ports import Clock

__all__ = ["MemoryTileLog"]


class MemoryTileLog:
    """Fills `wardround.ports.AuditLog` in a dictionary of files; threads may share it.

    Raises:
        ConfigError: A key does not carry the log's name.
    """

    def __init__(self, *, origin: str, signers: Sequence[NoteSigner], clock: Clock) -> None:
        log_rules.check_signers(origin, signers)
        self._origin, self._signers, self._clock = origin, tuple(signers), clock
        self._lock = threading.Lock()
        self._files: dict[str, bytes] = {}
        self._edge = TreeEdge()
        self._last: SignedCheckpoint | None = None

    @property
    def origin(self) -> str:
        """The log's name."""
        return self._origin

    @property
    def size(self) -> int:
        """How many entries there are."""
        return self._edge.size

    def enqueue(self, entries: Sequence[bytes]) -> Callable[[], int]:
        """See `wardround.ports.AuditLog`."""
        checked = log_rules.check_entries(entries)
        with self._lock:
            first = self._edge.size
            self._edge.add(checked)
        return lambda: first

    def read(self, start: int, stop: int) -> list[bytes]:
        """See `wardround.ports.AuditLog`."""
        with self._lock:
            if not 0 <= start <= stop <= self.size:
                raise AuditError(f"entries {start} to {stop} were asked for, the log has {self.size}")
            stored = verification.read_entries(self._files.get, self._edge.published, start)
            inside = min(stop, self._edge.first)
            found = [data for index, data in stored if index < inside] if start < inside else []
            return found + self._edge.tail(start, stop)

    def publish(self) -> bytes:
        """See `wardround.ports.AuditLog`."""
        with self._lock:
            if self._last is None or self._edge.size != self._last.checkpoint.size:
                plan = self._edge.plan()
                checkpoint = Checkpoint(self._origin, plan.size, plan.root)
                signed = log_rules.sign_checkpoint(checkpoint, self._signers, self._clock.now(), self._last)
                self._files.update(plan.files)
                self._files[CHECKPOINT] = signed
                self._edge.settle(plan)
                self._last = checkpoints.parse(signed)
                gone = tuple(f"{name}/" for name in plan.obsolete)
                self._files = {path: data for path, data in self._files.items() if not path.startswith(gone)}
            return self._files[CHECKPOINT]

    def file(self, path: str) -> bytes | None:
        """See `wardround.ports.AuditLog`."""
        return self._files.get(path) if log_rules.is_log_file(path) else None

    def keep_witnessed(self, checkpoint: bytes) -> None:
        """See `wardround.ports.AuditLog`."""
        signed = log_rules.own_checkpoint(checkpoint, self._origin, self._signers)
        with self._lock:
            log_rules.check_beginning(signed, self._edge.published, self.file)
            before = self._files.get(WITNESSED)
            if before is not None and checkpoints.parse(before).checkpoint.size > signed.checkpoint.size:
                return
            self._files[WITNESSED] = checkpoint
            if self._last is not None and signed.note.text == self._last.note.text:
                self._files[CHECKPOINT] = checkpoint
                self._last = signed
