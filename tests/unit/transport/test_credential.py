"""One file with key and certificate, a next key that is on the disk first, and a renewal that survives anything."""

import stat
import time

import pytest

from wardround.crypto import certificate, signing
from wardround.errors import ConfigError, CryptoError, SignatureError, UnavailableError
from wardround.ids import SiteId
from wardround.protocol.messages import Enrolled
from wardround.transport import credential, keeping, renewing
from wardround.transport.renewing import Place

NOW = float(int(time.time()))
DAY = 86400.0
KEY, AUTHORITY = certificate.create_authority("Test", NOW - DAY)
OTHER_KEY, OTHER = certificate.create_authority("Other", NOW - DAY)


def issue(key, *, name="arran", now=NOW, purpose="connection", pair=(KEY, AUTHORITY), seconds=DAY):
    return certificate.certify(key.public_key(), name, "site", *pair, now, seconds, purpose=purpose)


def raw(key):
    return signing.private_pem(key)


@pytest.fixture
def place(tmp_path):
    made = Place(
        SiteId("arran"), "https://hub", tmp_path / "keys/connection.pem", tmp_path / "node.crt", tmp_path / "a"
    )
    made.authority.write_bytes(AUTHORITY)
    made.document.write_bytes(b"old")
    key = signing.generate()
    credential.commit(made.connection, key, issue(key))
    return made


class Hub:
    """Answers renewals as the real one does: the key that is asked for becomes the only one."""

    def __init__(self, place, monkeypatch):
        self.place, self.known, self.asked = place, raw(credential.load(place.connection).key), []
        self.lose, self.authority, self.wrong, self.pair = 0, AUTHORITY, {}, (KEY, AUTHORITY)
        monkeypatch.setattr(renewing, "_ask", self.ask)

    def ask(self, place, key, renewal):
        self.asked.append(raw(key))
        if raw(key) != self.known:
            raise SignatureError("not the key known for arran")
        waiting = credential.pending(place.connection)
        assert waiting is not None, "the next key is on the disk before it is asked for"
        assert certificate.open_request(renewal.certificate_request, "arran") == waiting.public_key()
        self.known = raw(waiting)
        if self.lose:
            self.lose -= 1
            raise UnavailableError("the answer is lost")
        document = signing.generate()
        fields = {
            "name": "arran",
            "role": "site",
            "certificate": issue(waiting, pair=self.pair),
            "authority": self.authority,
            "document": issue(document, purpose="document", pair=self.pair),
        }
        return Enrolled(**(fields | self.wrong))


def test_a_file_is_its_owners_alone_and_is_replaced_as_a_whole(place):
    first = place.connection.read_bytes()
    assert stat.S_IMODE(place.connection.stat().st_mode) == 0o600
    key = signing.generate()
    credential.commit(place.connection, key, issue(key))
    assert place.connection.read_bytes() != first
    assert stat.S_IMODE(place.connection.stat().st_mode) == 0o600
    assert [path.name for path in place.connection.parent.iterdir()] == ["connection.pem"]


def test_a_file_that_others_read_is_refused(place):
    place.connection.chmod(0o640)
    with pytest.raises(ConfigError, match="chmod 600"):
        credential.load(place.connection)


@pytest.mark.parametrize("data", [b"", b"nothing", b"\xff" * 100, b"-----BEGIN CERTIFICATE-----\n"])
def test_a_file_that_is_none_is_named(place, data):
    place.connection.write_bytes(data)
    with pytest.raises(CryptoError):
        credential.load(place.connection)
    place.connection.unlink()
    with pytest.raises(ConfigError, match="enrol again"):
        credential.load(place.connection)


def test_a_certificate_for_another_key_never_reaches_the_file(place, monkeypatch):
    hub, before = Hub(place, monkeypatch), place.connection.read_bytes()
    hub.wrong = {"certificate": issue(signing.generate())}
    with pytest.raises(CryptoError, match="another name or key"):
        renewing.renew(place)
    assert place.connection.read_bytes() == before


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": "bute", "role": "researcher"},
        {"authority": OTHER},
        {"authority": b"none"},
        {"document": b"none"},
        {"certificate": b""},
    ],
)
def test_an_answer_that_does_not_fit_changes_nothing(place, monkeypatch, wrong):
    hub = Hub(place, monkeypatch)
    before = [path.read_bytes() for path in (place.connection, place.document, place.authority)]
    hub.wrong = wrong
    with pytest.raises(CryptoError):
        renewing.renew(place)
    assert [path.read_bytes() for path in (place.connection, place.document, place.authority)] == before


def test_authorities_of_which_none_was_trusted_are_not_taken_over(place, monkeypatch):
    hub, before = Hub(place, monkeypatch), place.connection.read_bytes()
    hub.authority, hub.pair = OTHER, (OTHER_KEY, OTHER)
    with pytest.raises(CryptoError, match="trusts none"):
        renewing.renew(place)
    assert place.authority.read_bytes() == AUTHORITY
    assert place.connection.read_bytes() == before


def test_a_renewal_brings_key_certificate_document_and_authorities(place, monkeypatch):
    hub, before = Hub(place, monkeypatch), place.connection.read_bytes()
    hub.authority = AUTHORITY + OTHER
    held = renewing.renew(place)
    assert raw(held.key) == hub.known
    assert place.connection.read_bytes() != before
    assert place.authority.read_bytes() == AUTHORITY + OTHER
    assert certificate.open_identity(place.document.read_bytes(), AUTHORITY, NOW, purpose="document")
    assert credential.pending(place.connection) is None


@pytest.mark.parametrize("times", [1, 3])
def test_lost_answers_are_asked_for_again_with_the_same_key(place, monkeypatch, times):
    hub = Hub(place, monkeypatch)
    hub.lose = times
    for _ in range(times):
        with pytest.raises(UnavailableError):
            renewing.renew(place)
    waiting = credential.pending(place.connection)
    held = renewing.renew(place)
    assert raw(held.key) == raw(waiting) == hub.known
    assert len(set(hub.asked)) == 2


def test_a_crash_after_the_file_was_replaced_leaves_no_next_key(place, monkeypatch):
    hub = Hub(place, monkeypatch)
    waiting = credential.stage(place.connection)
    credential.replace_private(place.connection, raw(waiting) + issue(waiting))
    assert credential.pending(place.connection) is None
    hub.known = raw(waiting)
    held = renewing.renew(place)
    assert raw(held.key) != raw(waiting)


def test_a_name_that_was_revoked_hears_so_and_keeps_its_files(place, monkeypatch):
    hub, before = Hub(place, monkeypatch), place.connection.read_bytes()
    hub.known = b"nobody's"
    with pytest.raises(SignatureError):
        renewing.renew(place)
    assert place.connection.read_bytes() == before
    assert len(hub.asked) == 2


def test_a_renewal_that_another_process_did_meanwhile_is_not_done_twice(place, monkeypatch):
    hub = Hub(place, monkeypatch)
    assert renewing.renew(place, unless=lambda _: True).certificate == credential.load(place.connection).certificate
    assert hub.asked == []


def test_renewals_begin_at_the_half_of_life_each_a_little_later_than_another(place):
    held = credential.load(place.connection)
    assert held.due(0.0) == NOW + DAY / 2
    assert held.due(1.0) == NOW + 0.6 * DAY
    assert held.expires() == NOW + DAY


def test_a_command_renews_when_half_is_over_and_not_before(place, monkeypatch):
    hub = Hub(place, monkeypatch)
    assert keeping.refresh(place).certificate == credential.load(place.connection).certificate
    assert hub.asked == []
    monkeypatch.setattr(keeping.time, "time", lambda: NOW + 0.51 * DAY)
    keeping.refresh(place)
    assert len(hub.asked) == 1


def test_a_hub_that_is_down_is_survived_until_the_end_and_no_longer(place, monkeypatch):
    def down(*_):
        raise UnavailableError("no answer")

    monkeypatch.setattr(renewing, "_ask", down)
    monkeypatch.setattr(keeping.time, "time", lambda: NOW + 0.9 * DAY)
    assert keeping.refresh(place).certificate == credential.load(place.connection).certificate
    monkeypatch.setattr(keeping.time, "time", lambda: NOW + DAY)
    with pytest.raises(UnavailableError):
        keeping.refresh(place)


class Way:
    """What a keeper needs of a hub."""

    def __init__(self, held):
        self.session, self.held, self.used = self, held, []

    def use(self, held, authority):
        self.held = held
        self.used.append(authority)


class Draws:
    def draw(self, size):
        return bytes(size)


def test_a_keeper_renews_when_due_and_hands_over_what_others_renewed(place, monkeypatch):
    hub = Hub(place, monkeypatch)
    way = Way(credential.load(place.connection))
    keeper = keeping.Keeper(place, way, Draws())
    assert keeper.step(NOW) == 60.0
    assert hub.asked == way.used == []
    monkeypatch.setattr(keeping.time, "time", lambda: NOW + DAY / 2)
    keeper.step(NOW + DAY / 2)
    assert len(hub.asked) == len(way.used) == 1
    assert raw(way.held.key) == hub.known
    renewing.renew(place)
    keeper.step(NOW)
    assert raw(way.held.key) == hub.known
    assert len(way.used) == 2
