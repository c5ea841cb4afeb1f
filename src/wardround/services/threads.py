"""Arithmetic on all cores of this machine."""

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from typing import TypeVar

from threadpoolctl import ThreadpoolController

__all__ = ["Threads"]

_Result = TypeVar("_Result")


@cache
def _libraries() -> ThreadpoolController:
    """The matrix libraries of this process: looking for them takes milliseconds, and NumPy's is there by now."""
    return ThreadpoolController()


class Threads:
    """Threads; fills `wardround.ports.Pool`. The matrix library gets one core, so that each thread has its own."""

    def map(self, task: Callable[[int], _Result], starts: Sequence[int]) -> Iterator[_Result]:
        """What `task` gives for each start, in order, made as far ahead as there are cores."""
        cores = os.cpu_count() or 1
        waiting: deque[Future[_Result]] = deque()
        if len(starts) == 1:  # A small model: making threads would take longer than its arithmetic.
            with _libraries().limit(limits=1):
                first = task(starts[0])
            yield first
            return
        with _libraries().limit(limits=1), ThreadPoolExecutor(cores, thread_name_prefix="chunks") as pool:
            for start in starts:
                waiting.append(pool.submit(task, start))
                if len(waiting) > cores:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
