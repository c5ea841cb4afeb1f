"""Which addresses are dialled, and how long is waited."""

import contextlib
from email.message import Message

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wardround.errors import ClinicalError, ConfigError
from wardround.sources.fhir_http import Wire, checked_url, is_here, origin, retry_after, tls
from wardround.sources.fhir_server import FhirServer, ServerSettings, instant, open_server, stream_of_pieces
from wardround.sources.site import Site

SERVER = FhirServer("https://fhir.example.org:8443/r4", Wire(tls()))


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://fhir.example.org/r4", "https://fhir.example.org:443"),
        ("https://FHIR.example.org:8443/r4?x=1", "https://fhir.example.org:8443"),
        ("http://127.0.0.1:8080/r4", "http://127.0.0.1:8080"),
        ("http://127.9.9.9/", "http://127.9.9.9:80"),
        ("http://[::1]:8080/", "http://::1:8080"),
        ("http://localhost/", "http://localhost:80"),
    ],
)
def test_https_and_this_machine_may_be_dialled(url, expected):
    assert origin(url) == expected


@pytest.mark.parametrize(
    "url",
    [
        "",
        "fhir.example.org",
        "http://fhir.example.org/r4",
        "http://127.0.0.1.example.org/",
        "http://10.0.0.1/",
        "http://0.0.0.0/",
        "http://2130706433/",
        "https://",
        "https:///x",
        "https://user@example.org/",
        "https://user:secret@example.org/",
        "https://@example.org/",
        "https://example.org/#x",
        "https://example.org:99999/",
        "https://example.org:x/",
        "https://example.org/a b",
        "https://example.org/a\r\nHost: x",
        "https://example.org\\@evil.example/",
        "https://exämple.org/",
        "https://[::1/",
        "ftp://example.org/",
        "file:///etc/passwd",
        "unix:///var/run/docker.sock",
        "https://example.org/" + "x" * 9000,
    ],
)
def test_nothing_else_is(url):
    with pytest.raises(ValueError):
        checked_url(url)


@given(text=st.text(max_size=40))
def test_whatever_follows_the_scheme_is_an_address_or_a_value_error(text):
    for scheme in ("https://", "http://"):
        try:
            parts = checked_url(scheme + text)
        except ValueError:
            continue
        assert parts.scheme == "https" or is_here(parts.hostname)


@given(text=st.text(max_size=40) | st.from_regex(r"[/\\]{0,3}[a-z.]{0,12}:?[0-9]{0,5}@?[a-z/.]{0,9}", fullmatch=True))
def test_an_address_of_the_servers_is_at_its_origin_or_refused(text):
    with contextlib.suppress(ClinicalError):
        assert origin(SERVER.own(text)) == "https://fhir.example.org:8443"


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("7", 7.0),
        (" 120 ", 120.0),
        ("0", 0.0),
        ("Thu, 01 Jan 1970 00:01:40 GMT", 90.0),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 0.0),
        ("", 3.0),
        ("-1", 3.0),
        ("1e9", 3.0),
        ("٣", 3.0),
        ("soon", 3.0),
        ("9" * 400, 3.0),
        ("Thu, 99 Jan 1970 00:01:40 GMT", 3.0),
    ],
)
def test_retry_after_is_a_number_or_a_date_or_nothing(text, seconds):
    headers = Message()
    headers["Retry-After"] = text
    assert retry_after(headers, 10.0, 3.0) == seconds
    assert retry_after(Message(), 10.0, 3.0) == 3.0


@pytest.mark.parametrize(
    "base", ["http://fhir.example.org/r4", "fhir", "https://x.example/r4?y=1", "https://u:p@x.example/"]
)
def test_a_base_that_cannot_be_dialled_is_refused_and_its_password_not_shown(base, tmp_path):
    with pytest.raises(ConfigError) as caught:
        open_server(ServerSettings(base=base), Site(folder=tmp_path))
    assert "u:p" not in str(caught.value)


def test_a_file_host_or_an_authority_that_is_of_no_use_is_refused(tmp_path):
    (tmp_path / "ca.pem").write_text("no certificate")
    for settings in (
        ServerSettings(base="https://x.example", file_hosts=("files.example",)),
        ServerSettings(base="https://x.example", ca="ca.pem"),
        ServerSettings(base="https://x.example", ca="absent.pem"),
    ):
        with pytest.raises(ConfigError):
            open_server(settings, Site(folder=tmp_path))


@given(pieces=st.lists(st.binary(max_size=20), max_size=10), size=st.integers(1, 9))
def test_pieces_are_a_stream_of_the_same_bytes(pieces, size):
    stream = stream_of_pieces(iter(pieces))
    read = b""
    while part := stream.read(size):
        read += part
    assert read == b"".join(pieces)


def test_an_instant_is_written_in_utc():
    assert instant(0) == "1970-01-01T00:00:00Z"
    assert instant(-1) == "1969-12-31T23:59:59Z"
    assert instant(1_750_000_000_999_999) == "2025-06-15T15:06:40Z"
