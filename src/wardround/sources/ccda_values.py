"""HL7 version 3 data types as C-CDA uses them: codes, quantities, intervals, times.

=========== ==========================================================================
CD CE CV CO ``system|code``, its translations as further codings of the same concept
PQ          number and unit; a unit left out stays unknown
IVL_PQ      one bound: number with comparator; two bounds: refused, it is no number
INT REAL    number
ST ED       short text
BL          "true" or "false"
TS IVL_TS   an instant: the value, else the low bound, else the centre
=========== ==========================================================================

Reference: HL7 CDA R2 and C-CDA R2.1 (HL7_Implementation Guide for CDA Release 2: Consolidated CDA Templates).
"""

import math
import re
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from wardround.harmonization import times
from wardround.harmonization.events import SYSTEMS, Precision
from wardround.harmonization.times import Moment
from wardround.sources.ccda_xml import Node

__all__ = ["Value", "codings", "instant", "stamp", "value"]

LONGEST_TEXT: Final = 200
_OIDS: Final = {
    "2.16.840.1.113883.12.292": "cvx",
    "2.16.840.1.113883.6.12": "cpt",
    "2.16.840.1.113883.6.69": "ndc",
}
_NUMBER: Final = re.compile(r"[+-]?\d{1,30}(\.\d{1,30})?([eE][+-]?\d{1,3})?")
_TIME: Final = re.compile(
    r"(\d{4})(?:(\d\d)(?:(\d\d)(?:(\d\d)(?:(\d\d)(?:(\d\d)(?:\.(\d{1,9}))?)?)?)?)?)?(Z|[+-]\d{4})?"
)
_CODED: Final = {"CD", "CE", "CV", "CO"}


@dataclass(frozen=True, slots=True)
class Value:
    """An observation's value, as EVENT has it."""

    number: float | None = None
    comparator: str | None = None
    text: str | None = None
    unit: str | None = None


def codings(node: Node | None) -> list[tuple[str, str]]:
    """Every coding of a concept, its own first, as (system, code); empty where none is known."""
    if node is None:
        return []
    found: dict[tuple[str, str], None] = {}
    for one in (node, *node.all("translation")):
        code, root = one.get("code"), one.get("codeSystem")
        if code and root and not one.is_null and max(len(code), len(root)) <= LONGEST_TEXT:
            uri = f"urn:oid:{root}"
            found[_OIDS.get(root) or SYSTEMS.get(uri, uri), code] = None
    return list(found)


def value(node: Node) -> Value | str:
    """What an observation's value says; a reason where it cannot be used."""
    if node.is_null and not node.all("translation"):
        return "value is null"
    kind = node.get("xsi:type").rpartition(":")[2]
    if kind == "PQ":
        number = _number(node.get("value"))
        return "value unparseable" if number is None else Value(number, unit=node.get("unit") or None)
    if kind == "IVL_PQ":
        return _bound(node)
    if kind in {"INT", "REAL"}:
        number = _number(node.get("value"))
        return "value unparseable" if number is None else Value(number)
    if kind in _CODED:
        coded = codings(node)
        return Value(text="|".join(coded[0])) if coded else "value without a code"
    if kind == "BL":
        return Value(text=node.get("value")) if node.get("value") in {"true", "false"} else "value unparseable"
    if kind in {"ST", "ED"}:
        short = 0 < len(node.text) <= LONGEST_TEXT
        return Value(text=node.text) if short else "value is no short text"
    return "value of another kind"


def stamp(node: Node | None) -> str:
    """The text of the instant that a TS or IVL_TS begins at; empty where it has none."""
    if node is None or node.is_null or node.get("xsi:type").rpartition(":")[2] in {"PIVL_TS", "EIVL_TS"}:
        return ""
    places = (node, node.first("low"), node.first("center"))
    return next((one.get("value") for one in places if one is not None and not one.is_null and one.get("value")), "")


def instant(text: str, zone: str | None) -> Moment | str:
    """The instant of HL7's ``YYYYMMDDHHMMSS.s+ZZZZ``, cut anywhere; a reason where it is refused."""
    found = _TIME.fullmatch(text)
    if found is None:
        return times.UNPARSEABLE
    year, month, day, hour, minute, second, fraction, offset = found.groups()
    try:
        naive = datetime(int(year), int(month or 1), int(day or 1), int(hour or 0), int(minute or 0))  # noqa: DTZ001, the offset follows
    except ValueError:
        return times.UNPARSEABLE
    if int(second or 0) > 60:
        return times.UNPARSEABLE
    micros = int(second or 0) * 1_000_000 + int((fraction or "").ljust(6, "0")[:6])
    stated = (month, day, hour, second, fraction)
    places = (Precision.MONTH, Precision.DAY, Precision.MINUTE, Precision.SECOND, Precision.EXACT)
    known = [place for part, place in zip(stated, places, strict=True) if part]
    return times.placed(naive, micros, known[-1] if known else Precision.YEAR, offset, zone)


def _bound(node: Node) -> Value | str:
    low, high = node.first("low"), node.first("high")
    bounds = [(one, sign) for one, sign in ((low, ">"), (high, "<")) if one is not None and one.get("value")]
    if len(bounds) != 1:
        return "value is a range"
    ((one, sign),) = bounds
    number = _number(one.get("value"))
    if number is None:
        return "value unparseable"
    comparator = sign if one.get("inclusive") == "false" else f"{sign}="
    return Value(number, comparator, unit=one.get("unit") or None)


def _number(text: str) -> float | None:
    found = float(text) if _NUMBER.fullmatch(text) else math.nan
    return found if math.isfinite(found) else None
