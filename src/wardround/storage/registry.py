"""Identities and invites in a database.

An invite is used by one conditional UPDATE, so of any number of newcomers at once exactly one succeeds.
"""

from typing import cast

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from wardround.errors import ConflictError, InviteError, NotFoundError
from wardround.ids import Digest, SiteId
from wardround.protocol.messages import Identity, Role
from wardround.storage.connection import Connections
from wardround.storage.schema import identities, invites

__all__ = ["DatabaseRegistry"]

_OPEN_INVITE = (
    invites.c.digest == sa.bindparam("invite"),
    invites.c.used_at.is_(None),
    invites.c.expires > sa.bindparam("now", type_=invites.c.expires.type),
)
_ADD_INVITE = invites.insert()
_INVITED = sa.select(invites.c.name, invites.c.role).where(*_OPEN_INVITE)
_USE_INVITE = (
    invites.update()
    .where(*_OPEN_INVITE, invites.c.name == sa.bindparam("whom"), invites.c.role == sa.bindparam("as_role"))
    .values(used_at=sa.bindparam("now", type_=invites.c.used_at.type))
)
_ENROLLED = sa.select(identities.c.name, identities.c.role, identities.c.certificate).where(
    identities.c.revoked == sa.false()
)
_IDENTITY = _ENROLLED.where(identities.c.name == sa.bindparam("whom"))
_IDENTITIES = _ENROLLED.order_by(identities.c.name)
_REPLACE = (
    identities.update()
    .where(
        identities.c.name == sa.bindparam("whom"),
        identities.c.revoked == sa.false(),
        identities.c.certificate == sa.bindparam("before", type_=identities.c.certificate.type),
    )
    .values(certificate=sa.bindparam("after", type_=identities.c.certificate.type))
)
_REVOKED = sa.select(identities.c.name).where(identities.c.revoked == sa.true())
_REVOKE = (
    identities.update()
    .where(identities.c.name == sa.bindparam("whom"), identities.c.revoked == sa.false())
    .values(revoked=True)
)


class DatabaseRegistry:
    """`wardround.ports.Registry` over `connections`; may be shared by threads."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections
        insert = (sqlite.insert if connections.dialect == "sqlite" else postgresql.insert)(identities)
        self._add_identity = insert.on_conflict_do_update(
            index_elements=["name"],
            set_={column: insert.excluded[column] for column in ("role", "certificate", "revoked")},
        )

    def add_invite(self, invite: Digest, name: SiteId, role: Role, expires: float) -> None:
        """Open an invite for one newcomer.

        Raises:
            ConflictError: The same invite exists.
            StorageFullError: The disk is full.
            UnavailableError: The database did not answer.
        """
        with self._connections.writing() as connection:
            connection.execute(_ADD_INVITE, {"digest": invite, "name": name, "role": role, "expires": expires})

    def invited(self, invite: Digest, now: float) -> tuple[SiteId, Role]:
        """Whom an open invite is for.

        Raises:
            InviteError: Unknown, expired, or used.
            UnavailableError: The database did not answer.
        """
        with self._connections.reading() as connection:
            row = connection.execute(_INVITED, {"invite": invite, "now": now}).first()
        if row is None:
            raise InviteError("the invite is unknown, has expired or was used")
        return SiteId(row.name), cast("Role", row.role)

    def enrol(self, invite: Digest, identity: Identity, now: float) -> None:
        """Use up the invite and store the identity that it is for, in one transaction.

        Raises:
            InviteError: Unknown, expired, used, or for another name or role.
            StorageFullError: The disk is full.
            UnavailableError: The database did not answer.
        """
        claim = {"invite": invite, "now": now, "whom": identity.name, "as_role": identity.role}
        with self._connections.writing() as connection:
            if connection.execute(_USE_INVITE, claim).rowcount != 1:
                raise InviteError("the invite is unknown, has expired, was used, or is for another name or role")
            connection.execute(self._add_identity, _row(identity))

    def add_identity(self, identity: Identity) -> None:
        """Store an identity without an invite; it replaces the name's old one.

        Raises:
            StorageFullError: The disk is full.
            UnavailableError: The database did not answer.
        """
        with self._connections.writing() as connection:
            connection.execute(self._add_identity, _row(identity))

    def identity(self, name: SiteId) -> Identity:
        """The enrolled identity.

        Raises:
            NotFoundError: Nobody is enrolled under this name.
            UnavailableError: The database did not answer.
        """
        with self._connections.reading() as connection:
            row = connection.execute(_IDENTITY, {"whom": name}).first()
        if row is None:
            raise NotFoundError("nobody is enrolled under this name")
        return _identity(*row)

    def identities(self) -> list[Identity]:
        """All enrolled identities, by name.

        Raises:
            UnavailableError: The database did not answer.
        """
        with self._connections.reading() as connection:
            return [_identity(*row) for row in connection.execute(_IDENTITIES)]

    def replace(self, identity: Identity, *, before: bytes) -> None:
        """Give an enrolled name another certificate, unless it was revoked or given one meanwhile.

        Raises:
            ConflictError: Its certificate is not `before` any more, or it is not enrolled.
            StorageFullError: The disk is full.
            UnavailableError: The database did not answer.
        """
        values = {"whom": identity.name, "before": before, "after": identity.certificate}
        with self._connections.writing() as connection:
            if connection.execute(_REPLACE, values).rowcount != 1:
                raise ConflictError("the identity was revoked or renewed meanwhile; look again")

    def revoked(self) -> frozenset[SiteId]:
        """Names that were revoked and not enrolled again.

        Raises:
            UnavailableError: The database did not answer.
        """
        with self._connections.reading() as connection:
            return frozenset(SiteId(name) for (name,) in connection.execute(_REVOKED))

    def revoke(self, name: SiteId) -> None:
        """Refuse an identity's requests from now on; its row stays, marked.

        Raises:
            NotFoundError: Nobody is enrolled under this name.
            StorageFullError: The disk is full.
            UnavailableError: The database did not answer.
        """
        with self._connections.writing() as connection:
            if connection.execute(_REVOKE, {"whom": name}).rowcount != 1:
                raise NotFoundError("nobody is enrolled under this name")


def _row(identity: Identity) -> dict[str, object]:
    return {
        "name": identity.name,
        "role": identity.role,
        "certificate": identity.certificate,
        "revoked": False,
    }


def _identity(name: str, role: str, certificate: bytes) -> Identity:
    return Identity(SiteId(name), cast("Role", role), bytes(certificate))
