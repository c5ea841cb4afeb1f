"""The same worlds under secure aggregation: hub and nodes killed at every step, a lying hub, lost messages.

A fifth as many worlds as there are plain ones (``WARDROUND_SEEDS``).
"""

import pytest
from tests.simulation.test_worlds import SEEDS, chunks, events, models, named, play, rounds


@pytest.mark.parametrize("seeds", chunks(SEEDS // 5), ids=named)
def test_every_promise_holds_in_a_storm(seeds):
    for seed in seeds:
        play(seed, "secure storm")


@pytest.mark.parametrize("seeds", chunks(SEEDS // 20), ids=named)
def test_crashes_and_losses_change_nothing_in_the_model(seeds):
    for seed in seeds:
        disturbed, undisturbed = play(seed, "secure rain"), play(seed, "secure calm")
        assert rounds(disturbed) == rounds(undisturbed)
        assert models(disturbed) == models(undisturbed), f"make replay SEED={seed}   (kind: secure rain)"


def test_the_worlds_are_as_bad_as_they_should_be():
    worlds = [play(seed, "secure storm") for seed in range(100)]
    seen = [event["event"] for world in worlds for event in events(world, "run:")]
    assert {"cohort-abandoned", "cohort-opened", "run-completed", "run-stopped", "site-absent"} <= set(seen)
    assert seen.count("cohort-opened") > seen.count("cohort-abandoned"), "so bad that little is ever added up"
    history = [line for world in worlds for line in world.history]
    assert sum(what.startswith("lies to") for _, _, what, _ in history) > 20
    assert sum(what.startswith("vault") and "killed" in words[0] for _, _, what, words in history) > 20
