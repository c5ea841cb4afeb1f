"""How `strategies.SETTINGS` were chosen: cross-validation inside the training records, without a test record.

``python -m benchmarks.flamby.choose dataset [strategy ...]`` tries the strategies' grids. Each site's training records
are dealt to five folds; a setting is scored by the mean over folds of the metric on all sites' fifth fold at once. The
four best go on to four more deals, and the best by the mean of all five deals is chosen.
"""

import argparse
import dataclasses
import hashlib
import itertools

import numpy as np

from benchmarks.flamby import datasets
from benchmarks.flamby.strategies import POOLED, SITES, Strategy, run
from wardround.clinical.table import StudyTable
from wardround.protocol.plan import Optimizer, ServerRule, Training

FOLDS, DEALS, FINALISTS = 5, 5, 4
HEART = {"steps": (100,), "batch": (4,), "rounds": (15,)}
TCGA = {"steps": (100,), "batch": (8,), "rounds": (5,)}
ADAPTIVE = {"rate": (0.003, 0.01, 0.03, 0.1), "server": (0.03, 0.1, 0.3)}
ALONE = {"optimizer": ("adam",), "rounds": (1,), "rate": (0.0003, 0.001, 0.003, 0.01, 0.03)}


def _grids(base, alone):
    rates = {"rate": (0.003, 0.01, 0.03, 0.1, 0.3)}
    return {
        "FedAvg": base | rates,
        "FedAvgM": base | {"rule": ("fedavgm",), "server": (0.1, 0.3, 1.0)} | rates,
        "FedAdagrad": base | {"rule": ("fedadagrad",)} | ADAPTIVE,
        "FedAdam": base | {"rule": ("fedadam",)} | ADAPTIVE,
        "FedYogi": base | {"rule": ("fedyogi",)} | ADAPTIVE,
        "Pooled": {"scope": ("pooled",)} | ALONE | alone,
        "Local only": {"scope": ("local",)} | ALONE | alone,
    }


GRIDS = {
    "heart": _grids(HEART, {"epochs": (50,), "batch": (4,)}),
    "tcga": _grids(TCGA, {"epochs": (30,), "batch": (8,)}),
}
"""Work and batches are FLamby's; what is chosen are the learning rates."""


def main():
    """Print the settings of the chosen grids, best first."""
    options = argparse.ArgumentParser(prog="choose", description=__doc__)
    options.add_argument("dataset", choices=list(GRIDS))
    options.add_argument("strategies", nargs="*")
    chosen = options.parse_args()
    federation = datasets.load(chosen.dataset)
    for name in chosen.strategies or GRIDS[chosen.dataset]:
        grid = GRIDS[chosen.dataset][name]
        settings = [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
        scores = [scored(federation, name, setting, range(1)) for setting in settings]
        best = sorted(range(len(settings)), key=lambda place: -np.mean(scores[place]))[:FINALISTS]
        for place in best:
            scores[place] += scored(federation, name, settings[place], range(1, DEALS))
        for place in sorted(best, key=lambda place: -np.mean(scores[place])):
            print(f"{name:11} {np.mean(scores[place]):.4f}  {settings[place]}", flush=True)


def scored(federation, name, setting, deals):
    """The metric in each fold of each deal."""
    setting = dict(setting)
    scope = setting.pop("scope", "federated")
    strategy = Strategy(name, training(**setting), scope)
    test = SITES if scope == "local" else POOLED  # a local model is for its own site
    folds = [folded(federation, fold, deal) for deal in deals for fold in range(FOLDS)]
    return [run(fold, strategy, 0)[name][test] for fold in folds]


def folded(federation, fold, deal=0):
    """The federation of training records only, with one fold of them held out."""
    sites = {name: _folded(name, table, fold, deal) for name, table in federation.sites.items()}
    return dataclasses.replace(federation, sites=sites, whole=None)


def _folded(name, table, fold, deal):
    kept = ~table.held_out
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big")
    folds = np.random.default_rng(seed + deal).permutation(np.count_nonzero(kept)) % FOLDS
    return StudyTable(table.features[kept], table.labels[kept], folds == fold, table.report)


def training(
    *, rule="fedavg", server=1.0, optimizer="sgd", rate=0.1, steps=0, epochs=0, batch=16, rounds=20, decay=0.0, tau=1e-3
):
    """The plan's training of one setting."""
    return Training(
        rounds=rounds,
        steps=steps,
        epochs=epochs,
        batch_size=batch,
        optimizer=Optimizer(name=optimizer, learning_rate=rate, weight_decay=decay),
        server=ServerRule(name=rule, learning_rate=server, tau=tau),
    )


if __name__ == "__main__":
    main()
