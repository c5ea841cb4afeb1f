"""A hub's attestation as it is wired: whose requests get through, whose proofs count, when keys are destroyed."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from types import SimpleNamespace

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from tests.unit.enclave.confidential_machine import OTHER, Clock, Entropy, accepted, bundle, machine, over, pinned
from tests.unit.services.test_attestations import certificate, spki

from wardround.attestation import amd_chain
from wardround.authorization import shipped
from wardround.crypto import signing
from wardround.enclave.broker_client import BrokerClient
from wardround.enclave.hub_check import HubCheck
from wardround.errors import (
    AttestationError,
    CodecError,
    ForbiddenError,
    NotFoundError,
    StorageFullError,
)
from wardround.hub import attestation_routes
from wardround.hub.app import create_app
from wardround.hub.attesting import Attesting
from wardround.hub.authentication import Caller
from wardround.hub.state import Metrics
from wardround.ids import CommandId, RunId, SiteId, StudyId
from wardround.protocol import attested, messages
from wardround.protocol.attested import Enclaves, Proof, ProofRequest, SiteChallenge
from wardround.protocol.messages import CohortAnswer, Contribution, Evaluation, Receipt
from wardround.protocol.plan import BlobRef
from wardround.secagg.messages import Agreement, Unmaskable
from wardround.services.circumstances import is_strong
from wardround.services.key_release import signed_by
from wardround.storage.memory import MemoryVault

ARRAN, BUTE, CORA = SiteId("arran"), SiteId("bute"), SiteId("cora")
STUDY, PLAIN = StudyId("ab" * 32), StudyId("cd" * 32)
RUN, PLAIN_RUN = RunId(f"{STUDY}.1"), RunId(f"{PLAIN}.1")
BOTH = Enclaves(hub=accepted(), nodes=accepted(), releases=("model-key",))
FIRST, SECOND = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))


@pytest.fixture(autouse=True)
def _pinned(monkeypatch):
    monkeypatch.setattr(amd_chain, "ROOT_KEYS", pinned())


def plan(enclaves):
    return SimpleNamespace(
        enclaves=enclaves, participants=(ARRAN, BUTE), researcher="ada", purpose="learn", legal_basis="consent",
        training=SimpleNamespace(rounds=3), secure=None, privacy=None, model=None)  # fmt: skip


@dataclass
class Run:
    """As much of a run as is looked at."""

    name: str = RUN
    is_ended: bool = False
    sites: tuple = (ARRAN, BUTE)

    @property
    def terms(self):
        return SimpleNamespace(run=self.name, study=self.name[:64], sites=self.sites)


class World:
    def __init__(self, folder, *, checks=True, confidential=True, vault=None):
        self.vault, self.clock, self.told = vault if vault is not None else MemoryVault(), Clock(), []
        self.plans = {STUDY: plan(BOTH), PLAIN: plan(None)}
        self.runs = {RUN: Run(), PLAIN_RUN: Run(PLAIN_RUN)}
        self.keys, self.tls = {site: signing.generate() for site in (ARRAN, BUTE, CORA)}, FIRST
        self.site_quote = machine(folder / "site").evidence
        self.attesting = Attesting(
            clock=self.clock, entropy=Entropy(), vault=self.vault, plan_of=self.plan_of, run_of=self.run_of,
            key_of=lambda site: self.keys[site].public_key(), tls_key=lambda: spki(self.tls),
            bundle=bundle if checks else None, quote=machine(folder / "hub").evidence if confidential else None,
            issue=signed_by(signing.generate(), build="test"), record=self.told.append)  # fmt: skip
        self.caller = Caller(ARRAN, "site", b"")
        self.app = create_app(lambda _: None, attestation_routes.ADDRESSES)
        self.decisions = []
        self.app.state.hub = self.state()

    def plan_of(self, study):
        if study not in self.plans:
            raise NotFoundError("there is no such study")
        return self.plans[study]

    def run_of(self, run):
        if run not in self.runs:
            raise NotFoundError("there is no such run")
        return self.runs[run]

    def state(self, **changes):
        async def threads(call, *args):
            return await asyncio.get_running_loop().run_in_executor(pool, lambda: call(*args))

        pool = ThreadPoolExecutor(1)
        fields = {
            "attesting": self.attesting, "authorizer": shipped.hub(), "on_decision": self.decisions.append,
            "is_routine": lambda _: False, "abouts": {},
            "bell": SimpleNamespace(listen=lambda _: nullcontext()),
            "people": None, "is_strong": is_strong, "is_attested": self.attesting.is_attested, "clock": self.clock,
            "authentication": SimpleNamespace(check=lambda *_, **__: self.caller, challenge=""), "threads": threads,
            "metrics": Metrics(), "login_challenge": "", "public_url": "https://hub.example",
            "studies": SimpleNamespace(plan_of=self.plan_of),
        }  # fmt: skip
        return SimpleNamespace(**(fields | changes))

    def post(self, path, message):
        status, _, body = over(self.app)("POST", path, {}, messages.encode(message))
        if status != 200:
            raise AttestationError(f"{status} {body.decode()}")
        return body

    def prove(self, site=ARRAN, key=None, quote=None):
        self.caller = Caller(site, "site", b"")
        asked = messages.decode(self.post("/v1/attestations/challenge", _Study(STUDY)), SiteChallenge)
        bound = attested.report_data("node", STUDY, asked.nonce, spki(key or self.keys[site]))
        return self.post(
            "/v1/attestations", Proof(study=STUDY, nonce=asked.nonce, evidence=(quote or self.site_quote)(bound))
        )

    def keys_of(self, site=ARRAN, run=RUN, quote=None):
        self.caller = Caller(site, "site", b"")
        client = BrokerClient(over(self.app), tee="snp", quote=quote or self.site_quote)
        return client.keys(run, ["model-key"])["model-key"]


class _Study(msgspec.Struct):
    study: str


def contribution(**more):
    return Contribution(command=CommandId("c"), run=more.pop("run", RUN), number=1, kind="train", **more)


def refused(world, given, site=ARRAN, state=None):
    check = (
        attestation_routes.require_contribution
        if isinstance(given, Contribution)
        else attestation_routes.require_answer
    )
    try:
        check(state or world.state(), site, given)
    except AttestationError as error:
        return str(error)
    return ""


def test_a_site_proves_itself_through_the_hubs_own_routes_and_policies(tmp_path):
    world = World(tmp_path)
    assert "it has not" in refused(world, contribution(records=10))
    world.prove()
    assert refused(world, contribution(records=10)) == ""
    assert "bute" in refused(world, contribution(records=10), BUTE)
    assert world.attesting.is_attested(ARRAN)
    assert [one.what for one in world.told] == ["attested"]
    assert {(one.principal, one.action, one.allowed) for one in world.decisions} == {("Machine arran", "attest", True)}
    world.clock.instant += 601
    assert "ended" in refused(world, contribution(records=10))


class Coordinator:
    def __init__(self):
        self.taken = []

    def state(self, run):
        return Run(run)

    def contribute(self, site, given):
        self.taken.append(given)
        return Receipt(CommandId("c"), "refused")

    answer = contribute


@pytest.mark.parametrize(
    ("path", "given"),
    [
        ("/v1/contributions", Contribution(command=CommandId("c"), run=RUN, number=1, kind="train", records=10)),
        ("/v1/cohorts", CohortAnswer(run=RUN, number=1, cohort=1, answer=Agreement(b"t", b"s"))),
    ],
)
def test_the_hub_takes_no_answer_of_a_site_before_its_proof(tmp_path, path, given):
    world = World(tmp_path)
    world.app.state.hub = world.state(coordinator=Coordinator())
    status, _, body = over(world.app)("POST", path, {}, messages.encode(given))
    assert (status, msgspec.json.decode(body)["type"]) == (403, "crypto/attestation")
    world.prove()
    assert over(world.app)("POST", path, {}, messages.encode(given))[0] == 200
    assert world.app.state.hub.coordinator.taken == [given]


def test_a_proof_counts_for_the_key_that_signs_requests_now(tmp_path):
    world = World(tmp_path)
    world.prove()
    before, world.keys[ARRAN] = world.keys[ARRAN], signing.generate()
    assert "another key" in refused(world, contribution(records=10))
    with pytest.raises(AttestationError, match="REPORT_DATA"):
        world.prove(key=before)
    assert "another key" in refused(world, contribution(records=10))
    world.prove()
    assert refused(world, contribution(records=10)) == ""


def test_only_a_message_that_says_no_more_than_that_a_site_takes_no_part_needs_no_proof(tmp_path):
    world = World(tmp_path)
    assert refused(world, contribution(declined="no")) == ""
    for more in (
        {"records": 1}, {"update": BlobRef("ab" * 32, 1)}, {"update_inline": b"x"}, {"nonce": b"n"},
        {"evaluation": Evaluation(records=1, metrics={})},
    ):  # fmt: skip
        assert "it has not" in refused(world, contribution(declined="no", **more))
    leaving = CohortAnswer(run=RUN, number=1, cohort=1, answer=Unmaskable(b"t", "refused"))
    assert refused(world, leaving) == ""
    assert "it has not" in refused(world, msgspec.structs.replace(leaving, inline=b"x"))
    assert "it has not" in refused(world, msgspec.structs.replace(leaving, answer=None))


def test_a_plan_without_demands_takes_every_site_and_a_run_of_no_study_nobody(tmp_path):
    world = World(tmp_path)
    assert refused(world, contribution(run=PLAIN_RUN, records=10)) == ""
    with pytest.raises(NotFoundError):
        refused(world, contribution(run=RunId(f"{'ef' * 32}.1"), records=10))
    with pytest.raises(CodecError):
        refused(world, contribution(run=RunId("x"), records=10))


def test_a_hub_that_is_not_set_up_any_more_takes_nothing_that_it_could_not_check(tmp_path):
    world = World(tmp_path)
    state = world.state(attesting=None)
    assert "not set up to check them" in refused(world, contribution(records=10), state=state)
    assert refused(world, contribution(run=PLAIN_RUN, records=10), state=state) == ""
    world.app.state.hub = state
    status, _, _ = over(world.app)("POST", "/kbs/v0/auth", {}, b"{}")
    assert status == 404


@pytest.mark.parametrize(
    ("settings", "enclaves", "words"),
    [
        ({"checks": False}, Enclaves(nodes=accepted()), "enclaves.nodes"),
        ({"checks": False}, Enclaves(hub=accepted()), ""),
        ({"confidential": False}, Enclaves(hub=accepted()), "enclaves.hub"),
        ({"confidential": False}, Enclaves(nodes=accepted()), ""),
        ({}, BOTH, ""),
        ({"checks": False, "confidential": False}, None, ""),
    ],
)
def test_a_plan_is_refused_for_what_this_hub_cannot_do(tmp_path, settings, enclaves, words):
    world, said = World(tmp_path, **settings), ""
    try:
        world.attesting.check_plan(SimpleNamespace(enclaves=enclaves))
    except CodecError as error:
        said = str(error)
    assert said.partition(":")[0] == words


def test_a_hub_without_collateral_believes_no_node(tmp_path):
    world = World(tmp_path, checks=False)
    with pytest.raises(AttestationError, match=r"401 .*no collateral"):
        world.prove()
    assert "it has not" in refused(world, contribution(records=10))


@pytest.mark.parametrize("role", ["researcher", "operator"])
def test_only_nodes_get_to_the_desk(tmp_path, role):
    world = World(tmp_path)
    world.caller = Caller(ARRAN, role, b"")
    for address in attestation_routes.ADDRESSES:
        path = address.path.format(repository=STUDY, type="model-key", tag="1")
        status, _, body = over(world.app)(address.method, path, {"authorization": "Bearer x"}, b"")
        assert (status, msgspec.json.decode(body)["type"]) == (403, "protocol/forbidden")
    assert world.told == []


def test_every_address_has_its_action(tmp_path):
    assert {(one.method, one.path): one.action for one in attestation_routes.ADDRESSES} == {
        ("POST", "/kbs/v0/auth"): "attest",
        ("POST", "/kbs/v0/attest"): "attest",
        ("GET", "/kbs/v0/resource/{repository}/{type}/{tag}"): "fetch_key",
        ("POST", "/v1/attestations/hub"): "attest",
        ("POST", "/v1/attestations/challenge"): "attest",
        ("POST", "/v1/attestations"): "attest",
    }
    # A way to a handler that did not go by the policies is none.
    desk = World(tmp_path).attesting._desk
    with pytest.raises(ForbiddenError, match="not put to the policies"):
        desk.authenticate(SimpleNamespace(scope={}), b"")


def test_the_hub_proves_itself_by_the_tls_key_that_it_has_now(tmp_path):
    world = World(tmp_path)

    def ask(asked):
        return messages.decode(world.post("/v1/attestations/hub", asked), Proof), certificate(world.tls)

    HubCheck(world.clock, Entropy(), ask=ask, collateral=bundle).require(STUDY, BOTH)
    world.prove()
    world.tls = SECOND
    HubCheck(world.clock, Entropy(), ask=ask, collateral=bundle).require(STUDY, BOTH)
    # Sites need not prove themselves again because the hub's key is another.
    assert refused(world, contribution(records=10)) == ""
    with pytest.raises(AttestationError, match="REPORT_DATA"):
        HubCheck(
            world.clock, Entropy(), ask=lambda asked: (ask(asked)[0], certificate(FIRST)), collateral=bundle
        ).require(STUDY, BOTH)


def test_a_hub_on_an_ordinary_machine_does_not_say_what_it_is(tmp_path):
    world = World(tmp_path, confidential=False)
    status, _, _ = over(world.app)("POST", "/v1/attestations/hub", {}, messages.encode(ProofRequest(STUDY, bytes(32))))
    assert status == 500


def test_keys_of_a_run_go_to_its_sites_while_it_is_open(tmp_path):
    world = World(tmp_path)
    key = world.keys_of()
    assert world.keys_of(BUTE) == key
    with pytest.raises(ForbiddenError, match="cora is not of this run"):
        world.keys_of(CORA)
    with pytest.raises(AttestationError, match="MEASUREMENT"):
        world.keys_of(quote=machine(tmp_path / "other", OTHER).evidence)
    with pytest.raises(AttestationError, match="no keys for attested nodes"):
        world.keys_of(run=PLAIN_RUN)
    with pytest.raises(NotFoundError):
        world.keys_of(run=RunId(f"{STUDY}.2"))
    world.runs[RUN].is_ended = True
    with pytest.raises(AttestationError, match="not open"):
        world.keys_of()


def test_the_end_of_a_run_destroys_its_keys(tmp_path):
    world = World(tmp_path)
    world.keys_of()
    world.attesting.run_changed(world.runs[RUN])
    assert world.vault.names(f"key-release/{RUN}/key:")
    world.runs[RUN].is_ended = True
    world.attesting.run_changed(world.runs[RUN])
    assert world.vault.names(f"key-release/{RUN}/key:") == []
    assert world.told[-1].what == "closed"
    # Nothing is kept of runs that demand nothing.
    world.attesting.run_changed(Run(PLAIN_RUN, is_ended=True))
    assert world.vault.names("key-release/") == [f"key-release/{RUN}/closed"]


def test_keys_that_a_crash_left_are_destroyed_at_the_next_start(tmp_path):
    world = World(tmp_path)
    world.keys_of()
    world.runs[RUN].is_ended = True
    again = World(tmp_path / "again", vault=world.vault)
    again.attesting.start()
    assert world.vault.names(f"key-release/{RUN}/key:")  # It is open there.
    again.runs[RUN].is_ended = True
    again.attesting.start()
    assert world.vault.get(f"key-release/{RUN}/closed") == b"closed"
    assert world.vault.names(f"key-release/{RUN}/key:") == []


def test_a_full_disk_does_not_stop_the_run_and_the_keys_are_destroyed_later(tmp_path):
    world = World(tmp_path)
    world.keys_of()
    world.runs[RUN].is_ended = True
    put = world.vault.put

    def full(*_):
        raise StorageFullError("full")

    world.vault.put = full
    world.attesting.run_changed(world.runs[RUN])
    assert world.vault.names(f"key-release/{RUN}/key:")
    world.vault.put = put
    world.attesting.run_changed(world.runs[PLAIN_RUN])
    assert world.vault.names(f"key-release/{RUN}/key:") == []


def test_what_a_start_could_not_destroy_is_destroyed_at_the_next_change(tmp_path):
    world = World(tmp_path)
    world.keys_of()
    world.runs[RUN].is_ended = True
    put = world.vault.put

    def full(*_):
        raise StorageFullError("full")

    world.vault.put = full
    world.attesting.start()
    world.vault.put = put
    world.attesting.run_changed(world.runs[PLAIN_RUN])
    assert world.vault.get(f"key-release/{RUN}/closed") == b"closed"
