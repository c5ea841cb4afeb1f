"""Folders of text documents, PDF or plain text, as events: what a site's rules find in them.

A PDF is read in a process of its own (`wardround.sources.pdf_pages`). A PDF that holds only pictures of text gives no
text: it is refused by name, nothing here reads pictures.

Whose document it is comes from its name by a template, or from a labelled line ("MRN: …"); its date likewise. One that
does not say whose it is, or that says it in two ways, is refused; one without a date gives events without a time.
"""

import re
from collections.abc import Iterable, Iterator
from typing import Annotated, Final, Literal

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from wardround.errors import ConfigError
from wardround.harmonization import clinical_text, times
from wardround.harmonization.clinical_text import Rule, Vocabulary
from wardround.harmonization.events import Scope, SourceReport
from wardround.harmonization.times import Moment
from wardround.sources import pdf_pages
from wardround.sources.document_events import DocumentEvents
from wardround.sources.document_folder import DigestedFolder, NameTemplate
from wardround.sources.site import Site
from wardround.sources.text_events import Document, add_text

__all__ = ["PdfSettings", "PdfSource", "open_source"]

_SPLIT: Final = re.compile(r"(\d{1,4})[-/. ](\d{1,2})[-/. ](\d{1,4})")
_ORDERS: Final = {"ymd": (0, 1, 2), "dmy": (2, 1, 0), "mdy": (2, 0, 1)}


class PdfSettings(msgspec.Struct, tag="pdf", tag_field="kind", frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Where the documents are, how they say whose and from when they are, and what to look for.

    Attributes:
        name: The source's name.
        folder: From the mapping's folder; folders in it are searched too.
        pattern: Of the files' names. What ends in ``.txt`` is plain text in UTF-8, all others are PDF.
        file_name: Template of the file's name, ``{patient}_{date}.pdf``; without folders.
        patient_label: Label of the line with the patient's identifier, "MRN"; the identifier is the next word.
        date_label: Label of the line with the document's date.
        date_order: In which order a date stands; one like 20240501 or 2024-05-01 is always read so.
        rules: What to look for.
        headings: Further headings, and how what is below them is meant ("", "family", "historical", "hypothetical").
        max_bytes: A larger document is refused.
        max_pages: A PDF with more is refused.
        timeout_seconds: Processor time for one PDF.
    """

    name: str
    folder: str
    rules: tuple[Rule, ...]
    pattern: str = "*.pdf"
    file_name: str = ""
    patient_label: str = ""
    date_label: str = ""
    date_order: Literal["ymd", "dmy", "mdy"] = "ymd"
    headings: dict[str, str] = {}
    max_bytes: Annotated[int, msgspec.Meta(ge=1, le=pdf_pages.MOST_BYTES)] = pdf_pages.MOST_BYTES
    max_pages: Annotated[int, msgspec.Meta(ge=1, le=pdf_pages.MOST_PAGES)] = pdf_pages.MOST_PAGES
    timeout_seconds: Annotated[int, msgspec.Meta(ge=1, le=600)] = pdf_pages.SECONDS


def open_source(settings: PdfSettings, site: Site) -> "PdfSource":
    """The documents as a source; nothing is read yet.

    Raises:
        ConfigError: The template, a rule or a heading is wrong, or nothing says whose a document is.
    """
    if not settings.rules:
        raise ConfigError(f"source {settings.name!r} has no rules, so nothing would be found")
    if not settings.patient_label and "{patient}" not in settings.file_name:
        raise ConfigError(f"source {settings.name!r}: whose a document is comes from file_name or patient_label")
    template = NameTemplate(settings.file_name, needs=()) if settings.file_name else None
    return PdfSource(settings, site, template, clinical_text.vocabulary(settings.rules, settings.headings))


class PdfSource:
    """Fills `wardround.harmonization.events.EventSource` from a folder of documents."""

    def __init__(self, settings: PdfSettings, site: Site, template: NameTemplate | None, known: Vocabulary) -> None:
        self.name = settings.name
        self.report = SourceReport(settings.name)
        self._settings = settings
        self._site = site
        self._template = template
        self._known = known

    def batches(self, scope: Scope) -> Iterator[pa.RecordBatch]:
        """See `EventSource`."""
        self.report = report = SourceReport(self.name)
        settings = self._settings
        folder = DigestedFolder(self._site.path(settings.folder), settings.pattern, settings.max_bytes, report)
        rows = DocumentEvents(scope, report)
        for name, content in folder.documents():
            text = self._text(name, content)
            if text is None:
                continue
            document = self._document(name, text)
            if document is not None:
                add_text(rows, self._known, text, document, report)
                yield from rows.full()
        yield from rows.rest()

    def links(self) -> Iterable[tuple[str, str]]:
        """None: documents say nothing of two identifiers."""
        return ()

    def arrays(self, names: Iterable[str]) -> Iterator[tuple[str, npt.NDArray[np.float32]]]:  # noqa: ARG002, the port's
        """None: documents hold no arrays."""
        return iter(())

    def _text(self, name: str, content: bytes) -> str | None:
        if name.endswith(".txt"):
            try:
                return content.decode("utf-8-sig")
            except UnicodeDecodeError:
                self.report.refuse("text that is not UTF-8")
                return None
        settings = self._settings
        found = pdf_pages.pages(content, most_pages=settings.max_pages, seconds=settings.timeout_seconds)
        if isinstance(found, str):
            self.report.refuse(found)
            return None
        if not any(page.strip() for page in found):
            self.report.refuse("PDF without text")
            return None
        return "\n\n".join(found)

    def _document(self, name: str, text: str) -> Document | None:
        settings = self._settings
        told = self._template.read(name.rpartition("/")[2]) if self._template else {}
        patients = {told["patient"]} if "patient" in told else set()
        patients |= _labelled(text, settings.patient_label)
        if len(patients) != 1:
            self.report.refuse("document without a patient" if not patients else "document of two patients")
            return None
        dates = {told["date"]} if "date" in told else _labelled(text, settings.date_label)
        if len(dates) != 1:
            self.report.note("document without a date" if not dates else "document with two dates")
            return Document(patient=patients.pop(), moment=None)
        moment = _moment(dates.pop(), settings.date_order, self._site.timezone)
        if isinstance(moment, str):
            self.report.refuse(moment)
            return None
        if moment.remark:
            self.report.note(moment.remark)
        return Document(patient=patients.pop(), moment=moment)


def _labelled(text: str, label: str) -> set[str]:
    """The words that follow a label at the start of a line."""
    if not label:
        return set()
    form = rf"^[ \t]*{re.escape(label)}[ \t]*[:=#][ \t]*(\S{{1,64}}+)"
    return set(re.findall(form, text.replace("\r", "\n"), re.MULTILINE | re.IGNORECASE))


def _moment(text: str, order: str, zone: str | None) -> Moment | str:
    if re.fullmatch(r"\d{8}", text):
        return times.parse(f"{text[:4]}-{text[4:6]}-{text[6:]}", zone)
    if re.match(r"\d{4}-", text):
        return times.parse(text, zone)
    found = _SPLIT.fullmatch(text)
    if found is None:
        return times.UNPARSEABLE
    year, month, day = (found.groups()[place] for place in _ORDERS[order])
    # A year of two digits, which may be of either century, does not parse.
    return times.parse(f"{year}-{month:0>2}-{day:0>2}", zone)
