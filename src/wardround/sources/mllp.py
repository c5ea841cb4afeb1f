"""The listener: takes HL7 version 2 messages from other systems over MLLP, and acknowledges them once they are kept.

    [listener]
    host = "0.0.0.0"
    port = 2575
    peers = ["10.1.2.0/24"]                  # who may send; nobody else is answered
    certificate = "listener.pem"             # TLS, with private_key; client_authority asks for senders' certificates

One thread for each connection; the intake lets them share an fsync. An acknowledgement (AA, CA) goes out only after
`wardround.sources.intake.Intake.append` returned. Nothing of a message is logged: counts are.

Hazard: without TLS the messages are on the network as they are, and an address can be forged.
"""

import ipaddress
import secrets
import socket
import ssl
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Final, Protocol

import msgspec
import structlog

from wardround.errors import ConfigError, PeerProtocolError, WardroundError
from wardround.sources import hl7_frame
from wardround.sources.hl7_frame import Framer, Outcome
from wardround.sources.intake import MESSAGE_BYTES

__all__ = ["ListenerSettings", "Tally", "serve"]

_RECEIVE: Final = 64 * 1024
_POLL_SECONDS: Final = 0.25
_BACKLOG: Final = 64
_log = structlog.get_logger("wardround.listener")

_Seconds = Annotated[float, msgspec.Meta(gt=0.0, le=86_400.0)]
_Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class ListenerSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Where to listen, to whom, and how much of each.

    Attributes:
        host: The address to listen at.
        port: The port; 2575 is HL7's.
        peers: Networks or addresses that may connect; by default this machine alone.
        certificate: PEM file of the listener's certificate and chain, for TLS; `private_key` is its key's.
        private_key: See `certificate`.
        client_authority: PEM file of the authority whose certificates senders must show.
        connections: How many at once.
        frame_bytes: The longest message.
        frame_seconds: How long a message may take from its first byte to its last.
        idle_seconds: How long a connection may say nothing.
    """

    host: str = "127.0.0.1"
    port: Annotated[int, msgspec.Meta(ge=0, le=65_535)] = 2575
    peers: tuple[str, ...] = ("127.0.0.0/8", "::1/128")
    certificate: str = ""
    private_key: str = ""
    client_authority: str = ""
    connections: Annotated[int, msgspec.Meta(ge=1, le=1_000)] = 64
    frame_bytes: Annotated[int, msgspec.Meta(ge=1_000, le=MESSAGE_BYTES)] = MESSAGE_BYTES
    frame_seconds: _Seconds = 60.0
    idle_seconds: _Seconds = 600.0


class Keeping(Protocol):
    """Where messages are kept: `wardround.sources.intake.Intake`."""

    def append(self, message: bytes) -> None:
        """Keep a message; it is on the disk once this returns."""


class Tally:
    """Counts by name, for several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: dict[str, int] = {}

    def add(self, name: str, count: int = 1) -> None:
        """Count something."""
        if count:
            with self._lock:
                self._counts[name] = self._counts.get(name, 0) + count

    def counts(self) -> dict[str, int]:
        """All counts so far."""
        with self._lock:
            return dict(self._counts)


def serve(
    settings: ListenerSettings,
    intake: Keeping,
    stop: threading.Event,
    *,
    folder: Path | None = None,
    tally: Tally | None = None,
    ready: Callable[[str, int], None] | None = None,
) -> None:
    """Listen until `stop` is set; the connections then end between two messages.

    Args:
        settings: See there.
        intake: Where messages are kept; it is not closed.
        stop: Set from a signal's handler or another thread.
        folder: What paths of the settings start from.
        tally: Where to count.
        ready: Told the address once connections are taken.

    Raises:
        ConfigError: The address cannot be listened at, a network is none, or a certificate cannot be used.
    """
    networks = _networks(settings.peers)
    context = _context(settings, folder or Path())
    counts = tally or Tally()
    threads: set[threading.Thread] = set()
    with _listening(settings) as listening:
        listening.settimeout(_POLL_SECONDS)
        if ready is not None:
            ready(*listening.getsockname()[:2])
        while not stop.is_set():
            try:
                connection, address = listening.accept()
            except TimeoutError:
                continue
            except OSError:
                counts.add("connections that failed")
                stop.wait(_POLL_SECONDS)
                continue
            threads = {thread for thread in threads if thread.is_alive()}
            if offence := _unwelcome(address[0], networks, len(threads), settings.connections):
                counts.add(offence)
                connection.close()
                continue
            one = _Connection(settings, connection, context, intake, stop, counts)
            thread = threading.Thread(target=one.run, name="wardround-mllp", daemon=True)
            thread.start()
            threads.add(thread)
    for thread in threads:
        thread.join()
    _log.info("listener stopped", **{name.replace(" ", "_"): count for name, count in counts.counts().items()})


class _Connection:
    """One sender's connection, in a thread of its own."""

    def __init__(
        self,
        settings: ListenerSettings,
        connection: socket.socket,
        context: ssl.SSLContext | None,
        intake: Keeping,
        stop: threading.Event,
        tally: Tally,
    ) -> None:
        self._settings, self._connection, self._context = settings, connection, context
        self._intake, self._stop, self._tally = intake, stop, tally
        self._framer = Framer(most_bytes=settings.frame_bytes)

    def run(self) -> None:
        """Answer until the sender leaves, breaks a rule, says nothing for too long, or we stop."""
        self._tally.add("connections")
        try:
            with self._secured() as connection:
                self._converse(connection)
        except PeerProtocolError:
            self._tally.add("connections that broke a rule")
        except OSError:
            self._tally.add("connections that failed")
        finally:
            self._connection.close()
            self._tally.add("bytes outside of frames", self._framer.garbage)
            self._tally.add("half frames", self._framer.halves + self._framer.is_inside)

    def _secured(self) -> socket.socket:
        if self._context is None:
            return self._connection
        self._connection.settimeout(self._settings.frame_seconds)
        return self._context.wrap_socket(self._connection, server_side=True)

    def _converse(self, connection: socket.socket) -> None:
        connection.settimeout(_POLL_SECONDS)
        heard = began = time.monotonic()
        while not self._stop.is_set():
            try:
                data = connection.recv(_RECEIVE)
            except TimeoutError:
                data = None
            now = time.monotonic()
            if data == b"":
                return
            if data:
                was_inside = self._framer.is_inside
                for message in self._framer.feed(data):
                    self._reply(connection, self._received(message))
                    was_inside = False
                began = began if was_inside else now
                heard = now
            if now - heard > self._settings.idle_seconds:
                self._tally.add("connections that said nothing")
                return
            if self._framer.is_inside and now - began > self._settings.frame_seconds:
                raise PeerProtocolError("a frame took too long")

    def _received(self, data: bytes) -> bytes | None:
        message = hl7_frame.incoming(data)
        if message.offence:
            outcome = Outcome.UNACCEPTABLE
        elif not message.is_version:
            outcome = Outcome.UNSUPPORTED
        else:
            outcome = self._kept(data)
        self._tally.add(f"messages {outcome.name.lower().replace('_', ' ')}")
        stamp = datetime.now(UTC).strftime("%Y%m%d%H%M%S+0000")
        return hl7_frame.answer(message, outcome, stamp=stamp, identifier=secrets.token_hex(10))

    def _kept(self, data: bytes) -> Outcome:
        try:
            self._intake.append(data)
        except WardroundError as error:
            _log.warning("message not kept", code=error.code)
            return Outcome.NOT_KEPT
        except ValueError:
            _log.warning("message longer than the intake takes")
            return Outcome.NOT_KEPT
        return Outcome.KEPT

    def _reply(self, connection: socket.socket, reply: bytes | None) -> None:
        if reply is not None:
            connection.settimeout(self._settings.frame_seconds)
            connection.sendall(hl7_frame.framed(reply))
            connection.settimeout(_POLL_SECONDS)


def _listening(settings: ListenerSettings) -> socket.socket:
    try:
        family, *_, address = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        return socket.create_server(address[:2], family=family, backlog=_BACKLOG)
    except OSError as error:
        name = type(error).__name__
        raise ConfigError(f"{settings.host}:{settings.port} cannot be listened at ({name}): is it taken?") from None


def _networks(peers: tuple[str, ...]) -> list[_Network]:
    if not peers:
        raise ConfigError("the listener's peers are empty: name the addresses or networks that may send")
    try:
        return [ipaddress.ip_network(peer) for peer in peers]
    except ValueError:
        raise ConfigError("one of the listener's peers is no address and no network, such as 10.1.2.0/24") from None


def _unwelcome(host: str, networks: list[_Network], present: int, most: int) -> str:
    address = ipaddress.ip_address(host.partition("%")[0])
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    if not any((mapped or address) in network for network in networks):
        return "connections of other peers"
    return "connections beyond the limit" if present >= most else ""


def _context(settings: ListenerSettings, folder: Path) -> ssl.SSLContext | None:
    if not settings.certificate:
        if settings.private_key or settings.client_authority:
            raise ConfigError("the listener has a private key or an authority, but no certificate")
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        key = folder / (settings.private_key or settings.certificate)
        # An encrypted key would ask for its passphrase on the terminal.
        context.load_cert_chain(folder / settings.certificate, key, password="")
        if settings.client_authority:
            context.load_verify_locations(folder / settings.client_authority)
            context.verify_mode = ssl.CERT_REQUIRED
    except (OSError, ValueError) as error:
        raise ConfigError(f"the listener's certificate or key cannot be used ({type(error).__name__})") from None
    return context
