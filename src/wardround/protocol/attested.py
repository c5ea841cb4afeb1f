"""What a plan demands of machines: which builds its hub and its nodes must prove to run, in which direction keys go.

    node ──ProofRequest(study, nonce)──▶ hub                     the node's nonce
         ◀──Proof: evidence, role "hub", the hub's TLS key──     refused: the node sends nothing for this study
    node ──ask──▶ hub ──SiteChallenge(nonce)──▶ node             the hub's nonce
         ──Proof: evidence, role "node", the site's key──▶ hub   missing or ended: the hub takes no contribution

The reference values stand in the plan itself, so that whoever approves the plan has approved exactly these builds, and
nothing that is fetched later can widen them. The evidence binds a key, a nonce, a role and the study
(`wardround.attestation.binding`): an answer for one study, direction, session or moment is worth nothing in another.

References:
    RFC 9334, Remote ATtestation procedureS (RATS) Architecture, sections 5.2 and 10.
"""

from typing import Literal

import msgspec

from wardround.attestation import binding, reference
from wardround.attestation.evidence import Evidence
from wardround.attestation.nvidia_device import DeviceEvidence
from wardround.attestation.reference import ReferenceValues
from wardround.errors import CodecError
from wardround.ids import StudyId

__all__ = [
    "NONCE_BYTES",
    "Enclaves",
    "KeyName",
    "Proof",
    "ProofRequest",
    "Role",
    "SiteChallenge",
    "check",
    "report_data",
    "words",
]

NONCE_BYTES = 32
KeyName = Literal["model-key", "data-key"]
"""A run's keys that its enclaves may ask for: of the model that it trains, of the records that it reads."""
Role = Literal["hub", "node"]
_SHORTEST, _LONGEST = 30.0, 3600.0
_KEY_WORDS = {"model-key": "the key of the model", "data-key": "the key of the records"}


class Enclaves(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A plan's demands on machines.

    Attributes:
        hub: The builds that the hub may be; None: nodes ask it for no evidence.
        nodes: The builds that nodes may be; None: the hub asks them for no evidence.
        releases: The run's keys that are given to attested nodes, until the run ends; sorted.
        lifetime_seconds: So long an attestation counts; then it is made anew.
    """

    hub: ReferenceValues | None = None
    nodes: ReferenceValues | None = None
    releases: tuple[KeyName, ...] = ()
    lifetime_seconds: float = 600.0


class ProofRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A node asks its hub to prove what it is; `nonce` is 32 bytes, drawn for this question."""

    study: StudyId
    nonce: bytes


class SiteChallenge(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a node must answer; `expires` is in seconds since 1970-01-01 UTC."""

    study: StudyId
    nonce: bytes
    expires: float


class Proof(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A machine's answer: its processor's evidence, and its GPUs'; unverified until it is appraised."""

    study: StudyId
    nonce: bytes
    evidence: Evidence
    devices: tuple[DeviceEvidence, ...] = ()


def check(enclaves: Enclaves) -> None:
    """Refuse demands that demand nothing, or that nobody can fulfil.

    Raises:
        CodecError: Says which field.
    """
    if enclaves.hub is None and enclaves.nodes is None:
        raise CodecError("enclaves: name the builds of the hub or of the nodes; leave the section out otherwise")
    for name, values in (("hub", enclaves.hub), ("nodes", enclaves.nodes)):
        if values is not None:
            reference.check(values)
            if values.snp is None and values.tdx is None and values.sgx is None:
                raise CodecError(f"enclaves.{name}: a GPU alone proves no machine; name a processor too")
    if enclaves.releases and enclaves.nodes is None:
        raise CodecError("enclaves.releases: keys are released to attested nodes only, so name their builds in nodes")
    if tuple(sorted(set(enclaves.releases))) != enclaves.releases:
        raise CodecError("enclaves.releases: names of keys must be sorted, each once")
    # Written so that a number which is not one refuses.
    if not _SHORTEST <= enclaves.lifetime_seconds <= _LONGEST:
        raise CodecError(f"enclaves.lifetime_seconds must lie between {_SHORTEST:g} and {_LONGEST:g}")


def words(enclaves: Enclaves | None) -> list[str]:
    """What an approver reads, a sentence or list entry each."""
    if enclaves is None:
        return ["No machine proves what it runs: hub and nodes are trusted as their operators set them up."]
    said = []
    for values, who, consequence in (
        (enclaves.hub, "The hub", "a node that gets no such proof sends nothing"),
        (enclaves.nodes, "Every node", "the hub takes nothing from a node without it"),
    ):
        if values is None:
            said.append(f"{who} proves nothing about what it runs.")
        else:
            said.append(f"{who} must prove by its hardware that it runs one of these builds; {consequence}:")
            said += [f"  {line}" for line in reference.words(values)]
    for name in enclaves.releases:
        said.append(
            f"{_KEY_WORDS[name].capitalize()} is released to attested nodes while the run is open, then destroyed."
        )
    said.append(f"A proof counts for {enclaves.lifetime_seconds:g} seconds.")
    return said


def report_data(role: Role, study: StudyId, nonce: bytes, spki: bytes) -> bytes:
    """The 64 bytes that evidence of a proof binds.

    Args:
        role: Who proves.
        study: What for.
        nonce: The verifier's, 32 bytes.
        spki: The prover's key, SubjectPublicKeyInfo in DER: a hub's TLS key as the node saw it in the session, a site's
            identity key as it is enrolled.

    Raises:
        CodecError: The nonce has another length, or there is no key.
    """
    if len(nonce) != NONCE_BYTES:
        raise CodecError(f"a nonce has {NONCE_BYTES} bytes, this has {len(nonce)}")
    try:
        return binding.report_data(spki=spki, nonce=nonce, role=role, context=study.encode())
    except ValueError as error:
        raise CodecError(str(error)) from None
