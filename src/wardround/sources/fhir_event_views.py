"""Which events a resource holds: our own ViewDefinitions, one for each clinical type of FHIR R4.

A view's columns are those of EVENT, and these, from which they are made:

- ``time_2``, ``number_2``, ``status_2`` and so on: what counts where the ones before are empty; of several statuses,
  one that is not to be used counts first
- ``value_system`` and ``value_code``: a coded value; ``value`` is a text, and a number where it is written as one
- ``unit_code`` and ``unit_system``: the coded unit, which counts if the system is UCUM
- ``absent``: true where the resource says that there is no value
- ``id``: the resource's, from which an ``order_key`` is made

Statuses are mapped by `STATUSES`, for each type: what FHIR calls "finished" or "active" is final here, what was
planned, refuted or not done is not.
"""

from collections.abc import Mapping
from typing import Any, Final

from wardround.sources.fhir_elements import Kind

__all__ = ["COLUMNS", "IDENTIFIERS", "KINDS", "LINKS", "SEXES", "STATED_IF_DOUBTFUL", "STATUSES", "TEXTS", "VIEWS"]

COLUMNS: Final = frozenset(
    {
        *("patient", "time", "time_2", "time_3", "time_4", "known", "known_2", "system", "code", "number", "number_2"),
        *("comparator", "value", "value_2", "value_3", "value_system", "value_code", "unit", "unit_code"),
        *("unit_system", "status", "status_2", "status_3", "order_key", "id", "absent"),
    }
)
"""The columns that a view for events may have."""

TEXTS: Final = (Kind.TEXT, Kind.DATE, Kind.DATETIME)
KINDS: Final = {
    "number": (Kind.DECIMAL, Kind.INTEGER),
    "number_2": (Kind.DECIMAL, Kind.INTEGER),
    "value": (*TEXTS, Kind.BOOLEAN),
    "value_2": (*TEXTS, Kind.BOOLEAN),
    "value_3": (*TEXTS, Kind.BOOLEAN),
    "status": (*TEXTS, Kind.BOOLEAN),
    "status_2": (*TEXTS, Kind.BOOLEAN),
    "status_3": (*TEXTS, Kind.BOOLEAN),
    "absent": (Kind.BOOLEAN,),
}
"""Of which kinds a column may be; those that are not here are texts."""

SEXES: Final = ("male", "female", "other", "unknown")


def _columns(**paths: str) -> list[dict[str, str]]:
    return [{"name": name, "path": path} for name, path in paths.items()]


def _coded(path: str, **columns: str) -> dict[str, Any]:
    """A row for each coding of the concepts at a path, beside `columns` of what they are about."""
    coding = {"forEach": f"{path}.coding", "column": _columns(system="system", code="code")}
    return {"column": _columns(**columns), "select": [coding]} if columns else coding


def _view(resource: str, subject: str, *selects: Mapping[str, Any], **columns: str) -> dict[str, Any]:
    shared = _columns(id="id", patient=f"{subject}.getReferenceKey(Patient)", **columns)
    return {"resource": resource, "select": [{"column": shared}, *selects]}


_QUANTITY: Final = {
    "comparator": "value.ofType(Quantity).comparator",
    "unit": "value.ofType(Quantity).unit",
    "unit_code": "value.ofType(Quantity).code",
    "unit_system": "value.ofType(Quantity).system",
}
_VALUE: Final = {
    "number": "value.ofType(Quantity).value",
    "number_2": "value.ofType(integer)",
    **_QUANTITY,
    "value": "value.ofType(string)",
    "value_2": "value.ofType(CodeableConcept).text",
    "value_3": "value.ofType(boolean)",
    "value_system": "value.ofType(CodeableConcept).coding.first().system",
    "value_code": "value.ofType(CodeableConcept).coding.first().code",
    "absent": "dataAbsentReason.exists()",
}
_MEDICATION: Final = "medication.ofType(CodeableConcept)"
_DOSE: Final = {
    "number": "dosage.dose.value",
    "comparator": "dosage.dose.comparator",
    "unit": "dosage.dose.unit",
    "unit_code": "dosage.dose.code",
    "unit_system": "dosage.dose.system",
}


def _of_patient(path: str, code: str, **columns: str) -> dict[str, Any]:
    empty = {"value": "{}", "time": "{}"}
    return {"forEach": path, "column": _columns(system="'patient'", code=f"'{code}'", **{**empty, **columns})}


VIEWS: Final[tuple[dict[str, Any], ...]] = (
    {
        "resource": "Patient",
        "select": [
            {"column": _columns(id="id", patient="id")},
            {
                "unionAll": [
                    _of_patient("birthDate", "birth-date", time="$this"),
                    _of_patient("gender", "sex", value="$this"),
                    _of_patient("deceased.ofType(dateTime)", "death", time="$this"),
                    _of_patient("deceased.ofType(boolean).where($this = true)", "death"),
                ]
            },
        ],
    },
    _view(
        "Observation",
        "subject",
        {
            "unionAll": [
                _coded("code", **_VALUE),
                {"forEach": "component", **_coded("code", **_VALUE)},
            ]
        },
        time="effective.ofType(dateTime)",
        time_2="effective.ofType(Period).start",
        time_3="effective.ofType(instant)",
        known="issued",
        status="status",
    ),
    _view(
        "Condition",
        "subject",
        _coded("code"),
        time="onset.ofType(dateTime)",
        time_2="onset.ofType(Period).start",
        time_3="recordedDate",
        known="recordedDate",
        status="verificationStatus.coding.code.first()",
    ),
    _view(
        "Procedure",
        "subject",
        _coded("code"),
        time="performed.ofType(dateTime)",
        time_2="performed.ofType(Period).start",
        status="status",
    ),
    _view(
        "MedicationRequest",
        "subject",
        _coded(_MEDICATION),
        time="authoredOn",
        status="status",
        status_2="intent",
        status_3="doNotPerform",
    ),
    _view(
        "MedicationStatement",
        "subject",
        _coded(_MEDICATION),
        time="effective.ofType(dateTime)",
        time_2="effective.ofType(Period).start",
        time_3="dateAsserted",
        known="dateAsserted",
        status="status",
    ),
    _view(
        "MedicationAdministration",
        "subject",
        _coded(_MEDICATION),
        time="effective.ofType(dateTime)",
        time_2="effective.ofType(Period).start",
        status="status",
        **_DOSE,
    ),
    _view(
        "Immunization",
        "patient",
        _coded("vaccineCode"),
        time="occurrence.ofType(dateTime)",
        known="recorded",
        status="status",
    ),
    _view(
        "AllergyIntolerance",
        "patient",
        _coded("code"),
        time="onset.ofType(dateTime)",
        time_2="onset.ofType(Period).start",
        time_3="recordedDate",
        known="recordedDate",
        status="verificationStatus.coding.code.first()",
    ),
    _view(
        "Encounter",
        "subject",
        {
            "unionAll": [
                {"forEach": "period.start", "column": _columns(system="'patient'", code="'seen'", time="$this")},
                {"forEach": "period.end", "column": _columns(system="'patient'", code="'seen'", time="$this")},
                {"forEach": "class", "column": _columns(system="system", code="code", time="{}")},
                {"forEach": "type.coding", "column": _columns(system="system", code="code", time="{}")},
            ]
        },
        time_2="period.start",
        status="status",
    ),
    _view(
        "DiagnosticReport",
        "subject",
        {"unionAll": [_coded("code"), _coded("conclusionCode")]},
        time="effective.ofType(dateTime)",
        time_2="effective.ofType(Period).start",
        known="issued",
        status="status",
    ),
)

LINKS: Final[dict[str, Any]] = {
    "resource": "Patient",
    "select": [
        {"column": _columns(id="id")},
        {"forEach": "link", "column": _columns(other="other.getReferenceKey(Patient)", type="type")},
    ],
}
"""Which patients' records another one replaces."""

IDENTIFIERS: Final[dict[str, Any]] = {
    "resource": "Patient",
    "select": [
        {"column": _columns(id="id")},
        {
            "forEach": "identifier.where(system = %wanted)",
            "column": _columns(other="value", type="'identifier'"),
        },
    ],
}
"""The identifiers of one system; the constant ``wanted`` is still to be given."""

_CLINICAL: Final = {
    "confirmed": "final",
    "unconfirmed": "preliminary",
    "provisional": "preliminary",
    "differential": "preliminary",
    "presumed": "preliminary",
    "refuted": "cancelled",
    "entered-in-error": "entered-in-error",
}
_REPORTED: Final = {
    "registered": "registered",
    "preliminary": "preliminary",
    "final": "final",
    "amended": "amended",
    "corrected": "corrected",
    "cancelled": "cancelled",
    "entered-in-error": "entered-in-error",
    "unknown": "unknown",
}
_DONE: Final = {
    "preparation": "registered",
    "not-done": "cancelled",
    "in-progress": "preliminary",
    "on-hold": "preliminary",
    "stopped": "cancelled",
    "completed": "final",
    "entered-in-error": "entered-in-error",
    "unknown": "unknown",
}
_GIVEN: Final = {**_DONE, "stopped": "final"}
_TAKEN: Final = {
    "active": "final",
    "completed": "final",
    "stopped": "final",
    "on-hold": "final",
    "intended": "registered",
    "not-taken": "cancelled",
    "entered-in-error": "entered-in-error",
    "unknown": "unknown",
}
_ORDERED: Final = {
    "active": "final",
    "completed": "final",
    "stopped": "final",
    "on-hold": "final",
    "draft": "registered",
    "cancelled": "cancelled",
    "entered-in-error": "entered-in-error",
    "unknown": "unknown",
    "proposal": "registered",
    "plan": "registered",
    "order": "final",
    "original-order": "final",
    "reflex-order": "final",
    "filler-order": "final",
    "instance-order": "final",
    "option": "registered",
    "true": "cancelled",
    "false": "final",
}
_MET: Final = {
    "planned": "registered",
    "arrived": "final",
    "triaged": "final",
    "in-progress": "final",
    "onleave": "final",
    "finished": "final",
    "cancelled": "cancelled",
    "entered-in-error": "entered-in-error",
    "unknown": "unknown",
}

STATUSES: Final[Mapping[str, Mapping[str, str]]] = {
    "Observation": _REPORTED,
    "DiagnosticReport": {**_REPORTED, "partial": "preliminary", "appended": "amended"},
    "Condition": _CLINICAL,
    "AllergyIntolerance": _CLINICAL,
    "Procedure": _DONE,
    "MedicationRequest": _ORDERED,
    "MedicationStatement": _TAKEN,
    "MedicationAdministration": _GIVEN,
    "Immunization": _DONE,
    "Encounter": _MET,
}
"""For each type of resource, what its statuses are in EVENT; a status that is not here is "unknown"."""

STATED_IF_DOUBTFUL: Final = frozenset({"Condition", "AllergyIntolerance"})
"""Types whose status may be left out; of all others none is "unknown"."""
