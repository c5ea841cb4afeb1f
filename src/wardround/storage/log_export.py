"""A whole log in one zip file or one folder, for an auditor: the files as they are, and the policy of keys.

    policy    checkpoint    checkpoint.witnessed    tile/...

Reading trusts nothing: only names that a log has are read, every file has a bound, a zip holds each name once and
stores it uncompressed, and nothing is unpacked anywhere.
"""

import errno
import os
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from wardround.audit import checkpoint as checkpoints
from wardround.audit import log_rules, note, tile, witness_policy
from wardround.audit.tile import Read
from wardround.audit.verification import CHECKPOINT, POLICY, WITNESSED
from wardround.errors import AuditError, CodecError, ConfigError
from wardround.storage import durable_file, fault

__all__ = ["opened", "write_export"]

_MAX_FILES: Final = 2_000_000
_ZIP_FAULTS: Final = (
    zipfile.BadZipFile,
    zipfile.LargeZipFile,
    EOFError,
    RuntimeError,
    ValueError,
    OverflowError,
    struct.error,
    zlib.error,
)
"""What Python's zip reader raises for damaged or hostile files, encrypted ones included."""
_EPOCH: Final = (1980, 1, 1, 0, 0, 0)


def write_export(folder: Path, target: Path, *, policy: str) -> int:
    """Copy the log in `folder` under its newest checkpoint to `target`, a new zip file or, without .zip, a new folder.

    A log that is being written may be copied: what belongs to a checkpoint does not change any more.

    Returns:
        The number of entries.

    Raises:
        AuditError: There is no log, or it is not whole.
        ConfigError: `target` exists or cannot be written.
        StorageFullError: The disk is full.
    """
    witness_policy.parse_policy(policy)
    if target.exists():
        raise ConfigError(f"{target} exists already and is not overwritten; choose another place")
    with opened(folder) as read, durable_file.translated():
        newest = _need(read, CHECKPOINT)
        size = checkpoints.parse(newest).checkpoint.size
        if target.suffix == ".zip":
            with zipfile.ZipFile(target, "x", zipfile.ZIP_STORED) as archive:
                for path, data in _files(read, size, newest, policy):
                    archive.writestr(zipfile.ZipInfo(path, _EPOCH), data)
        else:
            for path, data in _files(read, size, newest, policy):
                (target / path).parent.mkdir(parents=True, exist_ok=True)
                durable_file.write(target / path, data)
    return size


@contextmanager
def opened(place: Path) -> Iterator[Read]:
    """Read a log's folder, an export's folder or an export's zip file.

    Raises:
        CodecError: It is none of them, or holds what no export holds.
        ConfigError: It is not there, or cannot be read.
    """
    if place.is_dir():
        yield lambda path: _read_file(place, path)
        return
    with durable_file.translated(), _zip_faults():
        archive = zipfile.ZipFile(place)
    with archive:
        members = _members(archive)
        yield lambda path: _read_member(archive, members, path)


def _files(read: Read, size: int, newest: bytes, policy: str) -> Iterator[tuple[str, bytes]]:
    yield POLICY, policy.encode()
    yield CHECKPOINT, newest
    witnessed = read(WITNESSED)
    # Witnesses may have signed a checkpoint that is newer than the one that was read: then it is left out.
    if witnessed is not None and checkpoints.parse(witnessed).checkpoint.size <= size:
        yield WITNESSED, witnessed
    for path in tile.paths(size):
        yield path, _need_tile(read, path)


def _need(read: Read, path: str) -> bytes:
    data = read(path)
    if data is None:
        raise AuditError(f"{path} is missing: this is no log, or it was cut off")
    return data


def _need_tile(read: Read, path: str) -> bytes:
    """A tile or bundle; where a partial one has been replaced by a full one meanwhile, the beginning of that."""
    whole, _, width = path.partition(".p/")
    data = read(path)
    if data is not None or not width:
        return _need(read, path) if data is None else data
    full = _need(read, whole)
    if path.startswith("tile/entries/"):
        return tile.encode_bundle(tile.decode_bundle(full, tile.WIDTH)[: int(width)])
    return full[: int(width) * tile.HASH_BYTES]


def _limit(path: str) -> int:
    if path == POLICY:
        return witness_policy.MAX_POLICY_BYTES
    if not tile.is_path(path):
        return note.MAX_NOTE_BYTES
    return tile.MAX_BUNDLE_BYTES if path.startswith("tile/entries/") else tile.MAX_TILE_BYTES


def _read_file(place: Path, path: str) -> bytes | None:
    if not log_rules.is_log_file(path):
        return None
    try:
        file = os.open(place / path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise fault.from_os(error) from None
    with os.fdopen(file, "rb") as opened_file, durable_file.translated():
        data = opened_file.read(_limit(path) + 1)
    if len(data) > _limit(path):
        raise AuditError(f"{path} is larger than it can be")
    return data


def _members(archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    infos = archive.infolist()
    members = {info.filename: info for info in infos}
    if len(infos) > _MAX_FILES or len(members) != len(infos):
        raise CodecError("an export holds each file once, and not more than a log can have")
    for path, info in members.items():
        if not log_rules.is_log_file(path) or info.compress_type != zipfile.ZIP_STORED or info.file_size > _limit(path):
            raise CodecError("an export holds only a log's files, uncompressed and within their bounds")
    return members


def _read_member(archive: zipfile.ZipFile, members: dict[str, zipfile.ZipInfo], path: str) -> bytes | None:
    if path not in members:
        return None
    with durable_file.translated(), _zip_faults(), archive.open(members[path]) as file:
        return file.read(_limit(path) + 1)


@contextmanager
def _zip_faults() -> Iterator[None]:
    try:
        yield
    except (*_ZIP_FAULTS, OSError) as error:
        # A damaged directory makes the reader seek to where no file goes; any other fault is the disk's.
        if isinstance(error, OSError) and error.errno != errno.EINVAL:
            raise
        raise CodecError(f"this is no export of a log: its zip file is damaged ({type(error).__name__})") from None
