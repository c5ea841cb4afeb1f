"""Wakes held requests when something changes: an event per name, rung from any thread."""

import asyncio
from collections.abc import Iterable
from typing import Self

__all__ = ["Bell"]


class Bell:
    """One waiting place per name. Lives on one event loop; `ring` may be called from other threads."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiting: dict[str, set[Listening]] = {}
        self.is_closing = False

    def ring(self, names: Iterable[str], about: str = "") -> None:
        """Wake all who wait for any of `names`, and do not ignore what this is `about`."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._ring, tuple(names), about)

    def close(self) -> None:
        """Wake everybody, for the last time."""
        self.is_closing = True
        self._ring(tuple(self._waiting))

    def listen(self, name: str, *, ignoring: Iterable[str] = ()) -> "Listening":
        """A waiting place: enter it before looking for work, so that no ring is missed."""
        return Listening(self._waiting, name, frozenset(ignoring))

    def _ring(self, names: tuple[str, ...], about: str = "") -> None:
        for name in names:
            for place in self._waiting.get(name, ()):
                place.wake(about)


class Listening:
    """A held request's place; a context manager."""

    def __init__(self, waiting: "dict[str, set[Listening]]", name: str, ignoring: frozenset[str]) -> None:
        self._waiting, self._name, self._ignoring, self._event = waiting, name, ignoring, asyncio.Event()

    def __enter__(self) -> Self:
        self._waiting.setdefault(self._name, set()).add(self)
        return self

    def __exit__(self, *_: object) -> None:
        places = self._waiting[self._name]
        places.discard(self)
        if not places:
            del self._waiting[self._name]

    def wake(self, about: str) -> None:
        """Let the request look again, unless it ignores what this is about."""
        if about not in self._ignoring:
            self._event.set()

    async def rung(self, seconds: float) -> bool:
        """Whether the bell rang within `seconds`."""
        try:
            async with asyncio.timeout(seconds):
                await self._event.wait()
        except TimeoutError:
            return False
        self._event.clear()
        return True
