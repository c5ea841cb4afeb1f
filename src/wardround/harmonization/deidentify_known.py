"""What a hospital knows of a patient and of those around: the identifiers to look for in that patient's notes.

They are read from HL7 v2 segments (PID, NK1, PV1, GT1, IN1, …) and FHIR resources (Patient, RelatedPerson,
Practitioner, Organization, Location), generously: what is not understood as a name may still be taken as one, since a
word too much costs a word, and a name too few a person's privacy.

Hazard: these are the identifiers themselves. Nothing here has a repr, and nothing is put into a message.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from datetime import date
from functools import reduce
from typing import Any, Final

from wardround.errors import ClinicalError

__all__ = ["MAX_IDENTIFIERS", "Known", "Person", "of_resource", "of_segments"]

MAX_IDENTIFIERS: Final = 5_000
"""More identifiers of one patient are refused."""

_MAX_DEPTH: Final = 12
_DATE: Final = re.compile(r"(\d{4})-?(\d\d)-?(\d\d)")


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Person:
    """A name as its parts, each as it is written; a part may hold several words."""

    family: tuple[str, ...] = ()
    given: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Known:
    """Identifiers of one patient, kin and clinicians.

    Attributes:
        persons: Names.
        numbers: Record, account, insurance, social security, licence and visit numbers.
        phones: Telephone and fax numbers.
        emails: Addresses of electronic mail, and web addresses.
        streets: Lines of postal addresses.
        places: Cities, counties, postal codes and the names of hospitals and practices.
        births: Dates of birth, death and of other events that a note must not tell.
    """

    persons: tuple[Person, ...] = ()
    numbers: tuple[str, ...] = ()
    phones: tuple[str, ...] = ()
    emails: tuple[str, ...] = ()
    streets: tuple[str, ...] = ()
    places: tuple[str, ...] = ()
    births: tuple[date, ...] = ()

    def __or__(self, other: "Known") -> "Known":
        """What either knows."""
        return Known(**{one.name: getattr(self, one.name) + getattr(other, one.name) for one in fields(self)})

    def checked(self) -> "Known":
        """Itself.

        Raises:
            ClinicalError: There are more identifiers than one patient has.
        """
        if sum(len(getattr(self, one.name)) for one in fields(self)) > MAX_IDENTIFIERS:
            raise ClinicalError(f"more than {MAX_IDENTIFIERS} identifiers for one patient: they are not one patient's")
        return self


_SEGMENTS: Final[Mapping[str, Mapping[int, str]]] = {
    "PID": {
        **dict.fromkeys((2, 3, 4, 18, 19, 20, 21), "number"),
        **dict.fromkeys((5, 6, 9), "name"),
        **dict.fromkeys((7, 29), "date"),
        **dict.fromkeys((13, 14, 40), "phone"),
        11: "address",
        12: "place",
        23: "place",
    },
    "NK1": {
        **dict.fromkeys((2, 26, 30), "name"),
        **dict.fromkeys((4, 32), "address"),
        **dict.fromkeys((5, 6, 31, 40, 41), "phone"),
        **dict.fromkeys((12, 33, 37), "number"),
        13: "place",
        16: "date",
    },
    "GT1": {
        **dict.fromkeys((2, 12, 19), "number"),
        **dict.fromkeys((3, 4), "name"),
        5: "address",
        6: "phone",
        7: "phone",
        8: "date",
    },
    "IN1": {**dict.fromkeys((2, 8, 36, 49), "number"), 4: "place", 16: "name", 18: "date", 19: "address"},
    "PD1": {3: "place", 4: "clinician"},
    "PV1": {**dict.fromkeys((7, 8, 9, 17, 52), "clinician"), **dict.fromkeys((5, 19, 50), "number")},
    "ORC": {**dict.fromkeys((10, 11, 12), "clinician"), 14: "phone"},
    "OBR": {**dict.fromkeys((10, 16, 28), "clinician"), 17: "phone"},
}


def of_segments(segments: Iterable[str], *, delimiters: str = "|^~\\&") -> Known:
    """What HL7 v2 segments tell; those of no interest are passed over.

    Args:
        segments: One segment each, such as ``PID|1||…``.
        delimiters: Of fields, components, repetitions, escapes and subcomponents, as the message's MSH has them.

    Raises:
        ClinicalError: There are more identifiers than one patient has.
    """
    field, component, repetition, escape, sub = tuple(delimiters)
    found = Known()
    for segment in segments:
        name, *values = segment.rstrip("\r\n").split(field)
        for place, kind in _SEGMENTS.get(name, {}).items():
            text = values[place - 1] if place <= len(values) else ""
            for one in text.split(repetition):
                parts = [
                    [_unescaped(piece, delimiters, escape) for piece in part.split(sub)]
                    for part in one.split(component)
                ]
                found |= _of_field(kind, parts)
    return found.checked()


def of_resource(resource: Mapping[str, Any]) -> Known:
    """What a FHIR resource tells: names, identifiers, telecoms, addresses and dates of birth and death, however deep.

    Raises:
        ClinicalError: It is nested too deeply, or there are more identifiers than one patient has.
    """
    return reduce(Known.__or__, _in_resource(resource, 0), Known()).checked()


def _of_field(kind: str, parts: list[list[str]]) -> Known:
    def part(place: int) -> str:
        return parts[place - 1][0] if place <= len(parts) else ""

    match kind:
        case "number":
            return Known(numbers=_present(part(1)))
        case "name":
            return Known(persons=_person(parts))
        case "clinician":
            return Known(numbers=_present(part(1)), persons=_person(parts[1:]))
        case "date":
            return Known(births=_dates(part(1)))
        case "phone":
            return Known(phones=_present(part(1), part(6) + part(7), part(7), part(12)), emails=_present(part(4)))
        case "address":
            return Known(streets=_present(" ".join(parts[0]), part(2)), places=_present(part(3), part(5), part(9)))
        case _:
            return Known(places=_present(part(1)))


def _person(parts: list[list[str]]) -> tuple[Person, ...]:
    family = _present(*parts[0]) if parts else ()
    given = _present(*(piece for part in parts[1:3] for piece in part))
    return (Person(family=family, given=given),) if family or given else ()


def _in_resource(node: Any, depth: int) -> Iterator[Known]:  # noqa: ANN401, JSON
    if depth > _MAX_DEPTH:
        raise ClinicalError(f"a resource is nested more than {_MAX_DEPTH} deep")
    if isinstance(node, list):
        for one in node:
            yield from _in_resource(one, depth + 1)
    elif isinstance(node, Mapping):
        for name, value in node.items():
            if name in _ELEMENTS:
                yield from map(_ELEMENTS[name], value if isinstance(value, list) else [value])
            else:
                yield from _in_resource(value, depth + 1)


def _of_name(name: Any) -> Known:  # noqa: ANN401
    if isinstance(name, str):  # An organization's, or a location's.
        return Known(places=_present(name))
    if not isinstance(name, Mapping):
        return Known()
    person = Person(family=_strings(name.get("family")), given=_strings(name.get("given")))
    text = _strings(name.get("text"))
    written = (Person(given=tuple(word for one in text for word in one.replace(",", " ").split())),) if text else ()
    return Known(persons=(person, *written))


def _of_telecom(telecom: Any) -> Known:  # noqa: ANN401
    values = _texts([telecom], "value")
    if any("@" in value or "/" in value for value in values):
        return Known(emails=values)
    return Known(phones=values)


def _of_address(address: Any) -> Known:  # noqa: ANN401
    if not isinstance(address, Mapping):
        return Known()
    places = [text for part in ("city", "district", "postalCode") for text in _strings(address.get(part))]
    return Known(streets=_strings(address.get("line")) + _strings(address.get("text")), places=tuple(places))


def _of_identifier(identifier: Any) -> Known:  # noqa: ANN401
    return Known(numbers=_texts([identifier], "value"))


def _of_date(text: Any) -> Known:  # noqa: ANN401
    return Known(births=_dates(text) if isinstance(text, str) else ())


_ELEMENTS: Final[Mapping[str, Callable[[Any], Known]]] = {
    "name": _of_name,
    "identifier": _of_identifier,
    "telecom": _of_telecom,
    "address": _of_address,
    "birthDate": _of_date,
    "deceasedDateTime": _of_date,
}


def _texts(nodes: Iterable[Any], name: str) -> tuple[str, ...]:
    return tuple(text for node in nodes if isinstance(node, Mapping) for text in _strings(node.get(name)))


def _strings(value: Any) -> tuple[str, ...]:  # noqa: ANN401
    return _present(*(one for one in (value if isinstance(value, list) else [value]) if isinstance(one, str)))


def _present(*texts: str) -> tuple[str, ...]:
    return tuple(text.strip() for text in texts if text.strip() not in {"", '""'})


def _dates(text: str) -> tuple[date, ...]:
    found = _DATE.match(text)
    try:
        return (date(*map(int, found.groups())),) if found else ()
    except ValueError:
        return ()


def _unescaped(text: str, delimiters: str, escape: str) -> str:
    if escape not in text:
        return text
    letters = zip("FSRET", delimiters, strict=True)
    for letter, sign in letters:
        text = text.replace(f"{escape}{letter}{escape}", sign)
    return text
