"""What a private plan costs a site, paid before it is done; and the seeds of what it draws.

    admit      the whole plan's cost is reserved in the ledger, before any record is read
    seed       one round's cost is committed, durably; then its seed exists
    release    what a run that is over did not spend is free again

A seed follows from a key that never leaves the node, and from everything that goes into the round: plan, run, model,
statistics, records, what is remembered of earlier rounds, and the software that computes. So the same round, asked
again after a crash, draws the same coins and noise and gives the same bytes, which tells nothing new and costs nothing
more; whatever is different, if only by one record, draws others and is another cost. A hub that asks one round twice
with different models pays twice, out of what the run has reserved, until there is nothing left.
"""

import hashlib
from collections.abc import Mapping
from typing import Protocol

from wardround.clinical.table import StudyTable
from wardround.codec import canonical
from wardround.errors import PolicyError
from wardround.ids import Digest, RunId, StudyId, study_of
from wardround.privacy import noising
from wardround.privacy.mechanisms import Mechanism
from wardround.protocol import private
from wardround.protocol.messages import Task
from wardround.protocol.plan import Plan

__all__ = ["Ledger", "Safeguard", "table_digest"]

_NOTHING = Digest("")


class Ledger(Protocol):
    """What is needed of `wardround.services.budgets.Budgets`."""

    def reserve(self, unit: str, run: RunId, study: StudyId, uses: Mapping[str, tuple[Mechanism, int]]) -> None:
        """Set aside the most that a run can spend; raises `BudgetExceededError`."""
        ...

    def commit(self, unit: str, run: RunId, kind: str, key: str) -> None:
        """Spend one reserved use, or none where this key was paid for; raises `BudgetExceededError`."""
        ...

    def release(self, run: RunId) -> None:
        """Free what is left."""
        ...

    def delta(self, unit: str) -> float:
        """The delta of the unit's budget."""
        ...


class Safeguard:
    """One site's. `key` is 32 bytes of its own; `software` names what computes; without a ledger nothing is counted.

    A simulation has no ledger: its records are the caller's.
    """

    def __init__(self, key: bytes, *, ledger: Ledger | None, software: str = "") -> None:
        self._key, self._ledger, self._software = key, ledger, software

    def admit(self, plan: Plan, run: RunId) -> None:
        """Reserve what the plan costs.

        Raises:
            BudgetExceededError: The site's budget does not allow it.
        """
        for unit, uses in private.charges(plan).items():
            if self._ledger is not None:
                self._ledger.reserve(unit, run, study_of(run), uses)

    def check(self, plan: Plan, patients: int) -> None:
        """Refuse a delta that would allow to publish one of so many patients whole.

        Raises:
            PolicyError: It is not below one over their number.
        """
        if plan.privacy is None:
            return
        if plan.privacy.unit == "patient" and plan.privacy.delta * patients >= 1:
            raise PolicyError("the plan's delta is not below one over the number of this site's patients")
        if self._ledger is not None and self._ledger.delta("patient") * patients >= 1:
            raise PolicyError("the delta of the budget granted here is not below one over the number of patients")

    def seed(self, plan: Plan, task: Task, records: Digest, remembered: Digest = _NOTHING) -> bytes:
        """Pay for a round and give its seed: 32 bytes, or none where the plan has no privacy or the round no noise.

        Args:
            plan: The approved plan.
            task: The round, with the model and statistics that it begins from.
            records: `table_digest` of the records that it reads.
            remembered: Of what the site remembers from earlier rounds.

        Raises:
            BudgetExceededError: The run has spent what it reserved.
        """
        if plan.privacy is None:
            return b""
        if task.kind not in private.uses(plan):
            if task.kind == "evaluate":  # nothing of it leaves
                return b""
            raise PolicyError("the approved plan has no such round, and so nothing pays for it")
        begins = (task.base, task.standardization, task.control)
        parts = (task.kind, task.number, *begins, records, remembered, self._software)
        key = canonical.digest(canonical.encode(parts))
        for unit in private.charges(plan):
            if self._ledger is not None:
                self._ledger.commit(unit, task.run, task.kind, key)
        return noising.derive(self._key, "round", task.run, key)

    def mask_seed(self, plan: Plan, task: Task, update: Digest, weight: int) -> bytes:
        """The seed of this site's part of the shared noise on one update; none where noise is not shared."""
        if plan.privacy is None or plan.privacy.noise != "shared" or task.kind != "train":
            return b""
        return noising.derive(self._key, "mask", task.run, task.number, update, weight)

    def release(self, run: RunId) -> None:
        """Free what a run that is over has not spent."""
        if self._ledger is not None:
            self._ledger.release(run)


def table_digest(table: StudyTable) -> Digest:
    """Of all records that a table holds."""
    digest = hashlib.sha256(f"{table.features.shape} {table.labels.shape}\n".encode())
    for array in (table.features, table.labels, table.held_out, table.patients):
        digest.update(array.tobytes())
    return Digest(digest.hexdigest())
