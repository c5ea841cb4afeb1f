"""A backup of a node's keys as shares on paper: any `threshold` of them open its key ring, fewer say nothing.

    secret ──HKDF──▶ recovery key pair;  its public half lies in the ring, which wraps every key for it, also new ones
    secret ──Shamir──▶ shares 1 … n,     each printed with its backup's name, its number and a checksum

What is split is not a key of the store, which a token would not give out, but a secret of its own. So the shares
stay good over rotations and whatever keeps the KEK, and open the ring of any later backup of the state folder.
Without that folder they open nothing.

A checksum finds slips of the pen. Forged shares with right checksums give another secret than the ring's, and with
more shares than the threshold the forged ones are named (`wardround.crypto.shamir`).
"""

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import msgspec

from wardround.codec import canonical
from wardround.crypto import agreement, shamir
from wardround.errors import CodecError, ConfigError, CryptoError
from wardround.ports import KeyStore
from wardround.storage.key_file import write_durably
from wardround.storage.key_ring import KeyRing
from wardround.storage.key_ring_file import Recovery, Ring, Wrap, check_of, mac_of

__all__ = ["MOST_SHARES", "Share", "make", "read", "restore", "text_of"]

MOST_SHARES: Final = 64
_MAX_TEXT = 4096
_HEAD = "WARDROUND KEY SHARE 1"
_GROUP, _LINE = 4, 5
_FIELDS = re.compile(
    r"WARDROUND KEY SHARE 1\s+site:\s*([a-z][a-z0-9-]{0,62})\s+backup:\s*([0-9a-f]{16})\s+made:\s*(\S{1,32})\s+"
    r"share:\s*([1-9][0-9]?)\s+of\s+([1-9][0-9]?),\s+any\s+([1-9][0-9]?)\s+together\s+([A-Z2-7\s]{52,90}?)\s+"
    r"checksum:\s*([0-9a-f]{4})-([0-9a-f]{4})\s*"
)


class Share(msgspec.Struct, frozen=True):
    """One share; `backup` names the recovery key that it is of. It has no telling repr."""

    site: str
    backup: str
    made: str
    number: int
    shares: int
    threshold: int
    secret: bytes

    def __repr__(self) -> str:
        """Without the share."""
        return f"Share({self.site}, {self.backup}, {self.number} of {self.shares})"


def make(
    site: str, *, shares: int, threshold: int, draw: Callable[[int], bytes], now: float
) -> tuple[Recovery, list[Share]]:
    """A new recovery key: its public half, and its shares. The whole secret is kept nowhere.

    Raises:
        ConfigError: Not 2 <= threshold <= shares <= 64.
    """
    if not 2 <= threshold <= shares <= MOST_SHARES:
        raise ConfigError(f"a backup has 2 to {MOST_SHARES} shares, and a threshold of 2 to that many")
    secret = shamir.draw_secret(draw)
    public = agreement.public_bytes(_private(secret).public_key())
    name, made = _name(public), datetime.fromtimestamp(now, UTC).date().isoformat()
    parts = shamir.split(secret, threshold, range(1, shares + 1), draw)
    recovery = Recovery(id=name, public=public, shares=shares, threshold=threshold, made_at=float(now))
    return recovery, [Share(site, name, made, place, shares, threshold, part) for place, part in enumerate(parts, 1)]


def text_of(share: Share) -> str:
    """A share as it is printed."""
    letters = base64.b32encode(share.secret).decode().rstrip("=")
    groups = [letters[place : place + _GROUP] for place in range(0, len(letters), _GROUP)]
    lines = ["  " + " ".join(groups[place : place + _LINE]) for place in range(0, len(groups), _LINE)]
    return "\n".join(
        [
            _HEAD,
            f"site: {share.site}",
            f"backup: {share.backup}",
            f"made: {share.made}",
            f"share: {share.number} of {share.shares}, any {share.threshold} together",
            "",
            *lines,
            "",
            f"checksum: {_checksum(share)}",
            "",
        ]
    )


def read(text: str) -> Share:
    """Read a share as it was printed; spaces and line ends do not matter.

    Raises:
        CodecError: It is no share, or a character is wrong.
    """
    found = _FIELDS.fullmatch(text.strip()) if len(text) <= _MAX_TEXT else None
    if found is None:
        raise CodecError(f"this is no key share: it begins with {_HEAD!r} and ends with its checksum")
    site, backup, made, number, shares, threshold, letters, first, second = found.groups()
    try:
        secret = base64.b32decode("".join(letters.split()) + "====")
    except binascii.Error:
        raise CodecError(f"share {number} of {shares}: its letters are not complete") from None
    share = Share(site, backup, made, int(number), int(shares), int(threshold), secret)
    right = _checksum(share) == f"{first}-{second}" and base64.b32encode(secret).rstrip(b"=") == b"".join(
        letters.encode().split()
    )
    if not right or len(secret) != shamir.SECRET_BYTES or share.number > share.shares or share.threshold > share.shares:
        raise CodecError(f"share {number} of {shares} was not copied rightly: its checksum does not fit")
    return share


def restore(path: Path, shares: Sequence[Share], store: KeyStore, *, tenant: str) -> frozenset[int]:
    """Open the ring in `path` with shares, and wrap its keys under a new version of `store`.

    Returns:
        The numbers of shares that are not of this backup's polynomial: who holds them has forged ones.

    Raises:
        CodecError: There is no ring in the file.
        CryptoError: Too few shares, of several backups, of another ring, forged, or the ring was altered.
    """
    try:
        ring = canonical.decode(path.read_bytes(), Ring)
    except (FileNotFoundError, CodecError):
        raise CodecError(f"there is no key ring in {path}: put back the state folder first, then restore") from None
    private, forged = _recovered(shares, ring.recovery, tenant)
    keys: dict[int, bytes] = {}
    for key in ring.keys:
        if key.recovery:
            opened = agreement.accept(key.recovery, private, KeyRing.context(tenant, key.number))
            if not hmac.compare_digest(check_of(tenant, key.number, opened), key.check):
                raise CryptoError(f"key {key.number} of the backup is not the ring's")
            keys[key.number] = opened
    if 0 not in keys or not hmac.compare_digest(mac_of(ring, keys[0]), ring.mac):
        raise CryptoError("the key ring was altered, or is another than the one that was backed up")
    newest = max((wrap.version for key in ring.keys for wrap in key.wraps if wrap.store == store.name), default=0)
    version = store.rotate(newest)
    found = []
    for key in ring.keys:
        wraps = tuple(wrap for wrap in key.wraps if wrap.store != store.name)
        if key.number in keys:
            made, body = store.wrap(keys[key.number], KeyRing.context(tenant, key.number))
            if made != version:
                raise ConfigError(f"the store wraps under version {made}, and made {version}: restore again")
            wraps = (*wraps, Wrap(store.name, version, body))
        found.append(msgspec.structs.replace(key, wraps=wraps))
    restored = msgspec.structs.replace(ring, keys=tuple(found), seq=ring.seq + 1)
    write_durably(path, canonical.encode(msgspec.structs.replace(restored, mac=mac_of(restored, keys[0]))))
    return forged


def _recovered(
    shares: Sequence[Share], recovery: Recovery | None, tenant: str
) -> tuple[agreement.PrivateKey, frozenset[int]]:
    if recovery is None:
        raise CryptoError("this key ring was never backed up: no shares open it")
    backups = {(share.site, share.backup) for share in shares}
    if len(backups) > 1:
        raise CryptoError(f"these shares are of {len(backups)} backups; take those of one")
    if backups != {(tenant, recovery.id)}:
        raise CryptoError(f"these shares are not of this ring's backup, which is {recovery.id} of {tenant}")
    numbered = {share.number: share.secret for share in shares}
    if len(numbered) != len(shares):
        raise CryptoError("a share was given twice; take different ones")
    if len(numbered) < recovery.threshold:
        raise CryptoError(f"{recovery.threshold} shares are needed, and {len(numbered)} are there")

    def is_right(secret: bytes) -> bool:
        return hmac.compare_digest(agreement.public_bytes(_private(secret).public_key()), recovery.public)

    try:
        secret, forged = shamir.recover(numbered, recovery.threshold, is_right, attempts=512)
    except CryptoError:
        raise CryptoError(
            f"the {len(numbered)} shares do not give this backup's key: at least one is forged; bring more shares"
        ) from None
    return _private(secret), forged


def _private(secret: bytes) -> agreement.PrivateKey:
    return agreement.load_private(
        agreement.derive(secret, b"wardround key shares 1", "state recovery", agreement.PRIVATE_BYTES)
    )


def _name(public: bytes) -> str:
    return hashlib.sha256(b"wardround recovery 1\n" + public).hexdigest()[:16]


def _checksum(share: Share) -> str:
    fields = f"{share.site}/{share.backup}/{share.made}/{share.number}/{share.shares}/{share.threshold}/"
    digest = hashlib.sha256(b"wardround key share 1\n" + fields.encode() + share.secret).hexdigest()
    return f"{digest[:4]}-{digest[4:8]}"
