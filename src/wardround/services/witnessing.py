"""Witnesses of logs, and logs that are witnessed, where nodes only dial out and the hub is everybody's mailbox.

    log's keeper    WitnessedLog.request_for(witness)  ─▶ add-checkpoint request ─▶ Mailbox ─▶ the witness asks for it
    witness         Witness.add_checkpoint(request)    ─▶ cosignatures, or the size it saw last
    log's keeper    WitnessedLog.take(witness, answer) ◀─ Mailbox

A witness keeps, for each log, the last checkpoint that it cosigned, and stores the next one before it answers; so it
never signs a fork, whatever happens to it between. A rollback or a fork is refused, and both signed checkpoints stay as
evidence. A checkpoint that waits for witnesses is held until it has enough or grows old: cosignatures of different
checkpoints do not add up.

References:
    C2SP tlog-witness. https://c2sp.org/tlog-witness
"""

import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Final, Literal, TypeVar

from wardround.audit import checkpoint as checkpoints
from wardround.audit import merkle, tile, witness_policy, witness_request
from wardround.audit import note as notes
from wardround.audit.checkpoint import SignedCheckpoint
from wardround.audit.note import NoteSigner, VerifierKey
from wardround.audit.verification import WITNESSED
from wardround.audit.witness_policy import WitnessPolicy
from wardround.audit.witness_request import ForkEvidence, WitnessAnswer, WitnessRequest
from wardround.codec import canonical
from wardround.errors import AuditError, CodecError, ConflictError, NotFoundError, PeerProtocolError
from wardround.ids import SiteId
from wardround.ports import AuditLog, Clock, Vault

__all__ = ["Mailbox", "Witness", "WitnessedLog"]

_Offence = Literal["fork", "rollback", "unproven"]
_Letter = TypeVar("_Letter", bytes, WitnessAnswer)

_MAX_EVIDENCE: Final = 64
_MAX_WAITING: Final = 512


class Witness:
    """A site that watches logs; threads share it, and one process holds its vault.

    Args:
        signers: The witness's keys, Ed25519 (4) and ML-DSA-44 (6): both sign.
        vault: Where the last checkpoint of each log, and evidence, are kept.
        clock: For the time in cosignatures.
        logs: The keys of the logs that are watched, by origin.
    """

    def __init__(
        self, signers: Sequence[NoteSigner], vault: Vault, clock: Clock, logs: Mapping[str, Sequence[VerifierKey]]
    ) -> None:
        self._signers, self._vault, self._clock, self._logs = tuple(signers), vault, clock, dict(logs)
        self._lock = threading.Lock()

    def add_checkpoint(self, request: bytes) -> WitnessAnswer:
        """Verify that a log only grew, remember it, and cosign.

        Raises:
            AuditError: The log was rolled back, forked, did not prove that it grew, or did not sign this.
            CodecError: This is no request.
            NotFoundError: The log is not watched here.
            StorageFullError: The checkpoint could not be remembered, so it is not signed.
        """
        read = witness_request.parse_request(request)
        signed = checkpoints.parse(read.checkpoint)
        shown = signed.checkpoint
        if shown.origin not in self._logs:
            raise NotFoundError("this log is not watched here: configure its keys first")
        witness_policy.check_log(signed, self._logs[shown.origin], origin=shown.origin)
        if read.old > shown.size:
            raise CodecError(f"the old size, {read.old}, is larger than the checkpoint's, {shown.size}")
        with self._lock:
            seen = self.last_seen(shown.origin)
            if seen is not None and shown.size < seen.checkpoint.size:
                raise self._refusal("rollback", seen, signed)
            if seen is not None and shown.size == seen.checkpoint.size and shown.root != seen.checkpoint.root:
                raise self._refusal("fork", seen, signed)
            size = 0 if seen is None else seen.checkpoint.size
            if read.old != size:
                return WitnessAnswer("stale", f"{size}\n".encode())
            root = merkle.EMPTY_ROOT if seen is None else seen.checkpoint.root
            try:
                merkle.check_consistency(size, root, shown.size, shown.root, read.proof)
            except AuditError:
                raise (
                    self._refusal("unproven", seen, signed) if seen else AuditError("a proof without need")
                ) from None
            if seen is None or seen.checkpoint != shown:
                self._vault.put(_seen_name(shown.origin), read.checkpoint)
            now = max(0, int(self._clock.now()))
            lines = "".join(checkpoints.sign(shown, signer, now=now) for signer in self._signers)
        return WitnessAnswer("cosigned", lines.encode())

    def last_seen(self, origin: str) -> SignedCheckpoint | None:
        """The newest checkpoint of a log that was cosigned here.

        Raises:
            CryptoError: What was remembered was altered.
        """
        data = self._vault.get(_seen_name(origin))
        return None if data is None else checkpoints.parse(data)

    def evidence(self) -> list[ForkEvidence]:
        """What was kept of logs that lied, or failed to show that they did not: by kind, the oldest first."""
        found = [self._vault.get(name) for name in self._vault.names("audit/evidence/")]
        return [canonical.decode(data, ForkEvidence) for data in found if data is not None]

    def _refusal(self, kind: _Offence, seen: SignedCheckpoint, shown: SignedCheckpoint) -> AuditError:
        origin, before, after = seen.checkpoint.origin, seen.checkpoint.size, shown.checkpoint.size
        evidence = ForkEvidence(kind, origin, _bytes(seen), _bytes(shown), max(0, int(self._clock.now())))
        # Signatures differ from one time to the next; what was signed is what makes a piece of evidence new.
        name = canonical.digest((seen.note.text + shown.note.text).encode())
        held = self._vault.names(f"audit/evidence/{kind}/")
        # The first pieces of each kind are kept: a liar must not be able to push them out with more lies.
        if len(held) < _MAX_EVIDENCE and not any(place.endswith(name) for place in held):
            with suppress(ConflictError):
                self._vault.add(f"audit/evidence/{kind}/{len(held):04}-{name}", canonical.encode(evidence))
        words = {
            "rollback": f"it shows {after} entries and had {before}",
            "fork": f"it signed two different logs of {before} entries",
            "unproven": f"it does not show that its {after} entries begin with the {before} that it had",
        }[kind]
        return AuditError(f"the log {origin!r} is refused, {words}; both checkpoints are kept as evidence")


class WitnessedLog:
    """The keeper's side: asks witnesses about its own log and collects what they sign; threads share it.

    Args:
        log: The log.
        policy: The witnesses, and how many of them it takes.
        clock: For how long a checkpoint waits.
        patience_seconds: After which a newer checkpoint replaces one that has not enough witnesses.
    """

    def __init__(self, log: AuditLog, policy: WitnessPolicy, clock: Clock, *, patience_seconds: float = 300.0) -> None:
        self._log, self._policy, self._clock, self._patience = log, policy, clock, patience_seconds
        self._lock = threading.Lock()
        self._candidate: SignedCheckpoint | None = None
        self._since = 0.0
        self._lines: dict[str, str] = {}
        self._sizes: dict[str, int] = {}
        self._answered: set[str] = set()

    @property
    def policy(self) -> WitnessPolicy:
        """Who has to have signed."""
        return self._policy

    def witnessed(self) -> SignedCheckpoint | None:
        """The newest checkpoint that had enough witnesses."""
        data = self._log.file(WITNESSED)
        return None if data is None else checkpoints.parse(data)

    def request_for(self, witness: str) -> bytes | None:
        """What to ask `witness`, a member of the policy's quorum; None where there is nothing new to sign.

        Raises:
            AuditError: The log is not whole.
            NotFoundError: Nobody of this name witnesses the log.
        """
        self._check_member(witness)
        with self._lock:
            candidate = self._choose()
            if candidate is None or witness in self._answered:
                return None
            size = candidate.checkpoint.size
            old = self._sizes.get(witness, 0)
            if old > size:
                return None
            proof = merkle.consistency_proof(old, size, tile.subtree_reader(self._log.file, size))
        return witness_request.format_request(WitnessRequest(old, tuple(proof), _bytes(candidate)))

    def take(self, witness: str, answer: WitnessAnswer) -> bool:
        """Take a witness's answer; whether the checkpoint has enough witnesses now.

        Raises:
            AuditError: It holds no cosignature of this witness that fits.
            CodecError: It cannot be read.
            NotFoundError: Nobody of this name witnesses the log.
        """
        keys = self._check_member(witness)
        if answer.outcome == "stale":
            with self._lock:
                self._sizes[witness] = checkpoints.decimal(answer.body.decode("ascii", "replace").removesuffix("\n"))
            return False
        try:
            lines = notes.parse_signatures(answer.body.decode())
        except UnicodeDecodeError:
            raise CodecError("cosignatures are UTF-8") from None
        with self._lock:
            candidate = self._candidate
            if candidate is None:
                return False
            given = SignedCheckpoint(candidate.checkpoint, notes.Note(candidate.note.text, lines))
            # Only lines by the keys of this witness are taken over, and all of its keys have to have signed.
            for key in keys:
                witness_policy.check_log(given, [key], origin=None)
            self._lines |= {
                str(key): "".join(str(line) for line in list(notes.signatures_of(given.note, key))[:1]) for key in keys
            }
            self._answered.add(witness)
            self._sizes[witness] = candidate.checkpoint.size
            return self._settle(candidate)

    def _settle(self, candidate: SignedCheckpoint) -> bool:
        own = [str(line) for line in candidate.note.signatures]
        data = checkpoints.join(candidate.note.text, [*own, *self._lines.values()])
        if not witness_policy.is_quorum(witness_policy.cosigners(checkpoints.parse(data), self._policy), self._policy):
            return False
        self._log.keep_witnessed(data)
        return True

    def _choose(self) -> SignedCheckpoint | None:
        """The checkpoint that waits for witnesses, or a newer one where it is done or has waited too long."""
        now = self._clock.now()
        newest = checkpoints.parse(self._log.publish())
        current = self._candidate
        if current is not None and current.checkpoint.size < newest.checkpoint.size:
            witnessed = self.witnessed()
            is_done = witnessed is not None and witnessed.checkpoint.size >= current.checkpoint.size
            # A clock that was set back must not hold a checkpoint for ever.
            if is_done or not 0 <= now - self._since < self._patience:
                current = None
        if current is None and newest.checkpoint.size > 0:
            # The log's own lines only: what witnesses signed before is not passed from one to the next.
            own = tuple(line for key in self._policy.logs for line in notes.signatures_of(newest.note, key))
            current = SignedCheckpoint(newest.checkpoint, notes.Note(newest.note.text, own))
            self._lines, self._answered, self._since = {}, set(), now
        self._candidate = current
        return current

    def _check_member(self, witness: str) -> list[VerifierKey]:
        inside, _ = witness_policy.members(self._policy)
        if witness not in inside:
            raise NotFoundError(f"nobody named {witness!r} witnesses this log")
        group = self._policy.groups.get(witness)
        names = (witness,) if group is None else group.members
        return [self._policy.witnesses[name] for name in names if name in self._policy.witnesses]


class Mailbox:
    """The hub's letter boxes between logs' keepers and witnesses; it holds bytes, and is trusted with nothing.

    Letters are kept in memory, the newest for each pair: who gets no answer asks again.
    """

    def __init__(self, members: frozenset[SiteId] | None = None) -> None:
        self._members = members
        self._lock = threading.Lock()
        self._requests: dict[SiteId, dict[SiteId, bytes]] = {}
        self._answers: dict[SiteId, dict[SiteId, WitnessAnswer]] = {}

    def ask(self, keeper: SiteId, witness: SiteId, request: bytes) -> None:
        """Put a keeper's request into a witness's box.

        Raises:
            CodecError: It is too large to be one.
            NotFoundError: There is no such witness.
            PeerProtocolError: The box is full.
        """
        if len(request) > notes.MAX_NOTE_BYTES:
            raise CodecError(f"a request may have {notes.MAX_NOTE_BYTES} bytes, this has {len(request)}")
        self._put(self._requests, witness, keeper, request)

    def requests(self, witness: SiteId) -> dict[SiteId, bytes]:
        """What a witness is asked, by keeper; it stays until it is answered."""
        with self._lock:
            return dict(self._requests.get(witness, {}))

    def answer(self, witness: SiteId, keeper: SiteId, answer: WitnessAnswer) -> None:
        """Take a witness's answer to a keeper's request.

        Raises:
            CodecError: It is too large to be one.
            NotFoundError: Nothing was asked.
        """
        if len(answer.body) > notes.MAX_NOTE_BYTES:
            raise CodecError(f"an answer may have {notes.MAX_NOTE_BYTES} bytes, this has {len(answer.body)}")
        with self._lock:
            if self._requests.get(witness, {}).pop(keeper, None) is None:
                raise NotFoundError("nothing was asked that this would answer")
        self._put(self._answers, keeper, witness, answer)

    def answers(self, keeper: SiteId) -> dict[SiteId, WitnessAnswer]:
        """The answers to a keeper, by witness; they are taken out."""
        with self._lock:
            return self._answers.pop(keeper, {})

    def _put(self, boxes: dict[SiteId, dict[SiteId, _Letter]], to: SiteId, sender: SiteId, letter: _Letter) -> None:
        with self._lock:
            if self._members is not None and to not in self._members:
                raise NotFoundError(f"there is no letter box for {to}")
            box = boxes.setdefault(to, {})
            if sender not in box and len(box) >= _MAX_WAITING:
                raise PeerProtocolError(f"the letter box of {to} is full")
            box[sender] = letter


def _seen_name(origin: str) -> str:
    return f"audit/seen/{canonical.digest(origin.encode())}"


def _bytes(signed: SignedCheckpoint) -> bytes:
    return checkpoints.join(signed.note.text, [str(line) for line in signed.note.signatures])
