"""Views and resources drawn at random: DuckDB and Python give the same rows in the same order, or the same error.

Resources are drawn dirty: values of the wrong type, nulls, empty lists, fields that R4 does not have.
"""

from hypothesis import HealthCheck, event, given, reject, settings
from hypothesis import strategies as st
from tests.unit.sources.fhir import views

from wardround.errors import ClinicalError, ConfigError
from wardround.sources import fhir_plan

pytestmark = views.needs_duckdb

CONSTANTS = [
    {"name": "use", "valueCode": "official"},
    {"name": "place", "valueInteger": 1},
    {"name": "half", "valueDecimal": 0.5},
    {"name": "yes", "valueBoolean": True},
]
WORDS = ["", "a", "b", "official", "usual", "é\u0000\U0001f600", "o'b\"c", "Patient/p1", "urn:uuid:p1", "p1", "-"]

# Of each type of item: paths to texts, booleans, numbers, and items of which type.
TYPES = {
    "Patient": (
        ["id", "gender", "birthDate", "name.family", "name.given", "name.first().given", "name[1].family",
         "name.where(use = %use).family", "contact.name.family", "link.other.getReferenceKey()",
         "link.other.getReferenceKey(Patient)", "getResourceKey()", "name.given.join('-')", "name[0].given[%place]",
         "extension('u').value.ofType(string)", "identifier.period.start", "gender.id", "gender.extension('u').url",
         "managingOrganization.getReferenceKey(Organization)", "contact.name.where(use = 'a').given.first()"],
        ["active", "deceased.ofType(boolean)", "deceased.exists()", "name.exists(use = 'a')", "contact.empty()",
         "extension('u').value.ofType(string).exists()", "name.where(given.exists()).exists()"],
        ["multipleBirth.ofType(integer)", "%rowIndex", "contact.extension('u').value.ofType(decimal)"],
        [("name", "HumanName"), ("contact", "Contact"), ("name.where(use = %use)", "HumanName"),
         ("name.given", "string"), ("contact.name", "HumanName"), ("name.first()", "HumanName"),
         ("link.other", "Reference"), ("$this", "Patient")],
    ),
    "HumanName": (
        ["use", "family", "given", "given.first()", "given[1]", "given.join(',')", "prefix", "period.start"],
        ["given.exists()", "given.where($this = 'a').exists()", "period.exists()"],
        ["%rowIndex"],
        [("given", "string"), ("$this", "HumanName"), ("period", "Period")],
    ),
    "Contact": (
        ["name.family", "name.given", "gender", "relationship.coding.code", "organization.getReferenceKey()"],
        ["name.exists()", "relationship.coding.exists(code = 'a')"],
        ["%rowIndex", "extension('u').value.ofType(decimal)"],
        [("relationship", "CodeableConcept"), ("relationship.coding", "Coding"), ("name", "HumanName")],
    ),
    "CodeableConcept": (["text", "coding.code"], ["coding.empty()"], ["%rowIndex"], [("coding", "Coding")]),
    "Coding": (["code", "system"], ["userSelected"], ["%rowIndex"], [("$this", "Coding")]),
    "Reference": (
        ["reference", "getReferenceKey()", "identifier.value"],
        ["type.exists()"],
        ["%rowIndex"],
        [("$this", "Reference")],
    ),
    "Period": (["start", "end"], ["start.exists()"], ["%rowIndex"], [("$this", "Period")]),
    "string": (["$this"], ["$this.exists()", "$this = 'a'"], ["%rowIndex"], [("$this", "string")]),
}  # fmt: skip


def texts(kind):
    one = st.sampled_from(TYPES[kind][0])
    return st.one_of(
        one, one, st.just("'x'"), st.builds("({} + {})".format, one, st.sampled_from(["'!'", "{}", "'a'"]))
    )


def numbers(kind):
    one = st.sampled_from([*TYPES[kind][2], "2", "0"])
    left, right = st.sampled_from(["%rowIndex", "3", "-1"]), st.sampled_from(["%rowIndex", "2"])
    return st.one_of(one, st.builds("({} {} {})".format, left, st.sampled_from("+-*"), right))


def booleans(kind):
    compared = st.builds("({} {} {})".format, texts(kind), st.sampled_from(["=", "!=", "<", ">="]), texts(kind))
    counted = st.builds("({} {} {})".format, numbers(kind), st.sampled_from(["=", "!=", ">", "<="]), numbers(kind))
    leaf = st.one_of(st.sampled_from(TYPES[kind][1]), compared, counted, st.sampled_from(["true", "%yes", "{}"]))
    return st.recursive(
        leaf,
        lambda inner: st.one_of(
            st.builds("({} {} {})".format, inner, st.sampled_from(["and", "or", "xor", "implies"]), inner),
            inner.map("{}.not()".format),
        ),
        max_leaves=4,
    )


PATHS = {"text": texts, "boolean": booleans, "number": numbers}


@st.composite
def selects(draw, kind, names, depth=0):
    """A select whose columns are `names`: each has a sort of value and whether it is a collection."""
    node = {}
    if draw(st.booleans()):
        path, kind = draw(st.sampled_from(TYPES[kind][3]))
        node[draw(st.sampled_from(["forEach", "forEach", "forEachOrNull"]))] = path
    own, rest = names, []
    if depth < 3 and len(names) > 1:
        cut = draw(st.integers(0, len(names)))
        own, rest = names[:cut], names[cut:]
    node["column"] = [
        {"name": name, "path": draw(PATHS[sort](kind)), "collection": collection} for name, sort, collection in own
    ]
    if rest and draw(st.booleans()):
        node["unionAll"] = [draw(selects(kind, rest, depth + 1)) for _ in range(draw(st.integers(1, 3)))]
    elif rest:
        cut = draw(st.integers(1, len(rest)))
        node["select"] = [draw(selects(kind, part, depth + 1)) for part in (rest[:cut], rest[cut:]) if part]
    return node


@st.composite
def definitions(draw):
    sorts = draw(
        st.lists(st.tuples(st.sampled_from(["text", "boolean", "number"]), st.booleans()), min_size=1, max_size=5)
    )
    names = [(f"c{number}", sort, collection) for number, (sort, collection) in enumerate(sorts)]
    view = {"resource": "Patient", "constant": CONSTANTS, "select": [draw(selects("Patient", names))]}
    if draw(st.booleans()):
        view["where"] = [{"path": draw(booleans("Patient"))} for _ in range(draw(st.integers(1, 2)))]
    return view


word = st.sampled_from(WORDS)
dirt = st.sampled_from([None, 1, 1.5, True, "a", [], {}, [None], ["a"], [{}], {"x": 1}, 2**40, [[["a"]]]])


def dirty(value, share=30):
    return st.integers(0, share).flatmap(lambda drawn: dirt if drawn == 0 else value)


def objects(**fields):
    drawn = {name: dirty(value) for name, value in fields.items()}
    return st.one_of(st.fixed_dictionaries(drawn), st.fixed_dictionaries({}, optional=drawn))


def lists(one, size=3):
    return st.lists(one, max_size=size)


extension = objects(
    url=st.sampled_from(["u", "v"]), valueString=word, valueDecimal=st.sampled_from([0.5, 1, 2.25]), extra=word
)
period = objects(start=st.sampled_from(["2020", "2020-01-02"]), end=word)
name = objects(use=word, family=word, given=lists(st.one_of(word, st.none())), prefix=lists(word), period=period)
coding = objects(code=word, system=word, userSelected=st.booleans())
concept = objects(coding=lists(coding), text=word)
reference = objects(reference=word, type=st.sampled_from(["Patient", "Group"]), identifier=objects(value=word))
contact = objects(
    name=name, gender=word, relationship=lists(concept, 2), organization=reference, extension=lists(extension, 2)
)
fields = objects(
    id=word,
    active=st.booleans(),
    gender=word,
    birthDate=st.just("2001-02-03"),
    deceasedBoolean=st.booleans(),
    deceasedDateTime=st.just("2001"),
    multipleBirthInteger=st.integers(-3, 3),
    name=lists(name),
    contact=lists(contact, 2),
    identifier=lists(objects(period=period, value=word), 2),
    link=lists(objects(other=reference), 2),
    extension=lists(extension),
    managingOrganization=reference,
    _gender=objects(id=word, extension=lists(extension, 2)),
    unheardOf=word,
)
patients = fields.map(lambda found: {"resourceType": "Patient", **found})


def outcome(plan, text, backend):
    try:
        report, parts = views.tables(plan, text, backend)
    except ClinicalError as error:
        return str(error), None
    return [list(row.values()) for part in parts for row in part.to_pylist()], report


@settings(max_examples=80, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(view=definitions(), resources=st.lists(patients, min_size=1, max_size=6))
def test_duckdb_and_python_agree(view, resources):
    try:
        plan = fhir_plan.compile_view(view)
    except ConfigError:  # Texts and dates, or something else that is never equal, were drawn beside each other.
        reject()
    text = views.lines(resources)
    expected, by_python = outcome(plan, text, "python")
    found, by_duckdb = outcome(plan, text, "duckdb")
    assert found == expected
    if by_python and by_duckdb:
        event("in SQL" if not by_duckdb.batches_in_python else "again in Python")
        event("misfits" if by_python.misfits else "clean")
        assert (by_duckdb.misfits, by_duckdb.malformed) == (by_python.misfits, by_python.malformed)
