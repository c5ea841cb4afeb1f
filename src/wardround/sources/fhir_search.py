"""FHIR search as a source: every resource of some types, page after page, for servers without Bulk Data export.

    GET [base]/Observation?_count=500&_lastUpdated=ge…&combo-code=…      a Bundle; its link "next" is the next page

What a study does not want is left out by the server where that is safe: by `_lastUpdated` (not of `TIMELESS` types),
and of Observations by ``combo-code``, which looks into components too; ``code`` alone would miss the blood pressures
that lie in a panel. Where a site's own views make events, which may be coded otherwise, codes are not asked for. A
server that does not know a parameter passes over it (FHIR's default) or refuses it; then it is left out. Too much is
never wrong, since the reader keeps to the scope.

Links are a hostile document until checked: the next page lies at the server itself, no page comes twice, and their
number is bounded, as is that of pages with nothing on them.

Hazard: a server that changes while it is read may show a resource on two pages (which is noticed: it is one fact),
or on none. Where it says how many there are, those that are missing are counted.

References:
    HL7 FHIR R4, 3.1.1 Search; "combo-code" is a search parameter of Observation.
"""

import hashlib
from collections.abc import Iterable, Iterator
from typing import Annotated, Final, Literal
from urllib.parse import urlencode

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from wardround.errors import ClinicalError
from wardround.harmonization import times
from wardround.harmonization.events import PATIENT, SYSTEMS, Scope, SourceReport
from wardround.sources.fhir_http import Clock
from wardround.sources.fhir_reader import FhirReading, ResourceReader, stream_of
from wardround.sources.fhir_server import TIMELESS, FhirServer, ServerSettings, instant, open_server
from wardround.sources.site import Site

__all__ = ["FhirSearchSettings", "SearchSource", "code_filter", "open_source"]

_MOST_EMPTY_PAGES: Final = 100
_MOST_CODES: Final = 60
_LONGEST_FILTER: Final = 3000
_SYNTAX: Final = frozenset("|,$\\* \t\r\n")

_Type = Annotated[str, msgspec.Meta(pattern=r"^[A-Z][A-Za-z]{1,63}$")]


class FhirSearchSettings(
    FhirReading, tag="fhir-search", tag_field="kind", frozen=True, forbid_unknown_fields=True, kw_only=True
):
    """A FHIR server that is searched.

    Attributes:
        server: Where it is.
        types: The resource types to read; left out: all that are of use.
        page: How many resources a page should have.
        most_pages: How many pages of one type are read at most.
        is_counted: Whether the server is to say how many resources there are, so that missing ones are noticed; it
            costs some servers much.
        observation_codes: Whether the server is told which codes are wanted; "none" where its ``combo-code`` finds
            less than it should.
    """

    server: ServerSettings
    types: tuple[_Type, ...] = ()
    page: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 500
    most_pages: Annotated[int, msgspec.Meta(ge=1)] = 100_000
    is_counted: bool = True
    observation_codes: Literal["combo-code", "none"] = "combo-code"


class _Search(msgspec.Struct, frozen=True):
    mode: str = "match"


class _Entry(msgspec.Struct, frozen=True):
    resource: msgspec.Raw = msgspec.Raw()
    search: _Search = _Search()


class _Link(msgspec.Struct, frozen=True):
    relation: str
    url: str


class _Page(msgspec.Struct, rename="camel", frozen=True):
    resource_type: str
    type: str
    total: int | None = None
    link: list[_Link] = []
    entry: list[_Entry] = []


class _Meta(msgspec.Struct, rename="camel", frozen=True):
    last_updated: str = ""


class _Resource(msgspec.Struct, rename="camel", frozen=True):
    resource_type: str
    meta: _Meta = _Meta()


def open_source(settings: FhirSearchSettings, site: Site, *, clock: Clock | None = None) -> "SearchSource":
    """The source that settings describe; nothing is asked for until its batches are.

    Raises:
        ConfigError: The settings name something that is not of use.
    """
    return SearchSource(settings, site, open_server(settings.server, site, clock))


class SearchSource:
    """A FHIR server that is searched; fills `wardround.harmonization.events.EventSource`."""

    def __init__(self, settings: FhirSearchSettings, site: Site, server: FhirServer) -> None:
        self.name = settings.name
        self._settings, self._site, self._server = settings, site, server
        self._decoder = msgspec.json.Decoder(_Resource)
        self._begin()

    def batches(self, scope: Scope) -> Iterator[pa.RecordBatch]:
        """See `wardround.harmonization.events.EventSource`."""
        self._begin()
        for kind in self._settings.types or self._reader.resource_types:
            yield from self._reader.batches([stream_of(self._resources(kind, scope))], scope)
        if self._latest_us is not None:
            self.report.snapshot["last update"] = instant(self._latest_us)
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
        self._reader = ResourceReader(self._settings, self._site, self.report)
        self._latest_us: int | None = None

    def _resources(self, kind: str, scope: Scope) -> Iterator[bytes]:
        asked = {"_count": str(self._settings.page)} | ({"_total": "accurate"} if self._settings.is_counted else {})
        if scope.since_us is not None and kind not in TIMELESS:
            asked["_lastUpdated"] = f"ge{instant(scope.since_us - times.DAY_US)}"
        own_views = self._settings.views or self._settings.views_path
        if kind == "Observation" and self._settings.observation_codes != "none" and not own_views:
            asked |= {"combo-code": codes} if (codes := code_filter(scope)) else {}
        self.report.snapshot[f"search {kind}"] = urlencode(asked, safe=",/:|")
        count, total, is_full = 0, -1, False
        for page in self._pages(kind, asked):
            total = max(total, -1 if page.total is None else page.total)
            is_full = len(page.entry) >= self._settings.page
            for entry in page.entry:
                if entry.search.mode == "match" and bytes(entry.resource):
                    count += 1
                    if self._is_wanted(kind, entry.resource):
                        yield bytes(entry.resource)
                elif entry.search.mode == "outcome":
                    self.report.note("remark that the server makes of a search")
        self.report.refuse("resource missing from the pages of its search", max(total - count, 0))
        self.report.note("search that may go on where the server says that it ends", int(total < 0 and is_full))

    def _pages(self, kind: str, asked: dict[str, str]) -> Iterator[_Page]:
        url, seen, empty = f"{self._server.base}/{kind}?{urlencode(asked)}", set[bytes](), 0
        for number in range(self._settings.most_pages):
            answer = self._server.call("GET", url)
            if answer.status == 400 and not number and "combo-code" in asked:
                self.report.note("server that does not know combo-code")
                answer = self._server.call("GET", url.partition("&combo-code=")[0])
            if answer.status != 200:
                raise ClinicalError(f"source {self.name!r}: the server does not search {kind} ({answer.status})")
            page = answer.decoded(_Page)
            if (page.resource_type, page.type) != ("Bundle", "searchset"):
                raise ClinicalError(f"source {self.name!r}: the server's answer to a search is no searchset")
            yield page
            following = [link.url for link in page.link if link.relation == "next"]
            if not following:
                return
            url = self._server.own(following[0])
            mark = hashlib.sha256(url.encode()).digest()[:16]
            empty = 0 if page.entry else empty + 1
            if len(following) > 1 or mark in seen or empty > _MOST_EMPTY_PAGES:
                raise ClinicalError(f"source {self.name!r}: the pages of {kind} do not come to an end")
            seen.add(mark)
        raise ClinicalError(
            f"source {self.name!r}: {kind} has more than {self._settings.most_pages} pages; use larger pages, a later "
            "start or Bulk Data export"
        )

    def _is_wanted(self, kind: str, text: msgspec.Raw) -> bool:
        try:
            resource = self._decoder.decode(text)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            self.report.refuse("malformed resource")
            return False
        if resource.resource_type != kind:
            self.report.refuse("resource of a type that was not asked for")
            return False
        moment = times.parse(resource.meta.last_updated, None)
        if not isinstance(moment, str):
            self._latest_us = max(moment.time_us, self._latest_us or moment.time_us)
        return True


def code_filter(scope: Scope) -> str:
    """The codes of a scope as the value of a token search; "" where they are too many, or not all can be said so."""
    if scope.codes is None:
        return ""
    uris: dict[str, list[str]] = {}
    for uri, system in SYSTEMS.items():
        uris.setdefault(system, []).append(uri)
    tokens = []
    for system, codes in sorted(scope.codes.items()):
        if system == PATIENT:
            continue
        spelled = uris.get(system) or ([system] if ":" in system and not system.startswith("local:") else [])
        if not spelled or any(_SYNTAX & set(code) for code in codes):
            return ""
        tokens += [f"{uri}|{code}" for code in sorted(codes) for uri in spelled]
    filtered = ",".join(tokens)
    return filtered if len(tokens) <= _MOST_CODES and len(filtered) <= _LONGEST_FILTER else ""
