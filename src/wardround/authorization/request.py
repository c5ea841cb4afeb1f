"""What a decision is asked about: who acts, what is done, on what, and under which circumstances; bounded and typed.

`entities` and `circumstances` write it as Cedar's JSON. Values are only ever strings, whole numbers, truths and lists
of strings, so that nothing from outside can be read as one of Cedar's escapes (``__entity``, ``__extn``), and what is
larger than a request of Wardround's can be is refused before it is written.

References:
    Cedar policy language, reference, "Entities syntax".
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from wardround.errors import CodecError

__all__ = [
    "ANYONE",
    "DEFAULTS",
    "NEVER",
    "Anyone",
    "Circumstances",
    "Machine",
    "Person",
    "Principal",
    "Request",
    "Resource",
    "Value",
    "cedar",
    "uid_of",
]

NEVER = 2**53 - 1
"""Seconds since a login, where nobody logged in."""
Value: TypeAlias = str | bool | int
Circumstances: TypeAlias = Mapping[str, Value]

_MAX_TEXT = 512
_MAX_ROLES = 16
_MAX_PARTICIPANTS = 4096
_MAX_CIRCUMSTANCES = 32
DEFAULTS: dict[str, Value] = {
    "logins": False,
    "person": False,
    "mfa": False,
    "auth_age": NEVER,
    "attested": False,
    "site": "",
}
"""Circumstances that every request has, as they are where nothing is said of them: the least of each."""


@dataclass(frozen=True, slots=True)
class Anyone:
    """Whoever asks without saying who they are."""

    uid: str = "anyone"


ANYONE = Anyone()


@dataclass(frozen=True, slots=True)
class Machine:
    """A machine whose enrolled key signed; `kind` is one of node, researcher, operator, hub and officer."""

    name: str
    kind: str
    site: str = ""


@dataclass(frozen=True, slots=True)
class Person:
    """A person who logged in, or, with an empty `issuer`, whoever runs a command where people do not log in."""

    name: str
    roles: tuple[str, ...]
    site: str = ""
    issuer: str = ""


Principal: TypeAlias = Anyone | Machine | Person


@dataclass(frozen=True, slots=True)
class Resource:
    """What is acted on; `kind` is an entity type of the schema."""

    kind: str
    name: str
    owner: str = ""
    study: str = ""
    participants: tuple[str, ...] = ()
    researcher: str = ""


@dataclass(frozen=True, slots=True)
class Request:
    """May `principal` do `action` to `resource` under these `circumstances`? What is not said of them is not known."""

    principal: Principal
    action: str
    resource: Resource
    circumstances: Circumstances = field(default_factory=dict)


def uid_of(principal: Principal) -> dict[str, str]:
    """A principal's Cedar name."""
    match principal:
        case Anyone(uid):
            return {"type": "Anyone", "id": uid}
        case Machine(name):
            return {"type": "Machine", "id": name}
        case Person(name, _, _, issuer):
            # Two issuers may give one name to two people.
            return {"type": "Person", "id": f"{issuer} {name}".strip()}


def cedar(request: Request) -> tuple[dict[str, Any], str]:
    """A request and its entities as Cedar takes them.

    Raises:
        CodecError: Something in it is larger than it may be, or of another type.
    """
    principal, resource = request.principal, request.resource
    who, what = uid_of(principal), {"type": resource.kind, "id": resource.name}
    _texts([who["id"], request.action, resource.kind, resource.name])
    entities = [_resource(what, resource)]
    if not isinstance(principal, Anyone):
        entities.append(_principal(who, principal))
    asked = {
        "principal": who,
        "action": {"type": "Action", "id": request.action},
        "resource": what,
        "context": json.dumps(_circumstances(request.circumstances)),
    }
    return asked, json.dumps(entities)


def _principal(uid: dict[str, str], principal: Machine | Person) -> dict[str, Any]:
    if isinstance(principal, Machine):
        attributes = {"name": principal.name, "site": principal.site}
        parents = [{"type": "Kind", "id": principal.kind}]
    else:
        if len(principal.roles) > _MAX_ROLES:
            raise CodecError(f"a person has at most {_MAX_ROLES} roles")
        attributes = {"name": principal.name, "site": principal.site, "issuer": principal.issuer}
        parents = [{"type": "Role", "id": role} for role in principal.roles]
    _texts([*attributes.values(), *(parent["id"] for parent in parents)])
    return {"uid": uid, "attrs": attributes, "parents": parents}


def _resource(uid: dict[str, str], resource: Resource) -> dict[str, Any]:
    if len(resource.participants) > _MAX_PARTICIPANTS:
        raise CodecError(f"a study has at most {_MAX_PARTICIPANTS} participants")
    _texts([resource.owner, resource.study, resource.researcher, *resource.participants])
    attributes = {
        "owner": resource.owner,
        "study": resource.study,
        "participants": list(resource.participants),
        "researcher": resource.researcher,
    }
    return {"uid": uid, "attrs": attributes, "parents": []}


def _circumstances(given: Circumstances) -> dict[str, Value]:
    if len(given) > _MAX_CIRCUMSTANCES:
        raise CodecError(f"a request has at most {_MAX_CIRCUMSTANCES} circumstances")
    for name, value in given.items():
        if isinstance(value, str):
            _texts([name, value])
        elif type(value) not in {bool, int}:
            raise CodecError("a circumstance is a text, a whole number, or true or false")
    return DEFAULTS | dict(given)


def _texts(values: Iterable[object]) -> None:
    for value in values:
        if not isinstance(value, str) or len(value) > _MAX_TEXT:
            raise CodecError(f"names are texts of at most {_MAX_TEXT} letters")
