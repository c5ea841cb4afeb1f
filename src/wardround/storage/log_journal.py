"""A journal of entries that were acknowledged and are in no tile yet: what a crash leaves of a log's last second.

    record    u64 first index || u32 count || u32 length || SHA-256(those 16 bytes || payload) || payload

`append` writes one record and syncs once; so a group of entries from many threads costs one sync. A record that a
crash tore was never acknowledged, and is cut off. A damaged record that others follow was, and is an error.
"""

import hashlib
import hmac
import os
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from wardround.audit import tile
from wardround.errors import AuditError, CodecError

__all__ = ["Journal"]

_HEAD: Final = struct.Struct(">QII")
_HEAD_BYTES: Final = _HEAD.size + 32
_MAX_RECORD: Final = 1 << 30


class Journal:
    """The journal in the file `path`; its owner holds the lock that keeps others away. Raises plain `OSError`."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._end = 0
        self.torn_bytes = 0

    def replay(self) -> list[tuple[int, list[bytes]]]:
        """Every whole record, first index and entries; what a crash tore off behind them is cut away.

        Raises:
            AuditError: A record in the middle is damaged.
        """
        data = b"".join(self._pieces())
        records: list[tuple[int, list[bytes]]] = []
        offset = 0
        while (record := _record(data, offset)) is not None:
            first, entries, offset = record
            records.append((first, entries))
        if _is_followed(data, offset):
            raise AuditError("the log's journal is damaged before its end: entries that were acknowledged are lost")
        self.torn_bytes = len(data) - offset
        if self.torn_bytes:
            os.ftruncate(self._file, offset)
            os.fsync(self._file)
        self._end = offset
        return records

    def append(self, first: int, entries: Sequence[bytes]) -> None:
        """Write entries as one record; they are durable when this returns.

        Where it raises, call `cut` before the next `append`, and give up where `cut` raises too.
        """
        payload = tile.encode_bundle(entries)
        head = _HEAD.pack(first, len(entries), len(payload))
        data = memoryview(head + hashlib.sha256(head + payload).digest() + payload)
        offset = self._end
        while data:
            count = os.pwrite(self._file, data, offset)
            data, offset = data[count:], offset + count
        os.fdatasync(self._file)
        self._end = offset

    def cut(self) -> None:
        """Cut off what a failed `append` left."""
        os.ftruncate(self._file, self._end)
        os.fsync(self._file)

    def clear(self) -> None:
        """Forget everything: tiles hold it now."""
        os.ftruncate(self._file, 0)
        os.fdatasync(self._file)
        self._end = 0

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)

    def _pieces(self) -> list[bytes]:
        pieces, offset = [], 0
        while piece := os.pread(self._file, 1 << 20, offset):
            pieces.append(piece)
            offset += len(piece)
        return pieces


def _record(data: bytes, offset: int) -> tuple[int, list[bytes], int] | None:
    start = offset + _HEAD_BYTES
    if start > len(data):
        return None
    head = data[offset : offset + _HEAD.size]
    first, count, length = _HEAD.unpack(head)
    stop = start + length
    if not count or length > _MAX_RECORD or stop > len(data):
        return None
    if not hmac.compare_digest(hashlib.sha256(head + data[start:stop]).digest(), data[offset + _HEAD.size : start]):
        return None
    try:
        return first, tile.decode_bundle(data[start:stop], count), stop
    except CodecError:
        return None


def _is_followed(data: bytes, offset: int) -> bool:
    """Whether a whole record stands behind the damaged one at `offset`."""
    if offset + _HEAD_BYTES > len(data):
        return False
    length = _HEAD.unpack_from(data, offset)[2]
    return _record(data, offset + _HEAD_BYTES + length) is not None
