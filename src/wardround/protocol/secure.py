"""What of a plan is added up in secret, and the terms of the cohorts that do it.

Hub and node build a cohort's terms from the plan by the same function; a node takes no others.

    round         section "update" (32 bit)            section "sums" (64 bit, exact)
    statistics                                         count, sum and sum of squares of each feature,
                                                       then the plan's summaries
    analysis                                           the numbers of the plan's analyses
    train         the arrays that the plan sends       weight, then the sums of the evaluation
    evaluate                                           the sums of the evaluation, then those of the appraisal

The sums of an evaluation are, for each metric that the outcome knows (sorted by name): the held-out
records on which it is defined, and these times its value; before them, all held-out records; after them, where
sites have models of their own, the same for these.
"""

import math
from collections.abc import Mapping, Sequence
from fractions import Fraction

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec import UNSET, UnsetType

from wardround import analysis
from wardround.clinical import appraisal, summaries
from wardround.clinical import contract as data_contract
from wardround.clinical.contract import METRICS, DataContract
from wardround.codec import fixedpoint
from wardround.codec.fixedpoint import Encoding
from wardround.ids import Digest, RunId, SiteId, StudyId
from wardround.protocol import private
from wardround.protocol.messages import Evaluation, Kind
from wardround.protocol.plan import BlobRef, Plan, SecureAggregation
from wardround.secagg.terms import Crowd, Section, Terms, signature_threshold

__all__ = [
    "EPOCH_SECONDS",
    "SecureTerms",
    "cohort_terms",
    "columns_sent",
    "encoding",
    "epoch_of",
    "evaluation_of",
    "evaluation_sums",
    "secure_terms",
    "statistics_values",
]

EPOCH_SECONDS = 86_400
_LARGEST_METRIC = 2.0**20


class SecureTerms(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What of a plan decides how its cohorts go; see `wardround.secagg.terms.Terms`."""

    roster: Digest
    minimum: int
    capacity: int
    clip: float
    max_weight: int
    stage_seconds: float
    site_metrics: bool
    sections: dict[str, tuple[Section, ...]]
    group_size: int = 0
    deviation: float = 0.0


def secure_terms(plan: Plan) -> SecureTerms | None:
    """The terms that a plan gives, or None where it has no secure aggregation."""
    secure = plan.secure
    if secure is None:
        return None
    models = 2 if plan.training.local.is_personal else 1
    evaluation = 0 if secure.site_metrics else 1 + 2 * models * len(METRICS[plan.data.label.outcome])
    sent = sum(stop - start for start, stop in columns_sent(plan))
    summary = sum(summaries.length(summary, plan.data) for summary in plan.summaries)
    sums = {
        "statistics": 3 * data_contract.width(plan.data) + summary,
        "analysis": analysis.length(plan.analyses, plan.data),
        "train": 1 + evaluation,
        "evaluate": evaluation + (appraisal.length(plan.appraisal, plan.data) if plan.appraisal else 0),
    }
    sections: dict[str, tuple[Section, ...]] = {
        kind: (Section("sums", 64, fixedpoint.DIGITS * count),) for kind, count in sums.items() if count
    }
    sections["train"] = (Section("update", 32, sent), *sections["train"])
    rule = _encoding(plan, secure)
    return SecureTerms(
        roster=secure.roster,
        minimum=plan.min_participants,
        capacity=rule.capacity,
        clip=rule.clip,
        max_weight=rule.max_weight,
        deviation=private.shared_deviation(plan, sent) if private.is_shared(plan) else 0.0,
        stage_seconds=secure.stage_seconds,
        site_metrics=secure.site_metrics,
        group_size=secure.group_size,
        sections=sections,
    )


def cohort_terms(
    secure: SecureTerms,
    *,
    study: StudyId,
    run: RunId,
    number: int,
    attempt: int,
    kind: Kind,
    nonces: Mapping[SiteId, bytes],
    bases: Mapping[SiteId, Digest],
    discounts: Mapping[SiteId, float],
    standardization: BlobRef | None,
    epoch: int,
    crowd: Crowd | UnsetType = UNSET,
) -> Terms:
    """The terms of one cohort; all follows from the plan but members, nonces, attempt, epoch and their models.

    Where a site has no entry in `discounts`, nothing is taken off its weight.
    """
    members = tuple(sorted(nonces))
    return Terms(
        study=study,
        run=run,
        number=number,
        attempt=attempt,
        kind=kind,
        roster=secure.roster,
        members=members,
        nonces=tuple(nonces[site] for site in members),
        bases=tuple(bases[site] for site in members),
        discounts=tuple(discounts.get(site, 1.0) for site in members),
        standardization=standardization.digest if standardization else "",
        threshold=signature_threshold(len(members)),
        minimum=secure.minimum,
        epoch=epoch,
        sections=secure.sections.get(kind, ()),
        capacity=secure.capacity,
        clip=secure.clip,
        max_weight=secure.max_weight,
        crowd=crowd,
        deviation=secure.deviation if secure.deviation and kind == "train" else UNSET,
    )


def _encoding(plan: Plan, secure: SecureAggregation) -> Encoding:
    """How updates become integers."""
    if private.is_shared(plan):
        return private.shared_encoding(plan)
    return Encoding(len(plan.participants), secure.clip, min(secure.max_weight, plan.limits.max_records))


def epoch_of(now: float) -> int:
    """Days since 1970-01-01 UTC: a pair key lasts one, then it is ratcheted."""
    return int(now // EPOCH_SECONDS)


def encoding(terms: Terms | SecureTerms) -> Encoding:
    """How updates become integers."""
    return Encoding(capacity=terms.capacity, clip=terms.clip, max_weight=terms.max_weight)


def columns_sent(plan: Plan) -> list[tuple[int, int]]:
    """Columns of the model's flat vector that are trained and sent, as ranges ``[start, stop)`` in order."""
    names = set(plan.secure.arrays) if plan.secure else set()
    ranges: list[tuple[int, int]] = []
    start = 0
    for spec in plan.manifest:
        stop = start + math.prod(spec.shape)
        if not names or spec.name in names:
            if ranges and ranges[-1][1] == start:
                ranges[-1] = (ranges[-1][0], stop)
            else:
                ranges.append((start, stop))
        start = stop
    return ranges


def evaluation_sums(evaluation: Evaluation, plan: Plan) -> npt.NDArray[np.float64]:
    """A site's evaluation as numbers to add up; a metric beyond a million counts as a million."""
    records = float(evaluation.records)
    sums = [records]
    models = [evaluation.metrics, evaluation.personal] if plan.training.local.is_personal else [evaluation.metrics]
    for found in models:
        for name in METRICS[plan.data.label.outcome]:
            value = found.get(name)
            if value is None:
                sums += [0.0, 0.0]
            else:
                sums += [records, records * min(max(value, -_LARGEST_METRIC), _LARGEST_METRIC)]
    return np.array(sums, dtype=np.float64)


def evaluation_of(sums: Sequence[Fraction], contract: DataContract) -> Evaluation:
    """The mean over all sites, each metric weighted by the held-out records on which it is defined."""
    names = METRICS[contract.label.outcome]
    found: list[dict[str, float | None]] = [{}, {}]
    for place in range((len(sums) - 1) // 2):
        records, total = sums[1 + 2 * place], sums[2 + 2 * place]
        found[place // len(names)][names[place % len(names)]] = float(total / records) if records > 0 else None
    return Evaluation(max(int(sums[0]), 0), found[0], found[1])


def statistics_values(arrays: Mapping[str, npt.NDArray[np.floating]]) -> npt.NDArray[np.float64]:
    """A site's column sums as one vector, in the order of `plan.statistics_manifest`."""
    return np.concatenate([np.asarray(arrays[name], np.float64) for name in ("count", "sum", "sum_of_squares")])
