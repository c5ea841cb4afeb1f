"""What a mapping may ask of an executor that computes in the database: only what it can follow exactly.

A setting that is not followed to the last bit is refused by its name, with what to write instead. It is never followed
nearly: a number that differs between two executors is a wrong one in one of them.
"""

from wardround.harmonization.events import PATIENT
from wardround.sources.event_columns import WideColumn
from wardround.sources.event_rows import coded
from wardround.sources.pushdown_facts import Table

__all__ = ["check"]

_TEXTS = ("patient", "code", "system_column", "value", "unit", "status", "comparator", "order_key")
_MOMENTS = {"death", "seen"}


def check(table: Table) -> None:
    """Refuse what cannot be computed exactly in the table's engine.

    Raises:
        ConfigError: Names the setting, and says what to write instead.
    """
    entry = table.entry
    _check_shape(table)
    for setting in _TEXTS:
        if name := getattr(entry, setting):
            _check_text(table, name, setting)
    if entry.number:
        _check_number(table, entry.number, "number")
    for setting in ("time", "known"):
        if name := getattr(entry, setting):
            table.instant(name, setting)
    for place in table.atoms:
        _check_wide(table, entry.columns[place])


def _check_shape(table: Table) -> None:
    entry, kinds = table.entry, table.kinds.get(table.entry.key, frozenset())
    if not entry.key:
        raise table.refused("needs a key, since rows without one have no order there: name a unique column")
    if not entry.patient:
        raise table.refused("needs a column of patients: name one")
    if entry.decimal_comma:
        raise table.refused("knows no decimal_comma: give a numeric column in the query")
    if entry.number and entry.number == entry.value:
        raise table.refused("needs two columns for number and value: take them apart in the query")
    if table.spelling.dialect == "sqlite" and not (kinds <= {"integer"} or kinds <= {"text"}):
        raise table.refused(
            f"needs a key of whole numbers or of texts, and {entry.key!r} holds {table.held(entry.key)}"
        )


def _check_text(table: Table, name: str, setting: str) -> None:
    if not table.kinds[name] <= table.spelling.texts:
        raise table.refused(
            f"takes texts and whole numbers for {setting}, and {name!r} holds {table.held(name)}: cast it in the query"
        )


def _check_number(table: Table, name: str, setting: str) -> None:
    if not table.kinds[name] <= table.spelling.numbers:
        raise table.refused(
            f"takes numbers for {setting}, and {name!r} holds {table.held(name)}: give a column of doubles in the query"
        )


def _check_wide(table: Table, column: WideColumn) -> None:
    system, code = coded(column)
    if system == PATIENT and code == "birth-date":
        kinds, days = table.kinds[column.source], table.spelling.days
        if len(kinds) > 1 or not kinds <= set(days):
            raise table.refused(
                f"takes births as {' or '.join(sorted(days))}, and {column.source!r} holds "
                f"{table.held(column.source)}: give whole dates in the query"
            )
    elif system == PATIENT and code in _MOMENTS:
        table.instant(column.source, "columns")
    elif column.values or column.text:
        _check_text(table, column.source, "columns")
    else:
        _check_number(table, column.source, "columns")
