"""What a request to the hub is about: the study, run, bytes or key, with who takes part, as its policies see it."""

import msgspec
from starlette.requests import Request

from wardround.authorization.request import Resource
from wardround.codec import canonical
from wardround.errors import CodecError
from wardround.hub.authentication import Caller
from wardround.hub.route import About, Subject
from wardround.hub.state import HubState
from wardround.ids import RunId, StudyId, digest_name, site_id
from wardround.protocol import messages
from wardround.protocol.messages import Proposal
from wardround.services import circumstances

__all__ = [
    "BLOB",
    "IDENTITY",
    "LOG",
    "OWN_KEY",
    "OWN_SITE",
    "PROPOSAL",
    "ROSTERS",
    "RUN",
    "RUN_OF_MESSAGE",
    "STUDY",
]


class _OfRun(msgspec.Struct):
    """The one field that this needs of a message about a run; the rest is its handler's to check."""

    run: str


_OF_RUN = msgspec.msgpack.Decoder(_OfRun)


def _own_site(_state: HubState, caller: Caller | None, _request: Request, _body: bytes) -> About:
    """The caller's site."""
    return Resource("Site", _name(caller), owner=_name(caller)), {}


def _own_key(_state: HubState, caller: Caller | None, _request: Request, _body: bytes) -> About:
    """The caller's own key."""
    return Resource("Key", _name(caller), owner=_name(caller)), {}


def _identity(_state: HubState, _caller: Caller | None, request: Request, _body: bytes) -> About:
    """The key of the name in the address."""
    name = site_id(request.path_params["name"])
    return Resource("Key", name, owner=name), {}


def _roster(_state: HubState, _caller: Caller | None, _request: Request, _body: bytes) -> About:
    """The federation's rosters."""
    return Resource("Roster", "rosters"), {}


def _log(_state: HubState, _caller: Caller | None, _request: Request, _body: bytes) -> About:
    """The hub's audit log."""
    return Resource("AuditLog", "hub"), {}


def _study(state: HubState, _caller: Caller | None, request: Request, _body: bytes) -> About:
    """The study in the address."""
    return _of_study("Study", state, request.path_params["study"])


def _proposal(_state: HubState, _caller: Caller | None, _request: Request, body: bytes) -> About:
    """The study that is proposed; its researcher is whom the proposal names, which its signature will have to show."""
    signed = messages.decode(body, Proposal).signed
    study = canonical.digest(signed.plan)
    return Resource("Study", study, study=study, researcher=signed.researcher), {}


def _run(state: HubState, _caller: Caller | None, request: Request, _body: bytes) -> About:
    """The run in the address."""
    return _of_run("Run", state, request.path_params["run"])


def _run_in_body(state: HubState, _caller: Caller | None, _request: Request, body: bytes) -> About:
    """The run that a message is about."""
    try:
        run = _OF_RUN.decode(body).run
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise CodecError(f"the message does not say which run it is about: {error}") from None
    return _of_run("Run", state, run)


def _blob(state: HubState, caller: Caller | None, request: Request, _body: bytes) -> About:
    """Bytes in the scope that the address names: of a run, of a study, or of a new plan, which are the caller's."""
    scope = request.path_params["scope"]
    if scope == "new":
        return Resource("Blob", request.path_params["digest"][:64], owner=_name(caller)), {}
    return _of_run("Blob", state, scope) if "." in scope else _of_study("Blob", state, scope)


def _of_study(kind: str, state: HubState, name: str) -> About:
    study = StudyId(digest_name(name))
    plan = state.studies.plan_of(study)
    return circumstances.resource_of(kind, study, plan, study), circumstances.of_plan(plan, study)


def _of_run(kind: str, state: HubState, name: str) -> About:
    terms = state.coordinator.state(RunId(name)).terms
    plan = state.studies.plan_of(terms.study)
    resource = circumstances.resource_of(kind, name, plan, terms.study, terms.sites)
    return resource, circumstances.of_plan(plan, terms.study)


def _name(caller: Caller | None) -> str:
    return caller.name if caller is not None else ""


OWN_SITE = Subject("Site", _own_site)
OWN_KEY = Subject("Key", _own_key)
IDENTITY = Subject("Key", _identity)
ROSTERS = Subject("Roster", _roster)
LOG = Subject("AuditLog", _log)
STUDY = Subject("Study", _study, looks_up=True)
PROPOSAL = Subject("Study", _proposal)
RUN = Subject("Run", _run, looks_up=True)
RUN_OF_MESSAGE = Subject("Run", _run_in_body, looks_up=True)
BLOB = Subject("Blob", _blob, looks_up=True)
