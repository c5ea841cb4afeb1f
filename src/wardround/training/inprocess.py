"""A worker without a process of its own: for simulation, where study code is the caller's anyway.

The learner is the same, so a simulated run gives the same bytes as one over real processes.
"""

import os
import time

import numpy as np

from wardround.clinical.table import StudyTable
from wardround.codec import canonical, tensors
from wardround.ids import SiteId
from wardround.ports import Trained
from wardround.protocol.messages import Evaluation, Kind
from wardround.protocol.plan import BlobRef, Plan
from wardround.training.channel import Assignment
from wardround.training.learner import Learner

__all__ = ["InProcessWorker"]


class InProcessWorker:
    """Fills `wardround.ports.Worker` inside the calling process."""

    def __init__(self, plan: Plan, site: SiteId, table: StudyTable, package: bytes | None) -> None:
        self._head = tensors.header(plan.manifest)
        self._vector = np.zeros(tensors.columns(plan.manifest), tensors.flat_dtype(plan.manifest))
        self._training = int(np.count_nonzero(~table.held_out))
        self._held_out = len(table.labels) - self._training
        self._update = os.memfd_create("update") if hasattr(os, "memfd_create") else _temporary()
        self._learner = Learner(
            Assignment(
                plan=plan,
                site=site,
                features=table.features,
                labels=table.labels,
                held_out=table.held_out,
                vector=self._vector,
                package=package or b"",
            )
        )

    def perform(self, number: int, kind: Kind, base: str, standardization: bytes) -> Trained:
        """See `wardround.ports.Worker`."""
        started = time.perf_counter()
        descriptor = os.open(base, os.O_RDONLY)
        try:
            metrics = self._learner.perform(number, kind, descriptor, standardization)
        finally:
            os.close(descriptor)
        evaluation = Evaluation(self._held_out, metrics)
        seconds = time.perf_counter() - started
        if kind != "train":
            return Trained(self._training, None, None, evaluation, seconds)
        tensors.check_finite(self._vector)
        data = self._head + self._vector.tobytes()
        os.pwrite(self._update, data, 0)
        ref = BlobRef(canonical.digest(data), len(data))
        return Trained(self._training, self._update, ref, evaluation, seconds)

    def close(self) -> None:
        """Let go of the update."""
        os.close(self._update)


def _temporary() -> int:
    import tempfile

    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())
