"""Runs inside a peer's environment: times its rules on random updates, and prints seconds as JSON."""

import json
import sys
import time

import numpy as np


def flower(count, width, hostile):
    """Flower's strategies' own functions, as they call them: on lists of arrays."""
    from flwr.server.strategy import aggregate

    generator = np.random.default_rng(1)
    results = [([generator.standard_normal(width, dtype=np.float32)], 100) for _ in range(count)]
    return {
        "median": lambda: aggregate.aggregate_median(results),
        "trimmed-mean": lambda: aggregate.aggregate_trimmed_avg(results, hostile / count),
        "krum": lambda: aggregate.aggregate_krum(results, hostile, 0),
        "multi-krum": lambda: aggregate.aggregate_krum(results, hostile, count - hostile),
    }


def byzfl(count, width, hostile):
    """ByzFL's aggregators, on a torch matrix, which is faster than on a numpy one."""
    import torch
    from byzfl import CenteredClipping, GeometricMedian, Krum, Median, MultiKrum, TrMean

    torch.set_num_threads(2)
    matrix = torch.from_numpy(np.random.default_rng(1).standard_normal((count, width), dtype=np.float32))
    made = {
        "median": Median(),
        "trimmed-mean": TrMean(f=hostile),
        "krum": Krum(f=hostile),
        "multi-krum": MultiKrum(f=hostile),
        "geometric-median": GeometricMedian(),
        "centred-clipping": CenteredClipping(),
    }
    return {name: lambda rule=rule: rule(matrix) for name, rule in made.items()}


def main():
    """Two runs of each, of which the better counts."""
    peer, count, width, hostile = sys.argv[1], *map(int, sys.argv[2:])
    found = {}
    for name, call in {"flower": flower, "byzfl": byzfl}[peer](count, width, hostile).items():
        times = []
        for _ in range(2):
            started = time.perf_counter()
            call()
            times.append(time.perf_counter() - started)
        found[name] = min(times)
    print(json.dumps(found))


main()
