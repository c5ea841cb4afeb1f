"""A second note of where a node's privacy ledgers end: small plain files beside the vault's.

A vault that is put back to an earlier state takes its own note of the end with it; these files stay, and are ahead.
Not detected: a whole state folder replaced by an older copy.
"""

import os
import tempfile
from pathlib import Path

from wardround.storage import fault

__all__ = ["BudgetAnchor"]


class BudgetAnchor:
    """Fills `wardround.ports.Anchor` with files ``<name>.anchor`` in a folder; threads and processes may share it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def get(self, name: str) -> bytes | None:
        """The value, or None.

        Raises:
            ConfigError: The file may not be read.
            UnavailableError: The disk did not answer.
        """
        try:
            return self._path(name).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise fault.from_os(error) from None

    def put(self, name: str, value: bytes) -> None:
        """Store or replace a value; it survives a crash when this returns.

        Raises:
            ConfigError: The folder may not be written.
            StorageFullError: The disk is full; the old value stays.
            UnavailableError: The disk did not answer; the old value stays.
        """
        try:
            descriptor, part = tempfile.mkstemp(suffix=".part", prefix=name, dir=self._folder)
            try:
                with os.fdopen(descriptor, "wb") as file:
                    file.write(value)
                    file.flush()
                    os.fsync(file.fileno())
                Path(part).replace(self._path(name))
            except BaseException:
                Path(part).unlink(missing_ok=True)
                raise
            self._sync()
        except OSError as error:
            raise fault.from_os(error) from None

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}.anchor"

    def _sync(self) -> None:
        descriptor = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
