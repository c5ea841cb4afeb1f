"""Files that only their owner reads, and the clock and entropy of this machine."""

import os
import secrets
import time
from pathlib import Path

from wardround.errors import ConfigError

__all__ = ["SystemClock", "SystemEntropy", "private_folder", "write_private"]


class SystemClock:
    """This machine's clock; fills `wardround.ports.Clock`."""

    def now(self) -> float:
        """Seconds since 1970-01-01 UTC."""
        return time.time()


class SystemEntropy:
    """The operating system's generator; fills `wardround.ports.Entropy`."""

    def draw(self, size: int) -> bytes:
        """`size` unpredictable bytes."""
        return secrets.token_bytes(size)


def private_folder(path: Path) -> Path:
    """Make a folder that only its owner enters."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    return path


def write_private(path: Path, data: bytes) -> None:
    """Write a new file that only its owner reads.

    Raises:
        ConfigError: The file exists: it is never overwritten.
    """
    private_folder(path.parent)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise ConfigError(f"{path} exists already and is not overwritten; choose another folder") from None
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
