"""A strategy is a record: what it trains, on whose records, from which start. `SETTINGS` has those of each data set.

FLamby's federated strategies make 100 local steps of plain SGD in each round, of batches of 4 (heart) or 8 records
(TCGA-BRCA), in as many rounds as the pooled training has epochs, divided among the sites: 15 and 5. Pooled and local
training are 50 and 30 epochs of Adam. All of this is the same here; this differs:

    order     FLamby goes on through a site's records over the rounds; here each round begins a new pass
    Adam      FLamby makes a local optimizer once for a run, here it is new in each round; a pooled or local training
              is one round, and its federated strategies use SGD without momentum, so that neither shows here
    v         the server's second moment starts at tau**2 (Reddi et al.), in FLamby at 0; tau is 1e-8 there
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import msgspec
import numpy as np

from benchmarks.flamby import datasets
from wardround.aggregation import standardization
from wardround.codec import canonical, tensors
from wardround.protocol import plan as plans
from wardround.protocol.plan import BlobRef, Local, Optimizer, ServerRule, Training
from wardround.sdk.simulate import simulate
from wardround.sdk.study import Study, declare
from wardround.training import metrics, models

__all__ = ["POOLED", "SETTINGS", "SITES", "Strategy", "run"]

POOLED, SITES = "pooled test", "sites"
"""Names of the two overall results: on all test records at once, and the sites' own, weighted by records."""


@dataclass(frozen=True, slots=True)
class Strategy:
    """One row of a table.

    `scope`: "federated" trains one model at all sites, "pooled" one on all records in one place, "local" one at each
    site for itself. `start`: "study" is what the study draws (zeros, of a linear model), "flamby" what FLamby draws
    from the seed. `published` is its name in FLamby's tables.
    """

    name: str
    training: Training
    scope: Literal["federated", "pooled", "local"] = "federated"
    start: Literal["study", "flamby"] = "study"
    published: str = ""


def run(federation, strategy, seed):
    """Rows of results by name: each a metric, or None, of the pooled test, of the sites together, and of each site.

    A local strategy gives a row for each site's model, "Local 0" and so on as FLamby, and one in which every site is
    judged by its own model; that has no pooled test.
    """
    if strategy.scope == "local":
        found = [_trained(federation, strategy, {name: table}, seed) for name, table in federation.sites.items()]
        rows = {f"Local {place}": _judged(federation, [model] * len(found)) for place, model in enumerate(found)}
        own = _judged(federation, found)
        return {strategy.name: own | {POOLED: None}, **rows}
    tables = federation.sites if strategy.scope == "federated" else {"whole": datasets.pooled(federation)}
    done = _simulated(federation, strategy, tables, seed)
    if strategy.training.local.is_personal:
        own = [_scorer(federation, done, done.personal[name]) for name in federation.sites]
        return {strategy.name: _judged(federation, own) | {POOLED: None}}
    return {strategy.name: _judged(federation, [_scorer(federation, done)] * len(federation.sites))}


def _trained(federation, strategy, tables: Mapping, seed):
    """The trained model, from features in the contract's units to scores."""
    return _scorer(federation, _simulated(federation, strategy, tables, seed))


def _simulated(federation, strategy, tables: Mapping, seed):
    study = declare(
        title=f"{federation.name}: {strategy.name}",
        purpose="a benchmark",
        legal_basis="public records",
        researcher="ada",
        participants=tuple(tables),
        min_participants=len(tables),
        data=federation.contract,
        model=federation.model,
        training=strategy.training,
        expires=4_000_000_000,
        seed=seed,
    )
    return simulate(_started(study, seed) if strategy.start == "flamby" else study, tables)


def _started(study, seed):
    """The study from the parameters that FLamby's ``torch.manual_seed(seed); nn.Linear(width, 1)`` gives."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        drawn = torch.nn.Linear(study.plan.manifest[0].shape[1], 1).state_dict()
    arrays = {spec.name: drawn[spec.name].numpy() for spec in study.plan.manifest}
    initial = tensors.pack(arrays, study.plan.manifest)
    plan = msgspec.structs.replace(study.plan, initial=BlobRef(canonical.digest(initial), len(initial)))
    return Study(plan, initial, study.package)


def _scorer(federation, done, arrays=None):
    """From features to scores, by the run's model or by other arrays in its place."""
    import torch

    module = models.build(federation.model, federation.contract)
    for name, tensor in models.arrays(module).items():
        tensor.data = torch.from_numpy(np.array((arrays or done.arrays())[name]))
    mean, std = np.zeros(1), np.ones(1)
    if done.standardization:
        mean, std = standardization.mean_and_std(
            tensors.unpack(done.standardization, plans.statistics_manifest(federation.contract))
        )
    scaled = federation.contract.scaling == "federated"

    def scores(features):
        rows = standardization.apply(features, mean, std) if scaled else standardization.impute(features, mean)
        with torch.no_grad():
            return module.eval()(torch.from_numpy(rows)).numpy()[:, 0]

    return scores


def _judged(federation, scorers):
    """Each site's test records judged by its scorer, all of them by the first."""
    tables = federation.sites
    found = {
        name: _metric(federation, table, scorer) for (name, table), scorer in zip(tables.items(), scorers, strict=True)
    }
    weighted = [(found[name], np.count_nonzero(tables[name].held_out)) for name in tables if found[name] is not None]
    values, counts = zip(*weighted, strict=True)
    overall = {POOLED: _metric(federation, datasets.pooled(federation), scorers[0])}
    return overall | {SITES: float(np.average(values, weights=counts))} | found


def _metric(federation, table, scorer):
    features, labels = table.features[table.held_out], table.labels[table.held_out]
    return metrics.evaluate(federation.contract.label.outcome, labels, scorer(features))[federation.metric]


def _federated(name, *, rule="", rate, work, server=1.0, flamby=False):
    """A federated strategy with plain SGD at the sites; without a `rule` the server's is the name in small letters."""
    second = {"beta2": 0.999, "tau": 1e-8} if flamby else {}  # FLamby's values; the paper's are .99 and .001
    training = Training(
        **work,
        optimizer=Optimizer(name="sgd", learning_rate=rate),
        server=ServerRule(name=rule or name.lower(), learning_rate=server, **second),
    )
    return Strategy(name, training, start="flamby" if flamby else "study", published=f"{name}100")


def _published(work, *, prox_rate, strength, scaffold_rate):
    """FLamby's FedProx and Scaffold."""
    prox = Training(
        **work, optimizer=Optimizer(learning_rate=prox_rate), local=Local(algorithm="fedprox", strength=strength)
    )
    scaffold = Training(**work, optimizer=Optimizer(learning_rate=scaffold_rate), local=Local(algorithm="scaffold"))
    return (
        Strategy("FedProx", prox, start="flamby", published="FedProx100"),
        Strategy("SCAFFOLD", scaffold, start="flamby", published="Scaffold100"),
    )


def _locals(work, *, rate, kept, epochs=2):
    """Every local algorithm on FedAvg's work and learning rate; nothing of it was tuned."""
    steps = work | ({"epochs": 0, "steps": work["steps"]} if work.get("steps") else {"epochs": 0, "steps": 10})
    plain = Optimizer(name="sgd", learning_rate=rate)
    algorithms = {
        "FedProx": (work, Local(algorithm="fedprox", strength=0.1)),
        "SCAFFOLD": (steps, Local(algorithm="scaffold")),
        "FedDyn": (work, Local(algorithm="feddyn", strength=0.1)),
        "FedNova": (work, Local(normalized_steps=work.get("steps") or 10)),
        "Ditto": (work, Local(personal=0.1)),
        "Fine-tuned": (work, Local(finetune_epochs=epochs)),
    }
    if kept:
        algorithms[f"Kept: {kept}"] = (work, Local(kept=(kept,)))
    published = {"SCAFFOLD": "Scaffold100"}
    return tuple(
        Strategy(name, Training(**chosen, optimizer=plain, local=local), published=published.get(name, f"{name}100"))
        for name, (chosen, local) in algorithms.items()
    )


def _baselines(*, epochs, batch, rate, local_rate=None, start="study"):
    """Pooled and local training with Adam: one round, so that it is one optimizer."""
    pooled, local = (
        Training(
            rounds=1, epochs=epochs, batch_size=batch, optimizer=Optimizer(name="adam", learning_rate=chosen)
        )
        for chosen in (rate, local_rate or rate)
    )  # fmt: skip
    return (
        Strategy("Pooled", pooled, "pooled", start, "Pooled Training"),
        Strategy("Local only", local, "local", start),
    )


def _plain(work, *, rate, server, alone, kept="bias"):
    """One plain setting of every rule, for data sets without a published table."""
    return (
        _federated("FedAvg", rate=rate, work=work),
        _federated("FedAvgM", rate=rate, server=0.3, work=work),
        _federated("FedAdagrad", rate=rate, server=server, work=work),
        _federated("FedAdam", rate=rate, server=server, work=work),
        _federated("FedYogi", rate=rate, server=server, work=work),
        *_locals(work, rate=rate, kept=kept, epochs=10),
        *_baselines(**alone),
    )


_HEART = {"rounds": 15, "epochs": 0, "steps": 100, "batch_size": 4}
_TCGA = {"rounds": 5, "epochs": 0, "steps": 100, "batch_size": 8}
"""FLamby's work: rounds, and the batches of each."""
_EPOCHS = {"rounds": 20, "epochs": 1, "batch_size": 32}

SETTINGS: dict[str, tuple[Strategy, ...]] = {
    # FLamby's own settings, from the columns of its tables. FLamby chose them by the results on its test records.
    "heart-flamby": (
        _federated("FedAvg", rate=0.001, work=_HEART, flamby=True),
        _federated("FedAdagrad", rate=0.003162, server=0.316228, work=_HEART, flamby=True),
        _federated("FedAdam", rate=0.01, server=0.01, work=_HEART, flamby=True),
        _federated("FedYogi", rate=0.003162, server=0.01, work=_HEART, flamby=True),
        *_published(_HEART, prox_rate=0.001, strength=0.01, scaffold_rate=0.001),
        *_baselines(epochs=50, batch=4, rate=0.001, start="flamby"),
    ),
    "tcga-flamby": (
        _federated("FedAvg", rate=0.1, work=_TCGA, flamby=True),
        _federated("FedAdagrad", rate=0.01, server=1.0, work=_TCGA, flamby=True),
        _federated("FedAdam", rate=0.01, server=0.1, work=_TCGA, flamby=True),
        _federated("FedYogi", rate=0.01, server=0.1, work=_TCGA, flamby=True),
        *_published(_TCGA, prox_rate=0.1, strength=0.1, scaffold_rate=0.01),
        *_baselines(epochs=30, batch=8, rate=0.1, start="flamby"),
    ),
    # FLamby's work and batches; learning rates are the best of cross-validation inside the training records, five
    # deals of five folds (`benchmarks.flamby.choose`), of pooled and local training the best of one deal. No test
    # record had a part in it. The best few differ by less than the folds' standard error, about .01 and .02.
    "heart": (
        _federated("FedAvg", rate=0.01, work=_HEART),
        _federated("FedAvgM", rate=0.01, server=0.3, work=_HEART),
        _federated("FedAdagrad", rate=0.003, server=0.1, work=_HEART),
        _federated("FedAdam", rate=0.003, server=0.03, work=_HEART),
        _federated("FedYogi", rate=0.003, server=0.03, work=_HEART),
        *_locals(_HEART, rate=0.01, kept="bias", epochs=10),
        *_baselines(epochs=50, batch=4, rate=0.003, local_rate=0.0003),
    ),
    "tcga": (
        _federated("FedAvg", rate=0.1, work=_TCGA),
        _federated("FedAvgM", rate=0.03, server=1.0, work=_TCGA),
        _federated("FedAdagrad", rate=0.003, server=0.3, work=_TCGA),
        _federated("FedAdam", rate=0.1, server=0.1, work=_TCGA),
        _federated("FedYogi", rate=0.1, server=0.1, work=_TCGA),
        *_locals(_TCGA, rate=0.1, kept=""),
        *_baselines(epochs=30, batch=8, rate=0.001, local_rate=0.003),
    ),
    # Nothing was chosen here: 20 rounds of one epoch, and the same two learning rates for all.
    "lung": _plain(_EPOCHS, rate=0.03, server=0.03, kept="", alone={"epochs": 20, "batch": 32, "rate": 0.01}),
    "eicu": _plain(_EPOCHS, rate=0.03, server=0.03, alone={"epochs": 20, "batch": 32, "rate": 0.003}),
    "physionet": _plain(_EPOCHS, rate=0.03, server=0.03, alone={"epochs": 20, "batch": 32, "rate": 0.003}),
    "pneumonia": _plain(_EPOCHS, rate=0.03, server=0.01, kept="2.*", alone={"epochs": 20, "batch": 32, "rate": 0.001}),
}
