"""What a plan says about differential privacy, and which mechanisms that makes: accounted, reserved and reported.

    unit      noise     where it is added                                  who must not be trusted
    patient   local     to every step's gradient at the site               anybody outside the site
    patient   shared    to each site's masked sum of gradients             the hub, and `colluding` sites
    patient   central   to the sum of all sites' gradients, at the hub     whoever sees the model; the hub is trusted
    site      any       to whole updates, each clipped to `clip`           as above

Neighbours differ in one patient at one site (or in one site), whose contribution is replaced by zero: how many
patients and sites there are is no secret. With "shared" and "central", a round is one step of the sum of gradients over
all sites; every site adds ``1 / (min_participants - colluding)`` of the variance, so that the least cohort has all
of it without them.

    sampling    what is accounted                                           needs
    poisson     sampled Gaussian, rate `sampling_rate`                      secret coins at the site
    passes      Gaussian, once per pass of ``1 / sampling_rate`` batches    nothing: for sites that are always on

References: `wardround.privacy.mechanisms`, `wardround.privacy.factorization`, and
    Kairouz, Liu, Steinke. The Distributed Discrete Gaussian Mechanism. ICML 2021. arXiv:2102.06387.
    Andrew et al. Differentially Private Learning with Adaptive Clipping. NeurIPS 2021. arXiv:1905.03871.
"""

import math
from collections.abc import Sequence
from typing import Any, Literal, Protocol

import msgspec

from wardround import analysis
from wardround.analysis import Analysis
from wardround.clinical.contract import DataContract
from wardround.codec.fixedpoint import Encoding
from wardround.codec.tensors import Manifest
from wardround.errors import CodecError
from wardround.ids import SiteId
from wardround.privacy import factorization, rdp
from wardround.privacy.mechanisms import Gaussian, Laplace, Mechanism, SampledGaussian
from wardround.privacy.noising import Distribution
from wardround.protocol.learning import Training

__all__ = [
    "METRICS",
    "Privacy",
    "batches_per_pass",
    "charges",
    "clipped_share_noise",
    "composed",
    "epsilon",
    "gradient_noise",
    "honest_share",
    "is_shared",
    "sensitivity",
    "shared_deviation",
    "shared_encoding",
    "statistics_rounds",
    "uses",
]

METRICS = {"binary": ("accuracy", "brier", "log_loss"), "multiclass": ("accuracy", "log_loss")}
"""Metrics of which each patient's part is bounded, so that noise can cover it."""

_COUNT_SHARE = 5.0
_FLOAT32 = 2.0**-23
_NOISE_ROOM = 16.0


class Privacy(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Differential privacy of a study.

    Attributes:
        delta: The delta of its guarantee; below one over the number of patients at every site.
        unit: Whose part is hidden: one patient's at a site, or one site's whole.
        noise: Where noise is added: at each site, shared by all sites under secure aggregation, or at the hub.
        distribution: "laplace" is for sites' updates and for statistics; it bounds the first norm.
        clip: The norm that a patient's gradient, or a site's update, is clipped to; with `clip_quantile` the first.
        clip_quantile: The share of patients whose gradients the clipping norm shall leave whole; 0: it stays as it is.
        noise_multiplier: The noise's standard deviation, or scale, over `clip`.
        sampling: "poisson": each patient takes part in a step by an own secret coin. "passes": in turns.
        sampling_rate: The share of patients in a step.
        band: With "passes": over how many steps noise is correlated; 1: not at all.
        patient_records: Of one patient at most so many records count in a step.
        colluding: With "shared": how many sites may tell the hub what noise they added.
        statistics_noise: Noise multiplier of each round of statistics and analyses; 0: there are none.
        evaluation_noise: Noise multiplier of the last evaluation's metrics; 0: no metric leaves a site.
    """

    delta: float
    unit: Literal["patient", "site"] = "patient"
    noise: Literal["local", "shared", "central"] = "local"
    distribution: Distribution = "gaussian"
    clip: float = 1.0
    clip_quantile: float = 0.0
    noise_multiplier: float
    sampling: Literal["poisson", "passes"] = "poisson"
    sampling_rate: float = 1.0
    band: int = 1
    patient_records: int = 1
    colluding: int = 0
    statistics_noise: float = 0.0
    evaluation_noise: float = 0.0


class Plan(Protocol):
    """What is needed of a `wardround.protocol.plan.Plan`, which is made of this module's `Privacy` itself."""

    @property
    def data(self) -> DataContract:
        """The contract."""
        ...

    @property
    def training(self) -> Training:
        """Rounds and local work."""
        ...

    @property
    def manifest(self) -> Manifest:
        """The model's arrays."""
        ...

    @property
    def participants(self) -> tuple[SiteId, ...]:
        """All sites."""
        ...

    @property
    def min_participants(self) -> int:
        """The least cohort."""
        ...

    @property
    def limits(self) -> Any:  # noqa: ANN401, the plan's own type
        """What bounds a site's weight."""
        ...

    @property
    def summaries(self) -> Sequence[object]:
        """Counts, moments, histograms."""
        ...

    @property
    def analyses(self) -> tuple[Analysis, ...]:
        """Rounds of sums."""
        ...

    @property
    def appraisal(self) -> object | None:
        """Curves and intervals."""
        ...

    @property
    def aggregation(self) -> Any:  # noqa: ANN401, the plan's own type
        """How updates become one."""
        ...

    @property
    def screening(self) -> object | None:
        """Which updates are set aside."""
        ...

    @property
    def secure(self) -> Any:  # noqa: ANN401, the plan's own type
        """Secure aggregation, or None."""
        ...

    @property
    def privacy(self) -> Privacy | None:
        """What this module is about."""
        ...


def uses(plan: Plan) -> dict[str, tuple[Mechanism, int]]:
    """For each kind of round, the mechanism of one round at a site, and how many there are; empty without privacy."""
    privacy, training = plan.privacy, plan.training
    if privacy is None:
        return {}
    found: dict[str, tuple[Mechanism, int]] = {}
    if privacy.statistics_noise:
        one = _plain(privacy.distribution, privacy.statistics_noise)
        first, later = statistics_rounds(plan.data, bool(plan.summaries), plan.analyses)
        found |= {"statistics": (one, first)} if first else {}
        found |= {"analysis": (one, later)} if later else {}
    if training.rounds:
        found["train"] = (_training(privacy, training), training.rounds)
    if privacy.evaluation_noise:
        found["evaluate"] = (Gaussian(noise_multiplier=privacy.evaluation_noise), 1)
    return found


def charges(plan: Plan) -> dict[str, dict[str, tuple[Mechanism, int]]]:
    """By unit, what a site's budgets are charged for: patients' first.

    Where a whole site is hidden, its patients are too, but not as well: without one of them the update can lie on the
    other side of the ball to which it is clipped, twice as far away as zero. So they are charged for half of the noise.
    """
    found = uses(plan)
    if plan.privacy is None or plan.privacy.unit == "patient":
        return {"patient": found} if found else {}
    return {"patient": {kind: (_halved(one), count) for kind, (one, count) in found.items()}, "site": found}


def composed(plan: Plan) -> list[Mechanism]:
    """All that a plan does with one patient, or one site, as mechanisms with their steps."""
    return [msgspec.structs.replace(one, steps=one.steps * count) for one, count in uses(plan).values()]


def epsilon(plan: Plan) -> float:
    """Epsilon of the whole plan for its delta, by Rényi costs; infinite without privacy."""
    if plan.privacy is None:
        return math.inf
    costs = [rdp.cost(one) for one in composed(plan)]
    totals = [math.fsum(parts) for parts in zip(*costs, strict=True)] if costs else [0.0] * len(rdp.ORDERS)
    return rdp.epsilon(totals, plan.privacy.delta)


def statistics_rounds(contract: DataContract, has_summaries: bool, analyses: Sequence[Analysis]) -> tuple[int, int]:  # noqa: FBT001
    """How many rounds of statistics there are, and at most of analyses."""
    return int(contract.scaling == "federated" or has_summaries), analysis.rounds(analyses)


def batches_per_pass(privacy: Privacy) -> int:
    """With "passes": into how many batches the patients are dealt."""
    return max(1, round(1 / privacy.sampling_rate))


def gradient_noise(privacy: Privacy) -> float:
    """Noise multiplier of the gradients alone: more than the plan's where the clipping norm is learned beside.

    With noise ``z`` in all and the count's ``b`` (of sensitivity one half): ``(z**-2 - (2 b)**-2) ** -0.5``.
    """
    if not privacy.clip_quantile:
        return privacy.noise_multiplier
    return 1 / math.sqrt(privacy.noise_multiplier**-2 - (2 * clipped_share_noise(privacy)) ** -2)


def clipped_share_noise(privacy: Privacy) -> float:
    """Standard deviation of the noise on how many patients' gradients were left whole: 5 times the gradients'."""
    return _COUNT_SHARE * privacy.noise_multiplier


def sensitivity(plan: Plan) -> float:
    """How far one patient, or site, moves the weighted sum of updates: the norm that shared and central noise covers.

    A patient moves a site's sum of gradients by `clip`; times learning rate over sampling rate is what the sum of
    records times update moves. Updates are float32, so what others' patients add may round otherwise: that is in it,
    for the most records that a site counts for. A site's update counts once, whatever its records.
    """
    privacy, training = plan.privacy, plan.training
    if privacy is None:
        raise CodecError("a plan without privacy bounds nobody's part")
    if privacy.unit == "site":
        return privacy.clip
    most: int = min(plan.secure.max_weight, plan.limits.max_records) if plan.secure else plan.limits.max_records
    moved = training.optimizer.learning_rate * privacy.clip / privacy.sampling_rate
    return moved * (1 + _FLOAT32 * most)


def is_shared(plan: Plan) -> bool:
    """Whether sites add parts of one noise to the integers of their updates."""
    return plan.privacy is not None and plan.privacy.noise == "shared" and plan.training.rounds > 0


def shared_encoding(plan: Plan) -> Encoding:
    """How updates become integers where noise is shared: half of the range is left for that.

    One patient, or site, moves the weighted sum by `sensitivity`, which bounds each coordinate too; so much is
    ``limit / max_weight`` integers. Twelve standard deviations of the sum of all noise fit into the half that is left.
    """
    noise = plan.privacy.noise_multiplier if plan.privacy else 0.0
    weight = max(min(plan.secure.max_weight, plan.limits.max_records), math.ceil(_NOISE_ROOM * noise))
    return Encoding(2 * len(plan.participants), sensitivity(plan), weight)


def shared_deviation(plan: Plan, columns: int) -> float:
    """Standard deviation of the noise that each site adds to its integers.

    Rounding moves each of the columns of two neighbours apart by at most one more, whatever their random words.
    """
    rule = shared_encoding(plan)
    noise = plan.privacy.noise_multiplier if plan.privacy else 0.0
    return noise * (rule.limit / rule.max_weight + math.sqrt(columns)) / math.sqrt(honest_share(plan))


def honest_share(plan: Plan) -> int:
    """Among how many sites the noise is shared: the least cohort without the colluding."""
    return plan.min_participants - plan.privacy.colluding if plan.privacy else 1


def _halved(mechanism: Mechanism) -> Mechanism:
    if isinstance(mechanism, Laplace):
        return msgspec.structs.replace(mechanism, scale=mechanism.scale / 2)
    return msgspec.structs.replace(mechanism, noise_multiplier=mechanism.noise_multiplier / 2)


def _plain(distribution: Distribution, noise: float) -> Mechanism:
    return Gaussian(noise_multiplier=noise) if distribution == "gaussian" else Laplace(scale=noise)


def _training(privacy: Privacy, training: Training) -> Mechanism:
    if privacy.unit == "site":
        return _plain(privacy.distribution, privacy.noise_multiplier)
    if privacy.sampling == "passes":
        turns = -(-training.steps // batches_per_pass(privacy))
        return Gaussian(
            noise_multiplier=privacy.noise_multiplier / factorization.column_norm(privacy.band), steps=turns
        )
    if privacy.sampling_rate == 1.0:
        return Gaussian(noise_multiplier=privacy.noise_multiplier, steps=training.steps)
    return SampledGaussian(
        noise_multiplier=privacy.noise_multiplier, sampling_rate=privacy.sampling_rate, steps=training.steps
    )
