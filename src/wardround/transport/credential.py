"""The key and certificate that open connections, in one file which only its owner reads.

    connection.pem     private key ‖ certificate        replaced as a whole: there is no moment with half of it
    connection.next    private key                      made, and on the disk, before a certificate for it is asked for
    connection.lock    held while one process renews

So whenever this machine stops, at least one of the two keys is the one that the hub knows.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from wardround.crypto import certificate, signing
from wardround.errors import ConfigError

__all__ = ["Credential", "bare", "commit", "load", "locked", "pending", "replace_private", "stage"]


@dataclass(frozen=True, slots=True, repr=False)
class Credential:
    """A connection's key and certificate. `path` is their file; None: there is a key and no certificate."""

    key: signing.PrivateKey
    certificate: bytes
    path: Path | None

    def expires(self) -> float:
        """When the certificate ends, in seconds since 1970-01-01 UTC."""
        return certificate.expires(self.certificate)

    def due(self, jitter: float) -> float:
        """When to renew: from the half of the certificate's life on, later by `jitter` (0 to 1) tenths of it."""
        start, end = certificate.issued(self.certificate), self.expires()
        return start + (0.5 + 0.1 * jitter) * (end - start)


def bare(key: signing.PrivateKey) -> Credential:
    """A key without a certificate, for a hub whose proxy asks for none."""
    return Credential(key, b"", None)


def load(path: Path) -> Credential:
    """Read a credential's file.

    Raises:
        ConfigError: It is not there, or others can read it.
        CryptoError: There is no key or certificate in it.
    """
    if not path.is_file():
        raise ConfigError(f"there is no key for connections in {path}; enrol again, or restore it from a backup")
    if path.stat().st_mode & 0o077:
        raise ConfigError(f"{path} can be read by others; run: chmod 600 {path}")
    data = path.read_bytes()
    return Credential(signing.load_private(data), certificate.split(data)[0], path)


def stage(path: Path) -> signing.PrivateKey:
    """The next key for the credential in `path`: the one that waits already, or a new one, on the disk."""
    waiting = pending(path)
    if waiting is not None:
        return waiting
    key = signing.generate()
    replace_private(_next(path), signing.private_pem(key))
    return key


def pending(path: Path) -> signing.PrivateKey | None:
    """The next key, if one waits for its certificate."""
    try:
        waiting = signing.load_private(_next(path).read_bytes())
    except FileNotFoundError:
        return None
    if path.is_file() and _public(load(path).key) == _public(waiting):
        return None  # Its certificate came; this machine stopped before the file was removed.
    return waiting


def commit(path: Path, key: signing.PrivateKey, issued: bytes) -> Credential:
    """Put a key and its certificate in the place of those in `path`.

    Raises:
        CryptoError: The certificate is for another key.
    """
    replace_private(path, signing.private_pem(key) + issued)
    _next(path).unlink(missing_ok=True)
    return Credential(key, issued, path)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """While only this process renews the credential in `path`."""
    descriptor = os.open(path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def replace_private(path: Path, data: bytes) -> None:
    """Write a file that only its owner reads, in the place of an older one; on the disk when this returns."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    with suppress(FileNotFoundError):
        beside.unlink()
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _next(path: Path) -> Path:
    return path.with_suffix(".next")


def _public(key: signing.PrivateKey) -> bytes:
    return signing.public_bytes(key.public_key())
