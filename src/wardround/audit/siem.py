"""Entries for a security operations centre: OCSF events, and syslog lines of RFC 5424.

Both carry the entry's index and its leaf hash, so that an alert leads back to the provable entry.

References:
    Open Cybersecurity Schema Framework 1.3: Authentication (3002), Entity Management (3004), API Activity (6003),
    Datastore Activity (6005), Detection Finding (2004).
    RFC 5424, The Syslog Protocol; RFC 5612 for the enterprise number of structured data.
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from wardround.audit import entry as entries
from wardround.audit import merkle
from wardround.audit.entry import (
    Access,
    AttestationVerdict,
    BudgetChange,
    ClockSetBack,
    ContributionVerdict,
    DataAccess,
    Deletion,
    EgressRefused,
    Entry,
    KeyChange,
    Login,
    NewerEntry,
    PackageVerdict,
    PeerRefused,
    Release,
    RoundPerformed,
    SandboxViolation,
    StudyDecision,
)

__all__ = ["OCSF_VERSION", "ocsf", "syslog"]

OCSF_VERSION: Final = "1.3.0"
_AUTHENTICATION, _ENTITY, _API, _DATASTORE, _FINDING = 3002, 3004, 6003, 6005, 2004
_CLASSES: Final = {
    _AUTHENTICATION: ("Authentication", 3, "Identity & Access Management"),
    _ENTITY: ("Entity Management", 3, "Identity & Access Management"),
    _API: ("API Activity", 6, "Application Activity"),
    _DATASTORE: ("Datastore Activity", 6, "Application Activity"),
    _FINDING: ("Detection Finding", 2, "Findings"),
}
_CREATE, _READ, _UPDATE, _DELETE, _OTHER = 1, 2, 3, 4, 99
_LOGON, _LOGOFF = 1, 2
_INFORMATIONAL, _MEDIUM, _HIGH = 1, 3, 4
_KEY_ACTIVITY: Final = {"issued": _CREATE, "destroyed": _DELETE, "revoked": _DELETE, "release-revoked": _DELETE}
# RFC 5424, 6.2.1: facility 13 is "log audit"; severities 6 informational, 4 warning, 3 error.
_FACILITY: Final = 13
_SEVERITY: Final = {_INFORMATIONAL: 6, _MEDIUM: 4, _HIGH: 3}


@dataclass(frozen=True, slots=True)
class _Sort:
    class_uid: int
    activity: int
    is_failure: bool = False
    severity: int = _INFORMATIONAL


def ocsf(index: int, data: bytes, *, origin: str, version: str) -> dict[str, Any]:
    """An entry as an OCSF event, ready to be written as JSON.

    Raises:
        CodecError: It is no entry.
    """
    entry = entries.decode(data)
    sort = _sort(entry)
    name, category, category_name = _CLASSES[sort.class_uid]
    event: dict[str, Any] = {
        "activity_id": sort.activity,
        "category_name": category_name,
        "category_uid": category,
        "class_name": name,
        "class_uid": sort.class_uid,
        "metadata": {
            "log_name": origin,
            "product": {"name": "Wardround", "vendor_name": "Wardround", "version": version},
            "sequence": index,
            "uid": merkle.leaf(data).hex(),
            "version": OCSF_VERSION,
        },
        "severity_id": sort.severity,
        "status_id": 2 if sort.is_failure else 1,
        "time": entry.at,
        "type_uid": sort.class_uid * 100 + sort.activity,
        "unmapped": {"kind": entries.kind_of(entry)},
    }
    if isinstance(entry, Entry):
        event["actor"] = {"user": {"name": entry.actor, "type_id": 1 if entry.actor.startswith("person:") else 3}}
        event["unmapped"] |= msgspec.json.decode(data)
        event |= _objects(entry)
    return event


def syslog(index: int, data: bytes, *, origin: str, host: str) -> str:
    """An entry as one line of RFC 5424, without its newline.

    Raises:
        CodecError: It is no entry.
    """
    entry = entries.decode(data)
    priority = _FACILITY * 8 + _SEVERITY[_sort(entry).severity]
    instant = datetime.fromtimestamp(entry.at / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    fields = {"origin": origin, "index": str(index), "leaf": merkle.leaf(data).hex()}
    if isinstance(entry, Entry):
        fields |= {"actor": entry.actor, "study": entry.study or "", "run": entry.run or ""}
    structured = "".join(f' {name}="{_quoted(value)}"' for name, value in fields.items() if value)
    body = data.decode("utf-8", "replace")
    head = f"<{priority}>1 {instant} {_word(host, 255)} wardround - {_word(entries.kind_of(entry), 32)}"
    return f"{head} [audit@32473{structured}] {body}"


def _quoted(value: str) -> str:
    # RFC 5424, 6.3.3: a backslash before quote, backslash and closing bracket.
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("]", "\\]")


def _word(value: str, limit: int) -> str:
    return "".join(c for c in value if "!" <= c <= "~")[:limit] or "-"


def _objects(entry: Entry) -> dict[str, Any]:
    match entry.event:
        case Login() as login:
            return {"auth_protocol": login.method, "user": {"name": entry.actor}}
        case Access() as access:
            return {"api": {"operation": access.action}, "resources": [{"name": access.resource}]}
        case DataAccess() as read:
            return {"database": {"name": read.dataset, "type_id": 1}}
        case KeyChange() as change:
            return {"entity": {"type": "key", "uid": change.key}}
        case (SandboxViolation() | EgressRefused() | PeerRefused() | ClockSetBack()) as bad:
            return {"finding_info": {"title": entries.kind_of(entry), "uid": str(bad.__struct_config__.tag)}}
        case _:
            return {"api": {"operation": entries.kind_of(entry)}}


def _sort(entry: Entry | NewerEntry) -> _Sort:
    if isinstance(entry, NewerEntry):
        return _Sort(_API, _OTHER)
    match entry.event:
        case Login(outcome=outcome):
            is_refused = outcome == "refused"
            activity = _LOGOFF if outcome == "ended" else _LOGON
            return _Sort(_AUTHENTICATION, activity, is_refused, _MEDIUM if is_refused else _INFORMATIONAL)
        case SandboxViolation() | EgressRefused() | PeerRefused() | ClockSetBack():
            return _Sort(_FINDING, _CREATE, is_failure=True, severity=_HIGH)
        case DataAccess():
            return _Sort(_DATASTORE, _OTHER)
        case KeyChange(change=change):
            return _Sort(_ENTITY, _KEY_ACTIVITY.get(change, _UPDATE))
        case Deletion():
            return _Sort(_API, _DELETE)
        case RoundPerformed() | Release():
            return _Sort(_API, _READ)
        case _:
            is_failure = _is_failure(entry)
            return _Sort(_API, _OTHER, is_failure, _MEDIUM if is_failure else _INFORMATIONAL)


def _is_failure(entry: Entry) -> bool:
    match entry.event:
        case Access(decision=decision) | StudyDecision(decision=decision):
            return decision in {"denied", "refused"}
        case ContributionVerdict(outcome=outcome) | PackageVerdict(outcome=outcome):
            return outcome == "refused"
        case AttestationVerdict(outcome=outcome):
            return outcome == "refused"
        case BudgetChange(change=change):
            return change == "refused"
        case _:
            return False
