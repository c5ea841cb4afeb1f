"""The assertion of SMART Backend Services, verified apart from the code that makes it."""

import base64
import json

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa, utils

from wardround.errors import ConfigError
from wardround.sources.fhir_http import Wire
from wardround.sources.fhir_token import BackendService, TokenSettings, assertion, signing_key
from wardround.sources.site import Site

ELLIPTIC = ec.generate_private_key(ec.SECP384R1())
RSA = rsa.generate_private_key(65537, 2048)
ENDPOINT = "https://auth.example.org/token"


def pem(key, password=None):
    sealed = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, sealed).decode()


def unpadded(text):
    assert "=" not in text
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def verify(key, signature, message):
    if isinstance(key, rsa.RSAPrivateKey):
        key.public_key().verify(signature, message, padding.PKCS1v15(), hashes.SHA384())
    else:
        assert len(signature) == 96
        halves = int.from_bytes(signature[:48], "big"), int.from_bytes(signature[48:], "big")
        key.public_key().verify(utils.encode_dss_signature(*halves), message, ec.ECDSA(hashes.SHA384()))


@pytest.mark.parametrize(("key", "algorithm"), [(ELLIPTIC, "ES384"), (RSA, "RS384")], ids=["ES384", "RS384"])
def test_an_assertion_says_who_to_whom_and_until_when(key, algorithm):
    header, claims, signature = assertion(key, client="node", key_id="k1", endpoint=ENDPOINT, now=1000.9).split(".")
    assert json.loads(unpadded(header)) == {"alg": algorithm, "kid": "k1", "typ": "JWT"}
    said = json.loads(unpadded(claims))
    assert len(unpadded(said.pop("jti"))) == 32
    assert said == {"iss": "node", "sub": "node", "aud": ENDPOINT, "exp": 1240}
    verify(key, unpadded(signature), f"{header}.{claims}".encode())
    with pytest.raises(InvalidSignature):
        verify(key, unpadded(signature), f"{header}.{claims}x".encode())


def test_no_two_assertions_are_one():
    made = {
        assertion(ELLIPTIC, client="node", key_id="k1", endpoint=ENDPOINT, now=0.0).split(".")[1] for _ in range(50)
    }
    assert len(made) == 50


def test_signatures_are_of_one_length_whatever_their_numbers_are():
    for number in range(300):
        signature = assertion(ELLIPTIC, client=str(number), key_id="k", endpoint=ENDPOINT, now=0.0).rpartition(".")[2]
        assert len(unpadded(signature)) == 96


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no key",
        pem(ec.generate_private_key(ec.SECP256R1())),
        pem(ed25519.Ed25519PrivateKey.generate()),
        pem(rsa.generate_private_key(65537, 1024)),
        pem(ELLIPTIC, b"password"),
        ELLIPTIC.public_key()
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        .decode(),
    ],
    ids=["empty", "text", "P-256", "Ed25519", "RSA 1024", "encrypted", "public"],
)
def test_another_key_is_refused_without_being_shown(text):
    with pytest.raises(ConfigError) as caught:
        signing_key(text)
    assert len(text) < 10 or text.splitlines()[1] not in str(caught.value)


@pytest.mark.parametrize(
    "url", ["http://auth.example.org/token", "auth.example.org", "https://a@auth.example.org/token"]
)
def test_an_endpoint_that_cannot_be_dialled_is_refused(url, tmp_path):
    (tmp_path / "k.pem").write_text(pem(ELLIPTIC))
    settings = TokenSettings(client="node", key="file:k.pem", key_id="k1", url=url)
    with pytest.raises(ConfigError):
        BackendService(settings, Site(folder=tmp_path), "https://fhir.example.org/r4", Wire())


def test_a_key_is_named_and_its_absence_told(tmp_path):
    settings = TokenSettings(client="node", key="file:absent.pem", key_id="k1", url=ENDPOINT)
    with pytest.raises(ConfigError, match=r"absent\.pem"):
        BackendService(settings, Site(folder=tmp_path), "https://fhir.example.org/r4", Wire())
