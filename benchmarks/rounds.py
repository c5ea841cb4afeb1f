"""How long a round takes: small models (latency), and large ones against the bare transport."""

from itertools import pairwise
from statistics import median

from benchmarks.federation import federation, study

__all__ = ["small_round"]

_WARM = 3


def small_round(nodes: int, *, parameters: int = 10_000, rounds: int = 40) -> dict[str, float]:
    """Seconds per round: median, and the middle half."""
    with federation(nodes) as running:
        status = running.complete(study(parameters, nodes, rounds))
    opened = [float(event["at"]) for event in status.events if event["event"] == "round-opened"]  # type: ignore[arg-type]
    spans = sorted(later - earlier for earlier, later in list(pairwise(opened))[_WARM:-1])
    return {"median": median(spans), "low": spans[len(spans) // 4], "high": spans[3 * len(spans) // 4], "rounds": len(spans)}
