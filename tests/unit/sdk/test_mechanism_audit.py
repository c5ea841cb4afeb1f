"""The software's own private training passes the probes; broken on purpose, where it is written, it is caught."""

import msgspec
import numpy as np
import pytest
import torch

from wardround.clinical.contract import Column, DataContract, Label
from wardround.privacy import noising, probes
from wardround.privacy.gate import Gate
from wardround.privacy.noising import Grid
from wardround.protocol import private
from wardround.protocol.plan import BuiltinModel, Optimizer, Privacy, SecureAggregation, Training
from wardround.sdk import mechanism_audit, shared_noise
from wardround.sdk import study as studies
from wardround.training import bags as patient_bags
from wardround.training import private as training
from wardround.training.patient_gradients import PatientGradients

SAMPLED = Privacy(delta=1e-5, clip=0.5, noise_multiplier=1.1, sampling_rate=0.25, patient_records=4)
DEALT = Privacy(delta=1e-5, noise_multiplier=3.0, sampling="passes", sampling_rate=0.2)
SITE = Privacy(delta=1e-5, noise_multiplier=1.1, unit="site")


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def changed(privacy, **fields):
    return msgspec.structs.replace(privacy, **fields)


def failed(checks):
    return {check.name for check in checks if not check.passed}


def steps(privacy=SAMPLED, seed=b"seed"):
    return mechanism_audit.step_checks(privacy, seed)[0]


@pytest.mark.parametrize("number", range(20))
def test_private_training_as_it_is_passes(number):
    found = Gate(steps(seed=b"seed %d" % number))
    assert found.passed, found.failures


@pytest.mark.parametrize(
    "privacy",
    [
        changed(SAMPLED, clip_quantile=0.5),
        changed(SAMPLED, noise="shared"),
        changed(SAMPLED, sampling_rate=1.0, noise_multiplier=20.0),
        DEALT,
        changed(DEALT, band=4),
        SITE,
        changed(SITE, distribution="laplace"),
        changed(SITE, noise="central"),
    ],
    ids=["learned norm", "shared", "all", "dealt", "band", "site", "site, laplace", "site, central"],
)
def test_so_does_every_other_way_to_train(privacy):
    found = Gate(steps(privacy))
    assert found.passed, found.failures


def test_a_band_that_is_not_what_it_should_be_is_caught(monkeypatch):
    run, bags = mechanism_audit.engine_run(changed(DEALT, band=2)), [np.zeros((1, 512))]
    with monkeypatch.context() as broken:
        broken.setattr(training.factorization, "coefficients", lambda band: (1.0, 0.2)[:band])
        released = run(bags, 40, b"band")
    undone = mechanism_audit._undone(lambda *_: released, 2)(bags, 40, b"band")
    assert np.corrcoef(undone[:-1].ravel(), undone[1:].ravel())[0, 1] > 0.2
    checks = probes.noise_checks(mechanism_audit._undone(run, 2), probes.Claims(1.0, 3.0), b"band")
    assert not failed(checks)


# --- PRIVACY.md, section 4: mutation controls, in the real code.


def weaker_noise(monkeypatch):
    monkeypatch.setattr(training, "Grid", lambda clip, noise, *rest, **kw: Grid(clip, 0.3 * noise, *rest, **kw))


def no_clipping(monkeypatch):
    real = PatientGradients.clipped_sum
    monkeypatch.setattr(
        PatientGradients, "clipped_sum", lambda self, x, y, w, _, out: real(self, x, y, w, float("inf"), out)
    )


def clipping_by_record(monkeypatch):
    real = patient_bags.Bags.pieces

    def pieces(self, chosen):
        for rows, weights in real(self, chosen):
            yield rows.reshape(-1, 1), (weights > 0).astype(np.float32).reshape(-1, 1)

    monkeypatch.setattr(patient_bags.Bags, "pieces", pieces)


def one_seed_for_all_steps(monkeypatch):
    real = noising.derive
    monkeypatch.setattr(noising, "derive", lambda seed, *labels: real(seed, *labels[:1]))


def one_seed_for_all_rounds(monkeypatch):
    real = noising.derive
    monkeypatch.setattr(noising, "derive", lambda _, *labels: real(b"always", *labels))


def torchs_noise(monkeypatch):
    def noisy(total, grid, _):
        return (total + 2.0**28 * torch.randn(len(total), dtype=torch.float64).numpy()) / grid.scale

    monkeypatch.setattr(noising, "_noisy", noisy)


@pytest.mark.parametrize(
    ("mutate", "names"),
    [
        (weaker_noise, {"noise: spread", "noise: shape"}),
        (no_clipping, {"clipping: one huge record", "clipping: just above"}),
        (clipping_by_record, {"clipping: many records"}),
        (one_seed_for_all_steps, {"noise: steps", "noise: echoes", "sampling: spread"}),
        (one_seed_for_all_rounds, {"noise: steps", "noise: two seeds"}),
        (torchs_noise, {"noise: one seed"}),
    ],
    ids=["weaker noise", "no clipping", "clipping by record", "one seed, steps", "one seed, rounds", "torch's noise"],
)
@pytest.mark.filterwarnings("ignore:invalid value encountered in cast")
def test_a_fault_in_private_training_is_caught(monkeypatch, mutate, names):
    mutate(monkeypatch)
    assert failed(steps(seed=b"fault")) >= names


@pytest.mark.parametrize("configuration", mechanism_audit.CONFIGURATIONS, ids=lambda one: one.name)
def test_weaker_noise_is_caught_by_the_one_run_audit_alone(monkeypatch, configuration):
    weaker_noise(monkeypatch)
    found = mechanism_audit.one_run_audit(configuration, b"fault")
    assert "one-run audit: the correct mechanism" in failed(found.checks)


@pytest.mark.parametrize("configuration", mechanism_audit.CONFIGURATIONS, ids=lambda one: one.name)
def test_an_audit_of_the_software_as_it_is_passes_and_sees(configuration):
    found = mechanism_audit.one_run_audit(configuration, b"as it is")
    assert not failed(found.checks)
    assert 1.0 <= found.claimed < 4.0
    assert 0 < found.usual_low < found.usual_median < found.usual_high < found.claimed


def test_a_site_that_adds_no_noise_is_caught(monkeypatch):
    monkeypatch.setattr(training, "NoisySum", Noiseless)
    assert failed(steps(SITE)) >= {"noise: spread", "noise: two seeds"}


class Noiseless(noising.NoisySum):
    """Gives the sum away as it is."""

    def release(self, seed):
        return self.total / self._grid.scale


def plan(noise, **fields):
    return studies.declare(
        title="t",
        purpose="p",
        legal_basis="l",
        researcher="r",
        participants=["a", "b", "c", "d"],
        min_participants=3,
        data=DataContract(columns=(Column(name="x"),), label=Label(name="y"), scaling="none"),
        model=BuiltinModel(name="logistic"),
        training=Training(rounds=3, epochs=0, steps=1, optimizer=Optimizer(learning_rate=0.2)),
        secure=SecureAggregation(roster="0" * 64) if noise == "shared" else None,
        privacy=Privacy(delta=1e-5, noise_multiplier=2.0, noise=noise, **fields),
        expires=1 << 40,
    ).plan


@pytest.mark.parametrize(
    ("noise", "fields"),
    [("shared", {"sampling_rate": 0.2, "colluding": 1}), ("central", {"sampling_rate": 0.2})],
    ids=["shared", "central"],
)
def test_noise_that_is_added_together_is_what_was_accounted(noise, fields):
    checks, words = shared_noise.noise_together(plan(noise, **fields), b"together")
    assert not failed(checks), checks
    assert words == f"{noise} noise was looked at in simulated rounds of 3 sites"


@pytest.mark.parametrize("share", [1, 9], ids=["each site adds all of it", "each site adds too little"])
def test_shares_of_noise_that_are_not_scaled_are_caught(monkeypatch, share):
    monkeypatch.setattr(private, "honest_share", lambda _: share)
    assert "noise: spread" in failed(shared_noise.noise_together(plan("shared"), b"fault")[0])
