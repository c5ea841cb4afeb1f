"""From a cohort's masked vectors to the sum and mean of the plain ones, chunk by chunk.

    sum over survivors of their masked vectors, mod 2**bits   read from the blob store, a chunk of columns at a time
    minus what masks are left in it                           `wardround.secagg.opening.unmask`
    = the exact sum of the plain fixed-point vectors          decoded once

Chunks are independent, so they are made on all cores; memory is ``cores x chunk``, whatever the
number of members and the size of the model. Integers add up exactly: the same vectors give the
same mean bit for bit, in any order, on any replica.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from wardround.clinical import appraisal, summaries
from wardround.clinical import contract as data_contract
from wardround.codec import fixedpoint, tensors
from wardround.crypto.prg import MaskStream
from wardround.errors import LocalProtocolError
from wardround.ids import Digest
from wardround.ports import Blobs, Pool
from wardround.protocol import private_sums
from wardround.protocol.messages import Evaluation
from wardround.protocol.plan import Plan
from wardround.protocol.run import Run
from wardround.protocol.secure import columns_sent, encoding, evaluation_of
from wardround.secagg import opening, terms
from wardround.secagg.cohort import Cohort
from wardround.secagg.member import section_key
from wardround.secagg.opening import Unmasking
from wardround.secagg.terms import Section
from wardround.services import updates
from wardround.services.updates import Aggregate

__all__ = ["GroupMeans", "OpenedGroup", "OpenedSums", "mean_updates", "open_sums"]


@dataclass(frozen=True, slots=True)
class OpenedGroup:
    """A cohort, what masks are left in its sum, and the sum of its members' weights."""

    cohort: Cohort
    unmasking: Unmasking
    weight: int


@dataclass(frozen=True, slots=True)
class OpenedSums:
    """What the short, exact sections of a round's cohorts say together; the updates are left for `group_means`."""

    groups: tuple[OpenedGroup, ...]
    evaluation: Evaluation | None = None
    statistics: dict[str, npt.NDArray[np.float64]] = field(default_factory=dict)
    summaries: list[dict[str, object]] = field(default_factory=list)
    analyses: tuple[Fraction, ...] = ()
    appraisal: tuple[Fraction, ...] = ()


@dataclass(frozen=True, slots=True)
class GroupMeans:
    """Reads one stretch of columns: the weighted mean of each group's updates there; `columns` in all."""

    groups: tuple[OpenedGroup, ...]
    blobs: Blobs
    columns: int

    def __call__(self, start: int) -> list[npt.NDArray[np.float64]]:
        """The columns from `start`, one array per group."""
        return [self._mean(group, start) for group in self.groups]

    def _mean(self, group: OpenedGroup, start: int) -> npt.NDArray[np.float64]:
        place, section = _section(group.cohort, "update")
        stop = min(start + updates.CHUNK, self.columns)
        if section is None or section.length != self.columns or group.weight < 1:
            raise LocalProtocolError("a cohort's sum without an update, or without weight")
        total = _unmasked(group.cohort, group.unmasking, self.blobs, place, section, start, stop)
        mean = np.empty(stop - start, np.float64)
        fixedpoint.decode(np.ascontiguousarray(total, np.uint32), group.weight, encoding(group.cohort.terms), mean)
        return mean


def open_sums(cohorts: Sequence[Cohort], plan: Plan, blobs: Blobs) -> OpenedSums:
    """Take the masks off the exact sums of a round's cohorts, and add these up.

    Args:
        cohorts: Opened cohorts of one round, at least one.
        plan: The plan of its study.
        blobs: Holds the survivors' masked vectors.

    Raises:
        LocalProtocolError: A secret cannot be rebuilt.
        NotFoundError: A masked vector is not in `blobs`.
    """
    kind = cohorts[0].terms.kind
    groups, total = [], None
    for cohort in cohorts:
        unmasking = opening.unmask(cohort)
        if unmasking.culprit is not None:
            raise LocalProtocolError("this cohort cannot be opened")
        place, section = _section(cohort, "sums")
        sums: list[Fraction] = []
        if section is not None:
            plain = _unmasked(cohort, unmasking, blobs, place, section, 0, section.length)
            sums = fixedpoint.decode_sums(np.ascontiguousarray(plain, np.uint64))
        weight = int(sums.pop(0)) if kind == "train" and sums else 0
        groups.append(OpenedGroup(cohort, unmasking, weight))
        total = sums if total is None else [one + other for one, other in zip(total, sums, strict=True)]
    found = tuple(groups)
    if not total:
        return OpenedSums(found)
    if private_sums.is_private(plan, cohorts[0].terms.kind):
        total = private_sums.decoded(plan, kind, total)
    if kind == "analysis":
        return OpenedSums(found, analyses=tuple(total))
    if kind != "statistics":
        asked = appraisal.length(plan.appraisal, plan.data) if plan.appraisal and kind == "evaluate" else 0
        rest = tuple(total[len(total) - asked :])
        evaluation = total[: len(total) - asked]
        return OpenedSums(found, evaluation_of(evaluation, plan.data) if evaluation else None, appraisal=rest)
    moments = 3 * data_contract.width(plan.data)
    return OpenedSums(found, None, _statistics(total[:moments], plan), _summaries(total[moments:], plan))


def mean_updates(opened: OpenedSums, run: Run, plan: Plan, blobs: Blobs, pool: Pool) -> Aggregate:
    """What the plan's rule makes of the groups' mean updates, over the whole model.

    Columns that the plan does not send have mean 0. Without groups there is one mean, which is the aggregate.

    Raises:
        LocalProtocolError: A sum holds no weight.
        NotFoundError: A masked vector is not in `blobs`.
    """
    columns = tensors.columns(plan.manifest)
    sent = sum(stop - start for start, stop in columns_sent(plan))
    means = GroupMeans(opened.groups, blobs, sent)
    made = updates.aggregate_groups(run, plan, means, [group.weight for group in opened.groups], pool)
    if made.means is None or sent == columns:
        return made
    return replace(made, means=_spread(made.means, columns_sent(plan), columns))


def _section(cohort: Cohort, name: str) -> tuple[int, Section | None]:
    """Where a section begins in a masked vector, in bytes, and the section, if there is one."""
    place = 0
    for section in cohort.terms.sections:
        if section.name == name:
            return place, section
        place += section.length * terms.element_bytes(section)
    return place, None


def _unmasked(
    cohort: Cohort, unmasking: Unmasking, blobs: Blobs, place: int, section: Section, start: int, stop: int
) -> npt.NDArray[np.unsignedinteger]:
    """The sum of the survivors' plain vectors in elements ``[start, stop)`` of one section."""
    width = terms.element_bytes(section)
    dtype = np.dtype(f"<u{width}")
    total = np.zeros(stop - start, dtype)
    for entry in cohort.survivors:
        data = blobs.read(Digest(entry.digest.hex()), place + start * width, place + stop * width)
        total += np.frombuffer(data, dtype)
    plus, minus = (
        [section_key(seed, cohort.transcript, section) for seed in seeds] for seeds in (unmasking.plus, unmasking.minus)
    )
    MaskStream(plus, minus, bits=section.bits, start=start).apply(total)
    return total


def _statistics(sums: list[Fraction], plan: Plan) -> dict[str, npt.NDArray[np.float64]]:
    width = data_contract.width(plan.data)
    vector = np.array([float(value) for value in sums], dtype=np.float64)
    return {
        name: vector[place * width : (place + 1) * width]
        for place, name in enumerate(("count", "sum", "sum_of_squares"))
    }


def _summaries(sums: list[Fraction], plan: Plan) -> list[dict[str, object]]:
    least_count = plan.secure.least_count if plan.secure else 1
    return summaries.results(plan.summaries, sums, plan.data, least_count=least_count)


def _spread(
    sent: Iterator[npt.NDArray[np.float64]], ranges: list[tuple[int, int]], columns: int
) -> Iterator[npt.NDArray[np.float64]]:
    """The sent columns at their places in the whole model, with zeros between them."""
    rest = np.empty(0)
    for start in range(0, columns, updates.CHUNK):
        stop = min(start + updates.CHUNK, columns)
        chunk = np.zeros(stop - start)
        for first, last in ranges:
            at, end = max(first, start), min(last, stop)
            while at < end:
                if not rest.size:
                    rest = next(sent)
                count = min(end - at, rest.size)
                chunk[at - start : at - start + count] = rest[:count]
                rest, at = rest[count:], at + count
        yield chunk
