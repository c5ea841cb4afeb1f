"""Aggregation on a Ray cluster, for hubs whose models outgrow one machine's processor.

The hub deals out the same tasks on the same chunks as `wardround.services.threads` does on one machine, so the
result has the same bytes, as far as the machines' matrix libraries do. Every machine of the cluster must see the
hub's blob folder under the same path, and belongs to the hub: it sees what the hub sees.

Ray sends tasks and results between its processes in its own, pickled form. They are made of this code and of the
hub's own arrays; no byte that a site sent is ever unpickled.
"""

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from threadpoolctl import threadpool_limits

from wardround.errors import ConfigError

__all__ = ["RayPool"]

_Result = TypeVar("_Result")
_AHEAD = 2
"""Tasks per processor that are under way before the first result is read."""


class RayPool:
    """Fills `wardround.ports.Pool`. `address` is Ray's; "local" starts a cluster of this machine's processors.

    Raises:
        ConfigError: Ray is not installed, or there is no cluster at this address.
    """

    def __init__(self, address: str) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # A hub tells nobody that it runs.
        try:
            import ray
        except ImportError:
            raise ConfigError("a cluster needs Ray: pip install 'wardround[cluster]'") from None
        settings: dict[str, Any] = {"address": address}
        if address == "local":
            settings |= {"include_dashboard": False, "_node_ip_address": "127.0.0.1"}
        try:
            ray.init(log_to_driver=False, ignore_reinit_error=True, **settings)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise ConfigError(f"there is no Ray cluster at {address}: {type(error).__name__}") from None
        self._ray: Any = ray
        self._perform: Any = ray.remote(_perform)

    def map(self, task: Callable[[int], _Result], starts: Sequence[int]) -> Iterator[_Result]:
        """What `task` gives for each start, in order."""
        shared = self._ray.put(task)
        most = _AHEAD * max(1, int(self._ray.cluster_resources().get("CPU", 1)))
        waiting: deque[Any] = deque()
        for start in starts:
            waiting.append(self._perform.remote(shared, start))
            if len(waiting) > most:
                yield self._ray.get(waiting.popleft())
        while waiting:
            yield self._ray.get(waiting.popleft())

    def close(self) -> None:
        """Let go of the cluster; one that was started here ends."""
        self._ray.shutdown()


def _perform(task: Callable[[int], _Result], start: int) -> _Result:
    with threadpool_limits(1):
        return task(start)
