"""What refuses a site's load, what is left out, and what leaves in place of extremes."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wardround.clinical import disclosure
from wardround.clinical.contract import Column, DataContract, Label
from wardround.clinical.derivation import Disclosure
from wardround.clinical.table import LoadReport, StudyTable
from wardround.errors import MissingColumnError

AGE = Column(name="age10")
SEX = Column(name="sex", kind="category", categories=("female", "male"))
BINARY = DataContract(columns=(AGE, SEX), label=Label(name="death"))


def table(labels, *, age=None, patients=None):
    records = len(labels)
    features = np.zeros((records, 3), dtype=np.float32)
    features[:, 0] = 0 if age is None else age
    features[:, 1] = 1
    owners = np.arange(records, dtype=np.int32) if patients is None else np.array(patients, dtype=np.int32)
    report = LoadReport(read=records, used=records, dropped=0)
    return StudyTable(features, np.array(labels, np.float32), np.zeros(records, np.bool_), report, owners)


def admitted(labels, *, contract=BINARY, age=None, patients=None, **rules):
    return disclosure.admission(table(labels, age=age, patients=patients), contract, Disclosure(**rules))


def rules_of(found):
    return [text.partition(":")[0] for text in found.refusals]


def test_without_rules_everybody_is_admitted():
    found = admitted([0, 1, 1])
    assert found.keep.all()
    assert found.refusals == ()
    assert admitted([]).refusals == ()


def test_patients_are_counted_and_not_records():
    assert rules_of(admitted([0, 1] * 10, patients=[*range(10)] * 2, min_patients=11)) == ["min_patients"]
    assert admitted([0, 1] * 10, patients=[*range(10)] * 2, min_patients=10).refusals == ()


def test_a_site_with_one_class_is_refused():
    assert rules_of(admitted([1.0] * 40, min_class=1)) == ["min_class"]
    assert rules_of(admitted([1.0] * 40 + [0.0] * 9, min_class=10)) == ["min_class"]
    assert admitted([1.0] * 40 + [0.0] * 10, min_class=10).refusals == ()


def test_a_class_is_of_patients_too():
    found = admitted([1, 1, 1, 0, 0, 0], patients=[0, 0, 0, 1, 2, 3], min_class=2)
    assert rules_of(found) == ["min_class"]
    assert "death = 1" in found.refusals[0]


def test_every_class_of_several_is_asked_for():
    stages = DataContract(
        columns=(AGE, SEX), label=Label(name="stage", outcome="multiclass", classes=("i", "ii", "iii"))
    )
    found = admitted([0] * 9 + [1] * 9, contract=stages, min_class=5)
    assert [text for text in found.refusals if "stage = iii" in text] == list(found.refusals)


def test_survival_asks_for_events_and_for_the_censored():
    lived = DataContract(columns=(AGE, SEX), label=Label(name="days", outcome="survival", unit="d", event="died"))
    found = admitted([[float(day), 1.0] for day in range(30)], contract=lived, min_class=5)
    assert ["died = 0" in text for text in found.refusals] == [True]
    early = [[float(day), float(day % 2)] for day in range(20)]
    late = [[float(day + 100), float(day % 2)] for day in range(20)]
    apart = {"contract": lived, "age": [30] * 20 + [70] * 20, "quasi_identifiers": ("age10",)}
    assert admitted(early + late, t=0.2, max_suppressed=1.0, min_patients=1, **apart).refusals
    assert not admitted(early + late, t=0.3, l=2, **apart).refusals
    assert admitted(early + late, l=3, **apart).refusals


def test_diversity_is_asked_of_events_and_not_of_follow_up_times():
    lived = DataContract(columns=(AGE, SEX), label=Label(name="days", outcome="survival", unit="d", event="died"))
    assert not admitted([[365.0, float(place % 2)] for place in range(20)], contract=lived, l=2).refusals
    assert admitted([[float(place), 1.0] for place in range(20)], contract=lived, l=2).refusals


def test_small_groups_are_left_out_with_their_labels_up_to_a_share():
    ages, labels = [30] * 50 + [90] * 3, [0, 1] * 25 + [1] * 3
    found = admitted(labels, age=ages, quasi_identifiers=("age10", "sex"), k=5, max_suppressed=0.06)
    assert found.refusals == ()
    assert found.keep.tolist() == [True] * 50 + [False] * 3
    found = admitted(labels, age=ages, quasi_identifiers=("age10", "sex"), k=5, max_suppressed=0.05)
    assert rules_of(found) == ["k, l, t"]
    assert not found.keep.any()


def test_exactly_the_share_may_be_left_out():
    ages, labels = [30] * 71 + [90] * 29, [0, 1] * 50
    assert not admitted(labels, age=ages, quasi_identifiers=("age10",), k=30, max_suppressed=0.29).refusals
    assert admitted(labels, age=ages, quasi_identifiers=("age10",), k=30, max_suppressed=0.28).refusals


def test_a_group_of_one_label_is_left_out_for_l():
    found = admitted(
        [1] * 10 + [0, 1] * 10, age=[30] * 10 + [50] * 20, quasi_identifiers=("age10",), l=2, max_suppressed=0.5
    )
    assert found.keep.tolist() == [False] * 10 + [True] * 20


def test_what_is_left_out_does_not_count_as_a_patient_or_a_class():
    ages, labels = [30] * 20 + [90] * 4, [0, 1] * 8 + [0] * 4 + [1] * 4
    rules = {"age": ages, "quasi_identifiers": ("age10",), "k": 5, "max_suppressed": 0.5}
    assert rules_of(admitted(labels, min_patients=21, **rules)) == ["min_patients"]
    assert rules_of(admitted(labels, min_class=9, **rules)) == ["min_class"]
    assert not admitted(labels, min_class=8, min_patients=20, **rules).refusals


def test_a_category_is_one_quasi_identifier_with_all_its_columns():
    whole = table([0, 1] * 10)
    whole.features[10:, 1:] = (0, 1)
    found = disclosure.admission(whole, BINARY, Disclosure(quasi_identifiers=("sex",), k=11, max_suppressed=1.0))
    assert not found.keep.any()
    assert disclosure.admission(whole, BINARY, Disclosure(quasi_identifiers=("sex",), k=10)).keep.all()


def test_a_quasi_identifier_that_is_no_column_is_an_error_by_name():
    with pytest.raises(MissingColumnError, match="postal"):
        admitted([0, 1], quasi_identifiers=("postal",), k=2)


def test_the_hub_is_told_no_rule_and_no_count():
    assert not re.search(r"\d", disclosure.TOLD_TO_HUB)
    assert not any(name in disclosure.TOLD_TO_HUB for name in Disclosure.__struct_fields__ if len(name) > 1)


one = st.builds(
    Disclosure,
    min_patients=st.integers(0, 9),
    min_class=st.integers(0, 9),
    small_cell=st.integers(0, 20),
    quasi_identifiers=st.lists(st.sampled_from(["age10", "sex"]), unique=True).map(tuple),
    k=st.integers(1, 5),
    l=st.integers(1, 3),
    t=st.floats(0, 1),
    max_suppressed=st.floats(0, 1),
)


@given(study=one, site=one)
def test_a_site_may_ask_for_more_and_never_for_less(study, site):
    both = disclosure.stricter(study, site)
    for rules in (study, site):
        assert set(both.quasi_identifiers) >= set(rules.quasi_identifiers)
        for name in ("min_patients", "min_class", "small_cell", "k", "l"):
            assert getattr(both, name) >= getattr(rules, name)
        assert both.t <= rules.t
        assert both.max_suppressed <= rules.max_suppressed
    assert disclosure.stricter(study, study) == study


@given(counts=st.lists(st.integers(0, 10**9)), base=st.integers(1, 50))
def test_rounded_counts_are_multiples_and_near(counts, base):
    found = disclosure.rounded(counts, base)
    assert all(
        told % base == 0 and abs(told - real) <= base / 2 for told, real in zip(found.tolist(), counts, strict=True)
    )


@given(values=st.lists(st.integers(0, 99), max_size=60), least=st.integers(0, 12), step=st.sampled_from([5, 10, 50]))
def test_ranges_hold_at_least_so_many_and_what_they_stand_for(values, least, step):
    edges = list(range(0, 101, step))
    counts = [sum(low <= value < low + step for value in values) for low in edges[:-1]]
    found = disclosure.spread(counts, edges, least)
    if len(values) < max(least, 1):
        assert found is None
        return
    ordered = sorted(values)
    for (low, high), stands_for in (
        (found.lowest, ordered[0]),
        (found.middle, ordered[(len(values) - 1) // 2]),
        (found.highest, ordered[-1]),
    ):
        assert low <= stands_for < high
        assert sum(low <= value < high for value in values) >= least


@given(values=st.lists(st.integers(0, 99), min_size=20, max_size=60))
def test_one_patient_far_out_moves_no_edge(values):
    # The lowest and highest range depend on where the tenth patient is, and not the first.
    edges = list(range(0, 101, 10))
    counts = [sum(low <= value < low + 10 for value in values) for low in edges[:-1]]
    found = disclosure.spread(counts, edges, 10)
    ordered = sorted(values)
    assert found.lowest == (0, ordered[9] // 10 * 10 + 10)
    assert found.highest == (ordered[-10] // 10 * 10, 100)


def test_bins_need_rising_edges():
    with pytest.raises(ValueError, match="rising"):
        disclosure.spread([1, 2], [0, 1, 1], 1)
    with pytest.raises(ValueError, match="multiples"):
        disclosure.rounded([1], 0)
