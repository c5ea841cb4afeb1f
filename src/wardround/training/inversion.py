"""Gradient inversion: records rebuilt from what was released, as attackers do it.

    analytic      the first layer is linear with an intercept and the batch is one record: x = dW[i] / db[i], exactly;
                  with more records each unit that only one of them activates shows that one
    labels        from the output's intercept: each record pushes its own class's gradient below, the others' above
    optimized     min over x of  distance(gradient(x), gradient) + w * TV(x)  by Adam
                  euclidean   ||g(x) - g||^2             DLG, with iDLG's labels
                  cosine      1 - cos(g(x), g)           Inverting Gradients; with `signed` steps and TV for images

The control is an unprotected gradient: where the attack fails there, its failure elsewhere proves nothing. And a batch
of a linear model shows one weighted sum of its records and nothing else, so only batch 1 can be a control there.

The module's parameters are only read, and must all require gradients. Nothing is drawn but from `seed`.

References:
    Zhu, Liu, Han. Deep Leakage from Gradients. NeurIPS 2019. arXiv:1906.08935 (DLG).
    Zhao, Mopuri, Bilen. iDLG: Improved Deep Leakage from Gradients. arXiv:2001.02610.
    Geiping et al. Inverting Gradients. NeurIPS 2020. arXiv:2003.14053.
    Wainakh et al. User-Level Label Leakage from Gradients. PoPETs 2022. arXiv:2105.09369 (labels of a batch).
    Wang et al. Image Quality Assessment: From Error Visibility to Structural Similarity. 2004 (SSIM).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional

from wardround.training.models import Loss

__all__ = [
    "Inversion",
    "Rebuilt",
    "analytic",
    "gradient",
    "inferred_labels",
    "invert",
    "match_rate",
    "paired",
    "psnr",
    "split",
    "ssim",
]

_Array = npt.NDArray[np.floating]

_BETA1, _BETA2, _EPSILON = 0.9, 0.999, 1e-8
_SILENT = 1e-12
"""A unit whose intercept has less gradient than this was not active."""


@dataclass(frozen=True, slots=True)
class Inversion:
    """How an attack searches.

    Attributes:
        distance: Of gradients.
        total_variation: Weight of the images' total variation; 0 for tables.
        side: Of the square images, whose row-major pixels are the features; 0 for tables.
        low: Least value of a feature; None where it is not known.
        high: Greatest value of a feature.
        signed: Whether steps follow the sign of the gradient.
        steps: Of each restart; the rate falls tenfold at 3/8, 5/8 and 7/8 of them.
        learning_rate: Of the first steps.
        restarts: How many starts are tried; what comes nearest to the gradient is kept.
    """

    distance: Literal["cosine", "euclidean"] = "cosine"
    total_variation: float = 0.0
    side: int = 0
    low: float | None = None
    high: float | None = None
    signed: bool = True
    steps: int = 1000
    learning_rate: float = 0.1
    restarts: int = 1


@dataclass(frozen=True, slots=True, eq=False)
class Rebuilt:
    """What an attack made: features ``(records, width)``, and how far their gradient lies from the one it was given."""

    features: torch.Tensor
    distance: float


def gradient(module: nn.Module, loss: Loss, features: torch.Tensor, labels: torch.Tensor) -> list[torch.Tensor]:
    """The gradient of a batch's loss, one tensor per parameter in order: what an unprotected site would send.

    Args:
        module: Whose parameters all take part in the loss.
        loss: As in `wardround.training.models.loss_of`.
        features: ``(records, width)``.
        labels: As the loss wants them.
    """
    value = loss(module(features), labels)
    return [part.detach() for part in torch.autograd.grad(value, list(module.parameters()))]


def split(module: nn.Module, vector: torch.Tensor) -> list[torch.Tensor]:
    """A flat release as tensors like the module's parameters, in order.

    Raises:
        ValueError: It has another length.
    """
    flat, parts, start = vector.reshape(-1), [], 0
    for parameter in module.parameters():
        parts.append(flat[start : start + parameter.numel()])
        start += parameter.numel()
    if start != flat.numel():
        raise ValueError(f"expected {start} values, got {flat.numel()}")
    return [part.view_as(own) for part, own in zip(parts, module.parameters(), strict=True)]


def analytic(module: nn.Module, released: Sequence[torch.Tensor]) -> torch.Tensor:
    """What the first linear layer's units show, those with the longest gradient first.

    Args:
        module: Whose first parameters are a linear layer's weight and intercept, on the features themselves.
        released: One tensor per parameter.

    Returns:
        ``(active units, width)``; of one record every row is the record, of none there is no row.

    Raises:
        ValueError: The first layer is not linear with an intercept.
    """
    layers = [layer for layer in module.modules() if next(layer.parameters(recurse=False), None) is not None]
    first = layers[0] if layers else None
    if not isinstance(first, nn.Linear) or first.bias is None:
        raise ValueError("analytic inversion needs a first layer that is linear with an intercept")
    weight, intercept = released[0], released[1]
    order = torch.argsort(intercept.abs(), descending=True)
    order = order[intercept.abs()[order] > _SILENT]
    return weight[order] / intercept[order, None]


def inferred_labels(
    released: Sequence[torch.Tensor], outcome: Literal["binary", "multiclass"], records: int
) -> torch.Tensor:
    """Labels from the last parameter, the output's intercept; exact for one record, in any order for more.

    For more than one record the model is taken to be undecided between the classes, as it is before training.

    Args:
        released: One tensor per parameter of the mean loss of the batch.
        outcome: Of the contract.
        records: In the batch.

    Returns:
        float32 ``(records,)``.
    """
    slope = released[-1].reshape(-1).double()
    if outcome == "binary":
        share = 0.5 - float(slope[0])
        ones = int(slope[0] < 0) if records == 1 else min(max(round(share * records), 0), records)
        return torch.cat([torch.ones(ones), torch.zeros(records - ones)])
    left, found = slope - (0.0 if records == 1 else 1 / len(slope)), []
    for _ in range(records):
        found.append(int(left.argmin()))
        left[found[-1]] += 1 / records
    return torch.tensor(sorted(found), dtype=torch.float32)


def invert(
    module: nn.Module,
    released: Sequence[torch.Tensor],
    labels: torch.Tensor,
    loss: Loss,
    width: int,
    *,
    settings: Inversion | None = None,
    seed: int = 0,
) -> Rebuilt:
    """Search for a batch whose gradient is the released one.

    Args:
        module: As it was when the gradient was taken.
        released: One tensor per parameter: a gradient, or an aggregate that stands for one.
        labels: Known, or `inferred_labels`; as many as records.
        loss: As in `wardround.training.models.loss_of`.
        width: Features of a record.
        settings: How to search; none: cosine, for tables.
        seed: Of the starts.

    Raises:
        ValueError: The settings have no restart or no step.
    """
    chosen = settings or Inversion()
    if chosen.restarts < 1 or chosen.steps < 1:
        raise ValueError("an attack needs a start and a step")
    generator = torch.Generator().manual_seed(seed)
    best = Rebuilt(torch.zeros((len(labels), width)), math.inf)
    for _ in range(chosen.restarts):
        start = torch.randn((len(labels), width), generator=generator)
        if chosen.low is not None and chosen.high is not None:
            start = chosen.low + (chosen.high - chosen.low) * torch.rand((len(labels), width), generator=generator)
        made = _search(module, released, labels, loss, start, chosen)
        best = made if made.distance < best.distance else best
    return best


def psnr(rebuilt: _Array, truth: _Array, span: float = 1.0) -> float:
    """Peak signal-to-noise ratio in dB: infinite where nothing differs.

    Args:
        rebuilt: Of the shape of `truth`.
        truth: Any shape.
        span: From the least to the greatest value that a pixel can have.
    """
    error = float(np.mean(np.square(rebuilt.astype(np.float64) - truth)))
    return math.inf if error == 0 else 10 * math.log10(span * span / error)


def ssim(rebuilt: _Array, truth: _Array, span: float = 1.0) -> float:
    """Mean structural similarity of two grey images ``(side, side)`` under Gaussian windows of deviation 1.5.

    1 for the same image, about 0 for unrelated ones. The window has 11 pixels, or as many as fit (an odd number).
    """
    size = min(11, min(truth.shape) - 1 + min(truth.shape) % 2)
    line = torch.exp(-((torch.arange(size, dtype=torch.float64) - size // 2) ** 2) / (2 * 1.5**2))
    window = torch.outer(line, line)[None, None] / line.sum() ** 2
    one, other = (torch.from_numpy(np.array(image, np.float64))[None, None] for image in (rebuilt, truth))
    means = [functional.conv2d(image, window) for image in (one, other)]
    spreads = [
        functional.conv2d(image * image, window) - mean**2 for image, mean in zip((one, other), means, strict=True)
    ]
    shared = functional.conv2d(one * other, window) - means[0] * means[1]
    first, second = (0.01 * span) ** 2, (0.03 * span) ** 2
    above = (2 * means[0] * means[1] + first) * (2 * shared + second)
    below = (means[0] ** 2 + means[1] ** 2 + first) * (spreads[0] + spreads[1] + second)
    return float((above / below).mean())


def paired(rebuilt: _Array, truth: _Array) -> npt.NDArray[np.intp]:
    """For each true record ``(records, width)`` its nearest reconstruction of ``(any, width)``, as its row."""
    return np.asarray(np.argmin(_distances(rebuilt, truth), axis=1), np.intp)


def match_rate(rebuilt: _Array, truth: _Array, tolerance: float, others: _Array | None = None) -> float:
    """Share of the true records that were rebuilt.

    A record is rebuilt when its nearest reconstruction differs by at most `tolerance` (root mean square over features,
    which should be standardized), and that reconstruction is nearer to it than to any other record.

    Args:
        rebuilt: ``(any, width)``; without a row, nothing was rebuilt.
        truth: ``(records, width)``.
        tolerance: 0.1 is a tenth of a standard deviation.
        others: ``(any, width)``: records that were not in the batch, for which one might be taken.
    """
    if not len(rebuilt):
        return 0.0
    everyone = truth if others is None else np.concatenate([truth, others])
    distances = _distances(rebuilt, everyone)
    nearest = np.argmin(distances[: len(truth)], axis=1)
    own = distances[np.arange(len(truth)), nearest]
    return float(np.mean((own <= tolerance) & (own <= distances.min(axis=0)[nearest])))


def _distances(rebuilt: _Array, truth: _Array) -> npt.NDArray[np.float64]:
    apart = np.square(truth[:, None, :].astype(np.float64) - rebuilt[None, :, :])
    return np.asarray(np.sqrt(apart.mean(axis=2)), np.float64)


def _search(
    module: nn.Module,
    released: Sequence[torch.Tensor],
    labels: torch.Tensor,
    loss: Loss,
    start: torch.Tensor,
    settings: Inversion,
) -> Rebuilt:
    """One start's Adam, written out: torch's own loads its compiler."""
    features = start.clone().requires_grad_(True)
    parameters = list(module.parameters())
    first, second = torch.zeros_like(start), torch.zeros_like(start)
    nearest, kept = math.inf, start
    for step in range(1, settings.steps + 1):
        own = torch.autograd.grad(loss(module(features), labels), parameters, create_graph=True)
        apart = _apart(own, released, settings.distance)
        reached = float(apart.detach())
        if not math.isfinite(reached):
            break
        if reached < nearest:
            nearest, kept = reached, features.detach().clone()
        goal = apart + settings.total_variation * _variation(features, settings.side)
        (slope,) = torch.autograd.grad(goal, features)
        slope = slope.sign() if settings.signed else slope
        rate = settings.learning_rate * 0.1 ** sum(8 * step > mark * settings.steps for mark in (3, 5, 7))
        with torch.no_grad():
            first.lerp_(slope, 1 - _BETA1)
            second.mul_(_BETA2).addcmul_(slope, slope, value=1 - _BETA2)
            spread = (second / (1 - _BETA2**step)).sqrt_().add_(_EPSILON)
            features.addcdiv_(first, spread, value=-rate / (1 - _BETA1**step))
            if settings.low is not None or settings.high is not None:
                features.clamp_(settings.low, settings.high)
    return Rebuilt(kept, nearest)


def _apart(
    own: Sequence[torch.Tensor], released: Sequence[torch.Tensor], distance: Literal["cosine", "euclidean"]
) -> torch.Tensor:
    pairs = list(zip(own, released, strict=True))
    if distance == "euclidean":
        return torch.stack([torch.square(one - other).sum() for one, other in pairs]).sum()
    inner = torch.stack([(one * other).sum() for one, other in pairs]).sum()
    lengths = [torch.stack([torch.square(part).sum() for part in side]).sum() for side in (own, released)]
    return 1 - inner / torch.sqrt(lengths[0] * lengths[1] + 1e-30)


def _variation(features: torch.Tensor, side: int) -> torch.Tensor:
    if not side:
        return features.new_zeros(())
    images = features.view(-1, side, side)
    return (images[:, 1:] - images[:, :-1]).abs().mean() + (images[:, :, 1:] - images[:, :, :-1]).abs().mean()
