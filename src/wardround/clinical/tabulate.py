"""Raw columns in, study table out: the one place where a site's cells become the contract's numbers.

Rules, in the order in which they are applied:

1. Every column of the contract is there, and its stated unit converts to the contract's.
2. A cell is text, a number, a truth value, or missing: None, NaN, or one of the layout's `missing` tokens.
3. A cell that is not of the column's kind refuses the load; it is never read as missing.
4. A number outside the plausible bounds (in the contract's unit) counts as implausible and is then missing.
5. A feature without a value does what the contract says: refuse the load, drop the record, or wait for the mean.
6. A record without a label, its share of the holdout column, or the patient's identifier (`patients`) is dropped.
7. The records that remain are dealt to training and holdout, patient by patient, and there must be enough of them.

A message holds column names and counts. No cell reaches a message, a traceback's chain or a repr.
"""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from decimal import Decimal
from typing import Annotated, Any

import msgspec
import numpy as np
import numpy.typing as npt

from wardround.clinical import cells as raw
from wardround.clinical import patients as ownership
from wardround.clinical import units
from wardround.clinical.cells import Cells
from wardround.clinical.contract import Column, DataContract, column_features, label_columns, width
from wardround.clinical.derivation import SINGLE_VALUED
from wardround.clinical.table import LoadReport, StudyTable
from wardround.errors import ClinicalError, ColumnTypeError, MissingColumnError, TooFewRecordsError

__all__ = ["MAX_CELLS", "Cells", "Layout", "LocalColumn", "locate", "number_columns", "record_limit", "study_table"]

MAX_CELLS = 50_000_000
"""Above this many cells, records times columns, a load is refused."""

_Floats = npt.NDArray[np.float64]
_NAMES_SHOWN = 40
_TRUTH = {"true": 1.0, "false": 0.0, "1": 1.0, "0": 0.0}
_NUMBER_TYPES = {type(None), bool, int, float, Decimal}
_LARGEST = float(np.finfo(np.float32).max)
_EXACT = 10**18


class LocalColumn(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, rename={"source": "from"}):
    """How one column of the contract is written at a site; an empty `source` or `unit` is the contract's own.

    `values` maps local texts to the contract's; `molar_mass` (g/mol) allows mmol/L for mg/dL.
    """

    source: str = ""
    unit: str = ""
    values: dict[str, str] = {}
    molar_mass: Annotated[float, msgspec.Meta(gt=0.0)] | None = None


class Layout(msgspec.Struct, frozen=True, kw_only=True):
    """How a site writes its records: columns by their name in the contract, and texts that stand for no value."""

    columns: dict[str, LocalColumn] = {}
    missing: tuple[str, ...] = ("",)
    max_records: int = 5_000_000


def locate(contract: DataContract, layout: Layout, available: Sequence[str]) -> dict[str, str]:
    """For each column that the contract names, the name of the source's column.

    Raises:
        MissingColumnError: One or more are not among `available`, or are there twice.
    """
    places = {name: _local(layout, name).source or name for name in _names(contract)}
    times = Counter(available)
    absent = [name for name, place in places.items() if place not in times]
    if absent:
        spelled = ", ".join(_spelled(name, places[name]) for name in absent[:_NAMES_SHOWN])
        raise MissingColumnError(
            f"{len(absent)} of {len(places)} columns are not in the source: {spelled}; "
            f"{_offer(available, some_found=len(absent) < len(places))}"
        )
    twice = [name for name, place in places.items() if times[place] > 1]
    if twice:
        raise MissingColumnError(f"the source has more than one column for {', '.join(map(repr, twice))}: rename one")
    return places


def number_columns(contract: DataContract) -> frozenset[str]:
    """Names of the columns that are read as numbers, label included; a source may hand them over as float arrays."""
    return frozenset(column.name for column in _columns(contract) if column.kind == "number")


def record_limit(contract: DataContract, layout: Layout) -> int:
    """How many records a source may hand over."""
    cells = width(contract) + len(_names(contract)) - len(contract.columns)
    return min(layout.max_records, MAX_CELLS // cells)


def study_table(contract: DataContract, cells: Mapping[str, Cells], layout: Layout) -> StudyTable:
    """Make the study table of `contract` from columns of equal length, by the rules above.

    Raises:
        MissingColumnError: `cells` lacks a column.
        UnitMismatchError: A stated unit does not convert.
        ColumnTypeError: A column holds cells of another kind.
        ClinicalError: A value is missing where the contract refuses that, or there are too many records.
        TooFewRecordsError: Fewer usable records than the contract asks for, or none.
    """
    columns = _columns(contract)
    records = _records(contract, cells, layout)
    converters = {column.name: _converter(column, _local(layout, column.name)) for column in columns}
    features = np.empty((records, width(contract)), dtype=np.float32)
    others: dict[str, _Floats] = {}
    implausible: dict[str, int] = {}
    missing: dict[str, int] = {}
    owners = _owners(contract, cells, layout, records)
    keep = owners.codes >= 0
    _count(missing, contract.patient, int((~keep).sum()))
    start = 0
    for position, column in enumerate(columns):
        values = _read(column, _local(layout, column.name), cells[column.name], layout.missing)
        values, outside = _plausible(column, converters[column.name](values))
        absent = _gaps(values)
        _count(implausible, column.name, outside)
        _count(missing, column.name, int(absent.sum()) - outside)
        _refuse(column, absent)
        if column.missing == "drop":
            keep &= ~absent
        if position >= len(contract.columns):
            others[column.name] = values
            continue
        stop = start + len(column_features(column))
        features[:, start:stop] = _encoded(column, values)
        start = stop
    used = int(keep.sum())
    _enough(contract, used, records)
    patients, hashes = ownership.numbered(owners, keep)
    counts = {"read": records, "used": used, "dropped": records - used, "patients": len(hashes)}
    counts["owners"] = len(owners.hashes)
    return StudyTable(
        features=features if used == records else features[keep],
        labels=_labels(contract, others)[keep],
        held_out=_held_out(contract, others, keep, patients, hashes),
        report=LoadReport(**counts, implausible=implausible, missing=missing),
        patients=patients,
        rows=np.flatnonzero(keep),
    )


def _columns(contract: DataContract) -> tuple[Column, ...]:
    # A label is read by the rules of a feature: it is a column whose records are dropped when it is missing.
    label = contract.label
    extra = {
        "binary": Column(name=label.name, kind="boolean"),
        "multiclass": Column(name=label.name, kind="category", categories=label.classes),
        "number": Column(name=label.name, unit=label.unit),
        "survival": Column(name=label.name, unit=label.unit, minimum=0.0),
    }[label.outcome]
    truths = [*label_columns(contract)[1:], *([contract.holdout_column] if contract.holdout_column else [])]
    return (*contract.columns, extra, *(Column(name=name, kind="boolean") for name in truths))


def _names(contract: DataContract) -> list[str]:
    return [*(column.name for column in _columns(contract)), *([contract.patient] if contract.patient else [])]


def _owners(contract: DataContract, cells: Mapping[str, Cells], layout: Layout, records: int) -> ownership.Owners:
    name = contract.patient
    if not name:
        return ownership.each_its_own(records, contract.holdout_seed)
    return ownership.identified(name, cells[name], _local(layout, name).values, layout.missing, contract.holdout_seed)


def _local(layout: Layout, name: str) -> LocalColumn:
    return layout.columns.get(name) or LocalColumn()


def _spelled(name: str, place: str) -> str:
    return repr(name) if name == place else f"{name!r} (as {place!r})"


def _offer(available: Sequence[str], *, some_found: bool) -> str:
    # Where nothing fits and the names look like cells, the first record was probably taken for a header line.
    if not some_found and not all(name[:1].isalpha() or name[:1] == "_" for name in available):
        return f"it has {len(available)} columns whose names do not look like names: is there a header line?"
    more = ", …" if len(available) > _NAMES_SHOWN else ""
    return f"it has {', '.join(map(repr, available[:_NAMES_SHOWN]))}{more}: name the right one under [columns]"


def _records(contract: DataContract, cells: Mapping[str, Cells], layout: Layout) -> int:
    absent = [name for name in _names(contract) if name not in cells]
    if absent:
        raise MissingColumnError(f"not handed over: {', '.join(map(repr, absent))}; there are {sorted(cells)}")
    lengths = {len(cells[name]) for name in _names(contract)}
    if len(lengths) != 1:
        raise ClinicalError(f"the columns have {len(lengths)} different lengths: they must come from the same records")
    (records,) = lengths
    if records > (limit := record_limit(contract, layout)):
        raise ClinicalError(f"the source has {records} records, more than the {limit} allowed: narrow it")
    return records


def _converter(column: Column, local: LocalColumn) -> units.Affine:
    return units.conversion(local.unit or column.unit, column.unit, molar_mass=local.molar_mass, column=column.name)


def _read(column: Column, local: LocalColumn, cells: Cells, missing: Sequence[str]) -> _Floats:
    array = _array(cells)
    if column.kind == "number" and not local.values and _is_numeric(array):
        with suppress(OverflowError, ValueError):
            return _blanked(array.astype(np.float64), missing)
    codes, texts = _texts(column, array)
    meanings = [_meaning(text, local.values, missing) for text in texts]
    numbers, understood = _numbers(column, meanings)
    wrong = int((~understood)[codes].sum())
    if wrong:
        raise ColumnTypeError(f"column {column.name!r}: {wrong} of {len(array)} cells are {_complaint(column)}")
    values = numbers[codes]
    return _blanked(values, missing) if column.kind == "number" else values


def _array(cells: Cells) -> npt.NDArray[Any]:
    array = raw.array(cells)
    if array.dtype.kind not in "mM":
        return array
    # numpy would give an instant out as an integer, and a date must not pass for a number.
    texts: npt.NDArray[Any] = array.astype(str).astype(object)
    texts[np.isnat(array)] = None
    return texts


def _is_numeric(array: npt.NDArray[Any]) -> bool:
    return array.dtype.kind in "biuf" or (array.dtype.kind == "O" and set(map(type, array)) <= _NUMBER_TYPES)


def _blanked(values: _Floats, missing: Sequence[str]) -> _Floats:
    tokens = [number for number in map(_number, missing) if number is not None]
    values[np.isin(values, tokens)] = np.nan
    return values


def _texts(column: Column, array: npt.NDArray[Any]) -> tuple[npt.NDArray[np.int64], list[str | None]]:
    # Distinct cells are few where text is: every later step works on them, and `codes` deals them out again.
    found = raw.distinct(array)
    if found is None:
        raise ColumnTypeError(f"column {column.name!r}: cells are lists or objects, not {column.kind} values")
    distinct, codes = found
    return codes, [_text(cell) for cell in distinct]


def _text(cell: object) -> str | None:
    cell = cell.item() if isinstance(cell, np.generic) else cell
    if cell is None or (isinstance(cell, float) and math.isnan(cell)) or (isinstance(cell, Decimal) and cell.is_nan()):
        return None
    if isinstance(cell, bool):
        return "true" if cell else "false"
    if isinstance(cell, (int, float, Decimal)):
        return _spelled_number(cell)
    return str(cell).strip()


def _spelled_number(cell: float | Decimal) -> str:
    # The code 3 is "3", whether the source stores 3, 3.0 or a decimal.
    if -_EXACT < cell < _EXACT and cell == int(cell):
        return str(int(cell))
    return str(cell) if isinstance(cell, float) else f"{Decimal(cell):.17g}"


def _meaning(text: str | None, values: Mapping[str, str], missing: Sequence[str]) -> str | None:
    if not text or text in missing:
        return None
    return values.get(text, text) or None


def _numbers(column: Column, meanings: Sequence[str | None]) -> tuple[_Floats, npt.NDArray[np.bool_]]:
    number = _reader(column)
    found = [None if text is None else number(text) for text in meanings]
    numbers = np.array([math.nan if value is None else value for value in found], dtype=np.float64)
    pairs = zip(meanings, found, strict=True)
    return numbers, np.array([text is None or value is not None for text, value in pairs], dtype=np.bool_)


def _reader(column: Column) -> Callable[[str], float | None]:
    if column.kind == "number":
        return _number
    if column.kind == "boolean":
        return lambda text: _TRUTH.get(text.lower())
    places = {text: float(index) for index, text in enumerate(column.categories)}
    return lambda text: places.get(text, float(len(places)) if column.other else None)


def _number(text: str) -> float | None:
    try:
        return None if "_" in text else float(text)
    except ValueError:
        return None


def _complaint(column: Column) -> str:
    if column.kind == "number":
        return "not numbers: list the texts that mean 'no value' under missing, or map them to numbers under values"
    allowed = "neither true/false nor 1/0" if column.kind == "boolean" else "none of the contract's categories"
    return f"{allowed}: map the local texts under values, or list them under missing"


def _plausible(column: Column, values: _Floats) -> tuple[_Floats, int]:
    # What is derived from several values is not itself one: their range was applied to each of them.
    is_single = column.derive is None or column.derive.aggregate in SINGLE_VALUED
    least = column.minimum if is_single and column.minimum is not None else -_LARGEST
    most = column.maximum if is_single and column.maximum is not None else _LARGEST
    outside = (values < least) | (values > most)
    return np.where(outside, np.nan, values), int(outside.sum())


def _gaps(values: _Floats) -> npt.NDArray[np.bool_]:
    return np.asarray(np.isnan(values).any(axis=tuple(range(1, values.ndim))), dtype=np.bool_)


def _count(counts: dict[str, int], name: str, number: int) -> None:
    if number:
        counts[name] = number


def _refuse(column: Column, absent: npt.NDArray[np.bool_]) -> None:
    if column.missing == "refuse" and absent.any():
        raise ClinicalError(
            f"column {column.name!r}: {int(absent.sum())} of {len(absent)} records have no plausible value, "
            "and the contract refuses such records: exclude them at the source"
        )


def _encoded(column: Column, values: _Floats) -> npt.NDArray[np.float64]:
    encoded = values if values.ndim == 2 else values[:, None]
    if column.kind == "category":
        encoded = (values[:, None] == np.arange(len(column.categories) + column.other)).astype(np.float64)
        encoded[np.isnan(values)] = np.nan
    if column.missing == "mask":
        encoded = np.column_stack([encoded, _gaps(values)])
    return encoded


def _labels(contract: DataContract, others: Mapping[str, _Floats]) -> npt.NDArray[np.float32]:
    columns = [others[name].astype(np.float32) for name in label_columns(contract)]
    return columns[0] if len(columns) == 1 else np.stack(columns, axis=1)


def _enough(contract: DataContract, used: int, read: int) -> None:
    if used < contract.min_records:
        raise TooFewRecordsError(
            f"{used} of {read} records are usable, and the contract asks for at least {contract.min_records}"
        )


def _held_out(
    contract: DataContract,
    others: Mapping[str, _Floats],
    keep: npt.NDArray[np.bool_],
    patients: npt.NDArray[np.int32],
    hashes: npt.NDArray[np.uint64],
) -> npt.NDArray[np.bool_]:
    if not contract.holdout_column:
        return ownership.dealt(contract.holdout, patients, hashes)
    stated = np.equal(others[contract.holdout_column][keep], 1.0)
    ownership.apart(contract.holdout_column, stated, patients)
    return stated
