"""Rows of any table to EVENT: what databases, OMOP and files have in common, column by column and never row by row.

    batch of the table -> in scope? -> patient, times -> for each fact: value, unit, status -> batches of EVENT

A row is left out, and counted once, by the first reason that it gives: no patient, no code, a time that cannot be
told, a text that the mapping does not know. A cell without a value (null, empty, or one of `missing`) gives no event.
A value that cannot be read as a number gives an event without one, and is remarked, so that the quality gate sees it.

`row` is ``block * 2**48 + row``: the rows of a source's tables never meet, a row is called the same whatever else was
read, and the events of one row share it.

Hazard: the cells are patients'. Arrow's messages quote them, so that none is passed on.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from wardround.errors import ClinicalError, ConfigError
from wardround.harmonization import times
from wardround.harmonization.events import PATIENT, STATUSES, SYSTEMS, Scope, SourceReport
from wardround.harmonization.events import batch as event_batch
from wardround.sources import event_cells, event_times
from wardround.sources.event_cells import mask, replaced, texts
from wardround.sources.event_columns import EventColumns, WideColumn, check_columns
from wardround.sources.site import Site

__all__ = ["ABSENT", "UNLISTED", "UNREADABLE", "EventRows", "coded", "codes_of"]

ABSENT: Final = "missing value"
UNLISTED: Final = "value not in the mapping"
UNREADABLE: Final = "value unparseable"

_Mask = npt.NDArray[np.bool_]

_BLOCK_ROWS: Final = 2**48
_MOST_BLOCKS: Final = 2**14
_LONGEST: Final = 200
_NONE: Final = pa.scalar(None, pa.string())
_BIRTH: Final = "birth-date"
_MOMENTS: Final = {_BIRTH, "death", "seen"}
_STATUSES: Final = {status: status for status in STATUSES}


def codes_of(columns: EventColumns, scope: Scope) -> frozenset[str] | None:
    """The codes that a study wants of a long table of one system; None: all, or the table says its systems itself."""
    if scope.codes is None or not columns.code or not columns.system or columns.system == PATIENT:
        return None
    return frozenset(scope.codes.get(columns.system, frozenset()))


class EventRows:
    """The rows of one table as events; `block` is the table's place in its source.

    Raises:
        ConfigError: The columns give no events.
    """

    def __init__(self, columns: EventColumns, site: Site, source: str, *, block: int = 0) -> None:
        where = f"source {source!r}, events {block + 1}"
        check_columns(columns, where)
        if block >= _MOST_BLOCKS:
            raise ConfigError(f"{where}: a source has at most {_MOST_BLOCKS} of them")
        self.columns = columns
        self.zone = site.timezone
        self.fixed = _fixed_moment(columns, site, where)
        self.missing_texts = pa.array([text.strip(event_cells.BLANKS) for text in columns.missing], pa.string())
        found = event_cells.numbers(self.missing_texts, "missing", decimal_comma=columns.decimal_comma).number
        self.missing_numbers = found.drop_null()
        self._source = source
        self._first = block * _BLOCK_ROWS

    def in_scope(self, scope: Scope) -> bool:
        """Whether the table has anything that a study wants; where not, it need not be read."""
        if self.columns.columns:
            return any(scope.wants(*coded(column)) for column in self.columns.columns)
        codes = codes_of(self.columns, scope)
        return codes is None or bool(codes)

    def events(
        self, table: pa.RecordBatch, rows: int | npt.NDArray[np.int64], scope: Scope, report: SourceReport
    ) -> Iterator[pa.RecordBatch]:
        """The events of a batch of rows; `rows` are their numbers in the table, or that of the first.

        Raises:
            ClinicalError: A column is not of a kind that it can be; no cell is shown.
        """
        if isinstance(rows, int):
            rows = np.arange(rows, rows + table.num_rows, dtype=np.int64)
        try:
            made = list(self._made(_Batch(self, table, rows, scope, report), scope))
        except pa.ArrowException as error:
            trouble = type(error).__name__
        else:
            for one in made:
                report.events += one.num_rows
                yield one
            return
        raise ClinicalError(
            f"source {self._source!r}: a column cannot be read as what the mapping takes it for ({trouble})"
        )

    def _made(self, batch: "_Batch", scope: Scope) -> Iterator[pa.RecordBatch]:
        facts = [column for column in self.columns.columns if scope.wants(*coded(column))]
        for event in (batch.wide(column) for column in facts) if self.columns.columns else (batch.long(),):
            if len(event["row"]):
                yield event_batch(event | {"row": event["row"] + self._first}, source=self._source)


def coded(column: WideColumn) -> tuple[str, str]:
    """The system and the code of a wide column."""
    system, _, code = column.code.partition("|")
    return system, code


class _Batch:
    """A batch of rows: what all of a row's facts share, for the rows that are not refused."""

    def __init__(
        self, rows: EventRows, table: pa.RecordBatch, numbers: npt.NDArray[np.int64], scope: Scope, report: SourceReport
    ) -> None:
        self._rows, self._columns, self._report = rows, rows.columns, report
        self._table = table
        self._shared: dict[str, Any] = {"row": numbers}
        if self._columns.code:
            self._take_codes(scope)
        self._take_patients()
        self._take_times()
        self._recent = self._known_since(scope.since_us)

    def long(self) -> dict[str, Any]:
        """The events of a table with a column of codes."""
        columns, count = self._columns, self._table.num_rows
        event = dict(self._shared)
        keep = self._recent if columns.system != PATIENT else np.ones(count, np.bool_)
        given = np.zeros(count, np.bool_)
        strange = np.zeros(count, np.bool_)
        if columns.number:
            event["number"], event["comparator"], strange = self._numbers(columns.number)
            given |= mask(event["number"].is_valid())
        if columns.value:
            value, unlisted = self._values(columns.value, columns.values)
            if columns.value == columns.number:
                value, unlisted = pc.if_else(pa.array(strange), value, _NONE), unlisted & strange
                strange = np.zeros(count, np.bool_)
            event["value"] = value
            keep = keep & ~self._refused(unlisted & keep & ~given, UNLISTED)
            self._report.note(UNLISTED, int((unlisted & keep).sum()))
            given |= mask(value.is_valid())
        if columns.comparator:
            self._compare(event)
        self._report.note(UNREADABLE, int((strange & keep).sum()))
        if columns.number or columns.value:
            absent = keep & ~given & ~strange
            self._report.note(ABSENT, int(absent.sum()))
            keep = keep & ~absent
        if columns.unit or columns.unit_fixed:
            event["unit"] = self._texts(columns.unit) if columns.unit else _repeated(columns.unit_fixed, count)
        if columns.status:
            event["status"] = self._statuses()
        if columns.order_key:
            event["order_key"] = texts(self._table.column(columns.order_key), columns.order_key)
        return self._bounded(event, keep)

    def wide(self, column: WideColumn) -> dict[str, Any]:
        """The events of one column of a wide table."""
        system, code = coded(column)
        count = self._table.num_rows
        event = self._shared | {"system": _repeated(system, count), "code": _repeated(code, count)}
        if self._columns.order_key:
            event["order_key"] = texts(self._table.column(self._columns.order_key), self._columns.order_key)
        if system == PATIENT and code in _MOMENTS:
            return self._bounded(*self._moments(event, column, code))
        if system == PATIENT and code == "sex":
            event |= {"time_us": None, "precision": None, "known_us": None}
        keep = self._recent if system != PATIENT else np.ones(count, np.bool_)
        if column.values or column.text:
            event["value"], unlisted = self._values(column.source, column.values)
            keep = keep & ~self._refused(unlisted & keep, UNLISTED)
            given, strange = mask(event["value"].is_valid()), np.zeros(count, np.bool_)
        else:
            event["number"], event["comparator"], strange = self._numbers(column.source)
            given = mask(event["number"].is_valid())
            event["unit"] = _repeated(column.unit, count) if column.unit else None
        self._report.note(UNREADABLE, int((strange & keep).sum()))
        absent = keep & ~given & ~strange
        self._report.note(ABSENT, int(absent.sum()))
        if self._columns.status:
            event["status"] = self._statuses()
        return self._bounded(event, keep & ~absent)

    def _moments(self, event: dict[str, Any], column: WideColumn, code: str) -> tuple[dict[str, Any], _Mask]:
        cells = self._cells(column.source)
        if code == _BIRTH:
            found = event_times.days(cells, column.source, self._rows.zone)
        else:
            found = event_times.instants(cells, column.source, self._rows.zone, epoch=self._columns.epoch)
        for reason, where in found.refused.items():
            self._refused(where, reason)
        for remark, where in found.noted.items():
            self._report.note(remark, int(where.sum()))
        event |= {"time_us": found.time_us, "precision": found.precision, "known_us": None}
        return event, mask(found.time_us.is_valid())

    def _take_codes(self, scope: Scope) -> None:
        columns = self._columns
        codes = self._texts(columns.code)
        if columns.system:
            systems = _repeated(columns.system, len(codes))
        else:
            spelled = self._texts(columns.system_column).dictionary_encode()
            names = [columns.systems.get(name, SYSTEMS.get(name, name)) for name in spelled.dictionary.to_pylist()]
            systems = pa.array(names, pa.string()).take(spelled.indices)
        self._shared |= {"system": systems, "code": codes}
        self._refuse(mask(codes.is_null()), "no code")
        self._refuse(mask(self._shared["system"].is_null()), "no code system")
        if scope.codes is not None:
            self._narrow(_in_scope(self._shared["system"], self._shared["code"], scope))

    def _take_patients(self) -> None:
        if not self._columns.patient:
            self._shared["patient"] = pa.array(self._shared["row"]).cast(pa.string())
            return
        self._shared["patient"] = texts(self._table.column(self._columns.patient), self._columns.patient)
        self._refuse(mask(self._shared["patient"].is_null()), "no patient")

    def _take_times(self) -> None:
        columns, fixed = self._columns, self._rows.fixed
        if columns.time:
            self._shared["time_us"], self._shared["precision"] = self._instants(columns.time)
            self._refuse(mask(self._shared["time_us"].is_null()), "no time")
        elif fixed is not None:
            count = self._table.num_rows
            self._shared["time_us"] = pa.repeat(pa.scalar(fixed.time_us, pa.int64()), count)
            self._shared["precision"] = pa.repeat(pa.scalar(int(fixed.precision), pa.int8()), count)
        if columns.known:
            self._shared["known_us"], _ = self._instants(columns.known)

    def _instants(self, name: str) -> tuple[pa.Array, pa.Array]:
        found = event_times.instants(self._cells(name), name, self._rows.zone, epoch=self._columns.epoch)
        for remark, where in found.noted.items():
            self._report.note(remark, int(where.sum()))
        keep = np.ones(self._table.num_rows, np.bool_)
        for reason, where in found.refused.items():
            keep &= ~self._refused(where, reason)
        self._narrow(keep)
        return _kept(found.time_us, keep), _kept(found.precision, keep)

    def _known_since(self, since_us: int | None) -> _Mask:
        known = [self._shared[name] for name in ("known_us", "time_us") if self._shared.get(name) is not None]
        if since_us is None or not known:
            return np.ones(self._table.num_rows, np.bool_)
        return np.asarray(pc.greater_equal(pc.coalesce(*known), since_us).fill_null(True))

    def _numbers(self, name: str) -> tuple[pa.Array, pa.Array | None, _Mask]:
        cells = self._cells(name)
        found = event_cells.numbers(cells, name, decimal_comma=self._columns.decimal_comma)
        number = found.number
        if len(self._rows.missing_numbers):
            number = pc.if_else(pc.is_in(number, self._rows.missing_numbers), pa.scalar(None, pa.float64()), number)
        return number, found.comparator, found.strange

    def _values(self, name: str, words: Mapping[str, str]) -> tuple[pa.Array, _Mask]:
        cells = self._texts(name)
        return replaced(cells, words) if words else (cells, np.zeros(len(cells), np.bool_))

    def _compare(self, event: dict[str, Any]) -> None:
        found, strange = replaced(self._texts(self._columns.comparator), event_cells.COMPARATORS)
        stated = pc.if_else(pc.equal(found, ""), _NONE, found)
        if "number" not in event:
            return
        event["comparator"] = stated if event["comparator"] is None else pc.coalesce(stated, event["comparator"])
        # Whether the number is a bound is not known, and so neither is what it says.
        self._report.note("comparator unparseable", int(strange.sum()))
        event["number"] = pc.if_else(pa.array(strange), pa.scalar(None, pa.float64()), event["number"])

    def _statuses(self) -> pa.Array:
        found, strange = replaced(self._texts(self._columns.status), _STATUSES | self._columns.statuses)
        self._report.note("status not in the mapping", int(strange.sum()))
        return pc.if_else(pa.array(strange), pa.scalar("unknown"), found)

    def _cells(self, name: str) -> pa.Array:
        column = self._table.column(name)
        kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
        is_text = pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
        return self._without(texts(column, name)) if is_text and len(self._rows.missing_texts) else column

    def _texts(self, name: str) -> pa.Array:
        return self._without(texts(self._table.column(name), name))

    def _without(self, cells: pa.Array) -> pa.Array:
        tokens = self._rows.missing_texts
        return pc.if_else(pc.is_in(cells, tokens), _NONE, cells) if len(tokens) else cells

    def _bounded(self, event: dict[str, Any], keep: _Mask) -> dict[str, Any]:
        for name in ("patient", "system", "code", "value", "unit", "order_key"):
            cells = event.get(name)
            if cells is not None and (pc.max(pc.binary_length(cells)).as_py() or 0) > _LONGEST:
                keep = keep & ~self._refused(
                    keep & mask(pc.greater(pc.binary_length(cells), _LONGEST)), "text too long"
                )
        kept = {name: cells for name, cells in event.items() if cells is not None}
        return kept if keep.all() else {name: _kept(cells, keep) for name, cells in kept.items()}

    def _refused(self, where: _Mask, reason: str) -> _Mask:
        self._report.refuse(reason, int(where.sum()))
        return where

    def _refuse(self, where: _Mask, reason: str) -> None:
        self._narrow(~self._refused(where, reason))

    def _narrow(self, keep: _Mask) -> None:
        if not keep.all():
            self._table = self._table.filter(pa.array(keep))
            self._shared = {name: _kept(cells, keep) for name, cells in self._shared.items()}


def _kept(cells: Any, keep: _Mask) -> Any:  # noqa: ANN401, an array of numpy's or of Arrow's
    return cells[keep] if isinstance(cells, np.ndarray) else cells.filter(pa.array(keep))


def _repeated(text: str, count: int) -> pa.Array:
    return pa.repeat(pa.scalar(text, pa.string()), count)


def _in_scope(systems: pa.Array, codes: pa.Array, scope: Scope) -> _Mask:
    system, code = systems.dictionary_encode(), codes.dictionary_encode()
    names, texts_of = system.dictionary.to_pylist(), code.dictionary.to_pylist()
    pairs = np.asarray(system.indices).astype(np.int64) * max(len(texts_of), 1) + np.asarray(code.indices)
    distinct, place = np.unique(pairs, return_inverse=True)
    found = [scope.wants(names[pair // len(texts_of)], texts_of[pair % len(texts_of)]) for pair in distinct.tolist()]
    return np.array(found, np.bool_)[place]


def _fixed_moment(columns: EventColumns, site: Site, where: str) -> times.Moment | None:
    if not columns.time_fixed:
        return None
    moment = times.parse(columns.time_fixed, site.timezone)
    if isinstance(moment, str):
        raise ConfigError(f"{where}: time_fixed is no time that can be used: {moment}")
    return moment
