"""The listener for a FHIR server's notifications: it answers 200 once what was sent is safely in the intake.

    1. The caller is known by a secret in a header, compared in constant time before anything else is read.
    2. On any address but this machine's own it speaks TLS 1.2 or newer.
    3. A request's body has a stated length within bounds; a connection is for one request, has a deadline, and there
       are so many at a time and no more.
    4. 200 means that the intake has it on the disk. 503: try again; 422: no notification that can be kept.

Answers have no body, and nothing is logged: a request may hold a patient's records, and its path an identifier.

Hazard: as with every listener, whoever may reach it can keep it busy: let only the FHIR server reach it.
"""

import hmac
import re
import socket
import ssl
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from socketserver import TCPServer, ThreadingMixIn
from typing import Any, Final

from wardround.errors import CodecError, ConfigError, WardroundError
from wardround.sources import fhir_notifications
from wardround.sources.fhir_http import is_here
from wardround.sources.fhir_notifications import FhirNotificationsSettings, Inbox
from wardround.sources.site import Site

__all__ = ["Listener"]

_MOST_BYTES: Final = 15 * 1024 * 1024
_MOST_CONNECTIONS: Final = 16
_IDLE_SECONDS: Final = 20.0
_DEADLINE_SECONDS: Final = 60.0
_LEAST_SECRET: Final = 16
_KINDS: Final = frozenset({"application/fhir+json", "application/json"})
_PLACE: Final = re.compile(r"[A-Z][A-Za-z]{1,63}/[A-Za-z0-9.-]{1,64}", re.ASCII)


class Listener:
    """Listens from when it is made until it is closed; serves from `serve` on.

    Raises:
        ConfigError: The secret is too short, TLS is wanting or its files are not of use, or the address is taken.
    """

    def __init__(self, settings: FhirNotificationsSettings, site: Site, inbox: Inbox) -> None:
        secret = site.secret(settings.secret, "the secret of the FHIR server's notifications")
        if len(secret) < _LEAST_SECRET:
            raise ConfigError(
                f"the secret of the FHIR server's notifications must have {_LEAST_SECRET} characters or more"
            )
        host, _, port = settings.listen.rpartition(":")
        context = _context(settings, site, host.strip("[]"))
        base = settings.server.base.rstrip("/") if settings.server else ""
        receiver = _Receiver(settings.path, settings.header, secret.encode(), base, inbox)
        self._lock = threading.Lock()
        self._is_serving = self._is_closed = False
        try:
            self._server = _Server((host.strip("[]"), int(port)), receiver, context)
        except (OSError, OverflowError):
            raise ConfigError(
                f"nothing can listen on {settings.listen}: the address is taken, or is not this machine's"
            ) from None

    @property
    def port(self) -> int:
        """The port that it listens on."""
        return int(self._server.server_address[1])

    def serve(self) -> None:
        """Serve, in this thread, until `close` is called from another."""
        with self._lock:
            if self._is_closed:
                return
            self._is_serving = True
        self._server.serve_forever(poll_interval=0.2)

    def close(self) -> None:
        """Take no more requests; what is being taken in is answered or was not taken in."""
        with self._lock:
            self._is_closed = True
        if self._is_serving:
            self._server.shutdown()
        self._server.server_close()


@dataclass(frozen=True, slots=True, repr=False)
class _Receiver:
    """What a request is judged by, and where it goes."""

    path: str
    header: str
    secret: bytes
    base: str
    inbox: Inbox

    def place(self, path: str) -> str | None:
        """The "Type/id" of a request's path, "" for the endpoint itself, None for any other."""
        if path.rstrip("/") == self.path:
            return ""
        rest = path.removeprefix(f"{self.path}/")
        return rest if rest != path and _PLACE.fullmatch(rest) else None


class _Server(ThreadingMixIn, TCPServer):
    daemon_threads = True
    block_on_close = False
    allow_reuse_address = True
    request_queue_size = 64

    def __init__(self, address: tuple[str, int], receiver: _Receiver, context: ssl.SSLContext | None) -> None:
        if ":" in address[0]:
            self.address_family = socket.AF_INET6
        self.receiver, self._context = receiver, context
        self._places = threading.BoundedSemaphore(_MOST_CONNECTIONS)
        self._open: dict[socket.socket, float] = {}
        super().__init__(address, _Handler)

    def get_request(self) -> tuple[socket.socket, Any]:
        connection, address = self.socket.accept()
        if self._context is not None:
            # The handshake is the connection's own thread's: nobody waits for a caller that is slow at it.
            connection = self._context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        return connection, address

    def process_request(self, request: Any, client_address: Any) -> None:  # noqa: ANN401, as socketserver has it
        if not self._places.acquire(blocking=False):
            self.shutdown_request(request)
            return
        self._open[request] = time.monotonic()
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:  # noqa: ANN401, as above
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._open.pop(request, None)
            self._places.release()

    def service_actions(self) -> None:
        """End the connections that have lasted too long."""
        now = time.monotonic()
        for connection, since in list(self._open.items()):
            if now - since > _DEADLINE_SECONDS:
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ANN401, as above
        """Say nothing: what was raised may quote a request."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = _IDLE_SECONDS
    server: _Server

    def do_POST(self) -> None:
        self._answer(self._taken("POST"))

    def do_PUT(self) -> None:
        self._answer(self._taken("PUT"))

    def do_DELETE(self) -> None:
        self._answer(self._taken("DELETE"))

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:  # noqa: ARG002, as http.server has it
        self._answer(code)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002, as http.server has it
        """Say nothing."""

    def _answer(self, status: int) -> None:
        self.close_connection = True
        self.send_response_only(status)
        self.send_header("Content-Length", "0")
        self.send_header("Connection", "close")
        self.end_headers()

    def _taken(self, method: str) -> int:
        receiver = self.server.receiver
        offered = self.headers.get(receiver.header, "").encode("latin-1", "replace")
        if not hmac.compare_digest(offered, receiver.secret):
            return 401
        place = receiver.place(self.path)
        if place is None:
            return 404
        if bool(place) == (method == "POST"):
            return 405
        try:
            message = fhir_notifications.kept_deletion(place) if method == "DELETE" else self._kept(receiver, place)
            if message:
                receiver.inbox.append(message)
        except _RefusedError as refused:
            return refused.status
        except CodecError:
            return 422
        except ValueError:
            return 413
        except WardroundError:
            return 503
        return 200

    def _kept(self, receiver: _Receiver, place: str) -> bytes:
        length = self.headers.get("content-length", "")
        if "transfer-encoding" in self.headers or not re.fullmatch(r"[0-9]{1,12}", length, re.ASCII):
            raise _RefusedError(411)
        if int(length) > _MOST_BYTES:
            raise _RefusedError(413)
        if self.headers.get_content_type() not in _KINDS or "content-encoding" in self.headers:
            raise _RefusedError(415)
        body = self.rfile.read(int(length))
        if len(body) < int(length):
            raise _RefusedError(400)
        return fhir_notifications.kept(body, base=receiver.base, place=place)


class _RefusedError(Exception):
    def __init__(self, status: int) -> None:
        super().__init__()
        self.status = status


def _context(settings: FhirNotificationsSettings, site: Site, host: str) -> ssl.SSLContext | None:
    if not settings.certificate:
        if is_here(host):
            return None
        raise ConfigError("a listener that other machines reach needs a certificate and certificate_key")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(
            site.path(settings.certificate),
            site.path(settings.certificate_key or settings.certificate),
            password=lambda: b"",  # An encrypted key is refused; nobody is asked on a terminal.
        )
    except (OSError, ValueError, ssl.SSLError):
        raise ConfigError("the listener's certificate and certificate_key are no pair of readable PEM files") from None
    return context
