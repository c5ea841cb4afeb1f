"""The models that come with Wardround, the arrays a model is made of, and what each outcome minimizes.

    logistic   one logit, or k of a multiclass label; starts at zero
    linear     a number from a weighted sum; starts at zero
    cox        a log-risk: a weighted sum without intercept, or with hidden layers before it
    mlp        layers of the plan's `hidden` widths with ReLU between, for any outcome
    cnn        a square grey image, given as its row-major pixels; per width of `hidden` a 3 x 3
               convolution, GroupNorm, ReLU and pooling by two, then one linear layer

A model's arrays are its floating parameters and buffers in `state_dict` order, an array that has two names
under its first. They have one dtype: float32, float16 or bfloat16. Integer buffers (BatchNorm's counter) stay at
the site, and start anew in each round. An array that is not trained (`requires_grad` is false, and training leaves
it as it is) has an update of zeros.

References:
    Cox. Regression Models and Life-Tables. J R Stat Soc B, 1972; ties as in Breslow's discussion of it.
    Wu, He. Group Normalization. arXiv:1803.08494: unlike BatchNorm, no statistics to average across sites.
"""

import math
from collections import OrderedDict
from collections.abc import Callable

import ml_dtypes
import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional

from wardround.clinical import contract as data_contract
from wardround.clinical.contract import DataContract
from wardround.codec.tensors import Manifest, TensorSpec
from wardround.errors import CodecError
from wardround.protocol.plan import BuiltinModel, Normalization

__all__ = [
    "Loss",
    "array_of",
    "arrays",
    "build",
    "cox_loss",
    "flat_tensor",
    "initial_params",
    "loss_of",
    "manifest_of",
    "normalized",
    "outputs",
]

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""From a model's output and the labels of a batch to a scalar."""

_CNN_CHANNELS = (8, 16)
_DTYPES = {torch.float32: "float32", torch.float16: "float16", torch.bfloat16: "bfloat16"}
_FITTING = {
    "logistic": ("binary", "multiclass"),
    "linear": ("number",),
    "cox": ("survival",),
    "mlp": ("binary", "multiclass", "number", "survival"),
    "cnn": ("binary", "multiclass", "number", "survival"),
}


def outputs(contract: DataContract) -> int:
    """How many numbers a model puts out per record: one, or one per class."""
    return len(contract.label.classes) or 1


def build(model: BuiltinModel, contract: DataContract) -> nn.Module:
    """The module of a built-in model, with fresh parameters drawn from torch's global generator.

    Raises:
        CodecError: The model does not fit the contract's outcome or width.
    """
    return _built(model, contract).to(getattr(torch, model.dtype))


def _built(model: BuiltinModel, contract: DataContract) -> nn.Module:
    outcome = contract.label.outcome
    if outcome not in _FITTING[model.name]:
        raise CodecError(f"a {model.name} model learns {' or '.join(_FITTING[model.name])}, not {outcome}")
    if any(side < 1 for side in model.hidden):
        raise CodecError("hidden widths must be positive")
    width, last = data_contract.width(contract), outputs(contract)
    match model.name:
        case "logistic" | "linear":
            if model.hidden:
                raise CodecError(f"a {model.name} model has no hidden layers: use an mlp")
            return _zero(nn.Linear(width, last))
        case "cox":
            return (
                _perceptron(width, model.hidden, last, bias=False)
                if model.hidden
                else _zero(nn.Linear(width, last, bias=False))
            )
        case "mlp":
            return _perceptron(width, model.hidden, last, bias=outcome != "survival")
        case "cnn":
            return _convolutional(width, model.hidden or _CNN_CHANNELS, last)


def normalized(module: nn.Module, normalization: Normalization) -> nn.Module:
    """The module with every batch normalization replaced, its scale and shift anew; changed in place where it can be.

    Group normalization has groups of at least four channels where there are as many, and 32 groups from 128 channels
    on. Instance normalization is one group per channel; it needs space or time to average over, so that of plain
    features (``BatchNorm1d``) becomes group normalization all the same.
    """
    if normalization == "as-is":
        return module
    if isinstance(module, nn.modules.batchnorm._BatchNorm):  # noqa: SLF001, the base class has no public name
        channels = module.num_features
        groups = math.gcd(channels, 32 if channels >= 128 else channels // 4 or 1)
        if normalization == "instance" and not isinstance(module, nn.BatchNorm1d):
            groups = channels
        return nn.GroupNorm(groups, channels, eps=module.eps, affine=module.affine)
    for name, child in module.named_children():
        setattr(module, name, normalized(child, normalization))
    return module


def initial_params(model: BuiltinModel, contract: DataContract, seed: int) -> dict[str, npt.NDArray[np.floating]]:
    """Arrays to start a study from; the same seed gives the same arrays.

    Raises:
        CodecError: The model does not fit the contract.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = build(model, contract)
    return {name: array_of(tensor) for name, tensor in arrays(module).items()}


def arrays(module: nn.Module) -> dict[str, torch.Tensor]:
    """The tensors that travel, themselves and not copies of them, by name in `state_dict` order.

    Raises:
        CodecError: Some parameter or buffer is of another floating dtype than the others, or than these three.
    """
    found: dict[str, torch.Tensor] = {}
    seen: set[int] = set()
    dtype: torch.dtype | None = None
    for name, tensor in module.state_dict(keep_vars=True).items():
        if not isinstance(tensor, torch.Tensor) or id(tensor) in seen:
            continue
        if tensor.is_floating_point() or tensor.is_complex():
            dtype = dtype or tensor.dtype
            if tensor.dtype not in _DTYPES or tensor.dtype != dtype:
                raise CodecError(
                    f"array {name!r} is {tensor.dtype}: a model's arrays are all float32, or all float16 or bfloat16"
                )
            seen.add(id(tensor))
            found[name] = tensor
    return found


def manifest_of(module: nn.Module) -> Manifest:
    """Names, shapes and dtypes of a module's arrays.

    Raises:
        CodecError: Some parameter or buffer is of another floating dtype than the others, or than these three.
    """
    return tuple(
        TensorSpec(name, tuple(tensor.shape), _DTYPES[tensor.dtype]) for name, tensor in arrays(module).items()
    )


def flat_tensor(vector: npt.NDArray[np.floating]) -> torch.Tensor:
    """The same memory as a tensor; torch and numpy share no bfloat16, so that goes by its bits."""
    if vector.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(vector.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(vector)


def array_of(tensor: torch.Tensor) -> npt.NDArray[np.floating]:
    """A copy as an array of the same dtype."""
    plain = tensor.detach().contiguous()
    if plain.dtype == torch.bfloat16:
        plain = plain.view(torch.int16)
    dtype = ml_dtypes.bfloat16 if tensor.dtype == torch.bfloat16 else None
    found: npt.NDArray[np.floating] = plain.numpy().copy().view(dtype) if dtype else plain.numpy().copy()
    return found


def loss_of(outcome: str) -> Loss:
    """What a batch of an outcome minimizes: a mean over records, for survival over events.

    Raises:
        KeyError: There is no such outcome.
    """
    return {
        "binary": lambda output, labels: functional.binary_cross_entropy_with_logits(_single(output, labels), labels),
        "multiclass": lambda output, labels: functional.cross_entropy(output, labels.long()),
        "number": lambda output, labels: functional.mse_loss(_single(output, labels), labels),
        "survival": cox_loss,
    }[outcome]


def cox_loss(output: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Negative log partial likelihood of a batch per event, ties after Breslow; 0 without an event.

    ``mean over events i of  log(sum of exp(risk_j) over j with time_j >= time_i) - risk_i``

    Args:
        output: ``(records, 1)`` or ``(records,)`` log-risks.
        labels: ``(records, 2)``: time and event.
    """
    times, order = torch.sort(labels[:, 0], descending=True, stable=True)
    risks, events = _single(output, labels)[order], labels[:, 1][order]
    # Sorted by falling time, the records at risk are a prefix; records of one time are at risk together.
    _, ties = torch.unique_consecutive(times, return_counts=True)
    last = torch.repeat_interleave(torch.cumsum(ties, 0) - 1, ties)
    at_risk = torch.logcumsumexp(risks, 0)[last]
    return torch.sum((at_risk - risks) * events) / torch.clamp(events.sum(), min=1.0)


def _single(output: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    # One number per record, or an error: broadcasting would go on in silence.
    return output.reshape(labels.shape[0])


def _zero(layer: nn.Linear) -> nn.Linear:
    # A convex problem has one answer from any start; zero needs no generator to agree on.
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


def _perceptron(width: int, hidden: tuple[int, ...], last: int, *, bias: bool) -> nn.Module:
    layers: list[nn.Module] = []
    for size in hidden:
        layers += [nn.Linear(width, size), nn.ReLU()]
        width = size
    return nn.Sequential(*layers, nn.Linear(width, last, bias=bias))


def _convolutional(width: int, channels: tuple[int, ...], last: int) -> nn.Module:
    side = math.isqrt(width)
    if side * side != width or not side >> len(channels):
        raise CodecError(f"a cnn of {len(channels)} layers needs a square image of side {2 ** len(channels)} or more")
    layers: OrderedDict[str, nn.Module] = OrderedDict(image=nn.Unflatten(1, (1, side, side)))
    before = 1
    for number, after in enumerate(channels):
        layers[f"convolution{number}"] = nn.Conv2d(before, after, 3, padding=1)
        layers[f"norm{number}"] = nn.GroupNorm(math.gcd(after, 4), after)
        layers[f"relu{number}"] = nn.ReLU()
        layers[f"pool{number}"] = nn.MaxPool2d(2)
        before, side = after, side // 2
    layers["flat"] = nn.Flatten()
    layers["output"] = nn.Linear(before * side * side, last)
    return nn.Sequential(layers)
