import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wardround.crypto import agreement
from wardround.errors import CryptoError

VECTORS = json.loads((Path(__file__).parents[2] / "vectors" / "secagg.json").read_text(encoding="utf-8"))
TRANSCRIPT = bytes.fromhex(VECTORS["transcript"])
RECEIVER = agreement.generate()
PUBLIC = RECEIVER.public_key()
KEY = bytes(range(32))
OFFER = agreement.offer(PUBLIC, KEY, b"a to b, epoch 1")

keys = st.binary(min_size=32, max_size=32)
transcripts = st.binary(min_size=1, max_size=64)
labels = st.text(min_size=1, max_size=20)


@pytest.mark.parametrize("case", VECTORS["derived"], ids=lambda case: case["label"])
def test_derived_values_are_those_of_openssl(case):
    made = agreement.derive(bytes.fromhex(case["key"]), TRANSCRIPT, case["label"], case["length"])
    assert made.hex() == case["derived"]


@pytest.mark.parametrize("case", VECTORS["ratchet"], ids=lambda case: str(case["steps"]))
def test_the_ratchet_is_that_of_openssl(case):
    assert agreement.ratchet(bytes.fromhex(VECTORS["ratchet"][0]["key"]), case["steps"]).hex() == case["key"]


@pytest.mark.parametrize("case", VECTORS["commitments"], ids=lambda case: repr(case["label"]))
def test_commitments_are_those_of_openssl(case):
    made = agreement.commitment(bytes.fromhex(case["value"]), TRANSCRIPT, case["label"])
    assert made.hex() == case["commitment"]


@given(key=keys, info=st.binary())
def test_what_was_offered_is_accepted(key, info):
    sealed = agreement.offer(PUBLIC, key, info)
    assert agreement.accept(sealed, RECEIVER, info) == key
    assert len(sealed) == agreement.OFFER_BYTES == 1169
    assert sealed[:1] == agreement.VERSION == b"\x01"


def test_an_offer_is_drawn_anew_every_time():
    assert agreement.offer(PUBLIC, KEY, b"") != agreement.offer(PUBLIC, KEY, b"")


@given(position=st.integers(0, agreement.OFFER_BYTES - 1), bit=st.integers(0, 7))
def test_an_offer_altered_in_one_bit_is_refused(position, bit):
    # X25519 ignores the top bit of a point, but the KEM hashes the bytes as they came.
    altered = bytearray(OFFER)
    altered[position] ^= 1 << bit
    with pytest.raises(CryptoError):
        agreement.accept(bytes(altered), RECEIVER, b"a to b, epoch 1")


@pytest.mark.parametrize("sealed", [b"", OFFER[:1], OFFER[:-1], OFFER + b"\0", OFFER[1:], b"\2" + OFFER[1:]])
def test_an_offer_of_another_size_or_version_is_refused(sealed):
    with pytest.raises(CryptoError, match="version"):
        agreement.accept(sealed, RECEIVER, b"a to b, epoch 1")


def test_an_offer_with_a_point_of_small_order_is_refused():
    with pytest.raises(CryptoError):
        agreement.accept(OFFER[:1089] + bytes(32) + OFFER[1121:], RECEIVER, b"a to b, epoch 1")


@pytest.mark.parametrize("info", [b"", b"a to b, epoch 2", b"b to a, epoch 1", b"a to b, epoch 1\0"])
def test_an_offer_for_another_pair_or_epoch_is_refused(info):
    with pytest.raises(CryptoError):
        agreement.accept(OFFER, RECEIVER, info)


def test_an_offer_to_another_key_is_refused():
    other = agreement.generate()
    raw, raw_other = agreement.private_bytes(RECEIVER), agreement.private_bytes(other)
    # Either half of the hybrid is needed.
    for wrong in (raw_other, raw[:64] + raw_other[64:], raw_other[:64] + raw[64:]):
        with pytest.raises(CryptoError):
            agreement.accept(OFFER, agreement.load_private(wrong), b"a to b, epoch 1")


@pytest.mark.parametrize("key", [b"", bytes(31), bytes(33)])
def test_a_key_of_another_length_is_refused(key):
    with pytest.raises(ValueError):
        agreement.offer(PUBLIC, key, b"")
    with pytest.raises(CryptoError):
        agreement.ratchet(key, 1)
    with pytest.raises(CryptoError):
        agreement.derive(key, TRANSCRIPT, "mask")


def test_keys_are_read_as_they_were_written():
    raw, public = agreement.private_bytes(RECEIVER), agreement.public_bytes(PUBLIC)
    assert len(raw) == agreement.PRIVATE_BYTES == 96
    assert len(public) == agreement.PUBLIC_BYTES == 1216
    read = agreement.load_private(raw)
    assert agreement.private_bytes(read) == raw
    assert agreement.public_bytes(read.public_key()) == public
    assert agreement.load_public(public) == PUBLIC
    assert agreement.accept(agreement.offer(agreement.load_public(public), KEY, b"x"), read, b"x") == KEY


def test_a_private_key_shows_nothing_of_itself():
    assert agreement.private_bytes(RECEIVER).hex()[:8] not in repr(RECEIVER)
    assert "mlkem" not in repr(RECEIVER)


@pytest.mark.parametrize("size", [0, 32, 95, 97, 1215, 1217])
def test_keys_of_another_size_are_refused(size):
    with pytest.raises(CryptoError):
        agreement.load_private(bytes(size))
    with pytest.raises(CryptoError, match="1216 bytes"):
        agreement.load_public(agreement.public_bytes(PUBLIC).ljust(size, b"\0")[:size])


def test_public_keys_that_are_none_are_refused():
    raw = agreement.public_bytes(PUBLIC)
    with pytest.raises(CryptoError):
        agreement.load_public(b"\xff" * 1184 + raw[1184:])
    for point in (0, 1, 2**255 - 20, 2**255 - 19, 2**255 - 18):  # RFC 7748: of small order, or not reduced to it
        with pytest.raises(CryptoError):
            agreement.load_public(raw[:1184] + point.to_bytes(32, "little"))


@given(key=keys, first=st.integers(0, 5), then=st.integers(0, 5))
def test_the_ratchet_goes_step_by_step(key, first, then):
    assert agreement.ratchet(agreement.ratchet(key, first), then) == agreement.ratchet(key, first + then)
    assert agreement.ratchet(key, first + 1) != key


@pytest.mark.parametrize("steps", [-1, 100_001, 2**40])
def test_the_ratchet_has_bounds(steps):
    with pytest.raises(ValueError):
        agreement.ratchet(KEY, steps)


@given(key=keys, transcript=transcripts, label=labels, length=st.integers(1, 100), longer=st.integers(0, 50))
def test_derived_values_have_the_length_that_was_asked_for(key, transcript, label, length, longer):
    made = agreement.derive(key, transcript, label, length)
    assert len(made) == length
    assert agreement.derive(key, transcript, label, length + longer)[:length] == made


@given(key=keys, transcript=transcripts, label=labels, other=labels)
def test_labels_and_the_ratchet_are_apart(key, transcript, label, other):
    made = agreement.derive(key, transcript, label)
    assert made != agreement.ratchet(key, 1)
    assert (made == agreement.derive(key, transcript, other)) == (label == other)


def test_transcripts_and_keys_are_apart():
    made = {agreement.derive(key, bound, "mask") for key in (KEY, bytes(32)) for bound in (TRANSCRIPT, b"another")}
    assert len(made) == 4


@pytest.mark.parametrize(("transcript", "label", "length"), [(b"", "mask", 32), (b"t", "", 32), (b"t", "a", 0)])
def test_unbound_or_empty_derivations_are_bugs_of_the_caller(transcript, label, length):
    with pytest.raises(ValueError):
        agreement.derive(KEY, transcript, label, length)
    with pytest.raises(ValueError, match="length must be"):
        agreement.derive(KEY, TRANSCRIPT, "mask", 8161)


parts = st.binary(max_size=4)
words = st.text("ab", max_size=3)


@given(one=st.tuples(parts, parts, words), other=st.tuples(parts, parts, words))
def test_a_commitment_fixes_value_transcript_and_label(one, other):
    assert (agreement.commitment(*one) == agreement.commitment(*other)) == (one == other)
    assert len(agreement.commitment(*one)) == 32


def test_parts_of_a_commitment_cannot_be_shifted_into_one_another():
    assert agreement.commitment(b"bc", b"a", "t") != agreement.commitment(b"c", b"ab", "t")
    assert agreement.commitment(b"c", b"b", "a") != agreement.commitment(b"c", b"", "ab")
