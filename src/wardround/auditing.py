"""The audit log of one hub or node, in its folder: keys, log, pseudonyms, and a box for entries of other processes.

    keys/log.key, keys/witness.key      64 bytes each: the seed of an Ed25519 key and that of an ML-DSA-44 key
    state/log                           the log, see `wardround.storage.tile_log`
    state/log/.writer/inbox             entries that commands hand to the process that serves
    anchor                              the last checkpoint, apart from `state`

A log has one writer. The process that serves is the writer for as long as it runs: `serve`. A command that runs beside
it hands its entries in, durably, and the writer takes them within a second; where nobody serves, the command writes
itself, and takes what waits. So whatever is recorded is durable when `record` returns, and is in the log, exactly once,
as soon as somebody writes it.

Order: entries of one process are in the order in which it recorded them. What was handed in stands before all that the
writer records afterwards, and has the time at which it was taken.

The anchor is on the same disk: it notices a log that was put back from an older copy of `state`, not a whole folder
that was.
"""

import fcntl
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Final

import structlog
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PrivateKey

from wardround.audit import entry as entries
from wardround.audit import note
from wardround.audit.entry import Deletion, Entry, Event, LogStarted, PolicyChange
from wardround.audit.note import NoteSigner
from wardround.codec import canonical
from wardround.config import secret
from wardround.errors import CodecError, ConfigError, UnavailableError, WardroundError
from wardround.ids import RunId, SiteId, StudyId
from wardround.ports import Vault
from wardround.services.audit_trail import AuditTrail, Person, Pseudonymizer
from wardround.storage.anchor import BudgetAnchor
from wardround.storage.log_inbox import LogInbox, slip_of
from wardround.storage.tile_log import TileLog
from wardround.system import SystemClock, SystemEntropy, private_folder, write_private

__all__ = ["Auditing", "LogPlace", "make_keys", "signers"]

_KEY_BYTES: Final = 64
_LOOK_SECONDS: Final = 0.5
_PUBLISH_SECONDS: Final = 5.0
"""Entries are durable before; signing a checkpoint over them takes some twenty syncs, for which others wait."""
_PATIENCE_SECONDS: Final = 10.0
_TRIES: Final = 8
_log = structlog.get_logger("wardround.audit")


@dataclass(frozen=True, slots=True)
class LogPlace:
    """Whose log it is, the hub's or node's folder, and the folder of its state."""

    name: SiteId
    folder: Path
    state: Path


class Auditing:
    """Fills `wardround.services.audit_trail.Recorder`; threads share it. `vault` holds the keys of pseudonyms."""

    def __init__(self, place: LogPlace, vault: Vault) -> None:
        self._place, self._clock, self._entropy = place, SystemClock(), SystemEntropy()
        self._vault = vault
        self.pseudonyms = Pseudonymizer(vault, self._entropy)
        self._path = place.state / "log"
        self._inbox = LogInbox(self._path / ".writer" / "inbox")
        self._log: TileLog | None = None
        self._trail: AuditTrail | None = None
        self._taken: set[str] = set()
        self._taking = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def log(self) -> TileLog:
        """The log, while this process is its writer.

        Raises:
            UnavailableError: It is not.
        """
        if self._log is None:
            raise UnavailableError("this process does not write the audit log")
        return self._log

    def serve(self) -> None:
        """Be the log's writer until `close`.

        Raises:
            AuditError: What lies in the folder is not what was signed.
            ConfigError: Another process serves in this folder.
        """
        until = time.monotonic() + _PATIENCE_SECONDS
        while True:
            try:
                self._log, self._trail = self._opened(publish_seconds=_PUBLISH_SECONDS)
                break
            except ConfigError:
                # A command may be writing an entry just now.
                if not _is_written(self._path) or time.monotonic() > until:
                    raise
                time.sleep(0.05)
        self._trail.record(LogStarted(metadata.version("wardround")))
        self._take(self._trail)
        self._log.publish()  # So that there is a checkpoint to serve from the first moment on.
        self._thread = threading.Thread(target=self._watch, daemon=True, name="audit-inbox")
        self._thread.start()

    def record(
        self,
        event: Event,
        *,
        actor: SiteId | Person | None = None,
        study: StudyId | None = None,
        run: RunId | None = None,
    ) -> None:
        """Write an event down; it survives a crash when this returns.

        Raises:
            CodecError: The event breaks the rules of `wardround.audit.entry`.
            StorageFullError: The disk is full; the action must not happen.
            UnavailableError: The log takes no entries; the action must not happen.
        """
        if self._trail is not None:
            # What a command has decided is the cause of what is done here next: it comes before it in the log.
            self._take(self._trail)
            self._trail.record(event, actor=actor, study=study, run=run)
            return
        for _ in range(_TRIES):
            try:
                with self._writing() as trail:
                    trail.record(event, actor=actor, study=study, run=run)
                    return
            except ConfigError:
                if _is_written(self._path):
                    self._hand_in(event, actor, study, run)
                    return
        raise UnavailableError("the audit log could neither be written nor handed an entry; try again")

    def forget(self, person: Person) -> str | None:
        """Destroy a person's key, after recording that it is: nobody can say any more whom their entries are about.

        The pseudonym that there was, or None.
        """
        self.record(Deletion(what="person-key"))
        return self.pseudonyms.destroy(person)

    def policy(self, name: str, digest: str) -> None:
        """Record which policies are in force, where they are others than were recorded last."""
        place = f"audit/policy/{name}"
        kept = self._vault.get(place)
        before = None if kept is None else kept.decode()
        if before != digest:
            self.record(PolicyChange(name, digest, before))
            self._vault.put(place, digest.encode())

    def signers(self) -> tuple[NoteSigner, ...]:
        """The log's keys; their name is the log's."""
        return signers(self._place, "log")

    def witness_signers(self) -> tuple[NoteSigner, ...]:
        """The keys with which this site signs for other logs."""
        return signers(self._place, "witness")

    def close(self) -> None:
        """Take what waits, publish, and let others write; again is no change."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        log, trail, self._log, self._trail, self._thread = self._log, self._trail, None, None, None
        if log is not None and trail is not None:
            with suppress(WardroundError):
                self._take(trail)
            log.close()

    def _opened(self, *, publish_seconds: float | None) -> tuple[TileLog, AuditTrail]:
        keys = self.signers()
        log = TileLog(
            self._path,
            origin=keys[0].key.name,
            signers=keys,
            clock=self._clock,
            anchor=BudgetAnchor(private_folder(self._place.folder / "anchor")),
            publish_seconds=publish_seconds,
        )
        try:
            trail = AuditTrail(log, self._clock, self._place.name, self.pseudonyms)
            self._taken = set(trail.slips()) if self._inbox.waiting() else set()
        except BaseException:
            log.close()
            raise
        return log, trail

    @contextmanager
    def _writing(self) -> Iterator[AuditTrail]:
        """Write the log for a moment, where nobody else does."""
        private_folder(self._place.state)
        log, trail = self._opened(publish_seconds=None)
        try:
            if log.size == 0:
                trail.record(LogStarted(metadata.version("wardround")))
            self._take(trail)
            yield trail
        finally:
            log.close()

    def _hand_in(self, event: Event, actor: SiteId | Person | None, study: StudyId | None, run: RunId | None) -> None:
        who = self.pseudonyms.pseudonym(actor) if isinstance(actor, Person) else actor or self._place.name
        now = self._clock.now()
        found = entries.encode(Entry(at=max(0, int(now * 1000)), actor=who, event=event, study=study, run=run))
        self._inbox.put(found, self._entropy.draw(16).hex(), now)

    def _take(self, trail: AuditTrail) -> None:
        """Take over what other processes handed in: durable in the log first, then deleted here."""
        with self._taking:
            for name in self._inbox.waiting():
                slip = slip_of(name)
                if slip not in self._taken:
                    try:
                        trail.adopt(self._inbox.read(name), slip)
                    except CodecError as error:
                        _log.error("an entry that was handed in is none: put aside", reason=str(error))
                        self._inbox.refuse(name)
                        continue
                    # Where it cannot be deleted, it must not be taken a second time.
                    self._taken.add(slip)
                self._inbox.remove(name)
                self._taken.discard(slip)

    def _watch(self) -> None:
        while not self._stop.wait(_LOOK_SECONDS):
            trail = self._trail
            try:
                if trail is not None:
                    self._take(trail)
            except WardroundError as error:
                _log.error("entries that were handed in could not be taken", code=error.code)


def make_keys(folder: Path) -> None:
    """Make the keys of a log and of a witness where there are none yet."""
    for kind in ("log", "witness"):
        path = folder / "keys" / f"{kind}.key"
        if not path.exists():
            # Another process may be first: then its key counts.
            with suppress(ConfigError):
                write_private(path, SystemEntropy().draw(_KEY_BYTES))


def signers(place: LogPlace, kind: str) -> tuple[NoteSigner, ...]:
    """The keys of a site as a "log" or as a "witness"; made on first use, for folders of earlier versions.

    Raises:
        ConfigError: A key file is damaged, or others can read it.
    """
    make_keys(place.folder)
    data = secret(f"file:keys/{kind}.key", place.folder, os.environ)
    if len(data) != _KEY_BYTES:
        raise ConfigError(f"keys/{kind}.key has {_KEY_BYTES} bytes, this has {len(data)}: restore it from a backup")
    ed25519 = Ed25519PrivateKey.from_private_bytes(data[:32])
    ml_dsa = MLDSA44PrivateKey.from_seed_bytes(data[32:])
    # The name holds a part of the key's digest, so that two federations may both have a site of this name.
    own = canonical.digest(ed25519.public_key().public_bytes_raw())[:16]
    name = f"{place.name}.{own}.{kind}"
    first = note.ed25519_signer(name, ed25519, algorithm=note.ED25519 if kind == "log" else note.COSIGNATURE_ED25519)
    return first, note.ml_dsa_signer(name, ml_dsa)


def _is_written(folder: Path) -> bool:
    """Whether some process writes the log just now."""
    try:
        lock = os.open(folder / ".writer" / "lock", os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(lock)
    return False
