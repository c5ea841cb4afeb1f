"""How a study's columns follow from coded events: concepts, windows, aggregates, the cohort, and what may be told.

All of it is part of the plan's data contract: public, hashed and the same at every site. What a site does to meet it
(which of its own codes mean which concept, how its units are spelled) is in the site's mapping.

A concept is ``system|code``; a code that ends in ``*`` stands for all codes that begin so (``icd10cm|I25.*``);
``@name`` is a value set of the contract. Systems are spelled as `wardround.harmonization.events.SYSTEMS` has them.

Times are whole days relative to the index time. A window takes in what was *known* after its `from_days` and not after
its `to_days`, so that nothing counts before anybody could have known it; null is without bound. A patient's birth date
and sex are in every window, whenever somebody wrote them down.
"""

from typing import Annotated, Literal

import msgspec

from wardround.errors import CodecError

__all__ = [
    "Cohort",
    "Consent",
    "Conversion",
    "Criterion",
    "Derivation",
    "Disclosure",
    "Quality",
    "Window",
    "check_cohort",
    "check_derivation",
    "concepts",
]

Aggregate = Literal[
    "first",
    "last",
    "min",
    "max",
    "mean",
    "median",
    "sum",
    "count",
    "exists",
    "slope",
    "value_at",
    "time_since_last",
    "time_to_first",
    "age",
    "array",
]
_Count = Annotated[int, msgspec.Meta(ge=0)]
_Share = Annotated[float, msgspec.Meta(ge=0.0, le=1.0)]
_MOST_CONCEPTS = 50_000
_LONGEST_NAME = 60

SINGLE_VALUED = frozenset({"first", "last", "min", "max", "mean", "median", "value_at", "age", "array"})
"""Aggregates that lie in the range of the values that they are made of."""

_UNITS = {"age": "a", "time_since_last": "d", "time_to_first": "d"}


class Window(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """From when to when, in days relative to the index; open on the left, closed on the right; null: without bound.

    `ever` takes in everything, and what has no time as well; facts without a time are in no other window.
    """

    from_days: float | None = None
    to_days: float | None = 0.0
    ever: bool = False


class Conversion(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A conversion that the units alone do not give: ``value * factor + offset`` turns `unit` into the column's.

    For HbA1c in per cent from mmol/mol (IFCC): factor 0.09148, offset 2.152.
    """

    unit: str
    factor: float
    offset: float = 0.0


class Derivation(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How one column follows from events.

    Attributes:
        concepts: What counts as the column's fact.
        display: Its name in its terminology, for people and for what proposes local codes.
        window: Where the fact must lie.
        aggregate: What becomes of several; ``first`` and ``last`` by clinical time, ``value_at`` the last one that was
            known `at_days` days after the index, ``slope`` in the column's unit per day, ``time_since_last`` and
            ``time_to_first`` in days, ``age`` in completed years (of ``patient|birth-date``), ``array`` through
            `transform`. ``exists`` is 1 or 0 and ``count`` a number, both 0 where there is nothing.
        at_days: For ``value_at``.
        molar_mass: In g/mol, where sites may state mass or amount of substance.
        conversions: What the units alone do not give. Between two dimensionless units (``%``, ``mmol/mol``) nothing
            converts but what is listed here.
        codes: For a category column, which coded values mean which category: ``system|code`` or a text to a category.
        transform: For ``array``: a named transform ("waveform:window@1"), and `length` numbers that it gives.
        length: See `transform`.
    """

    concepts: tuple[str, ...]
    display: str = ""
    window: Window = Window()
    aggregate: Aggregate = "last"
    at_days: float = 0.0
    molar_mass: Annotated[float, msgspec.Meta(gt=0.0)] | None = None
    conversions: tuple[Conversion, ...] = ()
    codes: dict[str, str] = {}
    transform: str = ""
    length: Annotated[int, msgspec.Meta(ge=0, le=100_000)] = 0


class Criterion(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Who is in the cohort: the derived number lies within the bounds (with `exclude`: does not).

    A patient for whom nothing can be derived does not meet the criterion, with `exclude` or without.
    """

    name: str
    derive: Derivation
    unit: str = "1"
    minimum: float | None = None
    maximum: float | None = None
    exclude: bool = False


class Cohort(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Whom the study is about, and from when on: one record for each index event.

    `index` are the concepts of the index event and `pick` which of a patient's; a patient without one is not in the
    cohort. `lookback_days`: at least so long before the index something must be known of the patient.
    """

    index: tuple[str, ...]
    pick: Literal["first", "last", "each"] = "first"
    criteria: tuple[Criterion, ...] = ()
    lookback_days: _Count = 0


class Disclosure(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a site's data must hold before anything is computed on them; a site may ask for more, never for less.

    `quasi_identifiers` are columns of the contract; over them every record must share its values with at least `k` - 1
    others, every such group must have at least `l` labels, and its labels must lie within `t` of all labels'.
    Groups that fail are left out, complete with their label, up to `max_suppressed` of the records.
    """

    min_patients: _Count = 0
    min_class: _Count = 0
    small_cell: _Count = 10
    quasi_identifiers: tuple[str, ...] = ()
    k: Annotated[int, msgspec.Meta(ge=1)] = 1
    l: Annotated[int, msgspec.Meta(ge=1)] = 1  # noqa: E741, the literature's word: l-diversity
    t: _Share = 1.0
    max_suppressed: _Share = 0.0


class Quality(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What share of the data may be wrong before the site's load is refused."""

    min_coverage: _Share = 0.0
    unmapped_max: _Share = 1.0
    unknown_unit_max: _Share = 1.0
    unparseable_max: _Share = 1.0
    implausible_max: _Share = 1.0


class Consent(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """For which purpose (HL7 v3 PurposeOfUse, "HRESCH") patients must have consented, and what silence means."""

    purpose: str
    default: Literal["permit", "deny"] = "deny"


def concepts(derived: tuple[str, ...], value_sets: dict[str, tuple[str, ...]]) -> tuple[str, ...]:
    """The concepts with every value set expanded, each once, in order.

    Raises:
        CodecError: A value set is not there, or something is not ``system|code``.
    """
    found: dict[str, None] = {}
    for one in derived:
        if one.startswith("@"):
            if one[1:] not in value_sets:
                raise CodecError(f"the contract has no value set {one[1:]!r}")
            members = value_sets[one[1:]]
        else:
            members = (one,)
        for member in members:
            system, bar, code = member.partition("|")
            if not (system and bar and code.rstrip("*")) or "*" in code[:-1]:
                raise CodecError(f"{member!r} is no concept: write system|code, or system|prefix*")
            found[member] = None
    if not found:
        raise CodecError("a derivation names at least one concept")
    if len(found) > _MOST_CONCEPTS:
        raise CodecError(f"a derivation may name {_MOST_CONCEPTS} concepts")
    return tuple(found)


def check_derivation(
    name: str,
    derive: Derivation,
    kind: str,
    value_sets: dict[str, tuple[str, ...]],
    *,
    unit: str = "1",
    is_bounded: bool = False,
) -> None:
    """Refuse a derivation that cannot give a column of this kind and unit; `is_bounded`: its range is stated.

    Raises:
        CodecError: Says why.
    """
    found = concepts(derive.concepts, value_sets)
    window = derive.window
    if window.from_days is not None and window.to_days is not None and window.from_days >= window.to_days:
        raise CodecError(f"column {name!r}: its window ends before it begins")
    if kind == "category" and derive.aggregate not in {"first", "last", "value_at"}:
        raise CodecError(f"column {name!r}: a category is the first, the last or the value at a time")
    if kind == "boolean" and derive.aggregate not in {"exists", "first", "last", "value_at"}:
        raise CodecError(f"column {name!r}: a truth value is exists, first, last or value_at")
    if derive.aggregate in {"mean", "sum", "slope"} and not is_bounded:
        raise CodecError(f"column {name!r}: an exact {derive.aggregate} needs the column's minimum and maximum")
    if derive.codes and kind == "number":
        raise CodecError(f"column {name!r}: coded values give categories or truth values, not numbers")
    if derive.aggregate == "age" and found != ("patient|birth-date",):
        raise CodecError(f"column {name!r}: an age is that of patient|birth-date")
    if unit != (wanted := _UNITS.get(derive.aggregate, unit)):
        raise CodecError(f"column {name!r}: {derive.aggregate} is in the unit {wanted!r}")
    if (derive.aggregate == "array") != bool(derive.transform and derive.length):
        raise CodecError(f"column {name!r}: an array, and no other, has a transform and a length")


def check_cohort(cohort: Cohort, value_sets: dict[str, tuple[str, ...]]) -> None:
    """Refuse a cohort that cannot be found.

    Raises:
        CodecError: Says which part.
    """
    concepts(cohort.index, value_sets)
    names = [criterion.name for criterion in cohort.criteria]
    if any(len(name) > _LONGEST_NAME or sum(letter.isdigit() for letter in name) > 5 for name in names):
        raise CodecError(f"a criterion's name has {_LONGEST_NAME} characters at most, and no code in it")
    if len(set(names)) != len(names):
        raise CodecError("two criteria of the cohort have one name")
    for criterion in cohort.criteria:
        check_derivation(criterion.name, criterion.derive, "number", value_sets, unit=criterion.unit)
        if criterion.minimum is None and criterion.maximum is None:
            raise CodecError(f"criterion {criterion.name!r} has neither a minimum nor a maximum")
