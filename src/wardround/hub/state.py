"""What one running hub holds: its services, storage, threads, bell and counters."""

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import ParamSpec, TypeAlias, TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from wardround.auditing import Auditing
from wardround.authorization import shipped
from wardround.authorization.decide import Authorizer, Decision
from wardround.authorization.request import Resource, Value
from wardround.config import HubConfig
from wardround.hub.attesting import Attesting
from wardround.hub.authentication import Authentication, People
from wardround.hub.bell import Bell
from wardround.hub.log_post import LogPost
from wardround.hub.people import HubPeople
from wardround.ids import SiteId
from wardround.ports import Blobs, Clock
from wardround.services.circumstances import LoggedIn, is_strong
from wardround.services.coordinator import Coordinator
from wardround.services.enrolment import Enrolments
from wardround.services.rosters import Rosters
from wardround.services.studies import Studies

__all__ = ["About", "HubState", "Metrics"]

About: TypeAlias = tuple[Resource, dict[str, Value]]
"""What is acted on, and what is known of the study that it belongs to."""
_P = ParamSpec("_P")
_T = TypeVar("_T")


class Metrics:
    """Prometheus counters; labels are routes and error codes, never names of people or values."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        on = self.registry
        self.requests = Counter("wardround_requests", "Requests by route and status.", ["route", "status"], registry=on)
        self.refusals = Counter("wardround_refusals", "Refused requests by error code.", ["code"], registry=on)
        self.uploaded = Counter("wardround_uploaded_bytes", "Bytes taken from sites and researchers.", registry=on)
        self.downloaded = Counter("wardround_downloaded_bytes", "Bytes sent to sites and researchers.", registry=on)
        self.rounds = Counter("wardround_rounds", "Rounds combined.", registry=on)
        self.set_aside = Counter("wardround_updates_set_aside", "Updates that screening set aside.", registry=on)
        self.combine_seconds = Histogram("wardround_combine_seconds", "Time to combine a round.", registry=on)
        self.active_runs = Gauge("wardround_active_runs", "Runs that have not ended.", registry=on)


@dataclass(slots=True)
class HubState:
    """One running hub.

    `authorizer` has the policies in force. `on_decision` is told every decision before anything follows from it, off
    the event loop; where it raises, nothing follows; of those that are routine it need not be told. `people` checks
    people's tokens, `strong` says whether a login had a second factor, `attested` whether a machine has shown what it
    runs, `attesting` what is demanded of machines.
    `login_challenge` is what a refused login is told to do (RFC 9470). `login` is where people log in here, if they do.
    `auditing` writes the audit log, and `log` has it witnessed. `abouts` holds runs and studies as policies see them.
    """

    config: HubConfig
    clock: Clock
    blobs: Blobs
    authority: bytes
    enrolments: Enrolments
    authentication: Authentication
    coordinator: Coordinator
    studies: Studies
    rosters: Rosters
    bell: Bell
    executor: ThreadPoolExecutor
    metrics: Metrics = field(default_factory=Metrics)
    authorizer: Authorizer = field(default_factory=shipped.hub)
    on_decision: Callable[[Decision], None] | None = None
    is_routine: Callable[[Decision], bool] = lambda _: False
    auditing: Auditing | None = None
    log: LogPost | None = None
    people: People | None = None
    login: HubPeople | None = None
    strong: Callable[[LoggedIn], bool] = is_strong
    attested: Callable[[SiteId], bool] = lambda _: False
    attesting: Attesting | None = None
    login_challenge: str = 'DPoP error="insufficient_user_authentication", max_age="900"'
    abouts: dict[tuple[str, str], About] = field(default_factory=dict)
    _uploads: dict[str, asyncio.Lock] = field(default_factory=dict)

    @property
    def public_url(self) -> str:
        """The address that requests are sent to."""
        return self.config.url

    def is_strong(self, person: LoggedIn) -> bool:
        """Whether a person logged in with a second factor."""
        return self.strong(person)

    def is_attested(self, name: SiteId) -> bool:
        """Whether a machine has shown lately what it runs."""
        return self.attested(name)

    async def threads(self, call: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """Call something that blocks, off the event loop."""
        return await asyncio.get_running_loop().run_in_executor(self.executor, lambda: call(*args, **kwargs))

    async def uploading(self, name: str, call: Callable[[], _T]) -> _T:
        """Call something about the upload `name` while nobody writes to it."""
        async with self.exclusive(name):
            return await self.threads(call)

    @asynccontextmanager
    async def exclusive(self, name: str) -> AsyncIterator[None]:
        """Hold the upload `name` alone."""
        lock = self._uploads.setdefault(name, asyncio.Lock())
        async with lock:
            yield
        if not lock.locked():
            self._uploads.pop(name, None)
