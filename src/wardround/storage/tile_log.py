"""A tamper-evident log in a folder that any web server can serve: one writer, many threads.

    checkpoint             the newest checkpoint, signed       checkpoint.witnessed   the newest with enough witnesses
    tile/...               tiles and bundles of entries, see `wardround.audit.tile`
    .writer/journal        entries that were acknowledged since the newest checkpoint
    .writer/lock           held by the one process that writes

Group commit: threads put entries in line; one of those that wait writes all that are in line and syncs once for all.
An entry is durable in the journal when its wait ends. A publication then writes tiles, syncs them, puts the signed
checkpoint in place by a rename, and clears the journal, in this order; a crash at any moment loses nothing that was
acknowledged, and leaves no checkpoint without its tiles.

Opening verifies: the checkpoint's own signatures, that the tiles' right edge gives its root, that the newest entries
are those of their tiles, that the witnessed checkpoint is a beginning of it, and, with an `anchor` kept elsewhere, that
the log is not an older copy. `wardround.audit.verification` verifies all of it.

Not detected here: entries of the journal, younger than the newest checkpoint, that were removed from the disk; without
an anchor, a whole folder replaced by an older copy (its witnesses notice).
"""

import fcntl
import itertools
import os
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from wardround.audit import checkpoint as checkpoints
from wardround.audit import log_rules, merkle, tile, verification, witness_policy
from wardround.audit.checkpoint import Checkpoint, SignedCheckpoint
from wardround.audit.note import NoteSigner
from wardround.audit.tree_edge import Publication, TreeEdge
from wardround.audit.verification import CHECKPOINT, POLICY, WITNESSED
from wardround.audit.witness_policy import WitnessPolicy
from wardround.errors import AuditError, ConfigError, StorageFullError, UnavailableError, WardroundError
from wardround.ports import Anchor, Clock
from wardround.storage import durable_file, fault
from wardround.storage.log_journal import Journal

__all__ = ["TileLog"]

_CHECKED: Final = 65_536
_MOST_UNPUBLISHED: Final = 16_384
_MOST_READ: Final = 1 << 20


class _Ticket:
    """One caller's entries in line; `gate` opens when they are written, or when their caller is to write for all."""

    __slots__ = ("entries", "error", "first", "gate", "is_waiting", "leads")

    def __init__(self, entries: list[bytes]) -> None:
        self.entries = entries
        self.first = -1
        self.error: WardroundError | None = None
        self.gate = threading.Lock()
        self.gate.acquire()
        self.is_waiting = self.leads = False

    def open(self) -> None:
        """Let the caller go on; called with the line's lock held."""
        if self.gate.locked():
            self.gate.release()


class TileLog:
    """Fills `wardround.ports.AuditLog` in `folder`; threads may share it, processes may not.

    Args:
        folder: Made where it is not there.
        origin: The log's name; `signers` carry it, too.
        signers: The log's Ed25519 key and, beside it, its ML-DSA-44 key.
        clock: For the time in the log's own cosignature.
        anchor: Where the last checkpoint is kept apart from the folder.
        policy: The log's keys and witnesses, put beside the checkpoint for those who verify.
        publish_seconds: A checkpoint is signed this long after an entry at the latest; None: only when asked.

    Raises:
        AuditError: What lies in the folder is not what was signed.
        ConfigError: Another process writes this log, or the folder cannot be used.
        StorageFullError: The disk is full.
        UnavailableError: The disk did not answer.
    """

    def __init__(
        self,
        folder: Path,
        *,
        origin: str,
        signers: Sequence[NoteSigner],
        clock: Clock,
        anchor: Anchor | None = None,
        policy: WitnessPolicy | None = None,
        publish_seconds: float | None = 1.0,
    ) -> None:
        log_rules.check_signers(origin, signers)
        self._folder, self._origin, self._clock, self._anchor = folder, origin, clock, anchor
        self._signers = tuple(signers)
        self._line: list[_Ticket] = []
        self._line_lock = threading.Lock()
        self._is_led = False
        self._commit_lock = threading.Lock()
        self._failure: WardroundError | None = None
        self._last: SignedCheckpoint | None = None
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        with durable_file.translated():
            (folder / ".writer").mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = os.open(folder / ".writer" / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            with durable_file.translated():
                self._open()
                self.keep_policy(policy)
        except BaseException:
            os.close(self._lock)
            raise
        if publish_seconds is not None:
            self._thread = threading.Thread(target=self._tick, args=(publish_seconds,), daemon=True, name="audit-log")
            self._thread.start()

    @property
    def origin(self) -> str:
        """The log's name."""
        return self._origin

    @property
    def size(self) -> int:
        """How many entries are durable."""
        return self._edge.size

    @property
    def torn_bytes(self) -> int:
        """What a crash had left unfinished in the journal when the log was opened: never acknowledged, cut off."""
        return self._journal.torn_bytes

    def enqueue(self, entries: Sequence[bytes]) -> Callable[[], int]:
        """See `wardround.ports.AuditLog`."""
        ticket = _Ticket(log_rules.check_entries(entries))
        with self._line_lock:
            self._check_usable()
            self._line.append(ticket)

        def wait() -> int:
            self._wait(ticket)
            if ticket.error is not None:
                raise ticket.error
            return ticket.first

        return wait

    def read(self, start: int, stop: int) -> list[bytes]:
        """See `wardround.ports.AuditLog`."""
        if not 0 <= start <= stop <= self.size or stop - start > _MOST_READ:
            raise AuditError(f"entries {start} to {stop} were asked for, the log has {self.size}")
        with self._commit_lock:
            held, first, published = self._edge.tail(start, stop), self._edge.first, self._edge.published
        inside = max(0, min(stop, first) - start)
        # Everything before `first` is in full bundles, which never change.
        walk = verification.read_entries(self.file, published, start) if inside else iter(())
        return [data for _, data in itertools.islice(walk, inside)] + held

    def publish(self) -> bytes:
        """See `wardround.ports.AuditLog`."""
        with self._commit_lock:
            self._check_usable()
            self._commit()
            return self._publish()

    def file(self, path: str) -> bytes | None:
        """See `wardround.ports.AuditLog`."""
        if not log_rules.is_log_file(path):
            return None
        with durable_file.translated(), suppress(FileNotFoundError, NotADirectoryError):
            return (self._folder / path).read_bytes()
        return None

    def keep_witnessed(self, checkpoint: bytes) -> None:
        """See `wardround.ports.AuditLog`."""
        with self._commit_lock, durable_file.translated():
            self._check_usable()
            signed = self._own(checkpoint)
            log_rules.check_beginning(signed, self._edge.published, self.file)
            before = self._read_own(WITNESSED)
            if before is not None and before.checkpoint.size > signed.checkpoint.size:
                return
            self._write(WITNESSED, checkpoint)
            if self._last is not None and signed.note.text == self._last.note.text:
                self._write(CHECKPOINT, checkpoint)
                self._last = signed

    def keep_policy(self, policy: WitnessPolicy | None) -> None:
        """Put the log's keys and witnesses beside the checkpoint; None: the log's own keys, where nothing is there."""
        text = witness_policy.format_policy(policy or witness_policy.log_policy([s.key for s in self._signers], {}))
        if (held := self.file(POLICY)) is None or (policy is not None and held != text.encode()):
            self._write(POLICY, text.encode())

    def close(self) -> None:
        """Publish what is not published yet, where that is possible, and let others write."""
        if self._stop.is_set():
            return
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        with self._commit_lock:
            try:
                if self._failure is None:
                    self._commit()
                    self._publish()
            finally:
                with self._line_lock:
                    self._failure = self._failure or UnavailableError("the audit log is closed")
                self._journal.close()
                os.close(self._lock)

    def _wait(self, ticket: _Ticket) -> None:
        with self._line_lock:
            if ticket.first >= 0 or ticket.error is not None:
                return
            ticket.is_waiting, leads = True, not self._is_led
            self._is_led = True
        if not leads:
            ticket.gate.acquire()
            if not ticket.leads:
                return
        try:
            with self._commit_lock:
                self._commit()
        finally:
            self._hand_over()

    def _hand_over(self) -> None:
        """Whoever waits in line writes next, for all that are in line by then."""
        with self._line_lock:
            follower = next((ticket for ticket in self._line if ticket.is_waiting), None)
            self._is_led = follower is not None
            if follower is not None:
                follower.leads = True
                follower.open()

    # What follows is called with the commit lock held.

    def _commit(self) -> None:
        with self._line_lock:
            line, self._line = self._line, []
        if not line:
            return
        first = self._edge.size
        entries = [entry for ticket in line for entry in ticket.entries]
        try:
            self._check_usable()
            with durable_file.translated():
                self._append(first, entries)
        except WardroundError as error:
            for ticket in line:
                ticket.error = error
        else:
            self._edge.add(entries)
            for ticket in line:
                ticket.first = first
                first += len(ticket.entries)
        finally:
            with self._line_lock:
                for ticket in line:
                    if ticket.first < 0 and ticket.error is None:
                        ticket.error = UnavailableError("the audit log failed: the action must not happen")
                    ticket.open()
        if self._edge.size - self._edge.published >= _MOST_UNPUBLISHED:
            # The entries are durable already; a failure to publish is the next caller's to see.
            with suppress(WardroundError):
                self._publish()

    def _append(self, first: int, entries: list[bytes]) -> None:
        try:
            self._journal.append(first, entries)
        except OSError as error:
            try:
                if not fault.is_full(error):
                    raise
                self._journal.cut()
            except OSError as worse:
                # After a failed sync nobody knows what is on the disk: only reading it again tells.
                self._failure = fault.from_os(worse)
            raise

    def _publish(self) -> bytes:
        if self._last is not None and self._edge.size == self._last.checkpoint.size:
            return checkpoints.join(self._last.note.text, [str(line) for line in self._last.note.signatures])
        plan = self._edge.plan()
        signed = log_rules.sign_checkpoint(
            Checkpoint(self._origin, plan.size, plan.root), self._signers, self._clock.now(), self._last
        )
        try:
            with durable_file.translated():
                self._put(plan, signed)
        except StorageFullError:
            # The journal keeps everything, so that there is nothing to give up: the next publication tries again.
            raise
        except WardroundError as error:
            self._failure = error
            raise
        return signed

    def _put(self, plan: Publication, signed: bytes) -> None:
        folders: set[Path] = set()
        for path, data in plan.files:
            target = self._folder / path
            if target.parent not in folders:
                target.parent.mkdir(parents=True, exist_ok=True)
                # All of them, though they may be there: a crash may have come between their making and their syncing.
                folders.update(target.parents[: len(Path(path).parents)])
            durable_file.write(target, data)
        for folder in folders:
            durable_file.sync_folder(folder)
        self._write(CHECKPOINT, signed)
        if self._anchor is not None:
            self._anchor.put(log_rules.anchor_name(self._origin), signed)
        self._journal.clear()
        self._edge.settle(plan)
        self._last = checkpoints.parse(signed)
        for name in plan.obsolete:
            durable_file.remove_folder(self._folder / name)

    def _open(self) -> None:
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError("another process writes this audit log; a log has one writer") from None
        self._last = self._read_own(CHECKPOINT)
        held = None if self._last is None else self._last.checkpoint
        size = 0 if held is None else held.size
        subtrees = tile.subtree_reader(self.file, size)
        anchored = None if self._anchor is None else self._anchor.get(log_rules.anchor_name(self._origin))
        log_rules.check_anchor(anchored, held, subtrees)
        if held is not None and merkle.root(size, subtrees) != held.root:
            raise AuditError(
                "the log's tiles do not give the root of its checkpoint: they were cut, swapped or altered"
            )
        self._check_newest(size, subtrees)
        self._edge = TreeEdge.load(self.file, size)
        self._journal = Journal(self._folder / ".writer" / "journal")
        for folder in (self._folder / ".writer", self._folder, self._folder.parent):
            durable_file.sync_folder(folder)  # The journal's content is worth nothing without its name.
        try:
            self._replay(is_new=held is None)
        except BaseException:
            self._journal.close()
            raise

    def _replay(self, *, is_new: bool) -> None:
        records = self._journal.replay()
        if is_new and (records and records[0][0] != 0):
            raise AuditError("the log's checkpoint and tiles are gone, and its journal is not: restore them")
        for first, entries in records:
            # A crash between the checkpoint and clearing the journal leaves records that tiles hold already.
            if first + len(entries) <= self._edge.published:
                continue
            if first != self._edge.size:
                raise AuditError(f"the log's journal goes on at entry {first}, its tiles end at {self._edge.size}")
            self._edge.add(entries)

    def _check_newest(self, size: int, subtrees: merkle.Subtrees) -> None:
        """The newest entries are those of their tiles, and these are what the next level says."""
        witnessed = self._read_own(WITNESSED)
        if witnessed is not None:
            log_rules.check_beginning(witnessed, size, self.file)
        start = max(0, size - _CHECKED) // tile.WIDTH
        for index in range(start, size // tile.WIDTH):
            stored = tile.read_whole(self.file, 0, index, size)
            bundle = self.file(tile.bundle_path(index, tile.WIDTH))
            hashes = [merkle.leaf(data) for data in tile.decode_bundle(bundle or b"", tile.WIDTH)]
            if b"".join(hashes) != stored or merkle.perfect_root(hashes) != subtrees(tile.LOG2_WIDTH, index):
                raise AuditError(f"the entries from {index * tile.WIDTH} on are not those of their tile")

    def _read_own(self, path: str) -> SignedCheckpoint | None:
        data = self.file(path)
        return None if data is None else self._own(data)

    def _own(self, data: bytes) -> SignedCheckpoint:
        return log_rules.own_checkpoint(data, self._origin, self._signers)

    def _check_usable(self) -> None:
        if self._failure is not None:
            raise UnavailableError(f"the audit log takes no entries until it is opened again: {self._failure}")

    def _write(self, name: str, data: bytes) -> None:
        part = self._folder / ".writer" / f"{name}.part"
        durable_file.write(part, data)
        part.replace(self._folder / name)
        durable_file.sync_folder(self._folder)

    def _tick(self, seconds: float) -> None:
        while not self._stop.wait(seconds):
            with self._commit_lock, suppress(WardroundError):
                if self._failure is None:
                    self._commit()
                    self._publish()
