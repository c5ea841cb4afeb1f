"""A proof that travels alone: an entry's place in the tree, and the checkpoint that covers it.

    c2sp.org/tlog-proof@v1
    extra <base64>            optional; here the entry itself, which is believed only if it hashes to the proof's leaf
    index <index>
    <base64 hash> …           from the leaf's sibling up
    (an empty line)
    <signed checkpoint>

References:
    C2SP tlog-proof. https://c2sp.org/tlog-proof
"""

import base64
from dataclasses import dataclass
from typing import Final

from wardround.audit import checkpoint as checkpoints
from wardround.audit import merkle
from wardround.audit import note as notes
from wardround.audit.checkpoint import SignedCheckpoint
from wardround.audit.tile import HASH_BYTES, MAX_ENTRY_BYTES
from wardround.errors import AuditError, CodecError

__all__ = ["HEADER", "LogProof", "decode_hashes", "encode_hashes", "format_proof", "parse_proof", "verify_entry"]

HEADER: Final = "c2sp.org/tlog-proof@v1"
_MAX_HASHES: Final = 63


@dataclass(frozen=True, slots=True)
class LogProof:
    """A proof that was read, not verified; `entry` is what the proof carries as its extra data, or None."""

    index: int
    hashes: tuple[bytes, ...]
    checkpoint: bytes
    entry: bytes | None = None


def encode_hashes(hashes: list[bytes] | tuple[bytes, ...]) -> str:
    """One line of base64 for each."""
    return "".join(f"{base64.b64encode(digest).decode()}\n" for digest in hashes)


def decode_hashes(lines: list[str]) -> tuple[bytes, ...]:
    """Hashes from lines of base64, 63 at most.

    Raises:
        CodecError: A line is none, or there are too many.
    """
    if len(lines) > _MAX_HASHES:
        raise CodecError(f"a proof has {_MAX_HASHES} hashes at most, this has {len(lines)}")
    hashes = tuple(notes.decode_base64(line, HASH_BYTES) for line in lines)
    if any(len(digest) != HASH_BYTES for digest in hashes):
        raise CodecError("a proof's hashes have 32 bytes each")
    return hashes


def format_proof(proof: LogProof) -> bytes:
    """The proof's bytes."""
    extra = "" if proof.entry is None else f"extra {base64.b64encode(proof.entry).decode()}\n"
    head = f"{HEADER}\n{extra}index {proof.index}\n{encode_hashes(proof.hashes)}\n"
    return head.encode() + proof.checkpoint


def parse_proof(data: bytes) -> LogProof:
    """Read a proof, verifying nothing.

    Raises:
        CodecError: It is not one.
    """
    if len(data) > notes.MAX_NOTE_BYTES:
        raise CodecError(f"a proof may have {notes.MAX_NOTE_BYTES} bytes, this has {len(data)}")
    head, split, checkpoint = data.partition(b"\n\n")
    try:
        lines = head.decode("ascii").split("\n")
    except UnicodeDecodeError:
        raise CodecError("a proof's first part is ASCII") from None
    if not split or lines.pop(0) != HEADER:
        raise CodecError(f"a proof begins with {HEADER} and holds an empty line")
    entry = None
    if lines and lines[0].startswith("extra "):
        entry = notes.decode_base64(lines.pop(0).removeprefix("extra "), MAX_ENTRY_BYTES)
    if not lines or not lines[0].startswith("index "):
        raise CodecError("a proof names the index of its entry")
    index = checkpoints.decimal(lines.pop(0).removeprefix("index "))
    return LogProof(index, decode_hashes(lines), checkpoint, entry)


def verify_entry(proof: LogProof, entry: bytes) -> SignedCheckpoint:
    """Verify that `entry` is in the tree of the proof's checkpoint; whose signatures the caller must check.

    Raises:
        AuditError: It is not shown.
        CodecError: The checkpoint is none.
    """
    signed = checkpoints.parse(proof.checkpoint)
    if proof.entry is not None and proof.entry != entry:
        raise AuditError("the proof carries another entry than the one that is asked for")
    found = signed.checkpoint
    merkle.check_inclusion(merkle.leaf(entry), proof.index, found.size, proof.hashes, found.root)
    return signed
