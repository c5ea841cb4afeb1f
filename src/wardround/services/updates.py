"""A round's updates from the blob store to their aggregate: screened, weighed, and combined by the plan's rule.

    pass 1   distances between all updates, where the rule or the screening looks at them
    pass 2   the rule's recipe, chunk by chunk

Chunks are independent and made by a `Pool`, on all cores or machines; memory is ``workers x participants x chunk``,
whatever the size of the model. The order of sites (by name) and the cut into chunks are fixed, so the same updates
give the same bytes.
"""

import hashlib
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from wardround.aggregation import columns, geometry, robust, screening, staleness
from wardround.aggregation.geometry import Geometry
from wardround.aggregation.robust import Recipe
from wardround.codec import tensors
from wardround.errors import TensorMismatchError
from wardround.ids import Digest, SiteId
from wardround.ports import Blobs, Pool
from wardround.protocol.agenda import discount_of
from wardround.protocol.events import UpdateAccepted
from wardround.protocol.plan import Plan, aggregation_rule
from wardround.protocol.run import Run

__all__ = ["CHUNK", "Aggregate", "Reader", "aggregate", "aggregate_groups"]

CHUNK = 256 * 1024
"""Columns per chunk: one MiB of float32 per participant."""

_SPACES = threading.local()
_Wide = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Aggregate:
    """What the updates give; without `means` there is nothing to step along.

    `set_aside` are the sites that screening refused, and why; `norm` is the median norm of the others.
    """

    means: Iterator[_Wide] | None
    set_aside: dict[SiteId, str] = field(default_factory=dict)
    norm: float | None = None


class Reader(Protocol):
    """Reads stretches of `CHUNK` columns of some vectors of `columns` columns."""

    @property
    def columns(self) -> int:
        """How long the vectors are."""

    def __call__(self, start: int) -> Sequence[npt.NDArray[np.floating]]:
        """The columns from `start`, one array per vector."""


@dataclass(frozen=True, slots=True)
class _Columns:
    """Reads one stretch of columns of many vectors, each in a blob after a header of the same length, as float32."""

    blobs: Blobs
    digests: tuple[Digest, ...]
    head: int
    columns: int
    dtype: np.dtype[np.floating]

    def __call__(self, start: int) -> list[npt.NDArray[np.float32]]:
        stop = min(start + CHUNK, self.columns)
        places = [self.head + self.dtype.itemsize * place for place in (start, stop)]
        found = (np.frombuffer(self.blobs.read(digest, *places), self.dtype) for digest in self.digests)
        return [vector.astype(np.float32, copy=False) for vector in found]


@dataclass(frozen=True, slots=True)
class _Combination:
    """The task of one chunk: what a recipe makes of its columns."""

    read: Reader
    recipe: Recipe

    def __call__(self, start: int) -> _Wide:
        updates = self.read(start)
        out = np.empty(updates[0].size)
        columns.combine(self.recipe, updates, out, _workspace())
        return out


@dataclass(frozen=True, slots=True)
class _Products:
    """The task of one chunk: what it adds to the Gram matrix of updates and drifts."""

    read: Reader
    drifts: tuple[tuple[Reader, Reader], ...]
    is_wide: bool

    def __call__(self, start: int) -> _Wide:
        moved = [now(start)[0] - then(start)[0] for then, now in self.drifts]
        chunks = [*self.read(start), *moved]
        dtype = np.float64 if self.is_wide else np.float32
        scratch = _workspace().rows("gram", (geometry.scratch_rows(len(chunks)), geometry.BLOCK), dtype)
        return geometry.centred_gram(chunks, scratch)


def aggregate(run: Run, plan: Plan, blobs: Blobs, pool: Pool) -> Aggregate:
    """The aggregate of the round that `run` is combining.

    Args:
        run: A run that combines a round of training, without secure aggregation.
        plan: The plan of its study.
        blobs: Holds the updates and, where training is asynchronous, the models they were trained from.
        pool: Does the work.

    Raises:
        TensorMismatchError: The updates cannot be told apart, or lie beyond what numbers can hold.
        NotFoundError: A blob is missing.
    """
    accepted = [run.round.accepted[site] for site in sorted(run.round.accepted)] if run.round else []
    accepted = [event for event in accepted if event.update is not None]
    layout = len(tensors.header(plan.manifest)), tensors.columns(plan.manifest), tensors.flat_dtype(plan.manifest)
    read = _Columns(blobs, tuple(event.update.digest for event in accepted if event.update), *layout)
    factors = np.array([_discount(run, event) for event in accepted])
    rule = aggregation_rule(plan, tuple(event.site for event in accepted))
    drifts = _drifts(run, plan, accepted)
    records = [event.records for event in accepted]
    if plan.screening is None and not rule.needs_geometry and not drifts:
        return Aggregate(_combined(rule, records, factors, None, read, _seed(run, plan), pool))

    now = _Columns(blobs, (run.model.digest,), *layout)
    moved = [(_Columns(blobs, (then,), *layout), now) for then in drifts.values()]
    found = _geometry(read, len(accepted), moved, pool)
    own = found.mapped(np.eye(found.count)[: len(accepted)])
    offences: dict[int, str] = {}
    if plan.screening is not None:
        limits = plan.screening
        offences = screening.offences(own, run.norms, multiple=limits.norm_multiple, least=limits.least_cosine)
    if drifts:
        factors = factors * _agreements(found, accepted, list(drifts))
    kept = [place for place in range(len(accepted)) if place not in offences]
    norm = float(np.median(own.norms()[kept])) if kept else None
    aside = {accepted[place].site: reason for place, reason in offences.items()}
    rule = aggregation_rule(plan, tuple(accepted[place].site for place in kept))
    if len(kept) < max(run.terms.quorum, robust.least_participants(rule)) or _lacks_reference(rule):
        return Aggregate(None, aside, norm)
    read = _Columns(blobs, tuple(read.digests[place] for place in kept), *layout)
    records = [records[place] for place in kept]
    found = own.mapped(np.eye(own.count)[kept])
    return Aggregate(
        _combined(rule, records, factors[kept], found, read, _seed(run, plan), pool),
        aside,
        norm,
    )


def aggregate_groups(run: Run, plan: Plan, read: Reader, weights: Sequence[int], pool: Pool) -> Aggregate:
    """The aggregate of the mean updates of groups, as many as `weights`; none where they are too few for the rule."""
    rule = aggregation_rule(plan, ())
    if len(weights) < robust.least_participants(rule):
        return Aggregate(None)
    found = _geometry(read, len(weights), [], pool) if rule.needs_geometry else None
    return Aggregate(_combined(rule, weights, np.ones(len(weights)), found, read, _seed(run, plan), pool))


def _combined(
    rule: robust.Rule,
    records: Sequence[int],
    factors: _Wide,
    found: Geometry | None,
    read: Reader,
    seed: bytes,
    pool: Pool,
) -> Iterator[_Wide]:
    scale = np.diag(factors)
    is_late = bool((factors != 1.0).any())
    if found is not None and is_late:
        found = found.mapped(scale)
    try:
        recipe = robust.recipe(rule, found, records, seed)
    except ValueError as error:
        raise TensorMismatchError(str(error)) from None
    if is_late:
        recipe = Recipe(scale if recipe.rows is None else recipe.rows @ scale, recipe.kernel, recipe.keep)
    return pool.map(_Combination(read, recipe), range(0, read.columns, CHUNK))


def _lacks_reference(rule: robust.Rule) -> bool:
    """Whether the trusted site's update is not there, so that nothing can be scored."""
    return rule.name == "trust" and rule.reference is None


def _geometry(read: Reader, count: int, drifts: Sequence[tuple[Reader, Reader]], pool: Pool) -> Geometry:
    """Of the updates, and after them of what the model has moved since each of some versions."""
    starts = range(0, read.columns, CHUNK)
    size = count + len(drifts) + 1
    for is_wide in (False, True):
        gram = sum(pool.map(_Products(read, tuple(drifts), is_wide=is_wide), starts), np.zeros((size, size)))
        if geometry.is_resolved(gram):
            break
    if not np.isfinite(gram).all():
        raise TensorMismatchError("the distances between updates are too large for float64")
    return Geometry(gram)


def _seed(run: Run, plan: Plan) -> bytes:
    return hashlib.sha256(f"wardround buckets 1\n{plan.seed}/{run.terms.run}/{_number(run)}".encode()).digest()


def _drifts(run: Run, plan: Plan, accepted: list[UpdateAccepted]) -> dict[int, Digest]:
    """The models that late updates were trained from, by round, where agreement with the way since then counts."""
    late = plan.training.asynchronous
    if late is None or not late.agreement:
        return {}
    then = sorted({event.trained for event in accepted if event.trained})
    return {number: run.bases[number].digest for number in then if run.bases[number].digest != run.model.digest}


def _agreements(found: Geometry, accepted: list[UpdateAccepted], drifts: list[int]) -> _Wide:
    cosines = found.cosines()
    factors = np.ones(len(accepted))
    for place, event in enumerate(accepted):
        if event.trained in drifts:
            moved = len(accepted) + drifts.index(event.trained)
            factors[place] = staleness.agreement(float(cosines[place, moved]))
    return factors


def _discount(run: Run, event: UpdateAccepted) -> float:
    return discount_of(run.terms, _number(run), event.trained or _number(run))


def _number(run: Run) -> int:
    return run.round.number if run.round else 0


def _workspace() -> columns.Workspace:
    """The present thread's; it stays with the thread."""
    if not hasattr(_SPACES, "own"):
        _SPACES.own = columns.Workspace()
    own: columns.Workspace = _SPACES.own
    return own
