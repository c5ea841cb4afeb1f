import hashlib
import math
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wardround.crypto import prg
from wardround.secagg import graph

# PRIVACY's table, from other code: (members, colluding, dropping) -> (neighbours, threshold).
TABLE = {
    (64, 0.1, 0.1): (13, 7),
    (64, 0.2, 0.1): (19, 13),
    (64, 0.33, 0.05): (25, 22),
    (64, 0.05, 0.3): (21, 4),
    (100, 0.1, 0.1): (21, 11),
    (100, 0.2, 0.1): (31, 21),
    (200, 0.2, 0.1): (49, 31),
    (1000, 0.2, 0.1): (74, 45),
    (1000, 0.33, 0.05): (85, 63),
    (1000, 0.05, 0.3): (74, 24),
}


@pytest.mark.parametrize(("asked", "found"), TABLE.items())
def test_the_tails_give_the_published_parameters(asked, found):
    count, colluding, dropping = asked
    assert tuple(graph.smallest(count, colluding=colluding, dropping=dropping)) == found


def tail(population, marked, draws, hits):
    """P[at least `hits` of the draws are marked], term by term."""
    ways = sum(math.comb(marked, x) * math.comb(population - marked, draws - x) for x in range(hits, draws + 1))
    return Fraction(ways, math.comb(population, draws))


def holds(count, degree, threshold):
    """The three bounds, for an honest member: all others' places around it are equally likely."""
    others, bad, gone = count - 1, count // 5, count // 10
    inside = degree // 2 + 1
    kept_secret = tail(others, bad, degree, threshold) <= Fraction(1, 2**40 * count)
    not_cut = threshold > inside and tail(others, bad, degree // 2, threshold - inside) <= Fraction(1, 2**41 * count)
    got_back = 1 - tail(others, others - gone, degree, threshold) <= Fraction(1, 2**30 * count)
    return kept_secret and not_cut and got_back


@pytest.mark.parametrize("count", [65, 66, 70, 99, 100, 110, 128, 173, 200, 253, 333, 500, 1000, 1024])
def test_the_bounds_hold_and_no_smaller_degree_has_them(count):
    degree, threshold = graph.parameters(count)
    assert holds(count, degree, threshold)
    assert not holds(count, degree, threshold - 1)
    assert not any(holds(count, degree - 2, lower) for lower in range(degree // 2, degree - 1))


def test_what_stays_by_chance_is_in_one_piece():
    # It falls apart only if two runs of k / 2 places on the ring are gone; a union bound over all pairs of runs.
    for count in range(65, 1025):
        degree, gone = graph.parameters(count).degree, count // 5 + count // 10
        ways = math.comb(count - degree, gone - degree) if gone >= degree else 0
        assert math.comb(count, 2) * ways << 80 < math.comb(count, gone)


@pytest.mark.parametrize("count", [3, 4, 5, 10, 64])
def test_a_small_cohort_is_complete(count):
    assert graph.parameters(count) == (count - 1, 2 * count // 3 + 1)
    assert graph.neighbours(count, count - 1, bytes(32))[0] == tuple(range(1, count))


@pytest.mark.parametrize(
    ("count", "found"), [(65, (42, 36)), (100, (64, 54)), (200, (106, 86)), (500, (178, 138)), (1000, (226, 173))]
)
def test_a_hub_that_cuts_the_ring_costs_more_neighbours(count, found):
    assert tuple(graph.parameters(count)) == found


@settings(max_examples=40)
@given(st.integers(65, 300), st.binary(min_size=32, max_size=32))
def test_a_large_graph_is_regular_symmetric_and_connected(count, beacon):
    degree, threshold = graph.parameters(count)
    found = graph.neighbours(count, degree, beacon)
    assert degree % 2 == 0
    assert degree < count - 1
    assert degree // 2 < threshold <= degree
    for place, near in enumerate(found):
        assert len(set(near)) == len(near) == degree
        assert place not in near
        assert all(place in found[other] for other in near)
    assert graph.is_connected(found, range(count))


@settings(max_examples=40)
@given(st.integers(65, 300), st.binary(min_size=32, max_size=32), st.randoms())
def test_what_stays_is_connected_when_a_third_goes(count, beacon, rng):
    found = graph.neighbours(count, graph.parameters(count).degree, beacon)
    assert graph.is_connected(found, rng.sample(range(count), count - count // 3))


def test_a_graph_in_two_pieces_is_seen():
    ring = [(1, 5), (0, 2), (1, 3), (2, 4), (3, 5), (4, 0)]
    assert graph.is_connected(ring, [0, 1, 2])
    assert graph.is_connected(ring, [])
    assert not graph.is_connected(ring, [0, 1, 3, 4])


def test_the_order_follows_from_the_beacon():
    one, other = (graph.neighbours(100, 32, bytes([salt]) * 32) for salt in (1, 2))
    assert one != other
    assert graph.neighbours(100, 32, bytes([1]) * 32) == one


def test_golden_graph():
    # By another program: `openssl enc -aes-256-ctr` for the words, and distances on the ring.
    beacon = hashlib.sha256(b"graph vectors: 1").digest()
    small = [(4, 5, 7, 10), (5, 7, 8, 9), (3, 6, 8, 11), (2, 4, 6, 10), (0, 3, 5, 10), (0, 1, 4, 7)]
    small += [(2, 3, 10, 11), (0, 1, 5, 9), (1, 2, 9, 11), (1, 7, 8, 11), (0, 3, 4, 6), (2, 6, 8, 9)]
    assert list(graph.neighbours(12, 4, beacon)) == small
    for count, degree, digest in (
        (100, 32, "e9ee980b79fc0fb452ec0f335bdebca22bd08245edef53928ac7c841b021f84b"),
        (1000, 74, "d314b48fe6584ec09473e7659871b0c4cc104efb56ed9849a06fbf81daaa9602"),
    ):
        found = repr([list(near) for near in graph.neighbours(count, degree, beacon)])
        assert hashlib.sha256(found.encode()).hexdigest() == digest


def test_words_that_would_bias_the_order_are_thrown_away(monkeypatch):
    # 2**64 - 1 is a multiple of 3, so the words below it fall evenly on three places, and it would be one too many.
    monkeypatch.setattr(prg, "_words", lambda _beacon, _count: iter([2**64 - 1, 2**64 - 2, 1]))
    assert prg.shuffled(3, bytes(32)) == [0, 1, 2]


def test_an_odd_degree_is_refused():
    with pytest.raises(ValueError, match="even"):
        graph.neighbours(100, 31, bytes(32))


def test_places_on_the_ring_are_uniform():
    # Each of the other 5 places is a neighbour of place 0 equally often: 2 of 5.
    counts = [0] * 6
    for salt in range(2000):
        for other in graph.neighbours(6, 2, salt.to_bytes(32, "big"))[0]:
            counts[other] += 1
    assert counts[0] == 0
    assert all(abs(count - 800) < 5 * 22 for count in counts[1:])
