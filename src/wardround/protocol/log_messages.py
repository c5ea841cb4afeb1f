"""What sites and hub say to each other about their audit logs: keys, letters to witnesses, and what these answer.

    LogMember        a site's log and witness keys, as it hands them in and as everybody gets them
    LogLetter        a keeper's request to a witness, of `wardround.audit.witness_request`
    LogAnswer        a witness's answer to a keeper

A member that changes its keys signs the new ones with the Ed25519 key of its log before; so whoever knew the old ones
verifies the new ones without trusting the hub.
"""

from typing import Annotated, Literal

import msgspec

from wardround.audit import note
from wardround.audit.note import VerifierKey
from wardround.errors import CodecError, SignatureError
from wardround.ids import SiteId, site_id

__all__ = [
    "HUB",
    "MAX_LETTER_BYTES",
    "LogAnswer",
    "LogLetter",
    "LogMember",
    "change_bytes",
    "check_change",
    "keys_of",
]

HUB = SiteId("hub")
"""Under which name the hub's own log is watched; no site may hand in keys under it."""
MAX_LETTER_BYTES = 64 * 1024
"""A checkpoint with the signatures of a log (two keys) and a proof have less than 8 KiB."""

_Keys = Annotated[tuple[Annotated[str, msgspec.Meta(max_length=2400)], ...], msgspec.Meta(min_length=1, max_length=4)]
_Letter = Annotated[bytes, msgspec.Meta(max_length=MAX_LETTER_BYTES)]


class LogMember(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A site's keys: of its log, and those with which it signs as a witness (none: it is no witness).

    `number` counts the site's changes; `signature` is by the log key of the number before, over `change_bytes`.
    """

    site: SiteId
    number: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 1
    log: _Keys
    witness: Annotated[tuple[Annotated[str, msgspec.Meta(max_length=2400)], ...], msgspec.Meta(max_length=4)] = ()
    signature: Annotated[bytes, msgspec.Meta(max_length=64)] = b""


class LogLetter(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A request to a witness."""

    to: SiteId
    request: _Letter


class LogAnswer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A witness's answer, for the log of `keeper`."""

    keeper: SiteId
    outcome: Literal["cosigned", "stale"]
    body: _Letter


def keys_of(member: LogMember) -> tuple[tuple[VerifierKey, ...], tuple[VerifierKey, ...]]:
    """The keys of its log and its witness keys, read and checked: no one can take another's names.

    Raises:
        CodecError: A key is none, or is not named after the site.
    """
    site_id(member.site)
    log = tuple(note.parse_vkey(text) for text in member.log)
    witness = tuple(note.parse_vkey(text) for text in member.witness)
    for kind, keys in (("log", log), ("witness", witness)):
        # A site's name has no dot, so that no other's begins with it and a dot.
        named = {key.name for key in keys}
        if any(not name.startswith(f"{member.site}.") or not name.endswith(f".{kind}") for name in named):
            raise CodecError(f"the {kind} keys of {member.site} are not named {member.site}.….{kind}")
        if len(named) > 1 or len({key.algorithm for key in keys}) != len(keys):
            raise CodecError(f"the {kind} keys of {member.site} have one name, and one key of each algorithm")
    if log[0].algorithm != note.ED25519 or any(key.algorithm == note.ED25519 for key in witness):
        raise CodecError("a log's first key is Ed25519 for notes, a witness's keys are for cosignatures")
    return log, witness


def change_bytes(member: LogMember) -> bytes:
    """What the key before signs."""
    return b"wardround log member 1\n" + msgspec.msgpack.encode(msgspec.structs.replace(member, signature=b""))


def check_change(before: LogMember, after: LogMember) -> None:
    """Raise unless `after` is the next of `before`, and signed by its log.

    Raises:
        SignatureError: It is not.
        CodecError: A key is none.
    """
    log, _ = keys_of(before)
    keys_of(after)
    if (after.site, after.number) != (before.site, before.number + 1):
        raise SignatureError(f"the log keys of {before.site} change from number {before.number} to the next only")
    note.check_raw(log[0], after.signature, change_bytes(after))
