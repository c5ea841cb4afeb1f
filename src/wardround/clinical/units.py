"""Conversion between UCUM units, for the few dimensions that clinical tables use.

Each unit is an affine map onto its dimension's base unit, ``base = value * factor + offset``; so a
conversion is one multiplication and one addition. Codes are UCUM's case-sensitive ones ("mm[Hg]",
"10*9/L", "[degF]"). A unit that is not in the table converts to itself and to nothing else.

Between a mass and a substance concentration (mg/dL and mmol/L) there is no conversion without the
analyte's molar mass, so a mapping must state one. International units depend on the analyte and never convert.

References:
    The Unified Code for Units of Measure, https://ucum.org/ucum (a month is 30.4375 d, a year 365.25 d).
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from wardround.errors import UnitMismatchError

__all__ = ["Affine", "compatible", "conversion", "convert", "known"]

_Table = dict[str, tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Affine:
    """The map ``value * factor + offset``."""

    factor: float = 1.0
    offset: float = 0.0

    def __call__(self, values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Apply the map to every value; NaN stays NaN."""
        if self == IDENTITY:
            return values
        with np.errstate(over="ignore"):
            return values * self.factor + self.offset


IDENTITY = Affine()


def _prefixed(unit: str, prefixes: str, exponent: int = 1, *, scale: float = 1.0) -> _Table:
    powers = {"k": 3, "-": 0, "d": -1, "c": -2, "m": -3, "u": -6, "n": -9, "p": -12, "f": -15}
    return {f"{prefix.strip('-')}{unit}": (scale * 10.0 ** (powers[prefix] * exponent), 0.0) for prefix in prefixes}


_MASS_CONCENTRATION = "mass concentration"
_SUBSTANCE_CONCENTRATION = "substance concentration"

_DIMENSIONS: dict[str, _Table] = {
    _MASS_CONCENTRATION: {  # g/L
        **_prefixed("g/L", "k-munp"),
        **_prefixed("g/dL", "-munp", scale=1e1),
        **_prefixed("g/mL", "-munp", scale=1e3),
    },
    _SUBSTANCE_CONCENTRATION: {  # mol/L
        **_prefixed("mol/L", "-munp"),
        **_prefixed("mol/mL", "mun", scale=1e3),
        **_prefixed("mol/dL", "mun", scale=1e1),
    },
    "length": {**_prefixed("m", "k-dcmun"), "[in_i]": (0.0254, 0.0), "[ft_i]": (0.3048, 0.0)},
    "area": _prefixed("m2", "-cmu", 2),
    "volume": {**_prefixed("L", "-dcmunf"), **_prefixed("m3", "-dcmu", 3, scale=1e3)},
    "mass": {**_prefixed("g", "k-munp"), "t": (1e6, 0.0), "[lb_av]": (453.59237, 0.0), "[oz_av]": (28.349523125, 0.0)},
    "body mass index": {"kg/m2": (1.0, 0.0), "g/m2": (1e-3, 0.0), "g/cm2": (10.0, 0.0)},
    "pressure": {
        **_prefixed("Pa", "k-"),
        "mm[Hg]": (133.322, 0.0),
        "cm[H2O]": (98.0665, 0.0),
        "bar": (1e5, 0.0),
        "mbar": (1e2, 0.0),
    },
    "temperature": {"K": (1.0, 0.0), "Cel": (1.0, 273.15), "[degF]": (5 / 9, 273.15 - 32 * 5 / 9)},
    "time": {
        **_prefixed("s", "-mu"),
        "min": (60.0, 0.0),
        "h": (3600.0, 0.0),
        "d": (86400.0, 0.0),
        "wk": (604800.0, 0.0),
        "mo": (30.4375 * 86400.0, 0.0),
        "a": (365.25 * 86400.0, 0.0),
    },
    "rate": {"/s": (1.0, 0.0), "Hz": (1.0, 0.0), "/min": (1 / 60, 0.0), "/h": (1 / 3600, 0.0), "/d": (1 / 86400, 0.0)},
    "ratio": {"1": (1.0, 0.0), "%": (1e-2, 0.0), "[ppth]": (1e-3, 0.0), "[ppm]": (1e-6, 0.0)},
    "number concentration": {
        "/L": (1.0, 0.0),
        "/mL": (1e3, 0.0),
        "/uL": (1e6, 0.0),
        "/mm3": (1e6, 0.0),
        "10*3/uL": (1e9, 0.0),
        "10*6/uL": (1e12, 0.0),
        "10*6/L": (1e6, 0.0),
        "10*9/L": (1e9, 0.0),
        "10*12/L": (1e12, 0.0),
    },
}

_UNITS: dict[str, tuple[str, float, float]] = {
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
    return Affine(factor / to_factor, (offset - to_offset) / to_factor)


def convert(
    values: npt.ArrayLike, from_unit: str, to_unit: str, *, molar_mass: float | None = None, column: str = ""
) -> npt.NDArray[np.float64]:
    """The `values` in another unit, as float64 of the same shape; NaN stays NaN.

    Raises:
        UnitMismatchError: There is no such conversion; see `conversion`.
    """
    return conversion(from_unit, to_unit, molar_mass=molar_mass, column=column)(np.asarray(values, dtype=np.float64))


def _checked_molar_mass(molar_mass: float | None, claim: str) -> float:
    if molar_mass is None:
        raise UnitMismatchError(f"{claim} only with the analyte's molar_mass (g/mol): state it in the mapping")
    if not (math.isfinite(molar_mass) and molar_mass > 0):
        raise UnitMismatchError(f"{claim} only with a molar_mass above 0 g/mol, not {molar_mass:g}")
    return molar_mass
