"""From a closed round's answers to the next model: the aggregate, and one step of the server rule along it.

The aggregate comes chunk by chunk from `updates` or, under secure aggregation, from `secure_sum`, and the
step is made as it comes, so memory does not grow with the model.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from wardround import analysis
from wardround.aggregation import mean, server_rule
from wardround.clinical import appraisal
from wardround.clinical.appraisal import Appraisal
from wardround.codec import canonical, tensors
from wardround.codec.tensors import Manifest
from wardround.crypto import noise
from wardround.errors import LocalProtocolError, TensorMismatchError, WardroundError
from wardround.ids import Digest, SiteId
from wardround.ports import Blobs, Entropy, Pool, Upload
from wardround.privacy import noising
from wardround.privacy.noising import Grid, NoisySum
from wardround.protocol import private
from wardround.protocol.commands import Combined, Failed
from wardround.protocol.events import UpdateAccepted
from wardround.protocol.learning import Training
from wardround.protocol.plan import BlobRef, Plan, statistics_manifest
from wardround.protocol.run import Run
from wardround.secagg.cohort import Cohort
from wardround.services import secure_sum, updates
from wardround.services.secure_sum import OpenedSums

_LEAST_COUNT = 5
__all__ = ["check_file", "combine", "failure"]


def combine(
    run: Run, plan: Plan, blobs: Blobs, pool: Pool, cohorts: Sequence[Cohort] = (), entropy: Entropy | None = None
) -> Combined:
    """Compute and store what the round that `run` is combining gives.

    Args:
        run: A run in its combining phase.
        plan: The plan of its study.
        blobs: Holds the contributors' updates; receives the result.
        pool: Does the work on chunks.
        cohorts: Where the plan asks for secure aggregation, the round's opened cohorts.
        entropy: Where the plan asks for central noise, what that is drawn from.

    Returns:
        The command that records it, with nobody marked as present yet.

    Raises:
        LocalProtocolError: The run is not combining a round.
        TensorMismatchError: The result is not finite.
        NotFoundError: The base model or an update is not in `blobs`.
    """
    round_ = run.round
    if round_ is None or bool(cohorts) != bool(run.groups):
        raise LocalProtocolError("there is no round to combine, or not its cohorts")
    accepted = [round_.accepted[site] for site in sorted(round_.accepted)]
    model, standardization, server_state = run.model, run.standardization, run.server_state
    opened = secure_sum.open_sums(cohorts, plan, blobs) if cohorts else None
    evaluation = opened.evaluation if opened else None
    findings: dict[str, BlobRef] = {}
    norm, skipped, is_aggregated = None, 0, True
    aside: dict[SiteId, str] = {}
    if round_.opened.kind == "statistics":
        manifest = statistics_manifest(plan.data)
        arrays = opened.statistics if opened else _summed(accepted, manifest, blobs)
        standardization = blobs.put(tensors.pack(arrays, manifest)) if plan.data.scaling == "federated" else None
        if opened and opened.summaries:
            findings["summaries"] = blobs.put(canonical.encode(opened.summaries))
    elif round_.opened.kind == "analysis":
        findings["analyses"], skipped = _analysed(run, plan, opened.analyses if opened else (), blobs)
    elif round_.opened.kind == "train":
        trained = round_.number - run.terms.agenda.index("train")
        if opened:
            made = secure_sum.mean_updates(opened, run, plan, blobs, pool)
        else:
            made = updates.aggregate(run, plan, blobs, pool)
        if (means := made.means) is not None:
            if plan.privacy is not None and plan.privacy.noise == "central":
                means = _noised(means, plan, accepted, entropy)
            share = (_counted(run, cohorts) - len(made.set_aside)) / len(run.terms.sites)
            model, server_state = _stepped(trained, run, plan, share, means, blobs)
        aside, norm, is_aggregated = made.set_aside, made.norm, made.means is not None
    elif plan.appraisal is not None:
        findings["appraisal"] = blobs.put(_appraised(plan, plan.appraisal, accepted, opened))
    return Combined(
        number=round_.number,
        model=model,
        standardization=standardization,
        server_state=server_state,
        present=frozenset(),
        evaluation=evaluation,
        findings=findings,
        set_aside=aside,
        norm=norm,
        skipped=skipped,
        is_aggregated=is_aggregated,
    )


def _analysed(run: Run, plan: Plan, sums: Sequence[Fraction], blobs: Blobs) -> tuple[BlobRef, int]:
    """What the analyses come to with these sums, and how many rounds they need no more."""
    number, first = run.round.number if run.round else 0, run.terms.agenda.index("analysis") + 1
    ref, least = run.findings.get("analyses"), plan.secure.least_count if plan.secure else _LEAST_COUNT
    known = analysis.states(plan.analyses, plan.data, bytes(blobs.read(ref.digest, 0, ref.size)) if ref else b"")
    after = analysis.advance(plan.analyses, known, sums, plan.data, least_count=least)
    left = first + run.terms.agenda.count("analysis") - 1 - number
    return blobs.put(canonical.encode(after)), left if all(one.is_done for one in after) else 0


def _appraised(plan: Plan, asked: Appraisal, accepted: list[UpdateAccepted], opened: OpenedSums | None) -> bytes:
    """What the sites' numbers say together, as canonical JSON."""
    least = plan.secure.least_count if plan.secure else _LEAST_COUNT
    sums: Sequence[Fraction] = [Fraction(0)] * appraisal.length(asked, plan.data)
    if opened:
        sums = opened.appraisal
    else:
        for event in accepted:
            given = event.evaluation.appraisal if event.evaluation else ()
            sums = [one + Fraction(other) for one, other in zip(sums, given, strict=True)]
    return canonical.encode(appraisal.results(asked, plan.data, sums, least_count=least))


def _noised(
    means: Iterator[npt.NDArray[np.float64]], plan: Plan, accepted: list[UpdateAccepted], entropy: Entropy | None
) -> Iterator[npt.NDArray[np.float64]]:
    """The mean of all updates with the plan's central noise on it: made anew each time, and seen once."""
    if plan.privacy is None or entropy is None:
        raise LocalProtocolError("the plan asks for noise at the hub, and this hub draws none")
    weight, seed = sum(event.records for event in accepted), entropy.draw(noise.SEED_BYTES)
    grid = Grid(private.sensitivity(plan), plan.privacy.noise_multiplier, tensors.columns(plan.manifest))
    for place, chunk in enumerate(means):
        summed = NoisySum(grid, len(chunk))
        summed.add(chunk * weight)
        yield summed.release(noising.derive(seed, "chunk", place)) / weight


def failure(state: Run, error: WardroundError) -> Failed:
    """The command that stops a run whose round cannot be combined, naming who must act."""
    number, sites = (state.round.number, sorted(state.round.accepted)) if state.round else (0, [])
    who = "the hub's operator, whose store has lost a blob"
    if isinstance(error, TensorMismatchError):
        who = f"the researcher; an update of one of {', '.join(sites)} is too large to be added"
    return Failed(number, f"round {number} cannot be combined: {error}. Must act: {who}")


def check_file(blobs: Blobs, ref: BlobRef, manifest: tensors.Manifest) -> None:
    """Refuse a stored blob that is not a file of the manifest's arrays with finite values.

    Raises:
        TensorMismatchError: Says what differs.
    """
    head = len(tensors.header(manifest))
    tensors.check_size(ref.size, manifest)
    tensors.check_header(blobs.read(ref.digest, 0, head), manifest)
    for chunk in blobs.chunks(ref.digest, head, ref.size, 4 * updates.CHUNK):
        tensors.check_finite(np.frombuffer(chunk, dtype=tensors.flat_dtype(manifest)))


def _updates(accepted: list[UpdateAccepted]) -> list[BlobRef]:
    return [event.update for event in accepted if event.update is not None]


def _summed(accepted: list[UpdateAccepted], manifest: Manifest, blobs: Blobs) -> dict[str, npt.NDArray[np.float64]]:
    size = tensors.file_bytes(manifest)
    files = [tensors.unpack(blobs.read(ref.digest, 0, size), manifest) for ref in _updates(accepted)]
    return {spec.name: mean.sum_vectors([file[spec.name] for file in files]) for spec in manifest}


def _counted(run: Run, cohorts: Sequence[Cohort]) -> int:
    """How many sites' updates are in the round's aggregate before any was set aside."""
    if cohorts:
        return sum(len(cohort.survivors) for cohort in cohorts)
    return len(run.round.accepted) if run.round else 0


def _rule(training: Training, share: float) -> server_rule.Rule:
    settings, optimizer = training.server, training.optimizer
    match training.local.algorithm:
        case "feddyn":
            return server_rule.feddyn(share=share)
        case "scaffold":
            length = training.steps * optimizer.learning_rate
            return server_rule.scaffold(learning_rate=settings.learning_rate, share=share, local_length=length)
        case _:
            return server_rule.build(
                settings.name,
                learning_rate=settings.learning_rate,
                momentum=settings.momentum,
                beta1=settings.beta1,
                beta2=settings.beta2,
                tau=settings.tau,
            )


def _stepped(
    step: int, run: Run, plan: Plan, share: float, means: Iterator[npt.NDArray[np.float64]], blobs: Blobs
) -> tuple[BlobRef, tuple[BlobRef, ...]]:
    rule = _rule(plan.training, share)
    head, columns = tensors.header(plan.manifest), tensors.columns(plan.manifest)
    dtype = tensors.flat_dtype(plan.manifest)
    # A step may be too small for half precision to show it, so the params are kept in float32 beside the rule's state.
    kept = rule.state_vectors + (dtype != np.float32)
    outputs = [_fresh(blobs, f"combine-{run.terms.run}-{part}") for part in range(1 + kept)]
    with ExitStack() as stack:
        for output in outputs:
            stack.enter_context(closing(output))
        outputs[0].append(head)
        bases = _vectors(blobs, run.model.digest, len(head), columns, dtype)
        states = _states(blobs, run.server_state, kept, columns)
        for base, state, update in zip(bases, states, means, strict=True):
            params = base.copy() if dtype == np.float32 else _master(base, state, is_first=not run.server_state)
            rule.apply(step, params, update, state[: rule.state_vectors])
            with np.errstate(over="ignore"):
                model_part = params.astype(dtype, copy=False)
            for vector in (model_part, *state):
                tensors.check_finite(vector)
            for output, vector in zip(outputs, (model_part, *state), strict=True):
                output.append(vector.view(np.uint8).data)
        model, *server_state = [output.commit() for output in outputs]
    return model, tuple(server_state)


def _master(
    base: npt.NDArray[np.floating], state: tuple[npt.NDArray[np.float32], ...], *, is_first: bool
) -> npt.NDArray[np.float32]:
    """The float32 params of a model in half precision: the last of the state's vectors."""
    if is_first:
        state[-1][...] = base
    return state[-1]


def _fresh(blobs: Blobs, name: str) -> Upload:
    # A combine that was interrupted starts over: its inputs are all still there.
    blobs.upload(name).discard()
    return blobs.upload(name)


def _vectors(
    blobs: Blobs, digest: Digest, start: int, columns: int, dtype: npt.DTypeLike = "<f4"
) -> Iterator[npt.NDArray[np.floating]]:
    size = np.dtype(dtype).itemsize
    for chunk in blobs.chunks(digest, start, start + size * columns, size * updates.CHUNK):
        yield np.frombuffer(chunk, dtype=dtype)


def _states(
    blobs: Blobs, refs: tuple[BlobRef, ...], count: int, columns: int
) -> Iterator[tuple[npt.NDArray[np.float32], ...]]:
    """Chunks of the rule's state vectors, writable; zeros before the first step."""
    stored = [_vectors(blobs, ref.digest, 0, columns) for ref in refs]
    for start in range(0, columns, updates.CHUNK):
        width = min(updates.CHUNK, columns - start)
        if stored:
            yield tuple(next(vectors).astype(np.float32) for vectors in stored)
        else:
            yield tuple(np.zeros(width, np.float32) for _ in range(count))
