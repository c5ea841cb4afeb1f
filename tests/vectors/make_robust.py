"""Writes robust.json: what ByzFL 0.0.11 makes of the same updates. Run in an environment that has ByzFL.

    python tests/vectors/make_robust.py > tests/vectors/robust.json

The definitions coincide for: median, trimmed mean, Krum, multi-Krum (the n - f best, equal weights), the geometric
median (its exact point: ByzFL's smoothing is made small and its iterations many), nearest-neighbour mixing.
ByzFL's centred clipping starts from zero, ours from the medoid, so it is not here.
"""

import json

import numpy as np
from byzfl import NNM, GeometricMedian, Krum, Median, MultiKrum, TrMean

CASES = ((5, 1, 6), (11, 2, 8), (20, 4, 5))


def main():
    """One case per number of updates and of hostile ones."""
    cases = []
    for count, hostile, width in CASES:
        generator = np.random.default_rng(count)  # noqa: TID251, seeded
        rows = (generator.standard_normal((count, width)) + 1).astype(np.float32)
        rows[:hostile] = -5 * rows[:hostile]
        wide = rows.astype(np.float64)
        made = {
            "median": Median()(wide),
            "trimmed-mean": TrMean(f=hostile)(wide),
            "krum": Krum(f=hostile)(wide),
            "multi-krum": MultiKrum(f=hostile)(wide),
            "geometric-median": GeometricMedian(nu=1e-12, T=2000)(wide),
            "nearest-neighbours trimmed-mean": TrMean(f=hostile)(NNM(f=hostile)(wide)),
        }
        expected = {name: np.asarray(vector, np.float64).tolist() for name, vector in made.items()}
        cases.append({"hostile": hostile, "updates": rows.tolist(), "expected": expected})
    print(json.dumps({"made_by": "byzfl 0.0.11", "cases": cases}, indent=1))


main()
