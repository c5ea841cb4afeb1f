"""Which launcher a node uses, and what may run in it."""

import dataclasses
from collections.abc import Callable

from wardround.errors import SandboxError
from wardround.ports import Launcher
from wardround.protocol.plan import CodePackage, Plan
from wardround.sandbox.bubblewrap import Bubblewrap
from wardround.sandbox.container import Container
from wardround.sandbox.courtesy import Decision
from wardround.sandbox.guard import Guard
from wardround.sandbox.settings import SandboxSettings

__all__ = ["choose", "require"]


def choose(
    settings: SandboxSettings, plain: Launcher, *, changed: Callable[[Decision], None] = lambda _decision: None
) -> Guard:
    """The launcher that the site's settings ask for; `plain` contains nothing, and is what is left where they allow it.

    Raises:
        SandboxError: The runner that is named does not work on this machine.
        ConfigError: A setting is wrong.
    """
    return Guard(_contained(settings, plain), settings, changed=changed)


def require(plan: Plan, launcher: Launcher) -> None:
    """Refuse a plan whose code nothing here can contain.

    Raises:
        SandboxError: The plan brings code of its own, and the launcher does not contain it.
    """
    contained = launcher.containment
    if isinstance(plan.model, CodePackage) and not contained.contains_foreign_code:
        raise SandboxError(
            f"this node runs built-in models only: the plan brings study code, which {contained.name} does not contain "
            f"({'; '.join(contained.open_ways)[:300]})"
        )


def _contained(settings: SandboxSettings, plain: Launcher) -> Launcher:
    match settings.runner:
        case "none":
            return plain
        case "docker" | "podman":
            return Container(settings)
        case "bubblewrap":
            return Bubblewrap(settings)
        case "auto":
            try:
                return Bubblewrap(settings)
            except SandboxError as error:
                return _Explained(plain, str(error))


class _Explained:
    """A launcher that says why it is no better one."""

    def __init__(self, launcher: Launcher, why: str) -> None:
        self.start = launcher.start
        known = launcher.containment
        self.containment = dataclasses.replace(known, open_ways=(why, *known.open_ways))
