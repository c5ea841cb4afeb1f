"""Enrolment from the newcomer's side: the key is made here, only the certificate request travels."""

from dataclasses import dataclass

from wardround.crypto import certificate, signing
from wardround.errors import InviteError
from wardround.ids import SiteId
from wardround.protocol.invite import parse_invite
from wardround.protocol.messages import Enrolled, Enrolment, Role
from wardround.transport import connection, renewing

__all__ = ["Newcomer", "enrol"]


@dataclass(frozen=True, slots=True, repr=False)
class Newcomer:
    """An enrolled identity with its new private keys.

    `key` signs documents, `connection` opens connections. `url` is where it works, `public` where it renews.
    """

    name: SiteId
    url: str
    public: str
    key: signing.PrivateKey
    certificate: bytes
    connection: signing.PrivateKey
    enrolled: Enrolled
    authority: bytes


def enrol(line: str, *, role: Role, key: signing.PrivateKey | None = None, name: str = "") -> Newcomer:
    """Use an invite. With `key` and `name` it is that identity once more, and goes on signing with its key.

    Raises:
        InviteError: No invite, or unknown, expired, used, or for another role.
        CryptoError: The hub is not the one that the invite names, or signed something else than was asked for.
        UnavailableError: The hub did not answer.
    """
    invite = parse_invite(line)
    if invite.role != role:
        raise InviteError(f"this invite is for a {invite.role}, not for a {role}; it has not been used up")
    if name and invite.name != name:
        raise InviteError(f"this invite is for {invite.name}, not for {name}; it has not been used up")
    authority = connection.fetch_authority(invite.url, invite.authority)
    key, opening = key or signing.generate(), signing.generate()
    request, document = (certificate.request(invite.name, one) for one in (opening, key))
    enrolled = connection.enrol(invite.url, authority, Enrolment(invite.secret, request, document))
    renewing.check(enrolled, invite.name, opening, authority)
    return Newcomer(
        invite.name,
        enrolled.url or invite.url,
        invite.url,
        key,
        enrolled.document,
        opening,
        enrolled,
        authority,
    )
