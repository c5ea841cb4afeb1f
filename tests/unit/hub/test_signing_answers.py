"""Every whole answer to a signed request leaves signed, streams leave as they are, and the revoked get refusals."""

import asyncio
import hashlib
import time

import msgspec
import pytest

from wardround.crypto import answer_signature, certificate, http_signature, signing
from wardround.errors import SignatureError
from wardround.hub.listening import PUBLIC, PublicOnly
from wardround.hub.signing_answers import AnswerSigner, Revocations, SignedAnswers

NOW = 1_760_000_000.0
PAIR = certificate.create_authority("Test", NOW)


class Hub:
    """A signer and a list of who is revoked, around an application."""

    def __init__(self, app):
        self.time = NOW
        self.gone = set()
        self.signer = AnswerSigner(lambda: PAIR, lambda: self.time)
        self.revocations = Revocations(self.revoked)
        self.app = SignedAnswers(app, self.signer, self.revocations)

    async def revoked(self):
        return frozenset(self.gone)

    async def ask(self, headers, *, path="/x"):
        sent = []

        async def send(message):
            sent.append(message)

        scope = {"type": "http", "path": path, "headers": [(n.encode(), v.encode()) for n, v in headers.items()]}
        await self.app(scope, None, send)
        return sent


def signed_request(nonce="n" * 16):
    return http_signature.sign(
        method="GET",
        target="/x",
        digest=hashlib.sha256(b"").digest(),
        created=int(NOW),
        nonce=nonce,
        tag="start",
        keyid="arran",
        key=signing.generate(),
    )


def answering(body=b"hello", *, status=200, wait=None, pieces=()):
    async def app(_scope, _receive, send):
        if wait is not None:
            await wait.wait()
        await send({"type": "http.response.start", "status": status, "headers": [(b"x-own", b"1")]})
        for piece in pieces:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": body})

    return app


def check(hub, sent, asked):
    start, body = sent
    headers = {name.decode(): value.decode() for name, value in start["headers"]}
    found = certificate.open_identity(hub.signer.certificate(), PAIR[1], hub.time, purpose="document")
    answer_signature.verify(
        headers,
        status=start["status"],
        content=body["body"],
        request=answer_signature.request_signature(asked["signature"]),
        key_of=lambda _: found[2],
    )
    assert found[:2] == ("hub", "hub")
    assert certificate.fingerprint(hub.signer.certificate()) in headers["signature-input"]


@pytest.mark.parametrize("status", [200, 204, 401, 503])
def test_whole_answers_are_signed_whatever_they_say(status):
    hub, asked = Hub(answering(status=status)), signed_request()
    sent = asyncio.run(hub.ask(asked))
    check(hub, sent, asked)
    assert (b"x-own", b"1") in sent[0]["headers"]


def test_an_answer_to_nobody_is_not_signed():
    sent = asyncio.run(Hub(answering()).ask({}))
    assert sent[0]["headers"] == [(b"x-own", b"1")]


def test_a_stream_passes_as_it_is():
    sent = asyncio.run(Hub(answering(pieces=[b"a", b"b"])).ask(signed_request()))
    assert sent[0]["headers"] == [(b"x-own", b"1")]
    assert b"".join(part["body"] for part in sent[1:]) == b"abhello"


def test_a_file_that_the_server_sends_passes_as_it_is():
    async def app(_scope, _receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.pathsend", "path": "/a"})

    sent = asyncio.run(Hub(app).ask(signed_request()))
    assert [part["type"] for part in sent] == ["http.response.start", "http.response.pathsend"]
    assert sent[0]["headers"] == []


def test_the_key_changes_at_the_half_of_its_life_and_when_told():
    hub = Hub(answering())
    first = hub.signer.certificate()
    hub.time += 43_199
    assert hub.signer.certificate() == first
    hub.time += 1
    second = hub.signer.certificate()
    assert second != first
    hub.signer.renew()
    assert hub.signer.certificate() != second


def refused(sent):
    assert sent[0]["status"] == 401
    return msgspec.json.decode(sent[1]["body"])["type"]


def test_a_held_request_of_whoever_is_revoked_is_ended_and_refused():
    async def play():
        never = asyncio.Event()
        hub, asked = Hub(answering(wait=never)), signed_request()
        watching = asyncio.create_task(hub.revocations.watch())
        asking = asyncio.create_task(hub.ask(asked))
        await asyncio.sleep(0)
        hub.gone.add("arran")
        done, _ = await asyncio.wait({asking}, timeout=5)
        watching.cancel()
        assert done == {asking}
        sent = asking.result()
        assert refused(sent) == SignatureError.code
        check(hub, sent, asked)

    asyncio.run(play())


def test_what_was_found_for_whoever_was_revoked_meanwhile_is_not_sent(monkeypatch):
    async def play():
        ready = asyncio.Event()
        hub = Hub(answering(b"a task", wait=ready))
        asking = asyncio.create_task(hub.ask(signed_request()))
        await asyncio.sleep(0)
        hub.gone.add("arran")
        started = time.monotonic()
        monkeypatch.setattr(time, "monotonic", lambda: started + 10)
        ready.set()
        sent = await asking
        assert refused(sent) == SignatureError.code
        assert len(sent) == 2

    asyncio.run(play())


def test_others_are_not_ended_and_a_cancelled_request_stays_cancelled():
    async def play():
        ready = asyncio.Event()
        hub, asked = Hub(answering(wait=ready)), signed_request()
        hub.gone.add("bute")
        asking = asyncio.create_task(hub.ask(asked))
        await asyncio.sleep(0)
        hub.revocations._end(frozenset({"bute"}))
        ready.set()
        check(hub, await asking, asked)
        ready.clear()
        asking = asyncio.create_task(hub.ask(asked))
        await asyncio.sleep(0)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking

    asyncio.run(play())


@pytest.mark.parametrize("path", PUBLIC)
def test_public_addresses_are_let_through(path):
    sent = asyncio.run(Hub(PublicOnly(answering())).ask({}, path=path))
    assert sent[0]["status"] == 200


@pytest.mark.parametrize(
    "path", ["/v1/tasks", "/v1/studies", "/", "", "/healthz/", "/healthz/../v1/tasks", "//healthz", "/v1/authority/x"]
)
def test_nothing_else_is(path):
    sent = asyncio.run(Hub(PublicOnly(answering())).ask({}, path=path))
    assert sent[0]["status"] == 404
    assert msgspec.json.decode(sent[1]["body"])["type"] == "protocol/not-found"


def test_an_address_that_ends_in_a_slash_stands_for_what_is_below():
    hub = Hub(PublicOnly(answering(), [*PUBLIC, "/login/"]))
    assert asyncio.run(hub.ask({}, path="/login/start"))[0]["status"] == 200
    assert asyncio.run(hub.ask({}, path="/login"))[0]["status"] == 404
    assert asyncio.run(hub.ask({}, path="/loginx/"))[0]["status"] == 404
