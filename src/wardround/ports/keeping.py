"""Ports to what is kept: events, identities, blobs, small secrets, keys, accounts, the audit log."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol

from wardround.ids import CommandId, Digest, SiteId
from wardround.protocol.messages import Identity, Role
from wardround.protocol.plan import BlobRef

__all__ = [
    "Accounts",
    "Anchor",
    "AuditLog",
    "Blobs",
    "EventLog",
    "KeyStore",
    "Registry",
    "Upload",
    "Vault",
]


class EventLog(Protocol):
    """Append-only streams of events: ``(stream, seq)`` is unique, and seq counts from 1 without gaps."""

    def read(self, stream: str, *, after: int = 0) -> list[bytes]:
        """Events of `stream` in order, from seq ``after + 1``."""

    def append(
        self,
        stream: str,
        events: Sequence[bytes],
        *,
        after: int,
        receipt: tuple[SiteId, CommandId, bytes] | None = None,
    ) -> None:
        """Add `events` as seq ``after + 1 …`` and, in the same transaction, what their command was answered.

        When it returns, all of it survives a crash; when it raises, none of it is there.

        Raises:
            ConflictError: Another writer has written seq ``after + 1``, or this command's receipt.
            StorageFullError: The disk is full.
            UnavailableError: The database did not answer.
        """

    def receipt(self, sender: SiteId, command: CommandId) -> bytes | None:
        """What this command was answered, if it was."""

    def streams(self, prefix: str) -> list[str]:
        """Names of all streams that begin with `prefix`, sorted."""


class Registry(Protocol):
    """Who is enrolled, and which invites are open. An invite is stored by the SHA-256 of its secret.

    `identity` and `revoke` raise `NotFoundError` where nobody is enrolled under the name.
    """

    def add_invite(self, invite: Digest, name: SiteId, role: Role, expires: float) -> None:
        """Open an invite for one newcomer.

        Raises:
            ConflictError: The same invite exists.
        """

    def invited(self, invite: Digest, now: float) -> tuple[SiteId, Role]:
        """Whom an open invite is for.

        Raises:
            InviteError: Unknown, expired, or used.
        """

    def enrol(self, invite: Digest, identity: Identity, now: float) -> None:
        """Use up the invite and store the identity, in one transaction; a new certificate replaces the name's old one.

        Raises:
            InviteError: Unknown, expired, or used.
        """

    def add_identity(self, identity: Identity) -> None:
        """Store an identity without an invite: the operator's own."""

    def identity(self, name: SiteId) -> Identity:
        """The enrolled identity."""

    def identities(self) -> list[Identity]:
        """All enrolled identities, by name."""

    def replace(self, identity: Identity, *, before: bytes) -> None:
        """Give an enrolled name another certificate.

        Raises:
            ConflictError: Its certificate is not `before` any more, or it was revoked.
        """

    def revoked(self) -> frozenset[SiteId]:
        """Names that were revoked and not enrolled again."""

    def revoke(self, name: SiteId) -> None:
        """Forget an identity: its requests are refused from now on."""


class Upload(Protocol):
    """Bytes on their way into a `Blobs` store, kept across interruptions until committed or discarded."""

    @property
    def offset(self) -> int:
        """How many bytes are held."""

    def append(self, data: bytes | bytearray | memoryview) -> None:
        """Add bytes at the end.

        Raises:
            StorageFullError: The disk is full; what is held stays held.
        """

    def commit(self, expected: Digest | None = None) -> BlobRef:
        """Make the bytes a blob; they survive a crash once this returns.

        Raises:
            DigestMismatchError: They are not `expected`; the upload is discarded.
        """

    def close(self) -> None:
        """Let go, keeping what is held so that `Blobs.upload` of the same name resumes."""

    def discard(self) -> None:
        """Forget the bytes."""


class Blobs(Protocol):
    """Content-addressed bytes. What reads a blob raises `NotFoundError` where there is no such blob."""

    def size(self, digest: Digest) -> int:
        """Length in bytes."""

    def has(self, digest: Digest) -> bool:
        """Whether there is such a blob."""

    def read(self, digest: Digest, start: int, stop: int) -> bytes | memoryview:
        """The bytes ``[start, stop)``."""

    def local_path(self, digest: Digest) -> str | None:
        """Path of the blob where it is a whole file of this machine, else None."""

    def chunks(self, digest: Digest, start: int, stop: int, size: int) -> Iterator[bytes | memoryview]:
        """The bytes ``[start, stop)`` in pieces of `size`; a piece is valid until the next is asked for."""

    def put(self, data: bytes) -> BlobRef:
        """Store small bytes durably."""

    def upload(self, name: str) -> Upload:
        """Begin an upload, or resume the one of this name. Names are letters, digits, '.' and '-'."""

    def delete(self, digests: Iterable[Digest]) -> None:
        """Forget blobs; those that are not there are passed over."""


class Vault(Protocol):
    """A node's local state: small values, encrypted at rest, each durable when `put` returns."""

    def get(self, name: str) -> bytes | None:
        """The value, or None.

        Raises:
            CryptoError: What lies there was altered, or sealed under another key.
        """

    def put(self, name: str, value: bytes) -> None:
        """Store or replace a value.

        Raises:
            StorageFullError: The disk is full; the old value stays.
        """

    def add(self, name: str, value: bytes) -> None:
        """Store a value under a name that has none; of several writers, also in other processes, one succeeds.

        Raises:
            ConflictError: There is a value of this name; it stays.
            StorageFullError: The disk is full.
        """

    def delete(self, name: str) -> None:
        """Forget a value, if there is one."""

    def names(self, prefix: str) -> list[str]:
        """Names that begin with `prefix`, sorted."""


class Anchor(Protocol):
    """Small values kept apart from the vault, so that a vault that was put back to an earlier state is noticed."""

    def get(self, name: str) -> bytes | None:
        """The value, or None."""

    def put(self, name: str, value: bytes) -> None:
        """Store or replace a value; durable when this returns."""


class KeyStore(Protocol):
    """Keys that wrap data keys, in versions from 1. Raises `CryptoError` and `UnavailableError`, as it names them."""

    @property
    def name(self) -> str:
        """Which store and key this is; no secret."""

    def versions(self) -> tuple[int, ...]:
        """Versions that are there, ascending; none before the first `rotate`."""

    def wrap(self, key: bytes, context: bytes) -> tuple[int, bytes]:
        """The newest version, and a 32-byte data key wrapped under it and bound to `context`."""

    def unwrap(self, wrapped: bytes, version: int, context: bytes) -> bytes:
        """The data key; `CryptoError` where it was altered, is for another context, or the version is gone."""

    def rotate(self, above: int) -> int:
        """Make a version above `above` and every other; durable when this returns."""

    def destroy(self, version: int) -> None:
        """Destroy a version for ever; one that is not there is passed over."""


class AuditLog(Protocol):
    """A tamper-evident log of entries, one writer, many threads. Once it failed to write, it raises until reopened."""

    @property
    def origin(self) -> str:
        """The log's name, in every checkpoint."""

    @property
    def size(self) -> int:
        """How many entries are durable."""

    def enqueue(self, entries: Sequence[bytes]) -> Callable[[], int]:
        """Put entries in line, in this order; the function that is given waits until they are durable.

        It gives the index of the first; it raises `StorageFullError` or `UnavailableError` where they were not written.

        Raises:
            CodecError: An entry is too long.
            UnavailableError: The log failed before, or is closed.
        """

    def read(self, start: int, stop: int) -> list[bytes]:
        """The durable entries ``[start, stop)``.

        Raises:
            AuditError: Not all of them are there.
        """

    def publish(self) -> bytes:
        """Sign a checkpoint over all that is durable, put it with its tiles, and give it; nothing new, the last one."""

    def file(self, path: str) -> bytes | None:
        """A file of the log as `wardround.audit.tile` names it, or a checkpoint; None where there is none."""

    def keep_witnessed(self, checkpoint: bytes) -> None:
        """Keep a checkpoint of this log that enough witnesses signed, for `file` to give.

        Raises:
            AuditError: It is none of this log's.
        """


class Accounts(Protocol):
    """People's accounts and sessions: small documents with versions, encrypted at rest, each durable when written.

    A document is written only over the version that was read, so that of two that use up the same code, step or
    session at once, also in different processes, exactly one succeeds.
    """

    def read(self, name: str) -> tuple[bytes, int] | None:
        """A document and its version, or None where there is none.

        Raises:
            CryptoError: What lies there was altered, or sealed under another key.
            UnavailableError: The store did not answer.
        """

    def write(self, name: str, body: bytes, *, after: int) -> None:
        """Store a document as its next version; `after` is 0 where there must be none yet.

        Raises:
            ConflictError: Its version is another by now; it stays.
            StorageFullError: The disk is full; the old one stays.
            UnavailableError: The store did not answer.
        """

    def delete(self, name: str, *, after: int) -> None:
        """Forget a document of exactly this version.

        Raises:
            ConflictError: Its version is another by now, or it is gone.
            UnavailableError: The store did not answer.
        """

    def names(self, prefix: str) -> list[str]:
        """Names that begin with `prefix`, sorted."""
