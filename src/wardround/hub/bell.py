"""Wakes held requests when something changes: an event per name, rung from any thread."""

import asyncio
from collections.abc import Iterable
from typing import Self

__all__ = ["Bell"]


class Bell:
    """One waiting place per name. Lives on one event loop; `ring` may be called from other threads."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiting: dict[str, set[asyncio.Event]] = {}
        self.is_closing = False

    def ring(self, names: Iterable[str]) -> None:
        """Wake all who wait for any of `names`."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._ring, tuple(names))

    def close(self) -> None:
        """Wake everybody, for the last time."""
        self.is_closing = True
        self._ring(tuple(self._waiting))

    def listen(self, name: str) -> "Listening":
        """A waiting place: enter it before looking for work, so that no ring is missed."""
        return Listening(self._waiting, name)

    def _ring(self, names: tuple[str, ...]) -> None:
        for name in names:
            for event in self._waiting.get(name, ()):
                event.set()


class Listening:
    """A held request's place; a context manager."""

    def __init__(self, waiting: dict[str, set[asyncio.Event]], name: str) -> None:
        self._waiting, self._name, self._event = waiting, name, asyncio.Event()

    def __enter__(self) -> Self:
        self._waiting.setdefault(self._name, set()).add(self._event)
        return self

    def __exit__(self, *_: object) -> None:
        places = self._waiting[self._name]
        places.discard(self._event)
        if not places:
            del self._waiting[self._name]

    async def rung(self, seconds: float) -> bool:
        """Whether the bell rang within `seconds`."""
        try:
            async with asyncio.timeout(seconds):
                await self._event.wait()
        except TimeoutError:
            return False
        self._event.clear()
        return True
