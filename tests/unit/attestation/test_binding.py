"""What evidence binds: every field counts, no two lists of fields are the same bytes, and JCS is RFC 8785's."""

import hashlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wardround.attestation import binding
from wardround.errors import AttestationError, CodecError

GIVEN = {"spki": b"key", "nonce": b"n" * 32, "role": "hub", "context": b"cohort"}


def test_report_data_is_the_documented_digest():
    def framed(field):
        return len(field).to_bytes(4, "big") + field

    message = b"wardround-ra-tls-v1" + framed(b"key") + framed(b"n" * 32) + framed(b"hub") + framed(b"cohort")
    assert binding.report_data(**GIVEN) == hashlib.sha512(message).digest()
    assert len(binding.report_data(**GIVEN)) == 64


@pytest.mark.parametrize(
    "other", [{"spki": b"kez"}, {"nonce": b"n" * 31 + b"m"}, {"role": "node"}, {"context": b"cohorT"}, {"context": b""}]
)
def test_another_key_challenge_role_or_context_is_another_binding(other):
    with pytest.raises(AttestationError, match="REPORT_DATA"):
        binding.check(binding.report_data(**(GIVEN | other)), binding.report_data(**GIVEN))


@given(st.binary(min_size=1, max_size=40), st.binary(min_size=16, max_size=40), st.integers(1, 39))
def test_a_byte_cannot_move_from_one_field_to_the_next(spki, nonce, cut):
    whole = spki + nonce
    if len(whole) - cut < 16 or len(whole) - cut > 64 or cut == len(spki):
        return
    one = binding.report_data(spki=spki, nonce=nonce, role="hub", context=b"")
    other = binding.report_data(spki=whole[:cut], nonce=whole[cut:], role="hub", context=b"")
    assert one != other


def test_the_same_binding_is_accepted():
    binding.check(binding.report_data(**GIVEN), binding.report_data(**GIVEN))


@pytest.mark.parametrize("found", [b"", bytes(63), bytes(65), bytes(64)])
def test_report_data_of_another_length_is_refused(found):
    with pytest.raises(AttestationError):
        binding.check(found, binding.report_data(**GIVEN))


@pytest.mark.parametrize("expected", [b"", b"x", bytes(63)])
def test_an_expectation_without_a_length_never_matches(expected):
    with pytest.raises(AttestationError):
        binding.check(expected, expected)


@pytest.mark.parametrize(
    "wrong",
    [{"nonce": b"n" * 15}, {"nonce": b"n" * 65}, {"spki": b""}, {"spki": bytes(5000)}, {"role": ""}, {"role": "hüb"},
     {"role": "x" * 65}, {"context": bytes(70_000)}],
)  # fmt: skip
def test_a_field_out_of_bounds_is_the_callers_mistake(wrong):
    with pytest.raises(ValueError):
        binding.report_data(**(GIVEN | wrong))


def test_runtime_data_is_hashed_in_its_canonical_form():
    document = {"tee-pubkey": {"kty": "EC", "crv": "P-256"}, "nonce": "abc", "extra": [1, True, None]}
    text = b'{"extra":[1,true,null],"nonce":"abc","tee-pubkey":{"crv":"P-256","kty":"EC"}}'
    assert binding.jcs(document) == text
    assert binding.runtime_data(document) == hashlib.sha384(text).digest() + bytes(16)
    assert binding.runtime_data(document, algorithm="sha512") == hashlib.sha512(text).digest()


plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(st.characters(max_codepoint=127)), inner),
    max_leaves=12,
)


@given(st.dictionaries(st.text(st.characters(max_codepoint=127)), plain, max_size=5))
def test_our_canonical_form_is_that_of_rfc_8785_within_its_bounds(document):
    # RFC 8785, 3.2: sorted keys, no spaces, and of all characters only quotes, backslashes and controls escaped; for
    # ASCII keys Python's order of code points is the order of UTF-16 code units.
    expected = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    try:
        wanted = expected.encode()
    except UnicodeEncodeError:
        with pytest.raises(CodecError):
            binding.jcs(document)
        return
    assert binding.jcs(document) == wanted


@pytest.mark.parametrize(
    "wrong", [{"x": 1.5}, {"ü": 1}, {1: 1}, {"x": 2**53}, {"x": b"raw"}, {"x": {"y": float("nan")}}, {"x": object()}]
)
def test_what_json_spells_in_two_ways_is_refused(wrong):
    with pytest.raises(CodecError):
        binding.jcs(wrong)


def test_runtime_data_may_not_be_endlessly_deep():
    document = {}
    for _ in range(40):
        document = {"x": document}
    with pytest.raises(CodecError, match="deep"):
        binding.jcs(document)


def test_a_gpus_nonce_names_the_report_and_the_session():
    nonce = binding.gpu_nonce(b"report", b"key")
    assert len(nonce) == 32
    assert (
        nonce
        == hashlib.sha256(
            b"wardround-gpu-nonce-v1" + (6).to_bytes(4, "big") + b"report" + (3).to_bytes(4, "big") + b"key"
        ).digest()
    )
    assert len({nonce, binding.gpu_nonce(b"report2", b"key"), binding.gpu_nonce(b"repor", b"tkey")}) == 3
    with pytest.raises(ValueError):
        binding.gpu_nonce(b"", b"key")
