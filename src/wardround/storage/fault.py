"""What a failing disk or SQLite means: foreign errors become errors of `wardround.errors`.

No message repeats a foreign error's text, because a database quotes the values that it was given.
"""

import errno
import sqlite3

from wardround.errors import (
    ConfigError,
    ConflictError,
    DigestMismatchError,
    LocalProtocolError,
    StorageFullError,
    UnavailableError,
    WardroundError,
)

__all__ = ["check_range", "from_os", "from_sqlite", "is_full"]

# EFBIG: a file-size limit of the process or the file system; to its operator, the same thing.
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_MISPLACED = frozenset({errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP})
_FULL_TEXT = "no space is left where the state is kept: free some space; what was acknowledged is kept"

_SQLITE_UNIQUE = frozenset({sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY, sqlite3.SQLITE_CONSTRAINT_UNIQUE})
# SQLite calls ENOSPC "full", but a quota or a file-size limit only "write" or "shared memory size".
_SQLITE_FULL = frozenset({sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_WRITE, sqlite3.SQLITE_IOERR_SHMSIZE})
_SQLITE_MISPLACED = frozenset(
    {
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_CORRUPT,
        sqlite3.SQLITE_NOTADB,
        sqlite3.SQLITE_PERM,
        sqlite3.SQLITE_READONLY,
    }
)
_SQLITE_BUSY = frozenset(
    {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_NOMEM, sqlite3.SQLITE_INTERRUPT}
)
_PRIMARY_CODE = 0xFF


def is_full(error: OSError) -> bool:
    """Whether this is about space."""
    return error.errno in _FULL


def from_os(error: OSError) -> WardroundError:
    """The error of ours that says who must act about a failing file."""
    name = errno.errorcode.get(error.errno or 0, type(error).__name__)
    if is_full(error):
        return StorageFullError(_FULL_TEXT)
    if error.errno in _MISPLACED:
        return ConfigError(f"a file or folder of the state cannot be used ({name}): check its path, owner and mode")
    return UnavailableError(f"the disk did not answer as it should ({name})")


def from_sqlite(error: sqlite3.Error) -> WardroundError:
    """The error of ours that says who must act about a failing SQLite file."""
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_OK)
    name = getattr(error, "sqlite_errorname", type(error).__name__)
    if code in _SQLITE_UNIQUE:
        return ConflictError("another writer was first: load again and decide again")
    if code in _SQLITE_FULL:
        return StorageFullError(_FULL_TEXT)
    if code & _PRIMARY_CODE in _SQLITE_MISPLACED:
        return ConfigError(f"the database file cannot be used ({name}): check its path, owner and mode, or restore it")
    if code & _PRIMARY_CODE in _SQLITE_BUSY:
        return UnavailableError(f"the database did not answer in time ({name})")
    return LocalProtocolError(f"the database refused a statement ({name})")


def check_range(start: int, stop: int, held: int) -> None:
    """Refuse a range that the `held` bytes of a blob do not cover.

    Raises:
        ValueError: The range itself is not one.
        DigestMismatchError: The blob is shorter than its reader knows it to be.
    """
    if not 0 <= start <= stop:
        raise ValueError(f"a range must have 0 <= start <= stop, got {start} and {stop}")
    if stop > held:
        raise DigestMismatchError(
            f"bytes up to {stop} were asked for and {held} are there: the blob was truncated, fetch it again"
        )
