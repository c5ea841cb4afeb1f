"""How sites spell units, and which UCUM code each spelling means: never guessed.

In this order:

1. The site's own map has the spelling, to the letter.
2. It is one of the well-known spellings below, that no analyser and no nurse has ever meant otherwise ("mmHg", "K/uL").
3. It is a valid UCUM code, written with units, prefixes and annotations that medicine uses.

All else is unknown. Validity alone proves little, because UCUM has a meaning for nearly every string: "u/mL" is valid
and counts atomic mass units, "U/ML" is per megalitre, "G/L" gauss per litre (or grams, or French laboratories' giga).
"""

import re
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Final

from wardround.errors import ConfigError
from wardround.harmonization.ucum_measure import MAX_CODE, measure

__all__ = ["check_spellings", "spelling"]

_LONG_NUMBER: Final = re.compile(r"\d{4}")
_SIGNS: Final = str.maketrans(
    {"μ": "u", "µ": "u", "²": "2", "³": "3", "⁹": "9", "⁶": "6", "×": "x", "·": ".", "−": "-"}
)

_FOLDED: Final[Mapping[str, str]] = {
    # Pressure, rates, temperature
    "mmhg": "mm[Hg]",
    "mm hg": "mm[Hg]",
    "cmh2o": "cm[H2O]",
    "cm h2o": "cm[H2O]",
    "kpa": "kPa",
    "bpm": "/min",
    "beats/min": "/min",
    "breaths/min": "/min",
    "insp/min": "/min",
    "resp/min": "/min",
    "per minute": "/min",
    "1/min": "/min",
    "°c": "Cel",
    "deg c": "Cel",
    "degc": "Cel",
    "deg. c": "Cel",
    "celsius": "Cel",
    "°f": "[degF]",
    "deg f": "[degF]",
    "degf": "[degF]",
    "deg. f": "[degF]",
    "fahrenheit": "[degF]",
    # Counts
    "k/ul": "10*3/uL",
    "k/mm3": "10*3/uL",
    "k/cumm": "10*3/uL",
    "thou/ul": "10*3/uL",
    "thous/ul": "10*3/uL",
    "thousand/ul": "10*3/uL",
    "10^3/ul": "10*3/uL",
    "x10^3/ul": "10*3/uL",
    "x10e3/ul": "10*3/uL",
    "10e3/ul": "10*3/uL",
    "x10(3)/ul": "10*3/uL",
    "10*3/ul": "10*3/uL",
    "mill/ul": "10*6/uL",
    "million/ul": "10*6/uL",
    "10^6/ul": "10*6/uL",
    "x10^6/ul": "10*6/uL",
    "x10e6/ul": "10*6/uL",
    "10e6/ul": "10*6/uL",
    "x10(6)/ul": "10*6/uL",
    "10*6/ul": "10*6/uL",
    "10^9/l": "10*9/L",
    "x10^9/l": "10*9/L",
    "x 10^9/l": "10*9/L",
    "10e9/l": "10*9/L",
    "x10e9/l": "10*9/L",
    "x10(9)/l": "10*9/L",
    "10*9/l": "10*9/L",
    "giga/l": "10*9/L",
    "giga.l-1": "10*9/L",
    "10^12/l": "10*12/L",
    "x10^12/l": "10*12/L",
    "10e12/l": "10*12/L",
    "x10e12/l": "10*12/L",
    "10*12/l": "10*12/L",
    "tera/l": "10*12/L",
    "tera.l-1": "10*12/L",
    "cells/ul": "{cells}/uL",
    "#/ul": "/uL",
    "cells/mm3": "{cells}/uL",
    "/hpf": "/[HPF]",
    "#/hpf": "/[HPF]",
    "/lpf": "/[LPF]",
    "#/lpf": "/[LPF]",
    # Activities, international units, equivalents
    "u/l": "U/L",
    "units/l": "U/L",
    "u/ml": "U/mL",
    "units/ml": "U/mL",
    "iu/l": "[IU]/L",
    "iu/ml": "[IU]/mL",
    "kiu/l": "k[IU]/L",
    "miu/l": "m[IU]/L",
    "miu/ml": "m[IU]/mL",
    "uiu/l": "u[IU]/L",
    "uiu/ml": "u[IU]/mL",
    "uu/ml": "u[IU]/mL",
    "meq/l": "meq/L",
    "mosm/kg": "mosm/kg",
    "mosmol/kg": "mosm/kg",
    "mosm/l": "mosm/L",
    # Body, flow, time
    "kg": "kg",
    "kgs": "kg",
    "kilograms": "kg",
    "lb": "[lb_av]",
    "lbs": "[lb_av]",
    "pounds": "[lb_av]",
    "oz": "[oz_av]",
    "cm": "cm",
    "centimeters": "cm",
    "inch": "[in_i]",
    "inches": "[in_i]",
    "kg/m^2": "kg/m2",
    "kg/m2": "kg/m2",
    "ml": "mL",
    "cc": "mL",
    "ml/min": "mL/min",
    "l/min": "L/min",
    "lpm": "L/min",
    "ml/hr": "mL/h",
    "cc/hr": "mL/h",
    "ml/min/1.73m2": "mL/min/{1.73_m2}",
    "ml/min/1.73 m2": "mL/min/{1.73_m2}",
    "ml/min/1.73m^2": "mL/min/{1.73_m2}",
    "mm/hr": "mm/h",
    "mm/hour": "mm/h",
    "sec": "s",
    "secs": "s",
    "seconds": "s",
    "msec": "ms",
    "minutes": "min",
    "mins": "min",
    "hr": "h",
    "hrs": "h",
    "hours": "h",
    "days": "d",
    "weeks": "wk",
    "months": "mo",
    "years": "a",
    "yrs": "a",
    "percent": "%",
    "pct": "%",
    "fl": "fL",
    "mg/24hr": "mg/(24.h)",
    "mg/24h": "mg/(24.h)",
    "g/24hr": "g/(24.h)",
    "g/24h": "g/(24.h)",
}
"""Spellings in lower case, with their one meaning."""

_TRUSTED_TEXT: Final = """
g m L l s min h d wk mo a mol eq osm U kat Pa bar atm m[Hg] m[H2O] K Cel % 10* 10^ J cal W Hz V A Ohm N Gy Sv
Bq Ci dyn g% deg
"""
_TRUSTED: Final = frozenset(_TRUSTED_TEXT.split())
_SMALL: Final = frozenset({"", "k", "d", "c", "m", "u", "n", "p", "f"})
_LARGE: Final = frozenset({"h", "M", "G", "T"})
_MEASURED_LARGE: Final = frozenset({"Hz", "Pa", "Bq", "J", "Ohm"})
_NOTES_TEXT: Final = """
cells beats breaths score ratio inr rbc rbcs wbc wbcs nrbc plt count copies events feu ddu 1.73_m2 1.73m2
creat creatinine hb hgb titer index cfu spec urine
"""
_NOTES: Final = frozenset(_NOTES_TEXT.split())


def spelling(raw: str | None, site_units: Mapping[str, str]) -> str | None:
    """The UCUM code that a site's spelling means; None where that is not beyond doubt.

    Args:
        raw: As the source has it.
        site_units: The site's own spellings, from the mapping.

    Raises:
        ConfigError: The optional packages for units are not installed.
    """
    if raw is None or len(raw) > MAX_CODE:
        return None
    if raw in site_units:
        return site_units[raw]
    text = " ".join(raw.translate(_SIGNS).split())
    if text in site_units:
        return site_units[text]
    found = _known().get(text.casefold())
    if found is not None and not _means_otherwise(text):
        return found
    return text if _believed(text) else None


def check_spellings(site_units: Mapping[str, str]) -> None:
    """Refuse a site's map that names units which there are not.

    Raises:
        ConfigError: Names them.
    """
    if wrong := [code for code in site_units.values() if measure(code) is None]:
        named = ", ".join(repr(code[:40]) for code in wrong[:5])
        raise ConfigError(
            f"{len(wrong)} units of the mapping are no UCUM code: {named}; codes are like mg/dL, 10*9/L, [degF]"
        )


@cache
def _known() -> dict[str, str]:
    return {**dict(_concentrations()), **_FOLDED}


def _concentrations() -> Iterator[tuple[str, str]]:
    amounts = {"g": "g", "gm": "g", "mcg": "ug", "mcmol": "umol", "mol": "mol"}
    amounts |= {f"{prefix}g": f"{prefix}g" for prefix in "munp"} | {f"{prefix}mol": f"{prefix}mol" for prefix in "munp"}
    for written, amount in amounts.items():
        for volume in ("dL", "mL", "L"):
            yield f"{written}/{volume.lower()}", f"{amount}/{volume}"
        if written not in {"g", "mol"}:
            yield written, amount


def _means_otherwise(text: str) -> bool:
    # "g/L" in capitals is grams, gauss or giga per litre, and "M" in front is milli, micro or mega.
    return text in {"G/L", "G", "MOL/L"} or text.startswith(("M/", "T/"))


def _believed(text: str) -> bool:
    found = measure(text)
    if found is None or not found.annotations <= _NOTES or text.endswith(("/l-1", "/L-1")):
        return False
    # A number by itself is a valid code, and may be anything that went astray into the column of units.
    if _LONG_NUMBER.search(text) or not (found.atoms or found.annotations or text == "1"):
        return False
    return all(_used(prefix, atom) for prefix, atom in found.atoms)


def _used(prefix: str, atom: str) -> bool:
    if atom.startswith(("[", "B[")) or atom == "B":
        return prefix in _SMALL
    return atom in _TRUSTED and (prefix in _SMALL or (prefix in _LARGE and atom in _MEASURED_LARGE))
