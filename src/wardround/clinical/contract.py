"""The data contract: which columns a study needs, in which units, and what its label is.

A contract is part of the plan: public, hashed and shown to every approver. It names nothing local;
a site's own mapping (`wardround.sources`) says where each column comes from at that site.

The study table that a contract describes has one row per record and ``width(contract)`` float32
feature columns in the contract's order; a category column of k values takes k columns (one-hot), and one more where
it takes others; a column whose gaps are masked has an indicator of them behind it.
"""

from typing import Literal

import msgspec

from wardround.clinical import derivation
from wardround.clinical.derivation import Cohort, Consent, Derivation, Disclosure, Quality
from wardround.errors import CodecError

__all__ = [
    "METRICS",
    "Column",
    "DataContract",
    "Label",
    "check",
    "column_features",
    "feature_names",
    "label_columns",
    "numeric_columns_without_bounds",
    "numeric_features",
    "range_scaling",
    "width",
]

_WIDEST = 1e30
Kind = Literal["number", "boolean", "category"]
Missing = Literal["refuse", "drop", "mean", "mask"]
Outcome = Literal["binary", "multiclass", "number", "survival"]

METRICS: dict[Outcome, tuple[str, ...]] = {
    "binary": ("accuracy", "auc", "brier", "calibration_intercept", "calibration_slope", "log_loss"),
    "multiclass": ("accuracy", "log_loss"),
    "number": ("mae", "r2", "rmse"),
    "survival": ("c_index",),
}
"""Names of the metrics of an evaluation, sorted; `wardround.training.metrics` computes them."""


class Column(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One feature column of the study.

    `unit` is a UCUM code ("mg/dL", "mm[Hg]", "1" for a ratio); `minimum` and `maximum` bound what is
    plausible, in that unit, and a value outside counts as missing. `missing` says what happens to a
    record without the value: the whole load is refused, the record is dropped, the federated mean
    stands in for it, or that and an indicator ``name=missing`` ("mask"). With `other`, a value that is none of
    `categories` is a further category ``name=other``, and no error. `derive` says how the column follows from coded
    events, where the contract has a cohort; a column that is an array takes as many feature columns as it is long.
    """

    name: str
    kind: Kind = "number"
    unit: str = "1"
    minimum: float | None = None
    maximum: float | None = None
    categories: tuple[str, ...] = ()
    missing: Missing = "drop"
    other: bool = False
    derive: Derivation | None = None


class Label(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What the model learns.

    `binary`: one 0/1 column. `multiclass`: one column holding one of `classes`. `number`: one column
    in `unit`. `survival`: `name` is the follow-up time in `unit`, `event` the 0/1 column that says
    whether the event was seen (1) or the record is censored (0).

    `derive`, where the contract has a cohort: of a survival label it is the event, ``time_to_first`` within a window
    that begins at the index; who has none is censored when last seen, at the end of the window at the latest.
    """

    name: str
    outcome: Outcome = "binary"
    unit: str = "1"
    classes: tuple[str, ...] = ()
    event: str = ""
    derive: Derivation | None = None


class DataContract(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Columns, label, and the least number of records with which a site may take part.

    `scaling` is "federated" (global mean and standard deviation from sums over all sites), "bounds" (the middle and a
    quarter of each column's plausible range stand in for them: no record is asked) or "none".
    `holdout` is the share of each site's records kept for evaluation, dealt by a hash of `holdout_seed`
    and the record's position; or, where the study defines its own split, `holdout_column` names a
    boolean column (true: held out).

    `patient` names a column of identifiers, texts or whole numbers: records with one identifier are one patient's,
    and are together in training or in the holdout, which is then a share of the patients, dealt by the identifier's
    hash. It is no feature, and a record without one is dropped. Empty: every record is a patient of its own, or,
    where there is a cohort, the patient whose index event it is.

    `value_sets` are concepts by name, for ``@name``; `terminology` says which release of a code system is meant.
    """

    columns: tuple[Column, ...]
    label: Label
    scaling: Literal["federated", "bounds", "none"] = "federated"
    min_records: int = 10
    holdout: float = 0.25
    holdout_seed: int = 0
    holdout_column: str = ""
    holdout_derive: Derivation | None = None
    patient: str = ""
    cohort: Cohort | None = None
    value_sets: dict[str, tuple[str, ...]] = {}
    terminology: dict[str, str] = {}
    disclosure: Disclosure = Disclosure()
    quality: Quality = Quality()
    consent: Consent | None = None


def check(contract: DataContract) -> None:
    """Refuse a contract that cannot be met or is ambiguous.

    Raises:
        CodecError: Says which column or setting.
    """
    names = [*(column.name for column in contract.columns), *label_columns(contract)]
    names += [name for name in (contract.holdout_column, contract.patient) if name]
    if not contract.columns or "" in names or len(set(names)) != len(names):
        raise CodecError("a data contract needs at least one column, and every column name once")
    if len(names) > 100_000:
        raise CodecError("a data contract may name 100,000 columns")
    for column in contract.columns:
        _check_column(column)
    features = feature_names(contract)
    if len(set(features)) != len(features):
        raise CodecError("two feature columns would have one name: other and missing are no names of categories here")
    label = contract.label
    if (label.outcome == "multiclass") != bool(label.classes) or (label.outcome == "survival") != bool(label.event):
        raise CodecError("a multiclass label, and no other, lists its classes; a survival label names its event column")
    if contract.scaling == "bounds" and (unbounded := numeric_columns_without_bounds(contract)):
        raise CodecError(f'scaling = "bounds" needs a minimum and a maximum of column {unbounded[0]!r}')
    if not 0.0 <= contract.holdout < 1.0 or contract.min_records < 1:
        raise CodecError("holdout must lie in [0, 1) and min_records be at least 1")
    if unknown := set(contract.disclosure.quasi_identifiers) - {column.name for column in contract.columns}:
        raise CodecError(f"a quasi-identifier is a column, and {min(unknown)!r} is none")
    _check_derivations(contract)


def _check_derivations(contract: DataContract) -> None:
    derived: dict[str, tuple[Derivation | None, str]] = {
        column.name: (column.derive, column.kind) for column in contract.columns
    }
    kinds = {"binary": "boolean", "multiclass": "category", "number": "number", "survival": "number"}
    derived[contract.label.name] = (contract.label.derive, kinds[contract.label.outcome])
    if contract.holdout_column:
        derived[contract.holdout_column] = (contract.holdout_derive, "boolean")
    if contract.cohort is None:
        if stated := [name for name, (derive, _) in derived.items() if derive]:
            raise CodecError(f"column {stated[0]!r} is derived from events, and the contract has no cohort")
        if contract.consent:
            raise CodecError("consent is looked up for the patients of a cohort, and the contract has none")
        return
    derivation.check_cohort(contract.cohort, contract.value_sets)
    bounded = {column.name for column in contract.columns if _has_range(column)}
    units = {column.name: column.unit for column in contract.columns} | {contract.label.name: contract.label.unit}
    for name, (derive, kind) in derived.items():
        if derive is None:
            raise CodecError(f"column {name!r}: a contract with a cohort says how each column is derived")
        if name == "patient":
            raise CodecError("with a cohort, no column is called 'patient': its identifiers are")
        derivation.check_derivation(
            name, derive, kind, contract.value_sets, unit=units.get(name, "1"), is_bounded=name in bounded
        )
    if contract.patient:
        raise CodecError("with a cohort, a record's patient is the index event's: leave patient out")
    outcome = contract.label.derive
    if contract.label.outcome == "survival" and outcome and outcome.aggregate != "time_to_first":
        raise CodecError("a survival label is derived by time_to_first")


def _check_column(column: Column) -> None:
    if (column.kind == "category") != bool(column.categories):
        raise CodecError(f"column {column.name!r}: a category column, and no other, lists its categories")
    if len(set(column.categories)) != len(column.categories):
        raise CodecError(f"column {column.name!r}: a category is listed twice")
    if column.other and not column.categories:
        raise CodecError(f"column {column.name!r}: only a category column takes others")


def label_columns(contract: DataContract) -> tuple[str, ...]:
    """Names of the columns that hold the label: one, or time and event."""
    label = contract.label
    return (label.name, label.event) if label.event else (label.name,)


def feature_names(contract: DataContract) -> tuple[str, ...]:
    """Names of the study table's feature columns; a category column gives ``name=value`` for each value."""
    return tuple(name for column in contract.columns for name in column_features(column))


def column_features(column: Column) -> tuple[str, ...]:
    """Names of the feature columns that one column takes."""
    if column.derive and column.derive.aggregate == "array":
        names = [f"{column.name}[{place}]" for place in range(column.derive.length)]
        return (*names, *[f"{column.name}=missing"] * (column.missing == "mask"))
    values = [*column.categories, *["other"] * column.other]
    names = [f"{column.name}={value}" for value in values] or [column.name]
    return (*names, *[f"{column.name}=missing"] * (column.missing == "mask"))


def numeric_features(contract: DataContract) -> tuple[bool, ...]:
    """For each feature column, whether it is a number (and is standardized) or an indicator (and is not)."""
    return tuple(_is_number(column, name) for column in contract.columns for name in column_features(column))


def _is_number(column: Column, feature: str) -> bool:
    return column.kind == "number" and feature != f"{column.name}=missing"


def numeric_columns_without_bounds(contract: DataContract) -> list[str]:
    """Names of the number columns whose plausible range is not finite on both sides."""
    return [column.name for column in contract.columns if column.kind == "number" and _spread(column) is None]


def range_scaling(contract: DataContract) -> tuple[list[float], list[float]]:
    """Per feature what stands in for mean and standard deviation where the records are not asked.

    With scaling by bounds, the middle and a quarter of a number's range; else 0 and 1.
    """
    centres, spreads, is_scaled = [], [], contract.scaling == "bounds"
    for column in contract.columns:
        for name in column_features(column):
            spread = _spread(column) if is_scaled and _is_number(column, name) else None
            centres.append((column.minimum or 0.0) + 2 * spread if spread else 0.0)
            spreads.append(spread or 1.0)
    return centres, spreads


def _spread(column: Column) -> float | None:
    if column.derive and column.derive.aggregate not in derivation.SINGLE_VALUED:
        return None
    return ((column.maximum or 0.0) - (column.minimum or 0.0)) / 4 if _has_range(column) else None


def _has_range(column: Column) -> bool:
    return column.minimum is not None and column.maximum is not None and 0 < column.maximum - column.minimum <= _WIDEST


def width(contract: DataContract) -> int:
    """Number of feature columns."""
    return len(feature_names(contract))
