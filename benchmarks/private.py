"""What privacy costs in accuracy, on real federations: ``python -m benchmarks.private [heart] [pneumonia]``.

The unit is a patient at one site: neighbours differ in one patient of one site, whose part is replaced by zeros, and
every epsilon is of the whole run, composed over all of its rounds. The noise is the least that fits a ledger which was
granted exactly this epsilon (`wardround.privacy.ledger`, Rényi costs); beside it stands the same run's epsilon by
privacy loss distributions.

    heart        Fed-Heart-Disease: four hospitals, logistic regression, scaled by public plausible bounds
    pneumonia    PneumoniaMNIST at five sites (Dirichlet 0.5), the built-in cnn; tested on its validation images

Two rows are without noise: the same work with gradients clipped and (almost) no noise, and plain FedAvg with the local
work of `benchmarks.flamby`.

    local        each site adds all of the noise to its own sum: nobody outside it need be trusted
    shared       each site adds a share of it under secure aggregation: the hub sees the noised sum of all sites
    central      the hub adds it, and must be trusted

Every round is one step. Rounds, learning rates and clipping norms in `WORK` were chosen by `benchmarks.private_choose`
on made-up records and public digits, so that choosing them spent nothing and saw no test record.
"""

import argparse
import dataclasses
import functools
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.flamby import datasets
from benchmarks.private_picture import curves
from wardround.clinical.contract import Column, DataContract, Label
from wardround.clinical.table import StudyTable
from wardround.errors import BudgetExceededError
from wardround.ids import RunId, StudyId
from wardround.privacy import calibration, ledger
from wardround.protocol import private
from wardround.protocol.plan import BuiltinModel, Limits, Optimizer, Privacy, SecureAggregation, Training
from wardround.sdk import planning
from wardround.sdk.predict import predict
from wardround.sdk.simulate import simulate
from wardround.sdk.study import Study, declare
from wardround.training import metrics

__all__ = ["NOISES", "TASKS", "Task", "Work", "heart_tables", "judged", "study_of", "trained"]

Noise = Literal["local", "shared", "central"]
NOISES: tuple[Noise, ...] = ("local", "shared", "central")
RESULTS = Path("benchmarks/results/private.json")
PICTURE = Path("docs/explanation/private-pneumonia.svg")
FLAMBY = 0.748
"""FLamby's published FedAvg on Fed-Heart-Disease, without privacy."""
_NEXT_TO_NOTHING = 1e-3
_BOUNDS = {
    "age": (20, 100),
    "resting_pressure": (80, 200),
    "cholesterol": (0, 600),
    "peak_heart_rate": (60, 210),
    "st_depression": (-3, 7),
}


@dataclass(frozen=True, slots=True)
class Work:
    """Rounds of one step each, its learning rate, the clipping norm and the share of patients in a step."""

    rounds: int
    rate: float
    clip: float
    sampling: float = 1.0


@dataclass(frozen=True)
class Task:
    """A federation with what its study asks; `keys` says how many runs, each with another noise key, of each row."""

    name: str
    contract: DataContract
    model: BuiltinModel
    delta: float
    epsilons: tuple[float, ...]
    keys: dict[str, int]
    plain: Training
    tables: Callable[[], dict]


def main():
    """Run the named tasks, or both; print their tables, write the results and the picture."""
    options = argparse.ArgumentParser(prog="private", description=__doc__)
    options.add_argument("tasks", nargs="*", metavar="task", help=f"of {', '.join(TASKS)}; both without it")
    options.add_argument("--markdown", action="store_true", help="print the tables as Markdown")
    chosen = options.parse_args()
    if unknown := set(chosen.tasks) - set(TASKS):
        options.error(f"no such task: {', '.join(sorted(unknown))}")
    import torch

    torch.set_num_threads(1)
    for name in chosen.tasks or TASKS:
        found = measure(TASKS[name])
        results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
        RESULTS.write_text(json.dumps(results | {name: found}, indent=1) + "\n")
        show(f"{name}, delta {TASKS[name].delta:g}, {found['seconds']:.0f} s", *table(found), markdown=chosen.markdown)
        if name == "pneumonia":
            PICTURE.write_text(curves(found))


def measure(task):
    """Every kind of noise at every epsilon, and the same work without."""
    started, cells = time.perf_counter(), []
    sites = task.tables()
    for epsilon in task.epsilons:
        for noise in NOISES:
            work = WORK[task.name][_kind(noise), epsilon]
            cell = _promise(study_of(task, sites, work, noise, epsilon).plan, epsilon)
            cell |= {"noise": noise, "target": epsilon, "work": dataclasses.asdict(work)}
            cells.append(cell | _repeated(task, sites, work, noise, epsilon, task.keys[noise]))
    cell = {"noise": "none", "target": None, "work": None}
    cells.append(cell | _repeated(task, sites, None, None, None, task.keys["plain"]))
    for work in sorted(set(WORK[task.name].values()), key=dataclasses.astuple):
        cell = {"noise": "none, clipped", "target": None, "work": dataclasses.asdict(work)}
        cells.append(cell | _repeated(task, sites, work, None, None, task.keys["clipped"]))
    return {"cells": cells, "patients": _counts(sites), "seconds": time.perf_counter() - started}


def study_of(task, sites, work: Work | None, noise: Noise | None, epsilon: float | None, seed=0) -> Study:
    """The study with the least noise that fits a grant of exactly `epsilon`.

    `sites` are participants' names, or a mapping of them. Without `noise` it is too little to matter; without `work`
    there is no privacy at all.
    """
    privacy, training = None, task.plain
    if work is not None:
        multiplier = _multiplier(work.rounds, work.sampling, epsilon, task.delta) if noise else _NEXT_TO_NOTHING
        privacy = Privacy(
            delta=task.delta,
            noise=noise or "local",
            noise_multiplier=multiplier,
            clip=work.clip,
            sampling_rate=work.sampling,
        )
        training = Training(rounds=work.rounds, epochs=0, steps=1, optimizer=Optimizer(learning_rate=work.rate))
    return declare(
        title=f"{task.name}: {noise or 'no'} noise",
        purpose="a benchmark",
        legal_basis="public records",
        researcher="ada",
        participants=tuple(sites),
        min_participants=len(sites),
        data=task.contract,
        model=task.model,
        training=training,
        secure=SecureAggregation(roster="0" * 64) if noise == "shared" else None,
        privacy=privacy,
        limits=Limits(max_records=5000),
        expires=4_000_000_000,
        seed=seed,
    )


def trained(study, sites, key: int):
    """The run whose noise follows from `key`.

    Raises:
        RuntimeError: A site took no part.
    """
    done = simulate(study, sites, noise_key=key.to_bytes(32, "big"))
    if done.declined or done.status.phase != "completed":
        raise RuntimeError(f"the run did not complete: {done.status.phase}, {done.declined}")
    return done


def judged(study, done, table):
    """Accuracy and AUC on one table's held-out records."""
    scores = predict(study.plan, done.model, done.standardization, table.features[table.held_out])
    found = metrics.evaluate("binary", table.labels[table.held_out], scores)
    return {name: found[name] for name in ("accuracy", "auc")}


def heart_tables():
    """The four hospitals; values outside the bounds count as missing, as in a node."""
    tables = {}
    for name, table in datasets.load("heart").sites.items():
        features = table.features.copy()
        for place, column in enumerate(_heart_contract().columns):
            if column.kind == "number":
                outside = (features[:, place] < column.minimum) | (features[:, place] > column.maximum)
                features[outside, place] = np.nan
        tables[name] = dataclasses.replace(table, features=features)
    return tables


def _heart_contract():
    columns = [
        Column(name=column.name, minimum=_BOUNDS[column.name][0], maximum=_BOUNDS[column.name][1], missing="mean")
        if column.name in _BOUNDS
        else Column(name=column.name, kind="boolean")
        for column in datasets.load("heart").contract.columns
    ]
    return DataContract(columns=tuple(columns), label=Label(name="disease"), scaling="bounds", min_records=1)


def _pneumonia_contract():
    columns = tuple(Column(name=f"x{place}") for place in range(784))
    return DataContract(columns=columns, label=Label(name="pneumonia"), scaling="none", min_records=1)


@functools.cache
def _multiplier(rounds, sampling, epsilon, delta):
    """Of a plan with these rounds of one step each: all that its cost hangs on."""
    sites = ("a", "b", "c")
    plan = declare(
        title="noise",
        purpose="a benchmark",
        legal_basis="none",
        researcher="ada",
        participants=sites,
        min_participants=len(sites),
        data=DataContract(columns=(Column(name="x"),), label=Label(name="y"), scaling="none", min_records=1),
        model=BuiltinModel(name="logistic"),
        training=Training(rounds=rounds, epochs=0, steps=1),
        privacy=Privacy(delta=delta, noise_multiplier=1.0, sampling_rate=sampling),
        expires=4_000_000_000,
    ).plan

    def at(noise):
        changed = msgspec.structs.replace(plan.privacy, noise_multiplier=noise)
        return private.composed(msgspec.structs.replace(plan, privacy=changed))

    return calibration.noise_within_grant(at, epsilon, delta)


def _promise(plan, epsilon):
    """The plan's figures; a ledger that was granted `epsilon` takes it once, and not twice."""
    found = planning.figures(plan)
    budget = ledger.opened("benchmark")
    granted = ledger.grant(budget, 0.0, epsilon=epsilon, delta=plan.privacy.delta, person="a steward", reason="this")
    budget = ledger.apply(budget, granted)
    asked = {"study": StudyId("0" * 64), "uses": private.uses(plan), "relation": "add-or-remove"}
    budget = ledger.apply(budget, ledger.reserve(budget, 0.0, run=RunId("first"), **asked))
    try:
        ledger.reserve(budget, 0.0, run=RunId("second"), **asked)
    except BudgetExceededError:
        return {
            "multiplier": plan.privacy.noise_multiplier,
            "epsilon": found.epsilon,
            "tight_epsilon": found.tight_epsilon,
            "relation": found.relation,
            "sampling": found.sampling or "all patients take part in every step",
        }
    raise AssertionError("a ledger took the same plan twice")


def _repeated(task, sites, work, noise, epsilon, count):
    whole = _together(sites)
    lists = {"accuracy": [], "auc": []}
    for key in range(1, count + 1):
        study = study_of(task, sites, work, noise, epsilon, seed=key)
        for metric, value in judged(study, trained(study, sites, key), whole).items():
            lists[metric].append(value)
    return lists


def _together(sites):
    tables = list(sites.values())
    parts = {part: np.concatenate([getattr(table, part) for table in tables]) for part in datasets._PARTS}
    return StudyTable(**parts, report=tables[0].report)


def _counts(sites):
    return {name: [int((~table.held_out).sum()), int(table.held_out.sum())] for name, table in sites.items()}


def _kind(noise):
    return "local" if noise == "local" else "together"


def table(found):
    """Header and rows of texts."""
    header = ["epsilon", "noise", "multiplier", "by Rényi", "by PLD", "rounds", "sampled", "rate", "clip", "runs"]
    header += ["accuracy", "least", "AUC"]
    rows = []
    for cell in found["cells"]:
        promise, done = [""] * 3, [""] * 4
        if cell["target"]:
            promise = [f"{cell[name]:.4g}" for name in ("multiplier", "epsilon", "tight_epsilon")]
        if cell["work"]:
            done = [f"{cell['work'][name]:g}" for name in ("rounds", "sampling", "rate", "clip")]
        target = f"{cell['target']:g}" if cell["target"] else "∞"
        runs, least = str(len(cell["accuracy"])), f"{min(cell['accuracy']):.3f}"
        scores = [_spread(cell["accuracy"]), least, _spread(cell["auc"])]
        rows.append([target, cell["noise"], *promise, *done, runs, *scores])
    return header, rows


def show(title: str, header: Sequence[str], rows: Sequence[Sequence[str]], *, markdown: bool):
    """Print one table."""
    if markdown:
        print(f"{title}\n\n| " + " | ".join(header) + " |\n|--:|---" + "|--:" * (len(header) - 2) + "|")
        print("\n".join("| " + " | ".join(row) + " |" for row in rows) + "\n")
        return
    drawn = Table(*header, title=title)
    for row in rows:
        drawn.add_row(*row)
    Console(width=160).print(drawn)


def _spread(values):
    return f"{np.mean(values):.3f} ± {np.std(values, ddof=1):.3f}" if len(values) > 1 else f"{values[0]:.3f}"


TASKS = {
    "heart": Task(
        "heart",
        _heart_contract(),
        BuiltinModel(name="logistic"),
        1e-3,
        (1.0, 3.0, 8.0),
        {"local": 50, "shared": 20, "central": 50, "plain": 5, "clipped": 1},
        Training(rounds=15, epochs=0, steps=100, batch_size=4, optimizer=Optimizer(learning_rate=0.01)),
        heart_tables,
    ),
    "pneumonia": Task(
        "pneumonia",
        _pneumonia_contract(),
        BuiltinModel(name="cnn"),
        1e-5,
        (1.0, 2.0, 4.0, 8.0),
        {"local": 3, "shared": 1, "central": 2, "plain": 2, "clipped": 1},
        Training(rounds=20, epochs=1, batch_size=32, optimizer=Optimizer(learning_rate=0.03)),
        lambda: datasets.load("pneumonia").sites,
    ),
}
WORK: dict[str, dict[tuple[str, float], Work]] = {
    "heart": {(kind, epsilon): Work(20, 2.0, 1.0) for kind in ("local", "together") for epsilon in (1.0, 3.0, 8.0)},
    "pneumonia": {
        **{("local", epsilon): Work(200, 3.0, 0.1, 0.1) for epsilon in (1.0, 2.0)},
        **{("local", epsilon): Work(200, 10.0, 0.1, 0.1) for epsilon in (4.0, 8.0)},
        **{("together", epsilon): Work(200, 10.0, 0.1, 0.1) for epsilon in (1.0, 2.0, 4.0, 8.0)},
    },
}
"""Chosen by `benchmarks.private_choose`, for local noise and for noise that is added once for all sites together.

Of PneumoniaMNIST at epsilon 1 and 4; 2 and 8 have the settings of these.
"""


if __name__ == "__main__":
    main()
