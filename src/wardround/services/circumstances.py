"""What policies are told, at the hub and at sites alike: of a study's plan, and of a person's login.

A plan's members become attributes of what is acted on; its terms, and how somebody logged in, become circumstances.
"""

from collections.abc import Collection, Iterable
from typing import Protocol

from wardround.authorization.request import NEVER, Person, Resource, Value
from wardround.protocol.plan import CodePackage, Plan

__all__ = ["LoggedIn", "is_strong", "named", "of_login", "of_plan", "resource_of", "shown"]

_STRONG = frozenset({"hwk", "mfa"})


class LoggedIn(Protocol):
    """A person whose token was checked. `auth_time` is in seconds since 1970 UTC."""

    @property
    def subject(self) -> str:
        """Their name at the issuer."""
        ...

    @property
    def issuer(self) -> str:
        """Who says so."""
        ...

    @property
    def roles(self) -> Collection[str]:
        """What they are here."""
        ...

    @property
    def site(self) -> str:
        """Whose they are; empty for the hub's own."""
        ...

    @property
    def acr(self) -> str:
        """How well they showed who they are, in the issuer's word."""
        ...

    @property
    def amr(self) -> Collection[str]:
        """By which means (RFC 8176)."""
        ...

    @property
    def auth_time(self) -> float:
        """When they last showed it."""
        ...


def is_strong(person: LoggedIn) -> bool:
    """Whether a person logged in with a second factor, by the means that the issuer names."""
    means = frozenset(person.amr)
    return bool(means & _STRONG) or means >= {"pwd", "otp"}


def shown(person: LoggedIn | str) -> str:
    """A person as a signed decision names them: by what their issuer calls them, or the name that was believed."""
    return person if isinstance(person, str) else person.subject


def named(person: LoggedIn) -> Person:
    """A person as policies know them."""
    return Person(person.subject, tuple(sorted(person.roles)), person.site, person.issuer)


def of_login(person: LoggedIn | None, *, strong: bool, logins: bool, now: float) -> dict[str, Value]:
    """The circumstances of a login; `logins` says whether people log in here at all."""
    age = now - person.auth_time if person is not None else -1.0
    return {
        "logins": logins,
        "person": person is not None,
        "mfa": strong,
        # A login in the future is none: its clock, or its issuer, is not to be believed.
        "auth_age": int(age) if 0.0 <= age < NEVER else NEVER,
    }


def of_plan(plan: Plan, study: str) -> dict[str, Value]:
    """The circumstances of whatever is done about this study."""
    return {
        "study": study,
        "purpose": plan.purpose[:512],
        "legal_basis": plan.legal_basis[:512],
        "participants": len(plan.participants),
        "rounds": plan.training.rounds,
        "secure": plan.secure is not None,
        "private": plan.privacy is not None,
        "study_code": isinstance(plan.model, CodePackage),
    }


def resource_of(kind: str, name: str, plan: Plan, study: str, participants: Iterable[str] | None = None) -> Resource:
    """Something of a study; `participants` are the plan's unless a run has fewer."""
    members = plan.participants if participants is None else participants
    return Resource(kind, name, study=study, participants=tuple(members), researcher=plan.researcher)
