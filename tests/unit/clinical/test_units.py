"""Unit conversion: the figures of reference tables, and the laws of affine maps."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wardround.clinical import units
from wardround.errors import UnitMismatchError

GLUCOSE = 180.156
pairs = st.sampled_from(units.known()).flatmap(
    lambda unit: st.tuples(st.just(unit), st.sampled_from(units.compatible(unit)))
)
values = st.floats(-1e6, 1e6, allow_subnormal=False)


@pytest.mark.parametrize(
    ("value", "from_unit", "to_unit", "expected"),
    [
        (100.0, "mg/dL", "g/L", 1.0),
        (1.0, "g/L", "mg/dL", 100.0),
        (250.0, "ug/dL", "mg/L", 2.5),
        (14.0, "g/dL", "g/L", 140.0),
        (1.0, "mg/mL", "g/L", 1.0),
        (1.0, "umol/L", "mmol/L", 0.001),
        (2.54, "cm", "[in_i]", 1.0),
        (12.5, "mm", "um", 12_500.0),
        (1.0, "mm2", "um2", 1e6),
        (1.0, "cm2", "mm2", 100.0),
        (1.0, "m3", "L", 1000.0),
        (1.0, "uL", "mm3", 1.0),
        (120.0, "mm[Hg]", "kPa", 15.99864),
        (37.0, "Cel", "[degF]", 98.6),
        (-40.0, "[degF]", "Cel", -40.0),
        (0.0, "Cel", "K", 273.15),
        (1.0, "wk", "d", 7.0),
        (12.0, "mo", "a", 1.0),
        (1.0, "a", "d", 365.25),
        (90.0, "min", "h", 1.5),
        (1500.0, "g", "kg", 1.5),
        (45.0, "%", "1", 0.45),
        (1.0, "Hz", "/min", 60.0),
        (5.0, "10*9/L", "10*3/uL", 5.0),
        (4.5, "10*6/uL", "10*12/L", 4.5),
    ],
)
def test_a_figure_is_the_reference_table_s(value, from_unit, to_unit, expected):
    (found,) = units.convert([value], from_unit, to_unit)
    assert found == pytest.approx(expected, rel=1e-9)


@given(pair=pairs, value=values)
def test_there_and_back_again_is_where_it_was(pair, value):
    here, there = pair
    back = units.convert(units.convert([value], here, there), there, here)
    assert back[0] == pytest.approx(value, rel=1e-9, abs=1e-6)


@given(pair=pairs, low=values, high=values)
def test_order_is_kept(pair, low, high):
    low, high = sorted((low, high))
    converted = units.convert([low, high], *pair)
    assert converted[0] <= converted[1]


@given(unit=st.sampled_from(units.known()), data=st.data(), value=values)
def test_a_detour_leads_to_the_same_place(unit, data, value):
    over, to = (data.draw(st.sampled_from(units.compatible(unit))) for _ in range(2))
    direct = units.convert([value], unit, to)[0]
    detour = units.convert(units.convert([value], unit, over), over, to)[0]
    # Two additions of an offset cost a rounding each: a billionth of the unit at hand is allowed.
    nought, one = units.convert([0.0, 1.0], unit, to)
    assert detour == pytest.approx(direct, rel=1e-9, abs=1e-9 * (one - nought))


def test_molar_mass_turns_millimoles_into_milligrams_and_back():
    assert units.convert([5.55], "mmol/L", "mg/dL", molar_mass=GLUCOSE)[0] == pytest.approx(99.98658)
    assert units.convert([100.0], "mg/dL", "mmol/L", molar_mass=GLUCOSE)[0] == pytest.approx(5.5507, abs=1e-4)


@pytest.mark.parametrize("molar_mass", [None, 0.0, -1.0, math.nan, math.inf])
def test_moles_need_a_molar_mass(molar_mass):
    with pytest.raises(UnitMismatchError, match="molar_mass") as caught:
        units.conversion("mmol/L", "mg/dL", molar_mass=molar_mass, column="glucose")
    assert "'glucose'" in str(caught.value)


@pytest.mark.parametrize(
    ("here", "there"),
    [("mg/dL", "mm"), ("kg", "m"), ("Cel", "1"), ("mg/dl", "mg/dL"), ("[iU]/L", "g/L"), ("mm", "mm2"), ("", "1")],
)
def test_another_dimension_or_an_unknown_unit_is_refused_by_name(here, there):
    with pytest.raises(UnitMismatchError) as caught:
        units.conversion(here, there, column="crp")
    assert all(repr(word) in str(caught.value) for word in (here, there, "crp"))


def test_an_unknown_unit_converts_to_itself_and_missing_stays_missing():
    assert units.convert([1.5, math.nan], "[iU]/L", "[iU]/L").tolist()[0] == 1.5
    assert units.compatible("[iU]/L") == ("[iU]/L",)
    assert np.isnan(units.convert([math.nan], "Cel", "K")).all()
