"""The plan inside SQLite gives the harvest that DuckDB gives of the same rows, or says what it cannot follow."""

import copy
import sqlite3
import traceback
from contextlib import closing

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from tests.unit.sources.executors import world

from wardround.errors import ClinicalError, ConfigError, MissingColumnError, UnavailableError, UnsafeQueryError
from wardround.harmonization import embedded
from wardround.sources import pushdown, pushdown_engines, pushdown_spelling

PLACE = {"kind": "sqlite", "path": "ehr.db"}
HOW = [("first", None), ("each", 2 * world.DAY)]
SECRET = "Xanthippe-4711"
RUNS = {}
LAB_WITHOUT_A_KEY = """
    SELECT nullif(k, m) AS k, mrn, at_us, known_us, item, num, val, uom, st, cmp, ok
    FROM lab, (SELECT max(k) AS m FROM lab WHERE item = 'CHOL')
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("world")


def run(folder, mapping, **how):
    sources, site = world.sources_of(mapping, folder)
    return pushdown.executor(world.event_mapping_of(mapping), site)(world.reading_of(sources, **how))


@settings(max_examples=8, suppress_health_check=list(HealthCheck))
@given(st.integers(0, 2**32), st.sampled_from(HOW), st.booleans())
@example(3, HOW[0], True)
def test_the_harvest_is_the_same(folder, seed, how, restricted):
    world.sqlite_of(world.rows_of(seed), folder / "ehr.db")
    mapping = world.mapping_of(PLACE)
    sources, site = world.sources_of(mapping, folder)
    asked = {"restricted": restricted, "namespaces": {"labs": "ns", "adt": "ns"}}
    here = embedded.harvest(world.reading_of(sources, *how, **asked))
    told = world.reports_of(sources)
    # One executor for all examples, since compiling takes longer than running.
    push = RUNS.setdefault(how, pushdown.executor(world.event_mapping_of(mapping), site))
    there = push(world.reading_of(sources, *how, **asked))
    assert world.told_by(there) == world.told_by(here)
    assert dict(there.unmapped) == dict(here.unmapped)
    assert world.reports_of(sources) == told


def test_units_that_do_not_convert_are_asked_about_as_elsewhere(folder):
    world.sqlite_of(world.rows_of(3), folder / "ehr.db")
    asked = []
    sources, site = world.sources_of(world.mapping_of(PLACE), folder)
    for execute in (embedded.harvest, pushdown.executor(world.event_mapping_of(world.mapping_of(PLACE)), site)):
        pairs = set()
        reading = world.reading_of(sources)

        def affine(need, unit, pairs=pairs):
            pairs.add((need.name, unit))
            return world.affine(need, unit)

        execute(embedded.Reading(**{name: getattr(reading, name) for name in reading.__slots__} | {"affine": affine}))
        asked.append(pairs)
    assert asked[0] == asked[1]
    assert len(asked[0]) > 5


@settings(max_examples=300)
@given(st.floats(allow_nan=False, allow_infinity=False))
@example(0.1)
@example(-0.0)
@example(5e-324)
@example(1.7976931348623157e308)
def test_a_number_is_spelled_so_that_no_engine_rounds_it(value):
    with closing(sqlite3.connect(":memory:")) as connection:
        ((found,),) = connection.execute(f"SELECT {pushdown_spelling.number(value, 'REAL')}")
    assert found == value


REFUSED = {
    "no key": (0, {"key": "", "query": "SELECT * FROM lab ORDER BY k"}, "needs a key"),
    "no patient": (0, {"patient": ""}, "needs a column of patients"),
    "decimal comma": (0, {"decimal_comma": True}, "decimal_comma"),
    "one column for two": (0, {"value": "num"}, "number and value"),
    "numbers as texts": (0, {"query": "SELECT *, CAST(num AS TEXT) AS n FROM lab", "number": "n"}, "for number.*'n'"),
    "times as texts": (0, {"query": "SELECT *, '2020-01-01' AS t FROM lab", "time": "t"}, "times of time .*'t'.*epoch"),
    "fractions of a second": (0, {"query": "SELECT *, at_us / 2.0 AS t FROM lab", "time": "t"}, "times of time"),
    "known as text": (0, {"query": "SELECT *, 'x' AS t FROM lab", "known": "t"}, "times of known"),
    "numbers as codes": (0, {"query": "SELECT *, 1.5 AS c FROM lab", "code": "c"}, "for code.*'c'"),
    "bytes as patients": (0, {"query": "SELECT *, x'00' AS p FROM lab", "patient": "p"}, "for patient.*'p'.*blob"),
    "a key of two kinds": (0, {"query": "SELECT *, iif(k < 9, k, 'k' || k) AS z FROM lab", "key": "z"}, "key of whole"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_setting_that_cannot_be_followed_exactly_is_named(folder, case):
    place, change, message = REFUSED[case]
    world.sqlite_of(world.rows_of(3), folder / "ehr.db")
    mapping = copy.deepcopy(world.mapping_of(PLACE))
    mapping["sources"][0]["events"][place] |= change
    with pytest.raises(ConfigError, match=message) as caught:
        run(folder, mapping)
    assert "source 'labs', events 1" in str(caught.value)
    assert "embedded" in str(caught.value)


@pytest.mark.parametrize(("born", "message"), [("1950", "years or months"), ("1950-03", "years or months")])
def test_births_that_are_no_days_are_refused(folder, born, message):
    world.sqlite_of(world.rows_of(3) | {"people": [(1, 1, born, None, None, None, None, None)]}, folder / "ehr.db")
    with pytest.raises(ConfigError, match=message):
        run(folder, world.mapping_of(PLACE))


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("SELECT l.* FROM lab l JOIN (SELECT 1 UNION ALL SELECT 2)", "occurs twice"),
        (LAB_WITHOUT_A_KEY, "is null"),
    ],
)  # fmt: skip
def test_a_key_that_is_none_is_noticed(folder, query, message):
    world.sqlite_of(world.rows_of(3), folder / "ehr.db")
    mapping = copy.deepcopy(world.mapping_of(PLACE))
    mapping["sources"][0]["events"][0]["query"] = query
    with pytest.raises(ClinicalError, match=message):
        run(folder, mapping)


def test_a_cell_of_a_new_kind_that_appears_meanwhile_stops_the_run(folder, monkeypatch):
    world.sqlite_of(world.rows_of(3), folder / "ehr.db")
    asked = pushdown_engines.SqliteEngine.kinds

    def kinds(engine, query, columns, values):
        found = asked(engine, query, columns, values)
        with closing(sqlite3.connect(folder / "ehr.db")) as connection, connection:
            connection.execute("UPDATE lab SET num = 'twelve' WHERE k = (SELECT max(k) FROM lab)")
        return found

    monkeypatch.setattr(pushdown_engines.SqliteEngine, "kinds", kinds)
    with pytest.raises(UnavailableError, match="changed while"):
        run(folder, world.mapping_of(PLACE))


def test_only_databases_and_only_one_of_them(folder):
    site = world.Site(folder, None, {})
    other = {"kind": "csv", "name": "file", "events": [{"path": "a.csv", "patient": "p", "code": "c", "system": "s"}]}
    mapping = world.event_mapping_of({"kind": "events", "sources": [other]})
    with pytest.raises(ConfigError, match="kind 'csv'"):
        pushdown.executor(mapping, site)
    world.sqlite_of(world.rows_of(3), folder / "ehr.db")
    mapping = world.mapping_of(PLACE)
    mapping["sources"][1] = mapping["sources"][1] | {"path": "another.db"}
    with pytest.raises(ConfigError, match="lie in several"):
        run(folder, mapping)


@pytest.mark.parametrize(
    ("query", "error", "message"),
    [
        ("DELETE FROM lab", UnsafeQueryError, "SELECT"),
        ("SELECT * FROM wardround_facts", UnsafeQueryError, "kept for"),
        ("WITH wardround_events AS (SELECT 1 AS k) SELECT * FROM wardround_events", UnsafeQueryError, "kept for"),
        ("SELECT k FROM lab", MissingColumnError, "no column 'mrn'"),
        ("SELECT * FROM lab WHERE k > :other", UnsafeQueryError, "not :since"),
    ],
)
def test_queries_are_checked_before_they_become_a_step(folder, query, error, message):
    world.sqlite_of(world.rows_of(3), folder / "ehr.db")
    mapping = copy.deepcopy(world.mapping_of(PLACE))
    mapping["sources"][0]["events"][0]["query"] = query
    with pytest.raises(error, match=message):
        run(folder, mapping)


def test_a_list_of_columns_holds_inside_the_plan_too(folder):
    world.sqlite_of(world.rows_of(3), folder / "ehr.db")
    allow = {table: list(names) for table, names in world.NAMES.items()}
    mapping = copy.deepcopy(world.mapping_of(PLACE | {"allow": allow}))
    for source in mapping["sources"]:
        for entry in source["events"]:
            table = entry["query"].split(" FROM ")[1].split()[0]
            entry["query"] = f"SELECT {', '.join(world.NAMES[table])} FROM {table}"
    listed = run(folder, mapping)
    assert world.told_by(listed) == world.told_by(run(folder, world.mapping_of(PLACE)))
    del allow["lab"][0]
    with pytest.raises(UnsafeQueryError):
        run(folder, mapping | {"sources": [source | {"allow": allow} for source in mapping["sources"]]})


def test_an_error_of_the_engine_names_no_cell(folder):
    world.sqlite_of(world.rows_of(3), folder / "ehr.db")
    mapping = copy.deepcopy(world.mapping_of(PLACE))
    mapping["sources"][0]["events"][0]["query"] = f"SELECT *, json_extract('{SECRET}', '$.a') AS j FROM lab"
    with pytest.raises(ClinicalError) as caught:
        run(folder, mapping)
    assert SECRET not in "".join(traceback.format_exception(caught.value))


def test_since_is_bound_so_that_nothing_is_left_out(folder):
    world.sqlite_of(world.rows_of(3), folder / "ehr.db")
    mapping = copy.deepcopy(world.mapping_of(PLACE))
    mapping["sources"][0]["events"][0]["query"] = "SELECT * FROM lab WHERE '2000-01-01 00:00:00' >= :since"
    assert world.told_by(run(folder, mapping)) == world.told_by(run(folder, world.mapping_of(PLACE)))


def test_a_site_that_has_nothing_of_a_study_gives_an_empty_harvest(folder):
    world.sqlite_of(world.rows_of(3), folder / "ehr.db")
    mapping = world.mapping_of(PLACE)
    mapping["sources"] = [copy.deepcopy(mapping["sources"][0])]
    mapping["sources"][0]["events"][0]["system"] = "local:other"
    found = run(folder, mapping)
    assert found.records.num_rows == 0
    assert found.engine.startswith("sqlite 3")


def test_the_steps_that_ran_are_told_without_the_lists_of_codes(folder):
    world.sqlite_of(world.rows_of(3), folder / "ehr.db")
    told = run(folder, world.mapping_of(PLACE)).statements
    assert {"judged", "records", "within_windows", "sums", "events"} <= set(told)
    assert not {"codes_0", "serves", "units", "windows"} & set(told)


def test_versions_replace_one_another_as_in_this_process(folder):
    lab = [
        (1, "1", -world.DAY, None, "HDL", 50.0, None, "mg/dL", None, None, "v"),
        (2, "1", 0, None, "zzz", 60.0, None, "mg/dL", None, None, "v"),
    ]
    born = [(key, 1, day, None, None, None, "one birth", None) for key, day in enumerate(("1950-02-28", "1951-02-28"))]
    born += [
        (key, 2, day, None, None, None, text, None)
        for key, day, text in ((7, "1950-02-28", "a"), (8, "1960-01-01", "b"))
    ]
    rows = {"lab": lab, "diag": [("d", 1, 0, "10", "I25.1")], "people": born, "said": []}
    world.sqlite_of(rows, folder / "ehr.db")
    mapping = copy.deepcopy(world.mapping_of(PLACE))
    mapping["sources"][1]["events"][1]["order_key"] = "once"
    sources, _ = world.sources_of(mapping, folder)
    here = embedded.harvest(world.reading_of(sources, restricted=False))
    there = run(folder, mapping, restricted=False)
    assert world.told_by(there) == world.told_by(here)
    # Who was born again is one person; a code that nobody wants replaces nothing.
    assert there.conflicts == {"|2"}
    assert there.last.num_rows
