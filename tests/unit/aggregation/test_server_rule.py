import math
import struct
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from wardround.aggregation import mean, server_rule

NAMES = ["fedavg", "fedavgm", "fedadagrad", "fedadam", "fedyogi"]
ADAPTIVE = NAMES[2:]
STATE_VECTORS = {"fedavg": 0, "fedavgm": 1, "fedadagrad": 2, "fedadam": 2, "fedyogi": 2}
DEFAULTS = {"learning_rate": 0.1, "momentum": 0.9, "beta1": 0.9, "beta2": 0.99, "tau": 1e-3}

betas = st.floats(0, 0.999)
parameters = st.fixed_dictionaries(
    {
        "learning_rate": st.floats(1e-3, 2.0),
        "momentum": betas,
        "beta1": betas,
        "beta2": betas,
        "tau": st.floats(1e-4, 1.0),
    }
)


def stored(value):
    """As a float32 file gives it back."""
    return struct.unpack("<f", struct.pack("<f", value))[0]


def exactly(value):
    return value


def textbook(name, start, deltas, keep, *, learning_rate, momentum, beta1, beta2, tau):
    """Reddi et al., Algorithms 1 and 2, for one column in plain Python; `keep` is what storing between steps does."""
    x, m, v = start, 0.0, tau * tau
    for delta in deltas:
        if name == "fedavg":
            step = learning_rate * delta
        elif name == "fedavgm":
            m = momentum * m + delta
            step = learning_rate * m
        else:
            m = beta1 * m + (1 - beta1) * delta
            square = delta * delta
            if name == "fedadagrad":
                v = v + square
            elif name == "fedadam":
                v = beta2 * v + (1 - beta2) * square
            else:
                v = v - (1 - beta2) * square * ((v > square) - (v < square))
            step = learning_rate * m / (math.sqrt(v) + tau)
        x, m, v = keep(x + step), keep(m), keep(v)
    return x, m, v


def run(name, params, steps, cuts=None, initial=0.0, **arguments):
    """All steps of a rule, chunk by chunk; returns params and state."""
    rule = server_rule.build(name, **arguments)
    params = params.copy()
    state = tuple(np.full_like(params, initial) for _ in range(rule.state_vectors))
    cuts = cuts or [0, params.size]
    for number, update in enumerate(steps, start=1):
        for a, b in pairwise(cuts):
            rule.apply(number, params[a:b], update[a:b], tuple(vector[a:b] for vector in state))
    return params, state


def draws(data, steps, columns):
    params = data.draw(npst.arrays(np.float32, columns, elements=st.floats(-100, 100, width=32)))
    return params, data.draw(npst.arrays(np.float64, (steps, columns), elements=st.floats(-100, 100)))


@pytest.mark.parametrize("name", NAMES)
@given(data=st.data(), arguments=parameters, steps=st.integers(1, 8), columns=st.integers(1, 6))
def test_a_rule_is_the_papers_to_the_bit(name, data, arguments, steps, columns):
    params, deltas = draws(data, steps, columns)
    found, state = run(name, params, deltas, **arguments)
    for column in range(columns):
        x, m, v = textbook(name, float(params[column]), deltas[:, column].tolist(), stored, **arguments)
        assert found[column] == x
        assert [vector[column] for vector in state] == [m, v][: len(state)]


@pytest.mark.parametrize("name", NAMES)
def test_storing_in_float32_costs_nothing_that_matters(name):
    generator = np.random.Generator(np.random.PCG64(7))  # noqa: TID251
    params = generator.standard_normal(50).astype(np.float32)
    deltas = generator.standard_normal((100, 50)) * 0.1
    found, _ = run(name, params, deltas, **DEFAULTS)
    expected = [textbook(name, float(params[i]), deltas[:, i].tolist(), exactly, **DEFAULTS)[0] for i in range(50)]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
@given(data=st.data(), arguments=parameters, columns=st.integers(1, 40))
def test_any_cutting_into_chunks_gives_the_same_bytes(name, data, arguments, columns):
    params, deltas = draws(data, 3, columns)
    cuts = sorted(data.draw(st.sets(st.integers(1, columns))) | {0, columns})
    whole, state = run(name, params, deltas, **arguments)
    cut, cut_state = run(name, params, deltas, cuts, **arguments)
    assert cut.tobytes() == whole.tobytes()
    assert [vector.tobytes() for vector in cut_state] == [vector.tobytes() for vector in state]


@pytest.mark.parametrize("name", NAMES)
def test_large_chunks_are_the_same_as_small(name):
    generator = np.random.Generator(np.random.PCG64(3))  # noqa: TID251
    params = generator.standard_normal(70_000).astype(np.float32)
    deltas = generator.standard_normal((3, 70_000))
    whole, _ = run(name, params, deltas, **DEFAULTS)
    cut, _ = run(name, params, deltas, [0, 1, 8, 4_099, 32_768, 33_001, 70_000], **DEFAULTS)
    assert cut.tobytes() == whole.tobytes()


@pytest.mark.parametrize("name", NAMES)
def test_the_first_step_does_not_read_the_state(name):
    params, deltas = np.ones(3, np.float32), np.full((2, 3), 0.25)
    zeros, _ = run(name, params, deltas, **DEFAULTS)
    garbage, _ = run(name, params, deltas, initial=np.nan, **DEFAULTS)
    assert garbage.tobytes() == zeros.tobytes()


@pytest.mark.parametrize("name", NAMES[1:])
def test_the_second_step_reads_the_state(name):
    rule = server_rule.build(name, **DEFAULTS)
    results = []
    for before in (0.0, 1.0):
        params = np.ones(1, np.float32)
        rule.apply(2, params, np.ones(1), (np.full(1, before, np.float32),) * rule.state_vectors)
        results.append(float(params[0]))
    assert results[0] != results[1]


@given(data=st.data(), sites=st.integers(1, 5), columns=st.integers(1, 10))
def test_fedavg_with_rate_one_gives_the_weighted_mean_of_the_sites_models(data, sites, columns):
    small = st.floats(-10, 10, width=32)
    base = data.draw(npst.arrays(np.float32, columns, elements=small))
    models = data.draw(npst.arrays(np.float32, (sites, columns), elements=small))
    records = data.draw(st.lists(st.integers(1, 10**6), min_size=sites, max_size=sites))
    update = np.empty(columns)
    mean.weighted_sum([model - base for model in models], mean.weights(records), update)
    found, _ = run("fedavg", base, [update], **DEFAULTS | {"learning_rate": 1.0})
    expected = np.average(models.astype(np.float64), axis=0, weights=records)
    np.testing.assert_allclose(found, expected, rtol=0, atol=4e-6)


def test_fedavgm_without_momentum_is_fedavg():
    params, deltas = np.ones(3, np.float32), np.array([[0.5, -1.0, 2.0], [0.25, 3.0, -4.0]])
    plain, _ = run("fedavg", params, deltas, **DEFAULTS)
    heavy, _ = run("fedavgm", params, deltas, **DEFAULTS | {"momentum": 0.0})
    assert heavy.tobytes() == plain.tobytes()


def test_the_first_step_of_fedadam_by_hand():
    # m = 0.1 * 3 = 0.3; v = 0.99 * 1e-6 + 0.01 * 9 = 0.09000099; x = 1 + 0.1 * 0.3 / (sqrt(v) + 0.001)
    params, _ = run("fedadam", np.ones(1, np.float32), [np.array([3.0])], **DEFAULTS)
    assert params[0] == pytest.approx(1 + 0.03 / (0.3000016499954 + 0.001), rel=1e-7)


@pytest.mark.parametrize("name", ADAPTIVE)
def test_no_update_moves_nothing(name):
    params, _ = run(name, np.ones(3, np.float32), np.zeros((5, 3)), **DEFAULTS)
    assert params.tolist() == [1, 1, 1]


@pytest.mark.parametrize("name", NAMES)
def test_how_many_state_vectors(name):
    assert server_rule.build(name, **DEFAULTS).state_vectors == STATE_VECTORS[name]


@pytest.mark.parametrize("name", NAMES)
def test_overflow_is_infinite_and_silent(name):
    params, _ = run(name, np.full(1, 3e38, np.float32), [np.full(1, 1e200)], **DEFAULTS | {"learning_rate": 1e300})
    assert not np.isfinite(params).all()


@pytest.mark.parametrize("name", NAMES)
def test_steps_and_shapes_must_fit_or_nothing_changes(name):
    rule = server_rule.build(name, **DEFAULTS)
    state = tuple(np.zeros(2, np.float32) for _ in range(rule.state_vectors))
    short = tuple(np.zeros(1, np.float32) for _ in range(rule.state_vectors + 1))
    for step, update, given_state in [
        (0, np.zeros(2), state),
        (1, np.zeros(1), state),
        (1, np.zeros(2), (*state, np.zeros(2, np.float32))),
        (1, np.zeros(2), short[: rule.state_vectors] or short),
    ]:
        params = np.zeros(2, np.float32)
        with pytest.raises(ValueError):
            rule.apply(step, params, update + 1, given_state)
        assert params.tolist() == [0, 0]


@pytest.mark.parametrize("name", ["", "FedAvg", "fedprox"])
def test_an_unknown_name_is_refused(name):
    with pytest.raises(ValueError, match="no server rule"):
        server_rule.build(name, **DEFAULTS)


def test_feddyn_is_the_papers_server_step_whatever_share_took_part():
    alpha, share = 0.3, 0.25
    rule = server_rule.feddyn(share=share)
    params, state = np.array([1.0, -2.0], np.float32), (np.zeros(2, np.float32),)
    plain, gradient = params.astype(float), np.zeros(2)
    for step, update in enumerate(([0.5, 1.0], [-0.25, 0.5], [0.0, 2.0]), 1):
        mean = np.array(update)
        gradient = gradient - alpha * share * mean  # the paper's h
        plain = plain + mean - gradient / alpha
        rule.apply(step, params, mean, state)
        np.testing.assert_allclose(params, plain, rtol=1e-6)


def test_scaffold_moves_the_control_by_the_mean_change_of_those_who_took_part():
    steps, rate, share = 4, 0.1, 0.5
    rule = server_rule.scaffold(learning_rate=0.7, share=share, local_length=steps * rate)
    params, state = np.array([1.0, -2.0], np.float32), (np.zeros(2, np.float32),)
    plain, control, own = params.astype(float), np.zeros(2), np.zeros((2, 2))
    for step, updates in enumerate((((0.5, 1.0), (0.1, 0.2)), ((-0.25, 0.5), (0.3, 0.0))), 1):
        moved = np.array(updates)
        after = own - control - moved / (steps * rate)  # option II of the paper, for each of two sites
        plain, control, own = plain + 0.7 * moved.mean(0), control + share * (after - own).mean(0), after
        rule.apply(step, params, moved.mean(0), state)
        np.testing.assert_allclose(params, plain, rtol=1e-6)
        np.testing.assert_allclose(state[0], control, rtol=1e-6)
