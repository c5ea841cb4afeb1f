"""Tiles: the tree in files of 256 hashes, and the entries in bundles of 256, as any web server can serve them.

    tile/<L>/<N>[.p/<W>]       up to 256 hashes of the perfect subtrees (8 L, 256 N …), 32 bytes each
    tile/entries/<N>[.p/<W>]   up to 256 entries, each behind its length as two bytes, big-endian

`N` is written in groups of three digits, all but the last behind an x: 1234067 is ``x001/x234/067``. A tile of fewer
than 256 hashes is partial and carries its width `W`.

References:
    C2SP tlog-tiles. https://c2sp.org/tlog-tiles
"""

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from wardround.audit import merkle
from wardround.errors import AuditError, CodecError

__all__ = [
    "HASH_BYTES",
    "LOG2_WIDTH",
    "MAX_BUNDLE_BYTES",
    "MAX_ENTRY_BYTES",
    "MAX_TILE_BYTES",
    "WIDTH",
    "Read",
    "bundle_path",
    "decode_bundle",
    "encode_bundle",
    "is_path",
    "paths",
    "read_whole",
    "subtree_reader",
    "tile_path",
    "width_at",
]

HASH_BYTES: Final = 32
WIDTH: Final = 256
LOG2_WIDTH: Final = 8
MAX_ENTRY_BYTES: Final = 65_535
MAX_TILE_BYTES: Final = WIDTH * HASH_BYTES
MAX_BUNDLE_BYTES: Final = WIDTH * (2 + MAX_ENTRY_BYTES)
_PATH: Final = re.compile(
    r"tile/(?:entries|[0-9]|[1-5][0-9]|6[0-3])/(?:x[0-9]{3}/){0,6}[0-9]{3}"
    r"(?:\.p/(?:[1-9][0-9]?|1[0-9]{2}|2[0-4][0-9]|25[0-5]))?"
)

Read = Callable[[str], bytes | None]
"""The bytes of a file of the log by its path, or None where there is none."""


def is_path(path: str) -> bool:
    """Whether `path` names a tile or bundle: nothing that could reach outside a log's folder."""
    return _PATH.fullmatch(path) is not None


def width_at(level: int, index: int, size: int) -> int:
    """How many hashes tile ``(level, index)`` has in a log of `size`: 0 to 256."""
    held = size >> (LOG2_WIDTH * level)
    return max(0, min(WIDTH, held - index * WIDTH))


def tile_path(level: int, index: int, width: int) -> str:
    """The path of a tile.

    Raises:
        ValueError: There is no such tile.
    """
    if not 0 <= level <= 63:
        raise ValueError(f"a tile's level is 0 to 63, got {level}")
    return f"tile/{level}/{_numbered(index, width)}"


def bundle_path(index: int, width: int) -> str:
    """The path of a bundle of entries.

    Raises:
        ValueError: There is no such bundle.
    """
    return f"tile/entries/{_numbered(index, width)}"


def _numbered(index: int, width: int) -> str:
    if index < 0 or not 1 <= width <= WIDTH:
        raise ValueError(f"a tile has an index from 0 and a width from 1 to {WIDTH}, got {index} and {width}")
    digits = f"{index % 1000:03}"
    while index := index // 1000:
        digits = f"x{index % 1000:03}/{digits}"
    return digits if width == WIDTH else f"{digits}.p/{width}"


def paths(size: int) -> Iterator[str]:
    """Every file of a log of `size` but the checkpoint, each in its largest width."""
    for index in range(-(-size // WIDTH)):
        yield bundle_path(index, width_at(0, index, size))
    level = 0
    while held := size >> (LOG2_WIDTH * level):
        for index in range(-(-held // WIDTH)):
            yield tile_path(level, index, width_at(level, index, size))
        level += 1


def encode_bundle(entries: Sequence[bytes]) -> bytes:
    """Entries behind their lengths.

    Raises:
        CodecError: An entry is longer than two bytes can say.
    """
    if any(len(entry) > MAX_ENTRY_BYTES for entry in entries):
        raise CodecError(f"an entry has {MAX_ENTRY_BYTES} bytes at most: log digests, not contents")
    return b"".join([part for entry in entries for part in (len(entry).to_bytes(2, "big"), entry)])


def decode_bundle(data: bytes, width: int) -> list[bytes]:
    """The `width` entries of a bundle.

    Raises:
        CodecError: It holds more, fewer, or a piece of one.
    """
    entries, offset = [], 0
    for _ in range(width):
        start = offset + 2
        offset = start + int.from_bytes(data[offset:start], "big")
        if start > len(data) or offset > len(data):
            raise CodecError(f"a bundle ends before its {width} entries do: it was cut off")
        entries.append(data[start:offset])
    if offset != len(data):
        raise CodecError(f"a bundle holds more than its {width} entries")
    return entries


def read_whole(read: Read, level: int, index: int, size: int) -> bytes:
    """The hashes of a tile as a log of `size` has it, from its partial file or from one that has grown since.

    Raises:
        AuditError: It is not there, or has another length.
    """
    width = width_at(level, index, size)
    if width == 0:
        raise AuditError(f"a log of {size} entries has no tile {index} at level {level}")
    for candidate in dict.fromkeys((width, WIDTH)):
        data = read(tile_path(level, index, candidate))
        if data is not None:
            if len(data) != candidate * HASH_BYTES:
                raise AuditError(f"{tile_path(level, index, candidate)} has {len(data)} bytes: it was cut or altered")
            return data[: width * HASH_BYTES]
    raise AuditError(f"{tile_path(level, index, width)} is missing: the log was cut off, or is not whole")


def subtree_reader(read: Read, size: int) -> merkle.Subtrees:
    """The perfect subtrees of a log of `size`, read from its tiles; each tile is read once.

    Raises:
        AuditError: A tile is missing, or has another length (when the function is called).
    """
    tiles: dict[tuple[int, int], bytes] = {}

    def tile(level: int, index: int) -> bytes:
        if (level, index) not in tiles:
            tiles[level, index] = read_whole(read, level, index, size)
        return tiles[level, index]

    def subtree(level: int, index: int) -> bytes:
        row, rest = divmod(level, LOG2_WIDTH)
        first = index << rest
        number, place = divmod(first, WIDTH)
        data = tile(row, number)
        stop = (place + (1 << rest)) * HASH_BYTES
        if stop > len(data):
            raise AuditError(f"a log of {size} entries has no subtree of {1 << level} at {index}")
        return merkle.perfect_root([data[i : i + HASH_BYTES] for i in range(place * HASH_BYTES, stop, HASH_BYTES)])

    return subtree
