"""Asynchronous training at a hub on a bench: what is taken, what waits, what is dropped, and what it weighs."""

import numpy as np
import pytest
from tests.simulation import fakes
from tests.simulation.bench import Bench, update

from wardround.aggregation import staleness
from wardround.codec import tensors
from wardround.errors import CodecError, ForbiddenError, PeerProtocolError
from wardround.protocol import plan as plans
from wardround.protocol import run as runs
from wardround.protocol.events import RoundClosed, RoundOpened, UpdateAccepted, UpdateRefused
from wardround.protocol.plan import Asynchronous

HEAD = len(tensors.header(fakes.MANIFEST))


def bench(*, sites=("berlin", "cadiz", "delft", "espoo"), quorum=2, rounds=6, **late):
    made = Asynchronous(**{"buffer": 2, "max_staleness": 2, "agreement": False} | late)
    return Bench(sites=sites, quorum=quorum, rounds=rounds, scaling="none", late=made).start()


def vector(data):
    return np.frombuffer(data[HEAD:], "<f4").astype(np.float64)


def model(on):
    ref = on.state().model
    return vector(bytes(on.blobs.read(ref.digest, 0, ref.size)))


def step(on, *sites):
    """Fill the open buffer by these sites, and combine it."""
    for site in sites:
        assert on.contribute(site).outcome == "accepted"
    on.coordinator.combine(on.run)


def test_a_full_buffer_is_combined_without_waiting_for_the_others():
    on = bench()
    on.contribute("berlin")
    assert on.state().phase is runs.Phase.COLLECTING
    on.contribute("cadiz")
    assert on.events()[-1] == RoundClosed(at=on.time, number=1, contributors=("berlin", "cadiz"))


def test_a_late_update_counts_for_what_its_staleness_leaves_of_it():
    on = bench(staleness="polynomial", slope=0.5)
    late = on.answer("espoo")
    step(on, "berlin", "cadiz")
    before = model(on)
    fresh = on.answer("delft")
    assert on.coordinator.contribute("espoo", late).outcome == "accepted"
    assert on.coordinator.contribute("delft", fresh).outcome == "accepted"
    on.coordinator.combine(on.run)
    records = {site: fakes.records_of(site) for site in ("delft", "espoo")}
    share = {site: count / sum(records.values()) for site, count in records.items()}
    mean = share["delft"] * vector(update("delft", 2, "train", on.plan))
    mean = mean + share["espoo"] * staleness.discount("polynomial", 1) * vector(update("espoo", 1, "train", on.plan))
    assert np.allclose(model(on) - before, mean, atol=1e-6)
    accepted = [event for event in on.events() if isinstance(event, UpdateAccepted) and event.site == "espoo"]
    assert [(event.number, event.trained) for event in accepted] == [(2, 1)]


def test_an_update_beyond_the_plans_staleness_is_dropped_and_said_to_be():
    on = bench(max_staleness=1)
    late = on.answer("espoo")
    step(on, "berlin", "cadiz")
    step(on, "berlin", "cadiz")
    receipt = on.coordinator.contribute("espoo", late)
    assert receipt.outcome == "round-closed"
    assert "2 steps on" in receipt.reason
    assert on.task("espoo").number == 3, "and the site is asked again, with the newest model"


def test_an_update_from_the_future_is_refused_and_changes_nothing():
    on = bench()
    before = on.state()
    with pytest.raises(PeerProtocolError, match="has not been opened"):
        on.contribute("berlin", number=2)
    assert on.state() == before


def test_what_comes_while_a_buffer_is_combined_waits_in_the_next():
    on = bench()
    late = on.answer("espoo")
    for site in ("berlin", "cadiz"):
        on.contribute(site)
    assert on.state().phase is runs.Phase.COMBINING
    assert on.coordinator.contribute("espoo", late).outcome == "accepted"
    on.coordinator.combine(on.run)
    state = on.state()
    assert set(state.round.accepted) == {"espoo"}
    assert on.contribute("delft").outcome == "accepted"
    assert on.state().phase is runs.Phase.COMBINING


def test_a_buffer_that_is_full_when_it_opens_is_closed_at_once():
    on = bench()
    late = [on.answer(site) for site in ("delft", "espoo")]
    for site in ("berlin", "cadiz"):
        on.contribute(site)
    for site, answer in zip(("delft", "espoo"), late, strict=True):
        on.coordinator.contribute(site, answer)
    on.coordinator.combine(on.run)
    closed = [event.number for event in on.events() if isinstance(event, RoundClosed)]
    assert closed == [1, 2]


def test_between_two_buffers_nothing_but_updates_is_kept():
    on = bench()
    declined = on.answer("espoo", declined="no", update=None, update_inline=b"", data=b"")
    for site in ("berlin", "cadiz"):
        on.contribute(site)
    assert on.coordinator.contribute("espoo", declined).outcome == "round-closed"
    on.coordinator.combine(on.run)
    assert on.task("espoo") is not None


def test_a_site_counts_once_in_a_buffer_and_no_training_counts_twice():
    on = bench(buffer=3)
    first = on.answer("berlin")
    again = on.answer("berlin", records=1)
    assert on.coordinator.contribute("berlin", first).outcome == "accepted"
    assert on.task("berlin") is None, "a fast site waits for the next buffer"
    assert on.coordinator.contribute("berlin", again).outcome != "accepted"
    on.contribute("cadiz")
    on.contribute("delft")
    on.coordinator.combine(on.run)
    receipt = on.coordinator.contribute("berlin", again)
    assert receipt.outcome == "round-closed"
    assert "counts already" in receipt.reason
    assert on.coordinator.contribute("berlin", first).outcome == "accepted", (
        "the retry of a command is answered as ever"
    )
    assert not on.state().round.accepted


def test_a_site_that_joins_late_and_one_that_leaves_for_good_delay_nobody():
    on = bench(buffer=3)
    on.time += 20.0
    for site in ("berlin", "cadiz", "delft"):
        on.coordinator.seen(site)
    step(on, "berlin", "cadiz", "delft")
    opened = [event for event in on.events() if isinstance(event, RoundOpened)][-1]
    assert "espoo" in opened.sites, "it was not heard of, and is asked all the same"
    on.coordinator.leave(on.run, "cadiz", "new management")
    on.contribute("berlin")
    on.contribute("delft")
    on.time += 30.0
    for site in ("berlin", "delft"):
        on.coordinator.seen(site)
    on.coordinator.tick()
    assert on.events()[-1].contributors == ("berlin", "delft"), "nobody who is there is waited for"
    on.coordinator.combine(on.run)
    assert on.contribute("espoo").outcome == "accepted"


def test_a_late_answer_cannot_name_a_round_of_another_kind():
    late = Asynchronous(buffer=2, max_staleness=5, agreement=False)
    on = Bench(sites=("berlin", "cadiz", "delft"), rounds=3, scaling="federated", late=late).start()
    on.round()
    receipt = on.contribute("berlin", number=1)
    assert receipt.outcome == "round-closed"
    assert "berlin" not in on.state().round.accepted


def test_the_models_that_late_updates_start_from_can_be_fetched_and_are_forgotten_afterwards():
    on = bench(max_staleness=1)
    first = on.state().model
    step(on, "berlin", "cadiz")
    second = on.state().model
    on.coordinator.may_download("espoo", on.run, second.digest)
    step(on, "berlin", "cadiz")
    on.coordinator.may_download("espoo", on.run, second.digest)
    step(on, "berlin", "cadiz")
    assert not on.blobs.has(second.digest)
    assert on.blobs.has(first.digest), "the plan names it"


def test_a_late_site_may_upload_while_a_buffer_is_combined():
    on = bench()
    for site in ("berlin", "cadiz"):
        on.contribute(site)
    ref = on.answer("espoo", number=1, kind="train", data=update("espoo", 1, "train", on.plan)).update
    on.coordinator.may_upload("espoo", on.run, ref)
    with pytest.raises(ForbiddenError):
        on.coordinator.may_upload("nobody", on.run, ref)


@pytest.mark.parametrize(("toward", "factor"), [(1.0, 1.0), (-1.0, 0.0)])
def test_a_late_update_is_scaled_by_how_far_it_agrees_with_where_the_model_went(toward, factor):
    on = bench(agreement=True, staleness="constant")
    first = model(on)
    late = on.answer("espoo")
    step(on, "berlin", "cadiz")
    moved = model(on) - first
    data = late.update_inline[:HEAD] + (toward * moved).astype("<f4").tobytes()
    assert on.contribute("espoo", number=1, data=data).outcome == "accepted"
    before = model(on)
    assert on.contribute("delft", records=fakes.records_of("espoo")).outcome == "accepted"
    on.coordinator.combine(on.run)
    mean = 0.5 * factor * toward * moved + 0.5 * vector(update("delft", 2, "train", on.plan))
    assert np.allclose(model(on) - before, mean, atol=1e-5)


def test_a_buffer_of_one_steps_with_every_update():
    on = bench(quorum=1, buffer=1)
    for number in (1, 2, 3):
        step(on, "cadiz")
        assert on.state().completed_rounds == number


@pytest.mark.parametrize(
    ("late", "words"),
    [
        ({"buffer": 0}, "buffer"),
        ({"buffer": 1}, "buffer"),
        ({"buffer": 5}, "buffer"),
        ({"buffer": 2, "max_staleness": -1}, "max_staleness"),
        ({"buffer": 2, "max_staleness": 1000}, "max_staleness"),
        ({"buffer": 2, "slope": 0.0}, "slope"),
        ({"buffer": 2, "staleness": "hinge", "grace": -1}, "grace"),
    ],
)
def test_a_plan_whose_buffer_makes_no_sense_is_refused(late, words):
    made = fakes.make_plan(
        sites=("a", "b", "c", "d"), quorum=2, rounds=2, scaling="none", server={}, limits={}, expires=2e9,
        late=Asynchronous(**late),
    )  # fmt: skip
    with pytest.raises(CodecError, match=words):
        plans.check(made)


def test_an_empty_buffer_at_its_deadline_is_waited_for_and_then_the_run_says_who_must_act():
    on = bench()
    for _ in range(3):
        on.time += 61.0
        for site in on.plan.participants:
            on.coordinator.seen(site)
        on.coordinator.tick()
    assert on.state().phase is runs.Phase.STOPPED
    assert "Must act" in on.state().reason
    assert not [event for event in on.events() if isinstance(event, UpdateRefused)]
