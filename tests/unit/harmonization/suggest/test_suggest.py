import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.harmonization.suggest.sites import (
    CREATININE,
    HEART_RATE,
    LEUKOCYTES,
    POTASSIUM,
    TARGETS,
    THYROTROPIN,
    profiled,
)

from wardround.errors import ClinicalError
from wardround.harmonization import suggest_names, suggest_units
from wardround.harmonization.suggest_rank import Target, suggest
from wardround.harmonization.suggest_words import canonical


def first(found):
    return found.candidates[0].concept if found.candidates else ""


def one(profile, targets=TARGETS, **options):
    return suggest([profile], targets, **options)[0]


@pytest.mark.parametrize(
    ("text", "unit", "median", "target"),
    [
        ("TSH", "uIU/mL", 2.0, THYROTROPIN),
        ("Thyroid Stimulating Hormone", "uU/ML", 2.0, THYROTROPIN),
        ("K", "mEq/L", 4.0, POTASSIUM),
        ("Kalium", "mmol/l", 4.0, POTASSIUM),
        ("WBC x 1000", "K/uL", 8.0, LEUKOCYTES),
        ("Leucocytes", "10^9/L", 8.0, LEUKOCYTES),
        ("CREAT", "mg/dl", 1.0, CREATININE),
        ("HR", "BPM", 80.0, HEART_RATE),
    ],
)
def test_abbreviations_and_other_spellings_find_their_concept(text, unit, median, target):
    found = one(profiled(text, unit=unit, median=median))
    assert first(found) == target.concept
    assert found.candidates[0].score > 0.5


def test_a_unit_of_another_dimension_is_a_veto_however_well_the_name_fits():
    found = one(profiled("Creatinine", unit="mmHg", median=100.0))
    assert CREATININE.concept not in [candidate.concept for candidate in found.candidates]
    vetoed = {candidate.concept: candidate.reasons for candidate in found.vetoed}
    assert vetoed[CREATININE.concept] == ("its unit 'mmHg' is a pressure, the concept's a mass concentration",)


def test_mass_for_amount_of_substance_is_a_veto_until_the_contract_states_the_molar_mass():
    site = profiled("Creatinine", unit="umol/L", median=88.0)
    assert CREATININE.concept in [candidate.concept for candidate in one(site).vetoed]
    found = one(site, (dataclasses.replace(CREATININE, molar_mass=113.12), *TARGETS[1:]))
    assert first(found) == CREATININE.concept
    assert "100% of values in the plausible range" in found.candidates[0].reasons


def test_a_few_rows_in_a_strange_unit_do_not_veto_the_others():
    site = dataclasses.replace(profiled(), units={"mg/dL": 90, "mmHg": 10})
    assert first(one(site)) == CREATININE.concept


def test_values_out_of_range_cost_a_candidate_its_score():
    usual, strange = (one(profiled(median=median)).candidates[0] for median in (1.0, 900.0))
    assert (usual.concept, strange.concept) == (CREATININE.concept, CREATININE.concept)
    assert strange.score < 0.9 < usual.score
    assert "0% of values in the plausible range" in strange.reasons


def test_another_fluid_is_not_taken_for_blood():
    albumin = Target(concept="loinc|1751-7", label="Albumin [Mass/volume] in Serum or Plasma", unit="g/dL")
    in_blood, in_csf, in_fluid = (
        one(profiled("Albumin", specimen=specimen, unit="g/dL"), (albumin,)).candidates[0].score
        for specimen in ("Blood", "Cerebrospinal Fluid (CSF)", "Other Body Fluid")
    )
    assert in_blood > 0.9
    assert max(in_csf, in_fluid) < 0.5


def test_serum_is_told_from_whole_blood():
    serum = Target(concept="loinc|2951-2", label="Sodium [Moles/volume] in Serum or Plasma", unit="mmol/L")
    whole = Target(concept="loinc|2947-0", label="Sodium [Moles/volume] in Blood", unit="mmol/L")
    assert first(one(profiled("Sodium", unit="mEq/L", median=140), (whole, serum))) == serum.concept
    assert first(one(profiled("Sodium, Whole Blood", unit="mEq/L", median=140), (whole, serum))) == whole.concept
    gas = profiled("Sodium", category="Blood Gas", unit="mEq/L", median=140)
    assert first(one(gas, (whole, serum))) == whole.concept


def test_free_is_told_from_total():
    free = Target(concept="loinc|3024-7", label="Thyroxine (T4) free [Mass/volume] in Serum or Plasma")
    total = Target(concept="loinc|3026-2", label="Thyroxine (T4) [Mass/volume] in Serum or Plasma")
    assert first(one(profiled("FT4", unit="ng/dL"), (total, free))) == free.concept
    assert first(one(profiled("T4", unit="ug/dL"), (free, total))) == total.concept


def test_counts_are_told_from_shares_by_their_unit():
    count = Target(concept="loinc|731-0", label="Lymphocytes [#/volume] in Blood by Automated count")
    share = Target(concept="loinc|736-9", label="Lymphocytes/100 leukocytes in Blood by Automated count")
    assert first(one(profiled("Lymphs", unit="%", median=20), (count, share))) == share.concept
    assert first(one(profiled("Lymphs", unit="K/uL", median=2), (share, count))) == count.concept


def test_no_name_no_numbers_and_strange_names_are_answered_with_low_scores():
    for text in ("Freezer temperature of the blood bank's cellar", "Miscellaneous", "", "%%%", "漢字", "x" * 5000):
        assert all(candidate.score < 0.5 for candidate in one(profiled(text, unit="zorkmid")).candidates)


def test_at_most_five_are_shown_and_their_scores_leave_room_for_none():
    many = [dataclasses.replace(CREATININE, concept=f"loinc|{n}", label=f"Creatinine {n}") for n in range(30)]
    found = one(profiled(), many)
    scores = [candidate.score for candidate in found.candidates]
    assert len(scores) == 5
    assert scores == sorted(scores, reverse=True)
    assert sum(scores) < 1


@settings(max_examples=25)
@given(st.permutations(TARGETS), st.permutations(range(3)))
def test_neither_the_order_of_the_concepts_nor_of_the_codes_matters(targets, order):
    sites = [profiled("TSH", unit="uIU/mL"), profiled("Pulse", unit="bpm", median=70), profiled("K+", unit="mmol/L")]
    straight = suggest(sites, TARGETS)
    shuffled = suggest([sites[place] for place in order], targets)
    assert [straight[place] for place in order] == shuffled


@settings(max_examples=60)
@given(st.text(max_size=60), st.text(max_size=15), st.text(max_size=15))
def test_any_names_and_units_are_answered(text, specimen, unit):
    found = one(profiled(text, specimen=specimen, unit=unit))
    assert all(0.0 <= candidate.score < 1.0 for candidate in (*found.candidates, *found.vetoed))


def test_the_reasons_say_what_speaks_for_a_candidate_and_hold_no_value():
    (site,) = [profiled("Creat", median=1.2345)]
    reasons = one(site).candidates[0].reasons
    assert "name matches: creatinine" in reasons
    assert "unit mg/dL fits" in reasons
    assert "100% of values in the plausible range" in reasons
    assert "specimen fits: blood, serum" in reasons
    assert "without embeddings: their weights are not installed" in reasons
    told = " ".join(reasons)
    assert not any(f"{level:.3g}" in told for level in site.quantiles["mg/dL"])


def test_an_embedder_is_named_and_heard():
    class Meaning:
        name = "a test's"

        def __call__(self, texts):
            places = [0 if "beat" in text.lower() or "Heart" in text else 1 for text in texts]
            return np.eye(2, dtype=np.float32)[places]

    site = profiled("Beats", specimen="", unit="/min", median=80)
    without, found = one(site), one(site, embedder=Meaning())
    assert found.embedder == "a test's"
    assert first(found) == HEART_RATE.concept
    assert found.candidates[0].score > without.candidates[0].score
    assert any("means much the same" in reason for reason in found.candidates[0].reasons)
    assert not any("without embeddings" in reason for reason in found.candidates[0].reasons)


def test_a_synonym_of_the_contract_counts_as_a_name():
    named = dataclasses.replace(THYROTROPIN, synonyms=("Hypophysenvorderlappen-Hormon",))
    assert first(one(profiled("Hypophysenvorderlappenhormon", unit="mU/l"), (CREATININE, named))) == named.concept


@pytest.mark.parametrize("targets", [(), (CREATININE, CREATININE)])
def test_no_concept_or_one_twice_is_refused(targets):
    with pytest.raises(ClinicalError, match="each once"):
        suggest([profiled()], targets)


def test_no_codes_give_no_suggestions():
    assert suggest([], TARGETS) == []


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("White Blood Cells", "Leukocytes"),
        ("Haemoglobin", "Hgb"),
        ("Thyroid Stimulating Hormone", "Thyrotropin"),
        ("SGPT", "Alanine Aminotransferase"),
        ("Polys", "neutrophil"),
        ("Leuk\u200bocytes", "leucocyte"),
    ],
)
def test_names_that_mean_one_thing_have_one_canonical_form(left, right):
    assert canonical(left) == canonical(right)


@given(st.text(max_size=80))
def test_canonical_words_stay_as_they_are(text):
    words = canonical(text)
    assert len(set(words)) == len(words)


@pytest.mark.parametrize(
    ("label", "specimen", "kind", "methods"),
    [
        ("Glucose [Mass/volume] in Urine by Test strip", "urine", "mass concentration", {"test strip"}),
        (
            "Leukocytes [#/volume] in Blood by Automated count",
            "whole blood",
            "number concentration",
            {"automated count"},
        ),
        ("Hgb A1c MFr Bld", "whole blood", "ratio", set()),
        ("LDLc SerPl-mCnc", "serum", "mass concentration", set()),
        ("Basophils/100 leukocytes in Blood by Automated count", "whole blood", "ratio", {"automated count"}),
        ("Oxygen [Partial pressure] in Arterial blood", "arterial", "pressure", set()),
        ("Blood urea nitrogen", "", "", set()),
        ("Mean blood pressure", "", "", set()),
    ],
)
def test_the_parts_of_a_name_are_read(label, specimen, kind, methods):
    parts = suggest_names.read(label)
    assert (parts.specimen, parts.kind, parts.methods) == (specimen, kind, methods)


@pytest.mark.parametrize(
    ("spelled", "unit"),
    [
        ("MG/DL", "mg/dL"),
        ("uU/ML", "uU/mL"),
        ("?F", "[degF]"),
        ("giga.l-1", "10*9/L"),
        ("BPM", "/min"),
        ("SECONDS", "s"),
    ],
)
def test_units_are_read_as_hospitals_write_them(spelled, unit):
    assert suggest_units.ucum(spelled) == unit
    assert suggest_units.dimension(unit)


def test_an_unknown_unit_speaks_neither_for_nor_against():
    assert suggest_units.fit(profiled(unit="flurb"), unit="mg/dL") == suggest_units.Fit()


def test_a_share_is_never_taken_for_a_concentration():
    # Dimensionless units would convert to one another: HbA1c in per cent is no mmol/mol of a tenth of it.
    assert suggest_units.fit(profiled(unit="%"), unit="mmol/L").veto
    assert suggest_units.fit(profiled(unit="%"), unit="g/dL").veto


def test_two_doubtful_candidates_leave_room_for_none():
    twice = [dataclasses.replace(CREATININE, concept=f"loinc|{n}") for n in range(2)]
    scores = [candidate.score for candidate in one(profiled(median=900.0), twice).candidates]
    assert 0.5 < sum(scores) < 0.97
