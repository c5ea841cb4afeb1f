r"""What a log asks of a witness, and what it answers; also how a fork is kept as evidence.

    old <size> \n
    <base64 hash> \n …          consistency proof from `old`, 63 lines at most, none where old is 0 or the size
    \n
    <signed checkpoint>

The answer is one or more signature lines, or the size that the witness saw last.

References:
    C2SP tlog-witness. https://c2sp.org/tlog-witness
"""

from dataclasses import dataclass
from typing import Literal

import msgspec

from wardround.audit import checkpoint as checkpoints
from wardround.audit import note as notes
from wardround.audit.proof import decode_hashes, encode_hashes
from wardround.errors import CodecError

__all__ = ["ForkEvidence", "WitnessAnswer", "WitnessRequest", "format_request", "parse_request"]


@dataclass(frozen=True, slots=True)
class WitnessRequest:
    """A request that was read, not verified; `checkpoint` is the signed note's bytes."""

    old: int
    proof: tuple[bytes, ...]
    checkpoint: bytes


@dataclass(frozen=True, slots=True)
class WitnessAnswer:
    """`cosigned`: the body is signature lines. `stale`: it is the size that the witness saw last, with a newline."""

    outcome: Literal["cosigned", "stale"]
    body: bytes


class ForkEvidence(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Two checkpoints of one log that cannot both be honest, or were not shown to be; both signed by the log.

    `kind` is "fork" where two roots of one size are signed, which convicts the log; "rollback" where a smaller log was
    shown after a larger one; "unproven" where the proof of consistency failed.
    """

    kind: Literal["fork", "rollback", "unproven"]
    origin: str
    seen: bytes
    shown: bytes
    at: int


def format_request(request: WitnessRequest) -> bytes:
    """The request's bytes."""
    return f"old {request.old}\n{encode_hashes(request.proof)}\n".encode() + request.checkpoint


def parse_request(data: bytes) -> WitnessRequest:
    """Read a request, verifying nothing.

    Raises:
        CodecError: It is not one.
    """
    if len(data) > notes.MAX_NOTE_BYTES:
        raise CodecError(f"a request to a witness may have {notes.MAX_NOTE_BYTES} bytes, this has {len(data)}")
    head, split, checkpoint = data.partition(b"\n\n")
    try:
        first, *lines = head.decode("ascii").split("\n")
    except UnicodeDecodeError:
        raise CodecError("a request to a witness begins with ASCII lines") from None
    if not split or not first.startswith("old "):
        raise CodecError("a request to a witness begins with the old size, and holds an empty line")
    return WitnessRequest(checkpoints.decimal(first.removeprefix("old ")), decode_hashes(lines), checkpoint)
