"""This very software's private training under the probes: what it releases must be what was accounted.

    unit patient, local noise      `wardround.training.private.PrivateTraining`, step after step
    shared, central noise          the same without noise, for clipping and sampling; and the noise where it is added:
                                   a simulated federation of sites whose records have no gradients
    unit site                      `wardround.training.private.clip_update`
    any                            two one-run audits of `PrivateTraining`, in fixed configurations

A linear model at zero params, which never moves, turns wanted gradients into records and gives them back
(`wardround.privacy.probes.linear_records`). Releases are in units of gradients: times what a step divides by.

The plan's own clipping norm, noise, sampling, band and records of a patient are probed, with these exceptions. What
clips and samples is looked at under noise between 0.1 and 1 clipping norms, and what clips with a sampling rate of
at least 0.05: they hang on neither, and few patients then suffice. Noise that a band correlates is multiplied by the
band first. Where a plan deals patients to batches instead of tossing coins, each must take part once in a pass.

References: `wardround.privacy.probes`, `wardround.privacy.gate`.
"""

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import msgspec
import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from wardround.clinical.contract import Column, DataContract, Label
from wardround.ids import Digest, SiteId
from wardround.privacy import factorization, gate, noising, probes
from wardround.privacy.gate import Audit, Check
from wardround.privacy.probes import Bags, Claims, Run
from wardround.protocol import private
from wardround.protocol.plan import BlobRef, BuiltinModel, Optimizer, Plan, Privacy, Training
from wardround.sdk.shared_noise import noise_together
from wardround.training import models
from wardround.training.private import PrivateTraining, clip_update

__all__ = [
    "CONFIGURATIONS",
    "Configuration",
    "MechanismAudit",
    "audit_mechanism",
    "engine_run",
    "one_run_audit",
    "site_run",
    "step_checks",
]

_Matrix = npt.NDArray[np.float64]

_SMALL_BIAS = 1e-3
"""The intercept's gradient, in clipping norms."""
_LEAST_NOISE, _MOST_NOISE, _LEAST_RATE = 0.1, 1.0, 0.05
_PASSES = 32
_ALARM = 4.9
"""Standard deviations beyond which lies one in a million, on both sides."""


@dataclass(frozen=True, slots=True)
class Configuration:
    """A private run that is audited as a whole: its claim lies between 1 and 4, where an audit sees faults."""

    name: str
    privacy: Privacy
    steps: int
    canaries: int


CONFIGURATIONS = (
    Configuration(
        "half of the patients",
        Privacy(delta=1e-5, noise_multiplier=1.6, sampling_rate=0.5, patient_records=2),
        steps=4,
        canaries=1200,
    ),
    Configuration("all patients", Privacy(delta=1e-5, clip=0.1, noise_multiplier=3.0), steps=2, canaries=2000),
)


@dataclass(frozen=True, slots=True)
class MechanismAudit:
    """What the probes found; `notes` say in words what could not be looked at."""

    checks: tuple[Check, ...]
    audits: Mapping[str, Audit]
    notes: tuple[str, ...]


def audit_mechanism(plan: Plan, seed: bytes) -> MechanismAudit:
    """Probe private training with a plan's settings, and audit the fixed configurations; some ten seconds.

    Args:
        plan: With privacy.
        seed: Of all that the probes draw; the same seed gives the same audit, but for noise that a hub draws.
    """
    privacy = plan.privacy
    if privacy is None:
        raise ValueError("a plan without privacy has no mechanism to audit")
    checks, notes = step_checks(privacy, seed)
    if privacy.noise != "local":
        found, note = noise_together(plan, seed)
        checks, notes = (*checks, *found), (*notes, note)
    audits = {one.name: one_run_audit(one, seed) for one in CONFIGURATIONS}
    whole = tuple(
        replace(check, name=f"{check.name}, {name}") for name, audit in audits.items() for check in audit.checks
    )
    return MechanismAudit((*checks, *whole), audits, notes)


def step_checks(privacy: Privacy, seed: bytes) -> tuple[tuple[Check, ...], tuple[str, ...]]:
    """Noise, clipping, sampling and seeds of what a site does, and notes on what was left out."""
    if privacy.unit == "site":
        return _site_checks(privacy, seed)
    notes: tuple[str, ...] = ()
    batches = private.batches_per_pass(privacy)
    rate = 1 / batches if privacy.sampling == "passes" else privacy.sampling_rate
    noise = private.gradient_noise(privacy)
    claims = Claims(privacy.clip, noise, rate)
    checks: list[Check] = []
    if privacy.noise == "local":
        run = engine_run(privacy)
        fresh = _undone(run, privacy.band) if privacy.band > 1 else run
        checks += [*probes.noise_checks(fresh, claims, seed), *_seed_checks(run, seed)]
        if privacy.band > 1:
            notes = (
                *notes,
                f"noise is correlated over {privacy.band} steps: it was multiplied by the band first",
            )
        if privacy.clip_quantile:
            words = "the noise on how many patients' gradients were left whole, for the learned norm, was not probed"
            notes = (*notes, words)
    quiet = _quiet(privacy)
    clipped = msgspec.structs.replace(quiet, sampling_rate=max(quiet.sampling_rate, _LEAST_RATE))
    clipped = msgspec.structs.replace(clipped, band=min(clipped.band, private.batches_per_pass(clipped)))
    checks += probes.clipping_checks(engine_run(clipped), _claims(clipped), seed)
    if privacy.sampling == "passes":
        checks.append(_passes_check(quiet, seed))
    else:
        checks += probes.sampling_checks(engine_run(quiet), _claims(quiet), seed)
    return tuple(checks), notes


def one_run_audit(configuration: Configuration, seed: bytes) -> Audit:
    """Throw a coin for each of many canary patients, train, and bound epsilon from below."""
    privacy = configuration.privacy
    plan, _ = _probe(privacy, 1, configuration.steps)
    claims = Claims(privacy.clip, privacy.noise_multiplier, privacy.sampling_rate)
    return probes.audit_mechanism(
        engine_run(privacy),
        claims,
        seed + configuration.name.encode(),
        canaries=configuration.canaries,
        steps=configuration.steps,
        epsilon=private.epsilon(plan),
        delta=privacy.delta,
    )


def engine_run(privacy: Privacy) -> Run:
    """`PrivateTraining` as a pipeline under test.

    Where noise is added elsewhere, ordinary Gaussian noise takes its place. With a learned clipping norm each step is
    the first of a round of its own, where that norm is still the plan's.
    """

    def run(bags: Bags, steps: int, seed: bytes) -> _Matrix:
        width, drawn = bags[0].shape[1], hashlib.sha256(seed).digest()
        is_apart = privacy.noise != "local" or bool(privacy.clip_quantile)
        plan, module = _probe(privacy, width, 1 if is_apart else steps)
        made = {id(bag): probes.linear_records(bag, _SMALL_BIAS * privacy.clip) for bag in bags}
        features, labels = (torch.from_numpy(np.concatenate([made[id(bag)][part] for bag in bags])) for part in (0, 1))
        owners = np.repeat(np.arange(len(bags)), [len(bag) for bag in bags])
        trained = [(module.weight, slice(0, width)), (module.bias, slice(width, width + 1))]
        engine = PrivateTraining(plan, module, trained, width + 1, owners, width, len(bags))
        gradient, rows = torch.zeros(width + 1), np.empty((steps, width))
        if not is_apart:
            for step, _ in enumerate(engine.steps(features, labels, drawn, gradient)):
                rows[step] = gradient[:width].double().numpy() * engine.expected
            return rows
        for step in range(steps):
            own = noising.derive(drawn, "round", step)
            if privacy.noise == "local":
                next(engine.steps(features, labels, own, gradient))
            else:
                engine.sum_without_noise(features, labels, own, gradient.zero_())
                gradient /= -plan.training.optimizer.learning_rate
            rows[step] = gradient[:width].double().numpy() * engine.expected
        if privacy.noise != "local":
            rows += _plain_noise(rows, privacy, drawn)
        return rows

    return run


def site_run(privacy: Privacy) -> Run:
    """`clip_update` as a pipeline: each bag is a site, whose update is the sum of its rows.

    Of several sites only the updates are added, with ordinary noise once, and the sites' own left out.
    """

    def run(bags: Bags, steps: int, seed: bytes) -> _Matrix:
        drawn, rows = hashlib.sha256(seed).digest(), np.zeros((steps, bags[0].shape[1]))
        is_one = len(bags) == 1 and privacy.noise == "local"
        clipped = privacy if is_one else msgspec.structs.replace(privacy, noise="central")
        for step in range(steps):
            for bag in bags:
                update = torch.from_numpy(bag.sum(axis=0).astype(np.float32))
                clip_update(update, clipped, noising.derive(drawn, "round", step))
                rows[step] += update.double().numpy()
        return rows if is_one else rows + _plain_noise(rows, privacy, drawn)

    return run


def _site_checks(privacy: Privacy, seed: bytes) -> tuple[tuple[Check, ...], tuple[str, ...]]:
    notes: tuple[str, ...] = ("nothing is sampled where sites are protected as a whole",)
    checks: list[Check] = []
    if privacy.noise == "local":
        run, is_laplace = site_run(privacy), privacy.distribution == "laplace"
        spread = privacy.noise_multiplier * (math.sqrt(2) if is_laplace else 1.0)
        found = probes.noise_checks(run, Claims(privacy.clip, spread), seed, patients=1)
        if is_laplace:
            # The probes' spread and shape are those of normal noise.
            kept = ("noise: steps", "noise: echoes")
            found = (*(check for check in found if check.name in kept), _laplace_check(run, privacy, seed))
            notes = (*notes, "of Laplace noise the mean magnitude was checked, not the shape")
        checks += [*found, *_seed_checks(run, seed)]
    quiet = _quiet(privacy)
    checks += probes.clipping_checks(site_run(quiet), _claims(quiet), seed)
    return tuple(checks), notes


def _laplace_check(run: Run, privacy: Privacy, seed: bytes) -> Check:
    """The mean magnitude of Laplace noise is its scale, and its own spread is as large."""
    rows = run([np.zeros((1, 512))], 80, seed + b" laplace")
    found = float(np.abs(rows).mean()) / (privacy.clip * privacy.noise_multiplier)
    slack = _ALARM / math.sqrt(rows.size)
    words = f"mean magnitude of the noise, in its scale; within {1 - slack:.4f} and {1 + slack:.4f}"
    return Check("noise: spread", abs(found - 1) <= slack, found, 1 + math.copysign(slack, found - 1), words)


def _seed_checks(run: Run, seed: bytes) -> tuple[Check, Check]:
    """Noise follows from the node's seed, and not from torch's generator, which study code can set."""
    bags = [np.zeros((1, 64))]

    def drawn(torchs: int, name: bytes) -> _Matrix:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(torchs)
            return run(bags, 2, seed + name)

    first, again, other = drawn(1, b" seed 1"), drawn(2, b" seed 1"), drawn(1, b" seed 2")
    differ, alike = float((first != again).mean()), float((first == other).mean())
    return (
        Check("noise: one seed", differ == 0, differ, 0.0, "share of the noise that differs under one seed; none"),
        Check(
            "noise: two seeds",
            alike <= 0.02,
            alike,
            0.02,
            "share of the noise that is alike under two seeds and one state of torch's generator; at most rounding",
        ),
    )


def _passes_check(privacy: Privacy, seed: bytes) -> Check:
    """In every pass each patient takes part once, and no more."""
    batches, noise = private.batches_per_pass(privacy), privacy.noise_multiplier
    patients = 4 * batches + 1
    bag = np.zeros((1, 16))
    bag[0, 0] = 4 * privacy.clip
    released = engine_run(privacy)([bag] * patients, _PASSES * batches, seed + b" passes")[:, 0] / privacy.clip
    mean = float(released.sum()) / (_PASSES * patients)
    # The clipping bound lies a thousandth below the norm, so that rounding never leads above it.
    slack = 2e-3 + _ALARM * noise * math.sqrt(_PASSES * batches) / (_PASSES * patients)
    words = (
        f"times that a patient takes part in a pass of {batches} batches; within {1 - slack:.4f} and {1 + slack:.4f}"
    )
    return Check("sampling: passes", abs(mean - 1) <= slack, mean, 1 + math.copysign(slack, mean - 1), words)


def _undone(run: Run, band: int) -> Run:
    """The same, with each step's release multiplied by the band: what is left of noise is independent."""
    factors = factorization.coefficients(band)

    def undone(bags: Bags, steps: int, seed: bytes) -> _Matrix:
        released = run(bags, steps, seed)
        rows = np.zeros_like(released)
        for back, factor in enumerate(factors[:steps]):
            rows[back:] += factor * released[: steps - back]
        return rows

    return undone


def _quiet(privacy: Privacy) -> Privacy:
    noise = min(max(private.gradient_noise(privacy), _LEAST_NOISE), _MOST_NOISE)
    return msgspec.structs.replace(privacy, noise_multiplier=noise, clip_quantile=0.0)


def _claims(privacy: Privacy) -> Claims:
    is_dealt = privacy.sampling == "passes"
    rate = 1 / private.batches_per_pass(privacy) if is_dealt else privacy.sampling_rate
    return Claims(privacy.clip, privacy.noise_multiplier, rate)


def _plain_noise(rows: _Matrix, privacy: Privacy, seed: bytes) -> _Matrix:
    deviation = privacy.clip * privacy.noise_multiplier
    return deviation * gate.generator(seed, "noise that is added elsewhere").standard_normal(rows.shape)


def _probe(privacy: Privacy, width: int, steps: int) -> tuple[Plan, nn.Linear]:
    """A plan of a linear model with this privacy, and the model at zero params."""
    module = nn.Linear(width, 1)
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    plan = Plan(
        title="probe",
        purpose="",
        legal_basis="",
        researcher=SiteId("nobody"),
        participants=(),
        min_participants=1,
        data=DataContract(columns=(Column(name="x"),), label=Label(name="y", outcome="number"), scaling="none"),
        model=BuiltinModel(name="linear"),
        manifest=models.manifest_of(module),
        initial=BlobRef(Digest("0" * 64), 0),
        training=Training(rounds=1, epochs=0, steps=steps, optimizer=Optimizer(learning_rate=1.0)),
        privacy=privacy,
        expires=0,
    )
    return plan, module
