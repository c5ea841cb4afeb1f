"""The whole exchange over HTTP as it travels: our client and our broker, and answers that a client must not believe."""

import base64
import json
from concurrent.futures import ThreadPoolExecutor

import msgspec
import pytest
from joserfc import jwe
from joserfc.jwk import ECKey
from starlette.applications import Starlette
from starlette.responses import Response
from tests.unit.enclave.confidential_machine import GOOD, OTHER, machine, over, pinned
from tests.unit.services.test_attestations import BOTH, STUDY, World
from tests.unit.services.test_key_release import ARRAN, BUTE, NEXT, RUN, Bench

from wardround.attestation import amd_chain
from wardround.enclave.broker_client import BrokerClient
from wardround.errors import (
    AttestationError,
    CodecError,
    ConfigError,
    ForbiddenError,
    NotFoundError,
    SignatureError,
    UnavailableError,
    WardroundError,
)
from wardround.hub import broker_routes
from wardround.hub.broker_routes import Desk
from wardround.protocol import broker, messages
from wardround.protocol.attested import Proof, ProofRequest, SiteChallenge


@pytest.fixture(autouse=True)
def _pinned(monkeypatch):
    monkeypatch.setattr(amd_chain, "ROOT_KEYS", pinned())


class Hub:
    """A broker behind its routes; who signed a request is told by a header, as if it had been checked."""

    def __init__(self, folder):
        self.bench, self.world, self.exchanged = Bench(), World(folder), []
        self.executor = ThreadPoolExecutor(1)
        self.world.clock = self.world.attestations._clock = self.bench.clock
        desk = Desk(self.bench.keys, self.world.attestations, self.authenticate, self.bench.clock, self.executor)
        self.desk = desk
        self.application = Starlette(routes=broker_routes.routes(lambda _: desk))

    @staticmethod
    def authenticate(request, body):
        if "x-test-site" not in request.headers:
            raise SignatureError("the request is not signed")
        return request.headers["x-test-site"]

    def call(self, site=ARRAN):
        def call(method, path, headers, body):
            answer = over(self.application)(method, path, {**headers, "x-test-site": site}, body)
            self.exchanged.append((method, path, headers, body, answer))
            return answer

        return call


@pytest.fixture
def hub(tmp_path):
    made = Hub(tmp_path / "hub")
    yield made
    made.executor.shutdown()


def client(hub, tmp_path, measurement=GOOD, *, site=ARRAN, tee="snp"):
    return BrokerClient(hub.call(site), tee=tee, quote=machine(tmp_path / "guest", measurement).evidence)


def test_a_machine_fetches_its_runs_keys(hub, tmp_path):
    found = client(hub, tmp_path).keys(RUN, ["model-key", "data-key"])
    assert sorted(found) == ["data-key", "model-key"]
    assert {len(key) for key in found.values()} == {32}
    assert client(hub, tmp_path / "again", site=BUTE).keys(RUN, ["model-key"])["model-key"] == found["model-key"]
    assert hub.bench.events == ["attested", "released", "released", "attested", "released"]


def test_what_travels_is_trustees_exchange(hub, tmp_path):
    client(hub, tmp_path).keys(RUN, ["model-key"])
    auth, attest, resource = hub.exchanged
    assert auth[:2] == ("POST", "/kbs/v0/auth")
    asked = json.loads(auth[3])
    assert asked["version"] == "0.1.1"
    assert asked["tee"] == "snp"
    assert asked["extra-params"] == {"attestation-policy-selector": RUN}
    assert len(base64.b64decode(json.loads(auth[4][2])["nonce"])) == 32
    cookie = auth[4][1]["set-cookie"]
    assert cookie.startswith("kbs-session-id=")
    assert {"HttpOnly", "Secure", "SameSite=strict"} <= {part.strip() for part in cookie.split(";")}
    assert attest[:2] == ("POST", "/kbs/v0/attest")
    assert attest[2]["cookie"] == cookie.partition(";")[0]
    proof = json.loads(attest[3])
    assert set(proof) == {"runtime-data", "tee-evidence"}
    assert set(proof["runtime-data"]) == {"nonce", "tee-pubkey"}
    assert set(proof["runtime-data"]["tee-pubkey"]) == {"kty", "crv", "alg", "x", "y"}
    assert set(proof["tee-evidence"]) == {"primary_evidence", "additional_evidence"}
    token = json.loads(attest[4][2])["token"]
    assert token.count(".") == 2
    assert resource[:2] == ("GET", f"/kbs/v0/resource/{STUDY}/model-key/1")
    assert resource[2] == {"cookie": attest[2]["cookie"]}
    assert set(json.loads(resource[4][2])) == {"protected", "encrypted_key", "iv", "ciphertext", "tag"}
    assert resource[4][1]["cache-control"] == "no-store"


def test_the_token_as_bearer_fetches_too(hub, tmp_path):
    client(hub, tmp_path).keys(RUN, ["model-key"])
    token = json.loads(hub.exchanged[1][4][2])["token"]
    status, _, body = hub.call()("GET", broker.path(RUN, "model-key"), {"authorization": f"Bearer {token}"}, b"")
    assert status == 200
    assert broker.decode(body, broker.Jwe).tag


def test_refusals_come_back_as_what_they_are_with_their_clause(hub, tmp_path):
    with pytest.raises(AttestationError, match=r"answered 401: .*MEASUREMENT"):
        client(hub, tmp_path / "1", OTHER).keys(RUN, ["model-key"])
    with pytest.raises(ForbiddenError, match="answered 403"):
        client(hub, tmp_path / "2", site="mull").keys(RUN, ["model-key"])
    with pytest.raises(NotFoundError, match="answered 404"):
        client(hub, tmp_path / "3").keys("cd" * 32 + ".1", ["model-key"])
    hub.bench.keys.close_run(RUN)
    with pytest.raises(AttestationError, match="keys were destroyed"):
        client(hub, tmp_path / "4").keys(RUN, ["model-key"])
    assert client(hub, tmp_path / "5").keys(NEXT, ["model-key"])


def test_who_is_not_enrolled_gets_nothing(hub):
    for method, path in (("POST", "/kbs/v0/auth"), ("POST", "/kbs/v0/attest"), ("POST", "/v1/attestations/hub"),
                         ("GET", broker.path(RUN, "model-key"))):  # fmt: skip
        status, _, body = over(hub.application)(method, path, {}, b"{}")
        assert status == 401
        assert json.loads(body)["type"] == "crypto/signature"


@pytest.mark.parametrize(
    ("headers", "status"),
    [({}, 401), ({"authorization": "Basic eDp5"}, 401), ({"authorization": "Bearer "}, 401),
     ({"authorization": "Bearer x"}, 401), ({"cookie": "kbs-session-id=x"}, 401)],
)  # fmt: skip
def test_a_resource_needs_an_attestation(hub, headers, status):
    assert hub.call()("GET", broker.path(RUN, "model-key"), headers, b"")[0] == status


@pytest.mark.parametrize("path", ["x/model-key/1", f"{STUDY}/other/1", f"{STUDY}/model-key/0", f"{STUDY}/model-key/-1",
                                  f"{STUDY}/model-key/x", f"{STUDY.upper()}/model-key/1"])  # fmt: skip
def test_an_address_that_is_no_runs_key_is_not_found(hub, path):
    assert hub.call()("GET", f"/kbs/v0/resource/{path}", {"authorization": "Bearer x"}, b"")[0] == 404


ASKED = '{"version":"0.1.1","tee":"snp","extra-params":{"attestation-policy-selector":%s}}'
HOSTILE = [
    *(b"", b"{}", b"[]", b"\xff", b"[" * 9999),
    *(b'{"version":"0.4.0","tee":"snp"}', b'{"version":"0.1.1","tee":"sample"}', b'{"version":"0.1.1","tee":"snp"}'),
    *((ASKED % "7").encode(), (ASKED % '"x"').encode()),
]


@pytest.mark.parametrize("body", HOSTILE)
def test_hostile_bodies_are_refused_and_nothing_breaks(hub, body):
    for path in (
        "/kbs/v0/auth",
        "/kbs/v0/attest",
        "/v1/attestations/hub",
        "/v1/attestations/challenge",
        "/v1/attestations",
    ):
        status, _, answer = hub.call()("POST", path, {}, body)
        assert status in {400, 401}, (path, answer)


def test_a_body_without_end_is_refused(hub):
    assert hub.call()("POST", "/kbs/v0/auth", {}, b"x" * (broker.MAX_BODY_BYTES + 1))[0] == 400


def test_the_hub_proves_itself_and_takes_proofs_over_http(hub):
    def post(path, message, kind):
        status, _, body = hub.call()("POST", path, {}, messages.encode(message))
        assert status == 200, body
        return messages.decode(body, kind)

    hub.world.check._ask = lambda asked: (post("/v1/attestations/hub", asked, Proof), hub.world.certificate)
    assert hub.world.check.require(STUDY, BOTH)[0].kind == "snp"
    proof = hub.world.proof
    proof._clock = hub.bench.clock
    proof._challenge = lambda study: post(
        "/v1/attestations/challenge", broker_routes.StudyQuestion(study), SiteChallenge
    )
    proof._submit = lambda made: post("/v1/attestations", made, broker_routes.Until).until
    proof.require(STUDY, BOTH)
    hub.world.attestations.require(ARRAN, RUN)
    assert post("/v1/attestations/hub", ProofRequest(STUDY, bytes(32)), Proof).evidence.kind == "snp"


def test_a_hubs_own_boundary_sees_every_error_but_a_refused_attestation(hub):
    seen = []

    def boundary(endpoint):
        async def answer(request):
            try:
                return await endpoint(request)
            except Exception as error:
                seen.append(type(error).__name__)
                return Response(status_code=418)

        return answer

    desk = hub.desk
    application = Starlette(routes=broker_routes.routes(lambda _: desk, boundary=boundary))
    call = over(application)
    assert call("POST", "/kbs/v0/auth", {}, b"")[0] == 418
    assert call("POST", "/kbs/v0/auth", {"x-test-site": "arran"}, b"")[0] == 418
    assert call("GET", broker.path(RUN, "model-key"), {"x-test-site": "arran"}, b"")[0] == 401
    assert seen == ["SignatureError", "CodecError"]


class Liar:
    """A broker that answers what a test says; anything else as the real one."""

    def __init__(self, hub, path, change):
        self.real, self.path, self.change = hub.call(), path, change

    def __call__(self, method, path, headers, body):
        answer = self.real(method, path, headers, body)
        return self.change(*answer) if path.startswith(self.path) else answer


@pytest.mark.parametrize(
    ("path", "change", "kind"),
    [
        ("/kbs/v0/auth", lambda _s, h, _b: (200, h, b"{}"), CodecError),
        ("/kbs/v0/auth", lambda _s, _h, b: (200, {}, b), CodecError),
        ("/kbs/v0/auth", lambda _s, _h, b: (200, {"set-cookie": "kbs-session-id=a b\r\nx"}, b), CodecError),
        ("/kbs/v0/attest", lambda _s, h, _b: (200, h, b'{"token":"a\\nb"}'), CodecError),
        ("/kbs/v0/attest", lambda _s, h, _b: (200, h, b'{"token":""}'), CodecError),
        ("/kbs/v0/attest", lambda _s, h, _b: (503, h, b""), UnavailableError),
        ("/kbs/v0/attest", lambda _s, h, _b: (401, h, b'{"type":"https://x","detail":"no"}'), AttestationError),
        ("/kbs/v0/resource", lambda _s, h, _b: (404, h, b"not json"), NotFoundError),
        ("/kbs/v0/resource", lambda _s, h, b: (200, h, b + b" " * broker.MAX_BODY_BYTES), CodecError),
        ("/kbs/v0/resource", lambda _s, h, b: (200, h, b.replace(b'"tag":"', b'"tag":"A')), AttestationError),
        ("/kbs/v0/resource", lambda _s, h, b: (200, h, b.replace(b'"iv":"', b'"iv":"\\u00ff')), AttestationError),
        ("/kbs/v0/resource", lambda _s, h, b: (200, h, b[:-1] + b',"aad":"x"}'), CodecError),
        ("/kbs/v0/resource", lambda _s, h, _b: (200, h, foreign()), AttestationError),
        ("/kbs/v0/resource", lambda _s, h, _b: (200, h, foreign("dir")), AttestationError),
    ],
)  # fmt: skip
def test_an_answer_that_is_not_the_protocols_is_refused(hub, tmp_path, path, change, kind):
    liar = Liar(hub, path, change)
    with pytest.raises(kind):
        BrokerClient(liar, tee="snp", quote=machine(tmp_path / "guest").evidence).keys(RUN, ["model-key"])


def foreign(algorithm="ECDH-ES+A256KW"):
    """A key wrapped for somebody else, or under an algorithm that nobody asked for."""
    other = ECKey.generate_key("P-256")
    compact = jwe.encrypt_compact({"alg": "ECDH-ES+A256KW", "enc": "A256GCM"}, b"k" * 32, other,
                                  algorithms=["ECDH-ES+A256KW", "A256GCM"])  # fmt: skip
    protected, *rest = compact.split(".")
    if algorithm == "dir":
        protected = base64.urlsafe_b64encode(b'{"alg":"dir","enc":"A256GCM"}').rstrip(b"=").decode()
    return msgspec.json.encode(broker.Jwe(protected, *rest))


def test_a_key_of_another_length_is_refused(hub, tmp_path):
    hub.bench.vault.put(f"key-release/{RUN}/key:model-key", b"short")
    with pytest.raises(CodecError, match="5 bytes"):
        client(hub, tmp_path).keys(RUN, ["model-key"])


def test_a_machine_that_is_not_what_it_announces_says_so_before_anything_leaves_it(hub, tmp_path):
    with pytest.raises(ConfigError, match="gives evidence of snp"):
        client(hub, tmp_path, tee="tdx").keys(RUN, ["model-key"])
    assert len(hub.exchanged) == 1


def test_a_broker_that_does_not_answer_is_unavailable(tmp_path):
    def silent(*_):
        raise UnavailableError("no answer")

    with pytest.raises(WardroundError):
        BrokerClient(silent, tee="snp", quote=machine(tmp_path / "guest").evidence).keys(RUN, ["model-key"])
