"""The demo's records: real patients, dealt to four hospitals that keep them in four different ways.

`biopsies`: the 569 Wisconsin breast-cancer biopsies that come with scikit-learn, dealt unevenly and with
a skewed class mix. `heart`: the four hospitals of the UCI heart-disease files, prepared and split as
FLamby does (slope, ca and thal left out, complete records only, its fixed split), so that results compare.

References:
    Street, Wolberg, Mangasarian. Nuclear feature extraction for breast tumor diagnosis. 1993.
    Janosi, Steinbrunn, Pfisterer, Detrano. Heart Disease. UCI Machine Learning Repository, 1988.
    Ogier du Terrail et al. FLamby. NeurIPS Datasets and Benchmarks 2022.
"""

import csv
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from wardround.clinical.contract import Column, DataContract, Label
from wardround.errors import ConfigError

__all__ = ["DATASETS", "Dataset", "write"]

Rows = list[dict[str, float]]


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
    columns = tuple(Column(name=name, unit=units[name]) for name in names)
    contract = DataContract(columns=columns, label=Label(name="malignant"), holdout=0.3)
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
    writers = (_sqlite, _csv_other_units, _parquet, _two_tables)
    for (name, rows), writer in zip(dataset.hospitals.items(), writers, strict=True):
        mapping = writer(dataset.contract, rows, folders[name])
        path = folders[name] / "mapping.toml"
        path.unlink(missing_ok=True)
        path.write_text(mapping)


def _sqlite(contract: DataContract, rows: Rows, folder: Path) -> str:
    """SQLite, under column names of its own."""
    names = _names(contract)
    local = {name: f"col{index:02d}_{name[:12]}" for index, name in enumerate(names)}
    with sqlite3.connect(folder / "lab.sqlite") as database:
        database.execute(
            f"CREATE TABLE befunde (fall INTEGER PRIMARY KEY, {', '.join(f'{it} REAL' for it in local.values())})"
        )
        marks = ", ".join("?" * (len(names) + 1))
        values = [(index, *(row[name] for name in names)) for index, row in enumerate(rows)]
        database.executemany(f"INSERT INTO befunde VALUES ({marks})", values)  # noqa: S608, names are our own
    database.close()
    columns = "".join(f'[columns.{name}]\nfrom = "{local[name]}"\n' for name in names)
    return 'kind = "sqlite"\npath = "lab.sqlite"\nquery = "SELECT * FROM befunde ORDER BY fall"\n\n' + columns  # noqa: S608, no value is in it


def _csv_other_units(contract: DataContract, rows: Rows, folder: Path) -> str:
    """CSV, in other units."""
    units = {column.name: _OTHER_UNIT[column.unit] for column in contract.columns if column.unit in _OTHER_UNIT}
    names = _names(contract)
    with (folder / "export.csv").open("w", newline="") as file:
        writer = csv.writer(file, delimiter=";")
        writer.writerow(names)
        for row in rows:
            writer.writerow([_text(row[name] * units[name][1] if name in units else row[name]) for name in names])
    columns = "".join(f'[columns.{name}]\nunit = "{unit}"\n' for name, (unit, _) in units.items())
    return f'kind = "csv"\npath = "export.csv"\ndelimiter = ";"\n\n{columns}'


def _parquet(contract: DataContract, rows: Rows, folder: Path) -> str:
    """Parquet, as the contract has it."""
    import pyarrow as pa
    from pyarrow import parquet

    parquet.write_table(
        pa.table({name: [row[name] for row in rows] for name in _names(contract)}), folder / "records.parquet"
    )
    return 'kind = "parquet"\npath = "records.parquet"\n'


def _two_tables(contract: DataContract, rows: Rows, folder: Path) -> str:
    """Two SQL tables that must be joined: findings here, outcomes there."""
    names = _names(contract)
    findings, outcomes = names[: len(contract.columns)], names[len(contract.columns) :]
    with sqlite3.connect(folder / "clinic.sqlite") as database:
        for table, columns in (("findings", findings), ("outcomes", outcomes)):
            database.execute(
                f"CREATE TABLE {table} (patient TEXT PRIMARY KEY, {', '.join(f'{it} REAL' for it in columns)})"
            )
            marks = ", ".join("?" * (len(columns) + 1))
            values = [(f"P{index:05d}", *(row[name] for name in columns)) for index, row in enumerate(rows)]
            database.executemany(f"INSERT INTO {table} VALUES ({marks})", values)  # noqa: S608, names are our own
    database.close()
    query = "SELECT * FROM findings JOIN outcomes USING (patient) ORDER BY patient"
    return f'kind = "sqlite"\npath = "clinic.sqlite"\nquery = "{query}"\n'


_OTHER_UNIT = {
    "um": ("mm", 1e-3),
    "um2": ("mm2", 1e-6),
    "mg/dL": ("g/L", 1e-2),
    "mm[Hg]": ("kPa", 0.133322387415),
    "a": ("mo", 12.0),
}
"""For a contract's unit another one, and the factor to it."""


def _names(contract: DataContract) -> list[str]:
    extra = [contract.holdout_column] if contract.holdout_column else []
    return [*(column.name for column in contract.columns), contract.label.name, *extra]


def _text(value: float) -> str:
    return str(int(value)) if value.is_integer() else repr(value)


def _unit(name: str) -> str:
    if "radius" in name or "perimeter" in name:
        return "um"
    return "um2" if "area" in name else "1"


def _heart_contract() -> DataContract:
    columns = (
        Column(name="age", unit="a"),
        Column(name="sex", kind="boolean"),
        Column(name="chest_pain", kind="category", categories=("1", "2", "3", "4")),
        Column(name="resting_pressure", unit="mm[Hg]"),
        Column(name="cholesterol", unit="mg/dL"),
        Column(name="high_sugar", kind="boolean"),
        Column(name="resting_ecg", kind="category", categories=("0", "1", "2")),
        Column(name="peak_heart_rate", unit="/min"),
        Column(name="exercise_angina", kind="boolean"),
        Column(name="st_depression", unit="mm"),
    )
    return DataContract(columns=columns, label=Label(name="disease"), holdout_column="held_out", holdout=0.0)


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
