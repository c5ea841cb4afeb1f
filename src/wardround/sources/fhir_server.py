"""One FHIR server as a node sees it: its own origin, its token, and the hosts that its files may lie on.

    1. The token goes to the server's own origin (scheme, host and port), and nowhere else. Other origins are dialled
       only if the site's mapping names them, and then without a token.
    2. A download that breaks off begins again, and what was already handed on must come again byte for byte.
    3. A file is newline-delimited JSON by its content type; a log-in page is not taken for one.

A hospital's FHIR server is trusted with its own data, not with this node: it may be broken, or taken over.
"""

import hashlib
import http.client
import io
import ssl
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import IO, Annotated, Any, Final, Protocol
from urllib.parse import urljoin

import msgspec

from wardround.errors import ClinicalError, ConfigError, CryptoError, UnavailableError
from wardround.sources.fhir_http import (
    BROKEN,
    BUSY,
    MESSAGE_BYTES,
    Answer,
    Clock,
    Wire,
    checked_url,
    origin,
    retry_after,
    tls,
)
from wardround.sources.fhir_token import BackendService, TokenSettings
from wardround.sources.site import Site

__all__ = ["TIMELESS", "Bearer", "FhirServer", "ServerSettings", "instant", "open_server", "stream_of_pieces"]

TIMELESS: Final = ("Consent", "Patient")
"""What holds of a patient rather than of a moment: wanted however long ago it was known."""

_ATTEMPTS: Final = 6
_LONGEST_PAUSE: Final = 120.0
_NDJSON: Final = frozenset(
    {
        "application/fhir+ndjson",
        "application/ndjson",
        "application/x-ndjson",
        "application/gzip",
        "application/octet-stream",
        "binary/octet-stream",
    }
)


class ServerSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Where a FHIR server is, and how this node is known to it.

    Attributes:
        base: Its address: https, or http on this machine.
        token: The node's client; left out: the server wants no token.
        ca: The PEM file of the authority of its certificate; left out: the machine's own authorities.
        file_hosts: Further origins ("https://files.example.org") that the files of an export may lie on. No token is
            sent there.
        timeout_seconds: How long one read may hang.
    """

    base: str
    token: TokenSettings | None = None
    ca: str = ""
    file_hosts: tuple[str, ...] = ()
    timeout_seconds: Annotated[float, msgspec.Meta(gt=0.0, le=3600.0)] = 60.0


class Bearer(Protocol):
    """Gives the token of a FHIR server; `has_less`: it was granted fewer scopes than asked for."""

    has_less: bool

    def bearer(self, *, renew: bool = False) -> str:
        """The present token; `renew`: the server has refused that."""


class FhirServer:
    """One FHIR server, at `base`; see the rules above.

    Args:
        base: Its address, as the mapping has it.
        wire: The way to it.
        token: Gives its token; None: it wants none.
        hosts: Further origins that its files may lie on.

    Raises:
        ConfigError: `base` or one of `hosts` is no address that may be dialled.
    """

    def __init__(self, base: str, wire: Wire, *, token: Bearer | None = None, hosts: tuple[str, ...] = ()) -> None:
        try:
            parts = checked_url(base)
            self._origin = origin(base)
            self._hosts = {origin(host) for host in hosts}
        except ValueError:
            raise ConfigError(
                "a FHIR server's base looks like https://fhir.example.org/r4 (http only on this machine), and a file "
                "host like https://files.example.org"
            ) from None
        if parts.query:
            raise ConfigError("a FHIR server's base has no query")
        self.base = base.rstrip("/")
        self._wire, self._token = wire, token
        self.clock = wire.clock

    def remarks(self) -> list[str]:
        """What is to be remarked about reading from here: a token that may hold resources back without a word."""
        return ["token with fewer scopes than asked for"] if self._token and self._token.has_less else []

    def is_own(self, url: str) -> bool:
        """Whether an address, or one below the base, is at the server's own origin."""
        try:
            return origin(_joined(self.base, url)) == self._origin
        except ValueError:
            return False

    def own(self, url: str) -> str:
        """An address that the server gave, if it is at the server's own origin; a relative one is below its base.

        Raises:
            ClinicalError: It is elsewhere, or no address.
        """
        full = _joined(self.base, url)
        if not self.is_own(full):
            raise ClinicalError("the FHIR server gave an address that is not its own: nothing was sent there")
        return full

    def call(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
        most_bytes: int = MESSAGE_BYTES,
        is_repeatable: bool = True,
    ) -> Answer:
        """A request to the server itself, with its token.

        Raises:
            ClinicalError: As `Wire.call`, or an address that is not the server's.
            ConfigError: The server refuses the token, also a new one.
            UnavailableError: As `Wire.call`.
        """
        own = self.own(url)
        for renew in (False, True):
            sent = {"accept": "application/fhir+json", **(headers or {}), **self._authorization(renew=renew)}
            answer = self._wire.call(method, own, sent, body=body, most_bytes=most_bytes, is_repeatable=is_repeatable)
            if answer.status != 401 or self._token is None:
                break
        if answer.status in {401, 403}:
            raise ConfigError(f"the FHIR server refuses this node ({answer.status}): see its client and its scopes")
        return answer

    def download(self, url: str, *, most_bytes: int) -> Iterator[bytes]:
        """A file of newline-delimited JSON, plain or gzip, as it comes in.

        Raises:
            ClinicalError: It may not be fetched from there, is of another kind, too long, or changes while it is read.
            ConfigError: The server refuses the token, also a new one.
            UnavailableError: It breaks off again and again.
        """
        full = _joined(self.base, url)
        self._check_place(full)
        handed, trouble = _Handed(most_bytes), ""
        for attempt in range(_ATTEMPTS):
            pause = 2.0**attempt
            try:
                for piece in self._attempt(full):
                    if new := handed.new(piece):
                        yield new
            except ssl.SSLCertVerificationError as error:
                raise CryptoError(f"the file host's certificate is not valid: {error.verify_message}") from None
            except BROKEN as error:
                trouble = type(error).__name__
                pause = error.seconds if isinstance(error, _LaterError) else pause
            else:
                handed.finish()
                return
            handed.begin()
            self.clock.sleep(min(pause, _LONGEST_PAUSE))
        raise UnavailableError(f"a file of the FHIR server could not be fetched in {_ATTEMPTS} attempts: {trouble}")

    def _attempt(self, url: str) -> Iterator[bytes]:
        for renew in (False, True):
            with self._wire.open(url, self._file_headers(url, renew=renew)) as (response, pieces):
                if response.status == 401 and self._token and self.is_own(url) and not renew:
                    continue
                if response.status in BUSY:
                    raise _LaterError(retry_after(response.headers, self.clock.wall(), 2.0))
                _check_file(response)
                yield from pieces
                return

    def _check_place(self, url: str) -> None:
        try:
            place = origin(url)
        except ValueError:
            place = ""
        if place != self._origin and place not in self._hosts:
            raise ClinicalError(
                "the FHIR server names a file on a host that the mapping does not allow: nothing was fetched; "
                "if it is the hospital's own, add it to file_hosts"
            )

    def _file_headers(self, url: str, *, renew: bool) -> dict[str, str]:
        headers = {"accept": "application/fhir+ndjson", "accept-encoding": "gzip, identity"}
        return headers | (self._authorization(renew=renew) if self.is_own(url) else {})

    def _authorization(self, *, renew: bool) -> dict[str, str]:
        return {"authorization": f"Bearer {self._token.bearer(renew=renew)}"} if self._token else {}


def open_server(settings: ServerSettings, site: Site, clock: Clock | None = None) -> FhirServer:
    """The server that settings describe; it is dialled with the first request.

    Raises:
        ConfigError: An address, the authority's file or the client's key is not of use.
    """
    wire = Wire(
        tls(site.path(settings.ca) if settings.ca else None), clock=clock, timeout_seconds=settings.timeout_seconds
    )
    token = BackendService(settings.token, site, settings.base, wire) if settings.token else None
    return FhirServer(settings.base, wire, token=token, hosts=settings.file_hosts)


class _LaterError(http.client.HTTPException):
    """The server says "later": in so many seconds."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds


class _Handed:
    """What of a file was handed on, so that it is seen whether it comes again as it was."""

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._count, self._digest = 0, hashlib.sha256()
        self._begun, self._again = 0, hashlib.sha256()

    def begin(self) -> None:
        """The file comes from its beginning again."""
        self._begun, self._again = 0, hashlib.sha256()

    def new(self, piece: bytes) -> bytes:
        """What of the next piece was not handed on yet."""
        old = piece[: max(self._count - self._begun, 0)]
        new = piece[len(old) :]
        self._again.update(old)
        self._begun += len(piece)
        if old and self._begun >= self._count and self._again.digest() != self._digest.digest():
            raise ClinicalError("a file of the FHIR server is another one when it is fetched again")
        self._digest.update(new)
        self._count += len(new)
        if self._count > self._most_bytes:
            raise ClinicalError(f"a file of the FHIR server has more than {self._most_bytes} bytes")
        return new

    def finish(self) -> None:
        """The file has come to its end."""
        if self._begun < self._count:
            raise ClinicalError("a file of the FHIR server is shorter when it is fetched again")


class _Stream(io.RawIOBase):
    """Pieces as a stream to be read."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:  # noqa: ANN401, as io has it
        while not self._rest:
            piece = next(self._pieces, None)
            if piece is None:
                return 0
            self._rest = memoryview(piece)
        count = min(len(buffer), len(self._rest))
        buffer[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        return count


def instant(time_us: int) -> str:
    """A FHIR instant, in UTC."""
    moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=time_us)
    return f"{moment:%Y-%m-%dT%H:%M:%S}Z"


def stream_of_pieces(pieces: Iterator[bytes]) -> IO[bytes]:
    """The pieces one after the other, as a stream."""
    return io.BufferedReader(_Stream(pieces))


def _joined(base: str, url: str) -> str:
    try:
        return urljoin(f"{base}/", url) if url else ""
    except ValueError:
        return ""


def _check_file(response: http.client.HTTPResponse) -> None:
    if response.status in {401, 403}:
        raise ConfigError(
            f"the FHIR server refuses this node a file ({response.status}): see its client and its scopes"
        )
    if response.status != 200:
        raise ClinicalError(f"the FHIR server answers {response.status} where a file should be")
    if response.headers.get_content_type() not in _NDJSON or response.headers.get("content-type") is None:
        raise ClinicalError("the FHIR server sends another kind of file than newline-delimited JSON")
    if response.headers.get("content-encoding", "identity").strip().lower() not in {"identity", "gzip"}:
        raise ClinicalError("the FHIR server encodes a file in a way that was not asked for")
