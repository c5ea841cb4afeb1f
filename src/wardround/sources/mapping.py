"""A site's mapping file: where its records are, and how each column of a contract is written there.

The file is TOML and local to the site; see ``docs/reference/mapping.md``. It never holds a secret: a
database's connection string is named (``env:NAME`` or ``file:/path``), and one given by value is refused
without being shown.
"""

import re
from collections import abc
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import msgspec

from wardround.clinical.tabulate import Layout, LocalColumn
from wardround.errors import ConfigError
from wardround.ports import RecordSource

if TYPE_CHECKING:
    from wardround.sources.event_mapping import EventMapping

__all__ = ["Mapping", "load", "open_source"]

_REFERENCE = re.compile(r"env:[A-Za-z_][A-Za-z0-9_]*|file:[^\s@]+")
_QUOTED = re.compile(r"'[^']*'")


class Mapping(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The mapping file. Paths are relative to the folder that it lies in.

    `path` is a file, or for CSV and Parquet also a folder of them; `dsn` names a PostgreSQL connection string;
    `query` is the one SELECT whose result is the records.
    """

    kind: Literal["csv", "parquet", "sqlite", "postgresql"]
    path: str = ""
    dsn: str = ""
    query: str = ""
    delimiter: Annotated[str, msgspec.Meta(min_length=1, max_length=1)] = ","
    missing: tuple[str, ...] = ("",)
    max_records: Annotated[int, msgspec.Meta(ge=1)] = 5_000_000
    timeout_seconds: Annotated[float, msgspec.Meta(gt=0.0, le=86_400.0)] = 600.0
    columns: dict[str, LocalColumn] = {}


class _Kind(msgspec.Struct):
    kind: str = ""


def load(text: str) -> "Mapping | EventMapping":
    """Read a mapping from its TOML text: of a table, or with ``kind = "events"`` of events.

    Raises:
        ConfigError: Not TOML, an unknown or misplaced setting, or a DSN given by value; no value is shown.
    """
    if _of_events(text):
        from wardround.sources import event_mapping

        return event_mapping.decode(text)
    try:
        mapping = msgspec.toml.decode(text, type=Mapping)
    except (msgspec.MsgspecError, UnicodeEncodeError, RecursionError) as error:
        trouble = _QUOTED.sub("(not shown)", str(error))
    else:
        trouble = _offence(mapping)
        if not trouble:
            return mapping
    raise ConfigError(f"the mapping file: {trouble}")


def _of_events(text: str) -> bool:
    try:
        return msgspec.toml.decode(text, type=_Kind).kind == "events"
    except (msgspec.MsgspecError, UnicodeEncodeError, RecursionError):
        return False


def open_source(mapping: "Mapping | EventMapping", base_folder: Path, environ: abc.Mapping[str, str]) -> RecordSource:
    """The record source that a mapping describes; a database or file is opened when its records are loaded.

    Raises:
        ConfigError: The DSN's variable or file is not there, or is not a connection string.
        UnsafeQueryError: The query is not a single read-only SELECT.
    """
    if not isinstance(mapping, Mapping):
        from wardround.sources.harmonized import HarmonizedSource

        return HarmonizedSource(mapping, base_folder, environ)
    layout = Layout(columns=mapping.columns, missing=mapping.missing, max_records=mapping.max_records)
    path = base_folder / mapping.path
    if mapping.kind in {"csv", "parquet"}:
        from wardround.sources.table_file import TableFile

        return TableFile(path, mapping.kind, layout, delimiter=mapping.delimiter)
    from wardround.sources.sql import PostgresSource, SqliteSource

    if mapping.kind == "sqlite":
        return SqliteSource(path, mapping.query, layout, timeout_seconds=mapping.timeout_seconds)
    dsn = _resolved(mapping.dsn, base_folder, environ)
    return PostgresSource(dsn, mapping.query, layout, timeout_seconds=mapping.timeout_seconds)


def _offence(mapping: Mapping) -> str:
    stated = {name for name in ("path", "dsn", "query") if getattr(mapping, name)}
    needed = {"csv": {"path"}, "parquet": {"path"}, "sqlite": {"path", "query"}, "postgresql": {"dsn", "query"}}
    if mapping.dsn and not _REFERENCE.fullmatch(mapping.dsn):
        return "dsn must be named as 'env:NAME' or 'file:/path', not given by value (it is not shown here)"
    if absent := needed[mapping.kind] - stated:
        return f"kind {mapping.kind!r} needs {' and '.join(sorted(absent))}"
    if surplus := stated - needed[mapping.kind]:
        return f"kind {mapping.kind!r} has no use for {' and '.join(sorted(surplus))}"
    if mapping.delimiter != "," and mapping.kind != "csv":
        return "delimiter is for kind 'csv'"
    return ""


def _resolved(dsn: str, base_folder: Path, environ: abc.Mapping[str, str]) -> str:
    how, _, name = dsn.partition(":")
    if how == "env":
        if value := environ.get(name, "").strip():
            return value
        raise ConfigError(f"the mapping's dsn is env:{name}, and that variable is not set")
    try:
        if value := (base_folder / name).read_text(encoding="utf-8").strip():
            return value
        trouble = "is empty"
    except (OSError, UnicodeDecodeError) as error:
        trouble = f"cannot be read ({type(error).__name__})"
    raise ConfigError(f"the mapping's dsn is file:{name}, and that file {trouble}")
