"""Every key store keeps the port's promises; what the service's own adapter says over HTTP is read by a server here."""

import abc
import base64
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given, settings
from hypothesis import strategies as st

from wardround.errors import ConfigError, CryptoError, UnavailableError, WardroundError
from wardround.storage import key_pkcs11
from wardround.storage.key_file import FileKeyStore, HeldKeyStore
from wardround.storage.key_pkcs11 import Pkcs11KeyStore
from wardround.storage.key_ring import open_store
from wardround.storage.key_service import HttpKeyService, TransitKeyStore, from_reference

KEY = bytes(range(32))
MODULE = Path("/usr/lib/softhsm/libsofthsm2.so")
PIN = "4711-secret"


class KeyStoreContract(abc.ABC):
    @pytest.fixture
    @abc.abstractmethod
    def store(self): ...

    def test_a_wrapped_key_comes_back(self, store):
        version = store.rotate(0)
        found, wrapped = store.wrap(KEY, b"context")
        assert (found, store.unwrap(wrapped, found, b"context")) == (version, KEY)
        assert KEY not in wrapped

    def test_wrapping_twice_gives_other_bytes(self, store):
        store.rotate(0)
        assert store.wrap(KEY, b"") != store.wrap(KEY, b"")

    def test_another_context_does_not_open(self, store):
        store.rotate(0)
        version, wrapped = store.wrap(KEY, b"context")
        with pytest.raises(CryptoError):
            store.unwrap(wrapped, version, b"another")

    def test_an_altered_key_does_not_open(self, store):
        store.rotate(0)
        version, wrapped = store.wrap(KEY, b"")
        for place in (len(wrapped) - 3, len(wrapped) // 2):
            altered = bytearray(wrapped)
            altered[place] = (
                altered[place] ^ 1 if not chr(altered[place]).isalnum() else ord("A" if altered[place] != 65 else "B")
            )
            with pytest.raises(CryptoError):
                store.unwrap(bytes(altered), version, b"")

    def test_versions_rise_and_old_ones_still_open(self, store):
        first = store.rotate(0)
        version, wrapped = store.wrap(KEY, b"")
        second = store.rotate(first)
        third = store.rotate(second + 3)
        assert first < second < second + 3 < third
        assert {first, second, third} <= set(store.versions())
        assert store.wrap(KEY, b"")[0] == third
        assert store.unwrap(wrapped, version, b"") == KEY

    def test_a_destroyed_version_opens_nothing_any_more(self, store):
        first = store.rotate(0)
        _, wrapped = store.wrap(KEY, b"")
        second = store.rotate(first)
        store.destroy(first)
        store.destroy(first)
        assert store.versions() == (second,)
        with pytest.raises(CryptoError):
            store.unwrap(wrapped, first, b"")
        assert store.wrap(KEY, b"")[0] == second

    def test_bytes_from_outside_give_our_error(self, store):
        version = store.rotate(0)
        for wrapped in (b"", b"x", bytes(12), bytes(61), bytes(1000), b"vault:v1:", b"\xff" * 60):
            with pytest.raises(CryptoError):
                store.unwrap(wrapped, version, b"")

    def test_its_name_is_no_secret(self, store):
        assert PIN not in store.name
        assert "token-of-the-service" not in store.name


class TestFile(KeyStoreContract):
    @pytest.fixture
    def store(self, tmp_path):
        return FileKeyStore(tmp_path / "keys" / "state.key")

    def test_a_key_is_readable_by_its_owner_only(self, store, tmp_path):
        store.rotate(0)
        assert [path.stat().st_mode & 0o777 for path in (tmp_path / "keys").iterdir()] == [0o600]
        (tmp_path / "keys" / "state.key").chmod(0o640)
        with pytest.raises(ConfigError, match="chmod 600"):
            store.wrap(KEY, b"")

    def test_a_file_of_another_length_is_no_key(self, store, tmp_path):
        store.rotate(0)
        (tmp_path / "keys" / "state.key").write_bytes(b"short")
        with pytest.raises(CryptoError, match="32 raw bytes"):
            store.wrap(KEY, b"")

    def test_other_files_beside_it_are_no_versions(self, store, tmp_path):
        store.rotate(0)
        for name in (
            "state.key.x",
            "state.key.02",
            "state.key.0",
            "state.key.1",
            "state.key.2.part",
            "state.key.9999999",
        ):
            (tmp_path / "keys" / name).write_bytes(KEY)
        assert store.versions() == (1,)


@pytest.fixture
def token(tmp_path, monkeypatch):
    """A SoftHSM token of this test's own; in a process, the library keeps the first configuration that it read."""
    if not MODULE.exists() or shutil.which("softhsm2-util") is None:
        pytest.skip("SoftHSM 2 is not installed")
    import pkcs11

    (tmp_path / "tokens").mkdir()
    conf = tmp_path / "softhsm2.conf"
    conf.write_text(f"directories.tokendir = {tmp_path / 'tokens'}\nobjectstore.backend = file\nlog.level = ERROR\n")
    monkeypatch.setenv("SOFTHSM2_CONF", str(conf))
    command = ["softhsm2-util", "--init-token", "--free", "--label", "wardround", "--so-pin", "so-pin-1", "--pin", PIN]
    subprocess.run(command, check=True, capture_output=True, env={**os.environ, "SOFTHSM2_CONF": str(conf)})
    pin = tmp_path / "token.pin"
    pin.write_text(PIN + "\n")
    pin.chmod(0o600)
    pkcs11.unload(str(MODULE))
    yield f"pkcs11:token=wardround;object=state?module-path={MODULE}&pin-source=file:token.pin"
    pkcs11.unload(str(MODULE))


class TestPkcs11(KeyStoreContract):
    @pytest.fixture
    def store(self, token, tmp_path):
        return Pkcs11KeyStore.from_uri(token, tmp_path)

    def test_the_keys_cannot_be_had(self, store, token):
        import pkcs11

        store.rotate(0)
        with pkcs11.lib(str(MODULE)).get_token(token_label="wardround").open(user_pin=PIN) as session:
            (key,) = session.get_objects({pkcs11.Attribute.LABEL: "state"})
            assert key[pkcs11.Attribute.SENSITIVE] is True
            assert key[pkcs11.Attribute.EXTRACTABLE] is False
            with pytest.raises(pkcs11.PKCS11Error):
                key[pkcs11.Attribute.VALUE]

    def test_a_wrong_pin_is_said_without_the_pin(self, token, tmp_path):
        (tmp_path / "token.pin").write_text("wrong-pin-9")
        with pytest.raises(ConfigError, match="PIN") as caught:
            Pkcs11KeyStore.from_uri(token, tmp_path).versions()
        assert "wrong-pin-9" not in str(caught.value)

    def test_a_pin_that_others_can_read_is_refused(self, token, tmp_path):
        (tmp_path / "token.pin").chmod(0o644)
        with pytest.raises(ConfigError, match="chmod 600"):
            Pkcs11KeyStore.from_uri(token, tmp_path).versions()

    def test_a_token_that_is_not_there_is_asked_again_later(self, token, tmp_path):
        with pytest.raises(UnavailableError, match="elsewhere"):
            Pkcs11KeyStore.from_uri(token.replace("token=wardround", "token=elsewhere"), tmp_path).versions()

    def test_the_key_of_another_token_does_not_open(self, store):
        version = store.rotate(0)
        _, wrapped = store.wrap(KEY, b"")
        store.destroy(version)
        assert store.rotate(0) == version
        with pytest.raises(CryptoError):
            store.unwrap(wrapped, version, b"")


class Transit:
    """A key service of this test's own, after OpenBao's documentation of Transit: it is not OpenBao."""

    def __init__(self):
        self.keys, self.first, self.asked = {}, 1, []

    def call(self, method, path, body):
        self.asked.append((method, path))
        if not path.startswith("/v1/transit/"):
            return 404, b"{}"
        what = path.removeprefix("/v1/transit/").split("/")
        match method, what:
            case "GET", ["keys", "state"]:
                return self._told({"keys": dict.fromkeys(map(str, self.keys), 0)}) if self.keys else (404, b"{}")
            case "POST", ["keys", "state"]:
                assert body["exportable"] is False
                self.keys = {1: os.urandom(32)}
                return 204, b""
            case "POST", ["keys", "state", "rotate"]:
                self.keys[max(self.keys) + 1] = os.urandom(32)
                return 204, b""
            case "POST", ["keys", "state", "config"]:
                self.first = body["min_decryption_version"]
                return 204, b""
            case "POST", ["keys", "state", "trim"]:
                assert body["min_available_version"] <= self.first
                self.keys = {name: key for name, key in self.keys.items() if name >= body["min_available_version"]}
                return 204, b""
            case "POST", ["encrypt", "state"]:
                newest, nonce = max(self.keys), os.urandom(12)
                plain, aad = (base64.b64decode(body[name]) for name in ("plaintext", "associated_data"))
                sealed = base64.b64encode(nonce + AESGCM(self.keys[newest]).encrypt(nonce, plain, aad)).decode()
                return self._told({"ciphertext": f"vault:v{newest}:{sealed}"})
            case "POST", ["decrypt", "state"]:
                try:
                    _, version, sealed = body["ciphertext"].split(":")
                    data, aad = base64.b64decode(sealed), base64.b64decode(body["associated_data"])
                    plain = AESGCM(self.keys[int(version[1:])]).decrypt(data[:12], data[12:], aad)
                except Exception:
                    return 400, b'{"errors":["cannot decrypt"]}'
                return self._told({"plaintext": base64.b64encode(plain).decode()})
        return 404, b"{}"

    def _told(self, data):
        return 200, json.dumps({"request_id": "1", "data": data, "lease_duration": 0}).encode()


class TestTransit(KeyStoreContract):
    @pytest.fixture
    def store(self):
        return TransitKeyStore(Transit(), mount="transit", key="state", address="https://bao.example:8200")


class Answers:
    def __init__(self, *answers):
        self.answers = list(answers)

    def call(self, method, path, body):
        return self.answers.pop(0)


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        ((403, b""), ConfigError),
        ((503, b""), UnavailableError),
        ((429, b""), UnavailableError),
        ((418, b""), CryptoError),
        ((200, b"no json"), CryptoError),
        ((200, b"{}"), CryptoError),
        ((200, b'{"data":{"ciphertext":5}}'), CryptoError),
        ((200, b'{"data":{"ciphertext":"vault:v0:AAAA"}}'), CryptoError),
        ((200, b'{"data":{"ciphertext":"' + b"A" * 100 + b'"}}'), CryptoError),
    ],
)
def test_a_service_that_answers_otherwise_gives_our_error(answer, error):
    store = TransitKeyStore(Answers(answer), mount="transit", key="state", address="https://bao.example")
    with pytest.raises(error):
        store.wrap(KEY, b"")


@settings(max_examples=60)
@given(st.binary(max_size=200), st.sampled_from([200, 204]))
def test_whatever_a_service_answers_gives_our_error(body, status):
    for call in (lambda store: store.wrap(KEY, b""), lambda store: store.unwrap(b"vault:v1:AAAA", 1, b"")):
        store = TransitKeyStore(Answers((status, body)), mount="transit", key="state", address="https://bao.example")
        with pytest.raises(WardroundError):
            call(store)


@pytest.mark.parametrize(
    "reference",
    [
        "kms:https://bao:8200/transit/state",
        "kms:https://bao:8200/transit/state?token=secret",
        "kms:https://bao:8200/state?token-source=file:t",
        "kms:http://bao:8200/transit/state?token-source=file:t",
        "kms:https://user:secret@bao:8200/transit/state?token-source=file:t",
        "kms:ftp://bao/transit/state?token-source=file:t",
        "kms:https://bao:8200/../state?token-source=file:t",
        "kms:https://bao:8200/transit/state?token-source=file:t&ca=elsewhere",
    ],
)
def test_a_reference_to_a_service_with_anything_else_is_refused(reference, tmp_path):
    with pytest.raises(ConfigError) as caught:
        from_reference(reference, tmp_path)
    assert "secret" not in str(caught.value)


def test_a_service_on_another_machine_is_spoken_to_by_https_only():
    with pytest.raises(ConfigError, match="https"):
        HttpKeyService("http://bao.example:8200", lambda: "t")
    HttpKeyService("http://127.0.0.1:8200", lambda: "t")


@pytest.mark.parametrize(
    ("reference", "words"),
    [
        ("pkcs11:token=a;object=b?module-path=m&pin-value=1234", "pin-value"),
        ("pkcs11:token=a;object=b?module-path=m", "pin-source"),
        ("pkcs11:token=a;object=b?module-path=m&pin-source=1234", "pin-source"),
        ("pkcs11:object=b?module-path=m&pin-source=file:p", "token"),
        ("pkcs11:token=a;token=c;object=b?module-path=m&pin-source=file:p", "each once"),
        ("pkcs11:token=a;object=b;slot=3?module-path=m&pin-source=file:p", "each once"),
        ("pkcs11:", "needs"),
    ],
)
def test_a_token_uri_with_anything_else_is_refused(reference, words):
    with pytest.raises(ConfigError, match=words) as caught:
        key_pkcs11.parse(reference)
    assert "1234" not in str(caught.value)


def test_a_token_uri_is_percent_decoded():
    found = key_pkcs11.parse("pkcs11:token=Ward%20round;object=st%3Bate?module-path=/a%20b.so&pin-source=file:p%26n")
    assert (found.token, found.object, found.module, found.pin_source) == (
        "Ward round",
        "st;ate",
        "/a b.so",
        "file:p&n",
    )


def test_a_given_key_seals_and_is_not_rotated(tmp_path):
    store = open_store("env:STATE", tmp_path, {"STATE": "k" * 32})
    assert isinstance(store, HeldKeyStore)
    version, wrapped = store.wrap(KEY, b"")
    assert store.unwrap(wrapped, version, b"") == KEY
    with pytest.raises(ConfigError, match="env:"):
        store.rotate(1)
    with pytest.raises(CryptoError, match="32 bytes"):
        open_store("env:STATE", tmp_path, {"STATE": "short"})


@pytest.mark.parametrize("reference", ["", "state.key", "env:NOT_THERE", "vault:x"])
def test_a_reference_of_another_kind_is_refused(reference, tmp_path):
    with pytest.raises(ConfigError):
        open_store(reference, tmp_path, {})
