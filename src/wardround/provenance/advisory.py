"""Known weaknesses of pinned libraries, from records that a site keeps offline.

A record is one JSON file of the OSV database (https://ossf.github.io/osv-schema/, version 1), ecosystem PyPI. A pin is
affected where a record lists its version, or a range of type ECOSYSTEM holds it:

    introduced <= version < fixed        or  introduced <= version <= last_affected

A record that cannot be read counts as a finding, not as nothing.
"""

from collections.abc import Iterable

import msgspec
from packaging.version import InvalidVersion, Version

from wardround.errors import PackageError
from wardround.provenance.manifest import Pin, normalized

__all__ = ["MAX_RECORD_BYTES", "Advisory", "Weakness", "affected", "parse"]

MAX_RECORD_BYTES = 4 * 1024 * 1024
# Whether the event takes effect just after its version, and whether a range begins there.
_EVENTS = {"introduced": (False, True), "fixed": (False, False), "last_affected": (True, False)}


class _Package(msgspec.Struct, frozen=True):
    ecosystem: str = ""
    name: str = ""


class _Range(msgspec.Struct, frozen=True):
    type: str = ""
    events: tuple[dict[str, str], ...] = ()


class _Affected(msgspec.Struct, frozen=True):
    package: _Package = _Package()
    ranges: tuple[_Range, ...] = ()
    versions: tuple[str, ...] = ()


class Advisory(msgspec.Struct, frozen=True):
    """The part of an OSV record that is used here; other fields are passed over, as the schema asks."""

    id: str
    modified: str = ""
    withdrawn: str = ""
    summary: str = ""
    affected: tuple[_Affected, ...] = ()


class Weakness(msgspec.Struct, frozen=True, order=True):
    """A pinned library with a known weakness."""

    library: str
    version: str
    advisory: str
    summary: str


def parse(data: bytes) -> Advisory:
    """Read one OSV record.

    Raises:
        PackageError: Too large, or no OSV record.
    """
    if len(data) > MAX_RECORD_BYTES:
        raise PackageError(f"a record of the advisory database may have {MAX_RECORD_BYTES} bytes")
    try:
        return msgspec.json.decode(data, type=Advisory)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise PackageError("a file of the advisory database is no OSV record") from None


def affected(pins: Iterable[Pin], advisories: Iterable[Advisory]) -> list[Weakness]:
    """Which pins have known weaknesses, sorted. A version that cannot be compared counts as affected."""
    wanted = {pin.name: pin for pin in pins}
    found = set[Weakness]()
    for advisory in advisories:
        if advisory.withdrawn:
            continue
        for one in advisory.affected:
            pin = wanted.get(normalized(one.package.name)) if one.package.ecosystem == "PyPI" else None
            if pin is not None and _is_affected(pin.version, one):
                found.add(Weakness(pin.name, pin.version, advisory.id, advisory.summary))
    return sorted(found)


def _is_affected(version: str, one: _Affected) -> bool:
    if version in one.versions:
        return True
    try:
        return any(_in_range(Version(version), kept.events) for kept in one.ranges if kept.type == "ECOSYSTEM")
    except InvalidVersion:
        return True


def _in_range(version: Version, events: tuple[dict[str, str], ...]) -> bool:
    # OSV schema, "Evaluation": of the events in the order of their versions the last one that was reached decides.
    bounds = [
        (Version("0.dev0" if text == "0" else text), *_EVENTS[kind])
        for event in events
        for kind, text in event.items()
        if kind in _EVENTS
    ]
    inside = False
    for bound, is_after, opens in sorted(bounds):
        if version > bound if is_after else version >= bound:
            inside = opens
    return inside
