"""Which local codes mean which concepts, by whose word: a site's ``codes.toml``, beside its mapping.

    [codes]
    "local:lab|50912" = {to = "loinc|2160-0", by = "suggest", score = 0.93, confirmed_by = "jd", at = 2026-11-20, …}

The file is apart from the mapping because a program writes this one: the mapping keeps its hand and its comments.

1. Only an entry that a named person confirmed on a day translates anything. A suggestion, however high its score, an
   entry without `confirmed_by` or `at`, and one that was reopened translate nothing.
2. ``to = ""`` is an answer too: none of the study's concepts. It is not asked again, and translates nothing.
3. A confirmation remembers what the code's data looked like (`fingerprint`). Where they look different since (another
   unit, shifted quantiles) the entry is reopened: somebody must look again.
4. The file is replaced in one step, and not at all if somebody else replaced it since it was read.

Hazard: codes can tell a vendor, and a fingerprint rounded quantiles of at least 100 records. The file is the site's; it
leaves only if the site gives it.
"""

import hashlib
import math
import os
import re
import tempfile
from collections.abc import Iterable, Mapping
from contextlib import suppress
from datetime import date
from pathlib import Path
from typing import Annotated, Final

import msgspec

from wardround.clinical import codes
from wardround.errors import ConfigError, ConflictError
from wardround.harmonization.profile import LEVELS, Profile

__all__ = [
    "Codes",
    "Entry",
    "confirm",
    "drifted",
    "fingerprint",
    "load",
    "read",
    "reject",
    "reopened",
    "translations",
    "unanswered",
    "write",
]

_MOST_BYTES: Final = 50_000_000
_ENOUGH: Final = 100
_MIDDLE: Final = tuple(LEVELS.index(level) for level in (0.25, 0.5, 0.75))
_NEW_UNIT: Final = 0.01
_RARE: Final = 0.002
_FEW_ROWS: Final = 5
_SHIFT: Final = 0.75
_WIDTH: Final = 2.5
_NUMERIC: Final = 0.25
_QUOTED: Final = re.compile(r"'[^']*'")
_HEAD: Final = """\
# Which of this site's codes mean which concept. Written by `wardround data map`; only entries with confirmed_by and at
# are used. Remove those two from an entry to have it asked again.
version = 1

[codes]
"""


class Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What one local code means.

    Attributes:
        to: ``system|code``; empty: none of the concepts.
        by: Who proposed it: "suggest", or a person's own choice, "person".
        score: Of the suggestion.
        confirmed_by: The person who confirmed it; empty: nobody has.
        at: The day of it.
        fingerprint: What the code's data looked like then, see `fingerprint`.
        reopened: Why it must be looked at again.
    """

    to: str
    by: str = "person"
    score: Annotated[float, msgspec.Meta(ge=0.0, le=1.0)] | None = None
    confirmed_by: str = ""
    at: date | None = None
    fingerprint: str = ""
    reopened: str = ""

    @property
    def is_confirmed(self) -> bool:
        """Whether a person stands behind it."""
        return bool(self.confirmed_by.strip()) and self.at is not None and not self.reopened


class Codes(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The file: entries by local ``system|code``. `digest` is that of the bytes it was read from, empty for none."""

    version: Annotated[int, msgspec.Meta(ge=1, le=1)] = 1
    codes: dict[str, Entry] = {}
    digest: str = ""


def load(text: str) -> Codes:
    """Read the entries from TOML text.

    Raises:
        ConfigError: Not TOML, an unknown field, or a code that cannot be; nothing of the text is shown but codes.
    """
    try:
        found = msgspec.toml.decode(text, type=Codes)
    except (msgspec.MsgspecError, UnicodeEncodeError, RecursionError) as error:
        raise ConfigError(f"codes.toml: {_QUOTED.sub('(not shown)', str(error))}") from None
    if found.digest:
        raise ConfigError("codes.toml has no setting 'digest'")
    for key, entry in found.codes.items():
        _check(key, entry)
    return found


def read(path: Path) -> Codes:
    """The entries of a file; none where it does not exist.

    Raises:
        ConfigError: It cannot be read, is too large, or is not what `load` takes.
    """
    content = _content(path)
    if content is None:
        return Codes()
    try:
        text = content.decode()
    except UnicodeDecodeError:
        raise ConfigError(f"{path} is not UTF-8 text") from None
    return msgspec.structs.replace(load(text), digest=_digest(content))


def write(path: Path, entries: Codes) -> Codes:
    """Replace the file by these entries, in one step; what was read before is what must still be there.

    Raises:
        ConflictError: Somebody else wrote it since `entries` was read: read again, decide again.
        ConfigError: It cannot be written.
    """
    for key, entry in entries.codes.items():
        _check(key, entry)
    content = _text(entries).encode()
    present = _content(path)
    if ("" if present is None else _digest(present)) != entries.digest:
        raise ConflictError(f"{path} was changed by somebody else since it was read: read it again")
    temporary = ""
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        with suppress(OSError):
            Path(temporary).unlink()
        raise ConfigError(f"{path} cannot be written ({type(error).__name__})") from None
    return msgspec.structs.replace(entries, digest=_digest(content))


def confirm(
    entries: Codes,
    profile: Profile,
    to: str,
    *,
    by: str,
    confirmed_by: str,
    at: date,
    score: float | None = None,
) -> Codes:
    """The entries with one more: a person says that the profiled code means the concept `to`.

    Raises:
        ConfigError: Nobody is named, or `to` is no concept or cannot be one of its system's.
    """
    if not confirmed_by.strip():
        raise ConfigError("a mapping is confirmed by somebody: give a name")
    entry = Entry(to=to, by=by, score=score, confirmed_by=confirmed_by.strip(), at=at, fingerprint=fingerprint(profile))
    _check(profile.key, entry)
    return msgspec.structs.replace(entries, codes={**entries.codes, profile.key: entry})


def reject(entries: Codes, profile: Profile, *, confirmed_by: str, at: date) -> Codes:
    """The entries with one more: a person says that the profiled code means none of the concepts.

    Raises:
        ConfigError: Nobody is named.
    """
    return confirm(entries, profile, "", by="person", confirmed_by=confirmed_by, at=at)


def translations(entries: Codes) -> dict[tuple[str, str], tuple[str, str]]:
    """Local (system, code) to (system, code), of what a person confirmed and nothing else."""
    return {_pair(key): _pair(entry.to) for key, entry in entries.codes.items() if entry.is_confirmed and entry.to}


def unanswered(entries: Codes, profiles: Iterable[Profile]) -> list[Profile]:
    """The profiles of codes that nobody has decided on, or must again."""
    answered = {key for key, entry in entries.codes.items() if entry.is_confirmed}
    return [one for one in profiles if one.key not in answered]


def reopened(entries: Codes, profiles: Iterable[Profile]) -> Codes:
    """The entries with every confirmed one reopened whose data have changed since; `Entry.reopened` says how."""
    made = dict(entries.codes)
    for profile in profiles:
        entry = made.get(profile.key)
        if entry is not None and entry.is_confirmed and (why := drifted(entry, profile)):
            made[profile.key] = msgspec.structs.replace(entry, reopened=why)
    return msgspec.structs.replace(entries, codes=made)


def fingerprint(profile: Profile) -> str:
    """What is remembered of a code's data: the share of numbers, and by unit its rows and middle quantiles.

    Quantiles have three digits, and stand only where 100 records or more lie behind them.
    """
    parts = [f"numeric={profile.share_numeric:.2f}", f"rows={profile.count}"]
    for unit, rows in profile.units.items():
        if rows < _RARE * profile.numbers:
            continue
        levels = profile.quantiles.get(unit) if rows >= _ENOUGH else None
        middle = "/".join(f"{levels[place]:.3g}" for place in _MIDDLE) if levels else ""
        parts.append(f"{_escaped(unit)}:{rows}:{middle}")
    return " ".join(parts)


def drifted(entry: Entry, profile: Profile) -> str:
    """Why a confirmed entry must be looked at again, or nothing; an entry without a fingerprint never drifts.

    It does where a unit takes 1 % of the rows and was not there, where the median moves by three quarters of the
    former interquartile range, where that range grows or shrinks by 2.5, or where numbers become texts.
    """
    if not entry.fingerprint:
        return ""
    numeric, units = _parsed(entry.fingerprint)
    if abs(profile.share_numeric - numeric) > _NUMERIC and profile.count >= _ENOUGH:
        return f"{profile.share_numeric:.0%} of its values are numbers, {numeric:.0%} were"
    for unit, rows in profile.units.items():
        if unit not in units and rows >= max(_FEW_ROWS, _NEW_UNIT * profile.numbers) and units:
            return f"unit {unit!r} is new" if unit else "values without a unit are new"
        former, present = units.get(unit), profile.quantiles.get(unit)
        if former and present and rows >= _ENOUGH and (why := _moved(former, [present[place] for place in _MIDDLE])):
            return f"{why} in {unit!r}" if unit else why
    return ""


def _moved(former: list[float], present: list[float]) -> str:
    low, median, high = former
    width, width_now = high - low, present[2] - present[0]
    # Where the middle half was one number (a score, a dose) a tenth of it stands in for the range.
    scale = width or 0.1 * abs(median) or math.ulp(1.0)
    if abs(present[1] - median) > _SHIFT * scale:
        return "its median has moved"
    if width and not width / _WIDTH <= width_now <= width * _WIDTH:
        return "its spread has changed"
    return ""


def _parsed(text: str) -> tuple[float, dict[str, list[float]]]:
    numeric, units = 0.0, {}
    for part in text.split(" "):
        if part.startswith("numeric="):
            numeric = float(part[8:])
        elif ":" in part:
            unit, _, middle = part.split(":")
            units[_unescaped(unit)] = [float(number) for number in middle.split("/")] if middle else []
    return numeric, units


def _escaped(unit: str) -> str:
    return "".join(one if one.isalnum() or one in "/^*.#" else f"%{ord(one):x};" for one in unit)


def _unescaped(text: str) -> str:
    return re.sub(r"%([0-9a-f]+);", lambda found: chr(int(found[1], 16)), text)


def _pair(key: str) -> tuple[str, str]:
    system, _, code = key.partition("|")
    return system, code


def _check(key: str, entry: Entry) -> None:
    system, code = _pair(key)
    if not system or not code:
        raise ConfigError(f"codes.toml: {key!r} is no code: write system|code")
    system, code = _pair(entry.to)
    if entry.to and not (system and code):
        raise ConfigError(f"codes.toml: {key!r} means {entry.to!r}, which is no concept: write system|code")
    if entry.to and codes.valid(system, code) is False:
        raise ConfigError(f"codes.toml: {key!r} means {entry.to!r}, and no code of {system} looks so")
    if entry.fingerprint:
        try:
            _parsed(entry.fingerprint)
        except (ValueError, OverflowError):
            raise ConfigError(f"codes.toml: the fingerprint of {key!r} is not one; remove it") from None


def _content(path: Path) -> bytes | None:
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise ConfigError(f"{path} is larger than {_MOST_BYTES} bytes")
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read ({type(error).__name__})") from None


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _text(entries: Codes) -> str:
    lines = [f"{_string(key)} = {{{_fields(entry)}}}\n" for key, entry in sorted(entries.codes.items())]
    return _HEAD + "".join(lines)


def _fields(entry: Entry) -> str:
    values: Mapping[str, object] = msgspec.structs.asdict(entry)
    told = {name: value for name, value in values.items() if name in {"to", "by"} or value not in {"", None}}
    return ", ".join(f"{name} = {_value(value)}" for name, value in told.items())


def _value(value: object) -> str:
    if isinstance(value, str):
        return _string(value)
    return value.isoformat() if isinstance(value, date) else repr(value)


def _string(text: str) -> str:
    """A TOML basic string: quotes, backslashes and every control character escaped."""
    made = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + re.sub(r"[\x00-\x1f\x7f]", lambda found: f"\\u{ord(found[0]):04X}", made) + '"'
