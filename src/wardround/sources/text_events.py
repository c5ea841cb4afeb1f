"""Turns what rules find in one document's text into events of its patient.

A mention becomes one event for each document, code and value ("present", or "absent" where the rule has a code for
that), a number one for each document, code and number: a note that says a thing five times says it once. What is of a
relative, only considered or, unless the rule wants it, of the past is no event and is counted. Of the past there is no
time, only when it was known.
"""

from dataclasses import dataclass

from wardround.errors import ClinicalError
from wardround.harmonization import clinical_text
from wardround.harmonization.clinical_text import Context, Finding, Vocabulary
from wardround.harmonization.events import SourceReport
from wardround.harmonization.times import Moment
from wardround.sources.document_events import DocumentEvents

__all__ = ["Document", "add_text"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """Whose text it is, from when, and by which key its versions are known."""

    patient: str
    moment: Moment | None
    key: str | None = None


def add_text(rows: DocumentEvents, known: Vocabulary, text: str, document: Document, report: SourceReport) -> None:
    """Add the events of one document's text; what is no event is counted."""
    said: set[tuple[object, ...]] = set()
    try:
        for found in clinical_text.find(known, text):
            event = _event(found, report)
            if event is not None and event not in said:
                said.add(event)
                _add(rows, found, event, document)
    except ClinicalError:
        report.refuse("too much text")
        return
    values = {(code, value) for code, value, _, _ in said}
    if any((found, "present") in values and (found, "absent") in values for found, _ in values):
        report.note("present and absent in one document")


_Event = tuple[str, str | None, float | None, str | None]


def _event(found: Finding, report: SourceReport) -> _Event | None:
    rule, context, reading = found.rule, found.context, found.reading
    for meant, name in ((Context.FAMILY, "of a relative"), (Context.HYPOTHETICAL, "only considered")):
        if meant in context:
            report.note(f"text: {name}")
            return None
    if Context.HISTORICAL in context and not rule.history:
        report.note("text: of the past")
        return None
    if Context.NEGATED in context:
        report.note("text: denied")
        return (rule.absent, "absent", None, None) if rule.absent else None
    if reading is None:
        return rule.code, "present", None, None
    if reading.refused:
        report.refuse(f"text: {reading.refused}")
        return None
    return rule.code, None, reading.number, reading.comparator


def _add(rows: DocumentEvents, found: Finding, event: _Event, document: Document) -> None:
    coded, value, number, comparator = event
    system, _, code = coded.partition("|")
    moment = document.moment
    past = Context.HISTORICAL in found.context
    rows.add(
        document.patient,
        (system, code),
        time_us=None if past or moment is None else moment.time_us,
        precision=None if past or moment is None else int(moment.precision),
        known_us=None if moment is None else moment.time_us,
        number=number,
        comparator=comparator,
        value=value,
        unit=found.rule.unit or None if number is not None else None,
        order_key=None if document.key is None else f"{document.key}|{coded}|{value}|{number}|{comparator}",
    )
