"""A node's ring of data keys: a small file in which each lies wrapped under a key-encryption key (KEK).

    KEK (file, token, service) ──wraps──▶ ring's keys ──seal──▶ values of the vault; objects' keys of sealed files

    key 0        the root: what the node derives secrets from, and what sealed its state before it had a ring
    key 1, 2, …  data keys; the newest, `current`, seals what is written from now on

A rotation makes a KEK version and a data key, wraps every key anew and replaces the file in one step: no data is
rewritten, and of a crash at any instant either the old file or the new one is left, each with its KEK. Old KEK versions
stay until `destroy_versions`. `erase` forgets a data key: what it sealed cannot be read by anyone any more.

A node that never rotated has no ring: its 32-byte state key is the root, and seals. The file is authenticated under
the root, so that no key can be put in, taken out or made current without it. Not detected: the whole file replaced by
an older copy; keys that are newer are then missing, and what they sealed does not open.

References:
    NIST SP 800-57 part 1 revision 5, 5.3.6 (cryptoperiods) and 8.3.4 (destroying keys).
"""

import fcntl
import hashlib
import hmac
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from wardround.codec import canonical
from wardround.crypto import agreement
from wardround.errors import CodecError, ConfigError, CryptoError
from wardround.ports import Clock, KeyStore
from wardround.storage import fault
from wardround.storage.key_file import FileKeyStore, HeldKeyStore, write_durably
from wardround.storage.key_pkcs11 import Pkcs11KeyStore
from wardround.storage.key_ring_file import Recovery, Ring, RingKey, Wrap, check_of, mac_of
from wardround.storage.key_service import TransitKeyStore, from_reference

__all__ = ["RING_NAME", "KeyRing", "KeyStatus", "RingStatus", "Store", "open_ring", "open_store"]

RING_NAME: Final = "keyring.json"
_KEY_BYTES = 32
_MOST_KEYS = 1000

Store = FileKeyStore | HeldKeyStore | Pkcs11KeyStore | TransitKeyStore


@dataclass(frozen=True, slots=True)
class KeyStatus:
    """One of a ring's keys; `versions` names the KEK versions that wrap it, as ``store#version``."""

    number: int
    made_at: float
    is_current: bool
    is_erased: bool
    versions: tuple[str, ...]
    is_backed_up: bool


@dataclass(frozen=True, slots=True)
class RingStatus:
    """A ring without its secrets; `unused` are KEK versions of the store that wrap nothing."""

    store: str
    has_ring: bool
    keys: tuple[KeyStatus, ...]
    unused: tuple[int, ...]
    backup: str
    shares: int
    threshold: int


class KeyRing:
    """The ring in the file `path`, opened by `store`; threads and processes may share it.

    Without the file a store that has a bare key seals with that; one that has none makes a ring at once.
    `tenant` is whose ring it is: the keys of one site's ring do not open in another's.
    """

    def __init__(self, path: Path, store: KeyStore, *, tenant: str, clock: Clock, bare: bytes | None = None) -> None:
        self._path, self._store, self._tenant, self._clock, self._bare = path, store, tenant, clock, bare
        self._lock = threading.RLock()
        self._keys: dict[int, bytes] = {}
        self._ring: Ring | None = None
        if path.exists():
            self._ring = self._read()
        elif bare is None:
            self.rotate()

    @property
    def tenant(self) -> str:
        """Whose ring this is."""
        return self._tenant

    @property
    def is_bare(self) -> bool:
        """Whether there is no ring yet, and the state key itself seals."""
        return self._ring is None

    @property
    def root(self) -> bytes:
        """Key 0, from which the node derives other secrets; it stays the same over every rotation."""
        return self.key(0)

    @property
    def current(self) -> int:
        """The number of the key that seals what is written now."""
        return 0 if self._ring is None else self._ring.current

    def key(self, number: int) -> bytes:
        """The key of a number; the file is read again for one that another process has made.

        Raises:
            CryptoError: There is no such key, it was erased, or it does not open.
        """
        with self._lock:
            if number not in self._keys:
                self._keys[number] = self._opened(number)
            return self._keys[number]

    def rotate(self, *, to: KeyStore | None = None) -> RingStatus:
        """Make a KEK version and a data key, and wrap all keys under that version; no data is rewritten.

        With `to`, under another store's: this one's still opens them until the next rotation, so that the settings can
        be changed in between.

        Raises:
            ConfigError: The store cannot make versions, or `to` has this one's name.
            CryptoError: A key does not open.
        """
        if to is not None:
            if to.name == self._store.name:
                raise ConfigError(f"the keys are under {to.name} already; leave --to out to rotate them there")
            self.adopt()
        with self._changing():
            before = self._ring
            held = self._all(before)
            target = to or self._store
            version = target.rotate(_newest(before, target.name))
            held[max(held) + 1] = os.urandom(_KEY_BYTES)
            kept = self._store.name if to is not None else ""
            self._write(before, held, max(held), target, version=version, kept=kept)
        return self.status()

    def adopt(self) -> None:
        """Make a ring where there is only a bare key."""
        if self.is_bare:
            self.rotate()

    def erase(self, number: int) -> None:
        """Forget a data key for ever: cryptographic erasure of everything that it sealed.

        Raises:
            ConfigError: It is the root or the current key, or there is no such key.
        """
        with self._changing():
            ring = self._ring
            if ring is None or number in {0, ring.current} or number not in {key.number for key in ring.keys}:
                raise ConfigError(f"key {number} is the root, the current key or none; rotate first, then erase it")
            erased = tuple(
                msgspec.structs.replace(key, wraps=(), recovery=b"", erased_at=float(self._clock.now()))
                if key.number == number
                else key
                for key in ring.keys
            )
            self._replace(msgspec.structs.replace(ring, keys=erased, seq=ring.seq + 1))
            self._keys.pop(number, None)

    def destroy_versions(self) -> tuple[int, ...]:
        """Destroy the KEK versions that are older than every one that wraps a key; which these were."""
        with self._changing():
            used = _used(self._ring, self._store.name)
            gone = tuple(version for version in self._store.versions() if used and version < min(used))
            for version in gone:
                self._store.destroy(version)
        return gone

    def back_up(self, recovery: Recovery) -> None:
        """Wrap every key, and those to come, for a recovery key too; an earlier backup's shares open the ring no more.

        Raises:
            CryptoError: A key does not open.
        """
        self.adopt()
        with self._changing():
            ring = _present(self._ring)
            held = self._all(ring)
            keys = tuple(self._for_recovery(key, held.get(key.number), recovery) for key in ring.keys)
            self._replace(msgspec.structs.replace(ring, keys=keys, recovery=recovery, seq=ring.seq + 1))

    def status(self) -> RingStatus:
        """What the ring is, for people."""
        ring, store = self._ring, self._store
        if ring is None:
            bare = KeyStatus(0, 0.0, is_current=True, is_erased=False, versions=(), is_backed_up=False)
            return RingStatus(store.name, False, (bare,), (), "", 0, 0)
        keys = tuple(
            KeyStatus(
                key.number,
                key.made_at,
                key.number == ring.current,
                key.erased_at > 0,
                tuple(f"{wrap.store}#{wrap.version}" for wrap in key.wraps),
                bool(key.recovery),
            )
            for key in ring.keys
        )
        used, found = _used(ring, store.name), ring.recovery
        unused = tuple(version for version in store.versions() if version not in used)
        backup = (found.id, found.shares, found.threshold) if found else ("", 0, 0)
        return RingStatus(store.name, True, keys, unused, *backup)

    @staticmethod
    def context(tenant: str, number: int) -> bytes:
        """What a wrapped key of a ring is bound to."""
        return _context(tenant, number)

    def _opened(self, number: int) -> bytes:
        if self._ring is None and not self._path.exists():
            if number == 0 and self._bare is not None:
                return self._bare
            raise CryptoError(f"key {number} is in no ring here: {self._path.name} is missing, restore it")
        ring = self._ring = self._read() if self._ring is None or number not in _numbers(self._ring) else self._ring
        found = next((key for key in ring.keys if key.number == number), None)
        if found is None:
            raise CryptoError(f"the ring has no key {number}: perhaps it is an older copy")
        if found.erased_at:
            raise CryptoError(f"key {number} was erased: what it sealed cannot be read by anyone")
        wrap = next((wrap for wrap in found.wraps if wrap.store == self._store.name), None)
        if wrap is None:
            known = ", ".join(sorted({wrap.store for wrap in found.wraps}))
            raise CryptoError(f"key {number} is wrapped under {known}, and state_key names {self._store.name}")
        key = self._store.unwrap(wrap.body, wrap.version, _context(self._tenant, number))
        if not hmac.compare_digest(check_of(self._tenant, number, key), found.check):
            raise CryptoError(f"what was unwrapped is not key {number} of this ring")
        return key

    def _all(self, ring: Ring | None) -> dict[int, bytes]:
        """Every key that was not erased, by number; for a new ring its root."""
        if ring is None:
            return {0: self._bare if self._bare is not None else os.urandom(_KEY_BYTES)}
        if len(ring.keys) >= _MOST_KEYS:
            raise ConfigError(f"a ring has at most {_MOST_KEYS} keys")
        return {key.number: self.key(key.number) for key in ring.keys if not key.erased_at}

    def _write(
        self,
        before: Ring | None,
        held: Mapping[int, bytes],
        current: int,
        store: KeyStore,
        *,
        version: int,
        kept: str,
    ) -> None:
        """The ring with these keys, wrapped under `version` of `store`; wraps of the store `kept` stay beside."""
        known = {key.number: key for key in before.keys} if before else {}
        recovery = before.recovery if before else None
        keys = [key for key in known.values() if key.erased_at]
        for number, key in held.items():
            found, body = store.wrap(key, _context(self._tenant, number))
            if found != version:
                raise ConfigError(f"the store wraps under version {found}, and made {version}: rotate again")
            old = known.get(number) or RingKey(
                number=number, made_at=float(self._clock.now()), check=check_of(self._tenant, number, key)
            )
            wraps = (*(wrap for wrap in old.wraps if wrap.store == kept), Wrap(store.name, version, body))
            made = msgspec.structs.replace(old, wraps=wraps)
            keys.append(self._for_recovery(made, key, recovery) if recovery and not old.recovery else made)
        self._keys.update(held)
        self._replace(
            Ring(
                tenant=self._tenant,
                seq=before.seq + 1 if before else 1,
                current=current,
                keys=tuple(sorted(keys, key=lambda one: one.number)),
                recovery=recovery,
            )
        )

    def _for_recovery(self, found: RingKey, key: bytes | None, recovery: Recovery) -> RingKey:
        if key is None:
            return found
        public = agreement.load_public(recovery.public)
        sealed = agreement.offer(public, key, _context(self._tenant, found.number))
        return msgspec.structs.replace(found, recovery=sealed)

    def _read(self) -> Ring:
        try:
            ring = canonical.decode(self._path.read_bytes(), Ring)
        except FileNotFoundError:
            raise ConfigError(f"the key ring {self._path} is missing: restore it from a backup of the state") from None
        except OSError as error:
            raise fault.from_os(error) from None
        except CodecError:
            raise CryptoError(f"{self._path.name} is no key ring that this program can read") from None
        if ring.tenant != self._tenant or not {0, ring.current} <= _numbers(ring):
            raise CryptoError(f"{self._path.name} is not whole, or the key ring of another site than {self._tenant}")
        before, self._ring = self._ring, ring
        try:
            # An unverified ring gives its root only to check the ring; a root of another ring fails the check.
            root = self._keys.get(0) or self._opened(0)
            self._check(ring, root)
        except BaseException:
            self._ring = before
            raise
        self._keys[0] = root
        return ring

    def _check(self, ring: Ring, root: bytes) -> None:
        if not hmac.compare_digest(mac_of(ring, root), ring.mac):
            raise CryptoError(f"{self._path.name} was altered, or is another node's")

    def _replace(self, ring: Ring) -> None:
        sealed = msgspec.structs.replace(ring, mac=mac_of(ring, self._keys[0]))
        write_durably(self._path, canonical.encode(sealed))
        self._ring = sealed

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """Alone among processes, with the file as it is now."""
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(self._path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise fault.from_os(error) from None
        try:
            with self._lock:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                if self._path.exists():
                    self._ring = self._read()
                yield
        finally:
            os.close(descriptor)


def open_store(reference: str, base: Path, environ: Mapping[str, str]) -> Store:
    """The key store that a setting names: ``file:…``, ``env:…``, ``pkcs11:…`` or ``kms:https://…``.

    Raises:
        ConfigError: It is no such reference, or what it names is not there.
        CryptoError: A given key has not 32 bytes.
    """
    scheme, _, rest = reference.partition(":")
    match scheme:
        case "file":
            return FileKeyStore(base / rest)
        case "env" if rest in environ:
            return HeldKeyStore(environ[rest].encode())
        case "pkcs11":
            return Pkcs11KeyStore.from_uri(reference, base)
        case "kms":
            return from_reference(reference, base)
        case _:
            pass
    raise ConfigError("a state key is named as file:…, env:NAME, pkcs11:… or kms:https://…, and is there")


def open_ring(
    reference: str, *, base: Path, state: Path, tenant: str, environ: Mapping[str, str], clock: Clock
) -> KeyRing:
    """The ring of a node: in its folder `state`, opened by the store that its setting names.

    Raises:
        ConfigError: The reference is wrong, or its key is not there.
        CryptoError: The ring does not open.
    """
    store, path = open_store(reference, base, environ), state / RING_NAME
    bare = None if path.exists() else store.bare()
    if bare is None and not path.exists() and isinstance(store, FileKeyStore):
        raise ConfigError(f"the secret {reference} is not there")
    return KeyRing(path, store, tenant=tenant, clock=clock, bare=bare)


def _context(tenant: str, number: int) -> bytes:
    return hashlib.sha256(f"wardround ring key 1\n{tenant}\n{number}".encode()).digest()


def _numbers(ring: Ring) -> set[int]:
    return {key.number for key in ring.keys}


def _used(ring: Ring | None, store: str) -> set[int]:
    return {wrap.version for key in ring.keys for wrap in key.wraps if wrap.store == store} if ring else set()


def _newest(ring: Ring | None, store: str) -> int:
    return max(_used(ring, store), default=0)


def _present(ring: Ring | None) -> Ring:
    if ring is None:
        raise ConfigError("there is no key ring yet: wardround keys rotate makes one")
    return ring
