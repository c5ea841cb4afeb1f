"""Lineage for other tools: each export against its format's own rules, and another reader where one is installed."""

import json
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wardround.codec import canonical
from wardround.harmonization import lineage, lineage_fhir, lineage_openlineage, lineage_prov
from wardround.harmonization.lineage import Confirmation, FeatureLineage, LineageRecord, SourceLineage
from wardround.sources import fhir_elements

NAMED = ("prov:entity", "prov:activity", "prov:agent", "prov:plan")
NAMED += ("prov:usedEntity", "prov:generatedEntity", "prov:informed", "prov:informant")

digests = st.text("0123456789abcdef", min_size=64, max_size=64)
words = st.text(st.characters(codec="utf-8", exclude_categories=("Cs",)), min_size=1, max_size=12)
records = st.builds(
    LineageRecord,
    site=words,
    study=digests,
    contract=digests,
    mapping=digests,
    plan=digests,
    engine=words,
    sql=st.lists(words, max_size=2).map(tuple),
    sources=st.lists(st.builds(SourceLineage, name=words, read=st.integers(0, 99)), max_size=3).map(tuple),
    features=st.lists(st.builds(FeatureLineage, name=words), max_size=3).map(tuple),
    confirmations=st.lists(st.builds(Confirmation, local=words, concept=words, by=words), max_size=3).map(tuple),
    records=st.integers(0, 99),
    tensor=digests,
    at=st.just("2026-11-21T10:00:00.25Z"),
    previous=st.just(lineage.FIRST) | digests,
)


@given(one=records)
def test_every_export_is_the_same_each_time_and_tells_of_its_record(one):
    for export in (lineage_prov.write, lineage_openlineage.write, lineage_fhir.write):
        data = export(one)
        assert export(lineage.decode(lineage.encode(one))) == data
        assert all(name in data.decode() for name in (one.contract, one.mapping, one.tensor, one.plan))
        assert (one.previous in data.decode()) or one.previous == lineage.FIRST
        assert json.dumps(json.loads(data))


@given(one=records)
def test_whatever_a_provenance_document_relates_it_also_declares(one):
    document = lineage_prov.document(one)
    declared = {name for kind in ("entity", "activity", "agent") for name in document.get(kind, {})}
    relations = {kind: each for kind, each in document.items() if kind not in {"prefix", "entity", "activity", "agent"}}
    for each in relations.values():
        for relation in each.values():
            assert {relation[role] for role in NAMED if role in relation} <= declared
    assert all(name.startswith("wardround:") and " " not in name for name in declared)
    assert len(document["used"]) == 3 + len(one.sources)
    assert len(document.get("wasDerivedFrom", {})) == len(one.sources)
    assert len(document["wasAttributedTo"]) == 1 + len({word.by for word in one.confirmations})


@given(one=records)
def test_another_reader_of_provenance_reads_it_and_writes_the_same(one):
    model = pytest.importorskip("prov.model", reason="the prov package is not installed")
    document = model.ProvDocument.deserialize(content=lineage_prov.write(one).decode())
    assert model.ProvDocument.deserialize(content=document.serialize()) == document


def facets(document):
    """Every facet of an event, wherever it is."""
    if isinstance(document, dict):
        for name, one in document.items():
            if name.lower().endswith("facets"):
                yield from one.values()
            yield from facets(one)
    elif isinstance(document, list):
        for one in document:
            yield from facets(one)


@given(one=records)
def test_a_run_event_has_what_openlineage_requires(one):
    event = lineage_openlineage.event(one)
    assert {"eventTime", "producer", "schemaURL", "run", "job"} <= set(event)
    assert event["eventType"] == "COMPLETE"
    number = uuid.UUID(event["run"]["runId"])
    assert (number.version, number.variant) == (8, uuid.RFC_4122)
    for part in (event["job"], *event["inputs"], *event["outputs"]):
        assert part["namespace"]
        assert part["name"]
    found = list(facets(event))
    assert len(found) >= 6
    assert all(facet["_producer"] and facet["_schemaURL"] for facet in found)
    assert [one.name for one in one.sources] == [part["name"] for part in event["inputs"]]


@given(one=records, other=records)
def test_records_that_differ_are_different_runs(one, other):
    runs = [lineage_openlineage.event(each)["run"]["runId"] for each in (one, other)]
    assert (runs[0] == runs[1]) == (one == other)


def assert_elements(type_name, structure):
    """Every element is R4's, many where R4 has many, and of a type that R4 allows."""
    for key, value in structure.items():
        every = [fhir_elements.element(type_name, name) for name in fhir_elements.names(type_name)]
        found = next((one for one in every if key in dict(one.keys)), None)
        assert found is not None, f"{type_name} has no {key}"
        assert isinstance(value, list) == found.many, f"{type_name}.{key}"
        kind = dict(found.keys)[key]
        for each in value if found.many else [value]:
            if isinstance(each, dict):
                assert_elements(kind, each)
            else:
                assert kind in fhir_elements.PRIMITIVES, f"{type_name}.{key}"


@given(one=records)
def test_a_provenance_resource_has_only_r4_elements_and_all_that_are_required(one):
    resource = lineage_fhir.resource(one)
    assert resource.pop("resourceType") == "Provenance"
    assert len(resource["id"]) <= 64
    assert_elements("Provenance", resource)
    assert resource["target"]
    assert resource["recorded"].endswith("Z")
    assert resource["agent"]
    assert all("who" in agent for agent in resource["agent"])
    roles = {"derivation", "revision", "quotation", "source", "removal"}
    assert all(entity["role"] in roles and "what" in entity for entity in resource["entity"])
    assert resource["id"] == canonical.digest(lineage.encode(one))


def test_an_element_that_r4_does_not_have_would_be_seen():
    with pytest.raises(AssertionError, match="ProvenanceAgent has no whom"):
        assert_elements("Provenance", {"agent": [{"whom": {}}]})
    with pytest.raises(AssertionError, match=r"Provenance\.agent"):
        assert_elements("Provenance", {"agent": {}})
