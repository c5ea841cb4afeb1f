"""Which codes a server is told of: all that are wanted, in every spelling, or none."""

import pytest

from wardround.harmonization.events import Scope
from wardround.sources.fhir_search import code_filter


def scope(**codes):
    return Scope(codes={system: frozenset(found) for system, found in codes.items()})


def test_codes_are_written_under_each_name_of_their_system():
    assert code_filter(scope(loinc={"8480-6", "718-7"})) == (
        "http://loinc.org|718-7,urn:oid:2.16.840.1.113883.6.1|718-7,"
        "http://loinc.org|8480-6,urn:oid:2.16.840.1.113883.6.1|8480-6"
    )


def test_what_is_known_of_a_patient_is_no_code_of_an_observation():
    assert code_filter(scope(patient={"birth-date"}, loinc={"1-8"})) == code_filter(scope(loinc={"1-8"}))


def test_a_system_without_a_short_name_is_its_uri():
    assert code_filter(Scope(codes={"urn:lab": frozenset({"x"})})) == "urn:lab|x"


@pytest.mark.parametrize(
    "wanted",
    [
        Scope(),
        scope(loinc=set()),
        scope(loinc={"8480*"}),
        scope(loinc={"8480-6"}, lab={"x"}),
        Scope(codes={"local:lab": frozenset({"x"}), "loinc": frozenset({"8480-6"})}),
        scope(loinc={"a,b"}),
        scope(loinc={"a|b"}),
        scope(loinc={"a b"}),
        scope(loinc={"a\\b"}),
        scope(loinc={f"{number}-0" for number in range(31)}),
        Scope(codes={"urn:" + "x" * 3000: frozenset({"y"})}),
    ],
)
def test_where_not_all_can_be_said_nothing_is(wanted):
    assert code_filter(wanted) == ""
