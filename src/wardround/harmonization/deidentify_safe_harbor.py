"""The Safe Harbor checklist: for records that leave a site, what there is of each of the eighteen identifiers, and why.

Each field that leaves is declared as what it is, and its values are then looked at: a declaration proves nothing. A
field that cannot be shown to be harmless is a finding; free text always is one. The evidence is counts and bounds,
never a value.

References:
    45 CFR 164.514(b)(2)(i). HHS Office for Civil Rights, Guidance on de-identification, section 3.1: the ZIP prefixes
    with 20,000 people or fewer by the census of 2000; those of the census of 2010 are added here.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import pyarrow as pa
import pyarrow.compute as pc

from wardround.harmonization import deidentify_rules
from wardround.harmonization.deidentify_dates import OLDEST

__all__ = ["IDENTIFIERS", "SMALL_ZIP3", "Evidence", "Field", "safe_harbor", "zip3"]

_SMALL: Final = "036 059 063 102 203 556 692 790 821 823 830 831 878 879 884 890 893 202 204 205 369 753 772"
SMALL_ZIP3: Final = frozenset(_SMALL.split())
"""Prefixes of postal codes under which 20,000 people or fewer live."""

IDENTIFIERS: Final[Mapping[str, str]] = {
    "A": "names",
    "B": "places smaller than a state",
    "C": "dates but for the year, and ages above 89",
    "D": "telephone numbers",
    "E": "fax numbers",
    "F": "electronic mail addresses",
    "G": "social security numbers",
    "H": "medical record numbers",
    "I": "health plan numbers",
    "J": "account numbers",
    "K": "certificate and licence numbers",
    "L": "vehicle identifiers",
    "M": "device identifiers",
    "N": "web addresses",
    "O": "internet protocol addresses",
    "P": "biometric identifiers",
    "Q": "photographs of the full face",
    "R": "any other unique number, characteristic or code",
}
"""The eighteen of the rule, by its letters."""

_BY_TAG: Final[Mapping[str, str]] = {
    "NAME": "A",
    "ADDRESS": "B",
    "PLACE": "B",
    "HOSPITAL": "B",
    "DATE": "C",
    "AGE": "C",
    "PHONE": "DE",
    "EMAIL": "F",
    "ID": "GHIJKLMR",
    "URL": "N",
    "IP": "O",
}
_LONG_NUMBER: Final = 999_999
_MANY: Final = 0.9
_ZIP: Final = r"^\s*(\d{3})(?:\d{2}(?:-?\d{4})?)?\s*$"
_Found = Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Field:
    """A field of records that leave.

    Attributes:
        name: Of the field.
        kind: ``number`` a measurement; ``age`` in years, 90 for all above; ``year`` of an event; ``days`` relative to
            an index; ``zip3``; ``category`` one of `allowed`; ``code`` drawn at random for the record; ``text``.
        values: Its cells.
        allowed: The categories that the study's contract lists.
    """

    name: str
    kind: Literal["number", "age", "year", "days", "zip3", "category", "code", "text"]
    values: pa.Array
    allowed: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Evidence:
    """What there is of one of the eighteen identifiers: `holds` in which fields, and the `basis` field by field."""

    letter: str
    identifier: str
    holds: tuple[str, ...]
    basis: tuple[str, ...]

    @property
    def clear(self) -> bool:
        """Whether no field holds it."""
        return not self.holds


def zip3(codes: pa.Array) -> pa.Array:
    """Postal codes as three digits, ``000`` where few people live there; null where it is no such code."""
    found = pc.extract_regex(codes, _ZIP.replace("(", "(?P<prefix>", 1))
    prefixes = pc.struct_field(found, "prefix")
    return pc.if_else(pc.is_in(prefixes, pa.array(sorted(SMALL_ZIP3))), "000", prefixes)


def safe_harbor(fields: Sequence[Field]) -> tuple[Evidence, ...]:
    """The checklist for records of these fields, one line for each identifier; all clear is Safe Harbor's condition.

    Raises:
        ValueError: Two fields have one name.
    """
    if len({field.name for field in fields}) != len(fields):
        raise ValueError("two fields have one name")
    findings = {field.name: _CHECKS[field.kind](field) for field in fields}
    return tuple(_line(letter, findings) for letter in IDENTIFIERS)


def _line(letter: str, findings: Mapping[str, _Found]) -> Evidence:
    held = {name: found[letter] for name, found in findings.items() if letter in found}
    basis = [f"{name}: {why}" for name, why in held.items()]
    basis += [f"{name}: {found['']}" for name, found in findings.items() if name not in held and "" in found]
    return Evidence(letter, IDENTIFIERS[letter], tuple(held), tuple(basis))


def _number(field: Field) -> _Found:
    values = field.values.cast(pa.float64()).drop_null()
    whole = values.filter(pc.equal(values, pc.floor(values)))
    long = whole.filter(pc.greater(pc.abs(whole), _LONG_NUMBER))
    if len(long) and len(pc.unique(long)) > _MANY * len(values):
        return {"R": f"{len(long)} of {len(values)} values are long whole numbers, nearly all different"}
    return {"": f"{len(values)} numbers, {len(long)} of them long whole ones"}


def _age(field: Field) -> _Found:
    above = _count(pc.greater(field.values, OLDEST))
    if above:
        return {"C": f"{above} ages above {OLDEST}, which stands for all from there on"}
    return {"": f"ages up to {OLDEST}"}


def _year(field: Field) -> _Found:
    wrong = _count(pc.or_(pc.less(field.values, 1900), pc.greater(field.values, 2200)))
    return {"C": f"{wrong} values are no years"} if wrong else {"": "years alone, of events that are no births"}


def _days(field: Field) -> _Found:
    # More days than a long life from an index are a date counted from some epoch, or none.
    wrong = _count(pc.greater(pc.abs(field.values), 45_000))
    return (
        {"C": f"{wrong} values are no differences in days"} if wrong else {"": "whole days from the record's own index"}
    )


def _zip3(field: Field) -> _Found:
    told = field.values.drop_null()
    wrong = len(told) - _count(pc.match_substring_regex(told, r"^\d{3}$"))
    small = _count(pc.is_in(told, pa.array(sorted(SMALL_ZIP3))))
    if wrong or small:
        return {"B": f"{wrong} values are more than three digits, {small} of places with 20,000 people or fewer"}
    return {"": "three digits, 000 for places with 20,000 people or fewer"}


def _category(field: Field) -> _Found:
    told = field.values.drop_null().cast(pa.string())
    other = len(told) - _count(pc.is_in(told, pa.array(field.allowed, pa.string())))
    found = _scanned(list(field.allowed))
    if other:
        found["R"] = f"{other} values are not among the {len(field.allowed)} of the contract"
    return found or {"": f"only the {len(field.allowed)} categories of the contract"}


def _code(field: Field) -> _Found:
    told = field.values.drop_null().cast(pa.string())
    # 164.514(c): a code must not be derived from the person's identifiers; a keyed hash of a record number is.
    return {"R": f"{len(told)} codes: permitted where they were drawn at random, which values cannot show"}


def _text(field: Field) -> _Found:
    told = field.values.drop_null().cast(pa.string())
    found = _scanned(pc.unique(told).to_pylist())
    return {
        "A": "free text cannot be shown to hold no name",
        "B": "nor a place",
        "R": "nor another identifier",
        **found,
    }


def _scanned(texts: list[str]) -> dict[str, str]:
    tags = Counter(tag for text in texts for _, _, tag in deidentify_rules.spans(text))
    found: dict[str, str] = {}
    for tag, count in sorted(tags.items()):
        for letter in _BY_TAG[tag]:
            found[letter] = f"{count} values look like {tag.lower()}"
    return found


def _count(truths: pa.BooleanArray) -> int:
    return int(pc.sum(truths).as_py() or 0)


_CHECKS: Final[Mapping[str, Callable[[Field], _Found]]] = {
    "number": _number,
    "age": _age,
    "year": _year,
    "days": _days,
    "zip3": _zip3,
    "category": _category,
    "code": _code,
    "text": _text,
}
