"""How this node's workers are started: in the site's sandbox, for the share of the machine that the site gives.

The launcher is made once, when it is first needed: finding out what the machine can contain takes a moment.
"""

import threading
from collections.abc import Callable

import structlog

from wardround.clinical.table import StudyTable
from wardround.ids import SiteId
from wardround.ports import Containment, Launcher, Violation, Worker
from wardround.protocol.plan import Plan
from wardround.sandbox import choice
from wardround.sandbox.courtesy import Decision
from wardround.sandbox.settings import SandboxSettings

__all__ = ["Workers"]

_log = structlog.get_logger("wardround.node")


class Workers:
    """Starts workers; `report` is told what contained code tried, before anything follows from it."""

    def __init__(
        self, site: SiteId, settings: SandboxSettings, *, report: Callable[[Plan, Violation], None] = lambda *_: None
    ) -> None:
        self._site, self._settings, self._report = site, settings, report
        self._lock = threading.Lock()
        self._launcher: Launcher | None = None

    @property
    def containment(self) -> Containment:
        """What contains foreign code here, in words."""
        return self._chosen().containment

    def require(self, plan: Plan) -> None:
        """Refuse a plan whose code nothing here can contain; to be asked before its records are read.

        Raises:
            SandboxError: Nothing here can.
        """
        choice.require(plan, self._chosen())

    def __call__(self, plan: Plan, table: StudyTable, package: bytes | None) -> Worker:
        """Start a run's worker.

        Raises:
            SandboxError: The plan brings code that nothing here can contain.
        """
        from wardround.training.worker import PytorchWorker

        self.require(plan)

        def told(violation: Violation) -> None:
            _log.warning("study code broke a rule", code=violation.kind)
            self._report(plan, violation)

        return PytorchWorker(plan, self._site, table, package, launcher=self._chosen(), report=told)

    def _chosen(self) -> Launcher:
        from wardround.training.process import PlainLauncher

        with self._lock:
            if self._launcher is None:
                self._launcher = choice.choose(self._settings, PlainLauncher(), changed=_changed)
            return self._launcher


def _changed(decision: Decision) -> None:
    if decision.runs:
        _log.info("training goes on", reason=decision.reason)
    else:
        _log.info("training makes room", reason=decision.reason)
