"""Three steps from one authority to another, each only when nobody needs what it takes away."""

import hashlib

import pytest

from wardround.config import HubConfig
from wardround.crypto import certificate, server_certificate, signing
from wardround.errors import ConfigError, CryptoError
from wardround.hub import authorities, setup
from wardround.protocol.messages import Identity

START = 1_760_000_000.0
DAY = 86400.0
CONFIG = HubConfig()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(setup.SystemClock, "now", lambda _: START)
    setup.init(tmp_path / "hub", listen="127.0.0.1:8443", hosts=["hub.example", "127.0.0.1"])
    return tmp_path / "hub"


def identity(folder, now, name="arran"):
    pair = authorities.present(folder, CONFIG)
    parts = [
        certificate.certify(signing.generate().public_key(), name, "site", *pair, now, DAY, purpose=purpose)
        for purpose in ("connection", "document")
    ]
    return Identity(name, "site", b"".join(parts))


def trusted(folder):
    return len(certificate.split((folder / "authority.crt").read_bytes()))


def state(folder):
    names = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in names}


def test_a_new_authority_takes_over_once_all_have_heard_of_it(folder):
    old = authorities.present(folder, CONFIG)
    early = identity(folder, START)
    assert "announced" in authorities.rotate(folder, CONFIG, [early], START + 10)
    assert trusted(folder) == 2
    assert authorities.present(folder, CONFIG)[0] == old[0]
    before = state(folder)
    with pytest.raises(ConfigError, match=r"1 have not renewed.*: arran"):
        authorities.rotate(folder, CONFIG, [early], START + 20)
    assert state(folder) == before
    heard = identity(folder, START + 30)
    assert "issues from now on" in authorities.rotate(folder, CONFIG, [heard], START + 40)
    key, both = authorities.present(folder, CONFIG)
    assert key != old[0]
    certificate.open_identity(heard.certificate, both, START + 50)
    with pytest.raises(ConfigError, match="certificates of the old"):
        authorities.rotate(folder, CONFIG, [heard], START + 50)
    renewed = identity(folder, START + 60)
    assert "forgotten" in authorities.rotate(folder, CONFIG, [renewed], START + 70)
    assert trusted(folder) == 1
    certificate.open_identity(renewed.certificate, authorities.present(folder, CONFIG)[1], START + 70)
    with pytest.raises(CryptoError, match="not issued"):
        certificate.open_identity(heard.certificate, authorities.present(folder, CONFIG)[1], START + 70)


def test_who_renewed_in_the_same_second_before_has_not_heard(folder):
    early = identity(folder, START + 10.1)
    authorities.rotate(folder, CONFIG, [early], START + 10.9)
    with pytest.raises(ConfigError, match="1 have not renewed"):
        authorities.rotate(folder, CONFIG, [early], START + 11)
    authorities.rotate(folder, CONFIG, [identity(folder, START + 12)], START + 13)


def test_who_will_not_come_is_not_waited_for_with_force(folder):
    late = identity(folder, START)
    for number in (2, 2, 1):
        authorities.rotate(folder, CONFIG, [late], START + 10, force=True)
        assert trusted(folder) == number


def test_a_step_that_was_cut_off_is_done_again(folder):
    waiting = folder / "keys" / "authority.next.key"
    waiting.write_bytes(certificate.create_authority("Never announced", START)[0])
    authorities.rotate(folder, CONFIG, [], START + 10)
    held = certificate.split((folder / "authority.crt").read_bytes())
    assert len(held) == 2
    assert [server_certificate.fits(one, waiting.read_bytes()) for one in held] == [False, True]
    authorities.rotate(folder, CONFIG, [], START + 20)
    assert not waiting.exists()


def test_the_servers_certificate_is_renewed_at_half_its_life_for_the_same_names(folder):
    before = (folder / "tls.crt").read_bytes()
    assert not authorities.renew_tls(folder, CONFIG, START + 3 * DAY)
    assert authorities.renew_tls(folder, CONFIG, START + 3.6 * DAY)
    after = (folder / "tls.crt").read_bytes()
    assert server_certificate.hosts(after) == server_certificate.hosts(before) == ["hub.example", "127.0.0.1"]
    assert server_certificate.fits(after, (folder / "keys" / "tls.key").read_bytes())
    assert certificate.expires(after) == START + 3.6 * DAY + authorities.TLS_SECONDS
    assert (folder / "keys" / "tls.key").stat().st_mode & 0o077 == 0


def test_the_servers_certificate_is_renewed_where_its_key_or_authority_is_another(folder):
    (folder / "keys" / "tls.key").write_bytes(certificate.create_authority("x", START)[0])
    assert authorities.renew_tls(folder, CONFIG, START)
    authorities.rotate(folder, CONFIG, [], START)
    assert not authorities.renew_tls(folder, CONFIG, START)
    authorities.rotate(folder, CONFIG, [], START)
    assert authorities.renew_tls(folder, CONFIG, START)
    key, _ = authorities.present(folder, CONFIG)
    assert server_certificate.is_of((folder / "tls.crt").read_bytes(), key)


def test_keys_that_are_no_files_are_rotated_elsewhere(folder):
    with pytest.raises(ConfigError):
        authorities.rotate(folder, HubConfig(authority_key="env:NO_SUCH"), [], START)


@pytest.mark.parametrize("data", [b"", b"no key", b"\xff" * 40])
def test_files_that_are_none_are_named(folder, data):
    (folder / "keys" / "authority.key").write_bytes(data)
    with pytest.raises(CryptoError):
        authorities.renew_tls(folder, CONFIG, START + 6 * DAY)
