"""How `strategies.SETTINGS` were chosen: cross-validation inside the training records, without a test record.

``python -m benchmarks.flamby.choose dataset [strategy ...]`` tries the strategies' grids. Each site's training records
are dealt to five folds; a setting is scored by the mean over folds of the metric on all sites' fifth fold at once.
"""

import argparse
import dataclasses
import hashlib
import itertools

import numpy as np

from benchmarks.flamby import datasets
from benchmarks.flamby.strategies import POOLED, Strategy, run
from wardround.clinical.table import StudyTable
from wardround.protocol.plan import Optimizer, ServerRule, Training

FOLDS = 5
GRIDS: dict[str, dict[str, tuple]] = {}


def main():
    """Print the settings of the chosen grids, best first."""
    options = argparse.ArgumentParser(prog="choose", description=__doc__)
    options.add_argument("dataset", choices=list(GRIDS))
    options.add_argument("strategies", nargs="*")
    chosen = options.parse_args()
    federation = datasets.load(chosen.dataset)
    folds = [folded(federation, fold) for fold in range(FOLDS)]
    for name in chosen.strategies or GRIDS[chosen.dataset]:
        grid = GRIDS[chosen.dataset][name]
        scores = {}
        for values in itertools.product(*grid.values()):
            setting = dict(zip(grid, values, strict=True))
            strategy = Strategy(name, training(**setting))
            scores[str(setting)] = [run(fold, strategy, 0)[name][POOLED] for fold in folds]
        for setting, found in sorted(scores.items(), key=lambda item: -np.mean(item[1])):
            print(f"{name:11} {np.mean(found):.4f} ± {np.std(found) / FOLDS**0.5:.4f}  {setting}", flush=True)


def folded(federation, fold):
    """The federation of training records only, with one fold of them held out."""
    sites = {name: _folded(name, table, fold) for name, table in federation.sites.items()}
    return dataclasses.replace(federation, sites=sites, whole=None)


def _folded(name, table, fold):
    kept = ~table.held_out
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big")
    folds = np.random.default_rng(seed).permutation(np.count_nonzero(kept)) % FOLDS
    return StudyTable(table.features[kept], table.labels[kept], folds == fold, table.report)


def training(*, rule="fedavg", server=1.0, tau=1e-3, rate=0.1, steps=0, epochs=0, batch=16, rounds=20, decay=0.0):
    """The plan's training of one setting."""
    return Training(
        rounds=rounds,
        steps=steps,
        epochs=epochs,
        batch_size=batch,
        optimizer=Optimizer(name="sgd", learning_rate=rate, weight_decay=decay),
        server=ServerRule(name=rule, learning_rate=server, beta1=0.9, beta2=0.99, tau=tau),
    )


if __name__ == "__main__":
    main()
