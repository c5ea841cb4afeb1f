"""An invite: one line that tells a newcomer where the hub is, how to know it, and that it is expected."""

import base64

import msgspec

from wardround.errors import CodecError, InviteError
from wardround.ids import Digest, SiteId, digest_name, site_id
from wardround.protocol.messages import Role

__all__ = ["Invite", "format_invite", "parse_invite"]

_PREFIX = "wardround-invite-"


class Invite(msgspec.Struct, frozen=True, forbid_unknown_fields=True, array_like=True):
    """For whom, where, the SHA-256 of the hub's CA certificate, and the one-time secret."""

    name: SiteId
    role: Role
    url: str
    authority: Digest
    secret: str


def format_invite(invite: Invite) -> str:
    """One line to hand over on a trusted way."""
    return _PREFIX + base64.urlsafe_b64encode(msgspec.msgpack.encode(invite)).decode().rstrip("=")


def parse_invite(line: str) -> Invite:
    """Read an invite line.

    Raises:
        InviteError: It is none, or was cut or mistyped.
    """
    text = line.strip().removeprefix(_PREFIX)
    try:
        data = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        invite = msgspec.msgpack.decode(data, type=Invite)
        site_id(invite.name)
        digest_name(invite.authority)
    except (ValueError, msgspec.MsgspecError, CodecError):
        raise InviteError("this is no invite: copy the whole line that `wardround hub invite` printed") from None
    return invite
