"""Control groups in folders that look like the kernel's; the kernel's own are in tests/contracts and tests/e2e."""

import os
from pathlib import Path

import pytest

from wardround.errors import SandboxError
from wardround.ports import Usage
from wardround.sandbox import cgroup, pressure
from wardround.sandbox.cgroup import ControlGroup, Slice

BOUNDS = Slice(memory_bytes=1 << 30, processes=66, processors=0.5, cpus="1", idle=True)
KNOBS = {
    2: "cpu.max cpu.weight cpu.idle memory.max memory.swap.max memory.oom.group pids.max cpuset.cpus cpuset.mems "
    "io.weight cgroup.freeze cgroup.procs cgroup.events cpu.stat memory.peak memory.events pids.events",
    1: "cpu.cfs_quota_us cpu.cfs_period_us cpu.shares memory.limit_in_bytes memory.memsw.limit_in_bytes pids.max "
    "cpuset.cpus cpuset.mems cgroup.procs",
}


@pytest.fixture
def kernel(monkeypatch):
    """A folder that is made has its files at once, as the kernel's have."""
    plain = Path.mkdir

    def mkdir(self, *args, **kwargs):
        plain(self, *args, **kwargs)
        version = 2 if (self.parent / "cgroup.controllers").exists() else 1
        for name in KNOBS[version].split():
            (self / name).touch()

    monkeypatch.setattr(Path, "mkdir", mkdir)


def process_of(folder, groups, mounts):
    (folder / "self").mkdir()
    (folder / "self" / "cgroup").write_text(groups)
    (folder / "self" / "mountinfo").write_text(mounts)
    return folder / "self"


def version_two(tmp_path, own, *, enabled="cpu memory pids cpuset io"):
    place = tmp_path / "cgroup"
    folder = place / own
    folder.mkdir(parents=True)
    for each in (folder, folder.parent):
        (each / "cgroup.controllers").write_text("cpu memory pids cpuset io")
        (each / "cgroup.subtree_control").write_text(enabled)
        (each / "cgroup.procs").touch()
        (each / "cgroup.freeze").touch()
    mounts = f"30 20 0:26 / {place} rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n21 20 0:5 / /proc rw - proc proc rw\n"
    return folder, process_of(tmp_path, f"0::/{own}\n", mounts)


def test_version_two_is_found_and_bounded(tmp_path, kernel):
    folder, process = version_two(tmp_path, "wardround.service")
    parents = cgroup.find(process=process)
    assert parents["cpu"] == parents["memory"] == parents["freeze"] == folder
    cgroup.make(parents, "1-1", BOUNDS)
    made = folder / "wardround-1-1"
    written = {path.name: path.read_text() for path in made.iterdir() if path.read_text()}
    assert written == {
        "cpu.max": "50000 100000", "cpu.idle": "1", "memory.max": str(1 << 30), "memory.swap.max": "0",
        "memory.oom.group": "1", "pids.max": "66", "cpuset.cpus": "1", "io.weight": "1",
    }  # fmt: skip


def test_a_node_in_a_subgroup_of_its_service_makes_groups_beside_itself(tmp_path, kernel):
    folder, process = version_two(tmp_path, "wardround.service/node")
    assert cgroup.find(process=process)["memory"] == folder.parent


def test_a_folder_that_the_site_names_is_used(tmp_path, kernel):
    _, process = version_two(tmp_path, "wardround.service")
    named, _ = version_two(tmp_path / "other", "studies.slice") if (tmp_path / "other").mkdir() is None else None
    assert cgroup.find(str(named), process=process)["memory"] == named


def test_controllers_that_are_not_passed_on_are_asked_for(tmp_path, kernel):
    folder, process = version_two(tmp_path, "wardround.service", enabled="memory")
    cgroup.find(process=process)
    assert (folder / "cgroup.subtree_control").read_text().startswith("+")


def version_one(tmp_path):
    lines, mounts = [], []
    for number, name in enumerate(("cpu,cpuacct", "memory", "pids", "cpuset")):
        folder = tmp_path / "cgroup" / name / "node"
        folder.mkdir(parents=True)
        lines.append(f"{number}:{name}:/node")
        mounts.append(f"{number} 20 0:26 / {tmp_path}/cgroup/{name} rw - cgroup cgroup rw,{name}")
    (tmp_path / "cgroup" / "cpuset" / "node" / "cpuset.effective_mems").write_text("0\n")
    return process_of(tmp_path, "\n".join(lines), "\n".join(mounts))


def test_version_one_is_found_and_bounded(tmp_path, kernel):
    parents = cgroup.find(process=version_one(tmp_path))
    assert set(parents) == {"cpu", "cpuacct", "memory", "pids", "cpuset"}
    group = cgroup.make(parents, "1-1", BOUNDS)
    assert not group.can_freeze
    written = {}
    for controller in ("cpu", "memory", "pids", "cpuset"):
        written |= {p.name: p.read_text() for p in (parents[controller] / "wardround-1-1").iterdir() if p.read_text()}
    assert written == {
        "cpu.cfs_quota_us": "50000", "cpu.cfs_period_us": "100000", "cpu.shares": "2",
        "memory.limit_in_bytes": str(1 << 30), "memory.memsw.limit_in_bytes": str(1 << 30), "pids.max": "66",
        "cpuset.cpus": "1", "cpuset.mems": "0",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("groups", "mounts"),
    [
        ("", ""),
        ("garbage", "garbage"),
        ("0::/../../etc\n", "30 20 0:26 / / rw - cgroup2 cgroup2 rw\n"),
        ("0::/x", "a - cgroup"),
    ],
)
def test_where_nothing_can_be_found_there_is_nothing(tmp_path, groups, mounts):
    assert cgroup.find(process=process_of(tmp_path, groups, mounts)) == {}
    with pytest.raises(SandboxError, match="no cpu, memory, pids controller"):
        cgroup.make({}, "1-1", BOUNDS)


def test_a_bound_that_the_kernel_refuses_leaves_no_group(tmp_path, kernel):
    folder, process = version_two(tmp_path, "wardround.service")
    parents = {name: path for name, path in cgroup.find(process=process).items() if name != "cpuset"}
    with pytest.raises(SandboxError, match="cpuset"):
        cgroup.make(parents, "1-1", BOUNDS)
    for name in KNOBS[2].split():
        (folder / "wardround-1-1" / name).unlink(missing_ok=True)


def test_what_was_used_and_broken_is_read(tmp_path):
    (tmp_path / "cpu.stat").write_text("usage_usec 2500000\nuser_usec 1\n")
    (tmp_path / "memory.peak").write_text("4096\n")
    (tmp_path / "pids.events").write_text("max 3\n")
    (tmp_path / "memory.events").write_text("oom 1\noom_kill 0\n")
    (tmp_path / "cpu.pressure").write_text("some avg10=12.50 avg60=0.00 avg300=0.00 total=1\n")
    group = ControlGroup(dict.fromkeys(("cpu", "memory", "pids", "freeze"), tmp_path))
    assert group.usage() == Usage(2.5, 4096, 3, (12.5, 0.0, 0.0))
    assert group.violation().kind == "processes"
    (tmp_path / "memory.events").write_text("oom 1\noom_kill 1\n")
    assert group.violation().kind == "memory"


def test_a_group_without_violations_has_none(tmp_path):
    assert ControlGroup(dict.fromkeys(("cpu", "memory", "pids"), tmp_path)).violation() is None


def test_groups_of_nodes_that_are_gone_are_removed_and_others_stay(tmp_path):
    gone, ours, other = (
        tmp_path / name for name in (f"wardround-{2**22 + 1}-1", f"wardround-{os.getpid()}-1", "wardround-x-1")
    )
    for folder in (gone, ours, other):
        folder.mkdir()
    cgroup.sweep({"memory": tmp_path})
    assert (gone.exists(), ours.exists(), other.exists()) == (False, True, True)


@pytest.mark.parametrize(
    "text", ["", "some", "full avg10=5.0", "some avg10=x", "some avg60=1.0", "some avg10=1e400x", "\xff"]
)
def test_a_pressure_that_cannot_be_read_is_none(tmp_path, text):
    for name in ("cpu", "memory", "io"):
        (tmp_path / name).write_text(text, encoding="latin-1")
    assert pressure.machine(tmp_path) == (0.0, 0.0, 0.0)
    assert pressure.machine(tmp_path / "none") == (0.0, 0.0, 0.0)
