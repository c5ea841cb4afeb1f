"""People's accounts and sessions of a node, in its vault.

    people/<name>/<version, 12 digits>      the vault seals each value under its own name

A version is a name that must be new, so of any number of writers over one version exactly one succeeds;
the older ones are deleted after it. What a crash leaves behind of them is not read again, because the
newest counts, and is cleared away by the next write. A deleted document leaves an empty newest version,
so that an older writer conflicts.
"""

from wardround.errors import ConflictError
from wardround.ports import Vault

__all__ = ["VaultAccounts"]

_DIGITS = 12
_HERE, _GONE = b"\x01", b"\x00"


class VaultAccounts:
    """`wardround.ports.Accounts` over a vault; may be shared by threads and processes as the vault may be."""

    def __init__(self, vault: Vault) -> None:
        self._vault = vault

    def read(self, name: str) -> tuple[bytes, int] | None:
        """A document and its version, or None.

        Raises:
            CryptoError: What lies there was altered, or sealed under another key.
            UnavailableError: The vault did not answer.
        """
        body, version = self._newest(name)
        return (body[1:], version) if body[:1] == _HERE else None

    def write(self, name: str, body: bytes, *, after: int) -> None:
        """Store a document as its next version; `after` is 0 where there must be none yet.

        Raises:
            ConflictError: Its version is another by now; it stays.
            StorageFullError: The disk is full; the old one stays.
            UnavailableError: The vault did not answer.
        """
        newest, version = self._newest(name)
        if after != (version if newest[:1] == _HERE else 0):
            raise ConflictError("another writer was first: load again and decide again")
        # A name that was deleted goes on counting, so that an older writer of it conflicts.
        self._put(name, _HERE + body, version)

    def delete(self, name: str, *, after: int) -> None:
        """Forget a document of exactly this version.

        Raises:
            ConflictError: Its version is another by now, or it is gone.
            UnavailableError: The vault did not answer.
        """
        newest, version = self._newest(name)
        if newest[:1] != _HERE or version != after:
            raise ConflictError("another writer was first: load again and decide again")
        self._put(name, _GONE, version)

    def names(self, prefix: str) -> list[str]:
        """Names that begin with `prefix`, sorted.

        Raises:
            UnavailableError: The vault did not answer.
        """
        found = sorted({key.split("/")[1] for key in self._vault.names(f"people/{prefix}")})
        return [name for name in found if self.read(name) is not None]

    def _newest(self, name: str) -> tuple[bytes, int]:
        # Between listing and reading a writer may have gone on: then the newest is looked for again.
        while keys := self._vault.names(f"people/{name}/"):
            if (body := self._vault.get(keys[-1])) is not None:
                return body, int(keys[-1].rpartition("/")[2])
        return _GONE, 0

    def _put(self, name: str, body: bytes, version: int) -> None:
        self._vault.add(f"people/{name}/{version + 1:0{_DIGITS}}", body)
        for key in self._vault.names(f"people/{name}/"):
            if int(key.rpartition("/")[2]) <= version:
                self._vault.delete(key)
