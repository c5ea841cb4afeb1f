"""Which entries of a C-CDA document are facts about the patient, and what each says.

An entry is known by its template, not by the section in which it stands. What is read:

=================================== ===================== =============================================
template (…113883.10.20.22.4.N)     kind                  concept, value
=================================== ===================== =============================================
4                                   problem               the observation's value
2, 27                               result, vital sign    the observation's code, and its value
38, 78, 85                          social history        the observation's code, and its value
16                                  medication            the material's code
52                                  immunization          the material's code
12, 13, 14                          procedure             the code
49                                  encounter             the code; also ``patient|seen``
=================================== ===================== =============================================

Where an observation's code says no more than that something is asserted, the concept is its value. What is not a fact
about the patient is refused by name: negated (said not to be so), about another person, planned but not done. An
entry's status and negation hold for everything inside it. Medications count where they were prescribed (mood INT) as
well as where they were given.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

from wardround.harmonization.events import SourceReport
from wardround.sources.ccda_values import Value, codings, stamp, value
from wardround.sources.ccda_xml import Node

__all__ = ["Fact", "facts"]

_ROOT: Final = "2.16.840.1.113883.10.20.22.4."
_VALUED: Final = ("result", "vital sign", "social history")
_KINDS: Final = {
    "2": "result",
    "27": "vital sign",
    "4": "problem",
    "38": "social history",
    "78": "social history",
    "85": "social history",
    "16": "medication",
    "52": "immunization",
    "12": "procedure",
    "13": "procedure",
    "14": "procedure",
    "49": "encounter",
}
_OTHERS: Final = {"45", "46", "136"}
"""Family history, and concerns about what might happen: nothing inside them is the patient's."""
_STATEMENTS: Final = ("act", "encounter", "observation", "organizer", "procedure", "substanceAdministration", "supply")
_STATUS: Final = {
    "completed": "final",
    "active": "final",
    "normal": "final",
    "aborted": "cancelled",
    "cancelled": "cancelled",
    "nullified": "entered-in-error",
    "obsolete": "entered-in-error",
    "held": "registered",
    "new": "registered",
    "suspended": "registered",
}
_ASSERTED: Final = "ASSERTION"
_WITHDRAWN: Final = ("cancelled", "entered-in-error")


@dataclass(frozen=True, slots=True, kw_only=True)
class Fact:
    """One fact: `codings` of its concept, `time` and `known` in HL7's text, and the `identity` of its entry."""

    kind: str
    codings: tuple[tuple[str, str], ...]
    value: Value
    status: str
    time: str
    known: str
    identity: str


@dataclass(frozen=True, slots=True)
class _Around:
    # What an entry takes over from those that hold it.
    negated: bool = False
    another: bool = False
    status: str = ""
    time: str = ""
    known: str = ""


def facts(document: Node, report: SourceReport) -> Iterator[Fact]:
    """The facts of a document's entries, in their order; what is refused or passed over is counted in `report`."""
    for section in _sections(document):
        for entry in section.all("entry"):
            found = 0
            for statement in _statements(entry):
                for fact in _walk(statement, _Around(), report):
                    found += 1
                    if fact is not None:
                        yield fact
            if not found:
                report.note("entry of a kind that is not read")


def _sections(node: Node) -> Iterator[Node]:
    for section in node.all("component", "structuredBody", "component", "section"):
        yield section
        yield from _within(section)


def _within(section: Node) -> Iterator[Node]:
    for inner in section.all("component", "section"):
        yield inner
        yield from _within(inner)


def _statements(node: Node) -> Iterator[Node]:
    return (child for child in node.children if child.tag in _STATEMENTS)


def _walk(node: Node, around: _Around, report: SourceReport) -> Iterator[Fact | None]:
    """Gives None for an entry that was understood and refused, so that it does not count as unknown."""
    numbers = [one.get("root").removeprefix(_ROOT) for one in node.all("templateId")]
    kind = next((_KINDS[number] for number in numbers if number in _KINDS), "")
    here = _inherited(node, around)
    if _OTHERS.intersection(numbers):
        report.refuse("about another person or a risk")
        yield None
        return
    if node.get("moodCode") != "EVN" and not (kind == "medication" and node.get("moodCode") == "INT"):
        report.refuse(f"{kind}: planned, not done" if kind else "planned, not done")
        yield None
        return
    if kind:
        yield _fact(node, kind, here, report)
    for link in (*node.all("entryRelationship"), *node.all("component")):
        for inner in _statements(link):
            yield from _walk(inner, here, report)


def _inherited(node: Node, around: _Around) -> _Around:
    own = _STATUS.get(_code(node.first("statusCode")), "")
    author = stamp(node.first("author", "time"))
    return replace(
        around,
        negated=around.negated or node.get("negationInd") == "true",
        another=around.another or node.first("subject") is not None,
        status=own if own in _WITHDRAWN else around.status,
        time=_time(node) or around.time,
        known=author or around.known,
    )


def _fact(node: Node, kind: str, here: _Around, report: SourceReport) -> Fact | None:
    found = tuple(codings(_concept(node, kind)))
    said = value(node.all("value")[0]) if kind in _VALUED and node.all("value") else Value()
    if kind in _VALUED and found and found[0][1] == _ASSERTED:
        found, said = tuple(codings(node.first("value"))), Value()
    trouble = ""
    if here.negated:
        trouble = "negated"
    elif here.another:
        trouble = "about another person or a risk"
    elif not found and kind != "encounter":
        trouble = "without a code"
    elif kind in _VALUED and len(node.all("value")) != 1:
        trouble = "without a single value"
    elif isinstance(said, str):
        trouble = said
    if trouble or isinstance(said, str):
        report.refuse(f"{kind}: {trouble}")
        return None
    if node.first("value", "qualifier") is not None:
        report.note(f"{kind}: code with a qualifier")
    return Fact(
        kind=kind,
        codings=found,
        value=said,
        status=here.status or _own_status(node, kind),
        # An onset is the observation's own, never that of the concern around it, which is when somebody took it up.
        time=_time(node) if kind == "problem" else here.time,
        known=here.known,
        identity=_identity(node),
    )


def _time(node: Node) -> str:
    return next((at for one in node.all("effectiveTime") if (at := stamp(one))), "")


def _own_status(node: Node, kind: str) -> str:
    stated = _code(node.first("statusCode"))
    if stated == "active" and kind in _VALUED:
        return "preliminary"
    return _STATUS.get(stated, "unknown") if stated else "final"


def _concept(node: Node, kind: str) -> Node | None:
    if kind == "problem":
        return node.first("value")
    if kind in {"medication", "immunization"}:
        return node.first("consumable", "manufacturedProduct", "manufacturedMaterial", "code")
    return node.first("code")


def _identity(node: Node) -> str:
    one = next((one for one in node.all("id") if one.get("root") and not one.is_null), None)
    return f"{one.get('root')}|{one.get('extension')}" if one is not None else ""


def _code(node: Node | None) -> str:
    return node.get("code") if node is not None else ""
