"""A lineage record as W3C PROV-JSON: what any provenance tool reads.

The activity is the making of a tensor: it used the contract, the mapping, the plan and the sources, and was informed
by the activity of the record before. Agents are the site, the software, and the people who confirmed the mapping.

References:
    Huynh et al. The PROV-JSON serialization. W3C member submission, 2013.
"""

from typing import Any, Final

from wardround.codec import canonical
from wardround.harmonization import lineage
from wardround.harmonization.lineage import FIRST, LineageRecord

__all__ = ["document", "write"]

_PREFIX: Final = {"wardround": "urn:wardround:"}


def write(record: LineageRecord) -> bytes:
    """The document's bytes; one record gives the same bytes every time."""
    return canonical.encode(document(record))


def document(record: LineageRecord) -> dict[str, Any]:
    """The PROV-JSON document of one record."""
    digest = canonical.digest(lineage.encode(record))
    activity = _name("making", digest)
    contract, mapping = _name("contract", record.contract), _name("mapping", record.mapping)
    plan, tensor = _name("plan", record.plan), _name("tensor", record.tensor)
    sources = {_name("source", f"{digest}.{place}"): source for place, source in enumerate(record.sources)}
    site, software = _name("site", record.site.encode().hex()), _name("software", record.engine.encode().hex())
    confirmed = sorted({one.by for one in record.confirmations})
    people = {_name("person", one.encode().hex()): one for one in confirmed}
    entities: dict[str, Any] = {
        contract: {"prov:type": "data contract"},
        mapping: {"prov:type": "site mapping"},
        plan: {"prov:type": _qualified("prov:Plan"), "wardround:statements": len(record.sql)},
        tensor: {"prov:type": "tensor", "wardround:records": record.records, "wardround:columns": len(record.features)},
    }
    for name, source in sources.items():
        snapshot = canonical.encode(source.snapshot).decode()
        entities[name] = {"prov:label": source.name, "wardround:read": source.read, "wardround:snapshot": snapshot}
    making: dict[str, Any] = {"prov:endTime": record.at, "wardround:study": record.study}
    inputs = [contract, mapping, plan, *sources]
    found: dict[str, Any] = {
        "prefix": _PREFIX,
        "entity": entities,
        "activity": {activity: making},
        "agent": {
            site: {"prov:type": _qualified("prov:Organization"), "prov:label": record.site},
            software: {"prov:type": _qualified("prov:SoftwareAgent"), "prov:label": record.engine},
            **{name: {"prov:type": _qualified("prov:Person"), "prov:label": label} for name, label in people.items()},
        },
        "used": _relations("used", [{"prov:activity": activity, "prov:entity": one} for one in inputs]),
        "wasGeneratedBy": _relations(
            "made", [{"prov:entity": tensor, "prov:activity": activity, "prov:time": record.at}]
        ),
        "wasDerivedFrom": _relations(
            "derived", [{"prov:generatedEntity": tensor, "prov:usedEntity": one} for one in sources]
        ),
        "wasAssociatedWith": _relations(
            "by", [{"prov:activity": activity, "prov:agent": one, "prov:plan": plan} for one in (site, software)]
        ),
        "wasAttributedTo": _relations(
            "confirmed", [{"prov:entity": mapping, "prov:agent": one} for one in (site, *people)]
        ),
    }
    if record.previous != FIRST:
        before = _name("making", record.previous)
        found["activity"][before] = {}
        found["wasInformedBy"] = _relations("after", [{"prov:informed": activity, "prov:informant": before}])
    return {name: part for name, part in found.items() if part}


def _name(kind: str, which: str) -> str:
    return f"wardround:{kind}.{which}"


def _qualified(name: str) -> dict[str, str]:
    return {"$": name, "type": "prov:QUALIFIED_NAME"}


def _relations(name: str, each: list[dict[str, str]]) -> dict[str, Any]:
    return {f"_:{name}{place}": one for place, one in enumerate(each)}
