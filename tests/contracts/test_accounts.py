"""What every store of people's accounts must do, over a database and over a vault."""

import abc
from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy as sa
from tests.contracts.postgresql import new_database

from wardround.errors import ConflictError, CryptoError
from wardround.storage import schema
from wardround.storage.accounts import open_accounts
from wardround.storage.database import open_database
from wardround.storage.memory import MemoryVault
from wardround.storage.vault import SealedVault
from wardround.storage.vault_accounts import VaultAccounts

KEY = bytes(range(32))


class AccountsContract(abc.ABC):
    @pytest.fixture
    @abc.abstractmethod
    def accounts(self): ...

    def test_what_was_written_is_read_with_its_version(self, accounts):
        assert accounts.read("account.ada") is None
        accounts.write("account.ada", b"one", after=0)
        assert accounts.read("account.ada") == (b"one", 1)
        accounts.write("account.ada", b"two", after=1)
        assert accounts.read("account.ada") == (b"two", 2)
        accounts.write("account.ada", b"", after=2)
        assert accounts.read("account.ada") == (b"", 3)

    def test_a_write_over_another_version_is_a_conflict_and_changes_nothing(self, accounts):
        accounts.write("account.ada", b"one", after=0)
        accounts.write("account.ada", b"two", after=1)
        for after in (0, 1, 3):
            with pytest.raises(ConflictError):
                accounts.write("account.ada", b"three", after=after)
        with pytest.raises(ConflictError):
            accounts.write("account.bob", b"x", after=1)
        assert accounts.read("account.ada") == (b"two", 2)
        assert accounts.read("account.bob") is None

    def test_a_deleted_document_is_gone_and_its_name_free(self, accounts):
        accounts.write("account.ada", b"one", after=0)
        with pytest.raises(ConflictError):
            accounts.delete("account.ada", after=2)
        accounts.delete("account.ada", after=1)
        assert accounts.read("account.ada") is None
        assert accounts.names("account.") == []
        with pytest.raises(ConflictError):
            accounts.delete("account.ada", after=1)
        accounts.write("account.ada", b"again", after=0)
        body, version = accounts.read("account.ada")
        assert body == b"again"
        accounts.write("account.ada", b"and again", after=version)

    def test_names_are_listed_by_prefix_sorted(self, accounts):
        for name in ("account.bob", "account.ada", "session.x", "accounts"):
            accounts.write(name, b"1", after=0)
        assert accounts.names("account.") == ["account.ada", "account.bob"]

    def test_a_name_that_begins_like_another_is_another(self, accounts):
        accounts.write("account.ada", b"1", after=0)
        accounts.write("account.ada-b", b"2", after=0)
        assert accounts.read("account.ada") == (b"1", 1)
        assert accounts.read("account.ad") is None

    def test_of_many_writers_over_one_version_exactly_one_succeeds(self, accounts):
        accounts.write("account.ada", b"0", after=0)

        def write(number):
            try:
                accounts.write("account.ada", b"%d" % number, after=1)
            except ConflictError:
                return 0
            return 1

        with ThreadPoolExecutor(8) as threads:
            assert sum(threads.map(write, range(16))) == 1
        assert accounts.read("account.ada")[1] == 2


class TestMemoryVault(AccountsContract):
    @pytest.fixture
    def accounts(self):
        return VaultAccounts(MemoryVault())


class TestSealedVault(AccountsContract):
    @pytest.fixture
    def accounts(self, tmp_path):
        vault = SealedVault(tmp_path / "node.sqlite", KEY)
        yield VaultAccounts(vault)
        vault.close()


class TestSqlite(AccountsContract):
    @pytest.fixture
    def accounts(self, tmp_path):
        with open_database(f"sqlite:///{tmp_path}/hub.db") as database:
            yield open_accounts(database, KEY)


class TestPostgresql(AccountsContract):
    @pytest.fixture
    def accounts(self):
        with open_database(new_database()) as database:
            yield open_accounts(database, KEY)


def test_rows_that_were_swapped_or_set_back_do_not_open_and_nothing_is_legible(tmp_path):
    url = f"sqlite:///{tmp_path}/hub.db"
    with open_database(url) as database:
        accounts = open_accounts(database, KEY)
        accounts.write("account.ada", b"the secret of ada", after=0)
        accounts.write("account.bob", b"the secret of bob", after=0)
        engine = sa.create_engine(url)
        table = schema.accounts
        with engine.begin() as connection:
            rows = {row.name: row.body for row in connection.execute(sa.select(table))}
            assert all(b"secret" not in body for body in rows.values())
            connection.execute(table.update().where(table.c.name == "account.ada").values(body=rows["account.bob"]))
            connection.execute(table.update().where(table.c.name == "account.bob").values(version=2))
        engine.dispose()
        for name in ("account.ada", "account.bob"):
            with pytest.raises(CryptoError):
                accounts.read(name)
        with pytest.raises(CryptoError):
            open_accounts(database, b"short")


def test_versions_that_a_crash_left_behind_are_not_read_again():
    vault = MemoryVault()
    accounts = VaultAccounts(vault)
    accounts.write("account.ada", b"one", after=0)
    left = {name: vault.get(name) for name in vault.names("people/")}
    accounts.write("account.ada", b"two", after=1)
    for name, value in left.items():
        vault.put(name, value)
    assert accounts.read("account.ada") == (b"two", 2)
    accounts.write("account.ada", b"three", after=2)
    assert len(vault.names("people/")) == 1
