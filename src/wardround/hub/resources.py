"""What a request to the hub is about: the study, run, bytes or key, with who takes part, as its policies see it."""

from collections.abc import Callable

import msgspec
from starlette.requests import Request

from wardround.authorization.request import Resource
from wardround.codec import canonical
from wardround.errors import CodecError
from wardround.hub.authentication import Caller
from wardround.hub.route import Subject
from wardround.hub.state import About, HubState
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


_MOST_KEPT = 4096
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


def _run_in_body(state: HubState, _caller: Caller | None, request: Request, body: bytes) -> About:
    """The run that a message is about."""
    return _of_run("Run", state, _named_in_body(request, body))


def _blob(state: HubState, caller: Caller | None, request: Request, _body: bytes) -> About:
    """Bytes in the scope that the address names: of a run, of a study, or of a new plan, which are the caller's."""
    scope = request.path_params["scope"]
    if scope == "new":
        return Resource("Blob", request.path_params["digest"][:64], owner=_name(caller)), {}
    return _of_run("Blob", state, scope) if "." in scope else _of_study("Blob", state, scope)


def _of_study(kind: str, state: HubState, name: str) -> About:
    def found() -> About:
        study = StudyId(digest_name(name))
        plan = state.studies.plan_of(study)
        return circumstances.resource_of(kind, study, plan, study), circumstances.of_plan(plan, study)

    return _kept(kind, state, name, found)


def _of_run(kind: str, state: HubState, name: str) -> About:
    def found() -> About:
        terms = state.coordinator.state(RunId(name)).terms
        plan = state.studies.plan_of(terms.study)
        resource = circumstances.resource_of(kind, name, plan, terms.study, terms.sites)
        return resource, circumstances.of_plan(plan, terms.study)

    return _kept(kind, state, name, found)


def _kept(kind: str, state: HubState, name: str, find: Callable[[], About]) -> About:
    """What is known of a study or run; it never changes, so it is found once."""
    if (known := state.abouts.get((kind, name))) is not None:
        return known
    about = find()
    if len(state.abouts) >= _MOST_KEPT:
        state.abouts.clear()
    state.abouts[kind, name] = about
    return about


def _named_in_path(name: str) -> Callable[[Request, bytes], str]:
    return lambda request, _: str(request.path_params[name])


def _named_in_body(_request: Request, body: bytes) -> str:
    try:
        return _OF_RUN.decode(body).run
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise CodecError(f"the message does not say which run it is about: {error}") from None


def _name(caller: Caller | None) -> str:
    return caller.name if caller is not None else ""


OWN_SITE = Subject("Site", _own_site)
OWN_KEY = Subject("Key", _own_key)
IDENTITY = Subject("Key", _identity)
ROSTERS = Subject("Roster", _roster)
LOG = Subject("AuditLog", _log)
STUDY = Subject("Study", _study, _named_in_path("study"))
PROPOSAL = Subject("Study", _proposal)
RUN = Subject("Run", _run, _named_in_path("run"))
RUN_OF_MESSAGE = Subject("Run", _run_in_body, _named_in_body)
BLOB = Subject("Blob", _blob, _named_in_path("scope"))
