"""Connections to a hub, and the few requests that nobody signs: before enrolment, and for its clock."""

import hashlib
import hmac
import http.client
import socket
import ssl
import time
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from wardround.errors import ConfigError, CryptoError, UnavailableError, WardroundError, by_code
from wardround.ids import Digest
from wardround.protocol import messages
from wardround.protocol.messages import Enrolled, Enrolment, Problem

__all__ = [
    "BROKEN",
    "PIECE",
    "address",
    "clock_offset",
    "connect",
    "connect_lazily",
    "enrol",
    "error_of",
    "fetch_authority",
    "fetch_signer",
    "problem_of",
    "tls_context",
]

PIECE = 1024 * 1024
BROKEN = (OSError, http.client.HTTPException)
"""How a broken connection shows."""


def tls_context(authority: bytes, credential: Path | None = None) -> ssl.SSLContext:
    """TLS 1.3 and nothing older, trusting these authorities' PEM certificates and no other.

    `credential` is the file of the key and certificate to show; OpenSSL reads it itself, so it lies nowhere else.

    Raises:
        ConfigError: `authority` is no PEM certificate, or `credential` no key with its certificate.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    try:
        context.load_verify_locations(cadata=authority.decode())
    except (ssl.SSLError, ValueError):
        raise ConfigError(
            "the authority's file is no PEM certificate; enrol again, or ask the hub's operator"
        ) from None
    if credential is not None:
        try:
            context.load_cert_chain(credential)
        except OSError:
            raise ConfigError(f"{credential} holds no key with its certificate; enrol again") from None
    return context


def fetch_authority(url: str, fingerprint: Digest) -> bytes:
    """The hub's CA certificate, if its fingerprint is the one that the invite names.

    Raises:
        CryptoError: Another certificate: this is not the hub that the invite is for.
        UnavailableError: No answer.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # Nothing is known yet; the fingerprint below decides.
    answer = _plain_call(url, context, "GET", "/v1/authority", b"")
    if not hmac.compare_digest(hashlib.sha256(answer).hexdigest(), fingerprint):
        raise CryptoError("this hub's authority is not the one that the invite names; do not enrol here")
    return answer


def enrol(url: str, authority: bytes, enrolment: Enrolment) -> Enrolled:
    """Hand in an invite and a certificate request.

    Raises:
        InviteError: The invite is unknown, expired or was used.
        UnavailableError: No answer.
    """
    body = messages.encode(enrolment)
    return messages.decode(_plain_call(url, tls_context(authority), "POST", "/v1/enrolments", body), Enrolled)


def clock_offset(url: str, authority: bytes, credential: Path | None = None) -> tuple[float, float]:
    """How many seconds the hub's clock is ahead of this one, and how long the question took.

    `credential` is the file of the key and certificate to show, where the hub asks for one.

    Raises:
        UnavailableError: No answer.
    """
    started = time.time()
    answer = _plain_call(url, tls_context(authority, credential), "GET", "/healthz", b"")
    took = time.time() - started
    hub_time = float(msgspec.json.decode(answer, type=dict[str, object])["time"])  # type: ignore[arg-type]
    return hub_time - started - took / 2, took


def fetch_signer(url: str, context: ssl.SSLContext) -> bytes:
    """The certificate under which the hub signs its answers, unverified.

    Raises:
        UnavailableError: No answer.
    """
    return _plain_call(url, context, "GET", "/v1/signer", b"")


def _plain_call(url: str, context: ssl.SSLContext, method: str, target: str, body: bytes) -> bytes:
    host, port = address(url)
    connection = connect_lazily(host, port, context, 20.0)
    try:
        connection.request(method, target, body=body or None)
        response = connection.getresponse()
        answer = response.read(messages.MAX_MESSAGE_BYTES)
    except ssl.SSLCertVerificationError as error:
        raise CryptoError(f"the hub's certificate is not valid: {error.verify_message}") from None
    except BROKEN as error:
        reason = getattr(error, "reason", None) if isinstance(error, ssl.SSLError) else None
        raise UnavailableError(f"no answer from {host}:{port}: {reason or type(error).__name__}") from None
    finally:
        connection.close()
    if response.status >= 400:
        raise error_of(problem_of(response.status, answer))
    return answer


def connect(host: str, port: int, context: ssl.SSLContext, timeout: float) -> http.client.HTTPSConnection:
    """A connection that is open, without Nagle's delay."""
    connection = connect_lazily(host, port, context, timeout)
    connection.connect()
    connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def connect_lazily(host: str, port: int, context: ssl.SSLContext, timeout: float) -> http.client.HTTPSConnection:
    """A connection that opens with its first request."""
    return http.client.HTTPSConnection(host, port, context=context, timeout=timeout, blocksize=PIECE)


def address(url: str) -> tuple[str, int]:
    """Host and port of a hub's address.

    Raises:
        ConfigError: It is none.
    """
    with suppress(ValueError):
        parts = urlsplit(url)
        if parts.scheme == "https" and parts.hostname and parts.path in {"", "/"}:
            return parts.hostname, parts.port or 443
    raise ConfigError(f"a hub's address looks like https://hub.example.org:8443, not {url!r}")


def problem_of(status: int, body: bytes) -> Problem:
    """What an answer that is no success says."""
    try:
        return msgspec.json.decode(body, type=Problem)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return Problem(type=UnavailableError.code, title="", status=status, detail=f"the hub answered {status}")


def error_of(problem: Problem) -> WardroundError:
    """The error that a problem stands for here."""
    return by_code(problem.type)(problem.detail)
