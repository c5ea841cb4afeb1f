"""What is kept of a notification."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wardround.errors import CodecError, ConfigError
from wardround.sources import fhir_notifications
from wardround.sources.fhir_notifications import FhirNotificationsSettings, kept, kept_deletion
from wardround.sources.site import Site

BASE = "https://fhir.example.org/r4"
PATIENT = {"resourceType": "Patient", "id": "p1", "birthDate": "1950-01-01"}


def sent(body):
    return body if isinstance(body, bytes) else json.dumps(body).encode()


def r4(*entries, kind="event-notification", focus=()):
    parts = [{"name": "focus", "valueReference": {"reference": one}} for one in focus]
    parameters = [{"name": "type", "valueCode": kind}, {"name": "notification-event", "part": parts}]
    status = {"resourceType": "Parameters", "parameter": parameters}
    return {"resourceType": "Bundle", "type": "history", "entry": [{"resource": status}, *entries]}


def r5(*entries, kind="event-notification", focus=()):
    events = [{"eventNumber": "1", "focus": {"reference": one}} for one in focus]
    status = {"resourceType": "SubscriptionStatus", "type": kind, "notificationEvent": events}
    return {"resourceType": "Bundle", "type": "subscription-notification", "entry": [{"resource": status}, *entries]}


def lines(body, **more):
    return [line.split(b" ", 2)[:2] for line in kept(sent(body), **{"base": BASE} | more).split(b"\n")]


def test_a_resource_is_kept_as_it_was_sent_on_one_line():
    pretty = json.dumps(PATIENT, indent=2).replace("\n", "\r\n").encode()
    message = kept(pretty)
    assert b"\n" not in message
    assert message.startswith(b"resource Patient/p1 {")
    assert json.loads(message.split(b" ", 2)[2]) == PATIENT


@pytest.mark.parametrize("bundle", [r4, r5])
def test_whole_resources_references_and_deletions_are_kept_in_their_order(bundle):
    body = bundle(
        {"fullUrl": f"{BASE}/Patient/p1", "resource": PATIENT},
        {"fullUrl": f"{BASE}/Patient/p2/_history/3"},
        {"request": {"method": "DELETE", "url": "Patient/p3"}},
        {"request": {"method": "PUT", "url": "Patient/p4"}, "response": {"status": "200"}},
        focus=["Patient/p1", f"{BASE}/Patient/p5"],
    )
    assert lines(body) == [
        [b"resource", b"Patient/p1"],
        [b"reference", b"Patient/p2"],
        [b"deleted", b"Patient/p3"],
        [b"reference", b"Patient/p4"],
        [b"reference", b"Patient/p5"],
    ]


@pytest.mark.parametrize("bundle", [r4, r5])
@pytest.mark.parametrize("kind", ["handshake", "heartbeat"])
def test_a_handshake_and_a_heartbeat_leave_nothing(bundle, kind):
    assert kept(sent(bundle(kind=kind))) == b""


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b'{"resourceType":"Patient"}',
        b'{"resourceType":"Patient","id":7}',
        b'{"resourceType":"Patient","id":"../x"}',
        b'{"resourceType":"Patient","id":"a\\nb"}',
        b'{"resourceType":"Pat ient","id":"a"}',
        b'{"resourceType":"Patient","id":"a"',
        b'{"resourceType":"Patient","id":"a"} {}',
        b"\xff",
        b"{" * 100_000,
        r4(),
        r5(),
        {"resourceType": "Bundle"},
        {"resourceType": "Bundle", "type": "history", "entry": []},
        {"resourceType": "Bundle", "type": "history", "entry": [{}]},
        {"resourceType": "Bundle", "type": "history", "entry": [{"resource": PATIENT}]},
        {"resourceType": "Bundle", "type": "searchset", "entry": r4()["entry"]},
        r4({"resource": r4()}),
        r4({"resource": {"resourceType": "Patient"}}),
        r4({}),
        r4({"fullUrl": "urn:uuid:1"}),
        r4({"fullUrl": "https://evil.example/r4/Patient/p1"}),
        r4({"fullUrl": "https://fhir.example.org/r4/../r4/Patient/p1"}),
        r4({"fullUrl": f"{BASE}/Patient/p1?x"}),
        r4({"request": {"method": "DELETE", "url": "Patient?name=x"}}),
        r4(focus=["https://evil.example/r4/Patient/p1"]),
        r4(focus=["#p1"]),
        r5(*[{"request": {"url": "Patient/p"}}] * 10_001),
    ],
)
def test_whatever_else_is_refused_without_being_shown(body):
    with pytest.raises(CodecError) as caught:
        kept(sent(body), base=BASE)
    assert "p1" not in str(caught.value)
    assert "evil" not in str(caught.value)


def test_references_are_refused_where_nothing_could_be_fetched():
    with pytest.raises(CodecError, match="names no server"):
        kept(sent(r4(focus=["Patient/p1"])))
    assert kept(sent(r4({"resource": PATIENT}, focus=["Patient/p1"]))).startswith(b"resource Patient/p1 ")


def test_a_resource_is_the_one_that_it_was_sent_to():
    assert kept(sent(PATIENT), place="Patient/p1")
    with pytest.raises(CodecError):
        kept(sent(PATIENT), place="Patient/p2")
    assert kept_deletion("Patient/p1") == b"deleted Patient/p1"


@given(text=st.text(max_size=60), place=st.text(max_size=30))
def test_what_is_kept_is_whole_lines_of_three_kinds_whatever_was_sent(text, place):
    for body in (
        PATIENT | {"note": text, "id": place},
        r4({"fullUrl": place}),
        r5(focus=[place]),
        r4({"resource": PATIENT}),
    ):
        try:
            message = kept(sent(body), base=BASE)
        except CodecError:
            continue
        for line in message.split(b"\n"):
            assert line.split(b" ")[0] in {b"resource", b"reference", b"deleted"}


@pytest.mark.parametrize("key", ["xyz", "ab" * 31, "é"])
def test_a_key_of_another_form_is_refused_without_being_shown(key, tmp_path):
    (tmp_path / "key").write_text(key)
    settings = FhirNotificationsSettings(name="push", intake="x", intake_key="file:key", secret="env:S")
    with pytest.raises(ConfigError) as caught:
        fhir_notifications.open_inbox(settings, Site(folder=tmp_path))
    assert key not in str(caught.value)
