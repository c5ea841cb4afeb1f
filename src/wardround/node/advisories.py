"""A site's offline copy of the OSV database: a folder of records, or the zip that osv.dev gives per ecosystem.

Without one nothing is looked up, and whoever asked is told so: no answer is not a clean answer.
"""

import zipfile
from collections.abc import Iterator
from pathlib import Path

from wardround.errors import ConfigError, PackageError
from wardround.provenance import advisory
from wardround.provenance.advisory import Weakness
from wardround.provenance.manifest import Pin

__all__ = ["look_up"]

_MOST_RECORDS = 500_000


def look_up(pins: tuple[Pin, ...], database: Path) -> tuple[list[Weakness], int]:
    """Known weaknesses of pinned libraries, and how many records were read.

    Raises:
        ConfigError: There is no database here, or it holds no record.
        PackageError: A record is not readable or too large.
    """
    count = 0

    def counted() -> Iterator[advisory.Advisory]:
        nonlocal count
        for data in _records(database):
            count += 1
            if count > _MOST_RECORDS:
                raise PackageError(f"an advisory database has at most {_MOST_RECORDS} records")
            yield advisory.parse(data)

    found = advisory.affected(pins, counted())
    if count == 0:
        raise ConfigError("the advisory database holds no record: get the zip of the ecosystem PyPI from osv.dev")
    return found, count


def _records(database: Path) -> Iterator[bytes]:
    if database.is_dir():
        for path in sorted(database.rglob("*.json")):
            with path.open("rb") as file:
                yield file.read(advisory.MAX_RECORD_BYTES + 1)
        return
    try:
        with zipfile.ZipFile(database) as archive:
            for entry in archive.infolist():
                if entry.filename.endswith(".json"):
                    with archive.open(entry) as part:
                        yield part.read(advisory.MAX_RECORD_BYTES + 1)
    except (OSError, zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, ValueError):
        raise ConfigError("the advisory database is neither a folder nor a readable zip of OSV records") from None
