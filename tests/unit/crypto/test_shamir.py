import hashlib
import json
import random
from math import comb
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wardround.crypto import shamir
from wardround.crypto.shamir import PRIME
from wardround.errors import CryptoError

VECTORS = json.loads((Path(__file__).parents[2] / "vectors" / "secagg.json").read_text(encoding="utf-8"))
HIGH = PRIME.to_bytes(32, "little")


def generator(number):
    return random.Random(number).randbytes


def element(value):
    return (value % PRIME).to_bytes(32, "little")


def value(share):
    return int.from_bytes(share, "little")


def shared(n, threshold, number=0):
    draw = generator(number)
    secret = shamir.draw_secret(draw)
    points = list(range(1, n + 1))
    return secret, dict(zip(points, shamir.split(secret, threshold, points, draw), strict=True))


def forged(shares, points):
    """The same shares with those of `points` moved off, each by another distance."""
    return {p: element(value(share) + 7 + p * p) if p in points else share for p, share in shares.items()}


def is_right(secret):
    wanted = hashlib.sha256(secret).digest()
    return lambda found: hashlib.sha256(found).digest() == wanted


secrets = st.integers(0, PRIME - 1).map(element)
points = st.lists(st.integers(1, PRIME - 1) | st.integers(1, 60), unique=True, min_size=1, max_size=9)


@pytest.mark.parametrize("case", VECTORS["shares"], ids=lambda case: f"threshold {case['threshold']}")
def test_shares_are_those_of_the_other_implementation(case):
    draws = iter(case["draws"])
    secret = shamir.draw_secret(lambda size: bytes.fromhex(next(draws)))
    made = shamir.split(secret, case["threshold"], case["points"], lambda size: bytes.fromhex(next(draws)))
    assert secret.hex() == case["secret"]
    assert [share.hex() for share in made] == case["shares"]
    assert shamir.combine(dict(zip(case["points"], made, strict=True)), case["threshold"]) == secret


@given(secret=secrets, points=points, data=st.data())
def test_any_threshold_of_shares_gives_the_secret_back(secret, points, data):
    threshold = data.draw(st.integers(1, len(points)))
    shares = shamir.split(secret, threshold, points, generator(data.draw(st.integers())))
    some = data.draw(st.permutations(list(zip(points, shares, strict=True))))[threshold - 1 :]
    kept = dict(data.draw(st.permutations(list(zip(points, shares, strict=True))))[:threshold])
    assert shamir.combine(kept, threshold) == secret
    if len(some) < threshold:
        with pytest.raises(CryptoError):
            shamir.combine(dict(some), threshold)


@given(secret=secrets, other=secrets, threshold=st.integers(2, 6), number=st.integers())
def test_fewer_shares_fit_every_secret(secret, other, threshold, number):
    few = list(range(1, threshold))
    shares = shamir.split(secret, threshold, [*few, threshold], generator(number))
    # Whatever secret one wishes, the missing share can be so that it comes out.
    wanted = dict(zip(few, shares, strict=False))
    weights = shamir.weights((*few, threshold))
    known = sum(w * value(wanted[p]) for w, p in zip(weights, few, strict=False))
    missing = (value(other) - known) * pow(weights[-1], -1, PRIME)
    assert shamir.combine({**wanted, threshold: element(missing)}, threshold) == other


def test_the_shares_of_the_lowest_points_are_used():
    secret, shares = shared(5, 3)
    assert shamir.combine(dict(reversed(forged(shares, {4, 5}).items())), 3) == secret
    assert shamir.combine(forged(shares, {3}), 3) != secret


@given(points=points)
def test_weights_give_a_constant_and_kill_other_powers(points):
    weights = shamir.weights(tuple(points))
    assert sum(weights) % PRIME == 1
    for power in range(1, len(points)):
        assert sum(w * pow(p, power, PRIME) for w, p in zip(weights, points, strict=True)) % PRIME == 0


@given(number=st.integers())
def test_drawn_secrets_are_elements(number):
    assert value(shamir.draw_secret(generator(number))) < PRIME


def test_draws_beyond_the_prime_are_drawn_again():
    draws = [HIGH, b"\xff" * 32, element(5)]
    assert shamir.draw_secret(lambda size: draws.pop(0)) == element(5)
    draws = [HIGH, element(3)]
    assert shamir.split(element(1), 2, [2, 5], lambda size: draws.pop(0)) == [element(7), element(16)]


def test_the_top_bit_of_a_draw_is_cleared():
    assert shamir.draw_secret(lambda size: bytes(31) + b"\x80") == bytes(32)
    assert shamir.draw_secret(lambda size: (PRIME - 1 + 2**255).to_bytes(32, "little")) == element(-1)


def test_coefficients_may_be_zero():
    assert shamir.split(element(9), 3, [1, 2, 3], bytes) == [element(9)] * 3


@pytest.mark.parametrize("draw", [lambda size: bytes(31), lambda size: bytes(33), lambda size: b"\xff" * size])
def test_a_broken_generator_is_refused(draw):
    with pytest.raises(ValueError):
        shamir.draw_secret(draw)
    with pytest.raises(ValueError):
        shamir.split(bytes(32), 2, [1, 2], draw)


@pytest.mark.parametrize("secret", [b"", bytes(31), bytes(33), HIGH, b"\xff" * 32])
def test_only_elements_are_split(secret):
    with pytest.raises(ValueError):
        shamir.split(secret, 1, [1], generator(0))


@pytest.mark.parametrize("wrong", [[0, 1], [-1, 1], [1, 1], [PRIME, 1], [PRIME + 1, 2]])
def test_points_out_of_range_or_named_twice_are_bugs_of_the_caller(wrong):
    with pytest.raises(ValueError, match="distinct"):
        shamir.split(bytes(32), 2, wrong, generator(0))
    with pytest.raises(ValueError, match="distinct"):
        shamir.weights(tuple(wrong))
    if len(set(wrong)) == 2:
        with pytest.raises(ValueError, match="distinct"):
            shamir.combine(dict.fromkeys(wrong, bytes(32)), 2)
        with pytest.raises(ValueError, match="distinct"):
            shamir.recover(dict.fromkeys(wrong, bytes(32)), 2, bool)


def test_no_points_at_all_are_a_bug_of_the_caller():
    for call in (lambda: shamir.weights(()), lambda: shamir.combine({}, 1)):
        with pytest.raises((ValueError, CryptoError)):
            call()


@pytest.mark.parametrize("threshold", [-1, 0, 4])
def test_thresholds_out_of_range_are_bugs_of_the_caller(threshold):
    with pytest.raises(ValueError):
        shamir.split(bytes(32), threshold, [1, 2, 3], generator(0))
    if threshold < 1:
        with pytest.raises(ValueError):
            shamir.combine({1: bytes(32)}, threshold)
        with pytest.raises(ValueError):
            shamir.recover({1: bytes(32)}, threshold, bool)


@pytest.mark.parametrize("share", [b"", bytes(31), bytes(33), HIGH, b"\xff" * 32])
@pytest.mark.parametrize("point", [1, 4])
def test_a_share_that_is_no_element_is_refused_and_named(share, point):
    secret, shares = shared(4, 3)
    shares[point] = share
    with pytest.raises(CryptoError):
        shamir.combine(shares, 3)
    assert shamir.recover(shares, 3, is_right(secret)) == (secret, {point})


def test_shares_that_are_no_elements_are_named_beside_forged_ones():
    secret, shares = shared(9, 4)
    wrong = {**forged(shares, {2, 8}), 5: HIGH}
    assert shamir.recover(wrong, 4, is_right(secret)) == (secret, {2, 5, 8})


@given(number=st.integers(), threshold=st.integers(1, 9), spare=st.integers(0, 9), data=st.data())
def test_forged_shares_are_left_out_and_named(number, threshold, spare, data):
    n = threshold + spare
    secret, shares = shared(n, threshold, number)
    wrong = set(data.draw(st.permutations(range(1, n + 1)))[: data.draw(st.integers(0, (spare + 1) // 2))])
    assert shamir.recover(forged(shares, wrong), threshold, is_right(secret)) == (secret, wrong)


@given(number=st.integers(), data=st.data())
def test_the_secret_is_found_among_as_many_forged_shares_as_can_be(number, data):
    threshold, n = 4, 10
    secret, shares = shared(n, threshold, number)
    wrong = set(data.draw(st.permutations(range(1, n + 1)))[: data.draw(st.integers(0, n - threshold))])
    found, named = shamir.recover(forged(shares, wrong), threshold, is_right(secret))
    assert found == secret
    # Four forged of ten could be made to look like the honest ones: nobody is named then.
    assert named == (wrong if len(wrong) <= 3 else set())


def test_forgers_who_agree_on_a_second_polynomial_cannot_have_honest_ones_named():
    threshold, n = 3, 5
    secret, shares = shared(n, threshold)
    # Through the right secret and the share of point 1; points 2 and 3 lie, and 4 and 5 are honest.
    other = [value(secret), 0, 0]
    other[2] = 12345
    other[1] = (value(shares[1]) - value(secret) - other[2]) % PRIME
    lies = {p: element(other[0] + other[1] * p + other[2] * p * p) for p in (2, 3)}
    found, named = shamir.recover({**shares, **lies}, threshold, is_right(secret))
    assert found == secret
    assert named == set()


def test_forgers_on_half_of_the_spare_places_are_decoded_away_without_trials():
    secret, shares = shared(50, 34)
    tried = []

    def check(found):
        tried.append(found)
        return found == secret

    wrong = set(range(1, 9))
    assert shamir.recover(forged(shares, wrong), 34, check) == (secret, wrong)
    assert len(tried) == 2


def test_attempts_are_bounded_and_every_set_is_tried_once():
    _, shares = shared(7, 4)
    tried = []
    with pytest.raises(CryptoError):
        shamir.recover(forged(shares, {1, 3, 6}), 4, tried.append)
    assert len(tried) == len(set(tried)) == comb(7, 4)
    tried.clear()
    with pytest.raises(CryptoError):
        shamir.recover(forged(shares, {1, 3, 6}), 4, tried.append, attempts=10)
    assert len(tried) == 10
    with pytest.raises(ValueError):
        shamir.recover(shares, 4, bool, attempts=0)


def test_too_few_good_shares_are_refused():
    secret, shares = shared(5, 4)
    with pytest.raises(CryptoError):
        shamir.combine({p: shares[p] for p in (1, 2, 3)}, 4)
    with pytest.raises(CryptoError):
        shamir.recover({p: shares[p] for p in (1, 2, 3)}, 4, is_right(secret))
    with pytest.raises(CryptoError):
        shamir.recover(forged(shares, {1, 2}), 4, is_right(secret))
    with pytest.raises(CryptoError):
        shamir.recover({**shares, 1: HIGH, 2: b""}, 4, is_right(secret))
