"""What every log of ours holds to, wherever it is kept: what it serves, takes and signs, and when it refuses itself."""

import hashlib
from collections.abc import Sequence
from contextlib import suppress

from wardround.audit import checkpoint as checkpoints
from wardround.audit import merkle, tile, witness_policy
from wardround.audit.checkpoint import Checkpoint, SignedCheckpoint
from wardround.audit.note import NoteSigner
from wardround.audit.verification import CHECKPOINT, POLICY, WITNESSED
from wardround.errors import AuditError, CodecError, ConfigError, SignatureError

__all__ = [
    "anchor_name",
    "check_anchor",
    "check_beginning",
    "check_entries",
    "check_signers",
    "is_log_file",
    "own_checkpoint",
    "sign_checkpoint",
]


def anchor_name(origin: str) -> str:
    """Under which name a log's last checkpoint is kept elsewhere."""
    return f"log-{hashlib.sha256(origin.encode()).hexdigest()[:16]}"


def is_log_file(path: str) -> bool:
    """Whether `path` is one that a log serves."""
    return path in {CHECKPOINT, WITNESSED, POLICY} or tile.is_path(path)


def check_entries(entries: Sequence[bytes]) -> list[bytes]:
    """Refuse entries that no bundle can hold.

    Raises:
        CodecError: One is empty or too long.
    """
    if not entries or any(not 0 < len(entry) <= tile.MAX_ENTRY_BYTES for entry in entries):
        raise CodecError(f"an entry has 1 to {tile.MAX_ENTRY_BYTES} bytes: log digests, not contents")
    return [bytes(entry) for entry in entries]


def sign_checkpoint(
    checkpoint: Checkpoint, signers: Sequence[NoteSigner], now: float, before: SignedCheckpoint | None
) -> bytes:
    """A checkpoint signed by the log; the time in its own cosignatures never goes back."""
    seconds = max(0, int(now))
    for signer in signers:
        with suppress(SignatureError):
            if before is not None:
                seconds = max(seconds, checkpoints.cosigned_at(before, signer.key))
    lines = [checkpoints.sign(checkpoint, signer, now=seconds) for signer in signers]
    return checkpoints.join(checkpoints.format_text(checkpoint), lines)


def check_anchor(kept: bytes | None, held: Checkpoint | None, subtrees: merkle.Subtrees) -> None:
    """Refuse a log that is not what it was, by the last checkpoint that was kept elsewhere.

    Raises:
        AuditError: The log is gone, was rolled back, or is another one.
    """
    if kept is None:
        return
    last = checkpoints.parse(kept).checkpoint
    if held is None or held.size < last.size:
        had = 0 if held is None else held.size
        raise AuditError(f"the log was rolled back: it has {had} entries, and had {last.size} when it last signed")
    if held.origin != last.origin or merkle.root(last.size, subtrees) != last.root:
        raise AuditError("the log is not the one that signed last: its entries were replaced")


def check_beginning(signed: SignedCheckpoint, size: int, read: tile.Read) -> None:
    """Refuse a checkpoint that is no beginning of the log of `size`.

    Raises:
        AuditError: It is not, or a tile is missing.
    """
    found = signed.checkpoint
    if found.size > size or merkle.root(found.size, tile.subtree_reader(read, size)) != found.root:
        raise AuditError("the log does not begin with this checkpoint: one of them was rolled back or forked")


def check_signers(origin: str, signers: Sequence[NoteSigner]) -> None:
    """Refuse keys that do not carry the log's name.

    Raises:
        ConfigError: One does not, or there is none.
    """
    if not signers or any(signer.key.name != origin for signer in signers):
        raise ConfigError(f"the keys of a log carry its name, {origin!r}, and there is one at least")


def own_checkpoint(data: bytes, origin: str, signers: Sequence[NoteSigner]) -> SignedCheckpoint:
    """Read a checkpoint that this log signed.

    Raises:
        AuditError: It is none.
    """
    try:
        signed = checkpoints.parse(data)
    except CodecError as error:
        raise AuditError(f"not a checkpoint of this log: {error}") from None
    witness_policy.check_log(signed, [signer.key for signer in signers], origin=origin)
    return signed
