"""Membership inference on a released model: can one tell whose records a site trained it on?

    reference models     the plan's architecture, each trained on a random half of the site's patients, held out or not,
                         so that of every patient half of the models know nothing
    RMIA, LiRA           `wardround.privacy.empirical`: is the released model more certain of a patient than they are?
    members              patients with a training record, by these records; the other patients are not
    verdict              `wardround.privacy.gate.membership_checks`

Sites are small. With n patients held out no attack can be seen to make fewer false positives than one in n, so rates
below that are rates at "no false positive", and their intervals are wide. The verdict takes these into account in both
directions. A model that claims (epsilon, delta) fails only if the *lower* bound of the true positive rate exceeds
``e^epsilon FPR + delta`` at the upper bound of the false positive rate: what is left is not chance. Where policy gives
a bound, the *upper* bound must lie below it: too few patients then fail, because nothing was shown. `least_policy`
says which policy a site's numbers can meet at all. Where few are held out it is at 10 % that a claim can be refuted.

The attacker knows the site's patients, the architecture and the labels, and trains on the site's records alone; the
model may have been trained at other sites, too. Reference models follow the plan's optimizer in one place, without
privacy. Epsilon is a patient's: records of one patient are not independent trials, and count as one.

References:
    Zarifzadeh, Liu, Shokri. Low-Cost High-Power Membership Inference Attacks. ICML 2024. arXiv:2312.03262 (RMIA).
    Carlini et al. Membership Inference Attacks From First Principles. S&P 2022. arXiv:2112.03570 (LiRA).
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from wardround.aggregation import standardization as scaling
from wardround.clinical import contract as data_contract
from wardround.clinical.table import StudyTable
from wardround.codec import tensors
from wardround.errors import ConfigError
from wardround.privacy import empirical, gate
from wardround.privacy.empirical import Rate, Roc
from wardround.privacy.gate import Gate
from wardround.protocol.plan import BuiltinModel, Plan, statistics_manifest
from wardround.sdk.predict import predict
from wardround.training import models, optimizer
from wardround.training import package as packages

__all__ = ["LEAST_REFERENCES", "MembershipAudit", "audit_membership", "record_losses"]

_Vector = npt.NDArray[np.float64]
_Flags = npt.NDArray[np.bool_]

LEAST_REFERENCES = 4
_RATES = (0.001, 0.01, 0.1)
_MOST_PASSES = 200
_POINTS = 400
_FARTHEST = 3.0


@dataclass(frozen=True, slots=True)
class MembershipAudit:
    """What the attacks found. `rates` are, for each attack, those at 0.1 %, 1 %, 10 % and one non-member, rising."""

    members: int
    nonmembers: int
    references: int
    curves: Mapping[str, Roc]
    rates: Mapping[str, tuple[Rate, ...]]
    gate: Gate
    claim: tuple[float, float] | None
    policy: float | None

    @property
    def resolution(self) -> float:
        """The lowest false positive rate above none that these patients can show."""
        return 1 / self.nonmembers

    @property
    def least_policy(self) -> float:
        """The strictest policy that these patients could meet: the upper bound where no member at all is found."""
        share = (1 - _confidence(len(self.curves))) / len(next(iter(self.rates.values())))
        return empirical.clopper_pearson(0, self.members, 1 - share)[1]

    def document(self) -> dict[str, object]:
        """All of it as JSON-able values; `passed` is None without claim and policy, curves have at most 400 points."""
        attacks = {}
        for name, curve in self.curves.items():
            kept = np.unique(np.linspace(0, len(curve.false_positive) - 1, _POINTS).astype(int))
            attacks[name] = {
                "auc": curve.auc,
                "advantage": curve.advantage,
                "false_positive": curve.false_positive[kept].tolist(),
                "true_positive": curve.true_positive[kept].tolist(),
                "rates": [_rate(point) for point in self.rates[name]],
            }
        return {
            "members": self.members,
            "nonmembers": self.nonmembers,
            "references": self.references,
            "resolution": self.resolution,
            "least_policy": self.least_policy,
            "claim": None if self.claim is None else {"epsilon": self.claim[0], "delta": self.claim[1]},
            "policy": self.policy,
            "attacks": attacks,
            **self.gate.document(),
            "passed": self.gate.passed if self.gate.checks else None,
        }


def audit_membership(
    plan: Plan,
    model: bytes,
    standardization: bytes,
    table: StudyTable,
    *,
    package: bytes = b"",
    references: int = 8,
    passes: int = 0,
    seed: int = 0,
    claim: tuple[float, float] | None = None,
    policy: float | None = None,
) -> MembershipAudit:
    """Attack a released model with a site's own records. It takes as long as training so many reference models.

    Args:
        plan: The study's plan.
        model: The released model's file.
        standardization: The global statistics' file; empty where the plan has none.
        table: The site's records: those held out are of patients on whom it was not trained.
        package: The code package, where the plan has one; its code runs in this process.
        references: How many reference models: an even number.
        passes: Over the records, for each reference model; 0: as many as the plan makes, and at most 200.
        seed: Of the halves and the training.
        claim: Epsilon and delta of one patient, where the model has them.
        policy: The highest true positive rate that is tolerated at a false positive rate of 0.1 %.

    Raises:
        ConfigError: There are too few patients on one side, or an odd number of references or fewer than four.
        TensorMismatchError: The file is not a model of this plan.
    """
    if references < LEAST_REFERENCES or references % 2:
        raise ConfigError(f"references must be an even number, and at least {LEAST_REFERENCES}")
    used, owners, is_member = _patients(table)
    if min(is_member.sum(), (~is_member).sum()) < 2:
        raise ConfigError("membership needs two patients with training records, and two with none")
    features = _scaled(plan, standardization, table.features[used])
    labels = torch.from_numpy(table.labels[used])
    with torch.random.fork_rng(devices=[]):  # building a module draws
        target = predict(plan, model, standardization, table.features[used], package=package)
    inside = _halves(references, len(is_member), seed)
    others = np.stack(
        [
            _reference(plan, package, features, labels, half[owners], seed=seed + 1 + place, passes=passes)
            for place, half in enumerate(inside)
        ]
    )
    outcome, known = plan.data.label.outcome, table.labels[used]
    spread = 1.0
    if outcome == "number":
        spread = float(np.mean(np.square(others - known)[~inside[:, owners]])) or 1.0
    losses, other_losses = (record_losses(outcome, one, known, spread) for one in (target[None], others))
    with_confidence = outcome in {"binary", "multiclass"}
    signals = [empirical.logit_confidence(one) if with_confidence else -one for one in (losses, other_losses)]
    (likely,), usual = (_per_patient(-one, owners) for one in (losses, other_losses))
    (signal,), signal_usual = (_per_patient(one, owners) for one in signals)
    scores = {
        "RMIA": empirical.rmia(likely, usual, inside),
        "LiRA, offline": empirical.lira_offline(signal, signal_usual, inside),
    }
    return _audit(scores, is_member, references, claim, policy)


def record_losses(
    outcome: str, outputs: npt.NDArray[np.floating], labels: npt.NDArray[np.floating], spread: float = 1.0
) -> _Vector:
    """Each record's negative log-likelihood under each model, up to a constant that models share.

    A survival record's is that of the whole likelihood, with Breslow's baseline hazard from the same records, and
    log-risks brought to a deviation of at most 1.

    Args:
        outcome: As in `wardround.clinical.contract.Label`.
        outputs: ``(models, records)``, or ``(models, records, classes)`` logits.
        labels: ``(records,)``; survival ``(records, 2)``.
        spread: Variance of a number's errors.

    Returns:
        float64 ``(models, records)``.
    """
    wide = outputs.astype(np.float64)
    match outcome:
        case "binary":
            found = np.logaddexp(0.0, np.where(labels > 0.5, -wide, wide))
        case "multiclass":
            chosen = np.take_along_axis(wide, labels.astype(np.intp)[None, :, None], axis=2)[:, :, 0]
            found = np.logaddexp.reduce(wide, axis=2) - chosen
        case "number":
            found = np.square(wide - labels) / (2 * spread)
        case _:
            found = np.stack([_survival_losses(risks, labels) for risks in wide])
    return np.asarray(found, np.float64)


def _survival_losses(risks: _Vector, labels: npt.NDArray[np.floating]) -> _Vector:
    # An overfitted model's log-risks are so far apart that a few records drown the others; their order stays.
    risks = np.clip((risks - np.median(risks)) / max(1.0, float(risks.std())), -_FARTHEST, _FARTHEST)
    times, events = labels[:, 0], labels[:, 1] > 0.5
    order = np.argsort(-times, kind="stable")
    log_at_risk = np.logaddexp.accumulate(risks[order])
    # Records of one time are at risk together: each takes the sum at the last of them.
    last = np.searchsorted(-times[order], -times, side="right") - 1
    own = log_at_risk[last]
    jumps = np.where(events, np.exp(-own), 0.0)
    rising = np.argsort(times, kind="stable")
    hazard = np.cumsum(jumps[rising])[np.searchsorted(times[rising], times, side="right") - 1]
    return np.asarray(hazard * np.exp(risks) - np.where(events, risks - own, 0.0), np.float64)


def _patients(table: StudyTable) -> tuple[_Flags, npt.NDArray[np.intp], _Flags]:
    """Which records count, whose they are among all patients, and who of these is a member."""
    numbers, owners = np.unique(table.patients, return_inverse=True)
    is_member = np.bincount(owners, weights=~table.held_out, minlength=len(numbers)) > 0
    # What is held out of a member says nothing about non-members, and less about this member.
    used = ~(table.held_out & is_member[owners])
    return used, owners[used].astype(np.intp), is_member


def _halves(references: int, patients: int, seed: int) -> _Flags:
    """Pairs of models share out the patients between them, so that each patient is inside half of the models."""
    drawn = np.random.default_rng(seed)  # noqa: TID251, the seed is passed
    first = [drawn.permutation(patients) < patients / 2 for _ in range(references // 2)]
    return np.stack([side for half in first for side in (half, ~half)])


def _scaled(plan: Plan, standardization: bytes, features: npt.NDArray[np.float32]) -> torch.Tensor:
    if standardization:
        sums = tensors.unpack(standardization, statistics_manifest(plan.data))
        features = scaling.apply(features, *scaling.mean_and_std(sums))
    elif plan.data.scaling == "bounds":
        features = scaling.apply(features, *map(np.array, data_contract.range_scaling(plan.data)))
    return torch.from_numpy(np.nan_to_num(features).astype(np.float32))


def _reference(
    plan: Plan, package: bytes, features: torch.Tensor, labels: torch.Tensor, half: _Flags, *, seed: int, passes: int
) -> npt.NDArray[np.float32]:
    """Train a model on the half of the records, and put out its raw outputs for all of them."""
    training, rows = plan.training, torch.from_numpy(np.flatnonzero(half))
    count = passes or min(_planned(plan, len(rows)), _MOST_PASSES)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = _module(plan, package).float().train()
        loss = models.loss_of(plan.data.label.outcome)
        trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
        for parameter in trained:
            parameter.grad = torch.zeros_like(parameter)
        gradients = [parameter.grad.view(-1) for parameter in trained if parameter.grad is not None]
        step = optimizer.make(training.optimizer, [parameter.data.view(-1) for parameter in trained], gradients)
        for _ in range(count):
            order = rows[torch.randperm(len(rows))]
            for batch in order.split(training.batch_size):  # type: ignore[no-untyped-call]
                if len(batch) == 1 < len(rows):
                    continue  # a normalization over a batch has nothing to go by
                for gradient in gradients:
                    gradient.zero_()
                torch.autograd.backward(loss(module(features[batch]).float(), labels[batch]))
                step()
        with torch.no_grad():
            outputs: npt.NDArray[np.float32] = module.eval()(features).float().numpy()
    classes = models.outputs(plan.data)
    return outputs.reshape((len(features),) if classes == 1 else (len(features), classes))


def _module(plan: Plan, package: bytes) -> nn.Module:
    if isinstance(plan.model, BuiltinModel):
        return models.build(plan.model, plan.data)
    factory = packages.load(packages.read(package, plan.model.package), plan.model.factory)
    made = factory(data_contract.width(plan.data), models.outputs(plan.data))
    return models.normalized(made, plan.model.normalization)


def _planned(plan: Plan, records: int) -> int:
    training = plan.training
    steps = training.steps * training.batch_size / max(records, 1)
    return max(1, round(training.rounds * (training.epochs or steps)))


def _per_patient(values: _Vector, owners: npt.NDArray[np.intp]) -> _Vector:
    """Means over each patient's records: ``(models, records)`` to ``(models, patients)``."""
    counts = np.bincount(owners)
    return np.stack([np.bincount(owners, weights=row) / counts for row in values])


def _audit(
    scores: Mapping[str, _Vector],
    is_member: _Flags,
    references: int,
    claim: tuple[float, float] | None,
    policy: float | None,
) -> MembershipAudit:
    curves = {name: empirical.roc(found[is_member], found[~is_member]) for name, found in scores.items()}
    members, nonmembers = int(is_member.sum()), int((~is_member).sum())
    rates = sorted({*_RATES, 1 / nonmembers})
    confidence = _confidence(len(curves))
    checks = [
        check
        for name, curve in curves.items()
        for check in gate.membership_checks(name, curve, rates=rates, claim=claim, policy=policy, confidence=confidence)
    ]
    points = {name: tuple(curve.at(rate) for rate in rates) for name, curve in curves.items()}
    return MembershipAudit(members, nonmembers, references, curves, points, Gate(tuple(checks)), claim, policy)


def _confidence(attacks: int) -> float:
    # Of all bounds of one attack together, so that those of all attacks hold with 95 %.
    return 1 - 0.05 / attacks


def _rate(point: Rate) -> dict[str, float]:
    return {
        "asked": point.asked,
        "false_positive_rate": point.false_positive_rate,
        "false_positive_high": point.false_positive_high,
        "true_positive_rate": point.true_positive_rate,
        "low": point.low,
        "high": point.high,
    }
