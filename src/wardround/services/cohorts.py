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
from wardround.secagg.terms import Terms

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
        self._cohorts: dict[RunId, dict[str, Cohort]] = {}

    def state(self, run: Run, cohort: int) -> Cohort:
        """One of the run's present or last cohorts, begun now if it is not yet.

        Raises:
            LocalProtocolError: The run has no such cohort.
        """
        if cohort not in run.groups or run.terms.secure is None:
            raise LocalProtocolError("the run has no such cohort")
        stream = _stream(run, cohort)
        with self._lock:
            known = self._cohorts.get(run.terms.run, {}).get(stream)
            if known is not None:
                return known
            if not self._log.read(stream):
                sealed = CohortSealed(
                    at=self._clock.now(),
                    terms=run.groups[cohort].terms,
                    stage_seconds=run.terms.secure.stage_seconds,
                )
                # A conflict means that another hub, or this one before it was killed, has begun it.
                with suppress(ConflictError):
                    self._log.append(stream, [canonical.encode(sealed)], after=0)
            return self._load(run, cohort)

    def states(self, run: Run) -> list[Cohort]:
        """The run's opened cohorts, in order."""
        return [self.state(run, cohort) for cohort, group in sorted(run.groups.items()) if group.survivors]

    def stages(self, run: Run) -> str:
        """What tells the present steps of the run's cohorts from all others."""
        return "/".join(f"{cohort}:{self.state(run, cohort).stage}" for cohort in run.open_groups)

    def task_for(self, run: Run, site: SiteId) -> CohortTask | None:
        """What `site` is asked to do now for its cohort, if anything."""
        cohort = None if site in run.left else _cohort_of(run, site)
        step = cohorts.step_for(self.state(run, cohort), site) if cohort is not None else None
        if cohort is None or step is None:
            return None
        agreed = run.groups[cohort].terms
        return CohortTask(run=agreed.run, study=agreed.study, number=agreed.number, cohort=cohort, step=step)

    def receive(self, run: Run, site: SiteId, said: CohortAnswer) -> bool:
        """Take a member's answer; it is durable when this returns. Tells whether a stage ended by it.

        Raises:
            ForbiddenError: Not a member.
            PeerProtocolError: The run is past this cohort or stage, or the answer does not count.
            CodecError: The masked vector is not of the size that the terms give.
        """
        current = run.round.number if run.round else 0
        if said.number != current or said.cohort not in run.open_groups:
            raise PeerProtocolError("the run is past this cohort")
        agreed = run.groups[said.cohort].terms
        if site not in agreed.members:
            raise ForbiddenError(f"{site} is not a member of this cohort")
        if isinstance(said.answer, Masked):
            self._stored(agreed, said.answer, said.inline)
        key = self._key_of(agreed.roster, site)
        return self._decide(run, said.cohort, lambda cohort, now: cohorts.receive(cohort, site, said.answer, key, now))

    def tick(self, run: Run, present: frozenset[SiteId]) -> bool:
        """Let time pass in the run's cohorts, if it has any; tells whether a stage ended."""
        ended = [
            self._decide(
                run, each, lambda cohort, now: cohorts.expire(cohort, now) or cohorts.absent(cohort, present, now)
            )
            for each in run.open_groups
        ]
        return any(ended)

    def ended(self, run: Run) -> commands.CohortReady | commands.CohortLost | None:
        """What the run is to be told, once one of its cohorts has ended."""
        number = run.round.number if run.round else 0
        for each in run.open_groups:
            cohort = self.state(run, each)
            reason, blamed = cohort.reason, cohort.blamed
            if cohort.stage == "opened":
                found = opening.unmask(cohort)
                if found.culprit is None:
                    survivors = tuple(entry.site for entry in cohort.survivors)
                    return commands.CohortReady(number, each, survivors, blamed | found.blamed)
                reason = f"{found.culprit}: {found.blamed[found.culprit]}"
                blamed = blamed | {found.culprit: found.blamed[found.culprit]}
            elif cohort.stage != "failed":
                continue
            return commands.CohortLost(number, each, reason, blamed)
        return None

    def due(self, run: Run) -> float | None:
        """The next instant at which time alone changes something in the run's cohorts."""
        instants = [self.state(run, cohort).deadline for cohort in run.open_groups]
        return min((instant for instant in instants if instant is not None), default=None)

    def upload_bytes(self, run: Run, site: SiteId) -> int | None:
        """The size of the masked vector that is awaited from `site`, or None where none is."""
        number = _cohort_of(run, site)
        if number is None:
            return None
        cohort = self.state(run, number)
        is_awaited = cohort.stage == "masking" and site in cohorts.awaited(cohort)
        return terms.upload_bytes(cohort.terms) if is_awaited else None

    def vectors(self, run: Run) -> list[BlobRef]:
        """The masked vectors that came for the run's present or last cohorts."""
        if run.phase not in {Phase.SECURING, Phase.COMBINING, Phase.REGROUPING}:
            return []
        states = [self.state(run, cohort) for cohort in run.groups]
        return [
            BlobRef(Digest(said.digest.hex()), terms.upload_bytes(state.terms))
            for state in states
            for said in state.masked.values()
        ]

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

    def _stored(self, agreed: Terms, masked: Masked, inline: bytes) -> None:
        """Raise unless the masked vector is in the blob store, where inline bytes are put now."""
        expected = terms.upload_bytes(agreed)
        digest = Digest(masked.digest.hex())
        if inline:
            if len(inline) != expected or canonical.digest(inline) != digest:
                raise CodecError("the inline vector is not the one that the message names, or not of its size")
            self._blobs.put(inline)
        elif not self._blobs.has(digest) or self._blobs.size(digest) != expected:
            raise PeerProtocolError("the masked vector has not been uploaded, or has another size; upload it first")

    def _decide(self, run: Run, number: int, decide: Callable[[Cohort, float], list[CohortEvent]]) -> bool:
        stream = _stream(run, number)
        for _ in range(_RETRIES):
            with self._lock:
                cohort = self.state(run, number)
                new = decide(cohort, self._clock.now())
                if not new:
                    return False
                try:
                    data = [canonical.encode(event) for event in new]
                    self._log.append(stream, data, after=cohort.seq)
                except ConflictError:
                    self._load(run, number)
                    continue
                except Exception:
                    # Perhaps it was written all the same, and only the answer was lost: read before deciding again.
                    self._cohorts.pop(run.terms.run, None)
                    raise
                for event in new:
                    cohort = cohorts.apply(cohort, event)
                self._cohorts[run.terms.run][stream] = cohort
                return not isinstance(new[-1], CohortSaid)
        raise ConflictError("other hubs keep writing to this cohort; try again")

    def _load(self, run: Run, number: int) -> Cohort:
        stream = _stream(run, number)
        state = cohorts.cohort_of([_EVENT.decode(data) for data in self._log.read(stream)])
        present = {_stream(run, cohort) for cohort in run.groups}
        known = self._cohorts.get(run.terms.run, {})
        self._cohorts[run.terms.run] = {name: one for name, one in known.items() if name in present} | {stream: state}
        return state


def _cohort_of(run: Run, site: SiteId) -> int | None:
    """The cohort that waits for something from `site`, if any."""
    return next((cohort for cohort in run.open_groups if site in run.groups[cohort].terms.members), None)


def _stream(run: Run, cohort: int) -> str:
    number = run.round.number if run.round else 0
    return f"cohort:{run.terms.run}:{number}:{cohort}"
