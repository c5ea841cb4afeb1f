"""Enrolment from the newcomer's side: the key is made here, only the certificate request travels."""

from dataclasses import dataclass

from wardround.crypto import certificate, signing
from wardround.errors import InviteError
from wardround.ids import SiteId
from wardround.protocol.invite import parse_invite
from wardround.protocol.messages import Enrolment, Role
from wardround.transport import connection

__all__ = ["Newcomer", "enrol"]


@dataclass(frozen=True, slots=True, repr=False)
class Newcomer:
    """An enrolled identity with its new private key."""

    name: SiteId
    url: str
    key: signing.PrivateKey
    certificate: bytes
    authority: bytes


def enrol(line: str, *, role: Role) -> Newcomer:
    """Use an invite.

    Raises:
        InviteError: No invite, or unknown, expired, used, or for another role.
        CryptoError: The hub is not the one that the invite names.
        UnavailableError: The hub did not answer.
    """
    invite = parse_invite(line)
    if invite.role != role:
        raise InviteError(f"this invite is for a {invite.role}, not for a {role}; it has not been used up")
    authority = connection.fetch_authority(invite.url, invite.authority)
    key = signing.generate()
    request = certificate.request(invite.name, key)
    enrolled = connection.enrol(invite.url, authority, Enrolment(invite.secret, request))
    return Newcomer(invite.name, invite.url, key, enrolled.certificate, authority)
