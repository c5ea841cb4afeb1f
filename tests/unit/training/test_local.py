import msgspec
import numpy as np
import pytest
import torch
from tests.unit.training.test_learner import NUMBER, Bench, plan_of

from wardround.errors import CodecError
from wardround.protocol import learning
from wardround.protocol.plan import BuiltinModel, Local, Optimizer, ServerRule, Training
from wardround.training import local, models
from wardround.training.memory import layout, memory_bytes, personal_model

RATE = 0.03125
MLP = BuiltinModel(name="mlp", hidden=(3,))


def training(steps=3, **changes):
    return Training(rounds=2, epochs=0, steps=steps, batch_size=100, optimizer=Optimizer(learning_rate=RATE), **changes)


def bench_of(tmp_path, settings, *, steps=3, model=None, **changes):
    model = {"model": model} if model else {}
    return Bench(tmp_path, plan_of(training(steps, local=settings, **changes), **model))


def gradient(bench, params):
    inputs, labels = bench.features[~bench.held_out], bench.labels[~bench.held_out]
    residual = inputs @ params[:2] + params[2] - labels
    return np.append(2 * residual @ inputs / len(labels), 2 * residual.mean()).astype(np.float64)


def close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=2e-4, atol=2e-6)


def test_fedprox_draws_each_step_to_the_model_of_the_round(tmp_path):
    bench = bench_of(tmp_path, Local(algorithm="fedprox", strength=2.0))
    params = bench.base.astype(np.float64)
    for _ in range(3):
        params = params - RATE * (gradient(bench, params) + 2.0 * (params - bench.base))
    close(bench.update(), params - bench.base)


def test_scaffold_is_the_papers_algorithm_at_the_site(tmp_path):
    bench = bench_of(tmp_path, Local(algorithm="scaffold"))
    control = np.array([0.5, -1.0, 0.25], np.float32)
    (tmp_path / "control").write_bytes(control.tobytes())
    own = np.zeros(3)
    for number in (1, 2):
        params = bench.base.astype(np.float64)
        for _ in range(3):
            params = params - RATE * (gradient(bench, params) - own + control)
        own = own - control + (bench.base - params) / (3 * RATE)  # option II
        with (tmp_path / "control").open("rb") as file:
            close(bench.update(number, control=file.fileno()), params - bench.base)
        close(bench.memory[layout(bench.plan)["control"]], own)


def test_feddyn_is_the_papers_algorithm_at_the_site(tmp_path):
    bench = bench_of(tmp_path, Local(algorithm="feddyn", strength=0.5))
    own = np.zeros(3)
    for number in (1, 2):
        params = bench.base.astype(np.float64)
        for _ in range(3):
            params = params - RATE * (gradient(bench, params) - own + 0.5 * (params - bench.base))
        own = own - 0.5 * (params - bench.base)
        close(bench.update(number), params - bench.base)
        close(bench.memory[layout(bench.plan)["control"]], own)


def test_fednova_scales_an_update_to_equal_work(tmp_path):
    plain = bench_of(tmp_path, Local(), steps=4).update()
    close(bench_of(tmp_path, Local(normalized_steps=10), steps=4).update(), plain * 10 / 4)


@pytest.mark.parametrize(("momentum", "pull"), [(0.0, 0.0), (0.9, 0.0), (0.0, 0.7)])
def test_the_norm_of_local_work_is_the_sum_of_what_each_gradient_counts(momentum, pull):
    settings = Local(algorithm="fedprox", strength=pull) if pull else Local()
    plan = msgspec.structs.replace(training(local=settings), optimizer=Optimizer(learning_rate=0.1, momentum=momentum))
    # Each gradient is 1 in its own step; how far the params are by the end says how much it counted.
    total = 0.0
    for place in range(7):
        params = velocity = 0.0
        for step in range(7):
            velocity = momentum * velocity + (step == place) + pull * params
            params -= 0.1 * velocity
        total += -params / 0.1
    assert local.effective_steps(plan, 7) == pytest.approx(total)


def test_adams_steps_count_as_they_are():
    assert local.effective_steps(msgspec.structs.replace(training(), optimizer=Optimizer(name="adam")), 7) == 7


def test_what_stays_at_the_site_differs_from_the_model_and_never_leaves(tmp_path):
    bench = bench_of(tmp_path, Local(kept=("2.*",)), model=MLP)
    kept = learning.kept_columns(bench.plan.training.local, bench.plan.manifest)
    head = slice(*kept[0])
    assert kept == [(9, 13)]
    first = bench.update()
    assert not first[head].any()
    assert first[:9].any()
    own = bench.memory[layout(bench.plan)["kept"]].copy()
    assert not np.allclose(own, bench.base[head], atol=1e-4), "it learned"
    rows = torch.from_numpy(bench.features[bench.held_out])
    module = models.build(MLP, NUMBER)
    whole = bench.base.copy()
    whole[head] = own
    torch.nn.utils.vector_to_parameters(torch.from_numpy(whole), module.parameters())
    guess = module(rows).detach().numpy()[:, 0]
    bench.update(2)
    assert bench.metrics["mae"] == pytest.approx(np.abs(guess - bench.labels[bench.held_out]).mean(), rel=1e-4)
    bench.update(3, kind="evaluate")
    found = personal_model(bench.plan, bench.memory.tobytes())
    np.testing.assert_array_equal(np.concatenate([part.ravel() for part in found.values()])[:9], bench.base[:9])


def test_a_control_knows_nothing_of_what_stays(tmp_path):
    bench = bench_of(tmp_path, Local(algorithm="feddyn", strength=1.0, kept=("2.*",)), model=MLP)
    bench.update()
    control = bench.memory[layout(bench.plan)["control"]]
    assert control[:9].any()
    assert not control[9:].any()


def test_ditto_trains_a_model_of_the_sites_own_beside_the_global_one(tmp_path):
    plain = bench_of(tmp_path, Local()).update()
    bench = bench_of(tmp_path, Local(personal=0.5))
    own = bench.base.astype(np.float64)
    for number in (1, 2):
        for _ in range(3):
            own = own - RATE * (gradient(bench, own) + 0.5 * (own - bench.base))
        close(bench.update(number), plain)
        close(bench.memory[layout(bench.plan)["personal"]], own)
    bench.update(3, kind="evaluate")
    guess = bench.features[bench.held_out] @ own[:2] + own[2]
    assert bench.done.personal["mae"] == pytest.approx(np.abs(guess - bench.labels[bench.held_out]).mean(), rel=1e-3)


def test_fine_tuning_is_done_once_at_the_end_and_leaves_the_global_model_as_it_is(tmp_path):
    bench = bench_of(tmp_path, Local(finetune_epochs=2))
    bench.update()
    assert bench.done.personal == {}
    bench.update(2, kind="evaluate")
    own = bench.base.astype(np.float64)
    for _ in range(2):
        own = own - RATE * gradient(bench, own)
    found = personal_model(bench.plan, bench.memory.tobytes())
    close(np.concatenate([part.ravel() for part in found.values()]), own)
    guess = bench.features[bench.held_out] @ bench.base[:2] + bench.base[2]
    assert bench.metrics["mae"] == pytest.approx(np.abs(guess - bench.labels[bench.held_out]).mean(), rel=1e-4)


def test_a_site_measures_how_its_last_update_lay_to_what_became_of_it(tmp_path):
    bench = bench_of(tmp_path, Local(divergence=True))
    update = bench.update().copy()
    assert bench.done.divergence is None
    moved = np.array([0.3, -0.2, 0.1], np.float32)
    data = bytearray(bench.path.read_bytes())
    data[-12:] = (bench.base + moved).tobytes()
    bench.path.write_bytes(data)
    bench.update(2)
    found = bench.done.divergence
    assert found.cosine == pytest.approx(update @ moved / np.linalg.norm(update) / np.linalg.norm(moved), rel=1e-3)
    assert (found.norm, found.aggregate_norm) == (
        pytest.approx(np.linalg.norm(update), rel=1e-4),
        pytest.approx(np.linalg.norm(moved), rel=1e-4),
    )


def test_without_movement_there_is_no_angle():
    zero, one = torch.zeros(3), torch.ones(3)
    assert local.diverged(one, zero, zero).cosine is None


def test_plain_training_remembers_nothing():
    assert memory_bytes(plan_of(training())) == 0


REFUSED = [
    (Local(algorithm="fedprox"), {}, "positive strength"),
    (Local(strength=1.0), {}, "positive strength"),
    (Local(algorithm="fedprox", strength=float("nan")), {}, "finite"),
    (Local(personal=-1.0), {}, "not negative"),
    (Local(kept=("norm*",)), {}, "matches none of the model's arrays"),
    (Local(kept=("*",)), {}, "nothing would be learned together"),
    (Local(finetune_epochs=10_000), {}, "finetune_epochs"),
    (Local(normalized_steps=10**400), {}, "normalized_steps is at most"),
    (Local(algorithm="fedprox", strength=40.0, normalized_steps=5), {}, "learning_rate (is )?below 1"),
    (Local(algorithm="scaffold"), {"epochs": 1, "steps": 0}, "steps instead of epochs"),
    (Local(algorithm="scaffold"), {"optimizer": Optimizer(name="adam")}, "sgd without momentum"),
    (Local(algorithm="scaffold"), {"server": ServerRule(name="fedadam")}, "server rule of its own"),
    (Local(algorithm="feddyn", strength=1.0), {"server": ServerRule(learning_rate=0.5)}, "no learning rate"),
    (
        Local(algorithm="feddyn", strength=1.0),
        {"asynchronous": learning.Asynchronous(buffer=2)},
        "synchronous rounds",
    ),
]


@pytest.mark.parametrize(("settings", "changes", "words"), REFUSED)
def test_settings_that_cannot_be_are_refused_with_the_reason(settings, changes, words):
    plan = plan_of(training())
    chosen = msgspec.structs.replace(training(local=settings), **changes)
    with pytest.raises(CodecError, match=words):
        learning.check(chosen, plan.manifest)
