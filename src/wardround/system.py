"""Files that only their owner reads, and the clock and entropy of this machine."""

import ctypes
import os
import secrets
import time
from pathlib import Path

from wardround.errors import ConfigError

__all__ = ["SystemClock", "SystemEntropy", "private_folder", "tune_allocator", "write_private"]


_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_KEPT_BYTES = 32 * 1024 * 1024


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


def tune_allocator() -> None:
    """Let the C allocator keep large buffers for the next time, where it is glibc's.

    By default every buffer above 128 KiB is mapped afresh and its pages zeroed; pieces of a model that
    pass through then cost more than encrypting them. With these thresholds they are reused.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _KEPT_BYTES)
        mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)


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
