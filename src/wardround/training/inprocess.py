"""A worker without a process of its own: for simulation, where study code is the caller's anyway.

The learner is the same, so a simulated run gives the same bytes as one over real processes.
"""

import mmap
import os
import time

import numpy as np
import numpy.typing as npt

from wardround.clinical.table import StudyTable
from wardround.codec import canonical, tensors
from wardround.ids import SiteId
from wardround.ports import Trained
from wardround.protocol.messages import Evaluation, Kind
from wardround.protocol.plan import BlobRef, Plan
from wardround.training.bags import weight
from wardround.training.channel import Assignment
from wardround.training.learner import Learner
from wardround.training.memory import memory_bytes

__all__ = ["InProcessWorker"]


class InProcessWorker:
    """Fills `wardround.ports.Worker` inside the calling process."""

    def __init__(self, plan: Plan, site: SiteId, table: StudyTable, package: bytes | None) -> None:
        self._head = tensors.header(plan.manifest)
        self._vector = np.zeros(tensors.columns(plan.manifest), tensors.flat_dtype(plan.manifest))
        self._held_out = weight(plan, table, held_out=True)
        self._weight = weight(plan, table)
        self._memory, memory = _memory(memory_bytes(plan))
        self._update = os.memfd_create("update") if hasattr(os, "memfd_create") else _temporary()
        patients = table.patients.view()
        patients.flags.writeable = False
        self._learner = Learner(
            Assignment(
                plan=plan,
                site=site,
                features=table.features,
                labels=table.labels,
                held_out=table.held_out,
                vector=self._vector,
                memory=memory,
                package=package or b"",
                patients=patients,
                counted=self._weight,
            )
        )

    @property
    def memory(self) -> int | None:
        """See `wardround.ports.Worker`."""
        return self._memory

    def perform(
        self, number: int, kind: Kind, base: str, standardization: bytes, control: str = "", *, seed: bytes = b""
    ) -> Trained:
        """See `wardround.ports.Worker`."""
        started = time.perf_counter()
        files = [os.open(path, os.O_RDONLY) for path in (base, control) if path]
        try:
            done = self._learner.perform(number, kind, files[0], standardization, *files[1:], seed=seed)
        finally:
            for file in files:
                os.close(file)
        evaluation = Evaluation(
            self._held_out, done.metrics, done.personal, done.divergence, done.intervals, done.appraisal
        )
        seconds = time.perf_counter() - started
        if kind != "train":
            return Trained(self._weight, None, None, evaluation, seconds)
        tensors.check_finite(self._vector)
        data = self._head + self._vector.tobytes()
        os.pwrite(self._update, data, 0)
        ref = BlobRef(canonical.digest(data), len(data))
        return Trained(self._weight, self._update, ref, evaluation, seconds)

    def close(self) -> None:
        """Let go of the update."""
        os.close(self._update)
        if self._memory is not None:
            os.close(self._memory)


def _memory(size: int) -> tuple[int | None, npt.NDArray[np.float32]]:
    if not size:
        return None, np.empty(0, np.float32)
    file = os.memfd_create("memory") if hasattr(os, "memfd_create") else _temporary()
    os.ftruncate(file, size)
    return file, np.frombuffer(mmap.mmap(file, size), np.float32)


def _temporary() -> int:
    import tempfile

    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())
