"""Studies and runs over HTTP: proposed, decided, started, released, watched."""

import time
from typing import Literal

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from wardround.errors import CodecError
from wardround.hub import waiting
from wardround.hub.authentication import Caller
from wardround.hub.problem import packed
from wardround.hub.state import HubState
from wardround.ids import RunId, StudyId
from wardround.protocol import messages
from wardround.protocol.messages import Audit, Decision, Proposal
from wardround.protocol.study import Phase

__all__ = ["Action", "act", "asked_action", "audit", "decide", "listed", "plan", "propose", "run"]


class Action(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a researcher does with a study of theirs."""

    action: Literal["start", "release", "withdraw"]
    reason: str = ""


def asked_action(_: Request, body: bytes) -> str:
    """The action that a researcher asks for; withdrawing where that is unclear, which `act` then refuses to read."""
    try:
        return messages.decode(body, Action).action
    except CodecError:
        return "withdraw"


async def listed(_: Request, state: HubState, caller: Caller, __: bytes) -> Response:
    """The studies that name the caller."""
    return packed(await state.threads(state.studies.concerning, caller.name))


async def propose(_: Request, state: HubState, caller: Caller, body: bytes) -> Response:
    """Take a researcher's signed plan."""
    return packed(await state.threads(state.studies.propose, caller.name, messages.decode(body, Proposal)))


async def plan(request: Request, state: HubState, _: Caller, __: bytes) -> Response:
    """A study's signed plan, for those whom it names."""
    return packed(await state.threads(state.studies.signed_plan, StudyId(request.path_params["study"])))


async def decide(request: Request, state: HubState, caller: Caller, body: bytes) -> Response:
    """Take a site's decision."""
    decision = messages.decode(body, Decision)
    if decision.study != request.path_params["study"]:
        raise CodecError("the decision is about another study than the address")
    return packed(await state.threads(state.studies.decide, caller.name, decision))


async def audit(request: Request, state: HubState, caller: Caller, body: bytes) -> Response:
    """Take what a site's audit came to."""
    said = messages.decode(body, Audit)
    if said.study != request.path_params["study"]:
        raise CodecError("the audit is of another study than the address")
    return packed(await state.threads(state.studies.audit, caller.name, said))


async def act(request: Request, state: HubState, caller: Caller, body: bytes) -> Response:
    """Start, release or withdraw a study."""
    study, asked = StudyId(request.path_params["study"]), messages.decode(body, Action)
    if asked.action == "start":
        return packed(await state.threads(state.studies.start, caller.name, study))
    outcome = Phase.RELEASED if asked.action == "release" else Phase.WITHDRAWN
    return packed(await state.threads(state.studies.finish, caller.name, study, outcome, asked.reason))


async def run(request: Request, state: HubState, _: Caller, __: bytes) -> Response:
    """A run's state and new events; held until there is a new one, or its time is up."""
    name = RunId(request.path_params["run"])
    after, wait = _number(request, "after"), _number(request, "wait")
    until = time.monotonic() + min(wait, waiting.MAX_HOLD_SECONDS)
    with state.bell.listen(name) as place:
        while True:
            status = await state.threads(state.coordinator.status, name, after=int(after))
            left = until - time.monotonic()
            if status.events or left <= 0 or state.bell.is_closing:
                return packed(status)
            await place.rung(left)


def _number(request: Request, name: str) -> float:
    text = request.query_params.get(name, "0")
    if not text.replace(".", "", 1).isdigit() or len(text) > 12:
        raise CodecError(f"{name} must be a number")
    return float(text)
