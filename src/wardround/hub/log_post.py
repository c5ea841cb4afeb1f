"""The hub's audit log with its witnesses, and the letter boxes of all others.

The hub puts no letters of its own into the boxes: what it asks a witness is made when that witness looks, and its
answer is taken at once.
"""

import threading
from collections.abc import Callable

from wardround.audit import witness_policy
from wardround.audit.witness_policy import WitnessPolicy
from wardround.audit.witness_request import WitnessAnswer
from wardround.errors import ForbiddenError, NotFoundError
from wardround.ids import SiteId
from wardround.ports import Clock
from wardround.protocol import log_messages
from wardround.protocol.log_messages import LogAnswer, LogLetter, LogMember
from wardround.services.log_members import LogMembers
from wardround.services.witnessing import Mailbox, WitnessedLog
from wardround.storage.tile_log import TileLog

__all__ = ["LogPost"]


class LogPost:
    """The hub's log, its witnesses, and the letter boxes; threads share it. `revoked` are names that count no more."""

    def __init__(
        self, log: TileLog, members: LogMembers, clock: Clock, revoked: Callable[[], frozenset[SiteId]]
    ) -> None:
        self.log, self.members, self.boxes = log, members, Mailbox()
        self._clock, self._revoked = clock, revoked
        self._lock = threading.Lock()
        self._witnessed: WitnessedLog | None = None

    def requests(self, witness: SiteId) -> dict[SiteId, bytes]:
        """What a site is asked to sign: by other sites, and by the hub.

        Raises:
            AuditError: The hub's log is not whole.
        """
        found = self.boxes.requests(witness)
        try:
            own = self._current().request_for(witness)
        except NotFoundError:
            return found  # It has handed in no witness keys.
        return found if own is None else found | {log_messages.HUB: own}

    def ask(self, keeper: SiteId, letter: LogLetter) -> None:
        """Pass a site's request on.

        Raises:
            NotFoundError: There is no such witness.
            PeerProtocolError: Its letter box is full.
            ForbiddenError: A site asks itself.
        """
        if letter.to == keeper:
            raise ForbiddenError("a site is no witness of its own log")
        if letter.to not in self._witnesses():
            raise NotFoundError(f"{letter.to} is no witness here")
        self.boxes.ask(keeper, letter.to, letter.request)

    def answer(self, witness: SiteId, said: LogAnswer) -> None:
        """Take a witness's answer.

        Raises:
            NotFoundError: Nothing was asked.
            AuditError: It holds no cosignature of this witness over what the hub's log asked for.
        """
        answer = WitnessAnswer(said.outcome, said.body)
        if said.keeper == log_messages.HUB:
            self._current().take(witness, answer)
        else:
            self.boxes.answer(witness, said.keeper, answer)

    def answers(self, keeper: SiteId) -> list[tuple[SiteId, LogAnswer]]:
        """The answers to a site, by witness; they are given once."""
        found = self.boxes.answers(keeper)
        return [(name, LogAnswer(keeper, answer.outcome, answer.body)) for name, answer in found.items()]

    def _witnesses(self) -> dict[SiteId, LogMember]:
        gone = self._revoked()
        return {one.site: one for one in self.members.all() if one.witness and one.site not in gone}

    def _policy(self) -> WitnessPolicy:
        own, _ = log_messages.keys_of(self.members.own)
        hospitals = {str(name): log_messages.keys_of(one)[1] for name, one in sorted(self._witnesses().items())}
        return witness_policy.log_policy(own, hospitals)

    def _current(self) -> WitnessedLog:
        """The log with the witnesses that there are now; whoever joins or goes changes who has to sign."""
        with self._lock:
            policy = self._policy()
            if self._witnessed is None or self._witnessed.policy != policy:
                self.log.keep_policy(policy)
                self._witnessed = WitnessedLog(self.log, policy, self._clock)
            return self._witnessed
