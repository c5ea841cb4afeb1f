import sys
from types import SimpleNamespace

import pytest

from wardround.errors import SandboxError
from wardround.ids import Digest
from wardround.ports import Bounds, Containment
from wardround.protocol.plan import BlobRef, BuiltinModel, CodePackage
from wardround.sandbox import choice, cluster, container, root
from wardround.sandbox.settings import SandboxSettings

CODE = SimpleNamespace(model=CodePackage(package=BlobRef(Digest("0" * 64), 1), factory="a:b"))
BUILTIN = SimpleNamespace(model=BuiltinModel(name="linear"))
IMAGE = "registry.example/worker@sha256:" + "0" * 64
COMMAND = ["/venv/bin/python", "-P", "-s", "-B", "-m", "wardround.training.worker_main"]


class Plain:
    containment = Containment(contains_foreign_code=False, name="a plain process", open_ways=("everything",))

    def start(self, command, *, environment, descriptors, bounds):
        raise AssertionError


class Box(Plain):
    containment = Containment(contains_foreign_code=True, name="a box")


def test_foreign_code_is_refused_where_nothing_contains_it():
    with pytest.raises(SandboxError, match=r"built-in models only.*a plain process.*everything"):
        choice.require(CODE, Plain())
    choice.require(BUILTIN, Plain())
    choice.require(CODE, Box())
    choice.require(BUILTIN, Box())


def test_without_bubblewrap_auto_falls_back_and_says_why(monkeypatch):
    monkeypatch.setenv("PATH", "/nonexistent")
    launcher = choice.choose(SandboxSettings(), Plain())
    assert not launcher.containment.contains_foreign_code
    with pytest.raises(SandboxError, match="install bubblewrap"):
        choice.require(CODE, launcher)


@pytest.mark.parametrize("runner", ["bubblewrap", "docker", "podman"])
def test_a_runner_that_is_named_and_not_there_is_an_error(monkeypatch, runner):
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(SandboxError, match="there is no"):
        choice.choose(SandboxSettings(runner=runner, image=IMAGE), Plain())


def test_none_is_the_plain_process(monkeypatch):
    assert choice.choose(SandboxSettings(runner="none"), Plain()).containment is Plain.containment


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"image": ""}, "sandbox.image"),
        ({"image": IMAGE, "folders": ("/usr/lib/cuda",)}, "folders"),
        ({"image": IMAGE}, "pull it"),
    ],
)
def test_a_container_whose_engine_does_not_answer_or_whose_settings_are_none_is_refused(monkeypatch, settings, words):
    monkeypatch.setattr(container.shutil, "which", lambda name: name)
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(SandboxError, match=words):
        container.Container(SandboxSettings(runner="docker", **settings))


def test_a_containers_command_line_is_exactly_this():
    settings = SandboxSettings(
        runner="podman", image=IMAGE, processors=1.5, cpus="2-3", devices=("/dev/nvidia0",), temporary_bytes=4096
    )
    line = container.command_line(
        "podman", settings, "wardround-1-1", "/private/shared", COMMAND, {"B": "2", "A": "1"}, Bounds(1 << 30, 64)
    )
    assert " ".join(line) == (
        "podman run --rm --init --name wardround-1-1 --pull never --log-driver none "
        "--network none --ipc none --read-only --user 65534:65534 --workdir / "
        "--cap-drop ALL --security-opt no-new-privileges --pids-limit 65 --memory 1073741824 --memory-swap 1073741824 "
        "--ulimit core=0:0 --ulimit nofile=256:256 --tmpfs /tmp:rw,noexec,nosuid,nodev,size=4096 "
        "--mount type=bind,source=/private/shared,target=/run/wardround,readonly --cpu-shares 2 --cpus 1.5 "
        f"--cpuset-cpus 2-3 --device /dev/nvidia0:/dev/nvidia0:rw --env A=1 --env B=2 --entrypoint python3 {IMAGE} "
        "-P -s -B -m wardround.training.worker_main /run/wardround/meeting"
    )


def test_a_jobs_manifest_takes_every_right_that_a_manifest_can_take():
    settings = SandboxSettings(runner="docker", image=IMAGE, processors=2.0)
    job = cluster.kubernetes_job(
        "w", "machine-1", "/private", COMMAND, {"A": "1"}, Bounds(1 << 30), settings, seconds=60
    )
    pod = job["spec"]["template"]["spec"]
    (worker,) = pod["containers"]
    assert worker["command"] == ["python3", *COMMAND[1:], "/run/wardround/meeting"]
    assert worker["resources"]["limits"] == {"cpu": "2", "memory": "1073741824"}
    assert worker["securityContext"] == {
        "allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}, "readOnlyRootFilesystem": True,
        "runAsNonRoot": True, "runAsUser": 65534, "runAsGroup": 65534, "seccompProfile": {"type": "RuntimeDefault"},
    }  # fmt: skip
    assert not pod["automountServiceAccountToken"]
    assert pod["nodeName"] == "machine-1"
    assert (pod["hostNetwork"], pod["hostPID"], pod["hostIPC"]) == (False, False, False)
    assert [volume["name"] for volume in pod["volumes"]] == ["meeting", "temporary"]
    assert (job["kind"], job["spec"]["backoffLimit"], job["spec"]["activeDeadlineSeconds"]) == ("Job", 0, 60)


def test_a_slurm_command_is_bound_to_the_nodes_machine():
    line = cluster.slurm_command("machine-1", "/private", ["bwrap"], Bounds(1 << 30), SandboxSettings(), seconds=61)
    assert " ".join(line) == (
        "srun --nodes=1 --ntasks=1 --nodelist=machine-1 --cpus-per-task=1 --mem=1024M --time=2 --export=NONE "
        "--input=none --output=none --error=none --kill-on-bad-exit=1 --nice=10000 -- bwrap /private/meeting"
    )


def test_only_pythons_files_and_libraries_are_shown():
    shown = root.places()
    assert sys.executable in shown
    assert not any(path in shown for path in ("/", "/usr", "/etc", "/home", "/root", "/var", "/usr/lib", "/usr/bin"))
    allowed = (
        "/lib",
        "/usr/lib",
        sys.prefix,
        sys.base_prefix,
        "/etc/ld.so.cache",
        str(choice.__file__).split("/sandbox/")[0],
    )
    assert all(path.startswith(allowed) for path in shown), shown


def test_everything_is_remounted_read_only_and_there_is_no_file_system_of_processes():
    line = root.arguments(4096)
    assert line[-4:] == ["--remount-ro", "/dev", "--remount-ro", "/"]
    assert not {"--bind", "--dev-bind", "--proc"} & set(line)
    assert [place for place in line[1::1] if place.startswith("/proc")] == ["/proc/cpuinfo"] * 2 + ["/proc/meminfo"] * 2


@pytest.mark.parametrize("folder", ["/etc", "/home", "/var/lib/../..", "/usr/lib/", "/"])
def test_a_folder_that_holds_everything_is_not_shown(folder):
    with pytest.raises(SandboxError, match=r"sandbox\.folders"):
        root.places((folder,))


@pytest.mark.parametrize("device", ["/dev/null/../sda", "/etc/shadow", "/dev/no-such-device", "/dev"])
def test_what_is_no_character_device_is_not_shown(device):
    with pytest.raises(SandboxError, match=r"sandbox\.devices"):
        root.arguments(4096, (device,))
    assert "/dev/null" in root.arguments(4096, ("/dev/null",))
