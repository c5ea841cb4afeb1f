"""Whom a PID segment is about, when they were born, of which sex, and whether they have died.

PID-3 repeats: identifiers of several kinds from several authorities. One of them is the patient's here: of the declared
type (MR, the medical record number) where one is, else one without a type. If that leaves several, or none, the segment
is refused: a guess could make one person of two.

The same number of two authorities is two people's. So the mapping names the authority whose numbers count (others'
are refused), or ``*``: then each patient is named ``AUTHORITY|NUMBER``. Where it names none, the first authority
that comes is taken, and a second one is refused.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Literal

from wardround.errors import CodecError
from wardround.harmonization.times import Moment
from wardround.sources import hl7_time
from wardround.sources.hl7_message import NULL, unescape

__all__ = ["EVERY", "Choice", "Facts", "Identified", "Identifiers", "facts"]

EVERY: Final = "*"
"""The authority's name in a mapping that takes all of them."""

_LONGEST: Final = 200
_NONE: Final = "no identifier of the declared type and authority"
_SEVERAL: Final = "several identifiers of the declared type and authority"
_SECOND: Final = "identifier of a second authority"
_UNREADABLE: Final = "identifier that cannot be read"
_SEXES: Final = {
    "F": "female",
    "M": "male",
    "A": "other",
    "C": "other",
    "O": "other",
    "X": "other",
    "N": "unknown",
    "U": "unknown",
}
"""Table 0001."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """Which identifier is the patient's: its field, its type code (table 0203; "": any), its assigning authority."""

    field: Literal["PID-2", "PID-3", "PID-18"] = "PID-3"
    kind: str = "MR"
    authority: str = ""


@dataclass(frozen=True, slots=True, repr=False)
class Identified:
    """A patient's identifier, or the reason why there is none."""

    patient: str = ""
    refused: str = ""


@dataclass(frozen=True, slots=True, repr=False)
class _One:
    number: str
    kind: str
    namespace: str
    universal: str

    def is_of(self, authority: str) -> bool:
        return authority in {self.namespace, self.universal}


class Identifiers:
    """Chooses among the identifiers of fields; it remembers the first authority that came."""

    def __init__(self, choice: Choice) -> None:
        self._choice = choice
        self._first: _One | None = None
        self._known: dict[str, Identified] = {}

    def find(self, field: str) -> Identified:
        """The patient of a field as it is written, with the standard's delimiters."""
        known = self._known.get(field)
        if known is None:
            if len(self._known) >= 100_000:
                self._known.clear()
            known = self._known[field] = self._find(field)
        return known

    def _find(self, field: str) -> Identified:
        try:
            stated = [_one(repetition) for repetition in field.split("~")]
        except CodecError:
            return Identified(refused=_UNREADABLE)
        choice = self._choice
        found = [one for one in stated if 0 < len(one.number) <= _LONGEST and one.number != NULL]
        if choice.authority not in {"", EVERY}:
            found = [one for one in found if one.is_of(choice.authority)]
        if choice.kind:
            found = [one for one in found if one.kind == choice.kind] or [one for one in found if not one.kind]
        if not found:
            return Identified(refused=_NONE)
        if len({(one.number, one.namespace, one.universal) for one in found}) > 1:
            return Identified(refused=_SEVERAL)
        return self._named(found[0])

    def _named(self, one: _One) -> Identified:
        if self._choice.authority == EVERY:
            return Identified(f"{one.namespace or one.universal}|{one.number}")
        if not self._choice.authority and (one.namespace or one.universal):
            first = self._first = self._first or one
            same = (one.namespace and one.namespace == first.namespace) or (
                one.universal and one.universal == first.universal
            )
            if not same:
                return Identified(refused=_SECOND)
        return Identified(one.number)


@dataclass(frozen=True, slots=True, repr=False)
class Facts:
    """What a PID says of the patient; None is what it does not say.

    Attributes:
        birth: The date of birth.
        sex: "male", "female", "other" or "unknown".
        death: When the patient died, as it is written.
        deleted: What the sender takes back: "birth-date", "sex", or, of a patient who lives, "death".
        remarks: What was not understood.
    """

    birth: Moment | None = None
    sex: str | None = None
    death: str = ""
    deleted: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()


@lru_cache(maxsize=65_536)
def facts(birth: str, sex: str, death: str, flag: str) -> Facts:
    """What PID-7, 8, 29 and 30 say, as they are written, with the standard's delimiters."""
    remarks, deleted = [], []
    born = hl7_time.day(birth) if birth not in {"", NULL} else None
    if isinstance(born, str):
        remarks.append("date of birth that is none")
    code = sex.partition("^")[0].strip().upper()
    if code not in {"", NULL, *_SEXES}:
        remarks.append("unknown code for the sex")
    is_dead = flag.partition("^")[0].strip().upper()
    lives = is_dead in {"N", "NO", NULL} or death == NULL
    if lives and death not in {"", NULL}:
        remarks.append("time of death of a patient who is said to live")
    if not death and is_dead in {"Y", "YES"}:
        remarks.append("death without its time")
    deleted += ["birth-date"] * (birth == NULL) + ["sex"] * (code == NULL) + ["death"] * lives
    return Facts(
        birth=None if isinstance(born, str) else born,
        sex=_SEXES.get(code),
        death="" if lives else death,
        deleted=tuple(deleted),
        remarks=tuple(remarks),
    )


def _one(repetition: str) -> _One:
    parts = repetition.split("^")
    number = unescape(parts[0]).strip()
    authority = [unescape(part).strip() for part in (parts[3] if len(parts) > 3 else "").split("&")]
    kind = unescape(parts[4]).strip() if len(parts) > 4 else ""
    return _One(number, kind, authority[0], authority[1] if len(authority) > 1 else "")
