"""Which private plans no run could follow, or would let something leave without noise: refused, all of them."""

import math

from wardround.analysis import KaplanMeier, Quantiles
from wardround.clinical.contract import numeric_columns_without_bounds
from wardround.errors import CodecError
from wardround.privacy import mechanisms
from wardround.protocol import private
from wardround.protocol.private import Plan, Privacy

__all__ = ["check"]

_MOST_NOISE = 1e4
_LEAST_NOISE = 1e-3
_MOST_RECORDS = 100_000
_MOST_BAND = 1000
_LEAST_MOVE = 1e-9
_LEAST_DEVIATION = 4.0
"""From here on the sum of discrete Gaussians is one within e^-150 (Kairouz et al., Theorem 1)."""


def check(plan: Plan, privacy: Privacy) -> None:
    """Refuse what could not be followed, or would let something leave without noise.

    Raises:
        CodecError: Says which setting.
    """
    _check_numbers(privacy)
    _check_what_leaves(plan, privacy)
    training = plan.training
    if training.local.is_personal:
        raise CodecError("privacy: kept arrays, personal and fine-tuned models are trained without noise: leave them")
    if plan.manifest[0].dtype != "float32":
        raise CodecError("privacy: a private model is float32")
    if privacy.unit == "patient":
        _check_patient(plan, privacy)
    elif (privacy.sampling, privacy.sampling_rate, privacy.band) != ("poisson", 1.0, 1) or privacy.clip_quantile:
        raise CodecError("privacy: with the unit site nothing is sampled, and its clip stays as it is")
    if privacy.distribution == "laplace" and (
        privacy.noise != "local" or (training.rounds and privacy.unit == "patient")
    ):
        raise CodecError("privacy: laplace is for statistics, and for the updates of sites, with local noise")
    if privacy.noise != "local":
        _check_together(plan, privacy)
    for mechanism, _ in private.uses(plan).values():
        mechanisms.check(mechanism)


def _check_numbers(privacy: Privacy) -> None:
    if not 0 < privacy.delta < 0.5:
        raise CodecError("privacy: delta lies above 0 and below 0.5, and below one over the patients of a site")
    if not (math.isfinite(privacy.clip) and 1e-9 <= privacy.clip <= 1e6):
        raise CodecError("privacy: clip lies between 1e-9 and 1e6: without a bound there is no privacy")
    if not _LEAST_NOISE <= privacy.noise_multiplier <= _MOST_NOISE:
        raise CodecError(f"privacy: noise_multiplier lies between {_LEAST_NOISE:g} and {_MOST_NOISE:g}")
    for name in ("statistics_noise", "evaluation_noise"):
        value = getattr(privacy, name)
        if value != 0 and not _LEAST_NOISE <= value <= _MOST_NOISE:
            raise CodecError(f"privacy: {name} is 0 or lies between {_LEAST_NOISE:g} and {_MOST_NOISE:g}")
    if not 0 < privacy.sampling_rate <= 1:
        raise CodecError("privacy: sampling_rate lies above 0 and at most at 1")
    if not 0 <= privacy.clip_quantile < 1:
        raise CodecError("privacy: clip_quantile lies at 0 or above, and below 1")
    if not (1 <= privacy.patient_records <= _MOST_RECORDS and 1 <= privacy.band <= _MOST_BAND):
        raise CodecError("privacy: patient_records and band are whole numbers above 0")
    if privacy.colluding < 0 or (privacy.colluding and privacy.noise != "shared"):
        raise CodecError("privacy: colluding is a number of sites, for shared noise")


def _check_what_leaves(plan: Plan, privacy: Privacy) -> None:
    first, later = private.statistics_rounds(plan.data, bool(plan.summaries), plan.analyses)
    is_asked = bool(first or later)
    if is_asked and not privacy.statistics_noise:
        raise CodecError(
            'privacy: statistics need statistics_noise; or leave them out, with scaling = "bounds" or "none"'
        )
    if privacy.statistics_noise and (not is_asked or privacy.unit == "site"):
        raise CodecError("privacy: statistics_noise is for the patients of a study that has statistics")
    if any(not isinstance(one, Quantiles | KaplanMeier) for one in plan.analyses):
        raise CodecError("privacy: of the analyses, quantiles and kaplan-meier can be private")
    if (unbounded := numeric_columns_without_bounds(plan.data)) and (is_asked or plan.data.scaling == "bounds"):
        raise CodecError(f"privacy: column {unbounded[0]!r} needs minimum and maximum: they bound what a patient adds")
    if refusing := [column.name for column in plan.data.columns if column.missing == "refuse"]:
        raise CodecError(f"privacy: column {refusing[0]!r} refuses gaps, and a refusal would tell of one patient")
    if plan.appraisal is not None:
        raise CodecError("privacy: an appraisal is not noised, so a private plan has none")
    if privacy.evaluation_noise and (privacy.unit == "site" or plan.data.label.outcome not in private.METRICS):
        raise CodecError("privacy: evaluation_noise is for binary and multiclass labels, with the unit patient")


def _check_patient(plan: Plan, privacy: Privacy) -> None:
    training = plan.training
    if plan.data.label.outcome == "survival" and training.rounds:
        raise CodecError("privacy: the loss of a survival label mixes patients, so it has no gradient of one patient")
    if training.rounds and not training.steps:
        raise CodecError("privacy: a private round has steps instead of epochs: set epochs = 0")
    if privacy.sampling == "passes" and privacy.band > private.batches_per_pass(privacy):
        raise CodecError("privacy: band is at most the number of batches of a pass: the steps between two turns")
    if privacy.sampling == "poisson" and privacy.band != 1:
        raise CodecError('privacy: a band needs sampling = "passes"')
    if privacy.clip_quantile and (privacy.noise != "local" or privacy.band != 1):
        raise CodecError("privacy: a clip_quantile needs local noise, and no band")


def _check_together(plan: Plan, privacy: Privacy) -> None:
    training, optimizer = plan.training, plan.training.optimizer
    if (privacy.noise == "shared") != (plan.secure is not None):
        raise CodecError("privacy: shared noise, and no central noise, goes with secure aggregation")
    if not _LEAST_MOVE <= private.sensitivity(plan) <= 1 / _LEAST_MOVE:
        raise CodecError(f"privacy: learning_rate * clip / sampling_rate lies between {_LEAST_MOVE:g} and its inverse")
    if plan.screening is not None:
        raise CodecError("privacy: screening would tell of updates without noise")
    if plan.aggregation.rule != "mean" or plan.aggregation.mixing != "none" or (plan.secure and plan.secure.group_size):
        raise CodecError("privacy: shared and central noise are on a mean over all sites: no other rule, no groups")
    if training.asynchronous is not None or training.local.divergence or training.local.algorithm != "plain":
        raise CodecError("privacy: shared and central noise need plain synchronous rounds, and no divergence")
    if private.honest_share(plan) < 1:
        raise CodecError("privacy: min_participants less colluding must leave a site to add noise")
    if private.is_shared(plan) and private.shared_deviation(plan, 0) < _LEAST_DEVIATION:
        raise CodecError("privacy: a smaller max_weight is needed, to leave integers for the noise of each site")
    is_plain = optimizer.name == "sgd" and not optimizer.momentum and not optimizer.weight_decay
    if (
        privacy.unit == "patient"
        and training.rounds
        and not (
            training.steps == 1 and is_plain and privacy.sampling == "poisson" and not training.local.normalized_steps
        )
    ):
        raise CodecError("privacy: with shared and central noise a round is one step of plain sgd: steps = 1")
