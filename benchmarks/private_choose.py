"""How `private.WORK` was chosen, without a record of the studies: ``python -m benchmarks.private_choose TASK``.

Tuning on a study's own records would cost budget, however they are split. So the grids are tried on stand-ins that have
the same contract, as many training records at each site (how many there are is no secret), and the same noise:

    heart        synthetic twins (`wardround.sdk.twins`), a new teacher for each; tested on 4,000 further records
    pneumonia    handwritten digits (UCI, by scikit-learn), enlarged to 28 x 28 and moved at random: one with a loop
                 (0, 6, 8, 9), or of strokes (1, 4, 7)? Each site has a share of the first that is drawn anew

All settings are tried on a few stand-ins, the best few on more of them, and the best is chosen by the mean of accuracy
and AUC. Noise for "together" is added once for all sites, as the hub does; shared noise has the same distribution.
"""

import argparse
import itertools

import numpy as np

from benchmarks import private
from benchmarks.private import TASKS, Work
from wardround.clinical.table import LoadReport, StudyTable
from wardround.sdk import twins

GRIDS = {
    "heart": {"rounds": (5, 10, 20), "rate": (0.25, 0.5, 1.0, 2.0), "clip": (0.25, 1.0)},
    "pneumonia": {"rounds": (50, 100, 200), "rate": (1.0, 3.0, 10.0), "clip": (0.1,), "sampling": (0.1,)},
}
FIRST = {"heart": 4, "pneumonia": 1}
FINALISTS = {"heart": 5, "pneumonia": 3}
MORE = {"heart": 12, "pneumonia": 2}
_TESTED, _DIGITS_TESTED = 4000, 1000


def main():
    """Print the settings, best first."""
    options = argparse.ArgumentParser(prog="private_choose", description=__doc__)
    options.add_argument("task", choices=list(TASKS))
    options.add_argument("epsilons", nargs="*", type=float)
    options.add_argument("--noise", choices=["local", "together"], action="append")
    chosen = options.parse_args()
    import torch

    torch.set_num_threads(1)
    task = TASKS[chosen.task]
    sizes = task.tables()
    grid = GRIDS[task.name]
    works = [Work(**dict(zip(grid, values, strict=True))) for values in itertools.product(*grid.values())]
    for epsilon, noise in itertools.product(chosen.epsilons or task.epsilons, chosen.noise or ("local", "together")):
        first, more = FIRST[task.name], MORE[task.name]
        scores = {work: [scored(task, sizes, work, noise, epsilon, deal) for deal in range(first)] for work in works}
        best = sorted(works, key=lambda work: -np.mean(scores[work]))[: FINALISTS[task.name]]
        for work in best:
            scores[work] += [scored(task, sizes, work, noise, epsilon, deal) for deal in range(first, first + more)]
        for work in sorted(best, key=lambda work: -np.mean(scores[work])):
            values = scores[work]
            error = np.std(values, ddof=1) / len(values) ** 0.5
            print(f"{noise:8} {epsilon:g}  {np.mean(values):.4f} ± {error:.4f}  {work}", flush=True)


def scored(task, sizes, work, noise, epsilon, deal):
    """The mean of accuracy and AUC on one stand-in, by its number."""
    kind = "local" if noise == "local" else "central"
    study = private.study_of(task, sizes, work, kind, epsilon, seed=deal)
    tables, test = STAND_INS[task.name](study.plan, sizes, deal)
    found = private.judged(study, private.trained(study, tables, deal + 1), test)
    return (found["accuracy"] + found["auc"]) / 2


def _twins(plan, sizes, deal):
    tables = {}
    for name, table in sizes.items():
        count = int(np.count_nonzero(~table.held_out))
        made = twins.twins(plan, count, 1000 + deal)[name]
        tables[name] = StudyTable(made.features, made.labels, np.zeros(count, bool), made.report, made.patients)
    test = twins.fresh(plan, _TESTED, 1000 + deal)
    return tables, StudyTable(test.features, test.labels, np.ones(_TESTED, bool), test.report, test.patients)


def _digits(plan, sizes, deal):
    """Three quarters of the digits train, the others test; each site has pneumonia's number of records."""
    del plan
    from sklearn.datasets import load_digits

    found, generator = load_digits(), np.random.default_rng(deal)
    images, has_loop = found.images.astype("f4") / 16 - 0.5, np.isin(found.target, (0, 6, 8, 9))
    order = generator.permutation(np.flatnonzero(has_loop | np.isin(found.target, (1, 4, 7))))
    parts = {"train": order[: len(order) * 3 // 4], "test": order[len(order) * 3 // 4 :]}

    def drawn(part, negatives, positives):
        chosen = [
            generator.choice(parts[part][has_loop[parts[part]] == value], count)
            for value, count in ((False, negatives), (True, positives))
        ]
        picked = np.concatenate(chosen)
        canvas = np.full((len(picked), 28, 28), -0.5, "f4")
        for row, place in enumerate(picked):
            down, right = generator.integers(0, 5, 2)
            canvas[row, down : down + 24, right : right + 24] = np.kron(images[place], np.ones((3, 3), "f4"))
        labels = np.repeat(np.array([0.0, 1.0], "f4"), [negatives, positives])
        held_out = np.full(len(labels), part == "test")
        return StudyTable(canvas.reshape(-1, 784), labels, held_out, LoadReport(len(labels), len(labels), 0))

    counts = {}
    for name, table in sizes.items():
        records = int(np.count_nonzero(~table.held_out))
        positives = round(records * generator.random())  # the real sites' classes are no public knowledge
        counts[name] = (records - positives, positives)
    tested = np.array(list(counts.values())).sum(axis=0) * _DIGITS_TESTED // sum(map(sum, counts.values()))
    return {name: drawn("train", *each) for name, each in counts.items()}, drawn("test", *tested)


STAND_INS = {"heart": _twins, "pneumonia": _digits}


if __name__ == "__main__":
    main()
