"""Free text without the identifiers of its patient, kin and clinicians, and without what looks like anybody's.

Two passes mark places in a note, and what is marked becomes a tag such as ``[NAME]``:

1. Known identifiers (`deidentify_known`), in any spelling of these: capitals or none; with or without accents; words
   joined, or split at a hyphen, an apostrophe or the end of a line; family name first; initials; numbers with any
   separators and leading zeros. Words of six letters and more may also have one letter wrong, missing, added or
   swapped, and words of five the confusions of scanners (0 and O, 1 and l, rn and m).
2. Rules for what any identifier looks like (`deidentify_rules`).

The text is read once, word by word: each word, and each run of words that begins an identifier, is looked up. So the
time is that of the text's length, whatever it holds.

What survives: a name that nobody told of and that no title, label or kinship announces; a known name misspelled twice
or, below six letters, once; nicknames; a place without a word such as Street or Hospital. A scrubbed note is therefore
still the hospital's: it yields coded concepts or numbers at the site, and does not leave.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from wardround.errors import ClinicalError
from wardround.harmonization import deidentify_rules as rules
from wardround.harmonization.deidentify_lexicon import (
    FUZZY_LETTERS,
    SCANNED_LETTERS,
    WORD,
    Lexicon,
    folded,
    lexicon,
    near,
    scanned,
)
from wardround.harmonization.deidentify_rules import Span

__all__ = ["MAX_CHARACTERS", "Scrubbed", "lexicon", "scrub"]

MAX_CHARACTERS: Final = 5_000_000
"""A longer text is refused."""

_INVISIBLE: Final = re.compile("[\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufeff]")
_ASCII_WORD: Final = re.compile(r"[A-Za-z]+|\d+")
_JOINING: Final = re.compile(r"[\s\-./(),:_#'’`´@&+–·*]{0,4}")
_TIGHT: Final = re.compile(r"['’`´\-–]?|\.|-\s{1,3}|\.-|['’`´]\s")
_MOST_JOINED: Final = 64
_MOST_RUN: Final = 6
_LEAST_SPACED: Final = 3
_WITHIN: Final = frozenset(["", "'", "’", "`", "´", "-"])
_DOTS: Final = frozenset([".", ". ", ".-", "-"])
_NEIGHBOUR: Final = re.compile(r"[\s.,'’\-]{0,3}")
_TITLES_TEXT: Final = "mr mrs ms miss mx dr prof doctor nurse pt patient by initials"
_ABBREVIATIONS_TEXT: Final = """
ac ad af ah al am an as at av ba bi bm bp bs ca cc cf ck cn co cp cr ct cv cx dc dd di dm do dr ds dt ed eg ef
em er et ex fb fe ff fh fm fu fx ga gb gc gi gm gp gu ha hb hd he hg hi hp hr hs ht hx ic id if ii im in ir is
it iu iv jp ka kg la ld le lf lh li ll lm lp ls lv md me mg mi ml mm mr ms mv na nd ng nh no np ns od ok on op
or os ot ou pa pc pe ph pm pn po pr ps pt pv qd ra rb re rf rh ri rn ro rr rv rx sa sc sh si sl so sp sr ss st
sv sx ta tb td tg th tl tm to tr ts tv tx ua ud uk up us ut uv va vf vs vt wb we wt xr abg acs aki alt aml ana
arf ast bid bmi bnp bpm bun cad cbc chf cll cml cmv cns cpk cpr crp csf cva cvp cxr dic dka dnr dvt ecg eeg
ekg emg esr fev gfr ggt gsw hct hdl hgb hiv hpi icd icp icu inr ivf ldh ldl lft lmp lvh mch mcv mri nkda npo
nsr ocd pco pcp pft php pmh pna prn psa ptt pvc qid rbc ros rsv sle sob svt tia tid tpn tsh uti wbc wnl
"""
_TITLES: Final = frozenset(_TITLES_TEXT.split())
_ABBREVIATIONS: Final = frozenset(_ABBREVIATIONS_TEXT.split())
"""Clinical ones, which stand for a person of these initials only after a title."""


@dataclass(frozen=True, slots=True)
class Scrubbed:
    """Attributes: `text` with tags in the place of identifiers, `counts` of them by tag."""

    text: str
    counts: dict[str, int]


@dataclass(frozen=True, slots=True, repr=False)
class _Reading:
    """A note as words: where each starts and ends, and its folded spelling."""

    text: str
    starts: list[int]
    ends: list[int]
    words: list[str]


def scrub(note: str, known: Lexicon) -> Scrubbed:
    """The note without identifiers; accents are composed, and characters that do not show are gone.

    Raises:
        ClinicalError: The note is longer than `MAX_CHARACTERS`.
    """
    if len(note) > MAX_CHARACTERS:
        raise ClinicalError(f"a note of more than {MAX_CHARACTERS} characters: split it into its documents")
    text = note if note.isascii() else unicodedata.normalize("NFC", _INVISIBLE.sub("", note))
    return _replaced(text, [*_known(_read(text), known), *_unspaced(text, known), *rules.spans(text)])


def _read(text: str) -> _Reading:
    pattern = _ASCII_WORD if text.isascii() else WORD
    found = [(*match.span(), folded(match[0])) for match in pattern.finditer(text)]
    found = [one for one in found if one[2]]  # An accent without a letter is no word.
    return _Reading(text, [one[0] for one in found], [one[1] for one in found], [one[2] for one in found])


def _known(note: _Reading, known: Lexicon) -> Iterator[Span]:
    names: list[int] = []
    starts, ends = note.starts, note.ends
    for place, word in enumerate(note.words):
        tag = known.entries.get(word) or _similar(word, known) or _short(note, known, place)
        if tag:
            yield starts[place], ends[place], tag
            if tag == "NAME":
                names.append(place)
        if word in known.beginnings or word[0] == "0":
            for last, joined_tag in _joined(note, known, place):
                yield starts[place], ends[last], joined_tag
                if joined_tag == "NAME":
                    names.extend((place, last))
        if place + 1 < len(starts) and note.text[ends[place] : starts[place + 1]] in _WITHIN:
            yield from _run(note, known, place)
    for place in names:
        yield from _beside(note, known, place)


def _joined(note: _Reading, known: Lexicon, first: int) -> Iterator[tuple[int, str]]:
    # Entries that begin with this word and go on in the following ones, as it stands and without leading zeros.
    word = note.words[first]
    for whole in {word, word.lstrip("0")}:
        if whole != word and whole in known.entries:
            yield first, known.entries[whole]
        yield from _continued(note, known, first, whole)


def _continued(note: _Reading, known: Lexicon, first: int, whole: str) -> Iterator[tuple[int, str]]:
    tight, single, last = True, len(whole) == 1, min(first + _MOST_JOINED, len(note.words)) - 1
    for place in range(first, last):
        gap = note.text[note.ends[place] : note.starts[place + 1]]
        if (whole and whole not in known.beginnings) or not _JOINING.fullmatch(gap):
            return
        whole += note.words[place + 1] if whole else note.words[place + 1].lstrip("0")
        if not whole:  # More noughts: the last of them begins what there is to find.
            return
        tight = tight and _TIGHT.fullmatch(gap) is not None
        single = single and len(note.words[place + 1]) == 1
        tag = known.entries.get(whole) or ("NAME" if tight and whole in known.short else None)
        # Words with a space between them are one name only where that can hardly be chance.
        if tag and (tag != "NAME" or tight or len(whole) >= FUZZY_LETTERS or (single and len(whole) > _LEAST_SPACED)):
            yield place + 1, tag


def _run(note: _Reading, known: Lexicon, first: int) -> Iterator[Span]:
    # "Sm1th" and "O'Brian" are read as several words, and are one with a letter wrong.
    last, final = first, min(first + _MOST_RUN, len(note.words)) - 1
    while last < final and note.text[note.ends[last] : note.starts[last + 1]] in _WITHIN:
        last += 1
        if tag := _similar("".join(note.words[first : last + 1]), known):
            yield note.starts[first], note.ends[last], tag


def _similar(word: str, known: Lexicon) -> str | None:
    if len(word) < SCANNED_LETTERS or word.isdigit():
        return None
    if tag := known.scanned.get(scanned(word)):
        return tag
    if word[:2] in known.fronts or word[-2:] in known.backs:
        for entry, tag in (*known.fronts.get(word[:2], ()), *known.backs.get(word[-2:], ())):
            if abs(len(entry) - len(word)) <= 1 and near(entry, word):
                return tag
    return None


def _short(note: _Reading, known: Lexicon, place: int) -> str | None:
    word = note.words[place]
    if len(word) == 1:
        return _dotted(note, known, place)
    if word not in known.short and word not in known.initials:
        return None
    titled = place > 0 and note.words[place - 1] in _TITLES
    written = note.text[note.starts[place] : note.ends[place]]
    if word in known.short and (titled or written[0].isupper()):
        return "NAME"
    stands = word in known.initials and written.isupper() and (titled or word not in _ABBREVIATIONS)
    return "NAME" if stands else None


def _dotted(note: _Reading, known: Lexicon, place: int) -> str | None:
    # Any letter of "J.S." and "J. Q. S.": the letters around it, with full stops between, are a person's initials.
    first = last = place
    while first > 0 and place - first < 3 and len(note.words[first - 1]) == 1 and _dot(note, first - 1):
        first -= 1
    while last + 1 < len(note.words) and last - place < 3 and len(note.words[last + 1]) == 1 and _dot(note, last):
        last += 1
    letters = "".join(note.words[first : last + 1])
    return "NAME" if letters in known.initials and note.text[note.starts[place]].isupper() else None


def _dot(note: _Reading, place: int) -> bool:
    return note.text[note.ends[place] : note.starts[place + 1]] in _DOTS


def _beside(note: _Reading, known: Lexicon, place: int) -> Iterator[Span]:
    # "J. Q. Smith", "Smith, J", "Ng Smith": initials and short names that stand next to a name.
    for step in (-1, 1):
        other = place + step
        while 0 <= other < len(note.words) and abs(other - place) <= 3:
            left, right = min(other, other - step), max(other, other - step)
            start, end = note.starts[other], note.ends[other]
            if not _NEIGHBOUR.fullmatch(note.text[note.ends[left] : note.starts[right]]):
                break
            letter = end - start == 1 and (note.words[other] in known.letters or note.text[end : end + 1] == ".")
            if not (note.words[other] in known.short or (letter and note.text[start].isupper())):
                break
            yield start, end, "NAME"
            other += step


def _unspaced(text: str, known: Lexicon) -> Iterator[Span]:
    for name in known.unspaced:
        start = text.find(name)
        while start >= 0:
            yield start, start + len(name), "NAME"
            start = text.find(name, start + len(name))


def _replaced(text: str, spans: Iterable[Span]) -> Scrubbed:
    pieces: list[str] = []
    counts: Counter[str] = Counter()
    end = 0
    for start, stop, tag in _merged(text, spans):
        pieces += (text[end:start], f"[{tag}]")
        counts[tag] += 1
        end = stop
    pieces.append(text[end:])
    return Scrubbed("".join(pieces), dict(sorted(counts.items())))


def _merged(text: str, spans: Iterable[Span]) -> Iterator[Span]:
    # Places that overlap are one, named after the longest; names side by side are one name.
    held: Span | None = None
    longest = 0
    for start, stop, tag in sorted(spans):
        if held is None:
            held, longest = (start, stop, tag), stop - start
            continue
        beside = tag == held[2] == "NAME" and _NEIGHBOUR.fullmatch(text[held[1] : start]) is not None
        if start < held[1] or beside:
            kept = tag if stop - start > longest else held[2]
            held, longest = (held[0], max(held[1], stop), kept), max(longest, stop - start)
        else:
            yield held
            held, longest = (start, stop, tag), stop - start
    if held is not None:
        yield held
