"""The hub's side of a run: bad inputs one by one, failing storage, and what a crash leaves."""

import math
import struct

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.simulation import fakes
from tests.simulation.bench import SITES, Bench, Killed

from wardround.codec import canonical, tensors
from wardround.errors import (
    CodecError,
    ConflictError,
    ForbiddenError,
    NotFoundError,
    PeerProtocolError,
    StorageFullError,
    UnavailableError,
)
from wardround.protocol import run as runs
from wardround.protocol.events import RoundClosed, RoundCombined, RunStopped, SiteAbsent, UpdateAccepted, UpdateRefused
from wardround.protocol.messages import Contribution, Evaluation, TaskRequest
from wardround.protocol.plan import BlobRef
from wardround.protocol.run import Phase


@pytest.fixture
def bench():
    """A run whose statistics are done and whose first training round is open."""
    made = Bench().start()
    made.round()
    return made


def good(site="berlin", number=2):
    return fakes.trained_update(site, number, b"", b"")


def poisoned(value):
    return good()[:-4] + struct.pack("<f", value)


def refused(bench, site="berlin", **changes):
    """Send it, see it refused and recorded, and see that the site may still do better."""
    receipt = bench.contribute(site, **changes)
    assert receipt.outcome == "refused"
    last = bench.events()[-1]
    assert isinstance(last, UpdateRefused)
    assert (last.site, last.reason, last.late) == (site, receipt.reason, False)
    assert bench.task(site) is not None
    return receipt.reason


def test_an_update_with_wrong_shape_is_refused(bench):
    assert "another shape" in refused(bench, data=good().replace(b"[1,3]", b"[3,1]"))


def test_an_update_with_a_wrong_name_is_refused(bench):
    assert "is missing" in refused(bench, data=good().replace(b"bias", b"bios"))


def test_an_update_with_nan_is_refused(bench):
    assert "1 of 4 values are NaN or infinite" in refused(bench, data=poisoned(math.nan))


@pytest.mark.parametrize("value", [math.inf, -math.inf])
def test_an_update_with_infinity_is_refused(bench, value):
    assert "NaN or infinite" in refused(bench, data=poisoned(value))


@pytest.mark.parametrize("dtype", [b'"F16"', b'"I32"', b'"F64"'])
def test_an_update_with_wrong_dtype_is_refused(bench, dtype):
    assert "another dtype" in refused(bench, data=good().replace(b'"F32"', dtype))


def test_bytes_that_are_no_tensors_at_all_are_refused(bench):
    assert "no safetensors header" in refused(bench, data=b"\xff" * len(good()))


def test_an_update_that_is_too_large_is_refused(bench):
    assert "too large" in refused(bench, data=good() + bytes(4))


def test_an_update_that_is_too_small_is_refused(bench):
    assert "too small" in refused(bench, data=good()[:-4])


def test_an_update_that_is_too_large_is_not_even_taken(bench):
    data = good() + bytes(4)
    bench.contribute("berlin", data=data)
    assert not bench.blobs.has(canonical.digest(data))
    with pytest.raises(CodecError, match="too large"):
        bench.coordinator.may_upload("berlin", bench.run, BlobRef(canonical.digest(data), len(data)))


def test_an_update_for_an_earlier_round_is_told_that_it_has_closed(bench):
    receipt = bench.contribute("berlin", number=1)
    assert (receipt.outcome, receipt.reason) == ("round-closed", "round 1 has closed")


def test_an_update_for_a_future_round_is_an_error_and_not_recorded(bench):
    count = len(bench.events())
    with pytest.raises(PeerProtocolError, match="round 3 has not been opened"):
        bench.contribute("berlin", number=3)
    assert len(bench.events()) == count


def test_an_update_sent_twice_is_answered_twice_and_counted_once(bench):
    answer = bench.answer("berlin")
    first = bench.coordinator.contribute("berlin", answer)
    assert bench.coordinator.contribute("berlin", answer) == first
    assert bench.boot().coordinator.contribute("berlin", answer) == first
    assert sum(isinstance(event, UpdateAccepted) and event.number == 2 for event in bench.events()) == 1


def test_another_update_under_another_command_is_refused_and_the_first_counts(bench):
    bench.contribute("berlin")
    receipt = bench.contribute("berlin", data=poisoned(0.25))
    assert (receipt.outcome, "first answer counts" in receipt.reason) == ("refused", True)
    assert bench.state().round.accepted["berlin"].update.digest == canonical.digest(good())


def test_another_update_under_the_same_command_gets_the_first_answer(bench):
    first = bench.contribute("berlin", command="one")
    assert bench.contribute("berlin", command="one", data=poisoned(0.25)) == first
    assert bench.state().round.accepted["berlin"].update.digest == canonical.digest(good())


def test_a_command_id_of_one_site_is_not_that_of_another(bench):
    bench.contribute("berlin", command="one")
    assert bench.contribute("cadiz", command="one").outcome == "accepted"
    assert set(bench.state().round.accepted) == {"berlin", "cadiz"}


def test_an_update_after_the_deadline_is_told_that_the_round_has_closed(bench):
    for site in ("berlin", "cadiz"):
        bench.contribute(site)
    late = bench.answer("delft")
    bench.time += 60.0
    bench.coordinator.tick()
    bench.coordinator.tick()
    assert bench.coordinator.contribute("delft", late).outcome == "round-closed"
    bench.coordinator.combine(bench.run)
    closed = [event.contributors for event in bench.events() if isinstance(event, RoundClosed)]
    assert closed[-1] == ("berlin", "cadiz")


@pytest.mark.parametrize("records", [10**9, 1001, 0, -1, 2**63])
def test_a_claim_of_a_billion_records_is_refused(bench, records):
    assert "the plan allows 1 to 1000" in refused(bench, records=records)


@pytest.mark.parametrize(
    "changes",
    [{"train_seconds": math.nan}, {"train_seconds": math.inf}, {"evaluation": Evaluation(1, {"auc": math.nan})}],
)
def test_numbers_that_are_not_finite_are_refused_and_the_refusal_is_recorded(bench, changes):
    assert "not a finite number" in refused(bench, **changes)


def test_a_blob_that_was_not_uploaded_is_asked_for(bench):
    count = len(bench.events())
    with pytest.raises(PeerProtocolError, match="upload it first"):
        bench.contribute("berlin", update_inline=b"")
    assert len(bench.events()) == count
    bench.blobs.put(good())
    assert bench.contribute("berlin", update_inline=b"").outcome == "accepted"


def test_a_blob_that_was_lost_stops_the_run_and_names_the_operator(bench):
    for site in SITES:
        bench.contribute(site)
    bench.blobs.delete([canonical.digest(good("cadiz"))])
    bench.coordinator.combine(bench.run)
    assert bench.state().phase is Phase.STOPPED
    assert "Must act: the hub's operator" in bench.state().reason
    assert bench.coordinator.combining() == []


@pytest.mark.parametrize("digest", ["../../etc/passwd", "", "A" * 64, "é" * 64])
def test_a_digest_that_is_none_is_an_error(bench, digest):
    with pytest.raises(CodecError):
        bench.contribute("berlin", update=BlobRef(digest, len(good())), update_inline=b"")


def test_inline_bytes_that_are_not_the_named_ones_are_an_error(bench):
    for ref in (BlobRef("1" * 64, len(good())), BlobRef(canonical.digest(good()), 5), None):
        with pytest.raises(PeerProtocolError, match="inline"):
            bench.contribute("berlin", update=ref)


def test_a_sum_that_is_not_finite_stops_the_run_and_publishes_nothing():
    bench = Bench(server={"name": "fedavg", "learning_rate": 10.0}).start()
    bench.round()
    for site in SITES:
        bench.contribute(site, data=good()[:-4] + struct.pack("<f", 3e38))
    bench.coordinator.combine(bench.run)
    assert bench.state().phase is Phase.STOPPED
    assert "Must act: the researcher; an update of one of berlin, cadiz, delft" in bench.state().reason
    assert not [event for event in bench.events() if isinstance(event, RoundCombined) and event.number == 2]
    assert not bench.blobs.has(canonical.digest(good()))


def test_statistics_too_large_to_be_added_stop_the_run():
    bench = Bench().start()
    for site in SITES:
        data = bench.answer(site).update_inline
        bench.contribute(site, data=data[:-8] + struct.pack("<d", 1.7e308))
    bench.coordinator.combine(bench.run)
    assert bench.state().phase is Phase.STOPPED


def test_a_site_of_no_run_is_not_heard(bench):
    with pytest.raises(ForbiddenError):
        bench.coordinator.contribute("espoo", bench.answer("berlin"))
    with pytest.raises(ForbiddenError):
        bench.coordinator.may_upload("espoo", bench.run, BlobRef(canonical.digest(good()), len(good())))
    for run in (f"{bench.study}.2", "nonsense", "0" * 64 + ".1"):
        with pytest.raises(NotFoundError):
            bench.contribute("berlin", run=run)


def test_who_may_download_what(bench):
    model = bench.state().model.digest
    for name in ("berlin", "ada"):
        bench.coordinator.may_download(name, bench.run, model)
        bench.coordinator.may_download(name, bench.run, bench.state().standardization.digest)
    with pytest.raises(ForbiddenError):
        bench.coordinator.may_download("espoo", bench.run, model)
    bench.contribute("berlin")
    with pytest.raises(NotFoundError):
        bench.coordinator.may_download("cadiz", bench.run, canonical.digest(good("berlin")))
    bench.decide("cadiz", "withdraw")
    with pytest.raises(ForbiddenError):
        bench.coordinator.may_download("cadiz", bench.run, model)


def test_a_task_carries_its_small_blobs_and_is_not_given_to_the_busy(bench):
    task = bench.task("berlin")
    assert canonical.digest(task.base_inline) == task.base.digest
    assert canonical.digest(task.standardization_inline) == task.standardization.digest
    assert bench.coordinator.next_task("berlin", TaskRequest((bench.run,))) is None
    assert bench.coordinator.next_task("berlin", TaskRequest((f"{bench.study}.2",))) == task


def test_a_full_disk_while_appending_loses_nothing(bench):
    bench.contribute("cadiz")
    before = bench.state()
    bench.fail("log", "full")
    answer = bench.answer("berlin")
    with pytest.raises(StorageFullError):
        bench.coordinator.contribute("berlin", answer)
    assert bench.state() == before
    assert bench.coordinator.contribute("berlin", answer).outcome == "accepted"
    assert set(bench.state().round.accepted) == {"berlin", "cadiz"}


def test_a_full_disk_while_storing_an_update_loses_nothing(bench):
    bench.fail("blobs", "full")
    answer = bench.answer("berlin")
    with pytest.raises(StorageFullError):
        bench.coordinator.contribute("berlin", answer)
    assert bench.coordinator.contribute("berlin", answer).outcome == "accepted"


def test_a_full_disk_while_combining_is_tried_again(bench):
    for site in SITES:
        bench.contribute(site)
    bench.fail("blobs", "full")
    with pytest.raises(StorageFullError):
        bench.coordinator.combine(bench.run)
    assert bench.coordinator.combining() == [bench.run]
    bench.coordinator.combine(bench.run)
    assert bench.state().completed_rounds == 2


def test_a_locked_database_loses_nothing(bench):
    bench.contribute("cadiz")
    bench.fail("log", "unavailable")
    answer = bench.answer("berlin")
    with pytest.raises(UnavailableError):
        bench.coordinator.contribute("berlin", answer)
    assert bench.log.receipt("berlin", answer.command) is None
    assert bench.coordinator.contribute("berlin", answer).outcome == "accepted"
    assert set(bench.state().round.accepted) == {"berlin", "cadiz"}


def test_an_answer_lost_after_the_write_is_not_asked_for_again(bench):
    bench.fail("log", "answer lost")
    answer = bench.answer("berlin")
    with pytest.raises(UnavailableError):
        bench.coordinator.contribute("berlin", answer)
    assert bench.task("berlin") is None, "the hub has read what it wrote"
    assert bench.coordinator.contribute("berlin", answer).outcome == "accepted"
    assert set(bench.state().round.accepted) == {"berlin"}


def test_a_conflict_is_decided_again_and_not_without_end(bench):
    for _ in range(7):
        bench.fail("log", "conflict")
    assert bench.contribute("berlin").outcome == "accepted"
    for _ in range(8):
        bench.fail("log", "conflict")
    with pytest.raises(ConflictError):
        bench.contribute("cadiz")


@pytest.mark.parametrize("fault", ["killed", "killed after"])
def test_a_hub_killed_around_a_write_counts_the_answer_once(bench, fault):
    answer = bench.answer("berlin")
    bench.fail("log", fault)
    with pytest.raises(Killed):
        bench.coordinator.contribute("berlin", answer)
    bench.boot()
    assert bench.coordinator.contribute("berlin", answer).outcome == "accepted"
    assert sum(isinstance(event, UpdateAccepted) and event.number == 2 for event in bench.events()) == 1


@pytest.mark.parametrize(
    "fault", [("blobs", "killed"), ("blobs", "killed after"), ("log", "killed"), ("log", "killed after")]
)
def test_a_hub_killed_while_combining_gives_the_same_model(fault):
    models = []
    for faults in ([], [fault]):
        bench = Bench(server={"name": "fedadam", "learning_rate": 0.5}).start()
        bench.round()
        for site in SITES:
            bench.contribute(site)
        for each in faults:
            bench.fail(*each)
            with pytest.raises(Killed):
                bench.coordinator.combine(bench.run)
            bench.boot()
        bench.coordinator.combine(bench.run)
        bench.round()
        models.append((bench.state().model, bench.state().server_state))
    assert models[0] == models[1]


def test_two_hubs_on_one_store_agree(bench):
    other = Bench.__new__(Bench)
    other.__dict__.update(bench.__dict__)
    other.boot()
    answer = bench.answer("berlin")
    first = bench.coordinator.contribute("berlin", answer)
    assert other.coordinator.contribute("berlin", answer) == first
    other.contribute("cadiz")
    bench.contribute("delft")
    assert bench.state().phase is Phase.COMBINING
    bench.coordinator.combine(bench.run)
    other.coordinator.combine(bench.run)
    other.coordinator.tick()
    assert sum(isinstance(event, RoundCombined) for event in bench.events()) == 2


def test_an_update_that_becomes_wanted_between_check_and_decision_is_read_all_the_same(bench):
    """Another hub opens the round that a hostile site guessed, just before its answer is decided."""
    for site in SITES:
        bench.contribute(site)
    other = Bench.__new__(Bench)
    other.__dict__.update(bench.__dict__)
    other.boot()
    bad = bench.answer("berlin", number=3, data=poisoned(math.nan), update_inline=b"")
    bench.blobs.put(poisoned(math.nan))
    stale = other.coordinator
    bench.coordinator.combine(bench.run)
    assert bench.state().round.number == 3
    with pytest.raises(PeerProtocolError):
        stale.contribute("berlin", bad)
    # The same with a hub whose own memory changes between the two: the first look sees the old round.
    looks = iter([other.coordinator.state(bench.run)])
    fresh = bench.coordinator
    real = fresh.state
    fresh.state = lambda run: next(looks, None) or real(run)
    assert fresh.contribute("berlin", bad).outcome == "refused"


def test_an_update_that_is_gone_when_it_is_decided_is_asked_for_again(bench):
    bench.blobs.put(good())
    answer = bench.answer("berlin", update_inline=b"")
    real, count = bench.coordinator._run_blobs.flaw, []

    def forgotten(ref, contribution):
        flaw = real(ref, contribution)
        bench.blobs.delete([ref.digest])
        count.append(ref)
        return flaw

    bench.coordinator._run_blobs.flaw = forgotten
    with pytest.raises(PeerProtocolError, match="upload it first"):
        bench.coordinator.contribute("berlin", answer)
    assert count
    assert not bench.state().round.accepted


def test_what_one_run_forgets_another_keeps():
    """Two studies of the same sites give the same statistics: one blob, needed twice."""
    bench = Bench().start()
    other = Bench(salt=2)
    other.__dict__.update({name: bench.__dict__[name] for name in ("log", "blobs", "studies", "coordinator")})
    other.start()
    for site in SITES:
        other.contribute(site)
    bench.round()
    other.coordinator.combine(other.run)
    assert [bench.state().completed_rounds, other.state().completed_rounds] == [1, 1]
    assert not bench.blobs.has(bench.answer("berlin", kind="statistics").update.digest)


def test_a_plan_that_waits_for_approval_keeps_its_model():
    """A site of two studies sends the other study's initial model as its update, so that it be forgotten."""
    bench = Bench().start()
    bench.round()
    waiting = Bench(salt=3).plan
    bench.propose(waiting)
    bench.contribute("berlin", data=fakes.initial_model(3))
    bench.contribute("cadiz")
    bench.contribute("delft")
    bench.coordinator.combine(bench.run)
    assert bench.state().completed_rounds == 2
    assert bench.blobs.has(waiting.initial.digest)


def test_old_models_and_updates_are_forgotten_and_the_plans_own_is_kept():
    bench = Bench(rounds=3).start()
    for _ in range(5):
        bench.round()
    assert bench.state().phase is Phase.COMPLETED
    kept = {bench.plan.initial.digest, bench.state().model.digest, bench.state().standardization.digest}
    assert set(bench.blobs.digests()) == kept


def test_a_silent_site_is_absent_and_the_round_closes_without_it(bench):
    bench.contribute("berlin")
    for _ in range(4):
        bench.time += 4.0
        for site in ("berlin", "cadiz"):
            bench.coordinator.seen(site)
        bench.coordinator.tick()
    assert [event.site for event in bench.events() if isinstance(event, SiteAbsent)] == ["delft"]
    bench.contribute("cadiz")
    assert bench.state().phase is Phase.COMBINING


def test_a_hub_that_was_restarted_gives_everybody_time_to_be_heard_of(bench):
    bench.time += 300.0
    bench.boot().coordinator.tick()
    assert not [event for event in bench.events() if isinstance(event, SiteAbsent)]


def test_an_expired_run_stops_at_the_next_tick(bench):
    bench.time = bench.plan.expires - 0.1
    bench.boot().coordinator.tick()
    assert not bench.state().is_ended
    bench.time += 0.1
    bench.coordinator.tick()
    assert isinstance(bench.events()[-1], RunStopped)


def test_tick_says_when_it_is_worth_ticking_again(bench):
    assert bench.coordinator.tick() == bench.time + 10.0 / 4
    bench.coordinator.withdraw(bench.run, "enough")
    assert bench.coordinator.tick() is None


def test_status_has_the_events_after_a_seq(bench):
    status = bench.coordinator.status(bench.run, after=2)
    assert (status.phase, status.round, status.rounds) == ("collecting", 2, 4)
    assert len(status.events) == len(bench.events()) - 2
    assert status.last_seq == len(bench.events())
    with pytest.raises(NotFoundError):
        bench.coordinator.status(f"{bench.study}.2")


def test_a_status_and_its_events_are_of_one_moment(bench, monkeypatch):
    read, late = bench.log.read, ["enough"]

    def reading(stream, *, after=0):
        if stream.startswith("run:") and late:
            bench.coordinator.withdraw(bench.run, late.pop())
        return read(stream, after=after)

    monkeypatch.setattr(bench.log, "read", reading)
    status = bench.coordinator.status(bench.run)
    assert (status.phase, status.events[-1]["event"]) == ("stopped", "run-stopped")
    assert status.last_seq == len(status.events) == len(bench.events())


def test_opening_an_open_run_finds_it(bench):
    assert bench.coordinator.open_run(bench.run, bench.plan, SITES) == bench.state()
    with pytest.raises(PeerProtocolError):
        bench.coordinator.open_run(f"{bench.study}.2", bench.plan, SITES[:1])


def test_every_change_is_told(bench):
    bench.changes.clear()
    bench.contribute("berlin")
    assert bench.changes == [bench.state()]


sizes = st.sampled_from([0, 1, 144, 145, 264, 2**62, -1])
digests = st.sampled_from([canonical.digest(good()), "0" * 64, "../x", ""])
contributions = st.builds(
    Contribution,
    command=st.text(max_size=4),
    run=st.sampled_from(["real", "real", "real", "x", ""]),
    number=st.sampled_from([2, 2, 2, 1, 3, 0, -(2**63), 2**63]),
    kind=st.sampled_from(["train", "train", "statistics", "evaluate"]),
    records=st.sampled_from([1, 5, 1000, 0, 1001, -1, 10**9, 2**63]),
    update=st.none() | st.builds(BlobRef, digests, sizes),
    evaluation=st.none()
    | st.builds(Evaluation, st.integers(-(2**63), 2**63), st.dictionaries(st.text(), st.none() | st.floats())),
    declined=st.sampled_from(["", "", "", "no"]) | st.text(),
    train_seconds=st.floats(),
    update_inline=st.sampled_from([b"", b"", good(), poisoned(math.nan), b"x"]),
)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.sampled_from([*SITES, "espoo"]), contributions), max_size=8))
def test_whatever_is_contributed_the_answer_is_a_receipt_or_an_error_that_is_announced(said):
    bench = Bench().start()
    bench.round()
    for site, contribution in said:
        run = bench.run if contribution.run == "real" else contribution.run
        body = msgspec.msgpack.encode(msgspec.structs.replace(contribution, run=run))
        crossed = msgspec.msgpack.decode(body, type=Contribution)
        try:
            receipt = bench.coordinator.contribute(site, crossed)
        except (NotFoundError, ForbiddenError, PeerProtocolError, CodecError):
            continue
        assert bench.coordinator.contribute(site, crossed) == receipt
    state = runs.run_of(bench.events())
    assert state == bench.state()
    for event in bench.events():
        if isinstance(event, UpdateAccepted) and event.number == 2:
            data = bytes(bench.blobs.read(event.update.digest, 0, event.update.size))
            tensors.unpack(data, bench.plan.manifest)
    if bench.state().phase is Phase.COMBINING:
        bench.coordinator.combine(bench.run)
        assert bench.state().completed_rounds == 2
