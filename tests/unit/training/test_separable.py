import pytest
import torch
from tests.unit.training.test_patient_gradients import CLASSES, WIDTH, as_in_the_worker, bag_of, engine, looped
from torch import nn
from torch.nn import functional

from wardround.errors import CodecError

__all__ = ["as_in_the_worker"]


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer, self.output = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, CLASSES)

    def forward(self, records):
        return self.output(self.layer(self.layer(records).tanh()))


class Shared(Twice):
    def __init__(self):
        super().__init__()
        self.other = nn.Linear(WIDTH, WIDTH)
        self.other.weight = self.layer.weight

    def forward(self, records):
        return self.output(self.other(self.layer(records).tanh()))


class BehindItsBack(Twice):
    def forward(self, records):
        return self.output(functional.linear(self.layer(records).tanh(), self.layer.weight))


class OwnParameter(Twice):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(CLASSES))

    def forward(self, records):
        return self.scale * self.output(self.layer(records))


class Mixing(Twice):
    def forward(self, records):
        hidden = self.layer(records)
        return self.output(hidden - hidden.mean(0).detach())


class Turned(Twice):
    def forward(self, records):
        return self.output(self.layer(records.flip(0))).flip(0)


class Positions(Twice):
    """Records and positions in one dimension, records last."""

    def forward(self, records):
        seen = self.layer(records[:, None, :] * torch.ones(2, 1, dtype=records.dtype))
        return self.output(seen.transpose(0, 1).flatten(0, 1)).unflatten(0, (2, -1)).sum(0)


class Unused(Twice):
    def forward(self, records):
        return self.output(records)


class Coded(nn.Module):
    """An embedding with padding, which vmap's own rule gets wrong, and a parameter of its own."""

    def __init__(self):
        super().__init__()
        self.embedding, self.output = nn.Embedding(7, 4, padding_idx=0), nn.Linear(4, CLASSES)
        self.scale = nn.Parameter(torch.ones(4))

    def forward(self, records):
        return self.output((self.embedding(records.long()) * self.scale).mean(1))


class Attending(nn.Module):
    def __init__(self, dropout=0.0):
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True, dropout=dropout)
        self.output = nn.Linear(12, CLASSES)

    def forward(self, records):
        return self.output(self.layer(records.unflatten(1, (3, 4))).flatten(1))


def test_attention_with_dropout_is_left_to_vmap():
    module = Attending(dropout=0.3)
    found, _, columns = engine(module)
    assert found.method == "vmap"
    assert module.layer.dropout1.p == module.layer.self_attn.dropout == 0.3
    out = torch.empty(columns)
    assert bool((found.clipped_sum(*bag_of([1, 2], dtype=torch.float32), 0.5, out) > 0).all())
    assert 0 < torch.linalg.vector_norm(out) <= 1.0


class Recurrent(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.layer, self.output = kind(4, 5, batch_first=True), nn.Linear(5, CLASSES)

    def forward(self, records):
        return self.output(self.layer(records.unflatten(1, (3, 4)))[0][:, -1])


class Branching(Twice):
    """What vmap cannot follow."""

    def forward(self, records):
        hidden = self.layer(records)
        return self.output(hidden if self.layer.bias.detach().sum().item() > 1e9 else self.layer(hidden))


OTHERS = {
    "called twice": (Twice, "vmap"),
    "shared": (Shared, "vmap"),
    "used behind its back": (BehindItsBack, "vmap"),
    "a parameter of no layer": (OwnParameter, "vmap"),
    "records turned round": (Turned, "vmap"),
    "positions before records": (Positions, "vmap"),
    "a layer without use": (Unused, "vmap"),
    "padded codes": (Coded, "vmap"),
    "attention": (Attending, "vmap"),
    "LSTM": (lambda: Recurrent(nn.LSTM), "loop"),
    "GRU": (lambda: Recurrent(nn.GRU), "loop"),
    "a branch": (Branching, "loop"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_any_other_module_falls_back_to_patient_by_patient(name):
    make, method = OTHERS[name]
    module = make().double()
    found, trained, columns = engine(module)
    assert found.method == method
    bag = bag_of([1, 2, 2, 4], "code" if name == "padded codes" else "real")
    expected, norms = looped(module, trained, columns, "multiclass", bag, 0.5)
    out = torch.empty(columns, dtype=torch.float64)
    torch.testing.assert_close(found.clipped_sum(*bag, 0.5, out), norms)
    torch.testing.assert_close(out, expected)


def test_what_mixes_records_is_kept_within_a_patient():
    module = Mixing().double()
    found, _, columns = engine(module)
    assert found.method == "vmap"
    features, labels, weights = bag_of([2, 2, 2])
    both, alone = torch.empty(2, columns, dtype=torch.float64)
    norms = found.clipped_sum(features, labels, weights, 1e9, both)
    features[0] += 1.0
    others = found.clipped_sum(features, labels, weights, 1e9, alone)
    assert torch.equal(norms[1:], others[1:])


class Running(Twice):
    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(WIDTH))

    def forward(self, records):
        hidden = self.layer(records)
        if self.training:
            self.mean.lerp_(hidden.detach().mean(0), 0.1)
        return self.output(hidden - self.mean)


class Reassigned(Running):
    def forward(self, records):
        hidden = self.layer(records)
        self.mean = 0.9 * self.mean + 0.1 * hidden.detach().mean(0)
        return self.output(hidden - self.mean)


REFUSED = {
    "BatchNorm": (
        lambda: nn.Sequential(nn.Linear(WIDTH, 4), nn.BatchNorm1d(4), nn.Linear(4, CLASSES)),
        '1: batch normalization mixes patients: set normalization = "group"',
    ),
    "frozen BatchNorm": (
        lambda: nn.Sequential(nn.BatchNorm1d(WIDTH).requires_grad_(False), nn.Linear(WIDTH, CLASSES)),
        'normalization = "group"',
    ),
    "InstanceNorm": (
        lambda: nn.Sequential(nn.Unflatten(1, (3, 4)), nn.InstanceNorm1d(3, track_running_stats=True)),
        "1: running statistics .*track_running_stats=False",
    ),
    "max_norm": (lambda: nn.Sequential(nn.Embedding(4, 2, max_norm=1.0)), "0: max_norm"),
    "a running mean": (Running, "the module: training changes mean .* a constant"),
    "a new buffer": (Reassigned, "the module: training changes mean"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_private_is_refused_with_what_to_use_instead(name):
    make, message = REFUSED[name]
    with pytest.raises(CodecError, match=message):
        engine(make())


def test_a_loss_over_several_patients_is_refused():
    with pytest.raises(CodecError, match="binary outcome"):
        engine(nn.Linear(WIDTH, 1), "survival")
