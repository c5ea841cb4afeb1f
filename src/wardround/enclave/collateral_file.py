"""The officers' bundle as it lies on a machine that verifies: read anew when the file changes, never an older one.

    file ─▶ signatures of a quorum of this machine's own officers ─▶ valid now ─▶ none newer was used ─▶ Bundle

The number of the newest bundle that was ever used is kept in the machine's vault, so that an older bundle, which may
lack a revocation, is refused after a restart too. Anything wrong with the file refuses: no older copy is used in its
place.
"""

import threading
from collections.abc import Sequence
from pathlib import Path

import msgspec

from wardround.attestation import collateral
from wardround.attestation.collateral import Bundle, SignedBundle
from wardround.crypto import signing
from wardround.errors import ConfigError, CryptoError
from wardround.ports import Clock, Vault

__all__ = ["CollateralFile", "officers_of"]

_MAX_FILE_BYTES = 8 * 1024 * 1024
_NUMBER = "collateral/number"


class CollateralFile:
    """The bundle in `path`. May be shared by threads.

    `officers` are the public keys whose signatures count, `quorum` how many of them it takes; see `officers_of`.
    """

    def __init__(self, path: Path, officers: Sequence[bytes], quorum: int, *, clock: Clock, vault: Vault) -> None:
        self._path, self._officers, self._quorum = path, tuple(officers), quorum
        self._clock, self._vault = clock, vault
        self._lock = threading.Lock()
        self._mark: tuple[int, ...] = ()
        self._held: Bundle | None = None

    def bundle(self) -> Bundle:
        """The bundle as it is now.

        Raises:
            ConfigError: There is no such file, or it holds no signed bundle.
            SignatureError: Too few of the officers have signed it.
            CodecError: No proper bundle, or too large.
            AttestationError: Not valid now, or older than a bundle that was used before.
            UnavailableError: The vault did not answer.
        """
        with self._lock:
            mark = self._marked()
            if self._held is None or mark != self._mark:
                self._held, self._mark = self._read(), mark
            collateral.check_time(self._held, self._clock.now())
            return self._held

    def _read(self) -> Bundle:
        try:
            with self._path.open("rb") as file:
                data = file.read(_MAX_FILE_BYTES + 1)
            if len(data) > _MAX_FILE_BYTES:
                raise ConfigError(f"{self._path.name} is larger than the {_MAX_FILE_BYTES} bytes that collateral has")
            signed = msgspec.json.decode(data, type=SignedBundle)
        except OSError as error:
            raise _unreadable(self._path, error) from None
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            raise ConfigError(
                f"{self._path.name} holds no signed bundle; `wardround attest bundle show` reads one"
            ) from None
        known = int(self._vault.get(_NUMBER) or b"0")
        opened = collateral.open_bundle(
            signed, self._officers, self._quorum, now=self._clock.now(), minimum_number=known
        )
        if opened.number > known:
            self._vault.put(_NUMBER, b"%d" % opened.number)
        return opened

    def _marked(self) -> tuple[int, ...]:
        try:
            found = self._path.stat()
        except OSError as error:
            raise _unreadable(self._path, error) from None
        return (found.st_mtime_ns, found.st_size, found.st_ino)


def officers_of(texts: Sequence[str], quorum: int) -> tuple[bytes, ...]:
    """The keys of those whose signatures make collateral, from the settings.

    Raises:
        ConfigError: Nobody is named, a key is none, or `quorum` is not between 1 and their number.
    """
    try:
        officers = tuple(sorted({bytes.fromhex(text) for text in texts}))
        for one in officers:
            signing.load_public(one)
    except (ValueError, CryptoError):
        raise ConfigError(
            "collateral_officers must be public keys of 64 hexadecimal digits; `wardround officer` prints them"
        ) from None
    if not 1 <= quorum <= len(officers):
        raise ConfigError(
            f"collateral_quorum must lie between 1 and the number of collateral_officers, {len(officers)}"
        )
    return officers


def _unreadable(path: Path, error: OSError) -> ConfigError:
    return ConfigError(f"the collateral in {path.name} cannot be read: {error.strerror}")
