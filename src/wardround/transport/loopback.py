"""A page on this machine for one login: it listens on 127.0.0.1 only, for a short while, and then closes.

Requests for another host name are refused (a web site that has its name point to this machine learns
nothing), bodies are bounded, nothing is logged, and a connection that says nothing is dropped.

References:
    RFC 8252, OAuth 2.0 for Native Apps, sections 7.3 and 8.3.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Self
from urllib.parse import parse_qsl, urlsplit

from wardround.errors import ConfigError, LoginError

__all__ = ["Answer", "Asked", "Loopback", "redirect"]

MAX_BODY = 65536
_IDLE_SECONDS = 5.0
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; form-action 'self';"
    " frame-ancestors 'none'; base-uri 'none'"
)
_CLOSING = (
    b'<!doctype html><html lang="en"><meta charset="utf-8"><title>Wardround</title>'
    b"<h1>Done</h1><p>You may close this page and go back to the terminal."
)


@dataclass(frozen=True, slots=True)
class Asked:
    """A request: `origin` is the header, empty where there was none."""

    method: str
    path: str
    query: dict[str, str]
    body: bytes
    origin: str


@dataclass(frozen=True, slots=True)
class Answer:
    """What a request gets; after one with `last` the page closes."""

    status: int
    kind: str
    body: bytes
    last: bool = False


class Loopback:
    """A listener on a free port of 127.0.0.1; `close` it, or use it as a context.

    Raises:
        ConfigError: This machine has no loopback address to listen on.
    """

    def __init__(self) -> None:
        try:
            self._server = HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
        except OSError:
            raise ConfigError("nothing can listen on 127.0.0.1 here; log in from a machine with a browser") from None
        self.port: int = self._server.server_address[1]

    def serve(self, handle: Callable[[Asked], Answer], seconds: float) -> None:
        """Answer requests until one is the last.

        Raises:
            LoginError: Nobody came to an end within `seconds`.
        """
        until, done = time.monotonic() + seconds, False

        def finish() -> None:
            nonlocal done
            done = True

        self._server.RequestHandlerClass = _handler(self.port, handle, finish)
        while not done:
            left = until - time.monotonic()
            if left <= 0:
                raise LoginError(f"nobody finished the login within {seconds:g} s; begin again")
            self._server.timeout = left
            self._server.handle_request()

    def close(self) -> None:
        """Listen no more."""
        self._server.server_close()

    def __enter__(self) -> Self:
        """The listener itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()


def redirect(listener: Loopback, seconds: float) -> dict[str, str]:
    """The fields with which the provider sends the browser back to ``/callback``.

    Raises:
        LoginError: It did not within `seconds`.
    """
    fields: dict[str, str] = {}

    def handle(asked: Asked) -> Answer:
        if asked.method != "GET" or asked.path != "/callback" or not asked.query:
            return Answer(404, "text/plain; charset=utf-8", b"Nothing is here.")
        fields.update(asked.query)
        return Answer(200, "text/html; charset=utf-8", _CLOSING, last=True)

    listener.serve(handle, seconds)
    return fields


def _handler(port: int, handle: Callable[[Asked], Answer], finish: Callable[[], None]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = _IDLE_SECONDS
        server_version, sys_version = "wardround", ""

        def do_GET(self) -> None:
            self._answer(b"")

        def do_POST(self) -> None:
            length = self.headers.get("content-length", "0")
            if not length.isascii() or not length.isdigit() or len(length) > 9 or int(length) > MAX_BODY:
                self._send(Answer(413, "text/plain; charset=utf-8", b"Too long."))
                return
            self._answer(self.rfile.read(int(length)))

        def _answer(self, body: bytes) -> None:
            if self.headers.get("host") not in {f"127.0.0.1:{port}", f"localhost:{port}"}:
                self._send(Answer(421, "text/plain; charset=utf-8", b"This page is for this machine."))
                return
            parts = urlsplit(self.path)
            pairs = parse_qsl(parts.query, keep_blank_values=True, max_num_fields=32) if len(parts.query) < 8192 else []
            # A field that comes twice is no field: what one reader takes first another takes last.
            query = {name: value for name, value in pairs if [key for key, _ in pairs].count(name) == 1}
            origin = self.headers.get("origin", "")
            answer = handle(Asked(self.command, parts.path, query, body, origin))
            self._send(answer)
            if answer.last:
                finish()

        def _send(self, answer: Answer) -> None:
            self.close_connection = True
            self.send_response(answer.status)
            self.send_header("content-type", answer.kind)
            self.send_header("content-length", str(len(answer.body)))
            self.send_header("content-security-policy", POLICY)
            self.send_header("cache-control", "no-store")
            self.send_header("referrer-policy", "no-referrer")
            self.send_header("x-content-type-options", "nosniff")
            self.end_headers()
            self.wfile.write(answer.body)

        def log_message(self, *_: object) -> None:
            """Say nothing: addresses hold codes."""

    return Handler
