# ruff: noqa: TID251, every generator here has a fixed seed
"""The gate: what is no message of a node, too large, unasked for, or holds a record, stays; the rest is booked."""

import hashlib
import os
import tempfile
from contextlib import contextmanager

import msgspec
import numpy as np
import pytest
from tests.simulation import fakes

from wardround.clinical.contract import Column, DataContract, Label
from wardround.clinical.table import LoadReport, StudyTable
from wardround.codec import canonical, tensors
from wardround.errors import EgressError, PolicyError, StorageFullError, all_errors
from wardround.ids import CommandId, Digest
from wardround.protocol.messages import (
    Audit,
    CohortAnswer,
    Contribution,
    Decision,
    Evaluation,
    PairAnswer,
    Proposal,
    Receipt,
    TaskRequest,
)
from wardround.protocol.plan import BlobRef, BuiltinModel, Optimizer, SecureAggregation, SignedPlan, Training
from wardround.secagg.messages import Agreement, Masked, Reveal, Unmaskable
from wardround.services import egress_rules, participant
from wardround.services.departures import Departures, EgressLimits
from wardround.services.egress import GuardedHub
from wardround.services.egress_gate import Egress
from wardround.storage.memory import MemoryVault
from wardround.storage.model_files import FolderModelFiles

STUDY = "ab" * 32
RUN = f"{STUDY}.1"
COLUMNS = 12
MODEL = (tensors.TensorSpec("weight", (200, COLUMNS)), tensors.TensorSpec("bias", (200,)))
DATA = DataContract(columns=tuple(Column(name=f"c{place}") for place in range(COLUMNS)), label=Label(name="died"))


class Clock:
    at = 1_800_000_000.0

    def now(self):
        return self.at


class Hub:
    """What reached the hub."""

    def __init__(self):
        self.heard = []

    def __getattr__(self, name):
        def call(*arguments, **more):
            self.heard.append((name, arguments))
            return Receipt(CommandId("c"), "accepted")

        return call


def make_plan(*, secure=False, scaling="none"):
    plan = fakes.make_plan(
        sites=("arran", "lewis"), quorum=1, rounds=3, scaling=scaling, server={}, limits={}, expires=2e9
    )
    agreed = SecureAggregation(roster=Digest("cd" * 32)) if secure else None
    data = msgspec.structs.replace(DATA, scaling=scaling)
    return msgspec.structs.replace(plan, manifest=MODEL, data=data, secure=agreed)


def table_of(seed=1, records=300):
    g = np.random.default_rng(seed)
    features = np.round(g.normal(60, 20, (records, COLUMNS)), 2).astype(np.float32)
    return StudyTable(features, np.zeros(records, np.float32), np.zeros(records, bool), LoadReport(records, records, 0))


TABLE = table_of()


class Site:
    """A guarded hub on a vault, with a run whose records are known."""

    def __init__(self, folder, plan=None, *, limits=None, identifiers=(), vault=None):
        self.plan, self.hub, self.vault, self.clock = plan or make_plan(), Hub(), vault or MemoryVault(), Clock()
        self.files = FolderModelFiles(folder)
        self.departures = Departures(vault=self.vault, clock=self.clock, limits=limits or EgressLimits())
        self.egress = Egress(departures=self.departures, files=self.files, plan_of=self.plan_of)
        self.egress.watch(RUN, TABLE, identifiers)
        self.guarded = GuardedHub(self.hub, self.egress)

    def plan_of(self, study):
        if study != STUDY:
            raise PolicyError("nobody approved it")
        return self.plan

    def refused(self, call, *arguments):
        """The words of the refusal; nothing reached the hub, and the book says that it was held back."""
        with pytest.raises(EgressError) as caught:
            call(*arguments)
        assert self.hub.heard == []
        last = self.departures.entries()[-1]
        assert last.refused
        assert last.bytes == 0
        return str(caught.value)


@pytest.fixture
def site(tmp_path):
    return Site(tmp_path)


def vector(seed=1):
    return (np.random.default_rng(seed).normal(size=tensors.columns(MODEL)) * 1e-3).astype(np.float32)


def file_of(values):
    return tensors.header(MODEL) + values.tobytes()


@contextmanager
def descriptor_of(data):
    with tempfile.TemporaryFile() as file:
        file.write(data)
        file.flush()
        yield file.fileno()


def ref_of(data):
    return BlobRef(canonical.digest(data), len(data))


def answer(values=None, **more):
    data = file_of(vector() if values is None else values)
    fields = {"records": 100, "update": ref_of(data), "update_inline": data, "train_seconds": 1.25}
    evaluation = Evaluation(40, {"auc": 0.75, "undefined": None})
    fields = {"evaluation": evaluation, **fields, **more}
    return Contribution(command=CommandId("c"), run=RUN, number=2, kind="train", **fields)


def test_an_honest_answer_leaves_and_the_book_says_exactly_what_it_said(site):
    site.guarded.contribute(answer())
    assert [name for name, _ in site.hub.heard] == ["contribute"]
    (entry,) = site.departures.entries()
    assert entry.numbers == {
        "records": 100.0,
        "train_seconds": 1.25,
        "held_out_records": 40.0,
        "metrics.auc": 0.75,
        "metrics.undefined": None,
    }
    assert (entry.kind, entry.round, entry.study, entry.run, entry.masked) == ("contribution", 2, STUDY, RUN, False)
    assert {"records", "update", "update_inline", "evaluation", "train_seconds"} <= set(entry.fields)
    assert entry.digest == hashlib.sha256(msgspec.msgpack.encode(answer())).hexdigest()


def test_an_entry_is_written_before_the_message_is_sent(tmp_path):
    class Full(MemoryVault):
        def add(self, name, value):
            raise StorageFullError("full")

    site = Site(tmp_path, vault=Full())
    with pytest.raises(StorageFullError):
        site.guarded.contribute(answer())
    assert site.hub.heard == []


@pytest.mark.parametrize("scale", [1.0, -1.0, 1e-5, 3.7e4])
@pytest.mark.parametrize("place", [0, 1, 700, 2400 - COLUMNS])
def test_a_planted_record_does_not_leave_inline(site, place, scale):
    values = vector()
    values[place : place + COLUMNS] = TABLE.features[place % 300] * np.float32(scale)
    assert "a record" in site.refused(site.guarded.contribute, answer(values))


def test_a_planted_record_does_not_leave_by_upload(site):
    values = vector()
    values[1000 : 1000 + COLUMNS] = TABLE.features[7] * np.float32(0.01)
    data = file_of(values)
    with descriptor_of(data) as file:
        assert "a record" in site.refused(site.guarded.upload, RUN, ref_of(data), file)


def test_an_honest_upload_leaves_and_only_then_may_be_named(site):
    data = file_of(vector())
    site.refused(site.guarded.contribute, answer(update_inline=b""))
    with descriptor_of(data) as file:
        site.guarded.upload(RUN, ref_of(data), file)
    assert [name for name, _ in site.hub.heard] == ["upload"]
    assert site.departures.entries()[-1].bytes == len(data)


def test_a_record_in_the_metrics_does_not_leave(site):
    metrics = {f"m{place}": float(value) for place, value in enumerate(TABLE.features[3])}
    site.refused(site.guarded.contribute, answer(evaluation=Evaluation(40, metrics)))
    appraisal = tuple(float(value) * 2 for value in TABLE.features[9])
    site.refused(site.guarded.contribute, answer(evaluation=Evaluation(40, {}, appraisal=appraisal)))


def test_a_standardized_record_does_not_leave_once_the_statistics_are_known(tmp_path):
    from wardround.aggregation import standardization
    from wardround.protocol.plan import statistics_manifest

    site = Site(tmp_path, make_plan(scaling="federated"))
    sums = standardization.site_sums(TABLE.features, [True] * COLUMNS)
    scaled = standardization.apply(TABLE.features, *standardization.mean_and_std(sums))
    values = vector()
    values[36 : 36 + COLUMNS] = scaled[5] * np.float32(-0.004)
    site.egress.standardized(RUN, site.plan, tensors.pack(sums, statistics_manifest(site.plan.data)))
    assert "a record" in site.refused(site.guarded.contribute, answer(values))


def test_identifiers_leave_in_no_text_name_or_vector(tmp_path):
    site = Site(tmp_path, identifiers=["MRN-00481516", "Jane Doe"])
    decision = Decision(CommandId("c"), STUDY, "arran", "refuse", "Dr Who", "because of Jane Doe", 1.8e9)
    site.refused(site.guarded.decide, decision)
    site.refused(site.guarded.contribute, answer(evaluation=Evaluation(1, {"auc MRN-00481516": 0.5})))
    values = bytearray(vector().tobytes())
    values[401:413] = b"MRN-00481516"
    site.refused(site.guarded.contribute, answer(np.frombuffer(bytes(values), np.float32)))


SMALL = (tensors.TensorSpec("weight", (199, COLUMNS)), tensors.TensorSpec("bias", (200,)))


@pytest.mark.parametrize(
    "wrong",
    [
        answer(update=None, update_inline=b""),
        answer(update_inline=b""),
        answer(update_inline=file_of(vector(2))),
        answer(update=BlobRef(Digest("ab" * 32), 11), update_inline=b"hello world"),
        answer(nonce=bytes(32)),
        answer(train_seconds=float("nan")),
        answer(declined="because Mr Smith is ill"),
        answer(evaluation=Evaluation(1, {"auc": float("inf")})),
        answer(evaluation=Evaluation(1, {"a\nb": 0.5})),
        answer(evaluation=Evaluation(1, {"x" * 200: 0.5})),
        answer(evaluation=Evaluation(1, {f"m{place}": 0.5 for place in range(1001)})),
    ],
    ids=[
        "no update",
        "not searched",
        "another update",
        "another size",
        "nonce",
        "time",
        "own words",
        "infinite",
        "control",
        "long name",
        "many names",
    ],
)
def test_an_answer_that_the_plan_does_not_ask_for_does_not_leave(site, wrong):
    site.refused(site.guarded.contribute, wrong)


def test_another_header_than_the_plans_does_not_leave(site):
    data = file_of(vector())
    other = data.replace(b"weight", b"waiter")
    site.refused(site.guarded.contribute, answer(update=ref_of(other), update_inline=other))
    with descriptor_of(other) as file:
        site.refused(site.guarded.upload, RUN, ref_of(other), file)


def test_an_unapproved_study_and_an_unknown_run_get_nothing(site):
    other = f"{'ef' * 32}.1"
    site.refused(site.guarded.contribute, msgspec.structs.replace(answer(), run=other))
    site.refused(site.guarded.contribute, msgspec.structs.replace(answer(), run=f"{STUDY}.2"))
    site.refused(site.guarded.contribute, msgspec.structs.replace(answer(), run="no run"))
    site.egress.forget(RUN)
    site.refused(site.guarded.contribute, answer())


class Whatever(msgspec.Struct, frozen=True):
    run: str = RUN
    number: int = 1
    records: bytes = b"everything"


@pytest.mark.parametrize("method", ["contribute", "answer", "pair", "decide", "audit"])
@pytest.mark.parametrize("message", [Whatever(), {"run": RUN}, b"bytes", None, 5, TABLE.features], ids=type)
def test_an_unknown_type_does_not_leave(site, method, message):
    assert "another type" in site.refused(getattr(site.guarded, method), message)


def test_a_known_message_does_not_leave_by_another_way(site):
    site.refused(site.guarded.contribute, PairAnswer(roster=Digest("cd" * 32)))
    site.refused(site.guarded.pair, answer())
    site.refused(site.guarded.answer, answer())


def test_a_node_proposes_and_starts_nothing(site):
    site.refused(site.guarded.propose, Proposal(CommandId("c"), SignedPlan(b"", "ada", b"")))
    site.refused(site.guarded.act, STUDY, "release", "")


@pytest.mark.parametrize(
    ("method", "arguments"),
    [
        ("plan", ("63.0 1 145 233",)),
        ("identity", ("Jane Doe",)),
        ("run", ("x" * 64,)),
        ("download", ("patients", BlobRef(Digest("ab" * 32), 1))),
        ("download", (RUN, BlobRef(Digest("patient 12"), 1))),
        ("next_task", (TaskRequest(busy=("Jane Doe",)),)),
        ("next_task", (TaskRequest(wait_seconds=float("nan")),)),
        ("next_task", ("a task",)),
    ],
)
def test_a_request_carries_names_and_nothing_else(site, method, arguments):
    site.refused(getattr(site.guarded, method), *arguments)


def test_requests_by_name_pass_and_are_not_entered(site):
    site.guarded.next_task(TaskRequest(busy=(RUN,)))
    site.guarded.plan(STUDY)
    site.guarded.identity("ada")
    site.guarded.run(RUN)
    site.guarded.download(STUDY, BlobRef(Digest("ab" * 32), 1))
    site.guarded.studies()
    assert len(site.hub.heard) == 6
    assert site.departures.entries() == []


def test_every_sentence_by_which_a_participant_declines_is_known(site):
    for error in all_errors():
        sentence = participant._public(error("a secret of this site"))
        assert sentence in egress_rules.public_sentences()
        site.guarded.contribute(
            Contribution(command=CommandId("c"), run=RUN, number=1, kind="train", declined=sentence)
        )
    assert participant._REFUSED in egress_rules.public_sentences()


def test_a_site_declines_in_no_words_of_its_own(site):
    for words in ("because Mr Smith is ill", "policy: nothing", "x" * 700):
        said = Contribution(command=CommandId("c"), run=RUN, number=1, kind="train", declined=words)
        assert "known sentences" in site.refused(site.guarded.contribute, said)


def test_a_site_declines_without_a_plan_without_records_and_beyond_its_budget(tmp_path):
    site = Site(tmp_path, limits=EgressLimits(day_bytes=0, run_bytes=0))
    sentence = min(egress_rules.public_sentences())
    other = f"{'ef' * 32}.1"
    site.guarded.contribute(Contribution(command=CommandId("c"), run=other, number=1, kind="train", declined=sentence))
    site.guarded.answer(CohortAnswer(run=other, number=1, cohort=1, answer=Unmaskable(b"", "left")))
    assert len(site.hub.heard) == 2
    with pytest.raises(EgressError, match="for one run"):
        site.guarded.contribute(answer())
    assert len(site.hub.heard) == 2


def test_the_budget_refuses_before_a_byte_leaves_and_after_a_restart(tmp_path):
    size = len(msgspec.msgpack.encode(answer()))
    site = Site(tmp_path, limits=EgressLimits(day_bytes=2 * size))
    site.guarded.contribute(answer())
    again = Site(tmp_path, limits=EgressLimits(day_bytes=2 * size), vault=site.vault)
    again.guarded.contribute(answer())
    with pytest.raises(EgressError, match="on a day"):
        again.guarded.contribute(answer())
    assert len(again.hub.heard) == 1


@pytest.fixture
def secure(tmp_path):
    return Site(tmp_path, make_plan(secure=True))


def ready(**more):
    return Contribution(command=CommandId("c"), run=RUN, number=1, kind="train", **{"nonce": bytes(32), **more})


def test_with_secure_aggregation_a_site_says_only_that_it_is_ready(secure):
    for wrong in (
        ready(nonce=b""),
        ready(records=5),
        ready(update=BlobRef(Digest("ab" * 32), 5)),
        ready(update_inline=b"x"),
        ready(evaluation=Evaluation(1, {"auc": 0.5})),
    ):
        secure.refused(secure.guarded.contribute, wrong)
    secure.guarded.contribute(ready())
    assert len(secure.hub.heard) == 1


def masking(site, values, sums=None):
    """What a participant does: read the update for masking, and keep the masked vector."""
    data = file_of(values)
    with descriptor_of(data) as file:
        files = site.egress.reading(RUN, site.plan, np.array([1.0, 0.5]) if sums is None else sums)
        head = len(tensors.header(MODEL))
        return b"".join(bytes(piece) for piece in files.chunks(file, head, len(data), 4 * 500))


def test_what_goes_into_the_mask_is_searched(secure):
    assert masking(secure, vector()) == vector().tobytes()
    values = vector()
    values[494 : 494 + COLUMNS] = TABLE.features[11] * np.float32(0.002)
    assert "a record" in secure.refused(masking, secure, values)
    sums = TABLE.features[11].astype(np.float64) * 3
    assert "a record" in secure.refused(masking, secure, vector(), sums)


def test_only_a_vector_that_was_masked_here_and_has_the_terms_bytes_leaves(secure):
    data = os.urandom(1000)
    ref, step = ref_of(data), {"run": RUN, "number": 1, "cohort": 1}
    masked = CohortAnswer(
        **step, answer=Masked(transcript=bytes(32), included=bytes(32), digest=bytes.fromhex(ref.digest)), inline=data
    )
    with descriptor_of(data) as file:
        secure.refused(secure.guarded.upload, RUN, ref, file)
        secure.refused(secure.guarded.answer, masked)
        secure.refused(secure.egress.clear_masked, RUN, ref, 1004)
        secure.egress.clear_masked(RUN, ref, 1000)
        secure.refused(secure.guarded.answer, msgspec.structs.replace(masked, inline=b"another"))
        secure.refused(secure.guarded.upload, RUN, BlobRef(ref.digest, 999), file)
        secure.guarded.upload(RUN, ref, file)
    secure.guarded.answer(masked)
    assert [entry.masked for entry in secure.departures.entries()[-2:]] == [True, True]


def test_the_other_steps_of_a_cohort_leave_and_carry_no_vector(secure):
    for said in (Agreement(bytes(32), bytes(64)), Reveal(bytes(32), (bytes(32),))):
        message = CohortAnswer(run=RUN, number=1, cohort=1, answer=said)
        secure.refused(secure.guarded.answer, msgspec.structs.replace(message, inline=b"x"))
        secure.guarded.answer(message)
        secure.hub.heard.clear()
    long = CohortAnswer(run=RUN, number=1, cohort=1, answer=Unmaskable(b"", "x" * 3000))
    secure.refused(secure.guarded.answer, long)


def test_decisions_audits_and_pairs_leave_as_they_are(site):
    site.guarded.decide(Decision(CommandId("c"), STUDY, "arran", "approve", "Dr Who", "because", 1.8e9))
    digest = Digest("ab" * 32)
    site.guarded.audit(
        Audit(
            command=CommandId("c"),
            study=STUDY,
            run=RUN,
            site="arran",
            model=digest,
            passed=True,
            report=digest,
            person="Dr Who",
            audited_at=1.8e9,
        )
    )
    site.guarded.pair(PairAnswer(roster=digest))
    assert [entry.kind for entry in site.departures.entries()] == ["decision", "audit", "pair answer"]
    assert site.departures.entries(study=STUDY[:8])[1].numbers == {"passed": 1.0}


def trained(model, seed, folder):
    """The update of an honest round on the tables of a demo: one site's records, standardized, a few local epochs."""
    from wardround.training import models
    from wardround.training.inprocess import InProcessWorker

    g = np.random.default_rng(seed)
    records = int(g.integers(40, 300))
    features = np.round(g.normal(0, 1, (records, COLUMNS)), 2).astype(np.float32)
    features[:, 8:] = g.random((records, 4)) < 0.4
    labels = (features[:, 0] + g.normal(size=records) > 0).astype(np.float32)
    held_out = np.arange(records) % 5 == 0
    table = StudyTable(features, labels, held_out, LoadReport(records, records, 0))
    module = models.build(model, DATA)
    manifest = tuple(tensors.TensorSpec(name, tuple(value.shape)) for name, value in module.state_dict().items())
    base = tensors.pack({name: value.numpy() for name, value in module.state_dict().items()}, manifest)
    plan = msgspec.structs.replace(
        make_plan(),
        model=model,
        manifest=manifest,
        initial=ref_of(base),
        seed=seed,
        training=Training(rounds=1, epochs=2, batch_size=32, optimizer=Optimizer(learning_rate=0.1)),
    )
    path = folder / "base"
    path.write_bytes(base)
    worker = InProcessWorker(plan, "arran", table, None)
    done = worker.perform(1, "train", str(path), b"")
    data = os.pread(done.update, done.ref.size, 0)
    worker.close()
    return plan, table, data, done


@pytest.mark.parametrize("model", [BuiltinModel(name="logistic"), BuiltinModel(name="mlp", hidden=(16, 8))], ids=str)
def test_honest_training_raises_no_alarm_over_many_seeds(tmp_path, model):
    for seed in range(40):
        plan, table, data, done = trained(model, seed, tmp_path)
        site = Site(tmp_path / "files", plan)
        site.egress.forget(RUN)
        site.egress.watch(RUN, table)
        site.guarded.contribute(
            answer(update=ref_of(data), update_inline=data, evaluation=done.evaluation, records=done.records)
        )
        assert len(site.hub.heard) == 1
