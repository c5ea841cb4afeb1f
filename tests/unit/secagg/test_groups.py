"""Groups: dealt from everybody's nonces, the same for all who look, and nobody's choice."""

import hashlib
from collections import Counter

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.secagg import parties

from wardround.errors import PeerProtocolError
from wardround.secagg import terms
from wardround.secagg.terms import Crowd


def crowd(count, size, salt=0):
    sites = tuple(f"site-{place:03}" for place in range(count))
    nonces = tuple(hashlib.sha256(f"{site}/{salt}".encode()).digest() for site in sites)
    return Crowd(sites=sites, nonces=nonces, group_size=size)


@given(count=st.integers(1, 60), size=st.integers(1, 20), salt=st.integers(0, 100))
def test_everybody_is_in_one_group_of_at_least_the_size(count, size, salt):
    made = crowd(count, size, salt)
    if size > count:
        with pytest.raises(PeerProtocolError, match="makes no groups"):
            terms.deal(made)
        return
    groups = terms.deal(made)
    assert sorted(site for group in groups for site in group) == list(made.sites)
    assert all(size <= len(group) < 2 * size for group in groups)
    assert all(list(group) == sorted(group) for group in groups)
    assert terms.deal(made) == groups


def test_one_other_nonce_deals_anew_and_nobody_is_favoured():
    together = Counter()
    for salt in range(600):
        group = next(group for group in terms.deal(crowd(9, 3, salt)) if "site-000" in group)
        together.update(site for site in group if site != "site-000")
    assert len(together) == 8
    assert max(together.values()) < 1.4 * min(together.values())


def agreed(members, made, **changes):
    given = dict(zip(made.sites, made.nonces, strict=True))
    base = parties.make_terms(members)
    fields = {
        "members": members,
        "nonces": tuple(given[site] for site in members),
        "threshold": terms.signature_threshold(len(members)),
        "bases": base.bases[:1] * len(members),
        "discounts": (1.0,) * len(members),
        "capacity": 100,
        "crowd": made,
    }
    return msgspec.structs.replace(base, **fields | changes)


def test_a_dealt_group_is_accepted():
    made = crowd(9, 3)
    for group in terms.deal(made):
        terms.check(agreed(group, made))


def test_members_that_were_picked_are_refused():
    made = crowd(9, 3)
    groups = terms.deal(made)
    picked = tuple(sorted((groups[0][0], groups[1][0], groups[2][0])))
    with pytest.raises(PeerProtocolError, match="none of the groups"):
        terms.check(agreed(picked, made))


def test_a_member_with_two_nonces_is_refused():
    made = crowd(9, 3)
    group = terms.deal(made)[0]
    with pytest.raises(PeerProtocolError, match="one nonce in the crowd"):
        terms.check(agreed(group, made, nonces=(bytes(32), *agreed(group, made).nonces[1:])))


@pytest.mark.parametrize(
    "changes", [{"sites": ("b", "a", "c")}, {"sites": ("a", "a", "b")}, {"nonces": (b"",) * 3}, {"group_size": 0}]
)
def test_what_is_no_crowd_is_refused(changes):
    made = msgspec.structs.replace(crowd(3, 3), **changes)
    with pytest.raises(PeerProtocolError):
        terms.deal(made)


def test_the_crowd_is_part_of_the_transcript_and_its_absence_changes_nothing_of_old_ones():
    made = crowd(3, 3)
    plain = agreed(made.sites, made, crowd=msgspec.UNSET)
    assert terms.transcript(plain) != terms.transcript(agreed(made.sites, made))
    assert b"crowd" not in msgspec.json.encode(plain)
