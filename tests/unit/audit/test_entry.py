"""Entries: canonical, bounded, open to growth, without names; pseudonyms; the accounting; lines for a SIEM."""

import hashlib
import hmac
import json
import re

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.audit.logs import NOW, data

from wardround.audit import disclosure, pseudonym, siem
from wardround.audit import entry as entries
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
    Left,
    Login,
    LogStarted,
    NewerEntry,
    PackageVerdict,
    PeerRefused,
    PolicyChange,
    Release,
    RosterSigned,
    RoundPerformed,
    SandboxViolation,
    StudyDecision,
)
from wardround.errors import CodecError

D, AT = "ab" * 32, NOW * 1000
STUDY = "cd" * 32
EVENTS = [
    LogStarted("1.2.0"),
    ClockSetBack(AT, AT - 5),
    Login("refused", "passkey", "unknown-credential"),
    Login("ended", "session"),
    Access("study.approve", "study/7", "denied", ("policy-4",)),
    StudyDecision("approved"),
    RoundPerformed(3, (Left("masked-update", D, 812),), dataset="icu"),
    ContributionVerdict("arran", "refused", 3, reason="late"),
    Release(D, 5, "researcher", 0.5, 0.25),
    PeerRefused("hub", "crypto/audit", D),
    KeyChange("released", D, "model", "bute", "ef" * 48),
    PolicyChange("egress", D),
    RosterSigned(D, 4, 2),
    BudgetChange("spent", "icu", 0.25),
    DataAccess("icu", "training", "gdpr-9-2-j", 812, D),
    Deletion("model", 1, D),
    SandboxViolation("network"),
    PackageVerdict(D, "verified"),
    AttestationVerdict("sev-snp", "accepted", "ef" * 48),
    EgressRefused("too-large", D, 9),
]


def made(event, **changes):
    return Entry(**{"at": AT, "actor": "arran", "event": event, "study": STUDY, **changes})


def test_there_is_an_example_of_every_kind():
    kinds = set(entries.Event.__args__)
    assert {type(event) for event in EVENTS} == kinds
    assert len(kinds) == 19


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: type(event).__name__)
def test_an_entry_comes_back_and_is_canonical(event):
    entry = made(event)
    stored = entries.encode(entry)
    assert entries.decode(stored) == entry
    plain = json.loads(stored)
    assert stored == json.dumps(plain, sort_keys=True, separators=(",", ":")).encode()
    assert plain["event"]["kind"] == entries.kind_of(entry)
    assert len(stored) < 1000


@pytest.mark.parametrize(
    "entry",
    [
        made(Login("accepted", "a free text")),
        made(Login("accepted", "x" * 97)),
        made(Login("accepted", "passkey\n")),
        made(Login("accepted", "")),
        made(LogStarted("1"), actor="Jane Doe"),
        made(LogStarted("1"), actor="person:jane"),
        made(LogStarted("1"), actor="arran\n"),
        made(LogStarted("1"), study="short"),
        made(LogStarted("1"), run=STUDY),
        made(LogStarted("1"), at=-1),
        made(LogStarted("1"), at=1 << 60),
        made(RoundPerformed(1, (Left("update", D, 1),) * 33)),
        made(BudgetChange("spent", "icu", float("nan"))),
        made(BudgetChange("spent", "icu", -1.0)),
        made(BudgetChange("borrowed", "icu", 1.0)),
    ],
)
def test_what_breaks_a_rule_is_not_written(entry):
    with pytest.raises(CodecError):
        entries.encode(entry)


def test_no_field_takes_more_than_a_bounded_word():
    """Every string of every event has a pattern or is one of a list: a free text cannot be recorded."""
    names = ("oneOf", "anyOf")

    def strings(schema):
        if schema.get("type") == "string":
            yield schema
        for key in (*names, "prefixItems"):
            for part in schema.get(key, []):
                yield from strings(part)
        for part in schema.get("properties", {}).values():
            yield from strings(part)
        if isinstance(schema.get("items"), dict):
            yield from strings(schema["items"])

    document = msgspec.json.schema(Entry)
    found = [schema for part in document["$defs"].values() for schema in strings(part)]
    assert len(found) > 30
    assert all("pattern" in schema for schema in found)


def test_a_newer_kind_and_a_newer_field_are_read_as_far_as_they_can_be():
    stored = entries.encode(made(LogStarted("1")))
    assert entries.decode(stored.replace(b"log-started", b"moon-phase")) == NewerEntry(AT, "moon-phase")
    assert entries.decode(stored.replace(b'"version"', b'"phase":"full","version"')) == NewerEntry(AT, "log-started")


def test_a_field_that_is_added_with_a_default_leaves_old_entries_as_they_are():
    class Grown(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, tag="log-started"):
        version: str
        colour: str = "none"

    from wardround.codec import canonical

    old = canonical.encode(msgspec.json.decode(b'{"type":"log-started","version":"1"}', type=Grown))
    assert old == b'{"type":"log-started","version":"1"}'
    assert canonical.decode(old, Grown).colour == "none"


@given(st.binary(max_size=200))
def test_hostile_bytes_give_our_error_only(junk):
    for bad in (junk, b'{"at":1,"event":{"kind":' + junk + b"}}", entries.encode(made(EVENTS[0])) + junk):
        try:
            entries.decode(bad)
        except CodecError:
            continue


def test_an_entry_that_is_too_large_is_refused():
    with pytest.raises(CodecError, match="8192"):
        entries.decode(b'{"at":1,"event":{"kind":"x","y":"' + b"z" * 9000 + b'"}}')


def test_a_pseudonym_is_an_hmac_of_the_name_under_the_persons_key():
    key = bytes(range(32))
    whole = hmac.new(key, b"wardround audit pseudonym v1\0" + b"jane@site", hashlib.sha256).hexdigest()
    assert pseudonym.pseudonym("jane@site", key) == whole[:32]
    assert pseudonym.pseudonym("jane@site", bytes(32)) != whole[:32]
    assert pseudonym.handle("jane@site", key) != whole
    with pytest.raises(ValueError, match="32"):
        pseudonym.pseudonym("jane", b"short")


def rows():
    def at(second, event, **changes):
        return made(event, at=AT + second * 1000, **changes)

    other = "ee" * 32
    return [
        at(0, DataAccess("icu", "training", "gdpr-9-2-j", 800)),
        at(1, RoundPerformed(1, (Left("update", D, 100), Left("evaluation", D, 7)))),
        at(2, BudgetChange("spent", "icu", 0.5)),
        at(3, DataAccess("icu", "training", "gdpr-9-2-j", 812), actor="person:" + "a" * 32),
        at(4, RoundPerformed(2, (Left("update", D, 100),))),
        at(5, BudgetChange("spent", "icu", 0.5)),
        at(6, BudgetChange("refunded", "icu", 0.25)),
        at(7, DataAccess("wards", "analysis", None, 9), study=other),
        at(8, RoundPerformed(1, (Left("statistics", D, 11),), purpose="analysis"), study=other),
        at(9, Login("accepted", "passkey")),
        NewerEntry(AT, "moon-phase"),
    ]


def test_the_accounting_says_who_used_what_for_what_and_what_left():
    icu, wards = disclosure.account(rows())
    assert (icu.dataset, icu.study, icu.purpose, icu.legal_basis) == ("icu", STUDY, "training", "gdpr-9-2-j")
    assert icu.actors == ("arran", "person:" + "a" * 32)
    assert (icu.first_at, icu.last_at, icu.reads, icu.records) == (AT, AT + 6000, 2, 812)
    assert (icu.rounds, icu.bytes_left, icu.epsilon) == (2, 207, 0.75)
    assert (wards.dataset, wards.purpose, wards.rounds, wards.bytes_left) == ("wards", "analysis", 1, 11)


def test_the_accounting_of_one_dataset_study_or_time_leaves_out_the_rest():
    assert [line.dataset for line in disclosure.account(rows(), dataset="wards")] == ["wards"]
    assert [line.dataset for line in disclosure.account(rows(), study=STUDY)] == ["icu"]
    (late,) = disclosure.account(rows(), dataset="icu", since=AT + 4000)
    assert (late.reads, late.rounds, late.bytes_left, late.epsilon) == (0, 1, 100, 0.25)
    assert disclosure.account(rows(), dataset="none") == []


OCSF_CLASSES = {3002: 3, 3004: 3, 6003: 6, 6005: 6, 2004: 2}


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: type(event).__name__)
def test_every_kind_is_an_ocsf_event_whose_numbers_fit_one_another(event):
    stored = entries.encode(made(event))
    found = siem.ocsf(7, stored, origin="hub.example/log", version="1.2.0")
    assert found["type_uid"] == found["class_uid"] * 100 + found["activity_id"]
    assert found["category_uid"] == OCSF_CLASSES[found["class_uid"]]
    assert found["time"] == AT
    assert found["metadata"]["uid"] == hashlib.sha256(b"\0" + stored).hexdigest()
    assert json.loads(json.dumps(found)) == found
    refused = "refused" in str(stored) or "denied" in str(stored)
    alarm = isinstance(event, (SandboxViolation, EgressRefused, PeerRefused, ClockSetBack))
    assert found["status_id"] == (2 if refused or alarm else 1)


RFC_5424 = re.compile(
    r"<(\d{1,3})>1 (\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z) ([!-~]{1,255}) ([!-~]{1,48}) ([!-~]{1,128}) ([!-~]{1,32}) "
    r'(\[[!-~]+(?: [!-~]+?="(?:[^"\\\]]|\\["\\\]])*")*\]) (.*)'
)


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: type(event).__name__)
def test_every_kind_is_a_line_of_rfc_5424(event):
    stored = entries.encode(made(event))
    line = siem.syslog(7, stored, origin='a"]\\log', host="an odd host\n")
    found = RFC_5424.fullmatch(line)
    assert found
    assert "\n" not in line
    assert int(found[1]) // 8 == 13
    assert found[6] == entries.kind_of(made(event))
    assert found[8].encode() == stored
    assert r'origin="a\"\]\\log"' in found[7]


def test_an_alarm_is_louder_than_a_login():
    levels = {}
    for event in (EVENTS[2], LogStarted("1"), SandboxViolation("network")):
        line = siem.syslog(0, entries.encode(made(event)), origin="o", host="h")
        levels[type(event)] = int(line[1:].partition(">")[0]) % 8
    assert levels[SandboxViolation] < levels[Login] < levels[LogStarted]


def test_newer_entries_are_passed_on_too():
    newer = data(1).replace(b"data-access", b"moon-phase")
    assert siem.ocsf(0, newer, origin="o", version="1")["unmapped"]["kind"] == "moon-phase"
    assert "moon-phase" in siem.syslog(0, newer, origin="o", host="h")
