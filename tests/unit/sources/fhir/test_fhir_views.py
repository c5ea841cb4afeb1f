"""What the specification says of views beyond the official cases at hand, by both back ends.

Own cases for constants of every type, %rowIndex, repeat, boundaries, join, extension, ofType, keys, logic,
comparison, and the nesting of forEach, forEachOrNull and unionAll.
"""

import pytest
from tests.unit.sources.fhir import views

from wardround.sources import fhir_plan, fhir_run

WEIGHT = {
    "resourceType": "Observation",
    "id": "w",
    "status": "final",
    "effectiveDateTime": "2020-05-01T10:00:00+02:00",
    "valueQuantity": {"value": 1.0, "unit": "kg"},
    "issued": "2020-05-01T09:00:00Z",
}


@views.both
@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("name.family.first()", "Ahl"),
        ("Patient.name[0].given[1]", "Bea"),
        ("name.given.first()", "Anna"),
        ("name[5].family", None),
        ("name[0].given[-1]", None),
        ("id[0]", "anna"),
        ("id[1]", None),
        ("name.given.join('+')", "Anna+Bea+Nan"),
        ("name.prefix.join('+')", ""),
        ("id.join(',')", "anna"),
        ("name.where(use = 'usual').given", "Nan"),
        ("name.where(use = 'none').given", None),
        ("name.exists(use = 'usual')", True),
        ("name.where(family.exists()).use", "official"),
        ("where(active).id", "anna"),
        ("where(active.not()).id", None),
        ("deceased.exists()", False),
        ("multipleBirth.exists()", True),
        ("multipleBirth.ofType(integer)", 2),
        ("multipleBirth.ofType(Boolean)", None),
        ("multipleBirth.ofType(FHIR.integer) + 1", 3),
        ("extension('urn:sex').value.ofType(code)", "F"),
        ("extension('urn:sex').value.ofType(string)", "F"),  # A code is a string, says R4.
        ("extension('urn:race').extension('omb').value.ofType(Coding).code.first()", "2106-3"),
        ("extension('urn:none').exists()", False),
        ("extension('urn:race').value.exists()", False),
        ("birthDate.extension('urn:time').value.ofType(dateTime)", "1978-03-12T08:00:00Z"),
        ("birthDate.id", "bd"),
        ("birthDate", "1978-03-12"),
        ("birthDate = @1978-03-12", True),
        ("birthDate < @1978", None),
        ("birthDate < @1979", True),
        ("name.period.start.lowBoundary()", "2001-01-01T00:00:00.000+14:00"),
        ("name.period.highBoundary()", "2003-04-30T23:59:59.999-12:00"),
        ("birthDate.highBoundary(6)", "1978-03"),
        ("getResourceKey()", "anna"),
        ("managingOrganization.getReferenceKey()", "o1"),
        ("managingOrganization.getReferenceKey(Organization)", "o1"),
        ("managingOrganization.getReferenceKey(Patient)", None),
        ("link.other.getReferenceKey(RelatedPerson)", "r1"),
        ("getResourceKey() = link.other.getReferenceKey(Patient)", True),
        ("getResourceKey() = link.other.getReferenceKey(Observation)", None),
        ("name.family = 'Ahl'", True),
        ("name.given = 'Anna'", False),
        ("name.given != 'Anna'", True),
        ("name.given = name.given", True),
        ("gender = name.where(use = 'none').family", None),
        ("gender > 'emale'", True),
        ("'a' + 'b'", "ab"),
        ("'a' + name.where(use = 'none').family", None),
        ("1 + 2 * 3 - 4", 3),
        ("-multipleBirth.ofType(integer)", -2),
        ("7 / 2", 3.5),
        ("1 / 0", None),
        ("0.1 + 0.2 = 0.3", True),
        ("0.1 + 0.2", 0.3),
        ("1 = 1.0", True),
        ("{}", None),
        ("{}.exists()", False),
        ("{} = 1", None),
        ("%rowIndex", 0),
        ("true and {}", None),
        ("false and {}", False),
        ("true or {}", True),
        ("false or {}", None),
        ("{} implies true", True),
        ("{} implies false", None),
        ("false implies {}", True),
        ("true xor {}", None),
        ("true xor false", True),
        ("{}.not()", None),
        ("name.given.exists() and name.given.empty().not()", True),
    ],
)
def test_a_path_of_one_patient(path, value, backend):
    assert views.values(path, views.ANNA, backend) == value


@views.both
@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("value.ofType(Quantity).value", 1.0),
        ("value.ofType(Quantity).value.lowBoundary()", 0.95),
        ("value.ofType(Quantity).value.highBoundary()", 1.05),
        ("value.ofType(Quantity).value * 3", 3.0),
        ("value.ofType(Quantity).value > 0.5", True),
        ("value.ofType(dateTime).lowBoundary()", None),
        ("effective.ofType(dateTime).lowBoundary()", "2020-05-01T10:00:00.000+02:00"),
        ("effective.ofType(dateTime) < issued", True),
        ("effective.ofType(dateTime) < @2020-05-01T08:30:00Z", True),
        ("effective.ofType(dateTime) > @2020-05-02", False),
        ("effective.ofType(instant)", None),
        ("issued = @2020-05-01T11:00:00+02:00", True),
    ],
)
def test_a_path_of_one_observation(path, value, backend):
    assert views.values(path, WEIGHT, backend) == value


CONSTANTS = [
    ("Base64Binary", "aGVsbG8K", "photo.first().data"),
    ("Boolean", True, "active"),
    ("Canonical", "http://x.example/p|1", "meta.profile"),
    ("Code", "female", "gender"),
    ("Date", "1978-03-12", "birthDate"),
    ("DateTime", "2020-01-01T00:00:00Z", "deceased.ofType(dateTime)"),
    ("Decimal", 1.25, "extension.value.ofType(decimal)"),
    ("Id", "c", "id"),
    ("Instant", "2020-01-01T00:00:00Z", "meta.lastUpdated"),
    ("Integer", 2, "multipleBirth.ofType(integer)"),
    ("Integer64", 7, "extension.value.ofType(integer)"),
    ("Oid", "urn:oid:1.2", "extension.value.ofType(oid)"),
    ("PositiveInt", 1, "telecom.rank"),
    ("String", "A", "name.family"),
    ("Time", "12:34:00", "extension.value.ofType(time)"),
    ("UnsignedInt", 9, "photo.size"),
    ("Uri", "urn:x", "implicitRules"),
    ("Url", "http://x.example", "photo.url"),
    ("Uuid", "urn:uuid:53fefa32-fcbb-4ff8-8a92-55ee120877b7", "extension.value.ofType(uuid)"),
]
FULL = {
    "resourceType": "Patient",
    "id": "c",
    "meta": {"profile": ["http://x.example/p|1"], "lastUpdated": "2020-01-01T01:00:00+01:00"},
    "implicitRules": "urn:x",
    "active": True,
    "gender": "female",
    "birthDate": "1978-03-12",
    "deceasedDateTime": "2020-01-01T00:00:00.000Z",
    "multipleBirthInteger": 2,
    "name": [{"family": "A"}],
    "telecom": [{"rank": 1}],
    "photo": [{"data": "aGVsbG8K", "size": 9, "url": "http://x.example"}],
    "extension": [
        {"url": "1", "valueDecimal": 1.25},
        {"url": "2", "valueInteger": 7},
        {"url": "3", "valueOid": "urn:oid:1.2"},
        {"url": "4", "valueTime": "12:34:00"},
        {"url": "5", "valueUuid": "urn:uuid:53fefa32-fcbb-4ff8-8a92-55ee120877b7"},
    ],
}


@views.both
@pytest.mark.parametrize(("kind", "value", "path"), CONSTANTS)
def test_a_constant_of_every_type(kind, value, path, backend):
    view = views.columns(f"{path} = %it", "%it.exists()", constant=[{"name": "it", f"value{kind}": value}])
    assert views.run(view, [FULL, views.BARE], backend)[0] == {"a": True, "b": True}
    assert views.run(view, [views.BARE], backend)[0]["a"] in ({None} if kind != "Id" else {False})
    shown = views.columns("%it", constant=[{"name": "it", f"value{kind}": value}])
    assert views.run(shown, [views.BARE], backend) == [{"a": value}]


@views.both
@pytest.mark.parametrize("value", [2**62, str(2**62), "-9223372036854775808"])
def test_an_integer_of_64_bits_may_be_written_as_a_text(value, backend):
    view = views.columns("%it", "%it > 2", constant=[{"name": "it", "valueInteger64": value}])
    assert views.run(view, [views.BARE], backend) == [{"a": int(value), "b": int(value) > 2}]


@views.both
def test_no_name_of_a_column_is_one_of_ours(backend):
    names = ["r", "j", "s0", "k0_0", "l1", "e"]
    view = {
        "resource": "Patient",
        "select": [{"forEach": "name", "column": [views.named(one, "use") for one in names]}],
    }
    assert views.run(view, [views.ANNA], backend)[0] == dict.fromkeys(names, "official")


@views.both
def test_a_structure_is_a_column_of_json_if_its_type_is_told(backend):
    view = {
        "resource": "Observation",
        "select": [
            {
                "column": [
                    views.named("q", "value.ofType(Quantity)", type="Quantity"),
                    views.named("v", "value.ofType(Quantity).value"),
                ]
            }
        ],
    }
    (row,) = views.run(view, [WEIGHT], backend)
    assert row == {"q": '{"unit":"kg","value":1.0}', "v": 1.0}


@views.both
def test_columns_have_the_types_that_their_paths_give(backend):
    view = views.columns("id", "active", "%rowIndex", "extension.value.ofType(decimal)", "name.given.exists()", "{}")
    view["select"][0]["column"] += [
        views.named("whole", "multipleBirth.ofType(integer)", type="decimal"),
        views.named("texts", "name.given", collection=True, type="http://hl7.org/fhir/StructureDefinition/string"),
    ]
    plan = fhir_plan.compile_view(view)
    _, parts = views.tables(plan, views.lines([views.BARE]), backend)
    assert parts[0].schema == fhir_run.schema(plan)
    spelled = [str(field.type) for field in parts[0].schema]
    assert spelled[:-1] == ["string", "bool", "int64", "double", "bool", "string", "double"]
    assert spelled[-1].startswith("list")


@views.both
@pytest.mark.parametrize(
    ("reference", "asked", "key"),
    [
        ({"reference": "Patient/p1"}, "", "p1"),
        ({"reference": "Patient/p1/_history/3"}, "Patient", "p1"),
        ({"reference": "http://h.example:80/a/b/Patient/p_1"}, "Patient", "p_1"),
        ({"reference": "Group/g"}, "Patient", None),
        ({"reference": "urn:uuid:0-a"}, "Patient", "0-a"),
        ({"reference": "urn:uuid:0-a", "type": "Group"}, "Patient", None),
        ({"reference": "urn:oid:1.2"}, "", "1.2"),
        ({"reference": "#p1"}, "", None),
        ({"reference": "Patient/p1#x"}, "", None),
        ({"reference": "Patient?identifier=1|2"}, "", None),
        ({"reference": "patient/p1"}, "", None),
        ({"reference": "Patient/p1\n"}, "", None),
        ({"reference": "Patient/"}, "", None),
        ({"identifier": {"value": "x"}, "type": "Patient"}, "Patient", None),
        ({}, "", None),
    ],
)
def test_keys_of_references(reference, asked, key, backend):
    resource = {"resourceType": "Observation", "subject": reference}
    assert views.values(f"subject.getReferenceKey({asked})", resource, backend) == key
