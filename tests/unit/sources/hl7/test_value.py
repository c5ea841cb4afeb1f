"""Values and codes are what OBX-2 says they are, or are refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wardround.sources.hl7_coding import Coding, coded
from wardround.sources.hl7_value import EMPTY, Value, read


def value(kind, text, systems=None):
    return read(kind, text, "LAB", systems or {})


@pytest.mark.parametrize(
    ("kind", "text", "number", "comparator"),
    [
        ("NM", "5.2", 5.2, None),
        ("NM", "-.5", -0.5, None),
        ("NM", "+7.", 7.0, None),
        ("NM", " 140 ", 140.0, None),
        ("NM", "0", 0.0, None),
        ("NM", "<0.01", 0.01, "<"),
        ("NM", ">= 90", 90.0, ">="),
        ("SI", "3", 3.0, None),
        ("SN", "^5.2", 5.2, None),
        ("SN", "<^5", 5.0, "<"),
        ("SN", ">=^100", 100.0, ">="),
        ("SN", "=^1.5", 1.5, None),
        ("SN", "5", None, None),
        ("ST", "5.2", 5.2, None),
        ("ST", "<5", 5.0, "<"),
        ("TX", " ≤ 5 ", 5.0, "<="),
        ("FT", r"1e3\.br\ "[:-1], 1000.0, None),
        ("IS", "4", 4.0, None),
    ],
)
def test_numbers(kind, text, number, comparator):
    found = value(kind, text)
    assert (found.number, found.comparator) == (number, comparator)
    assert bool(found.refused) == (number is None)


@pytest.mark.parametrize(
    ("kind", "text", "meant"),
    [
        ("SN", "^1^:^128", "1:128"),
        ("SN", ">^1^:^128", ">1:128"),
        ("SN", "^5^-^10", "5-10"),
        ("SN", "^2^+", "2+"),
        ("SN", "^1^/^2", "1/2"),
        ("ST", "Positive", "Positive"),
        ("ST", "5,2", "5,2"),
        ("ST", "1,234", "1,234"),
        ("ST", r"A\T\E", "A&E"),
        ("ST", "nan", "nan"),
        ("ST", "1_000", "1_000"),
        ("CWE", "260385009^Negative^SCT", "snomed|260385009"),
        ("CE", "NEG^Negative^L^260385009^Negative^SCT", "snomed|260385009"),
        ("CE", "NEG^Negative^L", "local:LAB|NEG"),
        ("CNE", "N^^HL70078", "http://terminology.hl7.org/CodeSystem/v2-0078|N"),
        ("CWE", "^not seen", "not seen"),
        ("DT", "20240102", "2024-01-02"),
        ("TM", "0930", "09:30"),
        ("TS", "202401020304", "2024-01-02T03:04"),
    ],
)
def test_texts_and_codes(kind, text, meant):
    assert value(kind, text) == Value(value=meant)


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("NM", "5,2"),
        ("NM", "five"),
        ("NM", "5 mg"),
        ("NM", "nan"),
        ("NM", "1e999"),
        ("NM", "9" * 60),
        ("NM", "٤"),
        ("NM", "12#"),
        ("NM", "60~120"),
        ("NM", "5^6"),
        ("NM", "<>5"),
        ("SN", "<>^5"),
        ("SN", "^5^10"),
        ("SN", "^5^-"),
        ("SN", "^a^-^b"),
        ("SN", "^1^-^2^3"),
        ("SN", "^1~^2"),
        ("CE", "A~B"),
        ("DT", "20240230"),
        ("DT", "20240101~20240102"),
        ("ED", "^AP^^Base64^x"),
        ("RP", "x"),
        ("", "5"),
        ("Miller", "5"),
        ("ST", r"\M0000\x"),
    ],
)
def test_what_cannot_be_understood_is_refused_and_not_quoted(kind, text):
    found = value(kind, text)
    assert found.refused
    assert (found.number, found.comparator, found.value) == (None, None, None)
    assert text not in found.refused or not text.isalpha() or len(text) < 2
    assert "Miller" not in found.refused


@pytest.mark.parametrize("kind", ["NM", "SN", "ST", "CWE", "TS", "ED", ""])
@pytest.mark.parametrize("text", ["", " ", '""'])
def test_no_value_is_no_value_of_any_type(kind, text):
    assert value(kind, text) == Value(refused=EMPTY)


@pytest.mark.parametrize("text", ["x" * 201, "line~line"])
def test_a_long_text_is_left_out_and_the_result_stays(text):
    assert value("TX", text) == Value(remark="long text left out")


def test_a_bound_in_a_field_for_numbers_is_remarked():
    assert value("NM", "<5").remark
    assert not value("SN", "<^5").remark


@given(st.sampled_from(["NM", "SN", "ST", "TX", "CE", "CWE", "DT", "TM", "TS", "ED"]), st.text(max_size=30))
def test_whatever_comes_is_a_value_or_refused(kind, text):
    found = value(kind, text)
    assert not (found.refused and (found.number is not None or found.value is not None))


@given(st.floats(allow_nan=False, allow_infinity=False, min_value=-1e30, max_value=1e30))
def test_a_number_reads_as_it_was_written(number):
    text = f"{number:.6f}"
    assert value("NM", text).number == float(text)


@pytest.mark.parametrize(
    ("field", "primary", "alternate"),
    [
        ("2951-2^Sodium^LN", ("loinc", "2951-2"), None),
        ("2951-2^Sodium^LN^NA^Sodium^L", ("loinc", "2951-2"), ("local:LAB", "NA")),
        ("NA^Sodium^99LAB^2951-2^Sodium^LN", ("local:99LAB", "NA"), ("loinc", "2951-2")),
        ("NA", ("local:LAB", "NA"), None),
        ("NA^Sodium^L^NA^Sodium^L", ("local:LAB", "NA"), None),
        ("^^^2951-2^Sodium^LN", ("loinc", "2951-2"), None),
        ("38341003^x^SCT", ("snomed", "38341003"), None),
        ("I10^x^I10", ("icd10", "I10"), None),
        ("I10^x^I10C", ("icd10cm", "I10"), None),
        ("X^x^MDC", ("urn:iso:std:iso:11073:10101", "X"), None),
        ("X^x^HL70085", ("http://terminology.hl7.org/CodeSystem/v2-0085", "X"), None),
        ("2951-2^Sodium^2.16.840.1.113883.6.1", ("loinc", "2951-2"), None),
        ("X^x^1.2.3.4", ("urn:oid:1.2.3.4", "X"), None),
        ("2951-2^Sodium^^^^^^^^^^^^2.16.840.1.113883.6.1", ("loinc", "2951-2"), None),
        ("X^x^LOINC", ("local:LOINC", "X"), None),
        (r"A\T\B^x^L", ("local:LAB", "A&B"), None),
        ('""^x^L', None, None),
        ("^Sodium", None, None),
        ("", None, None),
        ("x" * 201, None, None),
    ],
)
def test_codes_and_their_systems(field, primary, alternate):
    found = coded(field, "LAB", {})
    expected = (primary and Coding(*primary), alternate and Coding(*alternate))
    assert (found.primary, found.alternate) == expected


def test_the_mapping_may_say_what_a_systems_name_means():
    assert coded("2951-2^Sodium^LOINC", "LAB", {"LOINC": "loinc"}).primary == Coding("loinc", "2951-2")
    assert coded("2951-2^Sodium^LN", "LAB", {"LN": "local:not-loinc"}).primary == Coding("local:not-loinc", "2951-2")
