"""Attacks do what their papers say, follow from their seed, and reach a simulated run."""

import numpy as np
import pytest
from tests.unit.services.test_secure_rounds import SITES, declared, table

import wardround
from wardround.errors import ConfigError
from wardround.training import attacks
from wardround.training.hostile import hostile_table

HONEST = [np.array([1.0, 2.0, 3.0, 4.0], "f4") + np.float32(0.1 * place) for place in range(5)]
OWN = np.array([1.0, 2.0, 3.0, 4.0], "f4")


def sent(attack, seed=1, **changes):
    generator = np.random.default_rng(seed)  # noqa: TID251, seeded
    settings = {"sites": 7, "hostile": 2, "generator": generator} | changes
    return attacks.hostile_update(attack, OWN, HONEST, **settings)


def test_what_is_sent_is_what_the_attack_says():
    mean, std = np.mean(HONEST, axis=0), np.std(HONEST, axis=0)
    assert np.allclose(sent("sign-flip"), -4 * OWN)
    assert np.allclose(sent("sign-flip", scale=1.5), -1.5 * OWN)
    assert np.allclose(sent("replacement"), 10 * OWN)
    assert np.allclose(sent("inner-product"), -2 * mean)
    assert not sent("free-rider-old").any()
    z = (mean - sent("little-is-enough")) / std
    assert np.allclose(z, z[0], rtol=1e-3)
    assert 0 < z[0] < 2, "within what honest sites send"


def test_noise_is_as_long_as_it_should_be_and_follows_from_its_seed():
    own = np.full(10_000, 0.5, "f4")
    generator = np.random.default_rng(3)  # noqa: TID251, seeded
    settings = {"sites": 7, "hostile": 2}
    noisy = attacks.hostile_update("gaussian", own, [], generator=generator, **settings)
    assert np.linalg.norm(noisy - own) == pytest.approx(4 * np.linalg.norm(own), rel=0.05)
    lazy = attacks.hostile_update("free-rider-noise", own, [own], generator=generator, **settings)
    assert np.linalg.norm(lazy) == pytest.approx(np.linalg.norm(own), rel=0.05)
    assert np.array_equal(sent("gaussian", 5), sent("gaussian", 5))
    assert not np.array_equal(sent("gaussian", 5), sent("gaussian", 6))


def test_records_are_changed_and_those_held_out_are_not():
    own = table("deeside")
    flipped = hostile_table(own, "label-flip", 1)
    training = ~own.held_out
    assert np.array_equal(flipped.labels[training], 1 - own.labels[training])
    assert np.array_equal(flipped.labels[~training], own.labels[~training])
    assert np.array_equal(flipped.features, own.features)
    backdoor = hostile_table(own, "backdoor", 1)
    changed = (backdoor.features != own.features).any(axis=1)
    assert 0 < changed.sum() < training.sum()
    assert not changed[~training].any()
    assert (backdoor.labels[changed] == 1).all()
    assert hostile_table(own, "sign-flip", 1) is own


@pytest.mark.parametrize("attack", ["label-flip", "backdoor"])
def test_a_hostile_site_s_records_stay_their_patients(attack):
    plain = table("deeside")
    patients = (np.arange(len(plain.labels)) // 2).astype(np.int32)
    own = wardround.StudyTable(plain.features, plain.labels, plain.held_out, plain.report, patients)
    assert np.array_equal(hostile_table(own, attack, 1).patients, patients)


@pytest.mark.parametrize("attack", attacks.ATTACKS)
def test_every_attack_reaches_the_model_of_a_simulated_run(attack):
    study = declared()
    tables = {site: table(site) for site in SITES}
    calm = wardround.simulate(study, tables)
    attacked = wardround.simulate(study, tables, attacks={"deeside": attack})
    assert attacked.status.phase == "completed"
    assert attacked.model != calm.model
    assert attacked.model == wardround.simulate(study, tables, attacks={"deeside": attack}).model


def test_a_median_keeps_what_the_mean_loses():
    tables = {site: table(site) for site in SITES}
    settings = {"training": wardround.Training(rounds=6, epochs=2, batch_size=8)}
    calm = wardround.simulate(declared(**settings), tables)
    lost = wardround.simulate(declared(**settings), tables, attacks={"deeside": "sign-flip"})
    rule = wardround.Aggregation(rule="median", hostile=1)
    kept = wardround.simulate(declared(aggregation=rule, **settings), tables, attacks={"deeside": "sign-flip"})

    def distance(one):
        return sum(
            np.abs(np.asarray(one.arrays()[name]) - np.asarray(calm.arrays()[name])).sum() for name in calm.arrays()
        )

    assert distance(kept) < 0.5 * distance(lost)


@pytest.mark.parametrize("hostile", [{"deeside": "guess"}, {"nobody": "sign-flip"}])
def test_an_attack_that_does_not_exist_is_refused(hostile):
    with pytest.raises(ConfigError, match="sign-flip, gaussian"):
        wardround.simulate(declared(), {site: table(site) for site in SITES}, attacks=hostile)
