"""Routes of machine identity: renewed certificates, and the key under which the hub signs its answers.

Both are on the public address too: whoever renews may have no valid certificate, and whoever checks an answer
has not checked one before.
"""

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from wardround.errors import CodecError, WardroundError, WrongChallengeError
from wardround.hub import resources
from wardround.hub.authentication import Caller
from wardround.hub.problem import packed, problem_of, response
from wardround.hub.route import permit
from wardround.hub.signing_answers import AnswerSigner
from wardround.protocol import messages
from wardround.protocol.messages import Renewal
from wardround.services.renewal import Renewals

if TYPE_CHECKING:
    from wardround.hub.state import HubState

__all__ = ["ROUTES", "MachineIdentity"]

_MAX_BYTES = 64 * 1024
_log = structlog.get_logger("wardround.hub")


@dataclass(frozen=True, slots=True)
class MachineIdentity:
    """What these routes need, in ``app.state.identity``."""

    renewals: Renewals
    signer: AnswerSigner


async def _renew(request: Request) -> Response:
    state: HubState = request.app.state.hub
    identity: MachineIdentity = request.app.state.identity
    try:
        body = await _bounded_body(request)
        digest = hashlib.sha256(body).digest()
        query = request.url.query
        target = f"{request.url.path}?{query}" if query else request.url.path
        name = await state.threads(identity.renewals.check, request.method, target, request.headers, digest)
        role = (await state.threads(state.enrolments.identity, name)).role
        await state.threads(permit, request, state, Caller(name, role, digest), "renew", resources.OWN_KEY, body)
        renewed = await state.threads(identity.renewals.renew, name, messages.decode(body, Renewal))
    except WardroundError as error:
        challenge = state.authentication.challenge if isinstance(error, WrongChallengeError) else ""
        if not challenge:
            _log.info("renewal refused", code=error.code)
        return response(problem_of(error, now=state.clock.now(), challenge=challenge))
    _log.info("certificate renewed", site=name)
    return packed(renewed)


async def _signer(request: Request) -> Response:
    identity: MachineIdentity = request.app.state.identity
    return Response(identity.signer.certificate(), media_type="application/x-pem-file")


async def _bounded_body(request: Request) -> bytes:
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > _MAX_BYTES:
            raise CodecError(f"a renewal may have at most {_MAX_BYTES} bytes")
    return bytes(body)


ROUTES = [Route("/v1/renewals", _renew, methods=["POST"]), Route("/v1/signer", _signer)]
