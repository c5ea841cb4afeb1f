"""The OpenAPI document of the hub, made from the messages themselves."""

from typing import Any

import msgspec

from wardround.hub.broker_routes import StudyQuestion, Until
from wardround.protocol.attested import Proof, ProofRequest, SiteChallenge
from wardround.protocol.log_messages import LogAnswer, LogLetter, LogMember
from wardround.protocol.messages import (
    WIRE_VERSION,
    Assignment,
    Audit,
    CohortAnswer,
    Contribution,
    Decision,
    Enrolled,
    Enrolment,
    Identity,
    PairAnswer,
    Problem,
    Proposal,
    Receipt,
    RunStatus,
    StudyStatus,
    TaskRequest,
)
from wardround.protocol.plan import SignedPlan
from wardround.secagg.opening import Evidence
from wardround.secagg.roster import RosterMember, SignedRoster

__all__ = ["OPERATIONS", "document"]

OPERATIONS: tuple[tuple[str, str, str, Any, Any], ...] = (
    ("post", "/v1/enrolments", "Use an invite: have a certificate request signed.", Enrolment, Enrolled),
    ("post", "/v1/tasks", "Wait for a task (held; 204 when there was none in time).", TaskRequest, Assignment),
    ("post", "/v1/contributions", "Answer a task.", Contribution, Receipt),
    ("post", "/v1/cohorts", "Answer a step of a secure aggregation.", CohortAnswer, Receipt),
    ("post", "/v1/pairs", "Offer and accept keys between sites.", PairAnswer, Receipt),
    ("get", "/v1/cards", "Every site's public keys.", None, list[RosterMember]),
    ("post", "/v1/cards", "Hand in this site's public keys.", RosterMember, None),
    ("post", "/v1/rosters", "Publish a roster with its officers' signatures.", SignedRoster, None),
    ("get", "/v1/rosters/{digest}", "A signed roster.", None, SignedRoster),
    ("get", "/v1/runs/{run}/cohorts/{number}/{cohort}", "A cohort's signed transcript.", None, Evidence),
    ("get", "/v1/studies", "Studies that name the caller.", None, list[StudyStatus]),
    ("post", "/v1/studies", "Propose a study by its signed plan.", Proposal, StudyStatus),
    ("get", "/v1/studies/{study}/plan", "A study's signed plan.", None, SignedPlan),
    ("post", "/v1/studies/{study}/decisions", "Approve, refuse, or withdraw an approval.", Decision, StudyStatus),
    ("post", "/v1/studies/{study}/audits", "Say what this site's audit came to.", Audit, StudyStatus),
    ("post", "/v1/studies/{study}/actions", "Start, release or withdraw a study.", None, StudyStatus),
    ("get", "/v1/runs/{run}", "A run's state and events (held with ?wait=).", None, RunStatus),
    ("get", "/v1/identities/{name}", "An enrolled identity's certificate.", None, Identity),
    ("get", "/v1/blobs/{scope}/{digest}", "A blob's bytes; Range: bytes=n- resumes.", None, None),
    ("put", "/v1/blobs/{scope}/{digest}", "Upload a blob; Content-Range resumes.", None, None),
    ("get", "/v1/log/checkpoint", "The audit log's signed head; ?witnessed=1: the last with witnesses.", None, None),
    ("get", "/v1/log/tile/{path}", "Hashes of the audit log (C2SP tlog-tiles).", None, None),
    ("get", "/v1/log/entries/{path}", "Entries of the audit log, in bundles.", None, None),
    ("get", "/v1/log/members", "Everybody's log and witness keys.", None, list[LogMember]),
    ("post", "/v1/log/members", "Hand in this site's log and witness keys.", LogMember, None),
    ("get", "/v1/log/requests", "What this site is asked to sign as a witness, by keeper.", None, None),
    ("post", "/v1/log/requests", "Ask a site to sign as a witness.", LogLetter, None),
    ("post", "/v1/log/cosignatures", "Answer a keeper as its witness.", LogAnswer, None),
    ("get", "/v1/log/answers", "The answers of witnesses to this site.", None, None),
    ("post", "/v1/attestations/hub", "Ask the hub to prove what it runs, where it can.", ProofRequest, Proof),
    ("post", "/v1/attestations/challenge", "Ask for a nonce to prove a node by.", StudyQuestion, SiteChallenge),
    ("post", "/v1/attestations", "Hand in a node's proof of what it runs.", Proof, Until),
    ("post", "/kbs/v0/auth", "Begin an attestation for a run's keys: Trustee's Request, in JSON.", None, None),
    ("post", "/kbs/v0/attest", "Answer its challenge: Trustee's Attestation, in JSON.", None, None),
    ("get", "/kbs/v0/resource/{repository}/{type}/{tag}", "A run's key as JWE, for who attested.", None, None),
    ("get", "/v1/authority", "The hub's CA certificate, PEM.", None, None),
    ("get", "/healthz", "Whether the process answers, and its time.", None, None),
    ("get", "/readyz", "Whether the database answers.", None, None),
    ("get", "/metrics", "Prometheus metrics.", None, None),
)


def document() -> dict[str, Any]:
    """OpenAPI 3.1, with JSON Schemas of every message; bodies are the same structures in MessagePack."""
    types = [kind for operation in OPERATIONS for kind in operation[3:] if kind is not None]
    schemas, components = msgspec.json.schema_components(
        [*types, Problem],
        schema_hook=lambda _: {"description": "any value"},
        ref_template="#/components/schemas/{name}",
    )
    by_type = dict(zip([str(kind) for kind in [*types, Problem]], schemas, strict=True))
    paths: dict[str, Any] = {}
    for method, path, summary, asked, answered in OPERATIONS:
        operation: dict[str, Any] = {"summary": summary, "responses": _responses(answered, by_type)}
        if asked is not None:
            operation["requestBody"] = {"required": True, "content": _content(by_type[str(asked)])}
        paths.setdefault(path, {})[method] = operation
    return {
        "openapi": "3.1.0",
        "info": {"title": "Wardround hub", "version": str(WIRE_VERSION), "license": {"name": "Apache-2.0"}},
        "paths": paths,
        "components": {"schemas": components},
    }


def _responses(answered: type | None, by_type: dict[str, Any]) -> dict[str, Any]:
    success: dict[str, Any] = {"description": "Done."}
    if answered is not None:
        success["content"] = _content(by_type[str(answered)])
    problem = {
        "description": "RFC 9457 problem.",
        "content": {"application/problem+json": {"schema": by_type[str(Problem)]}},
    }
    return {"200": success, "default": problem}


def _content(schema: object) -> dict[str, Any]:
    return {"application/msgpack": {"schema": schema}}
