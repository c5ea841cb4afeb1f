"""State in memory, for simulated worlds and tests: cheap, deterministic, gone with the process.

Each class keeps the promises of its port as the durable adapter does, proven by the same contract
suites in ``tests/contracts``; what no memory can promise is to survive a crash.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence

import msgspec

from wardround.errors import ConflictError, DigestMismatchError, InviteError, LocalProtocolError, NotFoundError
from wardround.ids import CommandId, Digest, SiteId, digest_name
from wardround.protocol.messages import Identity, Role
from wardround.protocol.plan import BlobRef
from wardround.storage import fault
from wardround.storage.spool import upload_name

__all__ = ["MemoryBlobs", "MemoryEventLog", "MemoryRegistry", "MemoryUpload", "MemoryVault"]


class MemoryEventLog:
    """`wardround.ports.EventLog` in a dictionary."""

    def __init__(self) -> None:
        self._streams: dict[str, list[bytes]] = {}
        self._receipts: dict[tuple[SiteId, CommandId], bytes] = {}

    def read(self, stream: str, *, after: int = 0) -> list[bytes]:
        """Events of `stream` in order, from seq ``after + 1``."""
        return self._streams.get(stream, [])[after:]

    def append(
        self,
        stream: str,
        events: Sequence[bytes],
        *,
        after: int,
        receipt: tuple[SiteId, CommandId, bytes] | None = None,
    ) -> None:
        """Add all of it, or raise and add none of it.

        Raises:
            ConflictError: `after` is not the stream's last seq, or this command has a receipt.
        """
        if len(self._streams.get(stream, [])) != after:
            raise ConflictError("another writer was first: load again and decide again")
        if receipt is not None:
            sender, command, body = receipt
            if (sender, command) in self._receipts:
                raise ConflictError("this command has been answered: read its receipt")
            self._receipts[sender, command] = bytes(body)
        if events:
            self._streams.setdefault(stream, []).extend(bytes(event) for event in events)

    def receipt(self, sender: SiteId, command: CommandId) -> bytes | None:
        """What this command was answered, if it was."""
        return self._receipts.get((sender, command))

    def streams(self, prefix: str) -> list[str]:
        """Names of all streams that begin with `prefix`, sorted."""
        return sorted(name for name in self._streams if name.startswith(prefix))


class _Invite(msgspec.Struct):
    name: SiteId
    role: Role
    expires: float
    used: bool = False


class MemoryRegistry:
    """`wardround.ports.Registry` in two dictionaries."""

    def __init__(self) -> None:
        self._invites: dict[Digest, _Invite] = {}
        self._identities: dict[SiteId, Identity] = {}
        self._revoked: set[SiteId] = set()

    def add_invite(self, invite: Digest, name: SiteId, role: Role, expires: float) -> None:
        """Open an invite for one newcomer.

        Raises:
            ConflictError: The same invite exists.
        """
        if invite in self._invites:
            raise ConflictError("the same invite exists")
        self._invites[invite] = _Invite(name, role, expires)

    def invited(self, invite: Digest, now: float) -> tuple[SiteId, Role]:
        """Whom an open invite is for.

        Raises:
            InviteError: Unknown, expired, or used.
        """
        found = self._invites.get(invite)
        if found is None or found.used or now >= found.expires:
            raise InviteError("the invite is unknown, has expired or was used")
        return found.name, found.role

    def enrol(self, invite: Digest, identity: Identity, now: float) -> None:
        """Use up the invite and store the identity that it is for.

        Raises:
            InviteError: Unknown, expired, used, or for another name or role.
        """
        if self.invited(invite, now) != (identity.name, identity.role):
            raise InviteError("the invite is for another name or role")
        self._invites[invite].used = True
        self.add_identity(identity)

    def add_identity(self, identity: Identity) -> None:
        """Store an identity without an invite."""
        self._identities[identity.name] = identity
        self._revoked.discard(identity.name)

    def identity(self, name: SiteId) -> Identity:
        """The enrolled identity.

        Raises:
            NotFoundError: Nobody is enrolled under this name.
        """
        if name not in self._identities:
            raise NotFoundError("nobody is enrolled under this name")
        return self._identities[name]

    def identities(self) -> list[Identity]:
        """All enrolled identities, by name."""
        return [self._identities[name] for name in sorted(self._identities)]

    def revoke(self, name: SiteId) -> None:
        """Forget an identity.

        Raises:
            NotFoundError: Nobody is enrolled under this name.
        """
        self.identity(name)
        del self._identities[name]
        self._revoked.add(name)

    def replace(self, identity: Identity, *, before: bytes) -> None:
        """Give an enrolled name another certificate, unless it was revoked or given one meanwhile.

        Raises:
            ConflictError: Its certificate is not `before` any more, or it is not enrolled.
        """
        found = self._identities.get(identity.name)
        if found is None or found.certificate != before:
            raise ConflictError("the identity was revoked or renewed meanwhile; look again")
        self._identities[identity.name] = Identity(found.name, found.role, identity.certificate)

    def revoked(self) -> frozenset[SiteId]:
        """Names that were revoked and not enrolled again."""
        return frozenset(self._revoked)


class MemoryUpload:
    """`wardround.ports.Upload` into a `MemoryBlobs`, which alone makes them."""

    def __init__(self, blobs: "MemoryBlobs", name: str) -> None:
        self._blobs = blobs
        self._name = name
        self._open = True

    @property
    def offset(self) -> int:
        """How many bytes are held."""
        return len(self._blobs.held.get(self._name, b""))

    def append(self, data: bytes | bytearray | memoryview) -> None:
        """Add bytes at the end."""
        self._check_open()
        self._blobs.held.setdefault(self._name, bytearray()).extend(data)

    def commit(self, expected: Digest | None = None) -> BlobRef:
        """Make the bytes a blob.

        Raises:
            DigestMismatchError: They are not `expected`; the upload is discarded.
        """
        self._check_open()
        data = bytes(self._blobs.held.get(self._name, b""))
        self.discard()
        found = hashlib.sha256(data).hexdigest()
        if expected is not None and found != expected:
            raise DigestMismatchError(f"the {len(data)} bytes received are not those that were announced")
        return self._blobs.put(data)

    def close(self) -> None:
        """Let go, keeping what is held."""
        self._open = False

    def discard(self) -> None:
        """Forget the bytes."""
        if self._open:
            self._blobs.held.pop(self._name, None)
            self._open = False

    def _check_open(self) -> None:
        if not self._open:
            raise LocalProtocolError("this upload was committed, closed or discarded")


class MemoryBlobs:
    """`wardround.ports.Blobs` in a dictionary; `held` are the uploads in progress."""

    def __init__(self) -> None:
        self.held: dict[str, bytearray] = {}
        self._blobs: dict[Digest, bytes] = {}

    def size(self, digest: Digest) -> int:
        """Length in bytes.

        Raises:
            NotFoundError: There is no such blob.
        """
        return len(self._found(digest))

    def local_path(self, digest: Digest) -> str | None:
        """None: there is no file.

        Raises:
            NotFoundError: There is no such blob.
        """
        self._found(digest)
        return None

    def has(self, digest: Digest) -> bool:
        """Whether there is such a blob."""
        return digest_name(digest) in self._blobs

    def read(self, digest: Digest, start: int, stop: int) -> memoryview:
        """The bytes ``[start, stop)``.

        Raises:
            DigestMismatchError: The blob is shorter.
            NotFoundError: There is no such blob.
        """
        data = self._found(digest)
        fault.check_range(start, stop, len(data))
        return memoryview(data)[start:stop]

    def chunks(self, digest: Digest, start: int, stop: int, size: int) -> Iterator[memoryview]:
        """The bytes ``[start, stop)`` in pieces of `size`.

        Raises:
            DigestMismatchError: The blob is shorter.
            NotFoundError: There is no such blob.
        """
        data = self.read(digest, start, stop)
        if size < 1:
            raise ValueError(f"a piece has at least one byte, got {size}")
        for first in range(0, len(data), size):
            yield data[first : first + size]

    def put(self, data: bytes) -> BlobRef:
        """Store small bytes."""
        digest = Digest(hashlib.sha256(data).hexdigest())
        self._blobs[digest] = bytes(data)
        return BlobRef(digest, len(data))

    def upload(self, name: str) -> MemoryUpload:
        """Begin an upload, or resume the one of this name."""
        return MemoryUpload(self, upload_name(name))

    def delete(self, digests: Iterable[Digest]) -> None:
        """Forget blobs; those that are not there are passed over."""
        for digest in digests:
            self._blobs.pop(digest_name(digest), None)

    def verify(self, digest: Digest) -> None:
        """Raise unless the blob's bytes are those that its digest names.

        Raises:
            DigestMismatchError: They are not.
            NotFoundError: There is no such blob.
        """
        if hashlib.sha256(self._found(digest)).hexdigest() != digest:
            raise DigestMismatchError("a stored blob was altered: fetch it again")

    def digests(self) -> Iterator[Digest]:
        """Every blob's name, sorted."""
        yield from sorted(self._blobs)

    def _found(self, digest: Digest) -> bytes:
        data = self._blobs.get(digest_name(digest))
        if data is None:
            raise NotFoundError("there is no such blob")
        return data


class MemoryVault:
    """`wardround.ports.Vault` in a dictionary, unsealed."""

    def __init__(self) -> None:
        self._values: dict[str, bytes] = {}

    def get(self, name: str) -> bytes | None:
        """The value, or None."""
        return self._values.get(name)

    def put(self, name: str, value: bytes) -> None:
        """Store or replace a value."""
        self._values[name] = bytes(value)

    def add(self, name: str, value: bytes) -> None:
        """Store a value under a name that has none.

        Raises:
            ConflictError: There is a value of this name; it stays.
        """
        if name in self._values:
            raise ConflictError("another writer was first: load again and decide again")
        self._values[name] = bytes(value)

    def delete(self, name: str) -> None:
        """Forget a value, if there is one."""
        self._values.pop(name, None)

    def names(self, prefix: str) -> list[str]:
        """Names that begin with `prefix`, sorted."""
        return sorted(name for name in self._values if name.startswith(prefix))
