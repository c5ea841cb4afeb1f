"""From a harvest to the study's columns: who is in the cohort, and what each record's columns hold.

Records come in the order of their patients' pseudonyms and index times, so that the table does not depend on the order
in which a source, or an executor, gave its facts. Who is left out is counted by reason, in the order of the reasons.

Ages are completed years and end at 90, which stands for all above, but for a criterion of the cohort. A birth of which
only the year or month is known is taken for its first day. Times are clinical times. A coded value that the contract
does not know is missing, unless the column takes others, and is counted.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from wardround.clinical.contract import DataContract
from wardround.clinical.derivation import Criterion
from wardround.errors import ClinicalError
from wardround.harmonization import consent
from wardround.harmonization.deidentify_dates import completed_years, top_coded
from wardround.harmonization.harvest import Harvest, numbers
from wardround.harmonization.needs import Need
from wardround.harmonization.plan import quantum
from wardround.harmonization.times import DAY_US

__all__ = ["PATIENT_COLUMN", "Assembled", "assemble"]

PATIENT_COLUMN: Final = "patient"
"""The column of the assembled table that tells the records' patients apart, by pseudonym."""

_COARSE_BITS: Final = 20
_FINE_BITS: Final = 40
_MINUTES_A_DAY: Final = 1440.0
_Floats = npt.NDArray[np.float64]

Arrays = Callable[[Need, list[str | None]], _Floats]
"""For a need and the names of its records' arrays, the transformed numbers ``(records, length)``; NaN without one."""


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Assembled:
    """The columns of the records that are in the cohort.

    Attributes:
        cells: Columns by their name in the contract, and `PATIENT_COLUMN`.
        records: How many records there are.
        found: How many index events there were.
        left_out: How many of them are not in the cohort, by reason.
        unknown_values: For each column the coded values that the contract does not know.
    """

    cells: dict[str, npt.NDArray[Any]]
    records: int
    found: int
    left_out: dict[str, int] = field(default_factory=dict)
    unknown_values: dict[str, int] = field(default_factory=dict)


def assemble(
    contract: DataContract,
    needs: tuple[Need, ...],
    harvest: Harvest,
    pseudonyms: Mapping[str, str],
    arrays: Arrays,
    zone: str = "UTC",
    now_us: int | None = None,
) -> Assembled:
    """Make the columns of `contract` from what was found.

    Args:
        contract: It has a cohort.
        needs: The contract's needs, as the harvest was made for.
        harvest: What was found.
        pseudonyms: For each patient with a record the name under which the records are kept apart and ordered.
        arrays: What fetches and transforms arrays.
        zone: The site's, by whose calendar ages are counted.
        now_us: The present, for consent; None: whatever was said last.

    Raises:
        ClinicalError: A sum went beyond what can be exact.
    """
    records = _Records(harvest, pseudonyms, zone)
    keep = np.ones(records.number, dtype=np.bool_)
    left_out: dict[str, int] = {}

    def leave(reason: str, stays: npt.NDArray[np.bool_]) -> None:
        if gone := int((keep & ~stays).sum()):
            left_out[reason] = gone
        np.logical_and(keep, stays, out=keep)

    cohort = contract.cohort
    if cohort is None:
        raise ClinicalError("a contract without a cohort has no records to assemble")
    leave("identity conflict", records.without(harvest.conflicts))
    unknown: dict[str, int] = {}
    columns = {
        (need.role, need.name): _column(contract, need, place, records, unknown, arrays)
        for place, need in enumerate(needs)
        if need.role in {"column", "label", "holdout", "criterion"}
    }
    if contract.consent:
        verdicts = consent.verdicts(harvest.consents, now_us)
        silent = contract.consent.default == "permit"
        leave("no consent", np.array([verdicts.get(one, silent) for one in records.patients], dtype=np.bool_))
    if cohort.lookback_days:
        leave("too short a history", records.known_for(harvest.earliest) >= cohort.lookback_days * DAY_US)
    for criterion in cohort.criteria:
        leave(f"criterion {criterion.name}", _meets(criterion, columns["criterion", criterion.name]))
    cells = {name: column[keep] for (role, name), column in columns.items() if role in {"column", "label", "holdout"}}
    if contract.label.outcome == "survival":
        cells |= _survival(contract, needs, records, cells[contract.label.name], keep)
    cells[PATIENT_COLUMN] = np.array(records.pseudonyms, dtype=object)[keep]
    return Assembled(
        cells=cells,
        records=int(keep.sum()),
        found=records.number,
        left_out=left_out,
        unknown_values={name: count for name, count in unknown.items() if count},
    )


class _Records:
    """The records in their order, and each table of the harvest laid along them."""

    def __init__(self, harvest: Harvest, pseudonyms: Mapping[str, str], zone: str) -> None:
        self.zone = zone
        patients = harvest.records.column("patient").to_pylist()
        times = harvest.records.column("index_us").to_pylist()
        order = sorted(range(len(patients)), key=lambda place: (pseudonyms[patients[place]], times[place]))
        self.number = len(order)
        self.patients = [patients[place] for place in order]
        self.pseudonyms = [pseudonyms[patient] for patient in self.patients]
        self.index_us = np.array([times[place] for place in order], dtype=np.int64)
        self._people = pa.array(sorted(set(patients)), pa.string())
        self._times = np.unique(self.index_us)
        own = self._key(pa.chunked_array([pa.array(self.patients, pa.string())]), self.index_us)
        self._sorting = np.argsort(own, kind="stable")
        self._sorted = own[self._sorting]
        self._tables = {"sums": harvest.sums, "first": harvest.first, "last": harvest.last, "medians": harvest.medians}
        self._places = {name: self._laid(table) for name, table in self._tables.items()}

    def without(self, patients: frozenset[str]) -> npt.NDArray[np.bool_]:
        return np.array([patient not in patients for patient in self.patients], dtype=np.bool_)

    def known_for(self, earliest: Mapping[str, int]) -> npt.NDArray[np.int64]:
        since = [earliest.get(patient, index) for patient, index in zip(self.patients, self.index_us, strict=True)]
        return self.index_us - np.array(since, dtype=np.int64)

    def floats(self, table: str, column: str, need: int, *, otherwise: float = np.nan) -> _Floats:
        rows, places = self._of(table, need)
        found = np.full(self.number, otherwise)
        found[places] = numbers(rows.column(column))
        return found

    def whole(self, column: str, need: int) -> npt.NDArray[Any]:
        """A column of exact sums as Python's integers, None where there is none."""
        rows, places = self._of("sums", need)
        found = np.full(self.number, None, dtype=object)
        found[places] = np.array([*rows.column(column).to_pylist(), None], dtype=object)[:-1]
        return found

    def texts(self, table: str, column: str, need: int) -> list[str | None]:
        rows, places = self._of(table, need)
        found: list[str | None] = [None] * self.number
        for place, text in zip(places.tolist(), rows.column(column).to_pylist(), strict=True):
            found[place] = text
        return found

    def _of(self, table: str, need: int) -> tuple[pa.Table, npt.NDArray[np.int64]]:
        groups = self._places[table]
        if need not in groups:
            return self._tables[table].slice(0, 0), np.empty(0, dtype=np.int64)
        rows, places = groups[need]
        return self._tables[table].take(pa.array(rows)), places

    def _key(self, patients: pa.ChunkedArray, index_us: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        people: npt.NDArray[np.int64] = pc.index_in(patients, value_set=self._people).to_numpy().astype(np.int64)
        keys: npt.NDArray[np.int64] = people * max(len(self._times), 1) + np.searchsorted(self._times, index_us)
        return keys

    def _laid(self, table: pa.Table) -> dict[int, tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]]:
        key = self._key(table.column("patient"), table.column("index_us").to_numpy())
        places = self._sorting[np.searchsorted(self._sorted, key)]
        needs = table.column("need").to_numpy()
        order = np.argsort(needs, kind="stable")
        found = {}
        for need in np.unique(needs).tolist():
            rows = order[slice(*np.searchsorted(needs[order], [need, need + 1]).tolist())]
            found[int(need)] = (rows, places[rows])
        return found


def _column(
    contract: DataContract, need: Need, place: int, records: _Records, unknown: dict[str, int], arrays: Arrays
) -> npt.NDArray[Any]:
    how = need.derive.aggregate
    if how == "array":
        return arrays(need, records.texts("last", "array", place))
    if how in {"first", "last", "value_at"}:
        table = "first" if how == "first" else "last"
        if need.is_numeric:
            return records.floats(table, "number", place)
        return _coded(contract, need, place, records, table, unknown)
    if how == "median":
        return records.floats("medians", "least", place) / 2 + records.floats("medians", "most", place) / 2
    return _summed(need, place, records)


def _summed(need: Need, place: int, records: _Records) -> _Floats:
    how = need.derive.aggregate
    facts = records.floats("sums", "facts", place, otherwise=0.0)
    if how == "count":
        return facts
    if how == "exists":
        return (facts > 0).astype(np.float64)
    if how in {"min", "max"}:
        return records.floats("sums", "least" if how == "min" else "most", place)
    if how in {"mean", "sum"}:
        total = records.floats("sums", "total", place) / quantum(need)
        return total / facts if how == "mean" else total
    if how == "slope":
        return _slope(need, place, records)
    if how == "age":
        # Of facts that agree, the latest is the most precise: a year stands for its first of January.
        births = pa.array(records.whole("last_us", place), pa.int64())
        ages = completed_years(births, pa.array(records.index_us), zone=records.zone).least
        return numbers(pa.chunked_array([ages if need.role == "criterion" else top_coded(ages)]))
    at = records.floats("sums", "last_us" if how == "time_since_last" else "first_us", place)
    days = (at - records.index_us) / DAY_US
    return -days if how == "time_since_last" else days


def _slope(need: Need, place: int, records: _Records) -> _Floats:
    sums = [records.whole(name, place) for name in ("facts", "t", "tt", "v", "tv")]
    found = np.full(records.number, np.nan)
    for row, (n, t, tt, v, tv) in enumerate(zip(*sums, strict=True)):
        # Whole numbers of any size, so that nothing cancels.
        if n is not None and t is not None and n * tt - t * t > 0:
            found[row] = (n * tv - t * v) / (n * tt - t * t)
    return found * _MINUTES_A_DAY / (quantum(need) * 2.0 ** (_COARSE_BITS - _FINE_BITS))


def _coded(
    contract: DataContract, need: Need, place: int, records: _Records, table: str, unknown: dict[str, int]
) -> npt.NDArray[Any]:
    texts = records.texts(table, "value", place)
    given = records.floats(table, "number", place)
    column = next((one for one in contract.columns if one.name == need.name and need.role == "column"), None)
    allowed = column.categories if column else contract.label.classes
    takes_others = column.other if column else False
    found: list[object] = []
    for text, number in zip(texts, given.tolist(), strict=True):
        raw = text if text is not None else _spelled(number)
        meaning = None if raw is None else need.derive.codes.get(raw, raw)
        known = _truth(meaning) if need.kind == "boolean" else _category(meaning, allowed)
        if known is None and raw is not None:
            unknown[need.name] = unknown.get(need.name, 0) + (not takes_others)
            known = meaning if takes_others else None
        found.append(known)
    return np.array([*found, None], dtype=object)[:-1]


def _category(meaning: str | None, allowed: tuple[str, ...]) -> str | None:
    if meaning is None or meaning in allowed:
        return meaning
    code = meaning.rpartition("|")[2]
    return code if code in allowed else None


def _truth(meaning: str | None) -> str | None:
    lowered = (meaning or "").lower()
    return lowered if lowered in {"true", "false", "1", "0"} else None


def _spelled(number: float) -> str | None:
    if np.isnan(number):
        return None
    return str(int(number)) if number.is_integer() else repr(number)


def _meets(criterion: Criterion, values: _Floats) -> npt.NDArray[np.bool_]:
    least = -np.inf if criterion.minimum is None else criterion.minimum
    most = np.inf if criterion.maximum is None else criterion.maximum
    inside = (values >= least) & (values <= most)
    return ~inside & ~np.isnan(values) if criterion.exclude else inside


def _survival(
    contract: DataContract,
    needs: tuple[Need, ...],
    records: _Records,
    event_days: _Floats,
    keep: npt.NDArray[np.bool_],
) -> dict[str, npt.NDArray[Any]]:
    seen = next(place for place, need in enumerate(needs) if need.role == "seen")
    last_days = ((records.floats("sums", "last_us", seen) - records.index_us) / DAY_US)[keep]
    happened = ~np.isnan(event_days)
    derive = contract.label.derive
    horizon = derive.window.to_days if derive and derive.window.to_days is not None else np.inf
    days = np.where(happened, event_days, np.minimum(last_days, horizon))
    return {contract.label.name: days, contract.label.event: happened.astype(np.float64)}
