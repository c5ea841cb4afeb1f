"""The bar: MIMIC-III's laboratory items find their LOINC codes among all LOINC names of the data at hand."""

import pytest

from wardround.harmonization import confirmations
from wardround.harmonization.confirmations import Codes, Entry
from wardround.harmonization.suggest_rank import suggest

mapping = pytest.importorskip("benchmarks.mapping")

pytestmark = pytest.mark.skipif(
    not (mapping.DATA / "mimic3_demo/d_labitems.csv.gz").exists(), reason="the data are not here; see WARDROUND_DATA"
)


@pytest.fixture(scope="module")
def found():
    pairs = mapping.mimic_labs()
    return pairs, suggest([one for one, _ in pairs], mapping.targets())


def test_the_first_is_right_in_eight_of_ten_and_one_of_five_in_97_of_100(found):
    pairs, suggested = found
    truths = {one.code: truth for one, truth in mapping.accepted(pairs)}
    ranked = {one.code: [candidate.concept[6:] for candidate in one.candidates] for one in suggested}
    first = sum(ranked[code][0] in truth for code, truth in truths.items())
    five = sum(bool(truth & set(ranked[code])) for code, truth in truths.items())
    assert len(truths) >= 60
    assert first / len(truths) >= 0.90
    assert five / len(truths) >= 0.97


def test_against_the_truth_to_the_letter_the_first_is_right_in_eight_of_ten(found):
    pairs, suggested = found
    hits = [
        one.candidates[0].concept[6:] in truth
        for one, (_, truth) in zip(suggested, pairs, strict=True)
        if one.candidates
    ]
    assert sum(hits) / len(pairs) >= 0.80


def test_none_is_accepted_by_itself(found):
    _, suggested = found
    proposed = {
        f"{one.system}|{one.code}": Entry(to=one.candidates[0].concept, by="suggest", score=one.candidates[0].score)
        for one in suggested
    }
    assert confirmations.translations(Codes(codes=proposed)) == {}


def test_a_share_is_never_suggested_for_a_count(found):
    _, suggested = found
    for code in ("51146", "51200", "51244", "51254"):
        (one,) = [one for one in suggested if one.code == code]
        assert any("'%' is a ratio" in candidate.reasons[0] for candidate in one.vetoed)
