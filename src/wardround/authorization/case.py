"""Test cases for policies: who may do what to what, said beforehand, and compared with what the policies decide.

A file of cases is TOML::

    [[case]]
    name = "a steward approves after logging in again"
    principal = { person = "eva", roles = ["steward"], site = "arran", issuer = "https://login.arran.example" }
    action = "approve"
    resource = { kind = "Study", name = "stroke", participants = ["arran", "bute"], researcher = "ada" }
    context = { site = "arran", logins = true, person = true, mfa = true, auth_age = 60 }
    expect = "allow"
    policy = "steward-decides"
"""

import tomllib
from dataclasses import dataclass
from typing import Literal

import msgspec

from wardround.authorization.decide import Authorizer
from wardround.authorization.request import ANYONE, Machine, Person, Principal, Request, Resource
from wardround.errors import ConfigError

__all__ = ["Case", "Outcome", "Row", "read", "run"]

_MAX_CASES = 10_000
_MAX_TEXT = 1024 * 1024


class Who(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A principal: a `person` with roles, a `machine` with its kind, or neither, which is anyone."""

    person: str = ""
    roles: tuple[str, ...] = ()
    issuer: str = ""
    machine: str = ""
    kind: str = ""
    site: str = ""


class What(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What is acted on."""

    kind: str
    name: str = ""
    owner: str = ""
    study: str = ""
    participants: tuple[str, ...] = ()
    researcher: str = ""


class Case(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a policy is expected to decide; `policy` names one that must be among the reasons."""

    name: str
    principal: Who = Who()
    action: str
    resource: What
    context: dict[str, str | bool | int] = {}
    expect: Literal["allow", "deny"]
    policy: str = ""


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    case: tuple[Case, ...]


@dataclass(frozen=True, slots=True)
class Row:
    """A case and what was decided."""

    name: str
    expect: str
    found: str
    policy: str
    reasons: tuple[str, ...]
    diagnostics: tuple[str, ...]
    holds: bool


@dataclass(frozen=True, slots=True)
class Outcome:
    """All cases, and the policies that decided in none of them."""

    rows: tuple[Row, ...]
    untested: tuple[str, ...]

    @property
    def holds(self) -> bool:
        """Whether every case came out as expected and every policy decided once."""
        return all(row.holds for row in self.rows) and not self.untested


def read(text: str) -> tuple[Case, ...]:
    """The cases of a file.

    Raises:
        ConfigError: It is no such file; says where.
    """
    if len(text) > _MAX_TEXT:
        raise ConfigError(f"a file of cases has at most {_MAX_TEXT:,} letters")
    try:
        found = msgspec.convert(tomllib.loads(text), _File)
    except (tomllib.TOMLDecodeError, msgspec.ValidationError, RecursionError) as error:
        raise ConfigError(f"the file of cases cannot be read: {error}") from None
    if not 1 <= len(found.case) <= _MAX_CASES:
        raise ConfigError(f"a file has 1 to {_MAX_CASES:,} cases, this has {len(found.case):,}")
    return found.case


def run(authorizer: Authorizer, cases: tuple[Case, ...], *, tested: frozenset[str]) -> Outcome:
    """Decide every case; each policy named in `tested` must decide one that comes out as expected."""
    rows = tuple(_row(authorizer, case) for case in cases)
    hit = {reason for row in rows if row.holds for reason in row.reasons}
    return Outcome(rows, tuple(sorted(tested - hit)))


def _row(authorizer: Authorizer, case: Case) -> Row:
    what = case.resource
    resource = Resource(what.kind, what.name, what.owner, what.study, what.participants, what.researcher)
    decision = authorizer.decide(Request(_principal(case), case.action, resource, case.context))
    found = "allow" if decision.allowed else "deny"
    # A case that does not fit the schema is denied too; that is a mistake in the case and shows nothing.
    holds = found == case.expect and not decision.diagnostics and (not case.policy or case.policy in decision.reasons)
    return Row(case.name, case.expect, found, case.policy, decision.reasons, decision.diagnostics, holds)


def _principal(case: Case) -> Principal:
    who = case.principal
    if who.person and who.machine:
        raise ConfigError(f"the case {case.name!r} has a person and a machine; a principal is one of them")
    if who.person:
        return Person(who.person, who.roles, who.site, who.issuer)
    return Machine(who.machine, who.kind, who.site) if who.machine else ANYONE
