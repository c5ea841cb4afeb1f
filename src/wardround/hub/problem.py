"""Answers: messages, and errors as RFC 9457 problem details; the one place that knows HTTP status codes."""

import msgspec
from starlette.responses import Response

from wardround import errors
from wardround.protocol.messages import Problem

__all__ = ["packed", "problem_of", "response"]

_STATUS: dict[type[errors.WardroundError], int] = {
    errors.StorageFullError: 507,
    errors.ConflictError: 409,
    errors.UnavailableError: 503,
    errors.NotFoundError: 404,
    errors.LoginError: 401,
    errors.ForbiddenError: 403,
    errors.InviteError: 403,
    errors.PeerProtocolError: 409,
    errors.DigestMismatchError: 422,
    errors.AuditError: 422,
    errors.AttestationError: 403,
    errors.CryptoError: 401,
    errors.TensorMismatchError: 422,
    errors.CodecError: 400,
    errors.PolicyError: 403,
}


def problem_of(error: errors.WardroundError, *, now: float, challenge: str = "") -> Problem:
    """What a peer is told about an error."""
    status = next((status for kind, status in _STATUS.items() if isinstance(error, kind)), 500)
    detail = str(error) if status != 500 else "the hub failed; its operator finds the reason in its log"
    title = (type(error).__doc__ or "").splitlines()[0]
    return Problem(
        type=error.code, title=title, status=status, detail=detail, who=error.who, challenge=challenge, hub_time=now
    )


def response(problem: Problem, *, login: str = "") -> Response:
    """An ``application/problem+json`` answer; where the login is not enough, `login` says what would be (RFC 9470)."""
    headers = {"www-authenticate": login} if login and problem.type == errors.StepUpError.code else {}
    return Response(msgspec.json.encode(problem), problem.status, headers, "application/problem+json")


def packed(message: object) -> Response:
    """A message as MessagePack."""
    return Response(msgspec.msgpack.encode(message), media_type="application/msgpack")
