"""Whether a local code's units and numbers fit a concept: the fingerprint that a wrong name cannot forge.

A unit is read as leniently as hospitals write it ("K/uL", "mEq/L", "SECONDS"), which is harmless here: nothing is
converted for a tensor, a candidate is only ranked, and a person decides. What cannot be read speaks for nothing. What
can be read and measures something else than the concept does is a veto.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from wardround.clinical import units
from wardround.errors import UnitMismatchError
from wardround.harmonization.profile import LEVELS, Profile

__all__ = ["Fit", "dimension", "fit", "ucum"]

_SPELLINGS: Final = """
mg/dL: mg/dl mg% mg/100ml mgs/dl
g/dL: g/dl gm/dl g% gms/dl gm%
ug/dL: ug/dl mcg/dl µg/dl
ng/dL: ng/dl
ng/mL: ng/ml
pg/mL: pg/ml
ug/mL: ug/ml mcg/ml µg/ml
mg/L: mg/l
g/L: g/l gm/l
ug/L: ug/l mcg/l µg/l
ng/L: ng/l
mmol/L: mmol/l mm/l
meq/L: meq/l
umol/L: umol/l mcmol/l µmol/l
nmol/L: nmol/l
pmol/L: pmol/l
U/L: u/l iu/l units/l [iu]/l unit/l
mU/mL: miu/ml mu/ml m[iu]/ml
uU/mL: uiu/ml uu/ml u[iu]/ml mcu/ml mciu/ml
mU/L: miu/l mu/l m[iu]/l
U/mL: u/ml iu/ml units/ml [iu]/ml k[iu]/l ku/l
10*3/uL: k/ul k/mcl 10*3/ul 10^3/ul x10^3/ul thou/ul 10e3/ul thousand/ul x1000/ul 1000/ul k/cumm x10(3)/mcl
10*6/uL: m/ul m/mcl 10*6/ul 10^6/ul x10^6/ul mil/ul million/ul m/cumm x10(6)/mcl
10*9/L: 10*9/l 10^9/l x10^9/l 10e9/l giga/l giga.l-1
10*12/L: 10*12/l 10^12/l x10^12/l 10e12/l tera/l
/uL: /ul #/ul /mcl cells/ul /mm3 #/cu.mm. #/mm3 /cumm cells/mcl
%: % percent pct {percent}
1: 1 ratio {ratio} {inr} inr
fL: fl
pg: pg
mm[Hg]: mmhg mm[hg] torr
cm[H2O]: cmh2o cm[h2o]
kPa: kpa
s: s sec secs second seconds sec. {second}
min: min mins minute minutes
h: h hr hrs hour hours
/min: /min bpm beats/min breaths/min insp/min resp/min br/min beat/min {beats}/min {beats}/minute min-1
mm/h: mm/hr mm/h mm/1h
kg: kg kgs kilograms
g: g gm gram grams
[lb_av]: lb lbs pounds [lb_av]
cm: cm
m: m
[in_i]: in inch inches [in_i]
mm: mm
Cel: c cel °c ?c degc deg.c celsius degreesc &#176;c
[degF]: f degf °f ?f deg.f fahrenheit [degf]
kg/m2: kg/m2 kg/m^2 kg/m*2 kg/sqm
mL: ml mls cc
L: l
L/min: l/min lpm
mL/min: ml/min
mL/min/{1.73_m2}: ml/min/1.73m2 ml/min/{1.73_m2} ml/min/1.73m*2 ml/min/1.73
mosm/kg: mosm/kg mosm/kgh2o mosmol/kg
"""

_EXTRA: Final = {
    "U/L": ("activity concentration", 1.0),
    "mU/L": ("activity concentration", 1e-3),
    "U/mL": ("activity concentration", 1e3),
    "mU/mL": ("activity concentration", 1.0),
    "uU/mL": ("activity concentration", 1e-3),
    "meq/L": ("substance concentration", 1e-3),
    "mm/h": ("sedimentation", 1.0),
    "L/min": ("flow", 1.0),
    "mL/min": ("flow", 1e-3),
    "mL/min/{1.73_m2}": ("flow by area", 1.0),
    "mosm/kg": ("osmolality", 1.0),
    "1": ("ratio", 1.0),
}
_BASES: Final = (
    ("mass concentration", "g/L"),
    ("substance concentration", "mol/L"),
    ("number concentration", "/L"),
    ("pressure", "Pa"),
    ("temperature", "K"),
    ("time", "s"),
    ("rate", "/s"),
    ("ratio", "1"),
    ("length", "m"),
    ("mass", "g"),
    ("volume", "L"),
    ("body mass index", "kg/m2"),
)
_MIXABLE: Final = frozenset({"mass concentration", "substance concentration"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """How a profile fits a concept.

    Attributes:
        veto: Why it cannot be, in words; empty where it can.
        unit: 1 where the most frequent unit converts, 0 where nothing can be said.
        share: Which share of the sample lies in the plausible range; null where that cannot be said.
        words: What may be told the person who decides.
    """

    veto: str = ""
    unit: float = 0.0
    share: float | None = None
    words: tuple[str, ...] = ()


def ucum(spelled: str) -> str:
    """The UCUM unit that a spelling most likely means; itself where it is none that is known here."""
    if spelled in _EXTRA or spelled in _KNOWN:
        return spelled
    return _READ.get(spelled.lower().replace(" ", "").replace("μ", "µ"), spelled)


def dimension(unit: str) -> str:
    """What a UCUM unit measures; empty where that is not known here."""
    if unit in _EXTRA:
        return _EXTRA[unit][0]
    return _DIMENSIONS.get(unit, "")


def fit(
    found: Profile,
    *,
    unit: str,
    kind: str = "",
    minimum: float | None = None,
    maximum: float | None = None,
    molar_mass: float | None = None,
) -> Fit:
    """How far a profile's units and numbers fit a concept in `unit`, or of a `kind` where no unit is given."""
    wanted = dimension(ucum(unit)) if unit and unit != "1" else ""
    wanted = wanted or ("ratio" if unit == "1" else kind)
    stated = {spelled: count for spelled, count in found.units.items() if spelled and dimension(ucum(spelled))}
    if not stated or wanted in {"", "presence"}:
        return Fit()
    legal = [spelled for spelled in stated if _converts(ucum(spelled), wanted, molar_mass)]
    if sum(stated[spelled] for spelled in legal) * 2 < sum(stated.values()):
        main = next(spelled for spelled in stated if spelled not in legal)
        return Fit(veto=f"its unit {main!r} is a {dimension(ucum(main))}, the concept's a {wanted}")
    share = _share(found, unit, (minimum, maximum), molar_mass, legal) if unit else None
    words = [f"unit {legal[0]} fits"]
    if share is not None:
        words.append(f"{share:.0%} of values in the plausible range")
    return Fit(unit=1.0, share=share, words=tuple(words))


def _converts(unit: str, wanted: str, molar_mass: float | None) -> bool:
    here = dimension(unit)
    return here == wanted or (molar_mass is not None and {here, wanted} == _MIXABLE)


def _share(
    found: Profile,
    unit: str,
    bounds: tuple[float | None, float | None],
    molar_mass: float | None,
    legal: list[str],
) -> float | None:
    low, high = bounds
    if low is None and high is None:
        return None
    inside = total = 0.0
    for spelled in legal:
        affine = _affine(ucum(spelled), ucum(unit), molar_mass)
        if affine is None or spelled not in found.quantiles:
            continue
        levels = np.sort(np.asarray(found.quantiles[spelled]) * affine[0] + affine[1])
        below = 0.0 if low is None else float(np.interp(low, levels, LEVELS, left=0.0, right=1.0))
        above = 1.0 if high is None else float(np.interp(high, levels, LEVELS, left=0.0, right=1.0))
        inside += max(above - below, 0.0) * found.units[spelled]
        total += found.units[spelled]
    return inside / total if total else None


def _affine(here: str, there: str, molar_mass: float | None) -> tuple[float, float] | None:
    if here == there:
        return 1.0, 0.0
    if here in _EXTRA and there in _EXTRA:
        return _EXTRA[here][1] / _EXTRA[there][1], 0.0
    # An equivalent is taken as a mole: true of the ions that are stated so, and near enough to rank by.
    here, there = (one.replace("meq/L", "mmol/L") for one in (here, there))
    try:
        made = units.conversion(here, there, molar_mass=molar_mass)
    except UnitMismatchError:
        return None
    return made.factor, made.offset


def _dimensions() -> Mapping[str, str]:
    return {unit: name for name, base in _BASES for unit in units.compatible(base)}


_DIMENSIONS: Final = _dimensions()
_KNOWN: Final = frozenset(units.known())
_READ: Final = {
    one: line.partition(":")[0] for line in _SPELLINGS.strip().splitlines() for one in line.partition(": ")[2].split()
}
