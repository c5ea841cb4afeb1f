"""What attacks measure: lower bounds on epsilon, rates of membership inference with intervals, exposure of canaries.

    one run       m canaries, each in or out by a coin; r guesses, v of them right. Under (epsilon, delta)
                  P[v or more right] <= P[B >= v] + 2 m delta max_i P[v - i <= B < v] / i
                  with B ~ Bin(r, e^eps / (1 + e^eps)); the bound is the greatest epsilon that the p-value refutes
    LiRA          log N(target; in) - log N(target; out), or the target's z-score among models that never saw it
    RMIA          share of samples z with  (p(x) / mean p_ref(x)) / (p(z) / mean p_ref(z)) >= gamma
    exposure      log2(how many could be) - log2(the canary's rank among them)

Matrices of reference models have shape ``(models, samples)``; `inside` of the same shape says whether a model was
trained on a sample. A score is the higher, the more a sample looks like a member.

The rates of one sample of patients say nothing about another sample, and nothing about a better attack: all of this
bounds leakage from below only. What one score means differs from sample to sample (arXiv:2605.25819).

References:
    Steinke, Nasr, Jagielski. Privacy Auditing with One (1) Training Run. NeurIPS 2023. arXiv:2305.08846.
    Carlini et al. Membership Inference Attacks From First Principles. S&P 2022. arXiv:2112.03570 (LiRA).
    Zarifzadeh, Liu, Shokri. Low-Cost High-Power Membership Inference Attacks. ICML 2024. arXiv:2312.03262 (RMIA).
    Carlini et al. The Secret Sharer. USENIX Security 2019. arXiv:1802.08232 (exposure).
    Clopper, Pearson. The Use of Confidence or Fiducial Limits. Biometrika, 1934.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

__all__ = [
    "OneRun",
    "Rate",
    "Roc",
    "clopper_pearson",
    "default_guesses",
    "exposure",
    "lira_offline",
    "lira_online",
    "logit_confidence",
    "one_run",
    "one_run_epsilon",
    "rmia",
    "roc",
]

_Vector = npt.NDArray[np.float64]
_Flags = npt.NDArray[np.bool_]

_GUESSED = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
"""Shares of the canaries that are guessed: which is best hangs on the noise, and each costs its part of the p-value."""
_HIGHEST = 64.0
"""No audit of fewer than e**64 canaries says more."""
_LEAST_SPREAD = 1e-6


@dataclass(frozen=True, slots=True)
class OneRun:
    """A lower bound on epsilon from one run, and the guesses that gave it."""

    epsilon: float
    canaries: int
    guesses: int
    correct: int


@dataclass(frozen=True, slots=True)
class Rate:
    """A point of a ROC curve with Clopper-Pearson bounds: `low` and `high` are the true positive rate's.

    The threshold lies just above a non-member's score, so the false positive rate beyond it is Beta distributed, and
    `false_positive_high` is exact although the threshold was chosen by the scores themselves.
    """

    asked: float
    false_positive_rate: float
    false_positive_high: float
    true_positive_rate: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, eq=False)
class Roc:
    """A ROC curve. `false_positive` and `true_positive` are float64 ``(points,)``, rising from (0, 0) to (1, 1)."""

    false_positive: _Vector
    true_positive: _Vector
    members: int
    nonmembers: int
    auc: float
    advantage: float

    def at(self, false_positive_rate: float, confidence: float = 0.95) -> Rate:
        """The highest true positive rate whose observed false positive rate is at most what is asked.

        Below one in the number of non-members no false positive is allowed at all, and the rate says nothing finer.

        Args:
            false_positive_rate: 0.001 for one in a thousand.
            confidence: Of each bound's two-sided interval.
        """
        place = int(np.searchsorted(self.false_positive, false_positive_rate, side="right")) - 1
        false, true = float(self.false_positive[place]), float(self.true_positive[place])
        low, high = clopper_pearson(round(true * self.members), self.members, confidence)
        _, above = clopper_pearson(round(false * self.nonmembers), self.nonmembers, confidence)
        return Rate(false_positive_rate, false, above, true, low, high)


def clopper_pearson(successes: int, trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """The exact two-sided interval of a probability; (0, 1) without a trial.

    Raises:
        ValueError: There are more successes than trials, fewer than none, or `confidence` is not between 0 and 1.
    """
    if not 0 <= successes <= trials or not 0 < confidence < 1:
        raise ValueError("successes lie between 0 and trials, confidence between 0 and 1")
    tail = (1 - confidence) / 2
    low, high = 0.0, 1.0
    if successes > 0:
        low = _root(lambda p: tail - _at_least(successes, trials, p), 0.0, 1.0)[0]
    if successes < trials:
        high = _root(lambda p: 1 - tail - _at_least(successes + 1, trials, p), 0.0, 1.0)[1]
    return low, high


@lru_cache(maxsize=1 << 14)
def one_run_epsilon(canaries: int, guesses: int, correct: int, delta: float, p_value: float = 0.05) -> float:
    """The greatest epsilon, rounded down, that so many correct guesses rule out at `p_value`; 0 where they rule none.

    Args:
        canaries: m, each in or out by a fair coin of its own.
        guesses: r, chosen by the scores; the auditor abstains from the others.
        correct: v.
        delta: Of the claim.
        p_value: How often a mechanism that keeps its promise is refuted by chance.

    Raises:
        ValueError: The counts are not ``0 <= correct <= guesses <= canaries``, or a probability is none.
    """
    if not 0 <= correct <= guesses <= canaries or not (0 <= delta < 1 and 0 < p_value < 1):
        raise ValueError("needs 0 <= correct <= guesses <= canaries, delta in [0, 1) and p_value in (0, 1)")
    if _p_value(canaries, guesses, correct, delta, 0.0) >= p_value:
        return 0.0
    return _root(lambda epsilon: p_value - _p_value(canaries, guesses, correct, delta, epsilon), 0.0, _HIGHEST)[0]


def default_guesses(canaries: int) -> tuple[int, ...]:
    """Even numbers of guesses, rising, of which `one_run` takes the best."""
    return tuple(sorted({2 * max(int(share * canaries / 2), 1) for share in _GUESSED}))


def one_run(
    scores: _Vector, included: _Flags, delta: float, *, p_value: float = 0.05, guesses: Sequence[int] = ()
) -> OneRun:
    """The best lower bound over several numbers of guesses, each with its part of the p-value (Bonferroni).

    Half of the guesses say "in", of the highest scores, and half "out", of the lowest.

    Args:
        scores: ``(canaries,)``; higher says "in".
        included: ``(canaries,)``; what the coins said.
        delta: Of the claim.
        p_value: For all numbers of guesses together.
        guesses: Numbers of guesses fixed before the scores were seen; none: `default_guesses`.

    Raises:
        ValueError: The shapes differ, there are fewer than two canaries, scores are not finite, or a number is odd.
    """
    canaries = len(scores)
    chosen = tuple(guesses) or default_guesses(canaries)
    if scores.shape != included.shape or canaries < 2 or not np.isfinite(scores).all():
        raise ValueError("needs a finite score and a coin for each of two canaries or more")
    if any(number % 2 or not 2 <= number <= canaries for number in chosen):
        raise ValueError("numbers of guesses are even, at least 2 and at most the canaries")
    coins = included[np.argsort(scores, kind="stable")]
    best = OneRun(-1.0, canaries, 0, 0)
    for number in chosen:
        half = number // 2
        correct = int(coins[-half:].sum()) + half - int(coins[:half].sum())
        bound = one_run_epsilon(canaries, number, correct, delta, p_value / len(chosen))
        if bound > best.epsilon:
            best = OneRun(bound, canaries, number, correct)
    return best


def roc(member_scores: _Vector, nonmember_scores: _Vector) -> Roc:
    """The ROC curve of "score at or above a threshold: a member"; tied scores pass together.

    Raises:
        ValueError: There is no member or no non-member, or a score is not a number.
    """
    if not len(member_scores) or not len(nonmember_scores):
        raise ValueError("a ROC curve needs members and non-members")
    if np.isnan(member_scores).any() or np.isnan(nonmember_scores).any():
        raise ValueError("a score is not a number")
    thresholds = np.unique(np.concatenate([member_scores, nonmember_scores]))[::-1]
    false, true = (
        np.concatenate([[0.0], (len(scores) - np.searchsorted(np.sort(scores), thresholds)) / len(scores)])
        for scores in (nonmember_scores, member_scores)
    )
    area = float(np.sum((false[1:] - false[:-1]) * (true[1:] + true[:-1])) / 2)
    return Roc(false, true, len(member_scores), len(nonmember_scores), area, float((true - false).max()))


def logit_confidence(losses: _Vector) -> _Vector:
    """LiRA's scale of a negative log-likelihood, ``log(p / (1 - p))`` with ``p = exp(-loss)``; of the same shape."""
    kept = np.clip(losses, 1e-12, 700.0)
    return -kept - np.log(-np.expm1(-kept))


def lira_online(target: _Vector, references: _Vector, inside: _Flags) -> _Vector:
    """LiRA's likelihood ratio, with means of each sample's own and one variance for all samples inside, one outside.

    Args:
        target: ``(samples,)``: the audited model's `logit_confidence`, or any other statistic that is nearly normal.
        references: ``(models, samples)``: the same of the reference models.
        inside: ``(models, samples)``.

    Returns:
        float64 ``(samples,)``, the logarithm of the ratio.

    Raises:
        ValueError: The shapes do not fit, or no model is inside, or none outside, for some sample.
    """
    (mean_in, spread_in), (mean_out, spread_out) = (_fit(target, references, chosen) for chosen in (inside, ~inside))
    within = -np.log(spread_in) - np.square((target - mean_in) / spread_in) / 2
    return np.asarray(within + np.log(spread_out) + np.square((target - mean_out) / spread_out) / 2, np.float64)


def lira_offline(target: _Vector, references: _Vector, inside: _Flags) -> _Vector:
    """LiRA's one-sided test by models that never saw the sample: its z-score; arguments as in `lira_online`.

    Raises:
        ValueError: The shapes do not fit, or some sample is inside every model.
    """
    mean, spread = _fit(target, references, ~inside)
    return (target - mean) / spread


def rmia(
    target: _Vector, references: _Vector, inside: _Flags, *, gamma: float = 1.0, offline: float | None = None
) -> _Vector:
    """RMIA's score with all other samples as the population.

    Args:
        target: ``(samples,)``: the audited model's log-likelihoods.
        references: ``(models, samples)``: the same of the reference models.
        inside: ``(models, samples)``.
        gamma: How much likelier than another sample a member must be.
        offline: None to average models inside and outside; or the paper's ``a``, to use those outside only, and
            ``((1 + a) p + 1 - a) / 2`` for the average, which needs likelihoods that are probabilities.

    Returns:
        float64 ``(samples,)``, in [0, 1].

    Raises:
        ValueError: The shapes do not fit, there are fewer than two samples, or models are missing for a sample.
    """
    if len(target) < 2 or gamma <= 0:
        raise ValueError("needs two samples, and a gamma above 0")
    outer = _log_mean(target, references, ~inside)
    if offline is None:
        usual = np.logaddexp(_log_mean(target, references, inside), outer) - math.log(2)
    else:
        usual = np.log((1 + offline) * np.exp(outer) + 1 - offline) - math.log(2)
    ratios = target - usual
    count = np.searchsorted(np.sort(ratios), ratios - math.log(gamma), side="right")
    return (count - (gamma <= 1.0)) / (len(ratios) - 1)


def exposure(losses: _Vector, others: _Vector) -> _Vector:
    """Canaries' exposure in bits, among other secrets of the same kind that were never trained on.

    A model that never saw a canary exposes it by e bits or more with a chance of ``2**-e``; no canary is exposed by
    more than ``log2(len(others) + 1)``.

    Args:
        losses: ``(canaries,)``.
        others: ``(secrets,)``: losses of what the canary could as well have been.

    Returns:
        float64 ``(canaries,)``.
    """
    ranks = 1 + np.searchsorted(np.sort(others), losses, side="right")
    return np.asarray(np.log2(len(others) + 1) - np.log2(ranks), np.float64)


def _fit(target: _Vector, references: _Vector, chosen: _Flags) -> tuple[_Vector, float]:
    _check(target, references, chosen)
    counts = chosen.sum(axis=0)
    mean = np.where(chosen, references, 0.0).sum(axis=0) / counts
    squares = np.where(chosen, np.square(references - mean), 0.0).sum()
    return mean, max(math.sqrt(float(squares) / max(int((counts - 1).sum()), 1)), _LEAST_SPREAD)


def _log_mean(target: _Vector, references: _Vector, chosen: _Flags) -> _Vector:
    _check(target, references, chosen)
    values = np.where(chosen, references, -np.inf)
    highest = values.max(axis=0)
    return np.asarray(highest + np.log(np.exp(values - highest).sum(axis=0) / chosen.sum(axis=0)), np.float64)


def _check(target: _Vector, references: _Vector, chosen: _Flags) -> None:
    if references.shape != chosen.shape or references.shape[1:] != target.shape:
        raise ValueError("needs (samples,) of the target, (models, samples) of the references and who was inside")
    if not chosen.any(axis=0).all():
        raise ValueError("a sample lacks reference models that saw it, or that did not: train more of them")


def _p_value(canaries: int, guesses: int, correct: int, delta: float, epsilon: float) -> float:
    right = 1 / (1 + math.exp(-epsilon))
    tail = _at_least(correct, guesses, right)
    if not delta or not correct:
        return tail
    # From the likeliest just below v downwards: how much mass delta could have moved to v or above, per step of it.
    below = np.arange(correct - 1, -1, -1)
    factorials = _log_factorials(guesses)
    chances = factorials[guesses] - factorials[below] - factorials[guesses - below]
    chances = np.exp(chances + below * math.log(right) - (guesses - below) * np.logaddexp(0.0, epsilon))
    return tail + 2 * canaries * delta * float((np.cumsum(chances) / np.arange(1, correct + 1)).max())


@lru_cache(maxsize=32)
def _log_factorials(largest: int) -> _Vector:
    return np.concatenate([[0.0], np.cumsum(np.log(np.arange(1.0, largest + 1)))])


def _at_least(count: int, trials: int, chance: float) -> float:
    """``P[Bin(trials, chance) >= count]``: the regularized incomplete beta function at (count, trials - count + 1)."""
    if count <= 0 or chance >= 1.0:
        return 1.0
    if count > trials or chance <= 0.0:
        return 0.0
    a, b = float(count), float(trials - count + 1)
    log_front = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(chance) + b * math.log1p(-chance)
    if chance < (a + 1) / (a + b + 2):
        return math.exp(log_front) * _beta_fraction(a, b, chance) / a
    return 1.0 - math.exp(log_front) * _beta_fraction(b, a, 1 - chance) / b


def _beta_fraction(a: float, b: float, x: float) -> float:
    # Lentz's evaluation of the continued fraction, as in Numerical Recipes 6.4; about sqrt(max(a, b)) steps.
    c, d = 1.0, 1.0 / _away(1.0 - (a + b) * x / (a + 1))
    front = d
    for step in range(1, 100_000):
        even = step * (b - step) * x / ((a + 2 * step - 1) * (a + 2 * step))
        odd = -(a + step) * (a + b + step) * x / ((a + 2 * step) * (a + 2 * step + 1))
        for term in (even, odd):
            d, c = 1.0 / _away(1.0 + term * d), _away(1.0 + term / c)
            front *= d * c
        if abs(d * c - 1.0) < 1e-15:
            break
    return front


def _away(value: float) -> float:
    return value if abs(value) > 1e-300 else 1e-300


def _root(falling: Callable[[float], float], low: float, high: float) -> tuple[float, float]:
    """The two ends of a tiny interval in which a function turns from positive to not positive."""
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if falling(middle) > 0 else (low, middle)
    return low, high
