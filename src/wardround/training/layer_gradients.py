"""What each kind of layer adds to the clipped sum of per-patient gradients, by book-keeping.

A layer has been given records and puts out positions (of a sequence, of an image). With ``a`` the layer's
input at a position, ``g`` the loss's gradient with respect to its output there, a patient's gradient is

    Linear, convolution   sum over positions of  g a^T      (a convolution's ``a`` is the window it sees)
    normalization         sum over positions of  g * a^     (a^ is the normalized input, before scale and shift)
    embedding             sum over positions of  g, in the row of the position's code
    any bias              sum over positions of  g

all over every position of every record of the patient: a patient's records are just more positions. What becomes of
these sums is `wardround.training.clipping`'s.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional
from torch.nn import grad as weight_gradient

from wardround.errors import TrainingError
from wardround.training.clipping import Grouping, OuterProducts, Part, kept, pieces_of, squares_of, wide_dtype

__all__ = ["Places", "fits", "parts"]

_Convolution = nn.Conv1d | nn.Conv2d | nn.Conv3d
_CONVOLUTIONS: dict[type[nn.Module], Callable[..., torch.Tensor]] = {
    nn.Conv1d: weight_gradient.conv1d_weight,
    nn.Conv2d: weight_gradient.conv2d_weight,
    nn.Conv3d: weight_gradient.conv3d_weight,
}
_INSTANCE_NORMS = (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)


@dataclass(frozen=True, slots=True)
class Places:
    """Where a layer's weight and bias lie in the flat vector; None for what is not there, or not trained."""

    weight: slice | None
    bias: slice | None


def fits(layer: nn.Module) -> bool:
    """Whether book-keeping knows the layer: the very class, since a subclass may compute anything."""
    kind = type(layer)
    if kind in _CONVOLUTIONS:
        return _padding(layer) is not None
    if kind is nn.Embedding:
        return layer.max_norm is None and not layer.scale_grad_by_freq
    return kind in {nn.Linear, nn.LayerNorm, nn.GroupNorm, *_INSTANCE_NORMS}


def parts(layer: nn.Module, inputs: torch.Tensor, gradient: torch.Tensor, bags: Grouping, places: Places) -> list[Part]:
    """The parts of one layer, of the records' `inputs` and the `gradient` with respect to its output.

    Both have the records first, and either may be of half precision; everything is computed in float32 at least.

    Raises:
        TrainingError: Their first dimension is not the records.
    """
    if not len(inputs) == len(gradient) == bags.records or inputs.dim() < _least_dimensions(layer):
        raise TrainingError(f"{type(layer).__name__} was not given one row per record")
    if isinstance(layer, nn.Linear):
        return _linear(inputs, gradient, bags, places)
    if isinstance(layer, nn.Embedding):
        return [_embedding(layer, inputs, gradient, bags, places.weight)] if places.weight else []
    if isinstance(layer, _Convolution):
        return _convolution(layer, inputs, gradient, bags, places)
    return _normalization(layer, inputs, gradient, bags, places)


def _linear(inputs: torch.Tensor, gradient: torch.Tensor, bags: Grouping, places: Places) -> list[Part]:
    width, outputs, positions = inputs.shape[-1], gradient.shape[-1], math.prod(inputs.shape[1:-1])
    found, squares = [], None
    gradient = gradient.reshape(bags.records, positions, outputs)
    inputs = inputs.reshape(bags.records, positions, width)
    if positions == 1 and bags.records == bags.patients:
        squares = squares_of(gradient.reshape(bags.records, outputs))

    if places.weight is not None:

        def columns(records: slice, size: int) -> tuple[torch.Tensor, torch.Tensor]:
            length = size * positions
            return (
                inputs[records].reshape(-1, length, width).transpose(1, 2),
                gradient[records].reshape(-1, length, outputs).transpose(1, 2),
            )

        def product(target: torch.Tensor, scaled: torch.Tensor, given: torch.Tensor) -> None:
            left, right = scaled.reshape(-1, outputs).t(), given.reshape(-1, width)
            matrix = target.view(outputs, width)
            _ = matrix.addmm_(left, right) if matrix.dtype == left.dtype else matrix.add_(left @ right)

        found.append(OuterProducts(inputs, gradient, bags, places.weight, columns, product, positions, 1).part(squares))
    if places.bias is not None:
        rows = gradient.reshape(-1, outputs) if positions == 1 else gradient.sum(1, dtype=wide_dtype(gradient))
        found.append(kept(bags.sums(rows), places.bias, squares))
    return found


def _convolution(
    layer: _Convolution,
    inputs: torch.Tensor,
    gradient: torch.Tensor,
    bags: Grouping,
    places: Places,
) -> list[Part]:
    positions, groups = math.prod(gradient.shape[2:]), layer.groups
    found = []
    if places.weight is not None:
        weigh, padding = _CONVOLUTIONS[type(layer)], _padding(layer)

        def columns(records: slice, size: int) -> tuple[torch.Tensor, torch.Tensor]:
            seen = _windows(layer, inputs[records])
            gone = gradient[records].reshape(-1, groups, layer.out_channels // groups, positions)
            return _positions_last(seen, size), _positions_last(gone, size)

        def product(target: torch.Tensor, scaled: torch.Tensor, given: torch.Tensor) -> None:
            shape = layer.weight.shape
            target.view(shape).add_(weigh(given, shape, scaled, layer.stride, padding, layer.dilation, groups))

        found.append(
            OuterProducts(inputs, gradient, bags, places.weight, columns, product, positions, groups).part(None)
        )
    if places.bias is not None:
        found.append(kept(bags.sums(gradient.flatten(2).sum(2, dtype=wide_dtype(gradient))), places.bias))
    return found


def _normalization(
    layer: nn.Module, inputs: torch.Tensor, gradient: torch.Tensor, bags: Grouping, places: Places
) -> list[Part]:
    whole = math.prod(layer.normalized_shape) if isinstance(layer, nn.LayerNorm) else 0
    weights, biases = [], []
    for piece in pieces_of(inputs):
        gone = gradient[piece].to(wide_dtype(gradient))
        if places.bias is not None:
            biases.append(_over_positions(gone, whole))
        if places.weight is not None:
            weights.append(_over_positions(_normalized(layer, inputs[piece].to(wide_dtype(inputs))).mul_(gone), whole))
    return [
        kept(bags.sums(torch.cat(rows)), place)
        for rows, place in ((weights, places.weight), (biases, places.bias))
        if place is not None
    ]


def _over_positions(values: torch.Tensor, whole: int) -> torch.Tensor:
    # A layer normalization's own elements come last, in any other normalization the channels come second.
    if whole:
        return values.reshape(len(values), -1, whole).sum(1)
    return values.flatten(2).sum(2) if values.dim() > 2 else values


def _normalized(layer: nn.Module, inputs: torch.Tensor) -> torch.Tensor:
    if isinstance(layer, nn.LayerNorm):
        return functional.layer_norm(inputs, layer.normalized_shape, eps=layer.eps)
    if isinstance(layer, nn.GroupNorm):
        return functional.group_norm(inputs, layer.num_groups, eps=layer.eps)
    return functional.instance_norm(inputs, eps=layer.eps)  # type: ignore[arg-type]


def _embedding(layer: nn.Embedding, codes: torch.Tensor, gradient: torch.Tensor, bags: Grouping, place: slice) -> Part:
    # A patient's gradient has rows for its own codes only; it is kept as these.
    wide, width = wide_dtype(gradient), layer.embedding_dim
    patients = torch.arange(bags.patients)
    owners = bags.of_records(patients).repeat_interleave(math.prod(codes.shape[1:]))
    keys, rows = owners * layer.num_embeddings + codes.reshape(-1), gradient.reshape(-1, width).to(wide)
    if layer.padding_idx is not None:
        chosen = codes.reshape(-1) != layer.padding_idx
        keys, rows = keys[chosen], rows[chosen]
    found, inverse = torch.unique(keys, return_inverse=True)
    sums = torch.zeros(len(found), width, dtype=wide).index_add_(0, inverse, rows)
    owners, codes = found // layer.num_embeddings, found % layer.num_embeddings
    squares = torch.zeros(bags.patients, dtype=torch.float64).index_add_(0, owners, squares_of(sums))

    def add(out: torch.Tensor, factors: torch.Tensor, dropped: torch.Tensor | None) -> None:
        chosen = slice(None) if dropped is None else ~dropped[owners]
        scaled = sums[chosen] * factors[owners[chosen]].to(wide)[:, None]
        out[place].view(-1, width).index_add_(0, codes[chosen], scaled.to(out.dtype))

    return Part(squares, None, add)


def _windows(layer: _Convolution, inputs: torch.Tensor) -> torch.Tensor:
    """What each position sees: ``(records, groups, channels * kernel, positions)``."""
    padding = _padding(layer) or ()
    padded = functional.pad(inputs, [side for pad in reversed(padding) for side in (pad, pad)]).contiguous()
    record, channel, *steps = padded.stride()
    sides = [
        (side - dilation * (kernel - 1) - 1) // stride + 1
        for side, kernel, stride, dilation in zip(
            padded.shape[2:], layer.kernel_size, layer.stride, layer.dilation, strict=True
        )
    ]
    taps = [step * dilation for step, dilation in zip(steps, layer.dilation, strict=True)]
    moves = [step * stride for step, stride in zip(steps, layer.stride, strict=True)]
    view = padded.as_strided(
        (*padded.shape[:2], *layer.kernel_size, *sides),
        (record, channel, *taps, *moves),
    )
    return view.reshape(len(inputs), layer.groups, -1, math.prod(sides))


def _positions_last(values: torch.Tensor, size: int) -> torch.Tensor:
    # (records, groups, rows, positions) to (patients * groups, rows, size * positions).
    _, groups, rows, positions = values.shape
    if size == 1:
        return values.reshape(-1, rows, positions)
    bags = values.reshape(-1, size, groups, rows, positions).permute(0, 2, 3, 1, 4)
    return bags.reshape(-1, rows, size * positions)


def _padding(layer: nn.Module) -> tuple[int, ...] | None:
    """Zeros put on either side, per dimension; None for what book-keeping does not pad."""
    if not isinstance(layer, _Convolution) or layer.padding_mode != "zeros":
        return None
    if not isinstance(layer.padding, str):
        return tuple(layer.padding)
    if layer.padding == "valid":
        return (0,) * len(layer.kernel_size)
    both = [dilation * (kernel - 1) for dilation, kernel in zip(layer.dilation, layer.kernel_size, strict=True)]
    return None if any(each % 2 for each in both) else tuple(each // 2 for each in both)


def _least_dimensions(layer: nn.Module) -> int:
    if isinstance(layer, _Convolution):
        return len(layer.kernel_size) + 2
    if isinstance(layer, nn.LayerNorm):
        return len(layer.normalized_shape) + 1
    spatial = {nn.InstanceNorm1d: 3, nn.InstanceNorm2d: 4, nn.InstanceNorm3d: 5, nn.Embedding: 1}
    return spatial.get(type(layer), 2)
