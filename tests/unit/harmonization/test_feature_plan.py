"""The feature plan against its plain reference: any facts, any engine, the same numbers."""

import math
from functools import lru_cache

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.unit.harmonization import reference
from tests.unit.harmonization.reference import STATUS, Fact

from wardround.clinical.contract import Column, DataContract, Label, check
from wardround.clinical.derivation import Cohort, Derivation, Window
from wardround.errors import ClinicalError
from wardround.harmonization import embedded
from wardround.harmonization.events import SourceReport, batch
from wardround.harmonization.needs import Atoms, needs
from wardround.harmonization.plan import Plan, Reason

DAY = 86_400_000_000
UNITS = {"mg/dL": (1.0, 0.0), "g/L": (100.0, 0.0), "Cel": (1.8, 32.0), "[degF]": (1.0, 0.0)}
CHOLESTEROL = ("loinc|2093-3", "loinc|14647-2")
TRANSLATIONS = {("local:lab", "CHOL"): ("loinc", "2093-3"), ("local:lab", "I25"): ("icd10cm", "I25.1")}


def column(name, concepts, aggregate, *, window=(-365, 0), low=1.0, high=500.0, unit="mg/dL", **rest):
    derive = Derivation(
        concepts=concepts, aggregate=aggregate, window=Window(from_days=window[0], to_days=window[1]), **rest
    )
    return Column(name=name, unit=unit, minimum=low, maximum=high, derive=derive, missing="mean")


CONTRACT = DataContract(
    columns=(
        column("last", CHOLESTEROL, "last"),
        column("first", CHOLESTEROL, "first", window=(None, None)),
        column("mean", CHOLESTEROL, "mean"),
        column("sum", ("loinc|2093-3",), "sum", window=(-3, 2)),
        column("least", CHOLESTEROL, "min"),
        column("most", CHOLESTEROL, "max"),
        column("middle", CHOLESTEROL, "median", window=(None, 5)),
        column("number", CHOLESTEROL, "count"),
        column("since", CHOLESTEROL, "time_since_last", unit="d"),
        column("until", CHOLESTEROL, "time_to_first", window=(0, None), unit="d"),
        column("later", CHOLESTEROL, "value_at", window=(None, None), at_days=3.0),
        column("fever", ("loinc|8310-5",), "max", low=90.0, high=110.0, unit="[degF]"),
    ),
    label=Label(
        name="event",
        derive=Derivation(concepts=("icd10cm|I2*",), window=Window(from_days=0, to_days=9), aggregate="exists"),
    ),
    cohort=Cohort(index=("icd10cm|I25.*",)),
)
NEEDS = needs(CONTRACT)


def affine(_need, unit):
    return UNITS.get(unit)


class Recorded:
    """A source that gives what it was given, in batches of its own size."""

    def __init__(self, name, facts, size=7, links=()):
        self.name, self.facts, self.size, self._links = name, facts, size, links
        self.report = SourceReport(name)
        self.read = 0

    def batches(self, scope):
        self.read += 1
        for start in range(0, len(self.facts), self.size):
            part = [fact for fact in self.facts[start : start + self.size] if scope.wants(fact.system, fact.code)]
            if part:
                names = ("patient", "time_us", "known_us", "system", "code", "number", "value", "unit", "status")
                columns = {name: [getattr(fact, name) for fact in part] for name in (*names, "order_key", "row")}
                yield batch(columns, source=self.name)

    def links(self):
        return self._links

    def arrays(self, names):
        return iter(())


@lru_cache
def plan_of(pick, now_us):
    # Compiling takes longer than running: once for all examples.
    return Plan(NEEDS, pick, now_us)


def reading(sources, contract=CONTRACT, now_us=None, **rest):
    wanted = needs(contract)
    return embedded.Reading(
        sources=sources,
        atoms=Atoms(wanted, TRANSLATIONS),
        plan=plan_of(contract.cohort.pick, now_us),
        affine=affine,
        threads=1,
        **rest,
    )


CODES = st.sampled_from(
    [
        ("loinc", "2093-3"), ("loinc", "14647-2"), ("loinc", "8310-5"), ("loinc", "1-1"), ("local:lab", "CHOL"),
        ("local:lab", "I25"), ("local:lab", "GUESS"), ("icd10cm", "I25.1"), ("icd10cm", "I21.9"), ("icd10cm", "J45"),
    ]
)  # fmt: skip
TIMES = st.one_of(st.none(), st.integers(-6, 12).map(lambda days: days * DAY // 2))
NUMBERS = st.one_of(
    st.none(), st.sampled_from([36.6, 97.88, 98.0, 0.0, 2.0, 2.001, 200.0, 200.3, 499.0, 5e9, math.nan, math.inf]),
    st.floats(0.5, 600, allow_nan=False),
)  # fmt: skip


@st.composite
def some_facts(draw, source="a"):
    rows = draw(st.integers(0, 24))
    found = []
    for row in range(rows):
        system, code = draw(CODES)
        number = draw(NUMBERS)
        found.append(
            Fact(
                patient=draw(st.sampled_from(["p", "q"])),
                time_us=draw(TIMES),
                known_us=draw(TIMES),
                system=system,
                code=code,
                number=number,
                value=draw(st.sampled_from([None, "x"])),
                unit=draw(st.sampled_from([None, "mg/dL", "g/L", "Cel", "[degF]", "furlong"])),
                status=draw(st.sampled_from([None, *STATUS])),
                order_key=draw(st.sampled_from([None, None, "k1", "k2"])),
                source=source,
                row=draw(st.sampled_from([row, row, row // 2])),
            )
        )
    return found


def finite(facts):
    return [
        fact if fact.number is None or math.isfinite(fact.number) else Fact(**(vars_of(fact) | {"number": None}))
        for fact in facts
    ]


def vars_of(fact):
    return {name: getattr(fact, name) for name in Fact.__dataclass_fields__}


def by_need(table):
    return {(row["patient"].removeprefix("|"), row["index_us"], row["need"]): row for row in table.to_pylist()}


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(some_facts("a"), some_facts("b"), st.sampled_from(["first", "last", "each"]), st.sampled_from([None, 2 * DAY]))
def test_the_plan_in_duckdb_is_the_plain_reference(left, right, pick, now_us):
    import msgspec

    contract = msgspec.structs.replace(CONTRACT, cohort=Cohort(index=("icd10cm|I25.*",), pick=pick))
    sources = [Recorded("b", right), Recorded("a", left)]
    got = embedded.harvest(reading(sources, contract, now_us))
    found = reference.judged(finite(left + right), NEEDS, TRANSLATIONS, affine, now_us)
    counted = {}
    for _, need, _, reason in found:
        counted[need, reason] = counted.get((need, reason), 0) + 1
    assert got.counted == counted
    records = reference.records(found, NEEDS, pick)
    assert sorted((row["patient"].removeprefix("|"), row["index_us"]) for row in got.records.to_pylist()) == records
    sums, last, first, medians = (by_need(table) for table in (got.sums, got.last, got.first, got.medians))
    for record in records:
        for place, need in enumerate(NEEDS):
            if need.role in {"column", "label"}:
                wanted = reference.derived(found, NEEDS, record, place)
                assert_same(need, wanted, (*record, place), sums, last, first, medians)


def assert_same(need, wanted, key, sums, last, first, medians):
    how = need.derive.aggregate
    row = sums.get(key)
    if how in {"count", "exists"}:
        assert wanted == (0 if row is None else row["facts"] if how == "count" else 1)
    elif how in {"last", "first", "value_at"}:
        found = (first if how == "first" else last).get(key)
        assert (None if found is None else found["number"]) == wanted
    elif how == "median":
        found = medians.get(key)
        assert (None if found is None else (found["least"] + found["most"]) / 2) == wanted
    elif wanted is None:
        assert row is None or row["first_us"] is None
    elif how in {"min", "max"}:
        assert row["least" if how == "min" else "most"] == wanted
    elif how in {"sum", "mean"}:
        total = row["total"] / 2.0**31
        assert math.isclose(total if how == "sum" else total / row["facts"], wanted, rel_tol=0, abs_tol=1e-7)
    elif how == "time_since_last":
        assert (key[1] - row["last_us"]) / DAY == wanted
    else:
        assert (row["first_us"] - key[1]) / DAY == wanted


def plain(harvest):
    tables = (harvest.records, harvest.sums, harvest.first, harvest.last, harvest.medians)
    return [sorted(map(str, table.to_pylist())) for table in tables], harvest.counted


def cohort_of(number):
    facts = []
    for place in range(number):
        name = f"p{place}"
        facts.append(Fact(name, DAY, None, "icd10cm", "I25.1", None, None, None, None, None, "a", len(facts)))
        for days in (-1, 0, 1):
            value = 100.0 + (7 * place + days) % 50
            facts.append(
                Fact(name, days * DAY, None, "loinc", "2093-3", value, None, "mg/dL", None, None, "a", len(facts))
            )
    return facts


def test_patients_dealt_into_buckets_give_what_one_pass_gives():
    source = Recorded("a", cohort_of(60), size=11)
    whole = embedded.harvest(reading([source]))
    assert source.read == 1
    parts = embedded.harvest(reading([source], most_facts=40))
    assert source.read > 4
    assert plain(parts) == plain(whole)


def test_doubles_of_one_person_are_one_also_where_they_were_dealt_apart():
    facts = cohort_of(60)
    links = [(f"p{place}", f"p{place + 30}") for place in range(30)]
    whole = embedded.harvest(reading([Recorded("a", facts, links=links)]))
    assert whole.records.num_rows == 30
    parts = embedded.harvest(reading([Recorded("a", facts, links=links)], most_facts=40))
    assert plain(parts) == plain(whole)


def test_one_patient_who_outgrows_the_memory_is_refused_by_a_message_without_a_value():
    facts = [
        Fact("only-one", day * DAY, None, "loinc", "2093-3", 100.0 + day, None, "mg/dL", None, None, "a", day)
        for day in range(50)
    ]
    with pytest.raises(ClinicalError, match="one patient's facts outgrow") as caught:
        embedded.harvest(reading([Recorded("a", facts)], most_facts=40))
    assert "only-one" not in str(caught.value)


def test_a_local_code_that_nobody_confirmed_reaches_nothing():
    facts = [
        Fact("p", 0, None, "icd10cm", "I25.1", None, None, None, None, None, "a", 0),
        Fact("p", 0, None, "local:lab", "CHOLESTEROL", 200.0, None, "mg/dL", None, None, "a", 1),
    ]
    got = embedded.harvest(reading([Recorded("a", facts)], restricted=False))
    assert {NEEDS[need].role for need, _ in got.counted} == {"index", "label"}


def test_one_identifier_with_two_births_is_a_conflict():
    births = [
        Fact("p", at, None, "patient", "birth-date", None, None, None, None, None, "a", row)
        for row, at in enumerate((0, 400 * DAY))
    ]
    got = embedded.harvest(reading([Recorded("a", births)]))
    assert got.conflicts == {"|p"}
    assert embedded.harvest(reading([Recorded("a", births[:1])])).conflicts == frozenset()


def test_the_contract_of_these_tests_is_one():
    check(CONTRACT)
    assert Reason(0) is Reason.USED


def test_an_order_number_of_two_patients_is_two():
    facts = cohort_of(8)
    for place in (0, 4):
        at = facts[4 * place + 1]
        facts.append(Fact(**(vars_of(at) | {"number": 120.0 + place, "order_key": "ORD1", "row": len(facts)})))
    whole = embedded.harvest(reading([Recorded("a", facts)]))
    parts = embedded.harvest(reading([Recorded("a", facts)], most_facts=10))
    assert plain(parts) == plain(whole)
    assert not any(reason is Reason.SUPERSEDED for _, reason in whole.counted)


def test_dates_out_of_any_life_are_counted_and_stop_nobody():
    facts = cohort_of(3)
    facts += [
        Fact("p0", -62_135_596_800_000_000, None, "loinc", "2093-3", 100.0, None, "mg/dL", None, None, "a", 900 + row)
        for row in range(9)
    ]
    got = embedded.harvest(reading([Recorded("a", facts)]))
    assert got.undated == {"a": 9}
    assert got.records.num_rows == 3
