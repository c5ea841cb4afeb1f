"""Notifications of a FHIR server as a source: what was kept of each in the intake, and the events that follow from it.

A server that has a subscription sends to the node's listener (`wardround.sources.fhir_listener`)

    a resource          R4's rest-hook: POST to the endpoint, or PUT to endpoint/Type/id; DELETE is its deletion
    a Bundle            of the Subscriptions R5 Backport (R4, R4B) or of R5: a status, and per change the whole resource
                        (full-resource) or its reference (id-only)

`kept` says what of it goes into the intake, as one message, so that it is kept as a whole or not at all. A line each:

    resource Type/id {…}
    reference Type/id
    deleted Type/id

Reading goes through the intake twice: first for what became of each resource, then for the resources. References are
fetched from the mapping's own server, in their present state, and never from an address that a notification names. Of
a Consent only the last version counts; of what was deleted later, none. All else is left to the reader, to which
versions of a resource are versions of one fact.

A notification without content ("empty") keeps nothing and is refused: a subscription that sends those is of no use
here, and its server should say so.

References:
    HL7 FHIR R4, Subscription; HL7 FHIR Subscriptions R5 Backport IG 1.1, "Notifications".
"""

import hashlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Annotated, Final, Literal, Protocol, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from wardround.errors import ClinicalError, CodecError, ConfigError
from wardround.harmonization.events import Scope, SourceReport
from wardround.sources.fhir_http import Clock
from wardround.sources.fhir_reader import FhirReading, ResourceReader, stream_of
from wardround.sources.fhir_server import FhirServer, ServerSettings, open_server
from wardround.sources.site import REFERENCE, Site

__all__ = [
    "FhirNotificationsSettings",
    "Inbox",
    "NotificationsSource",
    "kept",
    "kept_deletion",
    "open_inbox",
    "open_source",
]

_T = TypeVar("_T")
_PLACE: Final = re.compile(
    r"(?:(https?://[\x21-\x7e]+)/)?([A-Z][A-Za-z]{1,63}/[A-Za-z0-9.-]{1,64})(?:/_history/[A-Za-z0-9.-]{1,64})?"
)
_MOST_ENTRIES: Final = 10_000
_MOST_TRACKED: Final = 2_000_000
_LINE_ENDS: Final = bytes.maketrans(b"\r\n", b"  ")

_Reference = Annotated[str, msgspec.Meta(pattern=REFERENCE)]


class FhirNotificationsSettings(
    FhirReading, tag="fhir-notifications", tag_field="kind", frozen=True, forbid_unknown_fields=True, kw_only=True
):
    """A FHIR server that notifies.

    Attributes:
        intake: The folder of the intake, from the mapping's.
        intake_key: Names the key that the intake is sealed with, 64 hexadecimal digits.
        secret: Names what the server must send in `header`, such as "Bearer …"; 16 characters or more.
        header: The header that holds the secret.
        listen: Where the listener listens; anywhere but on this machine it needs a certificate.
        path: The path of the subscription's endpoint.
        certificate: The PEM file of the listener's certificate and its chain.
        certificate_key: The PEM file of its private key.
        server: Where the server is, for notifications that hold references only; left out: such are refused.
    """

    intake: str
    intake_key: _Reference
    secret: _Reference
    header: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z][A-Za-z0-9-]{0,63}$")] = "Authorization"
    listen: Annotated[str, msgspec.Meta(pattern=r"^(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9.-]+):[0-9]{1,5}$")] = "127.0.0.1:8190"
    path: Annotated[str, msgspec.Meta(pattern=r"^(/[A-Za-z0-9._~-]{1,64}){1,8}$")] = "/fhir"
    certificate: str = ""
    certificate_key: str = ""
    server: ServerSettings | None = None


class Inbox(Protocol):
    """Where notifications are kept: `wardround.sources.intake.Intake`."""

    damaged: int

    def append(self, message: bytes) -> None:
        """Keep a message; it is on the disk once this returns."""

    def messages(self) -> Iterator[bytes]:
        """Every message kept so far, in order of arrival."""


@dataclass(frozen=True, slots=True, repr=False)
class _Line:
    """What was kept of one resource."""

    kind: Literal["resource", "reference", "deleted"]
    place: str
    text: bytes = b""

    def written(self) -> bytes:
        return b" ".join([self.kind.encode(), self.place.encode(), self.text.translate(_LINE_ENDS)]).rstrip()


class _Named(msgspec.Struct, rename="camel", frozen=True):
    resource_type: str
    id: str = ""


class _Request(msgspec.Struct, frozen=True):
    method: str = ""
    url: str = ""


class _Entry(msgspec.Struct, rename="camel", frozen=True):
    full_url: str = ""
    resource: msgspec.Raw = msgspec.Raw()
    request: _Request = _Request()


class _Bundle(msgspec.Struct, frozen=True):
    type: str = ""
    entry: list[_Entry] = []


class _Focus(msgspec.Struct, frozen=True):
    reference: str = ""


class _Event(msgspec.Struct, frozen=True):
    focus: _Focus = _Focus()


class _Part(msgspec.Struct, rename="camel", frozen=True):
    """A parameter of R4's status, or a part of one."""

    name: str = ""
    value_code: str = ""
    value_reference: _Focus = _Focus()
    part: list["_Part"] = []


class _Status(msgspec.Struct, rename="camel", frozen=True):
    """The first entry: a SubscriptionStatus, or in R4 a Parameters of the same."""

    resource_type: str
    type: str = ""
    notification_event: list[_Event] = []
    parameter: list[_Part] = []

    def kind(self) -> str:
        """What the notification is: an event, a handshake, a heartbeat."""
        return self.type or next((one.value_code for one in self.parameter if one.name == "type"), "")

    def focuses(self) -> list[str]:
        """The references of what has changed."""
        own = [event.focus.reference for event in self.notification_event]
        parts = [part for one in self.parameter if one.name == "notification-event" for part in one.part]
        return [one for one in own + [part.value_reference.reference for part in parts if part.name == "focus"] if one]


def kept(body: bytes, *, base: str = "", place: str = "") -> bytes:
    """What of a notification is kept; nothing of a handshake or a heartbeat.

    Args:
        body: The JSON that was sent.
        base: The address of the mapping's server, if it has one.
        place: The "Type/id" that it was sent to, if it was.

    Raises:
        CodecError: It is none of the notifications above, or says nothing that can be kept.
    """
    named = _decoded(body, _Named)
    if named.resource_type != "Bundle":
        line = _of_resource(body)
        if place not in {"", line.place}:
            raise CodecError("the resource is not the one that it was sent to")
        return line.written()
    return b"\n".join(line.written() for line in _of_bundle(_decoded(body, _Bundle), base))


def kept_deletion(place: str) -> bytes:
    """What is kept of the deletion of the resource "Type/id"."""
    return _Line("deleted", place).written()


def open_inbox(settings: FhirNotificationsSettings, site: Site) -> Inbox:
    """The intake that settings describe, for the listener and for reading.

    Raises:
        ConfigError: The key is not of use.
    """
    from wardround.sources.intake import Intake

    digits = site.secret(settings.intake_key, "the intake's key")
    if not re.fullmatch(r"[0-9a-fA-F]{64}", digits, re.ASCII):
        raise ConfigError("the intake's key must be 64 hexadecimal digits")
    return Intake(site.path(settings.intake), bytes.fromhex(digits))


def open_source(
    settings: FhirNotificationsSettings, site: Site, *, clock: Clock | None = None
) -> "NotificationsSource":
    """The source that settings describe: it reads what the listener has kept.

    Raises:
        ConfigError: The settings name something that is not of use.
    """
    server = open_server(settings.server, site, clock) if settings.server else None
    return NotificationsSource(settings, site, open_inbox(settings, site), server)


class NotificationsSource:
    """What a FHIR server has notified of; fills `wardround.harmonization.events.EventSource`."""

    def __init__(
        self, settings: FhirNotificationsSettings, site: Site, inbox: Inbox, server: FhirServer | None = None
    ) -> None:
        self.name = settings.name
        self._settings, self._site, self._inbox, self._server = settings, site, inbox, server
        self._begin()

    def batches(self, scope: Scope) -> Iterator[pa.RecordBatch]:
        """See `wardround.harmonization.events.EventSource`."""
        self._begin()
        last: dict[bytes, int] = {}
        count = 0
        for count, line in enumerate(self._lines(), start=1):
            if line.kind != "resource" or line.place.startswith("Consent/"):
                last[_mark(line.place)] = count
                if len(last) > _MOST_TRACKED:
                    raise ClinicalError(
                        f"source {self.name!r}: the intake holds more than {_MOST_TRACKED} references, deletions and "
                        "consents; let the server send whole resources, or empty the intake"
                    )
        self.report.refuse("message of the intake that cannot be opened", self._inbox.damaged)
        self.report.snapshot["notified resources"] = str(count)
        yield from self._reader.batches([stream_of(self._resources(count, last))], scope)

    def links(self) -> Iterable[tuple[str, str]]:
        """See `wardround.harmonization.events.EventSource`."""
        return self._reader.links()

    def arrays(self, names: Iterable[str]) -> Iterator[tuple[str, npt.NDArray[np.float32]]]:  # noqa: ARG002, it has none
        """See `wardround.harmonization.events.EventSource`."""
        return iter(())

    def _begin(self) -> None:
        self.report = SourceReport(self.name)
        self._reader = ResourceReader(self._settings, self._site, self.report)

    def _lines(self) -> Iterator[_Line]:
        for message in self._inbox.messages():
            for text in message.split(b"\n"):
                kind, _, rest = text.partition(b" ")
                place, _, resource = rest.partition(b" ")
                match kind:
                    case b"resource":
                        yield _Line("resource", place.decode(), resource)
                    case b"reference":
                        yield _Line("reference", place.decode())
                    case b"deleted":
                        yield _Line("deleted", place.decode())
                    case _:
                        raise ClinicalError(f"source {self.name!r}: the intake holds what is no notification")

    def _resources(self, count: int, last: dict[bytes, int]) -> Iterator[bytes]:
        """The resources of the first so many lines: those that came later are for the next reading."""
        for number, line in enumerate(islice(self._lines(), count), start=1):
            if line.kind == "deleted":
                self.report.note("deletion")
            elif number < last.get(_mark(line.place), 0):
                self.report.note("notification that a later one stands over")
            elif line.kind == "resource":
                yield line.text
            elif text := self._fetched(line.place):
                yield text

    def _fetched(self, place: str) -> bytes:
        if self._server is None:
            self.report.refuse("reference, and no server in the mapping to fetch it from")
            return b""
        answer = self._server.call("GET", f"{self._server.base}/{place}")
        if answer.status in {404, 410}:
            self.report.note("resource that is gone from the server")
            return b""
        if answer.status != 200:
            raise ClinicalError(f"source {self.name!r}: the server does not give a notified resource ({answer.status})")
        try:
            line = _of_resource(answer.body)
        except CodecError:
            line = _Line("deleted", "")
        if line.place != place:
            raise ClinicalError(f"source {self.name!r}: the server gives another resource than the notified one")
        return line.text.translate(_LINE_ENDS)


def _of_bundle(bundle: _Bundle, base: str) -> list[_Line]:
    if bundle.type not in {"history", "subscription-notification"} or not 0 < len(bundle.entry) <= _MOST_ENTRIES:
        raise CodecError("a Bundle that is no notification")
    status = _decoded(bytes(bundle.entry[0].resource), _Status)
    if status.resource_type not in {"Parameters", "SubscriptionStatus"}:
        raise CodecError("a Bundle that is no notification")
    if status.kind() in {"handshake", "heartbeat"}:
        return []
    lines = [_of_entry(entry, base) for entry in bundle.entry[1:]]
    there = {line.place for line in lines}
    lines += [_Line("reference", one) for focus in status.focuses() if (one := _place(focus, base)) not in there]
    if not lines:
        raise CodecError("a notification without content: let the subscription send id-only or full-resource")
    if not base and any(line.kind == "reference" for line in lines):
        raise CodecError("a notification of references, and the mapping names no server to fetch them from")
    return lines


def _of_entry(entry: _Entry, base: str) -> _Line:
    if entry.request.method == "DELETE":
        return _Line("deleted", _place(entry.request.url or entry.full_url, base))
    if bytes(entry.resource):
        return _of_resource(bytes(entry.resource))
    return _Line("reference", _place(entry.full_url or entry.request.url, base))


def _of_resource(text: bytes) -> _Line:
    named = _decoded(text, _Named)
    place = f"{named.resource_type}/{named.id}"
    if named.resource_type == "Bundle" or not _PLACE.fullmatch(place):
        raise CodecError("a resource without a type and an id, or a Bundle in a Bundle")
    return _Line("resource", place, text)


def _place(reference: str, base: str) -> str:
    """The "Type/id" of a reference at the mapping's server; an absolute one elsewhere is another resource."""
    found = _PLACE.fullmatch(reference)
    if found is None or (found[1] is not None and found[1] != base):
        raise CodecError("a reference that is no Type/id of the mapping's server")
    return found[2]


def _decoded(text: bytes, kind: type[_T]) -> _T:
    try:
        return msgspec.json.decode(text, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise CodecError("no JSON of a FHIR resource") from None


def _mark(place: str) -> bytes:
    return hashlib.sha256(place.encode()).digest()[:16]
