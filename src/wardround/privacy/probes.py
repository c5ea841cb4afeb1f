"""Probes of a mechanism from outside: made patients go in, and what is released must be what was accounted.

    run(bags, steps, seed) -> (steps, width)      the pipeline under test; `width` is that of the bags

    noise         no gradients in, noise out: its spread, its shape, its lattice, and that no two values repeat
    clipping      patients with adversarial records, all in one direction: their sum stays below patients * clip_norm
    sampling      how many of them take part in a step, and that this varies as independent coins do
    audit         a canary patient for each coordinate, whose gradient is nowhere else: the one-run audit, white box

A release is the sum of the patients' clipped contributions and the noise, in units of gradients: whoever drives real
training divides by its learning rate and multiplies by what it divided by. Every step must see the same gradients; a
linear model gives them at zero params, from `linear_records`, so steps start there anew, or the learning rate is tiny.
A pipeline that draws its own randomness, as in production, leaves the seed aside.

Every check of this module fails by chance once in a million, in the normal approximation; the audit once in a thousand.
Spreads are two-sided: noise that is too strong is no leak, but it is not what was accounted either. Noise that is
correlated between steps on purpose, as in matrix mechanisms, fails here by its name: undo the matrix first.

References:
    Kairouz, Liu, Steinke. The Distributed Discrete Gaussian Mechanism. ICML 2021. arXiv:2102.06387.
    Wilson, Hilferty. The Distribution of Chi-square. PNAS, 1931 (its quantiles).
    Nasr et al. Tight Auditing of Differentially Private Machine Learning. arXiv:2302.07956.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from wardround.privacy.empirical import clopper_pearson
from wardround.privacy.gate import Audit, Check, Correct, Release, audit_release

__all__ = [
    "Bags",
    "Claims",
    "Run",
    "audit_mechanism",
    "canary_release",
    "clipping_checks",
    "gaussian_scores",
    "linear_records",
    "mechanism_checks",
    "noise_checks",
    "sampling_checks",
    "takers_checks",
]

_Matrix = npt.NDArray[np.float64]
_Flags = npt.NDArray[np.bool_]

Bags = Sequence[_Matrix]
"""For each patient the gradients of the records, float64 ``(records, width)``."""

Run = Callable[[Bags, int, bytes], _Matrix]
"""From patients, a number of steps and a run's seed to what each step released, float64 ``(steps, width)``."""

_ALARM = 1e-6
_NORMAL = NormalDist()
_BINS = 64
_VALUES = 20_480
_HUGE = 1e6
_OVERFLOWING = 1e25
"""Its square is no float32."""


@dataclass(frozen=True, slots=True)
class Claims:
    """What was accounted, of one step.

    Attributes:
        clip_norm: The longest contribution of one patient, after rounding.
        noise_multiplier: The released noise's standard deviation, of all sites together, in clipping norms.
        sampling_rate: The chance of each patient to take part.
        grid: The distance of the lattice on which releases lie, in units of gradients; 0 where there is none.
    """

    clip_norm: float
    noise_multiplier: float
    sampling_rate: float = 1.0
    grid: float = 0.0

    @property
    def deviation(self) -> float:
        """The noise's standard deviation, in units of gradients."""
        return self.clip_norm * self.noise_multiplier


def linear_records(bag: _Matrix, bias: float = 1e-3) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Records with these gradients for the squared error of a linear model at zero params: features and labels.

    The gradient of ``(w x + b - y)^2`` at zero is ``-2 y x`` and ``-2 y``: so ``y = -bias / 2`` and ``x = g / bias``.
    The intercept's gradient is `bias` for each record, which should be small beside the clipping norm, and 0 where
    the record's gradient is.

    Args:
        bag: ``(records, width)``.
        bias: The gradient of the intercept.

    Returns:
        float32 ``(records, width)`` and ``(records,)``.
    """
    labels = np.where(bag.any(axis=1), -bias / 2, 0.0)
    return (bag / bias).astype(np.float32), labels.astype(np.float32)


def mechanism_checks(run: Run, claims: Claims, seed: bytes) -> tuple[Check, ...]:
    """All checks of noise, clipping and sampling; some 400 steps of up to a few thousand patients."""
    return (
        *noise_checks(run, claims, seed),
        *clipping_checks(run, claims, seed),
        *sampling_checks(run, claims, seed),
    )


def noise_checks(
    run: Run, claims: Claims, seed: bytes, *, patients: int = 64, width: int = 512, steps: int = 40
) -> tuple[Check, ...]:
    """Patients without gradients go in, under two seeds; the noise that comes out is looked at.

    Raises:
        ValueError: The pipeline gave another shape than ``(steps, width)``.
    """
    bags = list(np.zeros((patients, 2, width)))
    rows = np.concatenate([_ran(run, bags, steps, seed + name) for name in (b" noise 1", b" noise 2")])
    if not np.isfinite(rows).all():
        return (Check("noise: finite", False, math.nan, 0.0, "a value without gradients; finite"),)
    checks = [_spread_check(rows, claims), _shape_check(rows, claims), *_repetition_checks(rows)]
    if claims.grid:
        off = np.abs(rows / claims.grid - np.rint(rows / claims.grid))
        # What is left after division by the grid is the rounding of float64.
        slack = 1e-6 + 1e-14 * float(np.abs(rows).max()) / claims.grid
        words = "the farthest that a value lies from the lattice, in its steps; at most rounding"
        checks.append(Check("noise: lattice", float(off.max()) <= slack, float(off.max()), slack, words))
    return tuple(checks)


def clipping_checks(run: Run, claims: Claims, seed: bytes, *, width: int = 64, steps: int = 64) -> tuple[Check, ...]:
    """Patients whose records try to get past the clipping, all in one direction, where their sum is seen above noise.

    Raises:
        ValueError: The pipeline gave another shape than ``(steps, width)``.
    """
    rate, noise = claims.sampling_rate, claims.noise_multiplier
    patients = math.ceil(max(16.0, 4 * noise) / rate)
    checks = []
    for name, bag in _adversaries(claims.clip_norm, width).items():
        released = _ran(run, [bag] * patients, steps, seed + b" " + name.encode())
        direction = bag.sum(axis=0) / np.linalg.norm(bag.sum(axis=0))
        mean = float((released @ direction).mean()) / claims.clip_norm
        slack = _z(_ALARM) * math.sqrt((patients * rate * (1 - rate) + noise**2) / steps)
        bound = patients * rate + slack
        words = f"{patients} patients' mean contribution to a step, in clipping norms; at most the bound"
        checks.append(Check(f"clipping: {name}", mean <= bound, mean, bound, words))
        if name == "one huge record":
            least = patients * rate - slack
            words = "the same; at least the bound, or what goes in does not come out, and nothing was tested"
            checks.append(Check("clipping: sight", mean >= least, mean, least, words))
    return tuple(checks)


def sampling_checks(run: Run, claims: Claims, seed: bytes, *, width: int = 16, steps: int = 128) -> tuple[Check, ...]:
    """How many of equal patients take part in each step, seen through the noise: their mean, and how much it varies.

    Batches of one size, and coins thrown once for all steps, vary too little.

    Raises:
        ValueError: The pipeline gave another shape than ``(steps, width)``.
    """
    rate, noise = claims.sampling_rate, claims.noise_multiplier
    spread = max(rate * (1 - rate), 1e-3)
    patients = min(math.ceil(max(64.0, 4 * noise**2) / spread), math.ceil(max(64.0, 8 * noise**2) / rate))
    bag = np.zeros((1, width))
    bag[0, 0] = 4 * claims.clip_norm
    takers = _ran(run, [bag] * patients, steps, seed + b" sampling")[:, 0] / claims.clip_norm
    variance = patients * rate * (1 - rate) + noise**2
    mean, slack = float(takers.mean()) / patients, _z(_ALARM) * math.sqrt(variance / steps) / patients
    found = float(takers.var(ddof=1)) / variance
    words = f"share of {patients} patients that take part in a step; within {rate - slack:.5f} and {rate + slack:.5f}"
    near = rate + math.copysign(slack, mean - rate)
    return (
        Check("sampling: rate", abs(mean - rate) <= slack, mean, near, words),
        _variance_check("sampling: spread", found, steps - 1, "variance of how many take part in a step"),
    )


def takers_checks(takers: _Flags, rate: float) -> tuple[Check, ...]:
    """The same, exactly, where a pipeline can show who took part: bool ``(steps, patients)``, `rate` below 1.

    The share's Clopper-Pearson interval must hold the rate, and both the steps' counts and the patients' must vary as
    those of independent coins do.

    Raises:
        ValueError: There are fewer than two steps or patients, or `rate` is not between 0 and 1.
    """
    steps, patients = takers.shape
    if min(steps, patients) < 2 or not 0 < rate < 1:
        raise ValueError("needs two steps and two patients, and a rate between 0 and 1")
    share = float(takers.mean())
    low, high = clopper_pearson(int(takers.sum()), takers.size, 1 - _ALARM)
    words = f"share of patients that took part; its interval, {low:.5f} to {high:.5f}, holds the rate"
    checks = [Check("takers: rate", low <= rate <= high, share, rate, words)]
    for axis, name, each in ((1, "steps", patients), (0, "patients", steps)):
        counts = takers.sum(axis=axis)
        found = float(np.square(counts - each * rate).mean()) / (each * rate * (1 - rate))
        checks.append(_variance_check(f"takers: {name}", found, len(counts), f"variance of the counts of {name}"))
    return tuple(checks)


def canary_release(run: Run, claims: Claims, steps: int, seed: bytes) -> Release:
    """A patient for each coordinate whose gradient is there alone, and twice the clipping norm; the sum over steps."""

    def release(included: _Flags) -> _Matrix:
        bags = []
        for place in np.flatnonzero(included):
            bag = np.zeros((1, len(included)))
            bag[0, place] = 2 * claims.clip_norm
            bags.append(bag)
        return np.asarray(_ran(run, bags, steps, seed + b" canaries").sum(axis=0), np.float64)

    return release


def gaussian_scores(claims: Claims, steps: int) -> Correct:
    """The scores of Dirac canaries when everything is as it was accounted, in clipping norms."""

    def scores(included: _Flags, drawn: np.random.Generator) -> _Matrix:  # noqa: TID251, made from a seed
        noise = drawn.standard_normal(len(included)) * (claims.noise_multiplier * math.sqrt(steps))
        taken = drawn.binomial(steps, claims.sampling_rate, len(included))
        return np.asarray(noise + taken * included, np.float64)

    return scores


def audit_mechanism(
    run: Run, claims: Claims, seed: bytes, *, canaries: int, steps: int, epsilon: float, delta: float
) -> Audit:
    """`wardround.privacy.gate.audit_release` of a pipeline, with Dirac canaries; the width is the number of canaries.

    Raises:
        ValueError: There are too few canaries, or the pipeline gave what no pipeline should.
    """
    release = canary_release(run, claims, steps, seed)
    correct = gaussian_scores(claims, steps)
    return audit_release(release, canaries, epsilon=epsilon, delta=delta, correct=correct, seed=seed)


def _adversaries(clip_norm: float, width: int) -> dict[str, _Matrix]:
    first, spread = np.eye(1, width), np.full((1, width), width**-0.5)
    nothing = np.zeros((15, width))
    return {
        "one huge record": clip_norm * _HUGE * first,
        "just above": clip_norm * 2 * first,
        "many records": clip_norm * np.repeat(first, 16, axis=0),
        "huge among zeros": np.concatenate([clip_norm * _HUGE * first, nothing]),
        "all coordinates": clip_norm * _HUGE * spread,
        "overflowing": clip_norm * _OVERFLOWING * spread,
    }


def _ran(run: Run, bags: Bags, steps: int, seed: bytes) -> _Matrix:
    released = np.asarray(run(bags, steps, seed), np.float64)
    if released.ndim != 2 or len(released) != steps:
        raise ValueError(f"a run of {steps} steps gave an array of shape {released.shape}")
    return released


def _spread_check(rows: _Matrix, claims: Claims) -> Check:
    found = float(np.square(rows).mean()) / claims.deviation**2
    return _variance_check("noise: spread", found, rows.size, "variance of the noise")


def _variance_check(name: str, found: float, freedom: int, what: str) -> Check:
    """Whether a variance, in units of what it should be, is within its chi-square interval."""
    low, high = (
        (1 - 2 / (9 * freedom) + sign * _z(_ALARM / 2) * math.sqrt(2 / (9 * freedom))) ** 3 for sign in (-1, 1)
    )
    words = f"{what}, in units of what it should be; within {low:.4f} and {high:.4f}"
    return Check(name, low <= found <= high, found, low if found < 1 else high, words)


def _shape_check(rows: _Matrix, claims: Claims) -> Check:
    """Chi-square over bins of nearly one probability; on a lattice their edges lie between its points."""
    values, deviation = np.sort(rows, axis=None), claims.deviation
    edges = np.array([_NORMAL.inv_cdf(place / _BINS) for place in range(1, _BINS)]) * deviation
    if claims.grid:
        edges = np.unique(np.floor(edges / claims.grid) + 0.5) * claims.grid
    cumulative = np.array([0.0, *_below(edges, claims), 1.0])
    expected = np.diff(cumulative) * values.size
    counts = np.diff([0, *np.searchsorted(values, edges), values.size])
    freedom = len(counts) - 1
    statistic = float(np.sum(np.square(counts - expected) / np.maximum(expected, 1e-9)))
    score = ((statistic / freedom) ** (1 / 3) - (1 - 2 / (9 * freedom))) / math.sqrt(2 / (9 * freedom))
    chance = 0.5 * math.erfc(score / math.sqrt(2))
    words = f"p-value of chi-square over {len(counts)} bins against the stated noise; at least the bound"
    return Check("noise: shape", chance >= _ALARM, chance, _ALARM, words)


def _below(edges: _Matrix, claims: Claims) -> list[float]:
    # Beyond a few hundred lattice points a deviation, the discrete Gaussian's sums are the integral to nine digits.
    if not claims.grid or claims.deviation > 300 * claims.grid:
        return [_NORMAL.cdf(edge / claims.deviation) for edge in edges.tolist()]
    reach = math.ceil(12 * claims.deviation / claims.grid) + 1
    points = np.arange(-reach, reach + 1) * claims.grid
    chances = np.exp(-np.square(points / claims.deviation) / 2)
    total = np.cumsum(chances / chances.sum())
    found: list[float] = total[np.searchsorted(points, edges) - 1].tolist()
    return found


def _repetition_checks(rows: _Matrix) -> tuple[Check, Check]:
    """No step's noise is another's, and no stretch of one run's noise comes again at any distance."""
    lengths = np.maximum(np.linalg.norm(rows, axis=1), 1e-300)
    cosines = np.abs((rows / lengths[:, None]) @ (rows / lengths[:, None]).T)
    np.fill_diagonal(cosines, 0.0)
    width = rows.shape[1]
    nearest = float(cosines.max()) * math.sqrt(width)
    bound = _z(_ALARM / (len(rows) * (len(rows) - 1)))
    flat = rows[: len(rows) // 2].ravel()
    flat = flat / max(float(flat.std()), 1e-300)
    size = 1 << (2 * flat.size - 1).bit_length()
    products = np.fft.irfft(np.square(np.abs(np.fft.rfft(flat, size))), size)[1 : flat.size // 2]
    echo = float(np.abs(products / np.sqrt(flat.size - np.arange(1, flat.size // 2))).max())
    loudest = _z(_ALARM / (2 * flat.size))
    words = "in standard deviations of chance; at most the bound"
    return (
        Check("noise: steps", nearest <= bound, nearest, bound, f"the greatest cosine of two steps' noise, {words}"),
        Check("noise: echoes", echo <= loudest, echo, loudest, f"the greatest autocorrelation of a run's, {words}"),
    )


def _z(tail: float) -> float:
    """The normal quantile beyond which lies `tail`."""
    return -_NORMAL.inv_cdf(tail)
