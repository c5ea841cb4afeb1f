"""Bundles on disk: written and read in pieces, so that a model of any size takes no memory.

`read` puts every part into a fresh private folder and gives it its name only when the whole bundle was checked; what
is refused leaves nothing behind.
"""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from wardround.crypto import signing
from wardround.errors import PackageError
from wardround.provenance import bundle
from wardround.provenance.bundle import Index, Part, Role
from wardround.storage import fault

__all__ = ["MAX_BUNDLE_BYTES", "read", "write"]

MAX_BUNDLE_BYTES = 64 * 1024**3
_PIECE = 1024 * 1024


def write(target: Path, index: Index, sources: Sequence[Path], key: signing.PrivateKey) -> None:
    """Write a new bundle; `sources` are the files of its parts, in their order.

    Raises:
        PackageError: The file exists, or a source is not the part that the index names.
        StorageFullError: The disk is full.
    """
    if target.exists():
        raise PackageError(f"{target.name} exists already and is not overwritten")
    part = target.with_name(f".{target.name}.part")
    try:
        with part.open("xb") as file:
            file.write(bundle.start(index, key))
            for named, source in zip(index.parts, sources, strict=True):
                with source.open("rb") as opened:
                    _copy(opened, file, named, most=named.size + 1)
            file.flush()
            os.fsync(file.fileno())
        part.rename(target)
    except OSError as error:
        raise fault.from_os(error) from None
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def read(source: Path, key_of: Callable[[Index], signing.PublicKey]) -> Iterator[tuple[Index, dict[Role, Path]]]:
    """A bundle from outside, wholly checked, and a file for each of its parts while the context lasts.

    Args:
        source: The file.
        key_of: The public key of whom the index names as exporter; may refuse by raising.

    Raises:
        PackageError: Not a bundle, cut off, too large, or with something after its end.
        SignatureError: Not signed by that key.
        DigestMismatchError: A part is not the one that the index names.
        StorageFullError: The disk is full.
    """
    try:
        folder = Path(tempfile.mkdtemp(prefix="wardround-bundle-"))
        try:
            with source.open("rb") as file:
                found = _parts(file, folder, key_of)
            yield found
        finally:
            shutil.rmtree(folder)
    except OSError as error:
        raise fault.from_os(error) from None


def _parts(
    file: BinaryIO, folder: Path, key_of: Callable[[Index], signing.PublicKey]
) -> tuple[Index, dict[Role, Path]]:
    if _exactly(file, len(bundle.MAGIC)) != bundle.MAGIC:
        raise PackageError("this file is no bundle, or one of a version that this program does not know")
    size = int.from_bytes(_exactly(file, 8), "big")
    if size > bundle.MAX_INDEX_BYTES:
        raise PackageError(f"a bundle's index may have {bundle.MAX_INDEX_BYTES} bytes")
    encoded = _exactly(file, size)
    index = bundle.unverified_index(encoded)
    bundle.verify(encoded, _exactly(file, bundle.SIGNATURE_BYTES), key_of(index))
    if sum(part.size for part in index.parts) > MAX_BUNDLE_BYTES:
        raise PackageError(f"a bundle may hold {MAX_BUNDLE_BYTES} bytes")
    found: dict[Role, Path] = {}
    for place, part in enumerate(index.parts):
        found[part.role] = folder / str(place)
        with found[part.role].open("xb") as target:
            _copy(file, target, part, most=part.size)
    if file.read(1):
        raise PackageError("the bundle has something after its last part")
    return index, found


def _copy(source: BinaryIO, target: BinaryIO, part: Part, *, most: int) -> None:
    digest, left = hashlib.sha256(), most
    while left and (piece := source.read(min(_PIECE, left))):
        digest.update(piece)
        target.write(piece)
        left -= len(piece)
    bundle.check_part(part, most - left, digest.digest())


def _exactly(file: BinaryIO, size: int) -> bytes:
    data = file.read(size)
    if len(data) != size:
        raise PackageError("the bundle is cut off: copy the file again")
    return data
