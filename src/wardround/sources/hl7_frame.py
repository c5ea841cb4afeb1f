"""MLLP, the framing of HL7 version 2 on a connection, and the answers to what comes in it; no sockets here.

    <VT> message <FS><CR>            VT is 0x0B, FS 0x1C, CR 0x0D

A frame may come in pieces, or several in one piece. Bytes between frames belong to nothing: they are counted and
dropped, up to a limit. A VT inside a frame begins a new one, since no message may hold it: what came before was cut off
by its sender.

An answer goes back in the sender's delimiters and character set, to where the message came from, with the message's
control identifier (MSA-2) and a text of ours (MSA-3) that quotes nothing. With MSH-15 the sender asks for an answer of
the enhanced mode, and when; without, it gets that of the original mode.

=========== ================= ====================================================================
AA, CA      kept              the message is on the disk
AE, CE      not acceptable    no header, no control identifier, an unknown character set, …: again it is of no use
AR, CR      version           not version 2
AR, CE      not kept          the disk is full or does not answer: send it again
=========== ================= ====================================================================

References:
    HL7 Version 2.8.2, chapter 2: 2.9.2 original mode, 2.9.3 enhanced mode, table 0008; Transport Specification: MLLP,
    Release 1.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import Enum
from typing import Final

from wardround.errors import CodecError, PeerProtocolError
from wardround.sources import hl7_message
from wardround.sources.hl7_charset import ASCII, Charset
from wardround.sources.hl7_message import STANDARD, Delimiters, Message, escape

__all__ = ["Framer", "Incoming", "Outcome", "answer", "framed", "incoming"]

_START: Final = b"\x0b"
_END: Final = b"\x1c\r"
_BETWEEN: Final = b"\r\n"
_IDENTIFIER: Final = 200
_CONTROLS: Final = bytes(sorted(set(range(32)) - set(b"\t\n\r\x1b")))
_TRIGGER: Final = re.compile(r"[A-Z0-9]{1,5}")
_CONDITIONS: Final = {"AL": (True, True), "ER": (False, True), "SU": (True, False)}
"""For what MSH-15 and MSH-16 say: whether a message that is kept is answered, and one that is not."""


class Outcome(Enum):
    """What became of a message: its codes in the original and the enhanced mode, and a text."""

    KEPT = ("AA", "CA", "")
    UNACCEPTABLE = ("AE", "CE", "")
    UNSUPPORTED = ("AR", "CR", "MSH-12: only version 2 is taken in")
    NOT_KEPT = ("AR", "CE", "not kept: send it again later")


class Framer:
    """Cuts a stream of bytes into messages; `garbage` counts the bytes outside of frames, `halves` the cut frames."""

    def __init__(self, *, most_bytes: int, most_garbage: int = 64 * 1024) -> None:
        self._most, self._most_garbage = most_bytes, most_garbage
        self._held = bytearray()
        self._is_inside = False
        self._searched = 0
        self.garbage = self.halves = 0

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The messages that end in these bytes.

        Raises:
            PeerProtocolError: A frame, or what lies outside of frames, is longer than allowed.
        """
        self._held += data
        while True:
            if not self._is_inside and not self._begin():
                break
            first = max(self._searched - 1, 0)
            end = self._held.find(_END, first)
            again = self._held.rfind(_START, first, len(self._held) if end < 0 else end)
            if again >= 0:
                self.halves += 1
                del self._held[: again + 1]
                self._searched = 0
                continue
            if end < 0:
                self._searched = len(self._held)
                break
            message = bytes(self._held[:end])
            del self._held[: end + len(_END)]
            self._is_inside, self._searched = False, 0
            if len(message) > self._most:
                raise PeerProtocolError(f"a frame has more than {self._most} bytes")
            yield message
        if self._is_inside and len(self._held) > self._most:
            raise PeerProtocolError(f"a frame has more than {self._most} bytes")

    @property
    def is_inside(self) -> bool:
        """Whether a frame has begun that has not ended."""
        return self._is_inside

    def _begin(self) -> bool:
        start = self._held.find(_START)
        stray = self._held[: start if start >= 0 else len(self._held)]
        self.garbage += len(stray.translate(None, _BETWEEN))
        if self.garbage > self._most_garbage:
            raise PeerProtocolError(f"more than {self._most_garbage} bytes came outside of frames")
        del self._held[: len(stray) + (start >= 0)]
        self._is_inside = start >= 0
        return self._is_inside


@dataclass(frozen=True, slots=True, repr=False)
class Incoming:
    """A message's header, as far as an answer needs it: fields as they are written, in the message's own delimiters.

    Attributes:
        offence: Why the message is not acceptable; empty where it is.
        is_version: Whether it is of version 2.
        routing: To whom an answer goes and from whom: MSH-5, 6, 3 and 4.
        accept: MSH-15, and `application` MSH-16.
    """

    offence: str = ""
    is_version: bool = True
    marks: Delimiters = STANDARD
    charset: Charset = ASCII
    routing: tuple[str, ...] = ("", "", "", "")
    trigger: str = ""
    control: str = ""
    processing: str = "P"
    version: str = "2.5"
    declared: str = ""
    accept: str = ""
    application: str = ""


def framed(message: bytes) -> bytes:
    """The message as it is sent."""
    return _START + message + _END


def incoming(data: bytes) -> Incoming:
    """Look at a message: at its header, and whether the rest is one."""
    offence = "" if len(data.translate(None, _CONTROLS)) == len(data) else "control characters in the message"
    try:
        # Where MSH-18 is empty, which character set is meant stands in the mapping, and any bytes are taken in.
        found = hl7_message.parse(data, fallback="8859/1")
    except CodecError as error:
        return replace(_ascii_header(data), offence=str(error))
    if len(found.named("MSH")) > 1:
        offence = offence or "several messages in one frame"
    stated = _stated(found)
    if not stated.control:
        offence = offence or f"MSH-10 must be a control identifier of at most {_IDENTIFIER} characters"
    if not found.msh.field(9):
        offence = offence or "MSH-9 must name the type of the message"
    version = found.msh.component(12)
    return replace(stated, offence=offence, is_version=version.startswith("2.") or not version)


def answer(message: Incoming, outcome: Outcome, *, stamp: str, identifier: str) -> bytes | None:
    """The answer to a message, None where its sender wants none.

    Args:
        message: What is answered.
        outcome: What became of it.
        stamp: The time, in HL7's form.
        identifier: The answer's own control identifier.
    """
    code = _code(message, outcome)
    if code is None:
        return None
    marks = message.marks
    text = "" if outcome is Outcome.KEPT else outcome.value[2] or message.offence
    kind = marks.component.join(["ACK", message.trigger, "ACK"] if message.trigger else ["ACK"])
    header = [marks.encoding, *message.routing, stamp, "", kind, identifier, message.processing, message.version]
    if message.declared:
        header += ["", "", "", "", "", message.declared]
    lines = [f"MSH{marks.field}{marks.field.join(header)}"]
    lines.append(marks.field.join(["MSA", code, message.control, escape(text, marks)]).rstrip(marks.field))
    return message.charset.encode("".join(f"{line}\r" for line in lines))


def _code(message: Incoming, outcome: Outcome) -> str | None:
    original, enhanced, _ = outcome.value
    if not (message.accept or message.application):
        return original
    place = 0 if outcome is Outcome.KEPT else 1
    for asked, code in ((message.accept, enhanced), (message.application, original)):
        if _CONDITIONS.get(asked, (False, False))[place]:
            return code
    return None


def _stated(found: Message) -> Incoming:
    msh = found.msh
    control, trigger = msh.field(10), msh.component(9, 2)
    return Incoming(
        marks=found.marks,
        charset=found.charset,
        routing=tuple(_short(msh.field(number)) for number in (5, 6, 3, 4)),
        trigger=trigger if _TRIGGER.fullmatch(trigger) else "",
        control=_short(control),
        processing=_short(msh.field(11)) or "P",
        version=_short(msh.field(12)) or "2.5",
        declared=_short(msh.field(18)),
        accept=msh.component(15),
        application=msh.component(16),
    )


def _ascii_header(data: bytes) -> Incoming:
    """What can be told of a message that cannot be read: its header, if that is one, in ASCII."""
    first = hl7_message.ended(data).partition(b"\r")[0]
    try:
        return replace(_stated(hl7_message.parse(first, charset="ASCII")), declared="")
    except CodecError:
        return Incoming()


def _short(field: str) -> str:
    return field if len(field) <= _IDENTIFIER and field.isprintable() else ""
