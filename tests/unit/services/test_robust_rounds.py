"""Rounds with hostile sites at a hub on a bench: rules, screening, quarantine, suspension, and bad input."""

import msgspec
import numpy as np
import pytest
from tests.simulation import fakes
from tests.simulation.bench import Bench

from wardround.codec import tensors
from wardround.errors import CodecError
from wardround.protocol import plan as plans
from wardround.protocol import run as runs
from wardround.protocol.events import RoundCombined, RunStopped, SiteLeft, UpdateSetAside
from wardround.protocol.plan import Aggregation, Asynchronous, Screening, SecureAggregation

SITES = ("berlin", "cadiz", "delft", "espoo", "faro", "ghent", "haarlem")
HEAD = tensors.header(fakes.MANIFEST)
STEP = np.array([1.0, -2.0, 0.5, 3.0])


def bench(rule="mean", hostile=0, *, quorum=7, rounds=5, screening=None, **settings):
    made = Aggregation(rule=rule, hostile=hostile, **settings)
    return Bench(
        sites=SITES, quorum=quorum, rounds=rounds, scaling="none", aggregation=made, screening=screening
    ).start()


def file(values):
    return HEAD + np.asarray(values, "<f4").tobytes()


def honest(site):
    return STEP + 0.01 * SITES.index(site)


def step(on, attack=None, *, sites=SITES, hostile=("haarlem",)):
    """One round; the change of the model."""
    before = model(on)
    for site in sites:
        values = attack(honest(site)) if attack and site in hostile else honest(site)
        assert on.contribute(site, data=file(values), records=10).outcome == "accepted"
    on.coordinator.combine(on.run)
    return model(on) - before


def model(on):
    ref = on.state().model
    return np.frombuffer(bytes(on.blobs.read(ref.digest, 0, ref.size))[len(HEAD) :], "<f4").astype(np.float64)


RULES = ["median", "trimmed-mean", "krum", "multi-krum", "geometric-median", "centred-clipping", "bulyan"]


@pytest.mark.parametrize("mixing", ["none", "nearest-neighbours"])
@pytest.mark.parametrize("attack", [lambda x: -100 * x, lambda x: x * 0 + 1e30, lambda x: x * 0, lambda x: x + 1e4])
@pytest.mark.parametrize("rule", RULES)
def test_one_hostile_site_of_seven_moves_nothing_far(rule, attack, mixing):
    assert np.abs(step(bench(rule, 1, mixing=mixing), attack) - STEP).max() < 0.1


def test_and_moves_the_mean_wherever_it_likes():
    assert np.abs(step(bench(), lambda x: -100 * x) - STEP).max() > 10


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("values", [STEP, STEP * 0])
def test_updates_that_are_all_the_same_are_their_own_aggregate(rule, values):
    on = bench(rule, 1)
    before = model(on)
    for site in SITES:
        on.contribute(site, data=file(values))
    on.coordinator.combine(on.run)
    assert np.allclose(model(on) - before, values, atol=1e-6)


def test_a_trusted_reference_outvotes_everybody_else():
    on = bench("trust", reference="berlin")
    moved = step(on, lambda x: -x, hostile=SITES[2:])
    assert np.allclose(moved, STEP, atol=0.1)


def test_without_the_reference_there_is_no_step():
    on = bench("trust", reference="berlin", quorum=6)
    on.coordinator.leave(on.run, "berlin", "gone")
    assert not step(on, sites=SITES[1:]).any()
    assert on.state().completed_rounds == 1


def test_norm_bounding_keeps_a_long_update_as_long_as_the_others():
    moved = step(bench("norm-bound"), lambda x: 1e6 * x)
    assert np.linalg.norm(moved) <= np.linalg.norm(STEP) * 1.1


def screened(**changes):
    return Screening(**{"norm_multiple": 5.0, "least_cosine": -0.5, "suspend_after": 3} | changes)


@pytest.mark.parametrize(("attack", "words"), [(lambda x: 1e30 * x, "norm"), (lambda x: -x, "points away")])
def test_an_update_unlike_the_others_is_set_aside_with_its_reason(attack, words):
    on = bench(quorum=4, screening=screened())
    assert np.allclose(step(on, attack), STEP, atol=0.1)
    aside = [event for event in on.events() if isinstance(event, UpdateSetAside)]
    assert [(event.number, event.site) for event in aside] == [(1, "haarlem")]
    assert words in aside[0].reason
    assert "1e30" not in aside[0].reason, "no value of the update is told"


def test_the_site_is_told_with_its_next_task_and_only_then():
    on = bench(quorum=4, screening=screened())
    step(on, lambda x: -x)
    assert "points away" in on.task("haarlem").notice
    assert on.task("berlin").notice == ""
    step(on)
    assert on.task("haarlem").notice == ""


def test_three_in_a_row_suspend_a_site_and_two_do_not():
    on = bench(quorum=4, screening=screened(), rounds=8)
    for _ in range(2):
        step(on, lambda x: -x)
    step(on)
    for _ in range(2):
        step(on, lambda x: -x)
    assert "haarlem" in on.state().sites
    step(on, lambda x: -x)
    assert "haarlem" not in on.state().sites
    left = [event for event in on.events() if isinstance(event, SiteLeft)]
    assert [event.site for event in left] == ["haarlem"]
    assert "3 updates in a row" in left[0].reason
    assert on.task("haarlem") is None
    step(on, sites=SITES[:-1])


def test_a_suspension_that_leaves_too_few_stops_the_run_and_names_the_site():
    on = bench(quorum=7, screening=screened(suspend_after=1))
    step(on, lambda x: -x)
    assert isinstance(on.events()[-1], RunStopped)
    assert "haarlem" in on.state().reason
    assert "Must act" in on.state().reason


def test_where_too_few_are_left_the_round_takes_no_step_and_the_run_goes_on():
    on = bench(quorum=7, screening=screened())
    assert not step(on, lambda x: -x).any()
    assert on.state().phase is runs.Phase.COLLECTING
    assert np.allclose(step(on), STEP, atol=0.1)


def test_the_usual_norm_is_remembered_from_round_to_round_and_across_a_restart():
    on = bench(quorum=4, screening=screened(least_cosine=-1.0))
    step(on)
    on.boot()
    # Four of seven are long now: beside each other they are usual, beside what was before they are not.
    assert np.allclose(step(on, lambda x: 50 * x, hostile=SITES[3:]), 0.0)
    norms = [event.norm for event in on.events() if isinstance(event, RoundCombined)]
    assert norms[0] == pytest.approx(np.linalg.norm(STEP), rel=0.1)


def test_screening_changes_nothing_where_nothing_is_set_aside():
    assert np.array_equal(step(bench(screening=screened(), quorum=4)), step(bench(quorum=4)))


def declared(**changes):
    made = fakes.make_plan(
        sites=SITES, quorum=changes.pop("quorum", 3), rounds=2, scaling="none", server={}, limits={}, expires=2e9
    )
    return msgspec.structs.replace(made, **changes)


SECURE = SecureAggregation(roster=fakes.ROSTER)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"aggregation": Aggregation(rule="median", hostile=2)}, "at least 5"),
        ({"aggregation": Aggregation(rule="trimmed-mean", hostile=4), "quorum": 7}, "at least 9"),
        ({"aggregation": Aggregation(rule="krum", hostile=1)}, "at least 5"),
        ({"aggregation": Aggregation(rule="bulyan", hostile=1), "quorum": 6}, "at least 7"),
        ({"aggregation": Aggregation(rule="median", hostile=1, mixing="bucketing"), "quorum": 4}, "at least 5"),
        ({"aggregation": Aggregation(rule="median", hostile=-1)}, "negative"),
        ({"aggregation": Aggregation(rule="median", bucket_size=0)}, "bucket"),
        ({"aggregation": Aggregation(rule="trust")}, "reference"),
        ({"aggregation": Aggregation(rule="trust", reference="nobody")}, "reference"),
        ({"aggregation": Aggregation(reference="berlin")}, "reference"),
        ({"aggregation": Aggregation(rule="median"), "secure": SECURE}, "group_size"),
        ({"screening": Screening(), "secure": SECURE}, "screened"),
        ({"screening": Screening(norm_multiple=0.5)}, "norm_multiple"),
        ({"screening": Screening(least_cosine=1.0)}, "least_cosine"),
        ({"screening": Screening(suspend_after=0)}, "suspend_after"),
        (
            {
                "aggregation": Aggregation(rule="median", hostile=1),
                "secure": msgspec.structs.replace(SECURE, group_size=3),
            },
            "3 groups of 3: 9 participants",
        ),
        ({"secure": msgspec.structs.replace(SECURE, group_size=2)}, "group_size"),
    ],
)
def test_a_plan_whose_rule_cannot_hold_is_refused(changes, words):
    with pytest.raises(CodecError, match=words):
        plans.check(declared(**changes))


def test_groups_and_asynchronous_training_do_not_go_together():
    made = declared(secure=msgspec.structs.replace(SECURE, group_size=3))
    late = msgspec.structs.replace(made.training, asynchronous=Asynchronous(buffer=3))
    with pytest.raises(CodecError, match="synchronous"):
        plans.check(msgspec.structs.replace(made, training=late))
