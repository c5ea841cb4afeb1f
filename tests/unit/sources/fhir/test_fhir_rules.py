"""Views that are refused before any record is read, and what the refusal says."""

import json
import os
from pathlib import Path

import pytest
from tests.unit.sources.fhir import views

from wardround.errors import ConfigError
from wardround.sources import fhir_elements, fhir_plan, fhir_typing
from wardround.sources.fhir_elements import Kind

ROOT = Path(__file__).parents[4]
EXAMPLES = Path(os.environ.get("WARDROUND_DATA", ROOT.parent / "shared" / "data")) / "fhir_r4_examples"
ID = {"name": "id", "path": "id"}


def view(*select, **more):
    return {"resource": "Patient", "select": list(select), **more}


@pytest.mark.parametrize(
    ("document", "problem"),
    [
        (b"{", "not a ViewDefinition"),
        (b"[]", "not a ViewDefinition"),
        (b'{"resource":"Patient","select":' + b'[{"select":' * 5000, "not a ViewDefinition"),
        ({"resource": "Patient"}, "missing required field `select`"),
        (view(), "the view has no columns"),
        (view({}), "the view has no columns"),
        (view({"column": [ID]}, resourceType="Patient"), "another resource"),
        (view({"column": [ID]}, name="1a"), "sql-name"),
        (view({"column": [ID]}) | {"resource": "HumanName"}, "'HumanName' is not a resource"),
        (view({"column": [ID]}) | {"resource": "Pateint"}, "'Pateint' is not a resource"),
        (view({"column": [ID], "forEachOrNul": "name"}), "unknown field `forEachOrNul`"),
        (view({"column": [{"name": "id"}]}), "missing required field `path`"),
        (view({"column": [{"name": "_id", "path": "id"}]}), "sql-name"),
        (view({"column": [{"name": 'a"b', "path": "id"}]}), "sql-name"),
        (view({"column": [{"name": "id\n", "path": "id"}]}), "sql-name"),
        (view({"column": [ID]}, {"column": [ID]}), "'id' is defined twice"),
        (view({"column": [ID], "select": [{"column": [ID]}]}), "'id' is defined twice"),
        (view({"column": [ID], "unionAll": [{"column": [ID]}]}), "'id' is defined twice"),
        (view({"column": [ID], "forEach": "name", "forEachOrNull": "name"}), "sql-expressions"),
        (view({"column": [ID], "forEach": "name", "repeat": ["name"]}), "sql-expressions"),
        (view({"unionAll": [{"column": [ID]}, {"forEach": "name"}]}), "Union Branches Inconsistent"),
        (view({"unionAll": [{"column": [ID]}, {"column": [{"name": "id", "path": "active"}]}]}), "Inconsistent"),
        (
            view({"unionAll": [{"column": [ID]}, {"column": [{"name": "id", "path": "id", "collection": True}]}]}),
            "Inconsistent",
        ),
        (view({"column": [{"name": "a", "path": "name"}]}), "holds a structure and must say its type"),
        (view({"column": [{"name": "a", "path": "deceased"}]}), "is a choice; write ofType() with one of boolean"),
        (view({"forEach": "deceased", "column": [ID]}), "is a choice"),
        (view({"column": [{"name": "a", "path": "active", "type": "string"}]}), "its path gives a boolean"),
        (view({"column": [{"name": "a", "path": "id", "type": "Strng"}]}), "no type 'Strng'"),
        (view({"repeat": ["foo"], "column": [{"name": "a", "path": "x"}]}), "leads nowhere"),
        (view({"repeat": ["contact", "link"], "column": [{"name": "a", "path": "id"}]}), "items of different types"),
        (view({"column": [ID]}, where=[{"path": "id"}]), "a boolean is needed, and this is a text"),
        (view({"column": [ID]}, constant=[{"name": "a"}]), "has 0 values"),
        (view({"column": [ID]}, constant=[{"name": "a", "valueCode": "x", "valueId": "x"}]), "has 2 values"),
        (view({"column": [ID]}, constant=[{"name": "a", "valueAddress": {}}]), "unknown field `valueAddress`"),
        (view({"column": [ID]}, constant=[{"name": "a", "valueInteger": "1"}]), "Expected `int | null`"),
        (view({"column": [ID]}, constant=[{"name": "a", "valueInteger64": "1.5"}]), "no integer of 64 bits"),
        (view({"column": [ID]}, constant=[{"name": "a", "valueInteger64": 2**63}]), "no integer of 64 bits"),
        (view({"column": [ID]}, constant=[{"name": "a", "valueInteger": 2**31}]), "at most 2147483647"),
        (view({"column": [ID]}, constant=[{"name": "a", "valueDate": "2001-13"}]), "is not a date of FHIR"),
        (view({"column": [ID]}, constant=[{"name": "rowIndex", "valueId": "x"}]), "cannot name a constant"),
        (view({"column": [ID]}, constant=[{"name": "a", "valueId": "x"}] * 2), "cannot name a constant"),
    ],
)
def test_a_view_is_refused(document, problem):
    text = document if isinstance(document, bytes) else json.dumps(document)
    with pytest.raises(ConfigError) as caught:
        fhir_plan.compile_view(text)
    assert problem in str(caught.value)


@pytest.mark.parametrize(
    ("path", "problem"),
    [
        ("nmae", "Patient has no element 'nmae' in FHIR R4; did you mean 'name'?"),
        ("name.famly", "HumanName has no element 'famly'"),
        ("deceasedBoolean", "write deceased.ofType(boolean)"),
        ("id.foo", "a text has no element 'foo'"),
        ("deceased.foo", "write ofType() before this"),
        ("deceased.where(true)", "write ofType() between a choice and where()"),
        ("deceased.ofType(Quantity)", "never a Quantity here; it may be boolean, dateTime"),
        ("name.ofType(Period)", "this is a HumanName, never a Period"),
        ("deceased.ofType(Invalid)", "no type 'Invalid'"),
        ("deceased.ofType(42)", "the name of a type was expected"),
        ("name.count()", "no function 'count' in views"),
        ("name.first(1)", "first() takes 0 arguments"),
        ("name.where()", "where() takes 1 arguments"),
        ("name.where(family)", "a boolean is needed, and this is a text"),
        ("active and id", "a boolean is needed, and this is a text"),
        ("id.not()", "a boolean is needed"),
        ("id = 1", "compares a text with a integer, which is never true"),
        ("birthDate = '1970-01-01'", "compares a date with a text"),
        ("active > false", "compares single values"),
        ("name = name", "compares single values"),
        ("id + 1", "is for two numbers or two texts"),
        ("id - id", "is for two numbers"),
        ("-id", "a sign is for numbers"),
        ("name['a']", "an index is an integer"),
        ("%nothing", "defines no constant 'nothing'"),
        ("%resource.id", "defines no constant 'resource'"),
        ("name.join()", "join() is for texts"),
        ("name.given.join(1)", "takes a separator"),
        ("name.given.join(id)", "takes a separator"),
        ("extension(id)", "extension() takes a URL"),
        ("name.getResourceKey()", "for the resource itself"),
        ("name.getReferenceKey()", "is for a Reference"),
        ("managingOrganization.getReferenceKey(HumanName)", "not a resource"),
        ("name.lowBoundary()", "lowBoundary() is for numbers"),
        ("birthDate.lowBoundary('a')", "takes a number of digits"),
        ("2147483648", "at most 2147483647"),
        ("@2001-13-01 = birthDate", "is not a date of FHIR"),
        ("name.given.first().extension('x').exists()", "has no element 'extension' here"),
    ],
)
def test_a_path_is_refused(path, problem):
    with pytest.raises(ConfigError) as caught:
        fhir_plan.compile_view(views.columns(path))
    assert problem in str(caught.value)


def test_what_r4_does_not_have_can_be_let_pass_and_is_listed():
    plan = fhir_plan.compile_view(views.columns("nmae.x", "name.ofType(Period)", "id"), allow_unknown=True)
    assert plan.unknown == ("Patient.nmae", "this is a HumanName, never a Period")
    resource = {"resourceType": "Patient", "id": "p", "nmae": {"x": 1}, "name": [{"family": "a"}]}
    _, (table,) = views.tables(plan, views.lines([resource]), "python")
    assert table.to_pylist() == [{"a": None, "b": None, "c": "p"}]


def test_deep_and_wide_views_are_refused():
    nested = {"column": [ID]}
    for _ in range(20):
        nested = {"select": [nested]}
    wide = {"column": [{"name": f"c{n}", "path": "id"} for n in range(1001)]}
    many = {"select": [{"forEach": "name", "column": [{"name": f"c{n}", "path": "use"}]} for n in range(65)]}
    for select in (nested, wide, many):
        with pytest.raises(ConfigError, match=r"at most|more than"):
            fhir_plan.compile_view(view(select))


def test_what_surrounds_a_view_is_passed_over():
    document = view({"column": [{**ID, "description": "x", "tag": [{"name": "ansi/type", "value": "TEXT"}]}]})
    document |= {"resourceType": "ViewDefinition", "url": "http://x.example", "status": "active", "contact": [{}]}
    document |= {"fhirVersion": ["4.0.1"], "meta": {"profile": ["x"]}}
    assert [column.name for column in fhir_plan.compile_view(document).columns] == ["id"]


def test_the_table_of_elements_is_whole():
    assert fhir_elements.element("Patient", "contact").keys == (("contact", "PatientContact"),)
    assert fhir_elements.element("QuestionnaireItem", "item").keys == (("item", "QuestionnaireItem"),)
    assert fhir_elements.element("Observation", "id").keys == (("id", "string"),)
    assert len(fhir_elements.element("Extension", "value").keys) == 50
    types = [name for name in fhir_elements.names("Patient") if name != "contained"]
    assert {"birthDate", "extension", "meta", "id"} <= set(types)
    assert fhir_elements.is_subtype("code", "string")
    assert not fhir_elements.is_subtype("string", "code")
    assert fhir_elements.is_resource("Observation")
    assert not fhir_elements.is_resource("DomainResource")
    for name, (parent, elements) in fhir_elements._types().items():
        assert not parent or parent in fhir_elements._types() or parent == "FHIRAbstractResource", name
        for element in elements.values():
            for _, option in element.keys:
                assert option in fhir_elements.PRIMITIVES or fhir_elements.is_type(option), (name, element.name)


def walk(value, type_name):
    """Each element of an example, against the table."""
    for key, inner in value.items():
        if key.startswith("_") or key in {"resourceType", "fhir_comments", "contained"}:
            continue
        found = fhir_elements.element(type_name, key)
        option = dict(found.keys)[key] if found and not found.choice else None
        if found is None:
            for place in range(1, len(key)):
                choice = fhir_elements.element(type_name, key[:place])
                if choice and choice.choice and key in dict(choice.keys):
                    found, option = choice, dict(choice.keys)[key]
        assert found is not None, f"{type_name}.{key}"
        assert isinstance(inner, list) == found.many, f"{type_name}.{key}"
        for one in inner if found.many else [inner]:
            yield option, one
            if isinstance(one, dict) and option != "Resource":
                yield from walk(one, option)


WRITTEN = {Kind.BOOLEAN: bool, Kind.INTEGER: int, Kind.DECIMAL: (int, float), Kind.COMPLEX: dict}


@pytest.mark.skipif(not EXAMPLES.is_dir(), reason="the FHIR examples are not at WARDROUND_DATA")
@pytest.mark.parametrize("file", sorted(EXAMPLES.glob("*.json")), ids=lambda file: file.stem)
def test_an_official_example_has_the_elements_of_the_table(file):
    resource = json.loads(file.read_text(encoding="utf-8"))
    if not fhir_elements.is_resource(resource["resourceType"]):
        pytest.skip("a definition: not in the table")
    for option, one in walk(resource, resource["resourceType"]):
        kind = fhir_elements.kind_of(option)
        assert one is None or isinstance(one, WRITTEN.get(kind, str)), option
        if kind in {Kind.DATE, Kind.DATETIME, Kind.TIME} and one is not None:
            assert fhir_typing.literal(kind, one).value is not None
