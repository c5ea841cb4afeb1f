"""Envelopes: what was sealed opens at its own place under its own key, and nothing else does."""

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from wardround.crypto import envelope
from wardround.crypto.envelope import Place
from wardround.errors import CryptoError

KEYS = {0: bytes(32), 1: bytes(range(32)), 7: b"\x07" * 32}
NONCE = bytes(range(12))
PLACE = Place("memory-run-3", 3, "arran")

places = st.builds(Place, st.text(max_size=20), st.integers(0, 2**64 - 1), st.text(max_size=20))


def key_of(number):
    if number not in KEYS:
        raise CryptoError(f"no key {number}")
    return KEYS[number]


@given(st.binary(max_size=300), st.sampled_from(sorted(KEYS)), st.binary(min_size=12, max_size=12), places)
def test_what_was_sealed_opens(value, number, nonce, place):
    sealed = envelope.seal(value, KEYS[number], number=number, nonce=nonce, place=place)
    assert envelope.open_sealed(sealed, key_of, place=place) == value
    assert envelope.number_of(sealed) == number


@given(st.binary(max_size=40), st.data())
def test_any_flipped_bit_is_refused(value, data):
    sealed = bytearray(envelope.seal(value, KEYS[7], number=7, nonce=NONCE, place=PLACE))
    place = data.draw(st.integers(0, 8 * len(sealed) - 1))
    sealed[place // 8] ^= 1 << (place % 8)
    with pytest.raises(CryptoError):
        envelope.open_sealed(bytes(sealed), key_of, place=PLACE)


@given(places, places)
def test_another_place_does_not_open(one, other):
    sealed = envelope.seal(b"x", KEYS[1], number=1, nonce=NONCE, place=one)
    if one == other:
        assert envelope.open_sealed(sealed, key_of, place=other) == b"x"
    else:
        assert one.context() != other.context()
        with pytest.raises(CryptoError):
            envelope.open_sealed(sealed, key_of, place=other)


def test_the_bytes_are_those_that_the_module_states():
    context = b"".join(
        len(part).to_bytes(4, "big") + part for part in (b"memory-run-3", (3).to_bytes(8, "big"), b"arran")
    )
    start = b"\x02" + (7).to_bytes(4, "big")
    expected = start + NONCE + AESGCM(KEYS[7]).encrypt(NONCE, b"value", b"wardround envelope" + start + context)
    assert envelope.seal(b"value", KEYS[7], number=7, nonce=NONCE, place=PLACE) == expected


def test_a_wrapped_key_is_no_sealed_value_and_the_other_way_round():
    wrapped = envelope.wrap(bytes(32), KEYS[1], number=1, nonce=NONCE, place=PLACE)
    assert len(wrapped) == envelope.WRAPPED_BYTES
    assert envelope.unwrap(wrapped, key_of, place=PLACE) == bytes(32)
    with pytest.raises(CryptoError):
        envelope.open_sealed(wrapped, key_of, place=PLACE)
    sealed = envelope.seal(bytes(32), KEYS[1], number=1, nonce=NONCE, place=PLACE)
    with pytest.raises(CryptoError):
        envelope.unwrap(sealed, key_of, place=PLACE)


def test_a_key_that_is_gone_says_so():
    sealed = envelope.seal(b"x", bytes(32), number=9, nonce=NONCE, place=PLACE)
    with pytest.raises(CryptoError, match="no key 9"):
        envelope.open_sealed(sealed, key_of, place=PLACE)


@given(st.binary(max_size=100))
def test_bytes_from_outside_give_our_error(data):
    for opened in (envelope.open_sealed, envelope.unwrap):
        with pytest.raises(CryptoError):
            opened(data, key_of, place=PLACE)


def test_a_nonce_or_key_of_another_length_is_the_callers_mistake():
    with pytest.raises(ValueError, match="nonce"):
        envelope.seal(b"", KEYS[1], number=1, nonce=b"short", place=PLACE)
    with pytest.raises(CryptoError, match="32 bytes"):
        envelope.seal(b"", b"short", number=1, nonce=NONCE, place=PLACE)
    with pytest.raises(CryptoError, match="32 bytes"):
        envelope.wrap(b"short", KEYS[1], number=1, nonce=NONCE, place=PLACE)
    with pytest.raises(ValueError, match="number"):
        envelope.seal(b"", KEYS[1], number=2**32, nonce=NONCE, place=PLACE)
