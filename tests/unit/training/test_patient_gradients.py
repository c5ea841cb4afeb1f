import functools
import math
import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from wardround.clinical.contract import Column, DataContract, Label
from wardround.protocol.plan import BuiltinModel
from wardround.training import models, separable
from wardround.training.patient_gradients import PatientGradients

WIDTH, CLASSES = 12, 3
METHODS = ("book-keeping", "vmap", "loop")


@pytest.fixture(autouse=True)
def as_in_the_worker():
    threads, mode = torch.get_num_threads(), torch.get_deterministic_debug_mode()
    torch.set_num_threads(1)
    torch.set_deterministic_debug_mode("error")
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)
    torch.set_deterministic_debug_mode(mode)


def engine(module, outcome="multiclass", width=WIDTH, method=None):
    """The engine, and the flat vector's parameters with their places; two elements of it are no parameter's."""
    trained, start = [], 1
    for parameter in module.parameters():
        if parameter.requires_grad:
            trained.append((parameter, slice(start, start + parameter.numel())))
        start += parameter.numel()
    made = PatientGradients(module, trained, start + 1, outcome, width)
    if method is not None:
        made._method = method
    return made, trained, start + 1


def patient_gradient(module, trained, columns, outcome, features, labels, weights):
    """One patient's gradient by plain autograd, with what the learner minimizes, record by record."""
    loss = models.loss_of(outcome)
    total = sum(
        weight * loss(module(record[None]), label[None])
        for record, label, weight in zip(features, labels, weights, strict=True)
        if weight
    )
    found = torch.zeros(columns, dtype=torch.float64)
    if isinstance(total, torch.Tensor):
        gradients = torch.autograd.grad(total, [parameter for parameter, _ in trained], allow_unused=True)
        for (_, place), gradient in zip(trained, gradients, strict=True):
            if gradient is not None:
                found[place] = gradient.flatten().double()
    return found


def looped(module, trained, columns, outcome, bag, clip):
    total, norms = torch.zeros(columns, dtype=torch.float64), []
    for one in zip(*bag, strict=True):
        gradient = patient_gradient(module, trained, columns, outcome, *one)
        norms.append(float(torch.linalg.vector_norm(gradient)))
        if math.isfinite(norms[-1]):
            total += gradient * min(1.0, clip / norms[-1] if norms[-1] else 1.0)
    return total, torch.tensor(norms, dtype=torch.float64)


def bag_of(counts, kind="real", outcome="multiclass", dtype=torch.float64, width=WIDTH):
    """Patients with so many records, in that order, padded with what must not be looked at."""
    patients, most = len(counts), max(counts, default=0)
    features = torch.randn(patients, most, width) if kind == "real" else torch.randint(0, 7, (patients, most, width))
    labels = torch.randint(0, {"multiclass": CLASSES, "binary": 2, "number": 5}[outcome], (patients, most)).double()
    weights = torch.zeros(patients, most)
    for patient, count in enumerate(counts):
        weights[patient, :count] = 1.0 / max(count, 1)
        if kind == "real":
            features[patient, count:] = math.nan
    return features.to(dtype), labels.to(dtype), weights.to(dtype)


def perceptron(last=CLASSES):
    return nn.Sequential(nn.Linear(WIDTH, 20), nn.ReLU(), nn.Linear(20, last))


class Codes(nn.Module):
    """Embeddings, every other kind of layer for sequences, and a path of its own."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(7, 6, padding_idx=1)
        self.norm = nn.LayerNorm(6)
        self.mixed = nn.Linear(6, 6)
        self.convolution = nn.Conv1d(6, 8, 3, padding="same", groups=2)
        self.instance = nn.InstanceNorm1d(8, affine=True)
        self.output = nn.Linear(8, CLASSES)

    def forward(self, records):
        seen = self.norm(self.embedding(records.long()))
        seen = (seen + self.mixed(seen).tanh()).transpose(1, 2)
        return self.output(self.instance(self.convolution(seen)).relu().mean(2))


def image():
    return nn.Sequential(
        nn.Unflatten(1, (1, 4, 3)),
        nn.Conv2d(1, 4, 3, padding=1),
        nn.GroupNorm(2, 4),
        nn.ReLU(inplace=True),
        nn.Conv2d(4, 8, 3, stride=(2, 1), dilation=(1, 2), padding=2, groups=2, bias=False),
        nn.InstanceNorm2d(8, affine=True),
        nn.Flatten(),
        nn.Linear(72, CLASSES),
    )


def deep_image():
    """Few positions and many channels: Gram matrices."""
    return nn.Sequential(
        nn.Unflatten(1, (3, 2, 2)),
        nn.Conv2d(3, 40, 2, padding=1),
        nn.Tanh(),
        nn.Conv2d(40, 50, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(200, CLASSES),
    )


def volume():
    return nn.Sequential(
        nn.Unflatten(1, (1, 2, 2, 3)), nn.Conv3d(1, 3, 2, padding="valid"), nn.Flatten(), nn.Linear(6, CLASSES)
    )


MODULES = {
    "perceptron": (perceptron, "real"),
    "one layer": (lambda: nn.Linear(WIDTH, CLASSES), "real"),
    "image": (image, "real"),
    "deep image": (deep_image, "real"),
    "volume": (volume, "real"),
    "codes": (Codes, "code"),
}
BUILT_IN = [
    ("linear", "number"),
    *((name, outcome) for name in ("logistic", "mlp", "cnn") for outcome in ("binary", "multiclass")),
    *((name, "number") for name in ("mlp", "cnn")),
]
BAGS = {
    "single records": [1] * 6,
    "equal bags": [3] * 4,
    "padded bags": [2, 0, 5, 1, 2, 3, 0, 5],
    "a patient with very many": [1, 200, 2],
    "nobody has a record": [0, 0],
    "nobody": [],
}


@pytest.mark.parametrize("counts", BAGS.values(), ids=BAGS)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", MODULES)
def test_the_sum_is_that_of_a_loop_over_patients(name, method, counts):
    make, kind = MODULES[name]
    module = make().double()
    found, trained, columns = engine(module)
    assert found.method == "book-keeping"
    found._method = method
    bag = bag_of(counts, kind)
    expected, norms = looped(module, trained, columns, "multiclass", bag, 0.5)
    out = torch.full((columns,), math.nan, dtype=torch.float64)
    got = found.clipped_sum(*bag, 0.5, out)
    torch.testing.assert_close(out, expected, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(got, norms, rtol=1e-10, atol=1e-12)
    assert out[0] == out[-1] == 0.0


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize(("name", "outcome"), BUILT_IN)
def test_built_in_models_of_every_outcome_and_dtype(name, dtype, outcome, method):
    width = 64 if name == "cnn" else WIDTH
    label = Label(name="label", outcome=outcome, classes=("a", "b", "c") if outcome == "multiclass" else ())
    contract = DataContract(columns=tuple(Column(name=f"x{number}") for number in range(width)), label=label)
    hidden = {"mlp": (16, 8), "cnn": (4, 8)}.get(name, ())
    module = models.build(BuiltinModel(name=name, hidden=hidden, dtype=dtype), contract)
    found, trained, columns = engine(module, outcome, width)
    assert found.method == "book-keeping"
    found._method = method
    bag = bag_of([2, 4, 1, 2], outcome=outcome, dtype=module.get_parameter(next(iter(found._named))).dtype, width=width)
    out = torch.empty(columns)
    norms = found.clipped_sum(bag[0], bag[1].float(), bag[2].float(), 0.3, out)
    exact = module.double()
    expected, expected_norms = looped(exact, trained, columns, outcome, [each.double() for each in bag], 0.3)
    tolerance = {"float32": 2e-6, "bfloat16": 1e-1, "float16": 3e-2}[dtype]
    assert torch.linalg.vector_norm(out - expected) <= tolerance * torch.linalg.vector_norm(expected)
    assert torch.linalg.vector_norm(norms - expected_norms) <= tolerance * torch.linalg.vector_norm(expected_norms)


@pytest.mark.parametrize("name", MODULES)
def test_the_same_bits_again(name):
    make, kind = MODULES[name]
    found, _, columns = engine(make())
    bag, first, second = bag_of(BAGS["padded bags"], kind, dtype=torch.float32), *torch.empty(2, columns)
    assert torch.equal(found.clipped_sum(*bag, 0.5, first), found.clipped_sum(*bag, 0.5, second))
    assert torch.equal(first, second)


@pytest.mark.parametrize("method", METHODS)
def test_whose_gradient_is_not_finite_is_left_out(method):
    module = perceptron()
    found, trained, columns = engine(module, method=method)
    features, labels, weights = bag_of([2, 1, 3, 1, 1], dtype=torch.float32)
    features[0, 1, 3], features[2, 0, 0] = math.nan, math.inf
    features[3, 0] = 3e38
    rest = [each[[1, 4]] for each in (features, labels, weights)]
    expected, expected_norms = looped(module, trained, columns, "multiclass", rest, 0.5)
    out = torch.empty(columns)
    norms = found.clipped_sum(features, labels, weights, 0.5, out)
    torch.testing.assert_close(out.double(), expected, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(norms[[1, 4]], expected_norms, rtol=1e-6, atol=0)
    assert norms[0] == norms[2] == math.inf


@pytest.mark.parametrize("method", METHODS)
def test_a_gradient_of_zero_adds_zero(method):
    module = nn.Linear(WIDTH, 1)
    found, _, columns = engine(module, "number", method=method)
    features = torch.randn(3, 2, WIDTH)
    labels = module(features).detach().squeeze(-1)
    labels[1] += 1.0
    out = torch.empty(columns)
    norms = found.clipped_sum(features, labels, torch.full((3, 2), 0.5), 1.0, out)
    assert norms[0] < 1e-6
    assert norms[2] < 1e-6
    assert norms[1] > 1
    assert torch.linalg.vector_norm(out) == pytest.approx(1.0, abs=1e-5)
    one = torch.ones(1, 1)
    assert found.clipped_sum(torch.zeros(1, 1, WIDTH), module.bias.detach()[None], one, 1.0, out) == 0.0
    assert not out.any()


EXPONENTS = st.integers(-18, 18)


@functools.cache
def deep(method):
    module = nn.Sequential(nn.Linear(WIDTH, 40), nn.ReLU(), nn.Linear(40, 40), nn.Tanh(), nn.Linear(40, 1))
    module.load_state_dict(separable.parameters(module))
    found, _, columns = engine(module, "number", method=method)
    return found, columns


@pytest.mark.parametrize("method", METHODS)
@given(
    seed=st.integers(0, 2**32 - 1),
    scales=st.tuples(EXPONENTS, EXPONENTS),
    count=st.sampled_from([1, 2, 6]),
    cancels=st.booleans(),
    clip=st.sampled_from([1e-3, 1.0, 1e3]),
)
def test_no_patient_adds_more_than_the_clip(method, seed, scales, count, cancels, clip):
    generator = torch.Generator().manual_seed(seed)
    found, columns = deep(method)
    features = torch.randn(1, count, WIDTH, generator=generator) * 10.0 ** scales[0]
    labels = torch.randn(1, count, generator=generator) * 10.0 ** scales[1]
    if cancels and count > 1:  # nearly the same records, with labels that pull in opposite directions
        features = features[:, :1] * (1 + 1e-6 * torch.randn(1, count, WIDTH, generator=generator))
        labels = labels[:, :1] * torch.tensor([1.0, -1.0] * (count // 2))
    out = torch.empty(columns)
    norms = found.clipped_sum(features, labels, torch.full((1, count), 1 / count), clip, out)
    assert torch.linalg.vector_norm(out, dtype=torch.float64) <= clip * (1 + 1e-5)
    assert not norms.isnan().any()


def test_records_that_cancel_are_clipped_by_what_is_left():
    module = nn.Sequential(nn.Linear(WIDTH, 64, bias=False), nn.Linear(64, 1, bias=False))
    found, trained, columns = engine(module, "number")
    features = torch.randn(1, 2, WIDTH).repeat(1, 1, 1)
    features[0, 1] = features[0, 0]
    pulled = module(features[:, :1]).detach().squeeze(-1)
    labels = pulled + torch.tensor([1000.0, -999.0])
    bag = (features, labels, torch.full((1, 2), 0.5))
    expected, norms = looped(module.double(), trained, columns, "number", [each.double() for each in bag], 0.01)
    module.float()
    out = torch.empty(columns)
    assert found.clipped_sum(*bag, 0.01, out) == pytest.approx(float(norms[0]), rel=1e-3)
    assert torch.linalg.vector_norm(out) <= 0.01
    torch.testing.assert_close(out.double(), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_frozen_parameters_have_no_part(method):
    module = image().double()
    for name in ("1.weight", "4.weight", "7.bias"):
        module.get_parameter(name).requires_grad_(False)
    found, trained, columns = engine(module)
    assert found.method == "book-keeping"
    found._method = method
    bag = bag_of([1, 2, 2])
    expected, norms = looped(module, trained, columns, "multiclass", bag, 0.5)
    out = torch.empty(columns, dtype=torch.float64)
    torch.testing.assert_close(found.clipped_sum(*bag, 0.5, out), norms)
    torch.testing.assert_close(out, expected)


def test_nothing_trained_gives_zeros():
    module = perceptron().requires_grad_(False)
    found, _, columns = engine(module)
    out = torch.ones(columns)
    assert not found.clipped_sum(*bag_of([1, 2], dtype=torch.float32), 0.5, out).any()
    assert not out.any()


def test_vmap_goes_through_the_patients_in_pieces(monkeypatch):
    module = perceptron().double()
    found, trained, columns = engine(module, method="vmap")
    monkeypatch.setattr("wardround.training.patient_gradients._VMAP_BYTES", 8 * 3 * columns)
    assert found._patients_at_once() == 3
    bag = bag_of([1, 1, 2, 1, 1, 1, 2])
    expected, _ = looped(module, trained, columns, "multiclass", bag, 0.5)
    out = torch.empty(columns, dtype=torch.float64)
    found.clipped_sum(*bag, 0.5, out)
    torch.testing.assert_close(out, expected)


def test_dropout_is_drawn_anew_and_from_the_seed():
    module = nn.Sequential(nn.Linear(WIDTH, 20), nn.Dropout(), nn.Linear(20, CLASSES))
    before = torch.get_rng_state()
    found, _, columns = engine(module)
    assert torch.equal(before, torch.get_rng_state())
    assert found.method == "book-keeping"
    bag, sums = bag_of([2, 1, 1], dtype=torch.float32), torch.empty(3, columns)
    for seed, out in zip((1, 2, 1), sums, strict=True):
        torch.manual_seed(seed)
        found.clipped_sum(*bag, 0.5, out)
    assert torch.equal(sums[0], sums[2])
    assert not torch.equal(sums[0], sums[1])


def test_the_module_is_left_as_it_was():
    module = image().eval()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    found, _, columns = engine(module)
    found.clipped_sum(*bag_of([1, 2], dtype=torch.float32), 1.0, torch.empty(columns))
    assert not module.training
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert not any(layer._forward_hooks for layer in module.modules())
    assert all(parameter.grad is None for parameter in module.parameters())


@pytest.mark.parametrize("clip", [0.0, -1.0, math.nan])
def test_a_clip_is_positive(clip):
    found, _, columns = engine(perceptron())
    with pytest.raises(ValueError, match="clip"):
        found.clipped_sum(*bag_of([1], dtype=torch.float32), clip, torch.empty(columns))


def test_the_flat_vector_has_its_length():
    found, _, columns = engine(perceptron())
    with pytest.raises(ValueError, match="elements"):
        found.clipped_sum(*bag_of([1], dtype=torch.float32), 1.0, torch.empty(columns + 1))


LIMITED = """
import resource, sys, torch
from torch import nn
from wardround.training.patient_gradients import PatientGradients
resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
torch.set_num_threads(1)
torch.set_deterministic_debug_mode("error")
module = nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.1), nn.Linear(3, 1))
places = [slice(0, 12), slice(12, 15), slice(15, 18), slice(18, 19)]
for method in ("book-keeping", "vmap", "loop"):
    engine = PatientGradients(module, list(zip(module.parameters(), places)), 19, "binary", 4)
    engine._method = method
    engine.clipped_sum(torch.ones(3, 2, 4), torch.ones(3, 2), torch.ones(3, 2), 1.0, torch.empty(19))
print([name for name in ("torch._dynamo", "torch._inductor", "sympy") if name in sys.modules])
"""


def test_no_method_needs_files_or_torchs_compiler():
    done = subprocess.run([sys.executable, "-c", LIMITED], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
