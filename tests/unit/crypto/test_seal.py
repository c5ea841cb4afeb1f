import pytest
from hypothesis import given
from hypothesis import strategies as st

from wardround.crypto import seal
from wardround.errors import CryptoError

keys = st.binary(min_size=32, max_size=32)
nonces = st.binary(min_size=12, max_size=12)


@given(value=st.binary(), key=keys, nonce=nonces, context=st.binary())
def test_what_was_sealed_opens(value, key, nonce, context):
    sealed = seal.seal(value, key, nonce=nonce, context=context)
    assert seal.open_sealed(sealed, key, context=context) == value
    assert len(sealed) == len(value) + 29


@given(value=st.binary(max_size=40), key=keys, nonce=nonces, position=st.integers(0), bit=st.integers(0, 7))
def test_a_sealed_value_altered_in_one_bit_does_not_open(value, key, nonce, position, bit):
    altered = bytearray(seal.seal(value, key, nonce=nonce, context=b""))
    altered[position % len(altered)] ^= 1 << bit
    with pytest.raises(CryptoError):
        seal.open_sealed(bytes(altered), key, context=b"")


@given(value=st.binary(max_size=40), key=keys, nonce=nonces, length=st.integers(0, 60))
def test_a_shortened_value_does_not_open(value, key, nonce, length):
    sealed = seal.seal(value, key, nonce=nonce, context=b"")
    with pytest.raises(CryptoError):
        seal.open_sealed(sealed[: min(length, len(sealed) - 1)], key, context=b"")


@given(value=st.binary(max_size=40), key=keys, other=keys, nonce=nonces, place=st.binary(), elsewhere=st.binary())
def test_another_key_or_context_does_not_open(value, key, other, nonce, place, elsewhere):
    sealed = seal.seal(value, key, nonce=nonce, context=place)
    if other != key:
        with pytest.raises(CryptoError):
            seal.open_sealed(sealed, other, context=place)
    if elsewhere != place:
        with pytest.raises(CryptoError):
            seal.open_sealed(sealed, key, context=elsewhere)


def test_the_bytes_are_those_of_aes_256_gcm_with_version_and_context_as_additional_data():
    # NIST's GCM test case 16 (McGrew and Viega), which has another layout of additional data, fixes the cipher:
    # key, nonce and plaintext are its own; the keystream, hence the ciphertext, does not depend on additional data.
    key = bytes.fromhex("feffe9928665731c6d6a8f9467308308feffe9928665731c6d6a8f9467308308")
    nonce = bytes.fromhex("cafebabefacedbaddecaf888")
    value = bytes.fromhex("d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a72")
    sealed = seal.seal(value, key, nonce=nonce, context=b"place")
    assert sealed[:13] == b"\x01" + nonce
    assert sealed[13:-16].hex() == "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa"


@pytest.mark.parametrize("key", [b"", bytes(16), bytes(24), bytes(31), bytes(33)])
def test_a_key_of_another_length_is_refused(key):
    with pytest.raises(CryptoError):
        seal.seal(b"", key, nonce=bytes(12), context=b"")
    with pytest.raises(CryptoError):
        seal.open_sealed(bytes(29), key, context=b"")


@pytest.mark.parametrize("nonce", [b"", bytes(8), bytes(11), bytes(13), bytes(16)])
def test_a_nonce_of_another_length_is_a_bug_of_the_caller(nonce):
    with pytest.raises(ValueError):
        seal.seal(b"", bytes(32), nonce=nonce, context=b"")
