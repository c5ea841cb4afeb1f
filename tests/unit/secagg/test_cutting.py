"""A hub that cuts one member off the graph by leaving its neighbours out of the survivors, who are alive."""

from dataclasses import replace

import numpy as np
import pytest
from tests.unit.secagg import parties

from wardround.crypto.prg import MaskStream
from wardround.errors import CryptoError, PeerProtocolError
from wardround.secagg import cohort as cohorts
from wardround.secagg import graph, member, opening, terms
from wardround.secagg.graph import Parameters

COUNT, TARGET = 65, "site-0032"


@pytest.fixture
def sparse(monkeypatch):
    """Eight neighbours each, so that leaving them out leaves enough survivors."""
    monkeypatch.setattr(graph, "parameters", lambda _: Parameters(8, 6))


def attacked(before_agreeing=lambda: None):
    """A cohort in which the hub named all but the target's neighbours; who was left out may answer all the same."""
    consortium = parties.Consortium.of(COUNT)
    run = parties.Cohort(parties.make_terms(consortium.sites), consortium)
    run.round()
    run.round()
    around = set(terms.neighbours(run.terms, TARGET))
    run.hub = replace(run.hub, survivors=tuple(one for one in run.hub.survivors if one.site not in around))
    before_agreeing()
    for _ in range(2):
        run.round()
    return run, around


def uncovered(run, around):
    """The target's plain vector, from what was revealed."""
    shares = opening._shares(run.hub)
    seeds = {"minus": [opening._rebuilt(run.hub, TARGET, shares[TARGET], "self", {})], "plus": []}
    for name in around:
        root = opening._rebuilt(run.hub, name, shares[name], "root", {})
        pairs = dict(zip(terms.neighbours(run.terms, name), opening._recovered(run.hub, name, root), strict=True))
        seeds["minus" if name > TARGET else "plus"].append(pairs[TARGET])
    section = run.terms.sections[0]
    part = np.frombuffer(run.masked[TARGET][: 4 * section.length], np.uint32).copy()
    keys = {
        sign: [member.section_key(seed, run.hub.transcript, section) for seed in found] for sign, found in seeds.items()
    }
    MaskStream(keys["plus"], keys["minus"], bits=32).apply(part)
    return part


@pytest.mark.usefixtures("sparse")
def test_shares_of_survivors_alone_do_not_open_a_member_that_was_cut_off():
    run, around = attacked()
    assert run.hub.stage == "opened"
    assert opening.unmask(run.hub).culprit is not None
    with pytest.raises(CryptoError):
        uncovered(run, around)


@pytest.mark.usefixtures("sparse")
def test_if_those_left_out_answered_too_the_member_would_be_open(monkeypatch):
    def without_the_rule():
        monkeypatch.setattr(member, "agree", careless)
        monkeypatch.setattr(cohorts, "_expected", lambda cohort: frozenset(one.site for one in cohort.included))

    run, around = attacked(without_the_rule)
    assert uncovered(run, around).tolist() == run.vectors[TARGET][0].tolist()


def careless(state, survivors, key):
    """`member.agree` without the rule that only survivors sign."""
    message = member.messages.agreement_bytes(state.transcript, state.included_digest, survivors.entries)
    signed = member.Agreement(state.transcript, member.signing.sign(message, key))
    return member._moved(state, stage="agreed", survivors=survivors, agreement=signed)


def test_who_was_left_out_says_nothing():
    consortium = parties.Consortium.of(5)
    run = parties.Cohort(parties.make_terms(consortium.sites), consortium)
    run.round()
    run.round()
    left_out = consortium.sites[2]
    survivors = member.Survivors(tuple(one for one in run.hub.survivors if one.site != left_out))
    with pytest.raises(PeerProtocolError, match="not among the survivors"):
        member.agree(run.members[left_out], survivors, consortium.keys[left_out])
