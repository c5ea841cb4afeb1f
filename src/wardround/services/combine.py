"""From a closed round's updates to the next model, chunk by chunk.

Memory is ``participants x chunk``, whatever the size of the model. The arithmetic is in a fixed order
(contributors sorted by name, float64 accumulator), so the same updates give the same bytes on any
replica and after any crash.
"""

from collections.abc import Iterator
from contextlib import ExitStack, closing

import numpy as np
import numpy.typing as npt

from wardround.aggregation import mean, server_rule
from wardround.codec import canonical, tensors
from wardround.codec.tensors import Manifest
from wardround.errors import LocalProtocolError
from wardround.ids import Digest
from wardround.ports import Blobs, Upload
from wardround.protocol.commands import Combined
from wardround.protocol.events import UpdateAccepted
from wardround.protocol.plan import BlobRef, Plan, statistics_manifest
from wardround.protocol.run import Run
from wardround.secagg.cohort import Cohort
from wardround.services import secure_sum
from wardround.services.secure_sum import CHUNK

__all__ = ["CHUNK", "check_file", "combine"]


def combine(run: Run, plan: Plan, blobs: Blobs, cohort: Cohort | None = None) -> Combined:
    """Compute and store what the round that `run` is combining gives.

    Args:
        run: A run in its combining phase.
        plan: The plan of its study.
        blobs: Holds the contributors' updates; receives the result.
        cohort: Where the plan asks for secure aggregation, the round's opened cohort.

    Returns:
        The command that records it, with nobody marked as present yet.

    Raises:
        LocalProtocolError: The run is not combining a round.
        TensorMismatchError: The result is not finite.
        NotFoundError: The base model or an update is not in `blobs`.
    """
    round_ = run.round
    if round_ is None or (cohort is None) != (run.cohort_terms is None):
        raise LocalProtocolError("there is no round to combine, or not its cohort")
    accepted = [round_.accepted[site] for site in sorted(round_.accepted)]
    model, standardization, server_state = run.model, run.standardization, run.server_state
    opened = secure_sum.open_sums(cohort, plan, blobs) if cohort else None
    evaluation = opened.evaluation if opened else None
    summaries = None
    if round_.opened.kind == "statistics":
        manifest = statistics_manifest(plan.data)
        arrays = opened.statistics if opened else _summed(accepted, manifest, blobs)
        standardization = blobs.put(tensors.pack(arrays, manifest)) if plan.data.scaling == "federated" else None
        summaries = blobs.put(canonical.encode(opened.summaries)) if opened and opened.summaries else None
    elif round_.opened.kind == "train":
        trained = round_.number - run.terms.agenda.index("train")
        means = secure_sum.mean_updates(opened, plan, blobs) if opened else _mean_updates(accepted, plan, blobs)
        model, server_state = _stepped(trained, run, plan, means, blobs)
    return Combined(round_.number, model, standardization, server_state, frozenset(), evaluation, summaries)


def check_file(blobs: Blobs, ref: BlobRef, manifest: tensors.Manifest) -> None:
    """Refuse a stored blob that is not a file of the manifest's arrays with finite values.

    Raises:
        TensorMismatchError: Says what differs.
    """
    head = len(tensors.header(manifest))
    tensors.check_size(ref.size, manifest)
    tensors.check_header(blobs.read(ref.digest, 0, head), manifest)
    for chunk in blobs.chunks(ref.digest, head, ref.size, 4 * CHUNK):
        tensors.check_finite(np.frombuffer(chunk, dtype=tensors.flat_dtype(manifest)))


def _updates(accepted: list[UpdateAccepted]) -> list[BlobRef]:
    return [event.update for event in accepted if event.update is not None]


def _summed(accepted: list[UpdateAccepted], manifest: Manifest, blobs: Blobs) -> dict[str, npt.NDArray[np.float64]]:
    size = tensors.file_bytes(manifest)
    files = [tensors.unpack(blobs.read(ref.digest, 0, size), manifest) for ref in _updates(accepted)]
    return {spec.name: mean.sum_vectors([file[spec.name] for file in files]) for spec in manifest}


def _mean_updates(accepted: list[UpdateAccepted], plan: Plan, blobs: Blobs) -> Iterator[npt.NDArray[np.float64]]:
    """The weighted mean of the sites' updates, chunk by chunk; a chunk is valid until the next is asked for."""
    head, columns = len(tensors.header(plan.manifest)), tensors.manifest_bytes(plan.manifest) // 4
    weights = mean.weights([event.records for event in accepted])
    updates = [_vectors(blobs, ref.digest, head, columns) for ref in _updates(accepted)]
    total, scratch = (np.empty(min(CHUNK, columns), np.float64) for _ in range(2))
    for parts in zip(*updates, strict=True):
        width = parts[0].size
        mean.weighted_sum(parts, weights, total[:width], scratch[:width])
        yield total[:width]


def _stepped(
    step: int, run: Run, plan: Plan, means: Iterator[npt.NDArray[np.float64]], blobs: Blobs
) -> tuple[BlobRef, tuple[BlobRef, ...]]:
    settings = plan.training.server
    rule = server_rule.build(
        settings.name,
        learning_rate=settings.learning_rate,
        momentum=settings.momentum,
        beta1=settings.beta1,
        beta2=settings.beta2,
        tau=settings.tau,
    )
    head = tensors.header(plan.manifest)
    columns = tensors.manifest_bytes(plan.manifest) // 4
    outputs = [_fresh(blobs, f"combine-{run.terms.run}-{part}") for part in range(1 + rule.state_vectors)]
    with ExitStack() as stack:
        for output in outputs:
            stack.enter_context(closing(output))
        outputs[0].append(head)
        bases = _vectors(blobs, run.model.digest, len(head), columns)
        states = _states(blobs, run.server_state, rule.state_vectors, columns)
        for base, state, update in zip(bases, states, means, strict=True):
            params = base.copy()
            rule.apply(step, params, update, state)
            for vector in (params, *state):
                tensors.check_finite(vector)
            for output, vector in zip(outputs, (params, *state), strict=True):
                output.append(vector.data)
        model, *server_state = [output.commit() for output in outputs]
    return model, tuple(server_state)


def _fresh(blobs: Blobs, name: str) -> Upload:
    # A combine that was interrupted starts over: its inputs are all still there.
    blobs.upload(name).discard()
    return blobs.upload(name)


def _vectors(blobs: Blobs, digest: Digest, start: int, columns: int) -> Iterator[npt.NDArray[np.float32]]:
    for chunk in blobs.chunks(digest, start, start + 4 * columns, 4 * CHUNK):
        yield np.frombuffer(chunk, dtype="<f4")


def _states(
    blobs: Blobs, refs: tuple[BlobRef, ...], count: int, columns: int
) -> Iterator[tuple[npt.NDArray[np.float32], ...]]:
    """Chunks of the rule's state vectors, writable; zeros before the first step."""
    stored = [_vectors(blobs, ref.digest, 0, columns) for ref in refs]
    for start in range(0, columns, CHUNK):
        width = min(CHUNK, columns - start)
        if stored:
            yield tuple(next(vectors).copy() for vectors in stored)
        else:
            yield tuple(np.zeros(width, np.float32) for _ in range(count))
