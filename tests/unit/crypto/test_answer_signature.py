"""Answers bind to their requests; another implementation of RFC 9421 agrees, both ways, on requests and answers."""

import base64
import hashlib
from collections import OrderedDict
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wardround.crypto import answer_signature, http_signature, signing
from wardround.errors import SignatureError

library = pytest.importorskip("http_message_signatures", reason="http-message-signatures is not installed")

HUB, SITE = (signing.PrivateKey.from_private_bytes(bytes([n]) * 32) for n in (1, 2))
KEYID = "ab" * 32
NOW = 1_760_000_000
BODY = b"\x82\xa1a\x01\xa1b\x02"


class Keys(library.HTTPSignatureKeyResolver):
    def resolve_private_key(self, key_id):
        return HUB if key_id == KEYID else SITE

    def resolve_public_key(self, key_id):
        return self.resolve_private_key(key_id).public_key()


def verifier():
    return library.HTTPMessageVerifier(signature_algorithm=library.algorithms.ED25519, key_resolver=Keys())


def library_accepts(message):
    try:
        verifier().verify(message, max_age=None)
    except library.HTTPMessageSignaturesException:
        return False
    return True


def library_signs(message, components, params):
    from http_sf.compat import Item

    parsed = []
    for name, more in components:
        item = Item(name)
        item.params.update(more)
        parsed.append(item)
    signer = library.HTTPMessageSigner(signature_algorithm=library.algorithms.ED25519, key_resolver=Keys())
    base, node, _ = signer._build_signature_base(
        message, covered_component_ids=parsed, signature_params=OrderedDict(params)
    )
    key = Keys().resolve_private_key(params["keyid"])
    signature = library.algorithms.ED25519(private_key=key).sign(base.encode())
    text = base64.b64encode(signature).decode()
    return {"signature-input": f"wardround={node}", "signature": f"wardround=:{text}:"}


def request(**more):
    headers = http_signature.sign(
        method="POST",
        target="/v1/tasks?x=1",
        digest=hashlib.sha256(b"asked").digest(),
        created=NOW,
        nonce="n" * 16,
        tag="start",
        keyid="arran",
        key=SITE,
        **more,
    )
    headers |= more
    return SimpleNamespace(method="POST", url="https://hub.example/v1/tasks?x=1", headers=headers)


def answer(asked, *, status=200, content=BODY, key=HUB):
    bound = answer_signature.request_signature(asked.headers["signature"])
    headers = answer_signature.sign(status=status, content=content, request=bound, created=NOW, keyid=KEYID, key=key)
    return SimpleNamespace(status_code=status, headers=headers, request=asked)


def verify(message, *, content=BODY, asked=None, status=None, key=None):
    answer_signature.verify(
        message.headers,
        status=status or message.status_code,
        content=content,
        request=answer_signature.request_signature((asked or message.request).headers["signature"]),
        key_of=lambda _: key or HUB.public_key(),
    )


def test_an_answer_is_taken_for_its_request():
    verify(answer(request()))
    verify(answer(request(), status=204, content=b""), content=b"")


def test_another_implementation_takes_our_answers():
    message = answer(request())
    assert library_accepts(message)
    message.status_code = 204
    assert not library_accepts(message)


def test_we_take_another_implementations_answers():
    asked = request()
    digest = f"sha-256=:{base64.b64encode(hashlib.sha256(BODY).digest()).decode()}:"
    message = SimpleNamespace(status_code=200, headers={"content-digest": digest}, request=asked)
    params = {"created": NOW, "keyid": KEYID, "alg": "ed25519", "tag": "wardround-answer"}
    components = [("@status", {}), ("content-digest", {}), ("signature", {"req": True, "key": "wardround"})]
    message.headers |= library_signs(message, components, params)
    verify(message)
    with pytest.raises(SignatureError):
        verify(message, status=201)


@pytest.mark.parametrize(
    "more",
    [{}, {"authorization": "DPoP eyJhbGciOiJFZDI1NTE5In0.e30.c2ln"}, {"authorization": "DPoP a.b.c", "dpop": "d.e.f"}],
    ids=lambda more: "+".join(more) or "neither",
)
def test_another_implementation_agrees_on_requests_with_tokens(more):
    asked = request(**more)
    assert library_accepts(asked)
    components = [(name, {}) for name in ("@method", "@path", "@query", "content-digest", *more)]
    params = {"created": NOW, "nonce": "n" * 16, "keyid": "arran", "alg": "ed25519", "tag": "start"}
    theirs = library_signs(asked, components, params)
    assert theirs == {name: asked.headers[name] for name in theirs}
    http_signature.parse("POST", "/v1/tasks?x=1", asked.headers | theirs).verify(SITE.public_key())


@pytest.mark.parametrize("name", ["authorization", "dpop"])
def test_a_token_is_covered_exactly_when_it_is_there(name):
    without, token = request(), {name: "a.b.c"}
    with pytest.raises(SignatureError, match=name):
        http_signature.parse("POST", "/v1/tasks?x=1", without.headers | token)
    covered = request(**token)
    http_signature.parse("POST", "/v1/tasks?x=1", covered.headers).verify(SITE.public_key())
    missing = {key: value for key, value in covered.headers.items() if key != name}
    with pytest.raises(SignatureError, match=name):
        http_signature.parse("POST", "/v1/tasks?x=1", missing)
    swapped = http_signature.parse("POST", "/v1/tasks?x=1", covered.headers | {name: "a.b.d"})
    with pytest.raises(SignatureError):
        swapped.verify(SITE.public_key())


@pytest.mark.parametrize("value", ["a  b", " a", "a\nb", "a\r\nx: y", "é", "a" * 8193])
def test_a_token_that_could_break_the_signed_text_is_refused(value):
    with pytest.raises(ValueError, match="visible"):
        request(authorization=value)
    headers = request(authorization="a").headers | {"authorization": value}
    with pytest.raises(SignatureError):
        http_signature.parse("POST", "/v1/tasks?x=1", headers)


def test_an_altered_answer_is_refused():
    asked, other = request(), request(authorization="another.request")
    message = answer(asked)
    for change in (
        {"content": BODY + b"\x00"},
        {"status": 201},
        {"asked": other},
        {"key": SITE.public_key()},
    ):
        with pytest.raises(SignatureError):
            verify(message, **change)
    verify(message)


@pytest.mark.parametrize("name", ["content-digest", "signature-input", "signature"])
def test_an_answer_without_a_part_of_its_signature_is_refused(name):
    message = answer(request())
    del message.headers[name]
    with pytest.raises(SignatureError):
        verify(message)


def test_base64_has_one_spelling():
    message = answer(request())
    text = message.headers["signature"]
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    last = text[-4]
    other = text[:-4] + letters[letters.index(last) ^ 1] + text[-3:]
    assert base64.b64decode(other[11:-1]) == base64.b64decode(text[11:-1])
    message.headers["signature"] = other
    with pytest.raises(SignatureError, match="canonical"):
        verify(message)


def test_an_answer_is_not_taken_for_a_later_request():
    first = answer(request())
    again = http_signature.sign(
        method="POST",
        target="/v1/tasks?x=1",
        digest=hashlib.sha256(b"asked").digest(),
        created=NOW,
        nonce="m" * 16,
        tag="start",
        keyid="arran",
        key=SITE,
    )
    with pytest.raises(SignatureError, match="altered or swapped"):
        verify(first, asked=SimpleNamespace(headers=again))


@pytest.mark.parametrize("header", ["", "wardround=::", "sig1=:AAAA:", "wardround=:" + "A" * 86 + "==:, x=:AA==:"])
def test_a_request_without_our_signature_binds_no_answer(header):
    assert answer_signature.request_signature(header) is None


@settings(max_examples=200)
@given(
    name=st.sampled_from(["content-digest", "signature-input", "signature"]),
    start=st.integers(0, 200),
    length=st.integers(0, 3),
    put=st.text(max_size=3),
)
def test_no_small_change_of_an_answers_header_passes(*, name, start, length, put):
    message = answer(request())
    value = message.headers[name]
    changed = value[:start] + put + value[start + length :]
    if changed == value:
        return
    message.headers[name] = changed
    with pytest.raises(SignatureError):
        verify(message)
