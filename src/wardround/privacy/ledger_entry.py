"""Entries of a privacy ledger, as they are stored: each holds the SHA-256 of the one before it.

They are read for as long as there are studies, so fields are added, never removed, and a cost is stored as it was
computed. The bytes are MessagePack with sorted names; `decode` accepts nothing else.
"""

from collections.abc import Mapping
from typing import Literal, TypeAlias, TypeVar

import msgspec

from wardround.codec import canonical
from wardround.errors import LedgerError
from wardround.ids import Digest, RunId, StudyId
from wardround.privacy.mechanisms import Mechanism

__all__ = [
    "RELATIONS",
    "Committed",
    "Entry",
    "Granted",
    "Released",
    "Reserved",
    "Unit",
    "Use",
    "decode",
    "digest",
    "encode",
    "normal",
]

Unit: TypeAlias = Literal["patient", "site"]
RELATIONS: Mapping[str, str] = {
    "patient": "neighbours differ in one patient at one site, whose part is replaced by zeros",
    "site": "neighbours differ in all the records of one site, whose part is replaced by zeros",
}
"""What is protected, for each unit that a budget can be kept in."""


class Granted(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag="granted"):
    """A steward set the budget; `allowed` is its Rényi cost at `order`."""

    seq: int
    at: float
    previous: Digest
    epsilon: float
    delta: float
    order: float
    allowed: float
    person: str
    reason: str


class Use(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a run may do `count` times, and what each time costs at `rdp.ORDERS`."""

    mechanism: Mechanism
    count: int
    cost: tuple[float, ...]


class Reserved(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag="reserved"):
    """A run may spend what its uses cost, each under its kind; `relation` says what is protected."""

    seq: int
    at: float
    previous: Digest
    run: RunId
    study: StudyId
    relation: str
    uses: dict[str, Use]


class Committed(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag="committed"):
    """A run spent one use; `key` names the bytes that may be released for it."""

    seq: int
    at: float
    previous: Digest
    run: RunId
    kind: str
    key: str


class Released(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag="released"):
    """A run is over; what it had reserved and not spent is free again."""

    seq: int
    at: float
    previous: Digest
    run: RunId


Entry: TypeAlias = Granted | Reserved | Committed | Released
_E = TypeVar("_E", Granted, Reserved, Committed, Released)
_ENCODER = msgspec.msgpack.Encoder(order="deterministic")
_DECODER: msgspec.msgpack.Decoder[Entry] = msgspec.msgpack.Decoder(Entry)


def encode(entry: Entry) -> bytes:
    """The bytes of an entry, as they are stored and hashed."""
    return _ENCODER.encode(entry)


def normal(entry: _E) -> _E:
    """The entry as whoever reads it will have it: a whole number where a float belongs becomes one."""
    return msgspec.msgpack.decode(encode(entry), type=type(entry))


def decode(body: bytes) -> Entry:
    """Read a stored entry.

    Raises:
        LedgerError: These are not the bytes of an entry.
    """
    try:
        entry = _DECODER.decode(body)
    except msgspec.MsgspecError:
        raise LedgerError("an entry cannot be read") from None
    if encode(entry) != body:
        raise LedgerError("an entry is not written as this program writes it")
    return entry


def digest(entry: Entry) -> Digest:
    """What the next entry holds of this one."""
    return canonical.digest(encode(entry))
