"""STREAM: an object opens whole and in order, and whatever else its segments are made into is refused."""

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from wardround.crypto import stream
from wardround.errors import CryptoError

KEY = bytes(range(32))
PREFIX = b"prefix!"
AAD = b"where it belongs"


def sealed_of(data, size, *, key=KEY, prefix=PREFIX, aad=AAD, cut=None):
    pieces = [data] if cut is None else [data[place : place + cut] for place in range(0, len(data), cut)]
    return b"".join(map(bytes, stream.seal_stream(pieces, key, prefix=prefix, aad=aad, segment_bytes=size)))


def opened(data, size, *, key=KEY, prefix=PREFIX, aad=AAD, cut=None):
    pieces = [data] if cut is None else [data[place : place + cut] for place in range(0, len(data), cut)]
    return b"".join(map(bytes, stream.open_stream(pieces, key, prefix=prefix, aad=aad, segment_bytes=size)))


def by_hand(data, size):
    """The construction again, segment by segment, without the code under test."""
    parts = [data[place : place + size] for place in range(0, len(data), size)] or [b""]
    return [
        AESGCM(KEY).encrypt(PREFIX + place.to_bytes(4, "big") + bytes([place == len(parts) - 1]), part, AAD)
        for place, part in enumerate(parts)
    ]


@given(st.binary(max_size=200), st.integers(1, 40), st.integers(1, 50), st.integers(1, 50))
def test_what_was_sealed_opens_however_it_comes(data, size, first, second):
    sealed = sealed_of(data, size, cut=first)
    assert sealed == b"".join(by_hand(data, size))
    assert opened(sealed, size, cut=second) == data
    assert len(sealed) == stream.sealed_bytes(len(data), segment_bytes=size)
    assert stream.plain_bytes(len(sealed), segment_bytes=size) == len(data)


@given(st.binary(max_size=60), st.integers(1, 20), st.data())
def test_any_flipped_bit_is_refused(data, size, drawn):
    sealed = bytearray(sealed_of(data, size))
    place = drawn.draw(st.integers(0, 8 * len(sealed) - 1))
    sealed[place // 8] ^= 1 << (place % 8)
    with pytest.raises(CryptoError):
        opened(bytes(sealed), size)


@given(st.binary(min_size=1, max_size=60), st.integers(1, 20), st.data())
def test_any_truncation_and_any_extension_is_refused(data, size, drawn):
    sealed = sealed_of(data, size)
    with pytest.raises(CryptoError):
        opened(sealed[: drawn.draw(st.integers(0, len(sealed) - 1))], size)
    with pytest.raises(CryptoError):
        opened(sealed + drawn.draw(st.binary(min_size=1, max_size=60)), size)


@given(st.lists(st.integers(0, 4), max_size=7))
def test_segments_left_out_repeated_or_in_another_order_are_refused(order):
    data = bytes(range(50))
    segments = by_hand(data, 10)
    sealed = b"".join(segments[place] for place in order)
    if order == [0, 1, 2, 3, 4]:
        assert opened(sealed, 10) == data
    else:
        with pytest.raises(CryptoError):
            opened(sealed, 10)


def test_the_end_at_a_segments_boundary_is_not_taken_for_the_end():
    segments = by_hand(bytes(30), 10)
    with pytest.raises(CryptoError):
        opened(b"".join(segments[:2]), 10)


@pytest.mark.parametrize("change", [{"key": bytes(32)}, {"prefix": b"another"}, {"aad": b"elsewhere"}])
def test_another_key_prefix_or_place_does_not_open(change):
    with pytest.raises(CryptoError):
        opened(sealed_of(b"value", 3), 3, **change)


def test_one_segment_opens_by_itself_at_its_own_place_only():
    data, size = bytes(range(25)), 10
    sealed = sealed_of(data, size)
    middle = sealed[26:52]
    assert stream.open_segment(middle, KEY, prefix=PREFIX, index=1, is_last=False, aad=AAD) == data[10:20]
    for index, is_last in ((0, False), (2, False), (1, True)):
        with pytest.raises(CryptoError):
            stream.open_segment(middle, KEY, prefix=PREFIX, index=index, is_last=is_last, aad=AAD)
    again = stream.seal_segment(data[10:20], KEY, prefix=PREFIX, index=1, is_last=False, aad=AAD)
    assert again == middle


@given(st.integers(0, 10**6), st.integers(1, 1000))
def test_a_length_that_no_object_has_is_refused(sealed, size):
    try:
        plain = stream.plain_bytes(sealed, segment_bytes=size)
    except CryptoError:
        segments = max(1, -(-sealed // (size + 16)))
        assert sealed - 16 * segments < 0 or stream.sealed_bytes(sealed - 16 * segments, segment_bytes=size) != sealed
    else:
        assert stream.sealed_bytes(plain, segment_bytes=size) == sealed


def test_sizes_that_cannot_be_are_the_callers_mistake():
    for size in (0, 64 * 1024 * 1024 + 1):
        with pytest.raises(ValueError, match="segment"):
            sealed_of(b"", size)
    with pytest.raises(ValueError, match="prefix"):
        sealed_of(b"", 5, prefix=b"short")
    with pytest.raises(CryptoError, match="32 bytes"):
        sealed_of(b"", 5, key=b"short")
