"""Studies at the hub and approvals at a site: who may do what, and what a crash leaves."""

import msgspec
import pytest
from tests.simulation import fakes
from tests.simulation.bench import SITES, Bench, Killed, decision, plan
from tests.simulation.fakes import RESEARCHER, T0

from wardround.codec import canonical
from wardround.crypto import signing
from wardround.errors import (
    CodecError,
    DigestMismatchError,
    ForbiddenError,
    NotFoundError,
    PeerProtocolError,
    PolicyError,
    SignatureError,
    UnavailableError,
    WardroundError,
)
from wardround.protocol import messages
from wardround.protocol import plan as plans
from wardround.protocol.messages import Audit, Decision, Proposal
from wardround.protocol.plan import BlobRef, CodePackage, SignedPlan
from wardround.protocol.policy import SitePolicy, explain
from wardround.protocol.run import Phase as RunPhase
from wardround.protocol.study import Phase
from wardround.services.approvals import Approvals
from wardround.storage.memory import MemoryVault


@pytest.fixture
def bench():
    """A hub with a proposed study."""
    made = Bench()
    made.propose()
    return made


def propose(bench, made, *, sender=RESEARCHER, signer=RESEARCHER):
    signed = plans.sign(made, fakes.key_of(signer))
    return bench.studies.propose(sender, Proposal("p", signed))


def test_a_proposal_is_answered_with_where_the_study_is_also_the_second_time(bench):
    first = bench.propose()
    assert (first.study, first.phase, first.runs) == (bench.study, "proposed", ())
    assert first.decisions == dict.fromkeys(SITES, "")
    bench.decide("berlin")
    assert bench.boot().propose().decisions["berlin"] == "approve"
    assert len(bench.log.kept.read(f"study:{bench.study}")) == 2


def test_nobody_proposes_for_another(bench):
    with pytest.raises(ForbiddenError):
        propose(bench, plan(salt=1), sender="berlin")
    with pytest.raises(SignatureError):
        propose(bench, plan(salt=1), signer="berlin")


def test_a_plan_changed_by_one_byte_after_signing_is_not_taken(bench):
    signed = plans.sign(bench.plan, fakes.key_of(RESEARCHER))
    for place in range(0, len(signed.plan), 41):
        changed = bytearray(signed.plan)
        changed[place] ^= 1
        with pytest.raises(SignatureError):
            bench.studies.propose(RESEARCHER, Proposal("p", SignedPlan(bytes(changed), RESEARCHER, signed.signature)))


def test_an_expired_plan_is_not_taken(bench):
    bench.blobs.put(fakes.initial_model(1))
    assert propose(bench, plan(salt=1, expires=T0 + 1)).phase == "proposed"
    with pytest.raises(CodecError, match="expired already"):
        propose(bench, plan(salt=1, expires=T0))


def test_what_a_plan_names_must_have_been_uploaded(bench):
    with pytest.raises(PeerProtocolError, match="upload the blobs"):
        propose(bench, plan(salt=1))
    bench.blobs.put(fakes.initial_model(1))
    package = CodePackage(package=BlobRef(canonical.digest(b"zip"), 3), factory="m:f")
    with pytest.raises(PeerProtocolError, match="upload the blobs"):
        propose(bench, msgspec.structs.replace(plan(salt=1), model=package))
    bench.blobs.put(b"zip")
    assert propose(bench, msgspec.structs.replace(plan(salt=1), model=package)).phase == "proposed"


@pytest.mark.parametrize("wrong", ["size", "header", "nan"])
def test_an_initial_model_that_is_not_of_the_plans_arrays_is_not_taken(bench, wrong):
    data = fakes.initial_model(1)
    data = {"size": data + b"\0" * 4, "header": data.replace(b"bias", b"bios"), "nan": data[:-4] + b"\0\0\xc0\x7f"}[
        wrong
    ]
    digest = bench.blobs.put(data).digest
    made = msgspec.structs.replace(plan(salt=1), initial=BlobRef(digest, len(fakes.initial_model(1))))
    with pytest.raises(CodecError):
        propose(bench, made)
    assert len(bench.studies.all()) == 1


def test_a_package_of_another_size_is_not_taken(bench):
    bench.blobs.put(fakes.initial_model(1))
    package = CodePackage(package=BlobRef(bench.blobs.put(b"zip").digest, 4), factory="m:f")
    with pytest.raises(CodecError, match="another size"):
        propose(bench, msgspec.structs.replace(plan(salt=1), model=package))


def test_a_site_decides_for_itself_and_with_its_own_key(bench):
    with pytest.raises(ForbiddenError):
        bench.studies.decide("cadiz", decision(bench.study, "berlin"))
    with pytest.raises(ForbiddenError):
        bench.studies.decide("espoo", decision(bench.study, "espoo"))
    forged = msgspec.structs.replace(decision(bench.study, "berlin"), verdict="refuse")
    with pytest.raises(SignatureError):
        bench.studies.decide("berlin", forged)
    with pytest.raises(NotFoundError):
        bench.studies.decide("berlin", decision("0" * 64, "berlin"))
    assert bench.studies.status(bench.study).decisions == dict.fromkeys(SITES, "")


def test_the_last_decision_opens_the_run(bench):
    for site in SITES:
        assert bench.coordinator.active() == []
        status = bench.decide(site)
    assert (status.phase, status.runs) == ("running", (bench.run,))
    assert bench.state().terms.sites == SITES


def test_only_the_researcher_starts_releases_and_withdraws(bench):
    for act in (
        lambda who: bench.studies.start(who, bench.study),
        lambda who: bench.studies.finish(who, bench.study, Phase.WITHDRAWN, ""),
    ):
        with pytest.raises(ForbiddenError):
            act("berlin")


def test_the_researcher_starts_with_those_who_approved(bench):
    bench.decide("berlin")
    with pytest.raises(PeerProtocolError):
        bench.studies.start(RESEARCHER, bench.study)
    bench.decide("delft")
    assert bench.studies.start(RESEARCHER, bench.study).runs == (bench.run,)
    assert bench.state().terms.sites == ("berlin", "delft")


def test_only_an_evaluated_study_is_released():
    bench = Bench(rounds=1, scaling="none").start()
    with pytest.raises(PeerProtocolError, match="only an evaluated study"):
        bench.studies.finish(RESEARCHER, bench.study, Phase.RELEASED, "")
    bench.round()
    bench.round()
    assert bench.studies.status(bench.study).phase == "evaluated"
    assert bench.studies.finish(RESEARCHER, bench.study, Phase.RELEASED, "").phase == "released"
    assert bench.state().phase is RunPhase.COMPLETED


def test_a_withdrawn_study_stops_its_run():
    bench = Bench().start()
    assert bench.studies.finish(RESEARCHER, bench.study, Phase.WITHDRAWN, "a mistake").phase == "withdrawn"
    assert bench.state().reason == "the researcher withdrew the study: a mistake"


def test_a_site_that_withdraws_leaves_the_run():
    bench = Bench().start()
    bench.decide("cadiz", "withdraw")
    assert bench.state().left == {"cadiz"}
    bench.decide("delft", "withdraw")
    assert bench.state().phase is RunPhase.STOPPED
    assert bench.studies.status(bench.study).phase == "stopped"


def test_a_stopped_study_is_started_again_with_a_new_run():
    bench = Bench().start()
    bench.coordinator.withdraw(bench.run, "no quorum")
    assert bench.studies.status(bench.study).phase == "stopped"
    assert bench.studies.start(RESEARCHER, bench.study).runs == (bench.run, f"{bench.study}.2")


@pytest.mark.parametrize("fault", ["killed", "killed after", "answer lost", "unavailable", "full"])
def test_a_decision_interrupted_at_any_write_is_made_once(fault):
    for place in range(4):
        bench = Bench()
        bench.propose()
        bench.decide("berlin")
        bench.decide("cadiz")
        bench.faults = [("log", "")] * place + [("log", fault)]
        try:
            bench.decide("delft")
        except (Killed, WardroundError):
            bench.faults = []
            bench.boot().decide("delft")
        bench.faults = []
        assert bench.studies.status(bench.study).runs == (bench.run,)
        assert bench.state().terms.sites == SITES


@pytest.mark.parametrize("act", ["start", "leave", "withdraw", "end"])
def test_what_a_crash_left_undone_is_done_by_the_next_tick(act):
    """The hub is killed between what it wrote to the study and what it would have written to the run."""
    bench = Bench(rounds=1, scaling="none")
    bench.propose()
    bench.decide("berlin")
    bench.decide("cadiz")
    if act == "start":
        bench.fail("log", "killed after")
        with pytest.raises(Killed):
            bench.decide("delft")
        bench.boot().studies.tick()
        assert bench.state().terms.sites == SITES
        return
    bench.decide("delft")
    bench.coordinator.tick()
    if act == "leave":
        bench.fail("log", "killed after")
        with pytest.raises(Killed):
            bench.decide("delft", "withdraw")
        assert bench.boot().state().left == frozenset()
        bench.studies.tick()
        assert bench.state().left == {"delft"}
    if act == "withdraw":
        bench.fail("log", "killed after")
        with pytest.raises(Killed):
            bench.studies.finish(RESEARCHER, bench.study, Phase.WITHDRAWN, "why")
        assert not bench.boot().state().is_ended
        bench.studies.tick()
        assert bench.state().reason == "the researcher withdrew the study: why"
    if act == "end":
        bench.round()
        for site in SITES:
            bench.contribute(site)
        bench.faults = [("log", "killed after")]
        with pytest.raises(Killed):
            bench.coordinator.combine(bench.run)
        assert bench.boot().studies.status(bench.study).phase == "running"
        bench.studies.tick()
        assert bench.studies.status(bench.study).phase == "evaluated"


def test_a_run_that_a_crash_kept_from_opening_opens_although_a_site_has_left_since():
    bench = Bench(quorum=3)
    bench.propose()
    bench.decide("berlin")
    bench.decide("cadiz")
    bench.fail("log", "killed after")
    with pytest.raises(Killed):
        bench.decide("delft")
    bench.boot().decide("berlin", "withdraw")
    bench.studies.tick()
    assert bench.state().phase is RunPhase.STOPPED
    assert "berlin took its approval back" in bench.state().reason
    bench.studies.tick()
    assert bench.studies.status(bench.study).phase == "stopped"


def test_a_study_withdrawn_before_its_run_was_opened_never_opens_it():
    bench = Bench()
    bench.propose()
    bench.decide("berlin")
    bench.decide("cadiz")
    bench.fail("log", "killed after")
    with pytest.raises(Killed):
        bench.decide("delft")
    bench.boot().studies.finish(RESEARCHER, bench.study, Phase.WITHDRAWN, "why")
    bench.studies.tick()
    assert bench.coordinator.active() == []


def test_a_study_that_nobody_decided_expires(bench):
    bench.time = bench.plan.expires - 1
    bench.studies.tick()
    assert bench.studies.status(bench.study).phase == "proposed"
    bench.time += 1
    bench.studies.tick()
    assert bench.studies.status(bench.study).phase == "expired"
    with pytest.raises(PeerProtocolError):
        bench.decide("berlin")


def test_a_conflict_that_was_none_does_not_lose_the_plan():
    bench = Bench()
    bench.blobs.put(fakes.initial_model(0))
    bench.fail("log", "conflict")
    with pytest.raises(UnavailableError):
        propose(bench, bench.plan)
    propose(bench, bench.plan)
    assert bench.studies.signed_plan(bench.study).researcher == RESEARCHER


def test_who_may_read_which_blobs(bench):
    initial = bench.plan.initial.digest
    for name in (*SITES, RESEARCHER):
        bench.studies.may_read(name, bench.study, initial)
    with pytest.raises(ForbiddenError):
        bench.studies.may_read("espoo", bench.study, initial)
    with pytest.raises(NotFoundError):
        bench.studies.may_read("berlin", bench.study, "0" * 64)
    with pytest.raises(NotFoundError):
        bench.studies.may_read("berlin", "0" * 64, initial)
    with pytest.raises(CodecError):
        bench.studies.signed_plan("../plan")


def test_studies_are_listed_for_those_whom_they_name(bench):
    assert [status.study for status in bench.studies.concerning("berlin")] == [bench.study]
    assert [status.study for status in bench.studies.concerning(RESEARCHER)] == [bench.study]
    assert bench.studies.concerning("espoo") == []


class Hub:
    """The few calls of a hub that approvals make, over a bench, or lying."""

    def __init__(self, bench, site, lie=None):
        self._bench, self._site, self._lie = bench, site, lie

    def plan(self, study):
        return self._lie or self._bench.studies.signed_plan(study)

    def identity(self, name):
        return fakes.identity(name)

    def decide(self, decision):
        return self._bench.studies.decide(self._site, decision)

    def audit(self, audit):
        return self._bench.studies.audit(self._site, audit)


def approvals(bench, vault, *, lie=None, policy=None, site="berlin", key=None):
    return Approvals(
        site,
        key=key or fakes.key_of(site),
        authority=fakes.authority()[1],
        hub=Hub(bench, site, lie),
        vault=vault,
        policy=policy or SitePolicy(min_participants=1, min_records=1),
        clock=bench,
    )


def approve(bench, vault):
    made = approvals(bench, vault)
    made.decide(bench.study, "approve", person="Dr Who", reason="")
    return made


def test_an_approved_plan_may_run_and_survives_the_node(bench):
    vault = MemoryVault()
    approve(bench, vault)
    assert approvals(bench, vault).approved_plan(bench.study) == bench.plan


def test_a_plan_changed_by_one_byte_after_approval_is_refused(bench):
    vault = MemoryVault()
    made = approve(bench, vault)
    assert made.approved_plan(bench.study) == bench.plan
    signed = messages.decode(vault.get(f"plan.{bench.study}"), SignedPlan)
    for place in range(0, len(signed.plan), 29):
        changed = bytearray(signed.plan)
        changed[place] ^= 1
        vault.put(f"plan.{bench.study}", messages.encode(msgspec.structs.replace(signed, plan=bytes(changed))))
        with pytest.raises(DigestMismatchError, match="changed"):
            made.approved_plan(bench.study)


def test_a_plan_that_the_hub_changed_before_approval_is_refused(bench):
    other = plans.sign(msgspec.structs.replace(bench.plan, title="other"), fakes.key_of(RESEARCHER))
    vault = MemoryVault()
    lied_to = approvals(bench, vault, lie=other)
    with pytest.raises(DigestMismatchError):
        lied_to.decide(bench.study, "approve", person="Dr Who", reason="")
    with pytest.raises(DigestMismatchError):
        lied_to.review(bench.study)
    assert vault.names("") == []


def test_a_plan_signed_by_another_than_an_enrolled_researcher_is_refused(bench):
    mine = msgspec.structs.replace(bench.plan, researcher="cadiz")
    forged = plans.sign(mine, fakes.key_of("cadiz"))
    with pytest.raises(PolicyError, match="enrolled researcher"):
        approvals(bench, MemoryVault(), lie=forged).review(plans.study_id(mine))


@pytest.mark.parametrize("verdict", [None, "refuse", "withdraw"])
def test_a_plan_that_is_not_approved_does_not_run(bench, verdict):
    vault = MemoryVault()
    if verdict == "withdraw":
        approve(bench, vault)
    made = approvals(bench, vault)
    if verdict:
        made.decide(bench.study, verdict, person="Dr Who", reason="")
    with pytest.raises(PolicyError, match="nobody at this site approved"):
        made.approved_plan(bench.study)


def test_a_withdrawal_by_another_process_counts_at_once(bench):
    vault = MemoryVault()
    made = approve(bench, vault)
    assert made.approved_plan(bench.study) == bench.plan
    approvals(bench, vault).decide(bench.study, "withdraw", person="Dr Who", reason="")
    with pytest.raises(PolicyError, match="nobody at this site approved"):
        made.approved_plan(bench.study)


def test_a_decision_that_was_forged_after_it_counted_does_not_count(bench):
    vault = MemoryVault()
    made = approve(bench, vault)
    assert made.approved_plan(bench.study) == bench.plan
    forged = msgspec.structs.replace(messages.decode(vault.get(f"decision.{bench.study}"), Decision), person="me")
    vault.put(f"decision.{bench.study}", messages.encode(forged))
    with pytest.raises(SignatureError):
        made.approved_plan(bench.study)


def test_an_approval_by_another_key_does_not_count(bench):
    vault = MemoryVault()
    approve(bench, vault)
    with pytest.raises(SignatureError):
        approvals(bench, vault, key=fakes.key_of("cadiz")).approved_plan(bench.study)
    forged = msgspec.structs.replace(messages.decode(vault.get(f"decision.{bench.study}"), Decision), person="me")
    vault.put(f"decision.{bench.study}", messages.encode(forged))
    with pytest.raises(SignatureError):
        approvals(bench, vault).approved_plan(bench.study)


def test_an_approved_plan_does_not_run_after_it_expired_or_against_a_stricter_policy(bench):
    vault = MemoryVault()
    made = approve(bench, vault)
    with pytest.raises(PolicyError, match="participants"):
        approvals(bench, vault, policy=SitePolicy(min_participants=3)).approved_plan(bench.study)
    bench.time = bench.plan.expires - 1
    assert made.approved_plan(bench.study) == bench.plan
    bench.time += 1
    with pytest.raises(PolicyError, match="expired"):
        made.approved_plan(bench.study)


def test_an_approval_that_the_hub_never_heard_of_still_counts_here(bench):
    vault = MemoryVault()
    bench.fail("log", "unavailable")
    with pytest.raises(UnavailableError):
        approve(bench, vault)
    assert approvals(bench, vault).approved_plan(bench.study) == bench.plan


@pytest.fixture
def evaluated():
    """A hub with an evaluated study, whose plan asks for an audit."""
    made = Bench(rounds=1, scaling="none")
    made.plan = msgspec.structs.replace(made.plan, audits=1)
    made.study = plans.study_id(made.plan)
    made.run = f"{made.study}.1"
    made.start()
    made.round()
    made.round()
    return made


def hand_in(bench, vault, *, passed=True, site="berlin", key=None, model=None, report="b" * 64):
    made = approvals(bench, vault, site=site, key=key)
    model = model or bench.state().model.digest
    return made.hand_in_audit(bench.run, model, report, passed=passed, person="Dr Who")


def test_a_release_waits_for_its_audits(evaluated):
    with pytest.raises(PeerProtocolError, match="0 sites have audited the model, the plan asks for 1"):
        evaluated.studies.finish(RESEARCHER, evaluated.study, Phase.RELEASED, "")
    status = hand_in(evaluated, MemoryVault())
    assert (status.audits_needed, status.audits) == (1, {"berlin": "passed", "cadiz": "", "delft": ""})
    assert hand_in(evaluated, MemoryVault(), site="delft", passed=False).audits["delft"] == "failed"
    evaluated.boot()
    with pytest.raises(PeerProtocolError, match="the audit of delft failed"):
        evaluated.studies.finish(RESEARCHER, evaluated.study, Phase.RELEASED, "")
    hand_in(evaluated, MemoryVault(), site="delft", report="c" * 64)
    assert evaluated.studies.finish(RESEARCHER, evaluated.study, Phase.RELEASED, "").phase == "released"
    assert len(evaluated.log.kept.read(f"study:{evaluated.study}")) == 2 + len(SITES) + 1 + 3 + 1


def test_an_audit_is_the_sites_own_signed_and_of_the_last_model(evaluated):
    vault = MemoryVault()
    with pytest.raises(SignatureError, match="audit is not signed"):
        hand_in(evaluated, vault, key=fakes.key_of("cadiz"))
    audit = messages.decode(vault.get(f"audit.{evaluated.study}"), Audit)
    with pytest.raises(SignatureError):
        evaluated.studies.audit("berlin", msgspec.structs.replace(audit, signature=b""))
    with pytest.raises(ForbiddenError, match="cadiz may not audit for berlin"):
        evaluated.studies.audit("cadiz", audit)
    with pytest.raises(PeerProtocolError, match="another model"):
        hand_in(evaluated, vault, model=evaluated.plan.initial.digest)
    hand_in(evaluated, vault, passed=False)
    kept = messages.decode(vault.get(f"audit.{evaluated.study}"), Audit)
    with pytest.raises(SignatureError):
        evaluated.studies.audit("berlin", msgspec.structs.replace(kept, passed=True))
    with pytest.raises(NotFoundError):
        evaluated.studies.audit("berlin", signed(msgspec.structs.replace(kept, study="0" * 64)))
    assert evaluated.studies.status(evaluated.study).audits["berlin"] == "failed"


def signed(audit):
    return msgspec.structs.replace(audit, signature=signing.sign(messages.audit_bytes(audit), fakes.key_of(audit.site)))


@pytest.mark.parametrize("audits", [-1, 4])
def test_a_plan_asks_for_no_more_audits_than_it_has_participants(audits):
    with pytest.raises(CodecError, match="audits must be between 0"):
        plans.check(msgspec.structs.replace(plan(), audits=audits))
    plans.check(msgspec.structs.replace(plan(), audits=3))
    assert any("1 or more sites must have attacked it" in line for line in explain(plan_with_audit()))
    assert not any("attacked" in line for line in explain(plan()))


def plan_with_audit():
    return msgspec.structs.replace(plan(), audits=1)
