"""What the hub and the nodes write into the audit log: events in, durable entries out; who, under a pseudonym.

`AuditTrail.record` returns when the entry is durable and raises where it cannot be written, so that the action that was
to be recorded does not happen: call it before the action takes effect.

Times in the log never go backwards. Where the clock reads less than the entry before, the entry gets that entry's time,
and, once for each step backwards, a `ClockSetBack` says what was read: it is evidence, not a correction.
"""

import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, Protocol

import msgspec

from wardround.audit import entry as entries
from wardround.audit import pseudonym as pseudonyms
from wardround.audit.entry import ClockSetBack, Entry, Event
from wardround.errors import AuditError, CodecError, ConflictError, CryptoError
from wardround.ids import RunId, SiteId, StudyId
from wardround.ports import AuditLog, Clock, Entropy, Vault

__all__ = ["AuditTrail", "Person", "Pseudonymizer", "Recorder"]

_MAX_NAME: Final = 512
_SCANNED: Final = 256
_SLIPS_SCANNED: Final = 16_384


class Recorder(Protocol):
    """Who writes down what happens, before it takes effect: an `AuditTrail`, or whoever leads to one."""

    def record(
        self,
        event: Event,
        *,
        actor: "SiteId | Person | None" = None,
        study: StudyId | None = None,
        run: RunId | None = None,
    ) -> object:
        """See `AuditTrail.record`."""
        ...


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody, by the name that the login gives; it never goes into an entry."""

    name: str

    def __repr__(self) -> str:
        """Without the name: a log or a traceback may show this."""
        return "Person(…)"


class Pseudonymizer:
    """Persons' keys, sealed in a vault; several threads and processes may share it.

    Raises:
        CryptoError: What lies in the vault was altered (any method).
    """

    def __init__(self, vault: Vault, entropy: Entropy) -> None:
        self._vault, self._entropy = vault, entropy

    def pseudonym(self, person: Person) -> str:
        """``person:`` and 32 hexadecimal digits: the same for the same person, until `destroy`.

        Raises:
            CodecError: The name is empty or too long.
        """
        if not 0 < len(person.name) <= _MAX_NAME:
            raise CodecError(f"a person's name has 1 to {_MAX_NAME} characters")
        place = f"audit/key/{pseudonyms.handle(person.name, self._key('audit/index-key'))}"
        found = f"person:{pseudonyms.pseudonym(person.name, self._key(place))}"
        if self._vault.get(f"audit/name/{found}") is None:
            self._vault.put(f"audit/name/{found}", person.name.encode())
        return found

    def name_of(self, pseudonym: str) -> str | None:
        """Whom a pseudonym stands for, while the key lives."""
        data = self._vault.get(f"audit/name/{pseudonym}")
        return None if data is None else data.decode()

    def destroy(self, person: Person) -> str | None:
        """Destroy a person's key: what the log says of them names nobody any more. Gives the pseudonym there was.

        The log itself is unchanged and verifies as before. A person who comes back gets another pseudonym.
        """
        place = f"audit/key/{pseudonyms.handle(person.name, self._key('audit/index-key'))}"
        key = self._vault.get(place)
        if key is None:
            return None
        found = f"person:{pseudonyms.pseudonym(person.name, key)}"
        # The name goes first: a crash in between leaves a key that names nobody, and may be destroyed again.
        self._vault.delete(f"audit/name/{found}")
        self._vault.delete(place)
        return found

    def _key(self, place: str) -> bytes:
        key = self._vault.get(place)
        if key is None:
            # Where another thread or process was first, its key counts.
            with suppress(ConflictError):
                self._vault.add(place, self._entropy.draw(pseudonyms.KEY_BYTES))
            key = self._vault.get(place)
        if key is None or len(key) != pseudonyms.KEY_BYTES:
            raise CryptoError("a key of the audit log's pseudonyms is gone or damaged")
        return key


class AuditTrail:
    """Records events; threads share it.

    Args:
        log: Where entries go.
        clock: For their times.
        actor: Whose deeds are recorded where no other actor is named: this machine.
        pseudonymizer: For persons.

    Raises:
        AuditError: The log's newest entries cannot be read.
    """

    def __init__(self, log: AuditLog, clock: Clock, actor: SiteId, pseudonymizer: Pseudonymizer) -> None:
        self._log, self._clock, self._actor, self._pseudonymizer = log, clock, actor, pseudonymizer
        self._lock = threading.Lock()
        self._last = _last_time(log)
        self._is_behind = False

    def record(
        self,
        event: Event,
        *,
        actor: SiteId | Person | None = None,
        study: StudyId | None = None,
        run: RunId | None = None,
    ) -> int:
        """Write an event; durable when this returns. Its index in the log.

        Raises:
            CodecError: The event breaks the rules of `wardround.audit.entry`.
            StorageFullError: The disk is full; the action must not happen.
            UnavailableError: The log takes no entries; the action must not happen.
        """
        return self.begin(event, actor=actor, study=study, run=run)()

    def begin(
        self,
        event: Event,
        *,
        actor: SiteId | Person | None = None,
        study: StudyId | None = None,
        run: RunId | None = None,
    ) -> Callable[[], int]:
        """Put an event in line; what is given waits until it is durable, and must be called before anything follows.

        Raises:
            CodecError: The event breaks the rules of `wardround.audit.entry`.
            UnavailableError: The log takes no entries; the action must not happen.
        """
        who = self.name_of(actor)
        wait, is_second = self._enqueue(lambda at: Entry(at=at, actor=who, event=event, study=study, run=run))
        return lambda: wait() + is_second

    def adopt(self, data: bytes, slip: str) -> int:
        """Write an entry that another process handed in: with its slip, and the time at which it is written here.

        Raises:
            CodecError: It is no entry of this version.
            StorageFullError: The disk is full.
            UnavailableError: The log takes no entries.
        """
        found = entries.decode(data)
        if not isinstance(found, Entry):
            raise CodecError("an entry of a newer version cannot be given another time: start its version here")
        wait, is_second = self._enqueue(lambda at: msgspec.structs.replace(found, at=at, slip=slip))
        return wait() + is_second

    def slips(self) -> frozenset[str]:
        """The slips among the newest entries: what was adopted lately."""
        size = self._log.size
        found: set[str] = set()
        for data in self._log.read(max(0, size - _SLIPS_SCANNED), size):
            with suppress(CodecError):
                entry = entries.decode(data)
                if isinstance(entry, Entry) and entry.slip is not None:
                    found.add(entry.slip)
        return frozenset(found)

    def name_of(self, actor: SiteId | Person | None) -> str:
        """How an actor is named in an entry; None is this machine.

        Raises:
            CodecError: A person's name is empty or too long.
        """
        return self._pseudonymizer.pseudonym(actor) if isinstance(actor, Person) else actor or self._actor

    def _enqueue(self, made: Callable[[int], Entry]) -> tuple[Callable[[], int], int]:
        # Times and places in line are dealt under one lock, so that they have the same order; the wait is outside it.
        with self._lock:
            read = max(0, int(self._clock.now() * 1000))
            at = max(read, self._last)
            is_step = read < self._last and not self._is_behind
            data = [entries.encode(made(at))]
            if is_step:
                step = ClockSetBack(expected=self._last, read=read)
                data.insert(0, entries.encode(Entry(at=at, actor=self._actor, event=step)))
            wait = self._log.enqueue(data)
            self._last, self._is_behind = at, read < at
        return wait, len(data) - 1


def _last_time(log: AuditLog) -> int:
    """The time of the newest entry that says one."""
    size = log.size
    for data in reversed(log.read(max(0, size - _SCANNED), size)):
        try:
            return entries.decode(data).at
        except CodecError:
            continue
    if size > 0:
        raise AuditError("none of the audit log's newest entries can be read: is this log another program's?")
    return 0
