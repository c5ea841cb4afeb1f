"""A worker as a job of Kubernetes or Slurm: what to submit. These are no launchers.

A worker's records, base and update are open files that node and worker share, so both must be on one machine, under
one kernel. A cluster places a job where it likes; so each of these binds it to the node's machine, and has it meet the
node at a socket (`wardround.sandbox.container`). Whoever submits it, watches it and takes it down is the site's own
tooling: `wardround.sandbox.choice` never chooses one of them.

    kubernetes_job     contains what a container contains, where the cluster's policies do what the manifest asks
    slurm_command      bounds processor, memory and time, and contains nothing: put a contained command into it

References:
    Kubernetes, batch/v1 Job and the Pod security standard "restricted". Slurm, srun(1).
"""

import math
from collections.abc import Mapping, Sequence

from wardround.ports import Bounds
from wardround.sandbox.settings import SandboxSettings

__all__ = ["kubernetes_job", "slurm_command"]

_INSIDE = "/run/wardround"
_NOBODY = 65534
_LEAST_PROCESSOR = 0.01

_Json = dict[str, object]


def kubernetes_job(
    name: str,
    machine: str,
    folder: str,
    command: Sequence[str],
    environment: Mapping[str, str],
    bounds: Bounds,
    settings: SandboxSettings,
    *,
    seconds: int,
) -> _Json:
    """A Job's manifest for one worker on the node's own `machine`, which meets it in `folder`.

    A pod cannot turn off its network by itself: the label ``wardround.network: none`` is for a network policy that
    denies all, which the cluster's administrator makes. Neither is there a bound on processes but the kubelet's own.
    """
    processors = f"{settings.processors:g}" if settings.processors else "1"
    container: _Json = {
        "name": "worker",
        "image": settings.image,
        "imagePullPolicy": "Never",
        "command": ["python3", *command[1:], f"{_INSIDE}/meeting"],
        "env": [{"name": key, "value": value} for key, value in sorted(environment.items())],
        "resources": {
            "limits": {"cpu": processors, "memory": str(bounds.memory_bytes)},
            "requests": {"cpu": f"{_LEAST_PROCESSOR:g}", "memory": str(bounds.memory_bytes)},
        },
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
            "runAsNonRoot": True,
            "runAsUser": _NOBODY,
            "runAsGroup": _NOBODY,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "volumeMounts": [
            {"name": "meeting", "mountPath": _INSIDE, "readOnly": True},
            {"name": "temporary", "mountPath": "/tmp"},  # noqa: S108, the pod's own
        ],
    }
    pod: _Json = {
        "nodeName": machine,
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "hostNetwork": False,
        "hostPID": False,
        "hostIPC": False,
        "shareProcessNamespace": True,  # so that the worker is not the first process, to which SIGIO does nothing
        "dnsPolicy": "None",
        "dnsConfig": {"nameservers": ["127.0.0.1"]},
        "terminationGracePeriodSeconds": 0,
        "containers": [container],
        "volumes": [
            {"name": "meeting", "hostPath": {"path": folder, "type": "Directory"}},
            {"name": "temporary", "emptyDir": {"medium": "Memory", "sizeLimit": str(settings.temporary_bytes)}},
        ],
    }
    labels = {"app.kubernetes.io/name": "wardround-worker", "wardround.network": "none"}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name, "labels": labels},
        "spec": {
            "backoffLimit": 0,
            "activeDeadlineSeconds": seconds,
            "ttlSecondsAfterFinished": 0,
            "template": {"metadata": {"labels": labels}, "spec": pod},
        },
    }


def slurm_command(
    machine: str, folder: str, command: Sequence[str], bounds: Bounds, settings: SandboxSettings, *, seconds: int
) -> list[str]:
    """An ``srun`` that starts `command`, already contained, on the node's own `machine` within its bounds."""
    processors = max(1, math.ceil(settings.processors))
    made = ["srun", "--nodes=1", "--ntasks=1", f"--nodelist={machine}", f"--cpus-per-task={processors}"]
    made += [f"--mem={math.ceil(bounds.memory_bytes / 1024**2)}M", f"--time={math.ceil(seconds / 60)}"]
    made += ["--export=NONE", "--input=none", "--output=none", "--error=none", "--kill-on-bad-exit=1"]
    made += ["--nice=10000"] if settings.idle else []
    return [*made, "--", *command, f"{folder}/meeting"]
