"""Resources that are not simply in order: of another FHIR version, numbers written as texts, medications elsewhere.

A view sees what has R4's shape, and passes over the rest. What it must not pass over is found here, by fields whose
mere presence is a sign (`IrregularResources.markers`) or because a field does not have R4's shape:

- A resource of STU3 or R5 says so in its profile, or has fields that R4 does not have. It is refused, since a field of
  one name may mean something else.
- A Quantity's value that is written as a text ("5.2", "<5") becomes the number, with its comparator; any other is
  counted as unparseable.
- A medication that is a reference to a contained resource is put in its place; one that is elsewhere is refused.
- A value of a type that no event can hold (a Range, a Ratio, a time) is counted.
"""

import re
from collections.abc import Iterable, Mapping
from decimal import Decimal, InvalidOperation
from typing import Any, Final

from wardround.harmonization.events import SourceReport

__all__ = ["MARKERS", "MEDICATION_ELSEWHERE", "OTHER_VALUE", "OTHER_VERSION", "UNPARSEABLE", "IrregularResources"]

OTHER_VERSION: Final = "resource of another FHIR version"
MEDICATION_ELSEWHERE: Final = "medication in a resource of its own"
UNPARSEABLE: Final = "value unparseable"
OTHER_VALUE: Final = "value of a type that events do not hold"

MARKERS: Final[Mapping[str, frozenset[str]]] = {
    "Patient": frozenset({"animal"}),
    "Observation": frozenset(
        {"comment", "related", "context", "triggeredBy", "bodyStructure", "instantiatesCanonical"}
    ),
    "Condition": frozenset({"assertedDate", "context", "participant"}),
    "Procedure": frozenset(
        {"notDone", "context", "definition", "occurrenceDateTime", "occurrencePeriod", "occurrenceString", "recorded"}
    ),
    "MedicationRequest": frozenset({"definition", "context", "medication", "renderedDosageInstruction"}),
    "MedicationStatement": frozenset({"taken", "medication", "notTaken", "adherence"}),
    "MedicationAdministration": frozenset(
        {"notGiven", "prescription", "medication", "occurenceDateTime", "occurencePeriod"}
    ),
    "Immunization": frozenset({"notGiven", "date", "explanation", "vaccinationProtocol", "administeredProduct"}),
    "AllergyIntolerance": frozenset({"assertedDate", "participant"}),
    "Encounter": frozenset({"incomingReferral", "actualPeriod", "plannedStartDate", "subjectStatus", "admission"}),
    "DiagnosticReport": frozenset({"context", "codedDiagnosis", "image", "supportingInfo"}),
}
"""Fields that STU3 or R5 has and R4 has not."""

_STRUCTURES: Final[Mapping[str, tuple[str, ...]]] = {
    "Condition": ("clinicalStatus", "verificationStatus"),
    "AllergyIntolerance": ("clinicalStatus", "verificationStatus"),
    "Encounter": ("class",),
}
"""Fields that are a text in STU3, or a list in R5, and in R4 an object."""

_UNUSED_VALUES: Final = ("valueRange", "valueRatio", "valueSampledData", "valueTime", "valueDateTime", "valuePeriod")
_MEDICATED: Final = frozenset({"MedicationRequest", "MedicationStatement", "MedicationAdministration"})
_ELSEWHERE: Final = "medicationReference"
_PROFILES: Final = (
    r"^(?!https?://hl7\.org/fhir/(?:(?:1|3|5|6)\.|DSTU2/|STU3/|R5/|StructureDefinition/[A-Za-z]+\|(?:1|3|5|6)\.))"
)
_BOUND: Final = re.compile(r"\s*(<=|>=|<|>)?\s*([+-]?\d{1,30}(?:\.\d{1,30})?(?:[eE][+-]?\d{1,3})?)\s*", re.ASCII)


class IrregularResources:
    """What `wardround.sources.fhir_decode.LineDecoder` asks; what becomes of the resources is told to `report`."""

    profiles = _PROFILES

    def __init__(self, report: SourceReport) -> None:
        self._report = report

    def markers(self, resource_type: str) -> Iterable[str]:
        """Fields whose presence alone makes a resource of this type irregular."""
        signs = set(MARKERS.get(resource_type, ()))
        if resource_type == "Observation":
            signs |= {*_UNUSED_VALUES}
        if resource_type in _MEDICATED:
            signs.add(_ELSEWHERE)
        return sorted(signs)

    def structures(self, resource_type: str) -> Iterable[str]:
        """Fields that must be JSON objects."""
        return _STRUCTURES.get(resource_type, ())

    def mended(self, resource: dict[str, Any]) -> dict[str, Any] | None:
        """The resource set right; None if it is refused, and counted as such."""
        if _is_other_version(resource):
            self._report.refuse(OTHER_VERSION)
            return None
        resource_type = resource["resourceType"]
        if resource_type == "Observation":
            self._mend_values(resource)
        elif resource_type == "MedicationAdministration" and isinstance(dosage := resource.get("dosage"), dict):
            self._mend_quantity(dosage, "dose")
        if resource_type in _MEDICATED and _ELSEWHERE in resource and not _inlined(resource):
            self._report.refuse(MEDICATION_ELSEWHERE)
            return None
        return resource

    def _mend_values(self, observation: dict[str, Any]) -> None:
        components = observation.get("component")
        parts = [part for part in components if isinstance(part, dict)] if isinstance(components, list) else []
        for holder in (observation, *parts):
            self._mend_quantity(holder, "valueQuantity")
            whole = holder.get("valueInteger")
            if whole is not None and type(whole) is not int:
                self._report.note(UNPARSEABLE)
            self._report.note(OTHER_VALUE, sum(holder.get(name) is not None for name in _UNUSED_VALUES))

    def _mend_quantity(self, holder: dict[str, Any], name: str) -> None:
        quantity = holder.get(name)
        if not isinstance(quantity, dict):
            if quantity is not None:
                self._report.note(UNPARSEABLE)
            return
        value = quantity.get("value")
        if value is None or (isinstance(value, int | Decimal) and not isinstance(value, bool)):
            return
        found = _BOUND.fullmatch(value) if isinstance(value, str) else None
        stated = quantity.get("comparator")
        if found is None or (found[1] and stated not in {None, found[1]}):
            self._report.note(UNPARSEABLE)
            return
        try:
            quantity["value"] = Decimal(found[2])
        except InvalidOperation:
            self._report.note(UNPARSEABLE)
            return
        if found[1]:
            quantity["comparator"] = found[1]


def _is_other_version(resource: dict[str, Any]) -> bool:
    resource_type = resource["resourceType"]
    if any(resource.get(name) is not None for name in MARKERS.get(resource_type, ())):
        return True
    if any(isinstance(resource.get(name), str | list) for name in _STRUCTURES.get(resource_type, ())):
        return True
    meta = resource.get("meta")
    profiles = meta.get("profile") if isinstance(meta, dict) else None
    stated = profiles if isinstance(profiles, list) else [profiles]
    return any(isinstance(profile, str) and not re.search(_PROFILES, profile) for profile in stated)


def _inlined(resource: dict[str, Any]) -> bool:
    """Whether the medication is contained, and now stands where a concept would."""
    reference, contained = resource[_ELSEWHERE], resource.get("contained")
    target = reference.get("reference") if isinstance(reference, dict) else None
    if not isinstance(target, str) or not target.startswith("#") or not isinstance(contained, list):
        return False
    for one in contained:
        if isinstance(one, dict) and one.get("resourceType") == "Medication" and one.get("id") == target[1:]:
            resource["medicationCodeableConcept"] = one.get("code")
            return True
    return False
