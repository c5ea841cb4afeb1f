r"""HL7 version 2 messages: their segments, fields, repetitions, components and subcomponents, and back.

    MSH|^~\&|LAB|…                      the delimiters are whatever the first segment says they are
    OBX|1|NM|2951-2^Sodium^LN||140|mmol/L|…|F

A message is kept as text in which segments end with a carriage return; parts are split when they are asked for, and
unescaped only where they hold the escape character. Numbers count from 1, as in the standard: `Segment.field(3)` of an
OBX is OBX-3, and of an MSH, MSH-3.

What `escape` made, `unescape` undoes, for any text. An escape that names nothing known
(``\Zxx\`` of one vendor, a path with backslashes) stays as it is written; layout (``\.br\``) becomes a line or a space.

References:
    HL7 Version 2.8.2, chapter 2: 2.5 message delimiters, 2.7 escape sequences, 2.14.9 MSH.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from wardround.errors import CodecError
from wardround.sources import hl7_charset
from wardround.sources.hl7_charset import Charset

__all__ = [
    "NULL",
    "STANDARD",
    "Delimiters",
    "Message",
    "Segment",
    "delimiters",
    "ended",
    "escape",
    "header",
    "parse",
    "unescape",
]

NULL: Final = '""'
"""A field of this value says: delete what you have; an empty one says nothing."""

_SEGMENTS: Final = 65_535
_SIGNS: Final = re.compile(r"[!-/:-@[-`{-~]+")
_NAME: Final = re.compile(r"[A-Z][A-Z0-9]{2}")
_SHIFT: Final = re.compile(r"[CM][0-9A-Fa-f]{4}(?:[0-9A-Fa-f]{2})?")
_BYTES: Final = re.compile(r"X(?:[0-9A-Fa-f]{2}){1,4096}")
_LAYOUT: Final = re.compile(r"\.(?:br|sp\d{0,4}|in[+-]?\d{1,4}|ti[+-]?\d{1,4}|sk\+?\d{1,4}|fi|nf|ce)")


_NAMED: Final = {
    "F": "field",
    "S": "component",
    "T": "subcomponent",
    "R": "repetition",
    "E": "escape",
    "P": "truncation",
}


@dataclass(frozen=True, slots=True)
class Delimiters:
    """The five characters by which a message is divided, and the one that marks what was cut (2.7 on)."""

    field: str = "|"
    component: str = "^"
    repetition: str = "~"
    escape: str = "\\"
    subcomponent: str = "&"
    truncation: str = "#"

    @property
    def encoding(self) -> str:
        """MSH-2, in the four characters that every version knows."""
        return self.component + self.repetition + self.escape + self.subcomponent


STANDARD: Final = Delimiters()
"""What nearly everybody uses."""


@dataclass(frozen=True, slots=True, repr=False)
class Segment:
    """A segment: its name and its fields as they are written."""

    name: str
    fields: Sequence[str]
    marks: Delimiters = STANDARD
    charset: Charset | None = None

    def field(self, number: int) -> str:
        """The whole field as it is written; empty where the segment ends before it."""
        return self.fields[number - 1] if number <= len(self.fields) else ""

    def repetitions(self, number: int) -> list[str]:
        """The field's repetitions as they are written; none where it is empty."""
        text = self.field(number)
        return text.split(self.marks.repetition) if text else []

    def component(self, number: int, component: int = 1, *, repetition: int = 1, subcomponent: int = 0) -> str:
        """A component, unescaped; or one of its subcomponents, where that is asked for."""
        repeated = self.field(number).split(self.marks.repetition)
        parts = repeated[repetition - 1].split(self.marks.component) if repetition <= len(repeated) else []
        text = parts[component - 1] if component <= len(parts) else ""
        if subcomponent:
            below = text.split(self.marks.subcomponent)
            text = below[subcomponent - 1] if subcomponent <= len(below) else ""
        return unescape(text, self.marks, self.charset)


@dataclass(frozen=True, slots=True, repr=False)
class Message:
    """A message; `segments` begins with its MSH."""

    segments: Sequence[Segment]
    marks: Delimiters = STANDARD
    charset: Charset = hl7_charset.ASCII

    @property
    def msh(self) -> Segment:
        """The header."""
        return self.segments[0]

    def named(self, name: str) -> list[Segment]:
        """All segments of that name, in order."""
        return [segment for segment in self.segments if segment.name == name]


def parse(data: bytes, *, charset: str = "auto", fallback: str = "ASCII") -> Message:
    """A message from its bytes.

    Args:
        data: One message; its segments end with a carriage return, or all with a line feed, or with both.
        charset: "auto" for the one that MSH-18 declares, or the name of the one that it is in whatever MSH-18 says.
        fallback: The character set where MSH-18 is empty.

    Raises:
        CodecError: It does not begin with a header, its character set is unknown or not kept to, or a segment has no
            name. No message quotes any of it.
    """
    text, marks, found = header(data, charset=charset, fallback=fallback)
    lines = [line for line in text.split("\r") if line]
    if len(lines) > _SEGMENTS:
        raise CodecError(f"the message has more than {_SEGMENTS} segments")
    return Message([_segment(line, marks, found) for line in lines], marks, found)


def header(data: bytes, *, charset: str = "auto", fallback: str = "ASCII") -> tuple[str, Delimiters, Charset]:
    """A message's text with carriage returns after its segments, its delimiters and its character set.

    Raises:
        CodecError: As for `parse`.
    """
    data = ended(data)
    first = data.partition(b"\r")[0]
    marks = delimiters(first.decode("latin-1"))
    declared = _declared(first, marks)
    found = hl7_charset.find(declared or fallback if charset == "auto" else charset)
    text = found.decode(data)
    if _declared(text.partition("\r")[0].encode(), marks) != declared:
        raise CodecError("the header reads differently before and after it is decoded")
    return text, marks, found


def canonical(data: bytes, *, charset: str = "auto", fallback: str = "ASCII") -> bytes:
    r"""The message in UTF-8, with the standard's delimiters, carriage returns, and ``\X..\`` of bytes of UTF-8.

    Raises:
        CodecError: As for `parse`.
    """
    data = ended(data)
    first = data.partition(b"\r")[0]
    if data.isascii() and first.startswith(b"MSH|^~\\&|") and b"\\X" not in data:
        stated = (first.split(b"|", 18)[17:18] or [b""])[0].decode()
        if hl7_charset.find(stated or fallback if charset == "auto" else charset).keeps_ascii:
            return data
    text, marks, found = header(data, charset=charset, fallback=fallback)
    rest = text[4:].partition(marks.field)[2]
    return f"MSH|{STANDARD.encoding}|{_units(marks).sub(lambda unit: _standard(unit, marks, found), rest)}".encode()


@lru_cache(maxsize=256)
def _units(marks: Delimiters) -> re.Pattern[str]:
    """Finds what has to change: known escapes as a whole, and each character that divides here or in the standard."""
    mark = re.escape(marks.escape)
    signs = re.escape("".join(sorted(set(_divided(marks) + _divided(STANDARD)))))
    return re.compile(f"{mark}([FSTREPHN]|{_LAYOUT.pattern}|{_BYTES.pattern}|{_SHIFT.pattern}){mark}|[{signs}]")


def _standard(unit: re.Match[str], marks: Delimiters, charset: Charset) -> str:
    sign, name = unit[0], unit[1]
    if name is None:
        # An escape character that opens nothing stands for itself, and so does the standard's where it divides nothing.
        place = _divided(marks).find(sign)
        lone = place < 0 or (sign == marks.escape and marks != STANDARD)
        return escape(sign) if lone else _divided(STANDARD)[place]
    if name in _NAMED:
        return escape(getattr(marks, _NAMED[name]))
    if _BYTES.fullmatch(name):
        name = f"X{charset.decode(bytes.fromhex(name[1:])).encode().hex().upper()}"
    return f"\\{name}\\"


def _divided(marks: Delimiters) -> str:
    return marks.field + marks.encoding


def ended(data: bytes) -> bytes:
    """The message with its segments ended by carriage returns alone."""
    data = data.removeprefix(b"\xef\xbb\xbf")
    if b"\n" not in data:
        return data
    data = data.replace(b"\r\n", b"\r")
    return data if b"\r" in data.rstrip(b"\r\n") else data.replace(b"\n", b"\r")


def delimiters(msh: str) -> Delimiters:
    """The delimiters that a header declares.

    Raises:
        CodecError: It is no header, or two of the delimiters are one character.
    """
    if not msh.startswith(("MSH", "FHS", "BHS")):
        raise CodecError("the message does not begin with a header segment (MSH)")
    found = _delimiters(msh[3:4] + msh[4:].partition(msh[3:4] or "|")[0])
    if found is None:
        raise CodecError("the header does not declare five different delimiters")
    return found


@lru_cache(maxsize=256)
def _delimiters(stated: str) -> Delimiters | None:
    distinct = len(set(stated)) == len(stated) and 5 <= len(stated) <= 6
    return Delimiters(*stated) if distinct and _SIGNS.fullmatch(stated) else None


def unescape(text: str, marks: Delimiters = STANDARD, charset: Charset | None = None) -> str:
    r"""The text that was meant; `charset` is that of the message, in which ``\X..\`` is written.

    Raises:
        CodecError: Bytes in hexadecimal that are none in the character set, or a shift to one that is not known.
    """
    if marks.escape not in text:
        return text
    made: list[str] = []
    rest, shifts = text, False
    while True:
        before, mark, behind = rest.partition(marks.escape)
        made.append(before)
        if not mark:
            break
        name, closing, after = behind.partition(marks.escape)
        meant = _meant(name, marks, charset) if closing else None
        shifts = shifts or (meant is not None and _SHIFT.fullmatch(name) is not None)
        made.append(marks.escape if meant is None else meant)
        rest = behind if meant is None else after
    return hl7_charset.shifted("".join(made)) if shifts else "".join(made)


def _meant(name: str, marks: Delimiters, charset: Charset | None) -> str | None:
    if name in {"H", "N"}:
        return ""
    if name in _NAMED:
        return str(getattr(marks, _NAMED[name]))
    if _LAYOUT.fullmatch(name):
        return " " if name.startswith((".sp", ".in", ".ti")) else "\n"
    if _BYTES.fullmatch(name):
        return (charset or hl7_charset.ASCII).decode(bytes.fromhex(name[1:]))
    if _SHIFT.fullmatch(name):
        return hl7_charset.shift(name[1:])
    return None


def escape(text: str, marks: Delimiters = STANDARD) -> str:
    """The text as a component may hold it: no delimiter and no end of a segment stands open in it."""
    names = {
        marks.escape: "E",
        marks.field: "F",
        marks.component: "S",
        marks.subcomponent: "T",
        marks.repetition: "R",
        "\r": "X0D",
        "\n": "X0A",
        "\x1b": "X1B",
    }
    return "".join(f"{marks.escape}{names[one]}{marks.escape}" if one in names else one for one in text)


def _segment(line: str, marks: Delimiters, charset: Charset) -> Segment:
    name, mark, rest = line[:3], line[3:4], line[4:]
    if not _NAME.fullmatch(name) or mark not in {"", marks.field}:
        raise CodecError("a segment has no name: a line break inside a field, or the message is damaged")
    fields = rest.split(marks.field) if mark else []
    if name in {"MSH", "FHS", "BHS"}:
        fields.insert(0, marks.field)
    return Segment(name, fields, marks, charset)


def _declared(first: bytes, marks: Delimiters) -> str:
    fields = first.split(marks.field.encode())
    stated = fields[17].split(marks.repetition.encode()) if len(fields) > 17 else []
    return "~".join(one.decode("latin-1").strip() for one in stated).rstrip("~")
