"""The work of a round at a site: its records, its worker, and what comes of them.

Everything here stays at the site; `wardround.services.participant` decides what of it is answered, and how.
In a private plan the cost is reserved before records are read, and paid before anything is computed
(`wardround.services.safeguard`).
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

import msgspec
import numpy as np
import numpy.typing as npt

from wardround import analysis
from wardround.aggregation import standardization
from wardround.analysis import State
from wardround.clinical import contract as data_contract
from wardround.clinical import summaries
from wardround.clinical.table import StudyTable, public_count
from wardround.codec import canonical, tensors
from wardround.errors import PeerProtocolError, TooFewRecordsError
from wardround.ids import Digest, RunId
from wardround.ports import Files, HubClient, RecordSource, Trained, Worker
from wardround.protocol import private_sums
from wardround.protocol.messages import Assignment, Evaluation, Task
from wardround.protocol.plan import BlobRef, CodePackage, Plan, statistics_manifest
from wardround.protocol.policy import SitePolicy
from wardround.protocol.secure import evaluation_sums, statistics_values
from wardround.services.egress_gate import Egress
from wardround.services.safeguard import Safeguard, table_digest

__all__ = ["Held", "Progress", "RoundWork"]

Progress = Callable[[str, Assignment], None]
"""Told what is being done: "loading", "fetching", "training", "sending", "done", or "declined, " and why."""

_Vector = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Held:
    """What came of a round's work, until a cohort has added it up; `update` is the worker's file."""

    task: Task
    records: int
    sums: _Vector
    update: int | None
    ref: BlobRef | None
    shown: Evaluation | None
    seconds: float


class RoundWork:
    """Does the work of rounds; a run's records and worker stay with it until `end`.

    `source` opens the site's records for a study, `worker` starts a run's worker process.
    """

    def __init__(
        self,
        *,
        hub: HubClient,
        files: Files,
        policy: SitePolicy,
        source: Callable[[Plan], RecordSource],
        worker: Callable[[Plan, StudyTable, bytes | None], Worker],
        safeguard: Safeguard,
        egress: Egress | None,
        progress: Progress,
    ) -> None:
        self._hub, self._files, self._policy, self._progress = hub, files, policy, progress
        self._source, self._worker, self._safeguard, self._egress = source, worker, safeguard, egress
        self._tables: dict[RunId, tuple[StudyTable, Digest]] = {}
        self._workers: dict[RunId, Worker] = {}
        self.held: dict[RunId, Held] = {}
        self._lock = threading.Lock()

    def end(self, run: RunId, *, is_over: bool) -> None:
        """Let go of a run's records and end its worker; where the run is over, free what it did not spend."""
        with self._lock:
            self._tables.pop(run, None)
            self.held.pop(run, None)
            worker = self._workers.pop(run, None)
        if self._egress is not None:
            self._egress.forget(run)
        if worker is not None:
            worker.close()
        if is_over:
            self._safeguard.release(run)

    def runs(self) -> set[RunId]:
        """Runs whose records or worker are here."""
        return {*self._tables, *self._workers}

    def records(self, task: Task, plan: Plan) -> int:
        """For how many the site counts: training records, or patients where these are what is private."""
        table, _ = self._table(task, plan)
        count = int(np.count_nonzero(~table.held_out))
        if plan.privacy is not None:
            count = public_count(table, plan.data, held_out=False)
        return min(count, plan.limits.max_records, self._policy.max_records)

    def hold(self, task: Task, plan: Plan) -> Held:
        """Do a task's work and hold what came of it, for a cohort."""
        records = self.records(task, plan)
        if task.kind in {"statistics", "analysis"}:
            held = Held(task, records, self._sums(task, plan), None, None, None, 0.0)
        else:
            trained = self.trained(task, plan)
            shown = trained.evaluation if plan.secure and plan.secure.site_metrics else None
            own = trained.evaluation
            sums = np.array(own.appraisal) if shown else np.append(evaluation_sums(own, plan), own.appraisal)
            shown = msgspec.structs.replace(own, appraisal=()) if shown else None
            weight = min(trained.records, records) or records
            held = Held(task, weight, sums, trained.update, trained.ref, shown, trained.seconds)
        self.held[task.run] = held
        return held

    def mask_seed(self, held: Held, plan: Plan, weight: int) -> bytes:
        """The seed of this site's part of shared noise; none where there is no such."""
        return self._safeguard.mask_seed(plan, held.task, held.ref.digest, weight) if held.ref else b""

    def statistics(self, task: Task, plan: Plan) -> bytes:
        """The site's sums of columns as a file, for a run without secure aggregation."""
        manifest, width = statistics_manifest(plan.data), data_contract.width(plan.data)
        sums = self._sums(task, plan)
        if private_sums.is_private(plan, task.kind):
            sums = np.array(
                [float(value) for value in private_sums.decoded(plan, task.kind, list(map(Fraction, sums)))]
            )
        return tensors.pack({spec.name: sums[place * width :][:width] for place, spec in enumerate(manifest)}, manifest)

    def trained(self, task: Task, plan: Plan) -> Trained:
        """Fetch what the round begins from, and let the worker evaluate and train."""
        table, digest = self._table(task, plan)
        self._progress("fetching", task)
        if task.base.size != plan.initial.size or (task.control and task.control.size > task.base.size * 2):
            raise PeerProtocolError("the model that the hub names has another size than the plan's")
        base = self._files.fetch(task.base, task.run, self._hub, task.base_inline)
        keep = {task.base.digest}
        statistics = b""
        if task.standardization is not None:
            statistics = self._small(task.standardization, task.run, task.standardization_inline)
            tensors.unpack(statistics, statistics_manifest(plan.data))
            if self._egress is not None:
                self._egress.standardized(task.run, plan, statistics)
            keep.add(task.standardization.digest)
        control = ""
        if task.control is not None:
            keep.add(task.control.digest)
            control = self._files.fetch(task.control, task.run, self._hub, task.control_inline)
        worker = self._resident(task, plan, table)
        memory = worker.memory
        remembered = self._files.recall(task.run, task.counted, memory) if memory is not None else Digest("")
        seed = self._safeguard.seed(plan, task, digest, remembered)
        self._progress("training", task)
        trained = worker.perform(task.number, task.kind, base, statistics, control, seed=seed)
        if memory is not None:
            self._files.remember(task.run, task.number, memory)
        self._files.keep_only(task.run, frozenset(keep))
        return trained

    def _table(self, task: Task, plan: Plan) -> tuple[StudyTable, Digest]:
        if task.run not in self._tables:
            self._safeguard.admit(plan, task.run)
            self._progress("loading", task)
            table = self._source(plan).load(plan.data)
            needed = max(plan.data.min_records, self._policy.min_records)
            if len(table.labels) < needed:
                raise TooFewRecordsError(f"{len(table.labels)} usable records; the plan and this site need {needed}")
            self._safeguard.check(plan, max(table.report.owners, len(np.unique(table.patients))))
            if self._egress is not None:
                self._egress.watch(task.run, table)
            self._tables[task.run] = table, table_digest(table) if plan.privacy else Digest("")
        return self._tables[task.run]

    def _sums(self, task: Task, plan: Plan) -> _Vector:
        """This site's numbers for a round of statistics or analyses; noisy where the plan is private."""
        table, digest = self._table(task, plan)
        known = self._known(task, plan) if task.kind == "analysis" else []
        if private_sums.is_private(plan, task.kind):
            return private_sums.site_sums(plan, task.kind, table, known, self._safeguard.seed(plan, task, digest))
        if task.kind == "analysis":
            return analysis.site_sums(plan.analyses, known, table, plan.data)
        numeric = data_contract.numeric_features(plan.data)
        moments = statistics_values(standardization.site_sums(table.features[~table.held_out], numeric))
        return np.concatenate([moments, summaries.site_sums(plan.summaries, table, plan.data)])

    def _known(self, task: Task, plan: Plan) -> list[State]:
        """What the plan's analyses have come to."""
        if task.base.size > max(canonical.MAX_DOCUMENT_BYTES, plan.initial.size):
            raise PeerProtocolError("the state of the analyses is larger than a document may be")
        is_first = task.base.digest == plan.initial.digest
        data = b"" if is_first else self._small(task.base, task.run, task.base_inline)
        self._files.keep_only(task.run, frozenset({task.base.digest}))
        return analysis.states(plan.analyses, plan.data, data)

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
