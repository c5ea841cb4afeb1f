"""Hub and nodes prove themselves to one another, each over a fresh nonce, its own key, its role and the study."""

import datetime as dt

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from tests.unit.enclave.confidential_machine import (
    NOW,
    OTHER,
    Clock,
    Entropy,
    accepted,
    appraise,
    bundle,
    machine,
    pinned,
)

from wardround.attestation import amd_chain
from wardround.crypto import signing
from wardround.enclave import hub_check
from wardround.enclave.hub_check import HubCheck
from wardround.enclave.site_proof import SiteProof
from wardround.errors import AttestationError, CodecError, ConfigError
from wardround.ids import RunId, SiteId, StudyId
from wardround.protocol import attested
from wardround.protocol.attested import Enclaves, ProofRequest
from wardround.services.attestations import Attestations

ARRAN, BUTE = SiteId("arran"), SiteId("bute")
STUDY, OTHER_STUDY = StudyId("ab" * 32), StudyId("cd" * 32)
RUN = RunId(f"{STUDY}.1")
BOTH = Enclaves(hub=accepted(), nodes=accepted())


def certificate(key):
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "hub")])
    start = dt.datetime.fromtimestamp(NOW, dt.UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), 5, start, start + dt.timedelta(days=1))
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)


def spki(key):
    return key.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


HUB_KEY, SITE_KEYS = ec.generate_private_key(ec.SECP256R1()), {ARRAN: signing.generate(), BUTE: signing.generate()}
HUB_CERTIFICATE = certificate(HUB_KEY)


@pytest.fixture(autouse=True)
def _pinned(monkeypatch):
    monkeypatch.setattr(amd_chain, "ROOT_KEYS", pinned())


class World:
    """A hub, a node `arran`, and what each demands of the other."""

    def __init__(self, folder, *, hub_build=None, site_build=None, enclaves=BOTH):
        self.clock, self.told, self.plans = Clock(), [], {STUDY: enclaves, OTHER_STUDY: enclaves}
        hub_machine = machine(folder / "hub", *([hub_build] if hub_build else []))
        self.attestations = Attestations(
            self.clock, Entropy(), demands=self.plans.get, appraise=appraise,
            key_of=lambda site: spki(SITE_KEYS[site]), record=self.told.append, quote=hub_machine.evidence,
            spki=spki(HUB_KEY))  # fmt: skip
        self.certificate, self.asked = HUB_CERTIFICATE, []
        self.check = HubCheck(self.clock, Entropy(), ask=self.ask, collateral=bundle)
        self.quote = machine(folder / "site", *([site_build] if site_build else [])).evidence
        self.proof = self.prover(ARRAN)

    def ask(self, request):
        self.asked.append(request)
        return self.attestations.prove(request), self.certificate

    def prover(self, site, quote=None, key=None):
        return SiteProof(
            self.clock, challenge=lambda study: self.attestations.challenge(site, study),
            submit=lambda proof: self.attestations.accept(site, proof), quote=quote or self.quote,
            spki=spki(key or SITE_KEYS[site]))  # fmt: skip


def test_a_hub_of_the_plans_build_is_believed_for_a_while(tmp_path):
    world = World(tmp_path)
    (found,) = world.check.require(STUDY, BOTH)
    assert found.kind == "snp"
    world.check.require(STUDY, BOTH)
    assert len(world.asked) == 1
    world.check.check_session(HUB_CERTIFICATE, STUDY)
    world.clock.instant += 601
    with pytest.raises(AttestationError, match="has ended"):
        world.check.check_session(HUB_CERTIFICATE, STUDY)
    world.check.require(STUDY, BOTH)
    assert len(world.asked) == 2
    assert world.asked[0].nonce != world.asked[1].nonce


def test_a_hub_of_another_build_is_refused_by_the_node_with_the_clause(tmp_path):
    world = World(tmp_path, hub_build=OTHER)
    with pytest.raises(AttestationError, match="MEASUREMENT"):
        world.check.require(STUDY, BOTH)
    with pytest.raises(AttestationError, match="has not proved itself"):
        world.check.check_session(HUB_CERTIFICATE, STUDY)


def test_a_plan_that_changes_its_mind_is_asked_about_anew(tmp_path):
    world = World(tmp_path)
    world.check.require(STUDY, BOTH)
    stricter = msgspec.structs.replace(BOTH, hub=accepted(OTHER))
    with pytest.raises(AttestationError, match="MEASUREMENT"):
        world.check.require(STUDY, stricter)


def test_a_plan_without_demands_asks_nothing(tmp_path):
    world = World(tmp_path)
    assert world.check.require(STUDY, None) == ()
    assert world.check.require(STUDY, Enclaves(nodes=accepted())) == ()
    world.proof.require(STUDY, None)
    world.proof.require(STUDY, Enclaves(hub=accepted()))
    assert world.asked == world.told == []


def test_a_machine_in_the_middle_with_its_own_key_is_refused(tmp_path):
    world = World(tmp_path)
    world.certificate = certificate(ec.generate_private_key(ec.SECP256R1()))
    with pytest.raises(AttestationError, match="REPORT_DATA"):
        world.check.require(STUDY, BOTH)


def test_a_session_to_another_machine_than_the_one_that_proved_itself_is_refused(tmp_path):
    world = World(tmp_path)
    world.check.require(STUDY, BOTH)
    with pytest.raises(AttestationError, match="another machine"):
        world.check.check_session(certificate(ec.generate_private_key(ec.SECP256R1())), STUDY)
    with pytest.raises(AttestationError, match="has not proved itself"):
        world.check.check_session(HUB_CERTIFICATE, OTHER_STUDY)


def test_every_new_connection_must_go_to_the_machine_that_proved_itself(tmp_path):
    world, other = World(tmp_path), certificate(ec.generate_private_key(ec.SECP256R1()))
    world.check.check_connection(other)  # Nothing is known yet, and nothing is demanded.
    world.check.require(STUDY, BOTH)
    world.check.check_connection(HUB_CERTIFICATE)
    with pytest.raises(AttestationError, match="another machine"):
        world.check.check_connection(other)
    world.clock.instant += 601
    world.check.check_connection(other)
    world.certificate = other
    with pytest.raises(AttestationError, match="REPORT_DATA"):
        world.check.require(STUDY, BOTH)


def test_a_proof_for_another_question_is_refused(tmp_path):
    world = World(tmp_path)
    answers = []

    def replay(request):
        answers.append(world.attestations.prove(request))
        return answers[0], HUB_CERTIFICATE

    def for_the_wrong_study(request):
        made = world.attestations.prove(ProofRequest(OTHER_STUDY, request.nonce))
        return msgspec.structs.replace(made, study=request.study), HUB_CERTIFICATE

    def as_if_fresh(request):
        return msgspec.structs.replace(answers[0], nonce=request.nonce), HUB_CERTIFICATE

    HubCheck(world.clock, Entropy(), ask=replay, collateral=bundle).require(STUDY, BOTH)
    check = HubCheck(world.clock, Entropy(), ask=replay, collateral=bundle)
    with pytest.raises(AttestationError, match="another question"):
        check.require(STUDY, BOTH)
    for ask in (for_the_wrong_study, as_if_fresh):
        with pytest.raises(AttestationError, match="REPORT_DATA"):
            HubCheck(world.clock, Entropy(), ask=ask, collateral=bundle).require(STUDY, BOTH)


def test_a_sites_proof_does_not_pass_for_the_hubs(tmp_path):
    world = World(tmp_path)

    def as_site(request):
        bound = attested.report_data("node", request.study, request.nonce, spki(HUB_KEY))
        evidence = world.quote(bound)
        return attested.Proof(study=request.study, nonce=request.nonce, evidence=evidence), HUB_CERTIFICATE

    with pytest.raises(AttestationError, match="REPORT_DATA"):
        HubCheck(world.clock, Entropy(), ask=as_site, collateral=bundle).require(STUDY, BOTH)


def test_a_hub_on_an_ordinary_machine_says_so(tmp_path):
    world = World(tmp_path)
    world.attestations._quote = None
    with pytest.raises(ConfigError, match="cannot prove what it is"):
        world.check.require(STUDY, BOTH)


def test_a_hub_without_a_readable_certificate_is_refused():
    for data in (b"", b"not a certificate", HUB_CERTIFICATE[:100]):
        with pytest.raises(AttestationError, match="not readable"):
            hub_check.key_of(data)


def test_a_node_without_evidence_is_refused_by_the_hub_and_with_it_is_taken(tmp_path):
    world = World(tmp_path)
    with pytest.raises(AttestationError, match="arran proves which build it runs, and it has not"):
        world.attestations.require(ARRAN, RUN)
    world.proof.require(STUDY, BOTH)
    world.attestations.require(ARRAN, RUN)
    with pytest.raises(AttestationError, match="bute"):
        world.attestations.require(BUTE, RUN)
    with pytest.raises(AttestationError, match="arran"):
        world.attestations.require(ARRAN, RunId(f"{OTHER_STUDY}.1"))
    assert [(one.what, one.site, one.subject) for one in world.told] == [("attested", ARRAN, STUDY)]
    assert world.attestations.is_attested(ARRAN)
    assert not world.attestations.is_attested(BUTE)
    world.clock.instant += 601
    assert not world.attestations.is_attested(ARRAN)


def test_a_plan_without_demands_takes_every_site(tmp_path):
    world = World(tmp_path)
    world.plans[STUDY] = None
    world.attestations.require(ARRAN, RUN)
    world.plans[STUDY] = Enclaves(hub=accepted())
    world.attestations.require(ARRAN, RUN)
    with pytest.raises(CodecError, match="demands no proof"):
        world.attestations.challenge(ARRAN, STUDY)


def test_a_proof_ends_and_is_renewed_before_it_does(tmp_path):
    world = World(tmp_path)
    world.proof.require(STUDY, BOTH)
    world.clock.instant += 400
    world.proof.require(STUDY, BOTH)
    assert len(world.told) == 1
    world.clock.instant += 100
    world.proof.require(STUDY, BOTH)
    assert len(world.told) == 2
    assert world.attestations.until(ARRAN, STUDY) == NOW + 500 + 600
    world.clock.instant += 600
    with pytest.raises(AttestationError, match="its proof has ended"):
        world.attestations.require(ARRAN, RUN)


def test_a_node_that_the_hub_forgot_proves_itself_again(tmp_path):
    world = World(tmp_path)
    world.proof.require(STUDY, BOTH)
    world.attestations._standing.clear()
    world.proof.forget(STUDY)
    world.proof.require(STUDY, BOTH)
    world.attestations.require(ARRAN, RUN)


def test_a_node_of_another_build_is_refused_with_the_clause(tmp_path):
    world = World(tmp_path, site_build=OTHER)
    with pytest.raises(AttestationError, match="MEASUREMENT"):
        world.proof.require(STUDY, BOTH)
    assert [one.what for one in world.told] == ["refused"]
    assert "MEASUREMENT" in world.told[0].reason
    with pytest.raises(AttestationError):
        world.attestations.require(ARRAN, RUN)


def test_a_nonce_is_for_one_proof_of_one_site_and_ends(tmp_path):
    world = World(tmp_path)

    def proof(site, study=STUDY, key=None):
        asked = world.attestations.challenge(site, study)
        bound = attested.report_data("node", study, asked.nonce, spki(key or SITE_KEYS[site]))
        return attested.Proof(study=study, nonce=asked.nonce, evidence=world.quote(bound))

    good = proof(ARRAN)
    world.attestations.accept(ARRAN, good)
    with pytest.raises(AttestationError, match="no such challenge"):
        world.attestations.accept(ARRAN, good)
    stale = proof(ARRAN)
    world.attestations.challenge(ARRAN, STUDY)
    with pytest.raises(AttestationError, match="another challenge"):
        world.attestations.accept(ARRAN, stale)
    with pytest.raises(AttestationError, match="no such challenge"):
        world.attestations.accept(BUTE, proof(ARRAN))
    late = proof(ARRAN)
    world.clock.instant += 121
    with pytest.raises(AttestationError, match="no such challenge"):
        world.attestations.accept(ARRAN, late)
    with pytest.raises(AttestationError, match="REPORT_DATA"):
        world.attestations.accept(ARRAN, proof(ARRAN, key=SITE_KEYS[BUTE]))


def test_a_node_in_no_confidential_machine_says_so(tmp_path):
    world = World(tmp_path)
    proof = SiteProof(world.clock, challenge=lambda _: None, submit=lambda _: 0.0, quote=None, spki=b"x")
    with pytest.raises(ConfigError, match="set up in none"):
        proof.require(STUDY, BOTH)


def test_a_site_cannot_make_the_hub_remember_without_end(tmp_path):
    world = World(tmp_path)
    for place in range(256):
        study = StudyId(f"{place:064x}")
        world.plans[study] = BOTH
        world.attestations.challenge(ARRAN, study)
    with pytest.raises(CodecError, match="too many studies"):
        world.attestations.challenge(ARRAN, STUDY)
    world.clock.instant += 121
    world.attestations.challenge(ARRAN, STUDY)


@pytest.mark.parametrize("size", [0, 16, 31, 33, 64])
def test_a_question_with_another_nonce_is_refused(tmp_path, size):
    with pytest.raises(CodecError, match="32 bytes"):
        World(tmp_path).attestations.prove(ProofRequest(STUDY, bytes(size)))
