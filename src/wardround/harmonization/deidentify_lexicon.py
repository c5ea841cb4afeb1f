"""One patient's identifiers, prepared for being looked up word by word: every spelling as letters and digits alone.

A spelling is folded: lower case, without accents, without anything between its letters and digits. So "O'Brien-Smith",
"OBRIEN SMITH" and "o'brien smith" are one entry, and so are (555) 555-2004 and 5555552004. Which runs of words may be
joined into an entry is for `deidentify` to say.
"""

import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import date
from functools import lru_cache
from itertools import pairwise, permutations
from typing import Final

from wardround.harmonization.deidentify_known import Known, Person

__all__ = ["FUZZY_LETTERS", "SCANNED_LETTERS", "WORD", "Lexicon", "folded", "lexicon", "near", "scanned"]

FUZZY_LETTERS: Final = 6
"""Words from here on are found with one letter wrong."""

SCANNED_LETTERS: Final = 5
"""Words from here on are found with the confusions of scanners."""

WORD: Final = re.compile(r"(?:[^\W\d_]|[\u0300-\u036f])+|\d+")
"""A run of letters or of digits."""

_LETTERS: Final = str.maketrans(
    {"ø": "o", "đ": "d", "ð": "d", "ł": "l", "ħ": "h", "ı": "i", "æ": "ae", "œ": "oe", "þ": "th"}
)
_SPELLED_OUT: Final = str.maketrans(
    {"ä": "ae", "ö": "oe", "ü": "ue", "ø": "oe", "å": "aa", "æ": "ae", "œ": "oe", "ß": "ss"}
)
_SCANNED: Final = str.maketrans("01i58", "ollsb")
_PARTICLES_TEXT: Final = "van von der den de del della di da do dos la le el al bin ibn ben st y und the"
_PARTICLES: Final = frozenset(_PARTICLES_TEXT.split())
_STREET_TYPES: Final = (
    ("street", "st"),
    ("avenue", "ave"),
    ("road", "rd"),
    ("drive", "dr"),
    ("lane", "ln"),
    ("boulevard", "blvd"),
    ("court", "ct"),
    ("place", "pl"),
    ("terrace", "ter"),
    ("highway", "hwy"),
    ("circle", "cir"),
    ("parkway", "pkwy"),
    ("square", "sq"),
    ("apartment", "apt"),
    ("suite", "ste"),
)
_LEAST_NUMBER: Final = 5
_LEAST_MIXED: Final = 4
_LEAST_PLACE: Final = 4
_SHORT: Final = 3


@dataclass(frozen=True, slots=True, repr=False)
class Lexicon:
    """Attributes hold folded spellings.

    Attributes:
        entries: Spelling to tag.
        beginnings: Of entries: what a run of words may start with.
        short: Words of names of two or three letters, which are looked for in capitals, or beside another name.
        initials: Of persons, two letters and more.
        scanned: Entries of names as scanners confuse them.
        fronts: Long words of names and places with their tags, by their first two letters.
        backs: The same by their last two. One letter wrong cannot touch both.
        letters: First letters of names.
        unspaced: Names in scripts without spaces between words.
    """

    entries: dict[str, str]
    beginnings: frozenset[str]
    short: frozenset[str]
    initials: frozenset[str]
    scanned: dict[str, str]
    fronts: dict[str, tuple[tuple[str, str], ...]]
    backs: dict[str, tuple[tuple[str, str], ...]]
    letters: frozenset[str]
    unspaced: tuple[str, ...]


def folded(word: str) -> str:
    """The word in lower case and without accents, digits as 0 to 9."""
    return word.lower() if word.isascii() else _folded(word)


@lru_cache(maxsize=16_384)
def scanned(word: str) -> str:
    """The word with what scanners confuse made one."""
    return word.translate(_SCANNED).replace("rn", "m").replace("vv", "w")


def near(left: str, right: str) -> bool:
    """Whether one letter wrong, missing, added, or two neighbours swapped, makes one of the other."""
    if len(left) > len(right):
        left, right = right, left
    start = 0
    while start < len(left) and left[start] == right[start]:
        start += 1
    rest, other = left[start:], right[start:]
    if len(left) == len(right):
        return rest[1:] == other[1:] or (rest[:2] == other[:2][::-1] and rest[2:] == other[2:])
    return rest == other[1:]


def lexicon(known: Known) -> Lexicon:
    """Prepare what is known of a patient; a lexicon serves for all of the patient's notes.

    Raises:
        ClinicalError: There are more identifiers than one patient has.
    """
    known.checked()
    names = {spelling for person in known.persons for spelling in _of_person(person)}
    short = {one for one in names if len(one) <= _SHORT}
    entries = dict.fromkeys((spelling for text in known.places for spelling in _of_place(text)), "PLACE")
    entries |= dict.fromkeys((spelling for text in known.streets for spelling in _of_street(text)), "ADDRESS")
    entries |= dict.fromkeys((spelling for day in known.births for spelling in _of_date(day)), "DATE")
    entries |= dict.fromkeys((spelling for text in known.emails for spelling in _of_email(text)), "EMAIL")
    entries |= dict.fromkeys((spelling for text in known.numbers for spelling in _of_number(text)), "ID")
    entries |= dict.fromkeys((spelling for text in known.phones for spelling in _of_phone(text)), "PHONE")
    entries |= dict.fromkeys(names - short, "NAME")
    words = {one: tag for one, tag in entries.items() if tag in {"NAME", "PLACE"} and one.isalpha()}
    return Lexicon(
        entries=entries,
        beginnings=frozenset(one[:end] for one in (*entries, *short) for end in range(1, len(one))),
        short=frozenset(one for one in short if len(one) > 1),
        initials=frozenset(one for person in known.persons for one in _initials(person)),
        scanned={scanned(one): tag for one, tag in words.items() if len(one) >= SCANNED_LETTERS},
        fronts=_grouped(words, slice(2)),
        backs=_grouped(words, slice(-2, None)),
        letters=frozenset(one[0] for one in names),
        unspaced=tuple(part for person in known.persons for part in _unspaced(person)),
    )


def _grouped(words: dict[str, str], part: slice) -> dict[str, tuple[tuple[str, str], ...]]:
    found: dict[str, list[tuple[str, str]]] = {}
    for word, tag in words.items():
        if len(word) >= FUZZY_LETTERS:
            found.setdefault(word[part], []).append((word, tag))
    return {end: tuple(many) for end, many in found.items()}


def _of_person(person: Person) -> Iterator[str]:
    parts = [unicodedata.normalize("NFC", part).lower() for part in (*person.family, *person.given)]
    for words in map(_words, {*parts, *(part.translate(_SPELLED_OUT) for part in parts)}):
        for spelled in words:
            if spelled not in _PARTICLES and len(spelled) > 1:
                yield from _variants(spelled)
        yield from _variants("".join(words))
    families = ["".join(_words(part)) for part in person.family]
    givens = ["".join(_words(part)) for part in person.given]
    for family in families:
        for given in givens:
            yield from (family + given, given + family)
            if len(family) > _SHORT:  # As in the names of accounts.
                yield from (given[:1] + family, family + given[:1])


def _variants(word: str) -> Iterator[str]:
    if len(word) < 2:
        return
    yield word
    if len(word) > _SHORT:
        yield f"{word}s"
        for two in ("ae", "oe", "ue"):
            if two in word:
                yield word.replace(two, two[0])


def _initials(person: Person) -> Iterator[str]:
    families = [words[0][0] for words in map(_words, person.family) if words]
    givens = [word[0] for part in person.given for word in _words(part)]
    all_given = "".join(givens)
    for family in families or [""]:
        for chosen in {all_given, all_given[:1], all_given[:2]}:
            for one in (chosen + family, family + chosen):
                if len(one) > 1:
                    yield one


def _of_number(text: str) -> Iterator[str]:
    whole = "".join(_words(text))
    digits = "".join(sign for sign in whole if sign.isdigit())
    if not digits:
        if len(whole) >= FUZZY_LETTERS:
            yield whole
        return
    least = _LEAST_NUMBER if whole == digits else _LEAST_MIXED
    for one in {whole, whole.lstrip("0")}:
        if len(one) >= least:
            yield one
    for one in {digits, digits.lstrip("0")}:
        if len(one) >= _LEAST_NUMBER and len(digits) * 2 > len(whole):
            yield one


def _of_phone(text: str) -> Iterator[str]:
    digits = "".join(sign for sign in folded(text) if sign.isdigit())
    for one in {digits, digits.lstrip("0"), digits[-10:], digits[-9:], digits[-7:] if len(digits) >= 10 else digits}:
        if len(one) >= _LEAST_NUMBER:
            yield one


def _of_email(text: str) -> Iterator[str]:
    yield "".join(_words(text))
    local = "".join(_words(text.partition("@")[0]))
    if "@" in text and len(local) >= FUZZY_LETTERS:
        yield local


def _of_street(text: str) -> Iterator[str]:
    words = _words(text)
    for spelled in _street_spellings(words):
        whole = "".join(spelled)
        if len(whole) >= _LEAST_NUMBER:
            yield whole
        named = [word for word in spelled if not word.isdigit()]
        if len(named) > 1 and len("".join(named)) >= FUZZY_LETTERS:
            yield "".join(named)
        for left, right in pairwise(spelled):
            if left.isdigit() and right.isalpha() and len(right) >= _LEAST_PLACE:
                yield left + right


def _street_spellings(words: list[str]) -> Iterator[list[str]]:
    yield words
    swaps = {one: other for pair in _STREET_TYPES for one, other in permutations(pair)}
    if any(word in swaps for word in words):
        yield [swaps.get(word, word) for word in words]


def _of_place(text: str) -> Iterator[str]:
    whole = "".join(_words(text))
    if any(sign.isdigit() for sign in whole):
        yield from _of_number(text)
        if whole.isdigit() and len(whole) == 9:  # ZIP+4
            yield whole[:5]
    elif len(whole) >= _LEAST_PLACE:
        yield whole
        yield from _variants(whole)


def _of_date(day: date) -> Iterator[str]:
    years = (f"{day.year:04}", f"{day.year % 100:02}")
    months, days = {str(day.month), f"{day.month:02}"}, {str(day.day), f"{day.day:02}"}
    for year in years:
        for month in months:
            for number in days:
                for whole in (year + month + number, number + month + year, month + number + year):
                    if len(whole) >= 6:
                        yield whole


def _unspaced(person: Person) -> Iterator[str]:
    for part in (*person.family, *person.given):
        if part and all("\u2e80" <= sign <= "\u9fff" or "\uac00" <= sign <= "\ud7af" for sign in part):
            yield part


def _words(text: str) -> list[str]:
    plain = unicodedata.normalize("NFC", text)
    return [folded(word) for word in _found(plain)]


def _found(text: str) -> Iterable[str]:
    return (found[0] for found in WORD.finditer(text))


@lru_cache(maxsize=1024)
def _folded(word: str) -> str:
    plain = unicodedata.normalize("NFKD", word.casefold().translate(_LETTERS))
    signs = (str(unicodedata.decimal(sign, sign)) for sign in plain if not unicodedata.combining(sign))
    return "".join(signs)
