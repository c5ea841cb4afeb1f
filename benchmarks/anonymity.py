"""``python -m benchmarks.anonymity``: k, l and t of 100,000 records, ours and pycanon's; other gates beside them.

pycanon is measured where ``.cache/bench-pycanon`` has it (it pins numpy, so it has an environment of its own), on the
same columns: age, sex and region as quasi-identifiers, a label of 30 values.
"""

import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from wardround.clinical import anonymity, disclosure_cohorts, disclosure_tables
from wardround.clinical.anonymity import Demand, Sensitive
from wardround.harmonization import lineage

__all__ = ["measured"]

_RECORDS = 100_000
_PEER = Path(__file__).parents[1] / ".cache" / "bench-pycanon" / "bin" / "python"
_INSIDE = """
import json, sys, time
import numpy as np, pandas as pd
from pycanon import anonymity
generator, records = np.random.default_rng(0), int(sys.argv[1])
names = ["age", "sex", "region"]
table = pd.DataFrame({name: generator.integers(0, width, records) for name, width in zip(names, (90, 2, 8))})
table["label"] = [f"{one:02}" for one in generator.integers(0, 30, records)]
spans = {}
for kind, run in (
    ("k", lambda: anonymity.k_anonymity(table, names)),
    ("l", lambda: anonymity.l_diversity(table, names, ["label"])),
    ("t", lambda: anonymity.t_closeness(table, names, ["label"])),
):
    started = time.perf_counter()
    found = run()
    spans[kind] = time.perf_counter() - started
    spans[kind + " found"] = float(found)
print(json.dumps(spans))
"""


def measured() -> dict[str, float]:
    """Seconds of each, the best of five."""
    generator = np.random.default_rng(0)
    columns = [generator.integers(0, width, _RECORDS) for width in (90, 2, 8)]
    label = generator.integers(0, 30, _RECORDS)
    number = generator.normal(size=_RECORDS).astype(np.float32)
    of = anonymity.groups(columns, _RECORDS)

    def all_three() -> tuple[int, int, float]:
        codes = anonymity.groups(columns, _RECORDS)
        far = anonymity.distances(codes, Sensitive(label)).max()
        return int(anonymity.sizes(codes).min()), int(anonymity.diversities(codes, label).min()), float(far)

    marks = disclosure_cohorts.checked(generator.integers(0, 2**63, _RECORDS).astype(np.uint64))
    features = generator.normal(size=(_RECORDS, 50)).astype(np.float32)
    names, held_out = [str(place) for place in range(50)], number > 1
    found = {
        "k, l, t": _seconds(all_three),
        "ordered t of numbers": _seconds(lambda: anonymity.distances(of, Sensitive(number, ordered=True))),
        "left out until it holds": _seconds(
            lambda: anonymity.left_out(of, [Sensitive(label)], Demand(k=60, l=22, t=0.35))
        ),
        "two cohorts compared": _seconds(lambda: disclosure_cohorts.difference(marks, marks[::2])),
        "table of 400 cells": _seconds(lambda: disclosure_tables.shown(generator.poisson(12, (20, 20)), 11)),
        "tensor digest, 20 MB": _seconds(lambda: lineage.tensor_digest(features, names, number, held_out)),
    }
    found |= dict(zip(("k", "l", "t"), map(float, all_three()), strict=True))
    if _PEER.exists():
        command = [str(_PEER), "-c", _INSIDE, str(_RECORDS)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        found |= {f"pycanon {name}": span for name, span in json.loads(done.stdout).items()}
    return found


def _seconds(run: Callable[[], object]) -> float:
    spans = []
    for _ in range(5):
        started = time.perf_counter()
        run()
        spans.append(time.perf_counter() - started)
    return min(spans)


if __name__ == "__main__":
    for name, value in measured().items():
        print(f"{name:30} {value:.4f}")
