"""Clinical text: what is said of a mention, which number follows a label, and that time grows with the text alone."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wardround.errors import ClinicalError, ConfigError
from wardround.harmonization import clinical_text, text_phrases, text_sections
from wardround.harmonization.clinical_text import Context, Rule, find, vocabulary
from wardround.harmonization.text_context import TRIGGERS
from wardround.harmonization.text_phrases import Phrases

MI = Rule(code="snomed|22298006", phrases=("myocardial infarction", "MI", "heart attack"))
DM = Rule(code="snomed|73211009", phrases=("diabetes mellitus", "diabetes"))
BOTH = vocabulary((MI, DM))
STATED, NEGATED, FAMILY = Context.NONE, Context.NEGATED, Context.FAMILY
PAST, MAYBE = Context.HISTORICAL, Context.HYPOTHETICAL


def meant(text, known=BOTH):
    return [found.context for found in find(known, text)]


def number(text, **settings):
    settings = {"phrases": ("LVEF", "ejection fraction"), "kind": "number", "unit": "%", **settings}
    return [found.reading for found in find(vocabulary((Rule(code="loinc|10230-1", **settings),)), text)]


def told(text, **settings):
    return [(one.refused or one.number, one.comparator) for one in number(text, **settings)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Acute myocardial infarction.", [STATED]),
        ("No evidence of myocardial infarction.", [NEGATED]),
        ("Patient denies heart attack, diabetes or fever.", [NEGATED, NEGATED]),
        ("MI was ruled out.", [NEGATED]),
        ("We ruled out MI.", [NEGATED]),
        ("Ruled out for MI.", [NEGATED]),
        ("Rule out MI.", [MAYBE]),
        ("r/o MI", [MAYBE]),
        ("MI could not be ruled out.", [MAYBE]),
        ("MI cannot be excluded.", [MAYBE]),
        ("Possible MI.", [MAYBE]),
        ("MI is possible.", [MAYBE]),
        ("If MI develops, call us.", [MAYBE]),
        ("At risk for diabetes.", [MAYBE]),
        ("No MI but has diabetes.", [NEGATED, STATED]),
        ("No MI, has diabetes.", [NEGATED, STATED]),
        ("No MI. Diabetes.", [NEGATED, STATED]),
        ("No MI; diabetes.", [NEGATED, STATED]),
        ("No abnormality other than MI.", [STATED]),
        ("No increase in diabetes markers.", [STATED]),
        ("Not only diabetes, also MI.", [STATED, STATED]),
        ("Mother had diabetes.", [FAMILY]),
        ("Diabetes in her father.", [FAMILY]),
        ("Father had MI, patient has diabetes.", [FAMILY, STATED]),
        ("Father of the patient had MI.", [FAMILY]),
        ("Mother reports diabetes.", [STATED]),
        ("No family history of MI.", [NEGATED]),
        ("History of MI, now with diabetes.", [PAST, STATED]),
        ("MI three years ago.", [PAST]),
        ("S/p MI.", [PAST]),
        ("No history of MI.", [NEGATED]),
        ("65 year old man with MI.", [STATED]),
        ("65-year-old man with MI.", [STATED]),
        ("Gram negative sepsis, diabetes.", [STATED]),
        ("Diabetes: no, MI: yes", [NEGATED, STATED]),
        ("Diabetes: none", [NEGATED]),
        ("Diabetes? no", [MAYBE]),
        ("Diabetes - no, MI - yes", [NEGATED, STATED]),
        ("Diabetes: no evidence", [NEGATED]),
        ("Diabetes: no; MI", [NEGATED, STATED]),
        ("Diabetes denied.", [NEGATED]),
        ("Findings of today: no MI", [NEGATED]),
        ("☐ MI ☒ diabetes", [NEGATED, STATED]),
        ("[ ] MI [x] diabetes", [NEGATED, STATED]),
        ("Non-diabetes clinic", []),
        ("MIchigan, aMI, MI5", []),
        ("No evidence of\nmyocardial infarction", [NEGATED]),
        ("No evidence of\nMyocardial infarction", [NEGATED]),
        ("No fever,\nMyocardial infarction", [NEGATED]),
        ("Denies e.g. MI.", [NEGATED]),
        ("No word from Dr. Smith or Mr. Jones about MI.", [NEGATED]),
        ("No fever\nMyocardial infarction", [STATED]),
        ("No fever\n\nmyocardial infarction", [STATED]),
        ("Seen by Dr. No MI today", [NEGATED]),
        ("Myo\u00adcardial infarc\ufffe\ntion", [STATED]),
        ("No ﬁbrillation, MI", [NEGATED]),
    ],
)
def test_what_is_said_of_a_mention(text, expected):
    assert meant(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("FAMILY HISTORY\nMI at 50.\nECHOCARDIOGRAM\nMI seen.", [FAMILY, STATED]),
        ("Family history: MI\nPaternal side: diabetes\nFindings: MI", [FAMILY, FAMILY, STATED]),
        ("Past Medical History:\n1. Diabetes\n2. MI", [PAST, PAST]),
        ("2. Plan:\nscreen for diabetes", [MAYBE]),
        ("Impression: no MI", [NEGATED]),
        ("Family history\nMI", [FAMILY]),
        ("FAMILY HISTORY\nMI at 50.\nCARDIAC STUDIES:\nMI seen.", [FAMILY, STATED]),
        ("Family history is long.\nMI", [STATED]),
    ],
)
def test_what_a_heading_says_holds_below_it_until_the_next(text, expected):
    assert meant(text) == expected


def test_every_trigger_does_what_it_says_in_a_sentence_of_its_own():
    known = vocabulary((Rule(code="x|y", phrases=("zebra",)),))
    for phrase, _ in TRIGGERS:
        # A phrase may stand under several heads, and the longest in a sentence is what counts.
        every = [trigger for other, trigger in TRIGGERS if other == phrase]
        before = Context.NONE
        after = Context.NONE
        for one in every:
            before |= one.context if one.forward else Context.NONE
            after |= one.context if one.backward else Context.NONE
        space = "" if phrase == "?" else " "
        assert meant(f"{phrase}{space}zebra", known) == [before], phrase
        assert meant(f"zebra {phrase} stripes", known) == [after], phrase
        for ended in [one.ends for one in every if one.ends]:
            for opened, word in ((NEGATED, "no"), (FAMILY, "uncle"), (PAST, "former"), (MAYBE, "consider")):
                expected = [Context.NONE] if opened in ended else [opened]
                assert meant(f"{word} stripes {phrase} zebra", known) == expected, (phrase, word)


def test_no_phrase_stands_twice_under_one_head():
    assert len(set(TRIGGERS)) == len(TRIGGERS)


def test_the_longest_phrase_counts_and_equal_phrases_count_for_every_rule():
    insipidus = Rule(code="snomed|15771004", phrases=("diabetes insipidus",))
    again = Rule(code="local:x|d", phrases=("Diabetes",))
    found = list(find(vocabulary((DM, insipidus, again)), "Diabetes insipidus and diabetes"))
    assert [one.rule.code for one in found] == ["snomed|15771004", "snomed|73211009", "local:x|d"]


def test_a_word_of_the_concept_is_no_trigger():
    known = vocabulary((Rule(code="x|y", phrases=("no reflow",)), DM))
    assert meant("No reflow, diabetes", known) == [STATED, STATED]


def test_rules_look_below_their_headings_alone():
    text = "Comparison: LVEF 30 %\nFindings: LVEF 45 %\nMri cor: LVEF 50 %"
    assert told(text) == [(30.0, None), (45.0, None), (50.0, None)]
    assert told(text, sections=("Findings:",)) == [(45.0, None), (50.0, None)]
    assert told(text, not_sections=("comparison",)) == [(45.0, None), (50.0, None)]
    rule = Rule(code="x|y", phrases=("LVEF",), kind="number", unit="%", sections=("MRI cor",))
    known = vocabulary((rule,), {"MRI Cor": "historical"})
    assert [(one.reading.number, one.context) for one in find(known, text)] == [(50.0, PAST)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("LVEF 45 %", [(45.0, None)]),
        ("LVEF: 45%.", [(45.0, None)]),
        ("LVEF - 45 %", [(45.0, None)]),
        ("LVEF (biplane) is approximately 45.5%", [(45.5, None)]),
        ("Ejection fraction was estimated at 60 %", [(60.0, None)]),
        ("LVEF < 40 %", [(40.0, "<")]),
        ("LVEF ≤40 %", [(40.0, "<=")]),
        ("LVEF of at least 55%", [(55.0, ">=")]),
        ("LVEF is greater than 55 %", [(55.0, ">")]),
        ("LVEF not less than 55 %", [(55.0, ">=")]),
        ("LVEF\n45 %", []),
        ("LVEF", []),
        ("LVEF not measured, 45 % saturation", []),
        ("LVEF in 2019 was 45 %", []),
        ("LVEF 40-45 %", [("range of numbers", None)]),
        ("LVEF 40% to 45%", [("range of numbers", None)]),
        ("LVEF 45", [("number without a unit of the rule", None)]),
        ("LVEF 45 ml", [("number without a unit of the rule", None)]),
        ("LVEF 45 %/min", [("number without a unit of the rule", None)]),
        ("LVEF 45,5 %", [("number in another notation", None)]),
        ("LVEF 4 5 %", [("number in another notation", None)]),
        ("LVEF 12/05/2020 45 %", [("number in another notation", None)]),
        ("LVEF 12.05.2020 45 %", [("number in another notation", None)]),
        ("LVEF 10:30 45 %", [("number in another notation", None)]),
        ("LVEF -45 %", [("number with a sign", None)]),
        ("LVEF 1234567890123 %", [("number without a unit of the rule", None)]),
    ],
)
def test_the_number_after_a_label(text, expected):
    assert told(text) == expected


def test_what_a_rule_may_allow_of_a_number():
    assert told("LVEF 40-45 %", ranges="middle") == [(42.5, None)]
    assert told("LVEF 40 % - 45 %", ranges="middle") == [(42.5, None)]
    assert told("LVEF 45-40 %", ranges="middle") == [("range of numbers", None)]
    assert told("LVEF <40-45 %", ranges="middle") == [("range of numbers", None)]
    assert told("LVEF 40-45", ranges="middle") == [("range of numbers", None)]
    assert told("LVEF 45 percent", spellings=("percent", "per cent")) == [(45.0, None)]
    assert told("LVEF 45 PER CENT", spellings=("percent", "per cent")) == [(45.0, None)]
    assert told("LVEF 45, fine", unit_assumed=True) == [(45.0, None)]
    assert told("LVEF 45 ml", unit_assumed=True) == [("number without a unit of the rule", None)]
    assert told("Z -2.5", phrases=("z",), unit="1", unit_assumed=True, signed=True) == [(-2.5, None)]
    assert told("Z −2.5", phrases=("z",), unit="1", unit_assumed=True, signed=True) == [(-2.5, None)]


def test_a_number_that_is_denied_of_a_relative_or_wished_for_says_so():
    (found,) = find(vocabulary((Rule(code="x|y", phrases=("INR",), kind="number", unit_assumed=True),)), "Goal INR 2.5")
    assert found.context == MAYBE


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"code": "x"}, "write system|code"),
        ({"absent": "x|"}, "write system|code"),
        ({"phrases": ()}, "has no phrases"),
        ({"phrases": ("...",)}, "1 to 12 words"),
        ({"phrases": ("a b c d e f g h i j k l m",)}, "1 to 12 words"),
        ({"kind": "number"}, "has no unit"),
        ({"kind": "number", "unit": "%", "absent": "x|z"}, "cannot be absent"),
        ({"unit": "%"}, "has no unit"),
        ({"sections": ("no such heading",)}, "unknown heading"),
        ({"phrases": ("a",) * 20_001}, "more than 20000 phrases"),
    ],
)
def test_a_rule_that_cannot_be_meant_is_refused(settings, complaint):
    with pytest.raises(ConfigError, match=complaint.replace("|", r"\|")):
        vocabulary((Rule(**{"code": "x|y", "phrases": ("word",), **settings}),))


def test_a_heading_can_only_mean_what_there_is():
    with pytest.raises(ConfigError, match="can mean"):
        vocabulary((MI,), {"Echo": "maybe"})


def test_too_long_a_text_is_refused(monkeypatch):
    monkeypatch.setattr(clinical_text, "MOST_CHARACTERS", 10)
    with pytest.raises(ClinicalError, match="longer than"):
        list(find(BOTH, "x" * 11))


@given(st.text(max_size=400))
def test_any_text_is_divided_without_loss_and_read_twice_alike(text):
    plain = text_sections.clean(text)
    parts = text_sections.sections(plain, {})
    assert "".join(plain[one.start : one.end] for one in parts) == plain
    for one in parts:
        at = one.start
        for start, end in text_sections.sentences(plain, one.start, one.end):
            assert not plain[at:start].strip()
            at = end
        assert not plain[at : one.end].strip()
    known = vocabulary((MI, Rule(code="x|y", phrases=("a",), kind="number", unit="0", ranges="middle")))
    assert list(find(known, text)) == list(find(known, text))


@given(
    st.lists(
        st.sampled_from(
            ["no", "mi", "diabetes", "but", ",", ":", "history", "of", "father", "ruled", "out", "possible"]
        ),
        max_size=14,
    )
)
def test_scopes_are_those_of_a_reader_who_looks_at_every_trigger_anew(texts):
    sentence = " ".join(texts)
    among = text_phrases.words(f"{sentence} $", 0, len(sentence) + 2)
    triggers = Phrases(TRIGGERS)
    hits = BOTH.phrases.find(among)
    taken = [any(one.first <= at < one.after for one in hits) for at in range(len(among))]
    found = triggers.find(among, taken)
    expected = []
    for hit in hits:
        context = Context.NONE
        for kind in (NEGATED, FAMILY, PAST, MAYBE):
            for one in found:
                between = [
                    other
                    for other in found
                    if (one.first < other.first < hit.first) or (hit.first < other.first < one.first)
                ]
                if any(kind in label.ends for other in between for label in other.labels):
                    continue
                ahead = one.first < hit.first
                answers = kind is NEGATED and not ahead and one.first and among[one.first - 1].text == ":"
                for label in one.labels:
                    if kind in label.context and ((label.forward if ahead else label.backward) or answers):
                        context |= kind
        expected.append(context)
    assert meant(sentence) == expected


HOSTILE = {
    "one endless word": "a" * 400_000,
    "one endless line": "no " * 130_000,
    "only labels": "LVEF " * 80_000,
    "labels and connections": "LVEF is of at about " * 20_000,
    "labels and spaces": "LVEF" + " " * 400_000,
    "labels and brackets": "LVEF (((((((( " * 28_000,
    "headings": "FAMILY HISTORY:\n" * 25_000,
    "newlines": "\n" * 400_000,
    "stops": "." * 400_000,
    "stops and spaces": ". " * 200_000,
    "hyphens": "a-" * 200_000,
    "digits": "LVEF " + "1" * 400_000,
    "capitals": "A" * 59 + "\n" + "A " * 200_000,
    "dashes": "LVEF 4" + "-4" * 200_000,
    "boxes": "[ ]" * 130_000,
    "soft hyphens": "\u00ad\n" * 200_000,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_time_grows_with_the_text_alone(name):
    known = vocabulary((MI, Rule(code="x|y", phrases=("LVEF",), kind="number", unit="%", ranges="middle")))
    begun = time.process_time()
    list(find(known, HOSTILE[name]))
    # A quadratic reader takes minutes for these.
    assert time.process_time() - begun < 8
