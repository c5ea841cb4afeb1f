"""Each signed request counts once, and only near its time.

    accepted  <=>  |now - created| <= window, and (keyid, nonce) was not seen before

A nonce is remembered until its request would be refused for its age anyway. Two rules keep that sound:

1. At capacity the guard refuses new requests; it never forgets a nonce that could be sent again.
2. A request that is not newer than one whose nonce was forgotten is refused, so that setting this
   machine's clock back does not open the past again.

Hazard: call `ReplayGuard.check` after the signature was verified, or strangers can fill the memory.
A guard lives in one process: after a restart, or beside a second replica, a request can be sent once
more within the window, so commands must be idempotent too. Not for several threads at once.
"""

import heapq

from wardround.errors import StaleRequestError

__all__ = ["ReplayGuard"]


class ReplayGuard:
    """Remembers the nonces of one window.

    Args:
        window_seconds: How far a request's time may be from ours, either way.
        capacity: How many nonces are remembered at most.

    Raises:
        ValueError: Either is not positive.
    """

    def __init__(self, window_seconds: float = 300.0, capacity: int = 200_000) -> None:
        if not window_seconds > 0 or capacity < 1:
            raise ValueError("window_seconds and capacity must be positive")
        self._window = window_seconds
        self._capacity = capacity
        self._seen: set[tuple[str, str]] = set()
        self._by_age: list[tuple[int, str, str]] = []
        self._forgotten: float = float("-inf")

    def __len__(self) -> int:
        """How many nonces are remembered."""
        return len(self._seen)

    def check(self, keyid: str, nonce: str, created: int, now: float) -> None:
        """Accept a request once.

        Args:
            keyid: Who signed it.
            nonce: Its nonce.
            created: Its time, in seconds since 1970-01-01 UTC.
            now: This machine's time, likewise.

        Raises:
            StaleRequestError: It is outside the window, was seen before, or cannot be remembered.
        """
        # A comparison with NaN is false: written this way, a broken `now` refuses.
        if not abs(now - created) <= self._window:
            raise StaleRequestError(_skew(created - now, self._window))
        self._forget(now)
        if created <= self._forgotten:
            raise StaleRequestError("this machine's clock was set back: requests of that time are no longer accepted")
        if (keyid, nonce) in self._seen:
            raise StaleRequestError(f"this request of {keyid} was received before: sign each request anew")
        if len(self._seen) >= self._capacity:
            raise StaleRequestError(
                f"{self._capacity} requests within {_duration(2 * self._window)}: no more can be told from repetitions,"
                " try again later"
            )
        self._seen.add((keyid, nonce))
        heapq.heappush(self._by_age, (created, keyid, nonce))

    def _forget(self, now: float) -> None:
        while self._by_age and now - self._by_age[0][0] > self._window:
            created, keyid, nonce = heapq.heappop(self._by_age)
            self._seen.discard((keyid, nonce))
            self._forgotten = max(self._forgotten, created)


def _skew(ahead: float, window: float) -> str:
    side = "ahead of" if ahead > 0 else "behind"
    return (
        f"the request's time is {_duration(abs(ahead))} {side} this machine's clock, at most {_duration(window)} is"
        " allowed: send it at once, and check that NTP runs on the sender"
    )


def _duration(seconds: float) -> str:
    whole = round(seconds) if seconds < 1e12 else 10**12
    minutes, rest = divmod(whole, 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
