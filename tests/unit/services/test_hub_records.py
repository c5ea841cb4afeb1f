"""What a hub writes down: before it happens, in an auditor's words, and nobody's name."""

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wardround.audit import entry as entries
from wardround.audit.entry import (
    Access,
    AttestationVerdict,
    ContributionVerdict,
    Entry,
    KeyChange,
    Release,
    RosterSigned,
    StudyDecision,
)
from wardround.authorization.decide import Decision
from wardround.codec import canonical
from wardround.crypto import certificate, signing
from wardround.crypto.endorsement import Endorsement
from wardround.errors import CodecError, ConflictError, UnavailableError
from wardround.ids import run_id
from wardround.protocol import events as happened
from wardround.protocol.messages import Identity
from wardround.protocol.plan import BlobRef
from wardround.secagg.roster import Roster, RosterMember, SignedRoster
from wardround.services.attestation_events import AttestationEvent
from wardround.services.audit_trail import Person
from wardround.services.hub_records import (
    ROUTINE,
    AccessRecords,
    RecordedEvents,
    RecordedRegistry,
    attestation_entry,
    login_entry,
)
from wardround.storage.memory import MemoryEventLog

STUDY = "a" * 64
RUN = run_id(STUDY, 1)
MODEL = BlobRef("b" * 64, 1234)


class Recorder:
    """Keeps what it is told; each must be an entry."""

    def __init__(self):
        self.told, self.fails = [], False

    def record(self, event, *, actor=None, study=None, run=None):
        if self.fails:
            raise UnavailableError("the log takes no entries")
        name = "person:" + "0" * 32 if isinstance(actor, Person) else actor or "hub"
        entries.encode(Entry(at=1, actor=name, event=event, study=study, run=run))
        self.told.append((event, actor, study, run))

    @property
    def events(self):
        return [told[0] for told in self.told]


class Clock:
    def __init__(self):
        self.at = 1000.0

    def now(self):
        return self.at


def proposed(**changes):
    fields = {
        "at": 1.0,
        "study": STUDY,
        "title": "Lactate",
        "researcher": "ada",
        "participants": ("arran",),
        "min_participants": 1,
        "expires": 2.0,
    }
    return happened.StudyProposed(**(fields | changes))


def decided(verdict):
    return happened.SiteDecided(
        at=1.0, site="arran", verdict=verdict, person="Mhairi Galbraith", reason="she said so", document=b"x"
    )


def ended(outcome):
    return happened.StudyEnded(at=1.0, outcome=outcome, reason="words that may say anything", model="")


def accepted(update=MODEL):
    return happened.UpdateAccepted(
        at=1.0, number=3, site="arran", records=10, update=update, evaluation=None, train_seconds=0.0
    )


def wrapped():
    inner, recorder = MemoryEventLog(), Recorder()
    return inner, recorder, RecordedEvents(inner, recorder)


def append(log, stream, *told):
    log.append(stream, [happened.encode(one) for one in told], after=len(log.read(stream)))


@pytest.mark.parametrize(
    ("event", "expected", "actor"),
    [
        (proposed(), StudyDecision("proposed"), "ada"),
        (decided("approve"), StudyDecision("approved"), "arran"),
        (decided("refuse"), StudyDecision("refused"), "arran"),
        (decided("withdraw"), StudyDecision("withdrawn"), "arran"),
        (happened.RunStarted(at=1.0, run=RUN, sites=("arran",)), StudyDecision("started"), None),
        (ended("evaluated"), StudyDecision("completed"), None),
        (ended("withdrawn"), StudyDecision("withdrawn", "withdrawn"), None),
        (ended("expired"), StudyDecision("withdrawn", "expired"), None),
        (ended("stopped"), StudyDecision("withdrawn", "stopped"), None),
        (ended("refused"), StudyDecision("refused", "refused"), None),
    ],
)
def test_every_step_of_a_study_is_recorded_without_a_persons_name_or_words(event, expected, actor):
    _, recorder, log = wrapped()
    append(log, f"study:{STUDY}", event)
    assert recorder.events == [expected]
    assert recorder.told[0][1:3] == (actor, STUDY)
    assert b"Galbraith" not in msgspec.json.encode(recorder.events)


def test_a_release_names_the_model_its_size_and_to_whom_it_goes():
    _, recorder, log = wrapped()
    append(log, f"study:{STUDY}", proposed(), happened.RunStarted(at=1.0, run=RUN, sites=("arran",)))
    append(log, f"run:{RUN}", happened.RunCompleted(at=1.0, model=MODEL))
    append(log, f"study:{STUDY}", ended("released"))
    assert recorder.told[-1] == (Release(MODEL.digest, MODEL.size, to="ada"), "ada", STUDY, RUN)


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        (accepted(), ContributionVerdict("arran", "accepted", 3, MODEL.digest, MODEL.size)),
        (accepted(None), ContributionVerdict("arran", "accepted", 3)),
        (
            happened.UpdateRefused(at=1.0, number=3, site="arran", reason="its norm is 12.5"),
            ContributionVerdict("arran", "refused", 3, reason="not-acceptable"),
        ),
        (
            happened.UpdateRefused(at=1.0, number=3, site="arran", reason="x", late=True),
            ContributionVerdict("arran", "refused", 3, reason="late"),
        ),
        (
            happened.UpdateSetAside(at=1.0, number=3, site="arran", reason="x"),
            ContributionVerdict("arran", "refused", 3, reason="set-aside"),
        ),
    ],
)
def test_every_answer_of_a_site_is_recorded(event, expected):
    _, recorder, log = wrapped()
    append(log, f"run:{RUN}", event)
    assert recorder.told == [(expected, None, STUDY, RUN)]


def test_a_signed_roster_is_recorded_by_its_digest_and_numbers():
    _, recorder, log = wrapped()
    members = tuple(RosterMember(site=name, identity=b"i" * 32, agreement=b"a" * 32) for name in ("arran", "bute"))
    whole = canonical.encode(Roster(consortium="c", number=1, members=members))
    signed = SignedRoster(whole, endorsements=(Endorsement(b"k" * 32, b"s" * 64),))
    log.append(f"roster:{'c' * 64}", [canonical.encode(signed)], after=0)
    (found,) = recorder.events
    assert isinstance(found, RosterSigned)
    assert (found.members, found.endorsements) == (2, 1)


def test_what_cannot_be_recorded_does_not_happen():
    inner, recorder, log = wrapped()
    recorder.fails = True
    for stream, event in ((f"study:{STUDY}", decided("approve")), (f"run:{RUN}", accepted())):
        with pytest.raises(UnavailableError):
            append(log, stream, event)
        assert inner.read(stream) == []


def test_it_is_recorded_before_it_is_appended():
    inner, recorder, log = wrapped()
    inner.append(f"run:{RUN}", [happened.encode(accepted())], after=0)
    with pytest.raises(ConflictError):
        log.append(f"run:{RUN}", [happened.encode(accepted())], after=0)
    assert len(recorder.events) == 1


def test_other_streams_and_reads_are_passed_on():
    inner, recorder, log = wrapped()
    log.append("card:arran", [b"x"], after=0, receipt=("arran", "c", b"r"))
    assert (inner.read("card:arran"), log.receipt("arran", "c"), log.streams("card:")) == ([b"x"], b"r", ["card:arran"])
    assert recorder.events == []


class Registry:
    """What the recorded registry passes on to."""

    def __init__(self):
        self.did, self.known = [], {}

    def invited(self, invite, now):
        if invite != "open":
            raise CodecError("unknown")
        return "arran", "site"

    def enrol(self, invite, identity, now):
        self.did.append("enrol")
        self.known[identity.name] = identity

    def identity(self, name):
        return self.known[name]

    def replace(self, identity, *, before):
        self.did.append("replace")

    def revoke(self, name):
        self.did.append("revoke")


@pytest.fixture(scope="module")
def authority():
    return certificate.create_authority("test", 1000.0)


def identity(authority, *keys):
    issued = [
        certificate.certify(key.public_key(), "arran", "site", *authority, 1000.0, 3600.0, purpose=purpose)
        for key, purpose in zip(keys, ("connection", "document"), strict=True)
    ]
    return Identity("arran", "site", b"".join(issued))


def digest(key):
    return canonical.digest(signing.public_bytes(key.public_key()))


def test_keys_that_come_change_and_go_are_recorded_first(authority):
    first, second, document = (signing.generate() for _ in range(3))
    inner, recorder = Registry(), Recorder()
    registry = RecordedRegistry(inner, recorder)
    registry.enrol("open", identity(authority, first, document), 1.0)
    registry.replace(identity(authority, second, document), before=inner.known["arran"].certificate)
    registry.revoke("arran")
    assert recorder.events == [
        KeyChange("issued", digest(first), "connection", "arran"),
        KeyChange("issued", digest(document), "document", "arran"),
        KeyChange("rotated", digest(second), "connection", "arran"),
        KeyChange("renewed", digest(document), "document", "arran"),
        KeyChange("revoked", digest(first), "connection", "arran"),
        KeyChange("revoked", digest(document), "document", "arran"),
    ]
    recorder.fails = True
    for act in (
        lambda: registry.enrol("open", identity(authority, first, document), 1.0),
        lambda: registry.replace(identity(authority, second, document), before=inner.known["arran"].certificate),
        lambda: registry.revoke("arran"),
    ):
        with pytest.raises((UnavailableError, CodecError)):
            act()
    assert inner.did == ["enrol", "replace", "revoke"]


def test_an_invite_that_is_none_leaves_no_entry(authority):
    recorder = Recorder()
    with pytest.raises(CodecError):
        RecordedRegistry(Registry(), recorder).enrol("closed", identity(authority, *(signing.generate(),) * 2), 1.0)
    assert recorder.events == []


def decision(**changes):
    fields = {
        "allowed": True,
        "principal": "Machine arran",
        "action": "propose",
        "resource": f"Study {STUDY}",
        "reasons": ("node-does",),
        "diagnostics": (),
        "missing": (),
        "step_up": False,
        "policies": "d" * 64,
    }
    return Decision(**(fields | changes))


def recorded(*decisions, clock=None):
    recorder = Recorder()
    access = AccessRecords(recorder, clock or Clock())
    for one in decisions:
        access(one)
    return recorder


def test_an_allowed_action_is_recorded_with_its_policies_and_its_study():
    assert recorded(decision()).told == [
        (Access("propose", f"Study:{STUDY}", "allowed", ("node-does",)), "arran", STUDY, None)
    ]


@pytest.mark.parametrize("action", sorted(ROUTINE))
def test_daily_traffic_is_recorded_only_where_it_is_refused(action):
    assert recorded(decision(action=action)).events == []
    (found,) = recorded(decision(action=action, allowed=False, reasons=())).events
    assert (found.action, found.decision) == (action, "denied")


def test_the_same_refusal_is_recorded_once_a_minute_and_another_one_at_once():
    clock, recorder = Clock(), Recorder()
    access = AccessRecords(recorder, clock)
    for _ in range(50):
        access(decision(allowed=False))
    access(decision(allowed=False, action="release"))
    assert len(recorder.events) == 2
    clock.at += 61
    access(decision(allowed=False))
    assert len(recorder.events) == 3
    clock.at -= 3600  # A clock that was set back hides nothing for an hour.
    access(decision(allowed=False))
    assert len(recorder.events) == 4


def test_who_asks_for_ever_new_things_does_not_fill_the_log():
    recorder = Recorder()
    access = AccessRecords(recorder, Clock())
    for number in range(6000):
        access(decision(allowed=False, resource=f"Run {number}"))
    assert len(recorder.events) == 4096


def test_where_it_cannot_be_recorded_nothing_follows():
    recorder = Recorder()
    recorder.fails = True
    with pytest.raises(UnavailableError):
        AccessRecords(recorder, Clock())(decision())


def test_a_person_is_a_person_and_not_a_name():
    (told,) = recorded(decision(principal="Person https://login.example eva")).told
    assert isinstance(told[1], Person)
    assert b"eva" not in msgspec.json.encode(told[0])


@pytest.mark.parametrize(
    ("principal", "name"),
    [
        ("https://login.example eva", "eva"),
        ("wardround:node/arran Eva Smith", "Eva Smith"),
        ("Eva Smith", "Eva Smith"),
        ("eva", "eva"),
    ],
)
def test_a_person_has_one_name_whether_a_policy_or_a_decision_is_recorded(principal, name):
    (told,) = recorded(decision(principal=f"Person {principal}")).told
    assert told[1] == Person(name)


texts = st.text(max_size=200)


@given(texts, texts, texts, st.lists(texts, max_size=20))
@settings(max_examples=150)
def test_whatever_a_stranger_writes_into_an_address_is_an_entry_of_bounded_words(principal, action, resource, reasons):
    for allowed in (True, False):
        one = decision(
            allowed=allowed,
            principal=f"Machine {principal}",
            action=action,
            resource=f"Blob {resource}",
            reasons=tuple(reasons),
        )
        # The recorder encodes each as an entry, which refuses what no entry may hold.
        assert len(recorded(one).events) == 1


@given(
    st.builds(
        AttestationEvent,
        what=st.sampled_from(["attested", "released", "registered", "refused", "closed"]),
        at=st.floats(0, 1e9),
        subject=texts,
        site=texts,
        key=texts,
        kind=texts,
        measurement=texts,
        platform=texts,
        reason=texts,
    )
)
@settings(max_examples=100)
def test_every_attestation_event_is_an_entry_whatever_its_words(event):
    found = attestation_entry(event)
    entries.encode(Entry(at=1, actor="hub", event=found))


def test_attestations_and_keys_are_recorded_by_what_became_of_them():
    good = "e" * 96

    def of(what, **fields):
        return attestation_entry(AttestationEvent(what=what, at=1.0, subject=RUN, **fields))

    assert of("attested", kind="snp", measurement=good) == AttestationVerdict("snp", "accepted", good)
    assert of("refused", kind="snp", reason="clause 3: debug is on").outcome == "refused"
    released = of("released", site="arran", key="k1", measurement=good)
    assert (released.change, released.holder, released.measurement) == ("released", "arran", good)
    assert of("closed", key="k1").change == "release-revoked"


def test_a_login_is_recorded_by_outcome_and_method():
    assert login_entry("accepted", "passkey").method == "passkey"
    assert login_entry("refused", "my words", "more words").method == "unknown"
    with pytest.raises(CodecError):
        login_entry("perhaps", "passkey")
