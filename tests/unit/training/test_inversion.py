"""Records are rebuilt from gradients where nothing protects them, and not where noise does; figures are right."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from wardround.clinical.contract import Column, DataContract, Label
from wardround.protocol.plan import BuiltinModel
from wardround.training import inversion, models
from wardround.training.inversion import Inversion

CLASSES = tuple("abcdefghij")


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def made(model, records, outcome="binary", width=12, seed=0):
    """A module, its loss, a batch, and the batch's gradient."""
    classes = CLASSES if outcome == "multiclass" else ()
    label = Label(name="y", outcome=outcome, classes=classes)
    contract = DataContract(columns=tuple(Column(name=f"c{place}") for place in range(width)), label=label)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module, loss = models.build(model, contract), models.loss_of(outcome)
        features = torch.rand(records, width) if model.name == "cnn" else torch.randn(records, width)
        labels = torch.randint(0, len(classes) or 2, (records,)).float()
    return module, loss, features, labels, inversion.gradient(module, loss, features, labels)


def noisy(released, clip, deviation, seed=0):
    """The same, clipped and with noise, as from private training."""
    generator = torch.Generator().manual_seed(seed)
    flat = torch.cat([part.reshape(-1) for part in released])
    flat = flat * min(1.0, clip / float(flat.norm()))
    return flat + deviation * torch.randn(flat.shape, generator=generator)


@pytest.mark.parametrize(
    ("model", "outcome"),
    [
        (BuiltinModel(name="logistic"), "binary"),
        (BuiltinModel(name="logistic"), "multiclass"),
        (BuiltinModel(name="linear"), "number"),
        (BuiltinModel(name="mlp", hidden=(32, 8)), "multiclass"),
    ],
)
def test_one_record_is_rebuilt_exactly_from_a_linear_layer(model, outcome):
    module, _, features, _, released = made(model, 1, outcome)
    rows = inversion.analytic(module, released)
    assert torch.allclose(rows, features.expand_as(rows), atol=1e-3)
    assert torch.allclose(rows[0], features[0], atol=1e-5), "the strongest unit is the most exact"
    assert inversion.match_rate(rows.numpy(), features.numpy(), 0.01) == 1.0
    split = inversion.split(module, torch.cat([part.reshape(-1) for part in released]))
    assert all(torch.equal(one, other) for one, other in zip(split, released, strict=True))


def test_noise_and_company_protect_from_the_analytic_attack():
    module, _, features, _, released = made(BuiltinModel(name="logistic"), 1)
    rows = inversion.analytic(module, inversion.split(module, noisy(released, 1.0, 1.0)))
    assert inversion.match_rate(rows.numpy(), features.numpy(), 0.5) == 0.0
    module, _, features, _, released = made(BuiltinModel(name="logistic"), 8)
    rows = inversion.analytic(module, released)
    assert len(rows) == 1
    assert inversion.match_rate(rows.numpy(), features.numpy(), 0.5) == 0.0, "a weighted sum is nobody's record"


def test_what_has_no_intercept_is_not_rebuilt_analytically():
    for model, outcome in ((BuiltinModel(name="cox"), "survival"), (BuiltinModel(name="cnn"), "binary")):
        contract = DataContract(
            columns=tuple(Column(name=f"c{place}") for place in range(64)),
            label=Label(name="y", outcome=outcome, event="e" if outcome == "survival" else ""),
        )
        module = models.build(model, contract)
        with pytest.raises(ValueError, match="intercept"):
            inversion.analytic(module, [parameter.detach() for parameter in module.parameters()])
    with pytest.raises(ValueError, match="values"):
        inversion.split(module, torch.zeros(3))


@pytest.mark.parametrize("outcome", ["binary", "multiclass"])
def test_labels_follow_from_the_outputs_intercept(outcome):
    for seed in range(10):
        _, _, _, labels, released = made(BuiltinModel(name="mlp", hidden=(16,)), 1, outcome, seed=seed)
        assert inversion.inferred_labels(released, outcome, 1).tolist() == labels.tolist()
        # An untrained model is undecided, which the labels of a batch rest on.
        _, _, _, labels, released = made(BuiltinModel(name="logistic"), 8, outcome, seed=seed)
        assert sorted(inversion.inferred_labels(released, outcome, 8).tolist()) == sorted(labels.tolist())


@pytest.mark.parametrize(
    ("records", "settings"),
    [(1, Inversion(steps=300)), (1, Inversion(steps=300, distance="euclidean", signed=False)), (8, Inversion())],
    ids=["one, cosine", "one, DLG", "eight, cosine"],
)
def test_a_table_is_rebuilt_from_its_gradient_and_not_under_noise(records, settings):
    module, loss, features, labels, released = made(BuiltinModel(name="mlp", hidden=(128, 64)), records)
    others = made(BuiltinModel(name="logistic"), 100, seed=9)[2].numpy()
    found = inversion.invert(module, released, labels, loss, 12, settings=settings)
    assert found.distance < 0.05
    assert inversion.match_rate(found.features.numpy(), features.numpy(), 0.2, others) >= 0.9
    protected = inversion.split(module, noisy(released, 1.0, 0.1))
    settings = replace(settings, steps=300)
    found = inversion.invert(module, protected, labels, loss, 12, settings=settings)
    assert inversion.match_rate(found.features.numpy(), features.numpy(), 0.2, others) == 0.0


@pytest.mark.parametrize("records", [1, 8])
def test_images_are_rebuilt_from_their_gradient_and_not_under_noise(records):
    module, loss, features, _, _ = made(BuiltinModel(name="cnn", hidden=(16,)), records, "multiclass", width=64)
    # Smooth images, as scans are: a bump each, somewhere else.
    places = torch.arange(8.0)
    centres = 1.5 + 5 * features[:, :2]
    across = torch.exp(-((places - centres[:, :1]) ** 2) / 4)
    down = torch.exp(-((places - centres[:, 1:]) ** 2) / 4)
    images = (down[:, :, None] * across[:, None, :]).reshape(records, 64)
    labels = torch.arange(float(records))
    released = inversion.gradient(module, loss, images, labels)
    settings = Inversion(total_variation=1e-3, side=8, low=0.0, high=1.0, steps=250)

    def likeness(gradients):
        found = inversion.invert(module, gradients, labels, loss, 64, settings=settings).features.numpy()
        assert found.min() >= 0.0
        assert found.max() <= 1.0
        rows = found[inversion.paired(found, images.numpy())]
        pairs = list(zip(rows, images.numpy(), strict=True))
        return (
            np.mean([inversion.psnr(*pair) for pair in pairs]),
            np.mean([inversion.ssim(*(image.reshape(8, 8) for image in pair)) for pair in pairs]),
        )

    signal, similarity = likeness(released)
    assert signal > 25
    assert similarity > 0.9
    signal, similarity = likeness(inversion.split(module, noisy(released, 1.0, 0.5)))
    assert signal < 15
    assert similarity < 0.5


def test_an_attack_follows_from_its_seed_and_keeps_its_best_start():
    module, loss, _, labels, released = made(BuiltinModel(name="mlp", hidden=(8,)), 2)
    one, again, more = (
        inversion.invert(module, released, labels, loss, 12, settings=Inversion(steps=20, restarts=count))
        for count in (1, 1, 3)
    )
    assert torch.equal(one.features, again.features)
    assert more.distance <= one.distance
    with pytest.raises(ValueError, match="start"):
        inversion.invert(module, released, labels, loss, 12, settings=Inversion(restarts=0))


def test_what_is_not_finite_ends_a_search():
    module, loss, _, labels, released = made(BuiltinModel(name="mlp", hidden=(8,)), 1)
    broken = [part * math.nan for part in released]
    assert inversion.invert(module, broken, labels, loss, 12).distance == math.inf


def test_figures_of_images():
    drawn = np.random.default_rng(0)  # noqa: TID251, seeded
    image, other = drawn.random((28, 28)), drawn.random((28, 28))
    assert inversion.psnr(image, image) == math.inf
    assert inversion.psnr(image + 0.1, image) == pytest.approx(20.0)
    assert inversion.psnr(255 * image + 25.5, 255 * image, 255.0) == pytest.approx(20.0)
    assert inversion.ssim(image, image) == pytest.approx(1.0)
    assert abs(inversion.ssim(image, other)) < 0.1
    assert inversion.ssim(image, other) == pytest.approx(inversion.ssim(other, image))
    assert inversion.ssim(1 - image, image) < 0
    assert inversion.ssim(image[:8, :8], image[:8, :8]) == pytest.approx(1.0)
    # By hand: constant images differ in luminance only, (2 a b + c) / (a^2 + b^2 + c).
    flat = np.full((11, 11), 0.5)
    assert inversion.ssim(flat, flat / 2) == pytest.approx((0.25 + 1e-4) / (0.25 + 0.0625 + 1e-4))


def test_a_record_counts_as_rebuilt_only_if_it_is_meant():
    truth = np.array([[0.0, 0.0], [1.0, 1.0], [5.0, 5.0]])
    rebuilt = np.array([[0.05, 0.0], [4.0, 4.0]])
    assert inversion.match_rate(rebuilt, truth, 0.1) == pytest.approx(1 / 3)
    assert inversion.match_rate(rebuilt, truth, 1.1) == pytest.approx(2 / 3)
    assert inversion.match_rate(rebuilt, truth, 0.1, np.array([[0.05, 0.01]])) == 0.0, "it is somebody else's"
    assert inversion.match_rate(np.empty((0, 2)), truth, 9.0) == 0.0
    assert inversion.paired(rebuilt, truth).tolist() == [0, 0, 1]
