"""How sites spell units: what is beyond doubt is read, all else is unknown."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wardround.clinical.derivation import Derivation
from wardround.clinical.units import IDENTITY
from wardround.errors import ConfigError
from wardround.harmonization import ucum_spelling
from wardround.harmonization.ucum import affine, check_spellings, spelling
from wardround.harmonization.ucum_measure import MAX_CODE, measure


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        ("mg/dL", "mg/dL"),
        ("mg/dl", "mg/dL"),
        ("MG/DL", "mg/dL"),
        (" mg / dl", None),
        ("mmol/l", "mmol/L"),
        ("BPM", "/min"),
        ("uU/ML", "u[IU]/mL"),
        ("uIU/mL", "u[IU]/mL"),
        ("giga.l-1", "10*9/L"),
        ("10^9/L", "10*9/L"),
        ("x10⁹/L", None),
        ("K/uL", "10*3/uL"),
        ("K/µL", "10*3/uL"),
        ("µg/mL", "ug/mL"),
        ("mcg/dL", "ug/dL"),
        ("mEq/L", "meq/L"),
        ("mm Hg", "mm[Hg]"),
        ("mmHg", "mm[Hg]"),
        ("mL/min/1.73 m²", "mL/min/{1.73_m2}"),
        ("U/ML", "U/mL"),
        ("PG/ML", "pg/mL"),
        ("°F", "[degF]"),
        ("%", "%"),
        ("1", "1"),
        ("mg/(24.h)", "mg/(24.h)"),
        ("[pH]", "[pH]"),
        ("dB", "dB"),
        ("kPa", "kPa"),
        ("hPa", "hPa"),
        ("{cells}/uL", "{cells}/uL"),
        ("10*3/uL", "10*3/uL"),
    ],
)
def test_a_spelling_beyond_doubt_is_read(raw, code):
    assert spelling(raw, {}) == code


@pytest.mark.parametrize(
    "raw",
    [
        "?F",  # needs the site's map
        "g/l-1",  # as a code g·l, as a wish g/l
        "G/L",  # gauss, grams or giga
        "M/uL",  # million, or milli
        "T/L",
        "C",
        "F",
        "pH",  # picohenry
        "MS",
        "MV",
        "Mm",
        "AU/mL",  # astronomical units
        "u/min",  # atomic mass units
        "mg/dL{JohnSmith}",  # an annotation holds anything
        "",
        " ",
        "units",
        "17",
        "5551234",
        "mg/5551234",
        "mg/dL; 5551234",
        "x" * (MAX_CODE + 1),
        "mg/dL\x00",
    ],
)
def test_a_spelling_in_doubt_is_unknown(raw):
    assert spelling(raw, {}) is None


def test_no_unit_is_no_unit():
    assert spelling(None, {"": "1"}) is None


def test_the_site_s_own_map_comes_first():
    site = {"?F": "[degF]", "mg/dL": "g/L", "G/L": "10*9/L", "": "1"}
    assert spelling("?F", site) == "[degF]"
    assert spelling("mg/dL", site) == "g/L"
    assert spelling("G/L", site) == "10*9/L"
    assert spelling("", site) == "1"
    assert spelling("  G/L ", site) == "10*9/L"


def test_a_site_s_map_to_no_unit_is_refused_by_name():
    check_spellings({"BPM": "/min"})
    with pytest.raises(ConfigError, match="'mEq/L'"):
        check_spellings({"MEQ": "mEq/L", "BPM": "/min"})


@pytest.mark.parametrize("folded", sorted(ucum_spelling._known()))
def test_a_known_spelling_leads_to_a_unit_and_agrees_with_what_is_valid_itself(folded):
    code = spelling(folded, {})
    assert measure(code) is not None
    plain = Derivation(concepts=("local|x",))
    if ucum_spelling._believed(folded) and measure(folded).dimension and folded not in {"u/l", "u/ml"}:
        assert affine(folded, code, plain) == IDENTITY


@given(st.text(max_size=12))
def test_whatever_is_read_is_a_unit(raw):
    code = spelling(raw, {})
    assert code is None or measure(code) is not None
