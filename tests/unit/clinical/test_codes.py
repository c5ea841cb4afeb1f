import csv
import gzip
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wardround.clinical import codes

DATA = Path(os.environ.get("WARDROUND_DATA", Path(__file__).parents[4] / "shared/data"))

digits = st.text("0123456789", min_size=1, max_size=7).filter(lambda one: one[0] != "0")


@pytest.mark.parametrize("code", ["2160-0", "718-7", "3016-3", "8480-6", "33914-3", "94531-1", "5902-2"])
def test_codes_of_loinc_are_loinc(code):
    assert codes.valid("loinc", code) is True


@pytest.mark.parametrize(
    "code",
    [
        "2160-1",
        "5895-7",
        "21600",
        "2160-",
        "-0",
        "",
        "2160-0 ",
        "02160-0",
        "2160-00",
        "٢160-0",
        "2160-0\n",
        "12345678-2",
    ],
)
def test_what_only_looks_like_loinc_is_not(code):
    assert codes.valid("loinc", code) is False


@given(digits)
def test_every_number_has_exactly_one_loinc_check_digit(number):
    assert sum(codes.is_loinc(f"{number}-{check}") for check in range(10)) == 1


@given(digits, st.integers(0, 6), st.integers(1, 9))
def test_one_mistyped_digit_is_noticed_in_loinc(number, place, by):
    check = next(one for one in range(10) if codes.is_loinc(f"{number}-{one}"))
    place %= len(number)
    wrong = number[:place] + str((int(number[place]) + by) % 10) + number[place + 1 :]
    assert not codes.is_loinc(f"{wrong}-{check}")


@pytest.mark.parametrize("code", ["38341003", "44054006", "53741008", "73211009", "900000000000207008", "22298006"])
def test_identifiers_of_snomed_are_snomed(code):
    assert codes.valid("snomed", code) is True


@pytest.mark.parametrize(
    "code",
    ["38341004", "44054060", "0038341003", "12345", "900000000000207000", "1" * 19, "44054006.0", "9.0000E+17", ""],
)
def test_identifiers_that_lost_or_changed_digits_are_not_snomed(code):
    assert codes.valid("snomed", code) is False


@given(st.integers(10_000, 10**14), st.sampled_from(["00", "01", "02", "10", "11", "12"]), st.data())
def test_snomed_notices_a_mistyped_digit_and_two_that_are_swapped(item, partition, data):
    stem = f"{item}{partition}"
    right = [f"{stem}{check}" for check in range(10) if codes.is_snomed(f"{stem}{check}")]
    assert len(right) == 1
    place = data.draw(st.integers(0, len(stem) - 4))
    swapped = stem[:place] + stem[place + 1] + stem[place] + stem[place + 2 :] + right[0][-1]
    assert swapped == right[0] or not codes.is_snomed(swapped)
    other = data.draw(st.sampled_from([one for one in "123456789" if one != stem[place]]))
    assert not codes.is_snomed(right[0][:place] + other + right[0][place + 1 :])


def test_a_snomed_identifier_of_no_known_partition_is_none():
    assert not any(
        codes.is_snomed(f"123456{partition}{check}") for partition in ("03", "13", "99") for check in range(10)
    )


@pytest.mark.parametrize(
    ("code", "is_one"),
    [
        ("I25.10", True),
        ("I25", True),
        ("C7A.00", True),
        ("I2510", False),
        ("i25.1", False),
        ("250.00", False),
        ("I25.", False),
    ],
)
def test_the_shape_of_icd10_is_checked(code, is_one):
    assert codes.valid("icd10", code) is codes.valid("icd10cm", code) is is_one


@pytest.mark.parametrize("system", ["local:lab", "ucum", "http://example.org/codes", ""])
def test_a_system_without_a_rule_is_not_judged(system):
    assert codes.valid(system, "anything") is None


def test_answers_and_parts_of_loinc_are_not_judged():
    assert codes.valid("loinc", "LA6576-8") is None


def test_all_but_one_of_mimics_loinc_codes_have_their_check_digit():
    path = DATA / "mimic3_demo/d_labitems.csv.gz"
    if not path.exists():
        pytest.skip("the MIMIC-III demo is not here; see WARDROUND_DATA")
    with gzip.open(path, "rt") as lines:
        found = [row["loinc_code"] for row in csv.DictReader(lines) if row["loinc_code"]]
    assert [one for one in found if not codes.is_loinc(one)] == ["5895-7"]
    assert len(found) == 585


def test_numbers_of_another_dictionary_padded_to_look_like_loinc_are_noticed():
    # CIEL's numbers with a zero behind them, as a data set of claims had them for 9,889 observations.
    assert not any(codes.valid("loinc", f"{number}-0") for number in ("5497", "856", "1030", "654", "1019"))
