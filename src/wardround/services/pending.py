"""Things that wait for one answer, for a short while, in this process: challenges, questions, codes.

Each is taken once. Where there is no more room, the oldest goes: whoever floods a hub with questions can
make logins fail, and never can make memory grow or an old answer count.
"""

import threading
from collections import OrderedDict
from typing import Generic, TypeVar

__all__ = ["Pending"]

_T = TypeVar("_T")


class Pending(Generic[_T]):
    """Values by name, for `seconds`. May be used by several threads."""

    def __init__(self, seconds: float, capacity: int = 4096) -> None:
        self._seconds, self._capacity = seconds, capacity
        self._lock = threading.Lock()
        self._values: OrderedDict[str, tuple[float, _T]] = OrderedDict()

    def __len__(self) -> int:
        """How many are kept."""
        return len(self._values)

    def put(self, name: str, value: _T, now: float) -> None:
        """Keep a value; it replaces the name's old one."""
        with self._lock:
            self._values.pop(name, None)
            self._values[name] = (now + self._seconds, value)
            while len(self._values) > self._capacity:
                self._values.popitem(last=False)

    def take(self, name: str, now: float) -> _T | None:
        """The value, which is then gone; None where there is none or its time is up."""
        with self._lock:
            expires, value = self._values.pop(name, (0.0, None))
        return value if now < expires else None

    def look(self, name: str, now: float) -> _T | None:
        """The value, which stays; None where there is none or its time is up."""
        with self._lock:
            expires, value = self._values.get(name, (0.0, None))
        return value if now < expires else None
