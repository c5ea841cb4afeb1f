"""The privacy gate: checks with a figure, a bound and words, and the verdict over them.

    mechanism        noise, clipping and sampling are what was accounted          `wardround.privacy.probes`
    one-run audit    the lower bound lies below the claim, and where that of a correct mechanism lies
    membership       what an attack on a released model finds
    exposure         what a released model says of planted canaries
    inversion        what a released gradient shows of records

A lower bound below the claim is a weak test alone: with a claimed epsilon of 5.87 a mechanism with a third of its
noise passes it. So the audit is compared, too, with simulated audits of the correct mechanism, and fails beyond their
99.9 % quantile; a correct mechanism does so once in a thousand. An audit that sees less than 99.9 % of those of the
correct mechanism, and an inversion that fails where nothing protects, fail as well: they are blind, and prove nothing.

The functions draw from the seeds that they are given; nothing else is random.

References:
    Steinke, Nasr, Jagielski. Privacy Auditing with One (1) Training Run. NeurIPS 2023. arXiv:2305.08846.
    Nasr et al. Tight Auditing of Differentially Private Machine Learning. arXiv:2302.07956 (Dirac canaries).
    Kairouz, Oh, Viswanath. The Composition Theorem for Differential Privacy. ICML 2015. arXiv:1311.0776
    (rates under (epsilon, delta): TPR <= e^epsilon FPR + delta).
"""

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from wardround.privacy.empirical import OneRun, Rate, Roc, default_guesses, one_run

__all__ = [
    "Audit",
    "Check",
    "Correct",
    "Gate",
    "Release",
    "allowed_rate",
    "audit_release",
    "exposure_check",
    "generator",
    "inversion_checks",
    "membership_checks",
]

_Vector = npt.NDArray[np.float64]
_Flags = npt.NDArray[np.bool_]

Release = Callable[[_Flags], _Vector]
"""Train with the canaries that are included, bool ``(canaries,)``, and say how much of each was released, float64
``(canaries,)``: the higher, the likelier it was in."""

Correct = Callable[[_Flags, np.random.Generator], _Vector]  # noqa: TID251, made from a seed
"""The same for the mechanism as it was accounted, simulated with a generator."""

_QUANTILE = 0.999


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at. `words` say what the figure is and what the bound asks of it."""

    name: str
    passed: bool
    figure: float
    bound: float
    words: str


@dataclass(frozen=True, slots=True)
class Gate:
    """The verdict over checks: all of them must pass, and there must be one."""

    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        """Whether anything was checked, and nothing failed."""
        return bool(self.checks) and not self.failures

    @property
    def failures(self) -> tuple[Check, ...]:
        """The checks that did not pass, in order."""
        return tuple(check for check in self.checks if not check.passed)

    def document(self) -> dict[str, object]:
        """The verdict as JSON-able values; a figure that is not finite becomes None."""
        rows = [
            {
                "name": check.name,
                "passed": check.passed,
                "figure": _finite(check.figure),
                "bound": _finite(check.bound),
                "words": check.words,
            }
            for check in self.checks
        ]
        return {"passed": self.passed, "checks": rows}


@dataclass(frozen=True, slots=True)
class Audit:
    """A one-run audit: what it found, and the same of simulated audits of the correct mechanism."""

    found: OneRun
    claimed: float
    usual_low: float
    usual_median: float
    usual_high: float
    checks: tuple[Check, ...]


def generator(seed: bytes, purpose: str) -> np.random.Generator:  # noqa: TID251, made from a seed
    """A generator for one purpose: the same seed and purpose give the same numbers."""
    drawn = hashlib.sha256(seed + b"\n" + purpose.encode()).digest()
    return np.random.default_rng(int.from_bytes(drawn, "big"))  # noqa: TID251, the seed is passed


def audit_release(
    release: Release,
    canaries: int,
    *,
    epsilon: float,
    delta: float,
    correct: Correct,
    seed: bytes,
    p_value: float = 0.05,
    draws: int = 2000,
) -> Audit:
    """Throw a coin for each canary, train once, and bound epsilon from below.

    Args:
        release: Runs the real training, white box: its scores come from all that was released.
        canaries: How many; thousands, for claims of 1 to 3. Each is a patient of its own in the accounting.
        epsilon: Claimed for one patient whose part is replaced by zeros, over all that `release` releases.
        delta: Of the claim.
        correct: The mechanism as it was accounted; `wardround.privacy.probes.gaussian_scores` for Dirac canaries.
        seed: Of the coins and the simulation.
        p_value: Of the lower bound, for all numbers of guesses together.
        draws: How many audits of the correct mechanism are simulated; at least 1,000 to know the quantile.

    Raises:
        ValueError: There are too few canaries or draws, or a score is not finite.
    """
    if draws < 1000:
        raise ValueError("a quantile of 99.9 % needs 1,000 draws")
    coins, guesses = generator(seed, "coins"), default_guesses(canaries)
    included = coins.random(canaries) < 0.5
    found = one_run(release(included), included, delta, p_value=p_value, guesses=guesses)
    simulated = generator(seed, "simulation")
    bounds = np.empty(draws)
    for place in range(draws):
        thrown = simulated.random(canaries) < 0.5
        scores = correct(thrown, simulated)
        bounds[place] = one_run(scores, thrown, delta, p_value=p_value, guesses=guesses).epsilon
    low = float(np.quantile(bounds, 1 - _QUANTILE, method="lower"))
    high = float(np.quantile(bounds, _QUANTILE, method="higher"))
    middle = float(np.median(bounds))
    checks = (
        Check(
            "one-run audit: the claim",
            found.epsilon <= epsilon,
            found.epsilon,
            epsilon,
            f"lower bound on epsilon, {found.correct} right of {found.guesses} guesses; at most the claimed epsilon",
        ),
        Check(
            "one-run audit: the correct mechanism",
            found.epsilon <= high,
            found.epsilon,
            high,
            "lower bound on epsilon; at most the 99.9 % quantile of simulated audits of the correct mechanism",
        ),
        Check(
            "one-run audit: sight",
            middle > 0 and found.epsilon >= low,
            found.epsilon,
            low,
            f"lower bound on epsilon; at least the 0.1 % quantile of simulated audits, whose median, {middle:.3f}, "
            "must lie above 0: an audit that sees no canaries proves nothing",
        ),
    )
    return Audit(found, epsilon, low, middle, high, checks)


def allowed_rate(false_positive_rate: float, epsilon: float, delta: float) -> float:
    """The highest true positive rate of any attack on an (epsilon, delta)-private release at a false positive rate."""
    if epsilon > 700.0:
        return 1.0
    above = math.exp(epsilon) * false_positive_rate + delta
    below = 1 - math.exp(-epsilon) * (1 - delta - false_positive_rate)
    return max(0.0, min(above, below, 1.0))


def membership_checks(
    name: str,
    found: Roc,
    *,
    rates: Sequence[float] = (0.001, 0.01),
    claim: tuple[float, float] | None = None,
    policy: float | None = None,
    confidence: float = 0.95,
) -> tuple[Check, ...]:
    """What an attack found, against what was claimed and against what policy allows; without either, no checks.

    The two ask different questions, so they use different ends of the interval. A claim is a proof about the code: it
    is refuted only when even the lower bound of the true positive rate lies above what (epsilon, delta) allows at the
    upper bound of the false positive rate, so that few patients never refute a correct mechanism. A policy wants
    leakage shown to be small: the upper bound must lie below it, so that few patients never pass for private.

    Args:
        name: Of the attack.
        found: Its curve, over patients: epsilon is of a patient, and records of one patient are no independent trials.
        rates: False positive rates at which to look. Below 1 / non-members they stand for "no false positive".
        claim: Epsilon and delta of the model, where it has them.
        policy: The highest true positive rate that is tolerated at the lowest of `rates`.
        confidence: Of all bounds of this attack together; they share what is left to chance.

    Raises:
        ValueError: There are no rates.
    """
    if not rates:
        raise ValueError("membership is looked at, at some false positive rate")
    each = 1 - (1 - confidence) / len(rates)
    points = [found.at(rate, each) for rate in sorted(rates)]
    checks = []
    if claim is not None:
        checks = [_claim_check(name, point, *claim) for point in points]
    if policy is not None:
        first = points[0]
        words = (
            f"upper bound of the true positive rate, {_at(first)}, of {found.members} members and {found.nonmembers} "
            "non-members; at most the policy's"
        )
        checks.append(Check(f"{name}: policy", first.high <= policy, first.high, policy, words))
    return tuple(checks)


def exposure_check(exposures: _Vector, others: int, *, p_value: float = 0.001) -> Check:
    """Whether any canary is exposed more than chance explains: ``max(exposures) <= log2(canaries / p_value)``.

    Args:
        exposures: ``(canaries,)`` in bits, from `wardround.privacy.empirical.exposure`.
        others: Among how many other secrets they were ranked.
        p_value: How often a model that saw no canary fails.

    Raises:
        ValueError: There is no canary, or too few others for any canary ever to fail.
    """
    bound = math.log2(max(len(exposures), 1) / p_value)
    if not len(exposures) or math.log2(others + 1) <= bound:
        raise ValueError(f"needs canaries, and more than {2**bound:.0f} other secrets to rank them among")
    highest = float(exposures.max())
    words = f"bits of exposure of the most exposed of {len(exposures)} canaries; at most what chance explains"
    return Check("canary exposure", highest <= bound, highest, bound, words)


def inversion_checks(
    control: float, released: float, *, least_control: float = 0.9, most_released: float = 0.05
) -> tuple[Check, Check]:
    """Whether gradients show records, by the share of records that an attack rebuilds.

    Args:
        control: Share rebuilt from the gradient that nothing protects.
        released: Share rebuilt from what is really released.
        least_control: What the control must reach, or the attack is too weak to count.
        most_released: What the release may reach.
    """
    words = "share of records rebuilt from"
    return (
        Check(
            "gradient inversion: control",
            control >= least_control,
            control,
            least_control,
            f"{words} an unprotected gradient; at least the bound, or the attack is too weak to count",
        ),
        Check(
            "gradient inversion: release",
            released <= most_released,
            released,
            most_released,
            f"{words} what was released; at most the bound",
        ),
    )


def _claim_check(name: str, point: Rate, epsilon: float, delta: float) -> Check:
    bound = allowed_rate(point.false_positive_high, epsilon, delta)
    words = (
        f"lower bound of the true positive rate, {_at(point)}; at most what epsilon {epsilon:g} and delta {delta:g} "
        f"allow at a false positive rate of {point.false_positive_high:.4f}, which is its upper bound"
    )
    return Check(f"{name}: claim at {point.asked:g}", point.low <= bound, point.low, bound, words)


def _at(point: Rate) -> str:
    return f"{point.true_positive_rate:.4f} at an observed false positive rate of {point.false_positive_rate:.4f}"


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
