"""A lineage record as a FHIR R4 Provenance resource: for a hospital's own FHIR server.

Target and entities are named by identifiers (``urn:wardround:…`` and a digest), not by references: none of them is a
resource. No patient is named.

References:
    HL7 FHIR R4 (4.0.1), 6.3, Provenance.
"""

from typing import Any, Final

from wardround.codec import canonical
from wardround.harmonization import lineage
from wardround.harmonization.lineage import FIRST, LineageRecord

__all__ = ["resource", "write"]

_PARTICIPANT: Final = "http://terminology.hl7.org/CodeSystem/provenance-participant-type"
_OPERATION: Final = "http://terminology.hl7.org/CodeSystem/v3-DataOperation"
_PURPOSE: Final = "http://terminology.hl7.org/CodeSystem/v3-ActReason"


def write(record: LineageRecord) -> bytes:
    """The resource's bytes; one record gives the same bytes every time."""
    return canonical.encode(resource(record))


def resource(record: LineageRecord) -> dict[str, Any]:
    """The Provenance resource of one record."""
    digest = canonical.digest(lineage.encode(record))
    entities = [
        _entity("derivation", "source", canonical.digest(canonical.encode(source.snapshot)), source.name)
        for source in record.sources
    ]
    entities += [
        _entity("source", "contract", record.contract, "data contract"),
        _entity("source", "mapping", record.mapping, "site mapping"),
        _entity("source", "plan", record.plan, "plan of computation"),
    ]
    if record.previous != FIRST:
        entities.append(_entity("revision", "lineage", record.previous, "lineage record before"))
    agents = [_agent("custodian", "site", record.site), _agent("assembler", "software", record.engine)]
    agents += [_agent("verifier", "person", name) for name in sorted({one.by for one in record.confirmations})]
    return {
        "resourceType": "Provenance",
        "id": digest,
        "target": [_named("tensor", record.tensor, f"study table of {record.records} records")],
        "occurredDateTime": record.at,
        "recorded": record.at,
        "policy": [f"urn:wardround:study:{record.study}"],
        "reason": [{"coding": [{"system": _PURPOSE, "code": "HRESCH"}]}],
        "activity": {"coding": [{"system": _OPERATION, "code": "CREATE"}]},
        "agent": agents,
        "entity": entities,
    }


def _entity(role: str, kind: str, digest: str, display: str) -> dict[str, Any]:
    return {"role": role, "what": _named(kind, digest, display)}


def _agent(role: str, kind: str, name: str) -> dict[str, Any]:
    return {"type": {"coding": [{"system": _PARTICIPANT, "code": role}]}, "who": _named(kind, name, name)}


def _named(kind: str, value: str, display: str) -> dict[str, Any]:
    return {"identifier": {"system": f"urn:wardround:{kind}", "value": value}, "display": display}
