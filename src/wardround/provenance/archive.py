"""One zip for one set of files, byte for byte: what a code package is stored and named as.

`write` is a pure function of the files: names in order, no compression, one fixed time and mode. `read` accepts only
what `write` gives, so that a package has one spelling: no comment, no second entry of a name, no bytes between entries
that one program reads and another does not, no compression and hence no bomb.

Names are relative, of ASCII letters, digits and ``_ - .``; no name differs from another by case alone.
"""

import io
import re
import zipfile
from collections.abc import Mapping

from wardround.errors import PackageError

__all__ = ["MAX_ARCHIVE_BYTES", "MAX_BYTES", "MAX_FILES", "read", "write"]

MAX_FILES = 1000
MAX_BYTES = 8 * 1024 * 1024
"""Of all files together."""
MAX_ARCHIVE_BYTES = MAX_BYTES + 1024 * 1024

_NAME = re.compile(r"(?:[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}/){0,8}[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")
_BROKEN = (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, ValueError, OSError, OverflowError)


def write(files: Mapping[str, bytes]) -> bytes:
    """The archive of `files` by name.

    Raises:
        PackageError: No file, too many, too many bytes, or a name that none may have.
    """
    _check(files)
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(files):
            entry = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            entry.create_system, entry.external_attr = 3, 0o644 << 16
            archive.writestr(entry, files[name])
    return target.getvalue()


def read(data: bytes) -> dict[str, bytes]:
    """The files of an archive from outside, by name.

    Raises:
        PackageError: Too large, or not exactly what `write` makes of what is in it.
    """
    if len(data) > MAX_ARCHIVE_BYTES:
        raise PackageError(f"a package may have {MAX_ARCHIVE_BYTES} bytes, this has {len(data)}")
    files: dict[str, bytes] = {}
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = archive.infolist()
            if len(entries) > MAX_FILES:
                raise PackageError(f"a package has at most {MAX_FILES} files")
            left = MAX_BYTES
            for entry in entries:
                if entry.compress_type != zipfile.ZIP_STORED:
                    raise PackageError("a package is not compressed: build it with `wardround package build`")
                # Read to a bound of our own: the size in the header is the sender's claim.
                with archive.open(entry) as file:
                    files[entry.filename] = file.read(left + 1)
                left -= len(files[entry.filename])
                if left < 0:
                    raise PackageError(f"a package may hold {MAX_BYTES} bytes")
    except _BROKEN:
        raise PackageError("the package is not a readable zip file") from None
    if write(files) != data:
        raise PackageError("the package is not in its one form: build it with `wardround package build`")
    return files


def _check(files: Mapping[str, bytes]) -> None:
    if not files or len(files) > MAX_FILES or sum(map(len, files.values())) > MAX_BYTES:
        raise PackageError(f"a package has 1 to {MAX_FILES} files of at most {MAX_BYTES} bytes together")
    if not all(_NAME.fullmatch(name) for name in files):
        raise PackageError("a package's names are relative, of letters, digits and _ - . only")
    if len({name.lower() for name in files}) != len(files):
        raise PackageError("two names of a package differ by case alone")
    folders = {name[: place.start()] for name in files for place in re.finditer("/", name)}
    if folders & files.keys():
        raise PackageError("a name of a package is a file and a folder at once")
