"""``python -m benchmarks [NAME …]``: measure, print a table, and write ``benchmarks/results/latest.json``."""

import json
import os
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks import audit_log, sandbox, secagg
from benchmarks.attestation import attestation
from benchmarks.late import straggler
from benchmarks.requests import decisions, requests
from benchmarks.rounds import large_round, largest_round, small_round
from benchmarks.rules import NAMES, rules
from benchmarks.startup import startup

_MEASURES: dict[str, Callable[[], dict[str, float]]] = {
    "startup": startup,
    "round-4": lambda: small_round(4),
    "round-10": lambda: small_round(10),
    "secure-round-10": lambda: small_round(10, secure=True),
    "masking": secagg.masking,
    "secagg-protocol": secagg.protocol,
    "secure-100m": lambda: secagg.large_secure_round(100_000_000),
    "rules-20": lambda: rules(20),
    "rules-50": lambda: rules(50),
    "straggler": straggler,
    "requests": requests,
    "decisions": decisions,
    "attestation": attestation,
    "audit-appending": audit_log.appending,
    "audit-proving": audit_log.proving,
    "audit-verifying": audit_log.verifying,
    "sandbox-start": sandbox.start,
    "sandbox-training": sandbox.training,
    "sandbox-quota": sandbox.quota,
    "sandbox-neighbour": sandbox.neighbour,
    "round-25m": lambda: large_round(25_000_000),
    "round-100m": lambda: large_round(100_000_000),
    "round-1b": lambda: largest_round(1_000_000_000),
}
_BOUNDS = {
    ("startup", "help"): 0.150,
    ("startup", "import"): 0.100,
    ("round-4", "median"): 0.020,
    ("round-10", "median"): 0.050,
    ("secure-round-10", "median"): 0.150,
    ("masking", "median"): 0.080,
    ("masking", "ratio"): 2.0,
    ("secagg-protocol", "bytes_beyond_plain"): 10_000,
    ("secure-100m", "hub_growth_bytes"): 300e6,
    ("secure-100m", "node_over_model"): 2.0,
    ("requests", "added"): 0.003,
    ("decisions", "median_50"): 0.0003,
    ("audit-proving", "inclusion proof, ms, median"): 5.0,
    ("attestation", "snp median"): 0.010,
    ("attestation", "tdx median"): 0.010,
    ("attestation", "sgx median"): 0.010,
    ("straggler", "ratio"): 1.25,
    ("straggler", "step_ratio"): 1.25,
    ("round-25m", "ratio"): 1.5,
    ("round-100m", "ratio"): 1.5,
    ("round-100m", "hub_growth_bytes"): 300e6,
    ("round-100m", "node_over_model"): 1.3,
    ("round-1b", "hub_growth_bytes"): 512e6,
}
_BOUNDS |= {(f"rules-{count}", f"{rule}_over_read"): 5.0 for count in (20, 50) for rule in NAMES}
_BOUNDS |= {(f"rules-{count}", "memory_bytes"): 512e6 for count in (20, 50)}
_FLOORS = {("secagg-protocol", "flower_over_ours"): 20.0, ("audit-appending", "entries/s, 64 threads"): 5000.0}
_FLOORS |= {
    (f"rules-{count}", f"{peer}_over_ours {rule}"): least
    for count in (20, 50)
    for rule in NAMES
    for peer, least in (("flower", 10.0), ("byzfl", 4.0))
}


def main(names: list[str]) -> None:
    """Run the named measures, or all of them."""
    path = Path("benchmarks/results/latest.json")
    results = json.loads(path.read_text()) if path.exists() else {}
    for name in names or list(_MEASURES):
        load = os.getloadavg()[0]
        results[name] = _MEASURES[name]() | {"load_before": load, "at": time.time()}
    results["machine"] = {"cores": os.cpu_count(), "python": platform.python_version(), "system": platform.platform()}
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(results, indent=1) + "\n")
    table = Table("measure", "what", "value", "bound")
    for name, values in results.items():
        for what, value in values.items():
            if what in {"at", "rounds"} or isinstance(value, str):
                continue
            bound, floor = _BOUNDS.get((name, what)), _FLOORS.get((name, what))
            held = "" if bound is None else f"{bound:g} {'held' if value <= bound else 'MISSED'}"
            held = held if floor is None else f"{floor:g} {'held' if value >= floor else 'MISSED'}"
            table.add_row(name, what, f"{value:.4g}", held)
    Console().print(table)


if __name__ == "__main__":
    main(sys.argv[1:])
