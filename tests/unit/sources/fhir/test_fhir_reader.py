"""Resources, however they come, as events."""

import gzip
import io
import json
import tracemalloc

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.sources.fhir import readers, views
from tests.unit.sources.fhir.readers import coded, observation, resource

from wardround.errors import ClinicalError, ConfigError
from wardround.harmonization.events import EVENT, Precision, Scope
from wardround.sources import fhir_elements, fhir_event_views, fhir_irregular, fhir_lines, fhir_reader
from wardround.sources.fhir_lines import Limits

pytestmark = views.needs_duckdb

SECRET = "Xanthippe-4711"
AT = 1577934245_000_000  # 2020-01-02T03:04:05Z


def only(found, *names):
    return [tuple(row[name] for name in names) for row in found]


def test_an_observation_has_every_column_of_an_event():
    quantity = {"value": 5.5, "unit": "millimoles", "system": "http://unitsofmeasure.org", "code": "mmol/L"}
    found, used = readers.events(observation(issued="2020-01-02T03:04:06.5Z", valueQuantity=quantity))
    assert found == [
        {
            "patient": "p1",
            "time_us": AT,
            "precision": Precision.SECOND,
            "known_us": AT + 1_500_000,
            "system": "loinc",
            "code": "8480-6",
            "number": 5.5,
            "comparator": None,
            "value": None,
            "unit": "mmol/L",
            "status": "final",
            "order_key": "Observation/o1",
            "source": "fhir",
            "row": 0,
            "array": None,
        }
    ]
    assert (used._report.read, used._report.events, used._report.refused, used._report.noted) == (1, 1, {}, {})


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"valueQuantity": {"value": 3, "comparator": "<"}}, (3.0, "<", None, None)),
        ({"valueQuantity": {"value": 3, "unit": "g", "code": "gram"}}, (3.0, None, None, "g")),
        ({"valueQuantity": {"value": "<5"}}, (5.0, "<", None, None)),
        ({"valueQuantity": {"value": "5.2"}}, (5.2, None, None, None)),
        ({"valueQuantity": {"value": ">= 1e3", "comparator": ">="}}, (1000.0, ">=", None, None)),
        ({"valueInteger": 7}, (7.0, None, None, None)),
        ({"valueString": "<5"}, (5.0, "<", None, None)),
        ({"valueString": " 5.2 "}, (5.2, None, None, None)),
        ({"valueString": "1:160"}, (None, None, "1:160", None)),
        ({"valueString": "5 mg"}, (None, None, "5 mg", None)),
        ({"valueBoolean": True}, (None, None, "true", None)),
        ({"valueCodeableConcept": coded("260373001")}, (None, None, "snomed|260373001", None)),
        ({"valueCodeableConcept": {"text": "positive"}}, (None, None, "positive", None)),
        ({}, (None, None, None, None)),
    ],
)
def test_each_type_of_value(value, expected):
    found, used = readers.events(observation(**value))
    assert only(found, "number", "comparator", "value", "unit") == [expected]
    assert used._report.noted == {}


@pytest.mark.parametrize(
    "value",
    [
        {"valueQuantity": {"value": SECRET}},
        {"valueQuantity": {"value": {"x": SECRET}}},
        {"valueQuantity": [SECRET]},
        {"valueQuantity": {"value": "<5", "comparator": ">"}},
        {"valueInteger": "7"},
        {"component": [{"code": coded("1"), "valueQuantity": {"value": SECRET}}]},
    ],
)
def test_a_value_that_cannot_be_parsed_is_counted_and_no_number(value):
    found, used = readers.events(observation(**value))
    assert {row["number"] for row in found} == {None}
    assert used._report.noted[fhir_irregular.UNPARSEABLE] == 1
    assert SECRET not in repr(used._report)


def test_components_are_events_beside_the_whole_and_of_one_version_with_it():
    parts = [{"code": coded("a"), "valueInteger": 120}, {"code": coded("b", "c"), "valueInteger": 80}]
    found, _ = readers.events(observation(component=parts))
    assert only(found, "code", "number") == [("8480-6", None), ("a", 120.0), ("b", 80.0), ("c", 80.0)]
    assert {(row["order_key"], row["row"]) for row in found} == {("Observation/o1", 0)}


def test_a_value_that_the_resource_says_is_absent_is_refused():
    parts = [{"code": coded("a"), "dataAbsentReason": {"text": "x"}}, {"code": coded("b"), "valueInteger": 1}]
    found, used = readers.events(observation(component=parts), observation(dataAbsentReason={"text": "x"}))
    assert only(found, "code") == [("8480-6",), ("b",)]
    assert used._report.refused == {"value absent": 2}


def test_two_codings_are_two_events_of_one_fact():
    found, _ = readers.events(resource("Condition", code=coded("38341003", "59621000")))
    assert only(found, "code", "order_key", "row") == [("38341003", "Condition/r1", 0), ("59621000", "Condition/r1", 0)]


def test_a_later_version_has_the_same_key_and_a_later_row():
    found, _ = readers.events(observation(status="preliminary"), observation(id="o2"), observation(status="final"))
    assert only(found, "order_key", "row", "status") == [
        ("Observation/o1", 0, "preliminary"),
        ("Observation/o2", 1, "final"),
        ("Observation/o1", 2, "final"),
    ]


@pytest.mark.parametrize(
    "reference",
    [
        "Patient/p1",
        "https://x.example/fhir/Patient/p1",
        "urn:uuid:p1",
        "Patient/p1/_history/3",
        "http://x.example:8080/a/b/Patient/p1/_history/3",
    ],
)
def test_every_form_of_a_reference_names_the_same_patient(reference):
    found, _ = readers.events(observation(subject={"reference": reference}))
    assert only(found, "patient") == [("p1",)]


@pytest.mark.parametrize("subject", [{"reference": "Group/p1"}, {"reference": "#p1"}, {"display": SECRET}, None])
def test_without_a_patient_there_is_no_event(subject):
    found, used = readers.events(observation(subject=subject))
    assert found == []
    assert used._report.refused == {"no reference to a patient": 1}


@pytest.mark.parametrize(
    ("effective", "time_us", "precision"),
    [
        ({"effectivePeriod": {"start": "2020-01-02T03:04:05Z", "end": "2021"}}, AT, Precision.SECOND),
        ({"effectiveInstant": "2020-01-02T04:04:05.000+01:00"}, AT, Precision.EXACT),
        ({"effectiveDateTime": "2020-07-01"}, 1593554400_000_000, Precision.DAY),
        ({"effectiveDateTime": "2020-07"}, 1593554400_000_000, Precision.MONTH),
        ({"effectivePeriod": {"end": "2020"}}, None, None),
    ],
)
def test_each_type_of_time(effective, time_us, precision):
    one = {name: value for name, value in observation().items() if name != "effectiveDateTime"}
    found, _ = readers.events({**one, **effective}, zone="Europe/Berlin")
    assert only(found, "time_us", "precision") == [(time_us, precision)]


def test_a_local_day_needs_the_sites_zone_but_a_birth_does_not():
    born = {"resourceType": "Patient", "id": "p1", "birthDate": "1980-05-06"}
    found, used = readers.events(born, observation(effectiveDateTime="2020-07-01"))
    assert only(found, "code", "time_us", "precision") == [("birth-date", 326419200_000_000, Precision.DAY)]
    assert used._report.refused == {"naive time without a declared zone": 1}
    found, _ = readers.events(born, zone="America/New_York")
    assert only(found, "time_us") == [(326419200_000_000,)]


@pytest.mark.parametrize(
    ("patient", "expected"),
    [
        ({"gender": "female"}, [("sex", "female", None)]),
        ({"deceasedBoolean": True}, [("death", None, None)]),
        ({"deceasedBoolean": False}, []),
        ({"deceasedDateTime": "2020-01-02T03:04:05Z"}, [("death", None, AT)]),
        ({"gender": SECRET}, []),
    ],
)
def test_what_is_known_of_a_patient(patient, expected):
    found, used = readers.events({"resourceType": "Patient", "id": "p1", **patient})
    assert only(found, "code", "value", "time_us") == expected
    assert SECRET not in repr(used._report)


def status_of(kind, **more):
    if kind in {"Immunization", "AllergyIntolerance"}:
        more |= {"patient": {"reference": "Patient/p1"}}
    code = {"Immunization": "vaccineCode", "Encounter": "class"}.get(kind, "code")
    if kind.startswith("Medication"):
        code = "medicationCodeableConcept"
    concept = {"system": "s", "code": "c"} if kind == "Encounter" else coded("c")
    found, _ = readers.events(resource(kind, **{code: concept}, **more))
    return {row["status"] for row in found if row["code"] == "c"}


def verified(code):
    return {"verificationStatus": coded(code, system="http://terminology.hl7.org/CodeSystem/condition-ver-status")}


@pytest.mark.parametrize(
    ("kind", "fields", "status"),
    [
        ("Condition", verified("confirmed"), "final"),
        ("Condition", {}, None),
        ("Condition", verified("refuted"), "cancelled"),
        ("Condition", verified("entered-in-error"), "entered-in-error"),
        ("Condition", verified("provisional"), "preliminary"),
        ("AllergyIntolerance", verified("refuted"), "cancelled"),
        ("Procedure", {"status": "completed"}, "final"),
        ("Procedure", {"status": "not-done"}, "cancelled"),
        ("Procedure", {"status": SECRET}, "unknown"),
        ("Procedure", {}, "unknown"),
        ("MedicationRequest", {"status": "active", "intent": "order"}, "final"),
        ("MedicationRequest", {"status": "active", "intent": "plan"}, "registered"),
        ("MedicationRequest", {"status": "active", "intent": "order", "doNotPerform": True}, "cancelled"),
        ("MedicationRequest", {"status": "active", "intent": "order", "doNotPerform": False}, "final"),
        ("MedicationStatement", {"status": "not-taken"}, "cancelled"),
        ("MedicationAdministration", {"status": "completed"}, "final"),
        ("Immunization", {"status": "not-done"}, "cancelled"),
        ("Encounter", {"status": "finished"}, "final"),
        ("Encounter", {"status": "planned"}, "registered"),
        ("DiagnosticReport", {"status": "partial"}, "preliminary"),
        ("DiagnosticReport", {"status": "appended"}, "amended"),
        ("Observation", {"status": "entered-in-error"}, "entered-in-error"),
    ],
)
def test_each_types_status_in_the_words_of_events(kind, fields, status):
    assert status_of(kind, **fields) == {status}


def test_an_encounter_sees_the_patient_from_its_start_to_its_end():
    period = {"start": "2020-01-02T03:04:05Z", "end": "2020-01-02T03:04:06Z"}
    stay = resource("Encounter", status="finished", period=period, type=[coded("x")], **{"class": {"code": "IMP"}})
    found, used = readers.events(stay)
    assert only(found, "system", "code", "time_us", "order_key") == [
        ("patient", "seen", AT, "Encounter/r1"),
        ("patient", "seen", AT + 1_000_000, "Encounter/r1"),
        ("snomed", "x", AT, "Encounter/r1"),
    ]
    assert used._report.refused == {"coding without a system or a code": 1}


def test_a_condition_is_known_when_it_was_recorded_not_since_its_onset():
    onset = {"onsetDateTime": "2020-01-02T03:04:05Z", "recordedDate": "2020-01-02T03:04:06Z"}
    found, _ = readers.events(resource("Condition", code=coded("x"), **onset))
    assert only(found, "time_us", "known_us") == [(AT, AT + 1_000_000)]


def test_a_contained_medication_is_read_and_one_elsewhere_refused():
    drug = {"resourceType": "Medication", "id": "m", "code": coded("314076", system="urn:x")}
    there = resource("MedicationRequest", medicationReference={"reference": "#m"}, contained=[drug])
    away = resource("MedicationRequest", medicationReference={"reference": "Medication/m"})
    found, used = readers.events(there, away)
    assert only(found, "system", "code") == [("urn:x", "314076")]
    assert used._report.refused == {fhir_irregular.MEDICATION_ELSEWHERE: 1}


@pytest.mark.parametrize(
    "other",
    [
        observation(meta={"profile": ["http://hl7.org/fhir/5.0/StructureDefinition/Observation"]}),
        observation(meta={"profile": ["http://hl7.org/fhir/StructureDefinition/Observation|3.0.2"]}),
        observation(comment="STU3"),
        observation(triggeredBy=[]),
        resource("Condition", clinicalStatus="active", code=coded("x")),
        resource("Condition", assertedDate="2020", code=coded("x")),
        resource("MedicationRequest", medication={"concept": coded("x")}),
        resource("Encounter", **{"class": [coded("x")]}),
        resource("Procedure", occurrenceDateTime="2020", code=coded("x")),
    ],
)
def test_a_resource_of_another_version_is_refused(other):
    found, used = readers.events(other)
    assert found == []
    assert used._report.refused == {fhir_irregular.OTHER_VERSION: 1}


@pytest.mark.parametrize(
    "profile",
    [
        "http://hl7.org/fhir/us/core/StructureDefinition/us-core-observation-lab|5.0.1",
        "http://hl7.org/fhir/StructureDefinition/vitalsigns|4.0.1",
        "http://hl7.org/fhir/4.0/StructureDefinition/Observation",
    ],
)
def test_a_profile_of_this_version_is_not(profile):
    assert len(readers.events(observation(meta={"profile": [profile]}))[0]) == 1


def test_the_signs_of_other_versions_are_no_fields_of_r4():
    for name, fields in fhir_irregular.MARKERS.items():
        known = [fhir_elements.element(name, field) for field in fields]
        assert all(one is None or one.choice for one in known)  # A choice's JSON names are longer than its own.


def test_a_value_of_a_type_that_events_do_not_hold_is_counted():
    found, used = readers.events(observation(valueRatio={"numerator": {"value": 1}}))
    assert only(found, "value") == [(None,)]
    assert used._report.noted == {fhir_irregular.OTHER_VALUE: 1}


def test_a_long_text_is_no_value():
    found, used = readers.events(observation(valueString=SECRET * 100))
    assert only(found, "value") == [(None,)]
    assert used._report.noted == {"text value too long": 1}


def test_merged_patients_are_linked_and_others_are_not():
    def linked(kind, other):
        return {"resourceType": "Patient", "id": "a", "link": [{"type": kind, "other": {"reference": other}}]}

    _, used = readers.events(
        linked("replaced-by", "Patient/b"),
        linked("replaces", "urn:uuid:c"),
        linked("seealso", "Patient/d"),
        linked("replaced-by", "RelatedPerson/e"),
        linked("replaced-by", "Patient/a"),
    )
    assert list(used.links()) == [("a", "b"), ("c", "a")]


def test_an_identifier_system_names_patients_beside_their_ids():
    person = {"resourceType": "Patient", "id": "p1", "gender": "male", "identifier": [
        {"system": "urn:mrn", "value": "77"}, {"system": "urn:other", "value": "88"}]}  # fmt: skip
    found, used = readers.events(person, observation(), patient="urn:mrn")
    assert {row["patient"] for row in found} == {"Patient/p1"}
    assert list(used.links()) == [("Patient/p1", "77")]


def test_malformed_lines_are_counted_by_number_and_the_others_read():
    cut = b'{"resourceType": "Observation", "x": "' + SECRET.encode()
    found, used = readers.events(observation(), cut, observation(), b"\xff{}", b"[]")
    assert len(found) == 2
    assert used._report.refused == {"malformed line": 3}
    assert used._report.snapshot == {"malformed lines": "2, 4, 5"}
    assert used._report.read == 5


def test_a_line_that_is_no_utf8_is_malformed_wherever_it_is_not():
    text = json.dumps(observation(text={"div": "X"})).encode()
    found, used = readers.events(text.replace(b"X", b"\xff"), text.replace(b"X", "é".encode()))
    assert only(found, "row") == [(1,)]
    assert used._report.refused == {"malformed line": 1}


def bundle(*resources, kind="collection"):
    return {"resourceType": "Bundle", "type": kind, "entry": [{"resource": one} for one in resources]}


@pytest.mark.parametrize("chunk", [1, 2, 7, 1024])
@pytest.mark.parametrize("indent", [None, 2])
def test_a_bundle_is_read_as_its_entries_are(indent, chunk, monkeypatch):
    monkeypatch.setattr(fhir_lines, "_CHUNK", chunk)
    many = [observation(id=f"o{n}") for n in range(5)]
    text = json.dumps(bundle(*many, {"resourceType": "Patient", "id": "p1", "gender": "male"}), indent=indent)
    found, used = readers.read([text.encode()])
    keys = [row["order_key"] for row in sorted(found, key=lambda row: row["row"])]
    assert keys == [*(f"Observation/o{n}" for n in range(5)), "Patient/p1"]
    assert used._report.read == 6
    assert len({row["row"] for row in found}) == 6


def test_a_history_is_read_backwards_so_that_the_newest_comes_last():
    found, _ = readers.events(bundle(observation(valueInteger=2), observation(valueInteger=1), kind="history"))
    assert only(found, "number") == [(1.0,), (2.0,)]
    assert found[0]["row"] < found[1]["row"]


def test_bundles_in_bundles_have_an_end():
    inner = observation()
    for _ in range(6):
        inner = bundle(inner)
    found, used = readers.events(inner)
    assert found == []
    assert used._report.noted == {"resource that no view reads": 1}


def test_a_document_beyond_the_limit_is_refused():
    text = json.dumps(bundle(observation()), indent=1).encode() + b" " * 5_000_000
    with pytest.raises(ClinicalError, match="a JSON document of more than 1000000 bytes"):
        readers.read([text], limits=Limits(line_bytes=1_000_000))


def test_a_first_line_that_is_cut_off_does_not_hide_the_others():
    found, used = readers.read([b'{"resourceType":"Observation",\n' + json.dumps(observation()).encode()])
    assert len(found) == 1
    assert used._report.refused == {"malformed line": 1}


@pytest.mark.parametrize("harm", [lambda whole: whole[:-20], lambda whole: whole[:30] + bytes(20) + whole[50:]])
def test_a_damaged_gzip_stops_without_content(harm):
    whole = gzip.compress(b"\n".join(json.dumps(observation(id=f"{SECRET}{n}")).encode() for n in range(500)))
    with pytest.raises(ClinicalError, match="damaged or cut short") as caught:
        readers.read([harm(whole)])
    assert SECRET not in str(caught.value)


def test_a_bomb_is_stopped():
    with pytest.raises(ClinicalError, match="more than 4000000 bytes after decompression"):
        readers.read([gzip.compress(b"\n" * 50_000_000)], limits=Limits(total_bytes=4_000_000))


def test_a_resource_of_too_many_rows_is_left_out_and_the_others_stay():
    many = [{"code": coded(*"abcdefghij")} for _ in range(1000)]
    found, used = readers.events(observation(component=many), observation(id="o2"))
    assert only(found, "order_key") == [("Observation/o2",)]
    assert used._report.refused == {"resource of too many rows": 1}


def test_siblings_that_multiply_end_in_bounded_memory():
    own = {"resource": "Observation", "select": [
        {"column": [{"name": "patient", "path": "subject.getReferenceKey(Patient)"}]},
        *({"forEach": f"component.code.coding.where(version = '{n}' or true)",
           "column": [{"name": name, "path": path}]}
          for n, (name, path) in enumerate([("system", "system"), ("code", "code"), ("value", "display")])),
    ]}  # fmt: skip
    hostile = observation(component=[{"code": coded(*map(str, range(400)))}])
    tracemalloc.start()
    found, used = readers.events(*[hostile] * 3, observation(id="o2"), views=(own,), without=("Observation",))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found == []
    assert used._report.refused == {"resource of too many rows": 3}
    assert peak < 300e6


SCOPES = st.sampled_from([
    Scope(codes={"loinc": frozenset({"8480-6"})}),
    Scope(codes={"loinc": frozenset({"84*"}), "snomed": frozenset({"b"})}),
    Scope(codes={"snomed": frozenset({"a", "c*"}), "patient": frozenset({"sex"})}),
    Scope(codes={"local": frozenset({'q"', "é"})}),
    Scope(codes={}),
    Scope(codes={"loinc": frozenset({"8480-6"})}, since_us=AT),
])  # fmt: skip
RESOURCES = st.lists(
    st.one_of(
        st.builds(
            lambda code, system, escaped: (
                json.dumps(observation(code=code) | {"code": coded(code, "zz", system=system)})
                .replace("8480", "\\u0038480" if escaped else "8480")
                .encode()
            ),
            st.sampled_from(["8480-6", "8480", "a", "b", "c1", 'q"', "é"]),
            st.sampled_from(["http://loinc.org", "http://snomed.info/sct", "local"]),
            st.booleans(),
        ),
        st.just(b'{"resourceType":"Patient","id":"p1","gender":"male"}'),
        st.just(b"{}"),
        st.just(b"{"),
        st.just(b""),
    ),
    max_size=12,
)


@settings(max_examples=12)
@given(lines=RESOURCES, scope=SCOPES)
def test_what_is_read_in_a_scope_is_what_is_wanted_of_all(lines, scope):
    text = b"\n".join(lines)
    everything, used = readers.read([text])
    found, scoped = readers.read([text], scope=scope)
    late = scope.since_us is None
    wanted = [row for row in everything if scope.wants(row["system"], row["code"])]
    assert found == [row for row in wanted if late or row["time_us"] is None or row["time_us"] >= scope.since_us]
    assert scoped._report.read == used._report.read
    assert scoped._report.refused.get("malformed line") == used._report.refused.get("malformed line")


@pytest.mark.parametrize("spelling", ["8480-6", "\\u0038480-6", "8480\\u002d6", "8480-\\u0036"])
def test_a_code_that_is_spelled_with_escapes_is_found_too(spelling):
    text = json.dumps(observation(code="CODE")).replace("CODE", spelling).encode()
    found, _ = readers.events(text, scope=Scope(codes={"loinc": frozenset({"8480-6"})}))
    assert only(found, "code") == [("8480-6",)]


def test_batches_and_streams_may_end_anywhere_and_give_the_same_rows():
    lines = [json.dumps(observation(id=f"o{n}")).encode() for n in range(12)]
    whole, _ = readers.read([b"\n".join(lines)])
    split, _ = readers.read([b"\n".join(lines[:5]), b"\n".join(lines[5:])], limits=Limits(batch_lines=4))
    assert split == whole
    used = readers.reader()
    again = [batch for line in lines for batch in used.batches([io.BytesIO(line)], readers.EVERYTHING)]
    assert pa.Table.from_batches(again, EVENT).to_pylist() == whole


OWN = {
    "resource": "Observation",
    "where": [{"path": "category.coding.exists(code = 'survey')"}],
    "select": [
        {
            "column": [
                {"name": "patient", "path": "subject.getReferenceKey(Patient)"},
                {"name": "time", "path": "effective.ofType(dateTime)"},
                {"name": "system", "path": "'local:score'"},
                {"name": "code", "path": "'total'"},
                {"name": "number", "path": "value.ofType(integer)"},
                {"name": "order_key", "path": "id"},
            ]
        }
    ],
}


def test_an_own_view_stands_beside_the_built_in_one_or_instead_of_it():
    survey = observation(valueInteger=9, category=[coded("survey")])
    found, _ = readers.events(survey, views=(OWN,))
    assert only(found, "system", "code", "number") == [("loinc", "8480-6", 9.0), ("local:score", "total", 9.0)]
    assert {row["row"] for row in found} == {0}
    found, _ = readers.events(survey, observation(), views=(OWN,), without=("Observation",))
    assert only(found, "code", "order_key", "status") == [("total", "o1", None)]
    scope = Scope(codes={"local:score": frozenset({"total"})})
    assert only(readers.events(survey, views=(OWN,), scope=scope)[0], "code") == [("total",)]


def test_own_views_lie_in_files_too(tmp_path):
    (tmp_path / "views").mkdir()
    (tmp_path / "views" / "score.json").write_text(json.dumps([OWN]))
    found, _ = readers.events(
        observation(category=[coded("survey")]), folder=tmp_path, views_path="views", without=("Observation",)
    )
    assert only(found, "code") == [("total",)]


def changed(**columns):
    (select,) = OWN["select"]
    kept = [one for one in select["column"] if one["name"] not in columns]
    added = [{"name": name, "path": path} for name, path in columns.items() if path]
    return {**OWN, "select": [{"column": kept + added}]}


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"views": (changed(patient=""),)}, r"needs columns \['patient'\]"),
        ({"views": (changed(colour="id"),)}, r"no columns \['colour'\]"),
        ({"views": (changed(number="id"),)}, "column 'number' is one decimal or integer"),
        ({"views": (changed(code="valu"),)}, "did you mean 'value'"),
        ({"views": (OWN,) * 201}, "more than 200 views"),
        ({"views": ({"resource": "Observation"},)}, "not a ViewDefinition"),
        ({"without": ("Nothing",)}, "no built-in view"),
        ({"views_path": "nowhere.json"}, "cannot be read"),
    ],
)
def test_a_view_that_cannot_give_events_is_refused(asked, message):
    with pytest.raises(ConfigError, match=message):
        readers.reader(**asked)


def test_all_types_of_built_in_views_are_worth_asking_for():
    types = {view["resource"] for view in fhir_event_views.VIEWS} | {"Consent"}
    assert types == set(readers.reader().resource_types)


def test_lines_become_a_stream():
    lines = [json.dumps(observation(id=f"o{n}"), indent=1).encode() for n in range(3)]
    used = readers.reader()
    (batch,) = used.batches([fhir_reader.stream_of(lines)], readers.EVERYTHING)
    assert batch.num_rows == 3
