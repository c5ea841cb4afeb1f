"""Words of a clinical text and the phrases in it: the longest phrase at each place, in one pass.

A word may hold hyphens and apostrophes ("non-smoker" does not contain "smoker"). Words are compared without case and in
Unicode's compatibility form, so that the ligatures of a PDF are letters.
"""

import re
import unicodedata
from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

__all__ = ["MOST_WORDS", "Found", "Phrases", "Word", "words"]

MOST_WORDS: Final = 12
"""The longest phrase, in words."""

_WORD: Final = re.compile(r"(?:[hrswc]/o|s/p|f/h)(?!\w)|\w+(?:[-'’]\w+)*|[$,:?☐☑☒□]|\[[ x]?\]", re.IGNORECASE)

Label = TypeVar("Label", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Word:
    """A word, a mark of punctuation that matters or a box to tick, and where it stands."""

    text: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Found(Generic[Label]):
    """A phrase from word `first` up to, not including, word `after`, and everything that it stands for."""

    labels: tuple[Label, ...]
    first: int
    after: int


def words(text: str, start: int, end: int) -> list[Word]:
    """The words of ``text[start:end]``."""
    return [Word(_same(one.group()), one.start(), one.end()) for one in _WORD.finditer(text, start, end)]


class Phrases(Generic[Label]):
    """Phrases, each with labels, as a tree of words."""

    def __init__(self, phrases: Iterable[tuple[str, Label]]) -> None:
        """Take in phrases with their labels.

        Raises:
            ValueError: A phrase has no word, or more than `MOST_WORDS`.
        """
        self._next: list[dict[str, int]] = [{}]
        self._labels: list[tuple[Label, ...]] = [()]
        for phrase, label in phrases:
            texts = [word.text for word in words(phrase, 0, len(phrase))]
            if not 0 < len(texts) <= MOST_WORDS:
                raise ValueError(f"a phrase has 1 to {MOST_WORDS} words, this one has {len(texts)}")
            self._take(texts, label)

    def find(self, among: list[Word], taken: list[bool] | None = None) -> list[Found[Label]]:
        """The phrases from left to right, the longest at each place; none overlaps another or `taken` words."""
        found: list[Found[Label]] = []
        at = 0
        while at < len(among):
            longest = self._longest(among, at, taken)
            if longest is None:
                at += 1
                continue
            found.append(longest)
            at = longest.after
        return found

    def _longest(self, among: list[Word], at: int, taken: list[bool] | None) -> Found[Label] | None:
        best: Found[Label] | None = None
        node = 0
        for place in range(at, min(len(among), at + MOST_WORDS)):
            following = None if taken is not None and taken[place] else self._next[node].get(among[place].text)
            if following is None:
                break
            node = following
            if self._labels[node]:
                best = Found(self._labels[node], at, place + 1)
        return best

    def _take(self, texts: list[str], label: Label) -> None:
        node = 0
        for text in texts:
            if text not in self._next[node]:
                self._next[node][text] = len(self._next)
                self._next.append({})
                self._labels.append(())
            node = self._next[node][text]
        if label not in self._labels[node]:
            self._labels[node] = (*self._labels[node], label)


def _same(text: str) -> str:
    return unicodedata.normalize("NFKC", text).casefold().replace("’", "'")
