"""What holds of every launcher; what a launcher says that it contains is in tests/e2e/test_sandbox.py."""

import contextlib
import os
import select
import signal
import sys
import threading
from pathlib import Path

import pytest

from wardround.errors import SandboxError
from wardround.ports import Bounds, Usage
from wardround.sandbox import cgroup
from wardround.sandbox.bubblewrap import Bubblewrap
from wardround.sandbox.courtesy import Reading
from wardround.sandbox.guard import Guard
from wardround.sandbox.settings import SandboxSettings
from wardround.training.process import PlainLauncher

pytestmark = pytest.mark.processes

KINDS = ["plain", "bubblewrap", "bubblewrap without a control group", "guarded"]
CONTAINED = KINDS[1:]
SETTINGS = SandboxSettings(idle=False)  # on a busy machine these tests would wait for their turn


@pytest.fixture(scope="module", params=KINDS)
def launcher(request):
    return launcher_of(request.param)


@pytest.fixture(scope="module", params=CONTAINED)
def contained(request):
    return launcher_of(request.param)


def launcher_of(kind):
    if kind == "plain":
        return PlainLauncher()
    try:
        match kind:
            case "bubblewrap":
                return Bubblewrap(SETTINGS)
            case "guarded":
                return Guard(Bubblewrap(SETTINGS), SETTINGS, read=lambda _own: Reading(), interval_seconds=0)
            case _:
                return Bubblewrap(SandboxSettings(demand_control_group=False, idle=False), parents={})
    except SandboxError as error:
        pytest.skip(str(error))


@contextlib.contextmanager
def running(launcher, code, *, environment=None):
    """A process with one end of a socket pair, through which it says things; ours is given."""
    source, target = os.pipe()
    program = f"import os, signal, sys, threading\nsay = lambda text: os.write(int(sys.argv[1]), text)\n{code}"
    command = [sys.executable, "-I", "-S", "-c", program]
    started = launcher.start(command, environment=environment or {}, descriptors=(target,), bounds=Bounds(1 << 28))
    os.close(target)
    try:
        yield started, source
    finally:
        started.kill()
        os.close(source)


def heard(source, seconds=20.0):
    return os.read(source, 1 << 16) if select.select([source], [], [], seconds)[0] else b""


def silent(source):
    """Whether nothing more comes, once what was said before has been read."""
    while select.select([source], [], [], 0)[0]:
        os.read(source, 1 << 16)
    return not select.select([source], [], [], 0.3)[0]


def test_a_process_gets_its_environment_and_its_descriptors_and_nothing_else(launcher, monkeypatch):
    monkeypatch.setenv("WARDROUND_SECRET", "hush")
    source, target = os.pipe()
    os.set_inheritable(target, True)
    code = """
import stat
places = []
for file in range(256):
    try: found = os.fstat(file)
    except OSError: continue
    places.append("pipe" if stat.S_ISFIFO(found.st_mode) else found.st_rdev)
environment = {name: value for name, value in os.environ.items() if name not in ("PWD", "LC_CTYPE")}
say(repr((os.getcwd(), len(sys.argv), environment, places)).encode())
"""
    with running(launcher, code, environment={"A": "1"}) as (_, said):
        folder, arguments, environment, places = eval(heard(said))
    os.close(source), os.close(target)
    assert (folder, arguments, environment) == ("/", 2, {"A": "1"})
    assert places == [os.makedev(1, 3)] * 3 + ["pipe"]


def test_what_it_prints_goes_nowhere(launcher, capfd):
    with running(launcher, "print('a patient', flush=True); sys.stderr.write('x'); say(b'.')") as (_, said):
        assert heard(said) == b"."
    assert capfd.readouterr() == ("", "")


def test_a_paused_process_does_nothing_until_it_is_resumed(launcher):
    with running(launcher, "while True: say(b'.')") as (started, said):
        assert heard(said)
        for _ in range(2):
            started.pause()
            started.pause()
            assert silent(said)
            started.resume()
            started.resume()
            assert heard(said)


def test_all_that_it_started_is_paused_with_it(contained):
    code = """
for _ in range(4):
    if os.fork() == 0:
        os.setsid()
        if os.fork(): os._exit(0)
        while True: say(b'.')
threading.Event().wait()
"""
    with running(contained, code) as (started, said):
        assert heard(said)
        started.pause()
        assert silent(said)
        started.resume()
        assert heard(said)


def test_a_process_that_continues_the_others_is_paused_too(contained):
    code = """
mine = os.getpid()
if os.fork() == 0:
    while True: os.kill(mine, signal.SIGCONT)
while True: say(b'.')
"""
    with running(contained, code) as (started, said):
        assert heard(said)
        started.pause()
        assert silent(said)


def test_killing_ends_all_of_it_once(launcher):
    code = "for _ in range(3): os.fork()\nsay(b'.'); threading.Event().wait()"
    with running(launcher, code) as (started, said):
        assert heard(said)
        ending = started.kill()
        assert ending.status == -signal.SIGKILL
        assert started.kill() == ending
        while heard(said):  # the pipe's last writer is gone when it ends
            pass
        started.pause()
        started.resume()


def test_a_paused_process_is_killed_as_well(launcher):
    with running(launcher, "say(b'.'); threading.Event().wait()") as (started, said):
        assert heard(said)
        started.pause()
        assert started.kill().status == -signal.SIGKILL


@pytest.mark.parametrize(("code", "status"), [("os._exit(7)", 7), ("", 0), ("os.kill(os.getpid(), 11)", -11)])
def test_it_is_told_how_a_process_ended(launcher, code, status):
    with running(launcher, code) as (started, _):
        assert started.wait(20)
        assert started.kill().status == status
        assert started.kill().violation is None


def test_waiting_ends_with_the_time(launcher):
    with running(launcher, "threading.Event().wait()") as (started, _):
        assert not started.wait(0.05)


def test_a_process_outlives_the_thread_that_started_it(launcher):
    found = []
    with contextlib.ExitStack() as stack:
        code = "say(b'.'); sys.stdin.read(); threading.Event().wait()"
        starting = threading.Thread(target=lambda: found.append(stack.enter_context(running(launcher, code))))
        starting.start()
        starting.join()
        started, said = found[0]
        assert heard(said)
        assert not started.wait(0.3)


def test_what_it_uses_is_measured_where_there_is_a_group(launcher):
    with running(
        launcher, "x = b'x' * (1 << 24)\nfor _ in range(10**6): pass\nsay(b'.'); threading.Event().wait()"
    ) as (
        started,
        said,
    ):
        heard(said)
        used = started.usage()
        if launcher.containment.name == "bubblewrap":
            assert 0.001 < used.processor_seconds < 20
            assert 1 << 24 < used.peak_memory_bytes < 1 << 28
        else:
            assert used == Usage()


def test_what_is_contained_is_said_in_words(launcher):
    said = launcher.containment
    assert said.name
    assert said.denied
    assert said.open_ways


def test_a_plain_process_says_that_it_contains_nothing():
    assert not PlainLauncher().containment.contains_foreign_code


def test_without_a_control_group_only_a_site_that_says_so_runs_foreign_code():
    launcher_of("bubblewrap")
    assert not Bubblewrap(SETTINGS, parents={}).containment.contains_foreign_code
    allowed = Bubblewrap(SandboxSettings(demand_control_group=False, idle=False), parents={}).containment
    assert allowed.contains_foreign_code
    assert any("shared memory" in way for way in allowed.open_ways)


def test_another_filter_is_not_trusted():
    launcher_of("bubblewrap")
    everything = (6).to_bytes(2, "little") + bytes(2) + (0x7FFF0000).to_bytes(4, "little")
    assert not Bubblewrap(SETTINGS, system_calls=everything).containment.contains_foreign_code


def test_a_sandbox_that_cannot_be_made_is_an_error():
    launcher_of("bubblewrap")
    with pytest.raises(SandboxError, match="does not work"):
        Bubblewrap(SETTINGS, system_calls=b"no filter")
    with pytest.raises(SandboxError, match="there is no"):
        Bubblewrap(SETTINGS, program="no-such-program")


def test_no_group_and_no_descriptor_is_left(launcher):
    def present():
        groups = [
            folder for parent in set(cgroup.find().values()) for folder in parent.glob(f"wardround-{os.getpid()}-*")
        ]
        return len(groups), sum(1 for _ in Path("/proc/self/fd").iterdir())

    before = present()
    with running(launcher, "say(b'.')") as (_, said):
        heard(said)
    assert present() == before
