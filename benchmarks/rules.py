"""The robust rules on 20 and 50 updates of 10M parameters, beside the read of the same bytes and beside peers."""

import statistics
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

from benchmarks.peers import robust_rules
from wardround.aggregation import columns, geometry, robust
from wardround.aggregation.geometry import Geometry
from wardround.services.updates import CHUNK

__all__ = ["NAMES", "rules"]

NAMES = ("median", "trimmed-mean", "krum", "multi-krum", "geometric-median", "centred-clipping")
_RUNS = 5


def rules(count: int, width: int = 10_000_000) -> dict[str, float]:
    """Seconds of each rule, their ratio to the read, what memory they took, and how many times as long peers take."""
    hostile = count // 5
    with tempfile.TemporaryDirectory() as name:
        paths = [Path(name) / str(place) for place in range(count)]
        generator = np.random.default_rng(1)
        for path in paths:
            generator.standard_normal(width, dtype=np.float32).tofile(path)
        with threadpool_limits(1), ThreadPoolExecutor(2) as pool:
            before = _anonymous_bytes()
            read = _median(lambda: _read(_mapped(paths), pool))
            found = {"read": read}
            for rule in NAMES:
                made = robust.Rule(rule, hostile=hostile)
                found[rule] = _median(lambda made=made: _combine(made, _mapped(paths), pool))
                found[f"{rule}_over_read"] = found[rule] / read
            found["memory_bytes"] = _anonymous_bytes() - before
    for peer, seconds in robust_rules.measure(count, width, hostile).items():
        found[peer] = seconds
        rule = peer.partition(" ")[2]
        found[f"{peer.partition(' ')[0]}_over_ours {rule}"] = seconds / found[rule]
    return found


def _mapped(paths):
    return [np.memmap(path, "<f4", "r") for path in paths]


def _read(rows, pool):
    list(pool.map(lambda start: [row[start : start + CHUNK].max() for row in rows], range(0, rows[0].size, CHUNK)))


def _combine(rule, rows, pool):
    local = threading.local()
    starts = range(0, rows[0].size, CHUNK)

    def products(start):
        if not hasattr(local, "scratch"):
            local.scratch = np.empty((geometry.scratch_rows(len(rows)), geometry.BLOCK), np.float32)
        return geometry.centred_gram([row[start : start + CHUNK] for row in rows], local.scratch)

    found = None
    if rule.needs_geometry:
        gram = sum(pool.map(products, starts))
        assert geometry.is_resolved(gram)
        found = Geometry(gram)
    recipe = robust.recipe(rule, found, [100] * len(rows), bytes(32))

    def combined(start):
        if not hasattr(local, "space"):
            local.space, local.out = columns.Workspace(), np.empty(CHUNK)
        chunks = [row[start : start + CHUNK] for row in rows]
        columns.combine(recipe, chunks, local.out[: chunks[0].size], local.space)

    list(pool.map(combined, starts))


def _median(call):
    times = []
    for _ in range(_RUNS):
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def _anonymous_bytes():
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return 1024 * int(line.split()[1])
    return 0
