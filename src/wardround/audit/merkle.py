"""The Merkle tree of a log: RFC 6962 hashes, roots, inclusion and consistency proofs.

    leaf(entry)        SHA-256(0x00 || entry)
    node(left, right)  SHA-256(0x01 || left || right)
    root of nothing    SHA-256("")

A tree of `n` leaves splits at the largest power of two below `n`. A *perfect subtree* ``(level, index)`` covers the
leaves ``[index * 2**level, (index + 1) * 2**level)``; its hash never changes once it is full, so every proof is built
from hashes of perfect subtrees, which a `Subtrees` function gives.

References:
    RFC 6962, section 2.1; RFC 9162, sections 2.1.3.2 and 2.1.4.2, for verifying.
"""

import hashlib
import hmac
from collections.abc import Callable, Sequence

from wardround.errors import AuditError

__all__ = [
    "EMPTY_ROOT",
    "Frontier",
    "Subtrees",
    "check_consistency",
    "check_inclusion",
    "consistency_proof",
    "inclusion_proof",
    "leaf",
    "node",
    "perfect_root",
    "root",
]

Subtrees = Callable[[int, int], bytes]
"""The hash of the perfect subtree ``(level, index)``; raises `AuditError` where there is none."""

_sha256 = hashlib.sha256
EMPTY_ROOT = _sha256(b"").digest()
_MAX_PROOF = 64


def leaf(entry: bytes) -> bytes:
    """The hash of one entry."""
    return _sha256(b"\x00" + entry).digest()


def node(left: bytes, right: bytes) -> bytes:
    """The hash of two subtrees."""
    return _sha256(b"\x01" + left + right).digest()


def perfect_root(hashes: Sequence[bytes]) -> bytes:
    """The root over a power of two of hashes.

    Raises:
        ValueError: Their number is not a power of two.
    """
    if not hashes or len(hashes) & (len(hashes) - 1):
        raise ValueError(f"a perfect subtree has a power of two of leaves, got {len(hashes)}")
    row = list(hashes)
    while len(row) > 1:
        row = [_sha256(b"\x01" + row[i] + row[i + 1]).digest() for i in range(0, len(row), 2)]
    return row[0]


class Frontier:
    """The right edge of a growing tree: the hashes of the perfect subtrees that `size` is made of."""

    def __init__(self) -> None:
        self.size = 0
        self._edge: list[bytes] = []

    def add(self, digest: bytes, level: int = 0) -> None:
        """Add a perfect subtree of ``2**level`` leaves at the right.

        Raises:
            ValueError: The size is no multiple of the subtree's.
        """
        if self.size % (1 << level):
            raise ValueError(f"a subtree of {1 << level} leaves does not fit behind {self.size}")
        rest = self.size >> level
        while rest & 1:
            digest = node(self._edge.pop(), digest)
            rest >>= 1
        self._edge.append(digest)
        self.size += 1 << level

    def root(self) -> bytes:
        """The root of the tree as it is."""
        if not self._edge:
            return EMPTY_ROOT
        found = self._edge[-1]
        for left in reversed(self._edge[:-1]):
            found = node(left, found)
        return found

    def copy(self) -> "Frontier":
        """Another edge that grows on its own."""
        other = Frontier()
        other.size, other._edge = self.size, list(self._edge)
        return other


def root(size: int, subtrees: Subtrees) -> bytes:
    """The root of the first `size` leaves."""
    return _range(0, size, subtrees) if size else EMPTY_ROOT


def inclusion_proof(index: int, size: int, subtrees: Subtrees) -> list[bytes]:
    """The siblings of leaf `index` in the tree of `size`, from the leaf up (RFC 6962, 2.1.1).

    Raises:
        AuditError: The tree has no such leaf.
    """
    if not 0 <= index < size:
        raise AuditError(f"a log of {size} entries has no entry {index}")
    proof: list[bytes] = []
    start, stop = 0, size
    while stop - start > 1:
        middle = start + _split(stop - start)
        if index < middle:
            proof.append(_range(middle, stop, subtrees))
            stop = middle
        else:
            proof.append(_range(start, middle, subtrees))
            start = middle
    return proof[::-1]


def consistency_proof(old: int, size: int, subtrees: Subtrees) -> list[bytes]:
    """What shows that the first `old` leaves of the tree of `size` are the tree of `old` (RFC 6962, 2.1.2).

    Raises:
        AuditError: `old` is larger than `size`.
    """
    if not 0 <= old <= size:
        raise AuditError(f"a log of {size} entries holds no log of {old}")
    if old in {0, size}:
        return []
    proof: list[bytes] = []
    start, stop, whole = 0, size, True
    while old != stop:
        middle = start + _split(stop - start)
        if old <= middle:
            proof.append(_range(middle, stop, subtrees))
            stop = middle
        else:
            proof.append(_range(start, middle, subtrees))
            start, whole = middle, False
    if not whole:
        proof.append(_range(start, stop, subtrees))
    return proof[::-1]


def check_inclusion(digest: bytes, index: int, size: int, proof: Sequence[bytes], expected: bytes) -> None:
    """Verify that the leaf hash `digest` is leaf `index` of the tree of `size` with root `expected`.

    Raises:
        AuditError: It is not shown.
    """
    if not 0 <= index < size or len(proof) > _MAX_PROOF:
        raise AuditError(f"no proof can show entry {index} in a log of {size}")
    # RFC 9162, 2.1.3.2.
    position, last, found = index, size - 1, digest
    for sibling in proof:
        if last == 0:
            raise AuditError("the inclusion proof is too long for this log")
        if position & 1 or position == last:
            found = node(sibling, found)
            while not position & 1 and position:
                position, last = position >> 1, last >> 1
        else:
            found = node(found, sibling)
        position, last = position >> 1, last >> 1
    if last or not hmac.compare_digest(found, expected):
        raise AuditError(f"the proof does not show that this is entry {index} of the log of {size}")


def check_consistency(old: int, old_root: bytes, size: int, size_root: bytes, proof: Sequence[bytes]) -> None:
    """Verify that the tree of `old` leaves with `old_root` is the beginning of the tree of `size` with `size_root`.

    Raises:
        AuditError: It is not shown.
    """
    refused = AuditError(f"the proof does not show that the log of {size} begins with the log of {old}: it forked")
    if not 0 <= old <= size or len(proof) > _MAX_PROOF:
        raise refused
    if old in {0, size}:
        claimed = EMPTY_ROOT if old == 0 else size_root
        if proof or not hmac.compare_digest(old_root, claimed):
            raise refused
        return
    # RFC 9162, 2.1.4.2.
    path = list(proof)
    if old & (old - 1) == 0:
        path.insert(0, old_root)
    found = _fold(path, old - 1, size - 1)
    if found is None or not (hmac.compare_digest(found[0], old_root) and hmac.compare_digest(found[1], size_root)):
        raise refused


def _fold(path: Sequence[bytes], position: int, last: int) -> tuple[bytes, bytes] | None:
    """Both roots that a consistency path leads to, or None where it is too short or too long."""
    while position & 1:
        position, last = position >> 1, last >> 1
    if not path:
        return None
    first = second = path[0]
    for sibling in path[1:]:
        if last == 0:
            return None
        if position & 1 or position == last:
            first, second = node(sibling, first), node(sibling, second)
            while not position & 1 and position:
                position, last = position >> 1, last >> 1
        else:
            second = node(second, sibling)
        position, last = position >> 1, last >> 1
    return (first, second) if last == 0 else None


def _split(count: int) -> int:
    """The largest power of two below `count`."""
    return 1 << ((count - 1).bit_length() - 1)


def _range(start: int, stop: int, subtrees: Subtrees) -> bytes:
    """The root over the leaves ``[start, stop)``, where `start` is a multiple of the power of two above its length."""
    count = stop - start
    if count & (count - 1) == 0:
        level = count.bit_length() - 1
        return subtrees(level, start >> level)
    middle = start + _split(count)
    return node(_range(start, middle, subtrees), _range(middle, stop, subtrees))
