"""Requests that are held until there is something to do for the site that asks."""

import time
from contextlib import suppress

import msgspec
from starlette.requests import Request

from wardround.errors import PeerProtocolError
from wardround.hub.state import HubState
from wardround.ids import RunId, SiteId
from wardround.protocol.messages import Assignment, Receipt, TaskRequest

__all__ = ["IDLE_SECONDS", "MAX_HOLD_SECONDS", "for_assignment", "with_next"]

MAX_HOLD_SECONDS = 55.0
IDLE_SECONDS = 5.0
_NEXT_SECONDS = 2.0


async def for_assignment(
    request: Request, state: HubState, site: SiteId, asked: TaskRequest, seconds: float
) -> Assignment | None:
    """What `site` is to do next, waiting up to `seconds` for it; or None."""
    until = time.monotonic() + seconds
    with state.bell.listen(site) as place:
        while True:
            found = await state.threads(state.coordinator.next_task, site, asked)
            left = until - time.monotonic()
            if found is not None or left <= 0:
                return found
            # Wakes now and then without a ring too, so that a site that waits counts as present.
            await place.rung(min(left, IDLE_SECONDS))
            if state.bell.is_closing or await request.is_disconnected():
                return None


async def with_next(request: Request, state: HubState, site: SiteId, run: RunId, receipt: Receipt) -> Receipt:
    """The receipt with what the run has for the site next, which saves it a request.

    It comes within moments, or the site asks for it in the ordinary way.
    """
    if receipt.outcome != "accepted":
        return receipt
    with suppress(PeerProtocolError):  # The run has ended.
        found = await for_assignment(request, state, site, TaskRequest(run=run), _NEXT_SECONDS)
        return msgspec.structs.replace(receipt, next=found) if found is not None else receipt
    return receipt
