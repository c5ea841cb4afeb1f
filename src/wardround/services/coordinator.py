"""The hub's side of a run: takes answers, performs what the machines decide, hands out tasks.

Every change is: decide over the folded events, append the new events with the command's receipt in one
transaction, then fold them. A conflict in the log means that another hub was first: load, decide again.
Nothing else is remembered that a restart would miss; which sites were heard of lately starts afresh.
"""

import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace

import msgspec

from wardround.codec import canonical, tensors
from wardround.errors import (
    CodecError,
    ConflictError,
    DigestMismatchError,
    ForbiddenError,
    NotFoundError,
    PeerProtocolError,
    StorageFullError,
    TensorMismatchError,
    UnavailableError,
    WardroundError,
)
from wardround.ids import CommandId, Digest, RunId, SiteId, study_of
from wardround.ports import Blobs, Clock, EventLog
from wardround.protocol import events as happened
from wardround.protocol import run as runs
from wardround.protocol.events import RunEvent, RunTerms, UpdateRefused
from wardround.protocol.messages import INLINE_BYTES, Contribution, Kind, Receipt, RunStatus, Task, TaskRequest
from wardround.protocol.plan import BlobRef, CodePackage, Plan, statistics_manifest
from wardround.protocol.run import Run
from wardround.services.combine import check_file, combine

__all__ = ["Coordinator", "terms_of"]

_RETRIES = 8
_NOTHING = Receipt(CommandId(""), "accepted")
"""What a command of the hub's own is answered, and one from which nothing follows."""


class Coordinator:
    """All runs of one hub. Its methods may be called from several threads.

    `plan_of` gives a study's verified plan; `changed` is called after every change with the run's state.
    """

    def __init__(
        self,
        log: EventLog,
        blobs: Blobs,
        clock: Clock,
        *,
        plan_of: Callable[[str], Plan],
        changed: Callable[[Run], None] = lambda _: None,
    ) -> None:
        self._log, self._blobs, self._clock = log, blobs, clock
        self._plan_of, self._changed = plan_of, changed
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

    def next_task(self, site: SiteId, request: TaskRequest) -> Task | None:
        """A task for `site` that is not among those it is busy with, small blobs inline."""
        self.seen(site)
        for run in self.active():
            task = runs.task_for(run, site)
            if task is not None and (task.run, task.number) not in request.busy:
                return self._with_bytes(task)
        return None

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
        contribution = self._stored(site, contribution)
        flaws: list[str] = []

        def command(state: Run) -> runs.Contributed:
            # Decided anew where another hub or thread was first, and then the update may be wanted that was not before.
            if _is_wanted(state, site, contribution) and contribution.update is not None:
                if not self._blobs.has(contribution.update.digest):
                    raise PeerProtocolError("the update that this message names has not been uploaded; upload it first")
                if not flaws:
                    flaws.append(self._flaw(contribution.update, contribution))
            return runs.Contributed(site, contribution, "".join(flaws))

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
        task = runs.task_for(state, site)
        if task is None:
            raise ForbiddenError(f"this run waits for no update from {site}; ask for a task")
        expected = _size_of(state.terms, task.kind)
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
        if digest not in _references(state):
            raise NotFoundError("the run has no such blob now; ask for a task again")

    def leave(self, run: RunId, site: SiteId, reason: str) -> None:
        """A site took its approval back."""
        self._decide(run, lambda _: runs.Left(site, reason))

    def withdraw(self, run: RunId, reason: str) -> None:
        """End a run."""
        self._decide(run, lambda _: runs.Withdrawn(reason))

    def tick(self) -> float | None:
        """Let time pass in every run; the next instant at which this is worth doing, or None."""
        now = self._clock.now()
        instants: list[float] = []
        for run in self.active():
            self._decide(run.terms.run, lambda current: runs.Ticked(self._present(current)))
            state = self.state(run.terms.run)
            if (deadline := runs.due(state)) is not None:
                # Absences are noticed by looking, so look a few times in the span that makes one.
                instants.append(min(deadline, now + state.terms.absence_seconds / 4))
        return min(instants, default=None)

    def combining(self) -> list[RunId]:
        """Runs whose closed round waits to be combined."""
        return [run.terms.run for run in self.active() if run.phase is runs.Phase.COMBINING]

    def combine(self, run: RunId) -> None:
        """Combine the closed round of a run, if it has one, and open the next; stop the run where that cannot be."""
        state = self.state(run)
        if state.phase is not runs.Phase.COMBINING:
            return
        digests = _references(state) | _updates(state)
        try:
            result = combine(state, self._plan_of(study_of(run)), self._blobs)
        except (DigestMismatchError, NotFoundError, TensorMismatchError) as error:
            failed = _failed(state, error)
            self._decide(run, lambda _: failed)
        else:
            refs = (result.model, *result.server_state, result.standardization)
            digests |= {ref.digest for ref in refs if ref is not None}
            self._decide(run, lambda current: replace(result, present=self._present(current)))
        self._forget(digests)

    def active(self) -> list[Run]:
        """Runs that have not ended."""
        with self._lock:
            return [run for run in map(self.state, list(self._runs)) if not run.is_ended]

    def state(self, run: RunId) -> Run:
        """A run's state.

        Raises:
            NotFoundError: There is no such run.
        """
        with self._lock:
            return self._runs[run] if run in self._runs and run not in self._doubted else self._load(run)

    def status(self, run: RunId, *, after: int = 0) -> RunStatus:
        """Where a run is, with its events after seq `after`.

        Raises:
            NotFoundError: There is no such run.
        """
        state = self.state(run)
        stored = self._log.read(f"run:{run}", after=after)
        return RunStatus(
            run=run,
            phase=state.phase.value,
            round=state.round.number if state.round else 0,
            rounds=len(state.terms.agenda),
            model=state.model,
            standardization=state.standardization,
            reason=state.reason,
            events=tuple(happened.plain(data) for data in stored[:1000]),
            last_seq=after + min(len(stored), 1000),
        )

    def _decide(
        self,
        run: RunId,
        command: Callable[[Run], runs.Command],
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
        since = self._clock.now() - run.terms.absence_seconds
        return frozenset(site for site in run.sites if self._seen.get(site, self._booted) > since)

    def _with_bytes(self, task: Task) -> Task:
        statistics = task.standardization
        return msgspec.structs.replace(
            task,
            base_inline=self._small(task.base),
            standardization_inline=self._small(statistics) if statistics else b"",
        )

    def _small(self, ref: BlobRef) -> bytes:
        return bytes(self._blobs.read(ref.digest, 0, ref.size)) if ref.size <= INLINE_BYTES else b""

    def _stored(self, site: SiteId, contribution: Contribution) -> Contribution:
        """The contribution with its inline bytes put into the blob store."""
        inline, ref = contribution.update_inline, contribution.update
        if not inline:
            return contribution
        if ref is None or ref.size != len(inline) or canonical.digest(inline) != ref.digest:
            raise PeerProtocolError("the inline update is not the one that the message names")
        state = self.state(contribution.run)
        if _is_wanted(state, site, contribution):
            self._blobs.put(inline)
        return msgspec.structs.replace(contribution, update_inline=b"")

    def _flaw(self, ref: BlobRef, contribution: Contribution) -> str:
        """What is wrong with the update's bytes, in words, or nothing."""
        plan = self._plan_of(study_of(contribution.run))
        manifest = plan.manifest if contribution.kind == "train" else statistics_manifest(plan.data)
        try:
            if self._blobs.size(ref.digest) != ref.size:
                return "the update has another size than the message says"
            check_file(self._blobs, ref, manifest)
        except CodecError as error:
            return str(error)
        return ""

    def _forget(self, digests: set[Digest]) -> None:
        """Delete blobs that no run and no plan needs; equal bytes of two sites or runs are one blob."""
        with self._lock:
            for run in self.active():
                self._load(run.terms.run)  # What was written by another hub counts too.
            kept: set[Digest] = set()
            for run in self._runs.values():
                kept |= _references(run) if run.is_ended else _references(run) | _updates(run)
            for stream in self._log.streams("plan:"):
                kept |= _named(self._plan_of(stream.removeprefix("plan:")))
            self._blobs.delete(digests - kept)


def terms_of(run: RunId, plan: Plan, sites: tuple[SiteId, ...]) -> RunTerms:
    """What of a plan decides how its run goes."""
    first: tuple[Kind, ...] = ("statistics",) if plan.data.scaling == "federated" else ()
    train: tuple[Kind, ...] = tuple("train" for _ in range(plan.training.rounds))
    return RunTerms(
        run=run,
        study=study_of(run),
        sites=sites,
        quorum=plan.min_participants,
        agenda=(*first, *train, "evaluate"),
        update_size=plan.initial.size,
        statistics_size=tensors.file_bytes(statistics_manifest(plan.data)),
        max_records=plan.limits.max_records,
        round_timeout_seconds=plan.limits.round_timeout_seconds,
        absence_seconds=plan.limits.absence_seconds,
        patience=plan.limits.patience,
        expires=plan.expires,
    )


def _failed(state: Run, error: WardroundError) -> runs.Failed:
    number, sites = (state.round.number, sorted(state.round.accepted)) if state.round else (0, [])
    who = "the hub's operator, whose store has lost a blob"
    if isinstance(error, TensorMismatchError):
        who = f"the researcher; an update of one of {', '.join(sites)} is too large to be added"
    return runs.Failed(number, f"round {number} cannot be combined: {error}. Must act: {who}")


def _is_wanted(state: Run, site: SiteId, contribution: Contribution) -> bool:
    """Whether the run waits for such an update from this site, so that its bytes must be read."""
    task, ref = runs.task_for(state, site), contribution.update
    if task is None or (task.number, task.kind) != (contribution.number, contribution.kind):
        return False
    return ref is not None and ref.size == _size_of(state.terms, task.kind) > 0


def _receipt(contribution: Contribution, new: list[RunEvent]) -> Receipt:
    first = new[0]
    if isinstance(first, UpdateRefused):
        return Receipt(contribution.command, "round-closed" if first.late else "refused", first.reason)
    return Receipt(contribution.command, "accepted")


def _size_of(terms: RunTerms, kind: Kind) -> int:
    return {"statistics": terms.statistics_size, "train": terms.update_size, "evaluate": 0}[kind]


def _references(run: Run) -> set[Digest]:
    refs = [run.model, *run.server_state, *([run.standardization] if run.standardization else [])]
    return {ref.digest for ref in refs}


def _named(plan: Plan) -> set[Digest]:
    package = {plan.model.package.digest} if isinstance(plan.model, CodePackage) else set()
    return {plan.initial.digest} | package


def _updates(run: Run) -> set[Digest]:
    accepted = run.round.accepted.values() if run.round else ()
    return {event.update.digest for event in accepted if event.update is not None}
