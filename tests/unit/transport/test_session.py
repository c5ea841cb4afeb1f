"""A session signs with the present key, tries the other one when refused, and renews before it asks too late."""

import time

import pytest

from wardround.crypto import certificate, http_signature, signing
from wardround.errors import SignatureError, UnavailableError
from wardround.transport import credential
from wardround.transport.session import Session

NOW = time.time()
KEY, AUTHORITY = certificate.create_authority("Test", NOW)
EMPTY = bytes(32)


def issue(key):
    return certificate.certify(key.public_key(), "arran", "site", KEY, AUTHORITY, NOW, 86400.0)


@pytest.fixture
def session(tmp_path):
    key = signing.generate()
    held = credential.commit(tmp_path / "connection.pem", key, issue(key))
    return Session("https://hub", name="arran", held=held, authority=AUTHORITY)


def signer(session, key, **more):
    signed = session.sign("GET", "/v1/studies", EMPTY, **more)
    found = http_signature.parse("GET", "/v1/studies", signed.headers)
    found.verify(key.public_key())
    return signed


def test_a_persons_tokens_go_with_the_request_and_are_covered(session):
    signed = signer(session, session.held.key, authorization="DPoP a.b.c", dpop="d.e.f")
    assert signed.headers["authorization"] == "DPoP a.b.c"
    assert '"authorization" "dpop"' in signed.headers["signature-input"]
    with pytest.raises(SignatureError):
        http_signature.parse("GET", "/v1/studies", signed.headers | {"dpop": "d.e.g"}).verify(
            session.held.key.public_key()
        )


def test_a_refused_key_gives_way_to_the_one_that_waits_and_then_to_the_one_in_the_file(session):
    first, path = session.held.key, session.held.path
    assert not session.switch(first)
    waiting = credential.stage(path)
    assert session.switch(first)
    signer(session, waiting)
    number = session.way.number
    credential.commit(path, waiting, issue(waiting))
    another = signing.generate()
    credential.commit(path, another, issue(another))
    assert session.switch(session.way.key)
    signer(session, another)
    assert session.way.number == number + 1


def test_a_refusal_of_a_key_that_was_replaced_meanwhile_is_only_late(session):
    first = session.held.key
    key = signing.generate()
    session.use(credential.commit(session.held.path, key, issue(key)), AUTHORITY)
    assert session.switch(first)
    signer(session, key)


def test_a_key_without_a_file_has_no_other(tmp_path):
    key = signing.generate()
    assert not Session("https://hub", name="arran", held=credential.bare(key), authority=AUTHORITY).switch(key)


def test_half_of_the_life_over_means_another_certificate_before_the_next_request(session, monkeypatch):
    asked, key = [], signing.generate()

    def refresh():
        asked.append(key)
        return credential.commit(session.held.path, key, issue(key))

    session.keep_fresh(refresh, lambda: AUTHORITY)
    signer(session, session.held.key)
    assert asked == []
    monkeypatch.setattr(time, "time", lambda: NOW + 44_000.0)
    signer(session, key)
    assert asked == [key]


def test_an_unwilling_hub_is_not_asked_before_each_request(session, monkeypatch):
    asked = []

    def refresh():
        asked.append(1)
        return session.held

    session.keep_fresh(refresh, lambda: AUTHORITY)
    moment = NOW + 44_000.0
    monkeypatch.setattr(time, "time", lambda: moment)
    for _ in range(5):
        signer(session, session.held.key)
    assert len(asked) == 1
    moment += 31.0
    signer(session, session.held.key)
    assert len(asked) == 2


def test_an_unsigned_outage_is_an_outage_and_an_unsigned_answer_is_none(session):
    class Response:
        def __init__(self, status):
            self.status = status

        def getheaders(self):
            return [("Content-Type", "text/html")]

    signed = session.sign("GET", "/v1/studies", EMPTY)
    with pytest.raises(UnavailableError, match="502"):
        session.check(Response(502), b"", signed)
    for status in (200, 204, 302, 403):
        with pytest.raises(SignatureError, match="not signed by the hub"):
            session.check(Response(status), b"", signed)
