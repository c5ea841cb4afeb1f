r"""The character sets of HL7 version 2 (table 0211), through Python's codecs; one that is not here is refused by name.

MSH-18 may name several: the first is that of the text, the others are reached by escape sequences of ISO 2022 in the
text. Japan writes ``~ISO IR87`` so, for ASCII with shifts to JIS X 0208. A message is decoded as a whole before it is
divided, since in several of these sets the second byte of a character may be that of a delimiter.

``\C..\`` and ``\M..\`` shift between sets inside one component; the sets of ISO-2022-JP are known, no others.
"""

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from wardround.errors import CodecError

__all__ = ["ASCII", "Charset", "find", "shift", "shifted"]

_CODECS: Final = {
    "ASCII": "ascii",
    **{f"8859/{part}": f"iso8859_{part}" for part in (*range(1, 12), *range(13, 17))},
    "UNICODE UTF-8": "utf_8",
    "UNICODE": "utf_8",
    "UTF-8": "utf_8",
    "GB 18030-2000": "gb18030",
    "GB18030": "gb18030",
    "BIG-5": "big5",
    "KS X 1001": "euc_kr",
    "ISO IR6": "ascii",
    "ISO IR14": "iso2022_jp_ext",
    "ISO IR87": "iso2022_jp_ext",
    "ISO IR159": "iso2022_jp_ext",
    "JAS2020": "iso2022_jp_ext",
    "JIS X 0202": "iso2022_jp_ext",
}
_SHIFTING: Final = "iso2022_jp_ext"
_SHIFTS: Final = {
    "2842": "(B",
    "284A": "(J",
    "2849": "(I",
    "2440": "$@",
    "2442": "$B",
    "242844": "$(D",
}
"""Escape sequences of ISO 2022 by their bytes in hexadecimal: ASCII, JIS X 0201, JIS X 0208 of 1978 and 1983, 0212."""

_ESC: Final = "\x1b"
_NAMELIKE: Final = re.compile(
    r"(~|8859|ANSI|BIG|CNS|CP|EUC|GB|ISO|JAS|JIS|KS|LATIN|SHIFT|UNICODE|US-ASCII|UTF|WINDOWS)[A-Z0-9 /~._-]{0,30}"
)


@dataclass(frozen=True, slots=True)
class Charset:
    """A character set by HL7's name and by Python's."""

    name: str
    codec: str

    @property
    def keeps_ascii(self) -> bool:
        """Whether bytes below 128 always are ASCII's, so that a text of only such bytes needs no decoding."""
        return self.codec != _SHIFTING

    def decode(self, data: bytes) -> str:
        """The text.

        Raises:
            CodecError: These are no bytes of this character set.
        """
        try:
            return data.decode(self.codec)
        except UnicodeDecodeError:
            raise CodecError(f"bytes that are none in the declared character set {self.name}") from None

    def encode(self, text: str) -> bytes:
        """The bytes; what the character set does not have becomes a question mark."""
        return text.encode(self.codec, "replace")


ASCII: Final = Charset("ASCII", "ascii")
"""What a message is in that declares nothing."""


@lru_cache(maxsize=256)
def find(stated: str) -> Charset:
    """The character set of this name, or of these names with ``~`` between them.

    Raises:
        CodecError: One of them is not known; its name is told.
    """
    names = [re.sub(r"\s+", " ", name).strip().upper() for name in stated.split("~")]
    if unknown := [name for name in names if name and name not in _CODECS]:
        raise CodecError(f"unknown character set {_shown(unknown[0])}")
    codecs = [_CODECS[name] for name in names if name] or ["ascii"]
    shown = "~".join(names)
    if len(set(codecs)) == 1 and names[0]:
        return Charset(shown, codecs[0])
    # Shifts are known from ASCII and its like, to the sets of ISO-2022-JP.
    first = _CODECS[names[0]] if names[0] else "ascii"
    if first in {"ascii", _SHIFTING} and set(codecs) <= {"ascii", _SHIFTING}:
        return Charset(shown, _SHIFTING)
    raise CodecError(f"unknown combination of character sets {_shown(shown)}")


def shift(sequence: str) -> str:
    r"""The escape sequence of ISO 2022 for the digits of ``\C..\`` or ``\M..\``.

    Raises:
        CodecError: No sequence that is known.
    """
    found = _SHIFTS.get(sequence.upper())
    if found is None:
        raise CodecError("a shift to a character set that is not known")
    return _ESC + found


def shifted(text: str) -> str:
    """The text with what follows its escape sequences of ISO 2022 read in their sets; the rest of it is ASCII.

    Raises:
        CodecError: What follows is none in that set.
    """
    try:
        return text.encode("ascii").decode(_SHIFTING)
    except UnicodeError:
        raise CodecError("text that is none in the character set that it shifted to") from None


def _shown(name: str) -> str:
    # It comes from a message, where anything may stand: only what begins like the name of a set is told.
    return repr(name) if _NAMELIKE.fullmatch(name) else "(not shown)"
