"""A node's part in watching logs: beside its runs, it signs for others' logs, and has its own signed by them.

Every so often, in a thread of its own:

1. The hub's list of keys is read. The first keys that are seen of a site are kept in the vault; others count only with
   a signature by those before, so that the hub cannot put other keys under a name that is known.
2. What this site is asked to sign is verified against what it remembers, remembered, and signed. A log that forked or
   was rolled back is refused, kept as evidence, recorded, and shouted into the node's log.
3. The answers of the other sites to its own log are taken, and those that have not signed are asked.

Nothing here blocks a run, and nothing that goes well is recorded: otherwise every look would be something to sign.
"""

import threading
from typing import Final, Protocol

import structlog

from wardround.audit import note, witness_policy
from wardround.audit.entry import PeerRefused
from wardround.audit.witness_request import WitnessAnswer
from wardround.auditing import Auditing
from wardround.codec import canonical
from wardround.errors import AuditError, CodecError, CryptoError, NotFoundError, PeerProtocolError, WardroundError
from wardround.ids import SiteId
from wardround.ports import Vault
from wardround.protocol import log_messages
from wardround.protocol.log_messages import LogAnswer, LogLetter, LogMember
from wardround.services.witnessing import Witness, WitnessedLog
from wardround.system import SystemClock

__all__ = ["LogHub", "Witnessing"]

_MOST_MEMBERS: Final = 256
_log = structlog.get_logger("wardround.node")


class LogHub(Protocol):
    """What is needed of `wardround.transport.log_client.LogClient`."""

    def log_members(self) -> list[LogMember]:
        """Everybody's log and witness keys, as the hub says."""
        ...

    def put_log_member(self, member: LogMember) -> None:
        """Hand in one's own."""
        ...

    def log_requests(self) -> dict[SiteId, bytes]:
        """What one is asked to sign, by keeper."""
        ...

    def ask_witness(self, letter: LogLetter) -> None:
        """Ask a site to sign."""
        ...

    def cosign(self, answer: LogAnswer) -> None:
        """Answer a keeper."""
        ...

    def log_answers(self) -> list[tuple[SiteId, LogAnswer]]:
        """The answers to one's own requests, by witness."""
        ...


class Witnessing:
    """Looks every `seconds`, from `start` to `stop`; `once` looks now. `auditing` must be serving."""

    def __init__(self, name: SiteId, hub: LogHub, vault: Vault, auditing: Auditing, *, seconds: float) -> None:
        self._name, self._hub, self._vault, self._auditing = name, hub, vault, auditing
        self._seconds = seconds
        self._clock = SystemClock()
        self._own: WitnessedLog | None = None
        self._stop = threading.Event()

    def start(self) -> None:
        """Begin looking."""
        threading.Thread(target=self._run, daemon=True, name="witnessing").start()

    def stop(self) -> None:
        """Look no more."""
        self._stop.set()

    def once(self) -> None:
        """Look once.

        Raises:
            UnavailableError: The hub did not answer.
            CryptoError: The hub's list of keys is not the one that it was.
        """
        members = self._known(self._hub.log_members())
        self._join(members)
        others = {name: one for name, one in members.items() if name != self._name}
        self._witness(others)
        self._keep(others)

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self.once()
            except WardroundError as error:
                _log.info("witnessing will be tried again", code=error.code, reason=str(error))
            except Exception:  # noqa: BLE001
                # The thread's main loop: whatever goes wrong once must not end the watch.
                _log.exception("witnessing failed")
            self._stop.wait(self._seconds)

    def _known(self, told: list[LogMember]) -> dict[SiteId, LogMember]:
        """The members as this site has known them first, with what they changed under their own signature since."""
        found: dict[SiteId, LogMember] = {}
        for member in told[:_MOST_MEMBERS]:
            if member.site == self._name:
                found[member.site] = member  # Its own keys a site knows from its files: see `_join`.
                continue
            place = f"audit/member/{member.site}"
            kept = self._vault.get(place)
            try:
                log_messages.keys_of(member)
                before = None if kept is None else canonical.decode(kept, LogMember)
                if before is not None and before != member:
                    log_messages.check_change(before, member)
            except (CodecError, CryptoError) as error:
                self._shout(member.site, error, canonical.digest(canonical.encode(member)))
                if kept is not None:
                    found[member.site] = canonical.decode(kept, LogMember)
                continue
            if before != member:
                self._vault.put(place, canonical.encode(member))
            found[member.site] = member
        return found

    def _join(self, members: dict[SiteId, LogMember]) -> None:
        """Hand in this site's own keys where the hub has none; say so where it has others."""
        log, witness = self._auditing.signers(), self._auditing.witness_signers()
        keys = [tuple(str(signer.key) for signer in signers) for signers in (log, witness)]
        told = members.get(self._name)
        if told is None:
            self._hub.put_log_member(LogMember(site=self._name, log=keys[0], witness=keys[1]))
        elif (told.log, told.witness) != (keys[0], keys[1]):
            _log.error("the hub has other log keys of this site: see wardround hub forget-log", site=self._name)

    def _witness(self, others: dict[SiteId, LogMember]) -> None:
        logs: dict[str, tuple[note.VerifierKey, ...]] = {}
        for member in others.values():
            keys, _ = log_messages.keys_of(member)
            logs[keys[0].name] = keys
        witness = Witness(self._auditing.witness_signers(), self._vault, self._clock, logs)
        for keeper, request in self._hub.log_requests().items():
            try:
                answer = witness.add_checkpoint(request)
                self._hub.cosign(LogAnswer(keeper, answer.outcome, answer.body))
            except AuditError as error:
                self._shout(keeper, error, canonical.digest(request.partition(b"\n\n")[2]))
            except (NotFoundError, PeerProtocolError, CodecError) as error:
                _log.info("a request to witness was not answered", site=keeper, code=error.code, reason=str(error))

    def _keep(self, others: dict[SiteId, LogMember]) -> None:
        hospitals = {str(name): log_messages.keys_of(one)[1] for name, one in sorted(others.items()) if one.witness}
        policy = witness_policy.log_policy([signer.key for signer in self._auditing.signers()], hospitals)
        if self._own is None or self._own.policy != policy:
            self._auditing.log.keep_policy(policy)
            self._own = WitnessedLog(self._auditing.log, policy, self._clock)
        for witness, answer in self._hub.log_answers():
            try:
                self._own.take(witness, WitnessAnswer(answer.outcome, answer.body))
            except (NotFoundError, AuditError, CodecError) as error:
                _log.warning("a witness's answer does not count", site=witness, reason=str(error))
        for name in hospitals:
            request = self._own.request_for(name)
            if request is not None:
                try:
                    self._hub.ask_witness(LogLetter(SiteId(name), request))
                except PeerProtocolError as error:
                    _log.info("a witness could not be asked", site=name, reason=str(error))

    def _shout(self, peer: SiteId, error: WardroundError, evidence: str) -> None:
        """Record a peer's lie, once, and tell the site's people each time."""
        _log.error("a log is not what it was: tell the site's security officer", site=peer, reason=str(error))
        place = f"audit/refused/{evidence}"
        if self._vault.get(place) is None:
            self._auditing.record(PeerRefused(peer, error.code, evidence))
            self._vault.put(place, peer.encode())
