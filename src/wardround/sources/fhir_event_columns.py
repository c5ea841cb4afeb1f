"""From a view's columns to a batch of EVENT: times, codes, values, units and statuses as the waist has them.

Everything is done to whole columns, and what is costly once for each different text. Rows out of scope go first, so
that nothing is said of what nobody asked for; a row that cannot be understood is refused and counted by the reason.

All events of one resource have its number as their row, and its type and id as their key: together they are one version
of what the resource says.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from wardround.harmonization import events, times
from wardround.harmonization.events import DROPPED_STATUSES, PATIENT, SYSTEMS, Scope, SourceReport
from wardround.sources.fhir_event_views import SEXES, STATED_IF_DOUBTFUL, STATUSES
from wardround.sources.fhir_instants import instants
from wardround.sources.fhir_run import ROW

__all__ = ["EventShaper"]

_UCUM: Final = "http://unitsofmeasure.org"
_COMPARATORS: Final = ("<", "<=", ">=", ">")
_BOUND: Final = r"^\s*(?P<comparator><=|>=|<|>)?\s*(?P<number>[+-]?\d{1,30}(?:\.\d{1,30})?(?:[eE][+-]?\d{1,3})?)\s*$"
_LONGEST_TEXT: Final = 256
_Mask = npt.NDArray[np.bool_]


class EventShaper:
    """The tables of one view as batches of EVENT.

    Args:
        resource_type: The type of the view's resources.
        report: Where it is counted what was refused and remarked.
        zone: The site's, for times without an offset.
        prefix: Of patients' identifiers.
    """

    def __init__(self, resource_type: str, report: SourceReport, zone: str | None, prefix: str) -> None:
        self._type = resource_type
        self._report = report
        self._zone = zone
        self._prefix = prefix

    def batch(self, table: pa.Table, scope: Scope) -> pa.RecordBatch:
        """The events of a table of `fhir_run.ViewRunner.numbered` that are in scope."""
        cells = {name: table[name].combine_chunks() for name in table.column_names}
        cells["system"] = _mapped(_text(cells, "system"), lambda uri: SYSTEMS.get(uri, uri))
        wanted = _wanted(cells["system"], _text(cells, "code"), scope)
        if not wanted.all():
            cells = {name: column.filter(pa.array(wanted)) for name, column in cells.items()}
        made, good = self._columns(cells)
        if scope.since_us is not None:
            known = pc.fill_null(pc.coalesce(made["known_us"], made["time_us"]), scope.since_us).to_numpy()
            good &= known >= scope.since_us
        if not good.all():
            made = {name: column.filter(pa.array(good)) for name, column in made.items()}
        self._report.events += len(made["patient"])
        return events.batch(made, source=self._report.source)

    def _columns(self, cells: dict[str, pa.Array]) -> tuple[dict[str, pa.Array], _Mask]:
        good = np.ones(len(cells["system"]), bool)
        patient = _text(cells, "patient")
        code = _text(cells, "code")
        self._refuse(good, patient.is_null(), "no reference to a patient")
        self._refuse(good, pc.or_(cells["system"].is_null(), code.is_null()), "coding without a system or a code")
        if "absent" in cells:
            self._refuse(good, pc.fill_null(cells["absent"], False), "value absent")
        time_us, precision = self._time(cells, good)
        known_us, _ = self._instants(_first_of(cells, "known"), good, self._zone)
        number, comparator, value = self._value(cells, good)
        if self._prefix:
            patient = pc.binary_join_element_wise(self._prefix, patient, "")
        return {
            "patient": patient,
            "time_us": time_us,
            "precision": precision,
            "known_us": known_us,
            "system": cells["system"],
            "code": code,
            "number": number,
            "comparator": comparator,
            "value": value,
            "unit": _unit(cells),
            "status": self._status(cells),
            "order_key": self._order_key(cells),
            "row": cells[ROW],
        }, good

    def _refuse(self, good: _Mask, bad: pa.Array, reason: str) -> None:
        found = good & bad.to_numpy(zero_copy_only=False)
        self._report.refuse(reason, int(found.sum()))
        good &= ~found

    def _time(self, cells: dict[str, pa.Array], good: _Mask) -> tuple[pa.Array, pa.Array]:
        texts = _first_of(cells, "time")
        if self._type != PATIENT.title():
            return self._instants(texts, good, self._zone)
        birth = pc.and_(pc.equal(cells["system"], PATIENT), pc.equal(cells["code"], "birth-date"))
        # A birth is the day's 00:00 UTC, wherever the site is.
        born = self._instants(pc.if_else(birth, texts, None), good, "UTC")
        other = self._instants(pc.if_else(birth, None, texts), good, self._zone)
        return pc.coalesce(born[0], other[0]), pc.coalesce(born[1], other[1])

    def _instants(self, texts: pa.Array, good: _Mask, zone: str | None) -> tuple[pa.Array, pa.Array]:
        time_us, precision, counts = instants(texts, zone)
        for reason, count in counts.items():
            (self._report.note if reason in {times.GAP, times.AMBIGUOUS} else self._report.refuse)(reason, count)
        if time_us.null_count > texts.null_count:
            good &= ~pc.and_(time_us.is_null(), texts.is_valid()).to_numpy(zero_copy_only=False)
        return time_us, precision

    def _value(self, cells: dict[str, pa.Array], good: _Mask) -> tuple[pa.Array, pa.Array, pa.Array]:
        length = len(good)
        number = _first_of(cells, "number", pa.float64())
        comparator = _text(cells, "comparator")
        if comparator.null_count < length:
            odd = pc.and_(comparator.is_valid(), pc.invert(pc.is_in(comparator, pa.array(_COMPARATORS))))
            self._refuse(good, odd, "unknown comparator")
        text = _text(cells, "value")
        if text.null_count < length:
            number, comparator, text = _numbers(number, comparator, text)
        coded = _joined(_text(cells, "value_system"), _text(cells, "value_code"))
        value = pc.coalesce(coded, text, _text(cells, "value_2"), _text(cells, "value_3"))
        value = pc.if_else(number.is_valid(), None, value)
        if self._type == PATIENT.title():
            sex = pc.and_(pc.equal(cells["code"], "sex"), pc.invert(pc.is_in(value, pa.array(SEXES))))
            self._refuse(good, pc.fill_null(sex, False), "unknown sex")
        if value.null_count < length:
            long = pc.fill_null(pc.greater(pc.utf8_length(value), _LONGEST_TEXT), False)
            self._report.note("text value too long", int(pc.sum(long).as_py() or 0))
            value = pc.if_else(long, None, value)
        return number, comparator, value

    def _status(self, cells: dict[str, pa.Array]) -> pa.Array:
        known = STATUSES.get(self._type)
        mapped = [
            _mapped(_text(cells, name), lambda one: known.get(one, "unknown") if known else one)
            for name in ("status_3", "status_2", "status")
            if name in cells
        ]
        if not mapped:
            return pa.nulls(len(cells["system"]), pa.string())
        *others, status = mapped
        if "status" in cells and self._type in STATUSES and self._type not in STATED_IF_DOUBTFUL:
            status = status.fill_null("unknown")
        for other in others:
            status = pc.if_else(pc.is_in(other, pa.array(DROPPED_STATUSES)), other, status)
        return status

    def _order_key(self, cells: dict[str, pa.Array]) -> pa.Array:
        if "order_key" in cells or "id" not in cells:
            return _text(cells, "order_key")
        return pc.binary_join_element_wise(f"{self._type}/", cells["id"], "")


def _text(cells: Mapping[str, pa.Array], name: str) -> pa.Array:
    found = cells.get(name)
    if found is None:
        return pa.nulls(len(cells[ROW]), pa.string())
    return found if found.type == pa.string() else found.cast(pa.string())


def _first_of(cells: Mapping[str, pa.Array], name: str, kind: pa.DataType | None = None) -> pa.Array:
    """The first of the columns `name`, `name`_2, … that has something."""
    names = [one for one in (name, f"{name}_2", f"{name}_3", f"{name}_4") if one in cells]
    columns = [cells[one].cast(kind or pa.string()) for one in names if cells[one].null_count < len(cells[one])]
    if not columns:
        return pa.nulls(len(cells[ROW]), kind or pa.string())
    return pc.coalesce(*columns) if len(columns) > 1 else columns[0]


def _mapped(texts: pa.Array, change: Callable[[str], str]) -> pa.Array:
    coded = texts.dictionary_encode()
    changed = pa.array([change(one) for one in coded.dictionary.to_pylist()], pa.string())
    return changed.take(coded.indices)


def _wanted(systems: pa.Array, codes: pa.Array, scope: Scope) -> _Mask:
    if scope.codes is None:
        return np.ones(len(systems), bool)
    system, code = systems.dictionary_encode(), codes.dictionary_encode()
    width = len(code.dictionary) + 1
    pairs = _indices(system) * width + _indices(code)
    different, back = np.unique(pairs, return_inverse=True)
    names, values = [None, *system.dictionary.to_pylist()], [None, *code.dictionary.to_pylist()]
    wants = [_wants(scope, names[pair // width], values[pair % width]) for pair in different.tolist()]
    return np.array(wants, bool)[back]


def _indices(coded: pa.DictionaryArray) -> npt.NDArray[np.int64]:
    found: npt.NDArray[np.int64] = coded.indices.cast(pa.int64()).fill_null(-1).to_numpy() + 1
    return found


def _wants(scope: Scope, system: str | None, code: str | None) -> bool:
    return system is not None and code is not None and scope.wants(system, code)


def _numbers(number: pa.Array, comparator: pa.Array, text: pa.Array) -> tuple[pa.Array, pa.Array, pa.Array]:
    """Texts that are written as numbers, where there is none, as numbers."""
    found = pc.extract_regex(pc.if_else(number.is_valid(), None, text), _BOUND)
    read = pc.struct_field(found, "number").cast(pa.float64())
    bound = pc.struct_field(found, "comparator")
    is_read = read.is_valid()
    comparator = pc.if_else(is_read, pc.if_else(pc.equal(bound, ""), None, bound), comparator)
    return pc.coalesce(number, read), comparator, pc.if_else(is_read, None, text)


def _joined(system: pa.Array, code: pa.Array) -> pa.Array:
    if code.null_count == len(code):
        return code
    return pc.binary_join_element_wise(_mapped(system, lambda uri: SYSTEMS.get(uri, uri)), code, "|")


def _unit(cells: Mapping[str, pa.Array]) -> pa.Array:
    unit, coded, system = (_text(cells, name) for name in ("unit", "unit_code", "unit_system"))
    if coded.null_count == len(coded):
        return unit
    ucum: Any = pc.and_(pc.fill_null(pc.equal(system, _UCUM), False), coded.is_valid())
    return pc.if_else(ucum, coded, pc.coalesce(unit, coded))
