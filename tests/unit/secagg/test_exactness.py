"""Whatever drops out, in whatever order: the opened sum is the plain sum, or nothing is opened."""

import random

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.secagg import parties

from wardround.errors import PeerProtocolError
from wardround.secagg import opening, terms
from wardround.secagg.messages import Included, Survivor
from wardround.secagg.terms import Section


def cohort(count, seed, *, length=3, **changes):
    consortium = parties.Consortium.of(count)
    sections = (Section("update", 32, length), Section("sums", 64, length))
    return parties.Cohort(parties.make_terms(consortium.sites, sections, **changes), consortium, seed=seed)


def gone_by_stage(rng, sites, most):
    """Who vanishes before each of the four stages, at most so many in all."""
    gone = rng.sample(sites, rng.randint(0, most))
    drops = [set() for _ in range(4)]
    for site in gone:
        drops[rng.randrange(4)].add(site)
    return drops


@settings(max_examples=1000)
@given(st.integers(3, 9), st.integers(0, 2**64))
def test_the_opened_sum_is_the_plain_sum(count, seed):
    rng = random.Random(seed)
    run = cohort(count, seed)
    most = count - terms.signature_threshold(count)
    hub = run.run(gone_by_stage(rng, run.terms.members, most), rng)
    assert hub.stage == "opened", hub.reason
    assert [part.tolist() for part in run.opened()] == run.expected()
    opening.check_evidence(opening.evidence_of(hub), run.consortium.public)


@settings(max_examples=15)
@given(st.sampled_from([20, 33, 50]), st.integers(0, 2**64))
def test_so_it_is_with_many(count, seed):
    rng = random.Random(seed)
    run = cohort(count, seed)
    hub = run.run(gone_by_stage(rng, run.terms.members, count - terms.signature_threshold(count)), rng)
    assert hub.stage == "opened", hub.reason
    assert [part.tolist() for part in run.opened()] == run.expected()


@pytest.mark.parametrize(("count", "seed"), [(65, 1), (80, 2), (110, 3)])
def test_and_on_a_sparse_graph(count, seed):
    rng = random.Random(seed)
    run = cohort(count, seed)
    assert len(terms.neighbours(run.terms, run.terms.members[0])) < count - 1
    hub = run.run(gone_by_stage(rng, run.terms.members, count // 10), rng)
    assert hub.stage == "opened", hub.reason
    assert [part.tolist() for part in run.opened()] == run.expected()


@settings(max_examples=300)
@given(st.integers(3, 8), st.integers(0, 2**64))
def test_below_the_threshold_nobody_reveals_and_nothing_is_opened(count, seed):
    rng = random.Random(seed)
    run = cohort(count, seed)
    threshold = terms.signature_threshold(count)
    gone = set(rng.sample(run.terms.members, rng.randint(count - threshold + 1, count)))
    stage = rng.randrange(3)
    drops = [set() for _ in range(4)]
    drops[stage] = gone
    hub = run.run(drops, rng)
    assert hub.stage == "failed"
    assert all(site in hub.reason for site in gone)
    assert not any(member.reveal for member in run.members.values())


@settings(max_examples=200)
@given(st.integers(3, 6), st.integers(0, 2**64))
def test_repeating_any_message_changes_nothing(count, seed):
    rng = random.Random(seed)
    run = cohort(count, seed)
    said = []
    while run.hub.stage not in {"opened", "failed"}:
        site = rng.choice(run.terms.members)
        answer = run.answer(site)
        if answer is not None:
            run.hear(site, answer)
            said.append((site, answer))
        for past, again in rng.sample(said, min(2, len(said))):
            before = run.hub
            if before.stage not in {"opened", "failed"}:
                run.hear(past, again)
                assert run.hub == before
    assert [part.tolist() for part in run.opened()] == run.expected()


@settings(max_examples=100)
@given(st.integers(3, 6), st.integers(0, 2**64), st.lists(st.sampled_from([1.0, 0.5, 0.25]), min_size=6, max_size=6))
def test_members_of_different_model_versions_add_up_all_the_same(count, seed, discounts):
    bases = tuple(f"{place % 3:064x}" for place in range(count))
    run = cohort(count, seed, bases=bases, discounts=tuple(discounts[:count]))
    assert run.run().stage == "opened"
    assert [part.tolist() for part in run.opened()] == run.expected()


def changed(evidence):
    """The evidence with one thing changed, each in turn."""
    replace = msgspec.structs.replace
    first, *rest = evidence.survivors
    other = Survivor(first.site, bytes(32))
    yield replace(evidence, survivors=(other, *rest))
    yield replace(evidence, survivors=tuple(rest), masked=evidence.masked[1:], complaints=evidence.complaints[1:])
    yield replace(evidence, survivors=(first, first, *rest[1:]))
    yield replace(evidence, survivors=(Survivor("stranger", first.digest), *rest))
    yield replace(evidence, included=(Included(first.site, bytes(32)), *evidence.included[1:]))
    yield replace(evidence, included=evidence.included[1:])
    yield replace(evidence, masked=(evidence.masked[1], evidence.masked[0], *evidence.masked[2:]))
    yield replace(evidence, masked=evidence.masked[1:])
    yield replace(evidence, complaints=((rest[0].site,), *evidence.complaints[1:]))
    yield replace(evidence, agreements=evidence.agreements[: evidence.terms.threshold - 1])
    yield replace(evidence, agreements=(evidence.agreements[0],) * len(evidence.agreements))
    yield replace(evidence, agreements=((evidence.agreements[0][0], bytes(64)), *evidence.agreements[1:]))
    yield replace(evidence, agreements=(("stranger", evidence.agreements[0][1]), *evidence.agreements[1:]))
    for field, value in {
        "number": 2,
        "attempt": 2,
        "threshold": 2,
        "minimum": 2,
        "clip": 2.0,
        "epoch": 1,
        "roster": "0" * 64,
        "standardization": "1" * 64,
        "bases": ("0" * 64,) * len(evidence.terms.members),
        "members": evidence.terms.members[1:],
    }.items():
        yield replace(evidence, terms=replace(evidence.terms, **{field: value}))


def test_evidence_with_anything_changed_is_refused():
    run = cohort(5, 1)
    evidence = opening.evidence_of(run.run(((), {run.terms.members[4]}, (), ())))
    opening.check_evidence(evidence, run.consortium.public)
    for lie in changed(evidence):
        with pytest.raises(PeerProtocolError):
            opening.check_evidence(lie, run.consortium.public)
    with pytest.raises(PeerProtocolError, match="does not name"):
        opening.check_evidence(evidence, {})
