"""UCUM: the official suite, exact factors, the traps of clinical units, and an independent library as oracle."""

import os
from fractions import Fraction
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wardround.clinical import units
from wardround.clinical.derivation import Conversion, Derivation
from wardround.clinical.units import IDENTITY, Affine
from wardround.harmonization import ucum
from wardround.harmonization.ucum import Refusal, affine, fits
from wardround.harmonization.ucum_measure import MAX_CODE, measure

ROOT = Path(__file__).parents[4]
CONFORMANCE = Path(os.environ.get("WARDROUND_CONFORMANCE", ROOT.parent / "shared" / "conformance"))
DATA = Path(os.environ.get("WARDROUND_DATA", ROOT.parent / "shared" / "data"))
SUITE = CONFORMANCE / "ucum" / "UcumFunctionalTests.xml"
suite = pytest.mark.skipif(not SUITE.exists(), reason=f"the official UCUM tests are not at {SUITE}")

PLAIN = Derivation(concepts=("loinc|2345-7",))
GLUCOSE = Derivation(concepts=("loinc|2345-7",), molar_mass=180.156)
HBA1C = Derivation(
    concepts=("loinc|4548-4",),
    conversions=(Conversion(unit="%", factor=10.93, offset=-23.5), Conversion(unit="1", factor=1093.0, offset=-23.5)),
)
# These four expect fewer digits than the conversion has: 25 for 25.2, 1.6 for 1.575, .160 for .16002, 16.0 for 16.002.
ROUNDED = {"3-113": 2, "3-115": 2, "3-118": 3, "3-119": 3}


def cases(part):
    if not SUITE.exists():
        return []
    return [dict(case.attrib) for case in ET.parse(SUITE).getroot().find(part) if case.tag == "case"]


def convert(value, from_unit, to_unit, derive=PLAIN):
    found = affine(from_unit, to_unit, derive)
    assert isinstance(found, Affine), found
    return float(found(np.array([float(value)]))[0])


@suite
def test_every_official_validation_case_is_decided_as_the_suite_says():
    wrong = [
        case["id"] for case in cases("validation") if (measure(case["unit"]) is not None) != (case["valid"] == "true")
    ]
    assert len(cases("validation")) == 529
    assert wrong == []


@suite
@pytest.mark.parametrize("case", cases("conversion"), ids=lambda case: case["id"])
def test_an_official_conversion_comes_out_to_the_stated_digits(case):
    found = convert(case["value"], case["srcUnit"], case["dstUnit"])
    digits = ROUNDED.get(case["id"], 12)
    assert f"{found:.{digits - 1}e}" == f"{float(case['outcome']):.{digits - 1}e}"


@pytest.mark.skipif(not (DATA / "ucum" / "ucum-essence.xml").exists(), reason="the UCUM table is not in the test data")
def test_every_unit_of_the_published_table_is_measured_and_prefixes_are_the_table_s():
    root = ET.parse(DATA / "ucum" / "ucum-essence.xml").getroot()
    space = {"u": "http://unitsofmeasure.org/ucum-essence"}
    codes = [one.get("Code") for one in (*root.findall("u:unit", space), *root.findall("u:base-unit", space))]
    assert len(codes) > 300
    assert [code for code in codes if measure(code) is None] == []
    for prefix in root.findall("u:prefix", space):
        assert measure(prefix.get("Code") + "m").factor == Fraction(prefix.find("u:value", space).get("value"))


@pytest.mark.parametrize(
    ("value", "from_unit", "to_unit", "expected"),
    [
        (35, "mg/dL", "g/L", 0.35),
        (29, "mg/dL", "g/L", 0.29),
        (0.35, "g/L", "mg/dL", 35.0),
        (12.1, "ng/mL", "ug/L", 12.1),
        (98.6, "[degF]", "Cel", 37.0),
        (37, "Cel", "[degF]", 98.6),
        (36.6, "Cel", "K", 309.75),
        (120, "mm[Hg]", "kPa", 15.99864),
        (7, "10*3/uL", "10*9/L", 7.0),
        (7000, "{cells}/uL", "10*9/L", 7.0),
        (7000, "/uL", "10*3/uL", 7.0),
        (4.5, "10*12/L", "10*6/uL", 4.5),
        (3.1, "m[IU]/L", "u[IU]/mL", 3.1),
        (3.1, "m[IU]/L", "u[iU]/mL", 3.1),
        (60, "U/L", "ukat/L", 1.0),
        (150, "[lb_av]", "kg", 68.0388555),
        (1, "mg/dl", "mg/dL", 1.0),
        (100, "mg%", "g/L", 1.0),
        (72, "{beats}/min", "/min", 72.0),
    ],
)
def test_a_conversion_is_the_nearest_double_and_no_noise(value, from_unit, to_unit, expected):
    assert convert(value, from_unit, to_unit) == expected


def test_a_unit_is_itself_and_an_invalid_one_is_not():
    assert affine("[pH]", "[pH]", PLAIN) is IDENTITY
    assert affine("%", "%", PLAIN) is IDENTITY
    assert affine("mEq/L", "mEq/L", PLAIN).reason == "no valid UCUM code"


@pytest.mark.parametrize(
    ("from_unit", "to_unit", "reason"),
    [
        ("%", "mmol/mol", "pure numbers, and no conversion listed"),
        ("mmol/mol", "%", "pure numbers, and no conversion listed"),
        ("%", "1", "pure numbers, and no conversion listed"),
        ("[ppth]", "10*-3", "pure numbers, and no conversion listed"),
        ("{ratio}", "1", "pure numbers, and no conversion listed"),
        ("mg/g", "ug/mg", "pure numbers, and no conversion listed"),
        ("[IU]/L", "mg/L", "arbitrary units, and no conversion listed"),
        ("[IU]/mL", "U/mL", "arbitrary units, and no conversion listed"),
        ("[IU]/L", "/L", "arbitrary units, and no conversion listed"),
        ("meq/L", "mmol/L", "arbitrary units, and no conversion listed"),
        ("mosm/L", "mmol/L", "arbitrary units, and no conversion listed"),
        ("Sv", "Gy", "arbitrary units, and no conversion listed"),
        ("REM", "RAD", "arbitrary units, and no conversion listed"),
        ("Bq", "/s", "arbitrary units, and no conversion listed"),
        ("mg/dL", "mmol/L", "needs the analyte's molar mass"),
        ("[pH]", "mol/L", "a scale that does not convert"),
        ("dB", "1", "a scale that does not convert"),
        ("Np", "B", "a scale that does not convert"),
        ("Cel/min", "K/min", "a scale that does not convert"),
        ("Cel2", "K2", "a scale that does not convert"),
        ("mCel", "K", "a scale that does not convert"),
        ("ug/mL{FEU}", "ng/mL{DDU}", "annotated as different things"),
        ("ug/mL{FEU}", "ng/mL", "annotated as different things"),
        ("mL/min/{1.73_m2}", "mL/min", "annotated as different things"),
        ("{beats}/min", "{breaths}/min", "annotated as different things"),
        ("mm[Hg]", "mm", "another dimension"),
        ("g/L", "mg", "another dimension"),
        ("K/uL", "10*3/uL", "another dimension"),
        ("10*64.10*64.10*64.10*64.10*64.m", "m", "another dimension"),
        ("m", "10*64.10*64.10*64.10*64.10*64.10*64.m", "another dimension"),
        ("mEq/L", "meq/L", "no valid UCUM code"),
        ("meq/L", "mEq/L", "no valid UCUM code"),
        ("", "mg/dL", "no valid UCUM code"),
    ],
)
def test_what_does_not_convert_is_refused_by_its_reason(from_unit, to_unit, reason):
    found = affine(from_unit, to_unit, PLAIN)
    assert isinstance(found, Refusal)
    assert found.reason == reason
    assert reason in ucum.REASONS
    assert repr(from_unit) in found.message
    assert not fits(from_unit, to_unit, PLAIN)


def test_an_invalid_code_is_refused_with_the_valid_one():
    assert "write 'meq/L'" in affine("mEq/L", "meq/L", PLAIN).message


def test_haemoglobin_a1c_goes_by_its_listed_definition():
    assert convert(7.2, "%", "mmol/mol", HBA1C) == pytest.approx(55.196)
    assert convert(0.072, "1", "mmol/mol", HBA1C) == pytest.approx(55.196)
    assert not fits("[ppth]", "mmol/mol", HBA1C)
    assert not fits("10*-2", "mmol/mol", HBA1C)


def test_a_listed_conversion_wins_over_the_dimension_in_any_spelling_of_its_unit():
    derive = Derivation(concepts=("loinc|1",), conversions=(Conversion(unit="mg/dL", factor=2.0),))
    assert convert(1, "mg/dL", "g/L", derive) == 2.0
    assert convert(1, "mg/dl", "g/L", derive) == 2.0
    assert convert(1, "mg/L", "g/L", derive) == 0.001


def test_mass_and_amount_convert_by_the_molar_mass_only_where_one_stands_for_the_other():
    assert convert(100, "mg/dL", "mmol/L", GLUCOSE) == pytest.approx(5.5507, abs=1e-4)
    assert convert(5.5507, "mmol/L", "mg/dL", GLUCOSE) == pytest.approx(100, abs=1e-2)
    assert convert(1, "mol", "g", GLUCOSE) == 180.156
    for pair in [("mg/mmol", "mg/g"), ("g2/L", "mol2/L"), ("mmol/kg", "mg/kg"), ("g.mol", "g2.s"), ("U/L", "g/L")]:
        assert not fits(*pair, GLUCOSE)


@given(st.sampled_from(units.known()), st.sampled_from(units.known()))
def test_the_table_of_flat_columns_and_ucum_are_one_truth(here, there):
    found = affine(here, there, PLAIN)
    if there not in units.compatible(here) or not measure(here).dimension:
        assert here == there or isinstance(found, Refusal)
    else:
        assert found == units.conversion(here, there)


@pytest.fixture(scope="module")
def registry():
    from ucumvert import PintUcumRegistry

    return PintUcumRegistry()


CODES = [
    "mg/dL",
    "g/L",
    "ng/mL",
    "mm[Hg]",
    "kPa",
    "cm[H2O]",
    "[lb_av]",
    "kg",
    "mL/min",
    "L/h",
    "kcal",
    "J",
    "Cel",
    "[degF]",
]
CODES += [
    "K",
    "10*3/uL",
    "/mm3",
    "mmol/L",
    "mol/m3",
    "U/L",
    "nkat/L",
    "dyn.s/cm5",
    "kPa.s/L",
    "wk",
    "d",
    "mo",
    "a",
    "[in_i]",
]
CODES += ["cm", "kg/m2", "[oz_av]", "Gy", "cGy", "mCi", "MBq", "[psi]", "g/(24.h)", "[foz_us]", "mL", "[pi].rad", "deg"]


@pytest.mark.parametrize("from_unit", CODES)
def test_another_library_gives_the_same_numbers(from_unit, registry):
    here = measure(from_unit)
    for to_unit in CODES:
        if measure(to_unit).dimension != here.dimension:
            continue
        source, target = registry.from_ucum(from_unit), registry.from_ucum(to_unit)
        other = registry.Quantity(7.3 * source.magnitude, source.units).to(target.units).magnitude / target.magnitude
        # Its mercury column is the conventional one, 3e-6 heavier than UCUM's.
        assert convert(7.3, from_unit, to_unit) == pytest.approx(other, rel=5e-6)


@pytest.mark.parametrize(
    "code",
    [
        "(" * 50,
        "m" * (MAX_CODE + 1),
        "10*99999999999",
        "m99999999",
        "m/" * 40,
        "{" * 90,
        "µg",
        "10+3/ul",
        ".".join(["m64"] * 20),
        "\x00",
    ],
    ids=range(10),
)
def test_a_hostile_code_is_no_unit(code):
    assert measure(code) is None


def test_a_message_does_not_repeat_a_long_code():
    assert len(affine("x" * 5000, "y" * 5000, PLAIN).message) < 400


@given(st.text(max_size=30))
def test_any_text_is_measured_or_refused(text):
    found = affine(text, "mg/dL", PLAIN)
    assert isinstance(found, (Affine, Refusal))
