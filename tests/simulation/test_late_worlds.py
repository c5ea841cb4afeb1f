"""The same worlds with asynchronous training, plain and under secure aggregation.

A tenth as many worlds of each as there are plain synchronous ones (``WARDROUND_SEEDS``). What takes part in a
buffer depends on when messages come, so here no two weathers give the same model; the oracle recomputes each.
"""

import pytest
from tests.simulation.test_worlds import SEEDS, chunks, events, named, play


@pytest.mark.parametrize("kind", ["late storm", "late rain", "late secure storm", "late secure rain"])
@pytest.mark.parametrize("seeds", chunks(SEEDS // 10), ids=named)
def test_every_promise_holds(seeds, kind):
    for seed in seeds:
        play(seed, kind)


@pytest.mark.parametrize("kind", ["late storm", "late secure storm"])
def test_the_worlds_are_as_bad_as_they_should_be(kind):
    worlds = [play(seed, kind) for seed in range(100)]
    seen = [event for world in worlds for event in events(world, "run:")]
    kinds = {event["event"] for event in seen}
    assert {"run-completed", "run-stopped", "update-refused", "site-left", "site-absent"} <= kinds
    assert sum(event.get("trained", 0) > 0 for event in seen) > 5, "hardly any update was late"
    combined = [event for event in seen if event["event"] == "round-combined"]
    assert len(combined) > 100, "so bad that little is ever computed"
