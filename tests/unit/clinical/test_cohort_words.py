"""What a steward reads of a cohort before approving it."""

from wardround.clinical.cohort_words import words
from wardround.clinical.contract import Column, DataContract, Label
from wardround.clinical.derivation import Cohort, Consent, Criterion, Derivation, Disclosure, Window

YEAR = Window(from_days=-365, to_days=0)


def test_a_cohort_is_told_in_plain_words():
    contract = DataContract(
        columns=(Column(name="sbp", unit="mm[Hg]", derive=Derivation(concepts=("loinc|8480-6",), window=YEAR)),),
        label=Label(
            name="event",
            derive=Derivation(
                concepts=("snomed|22298006",), aggregate="exists", window=Window(from_days=0, to_days=365)
            ),
        ),
        cohort=Cohort(
            index=("icd10cm|I25.*",),
            lookback_days=30,
            criteria=(
                Criterion(
                    name="age",
                    derive=Derivation(concepts=("patient|birth-date",), aggregate="age"),
                    unit="a",
                    minimum=18.0,
                ),
            ),
        ),
        consent=Consent(purpose="HRESCH"),
        disclosure=Disclosure(quasi_identifiers=("sbp",), k=5),
    )
    assert words(contract) == [
        "It reads coded events; a record begins at the first of a patient's events icd10cm|I25.*.",
        "Only: age (the age of patient|birth-date, known from ever before to day 0) from 18 a.",
        "Something must be known of a patient for 30 days before.",
        "sbp is the last of loinc|8480-6, known from day -365 to day 0.",
        "event, which is learned, is the existence of snomed|22298006, known from day 0 to day 365.",
        "Patients must have consented to HRESCH; silence counts as a no.",
        "Over sbp every record has at least 4 like it, and records that stand out are left out.",
    ]


def test_a_table_has_no_cohort_to_tell_of():
    assert words(DataContract(columns=(Column(name="a"),), label=Label(name="y"))) == []


def test_a_column_that_looks_beyond_the_labels_beginning_is_pointed_out():
    late = Derivation(concepts=("loinc|8480-6",), window=Window(from_days=0, to_days=30))
    label = Label(name="event", derive=Derivation(concepts=("snomed|1",), window=Window(from_days=0, to_days=365)))
    columns = (Column(name="sbp", derive=late), Column(name="sex", derive=Derivation(concepts=("patient|sex",))))
    told = words(DataContract(columns=columns, label=label, cohort=Cohort(index=("icd10cm|I25.*",))))
    assert [line for line in told if line.startswith("Careful")] == ["Careful: sbp may be known after event begins."]
