"""Two doors to one application: machines with their certificates, and everybody for the few public addresses.

    machines   TLS 1.3; a client certificate of this federation's authorities is demanded in the handshake
    public     TLS 1.3; only `PUBLIC` addresses are there

Both run in this process, on this event loop, over one application. `Doors.reload` lets new connections see
renewed certificates and authorities; open ones go on as they are until they end.
"""

import asyncio
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from starlette.types import ASGIApp, Receive, Scope, Send

from wardround.config import HubConfig
from wardround.errors import ConfigError

if TYPE_CHECKING:
    from granian.server.embed import Server

__all__ = ["PUBLIC", "Doors", "PublicOnly", "check_free"]

PUBLIC: tuple[str, ...] = (
    "/healthz",
    "/readyz",
    "/openapi.json",
    "/v1/authority",
    "/v1/enrolments",
    "/v1/renewals",
    "/v1/signer",
    "/v1/log/checkpoint",
    "/v1/log/tile/",
    "/.well-known/openid-configuration",
    "/people/",
)
"""Addresses of the public door; one that ends in a slash stands for everything below it."""

_NOT_HERE = (
    b'{"type":"protocol/not-found","title":"There is no such study, run or blob.","status":404,'
    b'"detail":"this is the public address; machines use the other one, with their certificates","who":"the sender"}'
)


class PublicOnly:
    """An ASGI application that lets through only what is public."""

    def __init__(self, app: ASGIApp, public: Sequence[str] = PUBLIC) -> None:
        self._app = app
        self._whole = frozenset(path for path in public if not path.endswith("/"))
        self._below = tuple(path for path in public if path.endswith("/"))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        path: str = scope.get("path", "")
        if path in self._whole or (self._below and path.startswith(self._below)):
            await self._app(scope, receive, send)
            return
        headers = [(b"content-type", b"application/problem+json"), (b"content-length", str(len(_NOT_HERE)).encode())]
        await send({"type": "http.response.start", "status": 404, "headers": headers})
        await send({"type": "http.response.body", "body": _NOT_HERE})


class Doors:
    """Both listeners."""

    def __init__(self, folder: Path, config: HubConfig, app: ASGIApp, public: Sequence[str] = PUBLIC) -> None:
        authorities = folder / config.authority if config.client_certificates == "required" else None
        self._servers = [
            _server(folder, config, config.listen, app, authorities),
            _server(folder, config, config.listen_public, PublicOnly(app, public), None),
        ]

    async def serve(self) -> None:
        """Serve until `stop`; when one of the two fails, the other one stops too."""
        serving = [asyncio.create_task(server.serve()) for server in self._servers]
        try:
            await asyncio.wait(serving, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await self._end(serving)
        for task in serving:
            task.result()

    def reload(self) -> None:
        """Read certificates, keys and authorities again, for new connections."""
        for server in self._servers:
            server.reload()  # type: ignore[no-untyped-call]

    def stop(self) -> None:
        """Take no more connections, and end once those that are open have their answers."""
        for server in self._servers:
            server.stop()  # type: ignore[no-untyped-call]

    async def _end(self, serving: list[asyncio.Task[None]]) -> None:
        # A server that is just reloading forgets that it was told to stop, so it is told until it has.
        while not all(task.done() for task in serving):
            self.stop()
            await asyncio.wait(serving, timeout=0.2)


def _server(folder: Path, config: HubConfig, listen: str, app: ASGIApp, authorities: Path | None) -> "Server":
    from granian.constants import HTTPModes, Interfaces
    from granian.http import HTTP1Settings
    from granian.log import LogLevels
    from granian.server.embed import Server

    host, _, port = listen.rpartition(":")
    return Server(
        app,
        address=host,
        port=int(port),
        interface=Interfaces.ASGINL,
        http=HTTPModes.http1,
        websockets=False,
        log_access=False,
        log_level=LogLevels.error,
        backpressure=1024,
        http1_settings=HTTP1Settings(max_buffer_size=512 * 1024),
        ssl_cert=folder / config.tls_certificate,
        ssl_key=folder / config.tls_key.removeprefix("file:"),
        ssl_ca=authorities,
        ssl_client_verify=authorities is not None,
    )


def check_free(listen: str) -> None:
    """Raise where this address cannot be listened on.

    Raises:
        ConfigError: It is taken, or none of this machine.
    """
    host, _, port = listen.rpartition(":")
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host.strip("[]"), int(port)))
        except OSError:
            raise ConfigError(f"{listen} is taken by another program, or is no address of this machine") from None
