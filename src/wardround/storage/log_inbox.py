"""Entries that other processes hand to the one that writes a log: one small file each, durable before `put` returns.

    <milliseconds, 15 digits>-<slip>      an entry; its slip, 32 hexadecimal digits, is on no other
    <slip>.part                           one that is being written: of a crash, and deleted when an hour old
    <name>.refused                        one that is no entry; it stays for people to look at

A file is written, synced, renamed and its folder synced; so the reader sees whole entries only. They are read in the
order of the clocks that put them there. The reader deletes a file after its entry is durable in the log; where a crash
comes between, the slip in the entry tells that it is there already (`wardround.services.audit_trail`).
"""

import re
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

from wardround.audit.entry import MAX_ENTRY_BYTES
from wardround.errors import CodecError, StorageFullError
from wardround.storage import durable_file

__all__ = ["MOST_WAITING", "LogInbox", "slip_of"]

MOST_WAITING: Final = 10_000
_BATCH: Final = 256
_NAME: Final = re.compile(r"[0-9]{15}-([0-9a-f]{32})")
_SLIP: Final = re.compile(r"[0-9a-f]{32}")
_ABANDONED_SECONDS: Final = 3600.0


class LogInbox:
    """The folder between those who hand entries in and the one who writes; any number of processes may share it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def put(self, data: bytes, slip: str, now: float) -> None:
        """Hand an entry in; it survives a crash when this returns.

        Args:
            data: The entry, encoded.
            slip: 32 hexadecimal digits that were never used before.
            now: Seconds since 1970 UTC: the order in which entries are taken.

        Raises:
            CodecError: It is empty or too long, or the slip is none.
            StorageFullError: The disk is full, or so many entries wait that nobody can be taking them.
            UnavailableError: The disk did not answer.
        """
        if not _SLIP.fullmatch(slip) or not 0 < len(data) <= MAX_ENTRY_BYTES:
            raise CodecError(f"an entry has 1 to {MAX_ENTRY_BYTES} bytes, and its slip 32 hexadecimal digits")
        with durable_file.translated():
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if sum(1 for _ in self._folder.iterdir()) >= MOST_WAITING:
                raise StorageFullError(
                    f"{MOST_WAITING} entries wait for the audit log's writer, which takes none: look at its log"
                )
            part = self._folder / f"{slip}.part"
            try:
                durable_file.write(part, data)
                part.replace(self._folder / f"{max(0, int(now * 1000)):015d}-{slip}")
            except OSError:
                with suppress(OSError):
                    part.unlink()
                raise
            durable_file.sync_folder(self._folder)

    def waiting(self) -> list[str]:
        """The names of what waits, the oldest first; not more than can be taken at once.

        Raises:
            UnavailableError: The disk did not answer.
        """
        with durable_file.translated():
            try:
                names = [path.name for path in self._folder.iterdir()]
            except FileNotFoundError:
                return []
            for name in names:
                if name.endswith(".part"):
                    self._clear(self._folder / name)
        return sorted(name for name in names if _NAME.fullmatch(name))[:_BATCH]

    def read(self, name: str) -> bytes:
        """An entry's bytes.

        Raises:
            CodecError: It is longer than an entry.
            UnavailableError: The disk did not answer.
        """
        with durable_file.translated(), (self._folder / name).open("rb") as file:
            data = file.read(MAX_ENTRY_BYTES + 1)
        if not 0 < len(data) <= MAX_ENTRY_BYTES:
            raise CodecError(f"an audit entry has 1 to {MAX_ENTRY_BYTES} bytes")
        return data

    def remove(self, name: str) -> None:
        """Delete an entry that is durable elsewhere.

        Raises:
            ConfigError: The folder may not be written.
            UnavailableError: The disk did not answer.
        """
        with durable_file.translated(), suppress(FileNotFoundError):
            (self._folder / name).unlink()

    def refuse(self, name: str) -> None:
        """Put what is no entry aside.

        Raises:
            ConfigError: The folder may not be written.
            UnavailableError: The disk did not answer.
        """
        with durable_file.translated(), suppress(FileNotFoundError):
            (self._folder / name).replace(self._folder / f"{name}.refused")

    def _clear(self, part: Path) -> None:
        with suppress(FileNotFoundError):
            if time.time() - part.stat().st_mtime > _ABANDONED_SECONDS:
                part.unlink()


def slip_of(name: str) -> str:
    """The slip in a waiting entry's name."""
    return name.partition("-")[2]
