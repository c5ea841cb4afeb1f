import hashlib
import json
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wardround.crypto import prg
from wardround.errors import CryptoError

FOLDER = Path(__file__).parents[2] / "vectors"
VECTORS = json.loads((FOLDER / "secagg.json").read_text(encoding="utf-8"))
DTYPES = {32: np.uint32, 64: np.uint64}
# Longer than two blocks of 256 KiB, and no multiple of a cipher block.
LONG = 150_003

seeds = st.binary(min_size=32, max_size=32)
bits = st.sampled_from([32, 64])


def seed(number):
    return hashlib.sha256(str(number).encode()).digest()


def masked(count, plus, minus, bits, start=0):
    vector = np.zeros(count, DTYPES[bits])
    prg.MaskStream(plus, minus, bits=bits, start=start).apply(vector)
    return vector


def slowly(count, plus, minus, bits, start=0):
    """The same from whole keystreams and Python's integers."""
    size = bits // 8
    end = (start + count) * size
    added = [np.frombuffer(prg.stream(one, end), f"<u{size}")[start:].tolist() for one in plus]
    taken = [np.frombuffer(prg.stream(one, end), f"<u{size}")[start:].tolist() for one in minus]
    return [(sum(s[i] for s in added) - sum(s[i] for s in taken)) % 2**bits for i in range(count)]


@pytest.mark.parametrize("case", VECTORS["keystreams"], ids=lambda case: str(case["size"]))
def test_keystreams_are_those_of_openssl(case):
    made = prg.stream(bytes.fromhex(case["seed"]), case["size"])
    assert len(made) == case["size"]
    assert made[-32:].hex() == case["last"]
    assert hashlib.sha256(made).hexdigest() == case["sha256"]


@pytest.mark.parametrize("case", VECTORS["masks"], ids=lambda case: f"{case['bits']} from {case['start']}")
def test_masked_vectors_are_those_made_with_openssl(case):
    plus, minus = ([bytes.fromhex(one) for one in case[sign]] for sign in ("plus", "minus"))
    vector = np.arange(1, len(case["masked"]) + 1, dtype=DTYPES[case["bits"]])
    prg.MaskStream(plus, minus, bits=case["bits"], start=case["start"]).apply(vector)
    assert vector.tolist() == case["masked"]


@pytest.mark.skipif(shutil.which("openssl") is None, reason="there is no openssl command")
def test_openssl_makes_the_same_vectors_again():
    made = subprocess.run([sys.executable, FOLDER / "make_secagg.py"], capture_output=True, check=True).stdout
    assert json.loads(made) == VECTORS


def test_the_vectors_are_of_the_format_that_is_read_here():
    assert VECTORS["format"] == 1


@given(
    each=st.lists(seeds, unique=True, max_size=6),
    cut=st.integers(0, 6),
    bits=bits,
    count=st.integers(0, 40),
    start=st.integers(0, 40),
)
def test_a_mask_is_the_sum_of_its_streams(each, cut, bits, count, start):
    plus, minus = each[:cut], each[cut:]
    assert masked(count, plus, minus, bits, start).tolist() == slowly(count, plus, minus, bits, start)


@given(each=st.lists(seeds, unique=True, max_size=4), bits=bits, cuts=st.lists(st.integers(0, 60), max_size=5))
def test_stretches_continue_the_stream_exactly(each, bits, cuts):
    whole, pieces = masked(60, each[:2], each[2:], bits), np.zeros(60, DTYPES[bits])
    masks = prg.MaskStream(each[:2], each[2:], bits=bits)
    for piece in np.split(pieces, sorted(cuts)):
        masks.apply(piece)
    assert np.array_equal(pieces, whole)


@given(one=seeds, bits=bits, start=st.integers(0, 2**59), count=st.integers(1, 20), skipped=st.integers(0, 20))
def test_to_start_later_is_to_skip(one, bits, start, count, skipped):
    assert np.array_equal(
        masked(count, [one], [], bits, start + skipped), masked(skipped + count, [one], [], bits, start)[skipped:]
    )


@pytest.mark.parametrize("bits", [32, 64])
def test_blocks_inside_leave_no_seam(bits):
    one, other = seed(1), seed(2)
    size = bits // 8
    expected = np.frombuffer(prg.stream(one, LONG * size), DTYPES[bits]).copy()
    expected -= np.frombuffer(prg.stream(other, LONG * size), DTYPES[bits])
    assert np.array_equal(masked(LONG, [one], [other], bits), expected)


@given(n=st.integers(2, 6), bits=bits, data=st.data())
def test_masks_of_all_pairs_cancel_in_the_sum(n, bits, data):
    values = data.draw(st.lists(st.lists(st.integers(0, 2**bits - 1), min_size=5, max_size=5), min_size=n, max_size=n))
    total = np.zeros(5, DTYPES[bits])
    for i, value in enumerate(values):
        vector = np.array(value, DTYPES[bits])
        plus = [seed((i, j)) for j in range(i + 1, n)]
        minus = [seed((j, i)) for j in range(i)]
        prg.MaskStream(plus, minus, bits=bits).apply(vector)
        total += vector
    assert total.tolist() == [sum(column) % 2**bits for column in zip(*values, strict=True)]


def test_workers_that_share_a_vector_make_one_mask():
    plus, minus = [seed(number) for number in range(3)], [seed(number) for number in range(3, 5)]
    vector, half = np.zeros(LONG, np.uint32), 70_001

    def work(begin, end):
        prg.MaskStream(plus, minus, bits=32, start=begin).apply(vector[begin:end])

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(work, [0, half], [half, LONG]))
    assert np.array_equal(vector, masked(LONG, plus, minus, 32))


@given(one=seeds, position=st.integers(0, 31), bit=st.integers(0, 7))
def test_one_bit_of_a_seed_changes_every_part(one, position, bit):
    other = bytearray(one)
    other[position] ^= 1 << bit
    assert prg.stream(one, 16) != prg.stream(bytes(other), 16)


@pytest.mark.parametrize("size", [0, 16, 24, 31, 33, 64])
def test_a_seed_of_another_length_is_refused(size):
    with pytest.raises(CryptoError):
        prg.stream(bytes(size), 1)
    with pytest.raises(CryptoError):
        prg.MaskStream([bytes(size)], [], bits=32)
    with pytest.raises(CryptoError):
        prg.MaskStream([], [bytes(size)], bits=32)


@pytest.mark.parametrize(
    ("plus", "minus"), [([seed(1), seed(1)], []), ([], [seed(1), seed(1)]), ([seed(1)], [seed(2), seed(1)])]
)
def test_a_seed_named_twice_is_refused(plus, minus):
    with pytest.raises(CryptoError, match="twice"):
        prg.MaskStream(plus, minus, bits=32)


@pytest.mark.parametrize(
    "wrong", [{"bits": 16}, {"bits": 128}, {"bits": 32, "start": -1}, {"bits": 64, "start": 2**60}]
)
def test_other_widths_and_starts_are_bugs_of_the_caller(wrong):
    with pytest.raises(ValueError):
        prg.MaskStream([], [], **wrong)
    with pytest.raises(ValueError):
        prg.stream(bytes(32), -1)


def read_only():
    vector = np.zeros(4, np.uint32)
    vector.setflags(write=False)
    return vector


@pytest.mark.parametrize(
    "vector",
    [
        np.zeros(4, np.uint64),
        np.zeros(4, np.int32),
        np.zeros(4, np.float32),
        np.zeros(4, ">u4"),
        np.zeros((2, 2), np.uint32),
        np.zeros(8, np.uint32)[::2],
        read_only(),
    ],
    ids=["wide", "signed", "floats", "big-endian", "two axes", "strided", "read-only"],
)
def test_a_vector_that_cannot_be_masked_in_place_is_a_bug_of_the_caller(vector):
    masks = prg.MaskStream([seed(1)], [], bits=32)
    with pytest.raises(ValueError):
        masks.apply(vector)
    assert not vector.any()
    with pytest.raises(ValueError):
        prg.MaskStream([], [], bits=32).apply(vector)


def test_a_stream_has_an_end():
    masks = prg.MaskStream([seed(1)], [], bits=32, start=2**60 - 3)
    masks.apply(np.zeros(2, np.uint32))
    with pytest.raises(ValueError, match="end"):
        masks.apply(np.zeros(2, np.uint32))
