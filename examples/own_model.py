"""A model of your own: any torch module, sent as a package of Python files that each site approves by digest.

    python examples/own_model.py

The package is pinned by its digest in the plan. A site lists that digest in its policy before any of it runs there.
"""

import tempfile
import time
from pathlib import Path

import numpy as np

import wardround

MODEL = '''
"""Two linear layers with a smooth step between them."""

from torch import nn


def make(width: int, outputs: int) -> nn.Module:
    """Called with the number of feature columns and of outputs."""
    return nn.Sequential(nn.Linear(width, 8), nn.Tanh(), nn.Linear(8, outputs))
'''


def records(seed: int) -> wardround.StudyTable:
    """Made-up records: ill when the two measurements have the same sign, which no linear model can learn."""
    generator = np.random.default_rng(seed)
    features = generator.normal(size=(300, 2)).astype(np.float32)
    labels = (features[:, 0] * features[:, 1] > 0).astype(np.float32)
    report = wardround.LoadReport(read=300, used=300, dropped=0)
    return wardround.StudyTable(features, labels, np.arange(300) % 3 == 0, report)


def study(folder: Path) -> wardround.Study:
    """A study whose model is the package in `folder`."""
    return wardround.declare(
        title="Same sign",
        purpose="show study code",
        legal_basis="made-up records",
        researcher="ada",
        participants=["north", "south"],
        min_participants=2,
        data=wardround.DataContract(
            columns=(wardround.Column(name="first"), wardround.Column(name="second")),
            label=wardround.Label(name="ill"),
        ),
        model=folder,
        factory="same_sign:make",
        training=wardround.Training(
            rounds=15, epochs=3, optimizer=wardround.Optimizer(name="adam", learning_rate=0.02)
        ),
        expires=int(time.time()) + 3600,
        seed=3,
    )


def main() -> float:
    """Run the study; print the package's digest and the accuracy on held-out records."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "same_sign.py").write_text(MODEL)
        declared = study(Path(folder))
    print(f"a site that allows this code lists: code_digests = [{declared.plan.model.package.digest!r}]")
    result = wardround.simulate(declared, {"north": records(1), "south": records(2)})
    last = [event["evaluation"]["metrics"]["accuracy"] for event in result.status.events if event.get("evaluation")]
    accuracy = float(np.mean(last[-2:]))
    print(f"accuracy {accuracy:.3f}")
    return accuracy


if __name__ == "__main__":
    main()
