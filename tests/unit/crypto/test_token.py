import base64
import hashlib
import json

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from hypothesis import given, settings
from hypothesis import strategies as st
from joserfc import jwk, jws

from wardround.crypto import jose, token
from wardround.errors import CodecError, SignatureError, WardroundError

NOW = 1_800_000_000.0
ISSUER, AUDIENCE, CLIENT = "https://login.example.org", "https://hub.example.org", "wardround"
KEY, OTHER = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
OKP = ed25519.Ed25519PrivateKey.generate()
RSA = rsa.generate_private_key(65537, 2048)
RSA_PEM = RSA.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
ACCESS = {
    "iss": ISSUER,
    "aud": AUDIENCE,
    "sub": "ada",
    "iat": NOW,
    "exp": NOW + 300,
    "cnf": {"jkt": "j" * 43},
}
IDENTITY = {"iss": ISSUER, "aud": CLIENT, "sub": "ada", "iat": NOW, "exp": NOW + 300, "nonce": "n" * 22}


def published(key):
    members = jose.public_jwk(key)
    return {**members, "kid": jose.thumbprint(members)}


KEYS = [published(KEY), published(OKP)]


def access(text, *, keys=KEYS, now=NOW, **changed):
    wanted = {"issuer": ISSUER, "audience": AUDIENCE, **changed}
    return token.access_token(text, keys, now=now, **wanted)


def identity(text, *, keys=KEYS, now=NOW, **changed):
    wanted = {"issuer": ISSUER, "client": CLIENT, "nonce": "n" * 22, "access": "token", **changed}
    return token.identity_token(text, keys, now=now, **wanted)


def issued(changed=None, *, key=KEY, typ="at+jwt", claims=ACCESS):
    given = {**claims, **(changed or {})}
    return token.issue({name: value for name, value in given.items() if value is not None}, key, typ=typ)


@pytest.mark.parametrize("key", [KEY, OKP])
def test_a_token_of_the_issuer_for_here_is_accepted(key):
    claims = access(issued(key=key))
    assert claims["sub"] == "ada"
    assert token.thumbprint_of(claims) == "j" * 43


def test_a_token_that_another_program_made_with_rsa_is_accepted():
    key = jwk.RSAKey.import_key(RSA_PEM)
    public = {**key.as_dict(private=False), "kid": "r1", "use": "sig", "alg": "RS256"}
    registry = jws.JWSRegistry(algorithms=["RS256"], strict_check_header=False)
    header = {"alg": "RS256", "typ": "application/at+jwt", "kid": "r1"}
    text = jws.serialize_compact(header, json.dumps(ACCESS), key, ["RS256"], registry)
    assert access(text, keys=[*KEYS, public])["sub"] == "ada"
    with pytest.raises(SignatureError):  # The key says that it is for another algorithm.
        access(text, keys=[{**public, "alg": "PS256"}])
    with pytest.raises(SignatureError):
        access(text, keys=[{**public, "use": "enc"}])


def test_a_short_rsa_key_is_no_key():
    key = rsa.generate_private_key(65537, 1024)
    modulus = key.public_key().public_numbers().n.to_bytes(128, "big")
    public = {"kty": "RSA", "n": jose.base64url(modulus), "e": "AQAB", "kid": "r1"}
    header = {"alg": "RS256", "typ": "at+jwt", "kid": "r1"}
    signed = ".".join(jose.base64url(json.dumps(one).encode()) for one in (header, ACCESS))
    signature = key.sign(signed.encode(), padding.PKCS1v15(), hashes.SHA256())
    text = f"{signed}.{jose.base64url(signature)}"
    with pytest.raises(WardroundError, match="2048"):
        access(text, keys=[public])


@pytest.mark.parametrize(
    "changed",
    [
        {"iss": "https://login.example.com"},
        {"iss": None},
        {"iss": ISSUER + "/"},
        {"aud": "https://other.example.org"},
        {"aud": None},
        {"aud": ["x", "y"]},
        {"aud": ""},
        {"aud": {"x": 1}},
        {"sub": None},
        {"sub": ""},
        {"sub": 7},
        {"sub": "s" * 256},
        {"exp": None},
        {"exp": "soon"},
        {"exp": NOW - 61},
        {"exp": True},
        {"exp": 1e300},
        {"iat": NOW + 61},
        {"iat": "now"},
        {"nbf": NOW + 61},
        {"nbf": "now"},
    ],
)
def test_a_token_of_or_for_another_or_of_another_time_is_refused(changed):
    with pytest.raises(SignatureError):
        access(issued(changed))


@pytest.mark.parametrize("changed", [{"aud": ["x", AUDIENCE]}, {"exp": NOW - 59}, {"iat": NOW + 59}, {"iat": None}])
def test_several_audiences_and_a_minutes_skew_are_allowed(changed):
    assert access(issued(changed))["sub"] == "ada"


def test_a_broken_clock_refuses():
    with pytest.raises(SignatureError):
        access(issued(), now=float("nan"))


@pytest.mark.parametrize("typ", ["JWT", "dpop+jwt", "id+jwt", ""])
def test_a_token_of_another_type_is_no_access_token(typ):
    with pytest.raises(SignatureError, match=r"at\+jwt"):
        access(issued(typ=typ))


def test_an_access_token_is_no_identity_token_and_the_other_way_round():
    with pytest.raises(SignatureError):
        identity(issued({"aud": CLIENT, "nonce": "n" * 22}))
    with pytest.raises(SignatureError):
        access(issued({"aud": AUDIENCE}, typ="JWT", claims=IDENTITY))


def test_another_key_of_the_same_name_does_not_count():
    with pytest.raises(SignatureError, match="does not fit"):
        access(issued(), keys=[{**published(OTHER), "kid": published(KEY)["kid"]}])


def test_a_key_that_the_issuer_has_no_more_is_refused():
    with pytest.raises(SignatureError, match="no key"):
        access(issued(), keys=[published(OTHER)])
    with pytest.raises(SignatureError, match="no key"):
        access(issued(), keys=[])


def test_without_a_kid_only_an_unambiguous_key_counts():
    text = jose.sign({"typ": "at+jwt"}, ACCESS, KEY)
    assert access(text, keys=[published(KEY), published(OKP)])["sub"] == "ada"
    with pytest.raises(SignatureError, match="no key"):
        access(text, keys=[published(KEY), published(OTHER)])


def test_keys_in_the_token_itself_are_not_looked_at():
    header = {"typ": "at+jwt", "jwk": jose.public_jwk(OTHER), "jku": "https://evil.example.org/keys", "kid": "x"}
    with pytest.raises(SignatureError, match="no key"):
        access(jose.sign(header, ACCESS, OTHER))


@pytest.mark.parametrize("algorithm", ["none", "HS256", "EdDSA", "ES384", "ES256K", "RS1", ""])
def test_other_algorithms_are_refused(algorithm):
    head = jose.base64url(json.dumps({"typ": "at+jwt", "alg": algorithm, "kid": KEYS[0]["kid"]}).encode())
    body, signature = issued().split(".")[1:]
    for text in (f"{head}.{body}.{signature}", f"{head}.{body}."):
        with pytest.raises((SignatureError, CodecError)):
            access(text)


@pytest.mark.parametrize(
    "data",
    [
        KEY.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo),
        json.dumps(published(KEY)).encode(),
    ],
)
def test_a_public_key_is_not_taken_for_a_shared_secret(data):
    secret = jwk.OctKey.import_key(jose.base64url(data))
    registry = jws.JWSRegistry(algorithms=["HS256"], strict_check_header=False)
    header = {"typ": "at+jwt", "alg": "HS256", "kid": KEYS[0]["kid"]}
    with pytest.raises(SignatureError):
        access(jws.serialize_compact(header, json.dumps(ACCESS), secret, ["HS256"], registry))


@pytest.mark.parametrize(
    "changed", [{"cnf": None}, {"cnf": {}}, {"cnf": {"jkt": 5}}, {"cnf": {"jkt": "short"}}, {"cnf": 1}]
)
def test_a_token_that_is_bound_to_no_key_is_refused(changed):
    with pytest.raises(SignatureError, match="cnf"):
        token.thumbprint_of(access(issued(changed)))


@pytest.mark.parametrize(
    "changed",
    [
        {"nonce": "m" * 22},
        {"nonce": None},
        {"nonce": 5},
        {"aud": "other"},
        {"azp": "other"},
        {"aud": [CLIENT, "other"]},
        {"aud": [CLIENT, "other"], "azp": "other"},
        {"at_hash": "x"},
        {"at_hash": 3},
        {"iss": "https://login.example.com"},
        {"exp": NOW - 61},
        {"exp": None},
    ],
)
def test_an_identity_token_that_answers_another_question_is_refused(changed):
    with pytest.raises(SignatureError):
        identity(issued(changed, typ="JWT", claims=IDENTITY))


def test_an_identity_token_with_the_right_at_hash_and_azp_is_accepted():
    half = base64.urlsafe_b64encode(hashlib.sha256(b"token").digest()[:16]).rstrip(b"=").decode()
    changed = {"at_hash": half, "azp": CLIENT, "aud": [CLIENT, "other"]}
    assert identity(issued(changed, typ="JWT", claims=IDENTITY))["sub"] == "ada"


@pytest.mark.parametrize(
    "key",
    [
        {},
        {"kty": "oct", "k": "AA"},
        {"kty": "EC", "crv": "P-384", "x": "A" * 43, "y": "A" * 43},
        {"kty": "EC", "crv": "P-256", "x": "A" * 43, "y": "A" * 43},
        {"kty": ["EC"]},
        {"kty": "RSA", "n": "AQAB", "e": "Aw"},
    ],
)
def test_what_is_no_public_key_of_ours_is_refused(key):
    text = issued()
    with pytest.raises(WardroundError):
        jose.verify(jose.read(text), key, jose.ALGORITHMS)


def test_a_private_key_is_read_back_and_nothing_else_is():
    for key in (KEY, OKP):
        assert jose.public_jwk(jose.load_private(jose.private_pem(key))) == jose.public_jwk(key)
    p384 = ec.generate_private_key(ec.SECP384R1()).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    for pem in (b"", b"x", RSA_PEM, p384):
        with pytest.raises(WardroundError):
            jose.load_private(pem)


@settings(max_examples=200)
@given(st.text(max_size=200), st.sampled_from(["", "at+jwt"]))
def test_hostile_text_is_refused_with_an_error_of_ours(text, typ):
    real = issued()
    for candidate in (text, real + text, text + real, real[: len(text)], f"{jose.base64url(text.encode())}.{typ}.AA"):
        if candidate != real:
            with pytest.raises(WardroundError):
                access(candidate)
