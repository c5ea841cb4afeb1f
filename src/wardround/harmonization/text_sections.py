"""Divides a clinical document's text into sections and sentences, in time linear in its length.

A heading is a line that begins with a known heading and a colon, or that is nothing else; or a line all in capitals.
Other words before a colon begin no section: in "Paternal side: infarction at 50", below "Family history", they would
make the patient of the father.

A sentence ends at a full stop, semicolon, question or exclamation mark, at an empty line, and at the end of a line
unless the text runs on (the next line begins in lower case, or this one ends in a word or comma that asks for more).
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import IntFlag
from typing import Final

__all__ = ["HEADINGS", "Context", "Section", "clean", "heading_name", "sections", "sentences"]


class Context(IntFlag):
    """How a mention is meant; without any of these it is a statement about the patient now."""

    NONE = 0
    NEGATED = 1
    FAMILY = 2
    HISTORICAL = 4
    HYPOTHETICAL = 8


HEADINGS: Final[dict[str, Context]] = {
    **dict.fromkeys(
        (
            "addendum",
            "admission diagnosis",
            "allergies",
            "anamnesis",
            "assessment",
            "assessment and plan",
            "brief hospital course",
            "chief complaint",
            "clinical findings",
            "comments",
            "comparison",
            "conclusion",
            "conclusions",
            "condition on discharge",
            "current medications",
            "diagnosis",
            "diagnoses",
            "discharge diagnosis",
            "discharge diagnoses",
            "discharge medications",
            "echocardiogram",
            "echocardiography",
            "examination",
            "findings",
            "history of present illness",
            "home medications",
            "hospital course",
            "imaging",
            "impression",
            "interpretation",
            "interval history",
            "investigations",
            "laboratory",
            "laboratory data",
            "laboratory results",
            "labs",
            "medications",
            "objective",
            "operative findings",
            "past medications",
            "physical exam",
            "physical examination",
            "present illness",
            "procedure",
            "procedures",
            "reason for admission",
            "reason for visit",
            "result",
            "results",
            "review of systems",
            "subjective",
            "summary",
            "technique",
            "vital signs",
            "vitals",
        ),
        Context.NONE,
    ),
    **dict.fromkeys(("family history", "family medical history", "fh", "fhx", "family anamnesis"), Context.FAMILY),
    **dict.fromkeys(
        (
            "history",
            "medical history",
            "past history",
            "past medical history",
            "past surgical history",
            "pmh",
            "pmhx",
            "previous diagnoses",
            "previous operations",
            "psh",
            "social history",
            "surgical history",
        ),
        Context.HISTORICAL,
    ),
    **dict.fromkeys(
        (
            "clinical indication",
            "clinical question",
            "differential diagnosis",
            "follow up",
            "follow-up",
            "indication",
            "indications",
            "instructions",
            "patient instructions",
            "plan",
            "plan of care",
            "reason for examination",
            "recommendation",
            "recommendations",
        ),
        Context.HYPOTHETICAL,
    ),
}
"""Headings by their name in lower case, and how everything below them is meant."""

_LONGEST_HEADING: Final = 60
_HEADED: Final = re.compile(rf"[^\n:]{{1,{_LONGEST_HEADING}}}")
_SHOUTED: Final = re.compile(r"[A-Z][A-Z &/,()-]{3,58}[A-Z)]")
_STOP: Final = re.compile(r"[.!?](?=[\s\"')\]]|$)|[;\n]")
_ABBREVIATED: Final = frozenset(
    (
        *("approx", "ca", "cf", "dept", "dr", "e.g", "eg", "est", "etc", "fig", "i.e", "ie", "max", "min", "mr", "mrs"),
        *("ms", "nr", "pt", "resp", "st", "vol", "vs"),
    )
)
_ASKING: Final = frozenset(
    (
        *("a", "an", "and", "any", "as", "at", "by", "due", "for", "from", "in", "no", "nor", "not", "of", "on", "or"),
        *("than", "that", "the", "to", "with", "without", "acute", "chronic", "mild", "moderate", "severe", "denies"),
        *("evidence", "history", "possible", "suspected"),
    )
)


@dataclass(frozen=True, slots=True)
class Section:
    """A stretch of the text below one heading, from the heading on; the text before the first has the name ''."""

    name: str
    context: Context
    start: int
    end: int


def clean(text: str) -> str:
    """The text with plain line ends and spaces, and with words joined that were divided at the end of a line."""
    plain = text.replace("\r\n", "\n").replace("\r", "\n").replace("\u00a0", " ").replace("\f", "\n\n")
    return re.sub(r"[\u00ad\ufffe\x02]\n?", "", plain)


def heading_name(text: str) -> str:
    """A heading as it is compared: lower case, single spaces, without its number or bullet."""
    return " ".join(text.lstrip(" \t0123456789.)#*•-").rstrip(" \t:*").lower().split())


def sections(text: str, extra: Mapping[str, Context]) -> list[Section]:
    """The sections of a cleaned text in order, without gaps; `extra` are further headings, by `heading_name`."""
    starts: list[tuple[int, str, Context]] = [(0, "", Context.NONE)]
    at = 0
    for line in text.split("\n"):
        found = _heading(line, extra)
        if found is not None:
            starts.append((at, *found))
        at += len(line) + 1
    ends = [start for start, _, _ in starts[1:]] + [len(text)]
    return [
        Section(name, context, start, end)
        for (start, name, context), end in zip(starts, ends, strict=True)
        if start < end
    ]


def sentences(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """The sentences of ``text[start:end]`` as positions; nothing but white space lies between them."""
    begin = start
    for stop in _STOP.finditer(text, start, end):
        if _ends(text, begin, stop, end):
            yield from _kept(text, begin, stop.end())
            begin = stop.end()
    yield from _kept(text, begin, end)


def _heading(line: str, extra: Mapping[str, Context]) -> tuple[str, Context] | None:
    shown = _HEADED.match(line)
    if shown is None:
        return None
    name = heading_name(shown.group())
    closed = shown.end() >= len(line.rstrip()) or line[shown.end()] == ":"
    if closed and (name in extra or name in HEADINGS):
        return name, extra[name] if name in extra else HEADINGS[name]
    if _SHOUTED.fullmatch(line.strip().rstrip(":")):
        return heading_name(line), Context.NONE
    return None


def _ends(text: str, begin: int, stop: re.Match[str], end: int) -> bool:
    if stop.group() == ";":
        return True
    if stop.group() != "\n":
        word = _last_word(text, begin, stop.start())
        return word not in _ABBREVIATED and not (stop.group() == "." and len(word) == 1 and word.isalpha())
    following = text[stop.end() : min(end, stop.end() + 80)].lstrip(" \t")
    if not following or following[0] == "\n":
        return True
    before = text[max(begin, stop.start() - 1) : stop.start()]
    runs_on = following[0].islower() or before == "," or _last_word(text, begin, stop.start()) in _ASKING
    return not runs_on


def _last_word(text: str, begin: int, end: int) -> str:
    near = text[max(begin, end - 24) : end].rstrip().lower()
    return re.split(r"[\s(,;:]", near)[-1]


def _kept(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    if text[start:end].strip():
        yield start, end
