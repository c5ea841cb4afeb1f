"""Key-encryption keys in files of 32 raw bytes, each readable by its owner only.

    keys/state.key       version 1; by itself it is a node's state key, as nodes have it that never rotated
    keys/state.key.2     version 2, and so on

A key in a file is as safe as the file: whoever reads the disk of a running node has it. Destroying a version writes
zeros over it before its name goes; a file system that copies on write, a snapshot or a flash disk may keep the bytes.
"""

import os
import tempfile
from pathlib import Path
from typing import Final

from wardround.crypto import seal
from wardround.errors import ConfigError, CryptoError
from wardround.storage import fault

__all__ = ["FileKeyStore", "HeldKeyStore", "read_private", "write_durably"]

_CONTEXT: Final = b"wardround key ring\n"
_MOST_VERSION = 1_000_000


class FileKeyStore:
    """Fills `wardround.ports.KeyStore` with files beside `path`, which is version 1."""

    name = "file"

    def __init__(self, path: Path) -> None:
        self._path = path

    def bare(self) -> bytes | None:
        """The 32 bytes of version 1, which sealed a node's state before it had a ring; None where there is no file.

        Raises:
            ConfigError: Others can read the file.
            CryptoError: It has not 32 bytes.
        """
        return self._key(1) if self._path.exists() else None

    def versions(self) -> tuple[int, ...]:
        """See `wardround.ports.KeyStore`."""
        found = [1] if self._path.exists() else []
        for other in self._path.parent.glob(f"{self._path.name}.*"):
            suffix = other.name.removeprefix(f"{self._path.name}.")
            if suffix.isdecimal() and suffix == str(int(suffix)) and 1 < int(suffix) <= _MOST_VERSION:
                found.append(int(suffix))
        return tuple(sorted(found))

    def wrap(self, key: bytes, context: bytes) -> tuple[int, bytes]:
        """See `wardround.ports.KeyStore`."""
        versions = self.versions()
        if not versions:
            raise CryptoError(f"there is no key in {self._path}; restore it: wardround keys restore")
        nonce = os.urandom(seal.NONCE_BYTES)
        return versions[-1], seal.seal(key, self._key(versions[-1]), nonce=nonce, context=_CONTEXT + context)

    def unwrap(self, wrapped: bytes, version: int, context: bytes) -> bytes:
        """See `wardround.ports.KeyStore`."""
        return seal.open_sealed(wrapped, self._key(version), context=_CONTEXT + context)

    def rotate(self, above: int) -> int:
        """See `wardround.ports.KeyStore`."""
        version = max(above, *self.versions(), 0) + 1
        write_durably(self._file(version), os.urandom(seal.KEY_BYTES))
        return version

    def destroy(self, version: int) -> None:
        """See `wardround.ports.KeyStore`."""
        path = self._file(version)
        try:
            if not path.exists():
                return
            descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.write(descriptor, bytes(seal.KEY_BYTES))
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            path.unlink()
            _sync(path.parent)
        except OSError as error:
            raise fault.from_os(error) from None

    def _key(self, version: int) -> bytes:
        path = self._file(version)
        if not path.exists():
            raise CryptoError(f"version {version} of the key {self._path.name} is gone")
        key = read_private(path)
        if len(key) != seal.KEY_BYTES:
            raise CryptoError(f"{path} must hold {seal.KEY_BYTES} raw bytes and holds {len(key)}")
        return key

    def _file(self, version: int) -> Path:
        return self._path if version == 1 else self._path.with_name(f"{self._path.name}.{version}")


class HeldKeyStore:
    """One key that is given, such as one from the environment: it opens and seals, and cannot be rotated."""

    name = "given"

    def __init__(self, key: bytes) -> None:
        if len(key) != seal.KEY_BYTES:
            raise CryptoError(f"a state key has {seal.KEY_BYTES} bytes, this has {len(key)}")
        self._key = key

    def bare(self) -> bytes | None:
        """The key itself."""
        return self._key

    def versions(self) -> tuple[int, ...]:
        """See `wardround.ports.KeyStore`."""
        return (1,)

    def wrap(self, key: bytes, context: bytes) -> tuple[int, bytes]:
        """See `wardround.ports.KeyStore`."""
        return 1, seal.seal(key, self._key, nonce=os.urandom(seal.NONCE_BYTES), context=_CONTEXT + context)

    def unwrap(self, wrapped: bytes, version: int, context: bytes) -> bytes:
        """See `wardround.ports.KeyStore`."""
        if version != 1:
            raise CryptoError(f"version {version} of the given key is gone")
        return seal.open_sealed(wrapped, self._key, context=_CONTEXT + context)

    def rotate(self, above: int) -> int:
        """See `wardround.ports.KeyStore`."""
        raise ConfigError(
            f"a key that is given by env: has no version above {above}; name a file:, pkcs11: or kms: key in state_key"
        )

    def destroy(self, version: int) -> None:
        """See `wardround.ports.KeyStore`."""
        raise ConfigError(f"version {version} of a key that is given by env: is destroyed where it is kept")


def read_private(path: Path) -> bytes:
    """The bytes of a file that only its owner reads.

    Raises:
        ConfigError: It is not there, or others can read it.
    """
    try:
        if path.stat().st_mode & 0o077:
            raise ConfigError(f"{path} can be read by others; run: chmod 600 {path}")
        return path.read_bytes()
    except FileNotFoundError:
        raise ConfigError(f"the secret {path} is not there") from None
    except OSError as error:
        raise fault.from_os(error) from None


def write_durably(path: Path, data: bytes) -> None:
    """Write or replace a file that only its owner reads; whole or not at all, and on the disk when this returns.

    Raises:
        ConfigError: The folder cannot be written.
        StorageFullError: The disk is full; what was there stays.
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor, part = tempfile.mkstemp(suffix=".part", prefix=f".{path.name}-", dir=path.parent)
        try:
            try:
                written = 0
                while written < len(data):
                    written += os.write(descriptor, data[written:])
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            os.replace(part, path)  # noqa: PTH105, the crash tests stop every call of `os` by name
        except BaseException:
            Path(part).unlink(missing_ok=True)
            raise
        _sync(path.parent)
    except OSError as error:
        raise fault.from_os(error) from None


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
