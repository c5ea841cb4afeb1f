"""Code packages: study code as one zip of Python sources, pinned by its digest.

`make` is a pure function of the sources: names in order, no compression, one fixed time, so the same
sources are the same bytes everywhere. A package's `factory` is called as

    factory(width: int, outputs: int) -> torch.nn.Module

with the number of feature columns and of numbers per record (one, or one per class).

Hazard: `read` parses bytes from outside, and `load` runs study code. Both belong in the worker process;
a node only compares the digest (`check_digest`). Sources are read into memory within bounds, whatever
the zip's headers claim, and imported from there: no path, no compiled code, no other kind of file.
"""

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import io
import re
import sys
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, cast

from wardround.codec import canonical
from wardround.errors import CodecError, DigestMismatchError
from wardround.protocol.plan import BlobRef

if TYPE_CHECKING:
    from torch import nn

__all__ = [
    "MAX_FILES",
    "MAX_PACKAGE_BYTES",
    "MAX_SOURCE_BYTES",
    "PLACE",
    "Factory",
    "check_digest",
    "from_folder",
    "load",
    "make",
    "read",
    "ref",
]

Factory = Callable[[int, int], "nn.Module"]
"""``factory(width, outputs)``."""

MAX_FILES = 1000
MAX_SOURCE_BYTES = 8 * 1024 * 1024
"""Of all sources together, unpacked."""
MAX_PACKAGE_BYTES = MAX_SOURCE_BYTES + 1024 * 1024

PLACE = "<study code>/"
"""What the file names of study code begin with, in tracebacks."""

_PATH = re.compile(r"(?:[A-Za-z_][A-Za-z0-9_]*/){0,8}[A-Za-z_][A-Za-z0-9_]*\.py")
_OURS = frozenset({"wardround", "torch", "numpy", "msgspec"})


def make(sources: Mapping[str, bytes]) -> bytes:
    """A package's bytes from sources by path (``model.py``, ``layers/attention.py``).

    Raises:
        CodecError: A name cannot be in a package, or there are too many files or bytes.
    """
    _check(sources)
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        for path in sorted(sources):
            entry = zipfile.ZipInfo(path, (1980, 1, 1, 0, 0, 0))
            entry.create_system, entry.external_attr = 3, 0o644 << 16
            archive.writestr(entry, sources[path])
    return target.getvalue()


def from_folder(folder: Path) -> bytes:
    """A package of all ``.py`` files below a folder.

    Raises:
        CodecError: A name cannot be in a package, or there are too many files or bytes.
        OSError: A file cannot be read.
    """
    return make({path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*.py"))})


def ref(package: bytes) -> BlobRef:
    """What a plan says about a package."""
    return BlobRef(canonical.digest(package), len(package))


def check_digest(package: bytes, expected: BlobRef) -> None:
    """Refuse other bytes than those that were approved; parses nothing.

    Raises:
        DigestMismatchError: Not the bytes that the plan names.
    """
    if len(package) != expected.size or canonical.digest(package) != expected.digest:
        raise DigestMismatchError("the code package is not the one that the plan names: get it again from the hub")


def read(package: bytes, expected: BlobRef) -> dict[str, bytes]:
    """The sources of a package, within bounds.

    Raises:
        DigestMismatchError: Not the bytes that the plan names.
        CodecError: Not a package.
    """
    check_digest(package, expected)
    if len(package) > MAX_PACKAGE_BYTES:
        raise CodecError(f"a code package may have {MAX_PACKAGE_BYTES} bytes")
    try:
        with zipfile.ZipFile(io.BytesIO(package)) as archive:
            entries = archive.infolist()
            if len(entries) > MAX_FILES or len({entry.filename for entry in entries}) != len(entries):
                raise CodecError(f"a code package has at most {MAX_FILES} files, each name once")
            sources: dict[str, bytes] = {}
            left = MAX_SOURCE_BYTES
            for entry in entries:
                # Read to a bound of our own: the size in the header is the sender's claim.
                with archive.open(entry) as file:
                    sources[entry.filename] = file.read(left + 1)
                left -= len(sources[entry.filename])
                if left < 0:
                    raise CodecError(f"a code package may unpack to {MAX_SOURCE_BYTES} bytes")
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError, ValueError, OSError):
        raise CodecError("the code package is not a readable zip file") from None
    _check(sources)
    return sources


def load(sources: Mapping[str, bytes], factory: str) -> Factory:
    """Import the factory, ``module:function``, from sources; study code runs from here on.

    A package that was loaded before gives way: its functions go on, its modules are no longer found by name.

    Raises:
        CodecError: A source's name is one that Python or Wardround uses, or there is no such function.
    """
    _forget()
    taken = {path.partition("/")[0].removesuffix(".py") for path in sources} & (sys.modules.keys() | _OURS)
    if taken:
        raise CodecError(f"rename the package's {min(taken)!r}: a module of this name is there already")
    sys.meta_path.insert(0, _Sources(sources))
    module, _, function = factory.partition(":")
    if not any(path in sources for path in _paths(module)):
        raise CodecError("the factory's module is not in the code package")
    found = getattr(importlib.import_module(module), function, None)
    if not callable(found):
        raise CodecError("the factory is not a function of its module")
    return cast("Factory", found)


def _check(sources: Mapping[str, bytes]) -> None:
    if not sources or len(sources) > MAX_FILES or sum(map(len, sources.values())) > MAX_SOURCE_BYTES:
        raise CodecError(f"a code package has 1 to {MAX_FILES} files of at most {MAX_SOURCE_BYTES} bytes together")
    for path in sources:
        if not _PATH.fullmatch(path):
            raise CodecError("a code package holds only .py files whose folders and names are Python names")
        if path.partition("/")[0].removesuffix(".py") in sys.stdlib_module_names | _OURS:
            raise CodecError(f"rename {path!r}: it would hide a module of Python or Wardround")


def _forget() -> None:
    # One package at a time: a process that simulates several sites loads the same one for each.
    sys.meta_path[:] = [finder for finder in sys.meta_path if not isinstance(finder, _Sources)]
    for name, module in list(sys.modules.items()):
        if isinstance(getattr(getattr(module, "__spec__", None), "loader", None), _Sources):
            del sys.modules[name]


def _paths(module: str) -> tuple[str, str]:
    path = module.replace(".", "/")
    return f"{path}.py", f"{path}/__init__.py"


class _Sources(importlib.abc.MetaPathFinder, importlib.abc.ExecutionLoader):
    """Imports modules from sources in memory; folders are packages, with or without an ``__init__.py``."""

    def __init__(self, sources: Mapping[str, bytes]) -> None:
        self._sources = dict(sources)

    def find_spec(
        self, fullname: str, path: object = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Where a module comes from: here, or elsewhere."""
        del path, target
        folder = fullname.replace(".", "/") + "/"
        if not self._path(fullname) and not any(known.startswith(folder) for known in self._sources):
            return None
        return importlib.util.spec_from_loader(fullname, self)

    def is_package(self, fullname: str) -> bool:
        """Whether the module is a folder."""
        return self._path(fullname) != _paths(fullname)[0]

    def get_source(self, fullname: str) -> str:
        """The module's source; nothing for a folder without one."""
        path = self._path(fullname)
        return importlib.util.decode_source(self._sources[path]) if path else ""

    def get_filename(self, fullname: str) -> str:
        """What a traceback says."""
        return PLACE + (self._path(fullname) or _paths(fullname)[1])

    def _path(self, fullname: str) -> str:
        return next((path for path in reversed(_paths(fullname)) if path in self._sources), "")
