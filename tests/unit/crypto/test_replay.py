import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wardround.crypto.replay import ReplayGuard
from wardround.errors import StaleRequestError

NOW = 1_760_000_000.0
T = int(NOW)


def accepted(guard, keyid, nonce, created, now):
    try:
        guard.check(keyid, nonce, created, now)
    except StaleRequestError:
        return False
    return True


def test_a_request_ten_minutes_old_is_refused_and_the_message_says_how_old():
    with pytest.raises(StaleRequestError, match=r"10 min 0 s behind.*at most 5 min 0 s.*NTP"):
        ReplayGuard().check("site-a", "n", T - 600, NOW)


def test_a_clock_an_hour_fast_is_refused_and_the_message_says_by_how_much():
    with pytest.raises(StaleRequestError, match=r"60 min 0 s ahead of.*NTP"):
        ReplayGuard().check("site-a", "n", T + 3600, NOW)


def test_a_clock_an_hour_slow_is_refused():
    with pytest.raises(StaleRequestError, match="60 min 0 s behind"):
        ReplayGuard().check("site-a", "n", T - 3600, NOW)


@pytest.mark.parametrize(("offset", "passes"), [(-301, False), (-300, True), (0, True), (300, True), (301, False)])
def test_the_window_includes_its_ends(offset, passes):
    assert accepted(ReplayGuard(), "site-a", "n", T + offset, NOW) is passes


def test_a_request_counts_once():
    guard = ReplayGuard()
    guard.check("site-a", "n", T, NOW)
    with pytest.raises(StaleRequestError, match=r"site-a was received before"):
        guard.check("site-a", "n", T, NOW)


def test_a_nonce_counts_once_even_with_another_time():
    guard = ReplayGuard()
    guard.check("site-a", "n", T, NOW)
    assert not accepted(guard, "site-a", "n", T + 1, NOW + 1)


def test_two_sites_may_choose_one_nonce():
    guard = ReplayGuard()
    guard.check("site-a", "n", T, NOW)
    guard.check("site-b", "n", T, NOW)


def test_a_request_from_the_future_is_remembered_until_it_is_too_old():
    guard = ReplayGuard()
    guard.check("site-a", "n", T + 300, NOW)
    for later in (0, 300, 600):
        guard.check("site-b", f"tick-{later}", T + later, NOW + later)
        assert not accepted(guard, "site-a", "n", T + 300, NOW + later)


def test_what_is_out_of_the_window_is_forgotten():
    guard = ReplayGuard()
    for second in range(2000):
        guard.check("site-a", str(second), T + second, NOW + second)
    assert len(guard) == 301


def test_when_full_it_refuses_new_requests_and_still_knows_the_old():
    guard = ReplayGuard(window_seconds=300, capacity=10)
    for number in range(10):
        guard.check("site-a", str(number), T, NOW)
    with pytest.raises(StaleRequestError, match="10 requests within 10 min 0 s"):
        guard.check("site-a", "10", T, NOW)
    assert not any(accepted(guard, "site-a", str(number), T, NOW) for number in range(11))
    assert len(guard) == 10


def test_when_full_it_recovers_with_time():
    guard = ReplayGuard(window_seconds=300, capacity=10)
    for number in range(10):
        guard.check("site-a", str(number), T, NOW)
    guard.check("site-a", "10", T + 301, NOW + 301)
    assert len(guard) == 1


def test_setting_our_clock_back_does_not_open_the_past():
    guard = ReplayGuard()
    guard.check("site-a", "n", T, NOW)
    guard.check("site-a", "later", T + 3600, NOW + 3600)
    with pytest.raises(StaleRequestError, match="set back"):
        guard.check("site-a", "n", T, NOW)
    guard.check("site-a", "fresh", T + 1, NOW + 1)


@pytest.mark.parametrize("now", [math.nan, math.inf, -math.inf])
def test_a_time_that_is_none_is_refused(now):
    with pytest.raises(StaleRequestError):
        ReplayGuard().check("site-a", "n", T, now)


@pytest.mark.parametrize(("window", "capacity"), [(0, 1), (-1, 1), (math.nan, 1), (300, 0)])
def test_limits_must_be_positive(window, capacity):
    with pytest.raises(ValueError):
        ReplayGuard(window, capacity)


requests = st.tuples(
    st.sampled_from("ab"), st.sampled_from("xyz"), st.integers(-25, 25), st.integers(-30, 30), st.booleans()
)


@given(steps=st.lists(requests, max_size=60), capacity=st.integers(1, 8))
def test_no_request_is_ever_accepted_twice_nor_outside_the_window(steps, capacity):
    """The rules again, as a reader would write them: an oracle that forgets nothing."""
    guard, seen, now = ReplayGuard(10.0, capacity), [], 1000
    for keyid, nonce, offset, tick, again in steps:
        now += tick
        sent = seen[offset % len(seen)] if again and seen else (keyid, nonce, now + offset)
        if accepted(guard, *sent, float(now)):
            assert abs(now - sent[2]) <= 10
            assert sent not in seen
            seen.append(sent)
        assert len(guard) <= capacity


@given(offsets=st.lists(st.integers(-10, 10), min_size=1, max_size=30))
def test_honest_requests_are_all_accepted(offsets):
    guard, now = ReplayGuard(10.0, 1000), 1000
    for number, offset in enumerate(offsets):
        now += 3
        guard.check("a", str(number), now + offset, float(now))
