"""A trust domain's event log, replayed: which events made which RTMR.

    RTMR[i] = SHA-384( RTMR[i] || digest )   for every event of measurement register i + 1, starting from zeros

The log comes from the guest and is worth nothing by itself. Replaying it shows that these digests, in this order, are
what the hardware was told; each digest may then be compared with the reference values.

References:
    TCG, PC Client Platform Firmware Profile, version 1.05, section 10.2: TCG_PCR_EVENT2 and the crypto agile log.
    UEFI 2.10, section 38: MR 1 to 4 are RTMR0 to RTMR3. ACPI, CCEL table.
"""

import hashlib
from dataclasses import dataclass

from wardround.attestation.result import refuse

__all__ = ["MAX_EVENTS", "Event", "parse", "replay"]

MAX_EVENTS = 4096
_CLAUSE = "TCG PFP section 10.2 event log"
_NO_ACTION = 0x03
_SHA384, _SHA384_BYTES = 0x0C, 48
_SIGNATURE = b"Spec ID Event03\0"
_END = (0xFFFFFFFF, 0)


@dataclass(frozen=True, slots=True)
class Event:
    """One measurement: its register (1 to 4 for RTMR0 to RTMR3), its type and the SHA-384 that was extended."""

    register: int
    kind: int
    digest: bytes


class _Reader:
    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def take(self, size: int) -> bytes:
        part = self.data[self.at : self.at + size]
        if len(part) != size:
            raise refuse(_CLAUSE, "it is cut short")
        self.at += size
        return part

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "little")


def parse(data: bytes) -> tuple[Event, ...]:
    """Read a log whose only algorithm is SHA-384, as TDX has it; what follows the last event is not read.

    Raises:
        AttestationError: Not such a log, or more than `MAX_EVENTS` events.
    """
    reader = _Reader(data)
    _check_header(reader)
    events: list[Event] = []
    while reader.at < len(data):
        register = reader.number(4)
        # Firmware fills the table with ones, or leaves zeros, behind the last event.
        if register in _END:
            break
        kind, count = reader.number(4), reader.number(4)
        if register > 4 or count != 1 or reader.number(2) != _SHA384:
            raise refuse(_CLAUSE, "an event is not of registers 1 to 4 with one SHA-384 digest")
        digest = reader.take(_SHA384_BYTES)
        reader.take(reader.number(4))
        if len(events) == MAX_EVENTS:
            raise refuse(_CLAUSE, f"it has more than {MAX_EVENTS} events")
        events.append(Event(register, kind, digest))
    return tuple(events)


def replay(events: tuple[Event, ...]) -> tuple[bytes, bytes, bytes, bytes]:
    """RTMR0 to RTMR3 after these events; an event of no action is written down and not measured."""
    registers = [bytes(_SHA384_BYTES)] * 4
    for event in events:
        if event.kind != _NO_ACTION:
            index = event.register - 1
            registers[index] = hashlib.sha384(registers[index] + event.digest).digest()
    return registers[0], registers[1], registers[2], registers[3]


def _check_header(reader: _Reader) -> None:
    # The first event is in the old form: register, type, SHA-1 of zeros, and the list of algorithms that follow.
    reader.take(4)
    if reader.number(4) != _NO_ACTION or any(reader.take(20)):
        raise refuse(_CLAUSE, "it does not start with a Spec ID event")
    body = _Reader(reader.take(reader.number(4)))
    if body.take(len(_SIGNATURE)) != _SIGNATURE:
        raise refuse(_CLAUSE, "it is not of the crypto agile form")
    body.take(8)
    if (body.number(4), body.number(2), body.number(2)) != (1, _SHA384, _SHA384_BYTES):
        raise refuse(_CLAUSE, "SHA-384 and no other algorithm expected")
