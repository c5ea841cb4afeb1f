"""A node's local state: one SQLite file of sealed values.

    sealed(name, body)      body = wardround.crypto.seal of the value, with the name as its context,
                            or wardround.crypto.envelope of it, where the node has a key ring

A value that was altered, moved to another name, or sealed under another key does not open. Names
are not secret. Not detected: a row that was removed, or a whole file replaced by an older copy.

The file's `user_version` is 1 once a ring has opened it: without its ring it is not written to any more.
"""

import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol

from wardround.crypto import envelope, seal
from wardround.crypto.envelope import Place
from wardround.errors import ConfigError, CryptoError
from wardround.storage import fault

__all__ = ["Keys", "SealedVault"]

_SETUP = (
    "PRAGMA journal_mode = WAL",
    "PRAGMA synchronous = FULL",
    "PRAGMA secure_delete = ON",
    "CREATE TABLE IF NOT EXISTS sealed (name TEXT PRIMARY KEY, body BLOB NOT NULL) WITHOUT ROWID",
)


_LAST = chr(0x10FFFF)


class Keys(Protocol):
    """What is needed of `wardround.storage.key_ring.KeyRing`."""

    @property
    def tenant(self) -> str:
        """Whose keys these are."""
        ...

    @property
    def is_bare(self) -> bool:
        """Whether there is but one key, 0, given from outside."""
        ...

    @property
    def current(self) -> int:
        """The number of the key that seals now."""
        ...

    def key(self, number: int) -> bytes:
        """A key by its number; raises `CryptoError` where it is gone."""
        ...


class SealedVault:
    """`wardround.ports.Vault` in the file `path`, readable with the keys of a ring, or with one 32-byte key.

    May be shared by threads.

    Raises:
        ConfigError: The file cannot be used, is no such database, or needs a ring and is given one key.
        CryptoError: The key has not 32 bytes.
        StorageFullError: The disk is full.
        UnavailableError: Another process holds the file for longer than `timeout_seconds`.
    """

    def __init__(self, path: Path, keys: "bytes | Keys", *, timeout_seconds: float = 5.0) -> None:
        if isinstance(keys, bytes) and len(keys) != seal.KEY_BYTES:
            raise CryptoError(f"a vault's key has {seal.KEY_BYTES} bytes, this has {len(keys)}")
        self._keys = keys
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
                self._check_ring()
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
        return None if row is None else self._open(name, bytes(row[0]))

    def put(self, name: str, value: bytes) -> None:
        """Store or replace a value; it survives a crash when this returns.

        Raises:
            StorageFullError: The disk is full; the old value stays.
            UnavailableError: The file did not answer; the old value stays.
        """
        body = self._seal(name, value)
        with self._translated():
            self._connection.execute("INSERT OR REPLACE INTO sealed VALUES (?, ?)", (name, body))

    def add(self, name: str, value: bytes) -> None:
        """Store a value under a name that has none; it survives a crash when this returns.

        Raises:
            ConflictError: There is a value of this name, perhaps another process's; it stays.
            StorageFullError: The disk is full.
            UnavailableError: The file did not answer.
        """
        body = self._seal(name, value)
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

    def sealed_under(self) -> dict[int, int]:
        """How many values each key seals, by its number; 0 is the root.

        Raises:
            UnavailableError: The file did not answer.
        """
        with self._translated():
            rows = self._connection.execute("SELECT substr(body, 1, 64) FROM sealed").fetchall()
        found: dict[int, int] = {}
        for (start,) in rows:
            number = envelope.number_of(bytes(start))
            found[number] = found.get(number, 0) + 1
        return found

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._connection.close()

    def _seal(self, name: str, value: bytes) -> bytes:
        keys, nonce = self._keys, os.urandom(seal.NONCE_BYTES)
        if isinstance(keys, bytes):
            return seal.seal(value, keys, nonce=nonce, context=name.encode())
        if keys.is_bare:
            return seal.seal(value, keys.key(0), nonce=nonce, context=name.encode())
        number = keys.current
        place = Place(name, tenant=keys.tenant)
        return envelope.seal(value, keys.key(number), number=number, nonce=nonce, place=place)

    def _open(self, name: str, body: bytes) -> bytes:
        keys = self._keys
        if isinstance(keys, bytes):
            return seal.open_sealed(body, keys, context=name.encode())
        if body.startswith(seal.VERSION):
            return seal.open_sealed(body, keys.key(0), context=name.encode())
        return envelope.open_sealed(body, keys.key, place=Place(name, tenant=keys.tenant))

    def _check_ring(self) -> None:
        has_ring = not isinstance(self._keys, bytes) and not self._keys.is_bare
        (known,) = self._connection.execute("PRAGMA user_version").fetchone()
        if known and not has_ring:
            raise ConfigError("this vault is sealed under a key ring, which is missing: restore keyring.json beside it")
        if has_ring and not known:
            self._connection.execute("PRAGMA user_version = 1")

    @contextmanager
    def _translated(self) -> Iterator[None]:
        with self._lock:
            try:
                yield
            except sqlite3.Error as error:
                raise fault.from_sqlite(error) from None
