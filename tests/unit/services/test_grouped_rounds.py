"""Groups under secure aggregation, run whole in this process: the hub sees groups' means, and the rule holds."""

import msgspec
import numpy as np
import pytest
from tests.simulation import fakes
from tests.simulation.bench import Bench
from tests.unit.services.test_secure_rounds import ROSTER, declared
from tests.unit.services.test_secure_rounds import table as table_of

import wardround
from wardround.protocol.plan import Aggregation, SecureAggregation
from wardround.services import membership

SITES = tuple(f"site-{place}" for place in range(9))
SECURE = SecureAggregation(roster=ROSTER, group_size=3, max_weight=100)


def table(site):
    return table_of("deeside")


def run(study, *, secure=SECURE, tables=None, **changes):
    plan = msgspec.structs.replace(study.plan, secure=secure, **changes)
    told = []
    done = wardround.simulate(
        wardround.Study(plan, study.initial, None),
        tables or {site: table(site) for site in SITES},
        progress=lambda status: told.extend(status.events),
    )
    assert done.status.phase == "completed", done.status.reason
    return done, told


def study(**changes):
    return declared(participants=SITES, min_participants=3, **changes)


def of(told, kind):
    return [event for event in told if event["event"] == kind]


def test_every_training_round_deals_everybody_anew():
    done, told = run(study(), aggregation=Aggregation(rule="median", hostile=1))
    assert done.model != study().initial
    dealt = {}
    for event in of(told, "cohort-opened"):
        dealt.setdefault(event["number"], []).append(tuple(event["survivors"]))
    assert [len(groups) for groups in dealt.values()] == [1, 3, 3, 1], "statistics and evaluation are not dealt"
    for groups in dealt.values():
        assert sorted(site for group in groups for site in group) == list(SITES)
    assert dealt[2] != dealt[3]


def test_the_mean_of_groups_is_the_mean_of_all_but_for_rounding():
    grouped, _ = run(study())
    whole, _ = run(study(), secure=msgspec.structs.replace(SECURE, group_size=0))
    for name, values in whole.arrays().items():
        assert np.abs(np.asarray(values) - np.asarray(grouped.arrays()[name])).max() < 1e-4


@pytest.mark.parametrize("rule", ["median", "geometric-median", "trimmed-mean"])
def test_a_hostile_site_spoils_its_group_and_not_the_model(rule, monkeypatch):
    calm, _ = run(study(), aggregation=Aggregation(rule=rule, hostile=1))
    poison(monkeypatch, "site-4")
    spoilt, _ = run(study(), aggregation=Aggregation(rule="mean"))
    kept, _ = run(study(), aggregation=Aggregation(rule=rule, hostile=1))
    assert distance(kept, calm) < 0.2 * distance(spoilt, calm)


def poison(monkeypatch, hostile):
    """Let one site say that its update is as large as the clip lets it be."""
    from wardround.services import masking, participant

    honest = masking.fixedpoint.encode

    def pieces(state, plan, files, update, sums, weight, seed):
        def encode(values, *rest):
            return honest(np.full_like(values, 8.0) if state.site == hostile else values, *rest)

        masking.fixedpoint.encode = encode
        try:
            yield from masking.masked_pieces(state, plan, files, update, sums, weight, seed)
        finally:
            masking.fixedpoint.encode = honest

    monkeypatch.setattr(participant, "masked_pieces", pieces)


def distance(one, other):
    return sum(
        float(np.abs(np.asarray(values) - np.asarray(other.arrays()[name])).sum())
        for name, values in one.arrays().items()
    )


@pytest.mark.parametrize("lie", ["no crowd", "a stranger in the crowd", "smaller groups"])
def test_a_node_refuses_a_group_that_its_plan_does_not_give(lie, monkeypatch):
    honest = membership.Membership.share

    def lying(self, task, step, plan):
        if task.number == 2 and step.crowd is not msgspec.UNSET:
            if lie == "no crowd":
                step = msgspec.structs.replace(step, crowd=msgspec.UNSET)
            elif lie == "smaller groups":
                smaller = msgspec.structs.replace(step.crowd, group_size=len(step.members) - 1)
                step = msgspec.structs.replace(step, crowd=smaller)
            else:
                sites = tuple(sorted((*step.crowd.sites[1:], "stranger")))
                step = msgspec.structs.replace(step, crowd=msgspec.structs.replace(step.crowd, sites=sites))
        return honest(self, task, step, plan)

    monkeypatch.setattr(membership.Membership, "share", lying)
    plan = msgspec.structs.replace(study().plan, secure=SECURE)
    limits = msgspec.structs.replace(plan.limits, patience=1, absence_seconds=0.2)
    plan = msgspec.structs.replace(plan, limits=limits)
    tables = {site: table(site) for site in SITES}
    done = wardround.simulate(wardround.Study(plan, study().initial, None), tables)
    assert done.status.phase == "stopped"
    assert "cohorts were abandoned" in done.status.reason or "are there" in done.status.reason


def test_a_study_whose_groups_cannot_be_filled_any_more_ends_as_refused():
    made = fakes.make_plan(
        sites=SITES, quorum=3, rounds=2, scaling="none", server={}, limits={}, expires=fakes.T0 + 5000
    )
    made = msgspec.structs.replace(
        made,
        secure=msgspec.structs.replace(SECURE, roster=fakes.ROSTER),
        aggregation=Aggregation(rule="median", hostile=1),
    )
    on = Bench()
    status = on.propose(made)
    status = on.decide(SITES[0], "refuse", status.study)
    assert status.phase == "refused"
    assert "the plan needs 9" in status.reason
