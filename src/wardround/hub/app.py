"""The hub as an ASGI application: routes in, services called, problems out."""

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from http import HTTPStatus
from typing import Literal

import msgspec
import structlog
from prometheus_client import generate_latest
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from wardround.errors import CodecError, ForbiddenError, NotFoundError, WardroundError, WrongChallengeError
from wardround.hub import blob_routes, key_routes, openapi, waiting
from wardround.hub.authentication import Caller
from wardround.hub.problem import packed, problem_of, response
from wardround.hub.state import HubState
from wardround.ids import RunId, SiteId, StudyId, site_id
from wardround.protocol import messages
from wardround.protocol.messages import Audit, Contribution, Decision, Enrolment, Proposal, TaskRequest
from wardround.protocol.study import Phase

__all__ = ["MAX_HOLD_SECONDS", "create_app"]

MAX_HOLD_SECONDS = 55.0
_IDLE_SECONDS = 5.0
_log = structlog.get_logger("wardround.hub")

Handler = Callable[[Request, HubState, Caller, bytes], Awaitable[Response]]
BlobHandler = Callable[[Request, HubState, Caller], Awaitable[Response]]


class Action(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a researcher does with a study of theirs."""

    action: Literal["start", "release", "withdraw"]
    reason: str = ""


def create_app(make_state: Callable[[asyncio.AbstractEventLoop], HubState]) -> Starlette:
    """The application; `make_state` is called once the event loop runs."""

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

    app = Starlette(
        lifespan=lifespan,
        exception_handlers={HTTPException: _no_route},
        routes=[
            Route("/healthz", _health),
            Route("/readyz", _ready),
            Route("/metrics", _metrics),
            Route("/openapi.json", _openapi),
            Route("/v1/authority", _authority),
            Route("/v1/enrolments", _enrol, methods=["POST"]),
            Route("/v1/tasks", _signed(_task), methods=["POST"]),
            Route("/v1/contributions", _signed(_contribute), methods=["POST"]),
            Route("/v1/cohorts", _signed(key_routes.answer), methods=["POST"]),
            Route("/v1/pairs", _signed(key_routes.pair), methods=["POST"]),
            Route("/v1/cards", _signed(key_routes.cards), methods=["GET"]),
            Route("/v1/cards", _signed(key_routes.put_card), methods=["POST"]),
            Route("/v1/rosters", _signed(key_routes.publish), methods=["POST"]),
            Route("/v1/rosters/{digest}", _signed(key_routes.roster), methods=["GET"]),
            Route("/v1/runs/{run}/cohorts/{number}/{cohort}", _signed(key_routes.evidence), methods=["GET"]),
            Route("/v1/studies", _signed(_studies), methods=["GET"]),
            Route("/v1/studies", _signed(_propose), methods=["POST"]),
            Route("/v1/studies/{study}/plan", _signed(_plan), methods=["GET"]),
            Route("/v1/studies/{study}/decisions", _signed(_decide), methods=["POST"]),
            Route("/v1/studies/{study}/audits", _signed(_audit), methods=["POST"]),
            Route("/v1/studies/{study}/actions", _signed(_act), methods=["POST"]),
            Route("/v1/runs/{run}", _signed(_run), methods=["GET"]),
            Route("/v1/identities/{name}", _signed(_identity), methods=["GET"]),
            Route("/v1/blobs/{scope}/{digest}", _signed(_blob), methods=["GET"]),
            Route("/v1/blobs/{scope}/{digest}", _streamed(blob_routes.upload), methods=["PUT"]),
        ],
    )
    app.router.redirect_slashes = False  # A signature is for one address; another is not there.
    return app


def _signed(handler: Handler) -> Callable[[Request], Awaitable[Response]]:
    """A route whose whole body is read, bounded, and covered by the caller's signature."""

    async def handle(request: Request, state: HubState) -> Response:
        body = await _bounded_body(request)
        caller = state.authentication.check(
            request.method, _target(request), request.headers, content=hashlib.sha256(body).digest()
        )
        return await handler(request, state, caller, body)

    return _answering(handle)


def _streamed(handler: BlobHandler) -> Callable[[Request], Awaitable[Response]]:
    """A route whose body comes as a stream; the signature covers the digest of the whole blob."""

    async def handle(request: Request, state: HubState) -> Response:
        caller = state.authentication.check(request.method, _target(request), request.headers, content=None)
        return await handler(request, state, caller)

    return _answering(handle)


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
    return response(problem_of(error, now=state.clock.now(), challenge=challenge))


async def _bounded_body(request: Request) -> bytes:
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > messages.MAX_MESSAGE_BYTES:
            raise CodecError(f"a message may have at most {messages.MAX_MESSAGE_BYTES} bytes")
    return bytes(body)


def _target(request: Request) -> str:
    query = request.url.query
    return f"{request.url.path}?{query}" if query else request.url.path


async def _enrol(request: Request) -> Response:
    async def handle(request: Request, state: HubState) -> Response:
        enrolment = messages.decode(await _bounded_body(request), Enrolment)
        return packed(await state.threads(state.enrolments.enrol, enrolment))

    return await _answering(handle)(request)


async def _authority(request: Request) -> Response:
    return Response(request.app.state.hub.authority, media_type="application/x-pem-file")


async def _health(request: Request) -> Response:
    state: HubState = request.app.state.hub
    return Response(msgspec.json.encode({"status": "ok", "time": state.clock.now()}), media_type="application/json")


async def _ready(request: Request) -> Response:
    async def handle(_: Request, state: HubState) -> Response:
        await state.threads(state.studies.all)
        return Response(b'{"status":"ready"}', media_type="application/json")

    return await _answering(handle)(request)


async def _metrics(request: Request) -> Response:
    state: HubState = request.app.state.hub
    state.metrics.active_runs.set(len(state.coordinator.active()))
    return Response(generate_latest(state.metrics.registry), media_type="text/plain; version=0.0.4")


async def _openapi(_: Request) -> Response:
    return Response(msgspec.json.encode(openapi.document()), media_type="application/json")


async def _task(request: Request, state: HubState, caller: Caller, body: bytes) -> Response:
    """Hold the request until there is something to do for this site, or its time is up."""
    state.enrolments.require(caller.role, "site")
    asked = messages.decode(body, TaskRequest)
    seconds = min(max(asked.wait_seconds, 0.0), MAX_HOLD_SECONDS)
    found = await waiting.for_assignment(request, state, caller.name, asked, seconds)
    return packed(found) if found is not None else Response(status_code=204)


async def _contribute(request: Request, state: HubState, caller: Caller, body: bytes) -> Response:
    state.enrolments.require(caller.role, "site")
    contribution = messages.decode(body, Contribution)
    receipt = await state.threads(state.coordinator.contribute, caller.name, contribution)
    return packed(await waiting.with_next(request, state, caller.name, contribution.run, receipt))


async def _studies(_: Request, state: HubState, caller: Caller, __: bytes) -> Response:
    return packed(await state.threads(state.studies.concerning, caller.name))


async def _propose(_: Request, state: HubState, caller: Caller, body: bytes) -> Response:
    state.enrolments.require(caller.role, "researcher")
    return packed(await state.threads(state.studies.propose, caller.name, messages.decode(body, Proposal)))


async def _plan(request: Request, state: HubState, caller: Caller, _: bytes) -> Response:
    study = StudyId(request.path_params["study"])
    plan = await state.threads(state.studies.plan_of, study)
    if caller.name not in (*plan.participants, plan.researcher):
        raise ForbiddenError(f"the study does not name {caller.name}")
    return packed(await state.threads(state.studies.signed_plan, study))


async def _decide(request: Request, state: HubState, caller: Caller, body: bytes) -> Response:
    state.enrolments.require(caller.role, "site")
    decision = messages.decode(body, Decision)
    if decision.study != request.path_params["study"]:
        raise CodecError("the decision is about another study than the address")
    return packed(await state.threads(state.studies.decide, caller.name, decision))


async def _audit(request: Request, state: HubState, caller: Caller, body: bytes) -> Response:
    state.enrolments.require(caller.role, "site")
    audit = messages.decode(body, Audit)
    if audit.study != request.path_params["study"]:
        raise CodecError("the audit is of another study than the address")
    return packed(await state.threads(state.studies.audit, caller.name, audit))


async def _act(request: Request, state: HubState, caller: Caller, body: bytes) -> Response:
    state.enrolments.require(caller.role, "researcher")
    study, asked = StudyId(request.path_params["study"]), messages.decode(body, Action)
    if asked.action == "start":
        return packed(await state.threads(state.studies.start, caller.name, study))
    outcome = Phase.RELEASED if asked.action == "release" else Phase.WITHDRAWN
    return packed(await state.threads(state.studies.finish, caller.name, study, outcome, asked.reason))


async def _run(request: Request, state: HubState, caller: Caller, _: bytes) -> Response:
    """A run's state and new events; held until there is a new one, or its time is up."""
    run = RunId(request.path_params["run"])
    terms = (await state.threads(state.coordinator.state, run)).terms
    researcher = (await state.threads(state.studies.plan_of, terms.study)).researcher
    if caller.name not in (*terms.sites, researcher):
        raise ForbiddenError(f"{caller.name} is not of this run")
    after, wait = _number(request, "after"), _number(request, "wait")
    until = time.monotonic() + min(wait, MAX_HOLD_SECONDS)
    with state.bell.listen(run) as place:
        while True:
            status = await state.threads(state.coordinator.status, run, after=int(after))
            left = until - time.monotonic()
            if status.events or left <= 0:
                return packed(status)
            await place.rung(left)
            if state.bell.is_closing:
                return packed(status)


async def _identity(request: Request, state: HubState, _: Caller, __: bytes) -> Response:
    name: SiteId = site_id(request.path_params["name"])
    return packed(await state.threads(state.enrolments.identity, name))


async def _blob(request: Request, state: HubState, caller: Caller, _: bytes) -> Response:
    if "offset" in request.query_params:
        return await blob_routes.offset(request, state, caller)
    return await blob_routes.download(request, state, caller)


def _number(request: Request, name: str) -> float:
    text = request.query_params.get(name, "0")
    if not text.replace(".", "", 1).isdigit() or len(text) > 12:
        raise CodecError(f"{name} must be a number")
    return float(text)


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
