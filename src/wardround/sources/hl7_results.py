"""Results from the OBX of a block's messages; see `wardround.sources.hl7_events` for what becomes of which field.

Texts are read once for each different one in a block, whole columns at a time; what is done for every row is done by
Arrow and numpy.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from wardround.errors import CodecError
from wardround.harmonization.events import KEPT_STATUSES, Scope, SourceReport
from wardround.sources import hl7_time, hl7_value
from wardround.sources.hl7_block import Block, Segments, distinct, either, first_component, taken
from wardround.sources.hl7_coding import CODE_LENGTH, Coded, Coding, coded
from wardround.sources.hl7_header import Headers, Kind
from wardround.sources.hl7_message import NULL, unescape
from wardround.sources.hl7_time import NONE
from wardround.sources.hl7_value import Value

__all__ = ["Naming", "Results", "Source", "results"]

_Longs = npt.NDArray[np.int64]
_Mask = npt.NDArray[np.bool_]

_STATUSES: Final = {
    "F": "final",
    "U": "final",
    "V": "final",
    "A": "amended",
    "B": "amended",
    "C": "corrected",
    "P": "preliminary",
    "R": "preliminary",
    "S": "preliminary",
    "I": "registered",
    "O": "registered",
    "N": "cancelled",
    "X": "cancelled",
    "D": "entered-in-error",
    "W": "entered-in-error",
}
"""Table 0085."""
_STATUS_NAMES: Final = (
    "final",
    "amended",
    "corrected",
    "preliminary",
    "registered",
    "cancelled",
    "entered-in-error",
    "unknown",
)
_KEPT: Final = np.array([name in KEPT_STATUSES for name in _STATUS_NAMES])
_UNKNOWN: Final = _STATUS_NAMES.index("unknown")


@dataclass(frozen=True, slots=True)
class Naming:
    """How the senders' own systems are named: one name for all, or each by its application; and what names mean."""

    local: str
    fallback: str
    systems: Mapping[str, str]

    def of(self, sender: str) -> str:
        """The name of that sender's own system."""
        return self.local or unescape(sender).strip() or self.fallback


@dataclass(frozen=True, slots=True, repr=False)
class Results:
    """Columns of events, by their names, and for each the message and the place in it that it comes from."""

    columns: Mapping[str, Any]
    message: _Longs
    place: _Longs
    variant: _Longs


@dataclass(frozen=True, slots=True, repr=False)
class Source:
    """What the results of a block are read from: messages, their headers, their PID and whom each of these names."""

    block: Block
    headers: Headers
    pids: Segments
    patients: pa.Array
    naming: Naming
    zone: str | None


def results(source: Source, scope: Scope, report: SourceReport) -> Results | None:
    """The results of a block in scope, None if there are none; `Scope.since_us` is not looked at here."""
    orders = source.block.segments("OBR", 25)
    commons = source.block.segments("ORC", 3)
    obx = _reported(source, commons, report)
    patients = taken(source.patients, source.pids.last_before(obx.at, obx.message))
    known = pc.not_equal(patients, "").to_numpy(zero_copy_only=False)
    report.refuse("result of a patient who is not identified", int((~known).sum()))
    obx, patients = obx.where(known), patients.filter(pa.array(known))
    senders = source.headers.senders.take(pa.array(obx.message))
    codes, which = _codes(obx.field(3), senders, source.naming)
    wanted = np.array([[_is_wanted(code, scope), _is_other_wanted(code, scope)] for code in codes], np.bool_).reshape(
        -1, 2
    )
    nameless = np.array([code.primary is None for code in codes], np.bool_)
    report.refuse("result without a code that can be read", int(nameless[which].sum()))
    chosen = (wanted[:, 0] | wanted[:, 1])[which]
    if not chosen.any():
        return None
    rows = _Rows(obx.where(chosen), patients.filter(pa.array(chosen)), senders.filter(pa.array(chosen)), which[chosen])
    return _columns(source, rows, _Orders(orders, commons, rows.obx), codes, wanted, report)


@dataclass(frozen=True, slots=True, repr=False)
class _Rows:
    """The wanted OBX, and for each its patient, sender, and code's place among the different ones."""

    obx: Segments
    patients: pa.Array
    senders: pa.Array
    codes: _Longs


class _Orders:
    """For each of the OBX the order that it is a result of: fields of the OBR and ORC before it."""

    def __init__(self, orders: Segments, commons: Segments, obx: Segments) -> None:
        self.orders, self._commons = orders, commons
        self.order = orders.last_before(obx.at, obx.message)
        common = commons.last_before(obx.at, obx.message)
        # An ORC may stand before or behind its OBR: it is of this order if it follows the OBR of the one before.
        if len(orders) and len(commons):
            here = orders.at[np.maximum(self.order, 0)]
            before = orders.last_before(here, obx.message)
            floor = np.where((self.order >= 0) & (before >= 0), orders.at[np.maximum(before, 0)], -1)
            common = np.where((common >= 0) & (commons.at[np.maximum(common, 0)] > floor), common, -1)
        self.common = common

    def obr(self, number: int) -> pa.Array:
        """OBR's field of each result; empty where there is none."""
        return taken(self.orders.field(number), self.order)

    def orc(self, number: int) -> pa.Array:
        """ORC's field of each result; empty where there is none."""
        return taken(self._commons.field(number), self.common)


def _reported(source: Source, commons: Segments, report: SourceReport) -> Segments:
    """The OBX that report results: those of result messages, and of orders that say so."""
    obx = source.block.segments("OBX", 14)
    kinds = source.headers.kinds[obx.message]
    kept = kinds == Kind.RESULTS
    ordered = kinds == Kind.ORDERS
    if ordered.any():
        control = taken(first_component(commons.field(1)), commons.last_before(obx.at, obx.message))
        kept |= ordered & pc.equal(control, "RE").to_numpy(zero_copy_only=False)
    report.note("observation in a message that reports no results", int(((kinds != Kind.NOTHING) & ~kept).sum()))
    return obx.where(kept)


def _columns(
    source: Source, rows: _Rows, orders: _Orders, codes: list[Coded], wanted: _Mask, report: SourceReport
) -> Results:
    obx, message = rows.obx, rows.obx.message
    statuses = _statuses(obx, orders, report)
    values, which = _values(obx, rows.senders, source.naming)
    units, unit_rows, unit_bad = _units(obx.field(6))
    offsets, zone = source.headers.offsets[message], source.zone
    times = hl7_time.column(either(obx.field(14), orders.obr(7)), offsets, zone)
    known = _known(source, orders, message, times.us, report)
    keys = _keys(rows, orders, codes, times.us, report)
    kept = _KEPT[statuses]
    refusals = np.array([bool(value.refused) for value in values], np.bool_)[which]
    timeless = times.us == NONE
    _count(values, which, kept & ~timeless & ~unit_bad[unit_rows], report)
    report.refuse("result without a readable time", int((kept & timeless).sum()))
    report.refuse("unit with an escape that cannot be read", int((kept & ~timeless & unit_bad[unit_rows]).sum()))
    for remark, count in times.remarked.items():
        report.note(remark, count)
    for reason, count in times.refused.items():
        report.note(reason, count)
    useless = refusals | timeless | unit_bad[unit_rows]
    # What cannot be read still takes the place of what it corrects.
    statuses = np.where(kept & useless, _UNKNOWN, statuses)
    missing = pa.array(useless)
    columns = {
        "patient": rows.patients,
        "time_us": pa.array(times.us, mask=timeless),
        "precision": pa.array(times.precision, mask=timeless),
        "known_us": pa.array(known, mask=known == NONE),
        "number": _of(values, "number", pa.float64(), which, missing),
        "comparator": _of(values, "comparator", pa.string(), which, missing),
        "value": _of(values, "value", pa.string(), which, missing),
        "unit": pa.array(units, pa.string()).take(pa.array(unit_rows)),
        "status": pa.array(_STATUS_NAMES).take(pa.array(statuses)),
        "order_key": keys,
    }
    return _both(columns, rows, codes, wanted)


def _both(columns: dict[str, Any], rows: _Rows, codes: list[Coded], wanted: _Mask) -> Results:
    """One event for each coding of a code that is wanted."""
    asked = wanted[rows.codes]
    at = np.concatenate([np.flatnonzero(asked[:, 0]), np.flatnonzero(asked[:, 1])])
    variant = np.repeat([0, 1], [int(asked[:, 0].sum()), int(asked[:, 1].sum())])
    codings = [code.primary for code in codes] + [code.alternate for code in codes]
    coding = pa.array(rows.codes[at] + variant * len(codes))
    taking = pa.array(at)
    made = {name: column.take(taking) for name, column in columns.items()}
    made["system"] = pa.array([one and one.system for one in codings], pa.string()).take(coding)
    made["code"] = pa.array([one and one.code for one in codings], pa.string()).take(coding)
    # Both codings are of one row: they are one version of the result.
    return Results(made, rows.obx.message[at], rows.obx.place[at], np.zeros_like(variant))


def _codes(cells: pa.Array, senders: pa.Array, naming: Naming) -> tuple[list[Coded], _Longs]:
    stated, which = distinct(cells, senders)
    return [_code(field, sender, naming) for field, sender in stated], which


def _code(field: str, sender: str, naming: Naming) -> Coded:
    try:
        found = coded(field, naming.of(sender), naming.systems)
    except CodecError:
        return Coded()
    if found.primary is None and 0 < len(found.text) <= CODE_LENGTH:
        return Coded(Coding(f"local:{naming.of(sender)}", found.text))
    return found


def _is_wanted(code: Coded, scope: Scope) -> bool:
    return code.primary is not None and scope.wants(code.primary.system, code.primary.code)


def _is_other_wanted(code: Coded, scope: Scope) -> bool:
    return code.alternate is not None and scope.wants(code.alternate.system, code.alternate.code)


def _values(obx: Segments, senders: pa.Array, naming: Naming) -> tuple[list[Value], _Longs]:
    stated, which = distinct(obx.field(2), obx.field(5), senders)
    return [_value(kind, text, sender, naming) for kind, text, sender in stated], which


def _value(kind: str, text: str, sender: str, naming: Naming) -> Value:
    return hl7_value.read(kind, text, naming.of(sender) if kind.startswith("C") else "", naming.systems)


def _of(values: list[Value], name: str, kind: pa.DataType, which: _Longs, missing: pa.Array) -> pa.Array:
    found = pa.array([getattr(value, name) for value in values], kind).take(pa.array(which))
    return pc.if_else(missing, pa.scalar(None, kind), found)


def _count(values: list[Value], which: _Longs, used: _Mask, report: SourceReport) -> None:
    counts = np.bincount(which[used], minlength=len(values)).tolist()
    for value, count in zip(values, counts, strict=True):
        if value.refused:
            report.refuse(value.refused, count)
        elif value.remark:
            report.note(value.remark, count)


def _units(cells: pa.Array) -> tuple[list[str | None], _Longs, _Mask]:
    stated, which = distinct(cells)
    made: list[str | None] = []
    bad = np.zeros(len(stated), np.bool_)
    for place, (field,) in enumerate(stated):
        try:
            parts = [unescape(part) for part in field.split("^")]
        except CodecError:
            parts, bad[place] = [], True
        known = [part for part in (parts[0:1] + parts[1:2] + parts[3:4]) if part not in {"", NULL}]
        made.append(known[0] if known else None)
    return made, which, bad


def _statuses(obx: Segments, orders: _Orders, report: SourceReport) -> _Longs:
    """Places in `_STATUS_NAMES`; where OBX-11 is empty, OBR-25 says it, unless the OBX ends before it, cut short."""
    stated, which = distinct(either(obx.field(11), pc.if_else(pa.array(obx.has(11)), orders.obr(25), "")))
    names = [_STATUSES.get(field.partition("^")[0].strip().upper(), "unknown") for (field,) in stated]
    found: _Longs = np.array([_STATUS_NAMES.index(name) for name in names], np.int64)[which]
    report.refuse("result without a status that is known", int((found == _UNKNOWN).sum()))
    return found


def _known(source: Source, orders: _Orders, message: _Longs, times: _Longs, report: SourceReport) -> _Longs:
    """OBR-22, else MSH-7; but nothing was known before it was observed."""
    stamps = hl7_time.column(orders.obr(22), source.headers.offsets[message], source.zone)
    for reason, count in stamps.refused.items():
        report.note(f"{reason} in OBR-22", count)
    stated = np.where(stamps.us == NONE, source.headers.known_us[message], stamps.us)
    early = (stated != NONE) & (stated < times)
    report.note("result known before it was observed", int(early.sum()))
    return np.where(early, times, stated)


def _keys(rows: _Rows, orders: _Orders, codes: list[Coded], times: _Longs, report: SourceReport) -> pa.Array:
    filler = pc.utf8_rtrim(either(orders.obr(3), orders.orc(3)), "^")
    placer = pc.utf8_rtrim(either(orders.obr(2), orders.orc(2)), "^")
    has_filler, has_placer = (pc.invert(pc.is_in(cells, pa.array(["", NULL]))) for cells in (filler, placer))
    number = pc.if_else(has_filler, filler, placer)
    # A number that names no authority is its sender's.
    sender = pc.if_else(pc.match_substring(number, "^"), "", rows.senders)
    ordered = pc.binary_join_element_wise(pc.if_else(has_filler, "F", "P"), sender, number, "|")
    instant = pc.fill_null(pa.array(times, mask=times == NONE).cast(pa.string()), "")
    loose = pc.binary_join_element_wise("T", rows.patients, instant, "|")
    known = [code.primary or code.alternate for code in codes]
    names = pa.array([f"{one.system}|{one.code}" if one else "" for one in known], pa.string())
    has_order = pc.or_(has_filler, has_placer)
    report.note("result without an order number", len(rows.obx) - int(pc.sum(has_order).as_py() or 0))
    keys = pc.binary_join_element_wise(
        pc.if_else(has_order, ordered, loose), names.take(pa.array(rows.codes)), rows.obx.field(4), "|"
    )
    return _numbered(keys, rows.obx.message, report)


def _numbered(keys: pa.Array, message: _Longs, report: SourceReport) -> pa.Array:
    """The keys, of which the second of one message is another one: within a message nothing corrects itself."""
    encoded = keys.dictionary_encode()
    pairs = message * len(encoded.dictionary) + encoded.indices.to_numpy()
    order = np.argsort(pairs, kind="stable")
    starts = np.flatnonzero(np.diff(pairs[order], prepend=-1))
    ordinal = np.empty(len(pairs), np.int64)
    ordinal[order] = np.arange(len(pairs)) - np.repeat(starts, np.diff(starts, append=len(pairs)))
    if not ordinal.any():
        return keys
    report.note("results of one order, code and sub-identifier in one message", int((ordinal > 0).sum()))
    further = pc.binary_join_element_wise(keys, pa.array(ordinal).cast(pa.string()), "#")
    return pc.if_else(pa.array(ordinal > 0), further, keys)
