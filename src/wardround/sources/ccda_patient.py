"""Whom a C-CDA document is about and what its header says of them: identifier, birth, sex, death, the visit."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from wardround.harmonization.events import SourceReport
from wardround.sources.ccda_values import instant, stamp
from wardround.sources.ccda_xml import Node

__all__ = ["Known", "known", "patient"]

_SEX: Final = {"M": "male", "F": "female", "UN": "other"}
_LONGEST: Final = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """One event of the system ``patient``."""

    code: str
    time_us: int | None = None
    precision: int | None = None
    value: str | None = None


def patient(document: Node, authorities: tuple[str, ...]) -> str:
    """The identifier that the first of `authorities` to have one gave, or '' where none did or there are two patients.

    An authority is an OID (an identifier's root) or a name (its assigningAuthorityName).
    """
    roles = document.all("recordTarget", "patientRole")
    if len(roles) != 1:
        return ""
    stated = [one for one in roles[0].all("id") if not one.is_null and 0 < len(one.get("extension")) <= _LONGEST]
    for authority in authorities:
        found = {
            one.get("extension") for one in stated if authority in {one.get("root"), one.get("assigningAuthorityName")}
        }
        if found:
            return found.pop() if len(found) == 1 else ""
    return ""


def known(document: Node, zone: str | None, report: SourceReport) -> Iterator[Known]:
    """What the header says of the patient."""
    person = document.first("recordTarget", "patientRole", "patient")
    if person is not None:
        # A birth is the day's start in UTC, whatever its hour, so that it is the same at every site.
        yield from _timed("birth-date", stamp(person.first("birthTime"))[:8], "UTC", report)
        sex = person.first("administrativeGenderCode")
        if sex is not None:
            yield Known(code="sex", value=_SEX.get(sex.get("code"), "unknown"))
        yield from _timed("death", stamp(person.first("sdtc:deceasedTime")), zone, report)
    yield from _timed(
        "seen", stamp(document.first("componentOf", "encompassingEncounter", "effectiveTime")), zone, report
    )


def _timed(code: str, text: str, zone: str | None, report: SourceReport) -> Iterator[Known]:
    if not text:
        return
    moment = instant(text, zone)
    if isinstance(moment, str):
        report.refuse(f"{code}: {moment}")
        return
    if moment.remark:
        report.note(moment.remark)
    yield Known(code=code, time_us=moment.time_us, precision=int(moment.precision))
