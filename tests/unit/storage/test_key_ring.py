"""A key ring: rotated without rewriting data, whole after a crash at any step, and lost keys stay lost."""

import os
from contextlib import closing, suppress

import msgspec
import pytest

from wardround.codec import canonical
from wardround.errors import ConfigError, CryptoError
from wardround.storage import key_ring_file
from wardround.storage.key_file import FileKeyStore, HeldKeyStore
from wardround.storage.key_ring import RING_NAME, KeyRing, open_ring
from wardround.storage.key_ring_file import Ring
from wardround.storage.vault import SealedVault

STATE_KEY = bytes(range(32))


class Clock:
    def now(self):
        return 1_800_000_000.0


def opened(folder, reference="file:keys/state.key", tenant="arran", environ=None):
    (folder / "state").mkdir(exist_ok=True)
    return open_ring(
        reference, base=folder, state=folder / "state", tenant=tenant, environ=environ or {}, clock=Clock()
    )


def vault_of(folder, ring=None):
    return closing(SealedVault(folder / "state" / "node.sqlite", ring or opened(folder)))


@pytest.fixture
def node(tmp_path):
    """A node as they are today: a bare state key, and a vault sealed under it."""
    path = tmp_path / "keys" / "state.key"
    path.parent.mkdir()
    path.write_bytes(STATE_KEY)
    path.chmod(0o600)
    (tmp_path / "state").mkdir()
    with closing(SealedVault(tmp_path / "state" / "node.sqlite", STATE_KEY)) as vault:
        vault.put("decision.a", b"approved long ago")
    return tmp_path


def bodies(folder):
    import sqlite3

    with closing(sqlite3.connect(folder / "state" / "node.sqlite")) as connection:
        return dict(connection.execute("SELECT name, body FROM sealed").fetchall())


def test_a_vault_of_before_opens_with_its_bare_key_and_stays_as_it_is(node):
    before = bodies(node)
    ring = opened(node)
    assert ring.is_bare
    assert ring.root == STATE_KEY
    with vault_of(node, ring) as vault:
        assert vault.get("decision.a") == b"approved long ago"
        vault.put("decision.b", b"now")
    assert not (node / "state" / RING_NAME).exists()
    assert bodies(node)["decision.a"] == before["decision.a"]
    with closing(SealedVault(node / "state" / "node.sqlite", STATE_KEY)) as vault:
        assert vault.get("decision.b") == b"now"


def test_a_rotation_rewrites_no_data_and_new_data_is_under_the_new_key(node):
    before = bodies(node)
    opened(node).rotate()
    assert bodies(node) == before
    ring = opened(node)
    with vault_of(node, ring) as vault:
        assert vault.get("decision.a") == b"approved long ago"
        vault.put("decision.b", b"after")
        assert vault.sealed_under() == {0: 1, 1: 1}
    ring.rotate()
    with vault_of(node) as vault:
        vault.put("decision.c", b"later")
        assert [vault.get(f"decision.{name}") for name in "abc"] == [b"approved long ago", b"after", b"later"]
        assert vault.sealed_under() == {0: 1, 1: 1, 2: 1}


def test_the_root_stays_over_rotations_and_no_key_stands_in_the_file(node):
    ring = opened(node)
    for _ in range(3):
        ring.rotate()
    assert opened(node).root == STATE_KEY
    data = (node / "state" / RING_NAME).read_bytes()
    for number in range(4):
        assert ring.key(number) not in data
        assert ring.key(number).hex().encode() not in data
    assert len({ring.key(number) for number in range(4)}) == 4


def test_old_versions_go_only_when_nothing_is_wrapped_by_them(node):
    ring = opened(node)
    ring.rotate()
    assert ring.status().unused == (1,)
    assert (node / "keys" / "state.key").exists()
    assert ring.destroy_versions() == (1,)
    assert not (node / "keys" / "state.key").exists()
    assert ring.destroy_versions() == ()
    with vault_of(node) as vault:
        assert vault.get("decision.a") == b"approved long ago"


def test_erasing_a_key_makes_what_it_sealed_unreadable_for_ever(node):
    ring = opened(node)
    ring.rotate()
    with vault_of(node, ring) as vault:
        vault.put("decision.b", b"to be erased")
    ring.rotate()
    ring.erase(1)
    after = opened(node)
    assert [key.is_erased for key in after.status().keys] == [False, True, False]
    with vault_of(node, after) as vault:
        assert vault.get("decision.a") == b"approved long ago"
        with pytest.raises(CryptoError, match="erased"):
            vault.get("decision.b")
    after.rotate()
    with pytest.raises(CryptoError, match="erased"):
        opened(node).key(1)


@pytest.mark.parametrize("number", [0, 1, 7])
def test_the_root_and_the_current_key_are_not_erased(node, number):
    ring = opened(node)
    ring.rotate()
    with pytest.raises(ConfigError, match="rotate first"):
        ring.erase(number)


class Crash(BaseException):
    """The process is gone."""


ROTATION_STEPS = 13
STEPS = ("open", "write", "fsync", "replace", "close")


def crashing(monkeypatch, at):
    """Every call of the operating system that writes is a step; the one numbered `at` never happens."""
    done = []

    def step(name):
        real = getattr(os, name)

        def call(*args, **kwargs):
            if len(done) >= at and name != "close":
                raise Crash
            if name != "close":
                done.append(name)
            return real(*args, **kwargs)

        return call

    for name in STEPS:
        monkeypatch.setattr(os, name, step(name))
    return done


@pytest.mark.parametrize("start", ["bare", "ring"])
@pytest.mark.parametrize("at", range(ROTATION_STEPS + 2))
def test_a_crash_at_any_step_of_a_rotation_leaves_everything_readable(node, monkeypatch, start, at):
    if start == "ring":
        opened(node).rotate()
    with vault_of(node) as vault:
        vault.put("decision.b", b"before the crash")
    ring = opened(node)
    with monkeypatch.context() as patched:
        done = crashing(patched, at)
        try:
            ring.rotate()
        except Crash:
            crashed = True
        else:
            crashed = False
    assert crashed or len(done) <= at
    assert crashed == (at < ROTATION_STEPS), "every step of a rotation is among those that crash"
    again = opened(node)
    with vault_of(node, again) as vault:
        assert vault.get("decision.a") == b"approved long ago"
        assert vault.get("decision.b") == b"before the crash"
        vault.put("decision.c", b"after")
    again.rotate()
    with vault_of(node) as vault:
        assert [vault.get(f"decision.{name}") for name in "abc"] == [
            b"approved long ago",
            b"before the crash",
            b"after",
        ]


@pytest.mark.parametrize("at", range(6))
def test_a_crash_while_old_versions_are_destroyed_leaves_everything_readable(node, monkeypatch, at):
    ring = opened(node)
    ring.rotate()
    with monkeypatch.context() as patched:
        crashing(patched, at)
        with suppress(Crash):
            ring.destroy_versions()
    with vault_of(node) as vault:
        assert vault.get("decision.a") == b"approved long ago"


def altered(folder, change):
    path = folder / "state" / RING_NAME
    ring = canonical.decode(path.read_bytes(), Ring)
    path.write_bytes(canonical.encode(change(ring)))


@pytest.mark.parametrize(
    "change",
    [
        lambda ring: msgspec.structs.replace(ring, current=1),
        lambda ring: msgspec.structs.replace(ring, keys=ring.keys[:1] + ring.keys[2:]),
        lambda ring: msgspec.structs.replace(ring, seq=ring.seq - 1),
        lambda ring: msgspec.structs.replace(ring, mac=bytes(32)),
        lambda ring: msgspec.structs.replace(ring, tenant="lewis"),
        lambda ring: msgspec.structs.replace(ring, current=9),
        lambda ring: msgspec.structs.replace(ring, keys=()),
    ],
    ids=["older current", "key taken out", "older", "mac", "tenant", "no such current", "no keys"],
)
def test_an_altered_ring_does_not_open(node, change):
    ring = opened(node)
    ring.rotate()
    ring.rotate()
    altered(node, change)
    with pytest.raises(CryptoError):
        opened(node)


def test_bytes_that_are_no_ring_give_our_error(node):
    opened(node).rotate()
    path = node / "state" / RING_NAME
    whole = path.read_bytes()
    for data in (b"", b"{}", b"\xff" * 100, whole[:-1], whole[: len(whole) // 2], b"[" * 100_000):
        path.write_bytes(data)
        with pytest.raises(CryptoError):
            opened(node)


def test_another_sites_ring_does_not_open(node):
    opened(node).rotate()
    with pytest.raises(CryptoError, match="another site"):
        opened(node, tenant="lewis")


def test_a_vault_that_had_a_ring_is_not_written_to_without_it(node):
    with vault_of(node, ring := opened(node)):
        ring.rotate()
    with vault_of(node) as vault:
        vault.put("decision.b", b"under the ring")
    (node / "state" / RING_NAME).unlink()
    with pytest.raises(ConfigError, match=r"keyring\.json"):
        SealedVault(node / "state" / "node.sqlite", opened(node))
    with pytest.raises(ConfigError, match=r"keyring\.json"):
        SealedVault(node / "state" / "node.sqlite", STATE_KEY)


def test_a_value_moved_to_another_name_does_not_open_under_a_ring(node):
    import sqlite3

    opened(node).rotate()
    with vault_of(node) as vault:
        vault.put("decision.b", b"yes")
        vault.put("decision.c", b"no")
    with closing(sqlite3.connect(node / "state" / "node.sqlite", isolation_level=None)) as connection:
        connection.execute(
            "UPDATE sealed SET body = (SELECT body FROM sealed WHERE name = 'decision.b') WHERE name = 'decision.c'"
        )
    with vault_of(node) as vault, pytest.raises(CryptoError):
        vault.get("decision.c")


def test_a_running_node_reads_what_another_process_sealed_after_a_rotation(node):
    running = opened(node)
    with vault_of(node, running) as vault:
        assert running.is_bare
        opened(node).rotate()
        with vault_of(node) as other:
            other.put("decision.b", b"sealed elsewhere")
        assert vault.get("decision.b") == b"sealed elsewhere"
        vault.put("decision.c", b"and back")
    with vault_of(node) as vault:
        assert vault.get("decision.c") == b"and back"


def test_keys_move_to_another_store_and_both_open_them_until_the_next_rotation(node):
    with pytest.raises(ConfigError, match="already"):
        opened(node).rotate(to=FileKeyStore(node / "keys" / "elsewhere.key"))

    class Token(FileKeyStore):
        name = "pkcs11:token=t;object=o"

    token = Token(node / "keys" / "token.key")
    opened(node).rotate(to=token)
    bare = KeyRing(node / "state" / RING_NAME, token, tenant="arran", clock=Clock())
    assert bare.root == opened(node).root == STATE_KEY
    bare.rotate()
    with pytest.raises(CryptoError, match="state_key names file"):
        opened(node)
    assert KeyRing(node / "state" / RING_NAME, token, tenant="arran", clock=Clock()).root == STATE_KEY


def test_a_store_without_a_bare_key_begins_with_a_ring(tmp_path):
    class Token(FileKeyStore):
        name = "pkcs11:token=t;object=o"

    ring = KeyRing(tmp_path / RING_NAME, Token(tmp_path / "token.key"), tenant="arran", clock=Clock())
    assert not ring.is_bare
    assert ring.current == 1
    assert len({ring.root, ring.key(1), (tmp_path / "token.key").read_bytes()}) == 3


def test_a_given_key_opens_and_cannot_be_rotated(tmp_path):
    ring = opened(tmp_path, "env:STATE", environ={"STATE": "k" * 32})
    assert ring.root == b"k" * 32
    with pytest.raises(ConfigError, match="env:"):
        ring.rotate()
    assert HeldKeyStore(b"k" * 32).versions() == (1,)


def test_a_missing_state_key_is_said_and_none_is_made(tmp_path):
    with pytest.raises(ConfigError, match="not there"):
        opened(tmp_path)
    assert not (tmp_path / "keys").exists()


def test_a_check_tells_a_key_at_its_own_place_only():
    found = {
        key_ring_file.check_of(tenant, number, key)
        for tenant in ("a", "b")
        for number in (1, 2)
        for key in (b"x", b"y")
    }
    assert len(found) == 8
