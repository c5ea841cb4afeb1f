"""FHIR Bulk Data export as a source: asked for, waited for, read as it comes in, and deleted at the server again.

    GET|POST [base]/$export, /Patient/$export or /Group/[id]/$export     202, Content-Location
    GET [status]      202 (Retry-After, X-Progress) … 200: the manifest
    GET [file] …      newline-delimited JSON, straight into the reader, never onto a disk
    DELETE [status]   at the end, also after a failure

Every export holds all the server has of the types asked for. Where a study wants only what was known since a time, what
holds of a patient rather than of a moment (`TIMELESS`) is exported whole, in an export of its own.

The manifest is a hostile document until checked: its files must lie at the server or on a host that the mapping allows,
their number and sizes are bounded, a further page of it or a type that nobody asked for is refused.

References:
    HL7 FHIR Bulk Data Access IG 2.0.0, "Export".
"""

import re
from collections.abc import Iterable, Iterator
from typing import IO, Annotated, Final, Literal
from urllib.parse import urlencode

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from wardround.errors import ClinicalError, ConfigError, UnavailableError, WardroundError
from wardround.harmonization import times
from wardround.harmonization.events import Scope, SourceReport
from wardround.sources import fhir_lines
from wardround.sources.fhir_http import Clock, retry_after
from wardround.sources.fhir_reader import FhirReading, ResourceReader
from wardround.sources.fhir_server import TIMELESS, FhirServer, ServerSettings, instant, open_server, stream_of_pieces
from wardround.sources.site import Site

__all__ = ["BulkSource", "FhirBulkSettings", "open_source"]

_MOST_FILES: Final = 10_000
_LONGEST_PAUSE: Final = 300.0
_PROGRESS: Final = re.compile(r"(?<!\d)(\d{1,3})\s?%", re.ASCII)
_FAILURES: Final = frozenset({"fatal", "error"})

_Type = Annotated[str, msgspec.Meta(pattern=r"^[A-Z][A-Za-z]{1,63}$")]


class FhirBulkSettings(
    FhirReading, tag="fhir-bulk", tag_field="kind", frozen=True, forbid_unknown_fields=True, kw_only=True
):
    """A FHIR server's Bulk Data export.

    Attributes:
        server: Where it is.
        level: Whose records: all patients', a group's, or all that the server has.
        group: The group's id, for level "group".
        types: The resource types to ask for; left out: all that are read.
        method: How the export is asked for; POST where the server wants that.
        patience_seconds: How long an export may take.
        most_bytes: How much an export may hold; and a file after decompression.
    """

    server: ServerSettings
    level: Literal["patient", "group", "system"] = "patient"
    group: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9.-]{0,64}$")] = ""
    types: tuple[_Type, ...] = ()
    method: Literal["GET", "POST"] = "GET"
    patience_seconds: Annotated[float, msgspec.Meta(gt=0.0, le=604_800.0)] = 21_600.0
    most_bytes: Annotated[int, msgspec.Meta(ge=1)] = 256 * 1024**3


class _File(msgspec.Struct, frozen=True):
    url: str
    type: str = ""
    count: int | None = None


class _Link(msgspec.Struct, frozen=True):
    relation: str = ""


class _Manifest(msgspec.Struct, rename="camel", frozen=True):
    output: list[_File]
    transaction_time: str = ""
    requires_access_token: bool = False
    error: list[_File] = []
    deleted: list[_File] = []
    link: list[_Link] = []


class _Issue(msgspec.Struct, frozen=True):
    severity: str = "error"


class _Request(msgspec.Struct, frozen=True):
    method: str = ""


class _Entry(msgspec.Struct, frozen=True):
    request: _Request = _Request()


class _Line(msgspec.Struct, frozen=True):
    """A line of a file of errors (an OperationOutcome) or deletions (a Bundle)."""

    issue: list[_Issue] = []
    entry: list[_Entry] = []


def open_source(settings: FhirBulkSettings, site: Site, *, clock: Clock | None = None) -> "BulkSource":
    """The source that settings describe; nothing is asked for until its batches are.

    Raises:
        ConfigError: The settings contradict one another, or name something that is not of use.
    """
    if (settings.level == "group") != bool(settings.group):
        raise ConfigError(f"source {settings.name!r}: level 'group' and a group's id go together")
    return BulkSource(settings, site, open_server(settings.server, site, clock))


class BulkSource:
    """A Bulk Data export; fills `wardround.harmonization.events.EventSource`."""

    def __init__(self, settings: FhirBulkSettings, site: Site, server: FhirServer) -> None:
        self.name = settings.name
        self._settings, self._site, self._server = settings, site, server
        self._limits = fhir_lines.Limits(total_bytes=settings.most_bytes)
        self._begin()

    def batches(self, scope: Scope) -> Iterator[pa.RecordBatch]:
        """See `wardround.harmonization.events.EventSource`."""
        self._begin()
        types = self._settings.types or self._reader.resource_types
        if scope.since_us is None:
            yield from self._export("all", types, None, scope)
        else:
            # Whoever was not touched since still has a birth date, and a consent.
            yield from self._export("timeless", tuple(one for one in types if one in TIMELESS), None, scope)
            since_us = scope.since_us - times.DAY_US  # Servers' and laboratories' clocks differ.
            yield from self._export("since", tuple(one for one in types if one not in TIMELESS), since_us, scope)
        for remark in self._server.remarks():
            self.report.note(remark)

    def links(self) -> Iterable[tuple[str, str]]:
        """See `wardround.harmonization.events.EventSource`."""
        return self._reader.links()

    def arrays(self, names: Iterable[str]) -> Iterator[tuple[str, npt.NDArray[np.float32]]]:  # noqa: ARG002, it has none
        """See `wardround.harmonization.events.EventSource`."""
        return iter(())

    def _begin(self) -> None:
        self.report = SourceReport(self.name)
        self._left = 0
        self._reader = ResourceReader(self._settings, self._site, self.report, limits=self._limits)

    def _export(
        self, name: str, types: tuple[str, ...], since_us: int | None, scope: Scope
    ) -> Iterator[pa.RecordBatch]:
        if not types:
            return
        self._left = self._settings.most_bytes
        status = self._kick_off(name, types, since_us)
        try:
            manifest = self._manifest(status)
            self.report.snapshot[f"time of export {name!r}"] = self._checked(manifest)
            yield from self._read(manifest, types, scope)
        finally:
            self._delete(status)

    def _kick_off(self, name: str, types: tuple[str, ...], since_us: int | None) -> str:
        level, group = self._settings.level, self._settings.group
        path = {"patient": "Patient/$export", "group": f"Group/{group}/$export", "system": "$export"}[level]
        asked = {"_type": ",".join(types), "_outputFormat": "application/fhir+ndjson"}
        if since_us is not None:
            asked["_since"] = instant(since_us)
        self.report.snapshot[f"export {name!r}"] = f"{path}?{urlencode(asked, safe=',/:+')}"
        url, headers, body = f"{self._server.base}/{path}", {"prefer": "respond-async"}, b""
        if self._settings.method == "POST":
            headers["content-type"] = "application/fhir+json"
            body = _parameters(asked)
        else:
            url = f"{url}?{urlencode(asked)}"
        answer = self._server.call(self._settings.method, url, headers=headers, body=body, is_repeatable=False)
        if answer.status != 202:
            raise ClinicalError(
                f"source {self.name!r}: the server does not begin an export ({answer.status}); "
                "see its level, group and types in the mapping"
            )
        return self._server.own(answer.headers.get("content-location", ""))

    def _manifest(self, status: str) -> _Manifest:
        clock = self._server.clock
        deadline, pause, progress = clock.now() + self._settings.patience_seconds, 1.0, ""
        while True:
            answer = self._server.call("GET", status, headers={"accept": "application/json"})
            if answer.status == 200:
                return answer.decoded(_Manifest)
            if answer.status != 202:
                raise UnavailableError(f"source {self.name!r}: the export failed at the server ({answer.status})")
            if found := _PROGRESS.search(answer.headers.get("x-progress", "")):
                progress = f" (it said {found[1]} %)"
            wanted = max(retry_after(answer.headers, clock.wall(), pause), 1.0)
            if clock.now() + wanted > deadline:
                raise UnavailableError(
                    f"source {self.name!r}: no complete export in {self._settings.patience_seconds:g} s{progress}"
                )
            clock.sleep(min(wanted, _LONGEST_PAUSE))
            pause = min(2.0 * pause, 60.0)

    def _checked(self, manifest: _Manifest) -> str:
        """The time of the export, of a manifest that may be followed."""
        files = [*manifest.output, *manifest.error, *manifest.deleted]
        if len(files) > _MOST_FILES:
            raise ClinicalError(f"source {self.name!r}: the export has more than {_MOST_FILES} files")
        if any(link.relation == "next" for link in manifest.link):
            raise ClinicalError(f"source {self.name!r}: the export has a further manifest, which was not asked for")
        if manifest.requires_access_token and not all(self._server.is_own(file.url) for file in files):
            raise ClinicalError(
                f"source {self.name!r}: the server wants its token to be sent to another host with the files: "
                "nothing was sent there"
            )
        moment = times.parse(manifest.transaction_time, None)
        return "not stated" if isinstance(moment, str) else instant(moment.time_us)

    def _read(self, manifest: _Manifest, types: tuple[str, ...], scope: Scope) -> Iterator[pa.RecordBatch]:
        for file in sorted(manifest.output, key=lambda one: one.type):
            if file.type and file.type not in types:
                self.report.refuse("file of a type that was not asked for")
                continue
            before = self.report.read
            yield from self._reader.batches([self._stream(file.url)], scope)
            if file.count is not None:
                self.report.refuse("resource missing from its file", max(file.count - (self.report.read - before), 0))
        for line in self._lines(manifest.error):
            failures = sum(issue.severity in _FAILURES for issue in line.issue)
            self.report.refuse("error that the server reports of its export", failures)
            self.report.note("remark that the server makes of its export", len(line.issue) - failures)
        for line in self._lines(manifest.deleted):
            gone = sum(entry.request.method == "DELETE" for entry in line.entry)
            self.report.note("resource deleted at the server", gone)

    def _lines(self, files: list[_File]) -> Iterator[_Line]:
        decoder = msgspec.json.Decoder(_Line)
        for file in files:
            for batch in fhir_lines.batches(self._stream(file.url), fhir_lines.Report(), limits=self._limits):
                for text in batch.lines:
                    try:
                        yield decoder.decode(text)
                    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
                        self.report.refuse("malformed line of the export's own reports")

    def _stream(self, url: str) -> IO[bytes]:
        return stream_of_pieces(self._counted(self._server.download(url, most_bytes=self._left)))

    def _counted(self, pieces: Iterator[bytes]) -> Iterator[bytes]:
        for piece in pieces:
            self._left -= len(piece)
            yield piece

    def _delete(self, status: str) -> None:
        try:
            is_gone = self._server.call("DELETE", status).status in {200, 202, 204, 404, 410}
        except WardroundError:
            is_gone = False
        if not is_gone:
            self.report.note("export that the server could not be made to delete")


def _parameters(asked: dict[str, str]) -> bytes:
    kinds = {"_since": "valueInstant"}
    listed = [{"name": name, kinds.get(name, "valueString"): value} for name, value in asked.items()]
    return msgspec.json.encode({"resourceType": "Parameters", "parameter": listed})
