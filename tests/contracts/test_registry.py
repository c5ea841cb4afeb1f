"""Every registry keeps the port's promises."""

import abc
import sqlite3
from concurrent.futures import ThreadPoolExecutor

import pytest
from tests.contracts.disk import no_file_beyond
from tests.contracts.postgresql import new_database

from wardround.errors import ConflictError, InviteError, NotFoundError, StorageFullError, UnavailableError
from wardround.protocol.messages import Identity
from wardround.storage.database import open_database
from wardround.storage.memory import MemoryRegistry

INVITE = "a" * 64
NORTH = Identity("north", "site", b"certificate 1")


class RegistryContract(abc.ABC):
    @pytest.fixture
    @abc.abstractmethod
    def registry(self): ...

    def test_an_open_invite_says_whom_it_is_for(self, registry):
        registry.add_invite(INVITE, "north", "site", expires=10.0)
        assert registry.invited(INVITE, now=9.9) == ("north", "site")

    def test_an_unknown_invite_is_refused(self, registry):
        with pytest.raises(InviteError):
            registry.invited(INVITE, now=0.0)
        with pytest.raises(InviteError):
            registry.enrol(INVITE, NORTH, now=0.0)

    def test_an_invite_is_expired_from_its_last_instant_on(self, registry):
        registry.add_invite(INVITE, "north", "site", expires=10.0)
        for now in (10.0, 10.1):
            with pytest.raises(InviteError):
                registry.invited(INVITE, now=now)
            with pytest.raises(InviteError):
                registry.enrol(INVITE, NORTH, now=now)
        assert registry.identities() == []

    def test_the_same_invite_is_not_added_twice(self, registry):
        registry.add_invite(INVITE, "north", "site", expires=10.0)
        with pytest.raises(ConflictError):
            registry.add_invite(INVITE, "south", "operator", expires=20.0)
        assert registry.invited(INVITE, now=0.0) == ("north", "site")

    def test_enrolling_uses_the_invite_up(self, registry):
        registry.add_invite(INVITE, "north", "site", expires=10.0)
        registry.enrol(INVITE, NORTH, now=1.0)
        assert registry.identity("north") == NORTH
        with pytest.raises(InviteError):
            registry.invited(INVITE, now=2.0)
        with pytest.raises(InviteError):
            registry.enrol(INVITE, Identity("north", "site", b"thief"), now=2.0)
        assert registry.identity("north") == NORTH

    @pytest.mark.parametrize("other", [Identity("south", "site", b""), Identity("north", "operator", b"")])
    def test_an_invite_enrols_nobody_else_and_stays_open(self, registry, other):
        registry.add_invite(INVITE, "north", "site", expires=10.0)
        with pytest.raises(InviteError):
            registry.enrol(INVITE, other, now=1.0)
        assert registry.identities() == []
        assert registry.invited(INVITE, now=1.0) == ("north", "site")

    def test_a_new_certificate_replaces_the_old_one(self, registry):
        registry.add_identity(NORTH)
        registry.add_invite(INVITE, "north", "site", expires=10.0)
        registry.enrol(INVITE, Identity("north", "site", b"certificate 2"), now=1.0)
        assert registry.identities() == [Identity("north", "site", b"certificate 2")]

    def test_identities_are_listed_by_name(self, registry):
        for name in ("south", "north", "a-b", "ab"):
            registry.add_identity(Identity(name, "site", name.encode()))
        assert [identity.name for identity in registry.identities()] == ["a-b", "ab", "north", "south"]

    def test_an_unknown_name_is_not_found(self, registry):
        with pytest.raises(NotFoundError):
            registry.identity("north")
        with pytest.raises(NotFoundError):
            registry.revoke("north")

    def test_a_revoked_identity_is_not_found_until_it_is_enrolled_again(self, registry):
        registry.add_identity(NORTH)
        registry.revoke("north")
        assert registry.identities() == []
        with pytest.raises(NotFoundError):
            registry.identity("north")
        with pytest.raises(NotFoundError):
            registry.revoke("north")
        registry.add_identity(NORTH)
        assert registry.identity("north") == NORTH

    def test_a_certificate_is_replaced_where_it_is_still_the_one_before(self, registry):
        registry.add_identity(NORTH)
        registry.replace(Identity("north", "site", b"certificate 2"), before=b"certificate 1")
        assert registry.identity("north").certificate == b"certificate 2"
        with pytest.raises(ConflictError):
            registry.replace(Identity("north", "site", b"certificate 3"), before=b"certificate 1")
        assert registry.identity("north").certificate == b"certificate 2"

    def test_a_replacement_leaves_the_role_as_it_is(self, registry):
        registry.add_identity(NORTH)
        registry.replace(Identity("north", "operator", b"certificate 2"), before=b"certificate 1")
        assert registry.identity("north") == Identity("north", "site", b"certificate 2")

    def test_who_was_revoked_is_not_brought_back_by_a_replacement(self, registry):
        registry.add_identity(NORTH)
        registry.revoke("north")
        with pytest.raises(ConflictError):
            registry.replace(Identity("north", "site", b"certificate 2"), before=b"certificate 1")
        assert registry.identities() == []
        with pytest.raises(ConflictError):
            registry.replace(Identity("nobody", "site", b""), before=b"")

    def test_the_revoked_are_known_until_they_enrol_again(self, registry):
        registry.add_identity(NORTH)
        assert registry.revoked() == frozenset()
        registry.revoke("north")
        assert registry.revoked() == {"north"}
        registry.add_identity(NORTH)
        assert registry.revoked() == frozenset()


class DurableRegistryContract(RegistryContract):
    @pytest.fixture
    @abc.abstractmethod
    def url(self): ...

    @pytest.fixture
    def registry(self, url):
        with open_database(url) as database:
            yield database.registry

    def test_an_invite_enrols_exactly_one_of_many_newcomers_at_once(self, url):
        with open_database(url) as one, open_database(url) as two, ThreadPoolExecutor(8) as threads:
            for attempt in range(5):
                invite = f"{attempt:064x}"
                one.registry.add_invite(invite, "north", "site", expires=10.0)

                def enrol(number, invite=invite):
                    try:
                        registry = (one, two)[number % 2].registry
                        registry.enrol(invite, Identity("north", "site", b"%d" % number), now=1.0)
                    except InviteError:
                        return None
                    return b"%d" % number

                (winner,) = [found for found in threads.map(enrol, range(8)) if found is not None]
                assert two.registry.identity("north").certificate == winner

    def test_who_was_enrolled_is_so_after_reopening(self, url):
        with open_database(url) as database:
            database.registry.add_invite(INVITE, "north", "site", expires=10.0)
            database.registry.enrol(INVITE, NORTH, now=1.0)
        with open_database(url) as database:
            assert database.registry.identities() == [NORTH]
            with pytest.raises(InviteError):
                database.registry.invited(INVITE, now=1.0)


class TestMemory(RegistryContract):
    @pytest.fixture
    def registry(self):
        return MemoryRegistry()


class TestSqlite(DurableRegistryContract):
    @pytest.fixture
    def url(self, tmp_path):
        return f"sqlite:///{tmp_path}/hub.db"


class TestPostgresql(DurableRegistryContract):
    @pytest.fixture
    def url(self):
        return new_database()


def test_an_invite_stays_open_when_the_disk_is_full(tmp_path):
    with open_database(f"sqlite:///{tmp_path}/hub.db") as database:
        database.registry.add_invite(INVITE, "north", "site", expires=10.0)
        large = Identity("north", "site", b"x" * 2_000_000)
        with no_file_beyond(1_000_000), pytest.raises(StorageFullError):
            database.registry.enrol(INVITE, large, now=1.0)
        assert database.registry.identities() == []
        database.registry.enrol(INVITE, NORTH, now=1.0)


def test_an_invite_stays_open_when_the_database_is_locked(tmp_path):
    with open_database(f"sqlite:///{tmp_path}/hub.db", timeout_seconds=0.01) as database:
        database.registry.add_invite(INVITE, "north", "site", expires=10.0)
        other = sqlite3.connect(tmp_path / "hub.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(UnavailableError):
            database.registry.enrol(INVITE, NORTH, now=1.0)
        other.close()
        assert database.registry.invited(INVITE, now=1.0) == ("north", "site")
