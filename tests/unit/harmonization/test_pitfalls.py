"""Real records are dirty in ways that made-up ones are not: each trap on the data in which it was found."""

import csv
import gzip
import os
from collections import defaultdict
from pathlib import Path

import pytest

from wardround.clinical.contract import Column, DataContract, Label
from wardround.clinical.derivation import Cohort, Derivation, Disclosure, Window
from wardround.errors import PolicyError
from wardround.node import admitting
from wardround.sources import event_mapping
from wardround.sources.harmonized import HarmonizedSource

DATA = Path(os.environ.get("WARDROUND_DATA", Path(__file__).parents[4] / "shared" / "data")).resolve()
EVER = Window(from_days=None, to_days=None)


def needs(name):
    return pytest.mark.skipif(not (DATA / name).exists(), reason=f"{name} is not among the data at hand")


def column(name, concept, aggregate="last", **rest):
    codes = rest.pop("codes", {})
    derive = Derivation(concepts=(concept,), aggregate=aggregate, window=EVER, codes=codes)
    return Column(name=name, derive=derive, missing="mean", **rest)


def contract_of(index, label, *columns, **rest):
    cohort = Cohort(index=(index,))
    return DataContract(columns=columns, label=label, cohort=cohort, scaling="none", min_records=1, **rest)


def exists(*concepts):
    return Label(name="label", derive=Derivation(concepts=concepts, window=EVER, aggregate="exists"))


def source_of(folder, mapping, codes=None):
    (folder / "mapping.toml").write_text(mapping)
    lines = [
        f'"{local}" = {{ to = "{concept}", by = "person", confirmed_by = "t", at = 2026-01-01 }}'
        for local, concept in (codes or {}).items()
    ]
    (folder / "codes.toml").write_text("version = 1\n[codes]\n" + "\n".join(lines) + "\n")
    return HarmonizedSource(event_mapping.decode(mapping), folder, {})


def rows_of(path):
    with gzip.open(path, "rt", newline="") as file:
        yield from csv.DictReader(file)


MIMIC = f"""\
kind = "events"
timezone = "America/New_York"
shifted_dates = true

[[sources]]
name = "labs"
kind = "csv"
[[sources.events]]
path = "{DATA}/mimic3_demo/labevents.csv.gz"
patient = "subject_id"
time = "charttime"
code = "itemid"
system = "local:mimic"
number = "valuenum"
unit = "valueuom"
[[sources.events]]
path = "{DATA}/mimic3_demo/patients.csv.gz"
patient = "subject_id"
[[sources.events.columns]]
from = "dob"
code = "patient|birth-date"
"""
LABS = {"local:mimic|50889": "loinc|1988-5", "local:mimic|50912": "loinc|2160-0"}


@needs("mimic3_demo")
def test_one_item_in_two_units_is_one_quantity(tmp_path):
    crp = column("crp", "loinc|1988-5", "max", unit="mg/L", minimum=0.0, maximum=1000.0)
    contract = contract_of("loinc|2160-0", exists("loinc|1988-5"), crp)
    found = source_of(tmp_path, MIMIC, LABS).read(contract)
    most = defaultdict(float)
    units = set()
    for row in rows_of(DATA / "mimic3_demo" / "labevents.csv.gz"):
        if row["itemid"] == "50889" and row["valuenum"]:
            units.add(row["valueuom"])
            value = float(row["valuenum"]) * (10 if row["valueuom"] == "mg/dL" else 1)
            most[row["subject_id"]] = max(most[row["subject_id"]], value)
    assert units == {"mg/dL", "mg/L"}
    got = found.assembled.cells["crp"]
    assert sorted(got[got == got].tolist()) == pytest.approx(sorted(most.values()))  # noqa: PLR0124, NaN


@needs("mimic3_demo")
def test_people_whose_birth_was_moved_three_centuries_back_are_ninety(tmp_path):
    contract = contract_of("loinc|2160-0", exists("loinc|1988-5"), column("age", "patient|birth-date", "age", unit="a"))
    ages = source_of(tmp_path, MIMIC, LABS).read(contract).assembled.cells["age"].tolist()
    assert max(ages) == 90.0
    born = {row["subject_id"]: int(row["dob"][:4]) for row in rows_of(DATA / "mimic3_demo" / "patients.csv.gz")}
    first = {}
    for row in rows_of(DATA / "mimic3_demo" / "labevents.csv.gz"):
        if row["itemid"] == "50912" and row["valuenum"]:
            first[row["subject_id"]] = min(first.get(row["subject_id"], row["charttime"]), row["charttime"])
    ancient = sum(int(at[:4]) - born[who] > 200 for who, at in first.items())
    assert ancient > 0
    assert ages.count(90.0) >= ancient


@needs("mimic3_demo")
def test_temperatures_charted_in_both_units_count_once(tmp_path):
    mapping = f"""\
kind = "events"
timezone = "America/New_York"
shifted_dates = true
units = {{ "Deg. C" = "Cel", "Deg. F" = "[degF]" }}

[[sources]]
name = "charts"
kind = "parquet"
[[sources.events]]
path = "{DATA}/mimic3_demo/chartevents.parquet"
patient = "subject_id"
time = "charttime"
code = "itemid"
system = "local:chart"
number = "valuenum"
unit = "valueuom"
"""
    codes = {f"local:chart|{item}": "loinc|8310-5" for item in (676, 677, 678, 679)}
    fever = column("fever", "loinc|8310-5", "mean", unit="Cel", minimum=30.0, maximum=45.0)
    contract = contract_of("loinc|8310-5", exists("loinc|8310-5"), fever)
    facts = source_of(tmp_path, mapping, codes).read(contract).told.facts["fever"]
    assert facts == {"used": 2668, "duplicate": 2668}, "each was charted twice, once as (calc)"


@needs("heart_disease_uci")
def test_a_cholesterol_of_zero_is_no_cholesterol_and_a_question_mark_no_value(tmp_path):
    mapping = f"""\
kind = "events"

[[sources]]
name = "uci"
kind = "csv"
[[sources.events]]
path = "{DATA}/heart_disease_uci/processed.switzerland.data"
names = ["age", "sex", "cp", "bp", "chol", "fbs", "ecg", "hr", "ang", "old", "slope", "ca", "thal", "num"]
time_fixed = "1988-07-01T00:00:00Z"
missing = ["?", "-9"]
columns = [
  {{ from = "age", code = "uci|age", unit = "a" }},
  {{ from = "bp", code = "loinc|8480-6", unit = "mm[Hg]" }},
  {{ from = "chol", code = "loinc|2093-3", unit = "mg/dL" }},
  {{ from = "num", code = "uci|num", unit = "1" }},
]
"""
    codes = {"0": "false", **dict.fromkeys("1234", "true")}
    label = Label(name="label", derive=Derivation(concepts=("uci|num",), window=EVER, codes=codes))
    contract = contract_of(
        "uci|age",
        label,
        column("chol", "loinc|2093-3", unit="mg/dL", minimum=50.0, maximum=700.0),
        column("bp", "loinc|8480-6", unit="mm[Hg]", minimum=40.0, maximum=260.0),
    )
    source = source_of(tmp_path, mapping)
    found = source.read(contract)
    assert found.assembled.records == 123
    assert found.told.facts["chol"] == {"too_low": 123}
    assert not (found.assembled.cells["chol"] == 0).any()
    assert found.told.facts["bp"]["used"] == 121
    assert found.table().labels.sum() == 115
    strict = contract_of("uci|age", label, contract.columns[1], disclosure=Disclosure(min_class=10))
    with pytest.raises(PolicyError):
        admitting.admit_events(source, strict, site="x", study="", state=None)


@needs("synthea_fhir_r4")
def test_an_older_code_for_hypertension_is_found_by_its_value_set_and_a_single_one_gives_nobody(tmp_path):
    mapping = f"""\
kind = "events"
timezone = "America/New_York"

[[sources]]
name = "ehr"
kind = "fhir"
path = "{DATA}/synthea_fhir_r4/dev"
"""
    sex = column("sex", "patient|sex", kind="category", categories=("female", "male"))
    source = source_of(tmp_path, mapping)
    rules = Disclosure(min_class=1)
    newer = contract_of("patient|seen", exists("snomed|59621000"), sex, disclosure=rules)
    with pytest.raises(PolicyError):
        admitting.admit_events(source, newer, site="x", study="", state=None)
    sets = {"hypertension": ("snomed|59621000", "snomed|38341003")}
    both = contract_of("patient|seen", exists("@hypertension"), sex, disclosure=rules, value_sets=sets)
    table = admitting.admit_events(source, both, site="x", study="", state=None).table
    assert len(table.labels) == 361
    assert 50 < table.labels.sum() < 200


def test_codes_that_fail_their_own_check_digit_are_counted(tmp_path):
    (tmp_path / "x.csv").write_text("who,at,code\n" + "a,2024-01-01T00:00:00Z,00005089AAAA\n" * 3)
    mapping = """\
kind = "events"
[[sources]]
name = "x"
kind = "csv"
[[sources.events]]
path = "x.csv"
patient = "who"
time = "at"
code = "code"
system = "loinc"
"""
    contract = contract_of("loinc|2093-3", exists("loinc|2160-0"), column("n", "loinc|2093-3", "count"))
    assert source_of(tmp_path, mapping).read(contract, restricted=False).told.invalid == {"loinc": 3}
