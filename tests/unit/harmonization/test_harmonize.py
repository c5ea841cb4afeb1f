"""From events to the study table: cohorts, columns, labels, and what is said of what was left out."""

import math

import msgspec
import numpy as np
import pytest
from tests.unit.harmonization.reference import Fact
from tests.unit.harmonization.test_feature_plan import DAY, Recorded, vars_of

from wardround.clinical.contract import Column, DataContract, Label
from wardround.clinical.derivation import Cohort, Consent, Conversion, Criterion, Derivation, Window
from wardround.errors import ClinicalError, TooFewRecordsError
from wardround.harmonization.harmonize import SiteData, harmonize

KEY = bytes(range(64))
EVER = Window(from_days=None, to_days=None)
INDEX = ("icd10cm", "I25.10")


def column(name, *concepts, aggregate="last", window=EVER, **rest):
    derived = {
        field: rest.pop(field)
        for field in ("codes", "molar_mass", "conversions", "at_days", "transform", "length")
        if field in rest
    }
    derive = Derivation(concepts=concepts, aggregate=aggregate, window=window, **derived)
    return Column(name=name, derive=derive, **({"missing": "mean"} | rest))


def contract_of(*columns, label=None, **rest):
    outcome = label or Label(
        name="event", derive=Derivation(concepts=("snomed|22298006",), window=EVER, aggregate="exists")
    )
    cohort = rest.pop("cohort", Cohort(index=("icd10cm|I25.*",)))
    return DataContract(
        columns=columns, label=outcome, cohort=cohort, scaling="none", holdout=0.0, min_records=1, **rest
    )


class Made:
    """Facts of some patients, row by row."""

    def __init__(self):
        self.facts = []

    def add(self, patient, system, code, day=0.0, number=None, unit=None, value=None, **rest):
        at = None if day is None else round(day * DAY)
        known = rest.pop("known", None)
        fields = {"status": None, "order_key": None} | rest
        known = None if known is None else round(known * DAY)
        row = len(self.facts)
        self.facts.append(Fact(patient, at, known, system, code, number, value, unit, **fields, source="s", row=row))
        return self

    def patient(self, name, day=100):
        return self.add(name, *INDEX, day)


def run(contract, made, **site):
    data = SiteData(sources=[Recorded("s", made.facts, size=5)], key=KEY, **site)
    return harmonize(contract, data, "study")


def cells(found, name):
    order = np.argsort(found.assembled.cells["patient"])
    return found.assembled.cells[name][order].tolist()


def test_numbers_come_in_the_contracts_unit_whatever_the_site_uses():
    contract = contract_of(
        column("cholesterol", "loinc|2093-3", unit="mg/dL", minimum=50, maximum=500, molar_mass=386.65),
        column("fever", "loinc|8310-5", unit="Cel", minimum=30, maximum=45, aggregate="max"),
    )
    made = Made().patient("p")
    made.add("p", "loinc", "2093-3", 90, 5.172, "mmol/L").add("p", "loinc", "8310-5", 90, 100.4, "[degF]")
    found = run(contract, made)
    assert found.assembled.cells["cholesterol"] == pytest.approx([5.172 * 38.665])
    assert found.assembled.cells["fever"] == pytest.approx([38.0])


def test_haemoglobin_a1c_converts_by_its_own_formula_and_never_by_dimension():
    made = Made().patient("p").add("p", "loinc", "4548-4", 90, 55.0, "mmol/mol")
    plain = contract_of(column("a1c", "loinc|4548-4", unit="%", minimum=3, maximum=20))
    found = run(plain, made)
    assert math.isnan(found.assembled.cells["a1c"][0])
    assert found.told.unknown_units == {"a1c": ["mmol/mol"]}
    assert found.told.facts["a1c"] == {"unknown_unit": 1}
    listed = Conversion(unit="mmol/mol", factor=0.09148, offset=2.152)
    whole = contract_of(column("a1c", "loinc|4548-4", unit="%", minimum=3, maximum=20, conversions=(listed,)))
    assert run(whole, made).assembled.cells["a1c"] == pytest.approx([7.1834])


def test_a_temperature_charted_in_two_units_is_one():
    made = Made().patient("p")
    for day in (90, 91):
        made.add("p", "local:icu", "677", day, 37.0, "Cel").add("p", "local:icu", "679", day, 98.6, "[degF]")
    both = {("local:icu", code): ("loinc", "8310-5") for code in ("677", "679")}
    contract = contract_of(column("times", "loinc|8310-5", unit="Cel", aggregate="count"))
    numeric = contract_of(column("mean", "loinc|8310-5", unit="Cel", minimum=30, maximum=45, aggregate="mean"))
    found = run(numeric, made, translations=both)
    assert found.assembled.cells["mean"] == pytest.approx([37.0])
    assert found.told.facts["mean"] == {"used": 2, "duplicate": 2}
    assert run(contract, made, translations=both).told.facts["times"]["used"] == 4, "a count has no unit to compare in"


def test_two_units_under_one_local_code_each_convert():
    # MIMIC's C-reactive protein comes in mg/dL and in mg/L under one item.
    made = Made().patient("p").add("p", "local:mimic", "50889", 90, 4.2, "mg/dL")
    made.patient("q").add("q", "local:mimic", "50889", 90, 42.0, "mg/L")
    contract = contract_of(column("crp", "loinc|1988-5", unit="mg/L", minimum=0, maximum=500))
    found = run(contract, made, translations={("local:mimic", "50889"): ("loinc", "1988-5")})
    assert cells(found, "crp") == pytest.approx([42.0, 42.0])


def test_what_was_known_after_the_window_does_not_count():
    made = Made().patient("p", 100)
    made.add("p", "loinc", "2093-3", 99, 200.0, "mg/dL", known=101).add("p", "loinc", "2093-3", 50, 150.0, "mg/dL")
    contract = contract_of(column("before", "loinc|2093-3", unit="mg/dL", window=Window(from_days=None, to_days=0)))
    assert run(contract, made).assembled.cells["before"] == [150.0]


def test_a_coded_value_becomes_a_category_and_an_unknown_one_a_gap():
    sex = column(
        "sex", "patient|sex", kind="category", categories=("f", "m"), codes={"female": "f", "male": "m"}, missing="mask"
    )
    smoker = column(
        "smoker", "loinc|72166-2", kind="category", categories=("never", "ever"), codes={"snomed|266919005": "never"}
    )
    made = Made().patient("p").patient("q").patient("r")
    made.add("p", "patient", "sex", None, value="female").add("q", "patient", "sex", None, value="unknown")
    made.add("p", "loinc", "72166-2", 90, value="snomed|266919005").add("q", "loinc", "72166-2", 90, value="snomed|1")
    found = run(contract_of(sex, smoker), made)
    assert sorted(map(str, cells(found, "sex"))) == ["None", "None", "f"]
    assert sorted(map(str, cells(found, "smoker"))) == ["None", "None", "never"]
    assert found.told.unknown_values == {"sex": 1, "smoker": 1}
    assert found.table().features.shape == (3, 5)


def test_ages_are_completed_years_and_end_at_ninety():
    contract = contract_of(column("age", "patient|birth-date", unit="a", aggregate="age"))
    made = Made()
    for name, birth in (("p", 100 - 365 * 40), ("q", 100 - 365 * 300)):
        made.patient(name).add(name, "patient", "birth-date", birth)
    assert sorted(run(contract, made).assembled.cells["age"].tolist()) == [39.0, 90.0]


def test_a_slope_is_per_day_and_exact_for_a_straight_line():
    contract = contract_of(
        column("trend", "loinc|2160-0", unit="mg/dL", minimum=0, maximum=20, aggregate="slope"),
        column("rest", "loinc|2160-0", unit="mg/dL", minimum=0, maximum=20, aggregate="median"),
    )
    made = Made().patient("p").patient("q")
    for day in range(80, 100, 3):
        made.add("p", "loinc", "2160-0", day, 1.0 + 0.25 * (day - 80), "mg/dL")
    made.add("q", "loinc", "2160-0", 90, 1.0, "mg/dL")
    found = run(contract, made)
    trend = found.assembled.cells["trend"].tolist()
    assert min(trend, key=math.isnan) == pytest.approx(0.25, abs=1e-6)
    assert sum(map(math.isnan, trend)) == 1
    assert 1.0 + 0.25 * 9 in cells(found, "rest")


def test_survival_is_the_event_or_censored_when_last_seen_or_at_the_end_of_the_window():
    label = Label(
        name="time",
        outcome="survival",
        unit="d",
        event="dead",
        derive=Derivation(
            concepts=("patient|death",), window=Window(from_days=0, to_days=365), aggregate="time_to_first"
        ),
    )
    sex = column("sex", "patient|sex", kind="category", categories=("m", "f"))
    made = Made().patient("p").patient("q").patient("r").patient("s")
    made.add("p", "patient", "death", 150).add("q", "patient", "seen", 220)
    made.add("r", "patient", "seen", 300).add("r", "patient", "death", 900)
    found = run(contract_of(sex, label=label), made)
    rows = {(day, dead) for day, dead in found.table().labels.tolist()}
    assert rows == {(50.0, 1.0), (120.0, 0.0), (365.0, 0.0)}, "who dies later was alive at the end"
    assert found.table().report.dropped == 1, "who was never seen again has no follow-up"


def test_criteria_consent_and_history_leave_people_out_and_say_how_many():
    cohort = Cohort(
        index=("icd10cm|I25.*",),
        lookback_days=30,
        criteria=(
            Criterion(
                name="adult",
                derive=Derivation(concepts=("patient|birth-date",), window=EVER, aggregate="age"),
                unit="a",
                minimum=18,
            ),
            Criterion(
                name="no dialysis",
                derive=Derivation(concepts=("snomed|265764009",), window=EVER, aggregate="count"),
                minimum=1,
                exclude=True,
            ),
        ),
    )
    contract = contract_of(
        column("sex", "patient|sex", kind="category", categories=("m", "f")),
        cohort=cohort,
        consent=Consent(purpose="HRESCH"),
    )
    made = Made()
    for name in "abcde":
        made.patient(name, 10_000).add(name, "patient", "birth-date", -5000)
        made.add(name, "patient", "consent:HRESCH", 1, value="permit").add(name, "patient", "seen", 9_000)
    made.add("a", "snomed", "265764009", 9_500)
    made.add("b", "patient", "consent:HRESCH", 2, value="deny")
    made.patient("f", 10_000).add("f", "patient", "birth-date", -5000)
    made.patient("g", 10_000).add("g", "patient", "consent:HRESCH", 1, value="permit")
    made.add("g", "patient", "birth-date", 9_000).add("g", "patient", "seen", 9_000)
    made.add("h", "patient", "birth-date", 0).add("h", "patient", "birth-date", 800).patient("h", 10_000)
    found = run(contract, made)
    assert found.assembled.records == 3
    assert found.told.left_out == {
        "identity conflict": 1,
        "no consent": 2,
        "criterion adult": 1,
        "criterion no dialysis": 1,
    }


def test_each_index_event_makes_a_record_and_a_patients_records_stay_together():
    contract = contract_of(
        column("last", "loinc|2093-3", unit="mg/dL", window=Window(from_days=-10, to_days=0)),
        cohort=Cohort(index=("icd10cm|I25.*",), pick="each"),
    )
    contract = msgspec.structs.replace(contract, holdout=0.5)
    made = Made()
    for name in "pqrs":
        for day in (100, 200, 300):
            made.patient(name, day).add(name, "loinc", "2093-3", day - 1, day / 2, "mg/dL")
    found = run(contract, made)
    assert len(found.table().labels) == 12
    assert found.table().features[:, 0].tolist() == [50.0, 100.0, 150.0] * 4
    for patient in range(4):
        assert len(set(found.table().held_out[found.table().patients == patient].tolist())) == 1
    assert found.table().held_out.sum() == 6


def test_the_table_does_not_depend_on_the_order_of_the_facts():
    contract = contract_of(
        column("last", "loinc|2093-3", unit="mg/dL"),
        column("mean", "loinc|2093-3", unit="mg/dL", minimum=1, maximum=500, aggregate="mean"),
    )
    made = Made()
    for place in range(30):
        made.patient(f"p{place}").add(f"p{place}", "loinc", "2093-3", 50 + place % 3, 100 + place / 7, "mg/dL")
        made.add(f"p{place}", "loinc", "2093-3", 60, 130 + place / 3, "mg/dL")
    forward = run(contract, made)
    made.facts.reverse()
    backward = run(contract, made)
    assert forward.table().features.tobytes() == backward.table().features.tobytes()
    assert forward.assembled.cells["patient"].tolist() == backward.assembled.cells["patient"].tolist()


def test_pseudonyms_differ_between_studies():
    contract = contract_of(column("last", "loinc|2093-3", unit="mg/dL"))
    made = Made().patient("p")
    data = SiteData(sources=[Recorded("s", made.facts)], key=KEY)
    one, other = (harmonize(contract, data, study).assembled.cells["patient"][0] for study in ("a", "b"))
    assert one != other
    assert "p" not in {one, other}


def test_an_empty_source_is_too_few_records():
    found = run(contract_of(column("last", "loinc|2093-3", unit="mg/dL")), Made())
    with pytest.raises(TooFewRecordsError):
        found.table()


def test_no_message_or_repr_holds_a_value():
    contract = contract_of(column("last", "loinc|2093-3", unit="mg/dL", missing="refuse"))
    made = Made().patient("SECRET-PATIENT").add("SECRET-PATIENT", "loinc", "2093-3", 50, 987.654, "SECRET-UNIT")
    with pytest.raises(ClinicalError) as caught:
        run(contract, made).table()
    assert "SECRET" not in str(caught.value)
    assert "987" not in str(caught.value)
    found = run(contract_of(column("last", "loinc|2093-3", unit="mg/dL")), made)
    assert "SECRET-PATIENT" not in repr(found) + repr(found.assembled) + repr(found.table())


def test_a_birth_counts_from_the_day_of_birth_whenever_it_was_written_down():
    contract = contract_of(column("age", "patient|birth-date", unit="a", aggregate="age", window=Window()))
    made = Made().patient("p").add("p", "patient", "birth-date", 100 - 366 * 40, known=5000)
    made.add("p", "patient", "birth-date", 100 - 366 * 40, known=-9000)
    assert run(contract, made).assembled.cells["age"].tolist() == [40.0]


def test_what_has_no_time_is_in_no_window_but_ever():
    during = Window(from_days=0, to_days=365)
    label = Label(name="event", derive=Derivation(concepts=("snomed|1",), window=during, aggregate="exists"))
    contract = contract_of(
        column("before", "snomed|1", aggregate="exists", window=Window(from_days=-365, to_days=0)),
        column("ever", "snomed|1", aggregate="exists", window=Window(ever=True)),
        label=label,
    )
    found = run(contract, Made().patient("p").add("p", "snomed", "1", None)).assembled.cells
    assert (found["event"][0], found["before"][0], found["ever"][0]) == (0.0, 0.0, 1.0)


def test_a_sum_and_a_slope_are_not_held_against_the_range_of_one_value():
    bounds = {"unit": "mg/dL", "minimum": 50.0, "maximum": 500.0}
    contract = contract_of(
        column("sum", "loinc|2093-3", aggregate="sum", **bounds),
        column("slope", "loinc|2093-3", aggregate="slope", **bounds),
    )
    made = Made().patient("p")
    for day, value in ((10, 180.0), (20, 190.0), (30, 200.0)):
        made.add("p", "loinc", "2093-3", day, value, "mg/dL", known=90)
    assert run(contract, made).table().features.tolist() == [[570.0, pytest.approx(1.0)]]


def test_who_was_seen_after_the_horizon_is_followed_to_its_end():
    label = Label(
        name="time",
        outcome="survival",
        unit="d",
        event="dead",
        derive=Derivation(
            concepts=("patient|death",), window=Window(from_days=0, to_days=365), aggregate="time_to_first"
        ),
    )
    made = Made().patient("p").add("p", "patient", "seen", 110).add("p", "patient", "seen", 900)
    made.patient("q").add("q", "patient", "seen", 900)
    sex = column("sex", "patient|sex", kind="category", categories=("m", "f"))
    assert run(contract_of(sex, label=label), made).table().labels.tolist() == [[365.0, 0.0], [365.0, 0.0]]


def test_a_number_that_is_only_a_bound_is_no_number():
    from wardround.harmonization.events import batch

    class Bounds(Recorded):
        def batches(self, scope):
            for one in super().batches(scope):
                columns = {name: one.column(name) for name in one.schema.names if name != "source"}
                bounds = ["<" if number == 5.0 else None for number in one.column("number").to_pylist()]
                yield batch(columns | {"comparator": bounds}, source="s")

    contract = contract_of(column("last", "loinc|2093-3", unit="mg/dL"))
    made = Made().patient("p").add("p", "loinc", "2093-3", 50, 80.0, "mg/dL")
    made.add("p", "loinc", "2093-3", 60, 5.0, "mg/dL")
    data = SiteData(sources=[Bounds("s", made.facts)], key=KEY)
    found = harmonize(contract, data, "study")
    assert found.assembled.cells["last"].tolist() == [80.0]
    assert found.told.bounds == {"s": 1}


def test_what_was_corrected_stands_over_what_was_final_at_one_instant():
    contract = contract_of(
        column("last", "loinc|2093-3", unit="mg/dL"), column("first", "loinc|2093-3", unit="mg/dL", aggregate="first")
    )
    made = Made().patient("p").add("p", "loinc", "2093-3", 50, 6.0, "mg/dL", status="corrected")
    made.add("p", "loinc", "2093-3", 50, 5.0, "mg/dL", status="final")
    assert run(contract, made).assembled.cells["last"].tolist() == [6.0]
    assert run(contract, made).assembled.cells["first"].tolist() == [6.0]


def test_a_tie_between_texts_does_not_hang_on_who_else_is_there():
    contract = contract_of(column("kind", "snomed|1", kind="category", categories=("a", "b")))
    alone = Made().patient("p").add("p", "snomed", "1", 50, value="b").add("p", "snomed", "1", 50, value="a")
    alone.facts[1:] = [Fact(**{**vars_of(fact), "row": 7}) for fact in alone.facts[1:]]
    crowd = Made().patient("o").add("o", "snomed", "1", 50, value="a")
    for facts in (alone.facts, crowd.facts + alone.facts):
        data = SiteData(sources=[Recorded("s", facts)], key=KEY)
        cells_of = harmonize(contract, data, "study").assembled
        names = set(cells_of.cells["kind"].tolist())
        assert "b" in names


@pytest.mark.parametrize(
    "said",
    [
        [(1, "permit", None), (2, "deny", None)],
        [(1, "permit", None), (1, "deny", None)],
        [(1, "permit", None), (None, "deny", None)],
        [(1, "permit", None), (2, "deny", "preliminary")],
        [(1, "permit", None), (2, "perhaps", None)],
        [(20_000, "permit", None)],
        [(None, "permit", None)],
        [(1, "permit", "unknown")],
    ],
    ids=["later", "tie", "undated deny", "preliminary", "unknown value", "future", "undated permit", "unknown status"],
)
def test_what_is_not_clearly_a_permission_denies(said):
    contract = contract_of(
        column("sex", "patient|sex", kind="category", categories=("m", "f")), consent=Consent(purpose="HRESCH")
    )
    made = Made().patient("p")
    for day, value, status in said:
        made.add("p", "patient", "consent:HRESCH", day, value=value, status=status)
    assert run(contract, made, now_us=10_000 * DAY).told.left_out == {"no consent": 1}


def test_a_denial_that_was_a_mistake_is_as_if_never_said():
    contract = contract_of(
        column("sex", "patient|sex", kind="category", categories=("m", "f")), consent=Consent(purpose="HRESCH")
    )
    made = Made().patient("p").add("p", "patient", "consent:HRESCH", 1, value="permit")
    made.add("p", "patient", "consent:HRESCH", 2, value="deny", status="entered-in-error")
    assert run(contract, made, now_us=10_000 * DAY).assembled.records == 1


def test_arrays_of_two_sources_with_one_name_are_two():
    from wardround.harmonization.events import batch

    class Signals(Recorded):
        def batches(self, scope):
            for one in super().batches(scope):
                columns = {name: one.column(name) for name in one.schema.names if name != "source"}
                names = ["rec100" if code == "mlii" else None for code in one.column("code").to_pylist()]
                yield batch(columns | {"array": names}, source=self.name)

        def arrays(self, names):
            level = 1.0 if self.name == "s1" else 2.0
            yield from ((name, np.full((16, 1), level, dtype=np.float32)) for name in names)

    contract = contract_of(column("ecg", "wfdb|mlii", aggregate="array", transform="waveform:statistics@1", length=8))
    sources = []
    for name, patient in (("s1", "alice"), ("s2", "bob")):
        made = Made().patient(patient).add(patient, "wfdb", "mlii", 50)
        facts = [Fact(**{**vars_of(fact), "source": name}) for fact in made.facts]
        sources.append(Signals(name, facts))
    found = harmonize(contract, SiteData(sources=sources, key=KEY), "study").assembled
    assert sorted(found.cells["ecg"][:, 0].tolist()) == [1.0, 2.0]


def test_a_corrected_birth_date_is_no_contradiction():
    contract = contract_of(column("age", "patient|birth-date", unit="a", aggregate="age"))
    made = Made().patient("p").add("p", "patient", "birth-date", -9000, order_key="b", known=1)
    made.add("p", "patient", "birth-date", -9100, order_key="b", known=2)
    made.add("p", "patient", "birth-date", -1, status="entered-in-error")
    found = run(contract, made)
    assert found.told.left_out == {}
    assert found.assembled.cells["age"].tolist() == [25.0]
