"""From a plan to the terms of its run: which rounds there are, what bounds them, and what lateness costs."""

from wardround import analysis
from wardround.aggregation import robust, staleness
from wardround.clinical import appraisal
from wardround.codec import tensors
from wardround.ids import RunId, SiteId, study_of
from wardround.protocol.events import RunTerms
from wardround.protocol.learning import sites_share
from wardround.protocol.messages import Kind
from wardround.protocol.plan import Plan, aggregation_rule, statistics_manifest
from wardround.protocol.secure import secure_terms

__all__ = ["agenda_of", "discount_of", "quorum_of", "terms_of"]


def agenda_of(plan: Plan) -> tuple[Kind, ...]:
    """What a plan's rounds are for, from the first."""
    first: list[Kind] = ["statistics"] if plan.data.scaling == "federated" or plan.summaries else []
    between: list[Kind] = ["analysis"] * analysis.rounds(plan.analyses)
    train: list[Kind] = ["train"] * plan.training.rounds
    last: list[Kind] = ["evaluate"] if train else []
    return (*first, *between, *train, *last)


def terms_of(run: RunId, plan: Plan, sites: tuple[SiteId, ...]) -> RunTerms:
    """What of a plan decides how its run goes."""
    return RunTerms(
        run=run,
        study=study_of(run),
        sites=sites,
        quorum=quorum_of(plan),
        agenda=agenda_of(plan),
        update_size=plan.initial.size,
        statistics_size=tensors.file_bytes(statistics_manifest(plan.data)),
        max_records=plan.limits.max_records,
        round_timeout_seconds=plan.limits.round_timeout_seconds,
        absence_seconds=plan.limits.absence_seconds,
        patience=plan.limits.patience,
        expires=plan.expires,
        secure=secure_terms(plan),
        asynchronous=plan.training.asynchronous,
        screening=plan.screening,
        appraisal_numbers=appraisal.length(plan.appraisal, plan.data) if plan.appraisal else 0,
        is_controlled=sites_share(plan.training.local),
    )


def quorum_of(plan: Plan) -> int:
    """The least number of sites in a round: the plan's minimum, or what as many groups as its rule needs take."""
    if plan.secure is None or not plan.secure.group_size:
        return plan.min_participants
    return plan.secure.group_size * robust.least_participants(aggregation_rule(plan, plan.participants))


def discount_of(terms: RunTerms, number: int, trained: int) -> float:
    """What is left in round `number` of the weight of an update that was trained for round `trained`.

    Raises:
        ValueError: It was trained for a round to come.
    """
    late = terms.buffered(number)
    if late is None:
        return 1.0
    return staleness.discount(late.staleness, number - trained, slope=late.slope, grace=late.grace)
