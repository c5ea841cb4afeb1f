"""What a node writes down: data before they are read, what leaves before it is sent, money before it is spent."""

from types import SimpleNamespace

import msgspec
import pytest

from wardround.audit import entry as entries
from wardround.audit.entry import (
    Access,
    BudgetChange,
    DataAccess,
    EgressRefused,
    Entry,
    Left,
    PackageVerdict,
    PeerRefused,
    SandboxViolation,
    StudyDecision,
)
from wardround.codec import canonical
from wardround.errors import (
    BudgetExceededError,
    ClinicalError,
    ConfigError,
    DigestMismatchError,
    EgressError,
    PeerProtocolError,
    PolicyError,
    SandboxError,
    SignatureError,
    UnavailableError,
)
from wardround.ids import run_id
from wardround.ports import Violation
from wardround.privacy.mechanisms import SampledGaussian
from wardround.protocol.messages import (
    CohortAnswer,
    CohortTask,
    Contribution,
    Evaluation,
    Receipt,
    Task,
    TaskRequest,
)
from wardround.protocol.plan import BlobRef
from wardround.secagg.messages import Agreement, Masked, Survivors, Unmaskable
from wardround.secagg.messages import Reveal as Revealed
from wardround.services.audit_trail import Person
from wardround.services.budgets import Budgets
from wardround.services.node_records import (
    BudgetRecords,
    RecordedHub,
    RecordedSource,
    Refusals,
    record_decision,
    record_review,
)
from wardround.storage.memory import MemoryVault

STUDY = "a" * 64
RUN = run_id(STUDY, 1)
UPDATE = BlobRef("b" * 64, 4000)


class Recorder:
    """Keeps what it is told, in one list with what was done; each must be an entry."""

    def __init__(self, did=None):
        self.did = [] if did is None else did
        self.told, self.fails = [], False

    def record(self, event, *, actor=None, study=None, run=None):
        if self.fails:
            raise UnavailableError("the log takes no entries")
        name = "person:" + "0" * 32 if isinstance(actor, Person) else actor or "arran"
        entries.encode(Entry(at=1, actor=name, event=event, study=study, run=run))
        self.did.append("recorded")
        self.told.append((event, actor, study, run))

    @property
    def events(self):
        return [told[0] for told in self.told]


class Hub:
    """Notes what it was sent."""

    def __init__(self, did, following=None):
        self.did, self.following = did, following

    def next_task(self, request):
        return self.following

    def contribute(self, contribution):
        self.did.append("sent")
        return Receipt("c", "accepted", next=self.following)

    def answer(self, answer):
        self.did.append("sent")
        return Receipt("c", "accepted")

    def upload(self, scope, ref, source):
        self.did.append("sent")

    def audit(self, audit):
        self.did.append("sent")


def task(kind="train", number=2):
    return Task(run=RUN, study=STUDY, number=number, kind=kind, base=UPDATE)


def cohort_task(number=2):
    return CohortTask(run=RUN, study=STUDY, number=number, cohort=1, step=Survivors(()))


def contribution(**changes):
    fields = {"command": "c", "run": RUN, "number": 2, "kind": "train", "records": 120, "update": UPDATE}
    return Contribution(**(fields | changes))


def answered(answer, inline=b""):
    return CohortAnswer(run=RUN, number=2, cohort=1, answer=answer, inline=inline)


def world(following=None):
    did = []
    recorder = Recorder(did)
    return recorder, RecordedHub(Hub(did, following), recorder, "records"), did


def test_an_update_is_recorded_with_its_digest_and_size_before_it_is_sent():
    recorder, hub, did = world()
    hub.contribute(contribution(evaluation=Evaluation(metrics={"auc": 0.8}, records=20)))
    assert did == ["recorded", "sent"]
    (found,) = recorder.events
    assert (found.round, found.dataset, found.purpose) == (2, "records", "training")
    assert found.left[0] == Left("update", UPDATE.digest, UPDATE.size)
    assert found.left[1].what == "evaluation"
    assert recorder.told[0][2:] == (STUDY, RUN)


@pytest.mark.parametrize(
    ("kind", "what", "purpose"), [("statistics", "statistics", "analysis"), ("analysis", "statistics", "analysis")]
)
def test_sums_are_recorded_as_statistics(kind, what, purpose):
    recorder, hub, _ = world()
    hub.contribute(contribution(kind=kind))
    (found,) = recorder.events
    assert (found.left[0].what, found.purpose) == (what, purpose)


def test_nothing_is_sent_that_cannot_be_recorded():
    recorder, hub, did = world()
    recorder.fails = True
    for send in (
        lambda: hub.contribute(contribution()),
        lambda: hub.upload(RUN, UPDATE, 3),
        lambda: hub.answer(answered(Masked(transcript=b"t", included=b"i", digest=b"d" * 32), b"words")),
    ):
        with pytest.raises(UnavailableError):
            send()
    assert did == []


def test_an_upload_is_recorded_once_with_the_round_of_its_task():
    recorder, hub, did = world(task(number=7))
    hub.next_task(TaskRequest())
    hub.upload(RUN, UPDATE, 3)
    hub.contribute(contribution(number=7))
    assert did == ["recorded", "sent", "recorded", "sent"]
    first, second = recorder.events
    assert (first.round, first.left) == (7, (Left("update", UPDATE.digest, UPDATE.size),))
    assert [part.what for part in second.left] == ["evaluation"]


def test_a_round_that_comes_with_a_receipt_is_known_too():
    recorder, hub, _ = world(task(number=3))
    hub.contribute(contribution())
    hub.upload(RUN, UPDATE, 3)
    assert recorder.events[-1].round == 3


def test_a_masked_upload_is_recorded_as_masked():
    recorder, hub, _ = world(cohort_task())
    hub.next_task(TaskRequest())
    hub.upload(RUN, UPDATE, 3)
    assert recorder.events[0].left[0].what == "masked-update"


def test_the_same_message_again_is_not_another_round_and_the_next_one_is():
    recorder, hub, did = world()
    hub.contribute(contribution())
    hub.contribute(contribution(train_seconds=2.0))
    assert len(recorder.events) == 1
    assert did.count("sent") == 2
    hub.contribute(contribution(number=3))
    assert [event.round for event in recorder.events] == [2, 3]


def test_what_was_not_recorded_is_recorded_the_next_time():
    recorder, hub, _ = world()
    recorder.fails = True
    with pytest.raises(UnavailableError):
        hub.contribute(contribution())
    recorder.fails = False
    hub.contribute(contribution())
    assert len(recorder.events) == 1


def test_masked_vectors_and_shares_are_recorded_and_what_holds_nothing_is_not():
    recorder, hub, did = world()
    hub.answer(answered(Masked(transcript=b"t", included=b"i", digest=b"\x01" * 32), b"x" * 10))
    hub.answer(answered(Revealed(b"t", (b"s" * 32,))))
    hub.answer(answered(Agreement(b"t", b"s")))
    hub.answer(answered(Unmaskable(b"t", "policy")))
    hub.contribute(contribution(records=0, update=None, nonce=b"n"))
    hub.contribute(contribution(declined="policy: no", update=None))
    parts = [part for event in recorder.events for part in event.left]
    assert [part.what for part in parts] == ["masked-update", "share"]
    assert (parts[0].digest, parts[0].size_bytes) == ("01" * 32, 10)
    assert did.count("sent") == 6


class Source:
    def __init__(self, did, used=120):
        self.did, self.used = did, used

    def load(self, contract):
        self.did.append("read")
        if self.used is None:
            raise ClinicalError("no column")
        return SimpleNamespace(report=SimpleNamespace(used=self.used))


def source(recorder, used=120, **changes):
    fields = {"purpose": "training", "study": STUDY, "legal_basis": "GDPR-9.2.j"}
    return RecordedSource(Source(recorder.did, used), recorder, "records", **(fields | changes))


CONTRACT = {"columns": []}


def test_records_are_read_after_it_is_recorded_and_their_number_follows():
    recorder = Recorder()
    source(recorder).load(CONTRACT)
    assert recorder.did == ["recorded", "read", "recorded"]
    contract = canonical.digest(canonical.encode(CONTRACT))
    before, after = recorder.events
    assert before == DataAccess("records", "training", "GDPR-9.2.j", contract=contract)
    assert after == DataAccess("records", "training", "GDPR-9.2.j", 120, contract, is_outcome=True)
    assert recorder.told[0][2] == STUDY


def test_records_that_cannot_be_read_were_asked_for_all_the_same():
    recorder = Recorder()
    with pytest.raises(ClinicalError):
        source(recorder, None).load(CONTRACT)
    assert [event.is_outcome for event in recorder.events] == [False]


def test_nothing_is_read_that_cannot_be_recorded():
    recorder = Recorder()
    recorder.fails = True
    with pytest.raises(UnavailableError):
        source(recorder).load(CONTRACT)
    assert recorder.did == []


def test_a_legal_basis_in_free_words_is_not_taken_over():
    recorder = Recorder()
    source(recorder, legal_basis="consent of Mrs Galbraith, 12 May").load(CONTRACT)
    assert {event.legal_basis for event in recorder.events} == {None}
    assert b"Galbraith" not in msgspec.json.encode(recorder.events)


class Clock:
    def now(self):
        return 1000.0


def budgets(recorder):
    return Budgets("records", vault=MemoryVault(), clock=Clock(), record=BudgetRecords(recorder, "records"))


MECHANISM = SampledGaussian(sampling_rate=0.1, noise_multiplier=1.0, steps=10)


def test_a_grant_and_every_spending_are_recorded_and_add_up_to_what_the_run_cost():
    recorder = Recorder()
    ledger = budgets(recorder)
    ledger.grant("patient", 8.0, 1e-6, person="Mhairi", reason="a test")
    ledger.reserve("patient", RUN, STUDY, {"train": (MECHANISM, 3)})
    for key in ("a", "b", "b", "c"):
        ledger.commit("patient", RUN, "train", key)
    granted, *spent = recorder.events
    assert granted == BudgetChange("granted", "records", 8.0, 1e-6)
    assert isinstance(recorder.told[0][1], Person)
    assert [event.change for event in spent] == ["spent"] * 3
    (run,) = ledger.status("patient").runs
    assert sum(event.epsilon for event in spent) == pytest.approx(run.epsilon)
    assert run.epsilon > 0
    assert recorder.told[-1][2:] == (STUDY, RUN)


def test_nothing_is_spent_or_granted_that_cannot_be_recorded():
    recorder = Recorder()
    ledger = budgets(recorder)
    ledger.grant("patient", 8.0, 1e-6, person="Mhairi", reason="a test")
    ledger.reserve("patient", RUN, STUDY, {"train": (MECHANISM, 3)})
    recorder.fails = True
    with pytest.raises(UnavailableError):
        ledger.commit("patient", RUN, "train", "a")
    with pytest.raises(UnavailableError):
        ledger.grant("patient", 9.0, 1e-6, person="Mhairi", reason="a test")
    status = ledger.status("patient")
    assert (status.spent, status.epsilon) == (0.0, 8.0)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (BudgetExceededError("no"), BudgetChange("refused", "records", 0.0)),
        (EgressError("no"), EgressRefused(EgressError.code)),
        (SandboxError("no"), SandboxViolation(SandboxError.code)),
        (PolicyError("no"), Access("train", f"Run:{RUN}", "denied", (PolicyError.code,))),
        (DigestMismatchError("no"), PeerRefused("hub", DigestMismatchError.code)),
        (SignatureError("no"), PeerRefused("hub", SignatureError.code)),
        (PeerProtocolError("no"), PeerRefused("hub", PeerProtocolError.code)),
        (ClinicalError("no"), None),
        (ConfigError("no"), None),
    ],
)
def test_what_a_node_would_not_do_is_recorded_by_its_kind(error, expected):
    recorder = Recorder()
    Refusals(recorder, "records")(task(), error)
    assert recorder.events == ([] if expected is None else [expected])


def test_a_hub_that_names_no_run_is_recorded_without_one():
    recorder = Recorder()
    Refusals(recorder, "records")(msgspec.structs.replace(task(), run="Mrs Galbraith"), PeerProtocolError("no"))
    assert recorder.told == [(PeerRefused("hub", PeerProtocolError.code), None, None, None)]


def test_decisions_and_reviews_are_a_persons():
    recorder = Recorder()
    for verdict, word in (("approve", "approved"), ("refuse", "refused"), ("withdraw", "withdrawn")):
        record_decision(recorder, STUDY, verdict, "Mhairi")
        assert recorder.told[-1][0] == StudyDecision(word)
    record_review(recorder, "d" * 64, "approve", "Mhairi")
    assert recorder.told[-1][0] == PackageVerdict("d" * 64, "approved")
    assert all(isinstance(told[1], Person) for told in recorder.told)


def test_what_study_code_tried_is_recorded_by_its_kind(monkeypatch):
    recorder = Recorder()
    monkeypatch.setattr("wardround.services.node_records.study_id", lambda _: STUDY)
    plan = SimpleNamespace(model=None)
    Refusals(recorder, "records").violation(plan, Violation("system-call", "words about a file name"))
    assert recorder.told == [(SandboxViolation("system-call"), None, STUDY, None)]
