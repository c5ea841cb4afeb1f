"""Models in half precision, batch-norm counters and frozen parts, in whole runs."""

import msgspec
import numpy as np
import pytest
from tests.simulation import fakes
from tests.unit.services.test_secure_rounds import ROSTER, SITES, declared, table

import wardround
from wardround.codec import tensors
from wardround.codec.tensors import TensorSpec
from wardround.errors import CodecError
from wardround.protocol import plan as plans
from wardround.protocol.plan import SecureAggregation
from wardround.sdk.predict import predict

HALF = ("float16", "bfloat16")
TABLES = {site: table(site) for site in SITES}


def run(dtype, **changes):
    model = changes.pop("model", wardround.BuiltinModel(name="mlp", hidden=(8,), dtype=dtype))
    secure = changes.pop("secure", None)
    study = declared(model=model, **changes)
    plan = msgspec.structs.replace(study.plan, secure=secure)
    done = wardround.simulate(wardround.Study(plan, study.initial, study.package), TABLES)
    assert done.status.phase == "completed", done.status.reason
    return done


def distance(one, other):
    pairs = zip(one.arrays().values(), other.arrays().values(), strict=True)
    return max(float(np.abs(np.asarray(a, np.float64) - np.asarray(b, np.float64)).max()) for a, b in pairs)


@pytest.mark.parametrize("dtype", HALF)
def test_a_model_in_half_precision_learns_what_the_whole_one_learns_and_takes_half_the_bytes(dtype):
    whole, half = run("float32"), run(dtype)
    assert {array.dtype.name for array in half.arrays().values()} == {dtype}
    assert distance(whole, half) < {"float16": 0.01, "bfloat16": 0.08}[dtype]
    vectors = [len(one.model) - len(tensors.header(one.plan.manifest)) for one in (whole, half)]
    assert vectors[0] == 2 * vectors[1]
    features = TABLES["angus"].features
    scores = [predict(one.plan, one.model, one.standardization, features) for one in (whole, half)]
    assert np.corrcoef(scores[0], scores[1])[0, 1] > 0.99


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("rule", ["median", "multi-krum"])
def test_robust_rules_take_half_precision(dtype, rule):
    hostile = {"median": 1, "multi-krum": 0}[rule]
    done = run(dtype, aggregation=wardround.Aggregation(rule=rule, hostile=hostile), screening=wardround.Screening())
    assert distance(done, run("float32")) < 0.2


@pytest.mark.parametrize("dtype", HALF)
def test_secure_aggregation_takes_half_precision(dtype):
    secure = SecureAggregation(roster=ROSTER, max_weight=100)
    assert distance(run(dtype, secure=secure), run(dtype)) < 0.01


def test_steps_that_half_precision_cannot_show_add_up_all_the_same():
    server = wardround.ServerRule(learning_rate=0.01)
    training = wardround.Training(rounds=20, epochs=1, batch_size=8, server=server)
    whole, half = run("float32", training=training), run("bfloat16", training=training)
    start = declared(model=wardround.BuiltinModel(name="mlp", hidden=(8,))).initial
    first = tensors.unpack(start, whole.plan.manifest)
    moved = max(float(np.abs(np.asarray(whole.arrays()[name]) - first[name]).max()) for name in first)
    assert moved > 0.01
    assert distance(whole, half) < 0.3 * moved, "the small steps were lost"


@pytest.mark.parametrize("server", ["fedadam", "fedavgm"])
def test_server_rules_with_a_state_of_their_own_take_half_precision(server):
    training = wardround.Training(rounds=3, epochs=1, server=wardround.ServerRule(name=server, learning_rate=0.05))
    assert distance(run("bfloat16", training=training), run("float32", training=training)) < 0.15


def test_counters_stay_where_they_are_and_frozen_arrays_as_they_were(tmp_path):
    (tmp_path / "net.py").write_text(
        "from torch import nn\n"
        "def make(width, outputs):\n"
        "    first = nn.Linear(width, 4)\n"
        "    first.weight.requires_grad = False\n"
        "    return nn.Sequential(first, nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, outputs))\n"
    )
    study = declared(model=tmp_path, factory="net:make")
    done = wardround.simulate(study, TABLES)
    assert done.status.phase == "completed", done.status.reason
    names = [spec.name for spec in study.plan.manifest]
    assert "1.running_mean" in names
    assert "1.num_batches_tracked" not in names
    before = tensors.unpack(study.initial, study.plan.manifest)
    assert np.array_equal(done.arrays()["0.weight"], before["0.weight"])
    assert not np.array_equal(done.arrays()["3.weight"], before["3.weight"])
    assert not np.array_equal(done.arrays()["1.running_mean"], before["1.running_mean"])


@pytest.mark.parametrize(
    ("manifest", "words"),
    [
        ((TensorSpec("a", (2,)), TensorSpec("b", (2,), "bfloat16")), "one dtype"),
        ((TensorSpec("a", (2,), "float64"),), "float32 or float16 or bfloat16"),
        ((TensorSpec("a", (2,), "int64"),), "one dtype"),
        ((TensorSpec("a", (0,)),), "has parameters"),
        ((), "at least one array"),
        ((TensorSpec("a", (3,)),), "too large|too small"),
    ],
)
def test_a_manifest_that_no_model_has_is_refused(manifest, words):
    made = fakes.make_plan(sites=("a", "b", "c"), quorum=2, rounds=1, scaling="none", server={}, limits={}, expires=2e9)
    with pytest.raises(CodecError, match=words):
        plans.check(msgspec.structs.replace(made, manifest=manifest))


def test_a_model_beyond_half_precision_stops_the_run_and_says_so():
    server = wardround.ServerRule(learning_rate=1e9)
    training = wardround.Training(rounds=3, epochs=1, server=server)
    study = declared(model=wardround.BuiltinModel(name="logistic", dtype="float16"), training=training)
    done = wardround.simulate(study, TABLES)
    assert done.status.phase == "stopped"
    assert "Must act" in done.status.reason
