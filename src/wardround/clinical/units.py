"""Conversion between UCUM units, for the few dimensions that clinical tables use.

Each unit is an affine map onto its dimension's base unit, ``base = value * factor + offset``, held as fractions; so a
conversion is exact until it meets a value. Codes are UCUM's case-sensitive ones ("mm[Hg]", "10*9/L", "[degF]"). A unit
that is not in the table converts to itself and to nothing else.

Between a mass and a substance concentration (mg/dL and mmol/L) there is no conversion without the
analyte's molar mass, so a mapping must state one. International units depend on the analyte and never convert.

References:
    The Unified Code for Units of Measure, https://ucum.org/ucum (a month is 30.4375 d, a year 365.25 d).
"""

import math
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from wardround.errors import UnitMismatchError

__all__ = ["IDENTITY", "Affine", "compatible", "conversion", "convert", "exact", "known"]

_Table = dict[str, tuple[Fraction, Fraction]]
_EXACT = 2**53


@dataclass(frozen=True, slots=True)
class Affine:
    """The map ``value * factor + offset``.

    Attributes:
        factor: The double nearest to the true factor.
        offset: The double nearest to the true offset.
        ratio: The true factor as numerator and denominator, where doubles hold both: 35 mg/dL are then 35 / 100 =
            0.35 g/L, and not 35 * 0.01 = 0.35000000000000003. Whoever ignores it is off by a rounding at most.
    """

    factor: float = 1.0
    offset: float = 0.0
    ratio: tuple[float, float] | None = None

    def __call__(self, values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Apply the map to every value; NaN stays NaN."""
        if self == IDENTITY:
            return values
        with np.errstate(over="ignore"):
            if self.ratio is None:
                return values * self.factor + self.offset
            return values * self.ratio[0] / self.ratio[1] + self.offset


IDENTITY = Affine()


def exact(factor: Fraction, offset: Fraction) -> Affine:
    """The affine map of these two fractions; the identity where they are 1 and 0.

    Raises:
        OverflowError: A double holds one of them neither as a number nor, the factor, as other than 0.
    """
    if factor == 1 and offset == 0:
        return IDENTITY
    nearest = float(factor)
    if not nearest:
        raise OverflowError("a factor is too small for a double")
    top, bottom = factor.numerator, factor.denominator
    held = bottom > 1 and max(abs(top), bottom) <= _EXACT
    return Affine(nearest, float(offset), (float(top), float(bottom)) if held else None)


def _prefixed(unit: str, prefixes: str, exponent: int = 1, *, scale: int = 1) -> _Table:
    powers = {"k": 3, "-": 0, "d": -1, "c": -2, "m": -3, "u": -6, "n": -9, "p": -12, "f": -15}
    ten, none = Fraction(10), Fraction(0)
    return {f"{prefix.strip('-')}{unit}": (scale * ten ** (powers[prefix] * exponent), none) for prefix in prefixes}


def _listed(factors: dict[str, str]) -> _Table:
    return {unit: (Fraction(factor), Fraction(0)) for unit, factor in factors.items()}


_MASS_CONCENTRATION = "mass concentration"
_SUBSTANCE_CONCENTRATION = "substance concentration"

_ICE = Fraction("273.15")

_DIMENSIONS: dict[str, _Table] = {
    _MASS_CONCENTRATION: {  # g/L
        **_prefixed("g/L", "k-munp"),
        **_prefixed("g/dL", "-munp", scale=10),
        **_prefixed("g/mL", "-munp", scale=1000),
    },
    _SUBSTANCE_CONCENTRATION: {  # mol/L
        **_prefixed("mol/L", "-munp"),
        **_prefixed("mol/mL", "mun", scale=1000),
        **_prefixed("mol/dL", "mun", scale=10),
    },
    "length": {**_prefixed("m", "k-dcmun"), **_listed({"[in_i]": "0.0254", "[ft_i]": "0.3048"})},
    "area": _prefixed("m2", "-cmu", 2),
    "volume": {**_prefixed("L", "-dcmunf"), **_prefixed("m3", "-dcmu", 3, scale=1000)},
    "mass": {
        **_prefixed("g", "k-munp"),
        **_listed({"t": "1e6", "[lb_av]": "453.59237", "[oz_av]": "28.349523125"}),
    },
    "body mass index": _listed({"kg/m2": "1", "g/m2": "1e-3", "g/cm2": "10"}),
    "pressure": {
        **_prefixed("Pa", "k-"),
        **_listed({"mm[Hg]": "133.322", "cm[H2O]": "98.0665", "bar": "1e5", "mbar": "1e2"}),
    },
    "temperature": {
        "K": (Fraction(1), Fraction(0)),
        "Cel": (Fraction(1), _ICE),
        "[degF]": (Fraction(5, 9), _ICE - 32 * Fraction(5, 9)),
    },
    "time": {
        **_prefixed("s", "-mu"),
        **_listed({"min": "60", "h": "3600", "d": "86400", "wk": "604800", "mo": "2629800", "a": "31557600"}),
    },
    "rate": _listed({"/s": "1", "Hz": "1", "/min": "1/60", "/h": "1/3600", "/d": "1/86400"}),
    "ratio": _listed({"1": "1", "%": "1e-2", "[ppth]": "1e-3", "[ppm]": "1e-6"}),
    "number concentration": _listed(
        {
            "/L": "1",
            "/mL": "1e3",
            "/uL": "1e6",
            "/mm3": "1e6",
            "10*3/uL": "1e9",
            "10*6/uL": "1e12",
            "10*6/L": "1e6",
            "10*9/L": "1e9",
            "10*12/L": "1e12",
        }
    ),
}

_UNITS: dict[str, tuple[str, Fraction, Fraction]] = {
    unit: (dimension, factor, offset)
    for dimension, table in _DIMENSIONS.items()
    for unit, (factor, offset) in table.items()
}


def known() -> tuple[str, ...]:
    """Every unit of the table, grouped by dimension."""
    return tuple(_UNITS)


def compatible(unit: str) -> tuple[str, ...]:
    """The units that `unit` converts to without a molar mass, itself included."""
    return tuple(_DIMENSIONS[_UNITS[unit][0]]) if unit in _UNITS else (unit,)


def conversion(from_unit: str, to_unit: str, *, molar_mass: float | None = None, column: str = "") -> Affine:
    """The affine map from one unit to another; `molar_mass` is in g/mol.

    Raises:
        UnitMismatchError: The units measure different things, one is unknown, or the molar mass is
            needed and missing; the message names both units and `column`.
    """
    if from_unit == to_unit:
        return IDENTITY
    about = f"column {column!r}: " if column else ""
    if from_unit not in _UNITS or to_unit not in _UNITS:
        unknown = from_unit if from_unit not in _UNITS else to_unit
        raise UnitMismatchError(
            f"{about}{from_unit!r} does not convert to {to_unit!r}: {unknown!r} is not in the unit table; "
            "state another unit or convert at the source"
        )
    here, factor, offset = _UNITS[from_unit]
    there, to_factor, to_offset = _UNITS[to_unit]
    if {here, there} == {_MASS_CONCENTRATION, _SUBSTANCE_CONCENTRATION}:
        grams = _checked_molar_mass(molar_mass, f"{about}{from_unit!r} converts to {to_unit!r}")
        factor *= grams if here == _SUBSTANCE_CONCENTRATION else 1 / grams
    elif here != there:
        raise UnitMismatchError(
            f"{about}{from_unit!r} is a {here}, {to_unit!r} a {there}: state the unit that the column is really in"
        )
    return exact(factor / to_factor, (offset - to_offset) / to_factor)


def convert(
    values: npt.ArrayLike, from_unit: str, to_unit: str, *, molar_mass: float | None = None, column: str = ""
) -> npt.NDArray[np.float64]:
    """The `values` in another unit, as float64 of the same shape; NaN stays NaN.

    Raises:
        UnitMismatchError: There is no such conversion; see `conversion`.
    """
    return conversion(from_unit, to_unit, molar_mass=molar_mass, column=column)(np.asarray(values, dtype=np.float64))


def _checked_molar_mass(molar_mass: float | None, claim: str) -> Fraction:
    if molar_mass is None:
        raise UnitMismatchError(f"{claim} only with the analyte's molar_mass (g/mol): state it in the mapping")
    if not (math.isfinite(molar_mass) and molar_mass > 0):
        raise UnitMismatchError(f"{claim} only with a molar_mass above 0 g/mol, not {molar_mass:g}")
    return Fraction(str(molar_mass))  # The decimal that was written, not the double nearest to it.
