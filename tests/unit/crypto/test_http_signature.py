import base64
import hashlib
import json
import string
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wardround.crypto import http_signature, signing
from wardround.errors import SignatureError

VECTORS = json.loads((Path(__file__).parents[2] / "vectors" / "http_signature.json").read_text())
KEYS = {
    name: signing.PrivateKey.from_private_bytes(bytes.fromhex(secret))
    for name, secret in VECTORS["secret_keys"].items()
}
ARGUMENTS = {
    "method": "POST",
    "target": "/runs/1?x=2",
    "digest": hashlib.sha256(b"content").digest(),
    "created": 1_760_000_000,
    "nonce": "0123456789abcdef",
    "tag": "wardround-request",
    "keyid": "site-a",
    "key": KEYS["site-a"],
}


def names(cases):
    return [pytest.param(case, id=case["name"]) for case in cases]


def opened(method, target, headers):
    unverified = http_signature.parse(method, target, headers)
    unverified.verify(KEYS[unverified.keyid].public_key())
    return unverified


def signed(**changes):
    return http_signature.sign(**(ARGUMENTS | changes))


@pytest.mark.parametrize("case", VECTORS["signed"], ids=lambda case: f"{case['method']} {case['target']}")
def test_what_another_implementation_signed_is_accepted_and_says_the_same(case):
    arguments = case["arguments"]
    unverified = opened(case["method"], case["target"], case["headers"])
    assert unverified.keyid == arguments["keyid"]
    assert unverified.created == arguments["created"]
    assert unverified.nonce == arguments["nonce"]
    assert unverified.tag == arguments["tag"]
    assert unverified.whole == arguments["whole"]
    assert unverified.digest.hex() == arguments["digest"]


@pytest.mark.parametrize("case", VECTORS["signed"], ids=lambda case: f"{case['method']} {case['target']}")
def test_signing_writes_the_bytes_that_another_implementation_wrote(case):
    arguments = case["arguments"] | {"digest": bytes.fromhex(case["arguments"]["digest"])}
    headers = http_signature.sign(
        method=case["method"], target=case["target"], key=KEYS[arguments["keyid"]], **arguments
    )
    assert headers == {name: value for name, value in case["headers"].items() if name != "content-range"}


@pytest.mark.parametrize("case", names(VECTORS["forged"]))
def test_an_altered_request_does_not_verify(case):
    with pytest.raises(SignatureError):
        opened(case["method"], case["target"], case["headers"])


@pytest.mark.parametrize("case", names(VECTORS["foreign"]))
def test_a_valid_signature_outside_the_profile_does_not_even_parse(case):
    with pytest.raises(SignatureError):
        http_signature.parse(case["method"], case["target"], case["headers"])


def test_another_key_is_refused_and_the_message_names_the_identity():
    unverified = http_signature.parse("POST", "/runs/1?x=2", signed())
    with pytest.raises(SignatureError, match="site-a"):
        unverified.verify(signing.generate().public_key())


@pytest.mark.parametrize("missing", ["content-digest", "signature-input", "signature"])
def test_a_request_without_one_of_the_headers_is_refused(missing):
    headers = signed()
    del headers[missing]
    with pytest.raises(SignatureError):
        http_signature.parse("POST", "/runs/1?x=2", headers)


@pytest.mark.parametrize("name", ["signature", "signature-input", "content-digest"])
def test_a_header_sent_twice_is_refused(name):
    headers = signed()
    headers[name.title()] = headers[name]
    with pytest.raises(SignatureError, match="more than once"):
        http_signature.parse("POST", "/runs/1?x=2", headers)


@pytest.mark.parametrize("name", ["signature", "signature-input", "content-digest"])
def test_a_header_joined_from_two_is_refused(name):
    headers = signed()
    headers[name] = f"{headers[name]}, {headers[name]}"
    with pytest.raises(SignatureError):
        http_signature.parse("POST", "/runs/1?x=2", headers)


def test_the_names_of_headers_may_be_in_capitals():
    headers = {name.title(): value for name, value in signed().items()}
    assert opened("POST", "/runs/1?x=2", headers).keyid == "site-a"


def test_other_headers_do_not_matter():
    opened("POST", "/runs/1?x=2", signed() | {"content-length": "7", "X-Any": "x\x00"})


def test_an_empty_query_and_none_sign_the_same():
    # RFC 9421, section 2.2.7: both are "?". No route may tell them apart.
    assert signed(target="/runs?") == signed(target="/runs")


def test_a_content_range_that_was_not_signed_is_refused():
    headers = signed(whole=True) | {"content-range": "bytes 0-9/100"}
    with pytest.raises(SignatureError, match="content-range"):
        http_signature.parse("POST", "/runs/1?x=2", headers)


def test_a_content_range_that_was_signed_cannot_be_taken_away_or_altered():
    headers = signed(whole=True, content_range="bytes 0-9/100")
    opened("POST", "/runs/1?x=2", headers | {"content-range": "bytes 0-9/100"})
    with pytest.raises(SignatureError):
        opened("POST", "/runs/1?x=2", headers)
    with pytest.raises(SignatureError):
        opened("POST", "/runs/1?x=2", headers | {"content-range": "bytes 0-9/101"})


def test_a_whole_digest_cannot_be_passed_off_as_the_contents():
    headers = signed(whole=True)
    headers["content-digest"] = headers.pop("repr-digest")
    with pytest.raises(SignatureError):
        opened("POST", "/runs/1?x=2", headers)


@pytest.mark.parametrize("name", ["signature", "content-digest"])
def test_base64_has_one_spelling(name):
    headers = signed()
    label, value = headers[name].split("=", 1)
    text = value.strip(":")
    body = text.rstrip("=")
    alphabet = string.ascii_uppercase + string.ascii_lowercase + string.digits + "+/"
    other = body[:-1] + alphabet[alphabet.index(body[-1]) + 1] + text[len(body) :]
    assert base64.b64decode(other) == base64.b64decode(text)
    with pytest.raises(SignatureError):
        http_signature.parse("POST", "/runs/1?x=2", headers | {name: f"{label}=:{other}:"})


@pytest.mark.parametrize(
    "changes",
    [
        {"digest": b"short"},
        {"nonce": "short"},
        {"nonce": "n" * 65},
        {"nonce": 'n"; drop="0123456789'},
        {"keyid": ""},
        {"keyid": "k" * 129},
        {"tag": "two words"},
        {"created": -1},
        {"created": 10**12},
        {"method": "post"},
        {"method": ""},
        {"target": "runs"},
        {"target": ""},
        {"target": "*"},
        {"target": "https://hub.example/runs"},
        {"target": "/runs#fragment"},
        {"target": "/a b"},
        {"target": "/a%2"},
        {"target": "/a\n"},
        {"target": "/é"},
        {"target": "/" + "a" * 5000},
        {"content_range": "bytes 0-9"},
        {"content_range": 'bytes 0-9/10\n"x": y'},
    ],
)
def test_arguments_outside_the_profile_are_the_callers_mistake(changes):
    with pytest.raises(ValueError):
        signed(**changes)


def test_the_longest_and_shortest_of_everything_pass():
    for changes in (
        {"nonce": "n" * 16, "keyid": "k", "tag": "t", "created": 0, "target": "/"},
        {"nonce": "n" * 64, "keyid": "k" * 128, "tag": "t" * 64, "created": 10**12 - 1, "target": "/" + "a" * 4095},
    ):
        arguments = ARGUMENTS | changes
        unverified = http_signature.parse("POST", arguments["target"], signed(**changes))
        unverified.verify(KEYS["site-a"].public_key())
        assert unverified.nonce == changes["nonce"]
        assert unverified.created == changes["created"]


@given(
    method=st.sampled_from(["GET", "PUT", "X"]),
    path=st.text(st.sampled_from(string.ascii_letters + "-._~!$&'()*+,;=:@/"), max_size=30),
    query=st.none() | st.text(st.sampled_from(string.digits + "=&/?"), max_size=30),
    digest=st.binary(min_size=32, max_size=32),
    created=st.integers(0, 10**12 - 1),
    nonce=st.from_regex(r"\A[A-Za-z0-9_-]{16,64}\Z"),
    whole=st.booleans(),
)
def test_what_is_signed_is_what_is_read(*, method, path, query, digest, created, nonce, whole):
    target = f"/{path}" + ("" if query is None else f"?{query}")
    headers = signed(method=method, target=target, digest=digest, created=created, nonce=nonce, whole=whole)
    unverified = opened(method, target, headers)
    assert (unverified.digest, unverified.created, unverified.nonce) == (digest, created, nonce)
    assert unverified.whole is whole


NAMES = st.sampled_from(["signature", "Signature-Input", "signature-input", "content-digest", "repr-digest"])


@given(
    method=st.sampled_from(["POST"]) | st.text(max_size=20),
    target=st.sampled_from(["/runs/1?x=2"]) | st.text(max_size=40),
    headers=st.dictionaries(NAMES | st.text(max_size=20), st.text(max_size=200), max_size=8),
)
def test_garbage_raises_signature_error_and_nothing_else(method, target, headers):
    with pytest.raises(SignatureError):
        http_signature.parse(method, target, headers)


@given(
    name=st.sampled_from(["content-digest", "signature-input", "signature"]),
    start=st.integers(0, 200),
    length=st.integers(0, 3),
    put=st.text(st.characters() | st.sampled_from('":;=()\n'), max_size=3),
)
def test_no_small_change_of_a_header_passes(name, start, length, put):
    headers = signed()
    value = headers[name]
    changed = value[:start] + put + value[start + length :]
    if changed == value:
        return
    with pytest.raises(SignatureError):
        http_signature.parse("POST", "/runs/1?x=2", headers | {name: changed}).verify(KEYS["site-a"].public_key())
