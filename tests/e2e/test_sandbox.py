"""Hostile study code, through the real worker, in the real sandbox: contained, and told.

Each attack is a forward pass that does something hostile, and then says how it went through the class of the error
that it raises: `KeyboardInterrupt` for "I did it", `RecursionError` for "I was kept from it". What is shown to be kept
from it in the sandbox is shown to succeed in a plain process, where that harms nobody.
"""

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from wardround.clinical.contract import Column, DataContract, Label
from wardround.clinical.table import LoadReport, StudyTable
from wardround.codec import tensors
from wardround.errors import SandboxError, TensorMismatchError, TrainingError
from wardround.ids import SiteId
from wardround.ports import Bounds
from wardround.protocol.plan import BlobRef, BuiltinModel, CodePackage, Limits, Plan, Training
from wardround.sandbox import cgroup, seccomp
from wardround.sandbox.bubblewrap import Bubblewrap
from wardround.sandbox.courtesy import Reading
from wardround.sandbox.guard import Guard
from wardround.sandbox.settings import Pressure, SandboxSettings
from wardround.training import package as code
from wardround.training.process import PlainLauncher
from wardround.training.worker import PytorchWorker

pytestmark = pytest.mark.processes

DID, KEPT = "KeyboardInterrupt", "RecursionError"
CONTRACT = DataContract(columns=(Column(name="a"), Column(name="b")), label=Label(name="y", outcome="number"))
MANIFEST = (tensors.TensorSpec("weight", (1, 2)), tensors.TensorSpec("bias", (1,)))
MEMORY = 1 << 30
# A filter that lets everything through, to show what stands behind the filter.
OPEN_FILTER = (6).to_bytes(2, "little") + bytes(2) + seccomp.ALLOW.to_bytes(4, "little")


def made(**options):
    try:
        # Not idle: on a busy machine these tests would wait for their turn.
        return Bubblewrap(SandboxSettings(**{"idle": False} | options.pop("settings", {})), **options)
    except SandboxError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def sandbox():
    return made()


@pytest.fixture(scope="module")
def grouped(sandbox):
    if not {"cpu", "memory", "pids"} <= cgroup.find().keys():
        pytest.skip("no control group can be made here")
    return sandbox


@pytest.fixture(scope="module")
def unfiltered():
    return made(system_calls=OPEN_FILTER)


def plan_of(model, limits):
    return Plan(
        title="t", purpose="p", legal_basis="l", researcher=SiteId("r"), participants=(SiteId("a"), SiteId("b")),
        min_participants=2, data=CONTRACT, model=model, manifest=MANIFEST,
        initial=BlobRef("0" * 64, tensors.file_bytes(MANIFEST)), expires=0, limits=limits,
        training=Training(rounds=1, epochs=1, batch_size=100),
    )  # fmt: skip


def table_of():
    features = np.linspace(-1, 1, 40, dtype=np.float32).reshape(20, 2)
    return StudyTable(features, features[:, 0] * 2, np.arange(20) % 4 == 3, LoadReport(20, 20, 0))


def base_of(folder):
    path = folder / "base"
    with path.open("wb") as file:
        file.write(tensors.header(MANIFEST))
        file.truncate(tensors.file_bytes(MANIFEST))
    return str(path)


def study(body, setup="pass"):
    lines = "\n        ".join(body.strip().splitlines())
    source = f"""
import ctypes, gc, mmap, os, resource, signal, socket, stat, subprocess, sys, threading, time
import torch
from torch import nn

libc = ctypes.CDLL(None, use_errno=True)

def assignment():
    return next(found for found in gc.get_objects() if type(found).__name__ == "Assignment")

def mapped():
    return assignment().vector.ctypes.data - {len(tensors.header(MANIFEST))}

def kinds():
    found = {{}}
    for file in range(256):
        try: found[file] = os.fstat(file)
        except OSError: pass
    return found

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
def working(launcher, body, *, setup="pass", limits=None):
    model, package = study(body, setup)
    told = []
    limits = limits or Limits(worker_seconds=60, worker_memory_bytes=MEMORY)
    worker = PytorchWorker(
        plan_of(model, limits), SiteId("a"), table_of(), package, launcher=launcher, report=told.append
    )
    with contextlib.closing(worker):
        yield worker, told


def attempt(launcher, folder, body, **options):
    """What the node is told of an attack: the error's words, and the kinds of violations."""
    with working(launcher, body, **options) as (worker, told):
        with pytest.raises((TrainingError, TensorMismatchError)) as caught:
            worker.perform(1, "train", base_of(folder), b"")
        return str(caught.value), [violation.kind for violation in told]


def trying(attack):
    lines = "\n    ".join(attack.strip().splitlines())
    return f"try:\n    {lines}\nexcept Exception:\n    raise RecursionError\nraise KeyboardInterrupt"


def test_a_model_trains_in_the_sandbox_as_outside_it(sandbox, tmp_path):
    seen = []
    for launcher in (sandbox, PlainLauncher()):
        with working(launcher, "pass") as (worker, told):
            for number in (1, 2):
                trained = worker.perform(number, "train", base_of(tmp_path), b"")
            seen.append(os.pread(trained.update, 1 << 20, 0))
            assert told == []
    assert seen[0] == seen[1]


def test_a_built_in_model_with_four_threads_trains_in_the_sandbox(sandbox, tmp_path):
    setup = "torch.set_num_threads(4)"
    body = "torch.ones(400, 400) @ torch.ones(400, 400)\nthreading.Thread(target=len, args=('',)).start()"
    with working(sandbox, body, setup=setup) as (worker, _):
        assert worker.perform(1, "train", base_of(tmp_path), b"").ref
    plan = plan_of(BuiltinModel(name="linear"), Limits(worker_seconds=60))
    with contextlib.closing(PytorchWorker(plan, SiteId("a"), table_of(), launcher=sandbox)) as worker:
        assert worker.perform(1, "train", base_of(tmp_path), b"").ref


# What cannot be found, read or written.

SECRETS = ["/etc/shadow", "/etc/passwd", "/proc/kcore", "/proc/keys", "/sys/kernel", "/var", "/run", "/usr/bin"]


def test_no_file_of_the_machine_is_there(sandbox, tmp_path):
    home = str(Path.home() / ".ssh")
    body = f"""
for path in {[*SECRETS, home]!r}:
    try: os.listdir(path) if os.path.isdir(path) else open(path, "rb").read(1)[0]
    except (OSError, IndexError): continue
    raise KeyboardInterrupt
raise RecursionError
"""
    assert KEPT in attempt(sandbox, tmp_path, body)[0]
    assert DID in attempt(PlainLauncher(), tmp_path, trying("open('/etc/passwd', 'rb').read(1)[0]"))[0]


@pytest.fixture
def vault(tmp_path):
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "node.sqlite").write_bytes(b"sealed")
    return tmp_path / "state" / "node.sqlite"


def test_the_nodes_state_is_read_by_a_plain_process_and_not_by_a_contained_one(sandbox, tmp_path, vault):
    body = trying(f"open({str(vault)!r}, 'rb').read(1)[0]")
    assert DID in attempt(PlainLauncher(), tmp_path, body)[0]
    assert KEPT in attempt(sandbox, tmp_path, body)[0]


def test_a_link_leads_nowhere(sandbox, tmp_path, vault):
    body = f"""
for number, way in enumerate(("", "/proc/self/root", "/proc/self/cwd", "/proc/1/root", "/proc/1/cwd")):
    os.symlink(way + {str(vault)!r}, f"/tmp/link{{number}}")
    try: open(f"/tmp/link{{number}}", "rb").read(1)[0]
    except OSError: continue
    raise KeyboardInterrupt
raise RecursionError
"""
    assert KEPT in attempt(sandbox, tmp_path, body)[0]


def test_nothing_is_written_anywhere(sandbox, tmp_path):
    places = ["/x", "/dev/x", "/dev/shm/x", "/usr/x", "/etc/ld.so.cache", sys.executable, np.__file__]
    places += ["/proc/sys/kernel/hostname", "/proc/self/oom_score_adj", "/proc/1/mem"]
    body = f"""
for place in {places!r}:
    try:
        file = os.open(place, os.O_WRONLY | os.O_CREAT)
        os.write(file, b"x")
    except OSError:
        continue
    raise KeyboardInterrupt
raise RecursionError
"""
    assert KEPT in attempt(sandbox, tmp_path, body)[0]


def test_no_disk_and_no_memory_is_filled_with_files(sandbox, tmp_path):
    body = """
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
for place in ("/tmp/fill", "/dev/shm/fill"):
    try:
        with open(place, "wb", buffering=0) as file:
            for _ in range(64): file.write(bytes(1 << 20))
    except OSError:
        continue
    raise KeyboardInterrupt
raise RecursionError
"""
    assert KEPT in attempt(sandbox, tmp_path, body)[0]


def test_a_contained_process_sees_only_itself_its_own_environment_and_its_own_descriptors(sandbox, tmp_path):
    body = """
if sorted(os.listdir('/proc')) != ['cpuinfo', 'meminfo']: raise KeyboardInterrupt
if set(os.environ) - {'LANG', 'MKL_NUM_THREADS', 'OMP_NUM_THREADS', 'PYTHONHASHSEED', 'PWD'}: raise KeyboardInterrupt
regular = [file for file, found in kinds().items() if stat.S_ISREG(found.st_mode)]
other = [file for file, found in kinds().items() if not stat.S_ISREG(found.st_mode) and file > 2]
if len(regular) > 4 or len(other) > 2: raise KeyboardInterrupt  # records, update, memory, base; channel, lifeline
if any(found.st_rdev != os.makedev(1, 3) for file, found in kinds().items() if file <= 2): raise KeyboardInterrupt
if any(libc.prctl(23, number, 0, 0, 0) == 1 for number in range(64)): raise KeyboardInterrupt
if os.getuid() != 65534 or libc.prctl(39, 0, 0, 0, 0) != 1 or os.getpid() != 2: raise KeyboardInterrupt
raise RecursionError
"""
    assert KEPT in attempt(sandbox, tmp_path, body)[0]


REOPEN = """
for file, found in kinds().items():
    if not stat.S_ISREG(found.st_mode): continue
    for way in (f"/proc/self/fd/{file}", f"/dev/fd/{file}", f"/proc/thread-self/fd/{file}"):
        try: writable = os.open(way, os.O_RDWR)
        except OSError: continue
        mmap.mmap(writable, 0)[-4:] = b"AAAA"
        raise KeyboardInterrupt
    for attack in (lambda: os.fchmod(file, 0o666), lambda: os.utime(file), lambda: fcntl.flock(file, fcntl.LOCK_EX)):
        try: attack()
        except OSError: continue
        raise KeyboardInterrupt
raise RecursionError
"""


def test_a_model_that_was_handed_over_for_reading_is_not_written(sandbox, tmp_path):
    setup = "import fcntl"
    base = Path(base_of(tmp_path))
    before = (base.read_bytes(), base.stat().st_mode)
    assert KEPT in attempt(sandbox, tmp_path, REOPEN, setup=setup)[0]
    assert (base.read_bytes(), base.stat().st_mode) == before
    assert DID in attempt(PlainLauncher(), tmp_path, REOPEN, setup=setup)[0]


# The network.


@contextlib.contextmanager
def listening(family, address):
    with socket.socket(family) as server:
        server.bind(address)
        server.listen()
        yield server


def test_the_network_is_reached_by_a_plain_process_and_ends_a_contained_one(sandbox, unfiltered, tmp_path):
    with listening(socket.AF_INET, ("127.0.0.1", 0)) as server:
        body = trying(f"socket.create_connection({server.getsockname()!r}, 5)")
        assert DID in attempt(PlainLauncher(), tmp_path, body)[0]
        words, violations = attempt(sandbox, tmp_path, body)
        assert "system call" in words
        assert violations == ["system-call"]
        assert KEPT in attempt(unfiltered, tmp_path, body)[0], "behind the filter there is no network either"


def test_a_name_is_not_looked_up(sandbox, tmp_path):
    words, violations = attempt(sandbox, tmp_path, trying("socket.getaddrinfo('example.org', 80)"))
    assert KEPT in words or violations == ["system-call"]


def test_an_abstract_socket_of_the_machine_is_out_of_reach(sandbox, unfiltered, tmp_path):
    name = f"\0wardround-test-{os.getpid()}"
    with listening(socket.AF_UNIX, name):
        body = trying(f"socket.socket(socket.AF_UNIX).connect({name!r})")
        assert DID in attempt(PlainLauncher(), tmp_path, body)[0]
        assert KEPT in attempt(sandbox, tmp_path, body)[0]
        assert KEPT in attempt(unfiltered, tmp_path, body)[0]


# Other processes, and more rights.


def test_the_node_is_signalled_by_a_plain_process_and_not_by_a_contained_one(unfiltered, sandbox, tmp_path):
    body = trying(f"os.kill({os.getpid()}, 0)")
    assert DID in attempt(PlainLauncher(), tmp_path, body)[0]
    assert KEPT in attempt(sandbox, tmp_path, body)[0]
    assert KEPT in attempt(unfiltered, tmp_path, body)[0]


# Each would fail by its arguments alone, so that a sandbox that lets it through harms nobody.
HOSTILE = {
    "tracing": "libc.ptrace(0x7fff, 0, 0, 0)",
    "reading another's memory": "libc.syscall(310, os.getpid(), 0, 0, 0, 0, 7)",
    "a user namespace": "libc.unshare(0x10000001)",
    "a user namespace by clone": "libc.syscall(56, 0x10000000 | 0x00000200, 0, 0, 0, 0)",
    "a mount": "libc.mount(b'none', b'/', b'no-such-kind', 0, None)",
    "another user": "libc.setuid(os.getuid())",
    "a kernel key": "libc.syscall(250, 0x7fff, 0, 0)",
    "a kernel program": "libc.syscall(321, 0x7fff, 0, 0)",
    "a kernel queue": "libc.syscall(425, 0, 0)",
    "page faults": "libc.syscall(323, 0x7fff)",
    "counters": "libc.syscall(298, 0, 0, -1, -1, 0)",
    "a new kernel": "libc.syscall(246, 0, 0x7fff, 0, 0x7fff)",
    "x32": "libc.syscall(0x40000000 | 39)",
}


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="numbers of x86-64")
def test_every_hostile_system_call_ends_whoever_makes_it(sandbox, tmp_path):
    lines = [f"            if number == {number}: {attack}" for number, attack in enumerate(HOSTILE.values())]
    setup = "def hostile(number):\n    child = os.fork()\n    if child == 0:\n        try:\n" + "\n".join(lines)
    setup += "\n        finally:\n            os._exit(0)\n    return os.waitpid(child, 0)[1]"
    body = f"""
ended = [number for number in range({len(HOSTILE)}) if hostile(number) == 31]
raise RecursionError if len(ended) == {len(HOSTILE)} else KeyboardInterrupt
"""
    assert KEPT in attempt(sandbox, tmp_path, body, setup=setup)[0]


def test_a_hostile_system_call_of_the_worker_is_told(sandbox, tmp_path):
    words, violations = attempt(sandbox, tmp_path, "libc.unshare(0x10000000)\nraise KeyboardInterrupt")
    assert violations == ["system-call"]
    assert "system call" in words


def test_without_the_filter_namespaces_alone_keep_it_from_rights_and_mounts(unfiltered, tmp_path):
    # A mount of no such kind is refused as "not permitted" before the kernel looks for the kind.
    body = """
for attack in (lambda: libc.unshare(0x10000000), lambda: libc.setuid(0), lambda: libc.sethostname(b"worker", 6),
               lambda: libc.mount(b'none', b'/', b'no-such-kind', 0, None)):
    ctypes.set_errno(0)
    if attack() != -1 or ctypes.get_errno() not in (1, 22, 28): raise KeyboardInterrupt
raise RecursionError
"""
    assert KEPT in attempt(unfiltered, tmp_path, body)[0]


def test_an_idle_worker_cannot_raise_its_own_priority(sandbox):
    code = """
import os, sys
said = [os.sched_getscheduler(0) == os.SCHED_IDLE]
for attack in (lambda: os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0)), lambda: os.nice(-1)):
    try: attack()
    except PermissionError: said.append(True)
os.write(int(sys.argv[1]), repr(said).encode())
"""
    source, target = os.pipe()
    started = made(settings={"idle": True}).start(
        [sys.executable, "-I", "-c", code], environment={}, descriptors=(target,), bounds=Bounds(1 << 28)
    )
    os.close(target)
    assert os.read(source, 100) == b"[True, True, True]"
    os.close(source)
    started.kill()


# Too much.


def test_a_fork_bomb_is_bounded_and_told(grouped, tmp_path):
    # A bomb of forty, so that a sandbox that does not bound it harms nobody.
    body = """
try:
    for _ in range(40):
        if os.fork() == 0:
            signal.pause()
except OSError:
    pass
"""
    words, violations = attempt(made(settings={"processes": 12}), tmp_path, body)
    assert violations == ["processes"]
    assert "more processes" in words


def test_shared_memory_is_bounded_and_told(grouped, tmp_path):
    # Shared anonymous memory is what no resource limit bounds; a plain process gets it.
    limits = Limits(worker_seconds=60, worker_memory_bytes=MEMORY // 2)
    body = f"m = mmap.mmap(-1, {MEMORY})\nctypes.memset(ctypes.addressof(ctypes.c_char.from_buffer(m)), 1, {MEMORY})"
    words, violations = attempt(grouped, tmp_path, body, limits=limits)
    assert violations == ["memory"], words
    assert DID in attempt(PlainLauncher(), tmp_path, f"{body}\nraise KeyboardInterrupt", limits=limits)[0]


@pytest.mark.parametrize(
    "body",
    [
        "while True: pass",
        "threading.Event().wait()",
        "signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 64))\nwhile True: pass",
    ],
)
def test_a_time_bomb_is_stopped_by_the_clock_and_told(sandbox, tmp_path, body):
    words, violations = attempt(sandbox, tmp_path, body, limits=Limits(worker_seconds=0.5, worker_memory_bytes=MEMORY))
    assert "0.5 s by the clock" in words
    assert violations == ["clock"]


# What leaves.


def test_a_number_that_hides_data_in_a_nan_is_refused_and_told(sandbox, tmp_path):
    body = "self.bias.data.view(torch.int32).fill_(0x7fc12345)"
    words, violations = attempt(sandbox, tmp_path, body)
    assert "NaN or infinite" in words
    assert violations == ["update"]


def test_a_header_with_room_for_more_is_refused_and_told(sandbox, tmp_path):
    body = "ctypes.memmove(mapped() + 8, b'{\"hidden\"', 9)"
    _, violations = attempt(sandbox, tmp_path, body)
    assert violations == ["update"]


def test_no_file_that_was_handed_over_can_grow_or_shrink(sandbox, tmp_path):
    body = """
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
for file, found in kinds().items():
    if not stat.S_ISREG(found.st_mode): continue
    for attack in (lambda: os.ftruncate(file, found.st_size + 1), lambda: os.ftruncate(file, found.st_size - 1),
                   lambda: os.pwrite(file, b"x" * 4096, found.st_size)):
        try: attack()
        except OSError: continue
        raise KeyboardInterrupt
raise RecursionError
"""
    assert KEPT in attempt(sandbox, tmp_path, body)[0]
    with working(sandbox, "pass") as (worker, _):
        trained = worker.perform(1, "train", base_of(tmp_path), b"")
        with pytest.raises(PermissionError):
            os.ftruncate(trained.update, os.fstat(trained.update).st_size + 1)


def test_an_answer_with_more_than_numbers_is_refused_and_told(sandbox, tmp_path):
    body = """
import msgspec
data = msgspec.msgpack.encode({"type": "done", "metrics": {"patient 17": 1.0}})
for file, found in kinds().items():
    if stat.S_ISSOCK(found.st_mode):
        os.write(file, len(data).to_bytes(4, "big") + data)
threading.Event().wait()
"""
    _, violations = attempt(sandbox, tmp_path, body)
    assert violations == ["channel"]


OFFSET = tensors.file_bytes(MANIFEST) - 4
# A process of study code that goes on writing to the update while the node checks it, and after.
LATER = f"""
started = []

def later():
    place = mapped() if not started else 0
    if not started and os.fork() == 0:
        os.setsid()
        while True:
            ctypes.memset(place + {OFFSET}, 0x41, 4)
    started.append(1)
"""


def last(trained):
    return os.pread(trained.update, 4, OFFSET)


def test_what_is_sent_is_what_was_checked(sandbox, tmp_path):
    with working(sandbox, "later()", setup=LATER) as (worker, _):
        for number in range(20):  # until it was quick enough to have written before the answer
            trained = worker.perform(number, "train", base_of(tmp_path), b"")
            if last(trained) == b"AAAA":
                break
        assert last(trained) == b"AAAA", "it writes"
        os.pwrite(trained.update, b"\0\0\0\0", OFFSET)
        assert not happens(lambda: last(trained) != b"\0\0\0\0", seconds=0.5), "nothing of it runs until the next round"
    with working(PlainLauncher(), "later()", setup=LATER) as (worker, _):
        try:
            trained = worker.perform(1, "train", base_of(tmp_path), b"")
            os.pwrite(trained.update, b"\0\0\0\0", OFFSET)
            assert happens(lambda: last(trained) == b"AAAA", seconds=20), "a plain process writes on"
        finally:
            for process in writers(worker._process.started.pid):
                os.kill(process, signal.SIGKILL)


def writers(worker):
    """The processes that a plain worker started, which leave its group and would outlive it."""
    children = Path(f"/proc/{worker}/task/{worker}/children").read_text().split()
    return [int(child) for child in children]


def happens(claim, seconds):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if claim():
            return True
    return False


# The hospital's own work comes first.


def test_time_that_the_hospital_took_is_not_the_rounds(sandbox, tmp_path):
    reading = [Reading()]
    settings = SandboxSettings(idle=False, pressure=Pressure(settle_seconds=0))
    guard = Guard(sandbox, settings, read=lambda _own: reading[0], interval_seconds=0)
    body = "began = time.process_time()\nwhile time.process_time() - began < 0.1: pass"
    limits = Limits(worker_seconds=4, worker_memory_bytes=MEMORY)
    with working(guard, body, limits=limits) as (worker, told):
        worker.perform(1, "train", base_of(tmp_path), b"")
        found = []
        round_ = threading.Thread(target=lambda: found.append(worker.perform(2, "train", base_of(tmp_path), b"")))
        reading[0] = Reading(processor=99.0)
        guard.look()
        round_.start()
        round_.join(6)
        assert not found, "it is held"
        reading[0] = Reading()
        guard.look()
        round_.join(30)
    assert found[0].seconds < 4
    assert told == []


@pytest.mark.parametrize("paused", [False, True])
def test_nothing_outlives_a_node_that_is_killed(sandbox, paused):
    program = f"""
import os, sys, threading
from wardround.ports import Bounds
from wardround.sandbox.bubblewrap import Bubblewrap
from wardround.sandbox.settings import SandboxSettings
source, target = os.pipe()
code = "import os, sys; os.write(int(sys.argv[1]), b'x'); os.fork(); sum(range(10**12))"
box = Bubblewrap(SandboxSettings(idle=False))
started = box.start([sys.executable, "-I", "-c", code], environment={{}}, descriptors=(target,), bounds=Bounds(1 << 28))
os.read(source, 1)
if {paused}: started.pause()
print(started.pid, started._child, flush=True)
threading.Event().wait()
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as node:
        processes = [os.pidfd_open(int(number)) for number in node.stdout.readline().split()]
        node.kill()
        node.wait()
    assert len(processes) == 2
    for process in processes:
        assert select.select([process], [], [], 10)[0]
        os.close(process)
    cgroup.sweep(cgroup.find())
    left = [folder for parent in set(cgroup.find().values()) for folder in parent.glob(f"wardround-{node.pid}-*")]
    assert left == [], "the next node removes its groups"


def test_a_quota_is_kept(grouped):
    box = made(settings={"processors": 0.5})
    source, target = os.pipe()
    code = "import os, sys, time; os.write(int(sys.argv[1]), b'x')\nwhile True: pass"
    started = box.start(
        [sys.executable, "-I", "-c", code], environment={}, descriptors=(target,), bounds=Bounds(1 << 28)
    )
    os.read(source, 1)
    before, began = started.usage().processor_seconds, time.monotonic()
    started.wait(3)
    used = (started.usage().processor_seconds - before) / (time.monotonic() - began)
    started.kill()
    os.close(source), os.close(target)
    # Half a processor at most; with tests beside it an idle worker may get less.
    assert 0.05 < used < 0.55
