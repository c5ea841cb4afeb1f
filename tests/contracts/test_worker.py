# ruff: noqa: TID251, every generator here has a fixed seed
import contextlib
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import numpy as np
import pytest

from wardround.clinical.contract import Column, DataContract, Label
from wardround.clinical.table import LoadReport, StudyTable
from wardround.codec import tensors
from wardround.errors import DigestMismatchError, TensorMismatchError, TrainingError
from wardround.ids import SiteId
from wardround.protocol.plan import BlobRef, BuiltinModel, CodePackage, Limits, Optimizer, Plan, Training
from wardround.training import package as code
from wardround.training import worker_main
from wardround.training.worker import ENVIRONMENT, PytorchWorker

pytestmark = pytest.mark.processes

ECHO = "wardround.training.echo:Learner"
CONTRACT = DataContract(columns=(Column(name="a"), Column(name="b")), label=Label(name="y", outcome="number"))
MANIFEST = (tensors.TensorSpec("weight", (1, 2)), tensors.TensorSpec("bias", (1,)))
VALUE = 123.456  # in every record: it must not be in any message


def plan_of(model=None, *, manifest=MANIFEST, limits=None, optimizer=None, epochs=1):
    return Plan(
        title="t", purpose="p", legal_basis="l", researcher=SiteId("r"), participants=(SiteId("a"), SiteId("b")),
        min_participants=2, data=CONTRACT, model=model or BuiltinModel(name="linear"), manifest=manifest,
        initial=BlobRef("0" * 64, tensors.file_bytes(manifest)), expires=0, limits=limits or Limits(worker_seconds=60),
        training=Training(rounds=1, epochs=epochs, batch_size=100, optimizer=optimizer or Optimizer()),
    )  # fmt: skip


def table_of(records=20):
    features = np.random.default_rng(1).normal(0, 1, (records, 2)).astype(np.float32)
    features[:, 1] = VALUE
    held_out = np.arange(records) % 4 == 3
    return StudyTable(features, features[:, 0] * 2, held_out, LoadReport(records, records, 0))


def base_of(folder, manifest=MANIFEST):
    path = folder / "base"
    with path.open("wb") as file:
        file.write(tensors.header(manifest))
        file.truncate(tensors.file_bytes(manifest))
    return str(path)


def study(body, *, setup="pass"):
    """A linear model whose forward pass runs `body` first."""
    lines = "\n        ".join(body.strip().splitlines())
    source = f"""
import ctypes, mmap, os, resource, sys, threading, time
import torch
from torch import nn

{setup}

class Model(nn.Linear):
    def forward(self, rows):
        {lines}
        return super().forward(rows)

def make(width, outputs):
    return Model(width, outputs)
"""
    package = code.make({"study_model.py": source.encode()})
    return CodePackage(package=code.ref(package), factory="study_model:make"), package


@contextlib.contextmanager
def working(plan, package=None, **options):
    with contextlib.closing(PytorchWorker(plan, SiteId("a"), table_of(), package, **options)) as worker:
        yield worker


def process_of(worker):
    return worker._process.started.pid


def content(trained):
    return os.pread(trained.update, os.fstat(trained.update).st_size, 0)


def failure(folder, body, *, setup="pass", limits=None, kind="train"):
    """What performing study code with this body raises, having checked that it says nothing of the records."""
    model, package = study(body, setup=setup)
    with working(plan_of(model, limits=limits), package) as worker:
        with pytest.raises((TrainingError, TensorMismatchError)) as caught:
            worker.perform(1, kind, base_of(folder), b"")
        assert worker._process is None
    assert "123" not in str(caught.value)
    assert caught.value.__cause__ is None
    return caught.value


def test_an_update_is_one_step_by_hand_and_a_whole_file(tmp_path):
    table = table_of()
    with working(plan_of(optimizer=Optimizer(learning_rate=0.5))) as worker:
        trained = worker.perform(1, "train", base_of(tmp_path), b"")
        found = tensors.unpack(content(trained), MANIFEST)
        inputs, labels = table.features[~table.held_out], table.labels[~table.held_out]
        np.testing.assert_allclose(found["weight"][0], labels @ inputs / len(labels), rtol=1e-5)  # base is 0
        np.testing.assert_allclose(found["bias"], labels.mean(), rtol=1e-5)
        assert (trained.records, trained.evaluation.records) == (15, 5)
        held_out = table.labels[table.held_out]
        assert trained.evaluation.metrics["rmse"] == pytest.approx(float(np.sqrt(np.mean(held_out**2))), rel=1e-5)
        evaluated = worker.perform(1, "evaluate", base_of(tmp_path), b"")
        assert evaluated.update is None
        assert evaluated.evaluation == trained.evaluation


class Spy:
    """A learner that keeps what it is given."""

    def __init__(self, assignment):
        self.assignment = assignment


def test_the_patients_reach_the_learner_beside_their_records():
    plain = table_of()
    patients = (np.arange(20) // 3).astype(np.int32)
    table = StudyTable(plain.features, plain.labels, plain.held_out, plain.report, patients)
    with contextlib.closing(PytorchWorker(plan_of(), SiteId("a"), table, learner=ECHO)) as worker:
        setup = msgspec.structs.replace(worker._setup, learner=f"{__name__}:Spy")
        files = [os.dup(file) for file in (*worker._inputs, worker._process.update, worker._memory)]
        given = worker_main._make(setup, files).assignment
    for array, sent in ((given.patients, patients), (given.held_out, table.held_out), (given.labels, table.labels)):
        np.testing.assert_array_equal(array, sent)
        assert array.dtype == sent.dtype
        assert not array.flags.writeable


def test_patients_whose_numbers_have_a_gap_are_refused_by_the_worker_process(tmp_path):
    table = table_of()
    table.patients[:] = 3
    refused = pytest.raises(TrainingError, match="ClinicalError")
    with contextlib.closing(PytorchWorker(plan_of(), SiteId("a"), table, learner=ECHO)) as worker, refused:
        worker.perform(1, "train", base_of(tmp_path), b"")


def test_the_same_seed_gives_the_same_bytes_in_another_process(tmp_path):
    plan, seen = plan_of(epochs=3, optimizer=Optimizer(name="adam", learning_rate=0.01)), []
    for _ in range(2):
        with working(plan) as worker:
            trained = worker.perform(4, "train", base_of(tmp_path), b"")
            seen.append(content(trained))
    assert seen[0] == seen[1]


def test_a_worker_that_was_ready_long_ago_is_ready(tmp_path):
    with working(plan_of(), learner=ECHO, startup_seconds=0.001) as worker:
        select.select([worker._process._channel], [], [], 30)
        worker._process._deadline -= 3600
        worker.perform(1, "train", base_of(tmp_path), b"")


def test_a_start_that_takes_too_long_is_given_up(tmp_path):
    model, package = study("pass", setup="threading.Event().wait()")
    refused = pytest.raises(TrainingError, match=r"starting the worker process took more than 0\.1 s")
    with working(plan_of(model), package, startup_seconds=0.1) as worker, refused:
        worker.perform(1, "train", base_of(tmp_path), b"")


def test_a_failed_process_is_replaced_by_the_next_perform(tmp_path):
    with working(plan_of(), learner=ECHO) as worker:
        worker.perform(1, "train", base_of(tmp_path), b"")
        before = process_of(worker)
        assert process_of(worker) == before, "resident"
        os.kill(before, signal.SIGKILL)
        with pytest.raises(TrainingError, match="killed"):
            worker.perform(2, "train", base_of(tmp_path), b"")
        assert len(content(worker.perform(2, "train", base_of(tmp_path), b""))) == tensors.file_bytes(MANIFEST)
        assert process_of(worker) != before


def test_an_exception_is_told_by_its_type_and_line_alone(tmp_path):
    error = failure(tmp_path, "raise KeyError(rows[0].tolist())")
    assert isinstance(error, TrainingError)
    assert str(error) == "study code raised KeyError at study_model:10"


def test_an_exception_of_study_codes_own_is_told_by_its_builtin_base(tmp_path):
    error = failure(tmp_path, "raise type('Value%d' % rows[0, 1].item(), (ValueError,), {})('x')")
    assert str(error) == "study code raised ValueError at study_model:10"


@pytest.mark.parametrize(("body", "words"), [("os._exit(3)", "status 3"), ("ctypes.string_at(0)", "signal 11")])
def test_a_crash_is_told_as_one(tmp_path, body, words):
    assert words in str(failure(tmp_path, body))


def test_leaving_is_an_exception_like_another(tmp_path):
    assert "SystemExit" in str(failure(tmp_path, "sys.exit(0)"))


def test_code_that_does_not_parse_or_import_says_where(tmp_path):
    assert str(failure(tmp_path, "pass", setup="x = ")) == "study code raised SyntaxError at study_model:6"
    assert str(failure(tmp_path, "pass", setup="import no_such_module")) == (
        "study code raised ModuleNotFoundError at study_model:6"
    )


@pytest.mark.parametrize("body", ["while True: pass", "threading.Event().wait()"])
def test_the_clock_ends_a_round_that_takes_too_long(tmp_path, body):
    began = time.monotonic()
    model, package = study(body)
    with working(plan_of(model, limits=Limits(worker_seconds=0.5)), package) as worker:
        with pytest.raises(TrainingError, match=r"may take 0\.5 s by the clock"):
            worker.perform(1, "train", base_of(tmp_path), b"")
        assert time.monotonic() - began < 30


def test_processor_time_is_bounded_anew_each_round(tmp_path):
    body = """
soft, _ = resource.getrlimit(resource.RLIMIT_CPU)
usage = resource.getrusage(resource.RUSAGE_SELF)
if not 50 < soft - usage.ru_utime - usage.ru_stime < 62: raise ValueError
"""
    model, package = study(body)
    with working(plan_of(model), package) as worker:
        for number in range(2):
            worker.perform(number, "train", base_of(tmp_path), b"")
    program = "from wardround.training import worker_main as w; w._limit_processor(0.1)\nwhile True: pass"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == -signal.SIGXCPU
    assert "processor time" in str(failure(tmp_path, "os.kill(os.getpid(), 24)"))


def test_memory_is_bounded(tmp_path):
    limits = Limits(worker_seconds=60, worker_memory_bytes=1 << 30)
    for body in ("bytearray(2 << 30)", "torch.ones(1 << 29)"):
        error = failure(tmp_path, f"\n{body}", limits=limits)
        assert str(error) == f"training needs more than the plan's worker_memory_bytes, {1 << 30} at study_model:10"
    model, package = study("bytearray(1 << 29)")
    with working(plan_of(model, limits=limits), package) as worker:
        worker.perform(1, "train", base_of(tmp_path), b"")


@pytest.mark.parametrize("value", ["nan", "inf"])
def test_an_update_that_is_not_finite_is_refused(tmp_path, value):
    error = failure(tmp_path, f"torch.nn.init.constant_(self.bias.data, float('{value}'))")
    assert isinstance(error, TensorMismatchError)
    assert "NaN or infinite" in str(error)


def test_training_that_diverges_is_refused(tmp_path):
    plan, refused = plan_of(optimizer=Optimizer(learning_rate=1e30), epochs=5), pytest.raises(TensorMismatchError)
    with working(plan) as worker, refused as caught:
        worker.perform(1, "train", base_of(tmp_path), b"")
    assert "NaN or infinite" in str(caught.value)


def test_a_model_of_another_shape_is_refused(tmp_path):
    model, package = study("pass")
    wider, longer = (tensors.TensorSpec("weight", (1, 3)), MANIFEST[1]), (*MANIFEST, tensors.TensorSpec("more", (1,)))
    for manifest in (wider, longer):
        refused = pytest.raises(TensorMismatchError, match="arrays of the model")
        with working(plan_of(model, manifest=manifest), package) as worker, refused:
            worker.perform(1, "train", base_of(tmp_path, manifest), b"")


def test_a_header_that_study_code_wrote_over_is_refused(tmp_path):
    body = """
for file in os.listdir("/proc/self/fd"):
    try: path = os.readlink(f"/proc/self/fd/{file}")
    except OSError: continue
    if "wardround-update" in path: mmap.mmap(int(file), 0)[8:9] = b"?"
"""
    assert isinstance(failure(tmp_path, body), TensorMismatchError)


def test_a_base_that_is_not_the_plans_is_refused_and_harms_no_process(tmp_path):
    with working(plan_of(), learner=ECHO) as worker:
        worker.perform(1, "train", base_of(tmp_path), b"")
        before = process_of(worker)
        other = base_of(tmp_path, (tensors.TensorSpec("weight", (1, 3)),))
        with pytest.raises(TensorMismatchError):
            worker.perform(1, "train", other, b"")
        with pytest.raises(TrainingError, match="cannot be opened"):
            worker.perform(1, "train", str(tmp_path / "none"), b"")
        assert process_of(worker) == before


def test_study_code_sees_no_secret_of_the_node(tmp_path, monkeypatch):
    monkeypatch.setenv("WARDROUND_SECRET", "hush")
    (tmp_path / "secret").touch()
    body = f"""
if dict(os.environ) != {ENVIRONMENT!r}: raise KeyError
for file in os.listdir("/proc/self/fd"):
    try: path = os.readlink(f"/proc/self/fd/{{file}}")
    except FileNotFoundError: continue
    if path.startswith(("/memfd:wardround-", "socket:", "pipe:", "/proc/")): continue
    if path not in ("/dev/null", {base_of(tmp_path)!r}): raise PermissionError
"""
    model, package = study(body)
    with (tmp_path / "secret").open() as secret:
        os.set_inheritable(secret.fileno(), True)
        with working(plan_of(model), package) as worker:
            worker.perform(1, "train", base_of(tmp_path), b"")


def test_study_code_writes_no_file(tmp_path):
    target = tmp_path / "stolen"
    error = failure(tmp_path, f"open({str(target)!r}, 'wb', buffering=0).write(b'x')")
    assert "OSError" in str(error)
    assert not target.read_bytes()


def test_answers_that_study_code_makes_up_are_refused(tmp_path):
    found = "[int(f) for f in os.listdir('/proc/self/fd') if os.path.exists(f'/proc/self/fd/{f}') and "
    found += "os.readlink(f'/proc/self/fd/{f}').startswith('socket')][0]"
    made_up = (
        {"type": "done", "metrics": {"patient": 123.0}},
        {"type": "done", "metrics": {"mae": float("nan")}},
        {"type": "failed", "reason": "code", "error": "Value123", "place": "patient 123"},
        {"type": "ready"},
    )
    framed = (len(data).to_bytes(4, "big") + data for data in map(msgspec.msgpack.encode, made_up))
    for answer in (b"\xff\xff\xff\xff", *framed):
        error = failure(tmp_path, f"os.write({found}, {answer!r}); threading.Event().wait()")
        assert isinstance(error, TrainingError)
        assert "interfered" in str(error) or str(error) == "training raised an exception"


def test_a_package_with_another_digest_is_refused(tmp_path):
    model, _ = study("pass")
    _, other = study("raise ValueError")
    with pytest.raises(DigestMismatchError):
        PytorchWorker(plan_of(model), SiteId("a"), table_of(), other)


def gone(process):
    """Whether a process ends within ten seconds."""
    try:
        watched = os.pidfd_open(process)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([watched], [], [], 10)[0])
    finally:
        os.close(watched)


@pytest.mark.parametrize("busy", [False, True])
def test_no_process_outlives_its_node(tmp_path, busy):
    # The busy one holds the interpreter in native code, and has started a process of its own.
    body = "if os.fork() == 0: threading.Event().wait()\nsum(range(10**12))" if busy else "pass"
    program = f"""
import pathlib, sys, threading
sys.path.insert(0, {str(Path(__file__).parent)!r})
import test_worker as t
model, package = t.study({body!r})
worker = t.PytorchWorker(t.plan_of(model), t.SiteId("a"), t.table_of(), package)
base = t.base_of(pathlib.Path({str(tmp_path)!r}))
if {busy}:
    worker._process.ready()
    threading.Thread(target=worker.perform, args=(1, "train", base, b""), daemon=True).start()
else:
    worker.perform(1, "train", base, b"")
print(worker._process.started.pid, flush=True)
threading.Event().wait()
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as node:
        process = int(node.stdout.readline())
        if busy:
            members = Path(f"/proc/{process}/task/{process}/children")
            until = time.monotonic() + 20
            while not (children := members.read_text().split()) and time.monotonic() < until:
                pass
        node.kill()
        node.wait()
    assert gone(process)
    assert not busy or (children and all(gone(int(child)) for child in children))


def open_files():
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def test_closing_ends_the_process_and_its_children(tmp_path):
    worker = PytorchWorker(plan_of(), SiteId("a"), table_of(), learner=ECHO)
    worker.perform(1, "evaluate", base_of(tmp_path), b"")
    process, files = process_of(worker), open_files()
    worker.close()
    worker.close()
    assert gone(process)
    assert open_files() == files - 5  # channel, lifeline, update, records, memory
    with pytest.raises(ValueError, match="closed"):
        worker.perform(1, "evaluate", base_of(tmp_path), b"")


def peak(process, name="VmHWM"):
    status = Path(f"/proc/{process}/status").read_text()
    return int(status.split(f"{name}:")[1].split()[0]) * 1024


def test_memory_stays_at_one_model(tmp_path):
    count = 20_000_000
    manifest = (tensors.TensorSpec("weight", (count,)),)
    size = 4 * count
    with working(plan_of(manifest=manifest), learner=ECHO) as worker:
        base = base_of(tmp_path, manifest)
        worker.perform(1, "evaluate", base, b"")
        before, ours = peak(process_of(worker)), peak("self", "VmRSS")
        trained = worker.perform(1, "train", base, b"")
        assert os.fstat(trained.update).st_size == tensors.file_bytes(manifest)
        grown = peak(process_of(worker)) - before
        assert 0.95 * size < grown < size + 8 * 1024**2
        assert peak("self", "VmRSS") - ours < 8 * 1024**2


def test_a_round_trip_takes_less_than_a_millisecond(tmp_path):
    base = base_of(tmp_path)
    with working(plan_of(), learner=ECHO) as worker:
        worker.perform(1, "train", base, b"")
        times = []
        for number in range(200):
            began = time.perf_counter()
            worker.perform(number, "train", base, b"")
            times.append(time.perf_counter() - began)
    # The quickest, not the median: other tests run beside this one. A process per message would cost seconds.
    assert np.min(times) < 0.001
