"""People's accounts and sessions in the hub's database, sealed.

    accounts(name, version, body)     body = wardround.crypto.seal of the document, with name and version as context

A row that was altered, moved to another name or given another version does not open. A write is one
conditional statement, so of any number of writers over one version exactly one succeeds. Not detected: a
row that was removed or put back whole to an earlier state by whoever can write to the database.
"""

import os

import sqlalchemy as sa

from wardround.crypto import seal
from wardround.errors import ConflictError, CryptoError
from wardround.storage.connection import Connections
from wardround.storage.database import Database
from wardround.storage.schema import accounts

__all__ = ["DatabaseAccounts", "open_accounts"]

_READ = sa.select(accounts.c.body, accounts.c.version).where(accounts.c.name == sa.bindparam("whom"))
_ADD = accounts.insert()
_OF_VERSION = (accounts.c.name == sa.bindparam("whom"), accounts.c.version == sa.bindparam("after"))
_REPLACE = (
    accounts.update()
    .where(*_OF_VERSION)
    .values(
        version=sa.bindparam("next", type_=accounts.c.version.type),
        body=sa.bindparam("sealed", type_=accounts.c.body.type),
    )
)
_DELETE = accounts.delete().where(*_OF_VERSION)
_NAMES = (
    sa.select(accounts.c.name)
    .where(accounts.c.name >= sa.bindparam("first"), accounts.c.name < sa.bindparam("end"))
    .order_by(accounts.c.name)
)
_LAST_CHARACTER = "\U0010ffff"


class DatabaseAccounts:
    """`wardround.ports.Accounts` over `connections`, readable with the 32-byte `key`; may be shared by threads.

    Raises:
        CryptoError: The key has not 32 bytes.
    """

    def __init__(self, connections: Connections, key: bytes) -> None:
        if len(key) != seal.KEY_BYTES:
            raise CryptoError(f"the key of people's accounts has {seal.KEY_BYTES} bytes, this has {len(key)}")
        self._connections, self._key = connections, key

    def read(self, name: str) -> tuple[bytes, int] | None:
        """A document and its version, or None.

        Raises:
            CryptoError: What lies there was altered, or sealed under another key.
            UnavailableError: The database did not answer.
        """
        with self._connections.reading() as connection:
            row = connection.execute(_READ, {"whom": name}).first()
        if row is None:
            return None
        version = int(row.version)
        return seal.open_sealed(bytes(row.body), self._key, context=_context(name, version)), version

    def write(self, name: str, body: bytes, *, after: int) -> None:
        """Store a document as its next version; `after` is 0 where there must be none yet.

        Raises:
            ConflictError: Its version is another by now; it stays.
            StorageFullError: The disk is full; the old one stays.
            UnavailableError: The database did not answer.
        """
        version = after + 1
        sealed = seal.seal(body, self._key, nonce=os.urandom(seal.NONCE_BYTES), context=_context(name, version))
        with self._connections.writing() as connection:
            if after == 0:
                connection.execute(_ADD, {"name": name, "version": version, "body": sealed})
                return
            values = {"whom": name, "after": after, "next": version, "sealed": sealed}
            if connection.execute(_REPLACE, values).rowcount != 1:
                raise ConflictError("another writer was first: load again and decide again")

    def delete(self, name: str, *, after: int) -> None:
        """Forget a document of exactly this version.

        Raises:
            ConflictError: Its version is another by now, or it is gone.
            UnavailableError: The database did not answer.
        """
        with self._connections.writing() as connection:
            if connection.execute(_DELETE, {"whom": name, "after": after}).rowcount != 1:
                raise ConflictError("another writer was first: load again and decide again")

    def names(self, prefix: str) -> list[str]:
        """Names that begin with `prefix`, sorted.

        Raises:
            UnavailableError: The database did not answer.
        """
        with self._connections.reading() as connection:
            return list(connection.scalars(_NAMES, {"first": prefix, "end": prefix + _LAST_CHARACTER}))


def open_accounts(database: Database, key: bytes) -> DatabaseAccounts:
    """The accounts in an open database.

    Raises:
        CryptoError: The key has not 32 bytes.
    """
    return DatabaseAccounts(database._connections, key)  # noqa: SLF001, one package


def _context(name: str, version: int) -> bytes:
    return f"account {version} {name}".encode()
