"""Shares on paper: any threshold of them bring a node's keys back, and everything else is refused in words."""

import itertools
import random
from contextlib import closing

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wardround.codec import canonical
from wardround.errors import CodecError, ConfigError, CryptoError
from wardround.storage import key_shares
from wardround.storage.key_file import FileKeyStore
from wardround.storage.key_ring import RING_NAME, KeyRing
from wardround.storage.key_ring_file import Ring
from wardround.storage.vault import SealedVault

NOW = 1_800_000_000.0
STATE_KEY = bytes(range(32))


class Clock:
    def now(self):
        return NOW


def ring_of(folder, store=None):
    path, store = folder / RING_NAME, store or FileKeyStore(folder / "keys" / "state.key")
    return KeyRing(path, store, tenant="arran", clock=Clock(), bare=None if path.exists() else store.bare())


@pytest.fixture
def node(tmp_path):
    """A node with a backup of five shares, any three of them, and a value sealed before and after."""
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys" / "state.key").write_bytes(STATE_KEY)
    (tmp_path / "keys" / "state.key").chmod(0o600)
    with closing(SealedVault(tmp_path / "node.sqlite", STATE_KEY)) as vault:
        vault.put("decision.a", b"before")
    recovery, shares = made(5, 3)
    ring = ring_of(tmp_path)
    ring.back_up(recovery)
    ring.rotate()
    with closing(SealedVault(tmp_path / "node.sqlite", ring_of(tmp_path))) as vault:
        vault.put("decision.b", b"after a rotation")
    return tmp_path, shares


def made(shares, threshold, seed=1, site="arran"):
    return key_shares.make(site, shares=shares, threshold=threshold, draw=random.Random(seed).randbytes, now=NOW)


def lost(folder):
    """Every key-encryption key is gone."""
    for path in (folder / "keys").iterdir():
        path.unlink()
    with pytest.raises(CryptoError):
        ring_of(folder)


def restored(folder, shares, store=None):
    store = store or FileKeyStore(folder / "keys" / "state.key")
    return key_shares.restore(folder / RING_NAME, shares, store, tenant="arran")


def test_any_threshold_of_shares_brings_everything_back(node):
    folder, shares = node
    lost(folder)
    whole = (folder / RING_NAME).read_bytes()
    for some in itertools.combinations(shares, 3):
        (folder / RING_NAME).write_bytes(whole)
        assert restored(folder, some) == frozenset()
        with closing(SealedVault(folder / "node.sqlite", ring_of(folder))) as vault:
            assert vault.get("decision.a") == b"before"
            assert vault.get("decision.b") == b"after a rotation"
    ring_of(folder).rotate()
    assert all(key.is_backed_up for key in ring_of(folder).status().keys)


def test_keys_can_be_restored_into_another_store(node):
    class Token(FileKeyStore):
        name = "pkcs11:token=t;object=o"

    folder, shares = node
    lost(folder)
    token = Token(folder / "keys" / "token.key")
    restored(folder, shares[1:4], token)
    assert ring_of(folder, token).root == STATE_KEY


def test_too_few_shares_are_refused_with_their_number(node):
    folder, shares = node
    with pytest.raises(CryptoError, match="3 shares are needed, and 2 are there"):
        restored(folder, shares[:2])
    with pytest.raises(CryptoError, match="twice"):
        restored(folder, [shares[0], shares[1], shares[1]])


def test_shares_of_two_backups_are_not_mixed(node):
    folder, shares = node
    _, others = made(5, 3, seed=2)
    with pytest.raises(CryptoError, match="2 backups"):
        restored(folder, [*shares[:2], others[2]])
    with pytest.raises(CryptoError, match="not of this ring's backup"):
        restored(folder, others[:3])
    _, elsewhere = made(5, 3, site="lewis")
    with pytest.raises(CryptoError, match="not of this ring's backup"):
        restored(folder, elsewhere[:3])


def test_an_earlier_backups_shares_open_nothing_after_a_new_backup(node):
    folder, shares = node
    recovery, newer = made(3, 2, seed=3)
    ring_of(folder).back_up(recovery)
    with pytest.raises(CryptoError, match="not of this ring's backup"):
        restored(folder, shares[:3])
    assert restored(folder, newer[:2]) == frozenset()


def forged(share):
    """Another secret, with the checksum that fits: only whoever holds a share can make one."""
    secret = bytes([share.secret[0] ^ 1]) + share.secret[1:]
    return key_shares.read(key_shares.text_of(msgspec.structs.replace(share, secret=secret)))


def test_a_forged_share_gives_nothing_and_with_more_shares_is_named(node):
    folder, shares = node
    before = (folder / RING_NAME).read_bytes()
    with pytest.raises(CryptoError, match="forged"):
        restored(folder, [forged(shares[0]), shares[1], shares[2]])
    assert (folder / RING_NAME).read_bytes() == before
    assert restored(folder, [forged(shares[0]), *shares[1:]]) == frozenset({1})


def test_an_altered_ring_is_not_restored(node):
    folder, shares = node
    path = folder / RING_NAME
    ring = canonical.decode(path.read_bytes(), Ring)
    for other in (
        msgspec.structs.replace(ring, current=1),
        msgspec.structs.replace(ring, keys=ring.keys[1:]),
        msgspec.structs.replace(ring, keys=(ring.keys[0], msgspec.structs.replace(ring.keys[1], check=bytes(32)))),
    ):
        path.write_bytes(canonical.encode(other))
        with pytest.raises(CryptoError):
            restored(folder, shares[:3])
    path.write_bytes(b"{}")
    with pytest.raises(CodecError, match="put back the state folder first"):
        restored(folder, shares[:3])


def test_a_ring_that_was_never_backed_up_says_so(tmp_path):
    (tmp_path / "keys").mkdir()
    ring = ring_of(tmp_path)
    assert ring.status().backup == ""
    with pytest.raises(CryptoError, match="never backed up"):
        restored(tmp_path, made(3, 2)[1])


def test_the_printed_form_comes_back_however_it_was_typed(node):
    _, shares = node
    for share in shares:
        text = key_shares.text_of(share)
        assert key_shares.read(text) == share
        assert key_shares.read("\r\n".join(f"  {line}  " for line in text.splitlines())) == share
        assert share.secret.hex() not in repr(share)
        assert "secret" not in repr(share)
        assert max(map(len, text.splitlines())) < 60


@settings(max_examples=150)
@given(st.data())
def test_a_wrongly_copied_character_is_found(data):
    text = key_shares.text_of(made(5, 3)[1][data.draw(st.integers(0, 4))])
    place = data.draw(st.integers(0, len(text) - 1))
    sign = data.draw(st.sampled_from("ABC234567XYZabcdef0189-: \n"))
    typed = text[:place] + sign + text[place + 1 :]
    if typed.split() != text.split():
        # White space between the letters does not matter; everything else does.
        try:
            found = key_shares.read(typed)
        except CodecError:
            return
        assert found == key_shares.read(text)


@given(st.text(max_size=300))
def test_texts_from_outside_give_our_error(text):
    with pytest.raises(CodecError):
        key_shares.read(text)


@pytest.mark.parametrize(("shares", "threshold"), [(5, 1), (5, 6), (1, 1), (65, 3), (0, 0), (2, -1)])
def test_numbers_that_protect_nothing_are_refused(shares, threshold):
    with pytest.raises(ConfigError, match="2 to 64"):
        made(shares, threshold)
