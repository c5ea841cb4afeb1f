import itertools

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.secagg.parties import make_terms, nonce_of

from wardround.secagg import isolation
from wardround.secagg.isolation import Earlier
from wardround.secagg.terms import signature_threshold

SITES = tuple("abcdefghijkl")


def earlier(included, survivors="", members=None):
    count = members or len(included)
    return Earlier(
        transcript=bytes(32),
        content=bytes(32),
        members=count,
        threshold=signature_threshold(count),
        included=tuple(included),
        survivors=tuple(survivors),
    )


@given(st.sets(st.sampled_from(SITES), min_size=3), st.sets(st.sampled_from(SITES), min_size=3))
def test_a_new_list_is_the_survivors_that_were_signed(old, new):
    found = isolation.isolates(earlier(SITES, sorted(old)), sorted(new), voided_by=())
    assert found == (old != new)


def test_three_sums_of_which_no_two_single_anybody_out_are_never_all_there():
    lists = ["abc", "ade", "bcde"]
    assert all(len(set(one) ^ set(other)) >= 3 for one, other in itertools.combinations(lists, 2))
    # b and c are in the first and the third, d and e in the second and the third: each refuses its second.
    for one, other in itertools.combinations(lists, 2):
        assert isolation.isolates(earlier(one, one), other, voided_by=())


@given(st.sets(st.sampled_from(SITES[:8]), min_size=3), st.sets(st.sampled_from(SITES[:8]), min_size=3))
def test_unsigned_every_list_that_could_have_been_opened_counts(included, new):
    one = earlier(sorted(included))
    possible = [
        set(opened)
        for size in range(one.threshold, len(included) + 1)
        for opened in itertools.combinations(sorted(included), size)
    ]
    expected = any(opened != new for opened in possible)
    assert isolation.isolates(one, sorted(new), voided_by=()) == expected


@pytest.mark.parametrize(("count", "needed"), [(3, 1), (4, 3), (5, 3), (6, 3), (7, 5), (10, 7), (50, 33)])
def test_enough_voids_leave_no_threshold_of_signers_whoever_lies(count, needed):
    one = earlier(range(count))
    assert isolation.voids_needed(one) == needed
    colluders = count - one.threshold
    # All colluders say that they voided and sign all the same; so do all who did not void.
    assert count - needed + colluders < one.threshold
    assert count - (needed - 1) + colluders >= one.threshold


def test_a_cohort_that_can_never_be_opened_does_not_count():
    one = earlier("abcde")
    assert isolation.isolates(one, "abcde", voided_by="ab")
    assert not isolation.isolates(one, "abcde", voided_by="abc")
    assert isolation.isolates(one, "abcde", voided_by="abxyz")  # who was not in it has nothing to void


USED = {
    "another round": {"number": 5},
    "another run": {"run": "other.1"},
    "another weight": {"discounts": (0.5, *(1.0,) * 4)},
    "another update of somebody else": {"nonces": tuple(nonce_of(site, salt=site == "e") for site in SITES[:5])},
}


@pytest.mark.parametrize("changes", USED.values(), ids=USED)
def test_a_late_update_is_used_where_round_weight_or_anybodys_update_is_another(changes):
    sent = make_terms(SITES[:5], discounts=(1.0,) * 5)
    one = earlier(SITES[:5])
    one = msgspec.structs.replace(one, place=f"{sent.run}/{sent.number}", nonces=sent.nonces)
    assert not isolation.is_used(one, sent, "a")
    assert not isolation.is_used(one, make_terms(SITES[:4], discounts=(1.0,) * 4), "a"), "somebody may be missing"
    assert isolation.is_used(one, make_terms(SITES[:5], **{"discounts": (1.0,) * 5} | changes), "a")
