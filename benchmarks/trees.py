"""Boosted trees from sums over hospitals, beside XGBoost on the pooled records: ``python -m benchmarks.trees``.

Thresholds are quantiles, found by sums too, between bounds that anybody would call plausible. Rounds are driven here
without a network; that the same rounds under secure aggregation give the same trees is a test.
"""

import json
import subprocess
import sys
import tempfile
import time
from fractions import Fraction
from pathlib import Path

import msgspec
import numpy as np

from benchmarks.flamby import datasets
from wardround import analysis
from wardround.analysis import BoostedTrees, Quantiles, boosting
from wardround.training import metrics

TREES, DEPTH, RATE, LEAST = 50, 3, 0.1, 5
_XGBOOST = "xgboost-cpu==3.0.5"
_INSIDE = Path(__file__).parent / "peers" / "xgboost_inside.py"
BOUNDS = {
    "heart": {
        "age": (15, 100), "sex": (0, 1), "resting_pressure": (60, 250), "cholesterol": (0, 700), "high_sugar": (0, 1),
        "peak_heart_rate": (50, 250), "exercise_angina": (0, 1), "st_depression": (-5, 10), "chest_pain_2": (0, 1),
        "chest_pain_3": (0, 1), "chest_pain_4": (0, 1), "resting_ecg_1": (0, 1), "resting_ecg_2": (0, 1),
    },
    "physionet": {
        "Age": (15, 100), "Gender": (0, 1), "BUN": (0, 200), "Creatinine": (0, 25),
        "GCS": (3, 15), "Glucose": (0, 1000),
        "HCO3": (0, 60), "HCT": (0, 80), "HR": (0, 300), "K": (0, 25), "Lactate": (0, 35), "MAP": (0, 300),
        "NIMAP": (0, 300), "Na": (80, 200), "PaCO2": (0, 150), "PaO2": (0, 600), "Platelets": (0, 2500),
        "SysABP": (0, 300), "NISysABP": (0, 300), "Temp": (20, 45), "Urine": (0, 12000), "WBC": (0, 600), "pH": (6, 9),
        "FiO2": (0, 1), "MechVent": (0, 1),
    },
}  # fmt: skip


def main():
    """Print a table."""
    print("| records | rounds | ours: accuracy, AUC | XGBoost on pooled records | seconds |")
    print("|---|--:|--:|--:|--:|")
    for name in sys.argv[1:] or BOUNDS:
        federation = datasets.load(name)
        columns = [
            msgspec.structs.replace(column, minimum=float(low), maximum=float(high))
            for column in federation.contract.columns
            for low, high in [BOUNDS[name][column.name]]
        ]
        contract = msgspec.structs.replace(federation.contract, columns=tuple(columns))
        started = time.perf_counter()
        rounds, scores = ours(contract, federation.sites)
        seconds = time.perf_counter() - started
        whole = datasets.pooled(federation)
        labels = whole.labels[whole.held_out]
        shown = [_shown(labels, scores(whole.features[whole.held_out])), _shown(labels, peer(whole))]
        print(f"| {name} | {rounds} | {shown[0]} | {shown[1]} | {seconds:.1f} |", flush=True)


def ours(contract, sites):
    """How many rounds of sums it took, and the margins of the trees that came of them."""
    names = tuple(column.name for column in contract.columns)
    probabilities = tuple((place / 16) for place in range(1, 16))
    first, grid = _added((Quantiles(columns=names, probabilities=probabilities, rounds=3, bins=24),), contract, sites)
    found = analysis.results(*grid, contract, least_count=LEAST)[0]
    edges = tuple(
        tuple(sorted({one["value"] for one in column["quantiles"] if one["value"] is not None}))
        for column in found["columns"]
    )
    asked = BoostedTrees(columns=names, trees=TREES, depth=DEPTH, learning_rate=RATE, edges=edges, min_child_records=10)
    second, (_, (state,)) = _added((asked,), contract, sites)
    return first + second, lambda features: boosting.predict(asked, state, features, contract)


def _added(asked, contract, sites):
    analysis.check(asked, contract)
    known, rounds = analysis.states(asked, contract, b""), 0
    while not all(one.is_done for one in known):
        parts = [analysis.site_sums(asked, known, table, contract) for table in sites.values()]
        sums = [sum(map(Fraction, column)) for column in zip(*(part.tolist() for part in parts), strict=True)]
        known = analysis.advance(asked, known, sums, contract, least_count=LEAST)
        rounds += 1
    return rounds, (asked, known)


def peer(table):
    """XGBoost's margins of the held-out records, trained on the others, in an environment of its own."""
    python = _environment()
    with tempfile.TemporaryDirectory() as folder:
        np.savez(f"{folder}/in.npz", features=table.features, labels=table.labels, held_out=table.held_out)
        settings = json.dumps({"trees": TREES, "depth": DEPTH, "rate": RATE})
        subprocess.run([str(python), str(_INSIDE), folder, settings], check=True)
        return np.load(f"{folder}/out.npy")


def _environment(folder=Path(".cache/bench-xgboost")):
    python = folder / "bin" / "python"
    if not (folder / "ready").exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "-q", _XGBOOST], check=True)
        (folder / "ready").touch()
    return python.absolute()


def _shown(labels, margins):
    return f"{metrics.accuracy(labels, margins):.3f}, {metrics.auc(labels, margins):.3f}"


if __name__ == "__main__":
    main()
