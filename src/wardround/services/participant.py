"""The node's side of a run: checks the plan, reads, trains, answers.

`perform` takes a task to its receipt. It keeps nothing between rounds that matters: after a crash the
hub gives the task again, and the same task on the same records gives the same update, bit for bit.
What leaves the site is built here and nowhere else: sums of columns, updates, numbers of records,
metrics, and, where the site takes no part, the code of the reason.
"""

from collections.abc import Callable
from typing import Protocol

import msgspec
import numpy as np

from wardround.clinical.table import StudyTable
from wardround.codec import canonical, tensors
from wardround.errors import (
    ClinicalError,
    CodecError,
    ConfigError,
    CryptoError,
    EgressError,
    PeerProtocolError,
    PolicyError,
    ProtocolError,
    TrainingError,
    UnavailableError,
    WardroundError,
)
from wardround.ids import CommandId, Digest, RunId, SiteId, StudyId, study_of
from wardround.ports import Files, HubClient, RecordSource, Worker
from wardround.protocol.agenda import agenda_of
from wardround.protocol.messages import (
    INLINE_BYTES,
    Assignment,
    CohortAnswer,
    CohortTask,
    Contribution,
    PairTask,
    Receipt,
    Task,
)
from wardround.protocol.plan import BlobRef, Plan, SecureAggregation, statistics_manifest
from wardround.protocol.policy import SitePolicy
from wardround.secagg.messages import Agreements, Answer, Delivery, Invitation, Survivors, Unmaskable
from wardround.secagg.terms import Terms
from wardround.services.egress_gate import Egress
from wardround.services.masking import masked_pieces, weights_of
from wardround.services.membership import Membership, refusal
from wardround.services.round_work import Held, Progress, RoundWork
from wardround.services.safeguard import Safeguard

__all__ = ["Participant", "Progress"]

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

    `source` opens the site's records for a study, `worker` starts a run's worker process, `safeguard` pays for what
    private plans do. `admit` has the last word on every assignment of an approved plan: it raises where the site's
    policies, or what the plan demands of the hub's machine, forbid it. `refused` is told every error for which this
    site does not do what it is asked, before the hub hears of it; where it raises, the hub hears nothing.
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
        safeguard: Safeguard,
        egress: Egress | None = None,
        admit: Callable[[Assignment, Plan], None] = lambda _assignment, _plan: None,
        progress: Progress = lambda _what, _task: None,
        refused: Callable[[Assignment, WardroundError], None] = lambda _assignment, _error: None,
    ) -> None:
        self._admit, self._refused = admit, refused
        self._site, self._approvals, self._hub, self._files = site, approvals, hub, files
        self._progress, self._membership, self._egress = progress, membership, egress
        self._work = RoundWork(
            hub=hub,
            files=files,
            policy=policy,
            source=source,
            worker=worker,
            safeguard=safeguard,
            egress=egress,
            progress=progress,
        )

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
        plan = self._approved(task)
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
            self._refused(task, error)
            transcript = self._member().transcript(task)
            answer = Unmaskable(transcript, refusal(error))
        said = CohortAnswer(run=task.run, number=task.number, cohort=task.cohort, answer=answer, inline=inline)
        return self._hub.answer(said)

    def _answer(self, task: CohortTask) -> tuple[Answer, bytes]:
        plan = self._approved(task)
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
        seed = self._work.mask_seed(held, plan, weight)
        files = self._files if self._egress is None else self._egress.reading(task.run, plan, sums)
        pieces = masked_pieces(state, plan, files, held.update, sums, weight, seed)
        descriptor, ref = self._files.keep(task.run, pieces)
        if self._egress is not None:
            expected = sum(section.length * section.bits // 8 for section in state.terms.sections)
            self._egress.clear_masked(task.run, ref, expected)
        answer = member.masked(task, state, ref.digest)
        if ref.size <= INLINE_BYTES:
            return answer, self._files.read(descriptor, ref.size)
        self._progress("sending", task)
        self._hub.upload(task.run, ref, descriptor)
        return answer, b""

    def _holding(self, task: CohortTask, agreed: Terms, plan: Plan) -> Held:
        """What this site has for the cohort; made again where a crash has lost it."""
        base = BlobRef(agreed.bases[agreed.members.index(self._site)], plan.initial.size)
        size = tensors.file_bytes(statistics_manifest(plan.data))
        statistics = BlobRef(Digest(agreed.standardization), size) if agreed.standardization else None
        kind = agenda_of(plan)[task.number - 1]
        number = self._member().trained(task, agreed, plan)
        again = Task(run=task.run, study=task.study, number=number, kind=kind, base=base, standardization=statistics)
        held = self._work.held.get(task.run)
        if held is None or held.task.number != number:
            is_learned = plan.privacy is not None and plan.privacy.clip_quantile > 0
            if plan.training.local.remembers or is_learned or kind == "analysis":
                raise PolicyError("this site's work of the round was lost in a crash, and cannot be made again")
            return self._work.hold(again, plan)
        if (held.task.base.digest, held.task.standardization) != (again.base.digest, again.standardization):
            raise PeerProtocolError("the cohort's terms name another model than the one that this site worked from")
        return held

    def _approved(self, assignment: Assignment) -> Plan:
        plan = self._approvals.approved_plan(assignment.study)
        self._admit(assignment, plan)
        return plan

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
            self._refused(task, error)
            contribution = Contribution(
                command=CommandId(""), run=task.run, number=task.number, kind=task.kind, declined=_public(error)
            )
        self._progress("sending", task)
        try:
            receipt = self._hub.contribute(_named(contribution, self._site))
        except EgressError as error:
            if contribution.declined:
                raise
            self._progress(f"declined, {error.code}: {error}", task)
            self._refused(task, error)
            contribution = Contribution(
                command=CommandId(""), run=task.run, number=task.number, kind=task.kind, declined=_public(error)
            )
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
        self._work.end(run, is_over=is_over)
        self._files.keep_only(run, frozenset())
        if is_over:
            self._files.forget(run, but_the_last=True)
            if self._membership is not None:
                self._membership.close(run)

    def close(self) -> None:
        """End every worker."""
        for run in self._work.runs():
            self.end(run)

    def _contribution(self, task: Task) -> Contribution:
        plan = self._approved(task)
        agenda = agenda_of(plan)
        if not 1 <= task.number <= len(agenda) or agenda[task.number - 1] != task.kind:
            raise PolicyError("the approved plan has no such round")
        if plan.secure is not None:
            return self._readiness(task, plan, plan.secure)
        if task.kind == "statistics":
            return self._statistics(task, plan)
        records, trained = self._work.records(task, plan), self._work.trained(task, plan)
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
            train_seconds=_told(trained.seconds, plan),
            update_inline=inline,
        )

    def _readiness(self, task: Task, plan: Plan, secure: SecureAggregation) -> Contribution:
        """Do the work, hold it, and say only that this site is ready."""
        self._member().roster(secure.roster)
        held = self._work.hold(task, plan)
        return Contribution(
            command=CommandId(""),
            run=task.run,
            number=task.number,
            kind=task.kind,
            evaluation=held.shown,
            train_seconds=_told(held.seconds, plan),
            nonce=self._member().nonce(task.run, task.number),
        )

    def _statistics(self, task: Task, plan: Plan) -> Contribution:
        data = self._work.statistics(task, plan)
        if len(data) > INLINE_BYTES:
            raise CodecError("too many columns: the statistics do not fit into a message")
        return Contribution(
            command=CommandId(""),
            run=task.run,
            number=task.number,
            kind="statistics",
            records=self._work.records(task, plan),
            update=BlobRef(canonical.digest(data), len(data)),
            update_inline=data,
        )


def _told(seconds: float, plan: Plan) -> float:
    """How long training took, where that may be told: it hangs on who was drawn into the steps."""
    return round(seconds, 3) if plan.privacy is None else 0.0


def _named(contribution: Contribution, site: SiteId) -> Contribution:
    """Give the answer a command id that is a function of its content, so that a retry is the same command."""
    content = msgspec.msgpack.encode(msgspec.structs.replace(contribution, update_inline=b"", train_seconds=0.0))
    return msgspec.structs.replace(contribution, command=CommandId(canonical.digest(site.encode() + b"\n" + content)))


def _public(error: WardroundError) -> str:
    """What the hub may know of a local error: its kind, never its text, which may hold counts and local names."""
    words = (type(error).__doc__ or "").splitlines()[0]
    return f"{error.code}: {words} Must act: {error.who}; details are in the node's log"
