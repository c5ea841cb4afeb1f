"""Before something is sent for a run, and about the session that it is sent in, the prover has the last word."""

import pytest

from wardround.crypto import signing
from wardround.errors import AttestationError, UnavailableError
from wardround.ids import CommandId, RunId, StudyId
from wardround.protocol import messages
from wardround.protocol.attested import ProofRequest
from wardround.protocol.messages import CohortAnswer, Contribution, Receipt, TaskRequest
from wardround.protocol.plan import BlobRef
from wardround.secagg.messages import Unmaskable
from wardround.transport import connection, credential
from wardround.transport import http as transport
from wardround.transport.prover import proved

STUDY = StudyId("ab" * 32)
RUN = RunId(f"{STUDY}.1")
GIVEN = Contribution(command=CommandId("c"), run=RUN, number=1, kind="train", records=10)


class Prover:
    def __init__(self, *, refusals=0, wrong=()):
        self.log, self.refusals, self.wrong = [], refusals, list(wrong)

    def before(self, run, *, declines):
        self.log.append(("before", run, declines))
        if self.refusals:
            self.refusals -= 1
            raise AttestationError("no")

    def check(self, certificate, run):
        self.log.append(("check", certificate, run))
        if certificate in self.wrong:
            self.wrong.remove(certificate)
            raise AttestationError("another machine")

    def refused(self, run):
        self.log.append(("refused", run))


class Socket:
    def __init__(self, certificate):
        self.certificate = certificate

    def getpeercert(self, *, binary_form):
        assert binary_form
        return self.certificate


class Connection:
    def __init__(self, place, answers):
        self.sock, self.answers, self.sent, self.is_closed = Socket(b"peer %d" % place), answers, [], False

    def request(self, method, target, **_):
        self.sent.append((method, target))

    def getresponse(self):
        return self.answers.pop(0)

    def close(self):
        self.is_closed = True


class Answer:
    def __init__(self, body=b"", status=200):
        self.body, self.status = body, status

    def read(self, _most):
        return self.body


RECEIPT = Answer(messages.encode(Receipt(CommandId("c"), "accepted")))
REFUSAL = Answer(b'{"type":"crypto/attestation","title":"","status":403,"detail":"attest"}', 403)


@pytest.fixture
def made(monkeypatch):
    def make(prover, *answers):
        given, opened = list(answers), []

        def connect(*_):
            opened.append(Connection(len(opened), given))
            return opened[-1]

        monkeypatch.setattr(transport, "connect", connect)
        monkeypatch.setattr(connection, "tls_context", lambda *_: None)
        monkeypatch.setattr(transport.Session, "check", lambda *_: None)
        held = credential.bare(signing.generate())
        hub = transport.HttpHub("https://127.0.0.1:1", name="arran", credential=held, authority=b"")
        hub.prover = prover
        return hub, opened

    return make


def test_a_contribution_is_sent_after_the_proofs_in_a_session_that_was_looked_at(made):
    prover = Prover()
    hub, opened = made(prover, RECEIPT)
    hub.contribute(GIVEN)
    assert prover.log == [("before", RUN, False), ("check", b"peer 0", RUN)]
    assert opened[0].sent == [("POST", "/v1/contributions")]


def test_that_a_site_takes_no_part_is_said_to_be_just_that(made):
    prover = Prover()
    hub, _ = made(prover, RECEIPT, RECEIPT, RECEIPT)
    hub.contribute(Contribution(command=CommandId("c"), run=RUN, number=1, kind="train", declined="no"))
    hub.answer(CohortAnswer(run=RUN, number=1, cohort=1, answer=Unmaskable(b"t", "refused")))
    hub.answer(CohortAnswer(run=RUN, number=1, cohort=1, answer=None))
    assert [entry[2] for entry in prover.log if entry[0] == "before"] == [True, True, False]


def test_without_proofs_nothing_is_sent_and_no_connection_opened(made):
    prover = Prover(refusals=2)
    hub, opened = made(prover, RECEIPT)
    with pytest.raises(AttestationError, match="no"):
        hub.contribute(GIVEN)
    prover.refusals = 2
    with pytest.raises(AttestationError, match="no"):
        hub.upload(RUN, BlobRef("cd" * 32, 10), 0)
    assert opened == []


def test_a_session_to_another_machine_is_closed_before_anything_is_sent_in_it(made):
    prover = Prover(wrong=[b"peer 0", b"peer 1"])
    hub, opened = made(prover, RECEIPT)
    with pytest.raises(AttestationError, match="another machine"):
        hub.contribute(GIVEN)
    assert [(one.sent, one.is_closed) for one in opened] == [([], True)] * 2
    assert [entry[0] for entry in prover.log] == ["before", "check", "refused", "before", "check"]


def test_where_the_hub_did_not_count_the_proof_it_is_proved_anew_and_sent_once_more(made):
    prover = Prover()
    hub, opened = made(prover, REFUSAL, RECEIPT)
    assert hub.contribute(GIVEN).outcome == "accepted"
    assert [entry[0] for entry in prover.log] == ["before", "check", "refused", "before", "check"]
    assert opened[0].sent == [("POST", "/v1/contributions")] * 2
    hub, _ = made(Prover(), REFUSAL, REFUSAL, RECEIPT)
    with pytest.raises(AttestationError, match="attest"):
        hub.contribute(GIVEN)


def test_a_session_is_looked_at_each_time_it_is_used_for_a_run_or_not(made):
    prover = Prover()
    hub, opened = made(prover, Answer(), RECEIPT, Answer())
    hub.next_task(TaskRequest())
    hub.contribute(GIVEN)
    hub.next_task(TaskRequest())
    assert len(opened) == 1
    assert [entry[2] for entry in prover.log if entry[0] == "check"] == [None, RUN, None]


def test_a_proof_is_asked_for_in_a_session_of_its_own_that_is_used_for_nothing_else(made):
    prover = Prover()
    proof = Answer(messages.encode({"study": STUDY, "nonce": b"n", "evidence": {"kind": "snp", "report": b"r"}}))
    hub, opened = made(prover, Answer(), proof, Answer())
    hub.next_task(TaskRequest())
    prover.log.clear()
    assert hub.prove(ProofRequest(STUDY, b"n"))[1] == b"peer 1"
    assert prover.log == []  # Whom it goes to is what the proof will say.
    hub.next_task(TaskRequest())
    assert [one.is_closed for one in opened] == [True, True, False]
    assert opened[1].sent == [("POST", "/v1/attestations/hub")]
    assert prover.log == [("check", b"peer 2", None)]


def test_other_failures_are_not_taken_for_refused_proofs():
    prover = Prover()

    def call():
        raise UnavailableError("busy")

    with pytest.raises(UnavailableError):
        proved(prover, RUN, call)
    assert prover.log == [("before", RUN, False)]


def test_without_a_prover_nothing_is_asked(made):
    hub, opened = made(None, RECEIPT)
    hub.contribute(GIVEN)
    assert opened[0].sent == [("POST", "/v1/contributions")]
