"""Blobs over HTTP: streamed, resumable by range both ways, verified by digest, bounded in size.

    GET  /v1/blobs/{scope}/{digest}            the bytes; ``Range: bytes=n-`` resumes
    GET  /v1/blobs/{scope}/{digest}?offset=1   how much of an upload is held here
    PUT  /v1/blobs/{scope}/{digest}            ``Content-Range: bytes n-m/size`` from the offset held here

The scope says why the caller may: a run (its model down, a wanted update up), a study (its plan's blobs
down), or ``new`` (a researcher's blobs up, before a plan names them).
"""

import asyncio
import re
from collections.abc import AsyncIterator

import msgspec
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from wardround.errors import CodecError, PeerProtocolError
from wardround.hub.authentication import Caller
from wardround.hub.state import HubState
from wardround.ids import Digest, RunId, StudyId
from wardround.ports import Upload
from wardround.protocol.plan import BlobRef

__all__ = ["asked_action", "fetch", "upload"]

PIECE = 1024 * 1024
_RANGE = re.compile(r"bytes=([0-9]{1,18})-")
_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18})")


def asked_action(request: Request, _: bytes) -> str:
    """Whether a request fetches, or asks how much of an upload is held, which is for those who may upload."""
    return "upload" if "offset" in request.query_params else "download"


async def fetch(request: Request, state: HubState, caller: Caller, _: bytes) -> Response:
    """Send a blob, or say how much of an upload is held."""
    return await (offset if "offset" in request.query_params else download)(request, state, caller)


async def download(request: Request, state: HubState, caller: Caller) -> Response:
    """Send a blob, or its end from a given byte."""
    scope, digest = request.path_params["scope"], Digest(request.path_params["digest"])
    size = await state.threads(_allowed_size, state, caller, scope, digest)
    start = _start(request.headers.get("range", ""), size)
    headers = {"content-length": str(size - start), "accept-ranges": "bytes"}
    if start:
        headers["content-range"] = f"bytes {start}-{size - 1}/{size}"
    state.metrics.downloaded.inc(size - start)
    path = state.blobs.local_path(digest) if start == 0 and size > PIECE else None
    if path is not None and "http.response.pathsend" in request.scope.get("extensions", {}):
        return _PathResponse(path, headers)
    pieces = _pieces(state, digest, start, size)
    return StreamingResponse(pieces, 206 if start else 200, headers, "application/octet-stream")


async def offset(request: Request, state: HubState, caller: Caller) -> Response:
    """Say how many bytes of an upload are held; the whole size when the blob is there."""
    digest = Digest(request.path_params["digest"])
    name = _upload_name(caller, digest)

    def held() -> int:
        if state.blobs.has(digest):
            return state.blobs.size(digest)
        pending = state.blobs.upload(name)
        try:
            return pending.offset
        finally:
            pending.close()

    count = await state.uploading(name, held)
    return Response(msgspec.msgpack.encode({"offset": count}), media_type="application/msgpack")


async def upload(request: Request, state: HubState, caller: Caller) -> Response:
    """Take a blob, or its end from the byte up to which it is held; what arrived is kept when the sender vanishes."""
    scope = request.path_params["scope"]
    digest = state.authentication.check_blob(caller, request.path_params["digest"])
    start, ref = _content_range(request, digest)
    await state.threads(_may_upload, state, caller, scope, ref)
    if state.blobs.has(digest):
        return Response(status_code=200)
    name = _upload_name(caller, digest)
    async with state.exclusive(name):
        pending = await state.threads(state.blobs.upload, name)
        try:
            if start == 0 and pending.offset:
                await state.threads(pending.discard)
                pending = await state.threads(state.blobs.upload, name)
            if start != pending.offset:
                raise PeerProtocolError(f"{pending.offset} bytes are held here; continue from there")
            await _receive(request, pending, ref.size - start)
            await state.threads(pending.commit, digest)
        finally:
            await state.threads(pending.close)
    state.metrics.uploaded.inc(ref.size - start)
    return Response(status_code=201)


class _PathResponse(Response):
    """A whole file, sent by the web server itself."""

    def __init__(self, path: str, headers: dict[str, str]) -> None:
        super().__init__(headers=headers, media_type="application/octet-stream")
        self._path = path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        del scope, receive
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        await send({"type": "http.response.pathsend", "path": self._path})


async def _receive(request: Request, pending: Upload, expected: int) -> None:
    # The web server hands over small pieces; writing and hashing them one by one would cost a thread
    # switch each, so they are gathered first. Two buffers: one fills while the other is written.
    loop = asyncio.get_running_loop()
    buffers = [bytearray(), bytearray()]
    writing: asyncio.Future[None] | None = None
    received = 0
    try:
        async for piece in request.stream():
            received += len(piece)
            if received > expected:
                raise CodecError(f"more bytes arrive than the {expected} that were announced")
            buffers[0] += piece
            if len(buffers[0]) >= PIECE:
                if writing is not None:
                    await writing
                buffers.reverse()
                buffers[0].clear()
                writing = loop.run_in_executor(None, pending.append, buffers[1])
    except ClientDisconnect:
        raise CodecError("the sender vanished; what arrived is kept") from None
    finally:
        if writing is not None:
            await writing
        if buffers[0]:
            await loop.run_in_executor(None, pending.append, buffers[0])
    if received < expected:
        raise CodecError(f"truncated: {received} of {expected} bytes arrived; continue from what is held here")


async def _pieces(state: HubState, digest: Digest, start: int, stop: int) -> AsyncIterator[bytes]:
    while start < stop:
        end = min(start + PIECE, stop)
        yield bytes(await state.threads(state.blobs.read, digest, start, end))
        start = end


def _allowed_size(state: HubState, caller: Caller, scope: str, digest: Digest) -> int:
    if "." in scope:
        state.coordinator.may_download(caller.name, RunId(scope), digest)
    else:
        state.studies.may_read(caller.name, StudyId(scope), digest)
    return state.blobs.size(digest)


def _may_upload(state: HubState, caller: Caller, scope: str, ref: BlobRef) -> None:
    if scope != "new":
        state.coordinator.may_upload(caller.name, RunId(scope), ref)
        return
    if ref.size > state.config.max_blob_bytes:
        raise CodecError(f"too large: this hub takes blobs of at most {state.config.max_blob_bytes} bytes")


def _upload_name(caller: Caller, digest: Digest) -> str:
    return f"{caller.name}.{digest}"


def _start(header: str, size: int) -> int:
    if not header:
        return 0
    match = _RANGE.fullmatch(header)
    if match is None or int(match[1]) >= size:
        raise CodecError("only ranges of the form bytes=n- inside the blob are served")
    return int(match[1])


def _content_range(request: Request, digest: Digest) -> tuple[int, BlobRef]:
    match = _CONTENT_RANGE.fullmatch(request.headers.get("content-range", ""))
    if match is None:
        raise CodecError("an upload needs Content-Range: bytes first-last/size")
    start, last, size = (int(part) for part in match.groups())
    if not 0 <= start <= last == size - 1:
        raise CodecError("an upload goes from the byte held here to the last one")
    return start, BlobRef(digest, size)
