"""Files whose content survives a crash once the call returns. Raises plain `OSError`; `translated` makes it ours."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from wardround.storage import fault

__all__ = ["remove_folder", "sync_folder", "translated", "write"]


@contextmanager
def translated() -> Iterator[None]:
    """Turn a failing file into the error of ours that says who must act."""
    try:
        yield
    except OSError as error:
        raise fault.from_os(error) from None


def write(path: Path, data: bytes) -> None:
    """Write a file; its content is durable when this returns, its name once its folder is synced."""
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(file, view) :]
        os.fsync(file)
    finally:
        os.close(file)


def sync_folder(path: Path) -> None:
    """Make the names in a folder durable."""
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def remove_folder(path: Path) -> None:
    """Remove a folder of plain files, where there is one."""
    with suppress(FileNotFoundError):
        for entry in list(path.iterdir()):
            entry.unlink()
        path.rmdir()
