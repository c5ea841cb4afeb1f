"""The quality report: its checks against OHDSI's, its limits, and what of it may leave."""

import csv
import gzip
import json
import math
import os
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wardround.clinical import quality
from wardround.clinical.derivation import Quality
from wardround.clinical.quality import CHECKS, SEX_SPECIFIC, Drift
from wardround.errors import ClinicalError

ROOT = Path(__file__).parents[4]
DQD = Path(os.environ.get("WARDROUND_CONFORMANCE", ROOT.parent / "shared" / "conformance")) / "omop_dq"
DESCRIPTIONS = DQD / "dqd_OMOP_CDMv5.4_Check_Descriptions.csv"
EICU = Path(os.environ.get("WARDROUND_DATA", ROOT.parent / "shared" / "data")) / "eicu_demo"

rows = st.integers(0, 500).flatmap(
    lambda count: st.fixed_dictionaries({"rows": st.just(count), **{name: st.integers(0, count) for name in CHECKS}})
)
reports = st.integers(0, 300).flatmap(
    lambda records: st.builds(
        lambda grouped, covered, patients: quality.filled(
            {"sbp": grouped[0], "": grouped[1]}, {"sbp": covered}, records=records, patients=patients
        ),
        st.tuples(rows, rows),
        st.integers(0, records),
        st.integers(0, records),
    )
)
SBP = {"rows": 200, "unknown_unit": 4, "unparseable": 2, "implausible": 20, "above_maximum": 20}


def filled(row=None, *, covered=80, records=100, **others):
    return quality.filled({"sbp": row or SBP, **others}, {"sbp": covered}, records=records, patients=records)


@pytest.mark.skipif(
    not DESCRIPTIONS.exists(), reason="the OHDSI check descriptions are not here (WARDROUND_CONFORMANCE)"
)
def test_checks_are_named_and_sorted_as_ohdsi_does():
    with DESCRIPTIONS.open(encoding="utf-8") as file:
        theirs = {row["checkName"]: row["kahnCategory"].lower() for row in csv.DictReader(file)}
    named = {check.dqd: check.category for check in CHECKS.values() if check.dqd}
    assert len(named) >= 10
    assert named == {name: theirs[name] for name in named}


def test_limits_are_shares_and_name_the_feature():
    assert quality.check(filled(), Quality()) == []
    assert quality.check(filled(), Quality(unknown_unit_max=0.02, unparseable_max=0.01, implausible_max=0.1)) == []
    for limit in ({"unknown_unit_max": 0.019}, {"unparseable_max": 0.009}, {"implausible_max": 0.09}):
        (refusal,) = quality.check(filled(), Quality(**limit))
        assert "'sbp'" in refusal
        assert next(iter(limit)) in refusal


def test_exactly_the_limit_is_enough():
    assert quality.check(filled({"rows": 100, "implausible": 29}), Quality(implausible_max=0.29)) == []
    assert quality.check(filled(covered=29), Quality(min_coverage=0.29)) == []
    assert len(quality.check(filled(covered=28), Quality(min_coverage=0.29))) == 1


def test_unmapped_codes_are_a_share_of_all_events():
    report = quality.filled({"sbp": SBP, "": {"rows": 100, "unmapped": 30}}, {"sbp": 80}, records=100, patients=90)
    assert quality.check(report, Quality(unmapped_max=0.1)) == []
    assert len(quality.check(report, Quality(unmapped_max=0.09))) == 1


def test_what_cannot_be_told_apart_by_feature_counts_against_all_events():
    report = quality.filled({"sbp": SBP, "": {"rows": 100, "unparseable": 28}}, {"sbp": 80}, records=100, patients=90)
    assert quality.check(report, Quality(unparseable_max=0.1)) == []
    assert ["all events" in text for text in quality.check(report, Quality(unparseable_max=0.09))] == [True]


def test_a_feature_without_events_is_not_covered():
    report = quality.filled({}, {"sbp": 0}, records=10, patients=10)
    assert len(quality.check(report, Quality(min_coverage=0.1))) == 1
    assert quality.check(report, Quality(unknown_unit_max=0.0)) == []
    assert len(quality.check(quality.filled({}, {"sbp": 0}, records=0, patients=0), Quality(min_coverage=0.1))) == 1


@pytest.mark.parametrize(
    "grouped",
    [
        {"dbp": {}},
        {"sbp": {"rows": 3, "typo": 1}},
        {"sbp": {"rows": 3, "unmapped": 4}},
        {"sbp": {"rows": 3, "unmapped": -1}},
    ],
    ids=["feature", "check", "more", "fewer"],
)
def test_counts_that_cannot_be_are_refused(grouped):
    with pytest.raises(ClinicalError):
        quality.filled(grouped, {"sbp": 0}, records=10, patients=10)
    with pytest.raises(ClinicalError):
        quality.filled({}, {"sbp": 11}, records=10, patients=10)
    with pytest.raises(ClinicalError):
        quality.filled({}, {"sbp": 1}, records=10, patients=11)


def numbers(document):
    if isinstance(document, dict):
        return [number for one in document.values() for number in numbers(one)]
    return [document] if isinstance(document, int) else []


@given(report=reports, small_cell=st.sampled_from([0, 1, 5, 11]))
def test_a_hub_sees_no_small_count_and_only_multiples(report, small_cell):
    document = msgspec.to_builtins(quality.summary(report, small_cell))
    assert all(number >= small_cell and number % max(small_cell, 1) == 0 for number in numbers(document))
    assert "patients" not in json.dumps(document)


@given(report=reports, small_cell=st.sampled_from([5, 11]))
def test_what_a_hub_sees_is_the_report_to_half_a_step(report, small_cell):
    told = quality.summary(report, small_cell)
    pairs = [(report.features["sbp"].rows, told.features["sbp"].rows), (report.records, told.records)]
    pairs += [(report.features["sbp"].counts[name], told.features["sbp"].counts[name]) for name in CHECKS]
    pairs += [(report.total(name), told.totals[name]) for name in CHECKS]
    for real, shown in pairs:
        assert (shown is None) == (real < small_cell)
        assert shown is None or abs(shown - real) <= small_cell / 2


def test_drift_is_a_word_and_of_few_records_none():
    def word(psi, covered=80):
        report = quality.filled({}, {"sbp": covered}, records=100, patients=9, drifts={"sbp": Drift(psi, 0.5)})
        return quality.summary(report, 10).features["sbp"].drift

    assert [word(0.05), word(0.1), word(0.3), word(0.3, covered=9)] == ["none", "some", "large", "unknown"]
    assert quality.summary(filled(), 10).features["sbp"].drift == "unknown"


histograms = st.integers(1, 8).flatmap(
    lambda bins: st.tuples(*[st.lists(st.integers(0, 1000), min_size=bins, max_size=bins)] * 2)
)


@given(pair=histograms)
def test_drift_is_symmetric_finite_and_zero_of_itself(pair):
    here, there = pair
    found, back = quality.drift(here, there), quality.drift(there, here)
    assert found.psi == pytest.approx(back.psi)
    assert found.ks == pytest.approx(back.ks)
    assert found.psi >= 0
    assert 0 <= found.ks <= 1 + 1e-12
    assert math.isfinite(found.psi)
    assert quality.drift(here, here) == Drift(0.0, 0.0)


def test_drift_by_hand():
    found = quality.drift([10, 10], [15, 5])
    assert found.ks == 0.25
    near, far = np.array([10.5, 10.5]) / 21, np.array([15.5, 5.5]) / 21
    assert found.psi == pytest.approx(((near - far) * np.log(near / far)).sum())
    assert quality.drift([0, 0], [1, 1]).ks == 1.0
    with pytest.raises(ValueError, match="bins"):
        quality.drift([1], [1, 2])


def test_codes_of_the_organs_of_one_sex():
    assert quality.sex_of("icd10", "C61") == "male"
    assert quality.sex_of("icd10cm", "O80.0") == "female"
    assert quality.sex_of("icd10cm", "N52.9") == "male"
    assert quality.sex_of("icd9cm", "650") == "female"
    assert quality.sex_of("icd9cm", "601.0") == "male"
    assert quality.sex_of("icd9cm", "256.4") == "female"
    assert quality.sex_of("icd9cm", "752.51") == "male"
    for system, code in (
        ("icd10", "C50.9"),
        ("icd10", "I25.1"),
        ("icd10", "N60"),
        ("icd9cm", "611"),
        ("loinc", "C61"),
        ("icd10", ""),
    ):
        assert quality.sex_of(system, code) is None


def test_no_prefix_begins_as_another():
    for prefixes in SEX_SPECIFIC.values():
        assert not [(one, two) for one in prefixes for two in prefixes if one != two and two.startswith(one)]


@pytest.mark.skipif(not EICU.exists(), reason="the eICU demo is not here (WARDROUND_DATA)")
def test_no_diagnosis_of_real_intensive_care_contradicts_the_sex():
    with gzip.open(EICU / "patient.csv.gz", "rt", encoding="utf-8") as file:
        sexes = {row["patientunitstayid"]: row["gender"].lower() for row in csv.DictReader(file)}
    with gzip.open(EICU / "diagnosis.csv.gz", "rt", encoding="utf-8") as file:
        named = [
            (row["patientunitstayid"], code.strip())
            for row in csv.DictReader(file)
            for code in row["icd9code"].split(",")
        ]
    about = [
        (sexes[stay], quality.sex_of("icd10" if code[:1] not in "EV0123456789" else "icd9cm", code))
        for stay, code in named
    ]
    assert len([sex for _, sex in about if sex]) >= 50
    assert all(sex in (None, known) for known, sex in about)
