"""What a key ring's file holds, and what its keys are checked by.

The file is canonical JSON. `mac` is HMAC-SHA-256 over all the rest, under a key that follows from the ring's root;
`check` is a digest of a key, bound to its place, which tells a wrongly opened key from the right one.
"""

import hashlib
import hmac
from typing import Literal

import msgspec

from wardround.codec import canonical

__all__ = ["Recovery", "Ring", "RingKey", "Wrap", "check_of", "mac_of"]


class Wrap(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A key as one version of one store wrapped it."""

    store: str
    version: int
    body: bytes


class RingKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One key: how each store wrapped it, and, where there is a backup, how its recovery key did."""

    number: int
    made_at: float
    check: bytes
    wraps: tuple[Wrap, ...] = ()
    recovery: bytes = b""
    erased_at: float = 0.0


class Recovery(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The public half of the key that was split into shares, and how many there are."""

    id: str
    public: bytes
    shares: int
    threshold: int
    made_at: float


class Ring(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """All of a ring."""

    format: Literal[1] = 1
    tenant: str
    seq: int
    current: int
    keys: tuple[RingKey, ...]
    recovery: Recovery | None = None
    mac: bytes = b""


def check_of(tenant: str, number: int, key: bytes) -> bytes:
    """32 bytes that tell this key at its place, and nothing that helps to find it."""
    return hashlib.sha256(f"wardround ring check 1\n{tenant}\n{number}\n".encode() + key).digest()


def mac_of(ring: Ring, root: bytes) -> bytes:
    """What authenticates the whole ring."""
    key = hmac.digest(root, b"wardround ring mac 1", "sha256")
    return hmac.digest(key, canonical.encode(msgspec.structs.replace(ring, mac=b"")), "sha256")
