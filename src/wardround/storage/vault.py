"""A node's local state: one SQLite file of sealed values.

    sealed(name, body)      body = wardround.crypto.seal of the value, with the name as its context

A value that was altered, moved to another name, or sealed under another key does not open. Names
are not secret. Not detected: a row that was removed, or a whole file replaced by an older copy.
"""

import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from wardround.crypto import seal
from wardround.errors import CryptoError
from wardround.storage import fault

__all__ = ["SealedVault"]

_SETUP = (
    "PRAGMA journal_mode = WAL",
    "PRAGMA synchronous = FULL",
    "PRAGMA secure_delete = ON",
    "CREATE TABLE IF NOT EXISTS sealed (name TEXT PRIMARY KEY, body BLOB NOT NULL) WITHOUT ROWID",
)


_LAST = chr(0x10FFFF)


class SealedVault:
    """`wardround.ports.Vault` in the file `path`, readable with the 32-byte `key`; may be shared by threads.

    Raises:
        ConfigError: The file cannot be used, or is no such database.
        CryptoError: The key has not 32 bytes.
        StorageFullError: The disk is full.
        UnavailableError: Another process holds the file for longer than `timeout_seconds`.
    """

    def __init__(self, path: Path, key: bytes, *, timeout_seconds: float = 5.0) -> None:
        if len(key) != seal.KEY_BYTES:
            raise CryptoError(f"a vault's key has {seal.KEY_BYTES} bytes, this has {len(key)}")
        self._key = key
        self._lock = threading.Lock()
        try:
            # SQLite gives its journals the mode of the database file, so it is right before SQLite sees it. An
            # existing file is not opened: closing it would drop locks that SQLite holds on it in this process.
            with suppress(FileExistsError):
                os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
            path.chmod(0o600)
        except OSError as error:
            raise fault.from_os(error) from None
        self._connection = sqlite3.connect(
            path, isolation_level=None, check_same_thread=False, timeout=timeout_seconds, cached_statements=16
        )
        try:
            with self._translated():
                for statement in _SETUP:
                    self._connection.execute(statement)
        except BaseException:
            self._connection.close()
            raise

    def get(self, name: str) -> bytes | None:
        """The value, or None.

        Raises:
            CryptoError: What lies there was altered, or sealed under another key.
            UnavailableError: The file did not answer.
        """
        with self._translated():
            row = self._connection.execute("SELECT body FROM sealed WHERE name = ?", (name,)).fetchone()
        return None if row is None else seal.open_sealed(bytes(row[0]), self._key, context=name.encode())

    def put(self, name: str, value: bytes) -> None:
        """Store or replace a value; it survives a crash when this returns.

        Raises:
            StorageFullError: The disk is full; the old value stays.
            UnavailableError: The file did not answer; the old value stays.
        """
        body = seal.seal(value, self._key, nonce=os.urandom(seal.NONCE_BYTES), context=name.encode())
        with self._translated():
            self._connection.execute("INSERT OR REPLACE INTO sealed VALUES (?, ?)", (name, body))

    def add(self, name: str, value: bytes) -> None:
        """Store a value under a name that has none; it survives a crash when this returns.

        Raises:
            ConflictError: There is a value of this name, perhaps another process's; it stays.
            StorageFullError: The disk is full.
            UnavailableError: The file did not answer.
        """
        body = seal.seal(value, self._key, nonce=os.urandom(seal.NONCE_BYTES), context=name.encode())
        with self._translated():
            self._connection.execute("INSERT INTO sealed VALUES (?, ?)", (name, body))

    def delete(self, name: str) -> None:
        """Forget a value, if there is one.

        Raises:
            UnavailableError: The file did not answer.
        """
        with self._translated():
            self._connection.execute("DELETE FROM sealed WHERE name = ?", (name,))

    def names(self, prefix: str) -> list[str]:
        """Names that begin with `prefix`, sorted.

        Raises:
            UnavailableError: The file did not answer.
        """
        with self._translated():
            rows = self._connection.execute(
                "SELECT name FROM sealed WHERE name >= ? AND name < ? ORDER BY name", (prefix, prefix + _LAST)
            )
            return [name for (name,) in rows if name.startswith(prefix)]

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._connection.close()

    @contextmanager
    def _translated(self) -> Iterator[None]:
        with self._lock:
            try:
                yield
            except sqlite3.Error as error:
                raise fault.from_sqlite(error) from None
