"""Requests that are held until there is something to do for the site that asks."""

import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

import msgspec
from starlette.requests import Request

from wardround.errors import PeerProtocolError
from wardround.hub.state import HubState
from wardround.ids import RunId, SiteId
from wardround.protocol.messages import Assignment, Receipt, TaskRequest

if TYPE_CHECKING:
    from wardround.hub.bell import Listening

__all__ = ["IDLE_SECONDS", "MAX_HOLD_SECONDS", "for_assignment", "with_next"]

MAX_HOLD_SECONDS = 55.0
IDLE_SECONDS = 5.0
_NEXT_SECONDS = 2.0


async def for_assignment(
    request: Request, state: HubState, site: SiteId, asked: TaskRequest, seconds: float
) -> Assignment | None:
    """What `site` is to do next, waiting up to `seconds` for it; or None."""
    with state.bell.listen(site, ignoring=asked.busy) as place:
        found = await state.threads(state.coordinator.next_task, site, asked)
        return found or await _rung(request, state, site, asked, seconds, place)


async def with_next(
    request: Request, state: HubState, site: SiteId, run: RunId, take: Callable[[], Receipt]
) -> Receipt:
    """What `take` answers to a message of `site`, with what the run has for it next, which saves it a request.

    That comes within moments, or the site asks for it in the ordinary way. `take` is called off the event loop.
    """
    asked = TaskRequest(run=run)

    def taken() -> tuple[Receipt, Assignment | None, bool]:
        receipt = take()
        if receipt.outcome != "accepted":
            return receipt, None, False
        with suppress(PeerProtocolError):  # The run has ended.
            return receipt, state.coordinator.next_task(site, asked), True
        return receipt, None, False

    with state.bell.listen(site) as place:
        receipt, found, may_wait = await state.threads(taken)
        if found is None and may_wait:
            with suppress(PeerProtocolError):
                found = await _rung(request, state, site, asked, _NEXT_SECONDS, place)
    return msgspec.structs.replace(receipt, next=found) if found is not None else receipt


async def _rung(
    request: Request, state: HubState, site: SiteId, asked: TaskRequest, seconds: float, place: "Listening"
) -> Assignment | None:
    """What `site` is to do, looked for again whenever the bell rings, for up to `seconds`."""
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        # Wakes now and then without a ring too, so that a site that waits counts as present.
        await place.rung(min(left, IDLE_SECONDS))
        if state.bell.is_closing or await request.is_disconnected():
            return None
        if (found := await state.threads(state.coordinator.next_task, site, asked)) is not None:
            return found
    return None
