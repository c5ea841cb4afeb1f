"""What a hub answers, over real sockets, to requests and updates that are wrong, forged, cut off or too much."""

import hashlib
import random
import re
import socket
import sqlite3
import ssl
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from federation import Federation, Followed, Proxy, declare, free_port, renamed, training, until
from wire import Answer, Wire

import wardround
from wardround.codec import canonical, tensors
from wardround.crypto import certificate, signing
from wardround.errors import ConfigError, CryptoError, ForbiddenError, InviteError, SignatureError
from wardround.hub import attestation_routes
from wardround.node import setup as node_setup
from wardround.protocol import plan as plans
from wardround.protocol.messages import MAX_MESSAGE_BYTES, Contribution, Enrolment, Proposal, Receipt, TaskRequest
from wardround.protocol.plan import BlobRef, CodePackage
from wardround.sdk import client
from wardround.transport import enrolling
from wardround.transport.credential import load
from wardround.transport.http import HttpHub

pytestmark = pytest.mark.processes
SITES = ("arran", "bute")


class World:
    """One hub; two enrolled sites and a researcher whose requests the tests put together themselves."""

    def __init__(self, place: Path) -> None:
        self.federation = Federation(place)
        self.federation.start_hub()
        self.url = self.federation.url
        self.researcher = self.federation.enrol_researcher()
        self.ada = Wire(self.url, place / "ada", "ada")
        for site in (*SITES, "outsider"):
            self.federation.enrol_site(site)
        self.arran, self.bute, self.outsider = (Wire(self.url, place / n, n) for n in (*SITES, "outsider"))
        for wire in (self.ada, self.arran, self.bute, self.outsider):
            wire.meet()
        self.study = declare(
            SITES,
            data=msgspec.structs.replace(declare(SITES).plan.data, scaling="none"),
            training=training(rounds=2, steps=1),
            limits=wardround.Limits(absence_seconds=600.0, max_records=1000),
        )

    def run(self, title: str) -> "Asked":
        """A run of its own, whose first round asks both sites."""
        study = renamed(self.study, title)
        submitted = self.researcher.submit(study)
        self.federation.approve(submitted.study, SITES)
        run = Followed(self.researcher, self.researcher.status(submitted.study).runs[-1])
        run.until("round-opened", number=1)
        return Asked(self, study, run)


class Asked:
    """A run in its first round, and answers to it."""

    def __init__(self, world: World, study: wardround.Study, run: Followed) -> None:
        self.world, self.study, self.run = world, study, run

    def packed(self, value: float = 0.25) -> bytes:
        manifest = self.study.plan.manifest
        return tensors.pack({spec.name: np.full(spec.shape, value, np.float32) for spec in manifest}, manifest)

    def answer(self, wire: Wire, data: bytes, **changes: Any) -> Answer:
        ref = BlobRef(canonical.digest(data), len(data))
        fields: dict[str, Any] = {"run": self.run.run, "number": 1, "kind": "train", "records": 90}
        fields |= {"update": ref, "update_inline": data, **changes}
        command = canonical.digest(msgspec.msgpack.encode([wire.name, sorted(map(str, fields.items()))]))
        return wire.post("/v1/contributions", Contribution(command=command, **fields))

    def receipt(self, wire: Wire, data: bytes, **changes: Any) -> Receipt:
        answer = self.answer(wire, data, **changes)
        assert answer.status == 200, answer.problem
        return msgspec.msgpack.decode(answer.body, type=Receipt)

    def refused(self, data: bytes, **changes: Any) -> str:
        """Why arran's answer is refused; a proper answer after it still counts."""
        receipt = self.receipt(self.world.arran, data, **changes)
        assert receipt.outcome == "refused", receipt
        assert self.receipt(self.world.arran, self.packed()).outcome == "accepted"
        return receipt.reason


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    place = tmp_path_factory.mktemp("bad-input")
    made = None
    try:
        made = World(place)
        yield made
        log = made.federation.hub.text()
        assert "Traceback" not in log, log
        assert "request failed" not in log, log
    finally:
        if made is not None:
            made.researcher.hub.close()
            made.federation.close()


def bytes_of(seed: int, size: int) -> bytes:
    return random.Random(seed).randbytes(size)


# Invites.


def test_a_wrong_invite(world: World) -> None:
    line = world.federation.invite("newcomer")
    with pytest.raises(InviteError, match="no invite"):
        enrolling.enrol(line[:-9], role="site")
    invite = "A" * 32
    request = certificate.request("newcomer", signing.generate())
    answer = world.ada.raw("POST", "/v1/enrolments", msgspec.msgpack.encode(Enrolment(invite, request)), {})
    assert (answer.status, answer.code) == (403, "protocol/invite")


def test_an_expired_invite(world: World) -> None:
    line = world.federation.invite("late", seconds=-1.0)
    with pytest.raises(InviteError, match="expired"):
        enrolling.enrol(line, role="site")


def test_a_reused_invite(world: World, tmp_path: Path) -> None:
    line = world.federation.invite("twice")
    node_setup.enrol(tmp_path / "first", line)
    with pytest.raises(InviteError, match="used"):
        node_setup.enrol(tmp_path / "second", line)
    assert not (tmp_path / "second" / "node.toml").exists()


def test_an_invite_for_another_role_is_not_used_up(world: World, tmp_path: Path) -> None:
    line = world.federation.invite("eve", "researcher")
    with pytest.raises(InviteError, match="not been used up"):
        node_setup.enrol(tmp_path / "node", line)
    assert client.enrol(tmp_path / "eve", line).name == "eve"


def test_an_invite_that_names_another_authority(world: World, tmp_path: Path) -> None:
    other = Federation(tmp_path)
    line = other.invite("lost")
    forged = parse_and_move(line, world.federation.url_public)
    with pytest.raises(CryptoError, match="not the one that the invite names"):
        enrolling.enrol(forged, role="site")


def parse_and_move(line: str, url: str) -> str:
    from wardround.protocol import invite as invites

    return invites.format_invite(msgspec.structs.replace(invites.parse_invite(line), url=url))


# Signatures.


def test_the_name_of_one_site_with_the_key_of_another(world: World) -> None:
    place = world.federation.place
    forger = Wire(world.url, place / "arran", "arran", key=place / "bute" / "keys" / "connection.pem")
    forger.challenge = world.arran.challenge
    answer = forger.raw("GET", "/v1/studies", b"", forger.sign("GET", "/v1/studies"))
    assert (answer.status, answer.code) == (401, "crypto/signature")
    credential = load(place / "bute" / "keys" / "connection.pem")
    hub = HttpHub(world.url, name="arran", credential=credential, authority=world.federation.authority)
    try:
        with pytest.raises(SignatureError, match="not signed by the key known for arran"):
            hub.studies()
    finally:
        hub.close()


def test_a_name_that_nobody_has(world: World) -> None:
    stranger = Wire(world.url, world.federation.place / "arran", "nobody")
    answer = stranger.raw("GET", "/v1/studies", b"", stranger.sign("GET", "/v1/studies"))
    assert (answer.status, answer.code) == (401, "crypto/signature")


def test_a_revoked_site_is_refused(world: World, tmp_path: Path) -> None:
    from wardround.hub import setup as hub_setup

    node_setup.enrol(tmp_path / "gone", world.federation.invite("gone"))
    wire = Wire(world.url, tmp_path / "gone", "gone")
    wire.meet()
    assert wire.call("GET", "/v1/studies").status == 200
    hub_setup.revoke(world.federation.hub_folder, "gone")
    answer = wire.call("GET", "/v1/studies")
    assert (answer.status, answer.code) == (401, "crypto/signature")


def test_a_request_replayed(world: World) -> None:
    headers = world.arran.sign("GET", "/v1/studies")
    assert world.arran.raw("GET", "/v1/studies", b"", headers).status == 200
    again = world.arran.raw("GET", "/v1/studies", b"", headers)
    assert (again.status, again.code) == (401, "crypto/stale-request")
    assert "received before" in again.problem.detail


def test_a_request_with_an_altered_body(world: World) -> None:
    body = msgspec.msgpack.encode(TaskRequest((), 0.0))
    headers = world.arran.sign("POST", "/v1/tasks", body)
    answer = world.arran.raw("POST", "/v1/tasks", body[:-1] + b"\x01", headers)
    assert (answer.status, answer.code) == (422, "crypto/digest-mismatch")


@pytest.mark.parametrize("target", ["/v1/identities/arran", "/v1/studies?x=1"])
def test_a_request_with_an_altered_path(world: World, target: str) -> None:
    headers = world.arran.sign("GET", "/v1/studies")
    answer = world.arran.raw("GET", target, b"", headers)
    assert (answer.status, answer.code) == (401, "crypto/signature")


def test_a_request_with_an_altered_method(world: World) -> None:
    headers = world.ada.sign("GET", "/v1/studies")
    answer = world.ada.raw("POST", "/v1/studies", b"", headers)
    assert (answer.status, answer.code) == (401, "crypto/signature")


def test_a_request_ten_minutes_old(world: World) -> None:
    answer = world.arran.raw("GET", "/v1/studies", b"", world.arran.sign("GET", "/v1/studies", age=600.0))
    assert (answer.status, answer.code) == (401, "crypto/stale-request")
    assert "10 min" in answer.problem.detail


@pytest.mark.parametrize("age", [-3600.0, 3600.0])
def test_a_clock_that_is_off_by_an_hour_is_named(world: World, age: float) -> None:
    answer = world.arran.raw("GET", "/v1/studies", b"", world.arran.sign("GET", "/v1/studies", age=age))
    assert (answer.status, answer.code) == (401, "crypto/stale-request")
    assert "clock" in answer.problem.detail
    assert re.search("(59 min 5|60 min )", answer.problem.detail)
    assert "NTP" in answer.problem.detail
    assert "clock" in answer.problem.who
    assert abs(answer.problem.hub_time - time.time()) < 5


NOT_SET_UP = {address.path for address in attestation_routes.ADDRESSES}
"""Addresses that are there only at a hub that was set up for attestation, as this one was not."""


def test_unauthenticated_calls(world: World) -> None:
    open_to_all = {"/healthz", "/readyz", "/metrics", "/openapi.json", "/v1/authority", "/v1/log/checkpoint"}
    document = msgspec.json.decode(world.arran.raw("GET", "/openapi.json", b"", {}).body)
    for path, operations in document["paths"].items():
        target = path.replace("{study}", "a" * 64).replace("{run}", "a" * 64 + ".1").replace("{name}", "arran")
        target = target.replace("{scope}", "new").replace("{digest}", "b" * 64)
        for method in operations:
            answer = world.arran.raw(method.upper(), target, b"x" if method != "get" else b"", {})
            if path in open_to_all:
                assert answer.status == 200, path
            elif path == "/v1/enrolments":
                assert answer.status == 400, path
            elif path == "/v1/log/tile/{path}" or path in NOT_SET_UP:
                assert answer.status == 404, path
            else:
                assert (answer.status, answer.code) == (401, "crypto/signature"), path


def test_tls_1_2_is_not_spoken(world: World) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    wire = Wire(world.url, world.federation.place / "arran", "arran")
    wire.context = context
    with pytest.raises(OSError, match=r"(?i)alert|version|protocol|reset|eof"):
        wire.raw("GET", "/healthz", b"", {})


# Who may do what.


def test_a_researcher_calling_the_routes_of_sites(world: World) -> None:
    asked = world.run("A researcher plays a site")
    assert world.ada.post("/v1/tasks", TaskRequest((), 0.0)).code == "protocol/forbidden"
    assert asked.answer(world.ada, asked.packed()).code == "protocol/forbidden"
    assert world.ada.post(f"/v1/studies/{asked.study.id}/decisions", {}).code == "protocol/forbidden"
    assert world.ada.put(asked.run.run, asked.packed()).code == "protocol/forbidden"


def test_a_site_calling_the_routes_of_researchers(world: World) -> None:
    asked = world.run("A site plays a researcher")
    assert world.arran.post("/v1/studies", {}).code == "protocol/forbidden"
    assert (
        world.arran.post(f"/v1/studies/{asked.study.id}/actions", {"action": "withdraw"}).code == "protocol/forbidden"
    )
    assert world.arran.put("new", b"some bytes").code == "protocol/forbidden"


def test_a_site_reading_what_is_of_another_study(world: World) -> None:
    asked = world.run("None of the outsider's")
    study, run, digest = asked.study.id, asked.run.run, asked.study.plan.initial.digest
    for target in (
        f"/v1/studies/{study}/plan",
        f"/v1/runs/{run}",
        f"/v1/blobs/{study}/{digest}",
        f"/v1/blobs/{run}/{digest}",
    ):
        answer = world.outsider.call("GET", target)
        assert (answer.status, answer.code) == (403, "protocol/forbidden"), target
    assert asked.answer(world.outsider, asked.packed()).code == "protocol/forbidden"
    assert world.outsider.call("GET", "/v1/studies").body == b"\x90"
    assert world.arran.call("GET", f"/v1/blobs/{study}/{digest}").body == asked.study.initial


def test_a_site_reading_the_update_of_another(world: World) -> None:
    asked = world.run("An update is nobody else's")
    data = asked.packed(0.5)
    assert asked.receipt(world.arran, data).outcome == "accepted"
    digest = canonical.digest(data)
    for wire in (world.bute, world.ada, world.arran):
        answer = wire.call("GET", f"/v1/blobs/{asked.run.run}/{digest}")
        assert (answer.status, answer.code) == (404, "protocol/not-found")


def test_a_site_deciding_for_another(world: World) -> None:
    study = world.researcher.submit(renamed(world.study, "Whose decision")).study
    opened = node_setup.open_node(world.federation.place / "arran")
    try:
        opened.approvals.decide(study, "approve", person="steward", reason="")
        decision = opened.approvals.decisions()[-1]
        decision = next(d for d in opened.approvals.decisions() if d.study == study) or decision
    finally:
        opened.vault.close()
        opened.hub.close()
    target = f"/v1/studies/{study}/decisions"
    assert world.bute.post(target, decision).code == "protocol/forbidden"
    forged = msgspec.structs.replace(decision, site="bute")
    assert world.bute.post(target, forged).code == "crypto/signature"
    refused = msgspec.structs.replace(decision, verdict="withdraw")
    assert world.arran.post(target, refused).code == "crypto/signature"


def test_a_plan_signed_by_somebody_else(world: World) -> None:
    key = signing.generate()
    signed = plans.sign(renamed(world.study, "Forged").plan, key)
    answer = world.ada.post("/v1/studies", Proposal("forged", signed))
    assert (answer.status, answer.code) == (401, "crypto/signature")


# Updates.


def test_an_update_of_another_shape(world: World) -> None:
    asked = world.run("Another shape")
    shifted = b"\x00" * len(asked.packed())
    assert "header" in asked.refused(shifted)


def test_an_update_of_another_dtype(world: World) -> None:
    asked = world.run("Another dtype")
    data = asked.packed().replace(b"F32", b"F16")
    assert "header" in asked.refused(data) or "dtype" in asked.refused(data)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_an_update_that_is_not_finite(world: World, value: float) -> None:
    asked = world.run(f"Not finite: {value}")
    assert "finite" in asked.refused(asked.packed(value))


def test_an_update_that_is_too_large(world: World) -> None:
    asked = world.run("Too large")
    assert "too large" in asked.refused(asked.packed() + b"\x00" * 4)


def test_an_update_that_is_too_small(world: World) -> None:
    asked = world.run("Too small")
    assert "too small" in asked.refused(asked.packed()[:-4])


def test_an_upload_that_is_too_large_for_the_plan(world: World) -> None:
    asked = world.run("Too large an upload")
    answer = world.arran.put(asked.run.run, b"\x00" * 4096)
    assert (answer.status, answer.code) == (400, "codec")
    assert "too large" in answer.problem.detail


def test_an_update_that_was_not_uploaded(world: World) -> None:
    asked = world.run("Not uploaded")
    answer = asked.answer(world.arran, asked.packed(0.625), update_inline=b"")
    assert (answer.status, answer.code) == (409, "protocol/peer")
    assert "upload it first" in answer.problem.detail


def test_inline_bytes_that_are_not_the_update(world: World) -> None:
    asked = world.run("Inline and named differ")
    answer = asked.answer(world.arran, asked.packed(0.75), update_inline=asked.packed(0.5))
    assert (answer.status, answer.code) == (409, "protocol/peer")


@pytest.mark.parametrize("records", [10**9, 1001, 0, -5])
def test_a_claimed_number_of_records_outside_the_plan(world: World, records: int) -> None:
    asked = world.run(f"Claims {records} records")
    assert "claimed records" in asked.refused(asked.packed(), records=records)


def test_an_update_for_a_round_to_come(world: World) -> None:
    asked = world.run("A round to come")
    answer = asked.answer(world.arran, asked.packed(), number=2)
    assert (answer.status, answer.code) == (409, "protocol/peer")


def test_an_answer_of_another_kind(world: World) -> None:
    asked = world.run("Another kind")
    assert "round 1, train" in asked.refused(asked.packed(), kind="evaluate", update=None, update_inline=b"")


def test_an_update_sent_twice_counts_once(world: World) -> None:
    asked = world.run("Twice")
    first = asked.receipt(world.arran, asked.packed())
    assert asked.receipt(world.arran, asked.packed()) == first
    other = asked.receipt(world.arran, asked.packed(0.5))
    assert other.outcome == "refused"
    assert "first answer counts" in other.reason
    asked.run.poll()
    assert len(asked.run.of("update-accepted", site="arran")) == 1


def test_an_update_after_its_round_has_closed(world: World) -> None:
    asked = world.run("Late")
    for wire in (world.arran, world.bute):
        assert asked.receipt(wire, asked.packed()).outcome == "accepted"
    asked.run.until("round-opened", number=2)
    late = asked.receipt(world.arran, asked.packed(0.5))
    assert late.outcome == "round-closed"
    assert asked.receipt(world.arran, asked.packed()).outcome == "accepted"  # The command of before: its receipt again.
    asked.run.poll()
    assert asked.run.status is not None
    assert asked.run.status.round == 2


def test_a_site_is_not_heard_after_three_refusals(world: World) -> None:
    asked = world.run("Three refusals")
    for records in (10**9, 10**9 + 1, 10**9 + 2):
        assert asked.receipt(world.arran, asked.packed(), records=records).outcome == "refused"
    asked.run.poll(2.0)
    assert asked.run.status is not None
    assert asked.run.status.phase == "stopped"
    assert "arran: its answers were refused" in asked.run.status.reason


# Blobs.


def test_a_connection_cut_while_uploading_resumes(world: World, tmp_path: Path) -> None:
    data = bytes_of(1, 8 * 1024 * 1024)
    proxy = Proxy(world.arran.port)
    held = load(world.federation.place / "ada" / "keys" / "connection.pem")
    url = f"https://127.0.0.1:{proxy.port}"
    hub = HttpHub(url, name="ada", credential=held, authority=world.federation.authority)
    (tmp_path / "blob").write_bytes(data)
    try:
        hub.studies()  # Learns the challenge, so that the upload is the next connection's first request.
        hub.close()
        proxy.limit = 5 * 1024 * 1024
        before = metric(world, "wardround_uploaded_bytes_total")
        with (tmp_path / "blob").open("rb") as file:
            hub.upload("new", BlobRef(canonical.digest(data), len(data)), file.fileno())
        assert world.ada.held("new", data) == len(data)
        resumed = metric(world, "wardround_uploaded_bytes_total") - before
        assert 0 < resumed < len(data)
    finally:
        hub.close()
        proxy.cut()


def metric(world: World, name: str) -> float:
    text = world.ada.raw("GET", "/metrics", b"", {}).body.decode()
    return next((float(line.split()[1]) for line in text.splitlines() if line.startswith(name + " ")), 0.0)


def cut_upload(wire: Wire, data: bytes, sent: int) -> None:
    digest = hashlib.sha256(data).digest()
    target = f"/v1/blobs/new/{digest.hex()}"
    connection = wire.connect()
    connection.putrequest("PUT", target, skip_accept_encoding=True)
    headers = wire.sign("PUT", target, digest=digest, content_range=f"bytes 0-{len(data) - 1}/{len(data)}")
    for name, value in {**headers, "content-length": str(len(data))}.items():
        connection.putheader(name, value)
    connection.endheaders()
    connection.send(data[:sent])
    connection.close()


def test_an_upload_cut_off_continues_from_what_is_held(world: World) -> None:
    data = bytes_of(2, 3 * 1024 * 1024)
    cut_upload(world.ada, data, 2 * 1024 * 1024)
    held = until("the hub holds the part", lambda: world.ada.held("new", data))
    assert 0 < held <= 2 * 1024 * 1024
    wrong = world.ada.put("new", data, start=len(data) - 10)
    assert (wrong.status, wrong.code) == (409, "protocol/peer")
    assert world.ada.put("new", data, start=held).status == 201
    assert world.ada.held("new", data) == len(data)


def test_a_blob_corrupted_on_the_way_is_not_stored(world: World) -> None:
    data = bytes_of(3, 500_000)
    corrupted = data[:-1] + bytes([data[-1] ^ 1])
    answer = world.ada.put("new", corrupted, digest=hashlib.sha256(data).digest())
    assert (answer.status, answer.code) == (422, "crypto/digest-mismatch")
    assert world.ada.held("new", data) == 0
    assert world.ada.held("new", corrupted) == 0
    assert world.ada.put("new", data).status == 201


def test_an_upload_larger_than_announced(world: World) -> None:
    data = bytes_of(4, 2000)
    digest = hashlib.sha256(data).digest()
    target = f"/v1/blobs/new/{digest.hex()}"
    headers = world.ada.sign("PUT", target, digest=digest, content_range="bytes 0-999/1000")
    answer = world.ada.raw("PUT", target, data, headers)
    assert (answer.status, answer.code) == (400, "codec")


def test_an_upload_under_another_digest_than_signed(world: World) -> None:
    data = bytes_of(5, 1000)
    target = f"/v1/blobs/new/{'c' * 64}"
    headers = world.ada.sign("PUT", target, digest=hashlib.sha256(data).digest(), content_range="bytes 0-999/1000")
    answer = world.ada.raw("PUT", target, data, headers)
    assert (answer.status, answer.code) == (422, "crypto/digest-mismatch")


def test_a_blob_that_is_there_already_is_not_sent_twice(world: World, tmp_path: Path) -> None:
    data = bytes_of(6, 400_000)
    (tmp_path / "blob").write_bytes(data)
    held = load(world.federation.place / "ada" / "keys" / "connection.pem")
    hub = HttpHub(world.url, name="ada", credential=held, authority=world.federation.authority)
    try:
        with (tmp_path / "blob").open("rb") as file:
            for _ in range(10):
                hub.upload("new", BlobRef(canonical.digest(data), len(data)), file.fileno())
                hub.studies()  # On the connection of the upload, or on a new one where that was given up.
    finally:
        hub.close()


def test_a_blob_above_the_limit_of_the_hub(world: World) -> None:
    digest = hashlib.sha256(b"never sent").digest()
    answer = world.ada.put("new", b"x" * 10, digest=digest, size=5 * 1024**3)
    assert (answer.status, answer.code) == (400, "codec")
    assert "at most" in answer.problem.detail


def test_a_download_continues_from_a_byte(world: World) -> None:
    asked = world.run("Ranges")
    target, data = f"/v1/blobs/{asked.run.run}/{asked.study.plan.initial.digest}", asked.study.initial
    part = world.arran.call("GET", target, extra={"range": "bytes=10-"})
    assert part.status == 206
    assert part.body == data[10:]
    assert part.headers["content-range"] == f"bytes 10-{len(data) - 1}/{len(data)}"
    for header in ("bytes=10-20", "bytes=-5", f"bytes={len(data)}-", "bytes=0-,4-", "lines=3-"):
        assert world.arran.call("GET", target, extra={"range": header}).code == "codec", header


# Too much, and nonsense.


def test_a_message_that_is_too_large(world: World) -> None:
    body = b"\x00" * (MAX_MESSAGE_BYTES + 1)
    connection = world.arran.connect()
    try:
        connection.request("POST", "/v1/tasks", body=body, headers=world.arran.sign("POST", "/v1/tasks", body))
        response = connection.getresponse()
        assert response.status == 400
        assert msgspec.json.decode(response.read())["type"] == "codec"
    finally:
        connection.close()


def test_garbage_to_every_route(world: World) -> None:
    document = msgspec.json.decode(world.arran.raw("GET", "/openapi.json", b"", {}).body)
    draw = random.Random(7)
    garbage = [b"", b"\xc1", b"\x80", b"\x93\x01\x02\x03", b"\xdd\xff\xff\xff\xff", b"\x91" * 5000, draw.randbytes(300)]
    garbage += [msgspec.msgpack.encode(value) for value in ({"run": 1}, [[]], "text", {"busy": [[1, 2]]}, None)]
    names = ["a" * 64, "a" * 64 + ".1", "..", "%00", "%2e%2e%2f", "x" * 300, "a" * 64 + ".0", "~"]
    asked = 0
    for path, operations in document["paths"].items():
        for method in operations:
            for number, body in enumerate(garbage):
                if path == "/v1/tasks" and body == b"\x80":
                    continue  # a proper request: an empty map, held for as long as is usual
                target = path
                for slot in re.findall(r"{\w+(?::\w+)?}", path):
                    target = target.replace(slot, names[(number + asked) % len(names)])
                for wire in (world.arran, world.ada):
                    answer = wire.call(method.upper(), target, b"" if method == "get" else body)
                    asked += 1
                    assert answer.status < 500, (method, target, body, answer.body)
                    if answer.status >= 400:
                        assert answer.headers["content-type"].startswith("application/problem+json"), (target, answer)
    assert asked > 200


@pytest.mark.parametrize("query", ["after=x", "after=-1", "wait=nan", "wait=1e9", "after=1.2.3", "wait=" + "9" * 40])
def test_numbers_in_addresses_that_are_none(world: World, query: str) -> None:
    asked = world.run(f"Query {query}")
    answer = world.arran.call("GET", f"/v1/runs/{asked.run.run}?{query}")
    assert (answer.status, answer.code) == (400, "codec")


def test_routes_and_methods_that_are_not_there(world: World) -> None:
    for method, target in (
        ("GET", "/v1/nothing"),
        ("GET", "/v1/studies/"),
        ("DELETE", "/v1/studies"),
        ("PUT", "/healthz"),
        ("GET", "/v1/tasks"),
    ):
        answer = world.arran.call(method, target)
        assert answer.status in {404, 405}
        assert answer.problem.title


def test_bytes_that_are_no_http(world: World) -> None:
    for data in (b"\x00" * 100, b"GET / HTTP/9.9\r\n\r\n", b"POST /v1/tasks HTTP/1.1\r\ncontent-length: -1\r\n\r\n"):
        with (
            socket.create_connection((world.arran.host, world.arran.port), timeout=5.0) as plain,
            world.arran.context.wrap_socket(plain, server_hostname=world.arran.host) as secure,
        ):
            secure.sendall(data)
            received = secure.recv(4096)
            assert not received or received.startswith(b"HTTP/1.")
    with socket.create_connection((world.arran.host, world.arran.port), timeout=5.0) as plain:
        plain.sendall(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
        assert not plain.recv(4096).startswith(b"HTTP/1.1 200")
    assert world.arran.raw("GET", "/healthz", b"", {}).status == 200


# The hub's own troubles.


def test_a_locked_database_is_unavailable_and_loses_nothing(world: World) -> None:
    asked = world.run("Locked")
    lock = sqlite3.connect(world.federation.hub_folder / "state" / "hub.sqlite", isolation_level=None)
    try:
        lock.execute("BEGIN IMMEDIATE")
        answer = asked.answer(world.arran, asked.packed())
        assert (answer.status, answer.code) == (503, "unavailable")
        assert "tried again" in answer.problem.who
        lock.execute("ROLLBACK")
    finally:
        lock.close()
    assert asked.receipt(world.arran, asked.packed()).outcome == "accepted"
    assert asked.receipt(world.bute, asked.packed()).outcome == "accepted"
    asked.run.until("round-opened", number=2)
    assert len(asked.run.of("update-accepted", number=1)) == 2


def test_the_address_is_taken(world: World, tmp_path: Path) -> None:
    from federation import wardround_command

    from wardround.hub import setup as hub_setup

    hub_setup.init(tmp_path / "second", listen=f"127.0.0.1:{world.arran.port}", hosts=["127.0.0.1"])
    done = wardround_command("hub", "serve", tmp_path / "second")
    assert done.returncode == 2
    assert "taken" in done.stderr
    with pytest.raises(ConfigError, match="not overwritten"):
        hub_setup.init(tmp_path / "second", listen=f"127.0.0.1:{free_port()}", hosts=["127.0.0.1"])


# Plans.


def test_a_study_code_package_with_another_digest(world: World) -> None:
    package = b"PK not a zip at all"
    ref = BlobRef(canonical.digest(b"another"), len(package))
    plan = msgspec.structs.replace(world.study.plan, title="Code", model=CodePackage(package=ref, factory="net:make"))
    signed = plans.sign(plan, world.ada.document)
    answer = world.ada.post("/v1/studies", Proposal("code", signed))
    assert (answer.status, answer.code) == (409, "protocol/peer")
    assert "upload the blobs" in answer.problem.detail
    assert world.ada.put("new", package, digest=bytes.fromhex(ref.digest)).code == "crypto/digest-mismatch"


def test_study_code_that_a_site_does_not_allow(world: World) -> None:
    package = b"PK some package"
    ref = BlobRef(canonical.digest(package), len(package))
    assert world.ada.put("new", package).status == 201
    world.researcher.submit(renamed(world.study, "Uploads the initial model"))
    plan = msgspec.structs.replace(world.study.plan, title="Code", model=CodePackage(package=ref, factory="net:make"))
    study = plans.study_id(plan)
    assert world.ada.post("/v1/studies", Proposal("code", plans.sign(plan, world.ada.document))).status == 200
    from wardround.errors import PolicyError

    with pytest.raises(PolicyError, match="does not allow the study code"):
        world.federation.approve(study, ["arran"])


def test_a_plan_of_another_study_is_not_approved(world: World) -> None:
    study = world.researcher.submit(renamed(world.study, "Not for outsiders")).study
    with pytest.raises(ForbiddenError, match="does not name outsider"):
        world.federation.approve(study, ["outsider"])
