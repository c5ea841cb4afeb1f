"""The hub's side of secure aggregation: one stream of events per cohort, and what the members are told next.

A cohort is folded from its stream ``cohort:<run>:<round>:<cohort>`` as a run is from its own, so a hub that
was killed in the middle of a cohort carries on with it. The run's stream only says that a
cohort was formed and how it ended.
"""

import threading
from collections.abc import Callable
from contextlib import suppress

import msgspec

from wardround.codec import canonical
from wardround.crypto import signing
from wardround.errors import CodecError, ConflictError, ForbiddenError, LocalProtocolError, PeerProtocolError
from wardround.ids import Digest, RunId, SiteId
from wardround.ports import Blobs, Clock, EventLog
from wardround.protocol import commands
from wardround.protocol.messages import CohortAnswer, CohortTask
from wardround.protocol.plan import BlobRef
from wardround.protocol.run import Phase, Run
from wardround.secagg import cohort as cohorts
from wardround.secagg import opening, terms
from wardround.secagg.cohort import Cohort, CohortEvent, CohortSaid, CohortSealed
from wardround.secagg.messages import Masked
from wardround.secagg.opening import Evidence

__all__ = ["Cohorts"]

_RETRIES = 8
_EVENT: msgspec.json.Decoder[CohortEvent] = msgspec.json.Decoder(CohortEvent)


class Cohorts:
    """All cohorts of one hub. Its methods may be called from several threads.

    `key_of` gives a site's identity key in a roster.
    """

    def __init__(
        self, log: EventLog, blobs: Blobs, clock: Clock, *, key_of: Callable[[Digest, SiteId], signing.PublicKey]
    ) -> None:
        self._log, self._blobs, self._clock, self._key_of = log, blobs, clock, key_of
        self._lock = threading.RLock()
        self._cohorts: dict[RunId, tuple[str, Cohort]] = {}

    def state(self, run: Run) -> Cohort:
        """The run's present or last cohort, begun now if it is not yet.

        Raises:
            LocalProtocolError: The run has none.
        """
        if run.cohort_terms is None or run.terms.secure is None:
            raise LocalProtocolError("the run has no cohort")
        stream = _stream(run)
        with self._lock:
            known = self._cohorts.get(run.terms.run)
            if known is not None and known[0] == stream:
                return known[1]
            if not self._log.read(stream):
                sealed = CohortSealed(
                    at=self._clock.now(), terms=run.cohort_terms, stage_seconds=run.terms.secure.stage_seconds
                )
                # A conflict means that another hub, or this one before it was killed, has begun it.
                with suppress(ConflictError):
                    self._log.append(stream, [canonical.encode(sealed)], after=0)
            return self._load(run)

    def task_for(self, run: Run, site: SiteId) -> CohortTask | None:
        """What `site` is asked to do now for the run's cohort, if anything."""
        if run.phase is not Phase.SECURING or run.cohort_terms is None or site in run.left:
            return None
        step = cohorts.step_for(self.state(run), site)
        if step is None:
            return None
        agreed = run.cohort_terms
        return CohortTask(run=agreed.run, study=agreed.study, number=agreed.number, cohort=run.cohort, step=step)

    def receive(self, run: Run, site: SiteId, said: CohortAnswer) -> bool:
        """Take a member's answer; it is durable when this returns. Tells whether a stage ended by it.

        Raises:
            ForbiddenError: Not a member.
            PeerProtocolError: The run is past this cohort or stage, or the answer does not count.
            CodecError: The masked vector is not of the size that the terms give.
        """
        current = run.round.number if run.round else 0
        if run.phase is not Phase.SECURING or (said.number, said.cohort) != (current, run.cohort):
            raise PeerProtocolError("the run is past this cohort")
        if run.cohort_terms is None or site not in run.cohort_terms.members:
            raise ForbiddenError(f"{site} is not a member of this cohort")
        if isinstance(said.answer, Masked):
            self._stored(run, said.answer, said.inline)
        key = self._key_of(run.cohort_terms.roster, site)
        return self._decide(run, lambda cohort, now: cohorts.receive(cohort, site, said.answer, key, now))

    def tick(self, run: Run, present: frozenset[SiteId]) -> bool:
        """Let time pass in the run's cohort, if it has one; tells whether a stage ended."""
        if run.phase is not Phase.SECURING:
            return False
        return self._decide(
            run, lambda cohort, now: cohorts.expire(cohort, now) or cohorts.absent(cohort, present, now)
        )

    def ended(self, run: Run) -> commands.CohortReady | commands.CohortLost | None:
        """What the run is to be told once its cohort has ended."""
        if run.phase is not Phase.SECURING or run.round is None:
            return None
        cohort = self.state(run)
        number, reason, blamed = run.round.number, cohort.reason, cohort.blamed
        if cohort.stage == "opened":
            found = opening.unmask(cohort)
            if found.culprit is None:
                survivors = tuple(entry.site for entry in cohort.survivors)
                return commands.CohortReady(number, run.cohort, survivors, blamed | found.blamed)
            reason = f"{found.culprit}: {found.blamed[found.culprit]}"
            blamed = blamed | {found.culprit: found.blamed[found.culprit]}
        elif cohort.stage != "failed":
            return None
        return commands.CohortLost(number, run.cohort, reason, blamed)

    def due(self, run: Run) -> float | None:
        """The next instant at which time alone changes something in the run's cohort."""
        return self.state(run).deadline if run.phase is Phase.SECURING else None

    def upload_bytes(self, run: Run, site: SiteId) -> int | None:
        """The size of the masked vector that is awaited from `site`, or None where none is."""
        if run.phase is not Phase.SECURING or run.cohort_terms is None:
            return None
        cohort = self.state(run)
        is_awaited = cohort.stage == "masking" and site in cohorts.awaited(cohort)
        return terms.upload_bytes(run.cohort_terms) if is_awaited else None

    def vectors(self, run: Run) -> list[BlobRef]:
        """The masked vectors that came for the run's present or last cohort."""
        if run.cohort_terms is None or run.phase not in {Phase.SECURING, Phase.COMBINING, Phase.REGROUPING}:
            return []
        size = terms.upload_bytes(run.cohort_terms)
        return [BlobRef(Digest(said.digest.hex()), size) for said in self.state(run).masked.values()]

    def evidence(self, run: RunId, number: int, cohort: int) -> Evidence:
        """A cohort's signed transcript.

        Raises:
            PeerProtocolError: There is no such cohort, or its survivors have not been agreed on.
        """
        stored = self._log.read(f"cohort:{run}:{number}:{cohort}")
        state = cohorts.cohort_of([_EVENT.decode(data) for data in stored]) if stored else None
        if state is None or not state.agreements or state.stage not in {"revealing", "opened"}:
            raise PeerProtocolError("there is no such cohort, or its members have not agreed on its survivors")
        return opening.evidence_of(state)

    def _stored(self, run: Run, masked: Masked, inline: bytes) -> None:
        """Raise unless the masked vector is in the blob store, where inline bytes are put now."""
        expected = terms.upload_bytes(self.state(run).terms)
        digest = Digest(masked.digest.hex())
        if inline:
            if len(inline) != expected or canonical.digest(inline) != digest:
                raise CodecError("the inline vector is not the one that the message names, or not of its size")
            self._blobs.put(inline)
        elif not self._blobs.has(digest) or self._blobs.size(digest) != expected:
            raise PeerProtocolError("the masked vector has not been uploaded, or has another size; upload it first")

    def _decide(self, run: Run, decide: Callable[[Cohort, float], list[CohortEvent]]) -> bool:
        for _ in range(_RETRIES):
            with self._lock:
                cohort = self.state(run)
                new = decide(cohort, self._clock.now())
                if not new:
                    return False
                try:
                    data = [canonical.encode(event) for event in new]
                    self._log.append(_stream(run), data, after=cohort.seq)
                except ConflictError:
                    self._load(run)
                    continue
                except Exception:
                    # Perhaps it was written all the same, and only the answer was lost: read before deciding again.
                    self._cohorts.pop(run.terms.run, None)
                    raise
                for event in new:
                    cohort = cohorts.apply(cohort, event)
                self._cohorts[run.terms.run] = (_stream(run), cohort)
                return not isinstance(new[-1], CohortSaid)
        raise ConflictError("other hubs keep writing to this cohort; try again")

    def _load(self, run: Run) -> Cohort:
        stored = self._log.read(_stream(run))
        state = cohorts.cohort_of([_EVENT.decode(data) for data in stored])
        self._cohorts[run.terms.run] = (_stream(run), state)
        return state


def _stream(run: Run) -> str:
    number = run.round.number if run.round else 0
    return f"cohort:{run.terms.run}:{number}:{run.cohort}"
