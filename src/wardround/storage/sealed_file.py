"""Sealed files: large objects at rest, each under a key of its own that lies wrapped in front of it.

    file = "WRDSEAL1" (8) || wrapped object key (65) || prefix (7) || segment bytes (4, big-endian) || STREAM

All before the stream is authenticated with every segment of it, and so is the file's place. A file is written beside
its name and renamed once it is on the disk, so a name always has a whole file. Memory is three segments.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Final

from wardround.crypto import envelope, stream
from wardround.crypto.envelope import Place
from wardround.errors import CryptoError
from wardround.storage.vault import Keys

__all__ = ["HEAD_BYTES", "is_sealed", "plain_size", "read", "sealed_under", "write"]

_MAGIC: Final = b"WRDSEAL1"
_PREFIX_AT = len(_MAGIC) + envelope.WRAPPED_BYTES
_SEGMENT_AT = _PREFIX_AT + stream.PREFIX_BYTES
HEAD_BYTES: Final = _SEGMENT_AT + 4


def write(path: Path, pieces: Iterable[memoryview], keys: Keys, *, place: Place) -> None:
    """Seal pieces into a new or replaced file; durable when this returns.

    Raises:
        OSError: The disk is full, or did not answer; what was there stays.
        CryptoError: The key is gone.
    """
    number, object_key = keys.current, os.urandom(envelope.KEY_BYTES)
    wrapped = envelope.wrap(
        object_key, keys.key(number), number=number, nonce=os.urandom(envelope.NONCE_BYTES), place=place
    )
    prefix = os.urandom(stream.PREFIX_BYTES)
    head = _MAGIC + wrapped + prefix + stream.SEGMENT_BYTES.to_bytes(4, "big")
    part = path.with_name(f"{path.name}.part")
    try:
        with open(part, "wb", opener=_private) as file:
            file.write(head)
            file.writelines(stream.seal_stream(pieces, object_key, prefix=prefix, aad=head + place.context()))
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def read(path: Path, keys: Keys, *, place: Place) -> Iterator[memoryview]:
    """What a file holds, piece by piece; each is valid until the next is asked for.

    Raises:
        OSError: The file cannot be read.
        CryptoError: It was altered, cut short or moved; drop what was given before.
    """
    with path.open("rb", buffering=0) as file:
        head = file.read(HEAD_BYTES)
        if len(head) != HEAD_BYTES or not head.startswith(_MAGIC):
            raise CryptoError(f"{path.name} is no sealed file")
        object_key = envelope.unwrap(head[len(_MAGIC) : _PREFIX_AT], keys.key, place=place)
        segment = int.from_bytes(head[_SEGMENT_AT:], "big")
        if not 1 <= segment <= stream.MAX_SEGMENT_BYTES:
            raise CryptoError(f"{path.name} has segments of a size that none has")
        yield from stream.open_stream(
            _pieces(file.readinto, segment + stream.TAG_BYTES),
            object_key,
            prefix=head[_PREFIX_AT:_SEGMENT_AT],
            aad=head + place.context(),
            segment_bytes=segment,
        )


def plain_size(path: Path) -> int:
    """How many bytes a file holds, unverified.

    Raises:
        OSError: The file cannot be read.
        CryptoError: It is no sealed file, or was cut short.
    """
    with path.open("rb", buffering=0) as file:
        head = file.read(HEAD_BYTES)
    segment = int.from_bytes(head[_SEGMENT_AT:], "big")
    if len(head) != HEAD_BYTES or not head.startswith(_MAGIC) or not 1 <= segment <= stream.MAX_SEGMENT_BYTES:
        raise CryptoError(f"{path.name} is no sealed file")
    return stream.plain_bytes(path.stat().st_size - HEAD_BYTES, segment_bytes=segment)


def is_sealed(path: Path) -> bool:
    """Whether a file says that it is sealed."""
    with path.open("rb", buffering=0) as file:
        return file.read(len(_MAGIC)) == _MAGIC


def sealed_under(path: Path) -> int:
    """The number of the ring's key under which a file's own key is wrapped, unverified.

    Raises:
        CryptoError: It is no sealed file.
    """
    with path.open("rb", buffering=0) as file:
        head = file.read(HEAD_BYTES)
    if len(head) != HEAD_BYTES or not head.startswith(_MAGIC):
        raise CryptoError(f"{path.name} is no sealed file")
    return envelope.number_of(head[len(_MAGIC) : _PREFIX_AT])


def _pieces(readinto: Callable[[memoryview], int | None], size: int) -> Iterator[memoryview]:
    buffer = memoryview(bytearray(size))
    while count := readinto(buffer):
        yield buffer[:count]


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
