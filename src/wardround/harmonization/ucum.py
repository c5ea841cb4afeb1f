"""Conversion between UCUM units for one column of a study: an affine map, or the reason why there is none.

The rules, in their order:

1. A unit is itself.
2. What the contract lists for the column holds, whatever the units would give.
3. Scales without a zero or a unit (pH, decibels) convert to nothing.
4. Between two pure numbers (``%``, ``mmol/mol``, ``10*-3``) nothing converts that is not listed. Haemoglobin A1c is
   why: 7.2 % are 72 mmol/mol by dimension, and 55 by its definition.
5. What is annotated as two different things, or as related to another basis, is two things: D-dimer in ``{FEU}`` is
   twice that in ``{DDU}``, and a clearance for ``{1.73_m2}`` is not the patient's own. Other annotations mean nothing,
   as UCUM has it: ``{cells}/uL`` is ``/uL``.
6. One dimension: by the units' exact sizes, offsets included.
7. Mass and amount of substance: by the column's molar mass, where one stands alone in place of the other.

All else is refused: an international unit has no mass, an equivalent is no mole without a charge.

It costs a parse (under a millisecond) for each new code and nothing afterwards; so it is done while a plan is made, and
values are then converted a column at a time.
"""

from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Final

from wardround.clinical.derivation import Derivation
from wardround.clinical.units import IDENTITY, Affine, exact
from wardround.harmonization.ucum_measure import Measure, measure
from wardround.harmonization.ucum_spelling import check_spellings, spelling

__all__ = ["REASONS", "Refusal", "affine", "check_spellings", "fits", "spelling"]

_INVALID: Final = "no valid UCUM code"
_SPECIAL: Final = "a scale that does not convert"
_PURE: Final = "pure numbers, and no conversion listed"
_BASIS: Final = "annotated as different things"
_MOLAR: Final = "needs the analyte's molar mass"
_ARBITRARY: Final = "arbitrary units, and no conversion listed"
_DIMENSION: Final = "another dimension"
REASONS: Final = (_INVALID, _SPECIAL, _PURE, _BASIS, _MOLAR, _ARBITRARY, _DIMENSION)
"""Why units do not convert, as the quality report counts it."""

_RELATED: Final = frozenset({"feu", "ddu", "1.73_m2", "1.73m2", "bsa"})
_UNLIKE_MOLES: Final = frozenset({"eq", "osm", "Bq", "Sv"})


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why one unit does not convert to another: `reason` is one of `REASONS`, `message` says it with both units."""

    reason: str
    message: str


def affine(from_unit: str, to_unit: str, derive: Derivation) -> Affine | Refusal:
    """The map from a site's unit to the column's, both in UCUM.

    Raises:
        ConfigError: The optional packages for units are not installed.
    """
    if from_unit == to_unit and measure(to_unit) is not None:
        return IDENTITY
    listed = {one.unit: Affine(one.factor, one.offset) for one in derive.conversions}
    found = listed.get(from_unit) or next((map_ for unit, map_ in listed.items() if _same(from_unit, unit)), None)
    return found or _by_size(from_unit, to_unit, derive.molar_mass)


def fits(unit: str, target: str, derive: Derivation) -> bool:
    """Whether values in `unit` can be the column's at all; a clash vetoes a proposed mapping.

    Raises:
        ConfigError: The optional packages for units are not installed.
    """
    return isinstance(affine(unit, target, derive), Affine)


def _same(left: str, right: str) -> bool:
    # "mg/dl" is "mg/dL"; pure numbers of one size, "%" and "cg/g", are still not one unit.
    here, there = measure(left), measure(right)
    if here is None or there is None or here.special or not here.dimension:
        return False
    return (here.factor, here.offset, here.dimension, here.annotations) == (
        there.factor,
        there.offset,
        there.dimension,
        there.annotations,
    )


@lru_cache(maxsize=8192)
def _by_size(from_unit: str, to_unit: str, molar_mass: float | None) -> Affine | Refusal:
    here, there = measure(from_unit), measure(to_unit)
    if here is None or there is None:
        return _no(_INVALID, from_unit, to_unit, _advice(from_unit if here is None else to_unit))
    if reason := _clash(here, there):
        advice = "list a conversion in the contract where there is one"
        return _no(reason, from_unit, to_unit, advice)
    factor = here.factor / there.factor
    if here.dimension != there.dimension:
        grams = _molar(here, there)
        if not grams:
            reason = _ARBITRARY if _arbitrary(here) != _arbitrary(there) else _DIMENSION
            return _no(reason, from_unit, to_unit, "state the unit that the values are really in")
        if molar_mass is None:
            return _no(_MOLAR, from_unit, to_unit, "state its molar_mass (g/mol) in the contract")
        factor *= Fraction(str(molar_mass)) ** grams
    try:
        return exact(factor, (here.offset - there.offset) / there.factor)
    except OverflowError:
        return _no(_DIMENSION, from_unit, to_unit, "their sizes are too far apart")


def _clash(here: Measure, there: Measure) -> str:
    if here.special or there.special:
        return _SPECIAL
    if not here.dimension and not there.dimension:
        return _PURE
    left, right = here.annotations, there.annotations
    differ = left != right and ((left and right) or (left ^ right) & _RELATED)
    return _BASIS if differ else ""


def _molar(here: Measure, there: Measure) -> int:
    # 1 from moles to grams, -1 from grams to moles, 0 where the two differ in more than that.
    if here.without("g", "mol") != there.without("g", "mol"):
        return 0
    exponents = [(one.exponent("g"), one.exponent("mol")) for one in (here, there)]
    return {((0, 1), (1, 0)): 1, ((1, 0), (0, 1)): -1}.get((exponents[0], exponents[1]), 0)


def _arbitrary(one: Measure) -> frozenset[str]:
    return frozenset(base for base, _ in one.dimension if base.startswith("[") or base in _UNLIKE_MOLES)


def _advice(code: str) -> str:
    meant = spelling(code, {})
    if meant is not None and meant != code:
        return f"{code[:40]!r} is no UCUM code: write {meant!r}"
    return f"{code[:40]!r} is no UCUM code: write one such as mg/dL, meq/L, 10*9/L or [degF]; capitals matter"


def _no(reason: str, from_unit: str, to_unit: str, advice: str) -> Refusal:
    return Refusal(reason, f"{from_unit[:40]!r} does not convert to {to_unit[:40]!r} ({reason}): {advice}")
