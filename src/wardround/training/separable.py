"""Whether a model's gradients belong to one patient each: what is refused, and what a model is tried with.

A model is tried on made-up parameters, since its own may be zeros still, with which nothing could be seen to depend
on anything, and on made-up records, since no decision about the model may depend on a real one.
"""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import nn

from wardround.errors import CodecError

__all__ = ["check", "check_unchanged", "parameters", "records", "without_dropout"]


def check(module: nn.Module, outcome: str) -> None:
    """Refuse what no method makes private.

    Raises:
        CodecError: A layer, or the outcome, lets one patient's records into the gradient of another, or into what is
            not clipped.
    """
    if outcome == "survival":
        raise CodecError(
            "the loss of a survival outcome compares patients with one another, so that no gradient is"
            " one patient's own: learn whether the event comes by a given time, as a binary outcome"
        )
    for name, layer in module.named_modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):  # noqa: SLF001, the base class has no public name
            raise CodecError(f'{name or "the module"}: batch normalization mixes patients: set normalization = "group"')
        if getattr(layer, "track_running_stats", False):
            raise CodecError(
                f"{name or 'the module'}: running statistics are not clipped: set track_running_stats=False,"
                " or use torch.nn.GroupNorm"
            )
        if getattr(layer, "max_norm", None) is not None:
            raise CodecError(f"{name or 'the module'}: max_norm changes rows outside of the gradient: leave it out")


def check_unchanged(before: Mapping[str, tuple[torch.Tensor, int]], after: Mapping[str, torch.Tensor]) -> None:
    """Refuse a model whose forward pass changed a floating parameter or buffer; `before` has their versions as well.

    Raises:
        CodecError: It did.
    """
    for name, (tensor, version) in before.items():
        if tensor.is_floating_point() and (after[name] is not tensor or tensor._version != version):  # noqa: SLF001
            raise CodecError(
                f"{name.rpartition('.')[0] or 'the module'}: training changes {name} outside of the clipped gradient:"
                " make it a trained parameter, or a constant (for running statistics, a normalization without them)"
            )


def parameters(module: nn.Module) -> dict[str, torch.Tensor]:
    """Made-up values for all of a module's parameters and buffers, by name; counters keep theirs."""
    generator = torch.Generator().manual_seed(0)
    values = {}
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        if not tensor.is_floating_point():
            values[name] = tensor.clone()
            continue
        noise = torch.randn(tensor.shape, generator=generator)
        made = noise / math.sqrt(max(1, noise[0].numel())) if noise.dim() > 1 else 1 + noise / 4
        values[name] = made.to(tensor.dtype).requires_grad_(tensor.requires_grad)
    return values


def records(count: int, width: int, dtype: torch.dtype) -> list[torch.Tensor]:
    """Made-up ``(count, width)`` records: real numbers; and zeros and ones, for models with embeddings."""
    generator = torch.Generator().manual_seed(1)
    real = torch.randn(count, width, generator=generator)
    codes = torch.randint(0, 2, (count, width), generator=generator)
    return [real.to(dtype), codes.to(dtype)]


@contextmanager
def without_dropout(module: nn.Module) -> Iterator[None]:
    """The module with every probability of dropout set to 0."""
    layers = [layer for layer in module.modules() if isinstance(layer, nn.modules.dropout._DropoutNd)]  # noqa: SLF001
    attention = [layer for layer in module.modules() if isinstance(layer, nn.MultiheadAttention)]
    before = [layer.p for layer in layers], [layer.dropout for layer in attention]
    try:
        for layer in layers:
            layer.p = 0.0
        for each in attention:
            each.dropout = 0.0
        yield
    finally:
        for layer, probability in zip(layers, before[0], strict=True):
            layer.p = probability
        for each, probability in zip(attention, before[1], strict=True):
            each.dropout = probability
