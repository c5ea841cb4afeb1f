"""Whether a code can be one of its system's at all: check digits and shapes.

A code that fails cannot be in the system, whatever its name says: a number padded to look like LOINC, a SNOMED CT
identifier that lost its last digits in a spreadsheet. One that passes may still not be: no terminology is asked.

References:
    Luhn's mod 10, as in the LOINC Users' Guide, appendix "LOINC check digit".
    Verhoeff's dihedral check, as in the SNOMED CT Technical Implementation Guide, "Check-digit".
"""

import re
from collections.abc import Callable
from typing import Final

__all__ = ["is_icd10", "is_loinc", "is_snomed", "valid"]

_LOINC: Final = re.compile(r"[1-9][0-9]{0,6}-[0-9]")
_SNOMED: Final = re.compile(r"[1-9][0-9]{5,17}")
_SNOMED_PARTITIONS: Final = frozenset({"00", "01", "02", "10", "11", "12"})
_ICD10: Final = re.compile(r"[A-Z][0-9][0-9A-Z](?:\.[0-9A-Z]{1,4})?")
_SHAPES: Final = {
    "icd9cm": re.compile(r"(?:[0-9]{3}|V[0-9]{2})(?:\.[0-9]{1,2})?|E[0-9]{3}(?:\.[0-9])?"),
    "rxnorm": re.compile(r"[1-9][0-9]{0,7}"),
    "cvx": re.compile(r"[0-9]{1,3}"),
    "cpt": re.compile(r"[0-9]{4}[0-9FTUAM]"),
    "ndc": re.compile(r"[0-9]{10,11}|[0-9]{4,5}-[0-9]{3,4}-[0-9]{1,2}"),
}

_DIHEDRAL: Final = (
    "0123456789",
    "1234067895",
    "2340178956",
    "3401289567",
    "4012395678",
    "5987604321",
    "6598710432",
    "7659821043",
    "8765932104",
    "9876543210",
)
_SHUFFLE: Final = "1576283094"


def is_loinc(code: str) -> bool:
    """Whether `code` is a number, a dash and the number's mod-10 check digit."""
    if not _LOINC.fullmatch(code):
        return False
    total = 0
    for place, digit in enumerate(reversed(code[:-2])):
        doubled = int(digit) * (2 if place % 2 == 0 else 1)
        total += doubled - 9 if doubled > 9 else doubled
    return (total + int(code[-1])) % 10 == 0


def is_snomed(code: str) -> bool:
    """Whether `code` is a SNOMED CT identifier of a component: 6 to 18 digits, a partition, Verhoeff's check digit."""
    return bool(_SNOMED.fullmatch(code)) and code[-3:-1] in _SNOMED_PARTITIONS and _verhoeff(code) == "0"


def is_icd10(code: str) -> bool:
    """Whether `code` has the shape of ICD-10, the WHO's or a national modification's, with its point."""
    return bool(_ICD10.fullmatch(code))


def valid(system: str, code: str) -> bool | None:
    """Whether `code` can be one of `system`'s; None where the system has no rule here.

    Systems are the short names of `wardround.harmonization.events.SYSTEMS`. LOINC's parts and answers (``LP…``,
    ``LA…``) are not observations' codes, and no rule is known for them.
    """
    if system == "loinc" and code.startswith(("LA", "LP")):
        return None
    if rule := _RULES.get(system):
        return rule(code)
    if shape := _SHAPES.get(system):
        return bool(shape.fullmatch(code))
    return None


_RULES: Final[dict[str, Callable[[str], bool]]] = {
    "loinc": is_loinc,
    "snomed": is_snomed,
    "icd10": is_icd10,
    "icd10cm": is_icd10,
}


def _verhoeff(digits: str) -> str:
    check = "0"
    for place, digit in enumerate(reversed(digits)):
        permuted = digit
        for _ in range(place % 8):
            permuted = _SHUFFLE[int(permuted)]
        check = _DIHEDRAL[int(check)][int(permuted)]
    return check
