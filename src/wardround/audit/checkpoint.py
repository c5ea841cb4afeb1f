r"""Checkpoints: a log's name, its size and its root, signed by the log and cosigned by witnesses.

    origin \n  size \n  base64(root) \n  [extension lines]

    Ed25519, 0x01      signs the note's text
    Ed25519, 0x04      signs "cosignature/v1\n" || "time <seconds>\n" || text
    ML-DSA-44, 0x06    signs "subtree/v1\n\0" || len || cosigner || u64 time || len || origin
                             || u64 0 || u64 size || root

The two cosignatures carry the time as eight bytes before the signature. A checkpoint with extension lines is
refused here: ML-DSA-44 does not sign them, and no log of this project writes any.

References:
    C2SP tlog-checkpoint, tlog-cosignature. https://c2sp.org/tlog-checkpoint, https://c2sp.org/tlog-cosignature
"""

import base64
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from wardround.audit import note as notes
from wardround.audit.note import Note, NoteSigner, VerifierKey
from wardround.errors import CodecError, SignatureError

__all__ = [
    "MAX_SIZE",
    "Checkpoint",
    "SignedCheckpoint",
    "check_signed",
    "cosigned_at",
    "decimal",
    "format_text",
    "join",
    "parse",
    "parse_text",
    "sign",
]

MAX_SIZE: Final = (1 << 63) - 1
_ROOT_BYTES: Final = 32
_DECIMAL: Final = re.compile(r"0|[1-9][0-9]{0,18}")
_LABEL: Final = b"subtree/v1\n\0"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a log says about itself."""

    origin: str
    size: int
    root: bytes


@dataclass(frozen=True, slots=True)
class SignedCheckpoint:
    """A checkpoint with its note, whose signatures nobody has verified yet."""

    checkpoint: Checkpoint
    note: Note


def decimal(text: str) -> int:
    """A size or an index: ASCII digits without leading zeros.

    Raises:
        CodecError: It is not, or above 2**63 - 1.
    """
    if not _DECIMAL.fullmatch(text) or int(text) > MAX_SIZE:
        raise CodecError("a size is a decimal number without leading zeros, below 2**63")
    return int(text)


def format_text(checkpoint: Checkpoint) -> str:
    """The note's text."""
    return f"{checkpoint.origin}\n{checkpoint.size}\n{base64.b64encode(checkpoint.root).decode()}\n"


def parse_text(text: str) -> Checkpoint:
    """Read a checkpoint's three lines.

    Raises:
        CodecError: They are not a checkpoint, or there are extension lines.
    """
    lines = text.split("\n")
    if len(lines) != 4 or lines[3]:
        raise CodecError("a checkpoint has three lines: origin, size, root; extension lines are not read here")
    origin, size, root = lines[:3]
    if not 0 < len(origin.encode()) <= 255 or not origin.isprintable():
        raise CodecError("a checkpoint's origin has 1 to 255 bytes, all printable")
    digest = notes.decode_base64(root, _ROOT_BYTES)
    if len(digest) != _ROOT_BYTES:
        raise CodecError("a checkpoint's root has 32 bytes")
    return Checkpoint(origin, decimal(size), digest)


def parse(data: bytes) -> SignedCheckpoint:
    """Read a signed checkpoint, verifying nothing.

    Raises:
        CodecError: It is not one.
    """
    note = notes.parse(data)
    return SignedCheckpoint(parse_text(note.text), note)


def join(text: str, lines: Iterable[str]) -> bytes:
    """A text and its signature lines as a note's bytes."""
    return (text + "\n" + "".join(lines)).encode()


def sign(checkpoint: Checkpoint, signer: NoteSigner, *, now: int) -> str:
    """A signature line by the log or by a witness; `now` is in seconds since 1970 and goes into cosignatures.

    Raises:
        CodecError: `now` is no time.
    """
    if not 0 <= now <= MAX_SIZE:
        raise CodecError("a cosignature's time is in seconds since 1970")
    key = signer.key
    if key.algorithm == notes.ED25519:
        return notes.signature_line(key, signer.sign_raw(format_text(checkpoint).encode()))
    blob = now.to_bytes(8, "big") + signer.sign_raw(_message(checkpoint, key, now))
    return notes.signature_line(key, blob)


def check_signed(signed: SignedCheckpoint, key: VerifierKey) -> bool:
    """Whether `key` signed; every line that claims its name and ID has to fit.

    Raises:
        SignatureError: A line in the key's name does not fit: the note is not to be used at all.
    """
    found = list(notes.signatures_of(signed.note, key))
    for line in found:
        _verify(signed.checkpoint, key, line.blob)
    return bool(found)


def cosigned_at(signed: SignedCheckpoint, key: VerifierKey) -> int:
    """The latest time, in seconds since 1970, in the lines of cosigner `key`; check them with `check_signed` first.

    Raises:
        SignatureError: The key did not cosign.
    """
    times = [int.from_bytes(line.blob[:8], "big") for line in notes.signatures_of(signed.note, key)]
    if not times or key.algorithm == notes.ED25519:
        raise SignatureError(f"{key.name} did not cosign")
    return max(times)


def _verify(checkpoint: Checkpoint, key: VerifierKey, blob: bytes) -> None:
    if key.algorithm == notes.ED25519:
        notes.check_raw(key, blob, format_text(checkpoint).encode())
        return
    if len(blob) <= 8:
        raise SignatureError(f"a cosignature in the name of {key.name} is too short")
    now = int.from_bytes(blob[:8], "big")
    if now > MAX_SIZE:
        raise SignatureError(f"a cosignature in the name of {key.name} has no possible time")
    notes.check_raw(key, blob[8:], _message(checkpoint, key, now))


def _message(checkpoint: Checkpoint, key: VerifierKey, now: int) -> bytes:
    if key.algorithm == notes.COSIGNATURE_ED25519:
        return f"cosignature/v1\ntime {now}\n{format_text(checkpoint)}".encode()
    name, origin = key.name.encode(), checkpoint.origin.encode()
    parts = (
        _LABEL,
        bytes([len(name)]) + name,
        now.to_bytes(8, "big"),
        bytes([len(origin)]) + origin,
        (0).to_bytes(8, "big"),
        checkpoint.size.to_bytes(8, "big"),
        checkpoint.root,
    )
    return b"".join(parts)
