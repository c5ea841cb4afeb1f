"""Attacks' arithmetic: published pins, scipy as an oracle, and made data of which the answer is known."""

import math

import numpy as np
import pytest
from scipy import stats

from wardround.privacy import empirical


def generator(seed):
    return np.random.default_rng(seed)  # noqa: TID251, seeded


@pytest.mark.parametrize(
    ("canaries", "guesses", "correct", "epsilon"),
    [
        (1000, 600, 600, 5.2704),
        (100, 100, 100, 3.4902),
        (1000, 1000, 800, 1.254),
        (1000, 100, 100, 3.4654),
        (5000, 500, 480, 2.783),
    ],
)
def test_the_pins_of_the_one_run_bound(canaries, guesses, correct, epsilon):
    assert empirical.one_run_epsilon(canaries, guesses, correct, 1e-5, 0.05) == pytest.approx(epsilon, abs=6e-5)


def test_the_one_run_bound_is_the_binomial_tail_and_the_correction():
    for guesses, correct, delta in [(50, 40, 0.0), (300, 220, 1e-4), (2000, 1100, 1e-6)]:
        bound = empirical.one_run_epsilon(2000, guesses, correct, delta, 0.05)
        right = 1 / (1 + math.exp(-bound))
        below = stats.binom.pmf(np.arange(correct - 1, -1, -1), guesses, right)
        alpha = (np.cumsum(below) / np.arange(1, correct + 1)).max()
        tail = stats.binom.sf(correct - 1, guesses, right)
        assert tail + 2 * 2000 * delta * alpha == pytest.approx(0.05, rel=1e-6)


def test_the_one_run_bound_follows_the_guesses_and_is_nothing_for_chance():
    assert empirical.one_run_epsilon(1000, 100, 55, 1e-5) == 0.0
    bounds = [empirical.one_run_epsilon(1000, 100, correct, 1e-5) for correct in range(101)]
    assert bounds == sorted(bounds)
    assert empirical.one_run_epsilon(1000, 100, 100, 1e-3) < bounds[-1]
    with pytest.raises(ValueError, match="correct"):
        empirical.one_run_epsilon(10, 11, 3, 0.0)


def test_a_mechanism_that_keeps_its_promise_is_refuted_no_oftener_than_said():
    # Randomized response is the worst case: with epsilon 1 the bound exceeds 1 in at most 5 % of runs.
    drawn, right, exceeded = generator(1), 1 / (1 + math.exp(-1.0)), 0
    for _ in range(400):
        included = drawn.random(500) < 0.5
        answers = included ^ (drawn.random(500) > right)
        scores = answers + 0.1 * drawn.random(500)
        exceeded += empirical.one_run(scores, included, 0.0).epsilon > 1.0
    assert 0 < exceeded <= 400 * 0.05


def test_the_audit_takes_its_best_number_of_guesses_and_pays_for_having_several():
    drawn = generator(2)
    included = drawn.random(1000) < 0.5
    scores = included * 3.0 + drawn.standard_normal(1000)
    found = empirical.one_run(scores, included, 1e-5)
    numbers = empirical.default_guesses(1000)
    assert found.guesses in numbers
    assert found.epsilon == empirical.one_run_epsilon(1000, found.guesses, found.correct, 1e-5, 0.05 / len(numbers))
    assert found.epsilon > empirical.one_run(scores, included, 1e-5, guesses=[1000]).epsilon
    assert empirical.one_run(-scores, included, 1e-5).epsilon == 0.0
    assert all(number % 2 == 0 and number <= 3 for number in empirical.default_guesses(3))
    for broken in ([3], [1002]):
        with pytest.raises(ValueError, match="even"):
            empirical.one_run(scores, included, 1e-5, guesses=broken)
    with pytest.raises(ValueError, match="finite"):
        empirical.one_run(np.full(4, np.nan), included[:4], 1e-5)


@pytest.mark.parametrize(
    ("successes", "trials"), [(0, 10), (10, 10), (3, 10), (1, 1000), (50, 100_000), (99_999, 100_000)]
)
@pytest.mark.parametrize("confidence", [0.5, 0.95, 1 - 1e-6])
def test_intervals_are_those_of_clopper_and_pearson(successes, trials, confidence):
    oracle = stats.binomtest(successes, trials).proportion_ci(confidence, "exact")
    assert empirical.clopper_pearson(successes, trials, confidence) == pytest.approx(tuple(oracle), abs=1e-9, rel=1e-6)


def test_intervals_of_nothing_say_nothing():
    assert empirical.clopper_pearson(0, 0) == (0.0, 1.0)
    with pytest.raises(ValueError, match="successes"):
        empirical.clopper_pearson(4, 3)


def test_a_curve_is_that_of_its_scores():
    found = empirical.roc(np.array([3.0, 2.0, 2.0, 1.0]), np.array([2.0, 1.0, 0.0, 0.0]))
    assert found.false_positive.tolist() == [0, 0, 0.25, 0.5, 1]
    assert found.true_positive.tolist() == [0, 0.25, 0.75, 1, 1]
    pairs = np.subtract.outer([3.0, 2.0, 2.0, 1.0], [2.0, 1.0, 0.0, 0.0])
    assert found.auc == pytest.approx(np.mean((pairs > 0) + 0.5 * (pairs == 0)))
    assert found.advantage == 0.5
    assert found.at(0.001).true_positive_rate == 0.25
    assert found.at(0.25).true_positive_rate == 0.75
    with pytest.raises(ValueError, match="members"):
        empirical.roc(np.array([]), np.array([1.0]))
    with pytest.raises(ValueError, match="not a number"):
        empirical.roc(np.array([np.nan]), np.array([1.0]))


def test_a_rate_in_a_thousand_needs_a_thousand_nonmembers():
    drawn = generator(3)
    members, others = drawn.standard_normal(4000) + 2, drawn.standard_normal(1000)
    found = empirical.roc(members, others)
    assert found.at(0.001).false_positive_rate == 0.001
    assert found.at(0.0009).false_positive_rate == 0.0
    point = found.at(0.01)
    assert point.low < point.true_positive_rate < point.high
    assert point.true_positive_rate == pytest.approx(stats.norm.sf(stats.norm.isf(0.01) - 2), abs=0.06)


def test_the_upper_bound_of_false_positives_holds_although_the_scores_chose_the_threshold():
    drawn, missed = generator(4), 0
    for _ in range(1000):
        others = np.sort(drawn.standard_normal(50))
        above = empirical.roc(others, others).at(0.04).false_positive_high
        missed += stats.norm.sf(others[-3]) > above  # two of fifty lie above the threshold, just above the third
    assert 5 <= missed <= 45  # 25 are expected


def made(models=16, samples=2000, gap=1.0, seed=5):
    """Statistics of a target and reference models: each sample has its own level, and being inside adds a gap."""
    drawn = generator(seed)
    level = 3 * drawn.standard_normal(samples)
    inside = drawn.random((models, samples)) < 0.5
    inside[0], inside[1] = True, False  # each sample has both
    references = level + gap * inside + drawn.standard_normal((models, samples))
    members = drawn.random(samples) < 0.5
    target = level + gap * members + drawn.standard_normal(samples)
    return target, references, inside, members


def test_reference_models_find_members_whom_levels_hide():
    target, references, inside, members = made(gap=2.0)

    def area(scores):
        return empirical.roc(scores[members], scores[~members]).auc

    ideal = stats.norm.cdf(2 / math.sqrt(2))
    assert area(target) < 0.7
    assert area(empirical.lira_online(target, references, inside)) == pytest.approx(ideal, abs=0.03)
    assert area(empirical.lira_offline(target, references, inside)) == pytest.approx(ideal, abs=0.04)
    assert area(empirical.rmia(target, references, inside)) > 0.85


def test_attacks_find_nothing_where_there_is_nothing():
    target, references, inside, members = made(gap=0.0)
    for attack in (empirical.lira_online, empirical.lira_offline, empirical.rmia):
        scores = attack(target, references, inside)
        assert empirical.roc(scores[members], scores[~members]).auc == pytest.approx(0.5, abs=0.05)


def test_liras_scores_are_its_formulas():
    target, references = np.array([1.0, 2.0]), np.array([[0.0, 3.0], [2.0, 1.0], [4.0, 5.0], [1.0, 3.0]])
    inside = np.array([[True, False], [True, True], [False, True], [False, False]])
    mean_in, mean_out = np.array([1.0, 3.0]), np.array([2.5, 3.0])
    spread_in, spread_out = math.sqrt((1 + 1 + 4 + 4) / 2), math.sqrt((2.25 + 2.25) / 2)
    expected = stats.norm.logpdf(target, mean_in, spread_in) - stats.norm.logpdf(target, mean_out, spread_out)
    assert empirical.lira_online(target, references, inside) == pytest.approx(expected)
    assert empirical.lira_offline(target, references, inside) == pytest.approx((target - mean_out) / spread_out)
    with pytest.raises(ValueError, match="reference models"):
        empirical.lira_offline(target, references, np.ones_like(inside))


def test_rmias_scores_are_its_definition():
    target, references, inside, _ = made(models=6, samples=40)
    target, references = target / 10 - 2, references / 10 - 2
    likelihoods = np.exp(references)
    inner = np.array([likelihoods[inside[:, one], one].mean() for one in range(40)])
    outer = np.array([likelihoods[~inside[:, one], one].mean() for one in range(40)])
    for gamma in (1.0, 1.05):
        for offline, usual in ((None, (inner + outer) / 2), (0.3, (1.3 * outer + 0.7) / 2)):
            ratio = np.exp(target) / usual
            other = [np.mean([ratio[x] / ratio[z] >= gamma for z in range(40) if z != x]) for x in range(40)]
            found = empirical.rmia(target, references, inside, gamma=gamma, offline=offline)
            assert found == pytest.approx(np.array(other), abs=1e-12)


def test_confidence_is_on_the_scale_of_logits_and_stays_finite():
    chances = np.array([0.1, 0.5, 0.999])
    assert empirical.logit_confidence(-np.log(chances)) == pytest.approx(np.log(chances / (1 - chances)))
    assert np.isfinite(empirical.logit_confidence(np.array([0.0, 1e-30, 1e5]))).all()


def test_exposure_is_in_bits_of_rank():
    others = np.arange(1.0, 1024.0)
    found = empirical.exposure(np.array([0.0, 1.5, 511.5, 1e9]), others)
    assert found == pytest.approx([10, 9, 1, 0])
    drawn = generator(6)
    chance = empirical.exposure(drawn.random(4000), drawn.random(1023))
    assert np.mean(chance >= 3) == pytest.approx(1 / 8, abs=0.03)
