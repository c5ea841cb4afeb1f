"""Which codes a server is told of: all that are wanted, in every spelling, or none."""

from email.message import Message

import pytest

from wardround.harmonization.events import Scope
from wardround.sources.fhir_http import Answer
from wardround.sources.fhir_search import FhirSearchSettings, SearchSource, code_filter
from wardround.sources.fhir_server import ServerSettings
from wardround.sources.site import Site


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


VIEW = {
    "resource": "Observation",
    "status": "active",
    "name": "own",
    "select": [
        {
            "column": [
                {"name": "id", "path": "id"},
                {"name": "patient", "path": "subject.getReferenceKey(Patient)"},
                {"name": "time", "path": "effective.ofType(dateTime)"},
                {"name": "system", "path": "'local:survey'"},
                {"name": "code", "path": "'total'"},
                {"name": "value", "path": "value.ofType(string)"},
            ]
        }
    ],
}


@pytest.mark.parametrize(("views", "is_told"), [((), True), ((VIEW,), False)])
def test_where_a_site_has_views_of_its_own_codes_are_not_left_to_the_server(views, is_told, tmp_path):
    asked = []

    class Server:
        base = "https://fhir.example.org/r4"

        def call(self, method, url):
            asked.append(url)
            return Answer(200, Message(), b'{"resourceType":"Bundle","type":"searchset"}')

        def remarks(self):
            return []

    where = ServerSettings(base=Server.base)
    settings = FhirSearchSettings(name="ehr", server=where, views=views, types=("Observation",))
    source = SearchSource(settings, Site(folder=tmp_path, timezone="Etc/UTC"), Server())
    assert list(source.batches(scope(loinc={"1-8"}))) == []
    assert ("combo-code" in asked[0]) == is_told
