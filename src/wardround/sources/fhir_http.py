"""HTTP for sources: every wait and every size has a bound, whatever the server does.

    1. An address is https, or http on this machine; nothing else is dialled, and no redirection is followed.
    2. What comes in is complete or an error: an answer says where it ends (Content-Length or chunks), and ends there.
    3. The head of an answer has a deadline of its own, whatever comes in meanwhile; its body must not come too slowly.
    4. 429, 502, 503, 504 and broken connections are tried again, a bounded number of times, as Retry-After says.

Errors hold statuses and counts; no address, header or body of an answer, which may hold a patient's identifier or a
token. Proxies of the environment are not used.
"""

import email.utils
import http.client
import ipaddress
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from email.message import Message
from pathlib import Path
from typing import Final, TypeVar
from urllib.parse import SplitResult, urlsplit

import msgspec

from wardround.errors import ClinicalError, ConfigError, CryptoError, UnavailableError

__all__ = [
    "BROKEN",
    "BUSY",
    "MESSAGE_BYTES",
    "Answer",
    "Clock",
    "Wire",
    "checked_url",
    "is_here",
    "origin",
    "retry_after",
    "tls",
]

_T = TypeVar("_T")
_PIECE: Final = 256 * 1024
MESSAGE_BYTES: Final = 64 * 1024 * 1024
"""The longest answer that is held in memory: a page, a manifest."""

BROKEN: Final = (OSError, http.client.HTTPException)
"""How a broken connection shows."""
BUSY: Final = frozenset({429, 502, 503, 504})
"""The statuses that say "later"."""
_ATTEMPTS: Final = 6
_LONGEST_PAUSE: Final = 120.0
_GRACE_SECONDS: Final = 60.0
_SLOWEST: Final = 8192.0
"""Bytes per second of waiting, once the grace is over."""
_VISIBLE: Final = re.compile(r"[\x21-\x7e]{1,8192}")


@dataclass(frozen=True, slots=True)
class Clock:
    """Seconds that only grow, seconds since 1970, and how to wait."""

    now: Callable[[], float] = time.monotonic
    wall: Callable[[], float] = time.time
    sleep: Callable[[float], None] = time.sleep


@dataclass(frozen=True, slots=True, repr=False)
class Answer:
    """A whole answer; `headers` by name, whatever their case."""

    status: int
    headers: Message
    body: bytes

    def decoded(self, kind: type[_T]) -> _T:
        """The body as JSON of this kind.

        Raises:
            ClinicalError: It is not.
        """
        try:
            return msgspec.json.decode(self.body, type=kind)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            raise ClinicalError("the FHIR server's answer is not the JSON that it should be") from None


def checked_url(url: str) -> SplitResult:
    """The parts of an address that may be dialled.

    Raises:
        ValueError: It is not https, nor http on this machine; or it has a user, a fragment or odd characters.
    """
    if not _VISIBLE.fullmatch(url) or "\\" in url:
        raise ValueError("not an address")
    parts = urlsplit(url)
    host, _ = parts.hostname, parts.port  # The port is checked where it is read.
    if not host or parts.username is not None or parts.password is not None or parts.fragment:
        raise ValueError("not an address")
    if parts.scheme != "https" and not (parts.scheme == "http" and is_here(host)):
        raise ValueError("neither https nor http on this machine")
    return parts


def origin(url: str) -> str:
    """Scheme, host and port of an address that may be dialled.

    Raises:
        ValueError: As `checked_url`.
    """
    parts = checked_url(url)
    return f"{parts.scheme}://{(parts.hostname or '').lower()}:{parts.port or (443 if parts.scheme == 'https' else 80)}"


def tls(authority: Path | None = None) -> ssl.SSLContext:
    """TLS 1.2 or newer that trusts this PEM file's authorities, or else the machine's own.

    Raises:
        ConfigError: The file is no PEM certificate.
    """
    try:
        context = ssl.create_default_context(cafile=str(authority) if authority else None)
    except (OSError, ssl.SSLError):
        raise ConfigError("the mapping's ca is no readable file of PEM certificates") from None
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


class Wire:
    """Requests to checked addresses, each on a connection of its own."""

    def __init__(
        self, context: ssl.SSLContext | None = None, *, clock: Clock | None = None, timeout_seconds: float = 60.0
    ) -> None:
        self._context = context or tls()
        self.clock = clock or Clock()
        self._timeout = timeout_seconds

    def call(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        *,
        body: bytes = b"",
        most_bytes: int = MESSAGE_BYTES,
        is_repeatable: bool = True,
    ) -> Answer:
        """One request's whole answer, whatever its status but for those that say "later".

        Raises:
            UnavailableError: No answer, or only "later"; after a broken connection what is not `is_repeatable` is not
                tried again.
            CryptoError: The server's certificate is not valid.
            ClinicalError: The answer is too long, encoded in some way, or a redirection.
        """
        pause = 0.0
        for attempt in range(_ATTEMPTS):
            try:
                with self._answer(method, url, {"accept-encoding": "identity", **headers}, body) as response:
                    if response.status not in BUSY:
                        return Answer(response.status, response.headers, self._whole(response, most_bytes))
                    pause = retry_after(response.headers, self.clock.wall(), 2.0**attempt)
            except ssl.SSLCertVerificationError as error:
                raise CryptoError(f"the FHIR server's certificate is not valid: {error.verify_message}") from None
            except BROKEN as error:
                if not is_repeatable:
                    raise UnavailableError(f"the FHIR server did not answer: {type(error).__name__}") from None
                pause = 2.0**attempt
            if attempt + 1 < _ATTEMPTS:
                self.clock.sleep(min(pause, _LONGEST_PAUSE))
        raise UnavailableError(f"the FHIR server did not answer, or said 'later', {_ATTEMPTS} times")

    @contextmanager
    def open(self, url: str, headers: Mapping[str, str]) -> Iterator[tuple[http.client.HTTPResponse, Iterator[bytes]]]:
        """A download: the response, and its body as it comes in.

        Raises:
            OSError: The connection is broken; also http.client.HTTPException.
            ClinicalError: A redirection.
        """
        with self._answer("GET", url, headers, b"") as response:
            yield response, self._pieces(response)

    @contextmanager
    def _answer(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes
    ) -> Iterator[http.client.HTTPResponse]:
        parts = checked_url(url)
        connection = self._connection(parts)
        response: http.client.HTTPResponse | None = None
        watch = threading.Timer(2.0 * self._timeout, _hang_up, [connection])
        watch.daemon = True
        try:
            target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
            watch.start()
            connection.request(method, target, body=body or None, headers={**headers, "connection": "close"})
            response = connection.getresponse()
            watch.cancel()
            if 300 <= response.status < 400:
                raise ClinicalError(
                    f"the FHIR server answers with a redirection ({response.status}), and none is followed: "
                    "write the address that it leads to into the mapping"
                )
            yield response
        finally:
            watch.cancel()
            if response is not None:
                response.close()
            connection.close()

    def _connection(self, parts: SplitResult) -> http.client.HTTPConnection:
        host = parts.hostname or ""
        if parts.scheme == "http":
            return http.client.HTTPConnection(host, parts.port or 80, timeout=self._timeout)
        return http.client.HTTPSConnection(host, parts.port or 443, timeout=self._timeout, context=self._context)

    def _whole(self, response: http.client.HTTPResponse, most_bytes: int) -> bytes:
        if response.headers.get("content-encoding", "identity").strip().lower() != "identity":
            raise ClinicalError("the FHIR server encodes its answer in a way that was not asked for")
        held = bytearray()
        for piece in self._pieces(response):
            held += piece
            if len(held) > most_bytes:
                raise ClinicalError(f"the FHIR server's answer has more than {most_bytes} bytes")
        return bytes(held)

    def _pieces(self, response: http.client.HTTPResponse) -> Iterator[bytes]:
        if response.length is None and not response.chunked:
            raise ClinicalError("the FHIR server's answer does not say where it ends, so it may be cut short")
        waited, count = 0.0, 0
        while True:
            asked = self.clock.now()
            piece = response.read1(_PIECE)
            waited += self.clock.now() - asked
            count += len(piece)
            if waited > _GRACE_SECONDS and count < waited * _SLOWEST:
                raise TimeoutError("the server sends too slowly")
            if not piece:
                break
            yield piece
        if response.length:
            raise http.client.IncompleteRead(b"", response.length)


def _hang_up(connection: http.client.HTTPConnection) -> None:
    line = connection.sock
    if line is not None:
        with suppress(OSError):
            line.shutdown(socket.SHUT_RDWR)


def retry_after(headers: Message, wall: float, default: float) -> float:
    """The seconds that Retry-After asks for, as a number or a date; never less than none."""
    text = headers.get("retry-after", "").strip()
    if re.fullmatch(r"[0-9]{1,9}", text, re.ASCII):
        return float(text)
    try:
        return max(email.utils.parsedate_to_datetime(text).timestamp() - wall, 0.0)
    except (TypeError, ValueError, OverflowError):
        return default


def is_here(host: str) -> bool:
    """Whether a host is this machine, by its name or address alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
