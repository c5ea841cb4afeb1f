"""What stands between a site's events and a study: quality, disclosure, past cohorts, lineage."""

import csv
import json

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import assume, given
from hypothesis import strategies as st

from wardround.cli.data import data
from wardround.clinical.contract import Column, DataContract, Label
from wardround.clinical.derivation import Cohort, Derivation, Disclosure, Quality, Window
from wardround.errors import ClinicalError, PolicyError
from wardround.harmonization import lineage
from wardround.node import admitting, stewarding
from wardround.node.loading import ProcessSource
from wardround.storage.lineage_log import LineageLog

EVER = Window(from_days=None, to_days=None)
CONTRACT = DataContract(
    columns=(
        Column(
            name="cholesterol",
            unit="mg/dL",
            minimum=50.0,
            maximum=500.0,
            missing="mean",
            derive=Derivation(concepts=("loinc|2093-3",), window=EVER, molar_mass=386.65),
        ),
        Column(
            name="sex",
            kind="category",
            categories=("female", "male"),
            derive=Derivation(concepts=("patient|sex",), window=EVER),
        ),
    ),
    label=Label(name="event", derive=Derivation(concepts=("snomed|22298006",), window=EVER, aggregate="exists")),
    cohort=Cohort(index=("icd10cm|I25.*",)),
    scaling="none",
    holdout=0.25,
    min_records=5,
)
MAPPING = """\
kind = "events"
timezone = "Europe/Zurich"

[[sources]]
name = "sheet"
kind = "csv"

[[sources.events]]
path = "events.csv"
patient = "who"
time = "at"
code = "code"
system = "local:lab"
number = "number"
unit = "unit"

[[sources.events]]
path = "diagnoses.csv"
patient = "who"
time = "at"
code = "code"
system = "local:lab"

[[sources.events]]
path = "people.csv"
patient = "who"
[[sources.events.columns]]
from = "sex"
code = "patient|sex"
values = { f = "female", m = "male" }
"""
STUDY = """\
title = "x"
[data]
min_records = 5
[data.cohort]
index = ["icd10cm|I25.*"]
[[data.columns]]
name = "cholesterol"
unit = "mg/dL"
minimum = 50
maximum = 500
derive = { concepts = ["loinc|2093-3"], display = "Cholesterol [Mass/volume] in Serum or Plasma", window = {} }
[data.label]
name = "event"
derive = { concepts = ["snomed|22298006"], aggregate = "exists", window = {} }
"""
CODES = """\
version = 1
[codes]
"local:lab|CAD" = { to = "icd10cm|I25.10", by = "person", confirmed_by = "jd", at = 2026-11-01 }
"local:lab|CHOL" = { to = "loinc|2093-3", by = "person", confirmed_by = "jd", at = 2026-11-01 }
"local:lab|MI" = { to = "snomed|22298006", by = "person", confirmed_by = "jd", at = 2026-11-01 }
"""


def write(folder, patients=40, *, mapping=MAPPING, codes=CODES, unit="mg/dL"):
    rows, people, diagnoses = [], [], []
    for number in range(patients):
        who = f"SECRET{number:03d}"
        people.append([who, "fm"[number % 2]])
        diagnoses.append([who, "2024-03-01 08:00:00", "CAD"])
        rows.append([who, "2024-02-01 08:00:00", "CHOL", 150 + number, unit])
        if number % 4 == 0:
            diagnoses.append([who, "2024-05-01 08:00:00", "MI"])
    for name, head, table in (
        ("events.csv", ["who", "at", "code", "number", "unit"], rows),
        ("diagnoses.csv", ["who", "at", "code"], diagnoses),
        ("people.csv", ["who", "sex"], people),
    ):
        with (folder / name).open("w", newline="") as file:
            csv.writer(file).writerows([head, *table])
    (folder / "mapping.toml").write_text(mapping)
    (folder / "codes.toml").write_text(codes)
    (folder / "study.toml").write_text(STUDY)
    return folder / "mapping.toml"


def changed(**values):
    return msgspec.structs.replace(CONTRACT, **values)


def admitted(path, contract=CONTRACT, state=None):
    source = stewarding.open_events(path)
    return admitting.admit_events(source, contract, site="clinic", study="", state=state)


def test_events_become_a_table_with_a_lineage_that_a_second_reading_repeats(tmp_path):
    path = write(tmp_path)
    first = admitted(path, state=tmp_path)
    again = admitted(path, state=tmp_path)
    assert first.table.features.tobytes() == again.table.features.tobytes()
    log = LineageLog(tmp_path / admitting.LINEAGE)
    records = log.records()
    assert log.verify() == again.lineage
    assert records[0].tensor == records[1].tensor
    assert records[0].records == 40
    assert {one.local for one in records[0].confirmations} == {"local:lab|CAD", "local:lab|CHOL", "local:lab|MI"}
    assert [source.name for source in records[0].sources] == ["sheet"]
    assert next(one for one in records[0].features if one.name == "cholesterol").rows == 40
    assert b"SECRET" not in (tmp_path / admitting.LINEAGE).read_bytes()
    assert lineage.decode((tmp_path / admitting.LINEAGE).read_bytes().splitlines()[0])


def test_one_value_more_is_another_tensor(tmp_path):
    path = write(tmp_path)
    admitted(path, state=tmp_path)
    text = (tmp_path / "events.csv").read_text()
    (tmp_path / "events.csv").write_text(text.replace(",151,", ",152,"))
    admitted(path, state=tmp_path)
    before, after = LineageLog(tmp_path / admitting.LINEAGE).records()
    assert before.tensor != after.tensor
    assert before.sources[0].snapshot != after.sources[0].snapshot


def test_the_reading_process_gives_the_same_table_and_leaves_the_lineage(tmp_path):
    path = write(tmp_path)
    direct = admitted(path)
    source = ProcessSource(path, site="clinic", state=tmp_path)
    table = source.load(CONTRACT)
    assert table.features.tobytes() == direct.table.features.tobytes()
    assert table.held_out.tobytes() == direct.table.held_out.tobytes()
    assert len(LineageLog(tmp_path / admitting.LINEAGE).records()) == 1


def test_a_cohort_that_would_isolate_new_patients_answers_without_them(tmp_path):
    contract = changed(disclosure=Disclosure(k=5))
    path = write(tmp_path, 40)
    assert len(admitted(path, contract, tmp_path).table.labels) == 40
    write(tmp_path, 43)
    grown = admitted(path, contract, tmp_path)
    assert len(grown.table.labels) == 40
    assert grown.left_out == {"would be isolated by a past cohort": 3}
    write(tmp_path, 48)
    assert len(admitted(path, contract, tmp_path).table.labels) == 48


def test_rules_of_the_site_are_added_to_the_studys(tmp_path):
    path = write(tmp_path, mapping=MAPPING.replace("[[sources]]", "[disclosure]\nmin_patients = 50\n\n[[sources]]", 1))
    with pytest.raises(PolicyError, match="disclosure"):
        admitted(path)
    with pytest.raises(PolicyError, match="disclosure"):
        admitted(write(tmp_path), changed(disclosure=Disclosure(min_class=20)))
    assert admitted(write(tmp_path), changed(disclosure=Disclosure(min_class=10))).table.report.used == 40


def test_records_that_stand_out_by_their_quasi_identifiers_are_left_out_or_refuse_all(tmp_path):
    path = write(tmp_path, 21)
    text = (tmp_path / "people.csv").read_text().replace(",m", ",f").replace("SECRET005,f", "SECRET005,m")
    (tmp_path / "people.csv").write_text(text)
    rules = Disclosure(quasi_identifiers=("sex",), k=2)
    with pytest.raises(PolicyError) as caught:
        admitted(path, changed(disclosure=rules))
    assert "SECRET" not in str(caught.value)
    found = admitted(path, changed(disclosure=msgspec.structs.replace(rules, max_suppressed=0.1)))
    assert found.left_out == {"anonymity": 1}
    assert len(found.table.labels) == 20


def test_events_that_are_worse_than_the_contract_allows_refuse_the_load(tmp_path):
    path = write(tmp_path, unit="furlong")
    strict = changed(quality=Quality(unknown_unit_max=0.01))
    with pytest.raises(PolicyError, match="unknown unit"):
        admitted(path, strict)
    with pytest.raises(PolicyError, match="min_coverage"):
        admitted(path, changed(quality=Quality(min_coverage=0.5)))


def test_nothing_that_nobody_confirmed_is_read(tmp_path):
    path = write(
        tmp_path,
        codes='version = 1\n[codes]\n"local:lab|CAD" = { to = "icd10cm|I25.10", by = "suggest", score = 0.99 }\n',
    )
    with pytest.raises(PolicyError, match="0 of 0 records"):
        admitted(path)


def test_a_table_mapping_does_not_answer_a_study_of_events_and_the_reverse(tmp_path):
    (tmp_path / "mapping.toml").write_text('kind = "csv"\npath = "x.csv"\n')
    with pytest.raises(ClinicalError, match='kind = "events"'):
        ProcessSource(tmp_path / "mapping.toml").load(CONTRACT)
    flat = DataContract(columns=(Column(name="a"),), label=Label(name="y"))
    with pytest.raises(ClinicalError, match="no cohort"):
        ProcessSource(write(tmp_path)).load(flat)


def test_the_key_of_the_pseudonyms_is_made_once_and_for_the_owner_only(tmp_path):
    path = write(tmp_path)
    admitted(path)
    key = (tmp_path / "pseudonym.key").read_text()
    admitted(path)
    assert (tmp_path / "pseudonym.key").read_text() == key
    assert (tmp_path / "pseudonym.key").stat().st_mode & 0o077 == 0


def invoke(*arguments, typed=""):
    return CliRunner().invoke(data, [str(argument) for argument in arguments], input=typed)


def test_a_steward_checks_previews_and_maps(tmp_path):
    path, study = write(tmp_path, codes=CODES.replace('"local:lab|CHOL"', '"local:lab|OTHER"')), tmp_path / "study.toml"
    checked = invoke("check", path, study)
    assert checked.exit_code == 1, "no cholesterol, and a record without it is dropped"
    assert "local code that nobody has confirmed: local:lab|CHOL (40 events)" in checked.output
    asked = json.loads(invoke("map", path, study, "--json").output)
    assert [one["code"] for one in asked["suggestions"]] == ["CHOL"]
    assert asked["suggestions"][0]["candidates"][0]["concept"] == "loinc|2093-3"
    refused = invoke("map", path, study, "--confirm", "local:lab|NOTHING=loinc|2093-3", "--by", "jd")
    assert isinstance(refused.exception, ClinicalError)
    done = invoke("map", path, study, "--ask", "--by", "jd", typed="\n")
    assert "0 decided" in done.output, "nothing is accepted by itself"
    decided = invoke("map", path, study, "--confirm", "local:lab|CHOL=loinc|2093-3", "--by", "jd")
    assert decided.exit_code == 0, decided.output
    assert "would be answered" in invoke("check", path, study).output
    shown = invoke("preview", path, study)
    assert "cholesterol: 100% of records" in shown.output
    assert "SECRET" not in checked.output + shown.output + decided.output
    assert {bars["name"] for bars in json.loads(invoke("preview", path, study, "--json").output)["columns"]} == {
        "cholesterol"
    }


def test_a_small_count_is_hidden_in_a_preview(tmp_path):
    path = write(tmp_path, 12)
    shown = json.loads(invoke("preview", path, tmp_path / "study.toml", "--json").output)
    assert set(shown["columns"][0]["counts"]) <= {0, None, 12}


def test_a_code_whose_values_changed_is_asked_about_again_and_translates_nothing_until_then(tmp_path):
    path, study = (
        write(tmp_path, 120, codes=CODES.replace('"local:lab|CHOL"', '"local:lab|OTHER"')),
        tmp_path / "study.toml",
    )
    assert invoke("map", path, study, "--confirm", "local:lab|CHOL=loinc|2093-3", "--by", "jd").exit_code == 0
    assert invoke("check", path, study).exit_code == 0
    text = (tmp_path / "events.csv").read_text()
    (tmp_path / "events.csv").write_text(text.replace(",mg/dL", ",mmol/L"))
    asked = json.loads(invoke("map", path, study, "--json").output)
    assert [one["code"] for one in asked["suggestions"]] == ["CHOL"]
    assert invoke("check", path, study).exit_code == 1


def test_a_cohort_that_is_too_small_is_refused_by_the_same_code_as_any_other_rule(tmp_path):
    path = write(tmp_path)
    for contract in (changed(min_records=41), changed(disclosure=Disclosure(min_patients=41))):
        with pytest.raises(PolicyError) as caught:
            admitted(path, contract)
        assert caught.value.code == "policy"


def test_unconfirmed_codes_beyond_the_contracts_share_refuse_the_load_itself(tmp_path):
    path = write(tmp_path)
    with (tmp_path / "diagnoses.csv").open("a") as file:
        file.writelines("SECRET000,2024-01-01 00:00:00,OTHER\n" for _ in range(200))
    assert admitted(path).table.report.used == 40
    with pytest.raises(PolicyError, match="unmapped"):
        admitted(path, changed(quality=Quality(unmapped_max=0.1)))


def test_the_number_of_patients_told_does_not_hang_on_whom_the_study_is_about(tmp_path):
    path = write(tmp_path)
    everybody = admitted(path).table.report.owners
    narrow = changed(cohort=Cohort(index=("snomed|22298006",)))
    assert everybody == 40
    assert admitted(path, narrow).table.report.owners == 40


def test_a_check_judges_by_the_sites_rules_too(tmp_path):
    path, study = write(tmp_path), tmp_path / "study.toml"
    assert invoke("check", path, study).exit_code == 0
    path.write_text(MAPPING.replace("[[sources]]", "[disclosure]\nmin_patients = 50\n\n[[sources]]", 1))
    checked = invoke("check", path, study)
    assert checked.exit_code == 1
    assert "min_patients: 40 patients can be used and 50 are asked for" in checked.output
    path.write_text(MAPPING.replace("[[sources]]", '[disclosure]\nquasi_identifiers = ["age"]\n\n[[sources]]', 1))
    assert "would be answered" in invoke("check", path, study).output, "this study has no such column"


def test_a_preview_hides_by_the_sites_rules_too(tmp_path):
    path = write(tmp_path, mapping=MAPPING.replace("[[sources]]", "[disclosure]\nsmall_cell = 41\n\n[[sources]]", 1))
    shown = invoke("preview", path, tmp_path / "study.toml").output
    assert shown.startswith("hidden records of hidden patients")
    assert "cholesterol: hidden of records" in shown
    told = json.loads(invoke("preview", path, tmp_path / "study.toml", "--json").output)
    assert (told["records"], told["patients"]) == (None, None)
    assert told["columns"][0]["covered"] is None
    assert set(told["columns"][0]["counts"]) == {None}


NUMBER = Column(name="x", minimum=0.0, maximum=10.0)
CATEGORY = Column(name="x", kind="category", categories=("a", "b"), other=True, missing="mask")


def bars_of(column, values, least=10):
    features = np.array(values, dtype=np.float32)
    return stewarding._bars(column, features.reshape(len(features), -1), least)


@pytest.mark.parametrize("bound", [{"minimum": 0.0}, {"maximum": 10.0}, {}, {"minimum": float("nan"), "maximum": 1.0}])
def test_a_column_without_bounds_has_no_ranges_because_these_would_be_patients_values(bound):
    found = bars_of(Column(name="x", **bound), [0.0, *[7.25] * 30, *[float("nan")] * 10])
    assert (found.covered, found.labels, found.counts) == (31, [], [])
    assert bars_of(Column(name="x", **bound), [7.25] * 31 + [float("nan")] * 9).covered is None


def test_one_hidden_cell_is_not_what_the_others_leave():
    found = bars_of(
        NUMBER, [0.5] * 20 + [1.5] * 15 + [2.5] * 3 + [float(n) + 0.5 for n in range(3, 10) for _ in "x" * 12]
    )
    assert found.covered == 122
    assert found.counts == [20, 15, None, None, *[12] * 6]
    assert found.labels[0] == "0 to 1"


def test_how_many_have_a_value_is_hidden_where_few_have_none():
    gap = float("nan")
    found = bars_of(NUMBER, [0.5] * 40 + [gap] * 3)
    assert found.covered is None
    assert 40 not in found.counts
    assert bars_of(NUMBER, [0.5] * 40).covered == 40
    assert bars_of(NUMBER, [gap] * 40).covered == 0
    assert bars_of(NUMBER, [0.5] * 9 + [gap] * 40).covered is None


def test_a_category_is_one_table_so_that_two_bars_do_not_give_away_the_third():
    gap = [float("nan")] * 3 + [1.0]
    rows = [[1, 0, 0, 0]] * 20 + [[0, 1, 0, 0]] * 15 + [[0, 0, 1, 0]] * 3 + [gap] * 12
    found = bars_of(CATEGORY, rows)
    assert found.labels == ["a", "b", "other"]
    hidden = [found.covered, *found.counts].count(None)
    assert found.counts[2] is None
    assert hidden >= 2
    assert bars_of(CATEGORY, rows, least=0).counts == [20, 15, 3]
    assert bars_of(Column(name="x", kind="boolean"), [1.0] * 30 + [0.0] * 20).counts == [20, 30]


def test_an_array_shows_how_many_have_it():
    derive = Derivation(concepts=("local:wave|ECG",), aggregate="array", length=3)
    column = Column(name="x", minimum=0.0, maximum=9.0, derive=derive)
    found = bars_of(column, [[1.0, 2.0, 3.0]] * 20 + [[float("nan")] * 3] * 15)
    assert (found.covered, found.labels, found.counts) == (20, [], [])


@given(st.lists(st.integers(0, 25), min_size=10, max_size=10), st.integers(0, 30), st.integers(1, 12))
def test_no_small_count_follows_from_what_a_preview_shows(bins, absent, least):
    values = [place + 0.5 for place, count in enumerate(bins) for _ in range(count)]
    records = len(values) + absent
    assume(records >= least)
    found = bars_of(NUMBER, values + [float("nan")] * absent, least)
    if not values or not found.labels:
        assert found.covered == 0
        return
    rest = [] if not absent else [None if found.covered is None else records - found.covered]
    cells = [*found.counts, *rest]
    assert all(cell is None or cell == true for cell, true in zip(cells, [*bins, absent], strict=False))
    assert all(cell is None or cell >= least for cell in cells)
    hidden = cells.count(None)
    # Each hidden cell may be anything up to their sum.
    assert not hidden or (hidden > 1 and records - sum(cell or 0 for cell in cells) >= least)
