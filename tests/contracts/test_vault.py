"""Every vault keeps the port's promises; what lies in a sealed one tells nothing and cannot be moved."""

import abc
import itertools
import sqlite3
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from tests.contracts.disk import no_file_beyond, tiny_disk

from wardround.errors import ConfigError, ConflictError, CryptoError, StorageFullError, UnavailableError
from wardround.storage.memory import MemoryVault
from wardround.storage.vault import SealedVault

KEY = bytes(range(32))


class VaultContract(abc.ABC):
    @pytest.fixture
    @abc.abstractmethod
    def vault(self): ...

    def test_a_value_comes_back(self, vault):
        vault.put("approval/a", b"yes")
        assert vault.get("approval/a") == b"yes"

    def test_an_unknown_name_is_none(self, vault):
        assert vault.get("approval/a") is None

    def test_an_empty_value_is_a_value(self, vault):
        vault.put("approval/a", b"")
        assert vault.get("approval/a") == b""

    def test_a_later_value_replaces_an_earlier_one(self, vault):
        vault.put("approval/a", b"yes")
        vault.put("approval/a", b"no")
        assert vault.get("approval/a") == b"no"
        assert vault.names("") == ["approval/a"]

    def test_a_value_is_added_once_and_stays(self, vault):
        vault.add("budget/1", b"first")
        for value in (b"second", b"first"):
            with pytest.raises(ConflictError):
                vault.add("budget/1", value)
        assert vault.get("budget/1") == b"first"

    def test_a_name_that_was_put_or_deleted_counts_as_taken_or_free(self, vault):
        vault.put("budget/1", b"put")
        with pytest.raises(ConflictError):
            vault.add("budget/1", b"added")
        vault.delete("budget/1")
        vault.add("budget/1", b"added")
        assert vault.get("budget/1") == b"added"

    def test_a_deleted_value_is_gone_and_may_be_deleted_again(self, vault):
        vault.put("approval/a", b"yes")
        vault.delete("approval/a")
        vault.delete("approval/a")
        assert vault.get("approval/a") is None
        assert vault.names("") == []

    def test_names_are_listed_by_prefix_sorted(self, vault):
        for name in ("b/2", "b/10", "a", "b", "b/é", "B/1", "b%1"):
            vault.put(name, b"")
        assert vault.names("b/") == ["b/10", "b/2", "b/é"]
        assert vault.names("") == sorted(vault.names(""))
        assert vault.names("b/_") == []


class TestMemory(VaultContract):
    @pytest.fixture
    def vault(self):
        return MemoryVault()


class TestSealed(VaultContract):
    @pytest.fixture
    def vault(self, tmp_path):
        vault = SealedVault(tmp_path / "vault.db", KEY)
        yield vault
        vault.close()


@pytest.fixture
def path(tmp_path):
    vault = SealedVault(tmp_path / "vault.db", KEY)
    vault.put("approval/a", b"steward says yes")
    vault.put("approval/b", b"steward says no")
    vault.close()
    return tmp_path / "vault.db"


def _opened(path, key=KEY):
    vault = SealedVault(path, key)
    try:
        return vault.get("approval/a")
    finally:
        vault.close()


def _execute(path, statement, *values):
    connection = sqlite3.connect(path, isolation_level=None)
    rows = connection.execute(statement, values).fetchall()
    connection.close()
    return rows


def test_a_value_is_there_after_reopening(path):
    assert _opened(path) == b"steward says yes"


def test_another_key_opens_nothing(path):
    with pytest.raises(CryptoError):
        _opened(path, bytes(32))


def test_a_value_moved_to_another_name_does_not_open(path):
    _execute(path, "UPDATE sealed SET body = (SELECT body FROM sealed WHERE name = 'approval/b')")
    with pytest.raises(CryptoError):
        _opened(path)


def test_a_renamed_value_does_not_open(path):
    _execute(path, "DELETE FROM sealed WHERE name = 'approval/a'")
    _execute(path, "UPDATE sealed SET name = 'approval/a' WHERE name = 'approval/b'")
    with pytest.raises(CryptoError):
        _opened(path)


def test_a_value_altered_in_any_byte_does_not_open(path):
    ((body,),) = _execute(path, "SELECT body FROM sealed WHERE name = 'approval/a'")
    for position in range(len(body)):
        altered = bytearray(body)
        altered[position] ^= 1
        _execute(path, "UPDATE sealed SET body = ? WHERE name = 'approval/a'", bytes(altered))
        with pytest.raises(CryptoError):
            _opened(path)


def test_no_value_lies_readable_on_the_disk(path):
    vault = SealedVault(path, KEY)
    vault.put("approval/a", b"replaced: steward says maybe")
    assert not any(b"steward" in file.read_bytes() for file in path.parent.iterdir())
    vault.close()
    assert not any(b"steward" in file.read_bytes() for file in path.parent.iterdir())


def test_one_value_is_never_sealed_twice_alike(path):
    vault = SealedVault(path, KEY)
    bodies = set()
    for _ in range(20):
        vault.put("approval/a", b"yes")
        bodies.update(_execute(path, "SELECT body FROM sealed WHERE name = 'approval/a'"))
    vault.close()
    assert len(bodies) == 20


def test_only_the_owner_may_read_the_files(tmp_path):
    (tmp_path / "vault.db").touch(mode=0o644)
    vault = SealedVault(tmp_path / "vault.db", KEY)
    vault.put("a", b"")
    assert {stat.S_IMODE(file.stat().st_mode) for file in tmp_path.iterdir()} == {0o600}
    vault.close()


def test_a_key_of_another_length_is_refused(tmp_path):
    with pytest.raises(CryptoError):
        SealedVault(tmp_path / "vault.db", b"short")
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_no_vault_is_refused(tmp_path):
    (tmp_path / "vault.db").write_bytes(b"no database at all, but long enough" * 100)
    with pytest.raises(ConfigError):
        SealedVault(tmp_path / "vault.db", KEY)
    with pytest.raises(ConfigError):
        SealedVault(tmp_path / "none" / "vault.db", KEY)


def test_a_locked_vault_is_unavailable_and_loses_nothing(path):
    vault = SealedVault(path, KEY, timeout_seconds=0.01)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(UnavailableError):
        vault.put("approval/a", b"changed")
    assert vault.get("approval/a") == b"steward says yes"
    other.close()
    vault.put("approval/a", b"changed")
    assert vault.get("approval/a") == b"changed"
    vault.close()


def test_of_many_connections_that_add_one_name_one_succeeds(path):
    vaults = [SealedVault(path, KEY, timeout_seconds=30.0) for _ in range(4)]

    def add(number):
        try:
            vaults[number % 4].add(f"race/{number // 4}", str(number).encode())
        except ConflictError:
            return None
        return number

    with ThreadPoolExecutor(4) as pool:
        won = [number for number in pool.map(add, range(80)) if number is not None]
    assert sorted(number // 4 for number in won) == list(range(20))
    assert [vaults[0].get(f"race/{number // 4}") for number in won] == [str(number).encode() for number in won]
    for vault in vaults:
        vault.close()


def test_an_added_value_is_sealed_under_its_name(path):
    vault = SealedVault(path, KEY)
    vault.add("budget/1", b"steward granted three")
    vault.close()
    assert not any(b"steward" in file.read_bytes() for file in path.parent.iterdir())
    _execute(path, "UPDATE sealed SET name = 'approval/a2' WHERE name = 'approval/a'")
    _execute(path, "UPDATE sealed SET name = 'approval/a' WHERE name = 'budget/1'")
    with pytest.raises(CryptoError):
        _opened(path)


def _put_fillers(vault):
    for number in itertools.count():
        vault.put(f"filler/{number}", b"x" * 50_000)


def _fill(vault):
    vault.put("kept", b"before")
    with pytest.raises(StorageFullError):
        _put_fillers(vault)
    with pytest.raises(StorageFullError):
        vault.put("kept", b"y" * 3_000_000)
    assert vault.get("kept") == b"before"


def test_a_file_size_limit_is_a_full_disk_and_the_old_value_stays(path):
    vault = SealedVault(path, KEY)
    with no_file_beyond(1_000_000):
        _fill(vault)
    vault.put("kept", b"after")
    assert vault.get("kept") == b"after"
    vault.close()


def test_on_a_full_disk_the_old_value_stays(tmp_path):
    with tiny_disk(tmp_path, 2_000_000):
        ballast = tmp_path / "ballast"
        ballast.write_bytes(b"x" * 500_000)
        vault = SealedVault(tmp_path / "vault.db", KEY)
        _fill(vault)
        ballast.unlink()
        vault.put("kept", b"after")
        assert vault.get("kept") == b"after"
        vault.close()


def test_a_put_survives_sigkill_right_after_it_returns(tmp_path):
    program = (
        "import os, pathlib, sys\n"
        "from wardround.storage.vault import SealedVault\n"
        "SealedVault(pathlib.Path(sys.argv[1]), bytes(range(32))).put('approval/a', b'yes')\n"
        "os.kill(os.getpid(), 9)\n"
    )
    assert subprocess.run([sys.executable, "-c", program, tmp_path / "vault.db"], check=False).returncode == -9
    assert _opened(tmp_path / "vault.db") == b"yes"
