"""What the headers of a block's messages say: of which type they are, from whom, when, and whether they are meant.

The type (MSH-9) decides what is read; see `wardround.sources.hl7_events`.
"""

import re
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from wardround.harmonization.events import SourceReport
from wardround.sources import hl7_time
from wardround.sources.hl7_block import Block, distinct, first_component

__all__ = ["Headers", "Kind", "headers"]


class Kind(IntEnum):
    """What a message is read for."""

    NOTHING = 0
    RESULTS = 1
    ORDERS = 2
    PATIENT = 3
    MERGE = 4


_RESULTS: Final = frozenset({"ORU", "OUL"})
_ORDERS: Final = frozenset({"ORM", "OML", "OMG", "OMI"})
_MERGES: Final = frozenset({"A18", "A34", "A36", "A40", "A47"})
_NOT_FACTS: Final = frozenset({"A23", "A24", "A29", "A37", "A43"})
"""Deleting, linking, unlinking, moving: what they mean for a patient's facts is not known here."""
_KNOWN: Final = re.compile(
    "ACK|ADR|ADT|BAR|BPS|BRP|BRT|BTS|CCF|CCI|CCM|CCQ|CCU|CQU|CRM|CSU|DBC|DBU|DEL|DEO|DER|DFT|DPR|DRC|DRG|EAC|EAN|EAR|"
    "EHC|ESR|ESU|INR|INU|LSR|LSU|MDM|MFD|MFK|MFN|MFQ|MFR|NMD|NMQ|NMR|OMB|OMD|OMG|OMI|OML|OMN|OMP|OMQ|OMS|OPL|OPR|OPU|"
    "ORA|ORB|ORD|ORF|ORG|ORI|ORL|ORM|ORN|ORP|ORR|ORS|ORU|ORX|OSM|OSQ|OSR|OSU|OUL|PEX|PGL|PIN|PMU|PPG|PPP|PPR|PPT|PPV|"
    "PRR|PTR|QBP|QCK|QCN|QRY|QSB|QSX|QVR|RAR|RAS|RCI|RCL|RDE|RDR|RDS|RDY|REF|RER|RGR|RGV|ROR|RPA|RPI|RPL|RPR|RQA|RQC|"
    "RQI|RQP|RRA|RRD|RRE|RRG|RRI|RSP|RTB|SCN|SDN|SDR|SIU|SLN|SLR|SMD|SQM|SQR|SRM|SRR|SSR|SSU|STC|STI|SUR|TBR|TCR|TCU|"
    "UDM|VXQ|VXR|VXU|VXX"
)
_EVENT: Final = re.compile(r"[A-Z][0-9A-Z]{2}")


@dataclass(frozen=True, slots=True, repr=False)
class Headers:
    """By message: its `kind`, the sending application (MSH-3.1), and its times.

    Attributes:
        kinds: `Kind`, NOTHING also for a message that is refused.
        senders: The sending applications.
        known_us: MSH-7, or `hl7_time.NONE`.
        offsets: See `wardround.sources.hl7_time.sender_offsets`.
    """

    kinds: npt.NDArray[np.int64]
    senders: pa.Array
    known_us: npt.NDArray[np.int64]
    offsets: npt.NDArray[np.int64]


def headers(block: Block, report: SourceReport, processing: frozenset[str], zone: str | None) -> Headers:
    """Read the headers of a block; what is refused and what is not read is counted in the report."""
    found = block.segments("MSH", 18)
    first = found.where(found.place == 0)
    malformed = block.malformed()
    report.refuse("segment without a name, by a line break in a field or damage", int(malformed.sum()))
    twofold = np.zeros(len(malformed), np.bool_)
    twofold[found.message[found.place > 0]] = True
    report.refuse("several messages in one", int((twofold & ~malformed).sum()))
    malformed |= twofold
    types, rows = distinct(first.field(9))
    counts = np.bincount(rows[~malformed], minlength=len(types)).tolist()
    for (stated,), count in zip(types, counts, strict=True):
        if _kind(stated) is Kind.NOTHING:
            report.note(f"message not read: {_shown(stated)}", count)
    kinds = np.array([_kind(stated) for (stated,) in types], np.int64)[rows]
    meant = _meant(first.field(11), processing)
    report.refuse("message for tests or training", int((~meant & ~malformed & (kinds != Kind.NOTHING)).sum()))
    kinds[malformed | ~meant] = Kind.NOTHING
    stamps = first_component(first.field(7))
    offsets = hl7_time.sender_offsets(stamps, zone)
    known = hl7_time.column(stamps, offsets, zone)
    report.note(
        "message without a readable time of its own", int((known.us[kinds != Kind.NOTHING] == hl7_time.NONE).sum())
    )
    return Headers(kinds, first_component(first.field(3)), known.us, offsets)


def _kind(stated: str) -> Kind:
    code, _, rest = stated.partition("^")
    trigger = rest.partition("^")[0]
    if code in _RESULTS:
        return Kind.RESULTS
    if code in _ORDERS:
        return Kind.ORDERS
    if code == "ADT" and trigger in _MERGES:
        return Kind.MERGE
    if code == "ADT" and trigger not in _NOT_FACTS:
        return Kind.PATIENT
    return Kind.NOTHING


def _shown(stated: str) -> str:
    # MSH-9 may hold anything: only the standard's own names are told.
    code, _, rest = stated.partition("^")
    trigger = rest.partition("^")[0]
    if not _KNOWN.fullmatch(code):
        return "of no known type"
    return f"{code}^{trigger}" if _EVENT.fullmatch(trigger) else code


def _meant(cells: pa.Array, processing: frozenset[str]) -> npt.NDArray[np.bool_]:
    stated, rows = distinct(cells)
    admitted: npt.NDArray[np.bool_] = np.array(
        [code.partition("^")[0].strip() in {"", *processing} for (code,) in stated], np.bool_
    )[rows]
    return admitted
