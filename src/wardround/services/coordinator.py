"""The hub's side of a run: takes answers, performs what the machines decide, hands out tasks.

Every change is: decide over the folded events, append the new events with the command's receipt in one
transaction, then fold them. A conflict in the log means that another hub was first: load, decide again.
Nothing else is remembered that a restart would miss; which sites were heard of lately starts afresh.
"""

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import replace

import msgspec

from wardround.errors import (
    CodecError,
    ConflictError,
    DigestMismatchError,
    ForbiddenError,
    NotFoundError,
    PeerProtocolError,
    ProtocolError,
    StorageFullError,
    UnavailableError,
)
from wardround.ids import CommandId, Digest, RunId, SiteId, study_of
from wardround.ports import Blobs, Clock, Entropy, EventLog, Pool
from wardround.protocol import commands
from wardround.protocol import events as happened
from wardround.protocol import run as runs
from wardround.protocol.agenda import terms_of
from wardround.protocol.events import RunEvent, UpdateRefused
from wardround.protocol.messages import (
    Assignment,
    CohortAnswer,
    Contribution,
    PairAnswer,
    Receipt,
    RunStatus,
    Task,
    TaskRequest,
)
from wardround.protocol.plan import BlobRef, Plan
from wardround.protocol.run import Run
from wardround.services.cohorts import Cohorts
from wardround.services.combine import combine, failure
from wardround.services.rosters import Rosters
from wardround.services.run_blobs import RunBlobs, is_wanted, named, references, size_of
from wardround.services.threads import Threads

__all__ = ["Coordinator"]

_RETRIES = 8
_NOTHING = Receipt(CommandId(""), "accepted")
"""What a command of the hub's own is answered, and one from which nothing follows."""


class Coordinator:
    """All runs of one hub. Its methods may be called from several threads.

    `plan_of` gives a study's verified plan, `changed` is told a run's state after every change, `entropy` is for noise.
    """

    def __init__(
        self,
        log: EventLog,
        blobs: Blobs,
        clock: Clock,
        *,
        plan_of: Callable[[str], Plan],
        rosters: Rosters,
        changed: Callable[[Run], None] = lambda _: None,
        pool: Pool | None = None,
        entropy: Entropy | None = None,
    ) -> None:
        self._log, self._blobs, self._clock, self._pool = log, blobs, clock, pool or Threads()
        self._plan_of, self._rosters, self._changed, self._entropy = plan_of, rosters, changed, entropy
        self._run_blobs = RunBlobs(blobs, plan_of)
        self.cohorts = Cohorts(log, blobs, clock, key_of=rosters.key_of)
        self._lock = threading.RLock()
        self._runs: dict[RunId, Run] = {}
        self._doubted: set[RunId] = set()
        self._booted = clock.now()
        self._seen: dict[SiteId, float] = {}
        for stream in log.streams("run:"):
            self._load(RunId(stream.removeprefix("run:")))

    def open_run(self, run: RunId, plan: Plan, sites: Iterable[SiteId]) -> Run:
        """Open a run, or find it open.

        Raises:
            PeerProtocolError: Fewer sites than the plan's minimum.
        """
        with self._lock:
            terms = terms_of(run, plan, tuple(sorted(sites)))
            opening = runs.opening(terms, plan.initial, self._clock.now())
            # A conflict means that another replica, or this hub before it was killed, opened it.
            with suppress(ConflictError):
                self._log.append(f"run:{run}", [happened.encode(event) for event in opening], after=0)
            state = self._load(run)
        self._changed(state)
        return state

    def seen(self, site: SiteId) -> None:
        """Note that a site was heard of just now."""
        self._seen[site] = self._clock.now()

    def next_task(self, site: SiteId, request: TaskRequest) -> Assignment | None:
        """An assignment for `site`, small blobs inline, or None.

        Raises:
            NotFoundError: There is no such run as the one asked about.
            PeerProtocolError: It has ended.
        """
        self.seen(site)
        states = self.active()
        if request.run is not None:
            states = [self.state(request.run)]
            if states[0].is_ended:
                raise PeerProtocolError("the run has ended")
        for state in states:
            if state.terms.run not in request.busy:
                for found in self._assignments(state, site):
                    return self._run_blobs.with_bytes(found) if isinstance(found, Task) else found
        return None

    def answer(self, site: SiteId, said: CohortAnswer) -> Receipt:
        """Take a member's answer to a step of its cohort; durable when this returns, and the same again is no change.

        Raises:
            NotFoundError: There is no such run.
            ForbiddenError: Not a member of the cohort.
            PeerProtocolError: The cohort is past this step, or the answer does not count.
        """
        self.seen(site)
        if self.cohorts.receive(self.state(said.run), site, said):
            self._settle_cohort(said.run)
        return _NOTHING

    def pair(self, site: SiteId, said: PairAnswer) -> Receipt:
        """Take a site's part in setting up pair keys.

        Raises:
            ForbiddenError: Offers in another's name, or a site that the roster does not name.
        """
        self.seen(site)
        self._rosters.answer(site, said)
        for run in self.active():
            if run.terms.secure is not None and run.terms.secure.roster == said.roster:
                self._changed(run)
        return _NOTHING

    def contribute(self, site: SiteId, contribution: Contribution) -> Receipt:
        """Take a site's answer; the receipt is durable, and the same for the same command.

        Raises:
            NotFoundError: There is no such run.
            ForbiddenError: The run did not ask this site.
            PeerProtocolError: The round has not been opened, or the update was not uploaded first.
        """
        self.seen(site)
        if (earlier := self._log.receipt(site, contribution.command)) is not None:
            return msgspec.msgpack.decode(earlier, type=Receipt)
        contribution = self._run_blobs.stored(site, contribution, self.state(contribution.run))
        flaws: list[str] = []

        def command(state: Run) -> commands.Contributed:
            # Decided anew where another hub or thread was first, and then the update may be wanted that was not before.
            if is_wanted(state, site, contribution) and contribution.update is not None:
                if not self._blobs.has(contribution.update.digest):
                    raise PeerProtocolError("the update that this message names has not been uploaded; upload it first")
                if not flaws:
                    flaws.append(self._run_blobs.flaw(contribution.update, contribution))
            return commands.Contributed(site, contribution, "".join(flaws))

        # Reading the bytes takes long, so it is done here, before the lock is held.
        command(self.state(contribution.run))
        return self._decide(contribution.run, command, receipt=lambda new: _receipt(contribution, new), sender=site)

    def may_upload(self, site: SiteId, run: RunId, ref: BlobRef) -> None:
        """Raise unless `site` may upload a blob of this size now.

        Raises:
            NotFoundError: There is no such run.
            ForbiddenError: The run is not waiting for an update from this site.
            CodecError: The blob is not of the size that the plan's arrays take.
        """
        state = self.state(run)
        expected = self.cohorts.upload_bytes(state, site)
        if expected is None:
            kind = runs.awaits(state, site, state.round.number if state.round else 0)
            if kind is None or state.terms.secure is not None:
                raise ForbiddenError(f"this run waits for no update from {site}; ask for a task")
            expected = size_of(state.terms, kind)
        if ref.size != expected:
            word = "large" if ref.size > expected else "small"
            raise CodecError(f"too {word}: the update must have {expected} bytes, this has {ref.size}")

    def may_download(self, site: SiteId, run: RunId, digest: Digest) -> None:
        """Raise unless `digest` is the run's model or statistics and `site` one of its sites.

        Raises:
            NotFoundError: There is no such run, or the run has no such blob now.
            ForbiddenError: `site` is not of this run.
        """
        state = self.state(run)
        plan = self._plan_of(study_of(run))
        if site not in state.sites and site != plan.researcher:
            raise ForbiddenError(f"{site} is not of this run")
        if digest not in references(state):
            raise NotFoundError("the run has no such blob now; ask for a task again")

    def leave(self, run: RunId, site: SiteId, reason: str) -> None:
        """A site took its approval back."""
        self._decide(run, lambda _: commands.Left(site, reason))

    def withdraw(self, run: RunId, reason: str) -> None:
        """End a run."""
        self._decide(run, lambda _: commands.Withdrawn(reason))

    def tick(self) -> float | None:
        """Let time pass in every run; the next instant at which this is worth doing, or None."""
        now = self._clock.now()
        instants: list[float] = []
        for run in self.active():
            self._decide(run.terms.run, lambda current: commands.Ticked(self._present(current)))
            state = self.state(run.terms.run)
            if self.cohorts.tick(state, self._present(state)) or self.cohorts.ended(state):
                self._settle_cohort(run.terms.run)
            state = self.state(run.terms.run)
            deadline = self.cohorts.due(state) if state.phase is runs.Phase.SECURING else runs.due(state)
            if deadline is not None:
                # Absences are noticed by looking, so look a few times in the span that makes one.
                instants.append(min(deadline, now + state.terms.absence_seconds / 4))
        return min(instants, default=None)

    def combining(self) -> list[RunId]:
        """Runs whose closed round waits to be combined."""
        return [run.terms.run for run in self.active() if run.phase is runs.Phase.COMBINING]

    def combine(self, run: RunId) -> dict[SiteId, str]:
        """Combine the closed round of a run, if it has one, and open the next, or stop the run where that cannot be.

        Returns the sites whose updates were set aside, and why.
        """
        state = self.state(run)
        if state.phase is not runs.Phase.COMBINING:
            return {}
        aside: dict[SiteId, str] = {}
        digests, cohorts = references(state) | self._updates(state), self.cohorts.states(state)
        try:
            result = combine(state, self._plan_of(study_of(run)), self._blobs, self._pool, cohorts, self._entropy)
        except (CodecError, DigestMismatchError, ProtocolError) as error:  # the same inputs would fail again
            failed = failure(state, error)
            self._decide(run, lambda _: failed)
        else:
            refs = (result.model, *result.server_state, result.standardization, *result.findings.values())
            digests |= {ref.digest for ref in refs if ref is not None}
            self._decide(run, lambda current: replace(result, present=self._present(current)))
            aside = result.set_aside
        self._forget(digests)
        return aside

    def step(self, run: Run) -> str:
        """What tells the run's present step from every other: when it changes, sites may have something to do."""
        stage = self.cohorts.stages(run) if run.phase is runs.Phase.SECURING else run.phase.value
        return f"{run.round.number if run.round else 0}/{stage}"

    def active(self) -> list[Run]:
        """Runs that have not ended."""
        return [run for run in map(self.state, list(self._runs)) if not run.is_ended]

    def state(self, run: RunId) -> Run:
        """A run's state.

        Raises:
            NotFoundError: There is no such run.
        """
        # Without the lock, which is held while the disk is written to: a state never changes, it is replaced.
        if run in self._doubted or (known := self._runs.get(run)) is None:
            with self._lock:
                return self._load(run)
        return known

    def status(self, run: RunId, *, after: int = 0) -> RunStatus:
        """Where a run is, with its events after seq `after`.

        Raises:
            NotFoundError: There is no such run.
        """
        state, stored = self.state(run), self._log.read(f"run:{run}", after=after)
        if state.seq != after + len(stored):
            # Something was appended just now: phase and events are to be of one moment.
            with self._lock:
                state = self._load(run)
                stored = self._log.read(f"run:{run}", after=after)[: max(state.seq - after, 0)]
        return self._run_blobs.status(state, stored, after)

    def _decide(
        self,
        run: RunId,
        command: Callable[[Run], commands.Command],
        *,
        receipt: Callable[[list[RunEvent]], Receipt] | None = None,
        sender: SiteId | None = None,
    ) -> Receipt:
        for _ in range(_RETRIES):
            with self._lock:
                state = self.state(run)
                new = runs.decide(state, command(state), self._clock.now())
                if not new:
                    return _NOTHING
                answer = receipt(new) if receipt else None
                stored = (sender, answer.command, msgspec.msgpack.encode(answer)) if answer and sender else None
                try:
                    data = [happened.encode(event) for event in new]
                    self._log.append(f"run:{run}", data, after=state.seq, receipt=stored)
                except ConflictError:
                    self._load(run)
                    if stored and (earlier := self._log.receipt(stored[0], stored[1])) is not None:
                        return msgspec.msgpack.decode(earlier, type=Receipt)
                    continue
                except (StorageFullError, UnavailableError):
                    # Perhaps it was written all the same, and only the answer was lost: read before deciding again.
                    self._doubted.add(run)
                    raise
                for event in new:
                    state = runs.evolve(state, event)
                self._runs[run] = state
            self._changed(state)
            return answer or _NOTHING
        raise ConflictError("other hubs keep writing to this run; try again")

    def _load(self, run: RunId) -> Run:
        """Fold what is stored beyond what was folded before."""
        state = self._runs.get(run)
        for data in self._log.read(f"run:{run}", after=state.seq if state else 0):
            state = runs.evolve(state, happened.decode_run(data))
        if state is None:
            raise NotFoundError("there is no such run")
        self._runs[run] = state
        self._doubted.discard(run)
        return state

    def _present(self, run: Run) -> frozenset[SiteId]:
        """Sites heard of lately; under secure aggregation a crowd of them in which all share keys with all."""
        since = self._clock.now() - run.terms.absence_seconds
        there = frozenset(site for site in run.sites if self._seen.get(site, self._booted) > since)
        secure = run.terms.secure
        is_chosen = secure is not None and run.phase in {runs.Phase.GATHERING, runs.Phase.COMBINING}
        return self._rosters.paired(secure.roster, there) if secure and is_chosen else there

    def _assignments(self, run: Run, site: SiteId) -> Iterator[Assignment]:
        for found in (self.cohorts.task_for(run, site), runs.task_for(run, site)):
            if found is not None:
                yield found
        secure = run.terms.secure
        if secure is not None and site in run.sites:
            pairing = self._rosters.task_for(run.terms.run, run.terms.study, secure.roster, site, run.sites)
            if pairing is not None:
                yield pairing

    def _settle_cohort(self, run: RunId) -> None:
        """Tell the run how its cohort ended, if it has."""
        state = self.state(run)
        ended = self.cohorts.ended(state)
        if ended is None:
            self._changed(state)
        while ended is not None:
            self._decide(run, lambda _, ended=ended: ended)  # type: ignore[misc]
            ended = self.cohorts.ended(self.state(run))

    def _updates(self, run: Run) -> set[Digest]:
        accepted = [*(run.round.accepted.values() if run.round else ()), *run.early.values()]
        plain = {event.update.digest for event in accepted if event.update is not None}
        return plain | {ref.digest for ref in self.cohorts.vectors(run)}

    def _forget(self, digests: set[Digest]) -> None:
        """Delete blobs that no run and no plan needs; equal bytes of two sites or runs are one blob."""
        with self._lock:
            for run in self.active():
                self._load(run.terms.run)  # What was written by another hub counts too.
            kept: set[Digest] = set()
            for run in self._runs.values():
                kept |= references(run) if run.is_ended else references(run) | self._updates(run)
            for stream in self._log.streams("plan:"):
                kept |= named(self._plan_of(stream.removeprefix("plan:")))
            self._blobs.delete(digests - kept)


def _receipt(contribution: Contribution, new: list[RunEvent]) -> Receipt:
    first = new[0]
    if isinstance(first, UpdateRefused):
        return Receipt(contribution.command, "round-closed" if first.late else "refused", first.reason)
    return Receipt(contribution.command, "accepted")
