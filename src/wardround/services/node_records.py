"""What a node writes into its audit log: which data were read, what left, what it cost, and who was refused.

    RecordedHub       before the node's hub: what leaves is recorded before it is sent
    RecordedSource    before the records: that they are read, before the first one is; how many there were, after
    BudgetRecords     before the privacy ledger: what is granted and spent
    Refusals          what the node would not do, by the error that says why

Each fails closed: where the log cannot be written, nothing is read, spent or sent.
"""

import re
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Final, Literal

import msgspec

from wardround.audit.entry import (
    Access,
    BudgetChange,
    DataAccess,
    EgressRefused,
    Left,
    PackageVerdict,
    PeerRefused,
    RoundPerformed,
    SandboxViolation,
    StudyDecision,
)
from wardround.clinical.contract import DataContract
from wardround.clinical.table import StudyTable
from wardround.codec import canonical
from wardround.errors import (
    BudgetExceededError,
    CodecError,
    CryptoError,
    EgressError,
    PeerProtocolError,
    PolicyError,
    SandboxError,
    WardroundError,
)
from wardround.ids import Digest, RunId, SiteId, StudyId, study_of
from wardround.ports import HubClient, RecordSource, Violation
from wardround.privacy import ledger, rdp
from wardround.privacy.ledger import Ledger
from wardround.privacy.ledger_entry import Committed, Granted
from wardround.privacy.ledger_entry import Entry as LedgerEntry
from wardround.protocol.messages import (
    Assignment,
    Audit,
    CohortAnswer,
    CohortTask,
    Contribution,
    Decision,
    Identity,
    Kind,
    PairAnswer,
    Proposal,
    Receipt,
    RunStatus,
    StudyStatus,
    Task,
    TaskRequest,
)
from wardround.protocol.plan import BlobRef, CodePackage, Plan, SignedPlan, study_id
from wardround.secagg.messages import Masked, Reveal, Shares
from wardround.secagg.messages import encode as encode_step
from wardround.services.audit_trail import Person, Recorder
from wardround.services.circumstances import LoggedIn, shown

__all__ = [
    "BudgetRecords",
    "Purpose",
    "RecordedHub",
    "RecordedSource",
    "Refusals",
    "purpose_of",
    "record_decision",
    "record_review",
]

Purpose = Literal["training", "analysis", "evaluation", "audit", "quality", "unlearning", "preview"]
"""What records are read for."""
_Work = Literal["training", "analysis", "evaluation"]
_HUB: Final = SiteId("hub")
_WORD: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@-]{0,95}")
_MOST_RUNS: Final = 1024
_REMEMBERED: Final = 8
_PURPOSES: Final[dict[Kind, _Work]] = {
    "statistics": "analysis",
    "analysis": "analysis",
    "train": "training",
    "evaluate": "evaluation",
}
_VERDICTS: Final = {"approve": "approved", "refuse": "refused", "withdraw": "withdrawn"}


@dataclass(frozen=True, slots=True)
class _Now:
    """Where a run is."""

    number: int
    purpose: _Work
    is_cohort: bool


_UNKNOWN: Final = _Now(0, "training", is_cohort=False)


class RecordedHub:
    """Fills `wardround.ports.HubClient` before another one: everything that leaves is recorded before it is sent."""

    def __init__(self, hub: HubClient, recorder: Recorder, dataset: str) -> None:
        self._hub, self._recorder, self._dataset = hub, recorder, dataset
        self._lock = threading.Lock()
        self._current: dict[RunId, _Now] = {}
        self._recorded: dict[RunId, tuple[tuple[int, str], ...]] = {}

    def next_task(self, request: TaskRequest) -> Assignment | None:
        """See `wardround.ports.HubClient`."""
        return self._noted(self._hub.next_task(request))

    def contribute(self, contribution: Contribution) -> Receipt:
        """See `wardround.ports.HubClient`."""
        left = [] if contribution.declined else _left(contribution)
        self._record(contribution.run, contribution.number, left, _PURPOSES[contribution.kind])
        return self._followed(self._hub.contribute(contribution))

    def answer(self, answer: CohortAnswer) -> Receipt:
        """See `wardround.ports.HubClient`."""
        self._record(answer.run, answer.number, _left_of_step(answer), None)
        return self._followed(self._hub.answer(answer))

    def pair(self, answer: PairAnswer) -> Receipt:
        """See `wardround.ports.HubClient`; public keys are no data, and not recorded."""
        return self._followed(self._hub.pair(answer))

    def plan(self, study: StudyId) -> SignedPlan:
        """See `wardround.ports.HubClient`."""
        return self._hub.plan(study)

    def identity(self, name: SiteId) -> Identity:
        """See `wardround.ports.HubClient`."""
        return self._hub.identity(name)

    def studies(self) -> list[StudyStatus]:
        """See `wardround.ports.HubClient`."""
        return self._hub.studies()

    def decide(self, decision: Decision) -> StudyStatus:
        """See `wardround.ports.HubClient`; `record_decision` has recorded it when it was made."""
        return self._hub.decide(decision)

    def audit(self, audit: Audit) -> StudyStatus:
        """See `wardround.ports.HubClient`."""
        data = msgspec.msgpack.encode(audit)
        left = Left("report", canonical.digest(data), len(data))
        self._record(audit.run, 0, [left], "evaluation")
        return self._hub.audit(audit)

    def propose(self, proposal: Proposal) -> StudyStatus:
        """See `wardround.ports.HubClient`."""
        return self._hub.propose(proposal)

    def act(self, study: StudyId, action: Literal["start", "release", "withdraw"], reason: str) -> StudyStatus:
        """See `wardround.ports.HubClient`."""
        return self._hub.act(study, action, reason)

    def run(self, run: RunId, *, after: int = 0, wait_seconds: float = 0.0) -> RunStatus:
        """See `wardround.ports.HubClient`."""
        return self._hub.run(run, after=after, wait_seconds=wait_seconds)

    def download(self, scope: str, ref: BlobRef) -> AbstractContextManager[Iterator[memoryview]]:
        """See `wardround.ports.HubClient`."""
        return self._hub.download(scope, ref)

    def upload(self, scope: str, ref: BlobRef, source: int) -> None:
        """See `wardround.ports.HubClient`; the message that names it comes later, so it is recorded here."""
        run = RunId(scope)
        now = self._now(run)
        left = Left("masked-update" if now.is_cohort else "update", ref.digest, ref.size)
        self._record(run, now.number, [left], now.purpose)
        self._hub.upload(scope, ref, source)

    def _record(self, run: RunId, number: int, left: list[Left], purpose: _Work | None) -> None:
        """Record what is about to leave; what was recorded for this run just before is not recorded again.

        A message that is sent again, because its answer was lost, is the same bytes to the same hub.
        """
        with self._lock:
            before = self._recorded.get(run, ())
            new = [one for one in left if (number, one.digest) not in before]
        if not new:
            return
        found = RoundPerformed(number, tuple(new), self._dataset, purpose or self._now(run).purpose)
        self._recorder.record(found, study=study_of(run), run=run)
        with self._lock:  # Only now, when it is durable.
            self._recorded.pop(run, None)
            self._recorded[run] = (*before, *((number, one.digest) for one in new))[-_REMEMBERED:]
            while len(self._recorded) > _MOST_RUNS:
                self._recorded.pop(next(iter(self._recorded)))

    def _noted(self, found: Assignment | None) -> Assignment | None:
        """Remember which round a run is in, for what is uploaded before its message."""
        if isinstance(found, Task | CohortTask):
            with self._lock:
                before = self._current.pop(found.run, _UNKNOWN)
                purpose = _PURPOSES[found.kind] if isinstance(found, Task) else before.purpose
                self._current[found.run] = _Now(found.number, purpose, isinstance(found, CohortTask))
                while len(self._current) > _MOST_RUNS:
                    self._current.pop(next(iter(self._current)))
        return found

    def _now(self, run: RunId) -> "_Now":
        return self._current.get(run, _UNKNOWN)

    def _followed(self, receipt: Receipt) -> Receipt:
        self._noted(receipt.next)
        return receipt


class RecordedSource:
    """Fills `wardround.ports.RecordSource` before another one; `purpose` is what the records are read for."""

    def __init__(
        self,
        source: RecordSource,
        recorder: Recorder,
        dataset: str,
        *,
        purpose: Purpose,
        study: StudyId | None = None,
        legal_basis: str = "",
        actor: SiteId | Person | None = None,
    ) -> None:
        self._source, self._recorder, self._study, self._actor = source, recorder, study, actor
        basis = legal_basis if _WORD.fullmatch(legal_basis) else None
        self._access = DataAccess(dataset=dataset, purpose=purpose, legal_basis=basis)

    def load(self, contract: DataContract) -> StudyTable:
        """See `wardround.ports.RecordSource`; also raises what the audit log raises, and then nothing was read."""
        access = msgspec.structs.replace(self._access, contract=canonical.digest(canonical.encode(contract)))
        self._recorder.record(access, actor=self._actor, study=self._study)
        table = self._source.load(contract)
        outcome = msgspec.structs.replace(access, records=table.report.used, is_outcome=True)
        self._recorder.record(outcome, actor=self._actor, study=self._study)
        return table


class BudgetRecords:
    """Called by `wardround.services.budgets` with every entry of a ledger, before the entry is written."""

    def __init__(self, recorder: Recorder, dataset: str) -> None:
        self._recorder, self._dataset = recorder, dataset

    def __call__(self, unit: str, state: Ledger, entry: LedgerEntry) -> None:
        """Record a grant or a spending.

        What one spending costs is how much it adds to the run's epsilon: the sum of them is what the run has cost.
        """
        # What is promised for the site as a whole is another budget of the same records.
        dataset = str(self._dataset) if unit == "patient" else f"{self._dataset}/{unit}"
        match entry:
            case Granted():
                found = BudgetChange("granted", dataset, entry.epsilon, entry.delta)
                self._recorder.record(found, actor=Person(entry.person))
            case Committed():
                before, after = state.runs[entry.run], ledger.apply(state, entry).runs[entry.run]
                spent = _epsilon(after, state.delta) - _epsilon(before, state.delta)
                found = BudgetChange("spent", dataset, max(0.0, spent), state.delta)
                self._recorder.record(found, study=study_of(entry.run), run=entry.run)
            case _:
                pass


class Refusals:
    """Called with every error by which a node would not do what it was asked; `dataset` is the budgets'."""

    def __init__(self, recorder: Recorder, dataset: str) -> None:
        self._recorder, self._dataset = recorder, dataset

    def __call__(self, assignment: Assignment, error: WardroundError) -> None:
        """Record a refusal, by its kind; trouble with the site's own records or disk is none."""
        run, study = _names(assignment)
        match error:
            case BudgetExceededError():
                self._recorder.record(BudgetChange("refused", self._dataset, 0.0), study=study, run=run)
            case EgressError():
                self._recorder.record(EgressRefused(error.code), study=study, run=run)
            case SandboxError():
                self._recorder.record(SandboxViolation(error.code), study=study, run=run)
            case PolicyError():
                action = assignment.kind if isinstance(assignment, Task) else "mask"
                denied = Access(action, f"Run:{run or 'unknown'}", "denied", (error.code,))
                self._recorder.record(denied, actor=_HUB, study=study, run=run)
            case PeerProtocolError() | CryptoError() | CodecError():
                self._recorder.record(PeerRefused(_HUB, error.code), study=study, run=run)
            case _:
                pass

    def violation(self, plan: Plan, violation: Violation) -> None:
        """Record what study code tried."""
        package = plan.model.package.digest if isinstance(plan.model, CodePackage) else None
        self._recorder.record(SandboxViolation(violation.kind, package), study=study_id(plan))


def record_decision(recorder: Recorder, study: StudyId, verdict: str, person: LoggedIn | str) -> None:
    """Record what a person decided about a study, before the decision holds."""
    decided = msgspec.convert({"kind": "study", "decision": _VERDICTS[verdict]}, StudyDecision)
    recorder.record(decided, actor=Person(shown(person)), study=study)


def record_review(recorder: Recorder, package: Digest, verdict: str, person: str) -> None:
    """Record what a person decided about study code, before the review counts."""
    recorder.record(PackageVerdict(package, "approved" if verdict == "approve" else "refused"), actor=Person(person))


def purpose_of(plan: Plan) -> _Work:
    """What a plan's records are read for."""
    return "training" if plan.training.rounds else "analysis"


def _left(contribution: Contribution) -> list[Left]:
    """What a contribution carries: the update, and the message itself with its numbers."""
    left = []
    if contribution.update is not None:
        what: Literal["update", "statistics"] = "update" if contribution.kind == "train" else "statistics"
        left.append(Left(what, contribution.update.digest, contribution.update.size))
    if contribution.records or contribution.evaluation is not None:
        # Without what differs from one try to the next, so that the same answer is the same entry.
        told = msgspec.structs.replace(contribution, update_inline=b"", train_seconds=0.0)
        data = msgspec.msgpack.encode(told)
        left.append(Left("evaluation", canonical.digest(data), len(data)))
    return left


def _left_of_step(said: CohortAnswer) -> list[Left]:
    data = encode_step(said.answer)
    match said.answer:
        case Masked():
            digest = Digest(said.answer.digest.hex())
            return [Left("masked-update", digest, len(said.inline))] if said.inline else []
        case Shares() | Reveal():
            return [Left("share", canonical.digest(data), len(data))]
        case _:
            return []


def _names(assignment: Assignment) -> tuple[RunId | None, StudyId | None]:
    """The assignment's run and study; none of them where a hub sends what is no name of one."""
    try:
        return assignment.run, study_of(assignment.run)
    except CodecError:
        return None, None


def _epsilon(run: ledger.Run, delta: float) -> float:
    costs = ledger.committed_costs([run])
    return rdp.epsilon(costs, delta) if any(costs) else 0.0
