"""Coded elements of HL7 version 2 (CE, CWE, CNE): which code of which system, and what else it is called.

    2345-7^Glucose^LN^GLU^Glucose^99LAB        the code and system, and an alternate code and system

Systems are those of table 0396, under the names of `wardround.harmonization.events.SYSTEMS`. One that the table leaves
to the sender ("L", none) is ``local:`` and the sender; every other name that is not known here is ``local:`` and that
name, unless the mapping's `systems` says what it means.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from wardround.harmonization.events import SYSTEMS
from wardround.sources.hl7_message import NULL, unescape

__all__ = ["CODE_LENGTH", "STANDARD_SYSTEMS", "Coded", "Coding", "coded"]

CODE_LENGTH: Final = 200
"""What is longer is no code, and no short text."""

STANDARD_SYSTEMS: Final[Mapping[str, str]] = {
    "LN": "loinc",
    "SCT": "snomed",
    "RXNORM": "rxnorm",
    "I10": "icd10",
    "I10C": "icd10cm",
    "I9CDX": "icd9cm",
    "I9C": "icd9cm",
    "CVX": "cvx",
    "NDC": "ndc",
    "C4": "cpt",
    "CPTM": "cpt",
    "UCUM": "ucum",
    "DCM": "http://dicom.nema.org/resources/ontology/DCM",
    "MDC": "urn:iso:std:iso:11073:10101",
}
"""Table 0396's names of the systems that studies speak of."""

_TABLE: Final = re.compile(r"HL7([0-9]{4})")
_OID: Final = re.compile(r"[0-2](?:\.\d{1,40}){2,40}", re.ASCII)


@dataclass(frozen=True, slots=True, repr=False)
class Coding:
    """A code in its system."""

    system: str
    code: str


@dataclass(frozen=True, slots=True, repr=False)
class Coded:
    """A coded element: its code, the same in another system, and its text."""

    primary: Coding | None = None
    alternate: Coding | None = None
    text: str = ""


def coded(field: str, local: str, systems: Mapping[str, str]) -> Coded:
    """What a coded field says, of whose repetitions only the first is read.

    Args:
        field: As it is written, with the standard's delimiters.
        local: The name of the sender's own system.
        systems: What the mapping says of systems' names.

    Raises:
        CodecError: An escape in it that cannot be read.
    """
    parts = [unescape(part).strip() for part in field.split("^")]
    parts = ["" if part == NULL else part for part in parts] + [""] * 22
    first = _coding(parts[0], parts[2], parts[13], local, systems)
    second = _coding(parts[3], parts[5], parts[16], local, systems)
    if first is None:
        first, second = second, None
    return Coded(first, None if second == first else second, parts[1] or parts[8] or parts[4])


def _coding(code: str, name: str, oid: str, local: str, systems: Mapping[str, str]) -> Coding | None:
    if not code or len(code) > CODE_LENGTH or len(name) > CODE_LENGTH:
        return None
    return Coding(_system(name, oid, local, systems), code)


def _system(name: str, oid: str, local: str, systems: Mapping[str, str]) -> str:
    if name in systems:
        return systems[name]
    known = STANDARD_SYSTEMS.get(name.upper())
    if known is not None:
        return known
    if table := _TABLE.fullmatch(name.upper()):
        return f"http://terminology.hl7.org/CodeSystem/v2-{table[1]}"
    for stated in (name, oid):
        if _OID.fullmatch(stated):
            return SYSTEMS.get(f"urn:oid:{stated}", f"urn:oid:{stated}")
    return f"local:{local}" if name in {"", "L", "99"} else f"local:{name}"
