"""The hub's addresses about audit logs, for a node that witnesses: keys, letters and answers."""

from collections.abc import Callable

from wardround.ids import SiteId
from wardround.protocol import messages
from wardround.protocol.log_messages import LogAnswer, LogLetter, LogMember

__all__ = ["LogClient"]


class LogClient:
    """Fills `wardround.node.witnessing.LogHub` over `call`, which is `wardround.transport.http.HttpHub.call`.

    Every method raises `UnavailableError` where the hub does not answer, and whatever error it answers with.
    """

    def __init__(self, call: Callable[[str, str, bytes], bytes]) -> None:
        self._call = call

    def log_members(self) -> list[LogMember]:
        """Everybody's log and witness keys, as the hub says."""
        return messages.decode(self._call("GET", "/v1/log/members", b""), list[LogMember])

    def put_log_member(self, member: LogMember) -> None:
        """Hand in this site's log and witness keys."""
        self._call("POST", "/v1/log/members", messages.encode(member))

    def log_requests(self) -> dict[SiteId, bytes]:
        """What this site is asked to sign as a witness, by keeper."""
        return messages.decode(self._call("GET", "/v1/log/requests", b""), dict[SiteId, bytes])

    def ask_witness(self, letter: LogLetter) -> None:
        """Ask a site to sign for this one's log."""
        self._call("POST", "/v1/log/requests", messages.encode(letter))

    def cosign(self, answer: LogAnswer) -> None:
        """Answer a keeper as its witness."""
        self._call("POST", "/v1/log/cosignatures", messages.encode(answer))

    def log_answers(self) -> list[tuple[SiteId, LogAnswer]]:
        """The answers of witnesses to this site; each is given once."""
        return messages.decode(self._call("GET", "/v1/log/answers", b""), list[tuple[SiteId, LogAnswer]])
