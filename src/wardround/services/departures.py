"""The book of what left a site: one entry for every message, written before it is sent, and what may still leave today.

Names in the vault: ``left.<seq>``, the entries, each added once and holding the digest of the one before. The anchor,
outside of the vault, notes the last entry: once a second while there are many, and all of them when asked to `settle`.

    (1) An entry is durable before a byte of its message is sent. A message that was then not sent stays in the book.
    (2) Each entry says how many bytes left on its day, so that the day's budget survives a restart.
    (3) Days only go forward: with a clock that was put back, what leaves counts for the latest day that was seen.
    (4) A run's bytes are those of its entries.

Bytes are those of messages before TLS, and of whole files, whether or not an upload resumes; what a node asks for
(tasks, plans, models) holds no more than names and is not entered.
"""

import math
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import msgspec

from wardround.codec import canonical
from wardround.errors import AuditError, CodecError, ConflictError, EgressError
from wardround.ids import Digest
from wardround.ports import Anchor, Clock, Vault

__all__ = ["DAY_SECONDS", "SPARE_BYTES", "Departure", "Departures", "EgressLimits", "Sending"]

DAY_SECONDS: Final = 86400
SPARE_BYTES: Final = 1024 * 1024
"""Beyond a budget that is spent, so that a site can still say that it takes no part."""
_MOST_NUMBERS, _MOST_FIELDS, _LONGEST_NAME = 256, 64, 120
_NOTHING = Digest("")
_NOTE_SECONDS: Final = 1.0


class EgressLimits(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How many bytes may leave on a day (UTC) and for one run."""

    day_bytes: int = 64 * 1024**3
    run_bytes: int = 512 * 1024**3


@dataclass(frozen=True, slots=True)
class Sending:
    """What is about to leave. `numbers` are those that can be read from it, `fields` the names of what it holds."""

    kind: str
    size: int
    digest: Digest
    study: str = ""
    run: str = ""
    round: int = 0
    fields: tuple[str, ...] = ()
    numbers: Mapping[str, float | None] | None = None
    is_masked: bool = False
    is_spare: bool = False


class Departure(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One entry. `today` is what left on its day with it; `refused` says why it did not leave, and then nothing did."""

    seq: int
    at: float
    previous: Digest
    kind: str
    bytes: int
    digest: Digest
    study: str = ""
    run: str = ""
    round: int = 0
    fields: tuple[str, ...] = ()
    numbers: dict[str, float | None] = {}
    numbers_left_out: int = 0
    masked: bool = False
    refused: str = ""
    day: int = 0
    today: int = 0


class _Mark(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    seq: int
    entry: Digest


class Departures:
    """One site's book; may be shared by threads, and its vault and anchor by processes."""

    def __init__(
        self, *, vault: Vault, clock: Clock, limits: EgressLimits | None = None, anchor: Anchor | None = None
    ) -> None:
        self._vault, self._clock, self._anchor = vault, clock, anchor
        self._limits = limits or EgressLimits()
        self._lock = threading.Lock()
        self._last: Departure | None = None
        self._of_run: dict[str, int] = {}
        self._is_read = False
        self._noted, self._noted_at = 0, -math.inf

    def enter(self, sending: Sending) -> Departure:
        """Count a message and enter it; when this returns it may be sent.

        Raises:
            EgressError: It does not fit into what may leave today or for its run.
            AuditError: The book is not whole, so nothing leaves.
            StorageFullError: It cannot be entered, so it does not leave.
        """
        with self._lock:
            return self._append(sending, refused="", spare=SPARE_BYTES if sending.is_spare else 0)

    def refuse(self, sending: Sending, why: str) -> None:
        """Enter that something did not leave."""
        with self._lock:
            self._append(sending, refused=why[:500] or "refused", spare=0)

    def settle(self) -> None:
        """Let the anchor note the last entry, if this process has entered some that it has not."""
        with self._lock:
            if self._is_read and self._last is not None and self._last.seq != self._noted:
                self._note(self._read() or self._last)

    def entries(self, *, study: str = "", run: str = "", number: int | None = None) -> list[Departure]:
        """Entries of studies and runs that begin so, and of one round; from the first, with the chain checked.

        Raises:
            AuditError: The book is not whole.
        """
        found = []
        with self._lock:
            for entry in self._checked():
                is_asked = entry.study.startswith(study) and entry.run.startswith(run)
                if is_asked and number in {None, entry.round}:
                    found.append(entry)
        return found

    def left_today(self) -> int:
        """How many bytes left on the present day.

        Raises:
            AuditError: The book is not whole.
        """
        with self._lock:
            last = self._read()
            return last.today if last is not None and last.day >= self._day() else 0

    def _append(self, sending: Sending, *, refused: str, spare: int) -> Departure:
        while True:
            last = self._read()
            if not refused:
                self._check_run(sending, spare)
            now = float(self._clock.now())
            day = max(int(now // DAY_SECONDS), last.day if last else 0)
            size = 0 if refused else sending.size
            today = (last.today if last and last.day == day else 0) + size
            if not refused and today > self._limits.day_bytes + spare:
                raise EgressError(
                    f"{self._limits.day_bytes} bytes may leave this site on a day, and this makes {today}; "
                    "wait until tomorrow (UTC), or the steward decides: max_day_bytes in the policy"
                )
            numbers = list((sending.numbers or {}).items())
            entry = Departure(
                seq=last.seq + 1 if last else 1,
                at=now,
                previous=_digest(last) if last else _NOTHING,
                kind=sending.kind,
                bytes=size,
                digest=sending.digest,
                study=sending.study,
                run=sending.run,
                round=sending.round,
                fields=tuple(name[:_LONGEST_NAME] for name in sending.fields[:_MOST_FIELDS]),
                numbers={name[:_LONGEST_NAME]: _number(value) for name, value in numbers[:_MOST_NUMBERS]},
                numbers_left_out=max(0, len(numbers) - _MOST_NUMBERS),
                masked=sending.is_masked,
                refused=refused,
                day=day,
                today=today,
            )
            body = canonical.encode(entry)
            try:
                self._vault.add(_name(entry.seq), body)
            except ConflictError:
                continue  # another process was first: read what it entered, and count again
            entered = canonical.decode(body, Departure)
            self._follow(entered)
            if not 0.0 <= now - self._noted_at < _NOTE_SECONDS:
                self._note(entered)
            return entered

    def _check_run(self, sending: Sending, spare: int) -> None:
        of_run = self._of_run.get(sending.run, 0) + sending.size
        if of_run > self._limits.run_bytes + spare:
            raise EgressError(
                f"{self._limits.run_bytes} bytes may leave this site for one run, and this makes {of_run}; "
                "the steward decides: max_run_bytes in the policy"
            )

    def _follow(self, entry: Departure) -> None:
        self._last = entry
        if entry.run and entry.bytes:
            self._of_run[entry.run] = self._of_run.get(entry.run, 0) + entry.bytes

    def _read(self) -> Departure | None:
        """The last entry that any process has written."""
        if not self._is_read:
            self._last, self._of_run = None, {}  # The reading before this one may have been cut short.
            for entry in self._checked():
                self._follow(entry)
            self._is_read = True
        while (following := self._entry((self._last.seq if self._last else 0) + 1)) is not None:
            _check_next(self._last, following)
            self._follow(following)
        return self._last

    def _checked(self) -> Iterator[Departure]:
        mark = self._mark()  # before the entries, which only grow
        last, seq = None, 1
        while (entry := self._entry(seq)) is not None:
            _check_next(last, entry)
            if mark is not None and mark.seq == seq and mark.entry != _digest(entry):
                raise AuditError(f"entry {seq} of what left is another than was noted: the book was changed")
            yield entry
            last, seq = entry, seq + 1
        if self._vault.names("left.") != [_name(place) for place in range(1, seq)] and self._entry(seq) is None:
            raise AuditError(f"entry {seq} of what left is missing: the book was cut; nothing leaves with it")
        if mark is not None and mark.seq >= seq:
            raise AuditError(f"the book of what left has {seq - 1} entries and had {mark.seq}: it was cut or put back")

    def _entry(self, seq: int) -> Departure | None:
        body = self._vault.get(_name(seq))
        try:
            return None if body is None else canonical.decode(body, Departure)
        except CodecError:
            raise AuditError(f"entry {seq} of what left cannot be read") from None

    def _mark(self) -> _Mark | None:
        body = self._anchor.get("left") if self._anchor is not None else None
        try:
            return None if body is None else canonical.decode(body, _Mark)
        except CodecError:
            raise AuditError("the note of the last entry of what left cannot be read") from None

    def _note(self, entry: Departure) -> None:
        if self._anchor is not None:
            self._anchor.put("left", canonical.encode(_Mark(entry.seq, _digest(entry))))
        self._noted, self._noted_at = entry.seq, float(self._clock.now())

    def _day(self) -> int:
        return int(self._clock.now() // DAY_SECONDS)


def _check_next(last: Departure | None, entry: Departure) -> None:
    expected = (last.seq + 1, _digest(last)) if last else (1, _NOTHING)
    if (entry.seq, entry.previous) != expected:
        raise AuditError(f"entry {entry.seq} of what left does not follow on the one before it: the book was changed")


def _number(value: float | None) -> float | None:
    return None if value is None else float(value)


def _digest(entry: Departure) -> Digest:
    return canonical.digest(canonical.encode(entry))


def _name(seq: int) -> str:
    return f"left.{seq:010d}"
