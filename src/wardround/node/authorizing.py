"""A site's own policies, put to everything that its node is asked to do and that its people do there.

    hub permits ─▶ hub sends a task ─▶ this site's policies ─▶ work
                                              │
    person at the node ───────────────────────┘ approves, grants, deletes, …

What the hub's policies allow is not asked here and cannot be: a hub that permits everything gets no further than these
policies let it. They are the ones that come with Wardround and the site's file ``policy.cedar``, which is read anew
when it changes; while it cannot be read or put in force, nothing is allowed.

References:
    `wardround.authorization` decides; ``docs/how-to/write-a-policy.md`` shows how such a file is written.
"""

import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal, TypeAlias

from wardround.authorization import shipped
from wardround.authorization.decide import Authorizer, Decision
from wardround.authorization.explain import explain, words
from wardround.authorization.request import Machine, Person, Principal, Request, Resource, Value
from wardround.authorization.statement import MAX_TEXT_BYTES
from wardround.errors import ConfigError, LoginError, PolicyError, StepUpError
from wardround.ids import Digest, RunId, SiteId, StudyId, study_of
from wardround.protocol.messages import Assignment, CohortTask, PairTask, Task
from wardround.protocol.plan import Plan
from wardround.services import circumstances
from wardround.services.circumstances import LoggedIn, is_strong

__all__ = ["FILE", "Authorizing", "Verdict"]

FILE = "policy.cedar"
Verdict: TypeAlias = Literal["approve", "refuse", "withdraw"]


class Authorizing:
    """One site's decisions about who may do what. May be shared by threads.

    Args:
        site: Whose they are.
        folder: The node's; its ``policy.cedar``, if there is one, adds to the shipped policies.
        logins: Whether people log in here. Where they do not, whoever runs a command acts for the site.
        strong: Whether a login had a second factor.
        on_decision: Told of every decision before anything follows from it; where it raises, nothing does.

    Raises:
        ConfigError: The site's policies cannot be put in force; with line and column.
    """

    def __init__(
        self,
        site: SiteId,
        folder: Path,
        *,
        logins: bool = False,
        strong: Callable[[LoggedIn], bool] = is_strong,
        on_decision: Callable[[Decision], None] = lambda _: None,
    ) -> None:
        self._site, self._path, self._logins = site, folder / FILE, logins
        self._strong, self._on_decision = strong, on_decision
        self._lock, self._flaw = threading.Lock(), ""
        self._mark = _mark(self._path)
        self._authorizer: Authorizer | None = shipped.site(_text(self._path))

    @property
    def digest(self) -> Digest:
        """The digest of the policies in force.

        Raises:
            PolicyError: The site's file cannot be put in force now.
        """
        return self._in_force().digest

    def decide_study(self, person: LoggedIn | str, verdict: Verdict, study: StudyId, plan: Plan, now: float) -> None:
        """Raise unless this person may decide so about this study; a plain name is of somebody who did not log in.

        Raises:
            PolicyError: They may not; says which policies say so.
            StepUpError: They may after a newer or stronger login.
            LoginError: People log in here, and this one did not.
        """
        resource = circumstances.resource_of("Study", study, plan, study)
        self.act(person, verdict, resource, now, known=circumstances.of_plan(plan, study))

    def asked(
        self, assignment: Assignment, plan: Plan, *, hub: str = "hub", attested: bool = False, consent: str = ""
    ) -> None:
        """Raise unless the hub may ask this site for this.

        Args:
            assignment: What the hub asks.
            plan: The approved plan of its study.
            hub: The hub's name.
            attested: Whether the hub has shown lately what it runs.
            consent: What consent the site's records for this study rest on, in the site's words; empty: not known.

        Raises:
            PolicyError: It may not; says which policies say so.
        """
        study = assignment.study
        match assignment:
            case Task():
                action = str(assignment.kind)
            case CohortTask():
                action = "mask"
            case PairTask():
                action = "pair"
        resource = circumstances.resource_of("Run", assignment.run, plan, study)
        known = circumstances.of_plan(plan, study) | {"attested": attested}
        self._require(Machine(hub, "hub"), action, resource, known | ({"consent": consent} if consent else {}))

    def audit(self, person: LoggedIn | str, run: RunId, plan: Plan, now: float) -> None:
        """Raise unless this person may hand in what an audit came to.

        Raises:
            PolicyError: They may not. And as `decide_study` does.
        """
        study = study_of(run)
        resource = circumstances.resource_of("Run", run, plan, study)
        self.act(person, "hand_in_audit", resource, now, known=circumstances.of_plan(plan, study))

    def own(self, person: LoggedIn | str, action: str, kind: str, name: str, now: float) -> None:
        """Raise unless this person may do this to something of the site's own.

        Args:
            person: Who; a plain name is of somebody who did not log in.
            action: Such as grant_budget, read_data, rotate_key, change_policy, export_audit, delete.
            kind: What sort of thing: Budget, Dataset, Key, Policy, AuditLog, Model, Site, ….
            name: Which one.
            now: Seconds since 1970 UTC.

        Raises:
            PolicyError: They may not. And as `decide_study` does.
        """
        self.act(person, action, Resource(kind, name, owner=self._site), now)

    def code(self, person: LoggedIn | str, package: Digest, researcher: str, now: float) -> None:
        """Raise unless this person may approve this researcher's study code.

        Raises:
            PolicyError: They may not. And as `decide_study` does.
        """
        self.act(person, "approve_code", Resource("Package", package, researcher=researcher), now)

    def act(
        self,
        person: LoggedIn | str,
        action: str,
        resource: Resource,
        now: float,
        *,
        known: Mapping[str, Value] | None = None,
    ) -> None:
        """Raise unless this person may do this; the other methods say it in fewer words.

        Raises:
            PolicyError: They may not; says which policies say so.
            StepUpError: They may after a newer or stronger login.
            LoginError: People log in here, and this one did not.
        """
        # Where a name is believed, its login has no issuer; where people log in, it is not enough.
        if isinstance(person, str) or not person.issuer:
            name = person if isinstance(person, str) else person.subject
            if self._logins:
                raise LoginError(f"people log in at this node; {name} has not")
            principal, login = Person(name, (), self._site), None
        else:
            principal, login = circumstances.named(person), person
        strong = login is not None and self._strong(login)
        told = circumstances.of_login(login, strong=strong, logins=self._logins, now=now)
        self._require(principal, action, resource, dict(known or {}) | told)

    def _require(self, principal: Principal, action: str, resource: Resource, known: Mapping[str, Value]) -> None:
        authorizer = self._in_force()
        request = Request(principal, action, resource, dict(known) | {"site": self._site})
        decision = authorizer.decide(request)
        self._on_decision(decision)
        if decision.allowed:
            return
        if decision.step_up:
            raise StepUpError(f"{action} takes a login with a second factor that is at most 15 minutes old")
        raise PolicyError("; ".join(line.strip() for line in words(explain(authorizer, request))))

    def _in_force(self) -> Authorizer:
        with self._lock:
            mark = _mark(self._path)
            if mark != self._mark:
                self._authorizer, self._mark = None, mark
                try:
                    self._authorizer = shipped.site(_text(self._path))
                except ConfigError as error:
                    self._flaw = str(error)
            if self._authorizer is None:
                raise PolicyError(f"nothing is allowed while this site's policies cannot be put in force: {self._flaw}")
            return self._authorizer


def _mark(path: Path) -> tuple[int, ...]:
    """What changes when the file does."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return ()
    except OSError as error:
        raise ConfigError(f"{path.name} cannot be read: {error.strerror}") from None
    return (found.st_mtime_ns, found.st_size, found.st_ino)


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_TEXT_BYTES + 1)
        return data.decode()
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path.name} cannot be read as UTF-8 text: {type(error).__name__}") from None
