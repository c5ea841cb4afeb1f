"""The hub's list of logs and witnesses: the keys that sites hand in, in its event log.

The first keys of a site are taken as they come, signed by its request; others after them only with a signature by the
log key before, or once an operator has said that they are to be forgotten. The hub is trusted with none of it: sites
keep the first keys that they see of one another, and follow signed changes only.
"""

import msgspec

from wardround.audit.entry import KeyChange
from wardround.codec import canonical
from wardround.errors import ForbiddenError, NotFoundError
from wardround.ids import SiteId, site_id
from wardround.ports import EventLog
from wardround.protocol import log_messages
from wardround.protocol.log_messages import LogMember
from wardround.services.audit_trail import Recorder

__all__ = ["LogMembers"]


class _Kept(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One entry of a site's stream; none where an operator had the keys forgotten."""

    member: LogMember | None = None


class LogMembers:
    """All members of one hub. `own` is the hub's."""

    def __init__(self, log: EventLog, recorder: Recorder, own: LogMember) -> None:
        self._log, self._recorder, self.own = log, recorder, own

    def put(self, site: SiteId, member: LogMember) -> None:
        """Take a site's keys; the same again is no change.

        Raises:
            ForbiddenError: Another site's, or the hub's name.
            SignatureError: They are others than before, and not signed by the key before.
            CodecError: They are no proper keys.
        """
        if member.site != site or site == log_messages.HUB:
            raise ForbiddenError(f"{site} may not hand in the log keys of {member.site}")
        log_messages.keys_of(member)
        stored = self._log.read(_stream(site))
        before = canonical.decode(stored[-1], _Kept).member if stored else None
        if before == member:
            return
        if before is not None:
            log_messages.check_change(before, member)
        change = KeyChange("issued" if before is None else "rotated", _digest(member), "log", holder=site)
        self._recorder.record(change)
        self._log.append(_stream(site), [canonical.encode(_Kept(member))], after=len(stored))

    def forget(self, site: SiteId) -> None:
        """Forget a site's keys, as its operator says, so that it can hand in others; sites that knew them keep them.

        Raises:
            NotFoundError: There are none.
        """
        stored = self._log.read(_stream(site_id(site)))
        before = canonical.decode(stored[-1], _Kept).member if stored else None
        if before is None:
            raise NotFoundError(f"{site} has handed in no log keys")
        self._recorder.record(KeyChange("revoked", _digest(before), "log", holder=site))
        self._log.append(_stream(site), [canonical.encode(_Kept())], after=len(stored))

    def all(self) -> list[LogMember]:
        """The hub's own keys and those of every site, by name."""
        found = [self.own]
        for stream in self._log.streams("log-member:"):
            member = canonical.decode(self._log.read(stream)[-1], _Kept).member
            if member is not None:
                found.append(member)
        return found


def _stream(site: SiteId) -> str:
    return f"log-member:{site}"


def _digest(member: LogMember) -> str:
    keys, _ = log_messages.keys_of(member)
    return canonical.digest(keys[0].public)
