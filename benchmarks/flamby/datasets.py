"""Federations of real records: for each a contract, and every site's table with its test records held out.

    heart           Fed-Heart-Disease: 4 hospitals, 13 features, accuracy; standardized over all sites
    heart-flamby    the same, standardized by each hospital for itself, as FLamby's federated clients are
    tcga            Fed-TCGA-BRCA: 6 regions, 39 features, survival, C-index; age standardized over all sites
    tcga-flamby     the same, age in years and FLamby's loss, as FLamby's federated clients have it
    lung            NCCTG lung cancer: the 9 institutions of at least 12 patients, survival
    eicu            eICU demo: 4 regions, death in hospital from the first day's APACHE variables
    physionet       PhysioNet 2012 set A: 4 kinds of intensive care unit, death in hospital from means over 48 hours
    pneumonia       PneumoniaMNIST: 5 sites, whose shares of each class are drawn from Dirichlet(0.5)

Test records of the first four are FLamby's. Of the next three they are 30 % of the patients, by a hash of the
patient; of the last the validation images.

References:
    Ogier du Terrail et al. FLamby. NeurIPS Datasets and Benchmarks 2022.
    Loprinzi et al. Prospective evaluation of prognostic variables. J Clin Oncol, 1994 (lung).
    Pollard et al. The eICU Collaborative Research Database. Sci Data, 2018.
    Silva et al. Predicting in-hospital mortality of ICU patients. Computing in Cardiology, 2012.
    Yang et al. MedMNIST v2. Sci Data, 2023; Hsu, Qi, Brown. arXiv:1909.06335 (Dirichlet).
"""

import csv
import gzip
import hashlib
import io
import os
import tarfile
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from wardround.clinical.contract import Column, DataContract, Label
from wardround.clinical.table import LoadReport, StudyTable
from wardround.protocol.plan import BuiltinModel

__all__ = ["DATA", "LOADERS", "Federation", "load", "pooled"]

DATA = Path(os.environ.get("WARDROUND_DATA", "../shared/data"))
HEART = {"cleveland": "cleveland", "hungary": "hungarian", "switzerland": "switzerland", "long-beach": "va"}
TCGA_BATCH = 8
"""FLamby's batch size on TCGA-BRCA, by which its loss is divided."""


@dataclass(frozen=True)
class Federation:
    """Sites in FLamby's order with their tables, and by what a model is judged.

    `whole` is all records as one site where FLamby standardizes these otherwise than the sites do; its pooled
    training trains on them and every model's pooled test is on them. Without it the sites' records together.
    `reference` names FLamby's published tables: folder and prefix under `DATA`.
    """

    name: str
    contract: DataContract
    model: BuiltinModel
    metric: str
    sites: dict[str, StudyTable]
    whole: StudyTable | None = None
    reference: tuple[str, str] | None = None


def load(name):
    """One federation of `LOADERS`."""
    return LOADERS[name]()


def pooled(federation):
    """All sites' records in one table."""
    if federation.whole is not None:
        return federation.whole
    tables = federation.sites.values()
    return _table(*(np.concatenate([getattr(table, part) for table in tables]) for part in _PARTS))


_PARTS = ("features", "labels", "held_out")


def heart():
    """Fed-Heart-Disease: complete records without slope, ca, thal; chest pain and ECG as dummies but for the first.

    All 13 features are standardized, as FLamby does, dummies too.
    """
    return _heart("heart", _heart_tables(), "federated", None)


def heart_flamby():
    """Fed-Heart-Disease standardized as FLamby does: each hospital by its own training records, the whole by all."""
    raw = _heart_tables()
    together = _table(*(np.concatenate([getattr(table, part) for table in raw.values()]) for part in _PARTS))
    tables = {name: _standardized(table) for name, table in raw.items()}
    return _heart("heart-flamby", tables, "none", _standardized(together))


def tcga():
    """Fed-TCGA-BRCA: age, and 38 indicators that are left as they are."""
    names, tables = _tcga_tables()
    return _tcga("tcga", names, tables, "federated")


def tcga_flamby():
    """Fed-TCGA-BRCA with age in years, and the loss divided by the batch's size as FLamby does, not by its events.

    The events of training records are 1/8: then `wardround.training.models.cox_loss`, which divides by the sum of
    events or by 1, divides by 8. Only a pass's last batch, where it is smaller, is divided otherwise.
    """
    names, tables = _tcga_tables()
    for table in tables.values():
        table.labels[~table.held_out, 1] /= TCGA_BATCH
    return _tcga("tcga-flamby", names, tables, "none")


def lung():
    """NCCTG lung cancer by institution: age, sex, both performance scores of the physician, the patient's, weight loss.

    Calories at meals are left out (47 of 228 are missing); otherwise the federated mean stands in for what is missing.
    """
    names = ("age", "sex", "ph.ecog", "ph.karno", "pat.karno", "wt.loss")
    sites = defaultdict(list)
    for place, row in enumerate(_rows(DATA / "survival" / "lifelines_lung.csv")):
        if row["inst"]:
            values = [_number(row[name]) for name in names]
            held_out = _held_out("lung", place)
            sites[f"institution-{int(float(row['inst'])):02}"].append(
                (values, (float(row["time"]), float(row["status"])), held_out)
            )
    kept = {name: _filled(rows) for name, rows in sorted(sites.items()) if len(rows) >= 12}
    contract = DataContract(
        columns=tuple(Column(name=name, missing="mean") for name in names),
        label=Label(name="time", outcome="survival", unit="d", event="status"),
        min_records=1,
    )
    return Federation("lung", contract, BuiltinModel(name="cox"), "c_index", kept)


def eicu():
    """The eICU demo by region: death in hospital from age and the first day's APACHE physiology (-1: missing)."""
    folder = DATA / "eicu_demo"
    physiology = (
        "heartrate", "meanbp", "temperature", "respiratoryrate", "sodium", "creatinine", "bun", "glucose", "wbc",
        "hematocrit", "albumin", "bilirubin", "urine", "eyes", "motor", "verbal", "intubated", "vent", "dialysis",
    )  # fmt: skip
    regions = {row["hospitalid"]: row["region"] for row in _rows(folder / "hospital.csv.gz")}
    stays = {row["patientunitstayid"]: row for row in _rows(folder / "patient.csv.gz")}
    variables = {row["patientunitstayid"]: row for row in _rows(folder / "apacheapsvar.csv.gz")}
    ages = {row["patientunitstayid"]: row["age"] for row in _rows(folder / "apachepredvar.csv.gz")}
    sites = defaultdict(list)
    for row in _rows(folder / "apachepatientresult.csv.gz"):
        stay = row["patientunitstayid"]
        region = regions.get(stays[stay]["hospitalid"], "") if stay in stays else ""
        if row["apacheversion"] == "IVa" and region not in {"", "NA"} and stay in variables and stay in ages:
            first_day = {**variables[stay], "age": ages[stay]}
            values = [_number(first_day[name], missing=-1) for name in ("age", *physiology)]
            died = float(row["actualhospitalmortality"] == "EXPIRED")
            sites[region.lower()].append((values, died, _held_out("eicu", stays[stay]["uniquepid"])))
    contract = DataContract(
        columns=tuple(Column(name=name, missing="mean") for name in ("age", *physiology)),
        label=Label(name="died"),
        min_records=1,
    )
    tables = {name: _filled(rows) for name, rows in sorted(sites.items())}
    return Federation("eicu", contract, BuiltinModel(name="logistic"), "auc", tables)


def physionet():
    """PhysioNet 2012 by kind of unit: age, sex, and each variable's mean over 48 hours (below 0: missing)."""
    measured = (
        "BUN", "Creatinine", "GCS", "Glucose", "HCO3", "HCT", "HR", "K", "Lactate", "MAP", "NIMAP", "Na", "PaCO2",
        "PaO2", "Platelets", "SysABP", "NISysABP", "Temp", "Urine", "WBC", "pH", "FiO2", "MechVent",
    )  # fmt: skip
    plausible = {"pH": (6.5, 8.0), "Temp": (25.0, 45.0)}  # both were also written in other units
    units = {1: "coronary", 2: "cardiac-surgery", 3: "medical", 4: "surgical"}
    outcomes = _rows(DATA / "physionet2012" / "Outcomes-a.txt")
    died = {row["RecordID"]: float(row["In-hospital_death"]) for row in outcomes}
    sites = defaultdict(list)
    with tarfile.open(DATA / "physionet2012" / "set-a.tar.gz") as archive:
        for member in archive:
            if not member.name.endswith(".txt"):
                continue
            found = defaultdict(list)
            for line in archive.extractfile(member).read().decode().splitlines()[1:]:
                _, name, value = line.split(",")
                low, high = plausible.get(name, (0.0, float("inf")))
                if low <= float(value) <= high:
                    found[name].append(float(value))
            means = [_mean(found[name]) for name in measured]
            means[-1] = float(bool(found["MechVent"]))  # only written where the patient was ventilated
            record = str(int(found["RecordID"][0]))
            values = [_mean(found["Age"]), _mean(found["Gender"]), *means]
            site = units[int(found["ICUType"][0])]
            sites[site].append((values, died[record], _held_out("physionet", record)))
    contract = DataContract(
        columns=tuple(Column(name=name, missing="mean") for name in ("Age", "Gender", *measured)),
        label=Label(name="died"),
        min_records=1,
    )
    tables = {name: _filled(rows) for name, rows in sorted(sites.items())}
    return Federation("physionet", contract, BuiltinModel(name="logistic"), "auc", tables)


def pneumonia(sites=5, concentration=0.5, seed=20):
    """PneumoniaMNIST: each class dealt by shares of Dirichlet(0.5), the validation images by the same ones."""
    data = np.load(DATA / "pneumoniamnist" / "pneumoniamnist.npz")
    generator = np.random.default_rng(seed)
    shares = generator.dirichlet(np.full(sites, concentration), size=2)
    parts = [[] for _ in range(sites)]
    for part in ("train", "val"):
        labels = data[f"{part}_labels"].reshape(-1)
        pixels = data[f"{part}_images"].reshape(-1, 784).astype("f4") / 255 - 0.5
        for value in (0, 1):
            order = generator.permutation(np.flatnonzero(labels == value))
            cuts = (np.cumsum(shares[value])[:-1] * len(order)).astype(int)
            for place, chosen in enumerate(np.split(order, cuts)):
                held_out = np.full(len(chosen), part == "val")
                parts[place].append((pixels[chosen], labels[chosen].astype("f4"), held_out))
    contract = DataContract(
        columns=tuple(Column(name=f"x{place}") for place in range(784)),
        label=Label(name="pneumonia"),
        scaling="none",
        min_records=1,
    )
    tables = {
        f"site-{place}": _table(*(np.concatenate(column) for column in zip(*dealt, strict=True)))
        for place, dealt in enumerate(parts)
    }
    return Federation("pneumonia", contract, BuiltinModel(name="mlp", hidden=(32,)), "auc", tables)


LOADERS = {
    "heart": heart,
    "heart-flamby": heart_flamby,
    "tcga": tcga,
    "tcga-flamby": tcga_flamby,
    "lung": lung,
    "eicu": eicu,
    "physionet": physionet,
    "pneumonia": pneumonia,
}


def _heart(name, tables, scaling, whole):
    names = (
        "age", "sex", "resting_pressure", "cholesterol", "high_sugar", "peak_heart_rate", "exercise_angina",
        "st_depression", "chest_pain_2", "chest_pain_3", "chest_pain_4", "resting_ecg_1", "resting_ecg_2",
    )  # fmt: skip
    contract = DataContract(
        columns=tuple(Column(name=column) for column in names),
        label=Label(name="disease"),
        scaling=scaling,
        min_records=1,
    )
    reference = ("heart_disease_uci", "heart")
    return Federation(name, contract, BuiltinModel(name="logistic"), "accuracy", tables, whole, reference)


def _heart_tables():
    from sklearn.model_selection import train_test_split

    tables = {}
    for site, file in HEART.items():
        rows = []
        with (DATA / "heart_disease_uci" / f"processed.{file}.data").open(newline="") as lines:
            for cells in csv.reader(lines):
                kept = cells[:10] + cells[13:]
                if "?" not in kept:
                    rows.append([float(cell) for cell in kept])
        values = np.array(rows, "f4")
        labels = (values[:, 10] > 0).astype("f4")
        few = min(labels.sum(), len(labels) - labels.sum()) <= 2
        _, test = train_test_split(
            np.arange(len(labels)), test_size=0.34, train_size=0.66, random_state=43, stratify=None if few else labels
        )
        held_out = np.zeros(len(labels), bool)
        held_out[test] = True
        pain, ecg = values[:, 2], values[:, 6]
        dummies = [pain == 2, pain == 3, pain == 4, ecg == 1, ecg == 2]
        features = np.column_stack([values[:, [0, 1, 3, 4, 5, 7, 8, 9]], *dummies]).astype("f4")
        tables[site] = _table(features, labels, held_out)
    return tables


def _standardized(table):
    training = table.features[~table.held_out]
    # As FLamby computes it: a feature that does not vary in training is blown up in testing.
    mean, std = training.mean(axis=0), training.std(axis=0, ddof=1) + np.float32(1e-9)
    return _table((table.features - mean) / std, table.labels, table.held_out)


def _tcga(name, names, tables, scaling):
    columns = (Column(name=names[0], unit="a"), *(Column(name=column, kind="boolean") for column in names[1:]))
    contract = DataContract(
        columns=columns,
        label=Label(name="T", outcome="survival", unit="d", event="E"),
        scaling=scaling,
        min_records=1,
    )
    reference = ("tcga_brca_flamby", "tcga")
    return Federation(name, contract, BuiltinModel(name="cox"), "c_index", tables, None, reference)


def _tcga_tables():
    folder = DATA / "tcga_brca_flamby"
    folds = {row["pid"]: row["fold2"].split("_") for row in _rows(folder / "train_test_split.csv")}
    sites = defaultdict(list)
    for row in _rows(folder / "brca.csv"):
        if row["pid"] in folds:  # 8 patients have no region
            fold, region = folds[row["pid"]]
            names = list(row)[1:40]
            label = (float(row["T"]), float(row["E"]))
            sites[f"region-{region}"].append(([float(row[name]) for name in names], label, fold == "test"))
    return names, {name: _filled(rows) for name, rows in sorted(sites.items())}


def _filled(rows):
    features, labels, held_out = zip(*rows, strict=True)
    return _table(np.array(features, "f4"), np.array(labels, "f4"), np.array(held_out, bool))


def _table(features, labels, held_out):
    return StudyTable(features.astype("f4"), labels, held_out, LoadReport(len(labels), len(labels), 0))


def _rows(path):
    opener = gzip.open if path.suffix == ".gz" else Path.open
    with opener(path, "rb") as file:
        return list(csv.DictReader(io.TextIOWrapper(file, newline="")))


def _number(text, missing=None):
    try:
        value = float(text)
    except ValueError:
        return float("nan")
    return float("nan") if value == missing else value


def _mean(values):
    return sum(values) / len(values) if values else float("nan")


def _held_out(name, patient):
    drawn = hashlib.sha256(f"flamby 1\n{name}\n{patient}".encode()).digest()
    return int.from_bytes(drawn[:8], "big") / 2**64 < 0.3
