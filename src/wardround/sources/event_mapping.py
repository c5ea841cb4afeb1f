"""A site's mapping of events: which sources it has, how it codes and spells things, and whose word that is.

TOML, ``kind = "events"``, local to the site; see ``docs/reference/event-mapping.md``. Each ``[[sources]]`` table is the
settings of one adapter, by its `kind`. Local codes are translated by the entries of ``codes.toml`` beside the mapping
that a person has confirmed, and by no others. Secrets are named (``env:NAME``, ``file:path``), never given by value.
"""

import importlib
import os
import secrets
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


class Identity(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Who is who.

    `key` names the secret behind the pseudonyms; without it, the file ``pseudonym.key`` beside the mapping is made.
    `namespaces` says for a source what its patients' identifiers are unique in; sources of one namespace share them.
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
    memory_mb: Annotated[int, msgspec.Meta(ge=64)] = 192


def decode(text: str) -> EventMapping:
    """Read a mapping of events from its TOML text.

    Raises:
        ConfigError: Not TOML, or an unknown or misplaced setting; no value is shown.
    """
    try:
        mapping = msgspec.toml.decode(text, type=EventMapping)
    except (msgspec.MsgspecError, UnicodeEncodeError, RecursionError) as error:
        trouble = str(error) if isinstance(error, msgspec.ValidationError) else "is not TOML"
        raise ConfigError(f"the mapping file: {trouble}") from None
    names = [str(table.get("name", "")) for table in mapping.sources]
    if not names or "" in names or len(set(names)) != len(names):
        raise ConfigError("the mapping file: name each of its [[sources]], and each by another name")
    if unknown := set(mapping.identity.namespaces) - set(names):
        raise ConfigError(f"the mapping file: identity.namespaces names {min(unknown)!r}, and there is no such source")
    if mapping.timezone:
        checked_zone(mapping.timezone)
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
        raise ConfigError(f"source {str(table.get('name', ''))!r}: {error}") from None


def _opened(table: dict[str, Any], site: Site) -> EventSource:
    opened: EventSource = _adapter(table)[0].open_source(settings_of(table), site)
    return opened


def _adapter(table: Mapping[str, Any]) -> tuple[Any, str]:
    kind = table.get("kind")
    if not isinstance(kind, str) or kind not in KINDS:
        raise ConfigError(f"source {str(table.get('name', ''))!r}: its kind is one of {', '.join(KINDS)}")
    module, settings = KINDS[kind]
    return importlib.import_module(f"wardround.sources.{module}"), settings


def _own_key(folder: Path) -> str:
    path = folder / _KEY_FILE
    with suppress(FileExistsError):
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(file, "w") as opened:
            opened.write(secrets.token_hex(32))
            opened.flush()
            os.fsync(opened.fileno())
    return path.read_text(encoding="ascii").strip()
