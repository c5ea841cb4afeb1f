# ruff: noqa: TID251, every generator here has a fixed seed
import os
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from wardround.aggregation import standardization
from wardround.clinical.contract import Column, DataContract, Label
from wardround.codec import tensors
from wardround.errors import TensorMismatchError
from wardround.ids import SiteId
from wardround.protocol.plan import (
    BlobRef,
    BuiltinModel,
    CodePackage,
    Local,
    Optimizer,
    Plan,
    Training,
    statistics_manifest,
)
from wardround.training import echo, models, optimizer
from wardround.training import package as code
from wardround.training.channel import Assignment, Done
from wardround.training.learner import Learner, round_seeds
from wardround.training.memory import layout, memory_bytes

LINEAR = BuiltinModel(name="linear")
NUMBER = DataContract(columns=(Column(name="a"), Column(name="b")), label=Label(name="y", outcome="number"))


def plan_of(training, *, model=LINEAR, contract=NUMBER, manifest=None, seed=0):
    manifest = manifest or models.manifest_of(models.build(model, contract))
    return Plan(
        title="t", purpose="p", legal_basis="l", researcher=SiteId("r"), participants=(SiteId("a"), SiteId("b")),
        min_participants=2, data=contract, model=model, manifest=manifest,
        initial=BlobRef("0" * 64, tensors.file_bytes(manifest)), training=training, expires=0, seed=seed,
    )  # fmt: skip


class Bench:
    """A learner in this process, on records of its own, with a base file."""

    def __init__(self, tmp_path, plan, *, records=20, site="a", package=b"", learner=Learner):
        generator = np.random.default_rng(3)
        self.plan, width = plan, len(plan.data.columns)
        self.features = generator.normal(1, 2, (records, width)).astype(np.float32)
        self.labels = generator.normal(0, 1, records).astype(np.float32)
        self.held_out = np.arange(records) % 4 == 3
        count = tensors.manifest_bytes(plan.manifest) // 4
        self.base = generator.normal(0, 0.1, count).astype(np.float32)
        self.path = tmp_path / "base"
        self.path.write_bytes(tensors.header(plan.manifest) + self.base.tobytes())
        self.vector = np.zeros(count, np.float32)
        self.memory = np.zeros(memory_bytes(plan) // 4, np.float32)
        self.learner = learner(
            Assignment(
                plan, SiteId(site), self.features, self.labels, self.held_out, self.vector, self.memory, package,
                np.arange(records, dtype=np.int32), records,
            )
        )  # fmt: skip

    def update(self, number=1, kind="train", standardization=b"", control=None):
        file = os.open(self.path, os.O_RDONLY)
        try:
            self.done = self.learner.perform(number, kind, file, standardization, control)
        finally:
            os.close(file)
        self.metrics = self.done.metrics
        return self.vector.copy()


def test_one_step_is_stochastic_gradient_descent_by_hand(tmp_path):
    rate = 0.25  # a power of two
    bench = Bench(tmp_path, plan_of(Training(rounds=1, batch_size=100, optimizer=Optimizer(learning_rate=rate))))
    inputs, labels = bench.features[~bench.held_out], bench.labels[~bench.held_out]
    weight, bias = bench.base[:2], bench.base[2]
    residual = inputs @ weight + bias - labels
    gradient = np.append(2 * residual @ inputs / len(labels), 2 * residual.mean())
    np.testing.assert_allclose(bench.update(), -rate * gradient, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_many_steps_are_those_of_a_plain_torch_loop(tmp_path, name):
    model = BuiltinModel(name="mlp", hidden=(4, 3))
    chosen = Optimizer(name=name, learning_rate=0.02, momentum=0.5, weight_decay=0.1)
    bench = Bench(tmp_path, plan_of(Training(rounds=1, epochs=3, batch_size=4, optimizer=chosen), model=model, seed=9))
    module = models.build(model, NUMBER)
    named = tensors.split(bench.base.copy(), bench.plan.manifest)
    module.load_state_dict({key: torch.from_numpy(array) for key, array in named.items()})
    settings = {"lr": 0.02, "weight_decay": 0.1}
    step = (
        torch.optim.SGD(module.parameters(), momentum=0.5, **settings)
        if name == "sgd"
        else torch.optim.AdamW(module.parameters(), **settings)
    )
    order = torch.Generator().manual_seed(round_seeds(9, SiteId("a"), 6)[0])
    rows, labels = torch.from_numpy(bench.features[~bench.held_out]), torch.from_numpy(bench.labels[~bench.held_out])
    for _ in range(3):
        for batch in torch.randperm(15, generator=order).split(4):
            step.zero_grad()
            torch.mean((module(rows[batch])[:, 0] - labels[batch]) ** 2).backward()
            step.step()
    trained = np.concatenate([value.detach().numpy().ravel() for value in module.state_dict().values()])
    np.testing.assert_allclose(bench.update(6), trained - bench.base, rtol=1e-4, atol=1e-6)


def test_a_large_base_is_subtracted_piece_by_piece(tmp_path):
    bench = Bench(tmp_path, plan_of(Training(rounds=1), model=BuiltinModel(name="mlp", hidden=(600, 600))))
    assert len(bench.base) > 1 << 18
    bench.learner._loss = lambda output, labels: output.sum() * 0
    assert not bench.update().any()


def test_the_base_model_is_what_is_evaluated(tmp_path):
    bench = Bench(tmp_path, plan_of(Training(rounds=1)))
    bench.update()
    guess = bench.features[bench.held_out] @ bench.base[:2] + bench.base[2]
    assert bench.metrics["mae"] == pytest.approx(np.abs(guess - bench.labels[bench.held_out]).mean(), rel=1e-5)
    bench.update(kind="evaluate")
    assert bench.metrics["mae"] == pytest.approx(np.abs(guess - bench.labels[bench.held_out]).mean(), rel=1e-5)


@pytest.mark.parametrize("steps", [1, 4, 11])
def test_steps_and_epochs_see_as_many_batches_as_they_say(tmp_path, steps):
    # 15 records in batches of 4 are 4 batches a pass; loss is constant, so each step moves by the same.
    seen = []
    plan = plan_of(Training(rounds=1, epochs=0, steps=steps, batch_size=4))
    bench = Bench(tmp_path, plan)
    bench.learner._loss = lambda output, labels: seen.append(len(labels)) or output.sum() * 0
    assert not bench.update().any()
    assert seen == ([4, 4, 4, 3] * 3)[:steps]


def test_a_pass_sees_every_record_once_in_an_order_of_its_own(tmp_path):
    seen = []
    bench = Bench(tmp_path, plan_of(Training(rounds=1, epochs=2, batch_size=4)))
    bench.learner._loss = lambda output, labels: seen.extend(labels.tolist()) or output.sum() * 0
    bench.update()
    first, second = seen[:15], seen[15:]
    assert sorted(first) == sorted(second) == sorted(bench.labels[~bench.held_out].tolist())
    assert first != second


@settings(max_examples=15)
@given(seed=st.integers(0, 2**40), number=st.integers(1, 10**5), name=st.sampled_from(["sgd", "adam", "adamw"]))
def test_the_same_inputs_give_the_same_bytes(tmp_path_factory, seed, number, name):
    model = BuiltinModel(name="mlp", hidden=(4,))
    training = Training(rounds=1, batch_size=4, optimizer=Optimizer(name=name, learning_rate=0.05))
    plan = plan_of(training, model=model, seed=seed)
    folder = tmp_path_factory.mktemp("run")
    first, again = Bench(folder, plan), Bench(folder, plan)
    expected = first.update(number).tobytes()
    assert again.update(number + 1).tobytes() != expected
    assert again.update(number).tobytes() == expected, "nothing of another round is left"
    assert Bench(folder, plan, site="b").update(number).tobytes() != expected


@given(
    st.tuples(st.integers(0, 99), st.sampled_from(["a", "b", "a1"]), st.integers(1, 99)),
    st.tuples(st.integers(0, 99), st.sampled_from(["a", "b", "a1"]), st.integers(1, 99)),
)
def test_seeds_differ_unless_seed_site_and_round_agree(one, other):
    assert (round_seeds(*one) == round_seeds(*other)) == (one == other)


@pytest.mark.parametrize(
    "chosen",
    [
        Optimizer(),
        Optimizer(momentum=0.9, weight_decay=0.1),
        Optimizer(name="adam", learning_rate=0.01, weight_decay=0.1),
        Optimizer(name="adamw", learning_rate=0.01, weight_decay=0.1),
    ],
)
def test_optimizers_are_torchs(chosen):
    generator = torch.Generator().manual_seed(1)
    start = torch.randn(300_001, generator=generator)  # more than one piece
    ours, theirs = start.clone(), start.clone().requires_grad_()
    settings = {"lr": chosen.learning_rate, "weight_decay": chosen.weight_decay}
    oracle = {
        "sgd": lambda: torch.optim.SGD([theirs], momentum=chosen.momentum, **settings),
        "adam": lambda: torch.optim.Adam([theirs], **settings),
        "adamw": lambda: torch.optim.AdamW([theirs], **settings),
    }[chosen.name]()
    gradient = torch.zeros_like(start)
    step = optimizer.make(chosen, [ours], [gradient])
    for _ in range(5):
        gradient.copy_(torch.randn(len(start), generator=generator))
        theirs.grad = gradient.clone()
        step()
        oracle.step()
    torch.testing.assert_close(ours, theirs.detach(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("scale", ["federated", "none"])
def test_standardization_is_applied_and_gaps_are_filled(tmp_path, scale):
    contract = DataContract(columns=NUMBER.columns, label=NUMBER.label, scaling=scale)
    bench = Bench(tmp_path, plan_of(Training(rounds=1, batch_size=100), contract=contract))
    sums = standardization.site_sums(bench.features[~bench.held_out], (True, True))
    statistics = tensors.pack(sums, statistics_manifest(contract))
    mean, std = standardization.mean_and_std(sums)
    bench.update(standardization=statistics)
    scaled = (bench.features - mean) / std if scale == "federated" else bench.features
    guess = scaled[bench.held_out] @ bench.base[:2] + bench.base[2]
    assert bench.metrics["mae"] == pytest.approx(np.abs(guess - bench.labels[bench.held_out]).mean(), rel=1e-5)
    with pytest.raises(TensorMismatchError):
        bench.update(standardization=statistics[:-1])


STUDY = b"""
import torch
from torch import nn

class Odd(nn.Module):
    # Replaces its buffer, drops its gradient, draws at random and counts: all legal.
    def __init__(self, width):
        super().__init__()
        self.frozen = nn.Parameter(torch.zeros(2), requires_grad=False)
        self.layer = nn.Linear(width, 1)
        self.norm = nn.BatchNorm1d(width, momentum=None)
        self.drop = nn.Dropout(0.5)
        self.register_buffer("seen", torch.zeros(1))

    def forward(self, rows):
        if self.training:
            self.seen = self.seen + len(rows)
        return self.layer(self.drop(self.norm(rows)))

def make(width, outputs):
    assert outputs == 1
    return Odd(width)
"""


def odd_plan(optimizer_):
    package = code.make({"odd_study.py": STUDY})
    names = {"frozen": (2,), "seen": (1,), "layer.weight": (1, 2), "layer.bias": (1,), "norm.weight": (2,)}
    names |= {"norm.bias": (2,), "norm.running_mean": (2,), "norm.running_var": (2,)}
    manifest = tuple(tensors.TensorSpec(name, shape) for name, shape in names.items())
    model = CodePackage(package=code.ref(package), factory="odd_study:make")
    training = Training(rounds=1, epochs=2, batch_size=5, optimizer=optimizer_)
    return plan_of(training, model=model, manifest=manifest), package


@pytest.fixture
def imports():
    """Study code is imported once per process; here it is forgotten after each test."""
    before, finders = set(sys.modules), list(sys.meta_path)
    yield
    sys.meta_path[:] = finders
    for name in set(sys.modules) - before:
        del sys.modules[name]


@pytest.mark.usefixtures("imports")
def test_study_code_may_replace_buffers_draw_and_count(tmp_path):
    plan, package = odd_plan(Optimizer(weight_decay=0.5))
    bench = Bench(tmp_path, plan, package=package)
    first = bench.update()
    named = tensors.split(first, plan.manifest)
    assert not named["frozen"].any(), "neither trained nor decayed"
    assert named["seen"] == pytest.approx(30)
    assert named["layer.weight"].any()
    assert named["norm.running_mean"].any()
    assert bench.update().tobytes() == first.tobytes(), "counters and generators start anew"
    assert int(bench.learner._module.norm.num_batches_tracked) == 6


@pytest.mark.usefixtures("imports")
def test_batch_normalization_stays_at_the_site_where_the_plan_keeps_it(tmp_path):
    plan, package = odd_plan(Optimizer())
    kept = msgspec.structs.replace(plan.training, local=Local(kept=("norm.*",)))
    bench = Bench(tmp_path, msgspec.structs.replace(plan, training=kept), package=package)
    named = tensors.split(bench.update(), plan.manifest)
    assert not any(named[name].any() for name in named if name.startswith("norm."))
    assert named["layer.weight"].any()
    first = bench.memory[layout(bench.plan)["kept"]].copy()
    assert not np.allclose(first, bench.base[-8:]), "weight, bias, running mean and variance of two channels"
    bench.update(2)
    assert not np.allclose(first, bench.memory[layout(bench.plan)["kept"]]), "and it goes on from its own"


def test_arrays_other_than_the_plans_are_refused(tmp_path):
    manifest = (tensors.TensorSpec("weight", (1, 3)), tensors.TensorSpec("bias", (1,)))
    with pytest.raises(TensorMismatchError, match="manifest"):
        Bench(tmp_path, plan_of(Training(rounds=1), manifest=manifest))


def test_training_does_without_torchs_compiler(tmp_path):
    program = (
        "import sys, pathlib; sys.path.insert(0, sys.argv[1]); import test_learner as t; "
        "t.Bench(pathlib.Path(sys.argv[2]), t.plan_of(t.Training(rounds=1))).update(); "
        "sys.exit('torch._dynamo' in sys.modules)"
    )
    command = [sys.executable, "-c", program, str(Path(__file__).parent), str(tmp_path)]
    assert subprocess.run(command, check=False).returncode == 0


@given(size=st.sampled_from([1, 7, (1 << 18) - 1, 1 << 18, (1 << 18) + 1]), kind=st.sampled_from(["train", "evaluate"]))
def test_the_echo_fills_the_vector_with_its_pattern(size, kind):
    vector = np.full(size, 9, np.float32)
    empty = np.zeros(0, np.float32)
    learner = echo.Learner(
        Assignment(
            plan_of(Training(rounds=1)),
            SiteId("a"),
            empty,
            empty,
            empty > 0,
            vector,
            empty,
            b"",
            np.zeros(0, np.int32),
            0,
        )
    )
    assert learner.perform(1, kind, -1, b"") == Done({})
    places = np.arange(size) % (1 << 18)
    expected = ((places % 7 - 3) / 1000).astype(np.float32) if kind == "train" else np.full(size, 9, np.float32)
    np.testing.assert_array_equal(vector, expected)
