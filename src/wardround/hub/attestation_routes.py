"""The hub's addresses for attestation and keys, and what they change about the others.

`ADDRESSES` are those of `wardround.hub.broker_routes`, each put to the policies before its handler runs: the signature
over a request says which site asks, and the headers `authorization` and `cookie` here only which attestation is meant.
"""

import hashlib
from collections.abc import Awaitable, Callable
from functools import partial

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message

from wardround.codec import canonical
from wardround.errors import AttestationError, NotFoundError
from wardround.hub import broker_routes, resources
from wardround.hub.attesting import ADMITTED, check_plan
from wardround.hub.authentication import Caller
from wardround.hub.broker_routes import Desk
from wardround.hub.route import Address, Handler, body_of, permit, target_of
from wardround.hub.state import HubState
from wardround.ids import RunId, SiteId, study_of
from wardround.protocol import messages
from wardround.protocol.messages import CohortAnswer, Contribution, Proposal
from wardround.protocol.plan import Plan
from wardround.secagg.messages import Unmaskable

__all__ = ["ADDRESSES", "proposing", "require", "require_answer", "require_contribution"]

_KEY_PATH = "/kbs/v0/resource/"


def proposing(handler: Handler) -> Handler:
    """`handler` of proposals, once this hub can do what the proposed plan demands of machines.

    Raises (the handler):
        CodecError: It cannot.
    """

    async def handle(request: Request, state: HubState, caller: Caller, body: bytes) -> Response:
        plan = canonical.decode(messages.decode(body, Proposal).signed.plan, Plan)
        if state.attesting is not None:
            state.attesting.check_plan(plan)
        else:
            check_plan(plan, checks_nodes=False, proves_itself=False)
        return await handler(request, state, caller, body)

    return handle


def require_contribution(state: HubState, site: SiteId, contribution: Contribution) -> None:
    """Raise unless a site's contribution may be taken; that it takes no part may be said by any machine of it.

    Raises:
        AttestationError: The plan demands a proof that the site has not given, or that ended.
        NotFoundError: There is no such study.
    """
    says_more = contribution.update or contribution.evaluation or contribution.records or contribution.nonce
    if not contribution.declined or says_more or contribution.update_inline:
        require(state, site, contribution.run)


def require_answer(state: HubState, site: SiteId, said: CohortAnswer) -> None:
    """Raise unless a site's answer to a step of its cohort may be taken; as `require_contribution`."""
    if not isinstance(said.answer, Unmaskable) or said.inline:
        require(state, site, said.run)


def require(state: HubState, site: SiteId, run: RunId) -> None:
    """Raise unless what `site` sends for `run` may be taken now.

    Raises:
        AttestationError: The plan demands a proof that the site has not given, or that ended; or that this hub, as it
            is set up now, could not check.
        NotFoundError: There is no such study.
    """
    if state.attesting is not None:
        state.attesting.require(site, run)
        return
    enclaves = state.studies.plan_of(study_of(run)).enclaves
    if enclaves is not None and enclaves.nodes is not None:
        raise AttestationError("the plan demands proofs of nodes, and this hub is not set up to check them any more")


def _desk(request: Request) -> Desk:
    state: HubState = request.app.state.hub
    if state.attesting is None:
        raise NotFoundError("this hub is not set up for attestation")
    return state.attesting.desk(request)


async def _handle(
    endpoint: Callable[[Request], Awaitable[Response]], address: Address, request: Request, state: HubState
) -> Response:
    body = await body_of(request)
    digest = hashlib.sha256(body).digest()
    caller = state.authentication.check(request.method, target_of(request), request.headers, content=digest)
    await state.threads(permit, request, state, caller, str(address.action), address.subject, body)

    async def again() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    return await endpoint(Request({**request.scope, ADMITTED: caller.name}, again))


ADDRESSES: tuple[Address, ...] = tuple(
    Address(
        "GET" if "GET" in (route.methods or ()) else "POST",
        route.path,
        "fetch_key" if route.path.startswith(_KEY_PATH) else "attest",
        partial(_handle, route.endpoint),
        resources.OWN_KEY,
    )
    for route in broker_routes.routes(_desk, boundary=lambda endpoint: endpoint)
)
