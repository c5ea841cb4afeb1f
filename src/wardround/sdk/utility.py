"""What privacy may cost in utility: a study simulated on synthetic twins, at other epsilons and without noise.

The task is made up (`wardround.sdk.twins`): the curve shows where noise begins to hurt a model of this shape with so
many records, not how good it will be on yours. Nothing is asked of any site, and no budget is spent.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np

from wardround.errors import ConfigError
from wardround.protocol import private
from wardround.protocol.plan import Plan
from wardround.sdk import planning, twins
from wardround.sdk.predict import predict
from wardround.sdk.simulate import simulate
from wardround.sdk.study import Study
from wardround.training import metrics

__all__ = ["EPSILONS", "Point", "measure", "utility_curve"]

EPSILONS = (0.5, 1.0, 2.0, 4.0, 8.0)
_TEST_RECORDS = 4000
_NEVER = 2**40
_MOST_NOISE = 1e4
_MEASURES: dict[str, tuple[str, metrics.Metric]] = {
    "binary": ("accuracy", metrics.accuracy),
    "multiclass": ("accuracy", metrics.multiclass_accuracy),
    "number": ("r2", metrics.r2),
    "survival": ("c_index", metrics.c_index),
}


@dataclass(frozen=True, slots=True)
class Point:
    """A place on the utility curve: the measure of each repeat on fresh made-up records.

    `epsilon` is None without privacy; `noise` is None there, and where no noise reaches this epsilon (then there are no
    scores). `is_plan` marks the plan as it is.
    """

    epsilon: float | None
    noise: float | None
    scores: tuple[float, ...]
    is_plan: bool = False

    @property
    def mean(self) -> float:
        """Of the scores; NaN where there are none."""
        return float(np.mean(self.scores)) if self.scores else math.nan


def measure(plan: Plan) -> str:
    """By what a plan's utility is measured, higher being better: accuracy, r2 or c_index."""
    return _MEASURES[plan.data.label.outcome][0]


def utility_curve(
    study: Study,
    epsilons: Sequence[float] = EPSILONS,
    *,
    records: int = 200,
    repeats: int = 3,
    seed: int = 0,
    progress: Callable[[str], None] = lambda _: None,
) -> list[Point]:
    """Simulate the study on twins without privacy, at each epsilon and as planned; tested on fresh records.

    Every repeat has another made-up task, the same for all epsilons. The noise is the least by Rényi costs for the
    whole plan, statistics and metrics too; summaries, analyses and the appraisal are left out. Masks are left out
    where only sums are asked for, and noise that the sites share is drawn at once.

    Args:
        study: A private one with training rounds.
        epsilons: To try.
        records: At each site, held-out ones among them.
        repeats: How many made-up tasks.
        seed: Of the first.
        progress: Told in words before each simulation.

    Returns:
        The point without privacy, then the others by rising epsilon.

    Raises:
        ConfigError: The study is not private or trains no model, a number is not positive, or a run gave no model.
    """
    plan = study.plan
    if plan.privacy is None or not plan.training.rounds:
        raise ConfigError("a utility curve needs a plan with a [privacy] section and training rounds")
    if not epsilons or not all(math.isfinite(one) and one > 0 for one in epsilons) or min(records, repeats) < 1:
        raise ConfigError("epsilons are finite and above 0, records and repeats at least 1")
    planned = private.epsilon(plan)
    asked = [(one, planning.noise_for(plan, one), False) for one in sorted(set(epsilons))]
    if planned <= planning.MOST_EPSILON:
        asked.append((planned, plan.privacy.noise_multiplier, True))
        asked.sort()
    points = []
    for epsilon, noise, is_plan in [(None, None, False), *asked]:
        scores = []
        for repeat in range(repeats if epsilon is None or noise is not None else 0):
            named = "without privacy" if epsilon is None else f"epsilon {epsilon:.4g}"
            progress(f"{named}, repeat {repeat + 1} of {repeats}")
            scores.append(_score(_trial(study, noise, records), records, seed + repeat))
        points.append(Point(epsilon, noise, tuple(scores), is_plan))
    return points


def _trial(study: Study, noise: float | None, records: int) -> Study:
    """The study as it is simulated: with this noise or none, and without what is no training."""
    plan, privacy, training, secure = study.plan, study.plan.privacy, study.plan.training, study.plan.secure
    if secure is not None and not secure.arrays and not secure.group_size:
        secure = None  # masks cancel, and are most of the time
    if privacy is not None and noise is not None:
        if privacy.noise == "shared" and secure is None:
            # What the sites' shares come to, drawn at once: all of them, and not only those that must be honest.
            noise = min(noise * math.sqrt(len(plan.participants) / private.honest_share(plan)), _MOST_NOISE)
            privacy = msgspec.structs.replace(privacy, noise="central", colluding=0)
        statistics = privacy.statistics_noise if plan.data.scaling == "federated" else 0.0
        privacy = msgspec.structs.replace(
            privacy, noise_multiplier=noise, statistics_noise=statistics, evaluation_noise=0.0
        )
    elif privacy is not None:
        # Batches as large as a private step's are on average, so that nothing but the noise and the clipping differs.
        if privacy.unit == "patient":
            expected = max(1, round(privacy.sampling_rate * records * (1 - plan.data.holdout)))
            training = msgspec.structs.replace(training, batch_size=expected)
        privacy = None
    tried = msgspec.structs.replace(
        plan,
        data=msgspec.structs.replace(plan.data, min_records=1),
        training=training,
        secure=secure,
        summaries=(),
        analyses=(),
        appraisal=None,
        privacy=privacy,
        expires=_NEVER,
    )
    return Study(tried, study.initial, study.package)


def _score(study: Study, records: int, seed: int) -> float:
    plan = study.plan
    result = simulate(study, dict(twins.twins(plan, records, seed)))
    test = twins.fresh(plan, _TEST_RECORDS, seed)
    outputs = predict(plan, result.model, result.standardization, test.features, package=study.package or b"")
    value = _MEASURES[plan.data.label.outcome][1](test.labels.astype(np.float64), outputs.astype(np.float64))
    return 0.0 if value is None else value  # undefined where a model is no longer finite
