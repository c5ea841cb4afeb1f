import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

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


@pytest.mark.parametrize("count", [3, 4, 5, 10, 64])
def test_a_small_cohort_is_complete(count):
    assert graph.parameters(count) == (count - 1, 2 * count // 3 + 1)
    assert graph.neighbours(count, count - 1, bytes(32))[0] == tuple(range(1, count))


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
