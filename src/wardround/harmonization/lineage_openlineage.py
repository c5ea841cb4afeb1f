"""A lineage record as an OpenLineage RunEvent: what data catalogues take in (Marquez, DataHub, OpenMetadata).

The run's identifier is made of the record's digest, so that sending an event twice changes nothing. Nothing is sent
from here: the bytes are for the site's own catalogue.

References:
    OpenLineage object model, 2-0-2; RFC 9562, 5.8 (UUID version 8).
"""

import uuid
from typing import Any, Final

from wardround.codec import canonical
from wardround.harmonization import lineage
from wardround.harmonization.lineage import LineageRecord, SourceLineage

__all__ = ["event", "write"]

_PRODUCER: Final = "urn:wardround:harmonization:1"
_SPECIFICATION: Final = "https://openlineage.io/spec"


def write(record: LineageRecord) -> bytes:
    """The event's bytes; one record gives the same bytes every time."""
    return canonical.encode(event(record))


def event(record: LineageRecord) -> dict[str, Any]:
    """The RunEvent of one record."""
    digest = canonical.digest(lineage.encode(record))
    engine, _, version = record.engine.partition(" ")
    job: dict[str, Any] = {
        "jobType": _facet("2-0-4", "JobType", "Job", processingType="BATCH", integration="WARDROUND", jobType="JOB")
    }
    if record.sql:
        job["sql"] = _facet("1-1-0", "SQL", "Job", query=";\n".join(record.sql))
    own = {
        "contract": record.contract,
        "mapping": record.mapping,
        "plan": record.plan,
        "record": digest,
        "previous": record.previous,
        "terminology": record.terminology,
        "packages": record.packages,
        "leftOut": record.left_out,
    }
    return {
        "eventType": "COMPLETE",
        "eventTime": record.at,
        "producer": _PRODUCER,
        "schemaURL": f"{_SPECIFICATION}/2-0-2/OpenLineage.json#/$defs/RunEvent",
        "run": {
            "runId": str(_identifier(digest)),
            "facets": {
                "processing_engine": _facet("1-1-1", "ProcessingEngine", "Run", name=engine, version=version or "0"),
                "wardround_lineage": {"_producer": _PRODUCER, "_schemaURL": "urn:wardround:lineage:1", **own},
            },
        },
        "job": {"namespace": f"wardround:{record.site}", "name": f"study {record.study}", "facets": job},
        "inputs": [_input(record, source) for source in record.sources],
        "outputs": [_output(record)],
    }


def _input(record: LineageRecord, source: SourceLineage) -> dict[str, Any]:
    snapshot = canonical.digest(canonical.encode(source.snapshot))
    return {
        "namespace": f"wardround:{record.site}",
        "name": source.name,
        "facets": {"version": _facet("1-0-1", "DatasetVersion", "Dataset", datasetVersion=snapshot)},
        "inputFacets": {
            "dataQualityMetrics": _facet(
                "1-0-3", "DataQualityMetricsInput", "Dataset", rowCount=source.read, columnMetrics={}
            )
        },
    }


def _output(record: LineageRecord) -> dict[str, Any]:
    fields = [{"name": feature.name, "type": "float32"} for feature in record.features]
    return {
        "namespace": f"wardround:{record.site}",
        "name": f"tensor {record.tensor}",
        "facets": {
            "schema": _facet("1-2-0", "Schema", "Dataset", fields=fields),
            "version": _facet("1-0-1", "DatasetVersion", "Dataset", datasetVersion=record.tensor),
        },
        "outputFacets": {
            "outputStatistics": _facet("1-0-2", "OutputStatisticsOutput", "Dataset", rowCount=record.records)
        },
    }


def _facet(release: str, kind: str, of: str, /, **fields: object) -> dict[str, Any]:
    name = f"{kind}{of}Facet"
    return {
        "_producer": _PRODUCER,
        "_schemaURL": f"{_SPECIFICATION}/facets/{release}/{name}.json#/$defs/{name}",
        **fields,
    }


def _identifier(digest: str) -> uuid.UUID:
    number = int(digest[:32], 16) & ~(0xF << 76) & ~(0x3 << 62)
    return uuid.UUID(int=number | 0x8 << 76 | 0x2 << 62)
