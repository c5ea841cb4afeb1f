"""The number that follows a label in a clinical text, with its unit: "LVEF: 45 %", "ejection fraction is <40%".

Between label and number only white space, a colon or the like, a few words ("is", "approximately") and one short
parenthesis may stand. After the number its unit must follow in one of the rule's spellings. Refused, each by name:

- another unit or none, unless the rule says that its unit may be left out
- a range ("40-45 %"), unless the rule asks for its middle
- a sign, unless the rule allows one, and what may be a date, a ratio or a number with a decimal comma
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

__all__ = ["Reading", "read"]

_WINDOW: Final = 96
_LEADING: Final = re.compile(
    r"(?:[\s:=~≈]|-(?=\s)|(?:is|was|of|at(?!\s+(?:least|most)\b)|estimated|approximately|approx\.?|about|around|measured|calculated|value|today"
    r"|currently|now|by|as|equals)(?![\w-])|\([^()\d]{0,30}\)){0,24}+",
    re.IGNORECASE,
)
_BOUNDS: Final = (
    (re.compile(r"(?:<=|≤|=<|at most|up to|no more than|not more than)\s*", re.IGNORECASE), "<="),
    (re.compile(r"(?:>=|≥|=>|at least|no less than|not less than)\s*", re.IGNORECASE), ">="),
    (re.compile(r"(?:<|less than|lower than|under|below)\s*", re.IGNORECASE), "<"),
    (re.compile(r"(?:>|more than|greater than|higher than|over|above)\s*", re.IGNORECASE), ">"),
)
_NUMBER: Final = re.compile(r"[-−+]?\d{1,9}+(?:\.\d{1,9}+)?")
_WRITTEN_OTHERWISE: Final = re.compile(r"\s?[/:]\s?\d|[.,]\d|'\d|\s\d")
_DASH: Final = re.compile(r"\s*(?:[-–—−]|to\b)\s*(?=\d)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Reading:
    """A number with its comparator, or the name of the reason for which there is none."""

    number: float = math.nan
    comparator: str | None = None
    refused: str = ""


def read(
    text: str, start: int, end: int, spellings: Sequence[str], *, unit_assumed: bool, middle: bool, signed: bool
) -> Reading | None:
    """What stands after a label that ends at `start`, up to `end`; None where no number follows.

    Args:
        text: The whole text.
        start: Where the label ends.
        end: Where its sentence ends.
        spellings: How the unit may be spelled; compared without case.
        unit_assumed: Whether a number without any unit is in this unit.
        middle: Whether a range stands for its middle.
        signed: Whether the number may have a sign.
    """
    window = text[start : min(end, start + _WINDOW)]
    at = _LEADING.match(window).end()  # type: ignore[union-attr]  # matches nothing at least
    comparator, at = _comparator(window, at)
    found = _NUMBER.match(window, at)
    if found is None:
        return None
    if not signed and not found.group()[0].isdigit():
        return Reading(refused="number with a sign")
    number, at = float(found.group().replace("−", "-")), found.end()
    if _WRITTEN_OTHERWISE.match(window, at):
        return Reading(refused="number in another notation")
    stated, after = _unit(window, at, spellings)
    dash = _DASH.match(window, after)
    if dash is not None:
        return _range(
            window, dash.end(), number, spellings, unit_assumed=unit_assumed, middle=middle and not comparator
        )
    if not stated and not (unit_assumed and _bare(window, at)):
        return Reading(refused="number without a unit of the rule")
    return Reading(number, comparator)


def _range(window: str, at: int, low: float, spellings: Sequence[str], *, unit_assumed: bool, middle: bool) -> Reading:
    found = _NUMBER.match(window, at)
    if not middle or found is None or _WRITTEN_OTHERWISE.match(window, found.end()):
        return Reading(refused="range of numbers")
    stated, _ = _unit(window, found.end(), spellings)
    high = float(found.group())
    if high < low or not (stated or (unit_assumed and _bare(window, found.end()))):
        return Reading(refused="range of numbers")
    return Reading((low + high) / 2)


def _comparator(window: str, at: int) -> tuple[str | None, int]:
    for form, sign in _BOUNDS:
        found = form.match(window, at)
        if found is not None:
            return sign, found.end()
    return None, at


def _unit(window: str, at: int, spellings: Sequence[str]) -> tuple[bool, int]:
    begin = at + len(window[at:]) - len(window[at:].lstrip(" \t\n"))
    rest = window[begin:].casefold()
    for spelling in sorted(spellings, key=len, reverse=True):
        length = len(spelling)
        if spelling and rest.startswith(spelling.casefold()) and not re.match(r"[\w/*^²³]", rest[length : length + 1]):
            return True, begin + length
    return False, at


def _bare(window: str, at: int) -> bool:
    # Without a unit means that the sentence ends, or a sign of punctuation or a parenthesis follows.
    return re.match(r"\s*(?:$|[.,;()\n])", window[at:]) is not None
