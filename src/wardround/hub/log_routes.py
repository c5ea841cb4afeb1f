"""The hub's audit log over HTTP, and the letter boxes by which sites witness one another's logs and the hub's.

    GET  /v1/log/checkpoint, /v1/log/tile/…      anyone: what the log signed last, and the hashes below it
    GET  /v1/log/entries/…                       who may read the audit log: the entries, in bundles
    GET  /v1/log/members       POST              keys of logs and witnesses; a site hands in its own
    GET  /v1/log/requests      POST              what the caller is asked to sign; asking another site
    POST /v1/log/cosignatures  GET /v1/log/answers   a witness's answer; the answers to the caller

Reading and witnessing are polls, and leave no entries in the log that they are about.
"""

from starlette.requests import Request
from starlette.responses import Response

from wardround.audit.verification import CHECKPOINT, WITNESSED
from wardround.errors import AuditError, NotFoundError
from wardround.hub import resources
from wardround.hub.authentication import Caller
from wardround.hub.log_post import LogPost
from wardround.hub.problem import packed
from wardround.hub.route import Address, opened, signed
from wardround.hub.state import HubState
from wardround.protocol import messages
from wardround.protocol.log_messages import LogAnswer, LogLetter, LogMember

__all__ = ["ADDRESSES"]


def _post(state: HubState) -> LogPost:
    if state.log is None:
        raise AuditError("this hub keeps no audit log")
    return state.log


def _file(data: bytes | None, kind: str) -> Response:
    if data is None:
        raise NotFoundError("the audit log has no such file")
    return Response(data, media_type=kind)


async def _checkpoint(request: Request, state: HubState) -> Response:
    name = WITNESSED if request.query_params.get("witnessed") else CHECKPOINT
    return _file(await state.threads(_post(state).log.file, name), "text/plain; charset=utf-8")


async def _tile(request: Request, state: HubState) -> Response:
    path = request.path_params["path"]
    if path.startswith("entries"):
        raise NotFoundError("entries are not public: see /v1/log/entries/")
    return _file(await state.threads(_post(state).log.file, f"tile/{path}"), "application/octet-stream")


async def _entries(request: Request, state: HubState, _: Caller, __: bytes) -> Response:
    path = f"tile/entries/{request.path_params['path']}"
    return _file(await state.threads(_post(state).log.file, path), "application/octet-stream")


async def _members(_: Request, state: HubState, __: Caller, ___: bytes) -> Response:
    return packed(await state.threads(_post(state).members.all))


async def _join(_: Request, state: HubState, caller: Caller, body: bytes) -> Response:
    await state.threads(_post(state).members.put, caller.name, messages.decode(body, LogMember))
    return Response(status_code=204)


async def _requests(_: Request, state: HubState, caller: Caller, __: bytes) -> Response:
    return packed(await state.threads(_post(state).requests, caller.name))


async def _ask(_: Request, state: HubState, caller: Caller, body: bytes) -> Response:
    await state.threads(_post(state).ask, caller.name, messages.decode(body, LogLetter))
    return Response(status_code=204)


async def _cosign(_: Request, state: HubState, caller: Caller, body: bytes) -> Response:
    await state.threads(_post(state).answer, caller.name, messages.decode(body, LogAnswer))
    return Response(status_code=204)


async def _answers(_: Request, state: HubState, caller: Caller, __: bytes) -> Response:
    return packed(await state.threads(_post(state).answers, caller.name))


ADDRESSES: tuple[Address, ...] = (
    opened("GET", "/v1/log/checkpoint", "read_checkpoint", _checkpoint, resources.LOG),
    opened("GET", "/v1/log/tile/{path:path}", "read_checkpoint", _tile, resources.LOG),
    signed("GET", "/v1/log/entries/{path:path}", "read_audit", _entries, resources.LOG),
    signed("GET", "/v1/log/members", "witness", _members, resources.LOG),
    signed("POST", "/v1/log/members", "witness", _join, resources.LOG),
    signed("GET", "/v1/log/requests", "witness", _requests, resources.LOG),
    signed("POST", "/v1/log/requests", "witness", _ask, resources.LOG),
    signed("POST", "/v1/log/cosignatures", "witness", _cosign, resources.LOG),
    signed("GET", "/v1/log/answers", "witness", _answers, resources.LOG),
)
"""The addresses of the audit log."""
