"""What a site adds to the last evaluation: intervals of its own metrics, and its numbers for the plan's appraisal."""

import numpy as np
import numpy.typing as npt

from wardround.clinical import appraisal
from wardround.protocol.plan import Plan
from wardround.training import metrics

__all__ = ["appraised"]


def appraised(
    plan: Plan,
    labels: npt.NDArray[np.float32],
    predicted: npt.NDArray[np.float32],
    features: npt.NDArray[np.float32],
) -> tuple[dict[str, tuple[float, float]], tuple[float, ...]]:
    """Intervals by metric where both bounds are defined, and the numbers; all of the held-out records.

    Args:
        plan: With an appraisal; without one there is nothing.
        labels: float32, shape=(records,) or (records, 2).
        predicted: What the model puts out for them.
        features: float32, shape=(records, width), in the contract's units.
    """
    asked, contract = plan.appraisal, plan.data
    if asked is None:
        return {}, ()

    def measure(truth: metrics.Array, guess: metrics.Array) -> dict[str, float | None]:
        return metrics.evaluate(contract.label.outcome, truth, guess)

    numbers = appraisal.site_sums(asked, contract, labels, predicted, features, plan.seed)
    found = appraisal.site_intervals(contract, labels, predicted, plan.seed, asked.resamples, measure)
    bounds = {
        name: (float(low), float(high))
        for name, one in found.items()
        if (low := one["low"]) is not None and (high := one["high"]) is not None
    }
    return bounds, tuple(numbers.tolist())
