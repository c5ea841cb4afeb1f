"""The tree against a recursive reading of RFC 6962 and against pymerkle, and proofs that were tampered with."""

import hashlib

import pymerkle
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wardround.audit import merkle
from wardround.errors import AuditError

LEAVES = [bytes([i % 251]) * (i % 7) + str(i).encode() for i in range(300)]


def mth(leaves):
    """RFC 6962, 2.1, word for word."""
    if not leaves:
        return hashlib.sha256(b"").digest()
    if len(leaves) == 1:
        return hashlib.sha256(b"\x00" + leaves[0]).digest()
    k = 1
    while 2 * k < len(leaves):
        k *= 2
    return hashlib.sha256(b"\x01" + mth(leaves[:k]) + mth(leaves[k:])).digest()


def path(m, leaves):
    """RFC 6962, 2.1.1."""
    if len(leaves) == 1:
        return []
    k = 1
    while 2 * k < len(leaves):
        k *= 2
    if m < k:
        return [*path(m, leaves[:k]), mth(leaves[k:])]
    return [*path(m - k, leaves[k:]), mth(leaves[:k])]


def subproof(m, leaves, whole):
    """RFC 6962, 2.1.2."""
    n = len(leaves)
    if m == n:
        return [] if whole else [mth(leaves)]
    k = 1
    while 2 * k < n:
        k *= 2
    if m <= k:
        return [*subproof(m, leaves[:k], whole), mth(leaves[k:])]
    return [*subproof(m - k, leaves[k:], whole=False), mth(leaves[:k])]


def subtrees(leaves):
    return lambda level, index: mth(leaves[index << level : (index + 1) << level])


def frontier(leaves):
    edge = merkle.Frontier()
    for entry in leaves:
        edge.add(merkle.leaf(entry))
    return edge


@given(st.lists(st.binary(max_size=40), max_size=70))
def test_roots_are_those_of_rfc_6962_however_they_are_made(leaves):
    assert frontier(leaves).root() == mth(leaves)
    assert merkle.root(len(leaves), subtrees(leaves)) == mth(leaves)


def test_roots_are_those_of_pymerkle_up_to_three_hundred():
    tree = pymerkle.InmemoryTree(algorithm="sha256")
    for size, entry in enumerate(LEAVES, 1):
        tree.append_entry(entry)
        assert frontier(LEAVES[:size]).root() == tree.get_root()


@pytest.mark.parametrize("size", [1, 2, 3, 5, 8, 13, 64, 100, 255, 256, 257])
def test_inclusion_proofs_are_those_of_rfc_6962_and_verify(size):
    leaves = LEAVES[:size]
    for index in {0, 1, size // 2, size - 2, size - 1} & set(range(size)):
        proof = merkle.inclusion_proof(index, size, subtrees(leaves))
        assert proof == path(index, leaves)
        merkle.check_inclusion(merkle.leaf(leaves[index]), index, size, proof, mth(leaves))


@given(st.data())
def test_consistency_proofs_are_those_of_rfc_6962_and_verify(data):
    size = data.draw(st.integers(1, 130))
    old = data.draw(st.integers(1, size))
    leaves = LEAVES[:size]
    proof = merkle.consistency_proof(old, size, subtrees(leaves))
    assert proof == subproof(old, leaves, whole=True)
    merkle.check_consistency(old, mth(leaves[:old]), size, mth(leaves), proof)


@given(st.integers(1, 80), st.data())
def test_a_proof_altered_in_any_bit_is_refused(size, data):
    leaves, index = LEAVES[:size], data.draw(st.integers(0, size - 1))
    proof = merkle.inclusion_proof(index, size, subtrees(leaves))
    joined = bytearray(b"".join(proof))
    if not joined:
        return
    place = data.draw(st.integers(0, len(joined) * 8 - 1))
    joined[place // 8] ^= 1 << place % 8
    bad = [bytes(joined[i : i + 32]) for i in range(0, len(joined), 32)]
    with pytest.raises(AuditError):
        merkle.check_inclusion(merkle.leaf(leaves[index]), index, size, bad, mth(leaves))


@given(st.integers(0, 40), st.integers(0, 40), st.lists(st.binary(min_size=32, max_size=32), max_size=8))
def test_made_up_proofs_of_any_length_are_refused(old, size, proof):
    leaves = LEAVES[:size]
    if old not in {0, size} and not (old & (old - 1) == 0 and not proof):
        with pytest.raises(AuditError):
            merkle.check_consistency(old, mth(LEAVES[:old]), size, mth(leaves), proof)
    with pytest.raises(AuditError):
        merkle.check_inclusion(merkle.leaf(b"nobody wrote this"), old, size, proof, mth(leaves))


def test_a_fork_has_no_consistency_proof():
    leaves, other = LEAVES[:40], [*LEAVES[:19], b"another", *LEAVES[20:40]]
    for old in range(20, 41):
        proof = merkle.consistency_proof(old, 40, subtrees(leaves))
        with pytest.raises(AuditError):
            merkle.check_consistency(old, mth(other[:old]), 40, mth(leaves), proof)


def test_a_proof_that_is_cut_or_has_more_is_refused():
    leaves = LEAVES[:37]
    proof = merkle.consistency_proof(11, 37, subtrees(leaves))
    for bad in (proof[:-1], proof[1:], [*proof, bytes(32)], []):
        with pytest.raises(AuditError):
            merkle.check_consistency(11, mth(leaves[:11]), 37, mth(leaves), bad)


def test_a_proof_for_another_size_than_the_roots_is_refused():
    leaves = LEAVES[:2]
    proof = merkle.inclusion_proof(0, 2, subtrees(leaves))
    merkle.check_inclusion(merkle.leaf(leaves[0]), 0, 2, proof, mth(leaves))
    for size in (1, 3, 4, 5, 100):
        with pytest.raises(AuditError):
            merkle.check_inclusion(merkle.leaf(leaves[0]), 0, size, proof, mth(leaves))


def test_an_empty_log_is_the_beginning_of_every_log_and_takes_no_proof():
    merkle.check_consistency(0, merkle.EMPTY_ROOT, 5, mth(LEAVES[:5]), [])
    with pytest.raises(AuditError):
        merkle.check_consistency(0, merkle.EMPTY_ROOT, 5, mth(LEAVES[:5]), [bytes(32)])
    with pytest.raises(AuditError):
        merkle.check_consistency(0, bytes(32), 5, mth(LEAVES[:5]), [])


def test_what_no_tree_has_is_refused():
    reader = subtrees(LEAVES)
    for index, size in ((5, 5), (-1, 5), (0, 0)):
        with pytest.raises(AuditError):
            merkle.inclusion_proof(index, size, reader)
    with pytest.raises(AuditError):
        merkle.consistency_proof(6, 5, reader)
    with pytest.raises(ValueError, match="power of two"):
        merkle.perfect_root([bytes(32)] * 3)
    edge = frontier(LEAVES[:3])
    with pytest.raises(ValueError, match="does not fit"):
        edge.add(bytes(32), 2)
