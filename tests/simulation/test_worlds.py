"""Whatever the network, the disks, the clocks and some of the sites do: the promises hold.

How many worlds: the environment's ``WARDROUND_SEEDS`` (2,000 where it says nothing). A seed that fails
is played again, with its history, by ``make replay SEED=n``.
"""

import os

import pytest
from tests.simulation.world import World

SEEDS = int(os.environ.get("WARDROUND_SEEDS", "2000"))
CHUNK = 100


def chunks(count):
    """Ranges of seeds, so that xdist can deal them out."""
    return [range(start, min(start + CHUNK, count)) for start in range(0, count, CHUNK)]


def named(seeds):
    """What a chunk is called."""
    return f"seeds {seeds.start} to {seeds.stop - 1}"


def play(seed, kind):
    """One world, or the line that plays it again."""
    try:
        return World(seed, kind=kind).play()
    except Exception as error:
        pytest.fail(f"{type(error).__name__}: {error}\nmake replay SEED={seed}   (kind: {kind})", pytrace=True)


@pytest.mark.parametrize("seeds", chunks(SEEDS), ids=named)
def test_every_promise_holds_in_a_storm(seeds):
    for seed in seeds:
        play(seed, "storm")


@pytest.mark.parametrize("seeds", chunks(SEEDS // 10), ids=named)
def test_crashes_and_losses_change_nothing_in_the_model(seeds):
    for seed in seeds:
        disturbed, undisturbed = play(seed, "rain"), play(seed, "calm")
        assert rounds(disturbed) == rounds(undisturbed)
        assert models(disturbed) == models(undisturbed), f"make replay SEED={seed}   (kind: rain)"


def test_a_world_follows_from_its_seed():
    for kind in ("storm", "rain"):
        assert log(play(11, kind)) == log(play(11, kind))


def test_the_worlds_are_as_bad_as_they_should_be():
    worlds = [play(seed, "storm") for seed in range(150)]
    seen = {event["event"] for world in worlds for event in events(world, "run:")}
    assert {
        "deadline-extended",
        "gathering-extended",
        "run-completed",
        "run-stopped",
        "site-absent",
        "site-declined",
        "site-left",
        "update-refused",
    } <= seen
    outcomes = {event["outcome"] for world in worlds for event in events(world, "study:") if "outcome" in event}
    assert {"evaluated", "expired", "refused", "stopped", "withdrawn"} <= outcomes
    ended = [event["event"] for world in worlds for event in events(world, "run:") if event["event"].startswith("run-")]
    assert ended.count("run-completed") > ended.count("run-stopped"), "so bad that little is ever computed"


def events(world, prefix):
    return [
        event
        for stream, batches in world.oracle.journal.items()
        if stream.startswith(prefix)
        for batch in batches
        for event in batch["events"]
    ]


def rounds(world):
    return [(event["number"], event["contributors"]) for event in events(world, "run:") if "contributors" in event]


def models(world):
    return [event["model"] for event in events(world, "run:") if "model" in event]


def log(world):
    return {stream: [batch["raw"] for batch in batches] for stream, batches in world.oracle.journal.items()}
