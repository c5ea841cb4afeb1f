"""An invite reads back as it was written, and anything else is no invite."""

import base64

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from wardround.crypto import signing
from wardround.errors import ConfigError, CryptoError, InviteError
from wardround.ids import Digest, SiteId
from wardround.protocol.invite import Invite, format_invite, parse_invite
from wardround.transport import connection, credential, enrolling, http

INVITE = Invite(SiteId("arran"), "site", "https://hub.example.org:8443", Digest("a" * 64), "secret")
PREFIX = "wardround-invite-"


def test_an_invite_reads_back() -> None:
    line = format_invite(INVITE)
    assert parse_invite(line) == INVITE
    assert parse_invite(f"  {line}\n") == INVITE
    assert "\n" not in line


@given(st.text())
@example("")
@example(PREFIX)
@example(PREFIX + "é")
@example("=" * 7)
def test_text_that_is_no_invite(text: str) -> None:
    with pytest.raises(InviteError):
        parse_invite(text)


@given(st.binary())
@example(b"\x95\xa5arran\xa4site\xa0\xa0\xa0")
@example(b"\x91" * 2000)
def test_bytes_that_are_no_invite(data: bytes) -> None:
    with pytest.raises(InviteError):
        parse_invite(PREFIX + base64.urlsafe_b64encode(data).decode())


@given(st.integers(min_value=0), st.sampled_from("AZaz09-_~ é\n"))
def test_an_invite_with_a_slip(place: int, letter: str) -> None:
    line = format_invite(INVITE)
    place = len(PREFIX) + place % (len(line) - len(PREFIX))
    slipped = line[:place] + letter + line[place + 1 :]
    try:
        found = parse_invite(slipped)
    except InviteError:
        return
    assert isinstance(found, Invite)  # A slip in the secret or the address is noticed by the hub.


@pytest.mark.parametrize(
    "change",
    [{"name": "Not A Name"}, {"name": "../../etc"}, {"authority": "A" * 64}, {"authority": ""}, {"role": "king"}],
)
def test_an_invite_with_a_part_that_is_none(change: dict[str, str]) -> None:
    with pytest.raises(InviteError, match="copy the whole line"):
        parse_invite(format_invite(msgspec.structs.replace(INVITE, **change)))


def test_an_invite_for_another_role_is_refused_before_the_hub_is_asked() -> None:
    with pytest.raises(InviteError, match="for a site, not for a researcher"):
        enrolling.enrol(format_invite(INVITE), role="researcher")


@pytest.mark.parametrize(
    "url",
    [
        "http://hub.example.org",
        "hub.example.org:8443",
        "https://",
        "https://hub/path",
        "ftp://hub",
        "",
        "https://hub:port",
        "https://hub:99999",
        "https://[::1",
    ],
)
def test_addresses_that_are_none(url: str) -> None:
    with pytest.raises(ConfigError, match="looks like"):
        http.HttpHub(url, name=SiteId("arran"), credential=credential.bare(signing.generate()), authority=b"")


@pytest.mark.parametrize("authority", [b"", b"no certificate", b"\xff\xfe"])
def test_an_authority_that_is_no_certificate(authority: bytes) -> None:
    with pytest.raises((CryptoError, ConfigError)):
        connection.tls_context(authority)
