"""What mechanisms cost: published figures, laws, and dp-accounting as an oracle."""

import math

import pytest
from dp_accounting import GaussianDpEvent, LaplaceDpEvent, PoissonSampledDpEvent
from dp_accounting.rdp import RdpAccountant
from hypothesis import given, settings
from hypothesis import strategies as st

from wardround.errors import CodecError
from wardround.privacy import accounting, mechanisms, rdp
from wardround.privacy.mechanisms import Gaussian, Laplace, SampledGaussian

PUBLISHED = [  # noise, sampling rate, steps, delta, by Rényi, by privacy loss distributions
    (1.5, 0.04, 2250, 1e-5, 7.32911117, 6.768787),
    (1.1, 256 / 60000, 14062, 1e-5, 2.596556, 2.381686),
    (4.0, 0.01, 10000, 1e-5, 1.035490, 0.946999),
    (1.0, 0.01, 10000, 1e-5, 6.712757, 6.187745),
    (1.3, 250 / 60000, 3600, 1e-5, 0.942200, 0.853030),
]


def sampled(noise, rate, steps=1):
    return SampledGaussian(noise_multiplier=noise, sampling_rate=rate, steps=steps)


@pytest.mark.parametrize(("noise", "rate", "steps", "delta", "renyi", "tight"), PUBLISHED)
def test_the_published_figures_of_private_sgd(noise, rate, steps, delta, renyi, tight):
    asked = sampled(noise, rate, steps)
    # Opacus' test has the first; fractional orders without its subtraction give a little more (6.712757, 7.3293).
    assert rdp.epsilon(rdp.cost(asked), delta) == pytest.approx(renyi, rel=5e-6)
    assert accounting.tight_epsilon([asked], delta) == pytest.approx(tight, abs=2e-6)


def test_abadis_moments_accountant_gave_more():
    assert rdp.epsilon(rdp.cost(sampled(4.0, 0.01, 10000)), 1e-5) < 1.26


@pytest.mark.parametrize(("noise", "delta"), [(1.0, 0.12693673750664), (2.0, 0.00682959498312)])
def test_the_gaussian_mechanisms_delta_is_the_analytic_one(noise, delta):
    def phi(value):
        return math.erfc(-value / math.sqrt(2)) / 2

    exact = phi(0.5 / noise - noise) - math.e * phi(-0.5 / noise - noise)
    assert exact == pytest.approx(delta, rel=1e-11)
    assert accounting.tight_delta([Gaussian(noise_multiplier=noise)], 1.0) == pytest.approx(delta, rel=1e-6)


def test_a_hundred_weak_gaussians_are_one_strong_one():
    many, one = Gaussian(noise_multiplier=10.0, steps=100), Gaussian(noise_multiplier=1.0)
    assert accounting.tight_epsilon([many], 1e-5) == pytest.approx(4.377178, abs=1e-4)
    assert rdp.cost(many) == pytest.approx(rdp.cost(one))


def test_laplace_composes():
    asked = Laplace(scale=20.0, steps=40)
    assert accounting.tight_epsilon([asked], 1e-5) == pytest.approx(1.153563, abs=1e-4)
    oracle = RdpAccountant(orders=rdp.ORDERS).compose(LaplaceDpEvent(20.0), 40)
    assert rdp.epsilon(rdp.cost(asked), 1e-5) == pytest.approx(oracle.get_epsilon(1e-5), rel=1e-6)


@settings(max_examples=60)
@given(noise=st.floats(0.5, 8.0), rate=st.floats(0.001, 0.9))
def test_whole_orders_are_the_oracles_and_others_never_cost_more_than_its_bound(noise, rate):
    whole = [order for order in rdp.ORDERS if float(order).is_integer() and order <= 64]
    for orders, is_equal in ((whole, True), ([1.5, 2.5, 7.3], False)):
        oracle = RdpAccountant(orders=orders).compose(PoissonSampledDpEvent(rate, GaussianDpEvent(noise)))
        for own, other in zip(rdp.cost(sampled(noise, rate), orders), oracle._rdp, strict=True):
            if is_equal:
                assert own == pytest.approx(float(other), rel=1e-6, abs=1e-10)
            else:
                assert 0 <= own <= float(other) * (1 + 1e-6) + 1e-10


@settings(max_examples=40)
@given(noise=st.floats(0.6, 5.0), rate=st.floats(0.005, 0.5), order=st.floats(1.3, 30.0))
def test_a_cost_lies_between_its_neighbours_orders(noise, rate, order):
    low, own, high = rdp.cost(sampled(noise, rate), (order * 0.98 if order > 1.35 else 1.25, order, order * 1.02))
    assert low <= own * (1 + 1e-9) + 1e-12
    assert own <= high * (1 + 1e-9) + 1e-12


@settings(max_examples=40)
@given(noise=st.floats(0.6, 5.0), rate=st.floats(0.005, 0.5), steps=st.integers(1, 5000))
def test_more_noise_costs_less_and_more_steps_or_patients_cost_more(noise, rate, steps):
    base = rdp.epsilon(rdp.cost(sampled(noise, rate, steps)), 1e-5)
    assert rdp.epsilon(rdp.cost(sampled(noise * 1.1, rate, steps)), 1e-5) <= base * (1 + 1e-9)
    assert rdp.epsilon(rdp.cost(sampled(noise, rate * 1.1, steps)), 1e-5) >= base * (1 - 1e-9)
    assert rdp.epsilon(rdp.cost(sampled(noise, rate, steps + 1)), 1e-5) >= base * (1 - 1e-9)


def test_everybody_in_every_step_is_the_mechanism_without_sampling():
    assert rdp.cost(sampled(1.3, 1.0, 7)) == pytest.approx(rdp.cost(Gaussian(noise_multiplier=1.3, steps=7)))


@pytest.mark.parametrize(
    "asked",
    [
        sampled(0.0, 0.1), sampled(-1.0, 0.1), sampled(math.nan, 0.1), sampled(math.inf, 0.1), sampled(1.0, 0.0),
        sampled(1.0, 1.01), sampled(1.0, math.nan), sampled(1.0, 0.1, 0), sampled(1.0, 0.1, 10**9),
        Laplace(scale=0.0), Gaussian(noise_multiplier=-math.inf),
    ],
)  # fmt: skip
def test_a_mechanism_that_cannot_be_is_refused_everywhere(asked):
    for use in (mechanisms.check, rdp.cost, lambda one: accounting.tight_epsilon([one], 1e-5)):
        with pytest.raises(CodecError):
            use(asked)


@pytest.mark.parametrize("delta", [0.0, 1.0, -1e-5, math.nan, 2.0])
def test_a_delta_that_cannot_be_is_refused(delta):
    asked = Gaussian(noise_multiplier=1.0)
    with pytest.raises(ValueError, match="delta"):
        rdp.epsilon(rdp.cost(asked), delta)
    with pytest.raises(ValueError, match="delta"):
        accounting.tight_epsilon([asked], delta)


def test_a_cost_beyond_numbers_is_infinite_and_never_small():
    assert all(math.isinf(value) or value > 1e3 for value in rdp.cost(sampled(1e-3, 0.5)))
    assert rdp.epsilon(rdp.cost(sampled(1e-3, 0.5)), 1e-5) > 1e3


def test_the_assumption_is_said_with_the_number():
    assert "own secret coin of 0.04" in mechanisms.assumptions(sampled(1.0, 0.04))
    assert "whose part is replaced by zeros" in mechanisms.assumptions(Gaussian(noise_multiplier=1.0))
