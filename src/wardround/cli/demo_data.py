"""The demo's records: real patients of four hospitals, and the one contract that all four are harmonized by.

`biopsies`: the 569 Wisconsin breast-cancer biopsies that come with scikit-learn, dealt unevenly and with
a skewed class mix. `heart`: the four hospitals of the UCI heart-disease files, prepared and split as
FLamby does (slope, ca and thal left out, complete records only, its fixed split), so that results compare.

References:
    Street, Wolberg, Mangasarian. Nuclear feature extraction for breast tumor diagnosis. 1993.
    Janosi, Steinbrunn, Pfisterer, Detrano. Heart Disease. UCI Machine Learning Repository, 1988.
    Ogier du Terrail et al. FLamby. NeurIPS Datasets and Benchmarks 2022.
"""

import csv
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from wardround.cli import demo_events
from wardround.clinical.contract import Column, DataContract, Label
from wardround.clinical.derivation import Cohort, Derivation, Window
from wardround.errors import ConfigError

__all__ = ["DATASETS", "Dataset", "write"]

Rows = list[dict[str, float]]

_BIOPSY = "urn:uci:wdbc"


@dataclass(frozen=True, slots=True)
class Dataset:
    """A contract, and each hospital's records under the contract's names."""

    title: str
    purpose: str
    contract: DataContract
    hospitals: dict[str, Rows]
    rounds: int
    learning_rate: float
    reference: str = ""


def biopsies(_: Path) -> Dataset:
    """The Wisconsin biopsies, dealt unevenly: one hospital sees mostly malignant lumps, another hardly any."""
    from sklearn.datasets import load_breast_cancer

    data = load_breast_cancer()
    names = [str(name).replace(" ", "_") for name in data.feature_names]
    units = {name: _unit(name) for name in names}
    malignant = 1 - data.target
    generator = np.random.default_rng(20)  # noqa: TID251, the seed is fixed
    shares = {  # of the benign and of the malignant biopsies
        "hospital-a": (0.10, 0.55),
        "hospital-b": (0.60, 0.06),
        "hospital-c": (0.25, 0.30),
        "hospital-d": (0.05, 0.09),
    }
    hospitals: dict[str, Rows] = {name: [] for name in shares}
    for label in (0, 1):
        chosen = generator.permutation(np.flatnonzero(malignant == label))
        cuts = np.cumsum([share[label] for share in shares.values()])[:-1] * len(chosen)
        for name, part in zip(shares, np.split(chosen, cuts.astype(int)), strict=True):
            for index in part:
                row = {column: float(value) for column, value in zip(names, data.data[index], strict=True)}
                hospitals[name].append(row | {"malignant": float(label)})
    hospitals = {name: [rows[i] for i in generator.permutation(len(rows))] for name, rows in hospitals.items()}
    columns = tuple(Column(name=name, unit=units[name], derive=_fact(f"{_BIOPSY}|{name}")) for name in names)
    contract = DataContract(
        columns=columns,
        label=Label(name="malignant", derive=_fact(f"{_BIOPSY}|malignant")),
        holdout=0.3,
        cohort=Cohort(index=(f"{_BIOPSY}|biopsy",)),
    )
    return Dataset("Malignancy of breast biopsies", "Tell malignant from benign lumps", contract, hospitals, 30, 0.1)


def heart(folder: Path) -> Dataset:
    """The four hospitals of the UCI heart-disease files in `folder`.

    Raises:
        ConfigError: The files are not there.
    """
    from sklearn.model_selection import train_test_split

    hospitals: dict[str, Rows] = {}
    for name, file in {
        "cleveland": "cleveland",
        "hungary": "hungarian",
        "switzerland": "switzerland",
        "long-beach": "va",
    }.items():
        path = folder / f"processed.{file}.data"
        if not path.exists():
            raise ConfigError(
                f"{path} is not there; get the UCI heart-disease files, and name their folder with --data-folder"
            )
        rows = _heart_rows(path)
        labels = [row["disease"] for row in rows]
        few = min(labels.count(0.0), labels.count(1.0)) <= 2
        order = np.arange(len(rows))
        _, test = train_test_split(
            order, test_size=0.34, train_size=0.66, random_state=43, stratify=None if few else labels
        )
        for index in test:
            rows[int(index)]["held_out"] = 1.0
        hospitals[name] = rows
    return Dataset(
        "Coronary disease in four hospitals",
        "Tell patients with a narrowed coronary vessel from those without",
        _heart_contract(),
        hospitals,
        40,
        0.1,
        "FLamby's published accuracy on the same split: FedAvg .748, FedAdam .779, pooled training .795",
    )


DATASETS: dict[str, Callable[[Path], Dataset]] = {"biopsies": biopsies, "heart": heart}


def write(dataset: Dataset, folders: dict[str, Path]) -> None:
    """Give each hospital its records in its own way, with the mapping file that says how to read them."""
    writers = (
        demo_events.fhir_export,
        demo_events.omop_database,
        demo_events.hl7_messages,
        demo_events.csv_other_units,
    )
    for (name, rows), writer in zip(dataset.hospitals.items(), writers, strict=True):
        mapping = writer(dataset.contract, rows, folders[name])
        # A site draws this key; here it follows from the name, so that each demo holds out the same patients.
        key = folders[name] / "pseudonym.key"
        key.touch(mode=0o600)
        key.write_text(hashlib.sha256(f"demo {name}".encode()).hexdigest())
        path = folders[name] / "mapping.toml"
        path.unlink(missing_ok=True)
        path.write_text(mapping)


def _unit(name: str) -> str:
    if "radius" in name or "perimeter" in name:
        return "um"
    return "um2" if "area" in name else "1"


def _heart_contract() -> DataContract:
    uci = "urn:uci:heart-disease"
    sexes = {"male": "1", "female": "0"}
    columns = (
        Column(name="age", unit="a", derive=_fact(f"{uci}|age")),
        Column(name="sex", kind="boolean", derive=msgspec.structs.replace(_fact("patient|sex"), codes=sexes)),
        Column(name="chest_pain", kind="category", categories=("1", "2", "3", "4"), derive=_fact(f"{uci}|cp")),
        Column(name="resting_pressure", unit="mm[Hg]", derive=_fact("loinc|8480-6", "Systolic blood pressure")),
        Column(name="cholesterol", unit="mg/dL", derive=_fact("loinc|2093-3", "Cholesterol in Serum or Plasma")),
        Column(name="high_sugar", kind="boolean", derive=_fact(f"{uci}|fbs")),
        Column(name="resting_ecg", kind="category", categories=("0", "1", "2"), derive=_fact(f"{uci}|restecg")),
        Column(name="peak_heart_rate", unit="/min", derive=_fact(f"{uci}|thalach")),
        Column(name="exercise_angina", kind="boolean", derive=_fact(f"{uci}|exang")),
        Column(name="st_depression", unit="mm", derive=_fact(f"{uci}|oldpeak")),
    )
    return DataContract(
        columns=columns,
        label=Label(name="disease", derive=_fact(f"{uci}|num")),
        holdout_column="held_out",
        holdout_derive=_fact("urn:flamby|test"),
        holdout=0.0,
        cohort=Cohort(index=(f"{uci}|visit",)),
    )


def _fact(concept: str, display: str = "") -> Derivation:
    # Everything that the public files hold of a patient was found at one visit, which is the index.
    return Derivation(concepts=(concept,), display=display, window=Window(from_days=-1, to_days=1))


def _heart_rows(path: Path) -> Rows:
    # Columns 10-12 (slope, ca, thal) are mostly missing outside Cleveland; FLamby leaves them out too.
    kept = (0, 1, 2, 3, 4, 5, 6, 7, 8, 9)
    names = [column.name for column in _heart_contract().columns]
    rows: Rows = []
    with path.open(newline="") as file:
        for cells in csv.reader(file):
            values = [cells[index] for index in kept]
            if "?" not in values and cells[13] != "?":
                row = {name: float(value) for name, value in zip(names, values, strict=True)}
                rows.append(row | {"disease": float(float(cells[13]) > 0), "held_out": 0.0})
    return rows
