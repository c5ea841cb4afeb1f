import base64
import hashlib
import json

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from hypothesis import given, settings
from hypothesis import strategies as st
from joserfc import jwk, jws

from wardround.crypto import dpop, jose
from wardround.errors import CodecError, CryptoError, SignatureError, StaleRequestError, WardroundError

NOW, JTI = 1_800_000_000.0, "a-number-used-once"
URL = "https://hub.example.org/v1/studies"
KEYS = [ec.generate_private_key(ec.SECP256R1()), ed25519.Ed25519PrivateKey.generate()]
KEY = KEYS[0]
TOKEN = "a.b.c"


def prove(key=KEY, method="GET", url=URL, *, now=NOW, token=TOKEN, nonce=""):
    return dpop.prove(key, method, url, jti=JTI, now=now, token=token, nonce=nonce)


def parts(text):
    return [json.loads(base64.urlsafe_b64decode(part + "==")) for part in text.split(".")[:2]]


def forged(header, payload, key=KEY, algorithm="ES256"):
    """Signed by the library itself, whatever the header says."""
    imported = jwk.ECKey.import_key(jose.private_pem(key))
    registry = jws.JWSRegistry(algorithms=[algorithm], strict_check_header=False)
    return jws.serialize_compact(header, json.dumps(payload), imported, [algorithm], registry)


def good():
    header, payload = parts(prove())
    return header, payload


@pytest.mark.parametrize("key", KEYS)
def test_a_proof_fits_its_request_and_names_its_key(key):
    proof, nonce = dpop.check(prove(key, nonce="n" * 20), "GET", URL, now=NOW, token=TOKEN)
    imported = jwk.import_key(jose.public_jwk(key))
    assert (proof.jti, proof.issued, nonce) == (JTI, int(NOW), "n" * 20)
    assert proof.thumbprint == imported.thumbprint()


def test_a_proof_is_what_rfc_9449_says():
    header, payload = parts(prove(nonce="nonce"))
    assert header["typ"] == "dpop+jwt"
    assert header["alg"] == "ES256"
    assert set(header["jwk"]) == {"kty", "crv", "x", "y"}
    digest = base64.urlsafe_b64encode(hashlib.sha256(TOKEN.encode()).digest()).rstrip(b"=").decode()
    assert payload == {"jti": JTI, "htm": "GET", "htu": URL, "iat": int(NOW), "ath": digest, "nonce": "nonce"}


def test_the_proof_of_rfc_9449_section_4_is_accepted_for_its_own_request_only():
    # Figure 2 of the RFC: made by somebody else's program.
    proof = (
        "eyJ0eXAiOiJkcG9wK2p3dCIsImFsZyI6IkVTMjU2IiwiandrIjp7Imt0eSI6IkVDIiwieCI6Imw4dEZyaHgtMzR0VjNoUklDUkRZOXpDa0Rsc"
        "EJoRjQyVVFVZldWQVdCRnMiLCJ5IjoiOVZFNGpmX09rX282NHpiVFRsY3VOSmFqSG10NnY5VERWclUwQ2R2R1JEQSIsImNydiI6IlAtMjU2In19"
        ".eyJqdGkiOiItQndDM0VTYzZhY2MybFRjIiwiaHRtIjoiUE9TVCIsImh0dSI6Imh0dHBzOi8vc2VydmVyLmV4YW1wbGUuY29tL3Rva2VuIiwiaW"
        "F0IjoxNTYyMjYyNjE2fQ.2-GxA6T8lP4vfrg8v-FdWP0A0zdrj8igiMLvqRMUvwnQg4PtFLbdLXiOSsX0x7NVY-FNyJK70nfbV37xRZT3Lg"
    )
    found, _ = dpop.check(proof, "POST", "https://server.example.com/token", now=1562262616.0)
    assert found.jti == "-BwC3ESc6acc2lTc"
    assert found.thumbprint == "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I"  # Section 6.1.
    with pytest.raises(SignatureError):
        dpop.check(proof, "POST", "https://server.example.com/other", now=1562262616.0)


@pytest.mark.parametrize(
    ("method", "url", "token"),
    [
        ("POST", URL, TOKEN),
        ("get", URL, TOKEN),
        ("GET", "https://hub.example.org/v1/other", TOKEN),
        ("GET", "http://hub.example.org/v1/studies", TOKEN),
        ("GET", "https://hub.example.com/v1/studies", TOKEN),
        ("GET", "https://hub.example.org:8443/v1/studies", TOKEN),
        ("GET", URL, "a.b.d"),
    ],
)
def test_a_proof_for_another_method_address_or_token_is_refused(method, url, token):
    with pytest.raises(SignatureError):
        dpop.check(prove(), method, url, now=NOW, token=token)


def test_a_proof_without_ath_is_refused_where_there_is_a_token():
    with pytest.raises(SignatureError, match="access token"):
        dpop.check(prove(token=""), "GET", URL, now=NOW, token=TOKEN)


@pytest.mark.parametrize(
    "url", ["https://HUB.example.org/v1/studies", f"{URL}?after=3", f"{URL}#x", URL.replace("org", "org:443")]
)
def test_addresses_are_compared_without_query_fragment_case_of_host_and_default_port(url):
    dpop.check(prove(url=url), "GET", URL, now=NOW, token=TOKEN)
    dpop.check(prove(), "GET", url, now=NOW, token=TOKEN)


@pytest.mark.parametrize("seconds", [-61.0, 61.0, -1e9, 1e9, float("nan")])
def test_a_proof_far_from_now_is_refused(seconds):
    with pytest.raises(StaleRequestError):
        dpop.check(prove(), "GET", URL, now=NOW + seconds, token=TOKEN)


@pytest.mark.parametrize("seconds", [-59.0, 0.0, 59.0])
def test_clocks_may_be_a_minute_apart(seconds):
    dpop.check(prove(), "GET", URL, now=NOW + seconds, token=TOKEN)


@pytest.mark.parametrize(
    "change",
    [
        {"typ": "JWT"},
        {"typ": "at+jwt"},
        {"jwk": None},
        {"jwk": "key"},
        {"crit": ["exp"], "exp": 1},
    ],
)
def test_a_header_that_is_no_proofs_is_refused(change):
    header, payload = good()
    registry_header = {**header, **change}
    text = forged(header, payload).split(".")
    text[0] = jose.base64url(json.dumps(registry_header).encode())
    with pytest.raises((SignatureError, CodecError)):
        dpop.check(".".join(text), "GET", URL, now=NOW, token=TOKEN)


@pytest.mark.parametrize("typ", ["JWT", "at+jwt"])
def test_a_well_signed_token_of_another_type_is_no_proof(typ):
    header, payload = good()
    with pytest.raises(SignatureError, match="typ"):
        dpop.check(forged({**header, "typ": typ}, payload), "GET", URL, now=NOW, token=TOKEN)


@pytest.mark.parametrize("change", [{"zip": "DEF"}, {"b64": True}, {"enc": "A128GCM"}, {"crit": []}])
def test_a_well_signed_header_that_would_change_the_rest_is_refused(change):
    header, payload = good()
    with pytest.raises(CodecError, match="not understood"):
        dpop.check(jose.sign({**header, **change}, payload, KEY), "GET", URL, now=NOW, token=TOKEN)


def test_a_proof_that_carries_a_private_key_is_refused():
    header, payload = good()
    private = jwk.ECKey.import_key(jose.private_pem(KEY)).as_dict(private=True)
    assert "d" in private
    with pytest.raises(CryptoError, match="private"):
        dpop.check(forged({**header, "jwk": private}, payload), "GET", URL, now=NOW, token=TOKEN)


def test_alg_none_is_refused():
    header, payload = good()
    body = [jose.base64url(json.dumps(one).encode()) for one in ({**header, "alg": "none"}, payload)]
    for text in (".".join(body) + ".", ".".join(body) + ".AA"):
        with pytest.raises((SignatureError, CodecError)):
            dpop.check(text, "GET", URL, now=NOW, token=TOKEN)


@pytest.mark.parametrize("algorithm", ["HS256", "HS512"])
def test_a_public_key_is_not_taken_for_a_shared_secret(algorithm):
    header, payload = good()
    pem = KEY.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    secret = jwk.OctKey.import_key(jose.base64url(pem))
    registry = jws.JWSRegistry(algorithms=[algorithm], strict_check_header=False)
    text = jws.serialize_compact({**header, "alg": algorithm}, json.dumps(payload), secret, [algorithm], registry)
    with pytest.raises(SignatureError):
        dpop.check(text, "GET", URL, now=NOW, token=TOKEN)


def test_an_algorithm_and_a_key_of_another_kind_are_refused():
    header, payload = good()
    okp = jose.public_jwk(KEYS[1])
    with pytest.raises(SignatureError):
        dpop.check(forged({**header, "jwk": okp}, payload), "GET", URL, now=NOW, token=TOKEN)
    other = jose.public_jwk(ec.generate_private_key(ec.SECP256R1()))
    with pytest.raises(SignatureError):
        dpop.check(forged({**header, "jwk": other}, payload), "GET", URL, now=NOW, token=TOKEN)


def test_rsa_proofs_are_not_accepted():
    header, payload = good()
    key = jwk.RSAKey.import_key(
        rsa.generate_private_key(65537, 2048).private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    registry = jws.JWSRegistry(algorithms=["RS256"], strict_check_header=False)
    registry.max_header_length = 4096
    public = key.as_dict(private=False)
    text = jws.serialize_compact(
        {**header, "alg": "RS256", "jwk": {name: public[name] for name in ("kty", "n", "e")}},
        json.dumps(payload),
        key,
        ["RS256"],
        registry,
    )
    with pytest.raises(SignatureError):
        dpop.check(text, "GET", URL, now=NOW, token=TOKEN)


@pytest.mark.parametrize(
    "change",
    [
        {"jti": None},
        {"jti": "x"},
        {"jti": "x" * 129},
        {"iat": None},
        {"iat": True},
        {"iat": "1"},
        {"iat": -1},
        {"htm": None},
        {"htu": None},
        {"htu": 3},
        {"htu": f"{URL}?x=1"},
        {"htu": "javascript:alert(1)"},
        {"ath": 5},
    ],
)
def test_a_claim_that_is_missing_or_of_another_kind_is_refused(change):
    header, payload = good()
    with pytest.raises((SignatureError, StaleRequestError)):
        dpop.check(forged(header, {**payload, **change}), "GET", URL, now=NOW, token=TOKEN)


def test_a_changed_payload_or_signature_is_refused():
    head, body, signature = prove().split(".")
    other = prove(url="https://hub.example.org/v1/other").split(".")[1]
    for text in (f"{head}.{other}.{signature}", f"{head}.{body}.{signature[:-4]}AAAA", f"{head}.{body}.{signature}A"):
        with pytest.raises((SignatureError, CodecError)):
            dpop.check(text, "GET", URL, now=NOW, token=TOKEN)


def test_an_action_at_a_command_line_is_proven_alike():
    action = "wardround:node/north/approve/" + "a" * 64
    dpop.check(prove(method="CLI", url=action), "CLI", action, now=NOW, token=TOKEN)
    with pytest.raises(SignatureError):
        dpop.check(prove(method="CLI", url=action), "CLI", action.replace("approve", "refuse"), now=NOW, token=TOKEN)
    with pytest.raises(SignatureError):
        dpop.check(prove(method="CLI", url=action), "CLI", action.replace("north", "south"), now=NOW, token=TOKEN)


def test_a_nonce_is_this_servers_and_of_this_moment():
    key, other = bytes(32), bytes(31) + b"\x01"
    nonce = dpop.make_nonce(key, NOW)
    assert dpop.check_nonce(key, nonce, NOW)
    assert dpop.check_nonce(key, nonce, NOW + dpop.NONCE_SECONDS)
    assert not dpop.check_nonce(key, nonce, NOW + 2 * dpop.NONCE_SECONDS)
    assert not dpop.check_nonce(key, nonce, NOW - 2 * dpop.NONCE_SECONDS)
    assert not dpop.check_nonce(other, nonce, NOW)
    assert not dpop.check_nonce(key, "", NOW)
    assert not dpop.check_nonce(key, nonce[:-1] + ("A" if nonce[-1] != "A" else "B"), NOW)


def test_what_is_no_proof_to_make_is_refused_at_once():
    for arguments in ({"jti": "short"}, {"address": "ftp://x/y"}, {"address": "wardround:"}):
        given = {"method": "GET", "address": URL, "jti": JTI, "now": NOW, **arguments}
        with pytest.raises(ValueError, match=r"."):
            dpop.prove(KEY, **given)


@settings(max_examples=300)
@given(st.one_of(st.text(max_size=300), st.binary(max_size=300).map(lambda data: data.decode("latin-1"))))
def test_hostile_text_is_refused_with_an_error_of_ours(text):
    for candidate in (text, f"{text}.{text}.{text}", ".".join([jose.base64url(text.encode(errors="replace"))] * 3)):
        with pytest.raises(WardroundError):
            dpop.check(candidate, "GET", URL, now=NOW, token=TOKEN)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=300)
@given(
    st.dictionaries(st.sampled_from(["typ", "alg", "jwk", "kid", "crit", "b64"]), _JSON, max_size=6),
    st.dictionaries(st.sampled_from(["jti", "htm", "htu", "iat", "ath"]), _JSON, max_size=5),
    st.dictionaries(
        st.sampled_from(["kty", "crv", "x", "y", "n", "e", "d"]),
        _JSON | st.sampled_from(["EC", "RSA", "OKP", "P-256", "Ed25519", "AQAB", "A" * 43]),
        max_size=6,
    ),
)
def test_hostile_json_is_refused_with_an_error_of_ours(header, payload, key):
    header = {"typ": "dpop+jwt", "alg": "ES256", "jwk": key, **header}
    text = ".".join([*(jose.base64url(json.dumps(one).encode()) for one in (header, payload)), "A" * 86])
    with pytest.raises(WardroundError):
        dpop.check(text, "GET", URL, now=NOW, token=TOKEN)
