import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lifelines import CoxPHFitter
from torch import nn

from wardround.clinical.contract import Column, DataContract, Label
from wardround.codec import tensors
from wardround.codec.tensors import TensorSpec
from wardround.errors import CodecError
from wardround.protocol.plan import BuiltinModel
from wardround.training import models

LABELS = {
    "binary": Label(name="y"),
    "multiclass": Label(name="y", outcome="multiclass", classes=("a", "b", "c")),
    "number": Label(name="y", outcome="number"),
    "survival": Label(name="time", outcome="survival", event="died"),
}
FITTING = [
    ("logistic", "binary"),
    ("logistic", "multiclass"),
    ("linear", "number"),
    ("cox", "survival"),
    *(("mlp", outcome) for outcome in LABELS),
    *(("cnn", outcome) for outcome in LABELS),
]
records = st.lists(st.tuples(st.integers(1, 6), st.booleans(), st.floats(-3, 3)), min_size=1, max_size=30)


def contract_of(outcome, width=64):
    return DataContract(columns=tuple(Column(name=f"x{i}") for i in range(width)), label=LABELS[outcome])


@pytest.mark.parametrize(("name", "outcome"), FITTING)
def test_a_model_learns_its_outcome_from_a_batch(name, outcome):
    contract, hidden = contract_of(outcome), (5,) if name in {"mlp", "cnn"} else ()
    module = models.build(BuiltinModel(name=name, hidden=hidden), contract)
    output = module(torch.ones(4, 64))
    assert output.shape == (4, 3 if outcome == "multiclass" else 1)
    labels = torch.tensor([[1.0, 1], [2, 0], [3, 1], [4, 1]]) if outcome == "survival" else torch.tensor([0.0, 1, 1, 0])
    loss = models.loss_of(outcome)(output, labels)
    assert loss.shape == ()
    loss.backward()
    assert all(parameter.grad is not None for parameter in module.parameters())


@pytest.mark.parametrize("name", ["logistic", "linear", "cox"])
@pytest.mark.parametrize("outcome", sorted(LABELS))
def test_a_model_that_cannot_learn_an_outcome_is_refused(name, outcome):
    if (name, outcome) not in FITTING:
        with pytest.raises(CodecError, match=f"{name} model learns .*, not {outcome}"):
            models.build(BuiltinModel(name=name), contract_of(outcome))


@pytest.mark.parametrize(
    ("model", "width", "words"),
    [
        (BuiltinModel(name="cnn"), 63, "square"),
        (BuiltinModel(name="cnn", hidden=(2, 2, 2, 2)), 64, "side 16"),
        (BuiltinModel(name="mlp", hidden=(0,)), 4, "positive"),
        (BuiltinModel(name="logistic", hidden=(3,)), 4, "mlp"),
    ],
)
def test_a_shape_that_cannot_be_is_refused(model, width, words):
    with pytest.raises(CodecError, match=words):
        models.build(model, contract_of("binary", width))


@given(seed=st.integers(0, 2**63 - 1))
def test_the_same_seed_gives_the_same_params(seed):
    model, contract = BuiltinModel(name="mlp", hidden=(3,)), contract_of("binary", 4)
    first, second = (models.initial_params(model, contract, seed) for _ in range(2))
    manifest = models.manifest_of(models.build(model, contract))
    assert tensors.pack(first, manifest) == tensors.pack(second, manifest)
    assert tensors.pack(models.initial_params(model, contract, seed ^ 1), manifest) != tensors.pack(first, manifest)


def test_drawing_params_leaves_the_global_generator_alone():
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    models.initial_params(BuiltinModel(name="mlp", hidden=(3,)), contract_of("binary", 4), 1)
    assert torch.equal(torch.rand(3), expected)


def test_a_manifest_has_float_parameters_and_buffers_in_order_and_no_counters():
    module = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    assert models.manifest_of(module) == (
        TensorSpec("0.weight", (3, 2)),
        TensorSpec("0.bias", (3,)),
        TensorSpec("1.weight", (3,)),
        TensorSpec("1.bias", (3,)),
        TensorSpec("1.running_mean", (3,)),
        TensorSpec("1.running_var", (3,)),
    )


def test_a_tied_array_travels_once():
    module = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    module[1].weight = module[0].weight
    assert [spec.name for spec in models.manifest_of(module)] == ["0.weight", "0.bias", "1.bias"]


def test_another_floating_dtype_is_refused_by_name():
    with pytest.raises(CodecError, match=r"array 'weight' is torch\.float64"):
        models.manifest_of(nn.Linear(2, 1).to(torch.float64))


def test_two_floating_dtypes_in_one_model_are_refused_by_name():
    mixed = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1).to(torch.bfloat16))
    with pytest.raises(CodecError, match=r"array '1.weight' is torch\.bfloat16"):
        models.manifest_of(mixed)


@pytest.mark.parametrize("name", ["float16", "bfloat16"])
def test_half_precision_is_the_models_own_and_crosses_to_numpy_bit_for_bit(name):
    module = nn.Linear(3, 2).to(getattr(torch, name))
    assert {spec.dtype for spec in models.manifest_of(module)} == {name}
    array = models.array_of(module.weight)
    assert array.dtype.name == name
    back = models.flat_tensor(array.ravel())
    assert torch.equal(back, module.weight.detach().ravel())
    back[0] = 7.0
    assert float(array[0, 0]) == 7.0, "the same memory"


def test_a_complex_array_is_refused_by_name():
    module = nn.Module()
    module.register_buffer("phase", torch.zeros(1, dtype=torch.complex64))
    with pytest.raises(CodecError, match=r"array 'phase' is torch\.complex64"):
        models.manifest_of(module)


@given(records=records)
def test_cox_loss_is_the_partial_likelihood_written_out(records):
    times, events, risks = np.array(records, float).T
    total = 0.0
    for time, event, risk in zip(times, events, risks, strict=True):
        if event:
            total += np.log(np.sum(np.exp(risks[times >= time]))) - risk
    expected = total / max(1.0, events.sum())
    labels = torch.tensor(np.column_stack([times, events]), dtype=torch.float32)
    found = models.cox_loss(torch.tensor(risks, dtype=torch.float32)[:, None], labels)
    assert found.item() == pytest.approx(expected, abs=2e-5)


def test_cox_loss_is_least_where_lifelines_fit_is():
    generator = np.random.default_rng(1)  # noqa: TID251, a fixed seed
    inputs = generator.normal(0, 1, (150, 2))
    times = generator.permutation(150) + 1.0  # no ties: Efron's and Breslow's likelihoods agree
    events = (generator.random(150) < 0.7).astype(float)
    frame = pd.DataFrame({"a": inputs[:, 0], "b": inputs[:, 1], "t": times, "e": events})
    fitted = CoxPHFitter().fit(frame, "t", "e")
    coefficients = torch.tensor(fitted.params_.to_numpy(), requires_grad=True)
    labels = torch.tensor(np.column_stack([times, events]))
    loss = models.cox_loss(torch.tensor(inputs) @ coefficients, labels)
    assert -loss.item() * events.sum() == pytest.approx(fitted.log_likelihood_, rel=1e-6)
    loss.backward()
    assert coefficients.grad.abs().max().item() < 1e-4


def test_cox_loss_stands_extreme_risks_and_batches_without_events():
    risks = torch.tensor([500.0, -500.0, 80.0], requires_grad=True)
    labels = torch.tensor([[1.0, 1], [2, 1], [3, 0]])
    loss = models.cox_loss(risks, labels)
    assert loss.item() == pytest.approx((0 + 580) / 2)
    nothing = models.cox_loss(risks, labels * torch.tensor([1.0, 0.0]))
    nothing.backward()
    assert nothing.item() == 0.0
    assert torch.equal(risks.grad, torch.zeros(3))


def test_an_output_of_another_shape_is_an_error_and_not_broadcast():
    with pytest.raises(RuntimeError, match="shape"):
        models.loss_of("number")(torch.zeros(4, 2), torch.zeros(4))


class Normed(nn.Module):
    """A small network with batch normalization of both kinds."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(3, 8)
        self.norm = nn.BatchNorm1d(8)
        self.inner = nn.Sequential(nn.Linear(8, 6), nn.BatchNorm1d(6, affine=False))
        self.last = nn.Linear(6, 1)

    def forward(self, rows):
        return self.last(self.inner(torch.relu(self.norm(self.first(rows)))))


@pytest.mark.parametrize("normalization", ["group", "instance"])
def test_every_batch_normalization_is_replaced_wherever_it_lies(normalization):
    module = models.normalized(Normed(), normalization)
    assert [one.num_groups for one in module.modules() if isinstance(one, nn.GroupNorm)] == [2, 1]
    assert not any(isinstance(one, nn.modules.batchnorm._BatchNorm) for one in module.modules())
    assert not any("running" in spec.name for spec in models.manifest_of(module))
    assert module(torch.zeros(1, 3)).shape == (1, 1), "one record is enough for it"


def test_a_module_that_is_one_batch_normalization_is_replaced_too_and_as_is_changes_nothing():
    assert isinstance(models.normalized(nn.BatchNorm2d(256), "group"), nn.GroupNorm)
    assert models.normalized(nn.BatchNorm2d(256), "group").num_groups == 32
    assert models.normalized(nn.BatchNorm2d(6), "instance").num_groups == 6
    module = Normed()
    assert models.normalized(module, "as-is") is module
    assert isinstance(module.norm, nn.BatchNorm1d)
