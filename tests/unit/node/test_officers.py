"""A node follows changes of its officers that enough of those before have signed, and keeps what it followed."""

import pytest

from wardround.codec import canonical
from wardround.crypto import signing
from wardround.errors import CodecError, ConfigError, CryptoError, SignatureError
from wardround.node import officers as followed
from wardround.node import setup
from wardround.sdk import officers as files
from wardround.secagg import officers

KEYS = [signing.PrivateKey.from_private_bytes(bytes([n]) * 32) for n in range(1, 7)]
HEX = [signing.public_bytes(key.public_key()).hex() for key in KEYS]


def follow(folder, file):
    return followed.follow_officers(folder, setup.load_config(folder), file)


def present(folder):
    return followed.officers_of(folder, setup.load_config(folder))


@pytest.fixture
def folder(tmp_path):
    listed = ", ".join(f'"{key}"' for key in HEX[:3])
    text = f'name = "arran"\nhub = "https://hub"\nofficers = [{listed}]\nofficer_quorum = 2\n'
    (tmp_path / "node.toml").write_text(text)
    return tmp_path


def change(path, number, keys, signers):
    signed = files.draft("c", number, keys, 2)
    for signer in signers:
        signed = officers.endorse(signed, signer)
    files.write(path, signed)
    assert files.read(path) == signed
    return path


def keys_of(folder):
    return {key.hex() for key in present(folder).officers}


def test_a_node_begins_with_the_officers_of_its_settings(folder):
    assert keys_of(folder) == set(HEX[:3])


def test_changes_are_followed_one_by_one_and_kept(folder):
    follow(folder, change(folder / "one", 1, HEX[1:4], KEYS[:2]))
    assert keys_of(folder) == set(HEX[1:4])
    follow(folder, change(folder / "two", 2, HEX[3:6], KEYS[2:4]))
    assert keys_of(folder) == set(HEX[3:6])
    assert (folder / "officers.json").stat().st_mode & 0o077 == 0


def test_a_change_that_too_few_signed_changes_nothing(folder):
    with pytest.raises(SignatureError, match="1 valid signatures"):
        follow(folder, change(folder / "one", 1, HEX[3:6], [KEYS[0], KEYS[3]]))
    with pytest.raises(CodecError, match="comes next"):
        follow(folder, change(folder / "two", 2, HEX[3:6], KEYS[:2]))
    assert keys_of(folder) == set(HEX[:3])
    assert not (folder / "officers.json").exists()


def test_a_kept_change_that_was_altered_is_noticed(folder):
    follow(folder, change(folder / "one", 1, HEX[1:4], KEYS[:2]))
    forged = files.draft("c", 1, HEX[3:6], 1)
    (folder / "officers.json").write_bytes(canonical.encode([forged]))
    with pytest.raises(SignatureError):
        present(folder)


@pytest.mark.parametrize("keys", [["no key"], ["ab"], HEX[:1] * 2])
def test_keys_that_are_none_are_refused(keys):
    with pytest.raises((ConfigError, CodecError, CryptoError)):
        files.draft("c", 1, keys, 1)


def test_a_file_that_is_none_is_named(folder):
    with pytest.raises(ConfigError, match="no list of officers"):
        files.read(folder / "nothing")
    (folder / "bytes").write_bytes(b"\xff\x00")
    with pytest.raises(CodecError):
        files.read(folder / "bytes")
    with pytest.raises(CodecError):
        follow(folder, folder / "bytes")
