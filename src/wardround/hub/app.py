"""The hub as an ASGI application: addresses in, services called, problems out.

`ADDRESSES` is everything that can be asked here, each with the action that asking it is; `wardround.hub.route` puts
that to the policies before a handler runs.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from http import HTTPStatus
from typing import TYPE_CHECKING

import msgspec
import structlog
from prometheus_client import generate_latest
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from wardround.errors import NotFoundError, WardroundError, WrongChallengeError
from wardround.hub import (
    attestation_routes,
    blob_routes,
    key_routes,
    log_routes,
    openapi,
    resources,
    study_routes,
    waiting,
)
from wardround.hub.authentication import Caller
from wardround.hub.problem import packed, problem_of, response
from wardround.hub.route import Address, body_of, opened, routed, signed, streamed
from wardround.hub.state import HubState
from wardround.hub.waiting import MAX_HOLD_SECONDS
from wardround.protocol import messages
from wardround.protocol.messages import Contribution, Enrolment, Receipt, TaskRequest

if TYPE_CHECKING:
    from wardround.ids import RunId

__all__ = ["ADDRESSES", "MAX_HOLD_SECONDS", "create_app"]

_IDLE_SECONDS = 5.0
_log = structlog.get_logger("wardround.hub")


def create_app(
    make_state: Callable[[asyncio.AbstractEventLoop], HubState], *more: Iterable[Address] | Iterable[BaseRoute]
) -> Starlette:
    """The application; `make_state` is called once the event loop runs.

    `more` are lists of further addresses, which are decided on as the hub's own are, or of routes, which are not.
    """

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        state = make_state(asyncio.get_running_loop())
        app.state.hub = state
        async with asyncio.TaskGroup() as tasks:
            work = tasks.create_task(_keep_working(state))
            yield
            work.cancel()
            state.bell.close()
        state.executor.shutdown()
        if state.auditing is not None:
            state.auditing.close()

    given = [one for several in more for one in several]
    addresses = [*ADDRESSES, *(one for one in given if isinstance(one, Address))]
    app = Starlette(
        lifespan=lifespan,
        exception_handlers={HTTPException: _no_route},
        routes=[*routed(addresses, _answering), *(one for one in given if isinstance(one, BaseRoute))],
    )
    app.router.redirect_slashes = False  # A signature is for one address; another is not there.
    return app


def _answering(
    handle: Callable[[Request, HubState], Awaitable[Response]],
) -> Callable[[Request], Awaitable[Response]]:
    async def answer(request: Request) -> Response:
        state: HubState = request.app.state.hub
        try:
            result = await handle(request, state)
        except WardroundError as error:
            result = _refusal(state, error)
        except Exception:  # noqa: BLE001
            # The request boundary: whatever went wrong, the peer learns nothing but that it did.
            _log.exception("request failed")
            result = _refusal(state, WardroundError("internal"))
        state.metrics.requests.labels(request.scope["route"].path, result.status_code).inc()
        return result

    return answer


async def _no_route(request: Request, error: Exception) -> Response:
    """What the router itself refuses: an address that is not there, or not with this method."""
    status = error.status_code if isinstance(error, HTTPException) else 500
    wrong = "there is no such address" if status == HTTPStatus.NOT_FOUND else "this address does not take this method"
    state: HubState = request.app.state.hub
    problem = problem_of(NotFoundError(f"{wrong}; /openapi.json lists them"), now=state.clock.now())
    result = response(msgspec.structs.replace(problem, status=status))
    result.headers.update(getattr(error, "headers", None) or {})
    return result


def _refusal(state: HubState, error: WardroundError) -> Response:
    challenge = state.authentication.challenge if isinstance(error, WrongChallengeError) else ""
    if not challenge:
        state.metrics.refusals.labels(error.code).inc()
        _log.info("refused", code=error.code)
    return response(problem_of(error, now=state.clock.now(), challenge=challenge), login=state.login_challenge)


async def _enrol(request: Request, state: HubState) -> Response:
    enrolment = messages.decode(await body_of(request), Enrolment)
    return packed(await state.threads(state.enrolments.enrol, enrolment))


async def _authority(_: Request, state: HubState) -> Response:
    return Response(state.authority, media_type="application/x-pem-file")


async def _health(_: Request, state: HubState) -> Response:
    return Response(msgspec.json.encode({"status": "ok", "time": state.clock.now()}), media_type="application/json")


async def _ready(_: Request, state: HubState) -> Response:
    await state.threads(state.studies.all)
    return Response(b'{"status":"ready"}', media_type="application/json")


async def _metrics(_: Request, state: HubState) -> Response:
    state.metrics.active_runs.set(len(state.coordinator.active()))
    return Response(generate_latest(state.metrics.registry), media_type="text/plain; version=0.0.4")


async def _openapi(_: Request, __: HubState) -> Response:
    return Response(msgspec.json.encode(openapi.document()), media_type="application/json")


async def _task(request: Request, state: HubState, caller: Caller, body: bytes) -> Response:
    """Hold the request until there is something to do for this site, or its time is up."""
    asked = messages.decode(body, TaskRequest)
    seconds = min(max(asked.wait_seconds, 0.0), MAX_HOLD_SECONDS)
    found = await waiting.for_assignment(request, state, caller.name, asked, seconds)
    return packed(found) if found is not None else Response(status_code=204)


async def _contribute(request: Request, state: HubState, caller: Caller, body: bytes) -> Response:
    contribution = messages.decode(body, Contribution)

    def take() -> Receipt:
        attestation_routes.require_contribution(state, caller.name, contribution)
        return state.coordinator.contribute(caller.name, contribution)

    return packed(await waiting.with_next(request, state, caller.name, contribution.run, take))


async def _identity(request: Request, state: HubState, _: Caller, __: bytes) -> Response:
    return packed(await state.threads(state.enrolments.identity, request.path_params["name"]))


async def _keep_working(state: HubState) -> None:
    """Combine closed rounds and let time pass, for as long as the hub runs."""
    with state.bell.listen("work") as place:
        while True:
            wait = _IDLE_SECONDS
            try:
                due = await state.threads(_work, state)
                wait = _IDLE_SECONDS if due is None else min(max(due - state.clock.now(), 0.01), _IDLE_SECONDS)
            except WardroundError as error:
                _log.warning("work will be tried again", code=error.code)
            except Exception:  # noqa: BLE001
                # The hub's main loop: one run's failure must not end the others.
                _log.exception("work failed")
            with suppress(TimeoutError):
                await place.rung(wait)


def _work(state: HubState) -> float | None:
    """Combine every closed round, and let time pass; what fails is left for the next time, and stops nothing else."""
    failed: set[RunId] = set()
    while waiting := [run for run in state.coordinator.combining() if run not in failed]:
        for run in waiting:
            try:
                with state.metrics.combine_seconds.time():
                    aside = state.coordinator.combine(run)
                state.metrics.rounds.inc()
                for site, reason in aside.items():
                    state.metrics.set_aside.inc()
                    _log.warning("an update was set aside", run=run, site=site, reason=reason)
            except WardroundError as error:
                failed.add(run)
                _log.warning("combining will be tried again", run=run, code=error.code, reason=str(error))
            except Exception as error:  # noqa: BLE001, one run's fault must not stop the others
                failed.add(run)
                _log.error("combining failed: a bug in this hub", run=run, kind=type(error).__name__)
    try:
        state.studies.tick()
    finally:
        due = state.coordinator.tick()
    return due


ADDRESSES: tuple[Address, ...] = (
    opened("GET", "/healthz", "read_health", _health),
    opened("GET", "/readyz", "read_health", _ready),
    opened("GET", "/metrics", "read_metrics", _metrics),
    opened("GET", "/openapi.json", "read_api", _openapi),
    opened("GET", "/v1/authority", "read_authority", _authority),
    opened("POST", "/v1/enrolments", "enrol", _enrol),
    signed("POST", "/v1/tasks", "take_task", _task, resources.OWN_SITE),
    signed("POST", "/v1/contributions", "contribute", _contribute, resources.RUN_OF_MESSAGE),
    signed("POST", "/v1/cohorts", "answer_cohort", key_routes.answer, resources.RUN_OF_MESSAGE),
    signed("POST", "/v1/pairs", "set_up_pairs", key_routes.pair, resources.ROSTERS),
    signed("GET", "/v1/cards", "read_keys", key_routes.cards),
    signed("POST", "/v1/cards", "hand_in_key", key_routes.put_card, resources.OWN_KEY),
    signed("POST", "/v1/rosters", "publish_roster", key_routes.publish, resources.ROSTERS),
    signed("GET", "/v1/rosters/{digest}", "read_roster", key_routes.roster, resources.ROSTERS),
    signed("GET", "/v1/runs/{run}/cohorts/{number}/{cohort}", "read_evidence", key_routes.evidence, resources.RUN),
    signed("GET", "/v1/studies", "list_studies", study_routes.listed),
    signed("POST", "/v1/studies", "propose", attestation_routes.proposing(study_routes.propose), resources.PROPOSAL),
    signed("GET", "/v1/studies/{study}/plan", "read_plan", study_routes.plan, resources.STUDY),
    signed("POST", "/v1/studies/{study}/decisions", "decide", study_routes.decide, resources.STUDY),
    signed("POST", "/v1/studies/{study}/audits", "hand_in_audit", study_routes.audit, resources.STUDY),
    signed("POST", "/v1/studies/{study}/actions", study_routes.asked_action, study_routes.act, resources.STUDY),
    signed("GET", "/v1/runs/{run}", "read_run", study_routes.run, resources.RUN),
    signed("GET", "/v1/identities/{name}", "read_identity", _identity, resources.IDENTITY),
    signed("GET", "/v1/blobs/{scope}/{digest}", blob_routes.asked_action, blob_routes.fetch, resources.BLOB),
    streamed("PUT", "/v1/blobs/{scope}/{digest}", "upload", blob_routes.upload, resources.BLOB),
    *log_routes.ADDRESSES,
)
"""Everything that can be asked of a hub."""
