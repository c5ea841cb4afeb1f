"""Contracts that derive columns from events: what can be met, and what is refused before any site reads it."""

import msgspec
import pytest

from wardround.clinical.contract import (
    Column,
    DataContract,
    Label,
    check,
    feature_names,
    numeric_features,
    range_scaling,
)
from wardround.clinical.derivation import Cohort, Consent, Criterion, Derivation, Disclosure, Window, concepts
from wardround.errors import CodecError

LAST = Derivation(concepts=("loinc|2093-3",))
LABEL = Label(name="event", derive=Derivation(concepts=("snomed|22298006",), aggregate="exists"))
COLUMN = Column(name="cholesterol", unit="mg/dL", minimum=50.0, maximum=500.0, derive=LAST)
CONTRACT = DataContract(columns=(COLUMN,), label=LABEL, cohort=Cohort(index=("icd10cm|I25.*",)))


def changed(what, **values):
    return msgspec.structs.replace(what, **values)


def column(**values):
    return changed(CONTRACT, columns=(changed(COLUMN, **values),))


def derived(**values):
    return column(derive=changed(LAST, **values))


def test_a_contract_with_a_cohort_is_one():
    check(CONTRACT)
    check(
        changed(CONTRACT, consent=Consent(purpose="HRESCH"), disclosure=Disclosure(quasi_identifiers=("cholesterol",)))
    )


@pytest.mark.parametrize(
    ("contract", "words"),
    [
        (changed(CONTRACT, cohort=None), "no cohort"),
        (column(derive=None), "says how each column"),
        (changed(CONTRACT, label=changed(LABEL, derive=None)), "says how each column"),
        (changed(CONTRACT, patient="mrn"), "leave patient out"),
        (changed(CONTRACT, cohort=Cohort(index=())), "at least one concept"),
        (changed(CONTRACT, cohort=Cohort(index=("I25",))), "no concept"),
        (changed(CONTRACT, cohort=Cohort(index=("@heart",))), "no value set"),
        (derived(concepts=("loinc|20*3-3",)), "no concept"),
        (derived(concepts=("loinc|*",)), "no concept"),
        (derived(window=Window(from_days=1, to_days=1)), "ends before"),
        (column(minimum=None, derive=changed(LAST, aggregate="mean")), "minimum and maximum"),
        (derived(aggregate="age"), "birth-date"),
        (derived(aggregate="array"), "a transform"),
        (derived(transform="waveform:window@1", length=3), "a transform"),
        (derived(codes={"a": "b"}), "not numbers"),
        (
            column(
                kind="category", categories=("a",), minimum=None, maximum=None, derive=changed(LAST, aggregate="max")
            ),
            "category",
        ),
        (changed(CONTRACT, holdout_column="test"), "says how each column"),
        (changed(CONTRACT, disclosure=Disclosure(quasi_identifiers=("age",))), "quasi-identifier"),
        (
            changed(CONTRACT, cohort=Cohort(index=("icd10cm|I25.*",), criteria=(Criterion(name="x", derive=LAST),))),
            "neither a minimum",
        ),
        (
            changed(
                CONTRACT,
                cohort=Cohort(
                    index=("icd10cm|I25.*",),
                    criteria=(Criterion(name="x", derive=changed(LAST, aggregate="mean"), minimum=1),),
                ),
            ),
            "minimum and maximum",
        ),
        (
            changed(CONTRACT, label=Label(name="t", outcome="survival", unit="d", event="e", derive=LAST)),
            "time_to_first",
        ),
    ],
)
def test_what_cannot_be_met_is_refused_and_says_why(contract, words):
    with pytest.raises(CodecError, match=words):
        check(contract)


def test_value_sets_expand_once_and_in_order():
    sets = {"hypertension": ("snomed|38341003", "snomed|59621000")}
    assert concepts(("@hypertension", "icd10|I10", "snomed|59621000"), sets) == (
        "snomed|38341003",
        "snomed|59621000",
        "icd10|I10",
    )


def test_an_array_takes_as_many_features_as_it_is_long():
    made = derived(aggregate="array", transform="waveform:window@1", length=3)
    wide = changed(made, columns=(changed(made.columns[0], missing="mask"),), scaling="bounds")
    check(wide)
    assert feature_names(wide) == ("cholesterol[0]", "cholesterol[1]", "cholesterol[2]", "cholesterol=missing")
    assert numeric_features(wide) == (True, True, True, False)
    assert range_scaling(wide) == ([275.0, 275.0, 275.0, 0.0], [112.5, 112.5, 112.5, 1.0])


def test_a_contract_reads_back_from_canonical_bytes():
    from wardround.codec import canonical

    assert canonical.decode(canonical.encode(CONTRACT), DataContract) == CONTRACT
