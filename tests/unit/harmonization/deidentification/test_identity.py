"""Who is who: links in any order make the same persons, and contradictions are left out."""

import random

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wardround.errors import ClinicalError
from wardround.harmonization import identity
from wardround.harmonization.events import Precision
from wardround.harmonization.identity import MAX_ALIASES, contradictory, key, resolve
from wardround.harmonization.times import DAY_US

keys = st.sampled_from("abcdefgh")
links = st.lists(st.tuples(st.sampled_from(["x", "y"]), keys, keys), max_size=20)


def canonical(pairs, one, namespace="mrn"):
    return resolve(pairs).canonical.get(key(namespace, one), key(namespace, one))


def test_a_chain_of_merges_ends_at_its_last_record_number():
    pairs = [("mrn", "1", "2"), ("mrn", "3", "4"), ("mrn", "2", "3")]
    assert {canonical(pairs, one) for one in "1234"} == {"mrn|4"}
    assert resolve(pairs).merged == 3


def test_a_circle_is_one_person_with_the_first_key():
    pairs = [("mrn", "b", "c"), ("mrn", "c", "a"), ("mrn", "a", "b")]
    found = resolve(pairs)
    assert {canonical(pairs, one) for one in "abc"} == {"mrn|a"}
    assert (found.circles, found.partings) == (1, 0)


def test_merges_that_part_are_one_person_and_counted():
    pairs = [("mrn", "old", "z"), ("mrn", "old", "k")]
    assert {canonical(pairs, one) for one in ("old", "z", "k")} == {"mrn|k"}
    assert resolve(pairs).partings == 1


def test_one_number_in_two_namespaces_is_two_persons():
    pairs = [("ehr", "17", "18")]
    assert canonical(pairs, "17", "lims") == "lims|17"
    assert canonical(pairs, "17", "ehr") == "ehr|18"


def test_pairs_that_say_nothing_are_counted():
    found = resolve([("mrn", "1", "1"), ("mrn", "", "2"), ("mrn", " ", "3"), ("mrn", "4 ", "4")])
    assert found.canonical == {}
    assert found.ignored == 4


def naive(pairs):
    groups = []
    for namespace, former, present in pairs:
        left, right = key(namespace, former), key(namespace, present)
        if left == right:
            continue
        touched = [group for group in groups if left in group or right in group]
        groups = [group for group in groups if group not in touched] + [set().union({left, right}, *touched)]
    formers = {key(n, f) for n, f, p in pairs if f != p}
    return {one: min(group - formers or group) for group in groups for one in group}


@given(links, st.randoms(use_true_random=False))
def test_any_order_gives_the_persons_that_a_slow_reading_gives(pairs, shuffle):
    mixed = list(pairs)
    shuffle.shuffle(mixed)
    assert resolve(pairs).canonical == resolve(mixed).canonical == naive(pairs)


def test_a_long_chain_costs_no_recursion_and_no_square():
    pairs = [("mrn", str(at), str(at + 1)) for at in range(50_000)]
    random.Random(1).shuffle(pairs)
    found = resolve(pairs)
    assert set(found.canonical.values()) == {"mrn|50000"}
    assert found.crowds == {"mrn|50000"}


def test_a_number_that_links_a_crowd_is_left_out():
    pairs = [("mrn", str(at), "UNKNOWN") for at in range(MAX_ALIASES)]
    assert resolve(pairs).crowds == {"mrn|UNKNOWN"}
    assert resolve(pairs[1:]).crowds == frozenset()


def test_too_many_links_are_refused(monkeypatch):
    monkeypatch.setattr(identity, "MAX_LINKS", 2)
    resolve([("m", "1", "2")] * 2)
    with pytest.raises(ClinicalError, match="links"):
        resolve([("m", "1", "2")] * 3)


def test_a_column_is_relabelled_null_included():
    found = resolve([("mrn", "1", "2")])
    column = pa.array(["1", "3", None, "2", "1"])
    expected = ["mrn|2", "mrn|3", None, "mrn|2", "mrn|2"]
    assert found.relabelled(column, "mrn").to_pylist() == expected
    assert found.relabelled(pa.chunked_array([column[:2], column[2:]]), "mrn").to_pylist() == expected
    assert found.relabelled(column, "lims").to_pylist()[0] == "lims|1"


def facts(*rows):
    names = ["patient", "code", "time_us", "precision", "value", "system"]
    columns = list(zip(*[(*row, "patient")[: len(names)] for row in rows], strict=True)) or [()] * 6
    types = [pa.string(), pa.string(), pa.int64(), pa.int8(), pa.string(), pa.string()]
    return pa.table({name: pa.array(column, kind) for name, column, kind in zip(names, columns, types, strict=True)})


def born(patient, day, precision=Precision.DAY):
    return (patient, "birth-date", day * DAY_US, int(precision), None)


def sex(patient, value):
    return (patient, "sex", None, None, value)


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([born("a", 0), born("a", 0)], []),
        ([born("a", 0), born("a", 1)], ["a"]),
        ([born("a", -1), born("a", 0)], ["a"]),
        ([born("a", 0), born("b", 1)], []),
        ([born("a", 0, Precision.YEAR), born("a", 200)], []),
        ([born("a", 0, Precision.YEAR), born("a", 400)], ["a"]),
        ([born("a", 0, Precision.MONTH), born("a", 20)], []),
        ([born("a", 0, Precision.MONTH), born("a", 40)], ["a"]),
        ([born("a", 0, Precision.MONTH), born("a", 365, Precision.MONTH)], ["a"]),
        ([born("a", 0, None or Precision.DAY), ("a", "birth-date", DAY_US, None, None)], ["a"]),
        ([("a", "birth-date", None, 3, None), born("a", 0)], []),
        ([sex("a", "male"), sex("a", "female")], ["a"]),
        ([sex("a", "male"), sex("a", "male"), sex("a", "unknown"), sex("a", None)], []),
        ([sex("a", "male"), sex("b", "female")], []),
        ([("a", "sex", None, None, "male"), ("a", "seen", DAY_US, 6, "female")], []),
        ([], []),
    ],
    ids=range(16),
)
def test_what_cannot_both_hold_is_found(rows, expected):
    assert contradictory(facts(*rows)).to_pylist() == expected


def test_facts_of_other_systems_do_not_count():
    table = facts(sex("a", "male"), sex("a", "female"))
    elsewhere = table.set_column(5, "system", pa.array(["patient", "local:x"]))
    assert contradictory(elsewhere).to_pylist() == []
