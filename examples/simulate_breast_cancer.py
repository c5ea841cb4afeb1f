"""Four hospitals train together in one process, on the 569 Wisconsin biopsies that come with scikit-learn.

    python examples/simulate_breast_cancer.py

The hospitals get unequal shares, and one of them sees mostly malignant lumps.
The same study, submitted to a hub, would run over real nodes and give the same model.
"""

import time

import numpy as np
from sklearn.datasets import load_breast_cancer

import wardround

NAMES = ("mean radius", "mean texture", "mean smoothness", "mean concavity", "worst symmetry")
SHARES = {"north": (0.4, 0.1), "south": (0.3, 0.2), "east": (0.25, 0.2), "west": (0.05, 0.5)}
"""Of the benign and of the malignant biopsies."""


def deal() -> dict[str, wardround.StudyTable]:
    """Each hospital's biopsies as a study table; every fourth is held out."""
    data = load_breast_cancer()
    features = data.data[:, [list(data.feature_names).index(name) for name in NAMES]].astype(np.float32)
    malignant = (1 - data.target).astype(np.float32)
    chosen: dict[str, list[np.ndarray]] = {name: [] for name in SHARES}
    for label in (0, 1):
        rows = np.flatnonzero(malignant == label)
        ends = np.cumsum([share[label] for share in SHARES.values()]) * len(rows)
        for name, part in zip(SHARES, np.split(rows, ends.round().astype(int)[:-1]), strict=True):
            chosen[name].append(part)
    tables = {}
    for name, parts in chosen.items():
        rows = np.sort(np.concatenate(parts))
        count = len(rows)
        report = wardround.LoadReport(read=count, used=count, dropped=0)
        tables[name] = wardround.StudyTable(features[rows], malignant[rows], np.arange(count) % 4 == 0, report)
    return tables


def study() -> wardround.Study:
    """Logistic regression on five measurements, standardized over all hospitals together."""
    columns = tuple(wardround.Column(name=name.replace(" ", "_")) for name in NAMES)
    return wardround.declare(
        title="Malignant or benign",
        purpose="show a simulated study",
        legal_basis="public research records",
        researcher="ada",
        participants=list(SHARES),
        min_participants=3,
        data=wardround.DataContract(columns=columns, label=wardround.Label(name="malignant")),
        model=wardround.BuiltinModel(name="logistic"),
        training=wardround.Training(rounds=10, epochs=2, optimizer=wardround.Optimizer(learning_rate=0.1)),
        expires=int(time.time()) + 3600,
    )


def main() -> dict[str, float]:
    """Run the study, and print how the last model does on each hospital's held-out biopsies."""
    result = wardround.simulate(study(), deal())
    accuracy: dict[str, float] = {}
    for event in result.status.events:
        if event["event"] == "update-accepted" and event["evaluation"]:
            accuracy[event["site"]] = event["evaluation"]["metrics"]["accuracy"]
    for site, value in sorted(accuracy.items()):
        print(f"{site:6} {value:.3f}")
    return accuracy


if __name__ == "__main__":
    main()
