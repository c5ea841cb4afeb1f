"""Facts from clinical text by a site's rules: concepts that are mentioned, and numbers that follow a label.

A rule names a code and the phrases that stand for it. What the text says about a mention (denied, of a relative, of the
past, only considered) comes from its sentence (`wardround.harmonization.text_context`) and from the heading above it
(`wardround.harmonization.text_sections`). Nothing is learned and nothing is looked up: the same text gives the same
findings everywhere, in time linear in its length.

Hazard: rules read what they were written for and miss the rest. A mention that is not found says nothing.

References:
    Chapman et al. A simple algorithm for identifying negated findings and diseases in discharge summaries (NegEx).
        J Biomed Inform 34 (2001) 301-310.
    Harkema et al. ConText: an algorithm for determining negation, experiencer, and temporal status from clinical
        reports. J Biomed Inform 42 (2009) 839-851.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Literal

import msgspec

from wardround.errors import ClinicalError, ConfigError
from wardround.harmonization import text_context, text_numbers, text_phrases, text_sections
from wardround.harmonization.text_numbers import Reading
from wardround.harmonization.text_phrases import Found, Phrases, Word
from wardround.harmonization.text_sections import Context, Section

__all__ = ["MOST_CHARACTERS", "Context", "Finding", "Rule", "Vocabulary", "find", "vocabulary"]

MOST_CHARACTERS: Final = 5_000_000
_MOST_PHRASES: Final = 20_000


class Rule(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What to look for.

    Attributes:
        code: ``system|code`` of the event that a finding becomes.
        phrases: Words that stand for it, each up to twelve; for a number, the label before it.
        kind: "mention" of a concept, or "number" after a label.
        unit: Of a number, as the event has it; itself one of the spellings.
        spellings: Further spellings of the unit in the text.
        unit_assumed: Whether a number without a unit counts.
        ranges: What "40-45 %" becomes: refused, or its middle.
        signed: Whether a number may have a sign.
        history: Whether what is said of the past counts; its event has no time, but when it was known.
        absent: ``system|code`` of the event that a denied mention becomes; empty: none.
        sections: Look only below these headings; empty: everywhere.
        not_sections: Do not look below these.
    """

    code: str
    phrases: tuple[str, ...]
    kind: Literal["mention", "number"] = "mention"
    unit: str = ""
    spellings: tuple[str, ...] = ()
    unit_assumed: bool = False
    ranges: Literal["refuse", "middle"] = "refuse"
    signed: bool = False
    history: bool = False
    absent: str = ""
    sections: tuple[str, ...] = ()
    not_sections: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Finding:
    """Where in the cleaned text a rule found something, how it is meant, and the number if it is one."""

    rule: Rule
    start: int
    end: int
    section: str
    context: Context
    reading: Reading | None = None


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Rules made ready: their phrases as a tree, and further headings with how what is below them is meant."""

    rules: tuple[Rule, ...]
    phrases: Phrases[int]
    headings: Mapping[str, Context]


def vocabulary(rules: tuple[Rule, ...], headings: Mapping[str, str] | None = None) -> Vocabulary:
    """Check and prepare rules; `headings` maps further headings to "", "family", "historical" or "hypothetical".

    Raises:
        ConfigError: Says which rule or heading is wrong.
    """
    extra: dict[str, Context] = {}
    for heading, meaning in (headings or {}).items():
        if meaning and meaning not in {"family", "historical", "hypothetical"}:
            raise ConfigError(f"the heading {heading!r} can mean '', 'family', 'historical' or 'hypothetical'")
        extra[text_sections.heading_name(heading)] = Context[meaning.upper()] if meaning else Context.NONE
    for rule in rules:
        _check(rule, extra)
    if sum(len(rule.phrases) for rule in rules) > _MOST_PHRASES:
        raise ConfigError(f"the rules have more than {_MOST_PHRASES} phrases")
    try:
        phrases = Phrases((phrase, number) for number, rule in enumerate(rules) for phrase in rule.phrases)
    except ValueError as error:
        raise ConfigError(f"a rule's {error}") from None
    return Vocabulary(rules, phrases, extra)


def find(known: Vocabulary, text: str) -> Iterator[Finding]:
    """Every finding in a text, in its order.

    Raises:
        ClinicalError: The text is longer than `MOST_CHARACTERS`.
    """
    if len(text) > MOST_CHARACTERS:
        raise ClinicalError(f"a document's text is longer than {MOST_CHARACTERS} characters")
    plain = text_sections.clean(text)
    for section in text_sections.sections(plain, known.headings):
        for start, end in text_sections.sentences(plain, section.start, section.end):
            yield from _in_sentence(known, plain, section, start, end)


def _in_sentence(known: Vocabulary, text: str, section: Section, start: int, end: int) -> Iterator[Finding]:
    among = text_phrases.words(text, start, end)
    found = known.phrases.find(among)
    if not found:
        return
    taken = [False] * len(among)
    for one in found:
        taken[one.first : one.after] = [True] * (one.after - one.first)
    meant = text_context.contexts(among, taken)
    for one in found:
        for number in one.labels:
            yield from _finding(known.rules[number], text, section, among, one, meant[one.first], end)


def _finding(
    rule: Rule, text: str, section: Section, among: list[Word], one: Found[int], context: Context, end: int
) -> Iterator[Finding]:
    if (rule.sections and section.name not in _names(rule.sections)) or section.name in _names(rule.not_sections):
        return
    start, after = among[one.first].start, among[one.after - 1].end
    reading = None
    if rule.kind == "number":
        reading = text_numbers.read(
            text,
            after,
            end,
            (rule.unit, *rule.spellings),
            unit_assumed=rule.unit_assumed,
            middle=rule.ranges == "middle",
            signed=rule.signed,
        )
        if reading is None:
            return
    yield Finding(rule, start, after, section.name, context | section.context, reading)


def _names(headings: tuple[str, ...]) -> set[str]:
    return {text_sections.heading_name(heading) for heading in headings}


def _check(rule: Rule, extra: Mapping[str, Context]) -> None:
    for coded in (rule.code, *([rule.absent] if rule.absent else [])):
        system, _, code = coded.partition("|")
        if not (system and code):
            raise ConfigError(f"a rule's code is {coded!r}: write system|code")
    if not rule.phrases:
        raise ConfigError(f"the rule for {rule.code!r} has no phrases")
    if rule.kind == "number" and rule.absent:
        raise ConfigError(f"the rule for {rule.code!r} is for a number, which cannot be absent")
    if rule.kind == "number" and not rule.unit and not rule.unit_assumed:
        raise ConfigError(f"the rule for {rule.code!r} has no unit: give it, or set unit_assumed")
    if rule.kind == "mention" and (rule.unit or rule.spellings):
        raise ConfigError(f"the rule for {rule.code!r} is for a mention, which has no unit")
    unknown = _names((*rule.sections, *rule.not_sections)) - set(text_sections.HEADINGS) - set(extra)
    if unknown:
        raise ConfigError(f"the rule for {rule.code!r} names an unknown heading {min(unknown)!r}: add it to headings")
