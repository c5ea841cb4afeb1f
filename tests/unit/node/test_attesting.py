"""A node sends nothing before hub and machine have proved what the approved plan demands, and while that holds."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from tests.unit.enclave.confidential_machine import (
    OTHER,
    Clock,
    Entropy,
    accepted,
    appraise,
    bundle,
    machine,
    pinned,
)
from tests.unit.services.test_attestations import certificate, spki

from wardround.attestation import amd_chain
from wardround.config import NodeConfig
from wardround.crypto import signing
from wardround.errors import AttestationError, ConfigError, LocalProtocolError, PolicyError
from wardround.ids import RunId, SiteId, StudyId
from wardround.node import attesting
from wardround.node.attesting import Attesting
from wardround.protocol.attested import Enclaves
from wardround.services.attestations import Attestations
from wardround.storage.memory import MemoryVault

ARRAN, STUDY, OTHER_STUDY = SiteId("arran"), StudyId("ab" * 32), StudyId("cd" * 32)
RUN, OTHER_RUN = RunId(f"{STUDY}.1"), RunId(f"{OTHER_STUDY}.1")
BOTH = Enclaves(hub=accepted(), nodes=accepted())
FIRST, SECOND = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))


@pytest.fixture(autouse=True)
def _pinned(monkeypatch):
    monkeypatch.setattr(amd_chain, "ROOT_KEYS", pinned())


class World:
    """A hub whose TLS key is `tls`, and a node whose present key is `key`; fills `attesting.Way`."""

    def __init__(self, folder, *, hub_build=None, quote=True, enclaves=BOTH):
        self.clock, self.tls, self.site_key, self.log = Clock(), FIRST, signing.generate(), []
        self.plans, self.told = {STUDY: enclaves, OTHER_STUDY: enclaves}, []
        self.hub_quote = machine(folder / "hub", *([hub_build] if hub_build else [])).evidence
        self.start()
        self.node = Attesting(
            self.clock, Entropy(), way=self, authorize=self.authorize, collateral=bundle,
            quote=machine(folder / "site").evidence if quote else None)  # fmt: skip

    def start(self):
        """The hub, without anything that it knew."""
        self.hub = Attestations(
            self.clock, Entropy(), demands=self.plans.get, appraise=appraise, key_of=lambda _: self.key(),
            record=self.told.append, quote=self.hub_quote, spki=spki(self.tls))  # fmt: skip

    def prove(self, asked):
        self.log.append("hub proves")
        return self.hub.prove(asked), certificate(self.tls)

    def challenge(self, study):
        return self.hub.challenge(ARRAN, study)

    def submit(self, proof):
        self.log.append("site proves")
        return self.hub.accept(ARRAN, proof)

    def key(self):
        return spki(self.site_key)

    def authorize(self, assignment, plan, *, attested):
        self.log.append(f"policies attested={attested}")
        if assignment.study == "ef" * 32:
            raise PolicyError("no")

    def admit(self, study=STUDY, enclaves=BOTH):
        self.node.admit(SimpleNamespace(study=study), SimpleNamespace(enclaves=enclaves))


def test_policies_are_asked_first_then_the_hub_then_the_machine_proves_itself(tmp_path):
    world = World(tmp_path)
    world.admit()
    assert world.log == ["policies attested=True", "hub proves", "site proves"]
    world.hub.require(ARRAN, RUN)
    world.admit()
    assert world.log[3:] == ["policies attested=True"]


def test_what_policies_forbid_asks_nobody_for_a_proof(tmp_path):
    world = World(tmp_path)
    with pytest.raises(PolicyError):
        world.admit(StudyId("ef" * 32))
    assert world.log == ["policies attested=True"]


def test_a_plan_without_demands_asks_nobody_and_tells_policies_so(tmp_path):
    world = World(tmp_path)
    world.admit(enclaves=None)
    world.node.before(RUN, declines=False)
    world.node.check(certificate(SECOND), RUN)
    world.admit(enclaves=Enclaves(nodes=accepted()))
    assert world.log == ["policies attested=False"] * 2 + ["site proves"]


def test_a_hub_of_another_build_is_sent_nothing_not_even_a_refusal(tmp_path):
    world = World(tmp_path, hub_build=OTHER)
    for ask in (
        world.admit,
        lambda: world.node.before(RUN, declines=False),
        lambda: world.node.before(RUN, declines=True),
    ):
        with pytest.raises(AttestationError, match="MEASUREMENT"):
            ask()
    assert "site proves" not in world.log


def test_a_machine_that_proves_nothing_may_say_that_it_takes_no_part_and_nothing_else(tmp_path):
    world = World(tmp_path, quote=False)
    for ask in (world.admit, lambda: world.node.before(RUN, declines=False)):
        with pytest.raises(ConfigError, match="set up in none"):
            ask()
    world.node.before(RUN, declines=True)


def test_nothing_is_sent_for_a_study_whose_plan_nobody_looked_at(tmp_path):
    world = World(tmp_path)
    with pytest.raises(LocalProtocolError, match="not looked at"):
        world.node.before(RUN, declines=False)
    world.node.before(RUN, declines=True)
    assert world.log == []


def test_proofs_that_ended_while_the_machine_trained_are_made_anew_before_anything_is_sent(tmp_path):
    world = World(tmp_path)
    world.admit()
    world.clock.instant += 7200
    with pytest.raises(AttestationError, match="has ended"):
        world.hub.require(ARRAN, RUN)
    with pytest.raises(AttestationError, match="has ended"):
        world.node.check(certificate(FIRST), RUN)
    world.node.before(RUN, declines=False)
    world.hub.require(ARRAN, RUN)
    world.node.check(certificate(FIRST), RUN)


def test_a_session_to_another_machine_is_not_used_for_the_run_or_for_anything(tmp_path):
    world = World(tmp_path)
    world.node.check(certificate(SECOND), None)  # Nothing is demanded yet.
    world.admit()
    for run in (RUN, None):
        world.node.check(certificate(FIRST), run)
        with pytest.raises(AttestationError, match="another machine"):
            world.node.check(certificate(SECOND), run)


def test_a_session_counts_for_the_study_that_the_hub_proved_itself_for(tmp_path):
    world = World(tmp_path)
    world.admit()
    world.node._demands[OTHER_STUDY] = BOTH
    with pytest.raises(AttestationError, match="has not proved itself"):
        world.node.check(certificate(FIRST), OTHER_RUN)


def test_a_hub_that_renewed_its_key_is_asked_for_a_proof_of_the_new_one(tmp_path):
    world = World(tmp_path)
    world.admit()
    world.admit(OTHER_STUDY)
    world.tls = SECOND
    world.start()
    with pytest.raises(AttestationError, match="another machine"):
        world.node.check(certificate(SECOND), RUN)
    world.node.refused(RUN)
    # Until the new proof has come, the old key is the only one that counts.
    with pytest.raises(AttestationError, match="another machine"):
        world.node.check(certificate(SECOND), None)
    world.node.before(RUN, declines=False)
    world.node.check(certificate(SECOND), RUN)
    world.node.check(certificate(SECOND), None)
    with pytest.raises(AttestationError, match="another machine"):
        world.node.check(certificate(FIRST), RUN)
    # The other study's proof was about the old key.
    with pytest.raises(AttestationError, match="has not proved itself"):
        world.node.check(certificate(SECOND), OTHER_RUN)
    world.node.before(OTHER_RUN, declines=False)
    world.node.check(certificate(SECOND), OTHER_RUN)


def test_a_machine_in_the_middle_does_not_get_in_by_making_the_node_doubt(tmp_path):
    world = World(tmp_path)
    world.admit()
    world.tls = SECOND  # The sessions go elsewhere; the hub, and what it proves, is the same.
    world.node.refused(RUN)
    with pytest.raises(AttestationError, match="REPORT_DATA"):
        world.node.before(RUN, declines=False)
    world.node.check(certificate(FIRST), RUN)
    with pytest.raises(AttestationError, match="another machine"):
        world.node.check(certificate(SECOND), RUN)


def test_a_hub_that_forgot_and_a_key_that_was_renewed_have_the_machine_prove_itself_anew(tmp_path):
    world = World(tmp_path)
    world.admit()
    world.start()
    world.node.before(RUN, declines=False)
    with pytest.raises(AttestationError, match="has not"):
        world.hub.require(ARRAN, RUN)
    world.node.refused(RUN)
    world.node.before(RUN, declines=False)
    world.hub.require(ARRAN, RUN)
    world.site_key = signing.generate()
    world.node.before(RUN, declines=False)
    assert world.log.count("site proves") == 3
    assert [one.what for one in world.told] == ["attested"] * 3


class Hub:
    """As much of `HttpHub` as is wired."""

    def __init__(self):
        self.prover, self.session = None, SimpleNamespace(way=SimpleNamespace(key=signing.generate()))
        self.prove = self.challenge = self.submit = None


def opened(folder, hub, **more):
    config = NodeConfig(name=ARRAN, hub="https://hub.example:8443", **more)
    return attesting.open_attesting(folder, config, hub=hub, vault=MemoryVault(), authorize=lambda *_, **__: None)


def test_a_node_is_asked_before_anything_is_sent_and_says_what_it_is_not_set_up_for(tmp_path):
    hub = Hub()
    made = opened(tmp_path, hub)
    assert hub.prover is made
    assert attesting.way_of(hub).key() == spki(hub.session.way.key)
    assert made._quote is None
    with pytest.raises(ConfigError, match="no collateral to check it by"):
        made._collateral()
    with pytest.raises(ConfigError, match="collateral_quorum"):
        opened(tmp_path, hub, collateral="collateral.json")


def test_a_confidential_node_asks_its_own_kernel(tmp_path):
    made = opened(tmp_path, Hub(), confidential=True)
    assert made._quote.__self__._reports == Path("/sys/kernel/config/tsm/report")
