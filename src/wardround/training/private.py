"""Differentially private training at a site: each step's gradient is of sums that no patient moves far, with noise.

    patients of the step      secret coins, or turns                   `privacy.noising.sampled`, `dealt`
    their gradients           mean over a patient's records, clipped   `training.patient_gradients`
    their sum                 whole numbers, with noise                `privacy.noising`
    over                      the expected number of patients, which is no secret

Everything that a step draws follows from one seed, which the node makes from a key of its own and all that goes into
the round: the same round gives the same bytes again after a crash, and any other round other noise. So what is
trained after a crash shows nothing that was not paid for.

With noise that is added elsewhere ("shared", "central") the one step of a round gives a sum without noise, which must
not leave the site as it is: `wardround.services.masking` and `wardround.services.combine` add it.

References:
    Abadi et al. Deep Learning with Differential Privacy. CCS 2016. arXiv:1607.00133.
    Andrew et al. Differentially Private Learning with Adaptive Clipping. NeurIPS 2021. arXiv:1905.03871.
    Charles et al. Fine-Tuning Large Language Models with User-Level DP. arXiv:2407.07737 (the mean over a bag).
"""

import math
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from wardround.errors import CodecError
from wardround.privacy import factorization, noising
from wardround.privacy.noising import BandedSums, Grid, NoisySum
from wardround.protocol import private
from wardround.protocol.plan import Plan, Privacy
from wardround.protocol.secure import columns_sent
from wardround.training import metrics
from wardround.training.bags import Bags
from wardround.training.patient_gradients import PatientGradients

__all__ = ["PrivateTraining", "clip_update", "private_metrics"]

_CLIP_RATE = 0.2
_MOST_LOSS = 4.0
"""Above this a record's log loss counts as this: noise must cover the largest."""


class PrivateTraining:
    """Private gradients of one module on one site's training records.

    Args:
        plan: With privacy of the unit patient.
        module: Whose `trained` parameters lie in a flat vector of `columns`, at these places.
        trained: Parameters and where they lie.
        columns: Length of the flat vector.
        patients: int, shape=(records,), of the training records.
        width: Features of a record.
        counted: How many training patients the site has, those without a usable record too: no secret.

    Raises:
        CodecError: A layer mixes patients; or an array is sent that is not trained, where all that is sent gets noise.
    """

    def __init__(
        self,
        plan: Plan,
        module: nn.Module,
        trained: Sequence[tuple[torch.Tensor, slice]],
        columns: int,
        patients: npt.NDArray[np.integer],
        width: int,
        counted: int,
    ) -> None:
        if plan.privacy is None:
            raise ValueError("a plan without privacy has no private training")
        self._plan, self._privacy = plan, plan.privacy
        self._bags, self._counted = Bags(patients, plan.privacy.patient_records), counted
        self._places = _joined(trained)
        self._columns = sum(place.stop - place.start for place in self._places)
        sent = sum(stop - start for start, stop in columns_sent(plan))
        if plan.privacy.noise != "local" and self._columns != sent:
            raise CodecError(
                "shared and central noise is on all that is sent, and some of it is not trained: "
                "name the arrays that are, under secure aggregation, or use local noise"
            )
        self._engine = PatientGradients(module, trained, columns, plan.data.label.outcome, width)

    def steps(
        self,
        features: torch.Tensor,
        labels: torch.Tensor,
        seed: bytes,
        gradient: torch.Tensor,
        clip: torch.Tensor | None = None,
    ) -> Iterator[None]:
        """Put one step's private gradient after another into `gradient`, and wait for the model to follow it.

        Args:
            features: float32, shape=(records, width).
            labels: float32, shape=(records,).
            seed: 32 bytes of the node's own; of this round alone.
            gradient: float32, shape=(columns,); zero where nothing is trained.
            clip: float32, shape=(1,): the clipping norm that earlier rounds came to; 0 before; is changed.
        """
        privacy, steps = self._privacy, self._plan.training.steps
        norm = float(clip) if clip is not None and float(clip) > 0 else privacy.clip
        banded: BandedSums | None = None
        for step in range(steps):
            pieces = self._bags.most_pieces + privacy.band
            grid = Grid(norm, private.gradient_noise(privacy), self._columns, pieces=pieces)
            chosen = self._chosen(step, seed)
            summed, whole = NoisySum(grid), 0
            for norms in self._add(chosen, grid.bound, features, labels, gradient, summed):
                whole += int(np.count_nonzero(norms <= norm))
            own = noising.derive(seed, "gradient", step)
            if privacy.band > 1:
                banded = banded or BandedSums(grid, factorization.coefficients(privacy.band))
                noisy = banded.release(summed, own)
            else:
                noisy = summed.release(own)
            self._spread(noisy / self.expected, gradient)
            if privacy.clip_quantile:
                norm = self._next_clip(norm, whole - np.count_nonzero(chosen) / 2, noising.derive(seed, "clip", step))
            yield
        if clip is not None:
            clip.fill_(norm)

    def sum_without_noise(
        self, features: torch.Tensor, labels: torch.Tensor, seed: bytes, update: torch.Tensor
    ) -> None:
        """Put the update of one step over the site's patients into `update`: noise must cover it where it is added."""
        privacy, rate = self._privacy, self._plan.training.optimizer.learning_rate
        grid = Grid(privacy.clip, privacy.noise_multiplier, self._columns, pieces=self._bags.most_pieces)
        summed = NoisySum(grid)
        for _ in self._add(self._chosen(0, seed), grid.bound, features, labels, update, summed):
            pass
        self._spread(summed.total / grid.scale * (-rate / self.expected), update)

    @property
    def expected(self) -> float:
        """How many patients a step has on average; at least 1."""
        if self._privacy.sampling == "passes":
            return max(1.0, self._counted / private.batches_per_pass(self._privacy))
        return max(1.0, self._counted * self._privacy.sampling_rate)

    def _chosen(self, step: int, seed: bytes) -> npt.NDArray[np.bool_]:
        count = self._bags.patients
        if self._privacy.sampling == "poisson":
            return noising.sampled(count, self._privacy.sampling_rate, noising.derive(seed, "patients", step))
        batches = private.batches_per_pass(self._privacy)
        turns = noising.dealt(count, batches, noising.derive(seed, "order"))
        return np.equal(turns, step % batches)

    def _add(
        self,
        chosen: npt.NDArray[np.bool_],
        bound: float,
        features: torch.Tensor,
        labels: torch.Tensor,
        scratch: torch.Tensor,
        summed: NoisySum,
    ) -> Iterator[npt.NDArray[np.float64]]:
        for rows, weights in self._bags.pieces(chosen):
            places = torch.from_numpy(rows)
            norms = self._engine.clipped_sum(
                features[places], labels[places], torch.from_numpy(weights), bound, scratch
            )
            summed.add(self._gathered(scratch))
            yield norms.numpy()

    def _gathered(self, vector: torch.Tensor) -> npt.NDArray[np.float32]:
        parts = [vector[place] for place in self._places]
        gathered: npt.NDArray[np.float32] = (parts[0] if len(parts) == 1 else torch.cat(parts)).numpy()
        return gathered

    def _spread(self, values: npt.NDArray[np.float64], vector: torch.Tensor) -> None:
        vector.zero_()
        start = 0
        for place in self._places:
            stop = start + place.stop - place.start
            vector[place] = torch.from_numpy(values[start:stop])
            start = stop

    def _next_clip(self, norm: float, beyond_half: float, seed: bytes) -> float:
        """A norm that is nearer to the quantile.

        How many patients' gradients were left whole, less half of those who took part, is told with noise: each of
        them moves it by one half.
        """
        grid = Grid(0.5, 2 * private.clipped_share_noise(self._privacy), 1)
        counted = NoisySum(grid)
        counted.add(np.array([beyond_half]))
        share = 0.5 + float(counted.release(seed)[0]) / self.expected
        moved = norm * math.exp(-_CLIP_RATE * (min(max(share, 0.0), 1.0) - self._privacy.clip_quantile))
        return min(max(moved, self._privacy.clip / 1e3), self._privacy.clip * 1e3)


def clip_update(update: torch.Tensor, privacy: Privacy, seed: bytes) -> None:
    """Clip a whole update in place, as a site's part; with local noise add that, too. One that is not finite is zero.

    Args:
        update: float32, shape=(columns,).
        privacy: With the unit site.
        seed: As for `PrivateTraining.steps`.
    """
    grid = Grid(privacy.clip, privacy.noise_multiplier, len(update), distribution=privacy.distribution)
    wide = update.double()
    norm = float(wide.abs().sum() if privacy.distribution == "laplace" else torch.linalg.vector_norm(wide))
    if not math.isfinite(norm):  # to say so would tell something
        update.zero_()
    elif norm:
        update.mul_(min(1.0, grid.bound / norm))
    if privacy.noise == "local":
        summed = NoisySum(grid)
        summed.add(update.numpy())
        update.copy_(torch.from_numpy(summed.release(noising.derive(seed, "update"))))


def private_metrics(
    plan: Plan,
    labels: npt.NDArray[np.float32],
    predicted: npt.NDArray[np.float32],
    patients: npt.NDArray[np.integer],
    seed: bytes,
) -> dict[str, float | None]:
    """Metrics of the held-out patients with noise: those of which one patient's part is bounded; others are None.

    Each patient's part is the mean over the patient's records: right or wrong, the Brier score, and the log loss up
    to 4. How many patients there are is noisy, too, and the mean over them is cut to what can be.

    Args:
        plan: With privacy.
        labels: float32, shape=(records,), of the held-out records.
        predicted: float32, shape=(records,) or (records, classes): logits.
        patients: int, shape=(records,).
        seed: 32 bytes, as for `PrivateTraining.steps`.
    """
    outcome = plan.data.label.outcome
    found: dict[str, float | None] = dict.fromkeys(metrics.NAMES[outcome])
    names = private.METRICS.get(outcome, ())
    if plan.privacy is None or not plan.privacy.evaluation_noise or not len(labels) or not names:
        return found
    bags = Bags(patients, len(patients))
    parts = [np.clip(one, 0.0, 1.0) for one in _bounded(outcome, labels, predicted)]
    columns = np.column_stack([*parts, np.ones(len(labels))])
    clip = math.sqrt(columns.shape[1]) * 1.01
    summed = NoisySum(Grid(clip, plan.privacy.evaluation_noise, columns.shape[1], pieces=bags.most_pieces))
    for rows, weights in bags.pieces(np.ones(bags.patients, np.bool_)):
        summed.add(np.einsum("pm,pmc->c", weights, columns[rows]))
    *sums, count = summed.release(noising.derive(seed, "metrics"))
    means = np.clip(np.array(sums) / max(count, 1.0), 0.0, 1.0)
    scales = {"log_loss": _MOST_LOSS}
    return found | {name: float(value) * scales.get(name, 1.0) for name, value in zip(names, means, strict=True)}


def _bounded(
    outcome: str, labels: npt.NDArray[np.float32], predicted: npt.NDArray[np.float32]
) -> list[npt.NDArray[np.float64]]:
    """Per record the parts of `private.METRICS` of this outcome, each between 0 and 1; a NaN is the worst."""
    wide = np.nan_to_num(predicted.astype(np.float64), nan=0.0, posinf=1e3, neginf=-1e3)
    if outcome == "binary":
        is_one = labels > 0.5
        losses = np.logaddexp(0.0, np.where(is_one, -1.0, 1.0) * wide)
        chances = 1 / (1 + np.exp(-np.clip(wide, -50, 50)))
        return [((wide >= 0) == is_one).astype(np.float64), np.square(chances - is_one), losses / _MOST_LOSS]
    shifted = wide - wide.max(axis=1, keepdims=True)
    chosen = shifted[np.arange(len(labels)), labels.astype(np.intp)]
    losses = np.log(np.exp(shifted).sum(axis=1)) - chosen
    return [(wide.argmax(axis=1) == labels).astype(np.float64), losses / _MOST_LOSS]


def _joined(trained: Sequence[tuple[torch.Tensor, slice]]) -> list[slice]:
    places: list[slice] = []
    for _, place in trained:
        if places and places[-1].stop == place.start:
            places[-1] = slice(places[-1].start, place.stop)
        else:
            places.append(place)
    return places
