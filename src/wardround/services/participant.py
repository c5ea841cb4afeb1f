"""The node's side of a run: checks the plan, reads, trains, answers.

`perform` takes a task to its receipt. It keeps nothing between rounds that matters: after a crash the
hub gives the task again, and the same task on the same records gives the same update, bit for bit.
What leaves the site is built here and nowhere else: sums of columns, updates, numbers of records,
metrics, and, where the site takes no part, the code of the reason.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import msgspec
import numpy as np
import numpy.typing as npt

from wardround import analysis
from wardround.aggregation import standardization
from wardround.clinical import contract as data_contract
from wardround.clinical import summaries
from wardround.clinical.table import StudyTable
from wardround.codec import canonical, tensors
from wardround.errors import (
    ClinicalError,
    CodecError,
    ConfigError,
    CryptoError,
    PeerProtocolError,
    PolicyError,
    ProtocolError,
    TooFewRecordsError,
    TrainingError,
    UnavailableError,
    WardroundError,
)
from wardround.ids import CommandId, Digest, RunId, SiteId, StudyId, study_of
from wardround.ports import Files, HubClient, RecordSource, Trained, Worker
from wardround.protocol.agenda import terms_of
from wardround.protocol.messages import (
    INLINE_BYTES,
    Assignment,
    CohortAnswer,
    CohortTask,
    Contribution,
    Evaluation,
    PairTask,
    Receipt,
    Task,
)
from wardround.protocol.plan import BlobRef, CodePackage, Plan, SecureAggregation, statistics_manifest
from wardround.protocol.policy import SitePolicy
from wardround.protocol.secure import evaluation_sums, statistics_values
from wardround.secagg.messages import Agreements, Answer, Delivery, Invitation, Survivors, Unmaskable
from wardround.secagg.terms import Terms
from wardround.services.masking import masked_pieces, weights_of
from wardround.services.membership import Membership, refusal

__all__ = ["Participant", "Progress"]

Progress = Callable[[str, Assignment], None]
"""Told what is being done: "loading", "fetching", "training", "sending", "done", or "declined, " and why."""


_REFUSED = "the hub refused this site's update; its node's log has the reason. Must act: the site's IT"


class Approved(Protocol):
    """Where the plans are that this site's people approved: `wardround.services.approvals`."""

    def approved_plan(self, study: StudyId) -> Plan:
        """The plan, checked anew.

        Raises `PolicyError` where nobody approved it here or the policy forbids it now, and `DigestMismatchError`
        where the kept plan is not the one that the study is named after.
        """
        ...


class Participant:
    """One site's part in runs; a run's records and worker stay with it until the run has ended.

    `source` opens the site's records for a study, `worker` starts a run's worker process.
    """

    def __init__(
        self,
        site: SiteId,
        *,
        approvals: Approved,
        hub: HubClient,
        files: Files,
        policy: SitePolicy,
        source: Callable[[Plan], RecordSource],
        worker: Callable[[Plan, StudyTable, bytes | None], Worker],
        membership: Membership | None = None,
        progress: Progress = lambda _what, _task: None,
    ) -> None:
        self._site, self._approvals, self._hub, self._files = site, approvals, hub, files
        self._policy, self._source, self._worker, self._progress = policy, source, worker, progress
        self._membership = membership
        self._tables: dict[RunId, StudyTable] = {}
        self._workers: dict[RunId, Worker] = {}
        self._held: dict[RunId, _Held] = {}
        self._lock = threading.Lock()

    def perform(self, assignment: Assignment) -> Receipt:
        """Do what an assignment asks, as far as plan, approval and policy allow, and hand in the answer.

        Raises:
            UnavailableError: The hub or the records did not answer; the assignment can be performed again.
        """
        match assignment:
            case Task():
                return self._perform(assignment)
            case CohortTask():
                return self._step(assignment)
            case PairTask():
                return self._pair(assignment)

    def _pair(self, task: PairTask) -> Receipt:
        plan = self._approvals.approved_plan(task.study)
        return self._hub.pair(self._member().pair(task, plan))

    def _step(self, task: CohortTask) -> Receipt:
        """Take one step of a cohort; where that is not acceptable, leave the cohort and say so."""
        inline = b""
        try:
            answer, inline = self._answer(task)
        except UnavailableError:
            raise
        except (PolicyError, ProtocolError, ClinicalError, TrainingError, CodecError, CryptoError) as error:
            self._progress(f"left the cohort, {error.code}: {error}", task)
            transcript = self._member().transcript(task)
            answer = Unmaskable(transcript, refusal(error))
        said = CohortAnswer(run=task.run, number=task.number, cohort=task.cohort, answer=answer, inline=inline)
        return self._hub.answer(said)

    def _answer(self, task: CohortTask) -> tuple[Answer, bytes]:
        plan = self._approvals.approved_plan(task.study)
        member = self._member()
        match task.step:
            case Invitation():
                return member.share(task, task.step.terms, plan), b""
            case Delivery():
                return self._masked(task, task.step, plan)
            case Survivors():
                return member.agree(task, task.step), b""
            case Agreements():
                return member.reveal(task, task.step), b""

    def _masked(self, task: CohortTask, step: Delivery, plan: Plan) -> tuple[Answer, bytes]:
        member = self._member()
        state = member.ready(task, step)
        held = self._holding(task, state.terms, plan)
        self._progress("masking", task)
        whole, weight = weights_of(held.records, state.terms, state.terms.members.index(self._site))
        sums = np.concatenate([[float(whole)], held.sums]) if held.task.kind == "train" else held.sums
        pieces = masked_pieces(state, plan, self._files, held.update, sums, weight)
        descriptor, ref = self._files.keep(task.run, pieces)
        answer = member.masked(task, state, ref.digest)
        if ref.size <= INLINE_BYTES:
            return answer, self._files.read(descriptor, ref.size)
        self._progress("sending", task)
        self._hub.upload(task.run, ref, descriptor)
        return answer, b""

    def _holding(self, task: CohortTask, agreed: Terms, plan: Plan) -> "_Held":
        """What this site has for the cohort; made again where a crash has lost it."""
        base = BlobRef(agreed.bases[agreed.members.index(self._site)], plan.initial.size)
        size = tensors.file_bytes(statistics_manifest(plan.data))
        statistics = BlobRef(Digest(agreed.standardization), size) if agreed.standardization else None
        kind = terms_of(task.run, plan, ()).agenda[task.number - 1]
        number = self._member().trained(task, agreed, plan)
        again = Task(run=task.run, study=task.study, number=number, kind=kind, base=base, standardization=statistics)
        held = self._held.get(task.run)
        if held is None or held.task.number != number:
            if plan.training.local.remembers or kind == "analysis":
                raise PolicyError("this site's work of the round was lost in a crash, and cannot be made again")
            return self._hold(again, plan)
        if (held.task.base.digest, held.task.standardization) != (again.base.digest, again.standardization):
            raise PeerProtocolError("the cohort's terms name another model than the one that this site worked from")
        return held

    def _hold(self, task: Task, plan: Plan) -> "_Held":
        """Do a task's work and hold what came of it, for a cohort."""
        table = self._table(task, plan)
        training = int(np.count_nonzero(~table.held_out))
        records = min(training, plan.limits.max_records, self._policy.max_records)
        if task.kind == "statistics":
            numeric = data_contract.numeric_features(plan.data)
            moments = statistics_values(standardization.site_sums(table.features[~table.held_out], numeric))
            sums = np.concatenate([moments, summaries.site_sums(plan.summaries, table, plan.data)])
            held = _Held(task, records, sums, None, None, 0.0)
        elif task.kind == "analysis":
            held = _Held(task, records, self._analysed(task, plan, table), None, None, 0.0)
        else:
            trained = self._trained(task, plan, table)
            shown = trained.evaluation if plan.secure and plan.secure.site_metrics else None
            own = trained.evaluation
            sums = np.array(own.appraisal) if shown else np.append(evaluation_sums(own, plan), own.appraisal)
            shown = msgspec.structs.replace(own, appraisal=()) if shown else None
            weight = min(trained.records, records) or records
            held = _Held(task, weight, sums, trained.update, shown, round(trained.seconds, 3))
        self._held[task.run] = held
        return held

    def _analysed(self, task: Task, plan: Plan, table: StudyTable) -> npt.NDArray[np.float64]:
        """This site's numbers for the plan's analyses, at what these have come to."""
        if task.base.size > max(canonical.MAX_DOCUMENT_BYTES, plan.initial.size):
            raise PeerProtocolError("the state of the analyses is larger than a document may be")
        is_first = task.base.digest == plan.initial.digest
        data = b"" if is_first else self._small(task.base, task.run, task.base_inline)
        self._files.keep_only(task.run, frozenset({task.base.digest}))
        known = analysis.states(plan.analyses, plan.data, data)
        return analysis.site_sums(plan.analyses, known, table, plan.data)

    def _member(self) -> Membership:
        if self._membership is None:
            raise PolicyError("this node has no keys for secure aggregation; `wardround node card` makes them")
        return self._membership

    def _perform(self, task: Task) -> Receipt:
        if study_of(task.run) != task.study:
            raise PeerProtocolError("the task's run is not one of its study")
        if task.notice:
            self._progress(f"told by the hub: {task.notice[:500]}", task)
        try:
            contribution = self._contribution(task)
        except UnavailableError:
            raise
        except (ConfigError, PolicyError, ClinicalError, TrainingError, CodecError, CryptoError) as error:
            # The site's own people are told all of it; an error's message holds no cell of a record.
            self._progress(f"declined, {error.code}: {error}", task)
            contribution = Contribution(
                command=CommandId(""), run=task.run, number=task.number, kind=task.kind, declined=_public(error)
            )
        self._progress("sending", task)
        receipt = self._hub.contribute(_named(contribution, self._site))
        if receipt.outcome == "refused" and not contribution.declined:
            # The same task would give the same bytes again, so the round is told not to wait for them.
            self._progress(f"refused: {receipt.reason}", task)
            declined = Contribution(
                command=CommandId(""), run=task.run, number=task.number, kind=task.kind, declined=_REFUSED
            )
            self._hub.contribute(_named(declined, self._site))
        self._progress("done", task)
        return receipt

    def end(self, run: RunId, *, is_over: bool = False) -> None:
        """Let go of a run's records and end its worker; where the run is over, of its cohorts' secrets too."""
        with self._lock:
            self._tables.pop(run, None)
            self._held.pop(run, None)
            worker = self._workers.pop(run, None)
        self._files.keep_only(run, frozenset())
        if is_over:
            self._files.forget(run, but_the_last=True)
            if self._membership is not None:
                self._membership.close(run)
        if worker is not None:
            worker.close()

    def close(self) -> None:
        """End every worker."""
        for run in {*self._tables, *self._workers}:
            self.end(run)

    def _contribution(self, task: Task) -> Contribution:
        plan = self._approvals.approved_plan(task.study)
        if plan.secure is not None:
            return self._readiness(task, plan, plan.secure)
        table = self._table(task, plan)
        training = int(np.count_nonzero(~table.held_out))
        records = min(training, plan.limits.max_records, self._policy.max_records)
        if task.kind == "statistics":
            return self._statistics(task, plan, table, records)
        trained = self._trained(task, plan, table)
        update, inline = trained.ref, b""
        if trained.update is not None and update is not None:
            if update.size <= INLINE_BYTES:
                inline = self._files.read(trained.update, update.size)
            else:
                self._progress("sending", task)
                self._hub.upload(task.run, update, trained.update)
        return Contribution(
            command=CommandId(""),
            run=task.run,
            number=task.number,
            kind=task.kind,
            records=min(trained.records, records) or records,
            update=update,
            evaluation=trained.evaluation,
            train_seconds=round(trained.seconds, 3),
            update_inline=inline,
        )

    def _readiness(self, task: Task, plan: Plan, secure: SecureAggregation) -> Contribution:
        """Do the work, hold it, and say only that this site is ready."""
        self._member().roster(secure.roster)
        held = self._hold(task, plan)
        return Contribution(
            command=CommandId(""),
            run=task.run,
            number=task.number,
            kind=task.kind,
            evaluation=held.shown,
            train_seconds=held.seconds,
            nonce=self._member().nonce(task.run, task.number),
        )

    def _table(self, task: Task, plan: Plan) -> StudyTable:
        if task.run not in self._tables:
            self._progress("loading", task)
            table = self._source(plan).load(plan.data)
            needed = max(plan.data.min_records, self._policy.min_records)
            if len(table.labels) < needed:
                raise TooFewRecordsError(f"{len(table.labels)} usable records; the plan and this site need {needed}")
            self._tables[task.run] = table
        return self._tables[task.run]

    def _statistics(self, task: Task, plan: Plan, table: StudyTable, records: int) -> Contribution:
        numeric = data_contract.numeric_features(plan.data)
        sums = standardization.site_sums(table.features[~table.held_out], numeric)
        data = tensors.pack(sums, statistics_manifest(plan.data))
        ref = BlobRef(canonical.digest(data), len(data))
        inline = data if len(data) <= INLINE_BYTES else b""
        if not inline:
            raise CodecError("too many columns: the statistics do not fit into a message")
        return Contribution(
            command=CommandId(""),
            run=task.run,
            number=task.number,
            kind="statistics",
            records=records,
            update=ref,
            update_inline=inline,
        )

    def _trained(self, task: Task, plan: Plan, table: StudyTable) -> Trained:
        self._progress("fetching", task)
        if task.base.size != plan.initial.size or (task.control and task.control.size > task.base.size * 2):
            raise PeerProtocolError("the model that the hub names has another size than the plan's")
        base = self._files.fetch(task.base, task.run, self._hub, task.base_inline)
        keep = {task.base.digest}
        statistics = b""
        if task.standardization is not None:
            statistics = self._small(task.standardization, task.run, task.standardization_inline)
            tensors.unpack(statistics, statistics_manifest(plan.data))
            keep.add(task.standardization.digest)
        control = ""
        if task.control is not None:
            keep.add(task.control.digest)
            control = self._files.fetch(task.control, task.run, self._hub, task.control_inline)
        worker = self._resident(task, plan, table)
        memory = worker.memory
        if memory is not None:
            self._files.recall(task.run, task.counted, memory)
        self._progress("training", task)
        trained = worker.perform(task.number, task.kind, base, statistics, control)
        if memory is not None:
            self._files.remember(task.run, task.number, memory)
        self._files.keep_only(task.run, frozenset(keep))
        return trained

    def _resident(self, task: Task, plan: Plan, table: StudyTable) -> Worker:
        if task.run not in self._workers:
            package = None
            if isinstance(plan.model, CodePackage):
                package = self._small(plan.model.package, task.study, b"")
            self._workers[task.run] = self._worker(plan, table, package)
        return self._workers[task.run]

    def _small(self, ref: BlobRef, scope: str, inline: bytes) -> bytes:
        path = self._files.fetch(ref, scope, self._hub, inline)
        return self._files.bytes_of(path)


@dataclass(frozen=True, slots=True)
class _Held:
    """What came of a round's work, until a cohort has added it up; `update` is the worker's file."""

    task: Task
    records: int
    sums: npt.NDArray[np.float64]
    update: int | None
    shown: Evaluation | None
    seconds: float


def _named(contribution: Contribution, site: SiteId) -> Contribution:
    """Give the answer a command id that is a function of its content, so that a retry is the same command."""
    content = msgspec.msgpack.encode(msgspec.structs.replace(contribution, update_inline=b"", train_seconds=0.0))
    return msgspec.structs.replace(contribution, command=CommandId(canonical.digest(site.encode() + b"\n" + content)))


def _public(error: WardroundError) -> str:
    """What the hub may know of a local error: its kind, never its text, which may hold counts and local names."""
    words = (type(error).__doc__ or "").splitlines()[0]
    return f"{error.code}: {words} Must act: {error.who}; details are in the node's log"
