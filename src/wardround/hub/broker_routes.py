"""Attestation over HTTP: Trustee's three addresses for keys, and the proofs of hub and nodes to one another.

    /kbs/v0/auth, /kbs/v0/attest, /kbs/v0/resource/{repository}/{type}/{tag}     JSON, as Trustee has them
    /v1/attestations/hub                                                         a node asks this hub for a proof
    /v1/attestations/challenge, /v1/attestations                                 a site gets a nonce, hands in a proof

Every request is signed by an enrolled site as all of Wardround's are: a build being genuine does not make its operator
one of the study's sites. `Authorization` and the cookie say which attestation is meant, never who asks.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from http import HTTPStatus
from typing import TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from wardround.errors import AttestationError, CodecError, WardroundError
from wardround.hub.problem import packed, problem_of, response
from wardround.ids import SiteId, StudyId
from wardround.ports import Clock
from wardround.protocol import broker, messages
from wardround.protocol.attested import Proof, ProofRequest
from wardround.services.attestations import Attestations
from wardround.services.key_release import KeyRelease

__all__ = ["Boundary", "Desk", "Endpoint", "StudyQuestion", "Until", "routes"]

_BEARER = re.compile(r"Bearer ([!-~]{1,65536})")
_PATH = "/kbs/v0"
_T = TypeVar("_T")


class StudyQuestion(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A site asks for a nonce for a study."""

    study: StudyId


class Until(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Until when a proof counts, in seconds since 1970-01-01 UTC."""

    until: float


@dataclass(frozen=True, slots=True)
class Desk:
    """What the routes need of one hub; `authenticate` gives the enrolled site that signed a request with this body."""

    keys: KeyRelease
    attestations: Attestations
    authenticate: Callable[[Request, bytes], SiteId]
    clock: Clock
    executor: Executor


Endpoint = Callable[[Request], Awaitable[Response]]
Boundary = Callable[[Endpoint], Endpoint]
_Handler = Callable[[Request, Desk, SiteId, bytes], Awaitable[Response]]


def routes(desk_of: Callable[[Request], Desk], *, boundary: Boundary | None = None) -> list[Route]:
    """The routes.

    Args:
        desk_of: Finds the running hub's desk.
        boundary: What turns errors into answers, counts and logs them, as the hub does it on all of its routes; without
            one, Wardround's own errors become problem details and others are raised.
    """

    def route(path: str, method: str, handler: _Handler) -> Route:
        return Route(path, (boundary or _plain_boundary(desk_of))(_signed(desk_of, handler)), methods=[method])

    return [
        route(f"{_PATH}/auth", "POST", _auth),
        route(f"{_PATH}/attest", "POST", _attest),
        route(f"{_PATH}/resource/{{repository}}/{{type}}/{{tag}}", "GET", _resource),
        route("/v1/attestations/hub", "POST", _prove),
        route("/v1/attestations/challenge", "POST", _challenge),
        route("/v1/attestations", "POST", _accept),
    ]


def _signed(desk_of: Callable[[Request], Desk], handler: _Handler) -> Endpoint:
    async def answer(request: Request) -> Response:
        desk = desk_of(request)
        body = await _bounded_body(request)
        site = desk.authenticate(request, body)
        try:
            return await handler(request, desk, site, body)
        except AttestationError as error:
            # Trustee's protocol, "HTTP Integration": who has not shown acceptable evidence is unauthenticated.
            problem = problem_of(error, now=desk.clock.now())
            return response(msgspec.structs.replace(problem, status=HTTPStatus.UNAUTHORIZED))

    return answer


def _plain_boundary(desk_of: Callable[[Request], Desk]) -> Boundary:
    def wrap(endpoint: Endpoint) -> Endpoint:
        async def answer(request: Request) -> Response:
            try:
                return await endpoint(request)
            except WardroundError as error:
                return response(problem_of(error, now=desk_of(request).clock.now()))

        return answer

    return wrap


async def _auth(_: Request, desk: Desk, site: SiteId, body: bytes) -> Response:
    session, challenge = await _call(desk, lambda: desk.keys.challenge(site, broker.decode(body, broker.Request)))
    answer = _json(challenge)
    answer.set_cookie(broker.SESSION_COOKIE, session, path=_PATH, secure=True, httponly=True, samesite="strict")
    return answer


async def _attest(request: Request, desk: Desk, site: SiteId, body: bytes) -> Response:
    session = request.cookies.get(broker.SESSION_COOKIE, "")
    return _json(await _call(desk, lambda: desk.keys.attest(site, session, broker.decode(body, broker.Attestation))))


async def _resource(request: Request, desk: Desk, site: SiteId, _: bytes) -> Response:
    run, name = broker.resource(*(request.path_params[one] for one in ("repository", "type", "tag")))
    header = request.headers.get("authorization", "")
    bearer = _BEARER.fullmatch(header)
    if header and bearer is None:
        raise AttestationError("the header authorization is not a bearer token")
    credential = bearer[1] if bearer else request.cookies.get(broker.SESSION_COOKIE, "")
    answer = _json(await _call(desk, lambda: desk.keys.release(site, credential, run, name)))
    answer.headers["cache-control"] = "no-store"
    return answer


async def _prove(_: Request, desk: Desk, __: SiteId, body: bytes) -> Response:
    asked = messages.decode(body, ProofRequest)
    return packed(await _call(desk, lambda: desk.attestations.prove(asked)))


async def _challenge(_: Request, desk: Desk, site: SiteId, body: bytes) -> Response:
    study = messages.decode(body, StudyQuestion).study
    return packed(await _call(desk, lambda: desk.attestations.challenge(site, study)))


async def _accept(_: Request, desk: Desk, site: SiteId, body: bytes) -> Response:
    proof = messages.decode(body, Proof)
    return packed(Until(await _call(desk, lambda: desk.attestations.accept(site, proof))))


async def _call(desk: Desk, call: Callable[[], _T]) -> _T:
    """Appraising and quoting block, so they are done off the event loop."""
    return await asyncio.get_running_loop().run_in_executor(desk.executor, call)


async def _bounded_body(request: Request) -> bytes:
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > broker.MAX_BODY_BYTES:
            raise CodecError(f"a message may have at most {broker.MAX_BODY_BYTES} bytes")
    return bytes(body)


def _json(message: msgspec.Struct) -> Response:
    return Response(broker.encode(message), media_type="application/json")
