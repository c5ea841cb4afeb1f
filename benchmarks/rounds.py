"""How long a round takes: small models (latency), and large ones against the bare transport."""

import tempfile
from itertools import pairwise
from statistics import median

from benchmarks.federation import children, federation, peak_bytes, resident_bytes, study
from benchmarks.floor import measure
from wardround.protocol.plan import SecureAggregation

__all__ = ["large_round", "largest_round", "small_round"]

_WARM = 3


def small_round(nodes: int, *, parameters: int = 10_000, rounds: int = 40, secure: bool = False) -> dict[str, float]:
    """Seconds per round: median, and the middle half."""
    with federation(nodes) as running:
        terms = SecureAggregation(roster=running.roster) if secure else None
        status = running.complete(study(parameters, nodes, rounds, secure=terms))
    opened = [float(event["at"]) for event in status.events if event["event"] == "round-opened"]  # type: ignore[arg-type]
    spans = sorted(later - earlier for earlier, later in list(pairwise(opened))[_WARM:-1])
    return {
        "median": median(spans),
        "low": spans[len(spans) // 4],
        "high": spans[3 * len(spans) // 4],
        "rounds": len(spans),
    }


def large_round(parameters: int, *, nodes: int = 4, rounds: int = 6) -> dict[str, float]:
    """Seconds per round of a large model beside the bare transport's, and the memory that it took."""
    with federation(nodes) as running:
        declared = study(parameters, nodes, rounds)
        hub_pid = running.processes["hub"].pid
        before = resident_bytes(hub_pid)
        status = running.complete(declared)
        hub_growth = peak_bytes(hub_pid) - before
        node = running.processes["site-00"].pid
        node_peak = sum(peak_bytes(pid) for pid in (node, *children(node)))
        floor = measure(running.place / "floor", declared.plan.initial.size, nodes, rounds)
    opened = [float(event["at"]) for event in status.events if event["event"] == "round-opened"]  # type: ignore[arg-type]
    spans = [later - earlier for earlier, later in pairwise(opened)][1:]
    return {
        "median": median(spans),
        "low": min(spans),
        "high": max(spans),
        "rounds": len(spans),
        "floor": median(floor[1:]),
        "ratio": median(spans) / median(floor[1:]),
        "hub_growth_bytes": hub_growth,
        "node_bytes": node_peak,
        "node_over_model": node_peak / (4 * parameters),
    }


def largest_round(parameters: int, *, nodes: int = 4) -> dict[str, float]:
    """Whether one round of a model that is as large as memory allows completes, and what the hub needs for it."""
    with federation(nodes) as running:
        with tempfile.TemporaryFile(dir=running.place) as file:
            declared = study(parameters, nodes, 1, absence_seconds=600.0, file=file)
            hub_pid = running.processes["hub"].pid
            before = resident_bytes(hub_pid)
            status = running.complete(declared)
        hub_growth = peak_bytes(hub_pid) - before
        node = running.processes["site-00"].pid
        node_peak = sum(peak_bytes(pid) for pid in (node, *children(node)))
    at = {event["event"]: float(event["at"]) for event in reversed(status.events)}  # type: ignore[arg-type]
    return {
        "round": at["round-closed"] - at["round-opened"],
        "combine": at["round-combined"] - at["round-closed"],
        "hub_growth_bytes": hub_growth,
        "node_bytes": node_peak,
        "node_over_model": node_peak / (4 * parameters),
    }
