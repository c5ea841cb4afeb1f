"""A site's mapping of events: which sources it has, how it codes and spells things, and whose word that is.

TOML, ``kind = "events"``, local to the site; see ``docs/reference/event-mapping.md``. Each ``[[sources]]`` table is the
settings of one adapter, by its `kind`. Local codes are translated by the entries of ``codes.toml`` beside the mapping
that a person has confirmed, and by no others. Secrets are named (``env:NAME``, ``file:path``), never given by value.
"""

import importlib
import os
import re
import secrets
import stat
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import msgspec

from wardround.clinical.derivation import Disclosure
from wardround.codec import canonical
from wardround.errors import ConfigError
from wardround.harmonization import confirmations, pseudonyms, ucum
from wardround.harmonization.events import EventSource
from wardround.harmonization.harmonize import SiteData
from wardround.harmonization.times import checked_zone
from wardround.harmonization.ucum_measure import measure
from wardround.ids import Digest
from wardround.sources.site import Site

__all__ = ["CODES_FILE", "KINDS", "EventMapping", "Identity", "decode", "digest", "settings_of", "site_data", "sources"]

CODES_FILE: Final = "codes.toml"
"""Beside the mapping: what its local codes mean, and who confirmed it."""

KINDS: Final[Mapping[str, tuple[str, str]]] = {
    "ccda": ("ccda", "CcdaSettings"),
    "csv": ("table_events", "CsvSettings"),
    "fhir": ("fhir_events", "FhirFilesSettings"),
    "fhir-bulk": ("fhir_bulk", "FhirBulkSettings"),
    "fhir-notifications": ("fhir_notifications", "FhirNotificationsSettings"),
    "fhir-search": ("fhir_search", "FhirSearchSettings"),
    "hl7v2": ("hl7_source", "Hl7Settings"),
    "ibis": ("sql_events", "IbisSettings"),
    "omop": ("omop", "OmopSettings"),
    "parquet": ("table_events", "ParquetSettings"),
    "pdf": ("pdf", "PdfSettings"),
    "postgresql": ("sql_events", "PostgresSettings"),
    "sqlite": ("sql_events", "SqliteSettings"),
    "vcf": ("variants", "VariantSettings"),
    "wfdb": ("waveform", "WaveformSettings"),
}
"""For each kind of source the module of `wardround.sources` that reads it, and its settings."""

_KEY_FILE: Final = "pseudonym.key"
_MAX_KEY_BYTES: Final = 4_096
_PLAIN: Final = re.compile(r"[A-Za-z0-9_+/-]{1,40}")
_QUOTED: Final = re.compile(r"""(['"]).*\1|`(?![A-Za-z0-9_-]{1,40}`$).*`""", re.DOTALL)
_PATH: Final = re.compile(r"[\w.\[\]]*`")


class Identity(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Who is who.

    `key` names the secret behind the pseudonyms; without it, the file ``pseudonym.key`` beside the mapping is made.
    `namespaces` says for a source what its patients' identifiers are unique in; sources of one namespace share them.
    Where there are several sources, it says so for each.
    """

    key: str = ""
    namespaces: dict[str, str] = {}


class SiteDisclosure(Disclosure, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What the site asks for beyond the study's rules; what it leaves out is the study's to say."""

    small_cell: Annotated[int, msgspec.Meta(ge=0)] = 0
    max_suppressed: Annotated[float, msgspec.Meta(ge=0.0, le=1.0)] = 1.0


class EventMapping(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The mapping file.

    `timezone` is IANA's name of the zone of naive times; without it they are refused. With `shifted_dates` (records
    whose dates were moved) nothing is taken to be from the future. `units` are spellings of units and the UCUM codes
    that they mean. `listeners` says for a source of HL7 v2 messages where `wardround data listen` takes them in.
    `executor` says what runs the plan, and `memory_mb` what DuckDB may take. Of `disclosure` and the contract's rules
    the stricter hold.
    """

    kind: Literal["events"]
    sources: tuple[dict[str, Any], ...]
    timezone: str = ""
    shifted_dates: bool = False
    identity: Identity = Identity()
    units: dict[str, str] = {}
    listeners: dict[str, dict[str, Any]] = {}
    executor: Literal["embedded", "partitioned", "push-down"] = "embedded"
    disclosure: SiteDisclosure = SiteDisclosure()
    memory_mb: Annotated[int, msgspec.Meta(ge=64)] = 128


def decode(text: str) -> EventMapping:
    """Read a mapping of events from its TOML text.

    Raises:
        ConfigError: Not TOML, or an unknown or misplaced setting; no value is shown.
    """
    try:
        mapping = msgspec.toml.decode(text, type=EventMapping)
    except (msgspec.MsgspecError, UnicodeEncodeError, RecursionError) as error:
        trouble = _told(error) if isinstance(error, msgspec.ValidationError) else "is not TOML"
        raise ConfigError(f"the mapping file: {trouble}") from None
    _check_names([table.get("name") for table in mapping.sources], mapping.identity.namespaces)
    if mapping.timezone:
        if not _PLAIN.fullmatch(mapping.timezone):
            raise ConfigError("the mapping file: timezone is no time zone: write one of IANA's, such as Europe/Berlin")
        checked_zone(mapping.timezone)
    if odd := [unit for unit in mapping.units.values() if not _PLAIN.fullmatch(unit) and measure(unit) is None]:
        raise ConfigError(f"the mapping file: {len(odd)} of its units are no UCUM code; codes are like mg/dL, 10*9/L")
    ucum.check_spellings(mapping.units)
    return mapping


def sources(mapping: EventMapping, site: Site) -> list[EventSource]:
    """The sources that the mapping describes; none is read yet.

    Raises:
        ConfigError: A setting of one of them is wrong; says which.
    """
    return [_opened(table, site) for table in mapping.sources]


def site_data(mapping: EventMapping, folder: Path, environ: Mapping[str, str]) -> SiteData:
    """All that the site brings to a study.

    Raises:
        ConfigError: A setting, a secret or the file of confirmed codes is wrong.
    """
    site = Site(folder, mapping.timezone or None, environ)
    key = site.secret(mapping.identity.key, "identity.key") if mapping.identity.key else _own_key(folder)
    return SiteData(
        sources=sources(mapping, site),
        key=pseudonyms.checked_key(key),
        translations=confirmations.translations(confirmations.read(folder / CODES_FILE)),
        units=mapping.units,
        namespaces=mapping.identity.namespaces,
        zone=mapping.timezone or "UTC",
        now_us=None if mapping.shifted_dates else time.time_ns() // 1000,
    )


def digest(mapping: EventMapping, folder: Path) -> Digest:
    """What says which mapping, and which confirmed codes, a tensor was made with."""
    codes = folder / CODES_FILE
    text = codes.read_text(encoding="utf-8") if codes.exists() else ""
    return canonical.digest(canonical.encode([mapping, text]))


def settings_of(table: Mapping[str, Any]) -> Any:  # noqa: ANN401, each kind has its own
    """The settings of one ``[[sources]]`` table.

    Raises:
        ConfigError: Its kind is unknown, or a setting is wrong.
    """
    adapter, settings = _adapter(table)
    try:
        return msgspec.convert(table, getattr(adapter, settings))
    except msgspec.ValidationError as error:
        raise ConfigError(f"source {_shown(table.get('name'))}: {_told(error)}") from None


def _opened(table: dict[str, Any], site: Site) -> EventSource:
    opened: EventSource = _adapter(table)[0].open_source(settings_of(table), site)
    return opened


def _adapter(table: Mapping[str, Any]) -> tuple[Any, str]:
    kind = table.get("kind")
    if not isinstance(kind, str) or kind not in KINDS:
        raise ConfigError(f"source {_shown(table.get('name'))}: its kind is one of {', '.join(KINDS)}")
    module, settings = KINDS[kind]
    return importlib.import_module(f"wardround.sources.{module}"), settings


def _check_names(names: list[object], namespaces: Mapping[str, str]) -> None:
    if not names or not all(isinstance(name, str) and name for name in names) or len(set(names)) != len(names):
        raise ConfigError("the mapping file: name each of its [[sources]], and each by another name")
    if unknown := set(namespaces) - set(names):
        raise ConfigError(
            f"the mapping file: identity.namespaces names {_shown(min(unknown))}, and there is no such source"
        )
    # An identifier is known as "namespace|identifier": one namespace must not be the beginning of another's patients.
    if any("|" in str(name) for name in (*names, *namespaces.values())):
        raise ConfigError("the mapping file: no name of a source and no namespace has a '|' in it")
    if not all(word.strip() for word in namespaces.values()):
        raise ConfigError("the mapping file: a namespace in identity.namespaces is a word, and one of them is empty")
    if len(names) > 1 and (unsaid := set(names) - set(namespaces)):
        raise ConfigError(
            f"the mapping file: {len(unsaid)} of its sources have no namespace: say in identity.namespaces what each "
            "source's patients' identifiers are unique in: the same word for sources that share them"
        )


def _shown(name: object) -> str:
    return repr(name) if isinstance(name, str) and _PLAIN.fullmatch(name) else "(not shown)"


def _told(error: msgspec.ValidationError) -> str:
    """What msgspec says, without the value that it may quote."""
    text = str(error)
    if text.startswith("Expected "):
        # It speaks of types and limits, and quotes only the schema.
        return text
    head, at, path = text.rpartition(" - at `$")
    if not at or not _PATH.fullmatch(path):
        return _QUOTED.sub("(not shown)", text)
    return f"{_QUOTED.sub('(not shown)', head)}{at}{path}"


def _own_key(folder: Path) -> str:
    path = folder / _KEY_FILE
    try:
        if not path.exists():
            _make_key(path)
        content = _key_content(path)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read or made ({type(error).__name__})") from None
    try:
        key = content.decode("ascii").strip()
    except UnicodeDecodeError:
        key = ""
    if not key or len(content) > _MAX_KEY_BYTES:
        raise ConfigError(
            f"{path} holds no key: put back the one that was there; with another, all of the site's pseudonyms change"
        )
    return key


def _make_key(path: Path) -> None:
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w") as file:
            file.write(secrets.token_hex(32))
            file.flush()
            os.fsync(file.fileno())
        # Whole or not at all, and never over another's: whoever comes second takes the key of the first.
        with suppress(FileExistsError):
            os.link(temporary, path)
    finally:
        Path(temporary).unlink()
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _key_content(path: Path) -> bytes:
    # Without O_NONBLOCK, a pipe of that name would be waited for.
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        state = os.fstat(file.fileno())
        if not stat.S_ISREG(state.st_mode) or state.st_mode & 0o077:
            raise ConfigError(f"{path} must be a file that its owner alone may read: chmod 600")
        return file.read(_MAX_KEY_BYTES + 1)
