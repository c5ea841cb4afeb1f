"""C-CDA documents (HL7 Consolidated Clinical Document Architecture, R2.1) of a folder as events.

Problems, results, vital signs, social history, medications, immunizations, procedures and encounters are read by their
templates (`wardround.sources.ccda_entries`). Every coding of a concept is an event of its own; they share one row and
one order key, the entry's identifier for this patient. An identifier that several entries of one document bear
identifies nothing, and gives no key.

When a fact was known is when its document was made, unless the mapping trusts the entries' authors' times. A document
that is not XML (an embedded PDF, or text) is searched by the source's rules, if it has any.
"""

import base64
import binascii
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Annotated, Literal

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from wardround.errors import ConfigError
from wardround.harmonization import clinical_text
from wardround.harmonization.clinical_text import Rule, Vocabulary
from wardround.harmonization.events import PATIENT, Scope, SourceReport
from wardround.harmonization.times import Moment
from wardround.sources import ccda_entries, ccda_patient, ccda_xml, pdf_pages
from wardround.sources.ccda_entries import Fact
from wardround.sources.ccda_values import instant, stamp
from wardround.sources.ccda_xml import Node
from wardround.sources.document_events import DocumentEvents
from wardround.sources.document_folder import DigestedFolder
from wardround.sources.site import Site
from wardround.sources.text_events import Document, add_text

__all__ = ["CcdaSettings", "CcdaSource", "open_source"]


class CcdaSettings(msgspec.Struct, tag="ccda", tag_field="kind", frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Where the documents are and which of a patient's identifiers counts.

    Attributes:
        name: The source's name.
        folder: From the mapping's folder; folders in it are searched too.
        patient_authorities: OIDs or names of the authorities whose identifier is the patient's, best first.
        pattern: Of the files' names.
        known: Whether a fact was known when its document was made, or when the entry's author wrote it (where the entry
            says so). The first is always safe; the second is for archives, whose documents were made long afterwards.
        rules: What to look for in documents that are embedded (PDF or plain text).
        headings: For the rules, see `wardround.sources.pdf.PdfSettings`.
        max_bytes: A larger document is refused.
    """

    name: str
    folder: str
    patient_authorities: tuple[str, ...]
    pattern: str = "*.xml"
    known: Literal["document", "entry"] = "document"
    rules: tuple[Rule, ...] = ()
    headings: dict[str, str] = {}
    max_bytes: Annotated[int, msgspec.Meta(ge=1, le=ccda_xml.MOST_BYTES)] = ccda_xml.MOST_BYTES


def open_source(settings: CcdaSettings, site: Site) -> "CcdaSource":
    """The documents as a source; nothing is read yet.

    Raises:
        ConfigError: No authority is named, or a rule or heading is wrong.
    """
    if not all(settings.patient_authorities) or not settings.patient_authorities:
        raise ConfigError(f"source {settings.name!r}: patient_authorities names whose patient identifier counts")
    return CcdaSource(settings, site, clinical_text.vocabulary(settings.rules, settings.headings))


class CcdaSource:
    """Fills `wardround.harmonization.events.EventSource` from a folder of documents."""

    def __init__(self, settings: CcdaSettings, site: Site, rules: Vocabulary) -> None:
        self.name = settings.name
        self.report = SourceReport(settings.name)
        self._settings = settings
        self._site = site
        self._rules = rules

    def batches(self, scope: Scope) -> Iterator[pa.RecordBatch]:
        """See `EventSource`."""
        self.report = report = SourceReport(self.name)
        settings = self._settings
        folder = DigestedFolder(self._site.path(settings.folder), settings.pattern, settings.max_bytes, report)
        rows = DocumentEvents(scope, report)
        for _, content in folder.documents():
            document = ccda_xml.parse(content)
            if isinstance(document, str):
                report.refuse(document)
            else:
                self._read(document, rows)
                yield from rows.full()
        yield from rows.rest()

    def links(self) -> Iterable[tuple[str, str]]:
        """None: a document does not say that two identifiers mean one person."""
        return ()

    def arrays(self, names: Iterable[str]) -> Iterator[tuple[str, npt.NDArray[np.float32]]]:  # noqa: ARG002, the port's
        """None: documents hold no arrays."""
        return iter(())

    def _read(self, document: Node, rows: DocumentEvents) -> None:
        report, zone = self.report, self._site.timezone
        if document.tag != "ClinicalDocument":
            report.refuse("XML that is no clinical document")
            return
        made = instant(stamp(document.first("effectiveTime")), zone)
        if isinstance(made, str):
            report.refuse(f"document: {made}")
            return
        whose = ccda_patient.patient(document, self._settings.patient_authorities)
        if not whose:
            report.refuse("document without the identifier of one patient")
            return
        if any(one.get("typeCode") == "RPLC" for one in document.all("relatedDocument")):
            report.note("document that replaces another")
        for one in ccda_patient.known(document, zone, report):
            rows.add(whose, (PATIENT, one.code), time_us=one.time_us, precision=one.precision, value=one.value)
        facts = list(ccda_entries.facts(document, report))
        bearers = Counter(fact.identity for fact in facts if fact.identity)
        shared = {identity for identity, count in bearers.items() if count > 1}
        report.note("identifier shared by entries of a document", len(shared))
        for fact in facts:
            key = f"{fact.identity}|{whose}" if fact.identity and fact.identity not in shared else None
            self._add(rows, fact, whose, made, key)
        self._read_text(document, rows, Document(patient=whose, moment=made))

    def _add(self, rows: DocumentEvents, fact: Fact, whose: str, made: Moment, key: str | None) -> None:
        zone = self._site.timezone
        moment = instant(fact.time, zone) if fact.time else None
        known = instant(fact.known, zone) if fact.known and self._settings.known == "entry" else made
        if isinstance(moment, str) or isinstance(known, str):
            self.report.refuse(f"{fact.kind}: {moment if isinstance(moment, str) else known}")
            return
        if moment is None:
            self.report.note(f"{fact.kind}: without a time")
        elif moment.remark:
            self.report.note(moment.remark)
        cells = {
            "time_us": None if moment is None else moment.time_us,
            "precision": None if moment is None else int(moment.precision),
            "known_us": known.time_us,
            "status": fact.status,
            "order_key": key,
        }
        said = fact.value
        rows.add(
            whose,
            *fact.codings,
            number=said.number,
            comparator=said.comparator,
            value=said.text,
            unit=said.unit,
            **cells,
        )
        if fact.kind == "encounter" and moment is not None and fact.status == "final":
            rows.add(whose, (PATIENT, "seen"), time_us=moment.time_us, precision=int(moment.precision))

    def _read_text(self, document: Node, rows: DocumentEvents, about: Document) -> None:
        body = document.first("component", "nonXMLBody", "text")
        if body is None:
            return
        text = _embedded(body) if self._rules.rules else "embedded document, and no rules for it"
        if isinstance(text, str):
            self.report.refuse(text)
            return
        (found,) = text
        add_text(rows, self._rules, found, about, self.report)


def _embedded(body: Node) -> tuple[str] | str:
    """The text of a body that is not XML, or the reason for which it is refused."""
    if body.first("reference") is not None:
        return "document that lies elsewhere"
    kind = body.get("mediaType")
    if kind == "text/plain" and body.get("representation") != "B64":
        return (body.text,)
    try:
        content = base64.b64decode("".join(body.text.split()), validate=True)
        if kind == "text/plain":
            return (content.decode("utf-8"),)
    except (binascii.Error, ValueError):
        return "broken embedded document"
    if kind != "application/pdf":
        return "embedded document of another kind"
    pages = pdf_pages.pages(content)
    if isinstance(pages, str):
        return pages
    return ("\n\n".join(pages),) if any(page.strip() for page in pages) else "PDF without text"
