"""Secure aggregation over HTTP: keys on their way between sites, and the steps of cohorts."""

from starlette.requests import Request
from starlette.responses import Response

from wardround.errors import CodecError
from wardround.hub import attestation_routes, waiting
from wardround.hub.authentication import Caller
from wardround.hub.problem import packed
from wardround.hub.state import HubState
from wardround.ids import Digest, RunId
from wardround.protocol import messages
from wardround.protocol.messages import CohortAnswer, PairAnswer, Receipt
from wardround.secagg.roster import RosterMember, SignedRoster

__all__ = ["answer", "cards", "evidence", "pair", "publish", "put_card", "roster"]


async def answer(request: Request, state: HubState, caller: Caller, body: bytes) -> Response:
    """Take a member's answer to a step, and hold the request for a moment for the next step."""
    said = messages.decode(body, CohortAnswer)

    def take() -> Receipt:
        attestation_routes.require_answer(state, caller.name, said)
        return state.coordinator.answer(caller.name, said)

    return packed(await waiting.with_next(request, state, caller.name, said.run, take))


async def pair(_: Request, state: HubState, caller: Caller, body: bytes) -> Response:
    """Take a site's part in setting up pair keys."""
    return packed(await state.threads(state.coordinator.pair, caller.name, messages.decode(body, PairAnswer)))


async def cards(_: Request, state: HubState, __: Caller, ___: bytes) -> Response:
    """Every site's public keys."""
    return packed(await state.threads(state.rosters.cards))


async def put_card(_: Request, state: HubState, caller: Caller, body: bytes) -> Response:
    """Take a site's public keys."""
    await state.threads(state.rosters.put_card, caller.name, messages.decode(body, RosterMember))
    return Response(status_code=204)


async def publish(_: Request, state: HubState, __: Caller, body: bytes) -> Response:
    """Take a signed roster."""
    await state.threads(state.rosters.publish, messages.decode(body, SignedRoster))
    return Response(status_code=204)


async def roster(request: Request, state: HubState, _: Caller, __: bytes) -> Response:
    """A signed roster by its digest."""
    return packed(await state.threads(state.rosters.signed, Digest(request.path_params["digest"])))


async def evidence(request: Request, state: HubState, _: Caller, __: bytes) -> Response:
    """A cohort's signed transcript."""
    run = RunId(request.path_params["run"])
    number, cohort = (_whole(request.path_params[name]) for name in ("number", "cohort"))
    return packed(await state.threads(state.coordinator.cohorts.evidence, run, number, cohort))


def _whole(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 9:
        raise CodecError("rounds and cohorts are whole numbers")
    return int(text)
