"""A connection that the hub closed while nobody spoke is opened again, once, and nothing else is tried twice."""

import http.client

import pytest

from wardround.crypto import signing
from wardround.errors import UnavailableError
from wardround.transport import connection, credential
from wardround.transport import http as transport


class Answer:
    status = 200

    def read(self, _most):
        return b"answer"


class Connection:
    """Answers, or breaks as told."""

    sock = object()

    def __init__(self, breaks):
        self.breaks = breaks
        self.requests = 0

    def request(self, *_arguments, **_more):
        self.requests += 1
        if self.breaks:
            raise self.breaks.pop(0)

    def getresponse(self):
        return Answer()

    def close(self):
        pass


@pytest.fixture
def hub(monkeypatch):
    made = []

    def open_with(*breaks_of_each):
        waiting = [Connection(list(breaks)) for breaks in breaks_of_each]

        def connect(*_arguments):
            made.append(waiting.pop(0))
            return made[-1]

        monkeypatch.setattr(transport, "connect", connect)
        monkeypatch.setattr(connection, "tls_context", lambda *_: None)
        monkeypatch.setattr(transport.Session, "check", lambda *_: None)
        held = credential.bare(signing.generate())
        return transport.HttpHub("https://127.0.0.1:1", name="a", credential=held, authority=b""), made

    return open_with


def test_a_kept_connection_that_was_closed_is_opened_again(hub):
    opened, made = hub([], [])
    assert opened._call("GET", "/x") == b"answer"
    made[0].breaks = [http.client.RemoteDisconnected("")]
    assert opened._call("GET", "/x") == b"answer"
    assert [one.requests for one in made] == [2, 1]


def test_a_new_connection_that_breaks_is_not_tried_again(hub):
    opened, made = hub([http.client.RemoteDisconnected("")], [])
    with pytest.raises(UnavailableError):
        opened._call("GET", "/x")
    assert len(made) == 1


def test_a_kept_connection_that_breaks_otherwise_is_not_tried_again(hub):
    opened, made = hub([], [])
    opened._call("GET", "/x")
    made[0].breaks = [TimeoutError()]
    with pytest.raises(UnavailableError):
        opened._call("GET", "/x")
    assert len(made) == 1
