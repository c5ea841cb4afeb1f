"""Patients' consents, from FHIR R4 `Consent`: for which purpose a patient's records may be used, and from when to when.

A consent is read as denying whatever it cannot be read as permitting. It permits a purpose only where

- it is active, verified wherever it speaks of verification, and about privacy or research (not about treatment);
- a rule of it permits, and names that purpose or a wider one (HL7 v3 PurposeOfUse: HRESCH takes in CLINTRCH);
- that rule has no condition that a study cannot keep: an actor, a class or code of content, a label, a period of the
  data, or actions without both "access" and "use";
- no rule that is an exception to it, or stands beside it, denies that purpose, a wider or a narrower one.

It then permits from when it was given, or its period starts, until its period ends, if it ends. A denial holds from
when it was given on, whatever its period: R4's own examples use that also for *which data* are withheld, and a study
that no longer heeded it would show just those. An inactive or rejected consent counts as a denial of what it spoke of,
so that a withdrawal counts even where silence means yes; a newer consent stands over it.

A general denial denies all purposes, a general permission permits none: research has to be named.

A dateTime without a zone is the site's; if that is not declared, a permission begins at the latest instant and ends at
the earliest that it may mean, and a denial begins at the earliest. Of a permission and a denial of one instant the
denial stands, which is why it is told a microsecond later; that of a permission's end is told a microsecond earlier,
so that a renewal that begins just then stands over it.

Hazard: events know only "until a later one". The end of one permission also ends another that overlaps it.

References:
    HL7 FHIR R4, 6.2 Consent; https://terminology.hl7.org/CodeSystem/v3-ActReason, "PurposeOfUse".
"""

import calendar
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from wardround.harmonization import times
from wardround.harmonization.events import Precision
from wardround.sources import fhir_reference

__all__ = ["PURPOSES", "ConsentRow", "consent_offence", "consent_rows"]

_Value = Literal["permit", "deny"]
_Span = tuple[float, float]
_Verdict = tuple[Literal["permit", "deny", "silent"], list[_Span]]

_BELOW: Final[Mapping[str, str]] = {
    "PurposeOfUse": "HMARKT HOPERAT HPAYMT HRESCH PATRQT PUBHLTH TREAT",
    "HOPERAT": "CAREMGT DONAT FRAUD GOV HACCRED HCOMPL HDECD HDIRECT HDM HLEGAL HOUTCOMS HPRGRP HQUALIMP HSYSADMIN "
    "MEMADMIN MILCDM PATADMIN PATSFTY PERFMSR RECORDMGT SYSDEV TRAIN",
    "HSYSADMIN": "LABELING METAMGT",
    "SYSDEV": "HTEST",
    "HPAYMT": "CLMATTCH COVAUTH COVERAGE REMITADV",
    "COVERAGE": "ELIGDTRM ELIGVER ENROLLM MILDCRG",
    "HRESCH": "BIORCH CLINTRCH DSRCH POARCH TRANSRCH",
    "CLINTRCH": "CLINTRCHNPC CLINTRCHPC PRECLINTRCH",
    "PATRQT": "FAMRQT PWATRNY SUPNWK",
    "PUBHLTH": "DISASTER THREAT",
    "TREAT": "CLINTRL COC ETREAT POPHLTH",
    "ETREAT": "BTG ERTREAT",
}
_ABOVE: Final = {code: above for above, below in _BELOW.items() for code in below.split()}

PURPOSES: Final = (
    *("HRESCH", "BIORCH", "CLINTRCH", "CLINTRCHNPC", "CLINTRCHPC", "PRECLINTRCH", "DSRCH", "POARCH", "TRANSRCH"),
    *("PUBHLTH", "HOUTCOMS", "HQUALIMP"),
)
"""The purposes that studies have: research of every kind, public health, outcomes and quality."""

_BEGINNING: Final = -2_208_988_800_000_000
_FOREVER: Final = float("inf")
_DEEPEST: Final = 20
_PURPOSE_SYSTEMS: Final = {
    "http://terminology.hl7.org/CodeSystem/v3-ActReason",
    "http://hl7.org/fhir/v3/ActReason",
    "urn:oid:2.16.840.1.113883.5.8",
}
_KNOWN: Final = {*_ABOVE, *_BELOW}
_NOT_IN_FORCE: Final = {"draft", "proposed", "entered-in-error"}
_NOT_UNDERSTOOD: Final = "consent with a rule that is not understood"
_BASE_POLICIES: Final[Mapping[str, _Value]] = {
    "OPTIN": "permit",
    "OPTINR": "permit",
    "OPTOUT": "deny",
    "OPTOUTE": "deny",
}
_HARMLESS: Final = {"id", "extension", "type", "period", "purpose", "action", "code", "provision"}
_R5_ELEMENTS: Final = ("decision", "subject", "regulatoryBasis", "grantor", "grantee", "controller", "policyText")


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsentRow:
    """One event of the system ``patient``: `code` is ``consent:PURPOSE``; `value` holds from `time_us` on."""

    patient: str
    code: str
    value: _Value
    time_us: int


class _UnreadableError(Exception):
    """A consent that says something that is not understood; its text is the reason."""


def consent_rows(
    resource: Mapping[str, Any],
    *,
    zone: str | None = None,
    purposes: Iterable[str] = PURPOSES,
    policies: Mapping[str, str] | None = None,
) -> list[ConsentRow]:
    """What a Consent says of each purpose, as events; nothing where it says nothing or is of no known patient.

    Args:
        resource: The parsed Consent.
        zone: The site's, for dates and times without one.
        purposes: The codes of PurposeOfUse that are asked for.
        policies: What a site's own codes of content ("system|code" of ``provision.code``) mean as a purpose, for
            consents that name modules of a form rather than purposes.
    """
    patient = _patient(resource)
    if not patient or str(resource.get("status")) in _NOT_IN_FORCE:
        return []
    rows = []
    for purpose in purposes:
        try:
            verdict, spans = _of_consent(resource, _Reading(purpose, zone, policies or {}))
        except _UnreadableError:
            verdict, spans = "deny", []
        rows += [
            ConsentRow(patient=patient, code=f"consent:{purpose}", value=value, time_us=time_us)
            for value, time_us in _moments(verdict, spans, resource, zone)
        ]
    return rows


def consent_offence(resource: Mapping[str, Any]) -> str:
    """Why a Consent is not understood, for the source's report; "" if it is, or if it is not in force."""
    if not _patient(resource):
        return "consent of no known patient"
    if str(resource.get("status")) not in _NOT_IN_FORCE:
        try:
            _of_consent(resource, _Reading("HRESCH", "Etc/UTC", {}))
        except _UnreadableError as reason:
            return str(reason)
    return ""


def _patient(resource: Mapping[str, Any]) -> str:
    who = resource.get("patient", resource.get("subject"))
    if not isinstance(who, dict) or not isinstance(who.get("reference"), str):
        return ""
    return fhir_reference.key(who, "Patient") or ""


def _of_consent(resource: Mapping[str, Any], reading: "_Reading") -> _Verdict:
    if any(name in resource for name in _R5_ELEMENTS) or isinstance(resource.get("provision"), list):
        raise _UnreadableError("consent in R5's form")
    if "modifierExtension" in resource or "implicitRules" in resource:
        raise _UnreadableError("consent with a modifier that is not known")
    scopes = _codes([resource["scope"]] if "scope" in resource else [])
    if scopes and scopes <= {"adr", "treatment"}:
        return "silent", []
    if not scopes & {"research", "patient-privacy"}:
        raise _UnreadableError("consent of an unknown scope")
    if str(resource.get("status")) not in {"active", "inactive", "rejected"}:
        raise _UnreadableError("consent of an unknown status")
    policy = _codes([resource["policyRule"]] if "policyRule" in resource else [])
    base = next((kind for code, kind in _BASE_POLICIES.items() if code in policy), None)
    rule = resource.get("provision", {})
    if not isinstance(rule, dict) or not (base or "type" in rule or rule.get("provision")):
        raise _UnreadableError("consent without a rule that can be computed")
    verdict, spans = reading.of_rule(rule, base or "deny", 0)
    verified = all(isinstance(one, dict) and one.get("verified") is True for one in _listed(resource, "verification"))
    withdrawn = verdict == "permit" and not (verified and resource["status"] == "active")
    if withdrawn or (verdict == "silent" and reading.restricted):
        return "deny", []
    return verdict, spans


class _Reading:
    """How the rules of a consent are read for one purpose."""

    def __init__(self, purpose: str, zone: str | None, policies: Mapping[str, str]) -> None:
        self._wider = set(_upwards(purpose))
        self._overlapping = self._wider | {code for code in _ABOVE if purpose in _upwards(code)}
        self._zone, self._policies = zone, policies
        self.restricted = False
        """Whether there was a permission with a condition that no study can keep."""

    def of_rule(self, rule: object, default: _Value | None, depth: int) -> _Verdict:
        """What a rule and its exceptions say, and when; a denial stands over all but its own exceptions."""
        if not isinstance(rule, dict) or depth > _DEEPEST or "modifierExtension" in rule:
            raise _UnreadableError(_NOT_UNDERSTOOD)
        said = str(rule.get("type", default))
        if said not in {"permit", "deny"}:
            raise _UnreadableError(_NOT_UNDERSTOOD)
        kind: _Value = "deny" if said == "deny" else "permit"
        period = self._period(rule)
        purposes = self._purposes(rule, kind)
        exceptions = [self.of_rule(one, None, depth + 1) for one in _listed(rule, "provision")]
        if any(verdict == "deny" for verdict, _ in exceptions):
            return "deny", []
        if purposes is not None and not purposes & self._overlapping:
            # An exception to a rule about something else permits nothing.
            return "silent", []
        permitted = [(max(start, period[0]), min(end, period[1])) for _, spans in exceptions for start, end in spans]
        if kind == "permit" and self._restricts(rule):
            self.restricted = True
            return "silent", []
        if kind == "permit" and purposes is not None and purposes & self._wider:
            return "permit", [period]
        if permitted:
            return "permit", permitted
        return ("deny" if kind == "deny" else "silent"), []

    def _purposes(self, rule: Mapping[str, Any], kind: _Value) -> set[str] | None:
        """The purposes that a rule names, None where it is about all; a denial of an unknown one may be of any."""
        unknown = self._overlapping if kind == "deny" else set()
        found: set[str] = set()
        if named := _listed(rule, "purpose"):
            for coding in named:
                known = str(coding.get("system")) in _PURPOSE_SYSTEMS and str(coding.get("code")) in _KNOWN
                found |= {str(coding.get("code"))} if known else unknown
            return found
        if content := _codings(_listed(rule, "code")):
            for coding in content:
                policy = self._policies.get(_named(coding))
                found |= {policy} if policy else unknown
            return found
        return unknown if rule.get("code") else None

    def _restricts(self, rule: Mapping[str, Any]) -> bool:
        if set(rule) - _HARMLESS or ("purpose" in rule and "code" in rule):
            return True
        if any(_named(coding) not in self._policies for coding in _codings(_listed(rule, "code"))):
            return True
        return "action" in rule and not _codes(_listed(rule, "action")) >= {"access", "use"}

    def _period(self, rule: Mapping[str, Any]) -> _Span:
        period = rule.get("period", {})
        if not isinstance(period, dict) or set(period) - {"id", "extension", "start", "end"}:
            raise _UnreadableError(_NOT_UNDERSTOOD)
        start = _instant(period["start"], self._zone, permits=True) if "start" in period else -_FOREVER
        end = _instant(period["end"], self._zone, permits=False, over=True) if "end" in period else _FOREVER
        if start is None or end is None:
            raise _UnreadableError(_NOT_UNDERSTOOD)
        return start, end


def _moments(
    verdict: str, spans: list[_Span], resource: Mapping[str, Any], zone: str | None
) -> Iterator[tuple[_Value, int]]:
    if verdict == "silent":
        return
    given, meta = resource.get("dateTime"), resource.get("meta")
    updated = _instant(meta.get("lastUpdated"), zone, permits=True) if isinstance(meta, dict) else None
    earliest = _instant(given, zone, permits=True)
    earliest = updated if earliest is None else earliest
    permitted: list[_Span] = []
    for start, end in sorted(spans):
        begins = start if earliest is None else max(start, earliest)
        if -_FOREVER < begins < end:
            if permitted and begins <= permitted[-1][1]:
                permitted[-1] = permitted[-1][0], max(end, permitted[-1][1])
            else:
                permitted.append((begins, end))
    for begins, end in permitted:
        yield "permit", int(begins)
        if end < _FOREVER:
            yield "deny", int(end) - 1
    if not permitted:
        denied = _instant(given, zone, permits=False)
        yield "deny", (_BEGINNING if denied is None else int(denied)) + 1
        if denied is None and updated is not None:
            yield "deny", int(updated) + 1


def _instant(text: object, zone: str | None, *, permits: bool, over: bool = False) -> float | None:
    """The instant at which what a dateTime names begins, or is `over`; None where it is no dateTime.

    `permits`: a permission depends on it, so it is the latest instant that may be meant, and begins with a whole day.
    """
    somewhere = zone or ("Etc/GMT+12" if permits else "Etc/GMT-14")
    moment = times.parse(text, somewhere) if isinstance(text, str) else ""
    if isinstance(moment, str):
        return None
    if moment.precision > Precision.DAY:
        return moment.time_us + over
    if not over and not (permits and moment.precision < Precision.DAY):
        return moment.time_us
    year, month, day = (int(part) for part in [*str(text).strip().split("-"), "0", "0"][:3])
    after = times.parse(_following(year, month, day), somewhere)
    return _FOREVER if isinstance(after, str) else after.time_us


def _following(year: int, month: int, day: int) -> str:
    if day and day < calendar.monthrange(year, month)[1]:
        return f"{year:04}-{month:02}-{day + 1:02}"
    if month and month < 12:
        return f"{year:04}-{month + 1:02}-01"
    return f"{year + 1:04}-01-01"


def _upwards(code: str) -> Iterator[str]:
    while code:
        yield code
        code = _ABOVE.get(code, "")


def _named(coding: Mapping[str, Any]) -> str:
    return f"{coding.get('system')}|{coding.get('code')}"


def _codes(concepts: list[Any]) -> set[str]:
    return {str(coding.get("code")) for coding in _codings(concepts)}


def _codings(concepts: list[Any]) -> list[dict[str, Any]]:
    return [coding for concept in concepts for coding in _listed(concept, "coding")]


def _listed(where: object, name: str) -> list[Any]:
    found = where.get(name, []) if isinstance(where, dict) else None
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        raise _UnreadableError(_NOT_UNDERSTOOD)
    return found
