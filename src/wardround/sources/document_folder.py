"""A folder of documents: which files, their bytes within bounds, their digest, and what their names say.

Files are read in the order of their names. Links are not followed, and nothing but plain files is opened. Files' names
often hold patients' identifiers, so they are in no message, and in the snapshot only as part of a digest.
"""

import fnmatch
import hashlib
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from wardround.errors import ClinicalError, ConfigError, UnavailableError
from wardround.harmonization.events import SourceReport

__all__ = ["DigestedFolder", "NameTemplate", "paths", "plain_bytes"]

_MOST_FILES: Final = 1_000_000
_PLACE: Final = re.compile(r"\{([a-z_]{1,32})\}")


def paths(folder: Path, pattern: str, *, what: str) -> list[str]:
    """The files below `folder` whose names match the shell pattern, as relative paths in order.

    Raises:
        ClinicalError: None matches, or far too many; `what` names the source.
        UnavailableError: There is no such folder now.
    """
    if not folder.is_dir():
        raise UnavailableError(f"the folder of source {what!r} is not there: is its volume mounted?")
    found: list[str] = []
    for parent, below, names in os.walk(folder, followlinks=False):
        below.sort()
        found += [str(Path(parent, name).relative_to(folder)) for name in fnmatch.filter(names, pattern)]
        if len(found) > _MOST_FILES:
            raise ClinicalError(f"the folder of source {what!r} holds more than {_MOST_FILES} files: divide it")
    if not found:
        raise ClinicalError(f"source {what!r}: no file in its folder matches {pattern!r}")
    return sorted(found)


def plain_bytes(path: Path, most: int) -> bytes | str:
    """The content of a plain file of at most `most` bytes; a reason where it is refused."""
    try:
        # A pipe would keep a reader waiting for ever, and a link may lead anywhere.
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return "unreadable file or link"
    with os.fdopen(handle, "rb") as file:
        found = os.fstat(handle)
        if not stat.S_ISREG(found.st_mode):
            return "not a plain file"
        content = file.read(most + 1) if found.st_size <= most else b""
        return content if content and len(content) <= most else ("too large" if found.st_size > most else "empty file")


class DigestedFolder:
    """The documents of a folder, one after the other; the report's snapshot has their number and common digest."""

    def __init__(self, folder: Path, pattern: str, most: int, report: SourceReport) -> None:
        self._folder, self._pattern, self._most = folder, pattern, most
        self._report = report

    def documents(self) -> Iterator[tuple[str, bytes]]:
        """Relative path and content; a file that is refused is counted.

        Raises:
            ClinicalError: No file matches, or too many.
            UnavailableError: There is no such folder.
        """
        digest = hashlib.sha256()
        names = paths(self._folder, self._pattern, what=self._report.source)
        for name in names:
            self._report.read += 1
            content = plain_bytes(self._folder / name, self._most)
            if isinstance(content, str):
                self._report.refuse(content)
                continue
            digest.update(hashlib.sha256(os.fsencode(name)).digest() + hashlib.sha256(content).digest())
            yield name, content
        self._report.snapshot.update(files=str(len(names)), sha256=digest.hexdigest())


class NameTemplate:
    """What a name says, by a template such as ``{patient}_{date}.pdf``; places other than those asked for are ignored.

    A place ends at the first occurrence of the character that follows it, so that a name is read in one way only and in
    linear time; the last place, where nothing follows it, takes the rest.
    """

    def __init__(self, template: str, *, needs: tuple[str, ...] = ("patient",)) -> None:
        """Compile the template.

        Raises:
            ConfigError: Two places touch, one is named twice, or one of `needs` is missing.
        """
        literals, names = _PLACE.split(template)[::2], _PLACE.findall(template)
        if missing := [name for name in needs if name not in names]:
            raise ConfigError(f"the template {template!r} has no {{{missing[0]}}}")
        if len(set(names)) != len(names) or not all(literals[1:-1]) or "{" in "".join(literals):
            raise ConfigError(f"the template {template!r} needs text between places, and each place once")
        form = re.escape(literals[0])
        for name, after in zip(names, literals[1:], strict=True):
            form += f"(?P<{name}>[^{re.escape(after[0])}]+)" if after else f"(?P<{name}>.+)"
            form += re.escape(after)
        self._form = re.compile(form, re.DOTALL)

    def read(self, name: str) -> dict[str, str]:
        """The places by name; empty where the name is not of this form."""
        found = self._form.fullmatch(name) if len(name) <= 1024 else None
        return found.groupdict() if found else {}
