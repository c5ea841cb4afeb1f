"""Whether a mention is denied, of a relative, of the past or only considered: the scopes of trigger phrases.

A trigger reaches to the end of its sentence, forwards or backwards, unless a phrase that ends its kind stands between.
Some phrases look like triggers and are none ("no increase", "not only", "gram negative"); being longer, they are found
first and have no reach. "$" is the sentence's end. Where it is in doubt whether a mention is denied, it is taken as
denied: a fact is missed rather than invented.

The lists are English. They are small on purpose, and every entry is in a test.

References:
    Chapman et al. A simple algorithm for identifying negated findings and diseases in discharge summaries (NegEx).
        J Biomed Inform 34 (2001) 301-310.
    Harkema et al. ConText: an algorithm for determining negation, experiencer, and temporal status from clinical
        reports. J Biomed Inform 42 (2009) 839-851.
"""

from dataclasses import dataclass
from typing import Final

from wardround.harmonization.text_phrases import Phrases, Word
from wardround.harmonization.text_sections import Context

__all__ = ["TRIGGERS", "Trigger", "contexts"]


@dataclass(frozen=True, slots=True)
class Trigger:
    """What a phrase does: opens `context` towards `forward` or `backward`, and it ends the contexts in `ends`."""

    context: Context = Context.NONE
    forward: bool = False
    backward: bool = False
    ends: Context = Context.NONE


_ALL: Final = Context.NEGATED | Context.FAMILY | Context.HISTORICAL | Context.HYPOTHETICAL


def _each(trigger: Trigger, *phrases: str) -> tuple[tuple[str, Trigger], ...]:
    return tuple((phrase, trigger) for phrase in phrases)


TRIGGERS: Final[tuple[tuple[str, Trigger], ...]] = (
    *_each(
        Trigger(Context.NEGATED, forward=True),
        *("no", "not", "without", "w/o", "denies", "denying", "deny", "never", "nor", "neither", "cannot see"),
        *("absence of", "lack of", "lacks", "free of", "free from", "negative for", "rules out", "ruled out for"),
        *("no evidence of", "no evidence for", "no sign of", "no signs of", "no history of", "no h/o", "no hx of"),
        *("no prior", "no previous", "no family history of", "did not have", "does not have", "fails to reveal"),
        *("excludes", "no longer", "without evidence of", "not demonstrate", "can rule out", "[ ]", "[]", "☐", "□"),
    ),
    *_each(
        Trigger(Context.NEGATED, forward=True, backward=True),
        *("ruled out", "was ruled out", "has been ruled out", "is ruled out", "were ruled out", "excluded", "absent"),
        *("negative", "was excluded", "has been excluded", "denied"),
    ),
    *_each(
        Trigger(Context.NEGATED, backward=True),
        *("not seen", "not present", "not identified", "not found", "not detected", "not demonstrated", "unlikely"),
        *("is denied", "none", "was negative", "not evident", "is absent", "no $", "no ,"),
    ),
    *_each(
        Trigger(Context.FAMILY, forward=True, backward=True),
        *("mother", "father", "brother", "sister", "son", "daughter", "uncle", "aunt", "cousin", "grandmother"),
        *("grandfather", "parent", "parents", "sibling", "siblings", "brothers", "sisters", "maternal", "paternal"),
        *("family history", "family history of", "fhx", "f/h", "family member", "family members", "relative"),
        *("mother's", "father's", "brother's", "sister's", "grandparents", "relatives", "family"),
    ),
    *_each(
        Trigger(Context.HISTORICAL, forward=True),
        *("history of", "h/o", "hx of", "history", "past", "previous", "previously", "prior", "former", "formerly"),
        *("status post", "s/p", "old", "remote", "childhood"),
    ),
    *_each(Trigger(Context.HISTORICAL, forward=True, backward=True), "in the past", "resolved", "in childhood"),
    *_each(
        Trigger(Context.HISTORICAL, backward=True), "years ago", "year ago", "months ago", "as a child", "last year"
    ),
    *_each(
        Trigger(Context.HYPOTHETICAL, forward=True),
        *("if", "in case of", "should", "return for", "rule out", "r/o", "to exclude", "exclude", "evaluate for"),
        *("evaluation for", "concern for", "concerning for", "possibly", "probable", "probably", "likely"),
        *("suspicion of", "suspicious for", "question of", "questionable", "may have", "might have", "could be"),
        *("may be", "might be", "cannot exclude", "can not exclude", "cannot rule out", "can not rule out", "versus"),
        *("vs", "risk of", "risk for", "at risk for", "screening for", "screen for", "prophylaxis", "prevent"),
        *("prevention of", "consider", "investigate for", "assess for", "target", "goal", "aim for", "unless"),
        *("not certain if", "not certain whether", "not necessarily", "differential includes", "whenever"),
    ),
    *_each(
        Trigger(Context.HYPOTHETICAL, backward=True),
        *("cannot be excluded", "can not be excluded", "could not be excluded", "cannot be ruled out", "not excluded"),
        *("can not be ruled out", "could not be ruled out", "not been ruled out", "not been excluded", "not ruled out"),
        *("in question", "is considered", "to be excluded", ": unknown", "is possible", "is suspected"),
    ),
    *_each(Trigger(Context.HYPOTHETICAL, forward=True, backward=True), "possible", "suspected", "?"),
    *_each(
        Trigger(),
        *("no increase", "no increase in", "no change", "no change in", "no significant change", "not only"),
        *("no interval change", "gram negative", "without difficulty", "no doubt", "without doubt", "not worse"),
        *("no improvement", "history and physical", "history of present illness", "history taking", "family doctor"),
        *("family physician", "family medicine", "mother reports", "mother states", "father reports", "father states"),
        *("per mother", "per father", "lives with mother", "lives with family", "family meeting", "past the"),
        *("should be noted", "prior to", "year old", "years old", "yr old"),
    ),
    *_each(
        Trigger(ends=_ALL),
        *("but", "however", "although", "though", "nevertheless", "except", "except for", "apart from", "aside from"),
        *("other than", "whereas", "[x]", "☑", "☒"),
    ),
    *_each(
        Trigger(ends=Context.NEGATED | Context.HYPOTHETICAL | Context.HISTORICAL),
        *("and has", "and reports", "and complains of", "and presents with", "and shows", "and developed", "and had"),
        *(", has", ", reports", ", complains of", ", presents with", ", shows", ", developed", ", had", ", now"),
        *("now with", "now has", "currently has", "presents with", "presenting with", "admitted with", "admitted for"),
        *(": yes", ": positive"),
    ),
    *_each(
        Trigger(ends=Context.FAMILY),
        *(", patient has", ", patient had", ", patient is", ", patient reports", ", pt has", ", the patient has"),
        *(", the patient had", ", the patient is", "and patient has", "and the patient has", "and pt has"),
    ),
)
"""Every phrase and what it does."""

_PHRASES: Final = Phrases(TRIGGERS)
_END: Final = Word("$", 0, 0)
_ASKED: Final = (":", "?")


def contexts(among: list[Word], taken: list[bool]) -> list[Context]:
    """For each word of one sentence how it is meant; words that are `taken` are no part of a trigger."""
    ended = [*among, _END]
    found = _PHRASES.find(ended, [*taken, False])
    meant = [Context.NONE] * len(ended)
    for forward in (True, False):
        active = Context.NONE
        triggers = iter(found if forward else reversed(found))
        coming = next(triggers, None)
        for place in range(len(ended)) if forward else range(len(ended) - 1, -1, -1):
            meant[place] |= active
            if coming is not None and place == (coming.after - 1 if forward else coming.first):
                answers = place > 0 and ended[place - 1].text in _ASKED
                active = _after(active, coming.labels, forward=forward, answers=answers)
                coming = next(triggers, None)
    return meant[:-1]


def _after(active: Context, triggers: tuple[Trigger, ...], *, forward: bool, answers: bool) -> Context:
    for one in triggers:
        active &= ~one.ends
        if one.forward if forward else one.backward:
            active |= one.context
        elif not forward and answers:
            # In "Diabetes: no evidence" the answer is about what stands before the colon.
            active |= one.context & Context.NEGATED
    return active
