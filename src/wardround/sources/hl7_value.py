"""What an OBX says was observed: OBX-5 in the type that OBX-2 declares.

======================= ========================================================================================
NM, SI, IS as number    a number; ``<5`` is a bound although NM knows none, and is remarked
SN                      ``<^5`` a bound; ``^1^:^128`` a ratio, ``^5^-^10`` a range, ``^2^+``: texts as they read
ST, TX, FT              a number where the text is nothing else, "5.2" or "<5"; a short text; a long one is left out
CE, CWE, CNE, CF        ``system|code``, that of a standard system first; the text where there is no code
DT, TM, DTM, TS         the date or time as ISO 8601 writes it
all others              refused by the type's name
======================= ========================================================================================

Several values in one OBX are refused: which of them is the value is not said. A decimal comma is refused as a number,
since it may separate thousands. A number has to be finite.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from wardround.errors import CodecError
from wardround.sources import hl7_time
from wardround.sources.hl7_coding import CODE_LENGTH, Coding, coded
from wardround.sources.hl7_message import NULL, unescape

__all__ = ["EMPTY", "Value", "read"]

EMPTY: Final = "result without a value"

_NUMBER: Final = re.compile(r"[+-]?(?:\d{1,40}(?:\.\d{0,40})?|\.\d{1,40})(?:[eE][+-]?\d{1,3})?", re.ASCII)
_BOUNDED: Final = re.compile(r"(<=|>=|=<|=>|<|>|≤|≥)?\s*(\S+)")
_SIGNS: Final = {"<": "<", "<=": "<=", "=<": "<=", "≤": "<=", ">": ">", ">=": ">=", "=>": ">=", "≥": ">="}
_OTHER_TYPES: Final = re.compile(
    "AD|C[DKNPQX]|DLN|DR|ED|EI|ERL|FC|HD|ID|IN|JCC|MA|MO|NA|OG|PN|PPN|PT|RP|TN|VH|VID|XAD|XCN|XON|XPN|XTN"
)
_SEVERAL: Final = "several values in one result"
_BAD_NUMBER: Final = "value that is not the number it is declared to be"
_BAD_TIME: Final = "value that is not the time it is declared to be"
_BAD_TEXT: Final = "value with an escape that cannot be read"
_BAD_STRUCTURE: Final = "structured number that cannot be read"
_BOUND: Final = "bound in a field for numbers"
_LONG: Final = "long text left out"


@dataclass(frozen=True, slots=True, repr=False)
class Value:
    """A value; `refused` says why it is none, `remark` what is to be said of it."""

    number: float | None = None
    comparator: str | None = None
    value: str | None = None
    refused: str = ""
    remark: str = ""


def read(kind: str, text: str, local: str, systems: Mapping[str, str]) -> Value:
    """The value of OBX-5 as it is written, with the standard's delimiters.

    Args:
        kind: OBX-2.
        text: OBX-5.
        local: See `wardround.sources.hl7_coding.coded`.
        systems: The same.
    """
    if not text.strip() or text == NULL:
        return Value(refused=EMPTY)
    try:
        match kind:
            case "NM" | "SI":
                return _number(text)
            case "SN":
                return _structured(text)
            case "ST" | "TX" | "FT" | "IS" | "GTS":
                return _text(text)
            case "CE" | "CWE" | "CNE" | "CF":
                return _code(text, local, systems)
            case "DT" | "TM" | "DTM" | "TS":
                return _time(kind, text)
            case _:
                # OBX-2 may hold anything: only a type's name is told.
                known = _OTHER_TYPES.fullmatch(kind)
                return Value(refused=f"value of the type {kind}" if known else "value of no known type")
    except CodecError:
        return Value(refused=_BAD_TEXT)


def _number(text: str) -> Value:
    if "~" in text:
        return Value(refused=_SEVERAL)
    number, comparator = _bounded(text.strip())
    if number is None:
        return Value(refused=_BAD_NUMBER)
    return Value(number, comparator, remark=_BOUND if comparator else "")


def _bounded(text: str) -> tuple[float | None, str | None]:
    found = _BOUNDED.fullmatch(text)
    if found is None or not _NUMBER.fullmatch(found[2]):
        return None, None
    number = float(found[2])
    return (number, _SIGNS.get(found[1] or "")) if math.isfinite(number) else (None, None)


def _structured(text: str) -> Value:
    if "~" in text:
        return Value(refused=_SEVERAL)
    sign, first, separator, second, *more = [unescape(part).strip() for part in text.split("^")] + [""] * 4
    numbers = [_NUMBER.fullmatch(part) is not None for part in (first, second)]
    if any(more) or not numbers[0] or (second and not (numbers[1] and separator)) or sign not in {"", "=", *_SIGNS}:
        return Value(refused=_BAD_STRUCTURE)
    if separator or second:
        if separator not in {"-", "+", "/", ".", ":"} or (not second and separator != "+"):
            return Value(refused=_BAD_STRUCTURE)
        return Value(value=f"{'' if sign == '=' else sign}{first}{separator}{second}")
    number, _ = _bounded(first)
    return Value(refused=_BAD_STRUCTURE) if number is None else Value(number, _SIGNS.get(sign))


def _text(text: str) -> Value:
    if "~" in text:
        return Value(remark=_LONG)
    meant = unescape(text).strip()
    number, comparator = _bounded(meant)
    if number is not None:
        return Value(number, comparator)
    return Value(value=meant) if 0 < len(meant) <= CODE_LENGTH else Value(remark=_LONG)


def _code(text: str, local: str, systems: Mapping[str, str]) -> Value:
    if "~" in text:
        return Value(refused=_SEVERAL)
    found = coded(text, local, systems)
    codings = [one for one in (found.primary, found.alternate) if one is not None]
    if codings:
        chosen = min(codings, key=_is_local)
        return Value(value=f"{chosen.system}|{chosen.code}")
    if not found.text:
        return Value(refused=EMPTY)
    return Value(value=found.text) if len(found.text) <= CODE_LENGTH else Value(remark=_LONG)


def _is_local(coding: Coding) -> bool:
    return coding.system.startswith("local:")


def _time(kind: str, text: str) -> Value:
    if "~" in text:
        return Value(refused=_SEVERAL)
    written = hl7_time.iso(kind, text)
    return Value(refused=_BAD_TIME) if written is None else Value(value=written)
