"""Running a code package: sources out of a checked zip, imported from memory.

How a package is made and what else is in it: `wardround.provenance.package`. A package's `factory` is called as

    factory(width: int, outputs: int) -> torch.nn.Module

with the number of feature columns and of numbers per record (one, or one per class).

Hazard: `load` runs study code, and belongs in the worker process. Sources are imported from memory: no path, no
compiled code, no other kind of file.
"""

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, cast

from wardround.codec import canonical
from wardround.errors import CodecError, DigestMismatchError, PackageError
from wardround.protocol.plan import BlobRef
from wardround.provenance import archive
from wardround.provenance.package import METADATA, is_source

if TYPE_CHECKING:
    from torch import nn

__all__ = [
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

PLACE = "<study code>/"
"""What the file names of study code begin with, in tracebacks."""

_OURS = frozenset({"wardround", "torch", "numpy", "msgspec"})


def make(sources: Mapping[str, bytes]) -> bytes:
    """A package's bytes from sources by path (``model.py``, ``layers/attention.py``).

    Raises:
        PackageError: A name cannot be in a package, or there are too many files or bytes.
    """
    _check(sources)
    return archive.write(sources)


def from_folder(folder: Path) -> bytes:
    """A package of all ``.py`` files below a folder.

    Raises:
        PackageError: A name cannot be in a package, or there are too many files or bytes.
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
        PackageError: Not a package.
    """
    check_digest(package, expected)
    sources = {name: data for name, data in archive.read(package).items() if name not in METADATA}
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
    for path in sources:
        if not is_source(path):
            raise PackageError("a code package holds only .py files whose folders and names are Python names")
        if path.partition("/")[0].removesuffix(".py") in sys.stdlib_module_names | _OURS:
            raise PackageError(f"rename {path!r}: it would hide a module of Python or Wardround")


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
