"""Survival with lung cancer: patients of the NCCTG trial, grouped by institution, each group in a CSV of its own.

    python examples/cox_lung.py        (needs lifelines, for its copy of the data)

One group writes age in months and sex in words; its mapping says so, and the study sees one unit.
"""

import csv
import os
import tempfile
import time
from pathlib import Path

from lifelines.datasets import load_lung

import wardround
from wardround.ports import RecordSource
from wardround.sources import mapping

GROUPS = {"one": (1,), "twelve": (12, 13), "three": (3, 11, 22)}
CONTRACT = wardround.DataContract(
    columns=(
        wardround.Column(name="age", unit="a", minimum=18, maximum=110),
        wardround.Column(name="sex", kind="category", categories=("male", "female")),
        wardround.Column(name="ecog", missing="mean"),
    ),
    label=wardround.Label(name="days", outcome="survival", unit="d", event="died"),
)
PLAIN = """\
kind = "csv"
path = "records.csv"
[columns.sex]
values = { "1" = "male", "2" = "female" }
"""
OTHER = """\
kind = "csv"
path = "records.csv"
[columns.age]
from = "age_in_months"
unit = "mo"
"""


def write(folder: Path) -> dict[str, RecordSource]:
    """Write each group's records and mapping, and open them as a node does."""
    lung = load_lung()
    sources = {}
    for name, numbers in GROUPS.items():
        (folder / name).mkdir()
        is_other = name == "twelve"
        with (folder / name / "records.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["age_in_months" if is_other else "age", "sex", "ecog", "days", "died"])
            for row in lung[lung["inst"].isin(numbers)].to_dict("records"):
                age = row["age"] * 12 if is_other else row["age"]
                sex = {1: "male", 2: "female"}[int(row["sex"])] if is_other else int(row["sex"])
                ecog = "" if row["ph.ecog"] != row["ph.ecog"] else row["ph.ecog"]
                writer.writerow([age, sex, ecog, row["time"], int(row["status"])])
        text = OTHER if is_other else PLAIN
        sources[name] = mapping.open_source(mapping.load(text), folder / name, os.environ)
    return sources


def study() -> wardround.Study:
    """A Cox model over three columns."""
    return wardround.declare(
        title="Survival with advanced lung cancer",
        purpose="show a survival study",
        legal_basis="public research records",
        researcher="ada",
        participants=list(GROUPS),
        min_participants=2,
        data=CONTRACT,
        model=wardround.BuiltinModel(name="cox"),
        training=wardround.Training(
            rounds=60, epochs=1, batch_size=256, optimizer=wardround.Optimizer(learning_rate=0.5)
        ),
        expires=int(time.time()) + 3600,
    )


def main() -> dict[str, float]:
    """Run the study; print log hazard ratios: per standard deviation of age and ECOG, and of men against women."""
    with tempfile.TemporaryDirectory() as folder:
        result = wardround.simulate(study(), write(Path(folder)))
    (weights,) = result.arrays().values()
    age, male, female, ecog = (float(value) for value in weights[0])
    ratios = {"age": age, "sex": male - female, "ecog": ecog}
    for name, value in ratios.items():
        print(f"{name:6} {value:+.3f}")
    return ratios


if __name__ == "__main__":
    main()
