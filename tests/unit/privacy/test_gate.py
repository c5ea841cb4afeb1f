"""The gate passes a correct mechanism and catches broken ones; each fault is switched on in a reference of our own."""

import json
import math

import numpy as np
import pytest

from wardround.privacy import empirical, gate, probes, rdp
from wardround.privacy.mechanisms import SampledGaussian
from wardround.privacy.probes import Claims

CLAIMS = Claims(clip_norm=2.0, noise_multiplier=2.0, sampling_rate=0.25, grid=2.0**-8)
DELTA = 1e-5
SITES = 3


def drawn(seed, *words):
    return gate.generator(seed, " ".join(map(str, words)))


def reference(claims=CLAIMS, **faults):
    """Patient-level private SGD over three sites, with discrete noise; `faults` break it."""

    def contribution(bag):
        if faults.get("per_record"):
            return sum(clipped(record) for record in bag)
        return clipped(bag.mean(axis=0))

    def clipped(vector):
        if faults.get("no_clip"):
            return vector
        if faults.get("per_coordinate"):
            return np.clip(vector, -claims.clip_norm, claims.clip_norm)
        with np.errstate(over="ignore", invalid="ignore"):
            narrow = vector.astype("f4")
            length = np.sqrt(np.sum(narrow * narrow)) if faults.get("narrow") else np.linalg.norm(vector)
            factor = claims.clip_norm / length if length > claims.clip_norm else 1.0
            return narrow * np.inf * factor if faults.get("narrow") and np.isinf(length) else vector * factor

    def noise(seed, step, width):
        shares = []
        for site in range(SITES):
            # A share of the variance each; the fault shares the deviation, or nobody shares at all.
            part = claims.deviation / {"shared": SITES, "whole": 1}.get(faults.get("share"), math.sqrt(SITES))
            label = 0 if faults.get("reuse") else step
            made = drawn(seed, "noise", label, 0 if faults.get("one_seed") else site)
            values = made.laplace(0, part / math.sqrt(2), width) if faults.get("laplace") else None
            values = made.standard_normal(width) * part if values is None else values
            if faults.get("blocks"):
                values = np.resize(values[: width // 4], width)
            values = values * faults.get("scale", 1.0) + faults.get("shift", 0.0)
            shares.append(values if faults.get("off_lattice") else np.rint(values / claims.grid) * claims.grid)
        return np.sum(shares, axis=0)

    def coins(seed, step, patients):
        made = drawn(seed, "coins", 0 if faults.get("same_coins") else step)
        if faults.get("batches"):
            return made.permutation(patients) < round(patients * claims.sampling_rate)
        return made.random(patients) < claims.sampling_rate * faults.get("rate", 1.0)

    def run(bags, steps, seed):
        parts = np.array([contribution(np.asarray(bag)) for bag in bags])
        if faults.get("blind"):
            parts[:] = 0.0
        rows = []
        for step in range(steps):
            total = parts[coins(seed, step, len(parts))].sum(axis=0)
            total = total if faults.get("off_lattice") else np.rint(total / claims.grid) * claims.grid
            rows.append(total + noise(seed, step, parts.shape[1]))
        return np.array(rows)

    return run


def failed(checks):
    return {check.name for check in checks if not check.passed}


def epsilon(claims, steps):
    asked = SampledGaussian(noise_multiplier=claims.noise_multiplier, sampling_rate=claims.sampling_rate, steps=steps)
    return rdp.epsilon(rdp.cost(asked), DELTA)


def audited(run, claims, seed, steps=12, canaries=2000):
    return probes.audit_mechanism(
        run, claims, seed, canaries=canaries, steps=steps, epsilon=epsilon(claims, steps), delta=DELTA
    )


def named(value):
    """The same name in every process: sets have no order."""
    return str(sorted(value)) if isinstance(value, set) else str(value)


@pytest.mark.parametrize("number", range(20))
def test_a_correct_mechanism_passes(number):
    seed = b"seed %d" % number
    found = gate.Gate(probes.mechanism_checks(reference(), CLAIMS, seed))
    assert found.passed, found.failures


ONE_RUN = Claims(clip_norm=1.0, noise_multiplier=1.6, sampling_rate=0.5, grid=2.0**-8)


@pytest.mark.parametrize("number", range(20))
def test_a_correct_mechanism_passes_the_audit(number):
    found = audited(reference(ONE_RUN), ONE_RUN, b"audit %d" % number, steps=4, canaries=1200)
    assert gate.Gate(found.checks).passed, found.checks
    assert 0 < found.usual_low < found.usual_median < found.usual_high < found.claimed < 4


@pytest.mark.parametrize(
    ("faults", "names"),
    [
        ({"scale": 0.3}, {"noise: spread", "noise: shape"}),
        ({"scale": 0.9}, {"noise: spread"}),
        ({"no_clip": True}, {"clipping: one huge record", "clipping: just above"}),
        ({"per_record": True}, {"clipping: many records"}),
        ({"per_coordinate": True}, {"clipping: all coordinates"}),
        ({"narrow": True}, {"clipping: overflowing"}),
        ({"share": "shared"}, {"noise: spread"}),
        ({"share": "whole"}, {"noise: spread"}),
        ({"one_seed": True}, {"noise: spread"}),
        ({"reuse": True}, {"noise: steps", "noise: echoes"}),
        ({"blocks": True}, {"noise: echoes"}),
        ({"laplace": True}, {"noise: shape"}),
        ({"shift": 0.2}, {"noise: shape"}),
        ({"off_lattice": True}, {"noise: lattice"}),
        ({"rate": 1.2}, {"sampling: rate"}),
        ({"same_coins": True}, {"sampling: spread"}),
        ({"batches": True}, {"sampling: spread"}),
        ({"blind": True}, {"clipping: sight", "sampling: rate"}),
    ],
    ids=named,
)
def test_a_fault_is_caught(faults, names):
    for number in range(3):
        assert failed(probes.mechanism_checks(reference(**faults), CLAIMS, b"fault %d" % number)) >= names


@pytest.mark.parametrize(
    ("faults", "name"),
    [
        ({"scale": 0.3}, "one-run audit: the correct mechanism"),
        ({"no_clip": True}, "one-run audit: the correct mechanism"),
        ({"rate": 2.0}, "one-run audit: the correct mechanism"),
        ({"blind": True}, "one-run audit: sight"),
    ],
    ids=named,
)
def test_a_fault_is_caught_by_the_audit(faults, name):
    for number in range(2):
        assert name in failed(audited(reference(ONE_RUN, **faults), ONE_RUN, b"fault %d" % number, steps=4).checks)


def test_a_third_of_the_noise_refutes_a_low_claim_and_not_a_high_one():
    low = Claims(clip_norm=1.0, noise_multiplier=3.2, grid=2.0**-8)
    high = Claims(clip_norm=1.0, noise_multiplier=0.85, grid=2.0**-8)
    one = audited(reference(low, scale=0.3), low, b"low", steps=1, canaries=4000)
    assert one.claimed < 1.6
    assert one.found.epsilon > 2.0
    assert "one-run audit: the claim" in failed(one.checks)
    other = audited(reference(high, scale=0.3), high, b"high", steps=1, canaries=1000)
    assert failed(other.checks) == {"one-run audit: the correct mechanism"}, "the claim alone is a weak bound"


@pytest.mark.parametrize("points", [0.8, 4.0, 290.0, 1e5])
def test_the_stated_noise_is_known_at_every_width_of_its_lattice(points):
    claims = Claims(clip_norm=1.0, noise_multiplier=1.5, grid=1.5 / points)
    lattice = np.arange(-math.ceil(10 * points), math.ceil(10 * points) + 1)
    chances = np.exp(-np.square(lattice / points) / 2)

    def run(bags, steps, seed, scale=1.0):
        made = drawn(seed, "lattice")
        return claims.grid * made.choice(lattice, (steps, bags[0].shape[1]), p=chances / chances.sum()) * scale

    assert not failed(probes.noise_checks(run, claims, b"seed"))
    assert failed(probes.noise_checks(lambda *args: run(*args, 2.0), claims, b"seed")) >= {"noise: spread"}


def test_who_took_part_is_known_exactly_where_it_can_be_shown():
    made = drawn(b"takers")
    fair = made.random((200, 300)) < 0.1
    assert not failed(probes.takers_checks(fair, 0.1))
    assert "takers: rate" in failed(probes.takers_checks(fair, 0.11))
    batches = np.array([made.permutation(300) < 30 for _ in range(200)])
    assert failed(probes.takers_checks(batches, 0.1)) == {"takers: steps"}
    favoured = made.random((200, 300)) < np.where(np.arange(300) < 150, 0.05, 0.15)
    assert failed(probes.takers_checks(favoured, 0.1)) == {"takers: patients"}
    with pytest.raises(ValueError, match="rate"):
        probes.takers_checks(fair, 1.0)


def test_a_pipeline_must_give_as_many_releases_as_steps():
    with pytest.raises(ValueError, match="40 steps"):
        probes.noise_checks(lambda bags, steps, seed: np.zeros((1, 512)), CLAIMS, b"seed")


def test_records_of_a_linear_model_have_the_gradients_that_were_asked_for():
    bag = drawn(b"records").standard_normal((5, 7))
    bag[2] = 0.0
    features, labels = probes.linear_records(bag, bias=1e-2)
    assert np.allclose(2 * (0.0 - labels)[:, None] * features, bag, rtol=1e-5)
    assert np.allclose(2 * (0.0 - labels), [0.01, 0.01, 0, 0.01, 0.01])
    assert features.dtype == labels.dtype == np.float32


def test_a_verdict_is_a_document_and_nothing_checked_is_no_pass():
    good = gate.Check("one", True, 1.0, 2.0, "fine")
    bad = gate.Check("two", False, math.nan, math.inf, "not")
    assert not gate.Gate(()).passed
    assert gate.Gate((good,)).passed
    found = gate.Gate((good, bad))
    assert found.failures == (bad,)
    document = json.loads(json.dumps(found.document(), allow_nan=False))
    assert document["passed"] is False
    assert document["checks"][1] == {"name": "two", "passed": False, "figure": None, "bound": None, "words": "not"}


def test_a_quantile_needs_draws():
    with pytest.raises(ValueError, match="1,000"):
        gate.audit_release(
            lambda included: included * 1.0,
            100,
            epsilon=1.0,
            delta=DELTA,
            correct=lambda included, _: included * 1.0,
            seed=b"",
            draws=10,
        )


def curve(members, nonmembers, shift, seed=b"curve"):
    made = drawn(seed)
    return empirical.roc(made.standard_normal(members) + shift, made.standard_normal(nonmembers))


def test_the_rates_that_privacy_allows():
    assert gate.allowed_rate(0.001, 0.0, 0.0) == 0.001
    assert gate.allowed_rate(0.001, 1.0, 1e-5) == pytest.approx(math.e * 0.001 + 1e-5)
    assert gate.allowed_rate(0.9, 1.0, 0.0) == pytest.approx(1 - math.exp(-1) * 0.1)
    assert gate.allowed_rate(0.5, 1e4, 0.0) == gate.allowed_rate(0.5, math.inf, 0.0) == 1.0


def test_a_claim_is_refuted_by_the_lower_bound_and_a_policy_met_by_the_upper():
    leaking, silent, few = curve(5000, 5000, 5.0), curve(5000, 5000, 0.0), curve(30, 30, 0.0)
    claim, policy = (1.0, 1e-5), 0.01
    assert failed(gate.membership_checks("x", leaking, claim=claim)) == {"x: claim at 0.001", "x: claim at 0.01"}
    assert not failed(gate.membership_checks("x", silent, claim=claim, policy=policy))
    assert not failed(gate.membership_checks("x", few, claim=claim)), "few patients refute nothing"
    assert failed(gate.membership_checks("x", few, policy=policy)) == {"x: policy"}, "and prove nothing"
    assert failed(gate.membership_checks("x", leaking, policy=policy)) == {"x: policy"}
    assert gate.membership_checks("x", leaking) == ()
    with pytest.raises(ValueError, match="rate"):
        gate.membership_checks("x", leaking, rates=())


def test_planted_canaries_are_exposed_by_no_more_than_chance():
    made = drawn(b"exposure")
    others = made.standard_normal(65_535)
    silent = empirical.exposure(made.standard_normal(8), others)
    assert gate.exposure_check(silent, len(others)).passed
    assert not gate.exposure_check(np.append(silent, 15.9), len(others)).passed
    with pytest.raises(ValueError, match="other secrets"):
        gate.exposure_check(silent, 1000)


def test_an_inversion_counts_only_if_its_control_succeeds():
    assert not failed(gate.inversion_checks(1.0, 0.0))
    assert failed(gate.inversion_checks(0.2, 0.0)) == {"gradient inversion: control"}
    assert failed(gate.inversion_checks(1.0, 0.3)) == {"gradient inversion: release"}
