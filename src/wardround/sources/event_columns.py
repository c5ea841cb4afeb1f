"""How a site says which columns of a table, or of a query's result, are which part of an event.

A table is long, with a column of codes and one event in each row, or wide, with one event for each of the columns
that are listed and each row. The wide form also says what is known of the patient: birth, sex, death.
"""

from typing import Annotated, Final

import msgspec

from wardround.errors import ConfigError
from wardround.harmonization.events import PATIENT, STATUSES
from wardround.sources.event_times import Epoch

__all__ = ["EventColumns", "WideColumn", "check_columns", "wanted"]

_SEXES: Final = {"male", "female", "other", "unknown"}
_MOMENTS: Final = {"birth-date", "death", "seen"}
_LONG: Final = (
    "code",
    "system",
    "system_column",
    "systems",
    "number",
    "value",
    "values",
    "unit",
    "unit_fixed",
    "comparator",
)
_VALUES: Final = ("number", "value", "unit", "status", "comparator", "order_key")
_Name = Annotated[str, msgspec.Meta(max_length=200)]


class WideColumn(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, rename={"source": "from"}):
    """One column of a wide table: each of its cells is an event.

    Attributes:
        source: The column (written ``from``).
        code: ``system|code`` of the events. Of ``patient|birth-date``, ``patient|death`` and ``patient|seen`` the
            cell is the time.
        unit: In which numbers are given.
        values: What local texts mean: a value code, "male", …; a text that is not listed is refused and counted.
        text: The cell is kept as a text, without `values`.
    """

    source: _Name
    code: _Name
    unit: _Name = ""
    values: dict[str, str] = {}
    text: bool = False


class EventColumns(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The columns of one table or query; texts are names of its columns, where nothing else is said.

    Attributes:
        patient: Whose event it is; empty where each row is a patient of its own, called by the row's number.
        time: When it was: a timestamp, a date, ISO text, or a number if `epoch` says what it counts.
        time_fixed: When all of the table was, where it has no column of times (ISO text).
        known: When it was known; a row that has no such cell counts as known at its time.
        code: The codes; `system` is that of all of them, or `system_column` says it and `systems` what its texts mean.
        number: The values that are numbers; a text may begin with a comparator (``<5``).
        value: The values that are codes or texts, `values` what the texts mean. It may be the same column as
            `number`: what is no number is a text then.
        unit: The units, or `unit_fixed` that of all.
        status: As `wardround.harmonization.events.STATUSES`, or as `statuses` says what local ones mean.
        comparator: "<", "<=", ">", ">=", "=".
        order_key: What versions of one fact share.
        decimal_comma: Texts that are numbers have a comma, and no point.
        missing: Texts (and numbers) that stand for no value, in any column but `patient` and `order_key`.
        columns: The columns of a wide table; it has no `code` then.
    """

    patient: _Name = ""
    time: _Name = ""
    time_fixed: _Name = ""
    epoch: Epoch = ""
    known: _Name = ""
    code: _Name = ""
    system: _Name = ""
    system_column: _Name = ""
    systems: dict[str, str] = {}
    number: _Name = ""
    value: _Name = ""
    values: dict[str, str] = {}
    unit: _Name = ""
    unit_fixed: _Name = ""
    status: _Name = ""
    statuses: dict[str, str] = {}
    comparator: _Name = ""
    order_key: _Name = ""
    decimal_comma: bool = False
    missing: tuple[str, ...] = ()
    columns: tuple[WideColumn, ...] = ()


def wanted(columns: EventColumns) -> list[str]:
    """The columns that are read, each once."""
    named = [getattr(columns, name) for name in ("patient", "time", "known", "code", "system_column", *_VALUES)]
    return list(dict.fromkeys(name for name in [*named, *(column.source for column in columns.columns)] if name))


def check_columns(columns: EventColumns, where: str) -> None:
    """Refuse what gives no events.

    Raises:
        ConfigError: Says what is missing or contradicts itself; `where` names the table.
    """
    if offence := _offence(columns):
        raise ConfigError(f"{where}: {offence}")


def _offence(columns: EventColumns) -> str:
    if columns.time and columns.time_fixed:
        return "time and time_fixed exclude each other"
    if strange := sorted(set(columns.statuses.values()) - set(STATUSES)):
        return f"statuses gives {', '.join(strange)}: it may give {', '.join(STATUSES)}"
    return _wide_offence(columns) if columns.columns else _long_offence(columns)


def _long_offence(columns: EventColumns) -> str:
    if not columns.code:
        return "it names neither a column of codes (code) nor columns"
    if bool(columns.system) == bool(columns.system_column):
        return "a column of codes has either a system or a system_column"
    if columns.unit and columns.unit_fixed:
        return "unit and unit_fixed exclude each other"
    if columns.values and not columns.value:
        return "values is for the texts of a column value"
    return ""


def _wide_offence(columns: EventColumns) -> str:
    if stated := [name for name in _LONG if getattr(columns, name)]:
        return f"a table with columns has no use for {', '.join(stated)}"
    for column in columns.columns:
        system, bar, code = column.code.partition("|")
        if not (system and bar and code) or "*" in code:
            return f"column {column.source!r} needs a code as system|code"
        if system != PATIENT:
            continue
        if code in _MOMENTS and (column.values or column.text or column.unit):
            return f"column {column.source!r} is a time, with no values, text or unit"
        if code == "sex" and (not column.values or set(column.values.values()) - _SEXES):
            return f"column {column.source!r} needs values that give male, female, other or unknown"
        if code.startswith("consent:") and (not column.values or set(column.values.values()) - {"permit", "deny"}):
            return f"column {column.source!r} needs values that give permit or deny"
        if code not in _MOMENTS | {"sex"} and not code.startswith("consent:"):
            return f"column {column.source!r}: {column.code} is nothing that is known of a patient"
    return ""
