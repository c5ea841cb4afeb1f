"""What a site says about study code's box, and about whose machine it is: the section ``[sandbox]`` of ``node.toml``.

The defaults contain what can be contained, demand a control group for code that nobody here has read, and give
training the time that nobody else wants.
"""

from typing import Annotated, Literal

import msgspec

__all__ = ["Pressure", "Runner", "SandboxSettings"]

Runner = Literal["auto", "bubblewrap", "docker", "podman", "none"]

_Share = Annotated[float, msgspec.Meta(gt=0, le=100)]
_Path = Annotated[str, msgspec.Meta(pattern=r"^/[A-Za-z0-9_./+-]{1,254}$")]


class Pressure(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """When the hospital's own work needs the machine: training is paused above `high`, and goes on below `low`.

    `processor`, `memory` and `disk` are per cent of the last ten seconds in which some process had to wait for it (the
    kernel's pressure stall information, "some avg10"); `load` is the load average of one minute per processor. Training
    itself presses too, when it uses its whole slice; the defaults leave room for that. After a change it stays as it
    is for `settle_seconds`.
    """

    processor_high: _Share = 40.0
    processor_low: _Share = 20.0
    memory_high: _Share = 10.0
    memory_low: _Share = 5.0
    disk_high: _Share = 30.0
    disk_low: _Share = 15.0
    load_high: _Share = 1.5
    load_low: _Share = 1.0
    settle_seconds: Annotated[float, msgspec.Meta(ge=0, le=3600)] = 15.0

    def __post_init__(self) -> None:
        """Refuse marks that would have it pause and go on at once."""
        pairs = (
            (self.processor_low, self.processor_high),
            (self.memory_low, self.memory_high),
            (self.disk_low, self.disk_high),
            (self.load_low, self.load_high),
        )
        if any(low >= high for low, high in pairs):
            raise ValueError("each low mark of sandbox.pressure must lie below its high mark")


class SandboxSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How workers are contained, and how much of the machine they get.

    `runner` "auto" is bubblewrap where it works and else no containment, in which case only built-in models run; a
    runner that is named and does not work is an error. `image` is the container's, with a digest. `control_group` is a
    folder of the control group file system that was delegated to the node; by default it uses the group it runs in.
    `demand_control_group` says whether foreign code needs one.

    `processors` is the quota in processors, 0 for none; `cpus` binds workers to some of them ("2-3"); with `idle` they
    get only what nobody else wants. `processes` counts threads too. `temporary_bytes` is the size of the private
    ``/tmp``. `devices` are device files that study code may use (``/dev/nvidia0``), `folders` further folders that it
    may read: a driver's libraries, never data.

    `hours` are times of the week in `zone` at which workers may run ("Mon-Fri 19:00-06:00"), always where there are
    none. `pressure` says when they make room.
    """

    runner: Runner = "auto"
    image: Annotated[str, msgspec.Meta(pattern=r"^([a-z0-9][a-z0-9._/:-]{0,199}@sha256:[0-9a-f]{64})?$")] = ""
    control_group: Annotated[str, msgspec.Meta(pattern=r"^(/[A-Za-z0-9_./@:-]{1,254})?$")] = ""
    demand_control_group: bool = True
    processors: Annotated[float, msgspec.Meta(ge=0, le=4096)] = 0.0
    cpus: Annotated[str, msgspec.Meta(pattern=r"^([0-9]{1,4}(-[0-9]{1,4})?(,[0-9]{1,4}(-[0-9]{1,4})?){0,63})?$")] = ""
    idle: bool = True
    processes: Annotated[int, msgspec.Meta(ge=8, le=65536)] = 64
    temporary_bytes: Annotated[int, msgspec.Meta(ge=4096, le=1 << 34)] = 16 * 1024 * 1024
    devices: Annotated[tuple[_Path, ...], msgspec.Meta(max_length=64)] = ()
    folders: Annotated[tuple[_Path, ...], msgspec.Meta(max_length=64)] = ()
    hours: Annotated[tuple[Annotated[str, msgspec.Meta(max_length=100)], ...], msgspec.Meta(max_length=32)] = ()
    zone: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_+/-]{1,64}$")] = "UTC"
    pressure: Pressure = Pressure()
